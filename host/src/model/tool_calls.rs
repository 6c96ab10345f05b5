//! Tool calls out of the pieces they arrive in. Pure.
//!
//! Owns which call a piece belongs to. The protocol says it by an index that some
//! providers leave out or always write as 0, so ids and names count too. Tested with
//! whole streams in `decoder/tests.rs`.
//!
//! Invariant: a piece that could belong to nothing is a fault, never a guess: given to
//! the wrong call, it would make a call that no model made.

use serde_json::Value;

use super::wire::InFragment;
use super::{Fault, ToolCall};

/// As many as providers allow tools in a request.
pub(super) const TOOL_CALLS_MAX: usize = 128;

/// A piece as the provider sent it; what it left out is empty.
pub(super) struct Piece {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Piece {
    pub(super) fn new(fragment: InFragment) -> Self {
        let function = fragment.function.unwrap_or_default();
        Self {
            index: fragment.index,
            id: fragment.id.unwrap_or_default(),
            name: function.name.unwrap_or_default(),
            arguments: match function.arguments {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text,
                Some(other) => other.to_string(),
            },
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.id.len() + self.name.len() + self.arguments.len()
    }
}

struct OpenCall {
    index: Option<u64>,
    call: ToolCall,
}

/// The calls of one answer, in the order they began.
#[derive(Default)]
pub(super) struct ToolCalls(Vec<OpenCall>);

impl ToolCalls {
    pub(super) fn add(&mut self, piece: Piece) -> Result<(), Fault> {
        if let Some(place) = self.place(&piece) {
            let call = &mut self.0[place].call;
            call.arguments.push_str(&piece.arguments);
            if call.name.is_empty() {
                call.name = piece.name;
            }
            if call.id.is_empty() {
                call.id = piece.id;
            }
            return Ok(());
        }
        if piece.index.is_none() && piece.id.is_empty() && piece.name.is_empty() {
            return if piece.arguments.trim().is_empty() {
                Ok(())
            } else {
                Err(Fault::Malformed(
                    "a piece of a tool call belongs to no call".to_owned(),
                ))
            };
        }
        if self.0.len() == TOOL_CALLS_MAX {
            return Err(Fault::Malformed(format!(
                "more than {TOOL_CALLS_MAX} tool calls"
            )));
        }
        self.0.push(OpenCall {
            index: piece.index,
            call: ToolCall {
                id: piece.id,
                name: piece.name,
                arguments: piece.arguments,
            },
        });
        Ok(())
    }

    /// The open call that a piece continues; none if the piece opens one.
    fn place(&self, piece: &Piece) -> Option<usize> {
        let last = self.0.len().checked_sub(1);
        if piece.index.is_some() {
            return self
                .0
                .iter()
                .rposition(|open| open.index == piece.index)
                .filter(|place| !opens_another(piece, &self.0[*place].call));
        }
        if !piece.id.is_empty() {
            return self
                .0
                .iter()
                .rposition(|open| open.call.id == piece.id)
                .or(last.filter(|_| piece.name.is_empty()));
        }
        // Without index and id, pieces come in order: they belong to the last call
        // until its arguments are whole, unless they name another tool.
        last.filter(|place| {
            let call = &self.0[*place].call;
            (piece.name.is_empty() || piece.name == call.name) && !is_whole(&call.arguments)
        })
    }

    /// All of them, once the answer is complete.
    pub(super) fn whole(self) -> Result<Vec<ToolCall>, Fault> {
        self.0
            .into_iter()
            .enumerate()
            .map(|(place, OpenCall { mut call, .. })| {
                if call.name.is_empty() {
                    return Err(Fault::Malformed("a tool call names no tool".to_owned()));
                }
                // The guest's answer to the call needs an id to name.
                if call.id.is_empty() {
                    call.id = format!("call-{place}");
                }
                // What a call without arguments becomes on the way, never what a model wrote.
                if call.arguments.is_empty() {
                    call.arguments.push_str("{}");
                }
                Ok(call)
            })
            .collect()
    }
}

/// A new id with a name is a new call, whatever the index: some providers number every
/// call 0. A new id alone is not: some invent one for each piece.
fn opens_another(piece: &Piece, call: &ToolCall) -> bool {
    !piece.name.is_empty() && !piece.id.is_empty() && !call.id.is_empty() && piece.id != call.id
}

/// Arguments are an object. The look at the last byte keeps this from being quadratic.
fn is_whole(arguments: &str) -> bool {
    arguments.trim_end().ends_with('}')
        && serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok()
}
