//! Entries of host calls: made, come back, and what the guest saw.

use serde::{Deserialize, Serialize};

use crate::id::{Digest, MessageId, Seq, SlotName, TurnId};

use super::slot::Content;
use super::usage::is_zero;
use super::{Price, Usage};

/// Kinds of calls that leave the host or take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallKind {
    Model,
    Timer,
    Http,
}

/// A call is about to be made. Durable before it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Called {
    pub turn: TurnId,
    pub n: u32,
    pub call: CallKind,
    /// Digest of the request: replay must ask the same.
    pub request: Digest,
    /// What is called: the model's name, the timer's milliseconds, or method and URL without its query.
    pub target: String,
    /// Of a model: what it costs now, so that whoever books the call later books what it cost then.
    #[serde(default, skip_serializing_if = "Price::is_free")]
    pub price: Price,
    /// Of a model: how long the request is, for as long as nobody says how many tokens it has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub request_bytes: u64,
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
    /// What it used. Attempts that brought no answer have no usage.
    #[serde(default)]
    pub usage: Usage,
    pub attempts: u32,
    /// It failed before the guest had a handle on the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opening: bool,
    /// For a timer: which of the turn's polls it ended. Two timers that ended in one poll are
    /// not the same to a guest as two that ended in two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<u64>,
    /// Of a model: the answer is one that another call got, and that one books what it used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// Of a nested call: the turn that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<TurnId>,
    /// For a request over HTTP: what it brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
}

/// The answer to a request over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Inline if it is short and text.
    pub body: Content,
}

/// A turn, or one call of it, is tried again. Written down before it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retried {
    pub turn: TurnId,
    /// The call; none if the whole turn is taken up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// The number of the attempt that begins: 2 for the first repetition.
    pub attempt: u32,
    pub reason: RetryReason,
    /// What the provider did, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Why something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryReason {
    /// The host stopped while it was under way.
    HostLost,
    /// The host was asked to stop, and did not wait for it.
    HostStopped,
    /// A provider failed in a way that may pass, before anything of its answer came.
    Provider,
    /// Nothing failed: what the turn had asked people is answered, or nobody will answer it any more.
    Answered,
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
    /// A lock was to be freed, and was not the turn's any more.
    SlotLost {
        slot: SlotName,
    },
    MailboxPending {
        messages: Vec<MessageId>,
    },
    /// The turn took these.
    MailboxPulled {
        messages: Vec<MessageId>,
        /// How many were asked for at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
    },
    /// The turn put this one back.
    MailboxLeft {
        message: MessageId,
    },
    /// There was nothing to put back: the turn had not pulled it.
    MailboxNotPulled {
        message: String,
    },
    MailboxRead {
        message: String,
        found: bool,
    },
    MailboxSearched {
        query: Digest,
        /// Where the search began: it looked at entries before this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        found: Vec<MessageId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<Seq>,
    },
    SendRefused {
        to: String,
        error: String,
    },
    /// People were not asked.
    QuestionRefused {
        error: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// An agent was not called.
    CallRefused {
        agent: String,
        error: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// The items from `first` to `last`, assembled again from the entries.
    TranscriptWindow {
        first: Seq,
        last: Seq,
        items: u32,
        /// How many were asked for at most, and before which place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        /// Messages in between that were left out: they waited for this agent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        without: Vec<Seq>,
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
