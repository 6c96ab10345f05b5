//! Nested calls in the fold: which are open, and which somebody must be told are over.
//!
//! A turn that ends takes its open calls with it: what they began elsewhere is owed an end, also by
//! the process that comes after this one.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Digest, SessionId, TurnId};
use crate::journal::entry::{AgentCalled, CallCancelled};

use super::{OpenCall, State};

/// A nested call as its caller knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    pub agent: AgentName,
    pub session: SessionId,
    /// Names its message there.
    pub key: Digest,
}

/// A call that is over here and perhaps not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub turn: TurnId,
    pub n: u32,
    pub child: Child,
}

impl State {
    pub(super) fn agent_called(&mut self, called: &AgentCalled) -> Result<(), &'static str> {
        let turn = self.call(&called.turn, called.n)?;
        turn.open_calls.insert(called.n, OpenCall::nested());
        let child = Child {
            agent: called.agent.clone(),
            session: called.session.clone(),
            key: called.private.key,
        };
        turn.children.insert(called.n, child);
        Ok(())
    }

    /// The call is over here before it was there.
    pub(super) fn owe(&mut self, turn: &TurnId, n: u32, child: Child) {
        self.owed.push(Owed {
            turn: turn.clone(),
            n,
            child,
        });
    }

    pub(super) fn call_cancelled(&mut self, cancelled: &CallCancelled) -> Result<(), &'static str> {
        let is_it = |owed: &Owed| owed.turn == cancelled.turn && owed.n == cancelled.n;
        let at = self.owed.iter().position(is_it);
        let at = at.ok_or("no such call is owed an end")?;
        self.owed.remove(at);
        Ok(())
    }
}
