//! Turns that wait long for a model do so without an instance.
//!
//! Until an answer begins, the turn's entries say all that its instance knows. So when none begins within
//! `instance_wait_ms_max`, the instance ends with its stack and its memory, and its place among the turns that run is free. The
//! call goes on, and the task that runs the turn waits for it. Then another instance comes back to the call by doing what
//! the first one did, and finds the answer. No entry tells of it, and nobody outside sees it.
//!
//! Invariants: no call is made twice for this. Nothing that the turn has ends with its instance: who holds a lock, has
//! another answer on its way or has called an agent and not heard of it, keeps it. So does who computed long before, as all of
//! that is computed again. Who waits to come back holds nothing that others need to finish.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::runtime::cpu::Cpu;
use crate::runtime::scope::{Scope, TurnOutput};
use crate::telemetry::{self, Limit};

use super::call::Call;

/// What may be computed again: a fiftieth of the second that was waited by then, unless that is set otherwise. A turn of an
/// agent in Rust takes some 50 µs, of one in an interpreted language some milliseconds.
const COMPUTED_MAX: Duration = Duration::from_millis(20);

/// Entries of the session since the turn began, which are read again: a few milliseconds' work.
const ENTRIES_MAX: u64 = 1_000;

/// What a turn without an instance has.
pub struct Kept {
    pub(super) call: Call,
    cpu: Cpu,
    lines: u64,
    written: u64,
    ran_ms: u64,
    turn_ms_max: u64,
}

impl Kept {
    /// Wait until the answer begins, or will not.
    pub async fn answered(&mut self) {
        self.call.comes().await;
    }

    /// Wait for something else, and take in what the call brings meanwhile: its place among the model's calls is free when
    /// the answer is there, whoever waits for what.
    pub async fn beside<T>(&mut self, wait: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            waited = wait => waited,
            never = self.call.gather() => match never {},
        }
    }

    /// How long it ran in attempts before this one.
    pub fn ran_ms(&self) -> u64 {
        self.ran_ms
    }

    pub fn turn_ms_max(&self) -> u64 {
        self.turn_ms_max
    }

    /// How long the turn may still take.
    pub fn left(&self) -> Duration {
        let ran_ms = self.ran_ms.saturating_add(self.cpu.age_ms());
        Duration::from_millis(self.turn_ms_max.saturating_sub(ran_ms))
    }

    /// What it computed so far, of which what comes next is a part.
    pub fn cpu(&self) -> Cpu {
        self.cpu.clone()
    }

    /// Bytes that the turn wrote into the journal.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Of an instance that says what was told already.
    pub fn output(&self) -> TurnOutput {
        TurnOutput::after(self.lines)
    }
}

impl Scope {
    /// Whether the instance that waits for call `n` is given up.
    pub(super) fn may_wait_without(&self, n: u32) -> bool {
        self.cpu.of_instance() <= COMPUTED_MAX
            && self.ledger.look(|state| {
                state.turns.get(&self.turn).is_some_and(|open| {
                    let mut others = open.open_calls.iter().filter(|(other, _)| **other != n);
                    let entries = state.last.0.saturating_sub(self.started.0);
                    open.locks.is_empty()
                        && open.children.is_empty()
                        && others.all(|(_, call)| call.model.is_none())
                        && entries <= ENTRIES_MAX
                })
            })
    }

    pub(super) fn keep(&self, call: Call) {
        telemetry::hit(Limit::InstanceWaitMs);
        *self.kept() = Some(Box::new(Kept {
            call,
            cpu: self.cpu.clone(),
            lines: self.output.lines(),
            written: self.written.load(Ordering::Relaxed),
            ran_ms: self.ran_ms,
            turn_ms_max: self.limits.turn_ms_max,
        }));
    }

    /// The call `n` that an instance before this one was given up with.
    pub(super) fn take_kept(&self, n: u32) -> Option<Call> {
        let mut kept = self.kept();
        kept.take_if(|it| it.call.n == n).map(|it| it.call)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Box<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
