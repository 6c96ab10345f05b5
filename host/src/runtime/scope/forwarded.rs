//! What a turn's calls forward to whoever is called: the context of the bus, and the caller's credential.

use crate::bus::{self, Authorization};
use crate::id::TurnId;

use super::{Scope, Stop};

/// On whose behalf a call is made that leaves the host, where that is not the turn's agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::runtime) struct Behalf {
    pub(in crate::runtime) speaker: Option<String>,
    pub(in crate::runtime) turn: Option<TurnId>,
    /// No credential of the caller is passed on.
    pub(in crate::runtime) is_own: bool,
}

/// The turn was to forward a credential that is not there any more: it goes nowhere without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authorization-lost: what the caller forwarded is not kept any more")]
pub(super) struct AuthorizationLost;

impl Scope {
    /// The credential that this turn forwards, if any came with its message.
    pub(super) async fn authorization(
        &self,
    ) -> Result<Result<Option<Authorization>, AuthorizationLost>, Stop> {
        let (Some(message), Some(peers)) = (&self.authorized, &self.peers) else {
            return Ok(Ok(None));
        };
        let kept = self
            .credential
            .get_or_try_init(|| peers.authorization(message.clone()));
        let kept = self.cpu.waiting(kept).await?.clone();
        Ok(kept.map(Some).ok_or(AuthorizationLost))
    }

    /// What a call of this turn tells whoever is called.
    pub(super) async fn forwarded(
        &self,
        behalf: &Behalf,
    ) -> Result<Result<http::HeaderMap, AuthorizationLost>, Stop> {
        let authorization = if behalf.is_own {
            None
        } else {
            match self.authorization().await? {
                Ok(authorization) => authorization,
                Err(lost) => return Ok(Err(lost)),
            }
        };
        let now = self.ledger.clock().now();
        let out = bus::Outbound {
            depth: self.depth,
            run: &self.run,
            turn: behalf.turn.as_ref().unwrap_or(&self.turn),
            parent: self.parent.as_ref(),
            speaker: behalf.speaker.as_deref().unwrap_or(self.agent.as_str()),
            authorization: authorization.as_ref(),
            timeout_ms: self.deadline.map(|deadline| deadline.ms_since(now).max(1)),
        };
        Ok(Ok(out.headers()))
    }
}
