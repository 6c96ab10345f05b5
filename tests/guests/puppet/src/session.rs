//! Steps that use what the session holds.

use std::time::Duration;

use antiphon_sdk::context::{self, Content};
use antiphon_sdk::kernel::{self, CommitError, LockError, SlotLock, SlotState};
use antiphon_sdk::mailbox::{self, Body, Message};
use antiphon_sdk::model::ToolCall;
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::transcript::Ending;
use antiphon_sdk::{AgentError, TurnOutput, model, reply, transcript, turn};
use serde::Deserialize;
use serde_json::json;

use crate::tell;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Say(String),
    /// Say so many bytes in one call.
    SayBytes(usize),
    Lock(String),
    /// Slot and text.
    Commit(String, String),
    Release(String),
    Read(String),
    /// Read it so many times, and tell nothing.
    Reads(String, u32),
    State(String),
    Names,
    /// Put this message back.
    Leave,
    /// Take what came meanwhile, and say that it was heard.
    Pull,
    /// Agent and text.
    Send(String, String),
    Search(String),
    Transcript(u32),
    /// Read so many items, and tell only how many came.
    Window(u32),
    /// Tell the system text that came with the request.
    Instructions,
    /// Tell the tools that came with it.
    Tools,
    /// Ask the caller to call these, each with these arguments, and tell why not if so.
    CallTools(Vec<(String, String)>),
    Note(String),
    View,
    /// Ask, and tell the answer when it is whole.
    Model(String),
    /// The model's name and the question.
    ModelNamed(String, String),
    /// Ask so often, and say nothing.
    Models(u32),
    /// Ask; an answer of so many seconds will do.
    ModelCached(String, u32),
    /// Ask with the transcript before it, and say the answer while it arrives.
    Relay(String),
    Work(Work),
    WakeIn(u64),
}

/// What a turn of work does: take a slot's lock if it is free, say the answer to a question
/// while it arrives, whole or broken off, commit a document, and say what became of that.
#[derive(Deserialize)]
pub(crate) struct Work {
    slot: String,
    question: String,
    document: String,
    /// How often the document is in itself: long ones need no long message.
    times: usize,
}

#[derive(Default)]
pub(crate) struct Performer {
    locks: Vec<(String, SlotLock)>,
    wake_in: Option<Duration>,
}

impl Performer {
    pub(crate) fn output(self) -> TurnOutput {
        self.wake_in
            .map_or_else(TurnOutput::default, TurnOutput::wake_in)
    }

    fn held(&mut self, name: &str) -> Option<SlotLock> {
        let at = self.locks.iter().position(|(held, _)| held == name)?;
        Some(self.locks.remove(at).1)
    }

