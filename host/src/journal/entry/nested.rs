//! Entries of nested calls: an agent of another session is called by a turn of this one.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Digest, SessionId, TurnId};

/// A turn calls an agent. Durable before the agent's session is opened; what comes of it is in the
/// `streamed` and `returned` entries of the same `n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentCalled {
    pub turn: TurnId,
    pub n: u32,
    pub agent: AgentName,
    /// Where it works.
    pub session: SessionId,
    #[serde(skip)]
    pub private: AgentCalledPrivate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentCalledPrivate {
    /// Digest of what it is told: replay must tell it the same.
    pub request: Digest,
    /// The message's idempotency key in the other session: made again, the call is the same one.
    pub key: Digest,
    /// When the caller stops waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

impl Default for AgentCalledPrivate {
    fn default() -> Self {
        Self {
            request: Digest([0; 32]),
            key: Digest([0; 32]),
            deadline: None,
        }
    }
}

/// The work of a nested call is not wanted any more, and the other session was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallCancelled {
    pub turn: TurnId,
    pub n: u32,
    pub agent: AgentName,
    pub session: SessionId,
}
