//! The fold of a session's entries.
//!
//! [`State::next`] is the table of legal steps, the same function live and in
//! recovery. It holds what is open and what is due, never history: its size is
//! bounded by the limits of the host, not by the length of the journal.
//!
//! Invariant: an entry that `next` accepted once is accepted again after the
//! same entries. A refused entry leaves the state as it was.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, RunId, Seq, SlotName, TurnId};

use super::context::Context;
use super::entry::{
    Cause, Content, Entry, Fate, Idempotency, InputFate, MessageReceived, MessageSent, Observation,
    Observed, Outcome, Payload, SessionChange, SessionOpened, SlotCommitted, TurnEnded,
    TurnStarted, Usage, Writer,
};

/// Changes whenever a fold of the same entries would serialise differently:
/// snapshots of another version are ignored.
pub const FOLD_VERSION: u32 = 1;

/// How long an idempotency key is remembered (design: 24 h).
pub const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1000;

/// A message that a turn failed on waits this long, doubled with each delivery.
pub const REDELIVERY_MS: u64 = 1_000;

/// After so many deliveries a message is set aside.
pub const DELIVERIES_MAX: u32 = 3;

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
    /// The private part of `opened`, which its serde form leaves out.
    pub secret: String,
    /// What the session was opened with, if under an idempotency key.
    pub opened_idempotency: Option<Idempotency>,
    pub participants: BTreeMap<AgentName, Participant>,
    pub slots: BTreeMap<SlotName, Slot>,
    pub turns: BTreeMap<TurnId, OpenTurn>,
    runs: BTreeMap<RunId, Run>,
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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WakeUp {
    pub at: Time,
    pub run: RunId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sender {
    Person(Author),
    Agent(AgentName),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub message: MessageId,
    pub sender: Sender,
    /// Length of the body as the agent reads it.
    pub bytes: u32,
    pub received_at: Time,
    pub run: Option<RunId>,
    pub invoked: bool,
    /// No completed turn has seen it: by itself a cause for a turn.
    pub fresh: bool,
    pub deliveries: u32,
    /// Not given to a turn before this time.
    pub not_before: Time,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub document: Option<Document>,
    pub lock: Option<TurnId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The seq of its `slot-committed`.
    pub version: Seq,
    pub written_at: Time,
    pub by: Writer,
    pub bytes: u64,
    pub content: Content,
}

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

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Run {
    next_index: u32,
    /// Open turns and causes that name it; at zero it is forgotten.
    holds: u32,
}

/// What an idempotency key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub body: Digest,
    pub message: Seq,
    pub at: Time,
}