    pub(crate) fn perform(&mut self, step: Step, message: &Message) -> Result<(), AgentError> {
        match step {
            Step::Say(text) => reply::say(&text)?,
            Step::SayBytes(bytes) => reply::say(&"x".repeat(bytes))?,
            Step::Lock(name) => match kernel::lock(&name) {
                Ok(lock) => self.locks.push((name, lock)),
                Err(error) => tell(&json!({"lock": error.to_string()}))?,
            },
            Step::Commit(name, text) => {
                let lock = match self.held(&name) {
                    Some(lock) => lock,
                    None => kernel::lock(&name)?,
                };
                lock.commit(&text)?;
            }
            Step::Release(name) => {
                if let Some(lock) = self.held(&name) {
                    lock.release();
                }
            }
            Step::Read(name) => {
                let slot = kernel::read(&name);
                let slot =
                    slot.map(|slot| json!({"content": slot.content, "state": word(&slot.state)}));
                tell(&json!({"read": slot}))?;
            }
            Step::Reads(name, times) => (0..times).for_each(|_| {
                kernel::read(&name);
            }),
            Step::State(name) => tell(&json!({"state": word(&kernel::state(&name))}))?,
            Step::Names => tell(&json!({"names": kernel::names()}))?,
            Step::Leave => {
                mailbox::leave(&message.header.id);
            }
            Step::Pull => {
                for message in mailbox::pull_all() {
                    if let Body::Text(text) = &message.body {
                        reply::say(&format!("heard {text}\n"))?;
                    }
                }
            }
            Step::Send(to, text) => {
                if let Err(error) = mailbox::send(&to, &Body::Text(text)) {
                    tell(&json!({"send": error.to_string()}))?;
                }
            }
            Step::Search(query) => {
                tell(&json!({"found": mailbox::search(&query, None).headers.len()}))?;
            }
            Step::Transcript(items_max) => {
                let page = transcript::window(items_max, None);
                let items: Vec<_> = page.items.iter().map(line).collect();
                tell(&json!({"transcript": items}))?;
            }
            Step::Window(items_max) => {
                let page = transcript::window(items_max, None);
                tell(&json!({"window": page.items.len()}))?;
            }
            Step::Instructions => tell(&json!({"instructions": turn::current().instructions}))?,
            Step::Tools => {
                let tools = turn::tools();
                let tools = tools
                    .iter()
                    .map(|it| [&it.name, &it.description, &it.parameters]);
                tell(&json!({"tools": tools.collect::<Vec<_>>()}))?;
            }
            Step::CallTools(calls) => {
                let calls = calls.into_iter().enumerate();
                let calls = calls.map(|(at, (name, arguments))| ToolCall {
                    id: format!("call-{at}"),
                    name,
                    arguments,
                });
                if let Err(error) = reply::call_tools(&calls.collect::<Vec<_>>()) {
                    tell(&json!({"call_tools": error.to_string()}))?;
                }
            }
            Step::Note(text) => {
                context::add(&Content::Note(text))?;
            }
            Step::View => tell(&json!({"view": context::items().len()}))?,
            Step::Model(question) => ask(None, question, None)?,
            Step::Models(times) => {
                let request = model::Request::new(vec![model::Message::user("q")]);
                for _ in 0..times {
                    model::complete(&request)
                        .map_err(|error| AgentError::other(model::in_words(&error)))?;
                }
            }
            Step::ModelNamed(name, question) => ask(Some(name), question, None)?,
            Step::ModelCached(question, seconds) => ask(None, question, Some(seconds))?,
            Step::Relay(question) => {
                model::relay(&Prompt::new().transcript(100).task(question).request())?;
            }
            Step::Work(work) => work.perform()?,
            Step::WakeIn(ms) => self.wake_in = Some(Duration::from_millis(ms)),
        }
        Ok(())
    }
}

impl Work {
    fn perform(self) -> Result<(), AgentError> {
        let lock = kernel::lock(&self.slot);
        let request = Prompt::new().transcript(100).task(self.question).request();
        match model::relay(&request) {
            Ok(_) | Err(model::ModelError::Interrupted(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let committed = match lock {
            Err(LockError::Held(_)) => "[held]",
            Err(error) => return Err(error.into()),
            Ok(lock) => match lock.commit(&self.document.repeat(self.times)) {
                Ok(_) => "[committed]",
                Err(CommitError::Lost) => "[lost]",
                Err(error) => return Err(error.into()),
            },
        };
        Ok(reply::say(committed)?)
    }
}

fn word(state: &SlotState) -> &'static str {
    match state {
        SlotState::Idle => "idle",
        SlotState::Locked(_) => "locked",
    }
}

/// One item of the transcript: `ana: hello`, or `puppet (interrupted): hel`.
fn line(item: &transcript::Item) -> String {
    let end = match item.end {
        None => "",
        Some(Ending::Complete) => " (complete)",
        Some(Ending::Interrupted) => " (interrupted)",
        Some(Ending::Failed) => " (failed)",
    };
    format!("{}{end}: {}", item.author.name(), item.text)
}

fn ask(name: Option<String>, question: String, cache: Option<u32>) -> Result<(), AgentError> {
    use model::ModelError;
    let mut request = model::Request::new(vec![model::Message::user(question)]);
    (request.model, request.cache) = (name, cache);
    let error = match model::complete(&request) {
        Ok(completion) => return tell(&json!({"model": completion.text})),
        Err(error) => error,
    };
    let word = match &error {
        ModelError::Refused(_) => "refused",
        ModelError::OverBudget => "over-budget",
        ModelError::Deadline => "deadline",
        ModelError::CircuitOpen => "circuit-open",
        ModelError::Interrupted(partial) => {
            return tell(&json!({"error": "interrupted", "partial": partial}));
        }
        ModelError::Provider(provider) => {
            return tell(&json!({"error": "provider", "status": provider.status}));
        }
        ModelError::Other(_) => "other",
    };
    tell(&json!({"error": word}))
}
