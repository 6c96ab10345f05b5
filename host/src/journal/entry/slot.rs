//! Entries of slots: locked, committed, released.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Author, Digest, Seq, SlotName, TurnId};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotLocked {
    pub slot: SlotName,
    pub turn: TurnId,
    /// None if the host took the lock again for a turn that it resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}

/// A document, inline or, when long, by the digest of its separately stored bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Inline { text: String },
    Stored { digest: Digest, bytes: u64 },
}

impl Default for Content {
    fn default() -> Self {
        Self::Inline {
            text: String::new(),
        }
    }
}

/// Who wrote a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    Agent(AgentName),
    Author(Author),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotCommitted {
    pub slot: SlotName,
    /// The seq of this entry.
    pub version: Seq,
    pub by: Writer,
    pub bytes: u64,
    /// The turn whose lock this frees; none for a write over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    #[serde(default)]
    pub n: u32,
    #[serde(skip)]
    pub private: SlotCommittedPrivate,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotCommittedPrivate {
    pub content: Content,
    /// Agents that watch the slot, as configured at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wakes: Vec<AgentName>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotReleased {
    pub slot: SlotName,
    pub turn: TurnId,
    /// None if the host freed it because the process of its holder was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}
