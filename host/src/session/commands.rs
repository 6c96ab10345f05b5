//! What people do to a session: open it, send, interrupt, write a slot, end it.
//!
//! Each is one decision under the session's lock. Nothing here waits: what is
//! answered outside is made durable first by whoever answers.

use serde_json::Value;

use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, Seq, SlotName, TurnId};
use crate::journal::entry::{
    Idempotency, InterruptRequested, MessageReceived, MessageReceivedPrivate, MessageSetAside,
    Outcome, Payload, SessionChange, SessionChanged, SessionOpened, SessionOpenedPrivate,
    SlotCommitted, SlotCommittedPrivate, Writer,
};
use crate::journal::state::Phase;
use crate::ledger::{AppendError, Batch, Dead, Ledger};

use super::Sessions;
use super::recovery::{End, end_turn};

/// Idempotency keys a session remembers at once.
pub const KEYS_MAX: usize = 10_000;

/// Why a session did not do as it was told. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the session exists already and is another one")]
    Exists,
    #[error("the session is gone")]
    Gone,
    #[error("there is no such session")]
    NotFound,
    #[error("the agent takes no part in the session")]
    AgentNotInSession,
    #[error("the entry agent cannot leave the session")]
    EntryAgent,
    #[error("no turn of the agent is running")]
    Idle,
    #[error("the idempotency key was used with another body")]
    KeyReused,
    #[error("{what}: {limit} is the most")]
    Full { what: &'static str, limit: usize },
    #[error("the message is longer than {0} bytes")]
    TooLarge(usize),
    #[error("the slot is locked by {0}")]
    SlotLocked(TurnId),
    #[error("the slot's version is {0:?}, not the one given")]
    VersionMismatch(Option<Seq>),
    #[error("the slot exists: say which version is replaced")]
    VersionRequired(Seq),
    #[error(transparent)]
    Dead(#[from] Dead),
}

type Result<T> = std::result::Result<T, CommandError>;

fn append<T>(ledger: &Ledger, decide: impl FnOnce(&mut Batch<'_>) -> Result<T>) -> Result<T> {
    ledger.append(None, decide).map_err(|error| match error {
        AppendError::Dead(dead) => CommandError::Dead(dead),
        AppendError::Refused(error) => error,
    })
}

fn must_be_open(batch: &Batch<'_>) -> Result<()> {
    match batch.state().phase {
        Phase::Open => Ok(()),
        Phase::Absent => Err(CommandError::NotFound),
        Phase::Ended => Err(CommandError::Gone),
    }
}

/// What a session is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    pub agents: Vec<AgentName>,
    pub entry: AgentName,
    pub expires_after_ms: Option<u64>,
    pub idempotency: Option<Idempotency>,
}

/// What a message carries into a session.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    pub author: Author,
    /// None for the entry agent.
    pub to: Option<AgentName>,
    pub body: Value,
    pub idempotency: Option<Idempotency>,
    /// The caller waits for the turn.
    pub invoked: bool,
}

/// A message that is in the journal, though perhaps not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    pub message: MessageId,
    pub seq: Seq,
    /// The same key and body came before: this is that message.
    pub replayed: bool,
}

/// Open the session; false if it is open with the same participants already.
pub fn open(ledger: &Ledger, new: &NewSession) -> Result<bool> {
    append(ledger, |batch| open_in(batch, new))
}

fn open_in(batch: &mut Batch<'_>, new: &NewSession) -> Result<bool> {
    match batch.state().phase {
        Phase::Ended => return Err(CommandError::Gone),
        Phase::Open => {
            let opened = batch.state().opened.as_ref();
            let same = opened.is_some_and(|opened| {
                opened.agents == new.agents
                    && opened.entry == new.entry
                    && opened.expires_after_ms == new.expires_after_ms
            });
            return match (same, batch.state().opened_idempotency, new.idempotency) {
                (_, Some(old), Some(new)) if old.key == new.key && old.body != new.body => {
                    Err(CommandError::KeyReused)
                }
                (true, ..) => Ok(false),
                (false, ..) => Err(CommandError::Exists),
            };
        }
        Phase::Absent => {}
    }
    batch.push(Payload::SessionOpened(SessionOpened {
        agents: new.agents.clone(),
        entry: new.entry.clone(),
        expires_after_ms: new.expires_after_ms,
        private: SessionOpenedPrivate {
            secret: fresh_secret(),
            idempotency: new.idempotency,
        },
    }));
    Ok(true)
}

/// 256 bits, hex.
pub(super) fn fresh_secret() -> String {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the system has randomness");
    hex::encode(secret)
}

