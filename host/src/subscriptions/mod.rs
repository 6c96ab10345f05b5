//! Subscriptions to Durable Streams: cursors that wake workers when there is something behind them.
//!
//! ```text
//! streams --Changes--> watch: changed, due --> state: what follows --> store --> delivery: webhook, wake stream
//! http --> create, link, claim, ack, release ----^
//! ```
//!
//! - [`config`], [`state`]: pure: what one is asked to be, and what may become of it.
//! - `keys`: signatures and tokens. `delivery`: telling workers.
//! - `watch`: what goes on behind: changes of streams, leases, retries.
//!
//! Invariants: what is decided counts once it is durable, and decisions about one subscription are made one after the
//! other. Nothing is lost by a crash: streams know their ends, cursors are stored, and a start looks at all of both.
//! Status codes are not known here.

pub mod config;
pub mod delivery;
pub mod keys;
pub mod state;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Time};
use crate::egress::Egress;
use crate::fair::{self, Gate};
use crate::id::{Digest, SubscriptionId, TenantId};
use crate::store::{CommitError, Latched, ReadError, RecordKey, RecordSpace, Store, Write};
use crate::streams::{Change, Extent, StreamPath, Streams};
use crate::telemetry::{self, Limit};
use crate::tenants::{Standing, Tenants};

use self::config::{Config, Delivery};
use self::keys::{Keys, Token};
use self::state::{Ack, Delta, Link, Refusal, State, Subscription, Work};
use self::watch::Agenda;

/// What subscriptions work with.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub streams: Streams,
    pub tenants: Tenants,
    pub egress: Egress,
    pub keys: Keys,
    pub bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of a tenant.
    pub subscriptions_max: usize,
    /// Of one subscription, and of what it is asked to be.
    pub streams_max: usize,
    /// Requests to webhooks under way at once; more wait.
    pub webhooks_max: usize,
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
    /// Places for requests to webhooks, which tenants take in turns.
    webhooks: Arc<Gate>,
    webhook_bounds: fair::Bounds,
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

/// As it is stored beside its path, which is too long for a record's name.
#[derive(Serialize, Deserialize)]
struct StoredLink {
    path: StreamPath,
    link: Link,
}

impl SubscriptionKey {
    fn record(&self) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::Subscription,
            name: self.id.to_string(),
        }
    }

    fn link(&self, path: &StreamPath) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::SubscriptionLink,
            name: format!("{}/{}", self.id, Digest::of(path.as_str().as_bytes())),
        }
    }

    /// What stores a change.
    fn writes(&self, delta: &Delta) -> Vec<Write> {
        let state = delta.state.iter().map(|state| Write::Record {
            key: self.record(),
            bytes: json(state),
        });
        let links = delta.links.iter().map(|(path, link)| {
            let key = self.link(path);
            let path = path.clone();
            match link {
                Some(link) => Write::Record {
                    key,
                    bytes: json(&StoredLink { path, link: *link }),
                },
                None => Write::Unrecord { key },
            }
        });
        state.chain(links).collect()
    }
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

fn json(value: &impl Serialize) -> Bytes {
    let bytes = serde_json::to_vec(value).expect("numbers, names and texts are JSON");
    bytes.into()
}

/// A fresh wake's id.
fn wake_id() -> String {
    format!("w_{}", uuid::Uuid::now_v7().simple())
}

