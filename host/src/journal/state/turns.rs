//! Turns in the fold: started, their calls, ended.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bus;
use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId, Seq, SlotName, TurnId};
use crate::journal::entry::{
    CallResult, Called, Cause, Entry, Failure, InterruptRequested, Observation, Observed, Outcome,
    Pinned, Retried, RetryReason, Returned, Spoke, Streamed, ToolsCalled, TurnEnded, TurnStarted,
    Usage,
};

use super::mailbox::position;
use super::{Child, Conversing, OpenCall, Question, State, WakeUp, supervision};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenTurn {
    pub agent: AgentName,
    pub run: RunId,
    /// The turn that called.
    pub parent: Option<TurnId>,
    /// How many calls deep it runs.
    pub depth: u32,
    /// What its message came with.
    pub bus: Option<bus::Context>,
    /// The seq of its `turn-started`.
    pub started: Seq,
    pub started_at: Time,
    pub inputs: Vec<MessageId>,
    /// Taken with `pull` and not left.
    pub pulled: BTreeSet<MessageId>,
    /// Bytes said.
    pub said: u64,
    /// It asked its caller to call tools: it says no more.
    #[serde(default)]
    pub has_called_tools: bool,
    /// What it asks people; none once that is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
    /// It was put aside with a question, and has not been taken up again.
    #[serde(default)]
    pub is_aside: bool,
    /// What it asked people so far.
    #[serde(default)]
    pub questions: u32,
    /// The number of the next host call.
    pub calls: u32,
    /// Calls that have not returned.
    pub open_calls: BTreeMap<u32, OpenCall>,
    /// Those of them that are nested.
    pub children: BTreeMap<u32, Child>,
    pub locks: BTreeSet<SlotName>,
    pub usage: Usage,
    /// Somebody asked it to stop: nothing of it follows but its end.
    pub interrupted: bool,
    /// Of a conversation: how far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversing>,
    /// What it runs with, whatever is deployed or configured meanwhile.
    pub pinned: Pinned,
    /// Slots and wake-ups that it was started for, with their runs.
    causes: Vec<(Cause, Option<RunId>)>,
    /// 1 for the first.
    pub attempt: u32,
    /// Attempts in a row before this one that added no entry.
    barren: u32,
    /// Attempts in a row before this one that only made a call again.
    stalled: u32,
    /// This attempt has added an entry.
    progressed: bool,
    /// This attempt has come to the end of its record, and made a call again.
    went_live: bool,
    attempt_at: Time,
    /// The newest entry that it made, or the start of the attempt.
    last_at: Time,
    /// How long earlier attempts ran, as far as their entries tell.
    ran_ms: u64,
}

/// After so many attempts in a row that added nothing, the turn is taken for one that takes
/// the host down.
pub const ATTEMPTS_MAX: u32 = 3;

/// A turn that waits for a slow answer adds nothing either while the host comes and goes, and is
/// not to blame. But an answer may take the host down: so many attempts that made a call again
/// and got no further are enough.
const STALLED_MAX: u32 = 10;

impl OpenTurn {
    /// Its guest did something.
    pub(super) fn progressed(&mut self, now: Time) {
        self.progressed = true;
        self.last_at = now;
    }

    /// Nobody does anything in the name of a turn that is put aside.
    fn must_run(&self) -> Result<(), &'static str> {
        match self.is_aside {
            true => Err("the turn is put aside"),
            false => Ok(()),
        }
    }

    /// Whether it was tried as often as it may be, this attempt having been lost.
    pub fn is_poison(&self) -> bool {
        if self.progressed {
            false
        } else if self.went_live {
            self.stalled + 1 >= STALLED_MAX
        } else {
            self.barren + 1 >= ATTEMPTS_MAX
        }
    }

    /// Whether this attempt began at or after a time.
    pub fn is_since(&self, time: Time) -> bool {
        self.attempt_at >= time
    }

    /// How long it has run, downtime left out, if this attempt was lost.
    pub fn ran_ms(&self) -> u64 {
        self.ran_ms
            .saturating_add(self.last_at.ms_since(self.attempt_at))
    }

    /// How long it has run if it still runs.
    pub fn ran_until_ms(&self, now: Time) -> u64 {
        self.ran_ms.saturating_add(now.ms_since(self.attempt_at))
    }

    /// What it was started for.
    pub fn causes(&self) -> Vec<Cause> {
        let messages = (!self.inputs.is_empty()).then_some(Cause::Messages);
        let others = self.causes.iter().map(|(cause, _)| cause.clone());
        messages.into_iter().chain(others).collect()
    }
}

