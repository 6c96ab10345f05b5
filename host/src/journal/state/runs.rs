//! Runs in the fold: who names one, and the index of its next turn.

use serde::{Deserialize, Serialize};

use crate::id::RunId;

use super::State;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    next_index: u32,
    /// Open turns and causes that name it; at zero it is forgotten.
    holds: u32,
    /// How many calls deep it came here. Whatever belongs to it calls from there, whatever caused it.
    depth: u32,
}

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
        if held.holds == 0 {
            self.runs.remove(run);
        }
    }

    /// The run has one more turn.
    pub(super) fn take_index(&mut self, run: &RunId) {
        if let Some(run) = self.runs.get_mut(run) {
            run.next_index += 1;
        }
    }

    /// Something of the run came in from so many calls deep.
    pub(super) fn deepen(&mut self, run: &RunId, depth: u32) {
        if let Some(run) = self.runs.get_mut(run) {
            run.depth = run.depth.max(depth);
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
