//! The built-in provider: answers without network, key or model.
//!
//! Owns what a host says that has no model configured: enough to see an agent work,
//! and never to be mistaken for a model. It quotes what it was told and what its
//! instructions are, and calls offered tools the way a model would begin to: it
//! empties a mailbox, once, and says what it found.
//!
//! Invariant: the same request gets the same answer. After a tool answered there is
//! only text, also when a tool is `required`, so that no loop over tools is endless.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Delta, Finish, Message, Request, Tool, ToolCall, ToolChoice, Usage};

/// A quotation is for recognising what was meant, not for reading it again.
const QUOTE_CHARS_MAX: usize = 160;

/// More quotations than this are counted instead.
const QUOTES_MAX: usize = 5;

#[derive(Debug)]
pub(super) struct Incoming {
    deltas: VecDeque<Delta>,
    token: Duration,
}

impl Incoming {
    pub(super) fn new(request: &Request, token_ms: u64) -> Self {
        Self {
            deltas: answer(request),
            token: Duration::from_millis(token_ms),
        }
    }

    pub(super) async fn next(&mut self) -> Delta {
        if !self.token.is_zero() {
            tokio::time::sleep(self.token).await;
        }
        self.deltas
            .pop_front()
            .expect("nobody asks for more after `Finished`, which is the last delta")
    }
}

fn answer(request: &Request) -> VecDeque<Delta> {
    let input = request.messages.iter().map(words).sum();
    let (mut deltas, mut reason, output);
    if let Some(call) = tool_call(request) {
        output = count(&call.arguments) + 1;
        deltas = VecDeque::from([Delta::ToolCall(call)]);
        reason = Finish::ToolCalls;
    } else {
        let text = text(request);
        let tokens_max = request
            .parameters
            .max_tokens
            .map_or(usize::MAX, |max| max as usize);
        deltas = text
            .split_inclusive(' ')
            .take(tokens_max)
            .map(|token| Delta::Text(token.to_owned()))
            .collect();
        reason = Finish::Stop;
        if text.split_inclusive(' ').count() > tokens_max {
            reason = Finish::Length;
        }
        output = deltas.len() as u64;
    }
    deltas.push_back(Delta::Finished {
        reason,
        usage: Some(Usage {
            input_tokens: input,
            output_tokens: output,
        }),
    });
    deltas
}

fn count(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn words(message: &Message) -> u64 {
    match message {
        Message::System(text) | Message::User { text, .. } | Message::Tool { text, .. } => {
            count(text)
        }
        Message::Assistant { text, tool_calls } => {
            let calls: u64 = tool_calls
                .iter()
                .map(|call| count(&call.arguments) + 1)
                .sum();
            text.as_deref().map_or(0, count) + calls
        }
    }
}

/// What was said since the last answer in words: the part that wants an answer now.
fn news(messages: &[Message]) -> &[Message] {
    let answered = messages.iter().rposition(
        |message| matches!(message, Message::Assistant { tool_calls, .. } if tool_calls.is_empty()),
    );
    &messages[answered.map_or(0, |place| place + 1)..]
}

fn tool_call(request: &Request) -> Option<ToolCall> {
    let has_answer = news(&request.messages)
        .iter()
        .any(|message| matches!(message, Message::Tool { .. }));
    if has_answer {
        return None;
    }
    let called = |word: &str| request.tools.iter().find(|tool| tool.name.contains(word));
    let tool = match &request.tool_choice {
        Some(ToolChoice::Never) => None,
        Some(ToolChoice::Named(name)) => request.tools.iter().find(|tool| tool.name == *name),
        choice => called("pull")
            .or_else(|| called("list"))
            .or_else(|| called("pending"))
            .or_else(|| {
                request
                    .tools
                    .first()
                    .filter(|_| *choice == Some(ToolChoice::Required))
            }),
    }?;
    let earlier: usize = request
        .messages
        .iter()
        .map(|message| match message {
            Message::Assistant { tool_calls, .. } => tool_calls.len(),
            _ => 0,
        })
        .sum();
    Some(ToolCall {
        id: format!("offline-{}", earlier + 1),
        name: tool.name.clone(),
        arguments: arguments(tool, &said(&request.messages)).to_string(),
    })
}

/// Arguments that the tool's schema allows: what it requires, and how many it may bring.
fn arguments(tool: &Tool, said: &[&str]) -> Value {
    let schema: Value = serde_json::from_str(&tool.parameters).unwrap_or_default();
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|required| required == name))
    };
    let mut arguments = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !required(name) && !["max", "limit", "count"].contains(&name.as_str()) {
            continue;
        }
        let kind = match &property["type"] {
            Value::Array(kinds) => kinds.first().and_then(Value::as_str),
            kind => kind.as_str(),
        };
        let value = match (property["enum"].get(0), kind) {
            (Some(first), _) => first.clone(),
            (None, Some("integer" | "number")) => {
                let bound = |name: &str| property[name].as_i64();
                json!(
                    10.min(bound("maximum").unwrap_or(10))
                        .max(bound("minimum").unwrap_or(0))
                )
            }
            (None, Some("boolean")) => json!(false),
            (None, Some("array")) => json!([]),
            (None, Some("object")) => json!({}),
            (None, Some("null")) => Value::Null,
            (None, _) => json!(condensed(said.last().copied().unwrap_or_default())),
        };
        arguments.insert(name.clone(), value);
    }
    Value::Object(arguments)
}

