//! Messages from outside: posting them, and taking them back.

use serde_json::Value;

use crate::bus::{self, Authorization};
use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, Seq, SessionId, TenantId, TurnId};
use crate::journal::entry::{
    CalledBy, Idempotency, MessageReceived, MessageReceivedPrivate, MessageSetAside, Outcome,
    Payload, Tool,
};
use crate::journal::state::{Phase, Policy, State};
use crate::ledger::{Batch, Ledger};
use crate::session::{Sessions, authorization};
use crate::telemetry::{self, Limit};

use super::turns::{cut, interrupt_in};
use super::{CommandError, KEYS_MAX, NewSession, Result, append, must_be_open, open_in};

/// What a message carries into a session.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    pub author: Author,
    /// None for the entry agent.
    pub to: Option<AgentName>,
    pub body: Value,
    pub idempotency: Option<Idempotency>,
    /// Refused if the session was sent another message after this entry.
    pub after: Option<Seq>,
    /// The caller waits for the turn.
    pub invoked: bool,
    /// What the caller's runtime said about the call.
    pub bus: Option<bus::Context>,
    /// The turn of this host that makes the call.
    pub called_by: Option<CalledBy>,
    /// What the caller forwards: kept sealed until the message is done with.
    pub authorization: Option<Authorization>,
    /// System text for the turn that takes it.
    pub instructions: Option<String>,
    /// Tools that the caller offers to call.
    pub tools: Vec<Tool>,
    /// What the caller's protocol wants told again with the answer.
    pub echo: Option<Value>,
}

/// A message that is in the journal, though perhaps not durable yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    pub message: MessageId,
    pub seq: Seq,
    /// The same key and body came before: this is that message.
    pub replayed: bool,
}

/// Put a message into the mailbox of an agent. With `new`, the session is opened first if it is not.
pub fn post(
    sessions: &Sessions,
    ledger: &Ledger,
    new: Option<&NewSession>,
    message: NewMessage,
) -> Result<Posted> {
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
        let newest = batch.state().newest_received;
        if message.after.is_some_and(|after| newest > after) {
            return Err(CommandError::Overtaken);
        }
        let takes_part = match batch.state().phase {
            Phase::Absent => new.is_some_and(|new| new.agents.contains(&to)),
            Phase::Open | Phase::Ended => batch.state().participants.contains_key(&to),
        };
        if !takes_part {
            return Err(CommandError::AgentNotInSession);
        }
        let wait = Wait {
            agent: &to,
            bus: message.bus.as_ref(),
            invoked: message.invoked,
        };
        wait.may_begin(
            sessions,
            &batch.journal().tenant,
            batch.state(),
            batch.now(),
        )?;
        if message.idempotency.is_some() && batch.state().remembered_len(batch.now()) >= KEYS_MAX {
            let what = "too many idempotency keys in this session within a day";
            return Err(CommandError::Full {
                what,
                limit: KEYS_MAX,
            });
        }
        let sealing = message.authorization.as_ref();
        let sealed = |id: &MessageId| {
            let tenant = &ledger.journal().tenant;
            let sealed = sealing.map(|it| authorization::seal(sessions, tenant, id, it));
            sealed
                .transpose()
                .map_err(|error| CommandError::Unsealed(error.to_string()))
        };
        // An id from before the session is opened tells whether sealing works at all.
        sealed(&MessageId::of(&batch.journal().session, batch.next_seq()))?;
        if let Some(new) = new {
            open_in(batch, new)?;
        }
        let interrupted = interrupted(sessions, batch, &to);
        let id = MessageId::of(&batch.journal().session, batch.next_seq());
        if let Some(sealed) = sealed(&id)? {
            batch.keep_sealed(&id, sealed);
        }
        let seq = batch.push(Payload::MessageReceived(MessageReceived {
            message: id.clone(),
            author: message.author.clone(),
            to: to.clone(),
            body: message.body,
            called_by: message.called_by,
            private: MessageReceivedPrivate {
                idempotency: message.idempotency,
                invoked: message.invoked,
                bus: message.bus,
                instructions: message.instructions,
                tools: message.tools,
                echo: message.echo,
            },
        }));
        if let Some(turn) = interrupted {
            interrupt_in(batch, turn, to, message.author, Some(id.clone()));
        }
        Ok(Posted {
            message: id,
            seq,
            replayed: false,
        })
    })
}

