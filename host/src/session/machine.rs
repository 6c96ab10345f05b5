//! What a session does next. Pure: state and time in, actions out.
//!
//! Level-triggered: a notification only says "look at the state", so nothing is
//! lost when several come at once, and recovery needs no other path.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Time;
use crate::id::{AgentName, MessageId, TurnId};
use crate::journal::state::{Batching, Owed, Phase, State};

use super::rules::Rules;

/// What the driver knows beside the journal.
#[derive(Debug, Default)]
pub(super) struct Situation {
    /// Instances that run.
    pub(super) running: BTreeSet<TurnId>,
    /// Turns whose instances are being ended.
    pub(super) ending: BTreeSet<TurnId>,
    /// Nested calls that are being cancelled, by turn and number.
    pub(super) cancelling: BTreeSet<(TurnId, u32)>,
    /// Those that are cancelled, where no entry can say so any more.
    pub(super) cancelled: BTreeSet<(TurnId, u32)>,
    /// Agents whose next turn is being prepared, or cannot start until something is deployed.
    pub(super) busy: BTreeSet<AgentName>,
    /// When the turns of each agent that runs none begin, as configured now; by default if it is not
    /// deployed.
    pub(super) rules: BTreeMap<AgentName, Rules>,
    /// Something is appended and not handed to the store.
    pub(super) unflushed: bool,
    /// Since when nothing happened.
    pub(super) idle_since: Time,
    /// Somebody outside holds the session.
    pub(super) held: bool,
    /// The host stops: nothing new is started.
    pub(super) draining: bool,
}

impl Situation {
    fn batching(&self, agent: &AgentName) -> Batching {
        self.rules
            .get(agent)
            .map_or_else(Batching::default, |rules| rules.batching)
    }

    /// Nothing is owed to other sessions.
    fn is_settled(&self, state: &State) -> bool {
        let name = |owed: &Owed| (owed.turn.clone(), owed.n);
        state
            .owed
            .iter()
            .all(|owed| self.cancelled.contains(&name(owed)))
    }

    fn missing(&self, agent: &AgentName, state: &State) -> Option<String> {
        self.rules.get(agent)?.missing(state)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Start a turn of this agent with what is due.
    Start(AgentName),
    /// Something that its turns need is missing: say so, and start none.
    Hold {
        agent: AgentName,
        reason: String,
    },
    /// What was missing is there, or nothing waits for it any more.
    Release(AgentName),
    /// Take up a turn that an older process, or a driver that was lost, left open, or that was put aside
    /// and is answered.
    Resume(TurnId),
    /// Nobody answered in time what this turn asks.
    GiveUpAsking(TurnId),
    /// The turn is over in the journal: end its instance.
    Abort(TurnId),
    /// Delivered as often as it may be.
    SetAside {
        agent: AgentName,
        message: MessageId,
        deliveries: u32,
    },
    /// A nested call is over here: have it end in its own session.
    Cancel(Owed),
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
    actions.extend(owed(state, situation).cloned().map(Action::Cancel));
    match state.phase {
        Phase::Ended => {
            if situation.running.is_empty() && !situation.unflushed && situation.is_settled(state) {
                actions.push(Action::Bury);
            }
            return actions;
        }
        Phase::Open => work(now, state, situation, &mut actions),
        // Somebody looked whether the id is free, and may still open it.
        Phase::Absent => {}
    }
    let held = state
        .participants
        .iter()
        .filter(|(_, it)| it.is_until_ready());
    let again = held.filter_map(|(agent, _)| situation.rules.get(agent)?.again_at());
    let later = state.later(now, |agent| situation.batching(agent));
    let later = again.chain(later).min();
    let mut look_at = vec![later];
    let is_idle = state.only_asks(now) && state.owed.is_empty() && situation.running.is_empty();
    if actions.is_empty() && is_idle {
        // What is due and does not start waits for something else than time, such as a
        // deployment: not for ever, and not in memory.
        let expires_at = state.expires_at().filter(|_| !situation.draining);
        if expires_at.is_some_and(|at| at <= now) {
            return vec![Action::Expire];
        }
        let rests_at = situation.idle_since.plus_ms(idle_ms);
        // Not for less than it takes to get tired again: it would be woken late.
        let is_brief = later.is_some_and(|at| at <= now.plus_ms(idle_ms));
        if rests_at <= now && !situation.held && !is_brief {
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

/// Nested calls to cancel: those that an open turn let go of, and those of turns that are over as soon
/// as no instance may begin them any more.
fn owed<'a>(state: &'a State, situation: &'a Situation) -> impl Iterator<Item = &'a Owed> {
    let owed = state.owed.iter().filter(|_| !situation.draining);
    owed.filter(|owed| {
        let name = (owed.turn.clone(), owed.n);
        let is_begun = situation.cancelling.contains(&name) || situation.cancelled.contains(&name);
        let is_open = state.turns.contains_key(&owed.turn);
        let lives = situation.running.contains(&owed.turn) || situation.ending.contains(&owed.turn);
        !is_begun && (is_open || !lives)
    })
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
    for (turn, open) in &state.turns {
        if open.has_asked_in_vain(now) {
            actions.push(Action::GiveUpAsking(turn.clone()));
        } else if !situation.running.contains(turn) && open.rests_until().is_none_or(|at| at <= now)
        {
            actions.push(Action::Resume(turn.clone()));
        }
    }
    for (agent, participant) in &state.participants {
        if situation.busy.contains(agent) || participant.turn.is_some() {
            continue;
        }
        let missing = situation.missing(agent, state);
        if participant.is_until_ready() {
            if missing.is_none() || !state.waits_until_ready(agent) {
                actions.push(Action::Release(agent.clone()));
            }
            continue;
        }
        if state.due(agent, now, &situation.batching(agent)).is_none() {
            continue;
        }
        let agent = agent.clone();
        actions.push(match missing {
            None => Action::Start(agent),
            Some(reason) => Action::Hold { agent, reason },
        });
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
