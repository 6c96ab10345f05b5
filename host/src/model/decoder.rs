//! From the bytes of an answer to its deltas. Pure.
//!
//! Owns when an answer is whole and when it broke off. Whether a fault may be tried
//! again is the caller's: it knows whether anything was handed out.
//!
//! Invariant: how the bytes are cut never changes the deltas. After `Finished` or a
//! fault there is nothing more, and exactly one of the two comes. Text is handed out
//! as it comes; tool calls only whole, when the answer is.
//! Invariant: once the provider said why it stopped, the answer is whole: what is
//! broken after that can only cost the usage.

use std::collections::VecDeque;

use serde_json::Value;

use super::tool_calls::{Piece, ToolCalls};
use super::wire::{self, InChunk, InDelta};
use super::{Delta, Fault, Finish, Usage, sse};

/// A provider's own frame around a piece of text is a few hundred bytes; this is
/// room for one around a piece that is as long as a whole answer may be.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// What the body turned out to be.
enum Body {
    /// Nothing but white space so far.
    Unknown,
    Events(sse::Parser),
    /// One JSON document: the provider does not stream.
    Document(Vec<u8>),
}

pub(super) struct Decoder {
    body: Body,
    answer: Answer,
    answer_bytes_max: usize,
}

/// The answer as far as it is known.
struct Answer {
    ready: VecDeque<Result<Delta, Fault>>,
    tool_calls: ToolCalls,
    finish: Option<Finish>,
    usage: Option<Usage>,
    bytes_left: usize,
    /// Something that is an event came, whatever it held.
    spoken: bool,
    done: bool,
}

impl Decoder {
    pub(super) fn new(answer_bytes_max: usize) -> Self {
        Self {
            body: Body::Unknown,
            answer: Answer {
                ready: VecDeque::new(),
                tool_calls: ToolCalls::default(),
                finish: None,
                usage: None,
                bytes_left: answer_bytes_max,
                spoken: false,
                done: false,
            },
            answer_bytes_max,
        }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        if matches!(self.body, Body::Unknown) {
            // White space in front means nothing in either form.
            bytes = bytes.trim_ascii_start();
            self.body = match bytes.first() {
                None => return,
                Some(b'{') => Body::Document(Vec::new()),
                Some(_) => Body::Events(sse::Parser::new(
                    self.answer_bytes_max.saturating_add(FRAME_BYTES_MAX),
                )),
            };
        }
        if self.answer.done {
            return;
        }
        let answer = &mut self.answer;
        match &mut self.body {
            Body::Events(parser) => {
                if parser.feed(bytes, &mut |data| answer.event(data)).is_err() {
                    answer.fail(Fault::TooLong);
                }
            }
            Body::Document(document) => {
                if document.len() + bytes.len() > self.answer_bytes_max + FRAME_BYTES_MAX {
                    answer.fail(Fault::TooLong);
                } else {
                    document.extend_from_slice(bytes);
                }
            }
            Body::Unknown => {}
        }
    }

    /// The body ended: by itself, or by a fault.
    pub(super) fn end(&mut self, fault: Option<Fault>) {
        let body = std::mem::replace(&mut self.body, Body::Unknown);
        let answer = &mut self.answer;
        match (body, &fault) {
            (Body::Document(document), None) => answer.document(&document),
            (Body::Events(parser), None) => {
                // Some providers leave out the blank line after the last event. Cut
                // JSON is not JSON, so what can be read is whole.
                if let Some(rest) = parser.rest()
                    && (rest.trim() == "[DONE]" || serde_json::from_str::<InChunk>(&rest).is_ok())
                {
                    answer.event(&rest);
                }
                answer.fail(if answer.spoken {
                    Fault::Cut
                } else {
                    Fault::Malformed("the answer is neither events nor JSON".to_owned())
                });
            }
            _ => {}
        }
        answer.fail(fault.unwrap_or(Fault::Cut));
    }

    pub(super) fn pop(&mut self) -> Option<Result<Delta, Fault>> {
        self.answer.ready.pop_front()
    }

    /// Nothing will be added any more.
    pub(super) fn is_done(&self) -> bool {
        self.answer.done
    }
}

