//! An agent that calls others as its message says: a JSON array of steps, see [`Step`].
//!
//! What a step finds is said as one line of JSON. A message that is text is answered with
//! `heard TEXT`, and with what the turn is.

use antiphon_sdk::agents::{self, CallError, Options, Reply, Run};
use antiphon_sdk::mailbox::Body;
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, Cause, TurnInput, TurnOutput, mailbox, model, reply, turn};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Say(String),
    /// Agent and body.
    Call(String, Value),
    /// Agent, body, milliseconds.
    CallWithin(String, Value, u64),
    Spawn(String, Value),
    /// For the oldest that was spawned.
    Wait,
    /// Let go of the oldest that was spawned.
    Drop,
    /// What the turn is.
    Who,
    Model(String),
    Sleep(u64),
}

struct Caller;

fn body(value: &Value) -> Body {
    match value {
        Value::String(text) => Body::Text(text.clone()),
        other => Body::Json(other.to_string()),
    }
}

fn told(reply: Result<Reply, CallError>) -> Value {
    match reply {
        Ok(reply) => json!({"reply": reply.text, "session": reply.session}),
        Err(CallError::TooDeep(depth)) => {
            json!({"error": "too-deep", "observed": depth.observed, "limit": depth.limit})
        }
        Err(CallError::Failed(failure)) => {
            json!({"error": "failed", "why": failure.why, "said": failure.said})
        }
        Err(CallError::Refused(why)) => json!({"error": "refused", "why": why}),
        Err(CallError::Interrupted(said)) => json!({"error": "interrupted", "said": said}),
        Err(CallError::UnknownAgent) => json!({"error": "unknown-agent"}),
        Err(CallError::TooLarge) => json!({"error": "too-large"}),
        Err(CallError::Deadline) => json!({"error": "deadline"}),
        Err(CallError::Other(why)) => json!({"error": "other", "why": why}),
    }
}

fn tell(line: &Value) -> Result<(), AgentError> {
    Ok(reply::say(&format!("{line}\n"))?)
}

#[derive(Default)]
struct Performer {
    runs: Vec<Run>,
}

impl Performer {
    fn perform(&mut self, step: Step) -> Result<(), AgentError> {
        match step {
            Step::Say(text) => reply::say(&text)?,
            Step::Call(agent, value) => {
                let options = Options::default();
                tell(&told(agents::call_with(&agent, &body(&value), options)))?;
            }
            Step::CallWithin(agent, value, ms) => {
                let options = Options {
                    timeout_ms: Some(ms),
                };
                tell(&told(agents::call_with(&agent, &body(&value), options)))?;
            }
            Step::Spawn(agent, value) => {
                match agents::spawn_with(&agent, &body(&value), Options::default()) {
                    Ok(run) => self.runs.push(run),
                    Err(error) => tell(&told(Err(error)))?,
                }
            }
            Step::Wait => {
                if !self.runs.is_empty() {
                    tell(&told(self.runs.remove(0).wait()))?;
                }
            }
            Step::Drop => drop(self.runs.remove(0)),
            Step::Who => {
                let info = turn::current();
                tell(&json!({
                    "run": info.run, "turn": info.id, "parent": info.parent,
                    "deadline": info.deadline.is_some(),
                }))?;
            }
            Step::Model(question) => {
                let prompt = Prompt::new().system(&question);
                match model::complete(&prompt.request()) {
                    Ok(answer) => tell(&json!({"model": answer.text}))?,
                    Err(error) => tell(&json!({"error": error.to_string()}))?,
                }
            }
            Step::Sleep(ms) => std::thread::sleep(std::time::Duration::from_millis(ms)),
        }
        Ok(())
    }
}

impl Agent for Caller {
    fn handle(input: TurnInput) -> Result<TurnOutput, AgentError> {
        let mut performer = Performer::default();
        for message in mailbox::pull_all() {
            match &message.body {
                Body::Text(text) => {
                    let nested = input.causes.contains(&Cause::Nested);
                    let word = if nested { "called with" } else { "heard" };
                    reply::say(&format!("{word} {text}"))?;
                }
                Body::Json(script) => {
                    let steps: Vec<Step> = serde_json::from_str(script)
                        .map_err(|error| AgentError::InvalidInput(error.to_string()))?;
                    for step in steps {
                        performer.perform(step)?;
                    }
                }
            }
        }
        // What was not waited for ends with the turn, and not before.
        std::mem::forget(performer.runs);
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Caller);

#[cfg(test)]
mod tests {
    use antiphon_sdk::mailbox::{Body, Sender};
    use antiphon_sdk::testing::Host;

    use super::Caller;

    #[test]
    fn calls_whom_its_message_names() {
        let host = Host::new("caller");
        host.agent_says("echo", "hello");
        let script = r#"[{"call": ["echo", "hello"]}, {"call": ["nobody", "hello"]}]"#;
        host.receive_from(
            Sender::Person("ana".to_owned()),
            Body::Json(script.to_owned()),
        );
        let turn = host.turn::<Caller>();
        let session = format!("{}-called-1", turn.id);
        let reply = format!(r#"{{"reply":"hello","session":"{session}"}}"#);
        assert_eq!(
            turn.said,
            format!("{reply}\n{{\"error\":\"unknown-agent\"}}\n")
        );
        assert_eq!(turn.called[0].to, "echo");
    }
}
