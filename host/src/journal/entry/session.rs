//! Entries of the session itself: opened, changed.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Digest};

/// What an idempotency key stands for: the key's digest and that of what it was used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    pub key: Digest,
    pub body: Digest,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionOpened {
    pub agents: Vec<AgentName>,
    /// The agent that messages go to when they name none.
    pub entry: AgentName,
    /// The session ends after this long without events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_ms: Option<u64>,
    #[serde(skip)]
    pub private: SessionOpenedPrivate,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionOpenedPrivate {
    /// 256 bits, hex: the source of randomness inside turns.
    pub secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionChanged {
    #[serde(flatten)]
    pub change: SessionChange,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum SessionChange {
    AgentAdded {
        agent: AgentName,
    },
    AgentRemoved {
        agent: AgentName,
    },
    /// Nothing happened for `expires_after_ms`. The last entry of its journal.
    Expired,
    /// Deleted on request. The last entry of its journal.
    Deleted,
}
