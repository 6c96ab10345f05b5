//! Agents that fail, in the fold: how often, how long they wait, and whether they are suspended.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, RunId};
use crate::journal::entry::{AgentResumed, AgentSuspended, Cause, Entry, Failure, TurnEnded};

use super::{Participant, State, WakeUp};

/// Failures remembered: no policy can ask for more.
const FAILURES_KEPT: usize = 32;

/// An agent that failed twice in a row waits this long, doubled with each failure after it. The
/// first failure costs nothing: it may have been its input.
const BACKOFF_MS: u64 = 1_000;
/// It never waits longer for a try.
const BACKOFF_MS_MAX: u64 = 60_000;

/// When an agent is suspended: so many failures within a time. The form in which it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Supervision {
    pub failures_max: u32,
    pub window_ms: u64,
}

impl Default for Supervision {
    /// Five failures take at least seven seconds of backoff: what passes by itself has passed.
    fn default() -> Self {
        Self {
            failures_max: 5,
            window_ms: 60_000,
        }
    }
}

impl Supervision {
    /// What is wrong with it, in words for its writer.
    pub fn check(&self) -> Result<(), String> {
        if self.failures_max == 0 || self.failures_max as usize > FAILURES_KEPT {
            return Err(format!(
                "`supervision.failures_max` must be 1 to {FAILURES_KEPT}"
            ));
        }
        Ok(())
    }
}

/// Why an agent starts no turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub reason: String,
    pub since: Time,
    /// Something is missing, and it goes on by itself; if not, somebody must resume it.
    pub until_ready: bool,
}

/// An agent's failures in the session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// When its last ones were, oldest first.
    times: VecDeque<Time>,
    /// Since a turn of it last went well.
    in_a_row: u32,
    /// It starts no turn before this time.
    pub not_before: Time,
}

impl Failures {
    pub(super) fn failed(&mut self, now: Time) {
        self.times.push_back(now);
        if self.times.len() > FAILURES_KEPT {
            self.times.pop_front();
        }
        self.in_a_row += 1;
        self.not_before = match self.in_a_row {
            0 | 1 => Time(0),
            more => now.plus_ms((BACKOFF_MS << (more - 2).min(16)).min(BACKOFF_MS_MAX)),
        };
    }

    pub(super) fn went_well(&mut self) {
        self.in_a_row = 0;
        self.not_before = Time(0);
    }

    /// How many there were in the last `window_ms`.
    fn within(&self, now: Time, window_ms: u64) -> usize {
        let recent = |at: &&Time| now.ms_since(**at) < window_ms;
        self.times.iter().filter(recent).count()
    }
}

/// Whether a failure says that the agent is broken. What the agent itself answers is its decision, and
/// how long it is given its caller's.
pub(super) fn counts(failure: Failure) -> bool {
    !matches!(
        failure,
        Failure::Agent | Failure::CallerDeadline | Failure::Forked
    )
}

/// Whether a turn that failed without a word is to be tried again. One that cannot be run is
/// not, and what the agent answered, it answered.
fn is_tried_again(failure: Failure) -> bool {
    match failure {
        Failure::Trap
        | Failure::Limit
        | Failure::Cpu
        | Failure::Deadline
        | Failure::Component
        | Failure::HostLost => true,
        Failure::Agent
        | Failure::CallerDeadline
        | Failure::Poison
        | Failure::Nondeterminism
        | Failure::Forked => false,
    }
}

impl TurnEnded {
    /// Whether the slots and wake-ups that caused the turn cause another one, as its messages do.
    pub(super) fn returns_causes(&self, was_heard: bool) -> bool {
        !was_heard
            && self
                .error
                .as_ref()
                .is_some_and(|error| is_tried_again(error.code))
    }
}

impl Participant {
    /// A turn failed on this cause: it is due again. False if a newer one of its kind is.
    pub(super) fn give_back(&mut self, cause: &Cause, run: Option<&RunId>, now: Time) -> bool {
        match (cause, run) {
            (Cause::Slot(slot), run) if !self.watched.contains_key(slot) => {
                self.watched.insert(slot.clone(), run.cloned());
                true
            }
            (Cause::Wake, Some(run)) if self.wake.is_none() => {
                let run = run.clone();
                self.wake = Some(WakeUp { at: now, run });
                true
            }
            (Cause::Slot(_) | Cause::Wake | Cause::Messages, _) => false,
        }
    }
}

impl State {
    /// Whether the agent failed so often lately that it is to be suspended.
    pub fn fails_too_often(&self, agent: &AgentName, policy: Supervision, now: Time) -> bool {
        self.participants.get(agent).is_some_and(|participant| {
            participant.suspended.is_none()
                && participant.failures.within(now, policy.window_ms)
                    >= policy.failures_max as usize
        })
    }

    pub(super) fn agent_suspended(
        &mut self,
        entry: &Entry,
        suspended: &AgentSuspended,
    ) -> Result<(), &'static str> {
        let participant = self.participant_mut(&suspended.agent)?;
        if participant.suspended.is_some() {
            return Err("the agent is suspended already");
        }
        participant.suspended = Some(Suspension {
            reason: suspended.reason.clone(),
            since: entry.time,
            until_ready: suspended.until_ready,
        });
        Ok(())
    }

    pub(super) fn agent_resumed(&mut self, resumed: &AgentResumed) -> Result<(), &'static str> {
        let participant = self.participant_mut(&resumed.agent)?;
        let suspension = participant.suspended.take();
        let suspension = suspension.ok_or("the agent is not suspended")?;
        // Whoever resumes it believes that it is mended; what was missing says nothing about it.
        if !suspension.until_ready {
            participant.failures = Failures::default();
        }
        Ok(())
    }
}
