//! Composes what a model is given, from what the session holds.
//!
//! Whatever the order of the calls, a request is laid out from what changes least to what
//! is newest: system text, pinned context, slots, transcript, the rest of the context, an
//! absence, pulled messages, and the task if there is one.
//! Invariant: blocks only follow from what they show, never from the turn (but for an
//! absence, which is why it stands behind all that lasts), so two turns
//! whose sessions differ only at the end have requests that differ only at the end, and a
//! provider's prompt cache serves the rest. For the same reason a pulled message looks
//! here as it will look in the transcript of later turns, unless it is what tools answered.
//! Invariant: documents, notes and letters stand in envelopes that their content cannot
//! close; see [`envelope`].

pub mod envelope;
mod view;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::mailbox::{self, Sender, ToolResult};
use crate::model::{
    AssistantMessage, Message, Parameters, Request, ToolCall, ToolMessage, UserMessage,
};
use crate::transcript::{self, Author};
use crate::{context, handoff, kernel, turn};

/// Where the host writes what the configuration's `inject` names.
const INJECT: &str = "ANTIPHON_INJECT";

/// A model request in the making.
///
/// ```
/// # use antiphon_sdk::{mailbox, prompt::Prompt, testing::{Answer, Host}};
/// # let host = Host::new("guide");
/// # host.receive("ana", "Where is the museum?");
/// # host.turn_with(|_| {
/// let request = Prompt::new()
///     .system("You guide visitors through Lisbon.")
///     .slot("itinerary")
///     .transcript(50)
///     .messages(&mailbox::pull_all())
///     .request();
/// assert_eq!(request.messages.len(), 3);
/// # Ok(Default::default())
/// # }).output();
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Prompt {
    model: Option<String>,
    parameters: Parameters,
    system: Vec<String>,
    pinned: Vec<String>,
    slots: Vec<String>,
    transcript: Vec<Line>,
    in_view: Vec<String>,
    absence: Vec<String>,
    pulled: Vec<Pulled>,
    task: Option<String>,
}

/// A message of this turn.
#[derive(Clone, Debug)]
enum Pulled {
    Line(Line),
    Result(ToolResult),
}

impl Pulled {
    fn speaker(&self) -> Option<&String> {
        match self {
            Self::Line(line) => line.speaker.as_ref(),
            Self::Result(_) => None,
        }
    }
}

/// Something said: by somebody, or by this agent if there is no speaker.
#[derive(Clone, Debug)]
struct Line {
    speaker: Option<String>,
    text: String,
}

