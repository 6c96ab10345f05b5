//! What is due: what a turn would take now, and when the session next needs its host.

use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId, TurnId};
use crate::journal::entry::Cause;

use super::{Batching, Participant, Phase, State};

/// What a turn that starts now takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub inputs: Vec<MessageId>,
    pub causes: Vec<Cause>,
    /// The run it belongs to: of the message that it takes, if an agent sent it; of its oldest cause, if it
    /// takes none. What people send begins a run of its own.
    pub run: Option<RunId>,
    /// The turn that called.
    pub parent: Option<TurnId>,
}

impl State {
    /// What a turn of this agent would take if it started now; none if nothing is due.
    pub fn due(&self, agent: &AgentName, now: Time, batching: &Batching) -> Option<Due> {
        let participant = self.participants.get(agent)?;
        if self.phase != Phase::Open || participant.turn.is_some() || !participant.may_start(now) {
            return None;
        }
        let mut due = Due {
            inputs: Vec::new(),
            causes: Vec::new(),
            run: None,
            parent: None,
        };
        if participant
            .batch_at(now, batching)
            .is_some_and(|at| at <= now)
        {
            let mut batch = participant.batch(now, batching).peekable();
            let first = batch.peek();
            due.run = first.and_then(|first| first.run.clone());
            let bus = first.and_then(|first| first.bus.as_ref());
            due.parent = bus.and_then(|bus| bus.parent.clone());
            due.inputs = batch.map(|pending| pending.message.clone()).collect();
            due.causes.push(Cause::Messages);
        }
        // When each other cause that has a run came about: the oldest one's is the turn's.
        let mut runs: Vec<(Time, &RunId)> = Vec::new();
        for (slot, run) in &participant.watched {
            due.causes.push(Cause::Slot(slot.clone()));
            let document = self.slots.get(slot).and_then(|slot| slot.document.as_ref());
            let at = document.map_or(Time(0), |document| document.written_at);
            runs.extend(run.as_ref().map(|run| (at, run)));
        }
        if let Some(wake) = participant.wake.as_ref().filter(|wake| wake.at <= now) {
            due.causes.push(Cause::Wake);
            runs.push((wake.at, &wake.run));
        }
        if due.inputs.is_empty() {
            let oldest = runs.into_iter().min_by_key(|(at, _)| *at);
            due.run = oldest.map(|(_, run)| run.clone());
        }
        (!due.causes.is_empty()).then_some(due)
    }

    /// When the session next needs its host without anybody asking: `Time(0)` means
    /// now. Never later than it does: what waits for quiet counts as due. Expiry counts from the newest
    /// entry.
    pub fn next_due(&self) -> Option<Time> {
        if self.phase != Phase::Open {
            return (self.phase == Phase::Ended).then_some(Time(0));
        }
        if !self.owed.is_empty() {
            return Some(Time(0));
        }
        // One that is put aside needs nobody until its question is over; any other is to run.
        let turns = self.turns.values();
        let turns = turns.map(|turn| turn.rests_until().unwrap_or(Time(0)));
        let free = self.participants.values().filter(|it| it.turn.is_none());
        let work = free.filter_map(|it| it.due_at());
        turns.chain(work).chain(self.expires_at()).min()
    }

    /// When something is to be done next, after `now`: by an agent that runs no turn, or about a question.
    pub fn later(&self, now: Time, batching: impl Fn(&AgentName) -> Batching) -> Option<Time> {
        let idle = self
            .participants
            .iter()
            .filter(|(_, participant)| participant.turn.is_none());
        let times = idle.flat_map(|(agent, participant)| {
            let batch_at = participant.batch_at(now, &batching(agent));
            participant.times(participant.due_times().chain(batch_at))
        });
        let asked = self.turns.values().filter_map(|it| it.rests_until());
        times.chain(asked).filter(|at| *at > now).min()
    }

    /// Whether no turn is open but those whose questions people may still answer.
    pub fn only_asks(&self, now: Time) -> bool {
        let mut turns = self.turns.values();
        turns.all(|turn| turn.rests_until().is_some_and(|at| at > now))
    }

    /// Whether an agent that waits for what is missing has anything to do once it is there.
    pub fn waits_until_ready(&self, agent: &AgentName) -> bool {
        let participant = self.participants.get(agent);
        participant.is_some_and(|it| it.is_until_ready() && it.due_at().is_some())
    }

    /// When it ends by itself if nothing happens; an open turn keeps it, also one that waits for people.
    pub fn expires_at(&self) -> Option<Time> {
        if !self.turns.is_empty() {
            return None;
        }
        let after_ms = self.opened.as_ref()?.expires_after_ms?;
        Some(self.time.plus_ms(after_ms))
    }
}

impl Participant {
    /// It starts no turn because something is missing.
    pub fn is_until_ready(&self) -> bool {
        self.suspended.as_ref().is_some_and(|it| it.until_ready)
    }

    pub(super) fn may_start(&self, now: Time) -> bool {
        self.suspended.is_none() && self.failures.not_before <= now
    }

    /// When each thing that waits for it is due.
    fn due_times(&self) -> impl Iterator<Item = Time> {
        let fresh = self.pending.iter().filter(|pending| pending.fresh);
        let slots = (!self.watched.is_empty()).then_some(Time(0));
        fresh
            .map(|pending| pending.not_before)
            .chain(slots)
            .chain(self.wake.as_ref().map(|wake| wake.at))
    }

    /// The times, its backoff counted in. None while it is suspended; what is missing may be there any time.
    fn times(&self, times: impl Iterator<Item = Time>) -> impl Iterator<Item = Time> {
        times
            .filter(|_| self.suspended.as_ref().is_none_or(|it| it.until_ready))
            .map(|at| at.max(self.failures.not_before))
    }

    fn due_at(&self) -> Option<Time> {
        self.times(self.due_times()).min()
    }
}
