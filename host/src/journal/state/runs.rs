//! Runs in the fold: who names one, and the index of its next turn.
//!
//! A run that began here is never named again once nothing of it is left. One that came from outside
//! may come again, and its turns must not have the ids of older ones.

use serde::{Deserialize, Serialize};

use crate::id::{RunId, Seq};

use super::State;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    next_index: u32,
    /// Open turns and causes that name it; at zero it is forgotten.
    holds: u32,
    pub(super) spent_micros: u64,
    /// What its caller leaves it.
    pub(super) micros_max: Option<u64>,
    /// How many calls deep it came here. Whatever belongs to it calls from there, whatever caused it.
    depth: u32,
    /// It came from outside.
    foreign: bool,
}

/// Runs from outside that are remembered after their last turn.
const FOREIGN_MAX: usize = 256;

impl State {
    pub(super) fn hold(&mut self, run: &RunId) {
        self.runs.entry(run.clone()).or_default().holds += 1;
    }

    pub(super) fn release(&mut self, run: Option<&RunId>) {
        let Some(run) = run else { return };
        let Some(held) = self.runs.get_mut(run) else {
            return;
        };
        held.holds = held.holds.saturating_sub(1);
        if held.holds == 0 && !held.foreign {
            self.runs.remove(run);
        }
    }

    /// The run has one more turn.
    pub(super) fn take_index(&mut self, run: &RunId) {
        if let Some(run) = self.runs.get_mut(run) {
            run.next_index += 1;
        }
    }

    /// Something of a run came in from outside, so many calls deep. `seq` is its entry's.
    pub(super) fn hold_foreign(&mut self, run: &RunId, depth: u32, seq: Seq) {
        if !self.runs.contains_key(run) {
            // It may be one that was forgotten: no turn of that had an index this high.
            let fresh = if self.foreign_forgotten { seq.0 } else { 0 };
            let fresh = Run {
                next_index: u32::try_from(fresh).unwrap_or(u32::MAX),
                ..Run::default()
            };
            self.runs.insert(run.clone(), fresh);
        }
        self.hold(run);
        if let Some(held) = self.runs.get_mut(run) {
            held.depth = held.depth.max(depth);
            // A run of ours may come back too, from whomever it called.
            if !std::mem::replace(&mut held.foreign, true) {
                self.foreign.push_back(run.clone());
            }
        }
        for _ in FOREIGN_MAX..self.foreign.len() {
            let Some(oldest) = self.foreign.pop_front() else {
                break;
            };
            if self.runs.get(&oldest).is_some_and(|run| run.holds > 0) {
                self.foreign.push_back(oldest);
            } else {
                self.runs.remove(&oldest);
                self.foreign_forgotten = true;
            }
        }
    }

    /// How many calls deep the run came here; 0 if it began here.
    pub fn depth(&self, run: &RunId) -> u32 {
        self.runs.get(run).map_or(0, |run| run.depth)
    }

    /// The index of the run's next turn.
    pub fn next_index(&self, run: &RunId) -> u32 {
        self.runs.get(run).map_or(0, |run| run.next_index)
    }
}

#[cfg(test)]
impl Run {
    pub(super) fn holds(&self) -> u32 {
        self.holds
    }
}