/// What people said since the last answer.
fn said(messages: &[Message]) -> Vec<&str> {
    news(messages)
        .iter()
        .filter_map(|message| match message {
            Message::User { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn text(request: &Request) -> String {
    let mut sentences = vec!["(offline model)".to_owned()];
    let said = said(&request.messages);
    let (tools, found) = found(&request.messages);
    let seen: Vec<String> = said.iter().filter_map(|text| slot(text)).collect();
    let said: Vec<String> = said
        .into_iter()
        .filter(|text| slot(text).is_none())
        .map(|text| condensed(inside(text)))
        .filter(|text| !text.is_empty())
        .collect();
    if !said.is_empty() {
        sentences.push(format!("You said: {}.", quoted(&said)));
    }
    sentences.extend(seen);
    if tools > 0 {
        sentences.push(if found.is_empty() {
            "The tools brought nothing.".to_owned()
        } else {
            format!("The tools brought: {}.", quoted(&found))
        });
    }
    if sentences.len() == 1 {
        sentences.push("Nobody said anything new.".to_owned());
    }
    let instructions = request
        .messages
        .iter()
        .find_map(|message| match message {
            Message::System(text) => Some(condensed(first_sentence(text))),
            _ => None,
        })
        .filter(|text| !text.is_empty());
    if let Some(instructions) = instructions {
        sentences.push(format!("My task: “{instructions}”"));
    }
    sentences.push("With a real model, I would have an answer.".to_owned());
    sentences.join(" ")
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// What a slot's envelope says, in a sentence; none for any other text.
fn slot(text: &str) -> Option<String> {
    let head = text.trim_start().strip_prefix("<slot ")?;
    let (head, _) = head.split_once('>')?;
    let attribute = |name: &str| {
        let (_, rest) = head.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| condensed(value))
    };
    let name = attribute("name")?;
    let content = condensed(inside(text));
    let written = if content.is_empty() {
        "is empty".to_owned()
    } else {
        format!("says: “{content}”")
    };
    let busy = match attribute("state").as_deref() {
        Some("locked") => ", and somebody is writing it",
        _ => "",
    };
    Some(format!("The slot `{name}` {written}{busy}."))
}

/// The content of an envelope `<name …>content</name>`; other texts as they are.
fn inside(text: &str) -> &str {
    let whole = text.trim();
    if !whole.starts_with('<') || !whole.ends_with('>') {
        return text;
    }
    match (whole.find('>'), whole.rfind("</")) {
        (Some(start), Some(end)) if start < end => &whole[start + 1..end],
        _ => text,
    }
}

/// How many tools answered since the last answer in words, and the texts they brought.
fn found(messages: &[Message]) -> (usize, Vec<String>) {
    let results: Vec<&str> = news(messages)
        .iter()
        .filter_map(|message| match message {
            Message::Tool { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for result in &results {
        match serde_json::from_str::<Value>(result) {
            Ok(value) if value.is_array() || value.is_object() => collect(&value, &mut found),
            Ok(Value::String(text)) => found.push(condensed(&text)),
            _ => found.push(condensed(result)),
        }
    }
    found.retain(|text| !text.is_empty());
    (results.len(), found)
}

/// The texts in a tool's JSON: the messages of a mailbox and what is shaped like them.
/// The depth is bounded by that of the parser.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::String(text) => found.push(condensed(text)),
                    item => collect(item, found),
                }
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if ["body", "content", "text"].contains(&name.as_str()) => {
                        found.push(condensed(text));
                    }
                    member => collect(member, found),
                }
            }
        }
        _ => {}
    }
}

fn quoted(texts: &[String]) -> String {
    let mut quotes: Vec<String> = texts
        .iter()
        .take(QUOTES_MAX)
        .map(|text| format!("“{text}”"))
        .collect();
    if texts.len() > QUOTES_MAX {
        quotes.push(format!("{} more", texts.len() - QUOTES_MAX));
    }
    let last = quotes.pop().unwrap_or_default();
    if quotes.is_empty() {
        last
    } else {
        format!("{} and {last}", quotes.join(", "))
    }
}

/// On one line, and short.
fn condensed(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTE_CHARS_MAX) {
        None => line,
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
    }
}

#[cfg(test)]
mod tests;