impl Prompt {
    /// Nothing, to the agent's first model.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask this one of the agent's configured models.
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.model = Some(name.into());
        self
    }

    /// Temperature and the like.
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// Text of the agent's author, before everything else.
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.system.push(text.into());
        self
    }

    /// The system text that came with the request, if any.
    pub fn instructions(mut self) -> Self {
        self.system.extend(turn::current().instructions);
        self
    }

    /// All items of the context but handoffs: pinned ones near the front, the others near
    /// the end. Each carries the id by which a model can keep or drop it.
    pub fn context(mut self) -> Self {
        for (pinned, text) in view::render(&context::items()) {
            if pinned {
                self.pinned.push(text)
            } else {
                self.in_view.push(text)
            }
        }
        self
    }

    /// A slot's document and state in an envelope; also of a slot without a document, so
    /// that the model sees whether one is on its way.
    pub fn slot(mut self, name: &str) -> Self {
        self.slots.push(match kernel::read(name) {
            Some(snapshot) => envelope::slot(name, &snapshot),
            None => envelope::empty_slot(name, &kernel::state(name)),
        });
        self
    }

    /// The slots that the agent's configuration injects into every turn, in its order: as
    /// [`Prompt::slot`] shows each.
    pub fn injected(self) -> Self {
        let names = std::env::var(INJECT).unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        names.fold(self, Self::slot)
    }

    /// The newest words of the session, at most `items_max` items.
    ///
    /// Of a longer transcript between half of that and all of it is shown. Where it starts
    /// depends on the items and not on their number, and moves only now and then: if it
    /// moved with every turn, no two turns would share a prefix.
    pub fn transcript(mut self, items_max: u32) -> Self {
        let agent = turn::current().agent;
        let items = newest(items_max);
        self.transcript = items
            .into_iter()
            .filter(|item| !item.text.is_empty())
            .map(|item| match item.author {
                Author::Agent(name) if name == agent => Line {
                    speaker: None,
                    text: item.text,
                },
                Author::Person(name) | Author::Agent(name) => Line {
                    speaker: Some(name),
                    text: item.text,
                },
            })
            .collect();
        self
    }

    /// If the agent has said nothing for at least `threshold`: how long it was away, and the
    /// [`handoff`]s it left. Else nothing.
    pub fn absence(mut self, threshold: Duration) -> Self {
        self.absence = handoff::absence(threshold)
            .map(|absence| absence.texts())
            .unwrap_or_default();
        self
    }

    /// Messages that this turn pulled, after everything that was known before. What tools of
    /// the caller's answered stands there as calls of the model with their answers; in later
    /// turns it is a text of the transcript.
    pub fn messages(mut self, messages: &[mailbox::Message]) -> Self {
        for message in messages {
            let (Sender::Person(name) | Sender::Agent(name)) = &message.header.sender;
            let line = |text: &str| {
                Pulled::Line(Line {
                    speaker: Some(name.clone()),
                    text: text.to_owned(),
                })
            };
            match message.tool_results() {
                // A model is told only of calls that have a name.
                Some(it) if it.results.iter().all(|result| result.name.is_some()) => {
                    self.pulled
                        .extend(it.results.into_iter().map(Pulled::Result));
                    self.pulled.extend(it.text.as_deref().map(line));
                }
                _ => self.pulled.push(line(message.body.as_text())),
            }
        }
        self
    }

    /// What the model is to do now, as the very last message: for turns that no message
    /// started. Where messages were pulled they are the task.
    pub fn task(mut self, text: impl Into<String>) -> Self {
        self.task = Some(text.into());
        self
    }

    /// The request, without tools.
    pub fn request(self) -> Request {
        // Names help only where there are several; with one speaker they are noise.
        let speakers: BTreeSet<_> = self
            .transcript
            .iter()
            .filter_map(|line| line.speaker.as_ref())
            .chain(self.pulled.iter().filter_map(Pulled::speaker))
            .collect();
        let named = speakers.len() > 1;
        let say = |line: &Line| match &line.speaker {
            None => Message::assistant(&line.text),
            Some(speaker) => Message::User(UserMessage {
                name: named.then(|| speaker.clone()),
                text: line.text.clone(),
            }),
        };

        let mut messages: Vec<Message> = Vec::new();
        messages.extend(self.system.iter().cloned().map(Message::System));
        messages.extend(self.pinned.iter().chain(&self.slots).map(Message::user));
        messages.extend(self.transcript.iter().map(say));
        messages.extend(self.in_view.iter().map(Message::user));
        messages.extend(self.absence.iter().map(Message::user));
        for pulled in &self.pulled {
            match pulled {
                Pulled::Line(line) => messages.push(say(line)),
                Pulled::Result(result) => answered(&mut messages, result),
            }
        }
        messages.extend(self.task.map(Message::user));
        Request {
            model: self.model,
            parameters: self.parameters,
            ..Request::new(messages)
        }
    }
}

/// The call of a tool of the caller's, and its answer. Calls that were made together stand together.
fn answered(messages: &mut Vec<Message>, result: &ToolResult) {
    let call = ToolCall {
        id: result.id.clone(),
        name: result.name.clone().unwrap_or_default(),
        arguments: result.arguments.clone().unwrap_or_default(),
    };
    let answers = messages.iter().rev();
    let answers = answers
        .take_while(|it| matches!(it, Message::Tool(_)))
        .count();
    let before = messages.len() - answers;
    match messages[..before].last_mut() {
        Some(Message::Assistant(made)) if answers > 0 => made.tool_calls.push(call),
        _ => messages.push(Message::Assistant(AssistantMessage {
            text: None,
            tool_calls: vec![call],
        })),
    }
    messages.push(Message::Tool(ToolMessage {
        call: result.id.clone(),
        text: result.content.clone(),
    }));
}

fn newest(items_max: u32) -> Vec<transcript::Item> {
    let items_max = usize::try_from(items_max).unwrap_or(usize::MAX);
    let mut items: Vec<transcript::Item> = Vec::new();
    let mut cursor = None;
    loop {
        let wanted = u32::try_from(items_max - items.len()).unwrap_or(u32::MAX);
        if wanted == 0 {
            break;
        }
        let page = transcript::window(wanted, cursor.as_deref());
        let empty = page.items.is_empty();
        items.splice(0..0, page.items);
        cursor = page.before;
        if cursor.is_none() || empty {
            break;
        }
    }
    if cursor.is_some() {
        // The item with the smallest hash stays the smallest until the window has moved
        // past it or a still smaller one comes in.
        let start = (0..=items.len() / 2)
            .filter(|index| *index < items.len())
            .min_by_key(|index| fnv(&items[*index].offset));
        items.drain(..start.unwrap_or(0));
    }
    items
}

/// FNV-1a: the same on every machine and in every version, which the hashes of `std` are not.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
