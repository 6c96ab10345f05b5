//! The only loop of a session: look, decide, act, wait.
//!
//! Owns the tasks of the session's turns: they end with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

use crate::clock::Time;
use crate::id::{AgentName, TurnId};
use crate::journal::entry::{
    AgentResumed, AgentSuspended, CallCancelled, Failure, MessageSetAside, Payload, SessionChange,
    SessionChanged,
};
use crate::journal::state::{Owed, Phase, State};
use crate::ledger::{Dead, WINDOW_MS};

use super::commands::questions;
use super::machine::{Action, Situation, decide};
use super::nested;
use super::recovery::{End, end_turn};
use super::rules::Rules;
use super::turn::{self, Started};
use super::{IDLE_MS, Session, Sessions, wake};
use crate::telemetry::stages;

struct Driver {
    sessions: Sessions,
    session: Arc<Session>,
    tasks: JoinSet<()>,
    running: BTreeMap<TurnId, (Id, AbortHandle)>,
    /// Turns that are over, whose instances are being dropped.
    ending: BTreeMap<TurnId, Id>,
    /// Nested calls whose sessions are being told that they are over.
    cancelling: BTreeMap<(TurnId, u32), Id>,
    /// Those that were told when no entry could say so any more.
    cancelled: BTreeSet<(TurnId, u32)>,
    /// Agents that cannot start before something is deployed.
    unready: BTreeSet<AgentName>,
    idle_since: Time,
    flush_at: Option<Instant>,
    look_at: Option<Time>,
}

/// What ends a wait.
enum Woken {
    Changed,
    TurnDone,
    Deployed,
    Timer,
    Draining,
    Stopping,
}

pub(super) async fn drive(sessions: Sessions, session: Arc<Session>) {
    let idle_since = sessions.now();
    let mut driver = Driver {
        sessions,
        session,
        tasks: JoinSet::new(),
        running: BTreeMap::new(),
        ending: BTreeMap::new(),
        cancelling: BTreeMap::new(),
        cancelled: BTreeSet::new(),
        unready: BTreeSet::new(),
        idle_since,
        flush_at: None,
        look_at: None,
    };
    driver.run().await;
}

impl Driver {
    async fn run(&mut self) {
        let mut deployed = self.sessions.0.parts.agents.changes();
        let mut served = self.sessions.0.served.changes();
        loop {
            let mark = self.session.ledger.mark();
            if let Some(dead) = mark.dead {
                // Instances end with the driver; the session is folded again by whoever asks next.
                // Of a damaged one, that is what sets it aside.
                if !matches!(dead, Dead::Latched(_) | Dead::Closed) {
                    let at = self.sessions.now().plus_ms(wake::AGAIN_MS);
                    self.sessions.0.agenda.put(&self.session.journal, at);
                }
                return;
            }
            if !self.act().await {
                return;
            }
            let timer = self.timer();
            let woken = tokio::select! {
                biased;
                () = self.sessions.0.stopping.cancelled() => Woken::Stopping,
                () = self.session.ledger.changed() => Woken::Changed,
                _ = self.session.ledger.died() => Woken::Changed,
                Some(done) = self.tasks.join_next_with_id() => {
                    self.turn_done(done);
                    Woken::TurnDone
                }
                Ok(()) = deployed.changed() => Woken::Deployed,
                Ok(()) = served.changed() => Woken::Deployed,
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Woken::Timer,
                () = self.sessions.0.draining.cancelled(), if !self.draining() || self.is_done() => Woken::Draining,
            };
            match woken {
                Woken::Changed | Woken::TurnDone => self.idle_since = self.sessions.now(),
                Woken::Deployed => self.unready.clear(),
                Woken::Timer => self.flush_if_due(),
                Woken::Draining => {}
                Woken::Stopping => break,
            }
            if self.draining() && self.is_done() {
                break;
            }
        }
        self.stop().await;
    }

    fn draining(&self) -> bool {
        self.sessions.0.draining.is_cancelled()
    }

    fn is_done(&self) -> bool {
        self.running.is_empty()
    }

    /// Leave what runs as it stands in the journal, and make that durable.
    async fn stop(&mut self) {
        self.tasks.shutdown().await;
        if self.session.ledger.settle().await.is_ok() {
            self.session.ledger.snapshot(true);
            let _ = self.session.ledger.close();
        }
    }

