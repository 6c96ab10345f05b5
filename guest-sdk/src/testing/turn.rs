//! What a turn did.

use super::Sent;
use crate::agent::{AgentError, Cause, TurnOutput};
use crate::http;
use crate::model::{Request, ToolCall};
use crate::questions::Question;

/// A turn that has ended.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Turn {
    /// Its id.
    pub id: String,
    /// Why it started.
    pub causes: Vec<Cause>,
    /// What the agent answered.
    pub result: Result<TurnOutput, AgentError>,
    /// All that people were shown.
    pub said: String,
    /// What was sent to other agents, in order.
    pub sent: Vec<Sent>,
    /// What other agents were called with, in order.
    pub called: Vec<Sent>,
    /// What the caller was asked to call.
    pub called_tools: Vec<ToolCall>,
    /// What people were asked, in order.
    pub asked: Vec<Question>,
    /// The ids of the messages that this turn consumed, oldest first.
    pub consumed: Vec<String>,
    /// The ids of the messages that waited and still do, oldest first.
    pub left: Vec<String>,
    /// What models were asked, in order.
    pub requests: Vec<Request>,
    /// What was requested of places outside, in order.
    pub fetched: Vec<http::Request>,
}

impl Turn {
    /// What the agent answered if the turn completed.
    ///
    /// # Panics
    /// If the turn failed.
    #[track_caller]
    pub fn output(&self) -> TurnOutput {
        match &self.result {
            Ok(output) => *output,
            Err(error) => panic!("the turn failed: {error}"),
        }
    }
}
