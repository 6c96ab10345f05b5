//! Who may call a target now: one place for what is known of each (tenant, target).
//!
//! A caller waits here for its place, as long as its deadline lets it, and hears here that the
//! circuit is open. What it learns comes back through [`Admitted`]. The decisions are `policy`'s; this
//! keeps their state, wakes who waits, and counts. In memory only: a host that has just started has heard
//! nothing against anybody.
//!
//! Invariant: whoever lets go, in whatever way, leaves place and probe to the next at once. Invariant:
//! one tenant's failures and queues are nobody else's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::id::{AgentName, TenantId};
use crate::telemetry::CallMetrics;

use super::policy::{
    Breaker, BreakerPolicy, CallPolicy, Condition, Entry, Gate, Pass, Refused, Ticket,
};
use super::{Class, ModelError, Target, Until};

/// Targets remembered. Above, those that nobody calls are forgotten: a tenant may name targets at run time.
const LANES_MAX: usize = 4_096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tenant: TenantId,
    kind: Kind,
    name: String,
}

/// A model, an endpoint and an agent may have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Model,
    Remote,
    Agent,
}

#[derive(Debug)]
pub(super) struct Admissions {
    lanes: Mutex<BTreeMap<Key, Arc<Lane>>>,
    since: Instant,
}

/// What is known of one target, for one tenant.
#[derive(Debug)]
struct Lane {
    known: Mutex<Known>,
    metrics: CallMetrics,
    target: String,
    since: Instant,
}

#[derive(Debug, Default)]
struct Known {
    gate: Gate,
    breaker: Breaker,
    wakes: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl Default for Admissions {
    fn default() -> Self {
        Self {
            lanes: Mutex::default(),
            since: Instant::now(),
        }
    }
}

impl Admissions {
    /// Wait for a place and for leave to use it.
    pub(super) async fn admit(
        &self,
        tenant: &TenantId,
        target: &Target,
        policy: &CallPolicy,
        until: Until,
    ) -> Result<Admitted, ModelError> {
        let lane = self.lane(Key::of(tenant, target), target.label());
        let (ticket, wake) = lane.enter(policy)?;
        let ticket = Some(ticket);
        let place = Place { lane, ticket };
        if let Some(wake) = wake {
            let woken = timeout_at(until.at, wake).await;
            if woken.is_err() {
                place.lane.metrics.refused("deadline");
                return Err(until.deadline.into());
            }
        }
        place.pass(policy)
    }

    /// Leave to have an agent begin, at once or not at all: its turn waits for a place of its own.
    pub(super) fn pass(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
        policy: &CallPolicy,
    ) -> Result<Admitted, ModelError> {
        let key = Key {
            tenant: tenant.clone(),
            kind: Kind::Agent,
            name: agent.as_str().to_owned(),
        };
        let lane = self.lane(key, &format!("agent/{agent}"));
        let ticket = None;
        Place { lane, ticket }.pass(policy)
    }

    /// How long nobody will be admitted, if so.
    pub(super) fn refused_for(
        &self,
        tenant: &TenantId,
        target: &Target,
        policy: BreakerPolicy,
    ) -> Option<Refused> {
        let key = Key::of(tenant, target);
        let lane = self.lanes().get(&key).cloned()?;
        let now = lane.now();
        let refused = lane.known().breaker.look(policy, now);
        refused.err()
    }

    /// The tenant is gone.
    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        self.lanes().retain(|key, _| key.tenant != *tenant);
    }

