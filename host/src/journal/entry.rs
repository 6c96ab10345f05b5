//! The kinds of journal entries.
//!
//! The serde form of [`Payload`] is the stored and the public form at once: a
//! promise to every journal ever written and every client. Fields are only ever
//! added, as optional ones. Fields marked `skip` are the private part: stored
//! beside the public part and shown only under scope `inspect`.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, RunId, Seq, SlotName, TurnId};

use super::context;

/// One record of a session's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub seq: Seq,
    pub time: Time,
    pub payload: Payload,
}

/// What happened. The variants stand in the order of their numbers in [`Kind`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Payload {
    SessionOpened(SessionOpened),
    SessionChanged(SessionChanged),
    MessageReceived(MessageReceived),
    MessageSent(MessageSent),
    TurnStarted(TurnStarted),
    Called(Called),
    Returned(Returned),
    Streamed(Streamed),
    Observed(Observed),
    Spoke(Spoke),
    SlotLocked(SlotLocked),
    SlotCommitted(SlotCommitted),
    SlotReleased(SlotReleased),
    InterruptRequested(InterruptRequested),
    TurnEnded(TurnEnded),
    MessageSetAside(MessageSetAside),
}

/// The number of a kind on disk. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    SessionOpened = 1,
    SessionChanged = 2,
    MessageReceived = 3,
    MessageSent = 4,
    TurnStarted = 5,
    Called = 6,
    Returned = 7,
    Streamed = 8,
    Observed = 9,
    Spoke = 10,
    SlotLocked = 11,
    SlotCommitted = 12,
    SlotReleased = 13,
    InterruptRequested = 14,
    TurnEnded = 15,
    MessageSetAside = 16,
}

impl Kind {
    pub const ALL: [Self; 16] = [
        Self::SessionOpened,
        Self::SessionChanged,
        Self::MessageReceived,
        Self::MessageSent,
        Self::TurnStarted,
        Self::Called,
        Self::Returned,
        Self::Streamed,
        Self::Observed,
        Self::Spoke,
        Self::SlotLocked,
        Self::SlotCommitted,
        Self::SlotReleased,
        Self::InterruptRequested,
        Self::TurnEnded,
        Self::MessageSetAside,
    ];

    pub fn of_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn number(self) -> u16 {
        self as u16
    }

    /// The word used in events, queries and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SessionOpened => "session-opened",
            Self::SessionChanged => "session-changed",
            Self::MessageReceived => "message-received",
            Self::MessageSent => "message-sent",
            Self::TurnStarted => "turn-started",
            Self::Called => "called",
            Self::Returned => "returned",
            Self::Streamed => "streamed",
            Self::Observed => "observed",
            Self::Spoke => "spoke",
            Self::SlotLocked => "slot-locked",
            Self::SlotCommitted => "slot-committed",
            Self::SlotReleased => "slot-released",
            Self::InterruptRequested => "interrupt-requested",
            Self::TurnEnded => "turn-ended",
            Self::MessageSetAside => "message-set-aside",
        }
    }

    /// Whether clients see it as an event.
    pub fn is_visible(self) -> bool {
        match self {
            Self::SessionOpened
            | Self::SessionChanged
            | Self::MessageReceived
            | Self::MessageSent
            | Self::TurnStarted
            | Self::Spoke
            | Self::SlotCommitted
            | Self::InterruptRequested
            | Self::TurnEnded
            | Self::MessageSetAside => true,
            Self::Called
            | Self::Returned
            | Self::Streamed
            | Self::Observed
            | Self::SlotLocked
            | Self::SlotReleased => false,
        }
    }
}