/// A message that would wait for an agent.
pub(in crate::session) struct Wait<'a> {
    pub(in crate::session) agent: &'a AgentName,
    pub(in crate::session) bus: Option<&'a bus::Context>,
    /// The caller waits for the turn.
    pub(in crate::session) invoked: bool,
}

impl Wait<'_> {
    /// Refuse what the session would not take.
    pub(in crate::session) fn check(
        &self,
        sessions: &Sessions,
        tenant: &TenantId,
        state: &State,
        now: Time,
    ) -> Result<()> {
        if !state.participants.contains_key(self.agent) {
            return Err(CommandError::AgentNotInSession);
        }
        self.may_begin(sessions, tenant, state, now)
    }

    /// Refuse what would only wait.
    fn may_begin(
        &self,
        sessions: &Sessions,
        tenant: &TenantId,
        state: &State,
        now: Time,
    ) -> Result<()> {
        within_budget(sessions, tenant, state, now, self)?;
        let participant = state.participants.get(self.agent);
        if let Some(suspension) = participant.and_then(|it| it.suspended.as_ref())
            && self.invoked
            && !suspension.until_ready
        {
            // Its caller would wait for somebody to resume the agent.
            return Err(CommandError::Suspended(suspension.reason.clone()));
        }
        let waiting = participant.map_or(0, |it| it.pending.len());
        let limit = sessions.limits().mailbox_messages_max;
        if waiting >= limit {
            telemetry::hit(Limit::MailboxMessages);
            return Err(CommandError::Full {
                what: "the mailbox is full",
                limit,
            });
        }
        Ok(())
    }
}

/// No turn of the agent may begin, by its configuration as it is now. Of a run that has been here, or whose caller is
/// bound, the run's cap counts too.
fn within_budget(
    sessions: &Sessions,
    tenant: &TenantId,
    state: &State,
    now: Time,
    wait: &Wait<'_>,
) -> Result<()> {
    let (agent, bus) = (wait.agent, wait.bus);
    let version = sessions.agents().active(tenant, agent);
    let budget = version.map(|it| it.config.budget).unwrap_or_default();
    let session_micros = state.spent().total.spent_micros();
    let own = match bus {
        None => budget.check_session(session_micros),
        Some(bus) => {
            let run_micros = state.run_micros(&bus.run);
            let left = bus.left_micros.map(|left| run_micros.saturating_add(left));
            budget.within(left).check(session_micros, run_micros)
        }
    };
    own.and_then(|()| sessions.budgets().check_tenant(tenant, now))
        .map_err(CommandError::BudgetExhausted)
}

/// The agent's turn that a person's message ends, by the configuration that the turn runs with.
fn interrupted(sessions: &Sessions, batch: &Batch<'_>, agent: &AgentName) -> Option<TurnId> {
    let turn = batch.state().participants.get(agent)?.turn.as_ref()?;
    let open = batch.state().turns.get(turn)?;
    let tenant = &batch.journal().tenant;
    let version = sessions
        .agents()
        .pinned(tenant, agent, open.pinned.version)?;
    (version.config.batching.policy == Policy::Interrupt && !open.interrupted).then(|| turn.clone())
}

/// The message that the key stands for, if it was used in the session.
pub fn came(ledger: &Ledger, idempotency: Idempotency, now: Time) -> Result<Option<Posted>> {
    let session = &ledger.journal().session;
    ledger.look(|state| known(state, session, idempotency, now))
}

fn replayed(batch: &Batch<'_>, idempotency: Option<Idempotency>) -> Result<Option<Posted>> {
    let Some(idempotency) = idempotency else {
        return Ok(None);
    };
    let session = &batch.journal().session;
    known(batch.state(), session, idempotency, batch.now())
}

fn known(
    state: &State,
    session: &SessionId,
    idempotency: Idempotency,
    now: Time,
) -> Result<Option<Posted>> {
    let Idempotency { key, body } = idempotency;
    let Some(remembered) = state.remembered(&key, now) else {
        return Ok(None);
    };
    if remembered.body != body {
        return Err(CommandError::KeyReused);
    }
    let message = MessageId::of(session, remembered.message);
    Ok(Some(Posted {
        message,
        seq: remembered.message,
        replayed: true,
    }))
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

/// The digests of an idempotency key and what it was used with, for one target of one tenant.
pub fn idempotency(tenant: &str, target: &str, key: &str, body: &[u8]) -> Idempotency {
    Idempotency {
        key: Digest::of_parts(&[tenant.as_bytes(), target.as_bytes(), key.as_bytes()]),
        body: Digest::of(body),
    }
}
