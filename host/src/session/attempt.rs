//! One run of a turn's instance: what it needs is gathered, it has a place while it runs, and it says how it ended.
//!
//! Invariant: what a guest is answered from is durable before the guest is entered, and so is every attempt that a host
//! may be lost with.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::agents::AgentKind;
use crate::clock::Time;
use crate::id::{AgentName, Seq};
use crate::journal::entry::{Failure, Payload, Retried, RetryReason, TurnError};
use crate::ledger::AppendError;
use crate::runtime::cpu::Cpu;
use crate::runtime::instance::{Exit, Input};
use crate::runtime::limits::TurnLimits;
use crate::runtime::random::Seeds;
use crate::runtime::replay::Replay;
use crate::runtime::scope::{Http, Kept, Record, Scope, TurnClock, TurnOutput};
use crate::telemetry::{self, Limit, Stage, UnderWay};

use super::nested::Nested;
use super::told;
use super::turn::{Attempt, Started};
use super::{Session, Sessions};

/// How a run of an instance ended.
pub(super) enum Ran {
    Over(Exit),
    /// The turn waits for a model without an instance.
    Waits(Box<Kept>),
}

impl From<Exit> for Ran {
    fn from(exit: Exit) -> Self {
        Self::Over(exit)
    }
}

/// What an instance begins with.
struct Prepared {
    record: Record,
    ran_ms: u64,
    kept: Option<Box<Kept>>,
}

