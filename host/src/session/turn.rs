//! One turn: from `turn-started` through its instance to `turn-ended`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::agents::Version;
use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId, Seq, TurnId};
use crate::journal::entry::{
    Cause, Failure, Outcome, Payload, Pinned, Retried, RetryReason, TurnError, TurnStarted,
};
use crate::journal::state::{Pending, State};
use crate::ledger::AppendError;
use crate::runtime::cpu::Cpu;
use crate::runtime::instance::{Exit, Input};
use crate::runtime::limits::TurnLimits;
use crate::runtime::random::Seeds;
use crate::runtime::replay::Replay;
use crate::runtime::scope::{Http, Record, Scope, TurnClock, TurnOutput};
use crate::telemetry::{Stage, UnderWay};

use super::nested::Nested;
use super::recovery::{End, end_turn};
use super::rules::Rules;
use super::told;
use super::{Session, Sessions};

/// A wake-up is not sooner than this after the turn that asked for it, so that no agent
/// keeps the host busy with nothing.
pub(super) const WAKE_MS_MIN: u64 = 100;

/// Characters that say how a replay differs: an entry and an excerpt of each side.
const DIFFERS_CHARS_MAX: usize = 500;

/// A turn that is written down and whose instance does not run yet.
pub(super) struct Started {
    pub(super) turn: TurnId,
    agent: AgentName,
    run: RunId,
    parent: Option<TurnId>,
    depth: u32,
    deadline: Option<Time>,
    /// The message that an authorization came with.
    authorized: Option<MessageId>,
    seq: Seq,
    at: Time,
    causes: Vec<Cause>,
    messages: Vec<Pending>,
    /// None if it is no longer known: the turn cannot go on.
    version: Option<Arc<Version>>,
    limits: TurnLimits,
    attempt: Attempt,
}

enum Attempt {
    First,
    /// Taken up again after the host was lost, or after it was put aside.
    Again {
        number: u32,
        ran_ms: u64,
    },
}

struct NothingDue;

/// Write the turn down with everything that is due for the agent; none if nothing is, or if something
/// is missing that its turns need.
pub(super) fn begin(
    sessions: &Sessions,
    session: &Session,
    agent: &AgentName,
    version: Arc<Version>,
) -> Option<Started> {
    let fresh = RunId::fresh();
    let parts = &sessions.0.parts;
    let limits = parts.agents.limits(&version, &parts.limits);
    let rules = Rules::of(&version, sessions, &session.journal.tenant);
    let begun = session.ledger.append(None, |batch| {
        let state = batch.state();
        // Since somebody looked, a slot may have been locked: whoever looks next says so.
        if rules.missing(state).is_some() {
            return Err(NothingDue);
        }
        let due = state.due(agent, batch.now(), &rules.batching);
        let due = due.ok_or(NothingDue)?;
        let run = due.run.unwrap_or(fresh);
        let turn = TurnId::of(&run, batch.state().next_index(&run), agent);
        let messages = inputs(batch.state(), agent, &due.inputs);
        let pinned = Pinned {
            component: version.component.to_string(),
            version: version.number,
            limits: limits.pinned(),
        };
        let seq = batch.push(Payload::TurnStarted(TurnStarted {
            turn: turn.clone(),
            run: run.clone(),
            parent: due.parent.clone(),
            agent: agent.clone(),
            inputs: due.inputs,
            causes: due.causes.clone(),
            attempt: 1,
            private: pinned,
        }));
        Ok::<_, NothingDue>(Started {
            turn,
            agent: agent.clone(),
            parent: due.parent,
            depth: batch.state().depth(&run),
            deadline: messages.iter().find_map(deadline),
            authorized: messages.iter().find_map(authorized),
            run,
            seq,
            at: batch.state().time,
            causes: due.causes,
            messages,
            version: Some(version.clone()),
            limits,
            attempt: Attempt::First,
        })
    });
    begun.ok()
}

/// The turn as it was started by an older process, or by a driver that was lost. None if it is
/// over.
pub(super) fn again(sessions: &Sessions, session: &Session, turn: &TurnId) -> Option<Started> {
    let agents = &sessions.0.parts.agents;
    session.ledger.look(|state| {
        let open = state.turns.get(turn)?;
        let pinned = &open.pinned;
        let messages = inputs(state, &open.agent, &open.inputs);
        Some(Started {
            turn: turn.clone(),
            agent: open.agent.clone(),
            run: open.run.clone(),
            parent: open.parent.clone(),
            depth: open.depth,
            deadline: open.bus.as_ref().and_then(|bus| bus.deadline),
            seq: open.started,
            at: open.started_at,
            causes: open.causes(),
            authorized: messages.iter().find_map(authorized),
            messages,
            version: agents.pinned(&session.journal.tenant, &open.agent, pinned.version),
            limits: TurnLimits::of_pinned(&pinned.limits),
            attempt: Attempt::Again {
                number: open.attempt + 1,
                ran_ms: open.ran_ms(),
            },
        })
    })
}

