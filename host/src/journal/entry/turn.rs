//! Entries of a turn: started, what it said, interrupted, ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Author, MessageId, RunId, SlotName, TurnId};
use crate::journal::context;

use super::{InputFate, Usage};

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
    /// Limits by name, where they are not the built-in ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spoke {
    pub turn: TurnId,
    pub agent: AgentName,
    pub text: String,
    /// Bytes the turn had said before: 0 marks the first words of a turn.
    pub at: u64,
    /// In a conversation: whose words these are, and of which turn. The text around them, which says for
    /// plain readers who speaks, has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InterruptRequested {
    pub turn: TurnId,
    pub agent: AgentName,
    pub by: Author,
    /// The message that asked for it by arriving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
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
    /// The time was up that whoever caused it had given it.
    CallerDeadline,
    /// It answered with an error.
    Agent,
    /// The host stopped while the turn was open.
    HostLost,
    /// The component could not be loaded or instantiated.
    Component,
    /// Attempt after attempt took the host down before it did anything.
    Poison,
    /// Run again after a crash, it did not do what it had done.
    Nondeterminism,
    /// No failure: why a turn that was open where its session was forked ended as interrupted.
    Forked,
}

impl Failure {
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Limit => "limit",
            Self::Cpu => "cpu",
            Self::Deadline => "deadline",
            Self::CallerDeadline => "caller-deadline",
            Self::Agent => "agent",
            Self::HostLost => "host-lost",
            Self::Component => "component",
            Self::Poison => "poison",
            Self::Nondeterminism => "nondeterminism",
            Self::Forked => "forked",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnError {
    pub code: Failure,
    pub message: String,
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
