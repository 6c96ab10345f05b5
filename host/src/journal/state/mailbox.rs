//! Messages in the fold: received, sent, taken, given back, set aside.

use serde::{Deserialize, Serialize};

use crate::bus;
use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, RunId, TurnId};
use crate::journal::entry::{
    CalledBy, Entry, Fate, InputFate, MessageReceived, MessageSent, MessageSetAside, Outcome,
};

use super::{Participant, State};

/// A message that a turn failed on waits this long, doubled with each delivery.
pub const REDELIVERY_MS: u64 = 1_000;

/// After so many deliveries a message is set aside.
pub const DELIVERIES_MAX: u32 = 3;

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
    /// What its sender's runtime said about the call.
    pub bus: Option<bus::Context>,
    pub called_by: Option<CalledBy>,
    pub invoked: bool,
    /// Of the system text that came with it.
    pub instructions: Option<Digest>,
    /// Its sender offers tools to call.
    pub has_tools: bool,
    /// No completed turn has seen it: by itself a cause for a turn.
    pub fresh: bool,
    pub deliveries: u32,
    /// Not given to a turn before this time.
    pub not_before: Time,
}

impl Pending {
    /// Whoever sent it has the outcome, or has given up waiting: no second turn gets it.
    fn is_once(&self) -> bool {
        let deadline = self.bus.as_ref().and_then(|bus| bus.deadline);
        self.invoked || deadline.is_some()
    }

    /// Its entry has what a turn is told beside its messages.
    pub fn is_instructed(&self) -> bool {
        self.has_tools || self.instructions.is_some()
    }

    /// No other message is in its turn: it is of its sender's run, or has its sender's tools, and nobody else's turn may
    /// use them.
    pub(super) fn is_alone(&self) -> bool {
        self.run.is_some() || self.has_tools
    }

    /// Another agent's turn called, on this host or another one.
    pub fn is_nested(&self) -> bool {
        self.bus.as_ref().is_some_and(|bus| bus.depth > 0)
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.fresh && self.not_before <= now && self.deliveries < DELIVERIES_MAX
    }
}

impl Participant {
    /// What becomes of a message after a turn. Answers the run that no longer holds it, if any.
    pub(super) fn settle(&mut self, input: &InputFate, now: Time) -> Option<RunId> {
        let at = position(self, &input.message)?;
        match input.fate {
            Fate::Consumed => return self.pending.remove(at)?.run,
            Fate::Left => self.pending[at].fresh = false,
            Fate::Returned => {
                let pending = &mut self.pending[at];
                let wait = REDELIVERY_MS << pending.deliveries.min(16);
                pending.deliveries += 1;
                pending.not_before = now.plus_ms(wait);
            }
        }
        None
    }
}

impl State {
    pub(super) fn message_received(
        &mut self,
        entry: &Entry,
        received: &MessageReceived,
    ) -> Result<(), &'static str> {
        if !self.participants.contains_key(&received.to) {
            return Err("the agent takes no part");
        }
        if received.message.seq() != entry.seq {
            return Err("its id is not its number");
        }
        if let Some(idempotency) = received.private.idempotency
            && self.remembered(&idempotency.key, entry.time).is_some()
        {
            return Err("its idempotency key is taken");
        }
        let bus = received.private.bus.clone();
        if let Some(bus) = &bus {
            self.hold_foreign(&bus.run, bus.depth, entry.seq);
            self.has_left(&bus.run, bus.left_micros);
        }
        self.newest_received = entry.seq;
        self.has_unechoed |= received.private.echo.is_none();
        let participant = self.participant_mut(&received.to)?;
        participant.pending.push_back(Pending {
            message: received.message.clone(),
            sender: Sender::Person(received.author.clone()),
            bytes: body_bytes(&received.body),
            received_at: entry.time,
            run: bus.as_ref().map(|bus| bus.run.clone()),
            bus,
            called_by: received.called_by.clone(),
            invoked: received.private.invoked,
            instructions: received
                .private
                .instructions
                .as_ref()
                .map(|text| Digest::of(text.as_bytes())),
            has_tools: !received.private.tools.is_empty(),
            fresh: true,
            deliveries: 0,
            not_before: Time(0),
        });
        if let Some(idempotency) = received.private.idempotency {
            self.remember(entry, idempotency);
        }
        Ok(())
    }

    pub(super) fn message_sent(
        &mut self,
        entry: &Entry,
        sent: &MessageSent,
    ) -> Result<(), &'static str> {
        if !self.participants.contains_key(&sent.to) {
            return Err("the agent takes no part");
        }
        if sent.message.seq() != entry.seq {
            return Err("its id is not its number");
        }
        self.must_be_of(&sent.turn, &sent.from)?;
        let run = self.call(&sent.turn, sent.n)?.run.clone();
        self.hold(&run);
        let pending = Pending {
            message: sent.message.clone(),
            sender: Sender::Agent(sent.from.clone()),
            bytes: body_bytes(&sent.body),
            received_at: entry.time,
            run: Some(run),
            bus: None,
            called_by: None,
            invoked: false,
            instructions: None,
            has_tools: false,
            fresh: true,
            deliveries: 0,
            not_before: Time(0),
        };
        self.participant_mut(&sent.to)?.pending.push_back(pending);
        Ok(())
    }

    pub(super) fn message_set_aside(
        &mut self,
        aside: &MessageSetAside,
    ) -> Result<(), &'static str> {
        let participant = self.participant_mut(&aside.agent)?;
        let at = position(participant, &aside.message).ok_or("no such message waits")?;
        let run = participant
            .pending
            .remove(at)
            .and_then(|pending| pending.run);
        self.release(run.as_ref());
        Ok(())
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
                    _ if pending.is_once() && input => Fate::Consumed,
                    Outcome::Completed if pulled => Fate::Consumed,
                    Outcome::Completed => Fate::Left,
                    Outcome::Interrupted | Outcome::Cancelled => Fate::Consumed,
                    // What people saw of the answer stays; trying again would answer twice.
                    Outcome::Failed if open.has_shown() => Fate::Consumed,
                    // Fresh and no input: it joined the turn that ran.
                    Outcome::Failed | Outcome::Refused if input || pending.fresh => Fate::Returned,
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

pub(super) fn position(participant: &Participant, message: &MessageId) -> Option<usize> {
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