fn deadline(pending: &Pending) -> Option<Time> {
    pending.bus.as_ref()?.deadline
}

fn authorized(pending: &Pending) -> Option<MessageId> {
    let is_authorized = pending.bus.as_ref()?.authorized;
    is_authorized.then(|| pending.message.clone())
}

pub(super) fn inputs(state: &State, agent: &AgentName, inputs: &[MessageId]) -> Vec<Pending> {
    let pending = state.participants.get(agent).into_iter();
    pending
        .flat_map(|participant| &participant.pending)
        .filter(|pending| inputs.contains(&pending.message))
        .cloned()
        .collect()
}

/// Run the instance and write down how it ended.
pub(super) async fn run(sessions: Sessions, session: Arc<Session>, started: Started) {
    let turn = started.turn.clone();
    let supervision = started.version.as_ref().map(|it| it.config.supervision);
    let mut end = match execute(&sessions, &session, started).await {
        Exit::Completed { wake_at, context } => {
            let soonest = sessions.now().plus_ms(WAKE_MS_MIN);
            let mut end = End::of(Outcome::Completed);
            end.private.context = context;
            end.wake_at = wake_at.map(|at| at.max(soonest));
            end
        }
        Exit::Failed {
            error,
            backtrace,
            stderr,
        } => {
            let mut end = End::failed(error.code, error.message);
            end.private.backtrace = backtrace;
            end.private.stderr = stderr;
            end
        }
        Exit::Differs {
            differs,
            backtrace,
            stderr,
        } => {
            // The guest chose part of these words.
            let message = differs
                .to_string()
                .chars()
                .take(DIFFERS_CHARS_MAX)
                .collect();
            let mut end = End::failed(Failure::Nondeterminism, message);
            end.private.backtrace = backtrace;
            end.private.stderr = stderr;
            end
        }
        // Whoever ended the turn wrote its end; a dead ledger takes no more entries.
        // So is a turn that is put aside open as it is: whoever answers has it taken up again.
        Exit::Over | Exit::Aside | Exit::Dead(_) => return,
    };
    end.supervision = supervision.unwrap_or_default();
    let ended = session.ledger.append(Some(&turn), |batch| {
        end_turn(batch, &turn, end);
        Ok::<_, std::convert::Infallible>(())
    });
    if let Err(AppendError::Dead(dead)) = ended {
        tracing::debug!(%turn, %dead, "the end of a turn was not written");
        return;
    }
    session.ledger.flush();
}

