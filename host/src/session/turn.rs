//! One turn: from `turn-started` through its instances to `turn-ended`.

use std::sync::Arc;

use crate::agents::Version;
use crate::clock::Time;
use crate::id::{AgentName, MessageId, RunId, Seq, TurnId};
use crate::journal::entry::{Cause, Failure, Outcome, Payload, Pinned, TurnStarted};
use crate::journal::state::{OpenTurn, Pending, State};
use crate::ledger::AppendError;
use crate::runtime::instance::Exit;
use crate::runtime::limits::TurnLimits;
use crate::runtime::scope::Kept;

use super::attempt::{Ran, execute, left, time_is_up};
use super::recovery::{End, end_turn};
use super::rules::Rules;
use super::{Session, Sessions};

/// A wake-up is not sooner than this after the turn that asked for it, so that no agent
/// keeps the host busy with nothing.
pub(super) const WAKE_MS_MIN: u64 = 100;

/// Characters that say how a replay differs: an entry and an excerpt of each side.
const DIFFERS_CHARS_MAX: usize = 500;

/// A turn that is written down and whose instance does not run yet.
pub(super) struct Started {
    pub(super) turn: TurnId,
    pub(super) agent: AgentName,
    pub(super) run: RunId,
    pub(super) parent: Option<TurnId>,
    pub(super) depth: u32,
    pub(super) deadline: Option<Time>,
    /// The message that an authorization came with.
    pub(super) authorized: Option<MessageId>,
    pub(super) seq: Seq,
    pub(super) at: Time,
    pub(super) causes: Vec<Cause>,
    pub(super) messages: Vec<Pending>,
    /// None if it is no longer known: the turn cannot go on.
    pub(super) version: Option<Arc<Version>>,
    pub(super) limits: TurnLimits,
    pub(super) attempt: Attempt,
}

pub(super) enum Attempt {
    First,
    /// Taken up again after the host was lost, or after it was put aside.
    Again {
        number: u32,
        ran_ms: u64,
    },
    /// The same attempt, whose instance was given up while it waited for a model.
    GoesOn(Box<Kept>),
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
        let version = agents.pinned(&session.journal.tenant, &open.agent, open.pinned.version);
        let attempt = Attempt::Again {
            number: open.attempt + 1,
            ran_ms: open.ran_ms(),
        };
        Some(Started::of(turn, open, state, version, attempt))
    })
}

/// The same attempt, with the call that its instance was given up with. None if the turn is over.
fn goes_on(
    session: &Session,
    turn: &TurnId,
    version: Option<Arc<Version>>,
    kept: Box<Kept>,
) -> Option<Started> {
    session.ledger.look(|state| {
        let open = state.turns.get(turn)?;
        Some(Started::of(
            turn,
            open,
            state,
            version,
            Attempt::GoesOn(kept),
        ))
    })
}

impl Started {
    fn of(
        turn: &TurnId,
        open: &OpenTurn,
        state: &State,
        version: Option<Arc<Version>>,
        attempt: Attempt,
    ) -> Self {
        let messages = inputs(state, &open.agent, &open.inputs);
        Self {
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
            version,
            limits: TurnLimits::of_pinned(&open.pinned.limits),
            attempt,
        }
    }
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

/// Run it, in one instance after the other, and write down how it ended.
pub(super) async fn run(sessions: Sessions, session: Arc<Session>, mut started: Started) {
    let turn = started.turn.clone();
    let version = started.version.clone();
    let deadline = started.deadline;
    let exit = loop {
        let mut kept = match Box::pin(execute(&sessions, &session, started)).await {
            Ran::Over(exit) => break exit,
            Ran::Waits(kept) => kept,
        };
        let left = left(&sessions, deadline, &kept);
        if tokio::time::timeout(left, kept.answered()).await.is_err() {
            break time_is_up(&sessions, deadline, &kept);
        }
        started = match goes_on(&session, &turn, version.clone(), kept) {
            Some(started) => started,
            None => return,
        };
    };
    let mut end = match exit {
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
        // So is a turn that is put aside open as it is: whoever answers has it taken up again. One that waits for a model has
        // gone on above.
        Exit::Over | Exit::Aside | Exit::Waits | Exit::Dead(_) => return,
    };
    let supervision = version.map(|it| it.config.supervision);
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
