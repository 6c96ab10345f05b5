//! The kinds of journal entries.
//!
//! The serde form of [`Payload`] is the stored and the public form at once: a
//! promise to every journal ever written and every client. Fields are only ever
//! added, as optional ones. Fields marked `skip` are the private part: stored
//! beside the public part and shown only under scope `inspect`.

mod call;
mod kind;
mod message;
mod session;
mod slot;
mod turn;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::Seq;

pub use call::{
    CallKind, CallResult, Called, Observation, Observed, Piece, Returned, Streamed, Usage,
};
pub use kind::Kind;
pub use message::{
    Fate, InputFate, MessageBody, MessageReceived, MessageReceivedPrivate, MessageSent,
    MessageSetAside,
};
pub use session::{
    Idempotency, SessionChange, SessionChanged, SessionOpened, SessionOpenedPrivate,
};
pub use slot::{Content, SlotCommitted, SlotCommittedPrivate, SlotLocked, SlotReleased, Writer};
pub use turn::{
    Cause, Failure, InterruptRequested, Outcome, Pinned, Spoke, TurnEnded, TurnEndedPrivate,
    TurnError, TurnStarted,
};

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
