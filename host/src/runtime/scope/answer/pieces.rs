//! Pieces of answers, as entries hold them.

use crate::journal::entry::{Piece, Usage};
use crate::model::Delta;

/// The pieces as entries hold them: neighbouring texts are one. Of an answer that another call got, the end
/// says that none was made.
pub(super) fn joined(deltas: &[Delta], is_cached: bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for delta in deltas {
        match (delta, pieces.last_mut()) {
            (Delta::Text(more), Some(Piece::Text(text))) => text.push_str(more),
            (Delta::Text(text), _) => pieces.push(Piece::Text(text.clone())),
            (Delta::ToolCall(call), _) => pieces.push(Piece::ToolCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            }),
            (Delta::Finished { reason, usage }, _) => pieces.push(Piece::Finished {
                reason: reason.name().into(),
                usage: usage.map(|usage| Usage {
                    model_calls: u64::from(!is_cached),
                    input_tokens: usage.input_tokens,
                    output_tokens: usage.output_tokens,
                    ..Usage::default()
                }),
            }),
        }
    }
    pieces
}

pub(super) fn delta_bytes(delta: &Delta) -> usize {
    match delta {
        Delta::Text(text) => text.len(),
        Delta::ToolCall(call) => call.name.len() + call.arguments.len(),
        Delta::Finished { .. } => 0,
    }
}
