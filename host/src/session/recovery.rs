//! What an older process left open, and how a turn ends.

use crate::clock::Time;
use crate::id::{SlotName, TurnId};
use crate::journal::entry::{
    AgentSuspended, Failure, Fate, MessageSetAside, Outcome, Payload, SlotReleased, TurnEnded,
    TurnEndedPrivate, TurnError,
};
use crate::journal::state::Supervision;
use crate::ledger::{AppendError, Batch, Dead, Ledger};
use crate::telemetry;

/// Settle every open turn before anything new is admitted: one that was interrupted ends as that,
/// one that took the host down again and again ends too, and the locks of the others are free
/// until they are taken up again. The entries become durable with the next flush.
pub(super) fn recover(ledger: &Ledger) -> Result<(), Dead> {
    let settled = ledger.append(None, |batch| {
        let open: Vec<TurnId> = batch.state().turns.keys().cloned().collect();
        for turn in &open {
            settle(batch, turn);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    match settled {
        Ok(()) => Ok(()),
        Err(AppendError::Dead(dead)) => Err(dead),
        Err(AppendError::Refused(never)) => match never {},
    }
}

fn settle(batch: &mut Batch<'_>, turn: &TurnId) {
    let Some(open) = batch.state().turns.get(turn) else {
        return;
    };
    if open.interrupted {
        // Whoever asked for the interruption has the answer that it happened.
        end_turn(batch, turn, End::of(Outcome::Interrupted));
    } else if open.is_poison() {
        let message = format!("{} attempts took the host down", open.attempt);
        end_turn(batch, turn, End::failed(Failure::Poison, message));
    } else {
        let locks: Vec<SlotName> = open.locks.iter().cloned().collect();
        for slot in locks {
            let (turn, n) = (turn.clone(), None);
            batch.push(Payload::SlotReleased(SlotReleased { slot, turn, n }));
        }
    }
}

/// How a turn ends.
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) error: Option<TurnError>,
    pub(super) private: TurnEndedPrivate,
    pub(super) wake_at: Option<Time>,
    /// What the agent is measured by if the turn failed.
    pub(super) supervision: Supervision,
}

impl End {
    pub(super) fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            error: None,
            private: TurnEndedPrivate::default(),
            wake_at: None,
            supervision: Supervision::default(),
        }
    }

    pub(super) fn failed(code: Failure, message: String) -> Self {
        Self {
            error: Some(TurnError { code, message }),
            ..Self::of(Outcome::Failed)
        }
    }
}

/// Append the end of a turn with what becomes of its inputs, and of its agent if that fails too
/// often. False if the turn is over already.
pub(super) fn end_turn(batch: &mut Batch<'_>, turn: &TurnId, end: End) -> bool {
    let Some(open) = batch.state().turns.get(turn) else {
        return false;
    };
    let (agent, usage) = (open.agent.clone(), batch.usage_at_end(turn));
    let ms = batch.now().ms_since(open.started_at);
    telemetry::turn_ended(end.outcome.name(), ms as f64 / 1000.0);
    let inputs = batch.state().fates(turn, end.outcome);
    let code = end.error.as_ref().map(|error| error.code);
    let returned: Vec<_> = inputs
        .iter()
        .filter(|input| input.fate == Fate::Returned)
        .map(|input| input.message.clone())
        .collect();
    batch.push(Payload::TurnEnded(TurnEnded {
        turn: turn.clone(),
        agent: agent.clone(),
        outcome: end.outcome,
        error: end.error,
        usage,
        inputs,
        wake_at: end.wake_at,
        private: end.private,
    }));
    if let Some(code @ (Failure::Poison | Failure::Nondeterminism)) = code {
        // Another turn would fare no better with them.
        for message in returned {
            let state = batch.state();
            let pending = state.participants.get(&agent).into_iter();
            let deliveries = pending
                .flat_map(|participant| &participant.pending)
                .find(|pending| pending.message == message)
                .map_or(1, |pending| pending.deliveries);
            batch.push(Payload::MessageSetAside(MessageSetAside {
                message,
                agent: agent.clone(),
                reason: format!("the turn that took it failed: {}", code.name()),
                deliveries,
            }));
        }
    }
    let now = batch.state().time;
    if end.outcome == Outcome::Failed && batch.state().fails_too_often(&agent, end.supervision, now)
    {
        let reason = format!(
            "{} failures within {} s",
            end.supervision.failures_max,
            end.supervision.window_ms / 1000
        );
        batch.push(Payload::AgentSuspended(AgentSuspended {
            agent,
            reason,
            until_ready: false,
        }));
    }
    true
}
