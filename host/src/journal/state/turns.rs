//! Turns in the fold: started, their calls, ended.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId, Seq, SlotName, TurnId};
use crate::journal::entry::{
    Called, Cause, Entry, InterruptRequested, Observation, Observed, Outcome, Returned, Spoke,
    Streamed, TurnEnded, TurnStarted, Usage,
};

use super::mailbox::position;
use super::{State, WakeUp};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenTurn {
    pub agent: AgentName,
    pub run: RunId,
    /// The seq of its `turn-started`.
    pub started: Seq,
    pub started_at: Time,
    pub inputs: Vec<MessageId>,
    /// Taken with `pull` and not left.
    pub pulled: BTreeSet<MessageId>,
    /// Bytes said.
    pub said: u64,
    /// The number of the next host call.
    pub calls: u32,
    /// Calls that have not returned.
    pub open_calls: BTreeSet<u32>,
    pub locks: BTreeSet<SlotName>,
    pub usage: Usage,
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
        let participant = self.participant_mut(&started.agent)?;
        participant.turn = Some(started.turn.clone());
        let mut runs = Vec::new();
        for cause in &started.causes {
            match cause {
                Cause::Messages => {}
                Cause::Slot(slot) => runs.extend(participant.watched.remove(slot).flatten()),
                Cause::Wake => runs.extend(participant.wake.take().map(|wake| wake.run)),
            }
        }
        self.hold(&started.run);
        runs.iter().for_each(|run| self.release(Some(run)));
        self.take_index(&started.run);
        self.turns.insert(
            started.turn.clone(),
            OpenTurn {
                agent: started.agent.clone(),
                run: started.run.clone(),
                started: entry.seq,
                started_at: entry.time,
                inputs: started.inputs.clone(),
                pulled: BTreeSet::new(),
                said: 0,
                calls: 0,
                open_calls: BTreeSet::new(),
                locks: BTreeSet::new(),
                usage: Usage::default(),
            },
        );
        Ok(())
    }

    pub(super) fn called(&mut self, called: &Called) -> Result<(), &'static str> {
        let turn = self.call(&called.turn, called.n)?;
        turn.open_calls.insert(called.n);
        Ok(())
    }

    pub(super) fn returned(&mut self, returned: &Returned) -> Result<(), &'static str> {
        let turn = self.turn_mut(&returned.turn)?;
        if !turn.open_calls.remove(&returned.n) {
            return Err("no such call is open");
        }
        turn.usage.add(returned.usage);
        Ok(())
    }

    pub(super) fn streamed(&mut self, streamed: &Streamed) -> Result<(), &'static str> {
        let turn = self.turn_mut(&streamed.turn)?;
        turn.open_calls
            .contains(&streamed.n)
            .then_some(())
            .ok_or("no such call is open")
    }

    pub(super) fn spoke(&mut self, spoke: &Spoke) -> Result<(), &'static str> {
        let turn = self.turn_mut(&spoke.turn)?;
        if turn.said != spoke.at {
            return Err("words are missing before it");
        }
        turn.said += spoke.text.len() as u64;
        Ok(())
    }

    pub(super) fn interrupt_requested(
        &mut self,
        requested: &InterruptRequested,
    ) -> Result<(), &'static str> {
        self.turn_mut(&requested.turn).map(|_| ())
    }

    pub(super) fn observed(&mut self, observed: &Observed) -> Result<(), &'static str> {
        match &observed.what {
            Observation::MailboxPulled { messages } => {
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
                self.call(&observed.turn, observed.n)?
                    .pulled
                    .remove(message);
            }
            Observation::SlotRead { .. }
            | Observation::SlotState { .. }
            | Observation::SlotNames { .. }
            | Observation::SlotRefused { .. }
            | Observation::CommitRefused { .. }
            | Observation::MailboxPending { .. }
            | Observation::MailboxRead { .. }
            | Observation::MailboxSearched { .. }
            | Observation::SendRefused { .. }
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
        let turn = self.turns.get(&ended.turn).ok_or("the turn is not open")?;
        if turn.agent != ended.agent {
            return Err("it is another agent's turn");
        }
        let turn = self
            .turns
            .remove(&ended.turn)
            .expect("it was there a line above");
        turn.locks.iter().for_each(|slot| self.unlock(slot));
        let Some(participant) = self.participants.get_mut(&ended.agent) else {
            return Err("the agent takes no part");
        };
        participant.turn = None;
        let mut released = vec![turn.run.clone()];
        for input in &ended.inputs {
            released.extend(participant.settle(input, entry.time));
        }
        if ended.outcome == Outcome::Completed {
            participant.context.turn_completed(&ended.private.context);
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
        let turn = self.turn_mut(turn)?;
        if turn.calls != n {
            return Err("its call number does not follow");
        }
        turn.calls += 1;
        Ok(turn)
    }

    pub(super) fn turn_mut(&mut self, turn: &TurnId) -> Result<&mut OpenTurn, &'static str> {
        self.turns.get_mut(turn).ok_or("the turn is not open")
    }
}
