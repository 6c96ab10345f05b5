//! Subscriptions to Durable Streams: cursors that wake workers when there is something behind them.
//!
//! ```text
//! streams --Changes--> watch: changed, due --> state: what follows --> store --> delivery: webhook, wake stream
//! http --> create, link, claim, ack, release ----^
//! ```
//!
//! - [`config`], [`state`]: pure: what one is asked to be, and what may become of it.
//! - `keys`: signatures and tokens. `delivery`: telling workers.
//! - `stored`: as they are in the store. `making`: making, linking, removing. `working`: claims and reports.
//! - `watch`: what goes on behind: changes of streams, leases, retries.
//!
//! Invariants: what is decided counts once it is durable, and decisions about one subscription are made one after the
//! other. Nothing is lost by a crash: streams know their ends, cursors are stored, and a start looks at all of both.
//! Status codes are not known here.

pub mod config;
pub mod delivery;
pub mod keys;
mod making;
pub mod state;
mod stored;
mod watch;
mod working;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Time};
use crate::egress::Egress;
use crate::fair::{self, Gate};
use crate::id::{SubscriptionId, TenantId};
use crate::store::{CommitError, Latched, ReadError, Store, Write};
use crate::streams::{Change, StreamPath, Streams};
use crate::tenants::Tenants;

use self::config::{Config, Delivery};
use self::keys::Keys;
use self::state::{Ack, Delta, Refusal, Subscription, Work};
use self::watch::Agenda;

/// What subscriptions work with.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub streams: Streams,
    pub tenants: Tenants,
    pub egress: Egress,
    pub keys: Keys,
    /// Places for requests to webhooks, which tenants take in turns.
    pub gate: Arc<Gate>,
    pub places: fair::Bounds,
    pub bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of a tenant.
    pub subscriptions_max: usize,
    /// Of one subscription, and of what it is asked to be.
    pub streams_max: usize,
}

/// Names a subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionKey {
    pub tenant: TenantId,
    pub id: SubscriptionId,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    #[error("there is no such subscription")]
    NotFound,
    #[error("a subscription with this id is something else")]
    Exists,
    #[error("the tenant has as many subscriptions as it may")]
    TooMany,
    #[error("a subscription looks at {0} streams at most")]
    TooManyStreams(usize),
    #[error("{0}")]
    WebhookRejected(String),
    #[error("the subscription is not one that workers claim")]
    NotPulled,
    #[error("that is no token of this subscription")]
    UnknownToken,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Latched(#[from] Latched),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A subscription as anybody may see it.
#[derive(Debug, Clone)]
pub struct View {
    pub config: Config,
    pub root: String,
    pub created: Time,
    pub is_failed: bool,
    pub work: Vec<Work>,
}

/// What a worker claimed.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub wake: String,
    pub generation: u64,
    pub token: String,
    pub work: Vec<Work>,
    pub lease_ttl_ms: u64,
}

/// What a worker reports of a wake.
#[derive(Debug, Clone)]
pub struct Report {
    pub wake: String,
    pub generation: u64,
    pub acks: Vec<Ack>,
    pub is_done: bool,
}

/// All subscriptions of this host. Cheap to clone.
#[derive(Clone)]
pub struct Subscriptions(Arc<Inner>);

