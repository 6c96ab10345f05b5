//! What people do to a session: open it, send, interrupt, write a slot, end it.
//!
//! Each is one decision under the session's lock. Nothing here waits: what is
//! answered outside is made durable first by whoever answers.

//!
//! - here: the session itself and who takes part.
//! - `messages`: posting and taking back. `turns`: interrupting, and letting an agent have turns again.
//! - `slots`: writing from outside. `questions`: answering what agents ask.

mod messages;
pub(in crate::session) mod questions;
mod slots;
mod turns;

use crate::budgets::Exhausted;
use crate::id::{AgentName, MessageId, Seq, TurnId};
use crate::journal::entry::{
    CalledBy, Idempotency, MessageSetAside, Outcome, Payload, Recounted, SessionChange,
    SessionChanged, SessionOpened, SessionOpenedPrivate,
};
use crate::journal::state::Phase;
use crate::ledger::{AppendError, Batch, Dead, Ledger};

pub(super) use messages::Wait;
pub use messages::{NewMessage, Posted, came, cancel, idempotency, post};
pub use questions::{Answered, NewAnswer, With, answer};
pub use slots::put_slot;
pub use turns::{interrupt, resume};

use turns::cut;

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
    #[error("the agent is suspended: {0}")]
    Suspended(String),
    #[error("the agent is not suspended")]
    NotSuspended,
    /// Nobody can end that but what it waits for.
    #[error("the agent is not suspended but waits, and goes on by itself: {0}")]
    Waits(String),
    #[error(transparent)]
    BudgetExhausted(Exhausted),
    #[error("the idempotency key was used with another body")]
    KeyReused,
    #[error("{what}: {limit} is the most")]
    Full { what: &'static str, limit: usize },
    #[error("the message is longer than {0} bytes")]
    TooLarge(usize),
    /// It was never asked, is answered, or its turn waits no more.
    #[error("the question is not open")]
    NotAsked,
    /// These were given; none if any text would do.
    #[error("the answer is none of the choices")]
    NotAChoice(Vec<String>),
    #[error("the slot is locked by {0}")]
    SlotLocked(TurnId),
    #[error("the slot's version is {0:?}, not the one given")]
    VersionMismatch(Option<Seq>),
    #[error("the slot exists: say which version is replaced")]
    VersionRequired(Seq),
    /// Whoever sent it goes on from what it was before.
    #[error("the session was sent another message first")]
    Overtaken,
    /// The machine has no randomness.
    #[error("what the caller forwards cannot be sealed: {0}")]
    Unsealed(String),
    #[error(transparent)]
    Dead(#[from] Dead),
}

/// Idempotency keys a session remembers at once.
const KEYS_MAX: usize = 10_000;

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
    /// The turn of this host that it is opened for.
    pub called_by: Option<CalledBy>,
    pub idempotency: Option<Idempotency>,
    /// What was said before, oldest first.
    pub recounted: Vec<Recounted>,
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
        called_by: new.called_by.clone(),
        private: SessionOpenedPrivate {
            secret: fresh_secret(),
            idempotency: new.idempotency,
        },
    }));
    for recounted in &new.recounted {
        batch.push(Payload::Recounted(recounted.clone()));
    }
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