/// What a turn that starts now takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub inputs: Vec<MessageId>,
    pub causes: Vec<Cause>,
    /// The run of the oldest cause that has one.
    pub run: Option<RunId>,
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
            Payload::Called(called) => {
                let turn = self.call(&called.turn, called.n)?;
                turn.open_calls.insert(called.n);
                Ok(())
            }
            Payload::Returned(returned) => {
                let turn = self.turn_mut(&returned.turn)?;
                if !turn.open_calls.remove(&returned.n) {
                    return Err("no such call is open");
                }
                turn.usage.add(returned.usage);
                Ok(())
            }
            Payload::Streamed(streamed) => {
                let turn = self.turn_mut(&streamed.turn)?;
                turn.open_calls
                    .contains(&streamed.n)
                    .then_some(())
                    .ok_or("no such call is open")
            }
            Payload::Observed(observed) => self.observed(observed),
            Payload::Spoke(spoke) => {
                let turn = self.turn_mut(&spoke.turn)?;
                if turn.said != spoke.at {
                    return Err("words are missing before it");
                }
                turn.said += spoke.text.len() as u64;
                Ok(())
            }
            Payload::SlotLocked(locked) => {
                if self
                    .slots
                    .get(&locked.slot)
                    .is_some_and(|slot| slot.lock.is_some())
                {
                    return Err("the slot is locked");
                }
                let turn = self.call(&locked.turn, locked.n)?;
                turn.locks.insert(locked.slot.clone());
                self.slots.entry(locked.slot.clone()).or_default().lock = Some(locked.turn.clone());
                Ok(())
            }
            Payload::SlotCommitted(committed) => self.slot_committed(entry, committed),
            Payload::SlotReleased(released) => {
                if !self.holds(&released.slot, &released.turn) {
                    return Err("the turn does not hold the slot");
                }
                self.call(&released.turn, released.n)?
                    .locks
                    .remove(&released.slot);
                self.unlock(&released.slot);
                Ok(())
            }
            Payload::InterruptRequested(requested) => self.turn_mut(&requested.turn).map(|_| ()),
            Payload::TurnEnded(ended) => self.turn_ended(entry, ended),
            Payload::MessageSetAside(aside) => {
                let participant = self.participant_mut(&aside.agent)?;
                let at = position(participant, &aside.message).ok_or("no such message waits")?;
                let run = participant
                    .pending
                    .remove(at)
                    .and_then(|pending| pending.run);
                self.release(run.as_ref());
                Ok(())
            }
        }
    }

    fn session_opened(&mut self, opened: &SessionOpened) -> Result<(), &'static str> {
        if self.phase != Phase::Absent {
            return Err("the session is open already");
        }
        if !opened.agents.contains(&opened.entry) {
            return Err("the entry agent takes no part");
        }
        self.phase = Phase::Open;
        self.secret = opened.private.secret.clone();
        self.opened_idempotency = opened.private.idempotency;
        self.participants = opened
            .agents
            .iter()
            .map(|agent| (agent.clone(), Participant::default()))
            .collect();
        self.opened = Some(opened.clone());
        Ok(())
    }

    fn session_changed(&mut self, change: &SessionChange) -> Result<(), &'static str> {
        match change {
            SessionChange::AgentAdded { agent } => {
                if self.participants.contains_key(agent) {
                    return Err("the agent takes part already");
                }
                self.participants
                    .insert(agent.clone(), Participant::default());
            }
            SessionChange::AgentRemoved { agent } => {
                if self.entry_agent() == Some(agent) {
                    return Err("the entry agent cannot leave");
                }
                let participant = self
                    .participants
                    .get(agent)
                    .ok_or("the agent takes no part")?;
                if participant.turn.is_some() {
                    return Err("the agent's turn is open");
                }
                let runs: Vec<RunId> = participant
                    .pending
                    .iter()
                    .filter_map(|pending| pending.run.clone())
                    .chain(participant.watched.values().flatten().cloned())
                    .chain(participant.wake.iter().map(|wake| wake.run.clone()))
                    .collect();
                self.participants.remove(agent);
                runs.iter().for_each(|run| self.release(Some(run)));
            }
            SessionChange::Expired | SessionChange::Deleted => self.phase = Phase::Ended,
        }
        Ok(())
    }

    fn message_received(
        &mut self,
        entry: &Entry,
        received: &MessageReceived,
    ) -> Result<(), &'static str> {
        let participant = self
            .participants
            .get_mut(&received.to)
            .ok_or("the agent takes no part")?;
        participant.pending.push_back(Pending {
            message: received.message.clone(),
            sender: Sender::Person(received.author.clone()),
            bytes: body_bytes(&received.body),
            received_at: entry.time,
            run: None,
            invoked: received.private.invoked,
            fresh: true,
            deliveries: 0,
            not_before: Time(0),
        });
        if let Some(idempotency) = received.private.idempotency {
            self.remember(entry, idempotency);
        }
        Ok(())
    }

    fn remember(&mut self, entry: &Entry, idempotency: Idempotency) {
        while let Some((time, key)) = self.remembered_order.front().copied() {
            if entry.time.ms_since(time) < IDEMPOTENCY_MS {
                break;
            }
            self.remembered_order.pop_front();
            self.remembered.remove(&key);
        }
        let remembered = Remembered {
            body: idempotency.body,
            message: entry.seq,
            at: entry.time,
        };
        self.remembered.insert(idempotency.key, remembered);
        self.remembered_order
            .push_back((entry.time, idempotency.key));
    }

    fn message_sent(&mut self, entry: &Entry, sent: &MessageSent) -> Result<(), &'static str> {
        if !self.participants.contains_key(&sent.to) {
            return Err("the agent takes no part");
        }
        let run = self.call(&sent.turn, sent.n)?.run.clone();
        self.hold(&run);
        let pending = Pending {
            message: sent.message.clone(),
            sender: Sender::Agent(sent.from.clone()),
            bytes: body_bytes(&sent.body),
            received_at: entry.time,
            run: Some(run),
            invoked: false,
            fresh: true,
            deliveries: 0,
            not_before: Time(0),
        };
        self.participant_mut(&sent.to)?.pending.push_back(pending);
        Ok(())
    }

    fn turn_started(&mut self, entry: &Entry, started: &TurnStarted) -> Result<(), &'static str> {
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
        if let Some(run) = self.runs.get_mut(&started.run) {
            run.next_index += 1;
        }
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

    fn observed(&mut self, observed: &Observed) -> Result<(), &'static str> {
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

    fn slot_committed(
        &mut self,
        entry: &Entry,
        committed: &SlotCommitted,
    ) -> Result<(), &'static str> {
        if committed.version != entry.seq {
            return Err("its version is not its number");
        }
        let run = match &committed.turn {
            Some(turn) => {
                if !self.holds(&committed.slot, turn) {
                    return Err("the turn does not hold the slot");
                }
                let turn = self.call(turn, committed.n)?;
                turn.locks.remove(&committed.slot);
                Some(turn.run.clone())
            }
            None if self
                .slots
                .get(&committed.slot)
                .is_some_and(|slot| slot.lock.is_some()) =>
            {
                return Err("the slot is locked");
            }
            None => None,
        };
        let slot = self.slots.entry(committed.slot.clone()).or_default();
        slot.lock = None;
        slot.document = Some(Document {
            version: committed.version,
            written_at: entry.time,
            by: committed.by.clone(),
            bytes: committed.bytes,
            content: committed.private.content.clone(),
        });
        for agent in &committed.private.wakes {
            let Some(participant) = self.participants.get_mut(agent) else {
                continue;
            };
            let earlier = participant
                .watched
                .insert(committed.slot.clone(), run.clone());
            if let Some(run) = &run {
                self.hold(run);
            }
            self.release(earlier.flatten().as_ref());
        }
        Ok(())
    }

    fn turn_ended(&mut self, entry: &Entry, ended: &TurnEnded) -> Result<(), &'static str> {
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
            let Some(at) = position(participant, &input.message) else {
                continue;
            };
            match input.fate {
                Fate::Consumed => {
                    released.extend(
                        participant
                            .pending
                            .remove(at)
                            .and_then(|pending| pending.run),
                    );
                }
                Fate::Left => participant.pending[at].fresh = false,
                Fate::Returned => {
                    let pending = &mut participant.pending[at];
                    let wait = REDELIVERY_MS << pending.deliveries.min(16);
                    pending.deliveries += 1;
                    pending.not_before = entry.time.plus_ms(wait);
                }
            }
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
    fn call(&mut self, turn: &TurnId, n: u32) -> Result<&mut OpenTurn, &'static str> {
        let turn = self.turn_mut(turn)?;
        if turn.calls != n {
            return Err("its call number does not follow");
        }
        turn.calls += 1;
        Ok(turn)
    }

    fn turn_mut(&mut self, turn: &TurnId) -> Result<&mut OpenTurn, &'static str> {
        self.turns.get_mut(turn).ok_or("the turn is not open")
    }

    fn participant_mut(&mut self, agent: &AgentName) -> Result<&mut Participant, &'static str> {
        self.participants
            .get_mut(agent)
            .ok_or("the agent takes no part")
    }

    fn holds(&self, slot: &SlotName, turn: &TurnId) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|slot| slot.lock.as_ref() == Some(turn))
    }

    fn unlock(&mut self, name: &SlotName) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.lock = None;
        if slot.document.is_none() {
            self.slots.remove(name);
        }
    }

    fn hold(&mut self, run: &RunId) {
        self.runs.entry(run.clone()).or_default().holds += 1;
    }

    fn release(&mut self, run: Option<&RunId>) {
        let Some(run) = run else { return };
        let Some(held) = self.runs.get_mut(run) else {
            return;
        };
        held.holds = held.holds.saturating_sub(1);
        if held.holds == 0 {
            self.runs.remove(run);
        }
    }
}

