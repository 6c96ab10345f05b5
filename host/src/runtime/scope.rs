//! What one turn's instance may reach: its session's ledger, its models, its log.
//!
//! Every host call goes through [`Scope::append`], the one point at which calls are
//! numbered: `called`, `streamed`, `observed`, `returned`, and the entries of
//! slots and messages. Invariant: what a guest sees of the outside is in the
//! journal before it sees it, so a turn can be run again from its entries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::Time;
use crate::id::{AgentName, Digest, RunId, Seq, SessionId, SlotName, TenantId, TurnId};
use crate::journal::entry::{
    CallKind, CallResult, Called, Observation, Observed, Payload, Piece, Returned, Streamed, Usage,
};
use crate::ledger::{AppendError, Batch, Dead, Ledger};
use crate::logs::{Line, Logs, Source};
use crate::model::Models;
use crate::store::ReadError;

use super::limits::{Cpu, TurnLimits};

/// Bytes of standard error kept for whoever looks at a failed turn.
const STDERR_BYTES_MAX: usize = 4 * 1024;
/// Bytes a turn may print before its output is closed to it.
const PRINTED_BYTES_MAX: u64 = 1024 * 1024;

/// Why an instance cannot go on. Becomes a trap, and the turn's exit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Somebody ended the turn: an interruption, or the session is gone.
    #[error("the turn is over")]
    Over,
    #[error(transparent)]
    Dead(#[from] Dead),
    #[error("the turn used all of its {0}")]
    Limit(&'static str),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Whether an agent watches a slot, as configured now.
pub type Watches = Arc<dyn Fn(&AgentName, &SlotName) -> bool + Send + Sync>;

pub struct Scope {
    pub tenant: TenantId,
    pub session: SessionId,
    pub turn: TurnId,
    pub run: RunId,
    pub parent: Option<TurnId>,
    pub agent: AgentName,
    /// The seq of `turn-started`.
    pub started: Seq,
    pub ledger: Arc<Ledger>,
    pub limits: TurnLimits,
    pub environment: BTreeMap<String, String>,
    pub models: Models,
    /// Names of models the agent may use; the first is its default.
    pub model_names: Vec<String>,
    /// Whether it was granted `reply`: `relay` speaks too.
    pub may_speak: bool,
    pub watches: Watches,
    pub logs: Logs,
    pub clock: TurnClock,
    pub cpu: Cpu,
    pub output: TurnOutput,
    pub calls: AtomicU64,
}

impl Scope {
    /// One more host call, if the turn may.
    pub(super) fn count(&self) -> Result<(), Stop> {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.limits.host_calls_max {
            return Err(Stop::Limit("host calls"));
        }
        Ok(())
    }

    /// Decide and append as one step under the session's lock, as call `n` of the turn.
    /// The turn's clock moves to the newest entry: the answer was given then.
    pub(super) fn append<T>(
        &self,
        decide: impl FnOnce(&mut Batch<'_>, u32) -> T,
    ) -> Result<T, Stop> {
        self.append_at(decide, true)
    }

    fn append_at<T>(
        &self,
        decide: impl FnOnce(&mut Batch<'_>, u32) -> T,
        answers: bool,
    ) -> Result<T, Stop> {
        self.count()?;
        let appended = self.ledger.append(Some(&self.turn), |batch| {
            let n = batch
                .state()
                .turns
                .get(&self.turn)
                .map(|turn| turn.calls)
                .ok_or(Stop::Over)?;
            let decided = decide(batch, n);
            if answers {
                self.clock.set(batch.state().time);
            }
            Ok(decided)
        });
        appended.map_err(|error| match error {
            AppendError::Dead(dead) => Stop::Dead(dead),
            AppendError::Refused(stop) => stop,
        })
    }

    /// The guest reads something: `look` finds it, and what it found is written down.
    pub(super) fn observe<T>(
        &self,
        look: impl FnOnce(&mut Batch<'_>) -> (T, Observation),
    ) -> Result<T, Stop> {
        self.append(|batch, n| {
            let (found, what) = look(batch);
            batch.push(Payload::Observed(Observed {
                turn: self.turn.clone(),
                n,
                what,
            }));
            found
        })
    }

    /// A call is about to leave the host. Answers its number.
    pub(super) fn called(&self, call: CallKind, target: &str, request: &[u8]) -> Result<u32, Stop> {
        let request = Digest::of(request);
        self.append_at(
            |batch, n| {
                let (turn, target) = (self.turn.clone(), target.to_owned());
                batch.push(Payload::Called(Called {
                    turn,
                    n,
                    call,
                    request,
                    target,
                }));
                n
            },
            false,
        )
    }

    /// Pieces of an answer, before the guest gets them.
    pub(super) fn streamed(&self, n: u32, pieces: Vec<Piece>) -> Result<(), Stop> {
        self.append(|batch, _| {
            batch.push(Payload::Streamed(Streamed {
                turn: self.turn.clone(),
                n,
                pieces,
            }));
        })
    }

    /// A call came back, with the last pieces of its answer.
    pub(super) fn returned(
        &self,
        n: u32,
        result: CallResult,
        usage: Option<Usage>,
        pieces: &[Piece],
    ) -> Result<(), Stop> {
        self.append(|batch, _| {
            let turn = self.turn.clone();
            if !pieces.is_empty() {
                batch.push(Payload::Streamed(Streamed {
                    turn: turn.clone(),
                    n,
                    pieces: pieces.to_vec(),
                }));
            }
            let usage = usage.unwrap_or_default();
            batch.push(Payload::Returned(Returned {
                turn,
                n,
                result,
                usage,
                attempts: 1,
            }));
        })
    }

    /// The key under which call `n` is made, the same if it is made again.
    pub(super) fn call_key(&self, n: u32, request: &[u8]) -> String {
        let parent = self.parent.as_ref().map_or("", TurnId::as_str);
        Digest::of_parts(&[
            self.tenant.as_str().as_bytes(),
            self.session.as_str().as_bytes(),
            parent.as_bytes(),
            self.turn.as_str().as_bytes(),
            &n.to_be_bytes(),
            &Digest::of(request).0,
        ])
        .to_string()
    }

    pub(super) fn may_print(&self) -> bool {
        self.output.printed.load(Ordering::Relaxed) < PRINTED_BYTES_MAX
    }

    /// Take in what the guest wrote to its standard output or error.
    pub(super) fn printed(&self, source: Source, bytes: &[u8]) {
        let before = self
            .output
            .printed
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before >= PRINTED_BYTES_MAX {
            return;
        }
        for text in self.output.take_in(source, bytes) {
            self.log(source, None, text, Vec::new());
        }
    }

    /// Lines that were begun and not ended, when the turn is over.
    pub(super) fn print_rest(&self) {
        for (source, text) in self.output.take_rest() {
            self.log(source, None, text, Vec::new());
        }
    }

    pub(super) fn log(
        &self,
        source: Source,
        level: Option<&'static str>,
        text: String,
        fields: Vec<(String, String)>,
    ) {
        let line = Line {
            number: 0,
            time: self.ledger.clock().now(),
            session: self.session.clone(),
            turn: self.turn.clone(),
            source,
            level,
            text,
            fields,
        };
        self.logs.push(&self.tenant, &self.agent, line);
    }
}

/// The turn's time: that of the last entry that answered one of its calls.
#[derive(Debug, Clone)]
pub struct TurnClock(Arc<(Time, AtomicU64)>);

impl TurnClock {
    pub fn start(started: Time) -> Self {
        Self(Arc::new((started, AtomicU64::new(started.0))))
    }

    pub fn started(&self) -> Time {
        self.0.0
    }

    pub fn now(&self) -> Time {
        Time(self.0.1.load(Ordering::Relaxed))
    }

    fn set(&self, now: Time) {
        self.0.1.fetch_max(now.0, Ordering::Relaxed);
    }
}

/// What the turn printed: lines being written, and the end of standard error.
#[derive(Debug, Default)]
pub struct TurnOutput {
    printed: AtomicU64,
    text: Mutex<OutputText>,
}

#[derive(Debug, Default)]
struct OutputText {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    stderr_end: VecDeque<u8>,
}

impl TurnOutput {
    /// The last 4 KiB of standard error.
    pub fn stderr_end(&self) -> Option<String> {
        let text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let bytes: Vec<u8> = text.stderr_end.iter().copied().collect();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn take_in(&self, source: Source, bytes: &[u8]) -> Vec<String> {
        let mut text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if source == Source::Stderr {
            text.stderr_end.extend(bytes);
            let surplus = text.stderr_end.len().saturating_sub(STDERR_BYTES_MAX);
            text.stderr_end.drain(..surplus);
        }
        let begun = if source == Source::Stderr {
            &mut text.stderr
        } else {
            &mut text.stdout
        };
        begun.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = begun.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        lines
    }

    fn take_rest(&self) -> Vec<(Source, String)> {
        let mut text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let stdout = std::mem::take(&mut text.stdout);
        let stderr = std::mem::take(&mut text.stderr);
        [(Source::Stdout, stdout), (Source::Stderr, stderr)]
            .into_iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(source, bytes)| (source, String::from_utf8_lossy(&bytes).into_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_and_the_end_of_stderr_is_kept() {
        let output = TurnOutput::default();
        assert_eq!(output.take_in(Source::Stdout, b"one\ntw"), ["one"]);
        assert_eq!(output.take_in(Source::Stdout, b"o\n\nthree"), ["two", ""]);
        assert_eq!(output.stderr_end(), None);
        output.take_in(Source::Stderr, &[b'x'; STDERR_BYTES_MAX]);
        output.take_in(Source::Stderr, b"end");
        let end = output.stderr_end().unwrap();
        assert_eq!(end.len(), STDERR_BYTES_MAX);
        assert!(end.ends_with("xend"));
        assert_eq!(output.take_rest()[0], (Source::Stdout, "three".into()));
    }
}
