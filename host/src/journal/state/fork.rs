//! Forks in the fold: what a session takes over from the one it was made from, and what not.
//!
//! Its entries stay, and with them slots, contexts, failures, and the messages that wait. What the
//! other one owes to somebody outside or promised to do by itself stays with the other one alone:
//! two sessions must not both keep an appointment that one of them made.

use crate::id::SessionId;
use crate::journal::entry::{
    Failure, MessageSetAside, Outcome, Payload, SessionForked, SessionOpenedPrivate, TurnEnded,
    TurnEndedPrivate, TurnError,
};

use super::State;

impl State {
    pub(super) fn session_forked(&mut self, forked: &SessionForked) -> Result<(), &'static str> {
        if forked.at != self.last {
            return Err("it is not where it says it is");
        }
        self.secret = forked.private.secret.clone();
        self.opened_idempotency = forked.private.idempotency;
        // The keys were used with the other session.
        self.remembered.clear();
        self.remembered_order.clear();
        self.owed.clear();
        let mut released = Vec::new();
        for participant in self.participants.values_mut() {
            let watched = std::mem::take(&mut participant.watched);
            released.extend(watched.into_values().flatten());
            released.extend(participant.wake.take().map(|wake| wake.run));
        }
        for turn in self.turns.values_mut() {
            // Its instance belongs to the other session: nothing but its end can follow here.
            turn.interrupted = true;
        }
        released.iter().for_each(|run| self.release(Some(run)));
        // The other one has paid for it.
        self.spent_nothing();
        Ok(())
    }

    /// What makes the session that has these entries so far a fork of `from`: its first entry of
    /// its own, and the ends of the turns that are open here. Written as one frame.
    pub fn fork(&self, from: SessionId, private: SessionOpenedPrivate) -> Vec<Payload> {
        let forked = Payload::SessionForked(SessionForked {
            from,
            at: self.last,
            private,
        });
        let ends = self.turns.iter().map(|(turn, open)| {
            Payload::TurnEnded(TurnEnded {
                turn: turn.clone(),
                agent: open.agent.clone(),
                outcome: Outcome::Interrupted,
                error: Some(TurnError {
                    code: Failure::Forked,
                    message: "the session was forked while the turn was open".to_owned(),
                }),
                usage: open.usage,
                inputs: self.fates(turn, Outcome::Interrupted),
                wake_at: None,
                private: TurnEndedPrivate::default(),
            })
        });
        std::iter::once(forked).chain(ends).collect()
    }

    /// Set aside all that waits, as it stands here.
    pub fn aside(&self, reason: &str) -> Vec<Payload> {
        let waiting = self.participants.iter().flat_map(|(agent, participant)| {
            let pending = participant.pending.iter();
            pending.map(move |pending| (agent, pending))
        });
        waiting
            .map(|(agent, pending)| {
                Payload::MessageSetAside(MessageSetAside {
                    message: pending.message.clone(),
                    agent: agent.clone(),
                    reason: reason.to_owned(),
                    deliveries: pending.deliveries,
                })
            })
            .collect()
    }
}
