//! PURE: answers of `/v1/chat/completions`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::clock::Time;
use crate::id::{AgentName, MessageId};
use crate::journal::entry::{ToolCall, Usage};
use crate::session::outcome::Standing;

use super::super::sse;
use super::telling::{Status, Step, taken, usage};

/// What all parts of one answer have in common.
#[derive(Debug, Clone)]
pub(super) struct Completion {
    pub(super) message: MessageId,
    pub(super) model: AgentName,
    pub(super) received_at: Time,
}

impl Completion {
    fn of(&self, object: &str) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.message),
            "object": object,
            "created": self.received_at.0 / 1_000,
            "model": self.model,
        })
    }

    /// The whole answer, of a turn that was completed or interrupted.
    pub(super) fn whole(&self, standing: &Standing) -> Value {
        let text = taken(standing).map_or("", |taken| taken.reply.as_str());
        let calls = taken(standing).map_or(&[][..], |taken| &taken.calls);
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if !calls.is_empty() {
            message["tool_calls"] = calls.iter().map(tool_call).collect();
            if text.is_empty() {
                message["content"] = Value::Null;
            }
        }
        let mut answer = self.of("chat.completion");
        answer["choices"] = json!([{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish(standing),
        }]);
        answer["usage"] = used(usage(standing).unwrap_or_default());
        answer
    }
}

/// `stop` says that the agent was done. One that somebody stopped was not: `length` is the one word by which clients
/// know that an answer is not whole.
fn finish(standing: &Standing) -> &'static str {
    match Status::of(standing) {
        Status::Interrupted => "length",
        Status::Completed if taken(standing).is_some_and(|taken| !taken.calls.is_empty()) => {
            "tool_calls"
        }
        Status::Completed
        | Status::Queued
        | Status::InProgress
        | Status::Cancelled
        | Status::Failed => "stop",
    }
}

fn tool_call(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    })
}

fn used(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    })
}

/// One answer as chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    of: Completion,
    includes_usage: bool,
}

impl Chunks {
    pub(super) fn new(of: Completion, includes_usage: bool) -> Self {
        Self { of, includes_usage }
    }

    /// It breaks off, and clients must not take what they have for all of it.
    pub(super) fn broken(error: &Value) -> Bytes {
        data(error)
    }

    /// What a step is as chunks. `error` is the answer's if its turn failed.
    pub(super) fn next(&self, step: &Step, error: Option<Value>) -> Vec<Bytes> {
        match step {
            Step::Received(_) => Vec::new(),
            Step::Begun => vec![self.chunk(json!({"role": "assistant", "content": ""}), None)],
            Step::Words(text) => vec![self.chunk(json!({"content": text}), None)],
            Step::Calls(calls) => {
                let calls = calls.iter().enumerate().map(|(index, call)| {
                    let mut call = tool_call(call);
                    call["index"] = json!(index);
                    call
                });
                let calls: Vec<Value> = calls.collect();
                vec![self.chunk(json!({"tool_calls": calls}), None)]
            }
            // No `[DONE]`: it was not.
            Step::Over(_) if error.is_some() => vec![data(&error.unwrap_or_default())],
            Step::Over(standing) => {
                let mut chunks = vec![self.chunk(json!({}), Some(finish(standing)))];
                if self.includes_usage {
                    let mut chunk = self.of.of("chat.completion.chunk");
                    chunk["choices"] = json!([]);
                    chunk["usage"] = used(usage(standing).unwrap_or_default());
                    chunks.push(data(&chunk));
                }
                chunks.push(Bytes::from_static(b"data: [DONE]\n\n"));
                chunks
            }
        }
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> Bytes {
        let mut chunk = self.of.of("chat.completion.chunk");
        chunk["choices"] = json!([{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish,
        }]);
        if self.includes_usage {
            chunk["usage"] = Value::Null;
        }
        data(&chunk)
    }
}

fn data(json: &Value) -> Bytes {
    sse::unnamed(None, json.to_string().as_bytes())
}
