//! The mailbox, the transcript and the context as tools: the model itself decides what it
//! sees.
//!
//! Pulled messages come as the result of a call, so they are the last thing the model has
//! read when it goes on. What it wants to see again in later turns it keeps; the rest is
//! out of its view when the turn ends, and still in the mailbox.

use std::convert::Infallible;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Tool, ToolSet};
use crate::context::{self, Content};
use crate::handoff::{self, Handoff};
use crate::mailbox::{self, Header, Message};
use crate::prompt::envelope::{self, envelope, timestamp};
use crate::transcript::{self, Author, Ending};

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

#[derive(Deserialize, JsonSchema)]
struct Pull {
    /// Take these messages; without it, the oldest.
    ids: Option<Vec<String>>,
    /// Without ids: how many to take. Without it, 10.
    max: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
struct Read {
    /// The message's id.
    id: String,
}

#[derive(Deserialize, JsonSchema)]
struct Search {
    /// What the message contains, in any case. Empty finds all.
    query: String,
    /// The cursor of the page before, to go on.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct History {
    /// The cursor of the page before, to go on.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Timeline {
    /// How much to show, at most 50. Without it, 20.
    max: Option<u32>,
    /// The cursor of the page before, to go further back.
    before: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Kept {
    /// The id of a message, or of something in the context.
    id: String,
}

#[derive(Deserialize, JsonSchema)]
struct Note {
    /// What to remember.
    text: String,
}

/// Characters of a text among others: enough to know what it is about, and a page of them
/// fits into the window of a small model.
const EXCERPT_MAX: usize = 400;

/// What one timeline shows at most, for the same reason.
const TIMELINE_MAX: u32 = 50;

/// `mailbox_list`, `mailbox_pull`, `mailbox_read`, `mailbox_search` and `mailbox_history`.
pub fn mailbox_tools<'a>() -> ToolSet<'a> {
    ToolSet::new()
        .with(Tool::new(
            "mailbox_list",
            "Lists the messages that wait for you, oldest first, without their text. Takes nothing.",
            |_: Nothing| found(list(&mailbox::pending())),
        ))
        .with(Tool::new(
            "mailbox_pull",
            "Takes waiting messages and shows their text. They do not wait any more afterwards.",
            pull,
        ))
        .with(Tool::new(
            "mailbox_read",
            "Shows any message ever sent to you, waiting or not. Takes nothing.",
            |Read { id }: Read| {
                mailbox::read(&id)
                    .map(|message| envelope::message(&message))
                    .ok_or_else(|| format!("no message {id:?}"))
            },
        ))
        .with(Tool::new(
            "mailbox_search",
            "Searches all messages ever sent to you, newest first, 20 at a time. Shows no text: \
             read what looks right.",
            |Search { query, cursor }: Search| {
                let page = mailbox::search(&query, cursor.as_deref());
                let mut text = list(&page.headers);
                if let Some(next) = page.next {
                    text.push_str(&format!("\nMore with cursor {next:?}."));
                }
                found(text)
            },
        ))
        .with(Tool::new(
            "mailbox_history",
            "Shows the messages ever sent to you, newest first, 20 at a time, long ones cut. \
             Takes nothing: those that still wait for you say so.",
            |History { cursor }: History| found(history(cursor.as_deref())),
        ))
}

/// `transcript_timeline`.
pub fn transcript_tools<'a>() -> ToolSet<'a> {
    ToolSet::new().with(Tool::new(
        "transcript_timeline",
        "Shows who said what when in the conversation before this turn, oldest first, long \
         texts cut. Without a cursor it shows the end.",
        |Timeline { max, before }: Timeline| found(timeline(max, before.as_deref())),
    ))
}

/// `handoff_write`.
pub fn handoff_tools<'a>() -> ToolSet<'a> {
    ToolSet::new().with(Tool::new(
        "handoff_write",
        "Leaves a note for yourself, for when you come back after a long time. The newest three \
         are kept.",
        |handoff: Handoff| handoff::write(&handoff).map(|()| "Written.".to_owned()),
    ))
}

/// `context_note`, `context_keep` and `context_drop`.
pub fn context_tools<'a>() -> ToolSet<'a> {
    ToolSet::new()
        .with(Tool::new(
            "context_note",
            "Writes a note that you will see in your next turns.",
            |Note { text }: Note| {
                context::add(&Content::Note(text)).map(|id| format!("Noted as {id}."))
            },
        ))
        .with(Tool::new(
            "context_keep",
            "Keeps a message in view for your next turns, or makes what is in view young again. \
             What is not kept fades from view after some turns.",
            keep,
        ))
        .with(Tool::new(
            "context_drop",
            "Takes something that you need no longer out of view. A message stays in the mailbox.",
            |Kept { id }: Kept| {
                if item_of(&id).is_some_and(|item| context::drop(&item)) {
                    Ok(format!("Dropped {id}."))
                } else {
                    Err(format!("{id:?} is not in view"))
                }
            },
        ))
}

fn found(text: String) -> Result<String, Infallible> {
    Ok(if text.is_empty() {
        "None.".to_owned()
    } else {
        text
    })
}

fn list(headers: &[Header]) -> String {
    let line = |header: &Header| {
        let received_at = timestamp(header.received_at);
        let (kind, name) = sender(header);
        let bytes = header.bytes.to_string();
        let attributes = [
            ("id", &*header.id),
            (kind, name),
            ("received-at", &received_at),
            ("bytes", &bytes),
        ];
        envelope("header", &attributes, "")
    };
    headers.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn history(cursor: Option<&str>) -> String {
    let waiting = mailbox::pending();
    let page = mailbox::search("", cursor);
    let mut lines: Vec<String> = Vec::new();
    for message in page
        .headers
        .iter()
        .filter_map(|header| mailbox::read(&header.id))
    {
        let header = &message.header;
        let received_at = timestamp(header.received_at);
        let (kind, name) = sender(header);
        let mut attributes = vec![
            ("id", &*header.id),
            (kind, name),
            ("received-at", &received_at),
        ];
        if waiting.iter().any(|other| other.id == header.id) {
            attributes.push(("state", "waiting"));
        }
        lines.push(excerpt("message", attributes, message.body.as_text()));
    }
    lines.extend(page.next.map(|next| format!("Older with cursor {next:?}.")));
    lines.join("\n")
}

fn timeline(max: Option<u32>, before: Option<&str>) -> String {
    let page = transcript::window(max.unwrap_or(20).clamp(1, TIMELINE_MAX), before);
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        page.before
            .map(|before| format!("Earlier with before {before:?}.")),
    );
    for item in &page.items {
        let time = timestamp(item.time);
        let kind = match item.author {
            Author::Person(_) => "person",
            Author::Agent(_) => "agent",
        };
        let mut attributes = vec![("at", &*time), (kind, item.author.name())];
        match item.end {
            Some(Ending::Interrupted) => attributes.push(("end", "interrupted")),
            Some(Ending::Failed) => attributes.push(("end", "failed")),
            Some(Ending::Complete) | None => {}
        }
        lines.push(excerpt("said", attributes, &item.text));
    }
    lines.join("\n")
}

/// A text in its envelope, or its beginning, with how long the whole is.
fn excerpt(tag: &str, attributes: Vec<(&str, &str)>, text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(EXCERPT_MAX) else {
        return envelope(tag, &attributes, text);
    };
    let bytes = text.len().to_string();
    let mut attributes = attributes;
    attributes.push(("cut-from-bytes", &bytes));
    envelope(tag, &attributes, &text[..end])
}

fn sender(header: &Header) -> (&'static str, &str) {
    match &header.sender {
        mailbox::Sender::Person(name) => ("person", name),
        mailbox::Sender::Agent(name) => ("agent", name),
    }
}

fn pull(Pull { ids, max }: Pull) -> Result<String, String> {
    let messages = match ids {
        None => mailbox::pull(max.unwrap_or(10)),
        Some(ids) => pull_these(&ids)?,
    };
    found(
        messages
            .iter()
            .map(envelope::message)
            .collect::<Vec<_>>()
            .join("\n"),
    )
    .map_err(|never| match never {})
}

/// Messages are pulled in order of arrival, so those in between are pulled and put back.
fn pull_these(ids: &[String]) -> Result<Vec<Message>, String> {
    let pending = mailbox::pending();
    if let Some(id) = ids
        .iter()
        .find(|id| !pending.iter().any(|header| header.id == **id))
    {
        return Err(format!("no message {id:?} waits"));
    }
    let Some(last) = pending.iter().rposition(|header| ids.contains(&header.id)) else {
        return Ok(Vec::new());
    };
    let count = u32::try_from(last + 1).unwrap_or(u32::MAX);
    let (wanted, others): (Vec<_>, Vec<_>) = mailbox::pull(count)
        .into_iter()
        .partition(|message| ids.contains(&message.header.id));
    for message in others {
        mailbox::leave(&message.header.id);
    }
    Ok(wanted)
}

fn keep(Kept { id }: Kept) -> Result<String, String> {
    if let Some(item) = item_of(&id) {
        context::keep(&item);
    } else if mailbox::read(&id).is_some() {
        context::add(&Content::Message(id.clone())).map_err(|error| error.to_string())?;
    } else {
        return Err(format!("{id:?} is neither a message nor in view"));
    }
    Ok(format!("Kept {id}."))
}

/// The item that the model means: by its own id, or by the id of the message it shows.
fn item_of(id: &str) -> Option<String> {
    let items = context::items();
    let is_message =
        |content: &Content| matches!(content, Content::Message(message) if message == id);
    items
        .iter()
        .find(|item| item.id == id)
        .or_else(|| items.iter().find(|item| is_message(&item.content)))
        .map(|item| item.id.clone())
}
