//! Entries of the session itself: opened, changed, forked.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Author, Digest, Seq, SessionId};

use super::CalledBy;

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
    /// The turn that it was opened for, as a nested call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called_by: Option<CalledBy>,
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

/// From here on this is another session than the one that wrote the entries before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionForked {
    /// The session that the entries up to `at` were copied from.
    pub from: SessionId,
    /// Always the entry before this one.
    pub at: Seq,
    /// Of this session, in place of that of the session it comes from.
    #[serde(skip)]
    pub private: SessionOpenedPrivate,
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

/// The agent starts no turn here: it failed too often, and somebody must resume it; or something that
/// its turns need is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentSuspended {
    pub agent: AgentName,
    pub reason: String,
    /// The host resumes it by itself as soon as what is missing is there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub until_ready: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentResumed {
    pub agent: AgentName,
    /// Who asked for it; none if the reason went away by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Author>,
}
