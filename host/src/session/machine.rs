//! What a session does next. Pure: state and time in, actions out.
//!
//! Level-triggered: a notification only says "look at the state", so nothing is
//! lost when several come at once, and recovery needs no other path.

use std::collections::BTreeSet;

use crate::clock::Time;
use crate::id::{AgentName, MessageId, TurnId};
use crate::journal::state::{Phase, State};

/// What the driver knows beside the journal.
#[derive(Debug, Default)]
pub(super) struct Situation {
    /// Instances that run.
    pub(super) running: BTreeSet<TurnId>,
    /// Agents whose next turn is being prepared, or cannot start until something is deployed.
    pub(super) busy: BTreeSet<AgentName>,
    /// Something is appended and not handed to the store.
    pub(super) unflushed: bool,
    /// Since when nothing happened.
    pub(super) idle_since: Time,
    /// Somebody outside holds the session.
    pub(super) held: bool,
    /// The host stops: nothing new is started.
    pub(super) draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a turn of this agent with what is due.
    Start(AgentName),
    /// Take up a turn that an older process, or a driver that was lost, left open.
    Resume(TurnId),
    /// The turn is over in the journal: end its instance.
    Abort(TurnId),
    /// Delivered as often as it may be.
    SetAside {
        agent: AgentName,
        message: MessageId,
        deliveries: u32,
    },
    /// Hand over what was appended once the window is over.
    FlushSoon,
    Expire,
    /// Gone for good: remove what is stored.
    Bury,
    /// Nothing to do for a while: give the memory back.
    Hibernate,
    /// Look again at this time.
    WakeAt(Time),
}

/// `idle_ms` is how long a session stays in memory with nothing to do.
pub(super) fn decide(now: Time, state: &State, situation: &Situation, idle_ms: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    for turn in &situation.running {
        if !state.turns.contains_key(turn) {
            actions.push(Action::Abort(turn.clone()));
        }
    }
    if situation.unflushed {
        actions.push(Action::FlushSoon);
    }
    match state.phase {
        Phase::Ended => {
            if situation.running.is_empty() && !situation.unflushed {
                actions.push(Action::Bury);
            }
            return actions;
        }
        Phase::Open => work(now, state, situation, &mut actions),
        // Somebody looked whether the id is free, and may still open it.
        Phase::Absent => {}
    }
    let mut look_at = vec![state.later(now)];
    if actions.is_empty() && state.turns.is_empty() && situation.running.is_empty() {
        // What is due and does not start waits for something else than time, such as a
        // deployment: not for ever, and not in memory.
        let expires_at = state.expires_at().filter(|_| !situation.draining);
        if expires_at.is_some_and(|at| at <= now) {
            return vec![Action::Expire];
        }
        let rests_at = situation.idle_since.plus_ms(idle_ms);
        if rests_at <= now && !situation.held {
            return vec![Action::Hibernate];
        }
        // Nobody says when he lets go of it.
        let rests_at = if rests_at > now {
            rests_at
        } else {
            now.plus_ms(idle_ms)
        };
        look_at.extend([expires_at, Some(rests_at)]);
    }
    actions.extend(look_at.into_iter().flatten().min().map(Action::WakeAt));
    actions
}

/// What the agents have to do now.
fn work(now: Time, state: &State, situation: &Situation, actions: &mut Vec<Action>) {
    for (agent, pending) in state.undeliverable() {
        actions.push(Action::SetAside {
            agent: agent.clone(),
            message: pending.message.clone(),
            deliveries: pending.deliveries,
        });
    }
    if situation.draining {
        return;
    }
    let lost = state
        .turns
        .keys()
        .filter(|turn| !situation.running.contains(*turn));
    actions.extend(lost.cloned().map(Action::Resume));
    let is_due =
        |agent: &&AgentName| !situation.busy.contains(*agent) && state.due(agent, now, 1).is_some();
    actions.extend(
        state
            .participants
            .keys()
            .filter(is_due)
            .cloned()
            .map(Action::Start),
    );
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
