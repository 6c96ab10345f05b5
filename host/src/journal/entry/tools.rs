//! Entries of tools that are the caller's: what it offers, and what a turn asks it to call.

use serde::{Deserialize, Serialize};

use crate::id::{AgentName, TurnId};

/// A function that whoever sent a message offers to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// JSON Schema of its arguments, as a text.
    pub parameters: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON, as the agent wrote it.
    pub arguments: String,
}

/// The turn asks its caller to call tools. No words follow, and no second such entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsCalled {
    pub turn: TurnId,
    pub agent: AgentName,
    pub n: u32,
    pub calls: Vec<ToolCall>,
}