impl Answer {
    fn event(&mut self, data: &str) {
        if self.done || data.trim().is_empty() {
            return;
        }
        self.spoken = true;
        if data.trim() == "[DONE]" {
            self.complete();
            return;
        }
        match serde_json::from_str(data) {
            Ok(chunk) => self.chunk(chunk),
            // Only the place: the text would be a piece of somebody's conversation.
            Err(error) => self.fail(Fault::Malformed(format!(
                "an event is not a chunk of a completion: see its column {}",
                error.column()
            ))),
        }
    }

    fn document(&mut self, document: &[u8]) {
        match serde_json::from_slice::<InChunk>(document) {
            Ok(chunk) => {
                let choices = chunk
                    .choices
                    .as_ref()
                    .is_some_and(|choices| !choices.is_empty());
                self.chunk(chunk);
                if choices && !self.done {
                    self.complete();
                }
                self.fail(Fault::Malformed("the JSON holds no choice".to_owned()));
            }
            Err(error) if error.is_eof() => self.fail(Fault::Cut),
            Err(error) => self.fail(Fault::Malformed(format!(
                "the JSON is not a completion: see its line {} column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    fn chunk(&mut self, chunk: InChunk) {
        let error = match chunk.error.filter(|error| !error.is_null()) {
            None if chunk.object == Some(Value::from("error")) => Some(serde_json::json!({
                "message": chunk.message,
                "code": chunk.code,
            })),
            error => error,
        };
        if let Some(error) = error {
            let (status, text) = wire::error_of(&error);
            self.fail(Fault::Reported { status, text });
            return;
        }
        if let Some(usage) = chunk.usage.as_ref().and_then(usage) {
            self.usage = Some(usage);
        }
        // One answer was asked for: others would be a provider's mistake.
        let choices = chunk.choices.unwrap_or_default();
        for choice in choices
            .into_iter()
            .filter(|choice| choice.index.unwrap_or(0) == 0)
        {
            if let Some(delta) = choice.delta.or(choice.message)
                && let Err(fault) = self.delta(delta)
            {
                self.fail(fault);
                return;
            }
            // Some providers write an empty reason into every chunk.
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish = Some(finish(&reason));
            }
        }
    }

    fn delta(&mut self, delta: InDelta) -> Result<(), Fault> {
        let content = delta.content.map(wire::InContent::into_text);
        for text in [content, delta.refusal].into_iter().flatten() {
            self.charge(text.len())?;
            if !text.is_empty() {
                self.ready.push_back(Ok(Delta::Text(text)));
            }
        }
        for fragment in delta.tool_calls.unwrap_or_default() {
            let piece = Piece::new(fragment);
            self.charge(piece.bytes())?;
            self.tool_calls.add(piece)?;
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(Fault::TooLong)?;
        Ok(())
    }

    fn complete(&mut self) {
        self.done = true;
        let tool_calls = match std::mem::take(&mut self.tool_calls).whole() {
            Ok(tool_calls) => tool_calls,
            Err(fault) => return self.ready.push_back(Err(fault)),
        };
        let reason = match self.finish {
            // Some providers say `stop` or nothing when they mean the calls.
            Some(Finish::Stop) | None if !tool_calls.is_empty() => Finish::ToolCalls,
            Some(reason) => reason,
            None => Finish::Other,
        };
        let tool_calls = tool_calls.into_iter().map(Delta::ToolCall);
        let finished = Delta::Finished {
            reason,
            usage: self.usage,
        };
        self.ready.extend(tool_calls.chain([finished]).map(Ok));
    }

    fn fail(&mut self, fault: Fault) {
        if self.done {
            return;
        }
        if self.finish.is_some() {
            self.complete();
        } else {
            self.done = true;
            self.ready.push_back(Err(fault));
        }
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "stop" => Finish::Stop,
        "length" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" => Finish::Filtered,
        _ => Finish::Other,
    }
}

fn usage(usage: &Value) -> Option<Usage> {
    let tokens = |name: &str| usage.get(name).and_then(Value::as_u64);
    match (tokens("prompt_tokens"), tokens("completion_tokens")) {
        (None, None) => None,
        (input, output) => Some(Usage {
            input_tokens: input.unwrap_or(0),
            output_tokens: output.unwrap_or(0),
        }),
    }
}

#[cfg(test)]
mod tests;
