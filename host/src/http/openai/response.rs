//! PURE: answers of `/v1/responses`, whole and as events.
//!
//! Invariant: the number of an event follows from the entry that it comes from and its place among the events of that
//! entry. So the same message gives the same events with the same numbers, whoever asks, whenever, from wherever.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::clock::Time;
use crate::id::{AgentName, MessageId, Seq};
use crate::journal::entry::ToolCall;
use crate::session::outcome::Standing;

use super::super::sse;
use super::telling::{Status, Step, taken, usage};
use super::wire::Echo;

/// Numbers of events that each entry has: more than come from any.
const NUMBERS_PER_ENTRY: u64 = 1_000;

const PREFIX: &str = "resp_";

/// The message whose answer is meant; none if it is no id of a response.
pub(super) fn message(id: &str) -> Option<MessageId> {
    MessageId::new(id.strip_prefix(PREFIX)?).ok()
}

/// The message in whose answer an item is.
pub(super) fn message_of_item(id: &str) -> Option<MessageId> {
    if let Some(message) = id.strip_prefix("msg_") {
        return MessageId::new(message).ok();
    }
    let id = id.strip_prefix("fc_")?;
    // The id of the call may have anything in it; the one of the message ends with its number.
    let (session, rest) = id.split_once(':')?;
    let (seq, _) = rest.split_once('_')?;
    MessageId::new(&format!("{session}:{seq}")).ok()
}

/// What is asked, as the entry of the message says.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) message: MessageId,
    pub(super) model: AgentName,
    pub(super) received_at: Time,
    pub(super) instructions: Option<String>,
    pub(super) echo: Echo,
}

impl Asked {
    pub(super) fn id(&self) -> String {
        format!("{PREFIX}{}", self.message)
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.message)
    }

    /// As it stands.
    pub(super) fn whole(&self, standing: &Standing) -> Value {
        let status = Status::of(standing);
        let text = taken(standing).map_or("", |taken| taken.reply.as_str());
        // What was said before tools were asked for is whole, whatever became of the turn.
        let has_calls = taken(standing).is_some_and(|taken| !taken.calls.is_empty());
        let said = if has_calls { Status::Completed } else { status };
        let mut output = match text {
            "" => Vec::new(),
            text => vec![self.item(said, Some(text))],
        };
        let calls = taken(standing).into_iter().flat_map(|taken| &taken.calls);
        output.extend(calls.map(|call| self.call(call, true)));
        let error = (status == Status::Failed)
            .then(|| json!({"code": "server_error", "message": why(standing)}));
        let incomplete = (status == Status::Interrupted).then(|| json!({"reason": "interrupted"}));
        json!({
            "id": self.id(),
            "object": "response",
            "created_at": self.received_at.0 / 1_000,
            "status": word(status),
            "background": self.echo.background,
            "error": error,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "max_output_tokens": null,
            "metadata": self.echo.metadata,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": self.echo.previous_response_id,
            "reasoning": {"effort": null, "summary": null},
            "store": self.echo.store,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
            "usage": usage(standing).map(|usage| json!({
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input_tokens + usage.output_tokens,
            })),
        })
    }

    /// An item that asks for the call of a tool. One that has just begun has no arguments yet.
    fn call(&self, call: &ToolCall, is_whole: bool) -> Value {
        let (status, arguments) = match is_whole {
            true => ("completed", call.arguments.as_str()),
            false => ("in_progress", ""),
        };
        json!({
            "id": self.call_item_id(call),
            "type": "function_call",
            "status": status,
            "call_id": call.id,
            "name": call.name,
            "arguments": arguments,
        })
    }

    fn call_item_id(&self, call: &ToolCall) -> String {
        format!("fc_{}_{}", self.message, call.id)
    }

    /// The one item of words, which is the first. Without a text it has just begun.
    fn item(&self, status: Status, text: Option<&str>) -> Value {
        let content: Vec<Value> = text.into_iter().map(part).collect();
        json!({
            "id": self.item_id(),
            "type": "message",
            "status": match status {
                Status::Completed => "completed",
                Status::Queued | Status::InProgress => "in_progress",
                Status::Interrupted | Status::Cancelled | Status::Failed => "incomplete",
            },
            "role": "assistant",
            "content": content,
        })
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::InProgress => "in_progress",
        Status::Completed => "completed",
        Status::Interrupted => "incomplete",
        Status::Cancelled => "cancelled",
        Status::Failed => "failed",
    }
}

/// Why it failed.
fn why(standing: &Standing) -> String {
    let error = taken(standing).and_then(|taken| taken.ended.as_ref()?.error.as_ref());
    match (error, standing) {
        (Some(error), _) => format!("{}: {}", error.code.name(), error.message),
        (None, Standing::SetAside(reason)) => reason.clone(),
        (None, _) => "the turn failed".to_owned(),
    }
}