/// What can be asked of it.
impl State {
    pub fn entry_agent(&self) -> Option<&AgentName> {
        self.opened.as_ref().map(|opened| &opened.entry)
    }

    /// The index of the run's next turn.
    pub fn next_index(&self, run: &RunId) -> u32 {
        self.runs.get(run).map_or(0, |run| run.next_index)
    }

    pub fn remembered(&self, key: &Digest, now: Time) -> Option<Remembered> {
        let remembered = self.remembered.get(key).copied()?;
        (now.ms_since(remembered.at) < IDEMPOTENCY_MS).then_some(remembered)
    }

    pub fn remembered_len(&self) -> usize {
        self.remembered.len()
    }

    /// What a turn of this agent would take if it started now; none if nothing is due.
    pub fn due(&self, agent: &AgentName, now: Time, messages_max: usize) -> Option<Due> {
        let participant = self.participants.get(agent)?;
        if self.phase != Phase::Open || participant.turn.is_some() {
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

    /// Messages that were delivered as often as they may be.
    pub fn undeliverable(&self) -> impl Iterator<Item = (&AgentName, &Pending)> {
        self.participants
            .iter()
            .filter(|(_, participant)| participant.turn.is_none())
            .flat_map(|(agent, participant)| {
                let spent = |pending: &&Pending| pending.deliveries >= DELIVERIES_MAX;
                participant
                    .pending
                    .iter()
                    .filter(spent)
                    .map(move |pending| (agent, pending))
            })
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
        let work = self.participants.values().flat_map(|participant| {
            let messages = participant
                .pending
                .iter()
                .filter(|pending| pending.fresh)
                .map(|pending| pending.not_before);
            let slots = (!participant.watched.is_empty()).then_some(Time(0));
            messages
                .chain(slots)
                .chain(participant.wake.as_ref().map(|wake| wake.at))
        });
        work.chain(self.expires_at()).min()
    }

    /// When it ends by itself if nothing happens.
    pub fn expires_at(&self) -> Option<Time> {
        let after_ms = self.opened.as_ref()?.expires_after_ms?;
        Some(self.time.plus_ms(after_ms))
    }

    /// What becomes of a turn's messages (design: "Inputs after the outcome").
    pub fn fates(&self, turn: &TurnId, outcome: Outcome) -> Vec<InputFate> {
        let Some(open) = self.turns.get(turn) else {
            return Vec::new();
        };
        let Some(participant) = self.participants.get(&open.agent) else {
            return Vec::new();
        };
        let touched = participant.pending.iter().filter(|pending| {
            open.inputs.contains(&pending.message) || open.pulled.contains(&pending.message)
        });
        touched
            .map(|pending| {
                let (input, pulled) = (
                    open.inputs.contains(&pending.message),
                    open.pulled.contains(&pending.message),
                );
                let fate = match outcome {
                    // Whoever invoked has the answer: no other turn may answer again.
                    _ if pending.invoked && input => Fate::Consumed,
                    Outcome::Completed if pulled => Fate::Consumed,
                    Outcome::Completed => Fate::Left,
                    Outcome::Interrupted | Outcome::Cancelled => Fate::Consumed,
                    // What people saw of the answer stays; trying again would answer twice.
                    Outcome::Failed if open.said > 0 => Fate::Consumed,
                    Outcome::Failed | Outcome::Refused if input => Fate::Returned,
                    Outcome::Failed | Outcome::Refused => Fate::Left,
                };
                InputFate {
                    message: pending.message.clone(),
                    fate,
                }
            })
            .collect()
    }
}

impl Pending {
    fn is_due(&self, now: Time) -> bool {
        self.fresh && self.not_before <= now && self.deliveries < DELIVERIES_MAX
    }
}

fn position(participant: &Participant, message: &MessageId) -> Option<usize> {
    // Seqs grow along the queue, so a long mailbox costs a search of log n.
    let at = participant
        .pending
        .binary_search_by_key(&message.seq(), |pending| pending.message.seq())
        .ok()?;
    (participant.pending[at].message == *message).then_some(at)
}

/// Length of a message body as an agent reads it: the text itself, or the JSON as text.
fn body_bytes(body: &serde_json::Value) -> u32 {
    let bytes = body
        .as_str()
        .map_or_else(|| body.to_string().len(), str::len);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
