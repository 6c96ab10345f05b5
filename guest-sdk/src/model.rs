//! Language models. The request is exactly what the provider gets: neither the host nor
//! this module adds anything to it.
//!
//! [`relay`] is the common path: people see the answer while it arrives.
//! [`Prompt`](crate::prompt::Prompt) composes a request, [`tools`](crate::tools) go round
//! with the model until it has what it needs.

pub use crate::bindings::antiphon::agent::model::{
    AssistantMessage, Completion, Delta, Finish, Finished, Message, ModelError, Parameters,
    ProviderError, Request, Tool, ToolCall, ToolChoice, ToolMessage, Usage, UserMessage,
};
use crate::host;

/// Ask and wait for the whole answer. Nothing of it is said.
pub fn complete(request: &Request) -> Result<Completion, ModelError> {
    host::model::complete(request)
}

/// Ask and take the answer piece by piece.
pub fn open(request: &Request) -> Result<Deltas, ModelError> {
    host::model::open(request).map(Deltas)
}

/// Ask and say the answer's text while it arrives.
pub fn relay(request: &Request) -> Result<Completion, ModelError> {
    open(request)?.relay()
}

/// An answer on its way, piece by piece: none after `Finished`, none after an error.
/// Dropping it stops the call.
#[derive(Debug)]
pub struct Deltas(host::model::Deltas);

impl Deltas {
    /// Say the rest of the text while it arrives, without a crossing per piece, and answer
    /// the whole completion: also what was taken before.
    pub fn relay(self) -> Result<Completion, ModelError> {
        host::model::Deltas::relay(self.0)
    }
}

/// What went wrong, for whoever reads a log or a failed turn.
pub fn in_words(error: &ModelError) -> String {
    match error {
        ModelError::Refused(why) => format!("refused: {why}"),
        ModelError::OverBudget => "the budget is used up".to_owned(),
        ModelError::Deadline => "the call took longer than it may".to_owned(),
        ModelError::CircuitOpen => "the provider failed too often lately".to_owned(),
        ModelError::Interrupted(partial) => {
            format!("the answer broke off after {} bytes", partial.len())
        }
        ModelError::Provider(error) => error.text.clone(),
        ModelError::Other(what) => what.clone(),
    }
}

impl Iterator for Deltas {
    type Item = Result<Delta, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}

impl Default for Parameters {
    /// All left to the provider.
    fn default() -> Self {
        Self {
            temperature: None,
            top_p: None,
            max_tokens: None,
            stop: Vec::new(),
            seed: None,
            reasoning_effort: None,
            response_format: None,
        }
    }
}

impl Request {
    /// These messages to the agent's first model, without tools.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            model: None,
            messages,
            tools: Vec::new(),
            tool_choice: None,
            parameters: Parameters::default(),
            cache: None,
        }
    }

    /// An answer that is at most so many seconds old will do, also one that another agent got.
    #[must_use]
    pub fn cached_for(self, seconds: u32) -> Self {
        Self {
            cache: Some(seconds),
            ..self
        }
    }
}

impl Message {
    /// A user's message without a name.
    pub fn user(text: impl Into<String>) -> Self {
        Self::User(UserMessage {
            name: None,
            text: text.into(),
        })
    }

    /// The model's own words.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::Assistant(AssistantMessage {
            text: Some(text.into()),
            tool_calls: Vec::new(),
        })
    }
}
