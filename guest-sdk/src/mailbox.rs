//! What was sent to this agent in this session, and sending to its other agents.
//!
//! A message waits until it is pulled. Pulled messages are taken by this turn unless
//! left; what becomes of them is decided with the turn's outcome.

pub use crate::bindings::antiphon::agent::mailbox::{
    Body, Header, Message, Page, SendError, Sender,
};
use crate::host;
use serde::Deserialize;

/// Messages that wait to be pulled, oldest first: this turn's, and those left by
/// earlier turns.
pub fn pending() -> Vec<Header> {
    host::mailbox::pending()
}

/// Take up to `max` waiting messages, oldest first.
pub fn pull(max: u32) -> Vec<Message> {
    host::mailbox::pull(max)
}

/// What one `pull` gives at most.
const PULL_MAX: u32 = 100;

/// Take all waiting messages, oldest first, however many one `pull` gives.
pub fn pull_all() -> Vec<Message> {
    let mut messages = pull(PULL_MAX);
    let mut last = messages.len();
    while last == PULL_MAX as usize {
        let more = pull(PULL_MAX);
        last = more.len();
        messages.extend(more);
    }
    messages
}

/// Put a message pulled in this turn back. False if this turn did not pull it.
pub fn leave(id: &str) -> bool {
    host::mailbox::leave(id)
}

/// Any message ever sent to this agent here, pulled or not; takes nothing.
pub fn read(id: &str) -> Option<Message> {
    host::mailbox::read(id)
}

/// Messages to this agent whose body contains `query` (case-insensitive; empty finds
/// all), newest first, at most 20 a page.
pub fn search(query: &str, cursor: Option<&str>) -> Page {
    host::mailbox::search(query, cursor)
}

/// Send to another agent of the session. Delivered exactly once per call, and stands even
/// if this turn fails later. Answers the message's id.
pub fn send(to: &str, body: &Body) -> Result<String, SendError> {
    host::mailbox::send(to, body)
}

/// What a tool of the caller's answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ToolResult {
    /// Of the call.
    pub id: String,
    /// None if the caller did not say what it answers.
    #[serde(default)]
    pub name: Option<String>,
    /// None if the caller did not say what it answers.
    #[serde(default)]
    pub arguments: Option<String>,
    /// The answer.
    pub content: String,
}

/// A message that brings what tools answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolResults {
    /// At least one, as the caller gave them.
    #[serde(rename = "tool_results")]
    pub results: Vec<ToolResult>,
    /// What the person said beside them.
    #[serde(default)]
    pub text: Option<String>,
}

impl Message {
    /// What the caller's tools answered, if the message brings that: see
    /// [`call_tools`](crate::reply::call_tools). A text never does, whatever stands in it.
    pub fn tool_results(&self) -> Option<ToolResults> {
        let Body::Json(json) = &self.body else {
            return None;
        };
        let results: ToolResults = serde_json::from_str(json).ok()?;
        (!results.results.is_empty()).then_some(results)
    }
}

impl Sender {
    /// The name, whoever it is.
    pub fn name(&self) -> &str {
        match self {
            Self::Person(name) | Self::Agent(name) => name,
        }
    }
}

impl Body {
    /// The body as it was written; of JSON, the text of the document.
    pub fn as_text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Json(text) => text,
        }
    }
}