async fn execute(sessions: &Sessions, session: &Session, started: Started) -> Exit {
    let parts = &sessions.0.parts;
    let admission = Stage::Admission.begin();
    let tenant = &session.journal.tenant;
    // Before it takes a place: a tenant whose minute is used up keeps none from others.
    let own = sessions.quotas(tenant).cpu_minute_ms_max;
    let minute = parts.minutes.of(tenant, own);
    if minute.is_used_up() {
        let _waiting = sessions.0.turns.waits(tenant);
        minute.allowed(Duration::ZERO).await;
    }
    let bounds = sessions.bounds(tenant);
    let _place = sessions.0.turns.take(tenant, started.depth, bounds).await;
    let _running = UnderWay::turn();
    if started.deadline.is_some_and(|at| at <= sessions.now()) {
        return too_late();
    }
    let Some(version) = started.version.clone() else {
        return not_loaded("the version that the turn was started with is gone");
    };
    let loaded = match parts
        .instances
        .load(&parts.agents, &session.journal.tenant, &version)
        .await
    {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(agent = %started.agent, %error, "a deployed component cannot be loaded");
            return not_loaded("the agent's component cannot be loaded");
        }
    };
    let (record, ran_ms) = match prepare(sessions, session, &started).await {
        Ok(prepared) => prepared,
        Err(exit) => return exit,
    };
    let told = match told::of(&session.ledger, &started.messages).await {
        Ok(told) => told,
        Err(error) => {
            tracing::error!(turn = %started.turn, %error, "what a turn is told cannot be read");
            return not_loaded("what the turn is told cannot be read");
        }
    };
    let tenant = session.journal.tenant.clone();
    let (context, seeds) = session.ledger.look(|state| {
        let context = state
            .participants
            .get(&started.agent)
            .map(|participant| participant.context.clone());
        let seeds = Seeds::of(&state.secret, &started.turn);
        (context.unwrap_or_default(), seeds)
    });
    let watches = {
        let (agents, tenant) = (parts.agents.clone(), tenant.clone());
        Arc::new(move |agent: &AgentName, slot: &_| agents.watches(&tenant, agent, slot))
    };
    let http = Http::new(
        parts.egress.clone(),
        version.config.http.clone(),
        parts.secrets.of(&tenant),
    );
    let scope = Scope {
        tenant,
        session: session.journal.session.clone(),
        turn: started.turn,
        run: started.run,
        parent: started.parent,
        depth: started.depth,
        deadline: started.deadline,
        authorized: started.authorized,
        told,
        has_called_tools: AtomicBool::new(false),
        credential: OnceCell::new(),
        peers: Some(Arc::new(Nested {
            sessions: sessions.clone(),
            tenant: session.journal.tenant.clone(),
        })),
        agent: started.agent,
        started: started.seq,
        ran_ms,
        ledger: session.ledger.clone(),
        limits: started.limits,
        environment: version.config.variables(),
        models: parts.models.clone(),
        http,
        model_names: version.config.model_names(),
        budget: version.config.budget,
        budgets: parts.budgets.clone(),
        policy: version.config.policy.clone(),
        batching: version.config.batching,
        may_speak: version.config.grants().contains("reply"),
        watches,
        logs: parts.logs.clone(),
        clock: TurnClock::start(started.at),
        cpu: Cpu::start_for(minute),
        output: TurnOutput::default(),
        calls: AtomicU64::new(0),
        written: AtomicU64::new(0),
        record,
    };
    admission.is_over();
    let deadline = scope.deadline;
    let input = Input {
        causes: started.causes,
        messages: started.messages,
        context,
        seeds,
    };
    let exit = loaded.start(Arc::new(scope), input);
    let Some(deadline) = deadline else {
        return exit.await;
    };
    let left = Duration::from_millis(deadline.ms_since(sessions.now()));
    match tokio::time::timeout(left, exit).await {
        Ok(exit) => exit,
        Err(_) => too_late(),
    }
}

/// Whoever caused the turn waits for it no longer.
fn too_late() -> Exit {
    let message = "the time that its caller gave it is up".to_owned();
    failed(Failure::CallerDeadline, message)
}

fn not_loaded(message: &str) -> Exit {
    failed(Failure::Component, message.to_owned())
}

fn failed(code: Failure, message: String) -> Exit {
    Exit::Failed {
        error: TurnError { code, message },
        backtrace: None,
        stderr: None,
    }
}

/// What must be written down and durable before the guest is entered, and what it is answered from.
/// A host that stopped uncleanly may have been taken down by this very turn, and so may one
/// that takes it up again: each attempt is known before it begins.
async fn prepare(
    sessions: &Sessions,
    session: &Session,
    started: &Started,
) -> Result<(Record, u64), Exit> {
    let parts = &sessions.0.parts;
    let ledger = &session.ledger;
    let Attempt::Again { number, ran_ms } = started.attempt else {
        if parts.unclean {
            ledger.durable(started.seq).await.map_err(Exit::Dead)?;
        }
        return Ok((Record::default(), 0));
    };
    let begun = ledger.append(None, |batch| {
        let open = batch.state().turns.get(&started.turn);
        let open = open.filter(|open| open.attempt + 1 == number && open.question.is_none());
        let open = open.ok_or(())?;
        let reason = if open.is_aside {
            RetryReason::Answered
        } else if parts.unclean || open.is_since(sessions.0.started_at) {
            RetryReason::HostLost
        } else {
            RetryReason::HostStopped
        };
        Ok(batch.push(Payload::Retried(Retried {
            turn: started.turn.clone(),
            n: None,
            attempt: number,
            reason,
            detail: None,
        })))
    });
    let seq = match begun {
        Ok(seq) => seq,
        Err(AppendError::Refused(())) => return Err(Exit::Over),
        Err(AppendError::Dead(dead)) => return Err(Exit::Dead(dead)),
    };
    ledger.durable(seq).await.map_err(Exit::Dead)?;
    let start = Instant::now();
    let entries = ledger.read(started.seq, seq).await.map_err(|error| {
        tracing::error!(turn = %started.turn, %error, "what a turn did cannot be read");
        not_loaded("what the turn did cannot be read")
    })?;
    let replay = Replay::of(&started.turn, entries);
    Ok((Record::of(replay, start), ran_ms))
}