    fn lane(&self, key: Key, label: &str) -> Arc<Lane> {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get(&key) {
            return lane.clone();
        }
        if lanes.len() >= LANES_MAX {
            let is_used = |lane: &Arc<Lane>| Arc::strong_count(lane) > 1;
            lanes.retain(|_, lane| is_used(lane) || !lane.known().breaker.is_closed());
            if lanes.len() >= LANES_MAX {
                lanes.retain(|_, lane| is_used(lane));
            }
        }
        let lane = Arc::new(Lane {
            known: Mutex::default(),
            metrics: CallMetrics::new(key.tenant.as_str(), label),
            target: key.name.clone(),
            since: self.since,
        });
        lanes.insert(key, lane.clone());
        lane
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Lane>>> {
        self.lanes
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Key {
    fn of(tenant: &TenantId, target: &Target) -> Self {
        Self {
            tenant: tenant.clone(),
            kind: match target {
                Target::Model(_) => Kind::Model,
                Target::Remote { .. } => Kind::Remote,
            },
            name: target.name().to_owned(),
        }
    }
}

type Wake = Option<oneshot::Receiver<()>>;

impl Lane {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    /// A place, or one in the queue and what wakes it.
    fn enter(&self, policy: &CallPolicy) -> Result<(Ticket, Wake), ModelError> {
        let now = self.now();
        let mut known = self.known();
        known
            .breaker
            .look(policy.breaker, now)
            .map_err(|refused| self.is_open(refused))?;
        match known.gate.enter(policy) {
            Entry::Go(ticket) => {
                self.metrics.under_way(1);
                Ok((ticket, None))
            }
            Entry::Wait(ticket) => {
                let (wake, woken) = oneshot::channel();
                known.wakes.insert(ticket, wake);
                self.metrics.waiting(1);
                Ok((ticket, Some(woken)))
            }
            Entry::Full => {
                self.metrics.refused("busy");
                Err(ModelError::Refused(format!(
                    "{:?} is busy: {} calls are under way and {} wait",
                    self.target,
                    known.gate.under_way(),
                    known.gate.waiting()
                )))
            }
        }
    }

    fn pass(&self, policy: &CallPolicy) -> Result<Pass, ModelError> {
        self.change(|breaker, now| breaker.pass(policy.breaker, now))
            .map_err(|refused| self.is_open(refused))
    }

    fn is_open(&self, refused: Refused) -> ModelError {
        self.metrics.refused("circuit-open");
        ModelError::CircuitOpen {
            target: self.target.clone(),
            left_ms: (!refused.is_probed).then(|| whole_ms(refused.left)),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Breaker, Duration) -> T) -> T {
        let now = self.now();
        let mut known = self.known();
        let before = known.breaker.level();
        let changed = change(&mut known.breaker, now);
        let after = known.breaker.level();
        self.metrics.circuit(f64::from(after) - f64::from(before));
        changed
    }

    fn leave(&self, ticket: Ticket) {
        let mut known = self.known();
        let was = (known.gate.under_way(), known.gate.waiting());
        let go = known.gate.leave(ticket);
        known.wakes.remove(&ticket);
        let is = (known.gate.under_way(), known.gate.waiting());
        self.metrics.under_way(is.0 as i64 - was.0 as i64);
        self.metrics.waiting(is.1 as i64 - was.1 as i64);
        let wakes: Vec<_> = go
            .iter()
            .filter_map(|ticket| known.wakes.remove(ticket))
            .collect();
        drop(known);
        for wake in wakes {
            // Who stopped waiting leaves its place by itself.
            let _ = wake.send(());
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let level = self.known().breaker.level();
        self.metrics.circuit(-f64::from(level));
    }
}

/// Rounded up: a moment early would be for nothing.
fn whole_ms(duration: Duration) -> u64 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// A place under way or in the queue, if the target has such. Dropping it leaves it.
#[derive(Debug)]
struct Place {
    lane: Arc<Lane>,
    ticket: Option<Ticket>,
}

impl Place {
    /// Leave to use it, unless the circuit is open.
    fn pass(self, policy: &CallPolicy) -> Result<Admitted, ModelError> {
        let pass = self.lane.pass(policy)?;
        Ok(Admitted {
            place: Some(self),
            pass,
            policy: policy.breaker,
            is_made: false,
            has_answered: false,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.lane.leave(ticket);
        }
    }
}

/// What the end of an agent's turn says of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Works {
    /// It replied, be it with an error of its own.
    Yes,
    /// It broke.
    No,
    /// It was stopped: nobody knows what it would have done.
    Unsaid,
}

/// The right to make one attempt, and where to say what came of it. Dropping it gives the attempt up.
#[derive(Debug)]
#[must_use = "dropping it leaves the place"]
pub struct Admitted {
    /// None once it is known what came of it.
    place: Option<Place>,
    pass: Pass,
    policy: BreakerPolicy,
    is_made: bool,
    has_answered: bool,
}

impl Admitted {
    /// The attempt repeats one that failed or was lost.
    pub fn repeats(&self) {
        if let Some(place) = &self.place {
            place.lane.metrics.retried();
        }
    }

    /// From now on something is on the way.
    pub fn is_made(&mut self) {
        self.is_made = true;
    }

    /// A piece of the answer came.
    pub(super) fn answers(&mut self) {
        if !std::mem::replace(&mut self.has_answered, true) {
            self.heard(Condition::Answers);
        }
    }

    /// How the attempt ended.
    pub(super) fn ended(&mut self, end: Result<(), &ModelError>) {
        match end.map_err(ModelError::class) {
            Ok(()) | Err(Class::Answered) => self.heard(Condition::Works),
            Err(Class::Transient) => self.heard(Condition::Fails),
            Err(Class::Limited) => self.heard(Condition::Answers),
            Err(Class::Unsaid) => self.given_up(),
        }
        if let Some(place) = self.place.take() {
            let outcome = end.map_or_else(ModelError::name, |()| "ok");
            place.lane.metrics.attempted(outcome);
        }
    }

    /// How an agent's turn ended.
    pub fn worked(mut self, works: Works) {
        let outcome = match works {
            Works::Yes => {
                self.heard(Condition::Works);
                "ok"
            }
            Works::No => {
                self.heard(Condition::Fails);
                "failed"
            }
            Works::Unsaid => {
                self.given_up();
                "unsaid"
            }
        };
        if let Some(place) = self.place.take() {
            place.lane.metrics.attempted(outcome);
        }
    }

    fn heard(&self, condition: Condition) {
        if let Some(place) = &self.place {
            let heard = |breaker: &mut Breaker, now| {
                breaker.heard(self.pass, condition, self.policy, now);
            };
            place.lane.change(heard);
        }
    }

    fn given_up(&self) {
        if let Some(place) = &self.place {
            let given_up = |breaker: &mut Breaker, now| breaker.given_up(self.pass, now);
            place.lane.change(given_up);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.given_up();
        if let Some(place) = &self.place
            && self.is_made
        {
            place.lane.metrics.attempted("dropped");
        }
    }
}

#[cfg(test)]
mod tests;
