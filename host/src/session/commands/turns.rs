//! Stopping turns from outside, and letting an agent have them again.

use crate::id::{AgentName, Author, MessageId, Seq, TurnId};
use crate::journal::entry::{AgentResumed, Halt, Halted, InterruptRequested, Outcome, Payload};
use crate::ledger::{Batch, Ledger};
use crate::session::recovery::{End, end_turn};

use super::{CommandError, Result, append, must_be_open};

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
        interrupt_in(batch, turn, agent, by, None);
        Ok(batch.state().last)
    })
}

/// Let an agent that failed too often start turns again. Answers the entry.
pub fn resume(ledger: &Ledger, agent: &AgentName, by: Author) -> Result<Seq> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let participant = batch.state().participants.get(agent);
        let participant = participant.ok_or(CommandError::AgentNotInSession)?;
        let suspension = participant.suspended.as_ref();
        let suspension = suspension.ok_or(CommandError::NotSuspended)?;
        if suspension.until_ready {
            return Err(CommandError::Waits(suspension.reason.clone()));
        }
        Ok(batch.push(Payload::AgentResumed(AgentResumed {
            agent: agent.clone(),
            by: Some(by),
        })))
    })
}

/// Ask the turn to stop and end it, in one step: there is no moment in which it still speaks.
pub(super) fn interrupt_in(
    batch: &mut Batch<'_>,
    turn: TurnId,
    agent: AgentName,
    by: Author,
    message: Option<MessageId>,
) {
    // Words not appended yet were shown to nobody.
    batch.drop_chunk(&turn);
    abort(batch, &turn);
    batch.push(Payload::InterruptRequested(InterruptRequested {
        turn: turn.clone(),
        agent,
        by,
        message,
    }));
    cut(batch, &turn, Outcome::Interrupted);
}

pub(super) fn cut(batch: &mut Batch<'_>, turn: &TurnId, outcome: Outcome) {
    batch.drop_chunk(turn);
    abort(batch, turn);
    end_turn(batch, turn, End::of(outcome));
}

/// A conversation that somebody stops halts, for whoever waits for that.
fn abort(batch: &mut Batch<'_>, turn: &TurnId) {
    let open = batch.state().turns.get(turn);
    let goes_on = open.is_some_and(|open| {
        let conversing = open.conversation.as_ref();
        !open.interrupted && conversing.is_some_and(|it| !it.has_halted)
    });
    if goes_on {
        let (turn, halt) = (turn.clone(), Halt::Abort);
        batch.push(Payload::Halted(Halted { turn, halt }));
    }
}
