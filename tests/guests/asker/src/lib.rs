//! An agent that asks people as its message says: a JSON array of steps, as JSON or as a text, see [`Step`].
//!
//! What a step finds is said as one line of JSON. A message that is any other text is
//! answered with `heard TEXT`.

use std::time::Duration;

use antiphon_sdk::kernel::{self, SlotLock};
use antiphon_sdk::mailbox::Body;
use antiphon_sdk::model::{self, Deltas, Message, Request};
use antiphon_sdk::questions::{self, AskError, Question};
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, mailbox, reply, turn};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Say(String),
    /// The question and its choices.
    Ask(String, Vec<String>),
    /// The question, and milliseconds.
    AskWithin(String, u64),
    /// So many bytes, and so many choices of one byte more.
    AskLong(usize, usize),
    /// So many times.
    AskAgain(String, u32),
    Approve(String),
    /// Take a slot's lock and hold it.
    Lock(String),
    /// Commit with the lock that is held.
    Commit(String),
    /// Ask a model and hold its answer.
    Open(String),
    /// Let go of all that is held.
    Drop,
    Model(String),
    /// Take what came meanwhile.
    Pull,
    /// Whether so many milliseconds or more have passed since the turn began.
    Passed(u64),
    Fail,
}

struct Asker;

#[derive(Default)]
struct Performer {
    began: u64,
    lock: Option<SlotLock>,
    answer: Option<Deltas>,
}

fn tell(line: &Value) -> Result<(), AgentError> {
    Ok(reply::say(&format!("{line}\n"))?)
}

fn ask(question: &Question) -> Result<(), AgentError> {
    tell(&match questions::ask_with(question) {
        Ok(answer) => match answer.note {
            Some(note) => json!({"answer": answer.text, "by": answer.by, "note": note}),
            None => json!({"answer": answer.text, "by": answer.by}),
        },
        Err(error) => json!({"error": word(&error)}),
    })
}

fn word(error: &AskError) -> String {
    match error {
        AskError::Expired => "expired".to_owned(),
        AskError::HeldLock => "held-lock".to_owned(),
        AskError::OpenAnswer => "open-answer".to_owned(),
        AskError::TooLarge => "too-large".to_owned(),
        AskError::TooMany => "too-many".to_owned(),
        AskError::Other(why) => format!("other: {why}"),
    }
}

impl Performer {
    fn perform(&mut self, step: Step) -> Result<(), AgentError> {
        match step {
            Step::Say(text) => reply::say(&text)?,
            Step::Ask(text, choices) => {
                let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
                ask(&Question::new(&text).choices(&choices))?;
            }
            Step::AskWithin(text, ms) => {
                ask(&Question::new(&text).within(Duration::from_millis(ms)))?;
            }
            Step::AskLong(bytes, choices) => {
                let choices: Vec<String> = (0..choices).map(|at| format!("{at:03}")).collect();
                let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
                ask(&Question::new(&"x".repeat(bytes)).choices(&choices))?;
            }
            Step::AskAgain(text, times) => {
                for _ in 0..times {
                    ask(&Question::new(&text))?;
                }
            }
            Step::Approve(text) => tell(&match questions::approve(&text) {
                Ok(may) => json!({"approved": may}),
                Err(error) => json!({"error": word(&error)}),
            })?,
            Step::Lock(name) => self.lock = Some(kernel::lock(&name)?),
            Step::Commit(text) => {
                if let Some(lock) = self.lock.take() {
                    lock.commit(&text)?;
                }
            }
            Step::Open(question) => {
                let request = Request::new(vec![Message::user(question)]);
                self.answer = Some(model::open(&request)?);
            }
            Step::Drop => (self.lock, self.answer) = (None, None),
            Step::Model(question) => {
                let request = Request::new(vec![Message::user(question)]);
                tell(&json!({"model": model::complete(&request)?.text}))?;
            }
            Step::Pull => {
                for message in mailbox::pull_all() {
                    reply::say(&format!("heard {}\n", message.body.as_text()))?;
                }
            }
            Step::Passed(ms) => tell(&json!({"passed": turn::now() - self.began >= ms}))?,
            Step::Fail => return Err(AgentError::other("as its message says")),
        }
        Ok(())
    }
}

impl Agent for Asker {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let mut performer = Performer {
            began: turn::now(),
            ..Performer::default()
        };
        for message in mailbox::pull_all() {
            match &message.body {
                Body::Text(text) if !text.starts_with("[{") => {
                    reply::say(&format!("heard {text}\n"))?;
                }
                Body::Json(script) | Body::Text(script) => {
                    let steps: Vec<Step> = serde_json::from_str(script)
                        .map_err(|error| AgentError::InvalidInput(error.to_string()))?;
                    for step in steps {
                        performer.perform(step)?;
                    }
                }
            }
        }
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Asker);

#[cfg(test)]
mod tests {
    use antiphon_sdk::mailbox::{Body, Sender};
    use antiphon_sdk::testing::Host;

    use super::Asker;

    #[test]
    fn asks_what_its_message_says() {
        let host = Host::new("asker");
        host.person_answers("ben", "yes").nobody_answers();
        let script =
            r#"[{"ask": ["May I?", ["yes", "no"]]}, {"approve": "Really?"}, {"passed": 1000}]"#;
        host.receive_from(
            Sender::Person("ana".to_owned()),
            Body::Json(script.to_owned()),
        );
        let turn = host.turn::<Asker>();
        let said =
            "{\"answer\":\"yes\",\"by\":\"ben\"}\n{\"error\":\"expired\"}\n{\"passed\":true}\n";
        assert_eq!(turn.said, said);
        assert_eq!(turn.asked.len(), 2);
    }
}
