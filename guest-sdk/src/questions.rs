//! Questions to the people in the session. Must be granted.
//!
//! A turn that asks is put aside until somebody answers, also for days. Then it is run again from
//! its record, on a fresh instance, and comes back to the question with the answer: nothing that the
//! agent did before is done again, and it need not know. Only locks and answers of models on their
//! way do not outlast a question: give them back before.
//!
//! ```
//! use antiphon_sdk::testing::Host;
//! use antiphon_sdk::{questions, reply};
//!
//! let host = Host::new("clerk");
//! host.receive("ana", "Tell Ben that I am late.");
//! host.person_answers("ana", "approve");
//! let turn = host.turn_with(|_| {
//!     reply::say("I have written it. ")?;
//!     let sent = if questions::approve("Send the mail?")? { "It is sent." } else { "I keep it." };
//!     reply::say(sent)?;
//!     Ok(Default::default())
//! });
//! assert_eq!(turn.said, "I have written it. It is sent.");
//! assert_eq!(turn.asked[0].choices, [questions::APPROVE, questions::DENY]);
//! ```

use std::time::Duration;

pub use crate::bindings::antiphon::agent::questions::{Answer, AskError, Question};
use crate::host;

/// The choices of [`approve`].
pub const APPROVE: &str = "approve";
/// The choices of [`approve`].
pub const DENY: &str = "deny";

/// Ask for any text, and wait as long as the host allows.
pub fn ask(text: &str) -> Result<Answer, AskError> {
    ask_with(&Question::new(text))
}

/// Ask for one of these, and wait as long as the host allows. The answer is one of them.
pub fn choose(text: &str, choices: &[&str]) -> Result<String, AskError> {
    let answer = ask_with(&Question::new(text).choices(choices))?;
    Ok(answer.text)
}

/// Ask whether something may be done, and wait as long as the host allows. Nobody who does not
/// answer approves: that is an error.
pub fn approve(text: &str) -> Result<bool, AskError> {
    Ok(choose(text, &[APPROVE, DENY])? == APPROVE)
}

/// Ask, and wait for the answer.
pub fn ask_with(question: &Question) -> Result<Answer, AskError> {
    host::questions::ask(question)
}

impl Question {
    /// Any text is an answer; wait as long as the host allows.
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            choices: Vec::new(),
            timeout_ms: None,
        }
    }

    /// One of these must be chosen.
    pub fn choices(self, choices: &[&str]) -> Self {
        let choices = choices.iter().map(ToString::to_string).collect();
        Self { choices, ..self }
    }

    /// Wait no longer than this: at least a second, and at most as long as the host allows.
    pub fn within(self, time: Duration) -> Self {
        let timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            timeout_ms: Some(timeout_ms),
            ..self
        }
    }
}