/// Add an agent; false if it takes part already.
pub fn add_agent(ledger: &Ledger, agent: &AgentName) -> Result<bool> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        if batch.state().participants.contains_key(agent) {
            return Ok(false);
        }
        let change = SessionChange::AgentAdded {
            agent: agent.clone(),
        };
        batch.push(Payload::SessionChanged(SessionChanged { change }));
        Ok(true)
    })
}

/// Remove an agent; its running turn is cancelled, and what waits for it is set aside: whoever
/// wrote it, or waits for the answer, is told.
pub fn remove_agent(ledger: &Ledger, agent: &AgentName) -> Result<()> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let participant = batch.state().participants.get(agent);
        let turn = participant
            .ok_or(CommandError::AgentNotInSession)?
            .turn
            .clone();
        if batch.state().entry_agent() == Some(agent) {
            return Err(CommandError::EntryAgent);
        }
        if let Some(turn) = turn {
            cut(batch, &turn, Outcome::Cancelled);
        }
        let waiting = batch.state().participants.get(agent).into_iter();
        let waiting: Vec<(MessageId, u32)> = waiting
            .flat_map(|participant| &participant.pending)
            .map(|pending| (pending.message.clone(), pending.deliveries))
            .collect();
        for (message, deliveries) in waiting {
            batch.push(Payload::MessageSetAside(MessageSetAside {
                message,
                agent: agent.clone(),
                reason: "the agent left the session".to_owned(),
                deliveries,
            }));
        }
        let change = SessionChange::AgentRemoved {
            agent: agent.clone(),
        };
        batch.push(Payload::SessionChanged(SessionChanged { change }));
        Ok(())
    })
}

/// End the session: running turns are cancelled, and nothing may follow.
pub fn delete(ledger: &Ledger) -> Result<()> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let turns: Vec<TurnId> = batch.state().turns.keys().cloned().collect();
        for turn in &turns {
            cut(batch, turn, Outcome::Cancelled);
        }
        batch.push(Payload::SessionChanged(SessionChanged {
            change: SessionChange::Deleted,
        }));
        Ok(())
    })
}

/// Put a message into the mailbox of an agent. With `new`, the session is opened first if it is not.
pub fn post(
    sessions: &Sessions,
    ledger: &Ledger,
    new: Option<&NewSession>,
    message: NewMessage,
) -> Result<Posted> {
    let limits = sessions.limits();
    append(ledger, |batch| {
        // All checks come before the first push, so that a refusal leaves nothing behind.
        let to = match batch.state().phase {
            Phase::Absent => {
                let new = new.ok_or(CommandError::NotFound)?;
                message.to.clone().unwrap_or_else(|| new.entry.clone())
            }
            Phase::Open => {
                let entry = batch.state().entry_agent().cloned();
                message
                    .to
                    .clone()
                    .or(entry)
                    .ok_or(CommandError::AgentNotInSession)?
            }
            Phase::Ended => return Err(CommandError::Gone),
        };
        if let Some(posted) = replayed(batch, message.idempotency)? {
            return Ok(posted);
        }
        let takes_part = match batch.state().phase {
            Phase::Absent => new.is_some_and(|new| new.agents.contains(&to)),
            Phase::Open | Phase::Ended => batch.state().participants.contains_key(&to),
        };
        if !takes_part {
            return Err(CommandError::AgentNotInSession);
        }
        let waiting = batch
            .state()
            .participants
            .get(&to)
            .map_or(0, |it| it.pending.len());
        if waiting >= limits.mailbox_messages_max {
            let limit = limits.mailbox_messages_max;
            return Err(CommandError::Full {
                what: "the mailbox is full",
                limit,
            });
        }
        if message.idempotency.is_some() && batch.state().remembered_len(batch.now()) >= KEYS_MAX {
            let what = "too many idempotency keys in this session within a day";
            return Err(CommandError::Full {
                what,
                limit: KEYS_MAX,
            });
        }
        if let Some(new) = new {
            open_in(batch, new)?;
        }
        let id = MessageId::of(&batch.journal().session, batch.next_seq());
        let seq = batch.push(Payload::MessageReceived(MessageReceived {
            message: id.clone(),
            author: message.author,
            to,
            body: message.body,
            private: MessageReceivedPrivate {
                idempotency: message.idempotency,
                invoked: message.invoked,
            },
        }));
        Ok(Posted {
            message: id,
            seq,
            replayed: false,
        })
    })
}

/// The message that the key stands for, if it was used.
fn replayed(batch: &Batch<'_>, idempotency: Option<Idempotency>) -> Result<Option<Posted>> {
    let Some(Idempotency { key, body }) = idempotency else {
        return Ok(None);
    };
    let Some(remembered) = batch.state().remembered(&key, batch.now()) else {
        return Ok(None);
    };
    if remembered.body != body {
        return Err(CommandError::KeyReused);
    }
    let message = MessageId::of(&batch.journal().session, remembered.message);
    Ok(Some(Posted {
        message,
        seq: remembered.message,
        replayed: true,
    }))
}

