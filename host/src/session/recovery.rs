//! What an older process left open.

use crate::id::TurnId;
use crate::journal::entry::{Failure, Outcome, Payload, TurnEnded, TurnEndedPrivate, TurnError};
use crate::ledger::{AppendError, Batch, Dead, Ledger};
use crate::telemetry;

/// End every open turn as failed(host-lost): its inputs follow the rule for failed turns. Done
/// before anything new is admitted; the entries become durable with the next flush.
pub(super) fn end_lost_turns(ledger: &Ledger) -> Result<(), Dead> {
    let ended = ledger.append(None, |batch| {
        let lost: Vec<TurnId> = batch.state().turns.keys().cloned().collect();
        for turn in &lost {
            // Whoever asked for the interruption has the answer that it happened.
            let interrupted = batch
                .state()
                .turns
                .get(turn)
                .is_some_and(|open| open.interrupted);
            let (outcome, error) = if interrupted {
                (Outcome::Interrupted, None)
            } else {
                let message = "the host stopped while the turn was open".to_owned();
                let code = Failure::HostLost;
                (Outcome::Failed, Some(TurnError { code, message }))
            };
            end_turn(
                batch,
                turn,
                outcome,
                error,
                TurnEndedPrivate::default(),
                None,
            );
        }
        Ok::<_, std::convert::Infallible>(())
    });
    match ended {
        Ok(()) => Ok(()),
        Err(AppendError::Dead(dead)) => Err(dead),
        Err(AppendError::Refused(never)) => match never {},
    }
}

/// Append the end of a turn with what becomes of its inputs. False if it is over already.
pub(super) fn end_turn(
    batch: &mut Batch<'_>,
    turn: &TurnId,
    outcome: Outcome,
    error: Option<TurnError>,
    private: TurnEndedPrivate,
    wake_at: Option<crate::clock::Time>,
) -> bool {
    let Some(open) = batch.state().turns.get(turn) else {
        return false;
    };
    let (agent, usage) = (open.agent.clone(), open.usage);
    let ms = batch.now().ms_since(open.started_at);
    telemetry::turn_ended(outcome.name(), ms as f64 / 1000.0);
    let inputs = batch.state().fates(turn, outcome);
    let turn = turn.clone();
    let ended = TurnEnded {
        turn,
        agent,
        outcome,
        error,
        usage,
        inputs,
        wake_at,
        private,
    };
    batch.push(Payload::TurnEnded(ended));
    true
}
