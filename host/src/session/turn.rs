//! One turn: from `turn-started` through its instance to `turn-ended`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crate::agents::Version;
use crate::clock::Time;
use crate::id::{AgentName, RunId, Seq, TurnId};
use crate::journal::entry::{
    Cause, Failure, Outcome, Payload, Pinned, TurnEndedPrivate, TurnError, TurnStarted,
};
use crate::journal::state::Pending;
use crate::ledger::AppendError;
use crate::runtime::instance::{Exit, Input};
use crate::runtime::limits::Cpu;
use crate::runtime::scope::{Scope, TurnClock, TurnOutput};
use crate::telemetry::Stage;

use super::recovery::end_turn;
use super::{Session, Sessions};

/// A wake-up is not sooner than this after the turn that asked for it, so that no agent
/// keeps the host busy with nothing.
const WAKE_MS_MIN: u64 = 100;

/// A turn that is written down and whose instance does not run yet.
pub(super) struct Started {
    pub(super) turn: TurnId,
    agent: AgentName,
    run: RunId,
    seq: Seq,
    at: Time,
    causes: Vec<Cause>,
    messages: Vec<Pending>,
    version: Arc<Version>,
}

struct NothingDue;

/// Write the turn down with everything that is due for the agent; none if nothing is.
pub(super) fn begin(
    session: &Session,
    agent: &AgentName,
    version: Arc<Version>,
) -> Option<Started> {
    let fresh = RunId::fresh();
    let begun = session.ledger.append(None, |batch| {
        let messages_max = version.config.batching.messages_max;
        let due = batch
            .state()
            .due(agent, batch.now(), messages_max)
            .ok_or(NothingDue)?;
        let run = due.run.unwrap_or(fresh);
        let turn = TurnId::of(&run, batch.state().next_index(&run), agent);
        let pending = &batch.state().participants[agent].pending;
        let messages = pending
            .iter()
            .filter(|pending| due.inputs.contains(&pending.message))
            .cloned()
            .collect();
        let pinned = Pinned {
            component: version.component.to_string(),
            version: version.number,
        };
        let seq = batch.push(Payload::TurnStarted(TurnStarted {
            turn: turn.clone(),
            run: run.clone(),
            parent: None,
            agent: agent.clone(),
            inputs: due.inputs,
            causes: due.causes.clone(),
            attempt: 1,
            private: pinned,
        }));
        let at = batch.state().time;
        let (agent, causes, version) = (agent.clone(), due.causes, version.clone());
        Ok::<_, NothingDue>(Started {
            turn,
            agent,
            run,
            seq,
            at,
            causes,
            messages,
            version,
        })
    });
    begun.ok()
}

/// Run the instance and write down how it ended.
pub(super) async fn run(sessions: Sessions, session: Arc<Session>, started: Started) {
    let turn = started.turn.clone();
    let exit = execute(&sessions, &session, started).await;
    let (outcome, error, private, wake_at) = match exit {
        Exit::Completed { wake_at, context } => {
            let private = TurnEndedPrivate {
                context,
                ..TurnEndedPrivate::default()
            };
            let soonest = sessions.now().plus_ms(WAKE_MS_MIN);
            (
                Outcome::Completed,
                None,
                private,
                wake_at.map(|at| at.max(soonest)),
            )
        }
        Exit::Failed {
            error,
            backtrace,
            stderr,
        } => {
            let private = TurnEndedPrivate {
                backtrace,
                stderr,
                ..TurnEndedPrivate::default()
            };
            (Outcome::Failed, Some(error), private, None)
        }
        // Whoever ended the turn wrote its end; a dead ledger takes no more entries.
        Exit::Over | Exit::Dead(_) => return,
    };
    let ended = session.ledger.append(Some(&turn), |batch| {
        end_turn(batch, &turn, outcome, error, private, wake_at);
        Ok::<_, std::convert::Infallible>(())
    });
    if let Err(AppendError::Dead(dead)) = ended {
        tracing::debug!(%turn, %dead, "the end of a turn was not written");
        return;
    }
    session.ledger.flush();
}

/// Counts a turn that waits for a place, also if it is given up while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn start(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn execute(sessions: &Sessions, session: &Session, started: Started) -> Exit {
    let parts = &sessions.0.parts;
    let admitted = Instant::now();
    let waiting = Waiting::start(&sessions.0.turns_waiting);
    let Ok(_permit) = sessions.0.turns.acquire().await else {
        return Exit::Over;
    };
    drop(waiting);
    let Started {
        turn,
        agent,
        run,
        seq,
        at,
        causes,
        messages,
        version,
    } = started;
    let loaded = match parts.instances.load(&parts.agents, &version).await {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(%agent, %error, "a deployed component cannot be loaded");
            let message = "the agent's component cannot be loaded".to_owned();
            let error = TurnError {
                code: Failure::Component,
                message,
            };
            return Exit::Failed {
                error,
                backtrace: None,
                stderr: None,
            };
        }
    };
    if parts.unclean
        && let Err(dead) = session.ledger.durable(seq).await
    {
        return Exit::Dead(dead);
    }
    let tenant = session.journal.tenant.clone();
    let (context, secret) = session.ledger.look(|state| {
        let context = state
            .participants
            .get(&agent)
            .map(|participant| participant.context.clone());
        (context.unwrap_or_default(), state.secret.clone())
    });
    let watches = {
        let (agents, tenant) = (parts.agents.clone(), tenant.clone());
        Arc::new(move |agent: &AgentName, slot: &_| agents.watches(&tenant, agent, slot))
    };
    let scope = Scope {
        tenant,
        session: session.journal.session.clone(),
        turn,
        run,
        parent: None,
        agent,
        started: seq,
        ledger: session.ledger.clone(),
        limits: version.config.limits(&parts.limits),
        environment: version.config.environment.clone(),
        models: parts.models.clone(),
        model_names: version.config.model_names(),
        may_speak: version.config.grants().contains("reply"),
        watches,
        logs: parts.logs.clone(),
        clock: TurnClock::start(at),
        cpu: Cpu::start(),
        output: TurnOutput::default(),
        calls: AtomicU64::new(0),
    };
    Stage::Admission.took(admitted);
    let input = Input {
        causes,
        messages,
        context,
        secret,
    };
    loaded.start(Arc::new(scope), input).await
}
