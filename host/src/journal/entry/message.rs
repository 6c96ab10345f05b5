//! Entries of messages, and what becomes of a message after a turn.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, Author, MessageId, SessionId, TurnId};

use crate::bus;

use super::{Idempotency, Tool, Writer};

/// Content of a message: text, or any other JSON value.
pub type MessageBody = serde_json::Value;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageReceived {
    pub message: MessageId,
    pub author: Author,
    pub to: AgentName,
    pub body: MessageBody,
    /// For a nested call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called_by: Option<CalledBy>,
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
    /// What the caller's runtime said about the call. Such a message is a turn of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<bus::Context>,
    /// System text that came with it: for the turn that takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Tools that its sender offers to call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// What the protocol that it came by wants told again with the answer, in that protocol's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<serde_json::Value>,
}

/// The turn that called an agent as a nested one, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalledBy {
    pub session: SessionId,
    pub turn: TurnId,
}

/// What was said before the session began, as whoever opened it tells. Only before the first message: the
/// transcript begins with it, and it starts no turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recounted {
    pub by: Writer,
    pub text: String,
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
pub struct MessageSetAside {
    pub message: MessageId,
    pub agent: AgentName,
    pub reason: String,
    pub deliveries: u32,
}
