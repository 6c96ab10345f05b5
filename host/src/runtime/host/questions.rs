//! `questions`: asking people.

use crate::runtime::bindings::antiphon::agent::questions::{Answer, AskError, Host, Question};
use crate::runtime::guest::Guest;
use crate::runtime::scope::questions::{self, NoAnswer};

impl Host for Guest {
    async fn ask(&mut self, question: Question) -> wasmtime::Result<Result<Answer, AskError>> {
        let scope = self.scope.clone();
        let question = questions::Question {
            text: question.text,
            choices: question.choices,
            timeout_ms: question.timeout_ms,
        };
        Ok(match scope.ask_people(question).await? {
            Ok(answer) => Ok(Answer {
                text: answer.text,
                by: answer.by,
                note: answer.note,
            }),
            Err(error) => Err(match error {
                NoAnswer::Expired => AskError::Expired,
                NoAnswer::HeldLock => AskError::HeldLock,
                NoAnswer::OpenAnswer => AskError::OpenAnswer,
                NoAnswer::TooLarge => AskError::TooLarge,
                NoAnswer::TooMany => AskError::TooMany,
                NoAnswer::Other(why) => AskError::Other(why),
            }),
        })
    }
}
