//! What is due: what a turn would take now, and when the session next needs its host.

use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId};
use crate::journal::entry::Cause;

use super::{Participant, Phase, State};

/// What a turn that starts now takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub inputs: Vec<MessageId>,
    pub causes: Vec<Cause>,
    /// The run of the oldest cause that has one.
    pub run: Option<RunId>,
}

impl State {
    /// What a turn of this agent would take if it started now; none if nothing is due.
    pub fn due(&self, agent: &AgentName, now: Time, messages_max: usize) -> Option<Due> {
        let participant = self.participants.get(agent)?;
        if self.phase != Phase::Open || participant.turn.is_some() || !participant.may_start(now) {
            return None;
        }
        let mut due = Due {
            inputs: Vec::new(),
            causes: Vec::new(),
            run: None,
        };
        let ready = participant
            .pending
            .iter()
            .filter(|pending| pending.is_due(now));
        for pending in ready.take(messages_max) {
            due.inputs.push(pending.message.clone());
            due.run = due.run.or_else(|| pending.run.clone());
        }
        if !due.inputs.is_empty() {
            due.causes.push(Cause::Messages);
        }
        for (slot, run) in &participant.watched {
            due.causes.push(Cause::Slot(slot.clone()));
            due.run = due.run.or_else(|| run.clone());
        }
        if let Some(wake) = participant.wake.as_ref().filter(|wake| wake.at <= now) {
            due.causes.push(Cause::Wake);
            due.run = due.run.or_else(|| Some(wake.run.clone()));
        }
        (!due.causes.is_empty()).then_some(due)
    }

    /// When the session next needs its host without anybody asking: `Time(0)` means
    /// now. Expiry counts from the newest entry.
    pub fn next_due(&self) -> Option<Time> {
        if self.phase != Phase::Open {
            return (self.phase == Phase::Ended).then_some(Time(0));
        }
        if !self.turns.is_empty() {
            return Some(Time(0));
        }
        let work = self.participants.values().filter_map(Participant::due_at);
        work.chain(self.expires_at()).min()
    }

    /// When an agent that runs no turn has something to do next, after `now`.
    pub fn later(&self, now: Time) -> Option<Time> {
        let idle = self
            .participants
            .values()
            .filter(|participant| participant.turn.is_none());
        let times = idle.flat_map(Participant::due_times);
        times.filter(|at| *at > now).min()
    }

    /// When it ends by itself if nothing happens.
    pub fn expires_at(&self) -> Option<Time> {
        let after_ms = self.opened.as_ref()?.expires_after_ms?;
        Some(self.time.plus_ms(after_ms))
    }
}

impl Participant {
    fn may_start(&self, now: Time) -> bool {
        self.suspended.is_none() && self.failures.not_before <= now
    }

    /// When each thing that waits for it is due, its backoff counted in. None while suspended.
    fn due_times(&self) -> impl Iterator<Item = Time> {
        let fresh = self.pending.iter().filter(|pending| pending.fresh);
        let slots = (!self.watched.is_empty()).then_some(Time(0));
        fresh
            .map(|pending| pending.not_before)
            .chain(slots)
            .chain(self.wake.as_ref().map(|wake| wake.at))
            .filter(|_| self.suspended.is_none())
            .map(|at| at.max(self.failures.not_before))
    }

    fn due_at(&self) -> Option<Time> {
        self.due_times().min()
    }
}
