//! Entries of host calls: made, come back, and what the guest saw.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, MessageId, Seq, SlotName, TurnId};

/// Kinds of calls that leave the host or take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallKind {
    Model,
    Timer,
}

/// A call is about to be made. Durable before it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Called {
    pub turn: TurnId,
    pub n: u32,
    pub call: CallKind,
    /// Digest of the request: replay must ask the same.
    pub request: Digest,
    /// What is called: the model's name, or the timer's milliseconds.
    pub target: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub model_calls: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Usage {
    /// Add another usage, never past what a counter holds.
    pub fn add(&mut self, other: Self) {
        self.model_calls = self.model_calls.saturating_add(other.model_calls);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
    }
}

/// How a call came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum CallResult {
    Ok,
    /// In the words of the guest's error type; `detail` is its text.
    Failed {
        error: String,
        status: u16,
        detail: String,
    },
    /// The guest gave the call up.
    Dropped,
}

/// A call came back. What it brought is in the `streamed` entries of the same `n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Returned {
    pub turn: TurnId,
    pub n: u32,
    #[serde(flatten)]
    pub result: CallResult,
    #[serde(default)]
    pub usage: Usage,
    pub attempts: u32,
}

/// A piece of a model's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    Text(String),
    ToolCall {
        id: String,
        name: String,
        arguments: String,
    },
    Finished {
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
    },
}

/// Pieces of an answer, written down before the guest gets them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Streamed {
    pub turn: TurnId,
    pub n: u32,
    pub pieces: Vec<Piece>,
}

/// What a call that reads found, by reference to entries where it can be long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Observation {
    SlotRead {
        slot: SlotName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<Seq>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    },
    SlotState {
        slot: SlotName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    },
    SlotNames {
        slots: Vec<SlotName>,
    },
    /// A lock was not given.
    SlotRefused {
        slot: String,
        error: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holder: Option<String>,
    },
    /// A commit changed nothing.
    CommitRefused {
        slot: SlotName,
        error: String,
    },
    MailboxPending {
        messages: Vec<MessageId>,
    },
    /// The turn took these.
    MailboxPulled {
        messages: Vec<MessageId>,
    },
    /// The turn put this one back.
    MailboxLeft {
        message: MessageId,
    },
    MailboxRead {
        message: String,
        found: bool,
    },
    MailboxSearched {
        query: Digest,
        found: Vec<MessageId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Seq>,
    },
    SendRefused {
        to: String,
        error: String,
    },
    /// The items from `first` to `last`, assembled again from the entries.
    TranscriptWindow {
        first: Seq,
        last: Seq,
        items: u32,
    },
    Budget {
        host_calls: u64,
        reply_bytes: u64,
        wall_ms: u64,
    },
}

/// The guest saw something of the session. Written down before it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub turn: TurnId,
    pub n: u32,
    #[serde(flatten)]
    pub what: Observation,
}