struct Inner {
    parts: Parts,
    all: Mutex<HashMap<TenantId, BTreeMap<SubscriptionId, Arc<Held>>>>,
    /// Each held by whoever makes or removes one of the tenant's, so that none is made twice, and none in a tenant that is
    /// removed.
    making: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>,
    agenda: Agenda,
    sooner: Notify,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A subscription in memory.
struct Held {
    key: SubscriptionKey,
    body: tokio::sync::Mutex<Body>,
    /// Changes of streams that it was not told of yet, in the order of the streams: the last of each counts.
    changed: Mutex<BTreeMap<StreamPath, Change>>,
    /// Its workers are sent for, by requests of the host.
    is_sent_for: bool,
    /// Somebody is about to tell its workers.
    is_telling: AtomicBool,
}

struct Body {
    subscription: Subscription,
    /// Not there for anybody: not made yet, or removed.
    is_gone: bool,
}

impl Held {
    fn new(key: SubscriptionKey, subscription: Subscription, is_gone: bool) -> Self {
        let delivery = &subscription.state.config.delivery;
        Self {
            key,
            is_sent_for: matches!(delivery, Delivery::Webhook { .. }),
            body: tokio::sync::Mutex::new(Body {
                subscription,
                is_gone,
            }),
            changed: Mutex::default(),
            is_telling: AtomicBool::new(false),
        }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<StreamPath, Change>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fresh wake's id.
fn wake_id() -> String {
    format!("w_{}", uuid::Uuid::now_v7().simple())
}

impl Subscriptions {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            all: Mutex::default(),
            making: Mutex::default(),
            agenda: Agenda::default(),
            sooner: Notify::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub fn keys(&self) -> &Keys {
        &self.0.parts.keys
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, BTreeMap<SubscriptionId, Arc<Held>>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self, tenant: &TenantId) -> Arc<tokio::sync::Mutex<()>> {
        let making = self.0.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        making.entry(tenant.clone()).or_default().clone()
    }

    fn held(&self, key: &SubscriptionKey) -> Result<Arc<Held>, SubscriptionError> {
        let all = self.all();
        let found = all.get(&key.tenant).and_then(|own| own.get(&key.id));
        found.cloned().ok_or(SubscriptionError::NotFound)
    }

    fn of_tenant(&self, tenant: &TenantId) -> Vec<Arc<Held>> {
        let all = self.all();
        all.get(tenant)
            .map(|own| own.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Run this to its end, also if nobody waits for it any more: what is stored and what is in memory must not part.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, SubscriptionError>> + Send + 'static,
    ) -> Result<T, SubscriptionError> {
        match self.0.tasks.spawn(work).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Io("a change ended early".into()).into()),
        }
    }

    fn keep(&self, held: Arc<Held>) {
        let mut all = self.all();
        let own = all.entry(held.key.tenant.clone()).or_default();
        own.insert(held.key.id.clone(), held);
    }

    /// With the `making` lock held.
    fn forget(&self, key: &SubscriptionKey) {
        let mut all = self.all();
        if let Some(own) = all.get_mut(&key.tenant) {
            own.remove(&key.id);
            if own.is_empty() {
                all.remove(&key.tenant);
                self.parts().streams.changes().leave(&key.tenant);
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SubscriptionError> + Send + 'static,
    ) -> Result<T, SubscriptionError> {
        match self.0.tasks.spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Io("the reading thread ended early".into()).into()),
        }
    }

    async fn store(&self, writes: Vec<Write>) -> Result<(), SubscriptionError> {
        match crate::store::write(&*self.parts().store, writes).await {
            Ok(()) => Ok(()),
            Err(CommitError::Latched(latched)) => Err(latched.into()),
            Err(CommitError::Fenced | CommitError::TailMismatch) => {
                unreachable!("records have no owner")
            }
        }
    }

    /// Make a change count: it is durable first.
    async fn take(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
        delta: Delta,
    ) -> Result<(), SubscriptionError> {
        if delta == Delta::default() {
            return Ok(());
        }
        self.store(key.writes(&delta)).await?;
        body.subscription.apply(delta);
        self.schedule(key, body.subscription.due());
        Ok(())
    }

    pub async fn get(&self, key: &SubscriptionKey) -> Result<View, SubscriptionError> {
        let held = self.held(key)?;
        let body = held.body.lock().await;
        body.is_there()?;
        Ok(body.view())
    }

    /// Let go of a tenant's, for good: it is being removed, and is marked as such.
    pub async fn forget_tenant(&self, tenant: &TenantId) {
        let making = self.making(tenant);
        let _making = making.lock().await;
        let held = self.all().remove(tenant).unwrap_or_default();
        self.parts().streams.changes().leave(tenant);
        for held in held.into_values() {
            held.body.lock().await.is_gone = true;
        }
        let making = self.0.making.lock();
        making
            .unwrap_or_else(PoisonError::into_inner)
            .remove(tenant);
    }

    /// Wait until nothing is under way any more.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Body {
    fn is_there(&self) -> Result<(), SubscriptionError> {
        match self.is_gone {
            true => Err(SubscriptionError::NotFound),
            false => Ok(()),
        }
    }

    fn is_pulled(&self) -> Result<(), SubscriptionError> {
        match self.subscription.state.config.delivery {
            Delivery::PullWake { .. } => Ok(()),
            Delivery::Webhook { .. } => Err(SubscriptionError::NotPulled),
        }
    }

    fn view(&self) -> View {
        let state = &self.subscription.state;
        View {
            config: state.config.clone(),
            root: state.root.clone(),
            created: state.created,
            is_failed: self.subscription.is_failed(),
            work: self.subscription.work(),
        }
    }
}