impl State {
    pub(super) fn turn_started(
        &mut self,
        entry: &Entry,
        started: &TurnStarted,
    ) -> Result<(), &'static str> {
        if self.turns.contains_key(&started.turn) {
            return Err("the turn is open already");
        }
        let participant = self
            .participants
            .get(&started.agent)
            .ok_or("the agent takes no part")?;
        if participant.turn.is_some() {
            return Err("the agent's turn is open");
        }
        if started
            .inputs
            .iter()
            .any(|input| position(participant, input).is_none())
        {
            return Err("a message it takes does not wait");
        }
        if started.inputs.is_empty() == started.causes.contains(&Cause::Messages) {
            return Err("its causes do not say what it takes");
        }
        let is_due = |cause: &Cause| match cause {
            Cause::Messages => true,
            Cause::Slot(slot) => participant.watched.contains_key(slot),
            Cause::Wake => participant.wake.is_some(),
        };
        if started.causes.is_empty() || !started.causes.iter().all(is_due) {
            return Err("what caused it is not due");
        }
        let index = self.next_index(&started.run);
        if started.turn != TurnId::of(&started.run, index, &started.agent) {
            return Err("its name is not the next of its run");
        }
        let participant = self.participant_mut(&started.agent)?;
        participant.turn = Some(started.turn.clone());
        let mut causes = Vec::new();
        for cause in &started.causes {
            let run = match cause {
                Cause::Messages => continue,
                Cause::Slot(slot) => participant.watched.remove(slot).flatten(),
                Cause::Wake => participant.wake.take().map(|wake| wake.run),
            };
            // The turn keeps the hold on the run: should it fail, the cause comes back.
            causes.push((cause.clone(), run));
        }
        let mut inputs = started.inputs.iter();
        let taken = inputs.find_map(|input| participant.pending.get(position(participant, input)?));
        let bus = taken.and_then(|pending| pending.bus.clone());
        self.hold(&started.run);
        self.take_index(&started.run);
        self.turns.insert(
            started.turn.clone(),
            Box::new(OpenTurn {
                agent: started.agent.clone(),
                run: started.run.clone(),
                parent: started.parent.clone(),
                depth: self.depth(&started.run),
                bus,
                started: entry.seq,
                started_at: entry.time,
                inputs: started.inputs.clone(),
                pulled: BTreeSet::new(),
                said: 0,
                has_called_tools: false,
                question: None,
                is_aside: false,
                questions: 0,
                calls: 0,
                open_calls: BTreeMap::new(),
                children: BTreeMap::new(),
                locks: BTreeSet::new(),
                usage: Usage::default(),
                interrupted: false,
                conversation: None,
                pinned: started.private.clone(),
                causes,
                attempt: started.attempt,
                barren: 0,
                stalled: 0,
                progressed: false,
                went_live: false,
                attempt_at: entry.time,
                last_at: entry.time,
                ran_ms: 0,
            }),
        );
        Ok(())
    }

    pub(super) fn called(&mut self, called: &Called) -> Result<(), &'static str> {
        let turn = self.call(&called.turn, called.n)?;
        turn.open_calls.insert(called.n, OpenCall::of(called));
        Ok(())
    }

    /// A turn, or one of its open calls, begins once more.
    pub(super) fn retried(&mut self, entry: &Entry, retried: &Retried) -> Result<(), &'static str> {
        let turn = self.uninterrupted(&retried.turn)?;
        if let Some(n) = retried.n {
            turn.must_run()?;
            if !turn.open_calls.contains_key(&n) {
                return Err("no such call is open");
            }
            turn.went_live = true;
            return Ok(());
        }
        if turn.question.is_some() {
            return Err("what the turn asked is not answered");
        }
        if (retried.reason == RetryReason::Answered) != turn.is_aside {
            return Err("the turn was not put aside, or is taken up because it was");
        }
        if retried.attempt != turn.attempt + 1 {
            return Err("its attempt does not follow");
        }
        turn.ran_ms = turn.ran_ms();
        turn.attempt = retried.attempt;
        match retried.reason {
            _ if turn.progressed => (turn.barren, turn.stalled) = (0, 0),
            RetryReason::HostStopped | RetryReason::Answered => {}
            RetryReason::HostLost | RetryReason::Provider if turn.went_live => {
                (turn.barren, turn.stalled) = (0, turn.stalled + 1);
            }
            RetryReason::HostLost | RetryReason::Provider => turn.barren += 1,
        }
        turn.is_aside = false;
        (turn.progressed, turn.went_live) = (false, false);
        (turn.attempt_at, turn.last_at) = (entry.time, entry.time);
        Ok(())
    }

    pub(super) fn returned(
        &mut self,
        entry: &Entry,
        returned: &Returned,
    ) -> Result<(), &'static str> {
        let turn = self.speaking(&returned.turn)?;
        if turn.open_calls.remove(&returned.n).is_none() {
            return Err("no such call is open");
        }
        turn.usage.add(returned.usage);
        let run = turn.run.clone();
        let child = turn.children.remove(&returned.n);
        self.book(entry.time, &run, returned.usage);
        // Nobody waits any more for what may still go on there.
        let is_left = match &returned.result {
            CallResult::Ok => false,
            CallResult::Dropped => true,
            CallResult::Failed { error, .. } => error == "deadline",
        };
        if let Some(child) = child.filter(|_| is_left) {
            self.owe(&returned.turn, returned.n, child);
        }
        Ok(())
    }

    pub(super) fn streamed(&mut self, streamed: &Streamed) -> Result<(), &'static str> {
        let turn = self.speaking(&streamed.turn)?;
        let call = turn.open_calls.get_mut(&streamed.n);
        call.ok_or("no such call is open")?
            .received(&streamed.pieces);
        Ok(())
    }

    pub(super) fn spoke(&mut self, spoke: &Spoke) -> Result<(), &'static str> {
        self.must_be_of(&spoke.turn, &spoke.agent)?;
        let turn = self.speaking(&spoke.turn)?;
        turn.may_voice(spoke)?;
        if turn.has_called_tools {
            return Err("the turn has asked for tools");
        }
        if turn.said != spoke.at {
            return Err("words are missing before it");
        }
        turn.said += spoke.text.len() as u64;
        Ok(())
    }

    pub(super) fn tools_called(&mut self, called: &ToolsCalled) -> Result<(), &'static str> {
        self.must_be_of(&called.turn, &called.agent)?;
        if called.calls.is_empty() {
            return Err("it calls nothing");
        }
        if self.speaking(&called.turn)?.has_called_tools {
            return Err("the turn has asked for tools");
        }
        self.call(&called.turn, called.n)?.has_called_tools = true;
        Ok(())
    }

    pub(super) fn interrupt_requested(
        &mut self,
        requested: &InterruptRequested,
    ) -> Result<(), &'static str> {
        self.must_be_of(&requested.turn, &requested.agent)?;
        self.uninterrupted(&requested.turn)?.interrupted = true;
        Ok(())
    }

    pub(super) fn observed(&mut self, observed: &Observed) -> Result<(), &'static str> {
        match &observed.what {
            Observation::MailboxPulled { messages, .. } => {
                let turn = self
                    .turns
                    .get(&observed.turn)
                    .ok_or("the turn is not open")?;
                let participant = self
                    .participants
                    .get(&turn.agent)
                    .ok_or("the agent takes no part")?;
                if messages
                    .iter()
                    .any(|message| position(participant, message).is_none())
                {
                    return Err("a pulled message does not wait");
                }
                self.call(&observed.turn, observed.n)?
                    .pulled
                    .extend(messages.iter().cloned());
            }
            Observation::MailboxLeft { message } => {
                if let Some(turn) = self.turns.get(&observed.turn)
                    && !turn.pulled.contains(message)
                {
                    return Err("the turn did not pull it");
                }
                self.call(&observed.turn, observed.n)?
                    .pulled
                    .remove(message);
            }
            Observation::SlotRead { .. }
            | Observation::SlotState { .. }
            | Observation::SlotNames { .. }
            | Observation::SlotRefused { .. }
            | Observation::CommitRefused { .. }
            | Observation::SlotLost { .. }
            | Observation::MailboxNotPulled { .. }
            | Observation::MailboxPending { .. }
            | Observation::MailboxRead { .. }
            | Observation::MailboxSearched { .. }
            | Observation::SendRefused { .. }
            | Observation::CallRefused { .. }
            | Observation::QuestionRefused { .. }
            | Observation::TranscriptWindow { .. }
            | Observation::Budget { .. } => {
                self.call(&observed.turn, observed.n)?;
            }
        }
        Ok(())
    }

    pub(super) fn turn_ended(
        &mut self,
        entry: &Entry,
        ended: &TurnEnded,
    ) -> Result<(), &'static str> {
        self.must_be_of(&ended.turn, &ended.agent)?;
        let open = self.turns.get(&ended.turn);
        if open.is_some_and(|turn| turn.interrupted) && ended.outcome != Outcome::Interrupted {
            return Err("the turn is interrupted");
        }
        if open.is_some_and(|turn| turn.is_aside) && ended.outcome == Outcome::Completed {
            return Err("the turn is put aside");
        }
        let turn = self
            .turns
            .remove(&ended.turn)
            .expect("it was there a line above");
        turn.locks.iter().for_each(|slot| self.unlock(slot));
        // Calls that it was cut off from.
        self.book(entry.time, &turn.run, ended.usage.since(turn.usage));
        let error = ended.error.as_ref().map(|error| error.code);
        // What a fork took over of a call belongs to the session that made it.
        if error != Some(Failure::Forked) {
            for (n, child) in turn.children {
                self.owe(&ended.turn, n, child);
            }
        }
        let participant = self
            .participants
            .get_mut(&ended.agent)
            .expect("an agent does not leave while its turn is open");
        participant.turn = None;
        let mut released = vec![turn.run.clone()];
        for input in &ended.inputs {
            released.extend(participant.settle(input, entry.time));
        }
        match &ended.error {
            Some(error) if supervision::counts(error.code) => {
                participant.failures.failed(entry.time);
            }
            Some(_) => {}
            None => participant.failures.went_well(),
        }
        if ended.outcome == Outcome::Completed {
            participant.context.turn_completed(&ended.private.context);
        }
        let returns = ended.returns_causes(turn.said > 0 || turn.questions > 0);
        for (cause, run) in turn.causes {
            if !returns || !participant.give_back(&cause, run.as_ref(), entry.time) {
                released.extend(run);
            }
        }
        if let Some(at) = ended.wake_at {
            let earlier = participant.wake.replace(WakeUp {
                at,
                run: turn.run.clone(),
            });
            self.hold(&turn.run);
            released.extend(earlier.map(|wake| wake.run));
        }
        released.iter().for_each(|run| self.release(Some(run)));
        Ok(())
    }

    /// The turn, one call further.
    pub(super) fn call(&mut self, turn: &TurnId, n: u32) -> Result<&mut OpenTurn, &'static str> {
        let turn = self.speaking(turn)?;
        turn.goes_on()?;
        if turn.calls != n {
            return Err("its call number does not follow");
        }
        turn.calls += 1;
        Ok(turn)
    }

    /// The open turn, if it runs and nobody has asked it to stop.
    pub(super) fn speaking(&mut self, turn: &TurnId) -> Result<&mut OpenTurn, &'static str> {
        let turn = self.uninterrupted(turn)?;
        turn.must_run()?;
        Ok(turn)
    }

    /// The open turn, if nobody has asked it to stop: an interruption is a cut.
    pub(super) fn uninterrupted(&mut self, turn: &TurnId) -> Result<&mut OpenTurn, &'static str> {
        let turn = self.turns.get_mut(turn).ok_or("the turn is not open")?;
        if turn.interrupted {
            return Err("the turn is interrupted");
        }
        Ok(turn)
    }

    pub(super) fn must_be_of(&self, turn: &TurnId, agent: &AgentName) -> Result<(), &'static str> {
        let turn = self.turns.get(turn).ok_or("the turn is not open")?;
        if turn.agent != *agent {
            return Err("it is another agent's turn");
        }
        Ok(())
    }
}

#[cfg(test)]
impl OpenTurn {
    /// The runs that its causes hold.
    pub(super) fn cause_runs(&self) -> impl Iterator<Item = &RunId> {
        self.causes.iter().filter_map(|(_, run)| run.as_ref())
    }
}
