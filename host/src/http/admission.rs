//! What is refused before anything is begun: agents that are not there, bodies that are too large, hosts and tenants that
//! have too much to do, and tenants that hold what they may.

use serde_json::Value;

use crate::id::{AgentName, SessionId};
use crate::journal::entry::Idempotency;
use crate::journal::state::Phase;
use crate::session::{Holding, Session};
use crate::telemetry::{self, Limit};

use super::Api;
use super::auth::Caller;
use super::error::{ApiError, ApiResult, agent_not_found};

impl Api {
    /// Refuse agents that are not deployed, or have no component yet.
    pub(super) fn must_be_ready(&self, caller: &Caller, agent: &AgentName) -> ApiResult<()> {
        let deployment = self
            .sessions
            .agents()
            .get(caller.tenant(), agent)
            .ok_or_else(agent_not_found)?;
        if deployment.active().is_none() {
            return Err(ApiError::conflict(
                "agent_not_ready",
                "the agent has no component yet",
            ));
        }
        Ok(())
    }

    /// Refuse what is too large, and everything while the host or the tenant has more to do than may be queued. Answers the
    /// length of the body in bytes.
    pub(super) fn admit(&self, caller: &Caller, body: &Value) -> ApiResult<u64> {
        let length = body
            .as_str()
            .map_or_else(|| body.to_string().len(), str::len);
        self.admit_bytes(caller, length)
    }

    /// The same of so many bytes.
    pub(super) fn admit_bytes(&self, caller: &Caller, length: usize) -> ApiResult<u64> {
        let limit = self.sessions.limits().message_bytes_max;
        if length > limit {
            telemetry::hit(Limit::MessageBytes);
            return Err(ApiError::too_large(limit));
        }
        self.may_ask(caller)?;
        Ok(length as u64)
    }

    /// Refuse everything while the host or the tenant has more to do than may be queued.
    pub(super) fn may_ask(&self, caller: &Caller) -> ApiResult<()> {
        if self.shutdown.is_stopping() {
            return Err(ApiError::draining());
        }
        let overload = self.sessions.overload(caller.tenant());
        overload.map_err(|overload| ApiError::overloaded(overload.to_string()))
    }

    /// Refuse a session that is not there yet and that the tenant's quotas have no room for.
    pub(super) async fn may_open(&self, caller: &Caller, session: &Session) -> ApiResult<()> {
        match session.ledger.look(|state| state.phase) {
            Phase::Absent => self.may_hold(caller, Holding::Session).await,
            Phase::Open | Phase::Ended => Ok(()),
        }
    }

    /// The same of a fork; one that is there already is looked at by whoever makes it.
    pub(super) async fn may_fork(&self, caller: &Caller, fork: &SessionId) -> ApiResult<()> {
        match self.sessions.get(caller.tenant(), fork).await {
            Ok(_) => Ok(()),
            Err(_) => self.may_hold(caller, Holding::Session).await,
        }
    }

    /// Refuse bytes that the tenant's quotas have no room for, unless they came before.
    pub(super) async fn may_add(
        &self,
        caller: &Caller,
        session: &Session,
        idempotency: Option<Idempotency>,
        bytes: u64,
    ) -> ApiResult<()> {
        let came = |it: Idempotency| {
            let message = session.ledger.look(|state| state.ever_remembered(&it.key));
            message.is_some()
        };
        if idempotency.is_some_and(came) {
            return Ok(());
        }
        self.may_hold(caller, Holding::Bytes(bytes)).await
    }

    async fn may_hold(&self, caller: &Caller, more: Holding) -> ApiResult<()> {
        let allowed = self.sessions.may_hold(caller.tenant(), more).await?;
        allowed.map_err(|exceeded| ApiError::quota_exceeded(&exceeded))
    }
}