/// An answer as events, from the entry of its message on.
#[derive(Debug)]
pub(super) struct Events {
    of: Asked,
    /// Events up to this number were told before.
    after: Option<u64>,
    /// What was said so far.
    text: String,
    /// Nothing is said after it.
    has_said: bool,
}

impl Events {
    pub(super) fn new(of: Asked, after: Option<u64>) -> Self {
        Self {
            of,
            after,
            text: String::new(),
            has_said: false,
        }
    }

    /// What the steps of an entry are as events.
    pub(super) fn next(&mut self, seq: Seq, steps: &[Step]) -> Vec<Bytes> {
        let events = steps.iter().flat_map(|step| self.step(step));
        let events: Vec<(&'static str, Value)> = events.collect();
        let numbers = seq.0 * NUMBERS_PER_ENTRY..;
        let numbered = events.into_iter().zip(numbers);
        let told = numbered.filter(|(_, number)| self.after.is_none_or(|after| *number > after));
        told.map(|((kind, mut data), number)| {
            data["type"] = json!(kind);
            data["sequence_number"] = json!(number);
            sse::unnamed(Some(kind), data.to_string().as_bytes())
        })
        .collect()
    }

    fn step(&mut self, step: &Step) -> Vec<(&'static str, Value)> {
        match step {
            Step::Received(_) => {
                let response = self.of.whole(&Standing::Open(None));
                vec![("response.created", json!({"response": response}))]
            }
            Step::Begun => {
                let mut response = self.of.whole(&Standing::Open(None));
                response["status"] = json!(word(Status::InProgress));
                vec![("response.in_progress", json!({"response": response}))]
            }
            Step::Words(text) => self.words(text),
            Step::Calls(calls) => self.calls(calls),
            Step::Over(standing) => self.over(standing),
        }
    }

    fn words(&mut self, text: &str) -> Vec<(&'static str, Value)> {
        let mut events = Vec::new();
        if self.text.is_empty() && !text.is_empty() {
            let item = self.of.item(Status::InProgress, None);
            let added = json!({"output_index": 0, "item": item});
            events.push(("response.output_item.added", added));
            events.push((
                "response.content_part.added",
                self.placed(json!({"part": part("")})),
            ));
        }
        self.text.push_str(text);
        let delta = self.placed(json!({"delta": text, "logprobs": []}));
        events.push(("response.output_text.delta", delta));
        events
    }

    fn over(&mut self, standing: &Standing) -> Vec<(&'static str, Value)> {
        let status = Status::of(standing);
        let mut events = self.said(status);
        let kind = match status {
            Status::Failed => "response.failed",
            // There is no event of its own for one that was cancelled; its status says it.
            Status::Interrupted | Status::Cancelled => "response.incomplete",
            Status::Completed | Status::Queued | Status::InProgress => "response.completed",
        };
        events.push((kind, json!({"response": self.of.whole(standing)})));
        events
    }

    /// The end of the words.
    fn said(&mut self, status: Status) -> Vec<(&'static str, Value)> {
        let mut events = Vec::new();
        if !self.text.is_empty() && !self.has_said {
            self.has_said = true;
            let text = self.placed(json!({"text": self.text, "logprobs": []}));
            events.push(("response.output_text.done", text));
            let part = self.placed(json!({"part": part(&self.text)}));
            events.push(("response.content_part.done", part));
            let item = self.of.item(status, Some(&self.text));
            let done = json!({"output_index": 0, "item": item});
            events.push(("response.output_item.done", done));
        }
        events
    }

    /// Each of the calls, whole.
    fn calls(&mut self, calls: &[ToolCall]) -> Vec<(&'static str, Value)> {
        // What was said is whole, whatever becomes of the turn.
        let mut events = self.said(Status::Completed);
        let first = usize::from(!self.text.is_empty());
        for (at, call) in calls.iter().enumerate() {
            let at = first + at;
            let (begun, whole) = (self.of.call(call, false), self.of.call(call, true));
            let item = self.of.call_item_id(call);
            let arguments = &call.arguments;
            events.extend([
                (
                    "response.output_item.added",
                    json!({"output_index": at, "item": begun}),
                ),
                (
                    "response.function_call_arguments.delta",
                    json!({"item_id": item, "output_index": at, "delta": arguments}),
                ),
                (
                    "response.function_call_arguments.done",
                    json!({"item_id": item, "output_index": at, "name": call.name, "arguments": arguments}),
                ),
                (
                    "response.output_item.done",
                    json!({"output_index": at, "item": whole}),
                ),
            ]);
        }
        events
    }

    /// With the place of the text that it is about.
    fn placed(&self, mut data: Value) -> Value {
        data["item_id"] = json!(self.of.item_id());
        data["output_index"] = json!(0);
        data["content_index"] = json!(0);
        data
    }
}

#[cfg(test)]
mod tests;
