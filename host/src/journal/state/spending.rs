//! What was spent, in the fold: by calls under way, by runs, by the session in all and on its newest day.
//!
//! Invariant: the session's total is the sum of what its `returned` entries say, and of what the ends
//! of its turns say beyond that. A day is that of the entry, so it is booked once and never moves.

use serde::{Deserialize, Serialize};

use crate::clock::{Day, Time};
use crate::id::RunId;
use crate::journal::entry::{CallKind, Called, Piece, Price, Usage, estimated_tokens};

use super::State;

/// A call that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// The model that was asked; none for all else.
    pub model: Option<String>,
    price: Price,
    request_bytes: u64,
    /// Of the pieces that came.
    answer_bytes: u64,
}

/// What a call of a model used, as far as anybody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// Nobody was asked.
    Nothing,
    /// A provider was asked and gave no answer. What that costs, it alone knows.
    Asked,
    /// What the provider counted.
    Told {
        input_tokens: u64,
        output_tokens: u64,
    },
    /// It answered, wholly or in part, and did not say, or nobody waited for it: what was sent and
    /// what came are counted instead.
    Estimated,
    /// What an agent used that was called.
    Nested(Usage),
}

impl OpenCall {
    pub(super) fn of(called: &Called) -> Self {
        Self {
            model: match called.call {
                CallKind::Model => Some(called.target.clone()),
                CallKind::Timer | CallKind::Http => None,
            },
            price: called.price,
            request_bytes: called.request_bytes,
            answer_bytes: 0,
        }
    }

    /// What it costs is booked where the agent works.
    pub(super) fn nested() -> Self {
        Self {
            model: None,
            price: Price::default(),
            request_bytes: 0,
            answer_bytes: 0,
        }
    }

    pub(super) fn received(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            let bytes = match piece {
                Piece::Text(text) => text.len(),
                Piece::ToolCall {
                    name, arguments, ..
                } => name.len().saturating_add(arguments.len()),
                Piece::Finished { .. } => 0,
            };
            self.answer_bytes = self.answer_bytes.saturating_add(bytes as u64);
        }
    }

    /// What is to be booked for it, at the price that it was made at.
    pub fn usage(&self, used: Used) -> Usage {
        match used {
            Used::Nothing => Usage::default(),
            Used::Asked => Usage {
                model_calls: 1,
                ..Usage::default()
            },
            Used::Told {
                input_tokens,
                output_tokens,
            } => Usage::of_call(self.price, input_tokens, output_tokens),
            Used::Estimated => Usage {
                estimated_calls: 1,
                ..Usage::of_call(
                    self.price,
                    estimated_tokens(self.request_bytes),
                    estimated_tokens(self.answer_bytes),
                )
            },
            Used::Nested(child) => Usage::of_nested(child),
        }
    }

    /// What is to be booked if its turn ends now, and it was made.
    pub fn cut(&self) -> Usage {
        self.usage(match self.model {
            Some(_) => Used::Estimated,
            None => Used::Nothing,
        })
    }
}

/// What the session spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Since it was opened, or made as a fork.
    pub total: Usage,
    /// The first day on which it used anything.
    pub first_day: Option<Day>,
    /// The newest such day, and what was used on it.
    pub day: Day,
    pub of_day: Usage,
}

impl Spent {
    fn book(&mut self, time: Time, usage: Usage) {
        if usage.is_nothing() {
            return;
        }
        let day = time.day();
        if self.day != day {
            (self.day, self.of_day) = (day, Usage::default());
        }
        self.first_day.get_or_insert(day);
        self.of_day.add(usage);
        self.total.add(usage);
    }
}

impl State {
    /// What was spent so far, calls under way left out.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }

    /// What the run cost in this session so far, with the agents that it called. A run is known for as
    /// long as something in the session belongs to it.
    pub fn run_micros(&self, run: &RunId) -> u64 {
        self.runs.get(run).map_or(0, |run| run.spent_micros)
    }

    /// What the run may cost in this session, if its caller said so: what it had left, beside what the
    /// run had cost here by then.
    pub fn run_micros_max(&self, run: &RunId) -> Option<u64> {
        self.runs.get(run)?.micros_max
    }

    /// A caller of the run has so much left for it. The newest one knows best.
    pub(super) fn has_left(&mut self, run: &RunId, left_micros: Option<u64>) {
        if let (Some(run), Some(left)) = (self.runs.get_mut(run), left_micros) {
            run.micros_max = Some(run.spent_micros.saturating_add(left));
        }
    }

    pub(super) fn book(&mut self, time: Time, run: &RunId, usage: Usage) {
        self.spent.book(time, usage);
        if let Some(run) = self.runs.get_mut(run) {
            run.spent_micros = run.spent_micros.saturating_add(usage.spent_micros());
        }
    }

    /// What was spent so far was another session's.
    pub(super) fn spent_nothing(&mut self) {
        self.spent = Spent::default();
        self.runs.values_mut().for_each(|run| run.spent_micros = 0);
    }
}