impl Payload {
    pub fn kind(&self) -> Kind {
        match self {
            Self::SessionOpened(_) => Kind::SessionOpened,
            Self::SessionChanged(_) => Kind::SessionChanged,
            Self::MessageReceived(_) => Kind::MessageReceived,
            Self::MessageSent(_) => Kind::MessageSent,
            Self::TurnStarted(_) => Kind::TurnStarted,
            Self::Called(_) => Kind::Called,
            Self::Returned(_) => Kind::Returned,
            Self::Streamed(_) => Kind::Streamed,
            Self::Observed(_) => Kind::Observed,
            Self::Spoke(_) => Kind::Spoke,
            Self::SlotLocked(_) => Kind::SlotLocked,
            Self::SlotCommitted(_) => Kind::SlotCommitted,
            Self::SlotReleased(_) => Kind::SlotReleased,
            Self::InterruptRequested(_) => Kind::InterruptRequested,
            Self::TurnEnded(_) => Kind::TurnEnded,
            Self::MessageSetAside(_) => Kind::MessageSetAside,
        }
    }
}

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

/// Content of a message: text, or any other JSON value.
pub type MessageBody = serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageReceived {
    pub message: MessageId,
    pub author: Author,
    pub to: AgentName,
    pub body: MessageBody,
    #[serde(skip)]
    pub private: MessageReceivedPrivate,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MessageReceivedPrivate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
    /// A caller waits for the turn that takes it, so no other turn ever gets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub invoked: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageSent {
    pub message: MessageId,
    pub from: AgentName,
    pub to: AgentName,
    pub body: MessageBody,
    pub turn: TurnId,
    pub n: u32,
}

/// Why a turn was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    Messages,
    Slot(SlotName),
    Wake,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnStarted {
    pub turn: TurnId,
    pub run: RunId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TurnId>,
    pub agent: AgentName,
    /// The messages it takes.
    pub inputs: Vec<MessageId>,
    pub causes: Vec<Cause>,
    pub attempt: u32,
    #[serde(skip)]
    pub private: Pinned,
}

/// What the turn runs with, whatever is deployed or configured meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pinned {
    /// SHA-256 of the component, hex.
    pub component: String,
    /// The agent's version: component and configuration.
    pub version: u64,
}

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spoke {
    pub turn: TurnId,
    pub agent: AgentName,
    pub text: String,
    /// Bytes the turn had said before: 0 marks the first words of a turn.
    pub at: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotLocked {
    pub slot: SlotName,
    pub turn: TurnId,
    pub n: u32,
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
    pub n: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterruptRequested {
    pub turn: TurnId,
    pub agent: AgentName,
    pub by: Author,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Completed,
    Interrupted,
    Cancelled,
    Failed,
    Refused,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Interrupted => "interrupted",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// Kinds of failure: what a client may act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The component trapped.
    Trap,
    /// It used more than it may: memory, host calls, bytes, handles.
    Limit,
    /// It computed longer than it may.
    Cpu,
    /// The turn took longer than it may.
    Deadline,
    /// It answered with an error.
    Agent,
    /// The host stopped while the turn was open.
    HostLost,
    /// The component could not be loaded or instantiated.
    Component,
}

impl Failure {
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Limit => "limit",
            Self::Cpu => "cpu",
            Self::Deadline => "deadline",
            Self::Agent => "agent",
            Self::HostLost => "host-lost",
            Self::Component => "component",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnError {
    pub code: Failure,
    pub message: String,
}

/// What becomes of a message after the turn that took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Read and done with.
    Consumed,
    /// Still in the mailbox; by itself it starts no turn.
    Left,
    /// Back in its place, to be given to another turn.
    Returned,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputFate {
    pub message: MessageId,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnEnded {
    pub turn: TurnId,
    pub agent: AgentName,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TurnError>,
    pub usage: Usage,
    pub inputs: Vec<InputFate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_at: Option<Time>,
    #[serde(skip)]
    pub private: TurnEndedPrivate,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnEndedPrivate {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<context::Change>,
    /// Where the component was, and what it printed last: for its developer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageSetAside {
    pub message: MessageId,
    pub agent: AgentName,
    pub reason: String,
    pub deliveries: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_number_and_one_name_each() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_number(kind.number()), Some(kind));
            assert_eq!(Kind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::of_number(0), None);
        assert_eq!(Kind::of_number(17), None);
    }
}
