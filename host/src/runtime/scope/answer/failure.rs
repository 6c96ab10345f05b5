//! Why a guest has no whole answer, in its own words.

use crate::journal::entry::CallResult;

use super::Stop;

/// Why there is no (whole) answer: from the entry, so the same in every run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum NoAnswer {
    Refused(String),
    OverBudget,
    Deadline,
    CircuitOpen,
    /// The text of the call up to where it broke off.
    Interrupted(String),
    Provider {
        status: u16,
        text: String,
    },
    Other(String),
}

/// Why a step of an answer failed: for the guest, or for the whole instance.
pub(in crate::runtime) enum Failed {
    Guest(NoAnswer),
    Stop(Stop),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// What the guest is told, from the entry and the text that it names no second time.
pub(super) fn no_answer(result: CallResult, text: &str) -> NoAnswer {
    let CallResult::Failed {
        error,
        status,
        detail,
    } = result
    else {
        return NoAnswer::Other("the call was given up".to_owned());
    };
    match error.as_str() {
        "refused" => NoAnswer::Refused(detail),
        "over-budget" => NoAnswer::OverBudget,
        "deadline" => NoAnswer::Deadline,
        "circuit-open" => NoAnswer::CircuitOpen,
        "interrupted" => NoAnswer::Interrupted(text.to_owned()),
        "provider" => NoAnswer::Provider {
            status,
            text: detail,
        },
        _ => NoAnswer::Other(detail),
    }
}