    /// Decide and act until nothing follows any more; false when the session is over for this driver.
    async fn act(&mut self) -> bool {
        self.look_at = None;
        let mut situation = Situation {
            rules: BTreeMap::new(),
            running: self.running.keys().cloned().collect(),
            ending: self.ending.keys().cloned().collect(),
            cancelling: self.cancelling.keys().cloned().collect(),
            cancelled: self.cancelled.clone(),
            busy: self.unready.clone(),
            unflushed: self.session.ledger.has_unflushed(),
            idle_since: self.idle_since,
            // The map's and this driver's do not count.
            held: Arc::strong_count(&self.session) > 2,
            draining: self.draining(),
        };
        let now = self.sessions.now();
        let (actions, seen) = self.session.ledger.look(|state| {
            situation.rules = self.rules(state);
            (decide(now, state, &situation, IDLE_MS), state.last)
        });
        for action in actions {
            match action {
                Action::Start(agent) => self.start(&agent),
                Action::Hold { agent, reason } => self.hold(agent, reason, &situation),
                Action::Release(agent) => {
                    let participant = agent.clone();
                    let still = move |state: &State| {
                        let participant = state.participants.get(&participant);
                        participant.is_some_and(|it| it.is_until_ready())
                    };
                    let resumed = AgentResumed { agent, by: None };
                    self.append_if(still, Payload::AgentResumed(resumed));
                }
                Action::Resume(turn) => {
                    if let Some(started) = turn::again(&self.sessions, &self.session, &turn) {
                        self.run_turn(started);
                    }
                }
                Action::GiveUpAsking(turn) => self.give_up_asking(&turn),
                Action::Abort(turn) => {
                    if let Some((id, task)) = self.running.remove(&turn) {
                        task.abort();
                        self.ending.insert(turn, id);
                    }
                }
                Action::Cancel(owed) => self.cancel(owed),
                Action::SetAside {
                    agent,
                    message,
                    deliveries,
                } => {
                    // It may have been taken back since we looked.
                    let waits = |state: &State| {
                        let mut spent = state.undeliverable();
                        spent.any(|(_, pending)| pending.message == message)
                    };
                    let aside = MessageSetAside {
                        message: message.clone(),
                        agent,
                        reason: "every turn that took it failed".to_owned(),
                        deliveries,
                    };
                    self.append_if(waits, Payload::MessageSetAside(aside));
                }
                Action::FlushSoon => {
                    let window = Instant::now() + Duration::from_millis(WINDOW_MS);
                    self.flush_at.get_or_insert(window);
                }
                Action::Expire => {
                    let change = SessionChange::Expired;
                    // Anything that came since we looked keeps it alive.
                    self.append_if(
                        |state| state.last == seen,
                        Payload::SessionChanged(SessionChanged { change }),
                    );
                }
                Action::Bury => {
                    wake::bury(&self.sessions, &self.session).await;
                    return false;
                }
                Action::Hibernate => {
                    self.session.ledger.snapshot(true);
                    if self.sessions.rest(&self.session) {
                        return false;
                    }
                    self.idle_since = now;
                    self.look_at_least(now.plus_ms(IDLE_MS));
                }
                Action::WakeAt(at) => self.look_at_least(at),
            }
        }
        if !situation.unflushed {
            self.flush_at = None;
        }
        true
    }

    /// When the turns of the agents that run none begin, as configured now. What runs is looked at
    /// with every entry that it appends.
    fn rules(&self, state: &State) -> BTreeMap<AgentName, Rules> {
        let (tenant, parts) = (&self.session.journal.tenant, &self.sessions.0.parts);
        let of = |agent: &AgentName| {
            let version = parts.agents.active(tenant, agent)?;
            Some((agent.clone(), Rules::of(&version, &self.sessions, tenant)))
        };
        let idle = state.participants.iter();
        let idle = idle.filter(|(_, participant)| participant.turn.is_none());
        idle.filter_map(|(agent, _)| of(agent)).collect()
    }

    /// Write down that nobody answered, unless somebody has since we looked.
    fn give_up_asking(&self, turn: &TurnId) {
        let _ = self.session.ledger.append(None, |batch| {
            let now = batch.now();
            let open = batch.state().turns.get(turn);
            let open = open.filter(|open| open.has_asked_in_vain(now));
            if let Some(expired) = open.and_then(|open| questions::expired(turn, open)) {
                batch.push(expired);
            }
            Ok::<_, Dead>(())
        });
        self.session.ledger.flush();
    }

    fn start(&mut self, agent: &AgentName) {
        let tenant = &self.session.journal.tenant;
        let is_served = self.sessions.0.served.begins_turns(tenant);
        let active = || self.sessions.0.parts.agents.active(tenant, agent);
        let Some(version) = is_served.then(active).flatten() else {
            self.unready.insert(agent.clone());
            // Without it, there may be nothing to do but to rest.
            self.look_at_least(self.sessions.now());
            return;
        };
        match turn::begin(&self.sessions, &self.session, agent, version) {
            Some(started) => self.run_turn(started),
            // Something became missing since we looked, perhaps without an entry that wakes us.
            None => self.look_at_least(self.sessions.now()),
        }
    }

