//! Where the time of a turn goes. Each stage has a histogram, always on, and a span, which costs a look at one number until
//! somebody listens: `ANTIPHON_LOG=antiphon::stage=trace` has a line in the log for each stage of each turn.
//!
//! Invariant: a stage that is given up is no observation; its span ends all the same.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::{Histogram, describe_histogram, histogram};
use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span};

use crate::id::TurnId;

/// What the spans go by in a filter of the log.
const TARGET: &str = "antiphon::stage";

const SECONDS: &str = "antiphon_stage_seconds";

/// Found once: finding a metric by its name costs more than counting. In the order of [`Stage`].
static HISTOGRAMS: OnceLock<[Histogram; Stage::ALL.len()]> = OnceLock::new();

/// Once there is somebody who records; until then nothing is counted.
pub(super) fn describe() {
    describe_histogram!(SECONDS, "Time of the stages of a turn");
    HISTOGRAMS.get_or_init(|| Stage::ALL.map(|it| histogram!(SECONDS, "stage" => it.name())));
}

/// Parts of a turn's time, in the order in which they pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head to its answer's, all others included.
    Http,
    /// Bringing a session into memory: its snapshot, and the entries after it.
    Wake,
    /// From `turn-started` until the instance may run: waiting for a place, loading the component.
    Admission,
    /// For a turn that is taken up again: from the moment its attempt is durable until it does
    /// something new.
    Replay,
    /// A fresh store and instance.
    Instantiate,
    /// The guest with its host calls.
    Guest,
    /// One decision under a session's lock, with the entries that follow from it: folded, numbered, encoded.
    Append,
    /// From handing entries to the store until they are on disk.
    Flush,
    /// From the newest entries being on disk until an answer that waited for them is made.
    Answer,
}

impl Stage {
    const ALL: [Self; 9] = [
        Self::Http,
        Self::Wake,
        Self::Admission,
        Self::Replay,
        Self::Instantiate,
        Self::Guest,
        Self::Append,
        Self::Flush,
        Self::Answer,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Wake => "wake",
            Self::Admission => "admission",
            Self::Replay => "replay",
            Self::Instantiate => "instantiate",
            Self::Guest => "guest",
            Self::Append => "append",
            Self::Flush => "flush",
            Self::Answer => "answer",
        }
    }

    /// The stage took from `start` until now. It went through several hands, and has no span.
    pub fn took(self, start: Instant) {
        if let Some(histograms) = HISTOGRAMS.get() {
            histograms[self as usize].record(start.elapsed().as_secs_f64());
        }
    }

    /// The stage begins now. Its span is within that of whoever says so.
    pub fn begin(self) -> Passing {
        Passing {
            stage: self,
            start: Instant::now(),
            span: tracing::trace_span!(target: TARGET, "stage", stage = self.name()),
        }
    }

    /// The stage is this work. What of its time was spent working and what waiting, its span knows.
    pub async fn of<F: Future>(self, work: F) -> F::Output {
        let passing = self.begin();
        let output = work.instrument(passing.span.clone()).await;
        passing.is_over();
        output
    }
}

/// A stage that is under way.
#[derive(Debug)]
#[must_use = "a stage that nobody ends is given up"]
pub struct Passing {
    stage: Stage,
    start: Instant,
    span: Span,
}

impl Passing {
    pub fn is_over(self) {
        self.stage.took(self.start);
    }
}

/// The span of a turn, which those of its stages are within.
pub fn turn<F: Future>(turn: &TurnId, work: F) -> Instrumented<F> {
    work.instrument(tracing::trace_span!(target: TARGET, "turn", %turn))
}

/// A guest called the host: a line for whoever listens to the stages of turns.
pub fn called() {
    tracing::trace!(target: TARGET, "call");
}