/// Stop an agent's turn at its last shown chunk. Answers the last entry.
pub fn interrupt(ledger: &Ledger, agent: Option<&AgentName>, by: Author) -> Result<Seq> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let agent = agent
            .or(batch.state().entry_agent())
            .cloned()
            .ok_or(CommandError::AgentNotInSession)?;
        let participant = batch.state().participants.get(&agent);
        let turn = participant
            .ok_or(CommandError::AgentNotInSession)?
            .turn
            .clone();
        let turn = turn.ok_or(CommandError::Idle)?;
        // Words not appended yet were shown to nobody.
        batch.drop_chunk(&turn);
        let requested = InterruptRequested {
            turn: turn.clone(),
            agent,
            by,
        };
        batch.push(Payload::InterruptRequested(requested));
        cut(batch, &turn, Outcome::Interrupted);
        Ok(batch.state().last)
    })
}

/// Take a message back: out of the mailbox, or by ending the turn that took it. False if it
/// is done with already.
pub fn cancel(ledger: &Ledger, message: &MessageId) -> Result<bool> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let state = batch.state();
        let holder = state.participants.iter().find_map(|(agent, participant)| {
            let pending = participant
                .pending
                .iter()
                .find(|pending| pending.message == *message)?;
            Some((agent.clone(), participant.turn.clone(), pending.deliveries))
        });
        let Some((agent, turn, deliveries)) = holder else {
            return Ok(false);
        };
        let taken = turn.filter(|turn| {
            state
                .turns
                .get(turn)
                .is_some_and(|open| open.inputs.contains(message) || open.pulled.contains(message))
        });
        match taken {
            Some(turn) => {
                cut(batch, &turn, Outcome::Cancelled);
            }
            None => {
                let (message, reason) = (message.clone(), "cancelled".to_owned());
                batch.push(Payload::MessageSetAside(MessageSetAside {
                    message,
                    agent,
                    reason,
                    deliveries,
                }));
            }
        }
        Ok(true)
    })
}

fn cut(batch: &mut Batch<'_>, turn: &TurnId, outcome: Outcome) {
    batch.drop_chunk(turn);
    end_turn(batch, turn, End::of(outcome));
}

/// Write a slot from outside. `version` is the one replaced: none if the slot is to be new.
pub fn put_slot(
    sessions: &Sessions,
    ledger: &Ledger,
    slot: &SlotName,
    by: Author,
    version: Option<Seq>,
    content: &str,
) -> Result<(Seq, Time)> {
    let limits = sessions.limits();
    if content.len() > limits.slot_bytes_max {
        return Err(CommandError::TooLarge(limits.slot_bytes_max));
    }
    append(ledger, |batch| {
        must_be_open(batch)?;
        let state = batch.state();
        let current = state.slots.get(slot);
        let newest = current
            .and_then(|it| it.document.as_ref())
            .map(|document| document.version);
        if let Some(holder) = current.and_then(|it| it.lock.clone()) {
            return Err(CommandError::SlotLocked(holder));
        }
        match (newest, version) {
            (Some(newest), None) => return Err(CommandError::VersionRequired(newest)),
            (newest, Some(version)) if newest != Some(version) => {
                return Err(CommandError::VersionMismatch(newest));
            }
            _ => {}
        }
        if current.is_none() && state.slots.len() >= limits.slots_max {
            return Err(CommandError::Full {
                what: "the session has enough slots",
                limit: limits.slots_max,
            });
        }
        let tenant = batch.journal().tenant.clone();
        let watches = |agent: &&AgentName| sessions.agents().watches(&tenant, agent, slot);
        let wakes = state.participants.keys().filter(watches).cloned().collect();
        let private = SlotCommittedPrivate {
            content: batch.content(content),
            wakes,
        };
        let version = batch.next_seq();
        batch.push(Payload::SlotCommitted(SlotCommitted {
            slot: slot.clone(),
            version,
            by: Writer::Author(by),
            bytes: content.len() as u64,
            turn: None,
            n: 0,
            private,
        }));
        batch.forget_old_texts();
        Ok((version, batch.state().time))
    })
}

/// The digests of an idempotency key and what it was used with, for one target of one tenant.
pub fn idempotency(tenant: &str, target: &str, key: &str, body: &[u8]) -> Idempotency {
    Idempotency {
        key: Digest::of_parts(&[tenant.as_bytes(), target.as_bytes(), key.as_bytes()]),
        body: Digest::of(body),
    }
}
