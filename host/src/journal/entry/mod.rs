//! The kinds of journal entries.
//!
//! The serde form of [`Payload`] is the stored and the public form at once: a
//! promise to every journal ever written and every client. Fields are only ever
//! added, as optional ones. Fields marked `skip` are the private part: stored
//! beside the public part and shown only under scope `inspect`.

mod call;
mod conversation;
mod kind;
mod message;
mod nested;
mod question;
mod session;
mod slot;
mod tools;
mod turn;
mod usage;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{Digest, Seq, TurnId};

pub use call::{
    Answered, CallKind, CallResult, Called, Observation, Observed, Piece, Retried, RetryReason,
    Returned, Streamed,
};
pub use conversation::{Cents, Halt, Halted, SpeakerEnded, SpeakerStarted};
pub use kind::Kind;
pub use message::{
    CalledBy, Fate, InputFate, MessageBody, MessageReceived, MessageReceivedPrivate, MessageSent,
    MessageSetAside, Recounted,
};
pub use nested::{AgentCalled, AgentCalledPrivate, CallCancelled};
pub use question::{Asked, QuestionAnswered, QuestionAnsweredPrivate, Reply};
pub use session::{
    AgentResumed, AgentSuspended, Idempotency, SessionChange, SessionChanged, SessionForked,
    SessionOpened, SessionOpenedPrivate,
};
pub use slot::{Content, SlotCommitted, SlotCommittedPrivate, SlotLocked, SlotReleased, Writer};
pub use tools::{Tool, ToolCall, ToolsCalled};
pub use turn::{
    Cause, Failure, InterruptRequested, Outcome, Pinned, Spoke, TurnEnded, TurnEndedPrivate,
    TurnError, TurnStarted,
};
pub use usage::{Price, Usage, estimated_tokens};

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
    Retried(Retried),
    AgentSuspended(AgentSuspended),
    AgentResumed(AgentResumed),
    SessionForked(SessionForked),
    SpeakerStarted(SpeakerStarted),
    SpeakerEnded(SpeakerEnded),
    Halted(Halted),
    AgentCalled(AgentCalled),
    CallCancelled(CallCancelled),
    Recounted(Recounted),
    ToolsCalled(ToolsCalled),
    Asked(Asked),
    Answered(QuestionAnswered),
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
            Self::Retried(_) => Kind::Retried,
            Self::AgentSuspended(_) => Kind::AgentSuspended,
            Self::AgentResumed(_) => Kind::AgentResumed,
            Self::SessionForked(_) => Kind::SessionForked,
            Self::SpeakerStarted(_) => Kind::SpeakerStarted,
            Self::SpeakerEnded(_) => Kind::SpeakerEnded,
            Self::Halted(_) => Kind::Halted,
            Self::AgentCalled(_) => Kind::AgentCalled,
            Self::CallCancelled(_) => Kind::CallCancelled,
            Self::Recounted(_) => Kind::Recounted,
            Self::ToolsCalled(_) => Kind::ToolsCalled,
            Self::Asked(_) => Kind::Asked,
            Self::Answered(_) => Kind::Answered,
        }
    }

    /// What is stored beside the journal because the entry names it.
    pub fn value(&self) -> Option<Digest> {
        let content = match self {
            Self::SlotCommitted(it) => &it.private.content,
            Self::Returned(it) => &it.answered.as_ref()?.body,
            _ => return None,
        };
        match content {
            Content::Inline { .. } => None,
            Content::Stored { digest, .. } => Some(*digest),
        }
    }

    /// The turn whose guest made this entry; none if the host or somebody outside did.
    pub fn made_by(&self) -> Option<&TurnId> {
        match self {
            Self::Called(it) => Some(&it.turn),
            Self::AgentCalled(it) => Some(&it.turn),
            Self::Returned(it) => Some(&it.turn),
            Self::Streamed(it) => Some(&it.turn),
            Self::Observed(it) => Some(&it.turn),
            Self::Spoke(it) => Some(&it.turn),
            Self::ToolsCalled(it) => Some(&it.turn),
            Self::Asked(it) => Some(&it.turn),
            Self::MessageSent(it) => Some(&it.turn),
            Self::SlotLocked(it) => it.n.and(Some(&it.turn)),
            Self::SlotReleased(it) => it.n.and(Some(&it.turn)),
            Self::SlotCommitted(it) => it.turn.as_ref(),
            Self::SpeakerStarted(it) => Some(&it.turn),
            Self::SpeakerEnded(it) => Some(&it.turn),
            // Whoever stops a conversation writes the abort.
            Self::Halted(it) => (it.halt != Halt::Abort).then_some(&it.turn),
            Self::SessionOpened(_)
            | Self::SessionChanged(_)
            | Self::MessageReceived(_)
            | Self::TurnStarted(_)
            | Self::InterruptRequested(_)
            | Self::TurnEnded(_)
            | Self::MessageSetAside(_)
            | Self::Retried(_)
            | Self::AgentSuspended(_)
            | Self::AgentResumed(_)
            | Self::SessionForked(_)
            | Self::CallCancelled(_)
            | Self::Recounted(_)
            // What answers a call that the guest made, and is a part of its record, but not the guest's doing.
            | Self::Answered(_) => None,
        }
    }
}