impl Subscriptions {
    pub fn new(parts: Parts) -> Self {
        let host_max = parts.bounds.webhooks_max.max(1);
        let webhook_bounds = fair::Bounds {
            host_max,
            // One tenant's that hang leave room for others'.
            tenant_max: host_max.div_ceil(2),
        };
        Self(Arc::new(Inner {
            parts,
            all: Mutex::default(),
            making: Mutex::default(),
            agenda: Agenda::default(),
            sooner: Notify::new(),
            webhooks: Arc::default(),
            webhook_bounds,
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

    /// Make a subscription, and say whether it is new. The same again is the same one. What its pattern matches is linked
    /// where it ends now.
    pub async fn create(
        &self,
        key: &SubscriptionKey,
        config: Config,
        root: String,
    ) -> Result<(View, bool), SubscriptionError> {
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move { this.make(key, config, root).await })
            .await
    }

    async fn make(
        &self,
        key: SubscriptionKey,
        config: Config,
        root: String,
    ) -> Result<(View, bool), SubscriptionError> {
        let parts = self.parts();
        let making = self.making(&key.tenant);
        let _making = making.lock().await;
        if let Ok(held) = self.held(&key) {
            let body = held.body.lock().await;
            return match body.subscription.state.config == config {
                true => Ok((body.view(), false)),
                false => Err(SubscriptionError::Exists),
            };
        }
        match parts.tenants.get(&key.tenant).map(|it| it.standing) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended | Standing::Deleting) | None => {
                return Err(SubscriptionError::NotFound);
            }
        }
        if let Delivery::Webhook { url } = &config.delivery {
            let checked = delivery::check(&parts.egress, url);
            checked.map_err(SubscriptionError::WebhookRejected)?;
        }
        self.has_room(config.streams.len())?;
        let count = self.all().get(&key.tenant).map_or(0, BTreeMap::len);
        if count >= parts.bounds.subscriptions_max {
            telemetry::hit(Limit::Subscriptions);
            return Err(SubscriptionError::TooMany);
        }
        let subscription = Subscription {
            state: State {
                config,
                root,
                created: parts.clock.now(),
                generation: 0,
                wake: None,
                failures: 0,
                retry_at: None,
            },
            links: BTreeMap::new(),
            extents: BTreeMap::new(),
        };
        let held = Arc::new(Held::new(key, subscription, true));
        let mut body = held.body.lock().await;
        // From here on it is told what changes, and takes that up after what is read now.
        self.keep(held.clone());
        parts.streams.changes().watch(&held.key.tenant);
        match self.begin(&held.key, &mut body).await {
            Ok(()) => {
                body.is_gone = false;
                Ok((body.view(), true))
            }
            Err(error) => {
                self.forget(&held.key);
                Err(error)
            }
        }
    }

    /// Link what it names and what it matches, and store it.
    async fn begin(&self, key: &SubscriptionKey, body: &mut Body) -> Result<(), SubscriptionError> {
        let (store, record) = (self.parts().store.clone(), key.record());
        let stored = self.blocking(move || Ok(store.record(&record)?)).await?;
        if stored.is_some() {
            // It was there before and could not be read: what it knew is not thrown away.
            let what = format!("the subscription {} of the tenant {}", key.id, key.tenant);
            return Err(ReadError::bad_record(what).into());
        }
        let subscription = &mut body.subscription;
        let config = subscription.state.config.clone();
        let (named, matched) = self.extents(key, config).await?;
        let mut delta = subscription.link(&named);
        for (path, extent) in &matched {
            let link = Link {
                stream: Some(extent.id),
                is_explicit: false,
                is_glob: true,
                acked: extent.tail,
            };
            if !subscription.state.config.streams.contains(path) {
                delta.links.push((path.clone(), Some(link)));
            }
        }
        self.has_room(delta.links.len())?;
        let named = named
            .into_iter()
            .filter_map(|(path, extent)| Some((path, extent?)));
        subscription.extents.extend(named.chain(matched));
        delta.state = Some(subscription.state.clone());
        self.store(key.writes(&delta)).await?;
        subscription.apply(delta);
        Ok(())
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

    fn has_room(&self, streams: usize) -> Result<(), SubscriptionError> {
        let most = self.parts().bounds.streams_max;
        if streams > most {
            telemetry::hit(Limit::SubscriptionStreams);
            return Err(SubscriptionError::TooManyStreams(most));
        }
        Ok(())
    }

    /// Where the streams end that it names, and those that it matches.
    async fn extents(
        &self,
        key: &SubscriptionKey,
        config: Config,
    ) -> Result<(Vec<Named>, Vec<(StreamPath, Extent)>), SubscriptionError> {
        let (streams, tenant) = (self.parts().streams.clone(), key.tenant.clone());
        let most = self.parts().bounds.streams_max;
        self.blocking(move || {
            let named = ends(&streams, &tenant, config.streams.iter().cloned())?;
            let matched = match &config.pattern {
                Some(_) => streams.extents(&tenant, most + 1, |path| config.matches(path))?,
                None => Vec::new(),
            };
            Ok((named, matched))
        })
        .await
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

    /// Remove a subscription; fine if there is none.
    pub async fn delete(&self, key: &SubscriptionKey) -> Result<(), SubscriptionError> {
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move {
            // Not while one is made under the same id.
            let making = this.making(&key.tenant);
            let _making = making.lock().await;
            let Ok(held) = this.held(&key) else {
                return this.delete_unread(&key).await;
            };
            let mut body = held.body.lock().await;
            let links = body.subscription.links.keys();
            let keys = links.map(|path| key.link(path)).chain([key.record()]);
            let writes = keys.map(|key| Write::Unrecord { key }).collect();
            this.store(writes).await?;
            body.is_gone = true;
            this.forget(&key);
            Ok(())
        })
        .await
    }

    /// Remove what could not be read, if there is such a thing.
    async fn delete_unread(&self, key: &SubscriptionKey) -> Result<(), SubscriptionError> {
        let (store, of) = (self.parts().store.clone(), key.clone());
        let keys = self.blocking(move || {
            if store.record(&of.record())?.is_none() {
                return Ok(Vec::new());
            }
            let (space, prefix) = (RecordSpace::SubscriptionLink, format!("{}/", of.id));
            let links = store.records(Some(&of.tenant), space, None, usize::MAX)?;
            let own = links
                .into_iter()
                .filter(|(name, _)| name.starts_with(&prefix));
            let own = own.map(|(name, _)| RecordKey {
                tenant: Some(of.tenant.clone()),
                space,
                name,
            });
            Ok(own.chain([of.record()]).collect())
        });
        let writes: Vec<_> = keys
            .await?
            .into_iter()
            .map(|key| Write::Unrecord { key })
            .collect();
        match writes.is_empty() {
            true => Ok(()),
            false => self.store(writes).await,
        }
    }

    /// Look at more streams, from where they end now.
    pub async fn link(
        &self,
        key: &SubscriptionKey,
        streams: Vec<StreamPath>,
    ) -> Result<(), SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.has_room(streams.len())?;
        self.whole(async move {
            // Held while it is read where they end: what they grow by meanwhile is told after that.
            let mut body = held.body.lock().await;
            body.is_there()?;
            let (of, tenant) = (this.parts().streams.clone(), held.key.tenant.clone());
            let named = this.blocking(move || ends(&of, &tenant, streams)).await?;
            let delta = body.subscription.link(&named);
            let links = &body.subscription.links;
            let new = delta
                .links
                .iter()
                .filter(|(path, _)| !links.contains_key(path));
            this.has_room(links.len() + new.count())?;
            this.take(&held.key, &mut body, delta).await?;
            for (path, extent) in named {
                if let Some(extent) = extent {
                    let delta = body.subscription.changed(&path, Change::Grown(extent));
                    this.take(&held.key, &mut body, delta).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Do not look at a stream any more, unless the pattern matches it.
    pub async fn unlink(
        &self,
        key: &SubscriptionKey,
        path: &StreamPath,
    ) -> Result<(), SubscriptionError> {
        let (this, held, path) = (self.clone(), self.held(key)?, path.clone());
        self.whole(async move {
            let mut body = held.body.lock().await;
            body.is_there()?;
            let delta = body.subscription.unlink(&path);
            this.take(&held.key, &mut body, delta).await
        })
        .await
    }

    /// Take the wake that is there, or one for what there is to do.
    pub async fn claim(
        &self,
        key: &SubscriptionKey,
        worker: String,
    ) -> Result<Claimed, SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let key = &held.key;
            let mut body = held.body.lock().await;
            body.is_there()?;
            body.is_pulled()?;
            this.catch_up(&held, &mut body).await;
            this.lapse(key, &mut body).await?;
            let (now, id) = (this.parts().clock.now(), wake_id());
            let delta = body.subscription.claim(worker, now, id)?;
            this.take(key, &mut body, delta).await?;
            let state = &body.subscription.state;
            let wake = state.wake.as_ref().map(|wake| wake.id.clone());
            let mut work = body.subscription.work();
            work.truncate(delivery::WORK_MAX);
            Ok(Claimed {
                wake: wake.unwrap_or_default(),
                generation: state.generation,
                token: (this.keys()).token(key, state.created, state.generation),
                work,
                lease_ttl_ms: state.config.lease_ttl_ms,
            })
        })
        .await
    }

    /// Move cursors by the token of a wake; true if there is another wake at once.
    pub async fn ack(
        &self,
        key: &SubscriptionKey,
        token: Token,
        report: Report,
    ) -> Result<bool, SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let mut body = held.body.lock().await;
            this.may_report(&held.key, &mut body, &token, &report)
                .await?;
            this.catch_up(&held, &mut body).await;
            let unknown = body.subscription.unknown(&report.acks);
            if !unknown.is_empty() {
                // Whoever follows a stream may know its end before this was told of it.
                let (of, tenant) = (this.parts().streams.clone(), held.key.tenant.clone());
                let ends = this.blocking(move || ends(&of, &tenant, unknown)).await?;
                for (path, extent) in ends {
                    if let Some(extent) = extent {
                        let grown = Change::Grown(extent);
                        this.follow(&held.key, &mut body, &path, grown).await?;
                    }
                }
            }
            let now = this.parts().clock.now();
            let delta = body.subscription.ack(&report.acks, report.is_done, now)?;
            this.take(&held.key, &mut body, delta).await?;
            let next = report.is_done && body.subscription.pending().is_some();
            drop(body);
            if report.is_done {
                this.look(&held).await;
            }
            Ok(next)
        })
        .await
    }

