//! What nested calls need of the layer above: sessions of children opened, waited for, and what came of them.

use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::bus::{self, Authorization};
use crate::id::{AgentName, Digest, MessageId, SessionId, TurnId};
use crate::journal::entry::{CalledBy, Usage};
use crate::model::Works;
use crate::store::ReadError;

/// What the layer above does for the calls of a turn.
pub trait Peers: Send + Sync {
    /// Whether the agent may be called now.
    fn admit(&self, agent: &AgentName) -> Result<(), NotCalled>;
    /// The child's session is about to be opened, and is told of before it is.
    fn announce(&self, child: &SessionId) -> Announcement;
    /// Open the child's session and put its message there; nothing if both have happened.
    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<(), Lost>>;
    /// Wait until the child's turn is over and that is durable.
    fn outcome(&self, session: SessionId, key: Digest) -> BoxFuture<'_, Result<Outcome, Lost>>;
    /// The credential that came with a message; none if it is not kept any more.
    fn authorization(
        &self,
        message: MessageId,
    ) -> BoxFuture<'_, Result<Option<Authorization>, ReadError>>;
}

/// Dropped when the child's session can be reached, or never will be.
pub type Announcement = Box<dyn Send>;

/// Everything a child begins with.
#[derive(Debug, Clone)]
pub struct Opening {
    pub session: SessionId,
    pub key: Digest,
    pub agent: AgentName,
    pub body: Value,
    pub context: bus::Context,
    pub called_by: CalledBy,
    pub authorization: Option<Authorization>,
}

/// Why a child's session cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// This host stops: the next process takes the turn up.
    Stopping,
    Because(String),
}

/// How a child's turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub turn: Option<TurnId>,
    /// What was said.
    pub text: String,
    /// None if it is complete.
    pub error: Option<ChildError>,
    /// What its turn used, with what that called.
    pub usage: Usage,
    /// What it says of the agent, for those who call it next.
    pub works: Works,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildError {
    Interrupted,
    Cancelled,
    Deadline,
    Failed(String),
}

/// Why an agent was not called. Nothing was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCalled {
    UnknownAgent,
    TooDeep(bus::TooDeep),
    TooLarge,
    NotJson,
    Refused(String),
}

impl NotCalled {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::UnknownAgent => "unknown-agent",
            Self::TooDeep(_) => "too-deep",
            Self::TooLarge => "too-large",
            Self::NotJson => "not-json",
            Self::Refused(_) => "refused",
        }
    }

    pub(super) fn detail(&self) -> String {
        match self {
            Self::TooDeep(bus::TooDeep { observed, limit }) => format!("{observed} {limit}"),
            Self::Refused(why) => why.clone(),
            Self::UnknownAgent | Self::TooLarge | Self::NotJson => String::new(),
        }
    }

    /// From an entry, so the same in every run.
    pub(super) fn of(word: &str, detail: &str) -> Self {
        let numbers = detail.split_once(' ');
        let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match (word, numbers) {
            ("unknown-agent", _) => Self::UnknownAgent,
            ("too-large", _) => Self::TooLarge,
            ("not-json", _) => Self::NotJson,
            ("too-deep", Some((observed, limit))) => {
                Self::TooDeep(bus::TooDeep { observed, limit })
            }
            _ => Self::Refused(detail.to_owned()),
        }
    }
}
