//! Envelopes: how a model is shown a document that somebody else wrote.
//!
//! Invariant: the content of an envelope contains no `<` and no `>`, so whatever was
//! written into it, a model reads it as content and not as the envelope's end.

use std::fmt::Write;

use crate::kernel::{SlotState, Snapshot};
use crate::mailbox::{Message, Sender};

/// `<slot name="analysis" state="idle" written-at="2026-01-01T00:00:00Z">…</slot>`
pub fn slot(name: &str, snapshot: &Snapshot) -> String {
    let written_at = timestamp(snapshot.written_at);
    let attributes = [
        ("name", name),
        ("state", word(&snapshot.state)),
        ("written-at", &written_at),
    ];
    envelope("slot", &attributes, &snapshot.content)
}

/// A slot that has no document yet: `<slot name="analysis" state="locked"></slot>`
pub fn empty_slot(name: &str, state: &SlotState) -> String {
    envelope("slot", &[("name", name), ("state", word(state))], "")
}

fn word(state: &SlotState) -> &'static str {
    match state {
        SlotState::Idle => "idle",
        SlotState::Locked(_) => "locked",
    }
}

/// `<message id="7" person="ana" received-at="2026-01-01T00:00:00Z">…</message>`
pub fn message(message: &Message) -> String {
    let header = &message.header;
    let received_at = timestamp(header.received_at);
    let (kind, name) = match &header.sender {
        Sender::Person(name) => ("person", name),
        Sender::Agent(name) => ("agent", name),
    };
    let attributes = [
        ("id", &*header.id),
        (kind, name),
        ("received-at", &received_at),
    ];
    envelope("message", &attributes, message.body.as_text())
}

/// `<tag name="value">content</tag>`, values and content escaped.
pub fn envelope(tag: &str, attributes: &[(&str, &str)], content: &str) -> String {
    let mut text = format!("<{tag}");
    for (name, value) in attributes {
        // A quote would end the value, a line break would end what reads as one line.
        let value = escape(value)
            .replace('"', "&quot;")
            .replace(['\n', '\r'], " ");
        write!(text, " {name}=\"{value}\"").expect("writing to a String does not fail");
    }
    write!(text, ">{}</{tag}>", escape(content)).expect("writing to a String does not fail");
    text
}

/// `&`, `<` and `>` as XML writes them.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            char => escaped.push(char),
        }
    }
    escaped
}

/// Milliseconds since 1970 UTC as ISO 8601 in UTC, to the second.
pub fn timestamp(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);

    // Days to a civil date in a calendar whose year starts in March, so that the leap day
    // is its last, and whose eras of 400 years all have 146,097 days.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
