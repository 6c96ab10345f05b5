//! An agent that does what its message says: a JSON array of steps, see [`Step`], as JSON or as a text.
//!
//! What a step finds is said as one line of JSON, so that tests read it in the reply. A
//! message that is any other text is answered with `heard TEXT`; a turn without messages says what
//! woke it. Steps of several messages are done in order of arrival.

mod mischief;
mod sandbox;
mod session;

use antiphon_sdk::{Agent, AgentError, Cause, TurnInput, TurnOutput, mailbox, reply};
use serde::Deserialize;
use serde_json::Value;

/// `"trap"`, `{"say": "a"}`, `{"commit": ["slot", "text"]}`: a step with what it needs.
#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Session(session::Step),
    Sandbox(sandbox::Step),
}

struct Puppet;

impl Agent for Puppet {
    fn handle(input: TurnInput) -> Result<TurnOutput, AgentError> {
        let mut session = session::Performer::default();
        for cause in &input.causes {
            match cause {
                Cause::Messages | Cause::Nested => {}
                Cause::Slot(name) => reply::say(&format!("woken by slot {name}\n"))?,
                other => reply::say(&format!("woken by {other:?}\n"))?,
            }
        }
        for message in mailbox::pull_all() {
            if let Some(results) = message.tool_results() {
                for result in results.results {
                    let name = result.name.unwrap_or_default();
                    reply::say(&format!("{name}: {}\n", result.content))?;
                }
                continue;
            }
            match &message.body {
                mailbox::Body::Text(text)
                    if !text.starts_with("[{") && !text.starts_with("[\"") =>
                {
                    reply::say(&format!("heard {text}\n"))?;
                }
                mailbox::Body::Json(script) | mailbox::Body::Text(script) => {
                    let steps: Vec<Step> = serde_json::from_str(script)
                        .map_err(|error| AgentError::InvalidInput(error.to_string()))?;
                    for step in steps {
                        match step {
                            Step::Session(step) => session.perform(step, &message)?,
                            Step::Sandbox(step) => sandbox::perform(step)?,
                        }
                    }
                }
            }
        }
        Ok(session.output())
    }
}

/// Say what was found, as a line.
fn tell(line: &Value) -> Result<(), AgentError> {
    Ok(reply::say(&format!("{line}\n"))?)
}

antiphon_sdk::export!(Puppet);

#[cfg(test)]
mod tests {
    use antiphon_sdk::mailbox::{Body, Sender};
    use antiphon_sdk::testing::Host;

    use super::Puppet;

    #[test]
    fn does_what_its_message_says() {
        let host = Host::new("puppet");
        let script = r#"[{"say": "a"}, {"commit": ["x", "text"]}, {"read": "x"}]"#;
        host.receive_from(
            Sender::Person("ana".to_owned()),
            Body::Json(script.to_owned()),
        );
        host.receive("ben", "hello");

        let said = host.turn::<Puppet>().said;
        let found = r#"{"read":{"content":"text","state":"idle"}}"#;
        assert_eq!(said, format!("a{found}\nheard hello\n"));
    }
}