/// Run an instance, as soon as there is a place for it.
pub(super) async fn execute(sessions: &Sessions, session: &Session, mut started: Started) -> Ran {
    let parts = &sessions.0.parts;
    let admission = Stage::Admission.begin();
    let tenant = &session.journal.tenant;
    let own = sessions.quotas(tenant).cpu_minute_ms_max;
    let minute = parts.minutes.of(tenant, own);
    let depth = started.depth;
    let place = async {
        // Before it takes a place: a tenant whose minute is used up keeps none from others.
        if minute.is_used_up() {
            let _waiting = sessions.0.turns.waits(tenant);
            minute.allowed(Duration::ZERO).await;
        }
        let bounds = sessions.bounds(tenant);
        sessions.0.turns.take(tenant, depth, bounds).await
    };
    let _place = match &mut started.attempt {
        Attempt::First | Attempt::Again { .. } => place.await,
        // It has begun: its time passes, and what it asked for comes.
        Attempt::GoesOn(kept) => {
            let left = left(sessions, started.deadline, kept);
            match tokio::time::timeout(left, kept.beside(place)).await {
                Ok(place) => place,
                Err(_) => return time_is_up(sessions, started.deadline, kept).into(),
            }
        }
    };
    let _running = UnderWay::turn();
    if started.deadline.is_some_and(|at| at <= sessions.now()) {
        return too_late().into();
    }
    let Some(version) = started.version.clone() else {
        return not_loaded("the version that the turn was started with is gone").into();
    };
    let loaded = match parts
        .instances
        .load(&parts.agents, &session.journal.tenant, &version)
        .await
    {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!(agent = %started.agent, %error, "a deployed component cannot be loaded");
            return not_loaded("the agent's component cannot be loaded").into();
        }
    };
    let prepared = match prepare(sessions, session, &mut started).await {
        Ok(prepared) => prepared,
        Err(exit) => return exit.into(),
    };
    let told = match told::of(&session.ledger, &started.messages).await {
        Ok(told) => told,
        Err(error) => {
            tracing::error!(turn = %started.turn, %error, "what a turn is told cannot be read");
            return not_loaded("what the turn is told cannot be read").into();
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
    // The host itself has no instance to give up, and one whose time is up says so.
    let may_wait = version.kind == AgentKind::Component
        && prepared
            .kept
            .as_ref()
            .is_none_or(|kept| !kept.left().is_zero());
    let kept = prepared.kept.as_deref();
    let scope = Arc::new(Scope {
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
        ran_ms: prepared.ran_ms,
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
        cpu: kept.map_or_else(|| Cpu::start_for(minute), Kept::cpu),
        output: kept.map_or_else(TurnOutput::default, Kept::output),
        calls: AtomicU64::new(0),
        written: AtomicU64::new(kept.map_or(0, Kept::written)),
        record: prepared.record,
        instance_wait: may_wait.then_some(parts.instance_wait),
        kept: Mutex::new(prepared.kept),
    });
    admission.is_over();
    let deadline = scope.deadline;
    let input = Input {
        causes: started.causes,
        messages: started.messages,
        context,
        seeds,
    };
    let exit = loaded.start(scope.clone(), input);
    let exit = match deadline {
        None => exit.await,
        Some(deadline) => {
            let left = Duration::from_millis(deadline.ms_since(sessions.now()));
            let exit = tokio::time::timeout(left, exit).await;
            exit.unwrap_or_else(|_| too_late())
        }
    };
    let mut kept = scope.kept.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.take() {
        Some(kept) if exit == Exit::Waits => Ran::Waits(kept),
        _ => exit.into(),
    }
}

/// How long a turn without an instance may still take, for itself and for its caller.
pub(super) fn left(sessions: &Sessions, deadline: Option<Time>, kept: &Kept) -> Duration {
    let callers = deadline.map(|at| Duration::from_millis(at.ms_since(sessions.now())));
    callers.map_or(kept.left(), |callers| callers.min(kept.left()))
}

/// None of that is left.
pub(super) fn time_is_up(sessions: &Sessions, deadline: Option<Time>, kept: &Kept) -> Exit {
    if deadline.is_some_and(|at| at <= sessions.now()) {
        return too_late();
    }
    telemetry::hit(Limit::TurnMs);
    failed(
        Failure::Deadline,
        TurnLimits::took_too_long(kept.turn_ms_max()),
    )
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
    started: &mut Started,
) -> Result<Prepared, Exit> {
    let parts = &sessions.0.parts;
    let ledger = &session.ledger;
    let (seq, ran_ms, kept) = match std::mem::replace(&mut started.attempt, Attempt::First) {
        Attempt::First => {
            if parts.unclean {
                ledger.durable(started.seq).await.map_err(Exit::Dead)?;
            }
            return Ok(Prepared {
                record: Record::default(),
                ran_ms: 0,
                kept: None,
            });
        }
        Attempt::Again { number, ran_ms } => {
            (retried(sessions, session, started, number)?, ran_ms, None)
        }
        // It ran as far as that before, and the host was not lost: nothing is to be known of it.
        Attempt::GoesOn(kept) => {
            let last = ledger.look(|state| state.last);
            (last, kept.ran_ms(), Some(kept))
        }
    };
    ledger.durable(seq).await.map_err(Exit::Dead)?;
    let start = Instant::now();
    let entries = ledger.read(started.seq, seq).await.map_err(|error| {
        tracing::error!(turn = %started.turn, %error, "what a turn did cannot be read");
        not_loaded("what the turn did cannot be read")
    })?;
    let replay = Replay::of(&started.turn, entries);
    Ok(Prepared {
        record: Record::of(replay, start),
        ran_ms,
        kept,
    })
}

/// Write down that the turn is taken up again.
fn retried(
    sessions: &Sessions,
    session: &Session,
    started: &Started,
    number: u32,
) -> Result<Seq, Exit> {
    let begun = session.ledger.append(None, |batch| {
        let open = batch.state().turns.get(&started.turn);
        let open = open.filter(|open| open.attempt + 1 == number && open.question.is_none());
        let open = open.ok_or(())?;
        let reason = if open.is_aside {
            RetryReason::Answered
        } else if sessions.0.parts.unclean || open.is_since(sessions.0.started_at) {
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
    begun.map_err(|error| match error {
        AppendError::Refused(()) => Exit::Over,
        AppendError::Dead(dead) => Exit::Dead(dead),
    })
}
