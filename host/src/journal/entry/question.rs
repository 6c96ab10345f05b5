//! Entries of questions: what a turn asks people, and what was answered.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Author, Seq, TurnId};

use super::Idempotency;

/// The turn asks people something, and is put aside until that is answered: nothing of it follows before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Names the question: the seq of this entry.
    pub question: Seq,
    pub turn: TurnId,
    pub agent: AgentName,
    pub n: u32,
    pub text: String,
    /// One of them is chosen; with none, the answer is any text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// When it stops waiting.
    pub until: Time,
}

/// How a question was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Reply {
    Answered {
        /// Where there were choices, the one that was chosen.
        text: String,
        by: Author,
        /// What the person said beside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
}

/// The question is closed, and its turn is taken up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionAnswered {
    pub question: Seq,
    pub turn: TurnId,
    pub agent: AgentName,
    pub n: u32,
    #[serde(flatten)]
    pub reply: Reply,
    #[serde(skip)]
    pub private: QuestionAnsweredPrivate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionAnsweredPrivate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}
