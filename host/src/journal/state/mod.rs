//! The fold of a session's entries.
//!
//! [`State::next`] is the table of legal steps, the same function live and in
//! recovery. It holds what is open and what is due, never history: its size is
//! bounded by the limits of the host, not by the length of the journal.
//!
//! Invariant: an entry that `next` accepted once is accepted again after the
//! same entries. A refused entry leaves the state as it was.
//!
//! One file per family of entries: `session`, `fork`, `mailbox`, `turns`, `slots`, `questions`,
//! `conversation`, `supervision`, `nested`, with `runs` and `spending` behind them; `due` says what follows from all of it, and `batching`
//! what of the messages.

mod batching;
mod conversation;
mod due;
mod fork;
mod mailbox;
mod nested;
mod questions;
mod runs;
mod session;
mod slots;
mod spending;
mod supervision;
mod turns;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Digest, RunId, Seq, SlotName, TurnId};

use super::context::Context;
use super::entry::{Entry, Idempotency, Payload, SessionOpened};

pub use batching::{Batching, Policy};
pub use conversation::Conversing;
pub use due::Due;
pub use mailbox::{DELIVERIES_MAX, Pending, REDELIVERY_MS, Sender};
pub use nested::{Child, Owed};
pub use questions::Question;
pub use session::{IDEMPOTENCY_MS, Remembered};
pub use slots::{Document, Slot};
pub use spending::{OpenCall, Spent, Used};
pub use supervision::{Failures, Supervision, Suspension};
pub use turns::{ATTEMPTS_MAX, OpenTurn};

use runs::Run;

/// Changes whenever a fold of the same entries would serialise differently:
/// snapshots of another version are ignored.
pub const FOLD_VERSION: u32 = 11;

/// An entry that cannot follow the ones before it: a defect of the writer or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} is illegal: {why}")]
pub struct IllegalEntry {
    pub seq: Seq,
    pub why: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No entry yet.
    #[default]
    Absent,
    Open,
    /// Expired or deleted: nothing may follow.
    Ended,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The seq of the newest entry.
    pub last: Seq,
    /// The time of the newest entry.
    pub time: Time,
    pub phase: Phase,
    pub opened: Option<SessionOpened>,
    /// From the private part of `opened`, which is empty there: its serde form leaves it out.
    pub secret: String,
    /// What the session was opened with, if under an idempotency key.
    pub opened_idempotency: Option<Idempotency>,
    /// How many entries, from the second on, tell what was said before.
    recounted: u64,
    /// The newest message from outside.
    pub newest_received: Seq,
    /// Some of those came without what a protocol wants told again: not by that protocol.
    pub has_unechoed: bool,
    /// Boxed, like turns: a map makes room for eleven at once, and most sessions have one or two.
    pub participants: BTreeMap<AgentName, Box<Participant>>,
    pub slots: BTreeMap<SlotName, Slot>,
    pub turns: BTreeMap<TurnId, Box<OpenTurn>>,
    /// Nested calls that are over here, and whose sessions must be told.
    pub owed: Vec<Owed>,
    runs: BTreeMap<RunId, Run>,
    spent: Spent,
    /// Runs that came from outside, as they came.
    foreign: VecDeque<RunId>,
    /// Some of them are not remembered any more.
    foreign_forgotten: bool,
    remembered: BTreeMap<Digest, Remembered>,
    remembered_order: VecDeque<(Time, Digest)>,
}

/// An agent's part in the session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    /// Messages not yet done with, oldest first, including those that the open turn took.
    pub pending: VecDeque<Pending>,
    /// Watched slots committed by others since its last turn started, and the runs that did.
    pub watched: BTreeMap<SlotName, Option<RunId>>,
    pub wake: Option<WakeUp>,
    pub turn: Option<TurnId>,
    pub context: Context,
    pub failures: Failures,
    /// It starts no turn.
    pub suspended: Option<Suspension>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WakeUp {
    pub at: Time,
    pub run: RunId,
}

impl State {
    /// Check the entry and take it in.
    pub fn next(&mut self, entry: &Entry) -> Result<(), IllegalEntry> {
        let illegal = |why| IllegalEntry {
            seq: entry.seq,
            why,
        };
        if entry.seq != self.last.next() {
            return Err(illegal("its number does not follow"));
        }
        if entry.time < self.time {
            return Err(illegal("time went back"));
        }
        match (self.phase, &entry.payload) {
            (Phase::Absent, Payload::SessionOpened(_)) | (Phase::Open, _) => {}
            (Phase::Absent, _) => return Err(illegal("the session is not open yet")),
            (Phase::Ended, _) => return Err(illegal("the session has ended")),
        }
        self.apply(entry).map_err(illegal)?;
        if let Some(turn) = entry.payload.made_by()
            && let Some(open) = self.turns.get_mut(turn)
        {
            open.progressed(entry.time);
        }
        self.last = entry.seq;
        self.time = entry.time;
        Ok(())
    }

    /// Every arm checks before it changes anything.
    fn apply(&mut self, entry: &Entry) -> Result<(), &'static str> {
        match &entry.payload {
            Payload::SessionOpened(opened) => self.session_opened(opened),
            Payload::SessionChanged(changed) => self.session_changed(&changed.change),
            Payload::MessageReceived(received) => self.message_received(entry, received),
            Payload::MessageSent(sent) => self.message_sent(entry, sent),
            Payload::TurnStarted(started) => self.turn_started(entry, started),
            Payload::Called(called) => self.called(called),
            Payload::Returned(returned) => self.returned(entry, returned),
            Payload::Streamed(streamed) => self.streamed(streamed),
            Payload::Observed(observed) => self.observed(observed),
            Payload::Spoke(spoke) => self.spoke(spoke),
            Payload::SlotLocked(locked) => self.slot_locked(locked),
            Payload::SlotCommitted(committed) => self.slot_committed(entry, committed),
            Payload::SlotReleased(released) => self.slot_released(released),
            Payload::InterruptRequested(requested) => self.interrupt_requested(requested),
            Payload::TurnEnded(ended) => self.turn_ended(entry, ended),
            Payload::MessageSetAside(aside) => self.message_set_aside(aside),
            Payload::Retried(retried) => self.retried(entry, retried),
            Payload::AgentSuspended(suspended) => self.agent_suspended(entry, suspended),
            Payload::AgentResumed(resumed) => self.agent_resumed(resumed),
            Payload::SessionForked(forked) => self.session_forked(forked),
            Payload::SpeakerStarted(started) => self.speaker_started(started),
            Payload::SpeakerEnded(ended) => self.speaker_ended(ended),
            Payload::Halted(halted) => self.halted(halted),
            Payload::AgentCalled(called) => self.agent_called(called),
            Payload::CallCancelled(cancelled) => self.call_cancelled(cancelled),
            Payload::Recounted(recounted) => self.recounted(recounted),
            Payload::ToolsCalled(called) => self.tools_called(called),
            Payload::Asked(asked) => self.asked(entry, asked),
            Payload::Answered(answered) => self.answered(entry, answered),
        }
    }

    fn participant_mut(&mut self, agent: &AgentName) -> Result<&mut Participant, &'static str> {
        let participant = self.participants.get_mut(agent);
        participant
            .map(|it| &mut **it)
            .ok_or("the agent takes no part")
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
