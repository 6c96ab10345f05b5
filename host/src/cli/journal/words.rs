//! PURE: entries in words, as far as one entry says it all.

use antiphon::clock::Time;
use serde_json::Value;

use super::fields::Fields;
use super::open::{Open, since};
use crate::cli::term::{bytes, span, units};

/// `1 message`, `2 messages`.
pub(super) fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// A message's id for people: the seq of its entry, which its last part is.
pub(super) fn message(id: &str) -> String {
    match id.rsplit_once(':') {
        Some((_, seq)) if seq.bytes().all(|byte| byte.is_ascii_digit()) => format!("#{seq}"),
        _ => id.to_owned(),
    }
}

/// `#2 #5`, of so many as a line has room for.
pub(super) fn messages(ids: &[String]) -> String {
    const NAMED_MAX: usize = 8;
    let mut named: Vec<String> = ids.iter().take(NAMED_MAX).map(|id| message(id)).collect();
    if ids.len() > NAMED_MAX {
        named.push(format!("and {} more", ids.len() - NAMED_MAX));
    }
    named.join(" ")
}

/// A message's or a document's body: text as it is, all else as JSON.
pub(super) fn body(fields: &mut Fields) -> String {
    match fields.value("body") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Why a turn started.
pub(super) fn cause(cause: &Value, inputs: usize) -> String {
    match (cause.as_str(), cause["slot"].as_str()) {
        (Some("messages"), _) => count(inputs, "message"),
        (Some("wake"), _) => "woken as it asked".to_owned(),
        (Some(other), _) => other.to_owned(),
        (None, Some(slot)) => format!("slot {slot} was written"),
        (None, None) => cause.to_string(),
    }
}

/// Why something was broken off or made again, of the reasons that have a name.
pub(super) fn reason(reason: &str) -> &str {
    match reason {
        "host-lost" => "the host was lost",
        "host-stopped" => "the host was stopped",
        "answered" => "it was answered",
        other => other,
    }
}

/// Who wrote a slot: `{"agent": …}` or `{"author": …}`.
pub(super) fn writer(fields: &mut Fields) -> String {
    let mut by = fields.inner("by");
    by.text("agent")
        .or_else(|| by.text("author"))
        .unwrap_or_default()
}

/// Tokens of a usage and what they cost, with whatever else it counts.
pub(super) fn usage(usage: &mut Fields) -> Vec<String> {
    let mut parts = Vec::new();
    let input = usage.number("input_tokens").unwrap_or(0);
    let output = usage.number("output_tokens").unwrap_or(0);
    let about = match usage.number("estimated_calls") {
        Some(1..) => "about ",
        _ => "",
    };
    if input > 0 || output > 0 {
        parts.push(format!("{about}{input} tokens in, {output} out"));
    }
    if let Some(cost) = usage.number("cost_micros") {
        parts.push(format!("cost {}", units(cost)));
    }
    if let Some(nested) = usage.number("nested_micros") {
        parts.push(format!("called agents cost {}", units(nested)));
    }
    parts.extend(Some(usage.rest()).filter(|rest| !rest.is_empty()));
    parts
}

/// What a turn saw of the session.
pub(super) fn observed(
    fields: &mut Fields,
    turn: Option<&String>,
    open: &Open,
    time: Option<Time>,
) -> String {
    let call = fields.text("call").unwrap_or_default();
    let slot = fields.text("slot").unwrap_or_default();
    let error = fields.text("error");
    let held = |fields: &mut Fields| {
        let holder = fields.text("holder")?;
        Some(match Some(&holder) == turn {
            true => "itself".to_owned(),
            false => open.name(&holder),
        })
    };
    match call.as_str() {
        "slot-read" => {
            let version = match fields.number("version") {
                Some(version) => format!("version {version}"),
                None => "nothing there".to_owned(),
            };
            match held(fields) {
                Some(holder) => format!("reads slot {slot}: {version}, locked by {holder}"),
                None => format!("reads slot {slot}: {version}"),
            }
        }
        "slot-state" => match held(fields) {
            Some(holder) => format!("looks at slot {slot}: locked by {holder}"),
            None => format!("looks at slot {slot}: idle"),
        },
        "slot-names" => format!("lists the slots: {}", fields.texts("slots").join(", ")),
        "slot-refused" => match held(fields) {
            Some(holder) => {
                let lock = open.locks.get(&slot);
                let long = lock.and_then(|lock| since(lock.since, time));
                let long = long.map_or_else(String::new, |ms| format!(" for {}", span(ms)));
                format!("does not get the lock of {slot}: {holder} has held it{long}")
            }
            None => format!(
                "does not get the lock of {slot}: {}",
                error.unwrap_or_default()
            ),
        },
        "commit-refused" => format!("cannot commit {slot}: {}", error.unwrap_or_default()),
        "mailbox-pending" => match fields.texts("messages").as_slice() {
            [] => "looks into its mailbox: empty".to_owned(),
            ids => format!("looks into its mailbox: {}", messages(ids)),
        },
        "mailbox-pulled" => match fields.texts("messages").as_slice() {
            [] => "pulls: nothing waits".to_owned(),
            ids => format!("pulls {}", messages(ids)),
        },
        "mailbox-left" => {
            let id = fields.text("message").unwrap_or_default();
            format!("puts {} back", message(&id))
        }
        "mailbox-read" => {
            let id = fields.text("message").unwrap_or_default();
            let found = if fields.flag("found") {
                ""
            } else {
                ": not there"
            };
            format!("reads {}{found}", message(&id))
        }
        "mailbox-searched" => {
            // The query is a digest, the cursor a place: they tell replay something.
            fields.ignore(&["query", "next"]);
            match fields.texts("found").as_slice() {
                [] => "searches its mailbox: nothing".to_owned(),
                ids => format!("searches its mailbox: {}", messages(ids)),
            }
        }
        "question-refused" => {
            let detail = fields.text("detail").unwrap_or_default();
            let why = [error.unwrap_or_default(), detail];
            format!("cannot ask people: {}", why.join(" ").trim_end())
        }
        "send-refused" => {
            let to = fields.text("to").unwrap_or_default();
            format!("cannot send to {to}: {}", error.unwrap_or_default())
        }
        "transcript-window" => {
            let items = fields.number("items").unwrap_or(0);
            let range = (fields.number("first"), fields.number("last"));
            let items = count(usize::try_from(items).unwrap_or(usize::MAX), "item");
            match range {
                (Some(first), Some(last)) if items != "0 items" => {
                    format!("reads the transcript: {items}, {first} to {last}")
                }
                _ => format!("reads the transcript: {items}"),
            }
        }
        "budget" => {
            let mut left = Vec::new();
            left.extend(fields.number("wall_ms").map(span));
            left.extend(
                fields
                    .number("host_calls")
                    .map(|calls| format!("{calls} calls")),
            );
            left.extend(
                fields
                    .number("reply_bytes")
                    .map(|reply| format!("{} to say", bytes(reply))),
            );
            format!("asks what is left: {}", left.join(", "))
        }
        _ => call,
    }
}
