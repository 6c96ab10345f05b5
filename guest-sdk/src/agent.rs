//! What an agent is, and how its own errors come from the errors of the host's words.

use std::fmt::Display;
use std::time::Duration;

pub use crate::bindings::exports::antiphon::agent::agent::{
    AgentError, Cause, TurnInput, TurnOutput,
};
use crate::{agents, bindings, context, http, kernel, mailbox, model, questions, reply, turn};

/// Something that handles turns. Say so with [`export!`](crate::export).
///
/// The host calls `handle` once per turn, on a fresh instance: a `static` does not
/// survive to the next one. What must survive goes into a slot ([`kernel`]), the
/// [`context`] or a message ([`mailbox`]). After a crash of the host the same turn is run
/// again with the same input, and everything that the host had answered durably is
/// answered the same.
pub trait Agent {
    /// Handle one turn. What the agent says, it says with [`reply`] or with a `relay`.
    ///
    /// An error fails the turn. Then its changes of the context do not happen; what was
    /// said, sent and committed stands. If nothing was said, its messages are given to
    /// another turn, a few times.
    fn handle(input: TurnInput) -> Result<TurnOutput, AgentError>;
}

impl<T: Agent> bindings::exports::antiphon::agent::agent::Guest for T {
    fn handle(input: TurnInput) -> Result<TurnOutput, AgentError> {
        <T as Agent>::handle(input)
    }
}

impl TurnInput {
    /// Did messages start this turn (also)?
    pub fn has_messages(&self) -> bool {
        self.causes.contains(&Cause::Messages)
    }

    /// Did somebody's commit of this watched slot start this turn (also)?
    pub fn has_slot(&self, name: &str) -> bool {
        self.causes
            .iter()
            .any(|cause| cause.as_slot() == Some(name))
    }
}

impl Cause {
    /// The name of the slot, if a slot it is.
    pub fn as_slot(&self) -> Option<&str> {
        match self {
            Self::Slot(name) => Some(name),
            Self::Messages | Self::Wake | Self::Nested | Self::Schedule(_) | Self::Webhook(_) => {
                None
            }
        }
    }
}

impl Default for TurnOutput {
    /// Wait until something happens.
    fn default() -> Self {
        Self { wake_at: None }
    }
}

impl TurnOutput {
    /// Start a turn after this long even if nothing happens.
    pub fn wake_in(delay: Duration) -> Self {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        Self {
            wake_at: Some(turn::now().saturating_add(delay)),
        }
    }
}

impl AgentError {
    /// An error that fits no other case.
    pub fn other(error: impl Display) -> Self {
        Self::Other(error.to_string())
    }
}

// What the agent needs did not work: with these, `?` says so.
impl From<model::ModelError> for AgentError {
    fn from(error: model::ModelError) -> Self {
        Self::Unavailable(format!("model: {}", model::in_words(&error)))
    }
}

impl From<http::HttpError> for AgentError {
    fn from(error: http::HttpError) -> Self {
        Self::Unavailable(format!("http: {}", http::in_words(&error)))
    }
}

impl From<kernel::LockError> for AgentError {
    fn from(error: kernel::LockError) -> Self {
        Self::Unavailable(format!("lock: {error}"))
    }
}

impl From<kernel::CommitError> for AgentError {
    fn from(error: kernel::CommitError) -> Self {
        Self::Unavailable(format!("commit: {error}"))
    }
}

impl From<mailbox::SendError> for AgentError {
    fn from(error: mailbox::SendError) -> Self {
        Self::Unavailable(format!("send: {error}"))
    }
}

impl From<agents::CallError> for AgentError {
    fn from(error: agents::CallError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<context::AddError> for AgentError {
    fn from(error: context::AddError) -> Self {
        Self::Unavailable(format!("context: {error}"))
    }
}

impl From<questions::AskError> for AgentError {
    fn from(error: questions::AskError) -> Self {
        Self::Unavailable(format!("ask: {error}"))
    }
}

impl From<reply::ToolsError> for AgentError {
    fn from(error: reply::ToolsError) -> Self {
        Self::Unavailable(format!("call tools: {error}"))
    }
}

impl From<reply::SayError> for AgentError {
    fn from(error: reply::SayError) -> Self {
        Self::Unavailable(format!("say: {error}"))
    }
}