    /// Give a wake back by its token.
    pub async fn release(
        &self,
        key: &SubscriptionKey,
        token: Token,
        report: Report,
    ) -> Result<(), SubscriptionError> {
        let (this, held) = (self.clone(), self.held(key)?);
        self.whole(async move {
            let mut body = held.body.lock().await;
            body.is_pulled()?;
            this.may_report(&held.key, &mut body, &token, &report)
                .await?;
            let delta = body.subscription.release();
            this.take(&held.key, &mut body, delta).await?;
            drop(body);
            this.look(&held).await;
            Ok(())
        })
        .await
    }

    /// Refuse whoever does not have the wake that is under way.
    async fn may_report(
        &self,
        key: &SubscriptionKey,
        body: &mut Body,
        token: &Token,
        report: &Report,
    ) -> Result<(), SubscriptionError> {
        body.is_there()?;
        if !(self.keys()).is_ours(token, key, body.subscription.state.created) {
            return Err(SubscriptionError::UnknownToken);
        }
        self.lapse(key, body).await?;
        let checked = body
            .subscription
            .check(token.generation, report.generation, &report.wake);
        Ok(checked?)
    }

    /// A lease that has run out is over, whether or not anybody has looked.
    async fn lapse(&self, key: &SubscriptionKey, body: &mut Body) -> Result<(), SubscriptionError> {
        match body.subscription.lapse(self.parts().clock.now()) {
            Some(delta) => self.take(key, body, delta).await,
            None => Ok(()),
        }
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

    /// Read what is stored; what cannot be read is said, and keeps nothing else back. Blocks.
    fn load(&self, tenant: &TenantId) -> Result<Vec<Held>, SubscriptionError> {
        let store = &self.parts().store;
        let records = store.records(Some(tenant), RecordSpace::Subscription, None, usize::MAX)?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let space = RecordSpace::SubscriptionLink;
        let mut links: HashMap<String, Vec<Bytes>> = HashMap::new();
        for (name, bytes) in store.records(Some(tenant), space, None, usize::MAX)? {
            let id = name.split('/').next().unwrap_or_default().to_owned();
            links.entry(id).or_default().push(bytes);
        }
        let mut loaded = Vec::with_capacity(records.len());
        for (name, bytes) in records {
            let links = links.remove(&name).unwrap_or_default();
            match self.loaded(tenant, &name, &bytes, &links) {
                Ok(held) => loaded.push(held),
                Err(error) => {
                    tracing::error!(%tenant, subscription = name, %error, "a subscription cannot be read: nobody is woken");
                }
            }
        }
        Ok(loaded)
    }

    fn loaded(
        &self,
        tenant: &TenantId,
        name: &str,
        state: &[u8],
        links: &[Bytes],
    ) -> Result<Held, ReadError> {
        let streams = &self.parts().streams;
        let damaged = |error: String| ReadError::bad_record(error);
        let id = SubscriptionId::new(name).map_err(|error| damaged(error.to_string()))?;
        let state: State =
            serde_json::from_slice(state).map_err(|error| damaged(error.to_string()))?;
        let links = links.iter().map(|bytes| {
            let StoredLink { path, link } =
                serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
            Ok((path, link))
        });
        let links = links.collect::<Result<BTreeMap<_, _>, ReadError>>()?;
        let mut extents = BTreeMap::new();
        for path in links.keys() {
            if let Some(extent) = streams.extent(tenant, path)? {
                extents.insert(path.clone(), extent);
            }
        }
        if state.config.pattern.is_some() {
            let most = self.parts().bounds.streams_max;
            extents.extend(streams.extents(tenant, most, |path| state.config.matches(path))?);
        }
        let key = SubscriptionKey {
            tenant: tenant.clone(),
            id,
        };
        let subscription = Subscription {
            state,
            links,
            extents,
        };
        Ok(Held::new(key, subscription, false))
    }
}

type Named = (StreamPath, Option<Extent>);

/// Where streams end. Blocks.
fn ends(
    streams: &Streams,
    tenant: &TenantId,
    paths: impl IntoIterator<Item = StreamPath>,
) -> Result<Vec<Named>, SubscriptionError> {
    let ends = paths.into_iter().map(|path| {
        let extent = streams.extent(tenant, &path)?;
        Ok((path, extent))
    });
    ends.collect()
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