    /// Write down what keeps the agent, if it still does.
    fn hold(&self, agent: AgentName, reason: String, situation: &Situation) {
        let rules = situation.rules.get(&agent).cloned().unwrap_or_default();
        let (name, now) = (agent.clone(), self.sessions.now());
        let still = move |state: &State| {
            state.due(&name, now, &rules.batching).is_some() && rules.missing(state).is_some()
        };
        let suspended = AgentSuspended {
            agent,
            reason,
            until_ready: true,
        };
        self.append_if(still, Payload::AgentSuspended(suspended));
    }

    fn run_turn(&mut self, started: Started) {
        let name = started.turn.clone();
        let run = turn::run(self.sessions.clone(), self.session.clone(), started);
        let task = self.tasks.spawn(stages::turn(&name, run));
        self.running.insert(name, (task.id(), task));
    }

    /// Have a nested call end in its own session. Whatever keeps that from happening now, the call stays owed.
    fn cancel(&mut self, owed: Owed) {
        let name = (owed.turn.clone(), owed.n);
        let (sessions, session) = (self.sessions.clone(), self.session.clone());
        let task = self.tasks.spawn(async move {
            let tenant = &session.journal.tenant;
            while let Err(error) = nested::cancel(&sessions, tenant, &owed.child).await {
                tracing::warn!(session = %owed.child.session, %error, "a nested call cannot be cancelled yet");
                tokio::time::sleep(Duration::from_millis(wake::AGAIN_MS)).await;
            }
            let cancelled = CallCancelled {
                turn: owed.turn.clone(),
                n: owed.n,
                agent: owed.child.agent.clone(),
                session: owed.child.session.clone(),
            };
            // A session that has ended takes no entry: its driver remembers.
            let told = session.ledger.append(None, |batch| {
                let state = batch.state();
                if state.phase == Phase::Open && state.owed.contains(&owed) {
                    batch.push(Payload::CallCancelled(cancelled));
                }
                Ok::<_, Dead>(())
            });
            if told.is_ok() {
                session.ledger.flush();
            }
        });
        self.cancelling.insert(name, task.id());
    }

    fn turn_done(&mut self, done: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match &done {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.ending.retain(|_, task| *task != id);
        let cancelling = self.cancelling.iter().find(|(_, task)| **task == id);
        if let Some(name) = cancelling.map(|(name, _)| name.clone()) {
            self.cancelling.remove(&name);
            // No entry can say so any more.
            if done.is_ok() && self.session.ledger.look(|state| state.phase) == Phase::Ended {
                self.cancelled.insert(name);
            }
            return;
        }
        let turn = self
            .running
            .iter()
            .find(|(_, (task, _))| *task == id)
            .map(|(turn, _)| turn.clone());
        let Some(turn) = turn else { return };
        self.running.remove(&turn);
        if let Err(error) = done
            && error.is_panic()
        {
            tracing::error!(%turn, %error, "running a turn panicked");
            let message = "the host failed while it ran the turn".to_owned();
            let ended = self.session.ledger.append(None, |batch| {
                end_turn(batch, &turn, End::failed(Failure::HostLost, message));
                Ok::<_, Dead>(())
            });
            if ended.is_ok() {
                self.session.ledger.flush();
            }
        }
        self.session.ledger.snapshot(false);
    }

    fn append_if(&self, still: impl FnOnce(&State) -> bool, payload: Payload) {
        // A ledger that is dead ends this driver at its next look.
        let _ = self.session.ledger.append(None, |batch| {
            if still(batch.state()) {
                batch.push(payload);
            }
            Ok::<_, Dead>(())
        });
        self.session.ledger.flush();
    }

    fn look_at_least(&mut self, at: Time) {
        self.look_at = Some(self.look_at.map_or(at, |other| other.min(at)));
    }

    fn flush_if_due(&mut self) {
        if self.flush_at.is_some_and(|at| at <= Instant::now()) {
            self.flush_at = None;
            self.session.ledger.flush();
        }
    }

    fn timer(&self) -> Option<Instant> {
        let now = self.sessions.now();
        // Wall time may step; an hour at most is slept on it.
        let look = self
            .look_at
            .map(|at| Instant::now() + Duration::from_millis(at.ms_since(now).min(3_600_000)));
        self.flush_at.into_iter().chain(look).min()
    }
}

impl Drop for Driver {
    /// A driver that panicked leaves a session that nobody drives: it is dead, and folded again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.session.ledger.abandon();
            let at = self.sessions.now().plus_ms(wake::AGAIN_MS);
            self.sessions.0.agenda.put(&self.session.journal, at);
        }
    }
}
