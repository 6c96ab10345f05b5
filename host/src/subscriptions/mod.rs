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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Time};
use crate::egress::Egress;
use crate::id::{Digest, InvalidName, SubscriptionId, TenantId};
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
    /// Held by whoever makes one, so that none is made twice, and none in a tenant that is removed.
    making: tokio::sync::Mutex<()>,
    agenda: Agenda,
    sooner: Notify,
    webhooks: Semaphore,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A subscription in memory.
struct Held {
    key: SubscriptionKey,
    body: tokio::sync::Mutex<Body>,
}

struct Body {
    subscription: Subscription,
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
        let webhooks = Semaphore::new(parts.bounds.webhooks_max);
        Self(Arc::new(Inner {
            parts,
            all: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            agenda: Agenda::default(),
            sooner: Notify::new(),
            webhooks,
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

    /// Make a subscription, and say whether it is new. The same again is the same one. What its pattern matches is linked
    /// where it ends now.
    pub async fn create(
        &self,
        key: &SubscriptionKey,
        config: Config,
        root: String,
    ) -> Result<(View, bool), SubscriptionError> {
        let parts = self.parts();
        let _making = self.0.making.lock().await;
        match self.held(key) {
            Ok(held) => {
                let body = held.body.lock().await;
                return match body.subscription.state.config == config {
                    true => Ok((body.view(), false)),
                    false => Err(SubscriptionError::Exists),
                };
            }
            Err(SubscriptionError::NotFound) => {}
            Err(error) => return Err(error),
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
        let count = self.all().get(&key.tenant).map_or(0, BTreeMap::len);
        if count >= parts.bounds.subscriptions_max {
            telemetry::hit(Limit::Subscriptions);
            return Err(SubscriptionError::TooMany);
        }
        // From here on it is told what changes: what is read below is at least as new.
        parts.streams.changes().watch(&key.tenant);
        let (named, matched) = self.extents(key, config.clone()).await?;
        let mut subscription = Subscription {
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
        let mut delta = subscription.link(&named);
        for (path, extent) in &matched {
            if subscription.state.config.streams.contains(path) {
                continue;
            }
            let link = Link {
                stream: Some(extent.id),
                is_explicit: false,
                is_glob: true,
                acked: extent.tail,
            };
            delta.links.push((path.clone(), Some(link)));
        }
        self.has_room(delta.links.len())?;
        for (path, extent) in named
            .into_iter()
            .chain(matched.into_iter().map(|(p, e)| (p, Some(e))))
        {
            if let Some(extent) = extent {
                subscription.extents.insert(path, extent);
            }
        }
        delta.state = Some(subscription.state.clone());
        self.store(key.writes(&delta)).await?;
        subscription.apply(delta);
        let body = Body {
            subscription,
            is_gone: false,
        };
        let view = body.view();
        let held = Arc::new(Held {
            key: key.clone(),
            body: tokio::sync::Mutex::new(body),
        });
        self.keep(held);
        Ok((view, true))
    }

    fn keep(&self, held: Arc<Held>) {
        let mut all = self.all();
        let own = all.entry(held.key.tenant.clone()).or_default();
        own.insert(held.key.id.clone(), held);
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
        self.blocking(move || {
            let named = config.streams.iter().map(|path| {
                let extent = streams.extent(&tenant, path)?;
                Ok((path.clone(), extent))
            });
            let named = named.collect::<Result<Vec<_>, ReadError>>()?;
            let matched = match &config.pattern {
                Some(_) => streams.extents(&tenant, |path| config.matches(path))?,
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
        // Not while one is made under the same id.
        let _making = self.0.making.lock().await;
        let Ok(held) = self.held(key) else {
            return Ok(());
        };
        let mut body = held.body.lock().await;
        let links = body.subscription.links.keys();
        let keys = links.map(|path| key.link(path)).chain([key.record()]);
        self.store(keys.map(|key| Write::Unrecord { key }).collect())
            .await?;
        body.is_gone = true;
        let mut all = self.all();
        if let Some(own) = all.get_mut(&key.tenant) {
            own.remove(&key.id);
            if own.is_empty() {
                all.remove(&key.tenant);
                self.parts().streams.changes().leave(&key.tenant);
            }
        }
        Ok(())
    }

    /// Look at more streams, from where they end now.
    pub async fn link(
        &self,
        key: &SubscriptionKey,
        streams: Vec<StreamPath>,
    ) -> Result<(), SubscriptionError> {
        let held = self.held(key)?;
        let (of, tenant) = (self.parts().streams.clone(), key.tenant.clone());
        let named = self
            .blocking(move || {
                let named = streams.into_iter().map(|path| {
                    let extent = of.extent(&tenant, &path)?;
                    Ok((path, extent))
                });
                named.collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let mut body = held.body.lock().await;
        body.is_there()?;
        let delta = body.subscription.link(&named);
        self.has_room(body.subscription.links.len() + delta.links.len())?;
        self.take(key, &mut body, delta).await?;
        for (path, extent) in named {
            // What it was told meanwhile is newer.
            if let Some(extent) = extent {
                let delta = body.subscription.changed(&path, Change::Grown(extent));
                self.take(key, &mut body, delta).await?;
            }
        }
        drop(body);
        self.look(&held).await;
        Ok(())
    }

    /// Do not look at a stream any more, unless the pattern matches it.
    pub async fn unlink(
        &self,
        key: &SubscriptionKey,
        path: &StreamPath,
    ) -> Result<(), SubscriptionError> {
        let held = self.held(key)?;
        let mut body = held.body.lock().await;
        body.is_there()?;
        let delta = body.subscription.unlink(path);
        self.take(key, &mut body, delta).await
    }

    /// Take the wake that is there, or one for what there is to do.
    pub async fn claim(
        &self,
        key: &SubscriptionKey,
        worker: String,
    ) -> Result<Claimed, SubscriptionError> {
        let held = self.held(key)?;
        let mut body = held.body.lock().await;
        body.is_there()?;
        body.is_pulled()?;
        self.lapse(key, &mut body).await?;
        let (now, id) = (self.parts().clock.now(), wake_id());
        let delta = body.subscription.claim(worker, now, id)?;
        self.take(key, &mut body, delta).await?;
        let state = &body.subscription.state;
        let wake = state.wake.as_ref().map(|wake| wake.id.clone());
        Ok(Claimed {
            wake: wake.unwrap_or_default(),
            generation: state.generation,
            token: (self.keys()).token(key, state.created, state.generation),
            work: body.subscription.work(),
            lease_ttl_ms: state.config.lease_ttl_ms,
        })
    }

    /// Move cursors by the token of a wake; true if there is another wake at once.
    pub async fn ack(
        &self,
        key: &SubscriptionKey,
        token: &Token,
        report: &Report,
    ) -> Result<bool, SubscriptionError> {
        let held = self.held(key)?;
        let mut body = held.body.lock().await;
        self.may_report(key, &mut body, token, report).await?;
        let now = self.parts().clock.now();
        let delta = body.subscription.ack(&report.acks, report.is_done, now)?;
        self.take(key, &mut body, delta).await?;
        let next = report.is_done && body.subscription.pending().is_some();
        drop(body);
        if report.is_done {
            self.look(&held).await;
        }
        Ok(next)
    }

    /// Give a wake back by its token.
    pub async fn release(
        &self,
        key: &SubscriptionKey,
        token: &Token,
        report: &Report,
    ) -> Result<(), SubscriptionError> {
        let held = self.held(key)?;
        let mut body = held.body.lock().await;
        self.may_report(key, &mut body, token, report).await?;
        let delta = body.subscription.release();
        self.take(key, &mut body, delta).await?;
        drop(body);
        self.look(&held).await;
        Ok(())
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
        let _making = self.0.making.lock().await;
        let held = self.all().remove(tenant).unwrap_or_default();
        self.parts().streams.changes().leave(tenant);
        for held in held.into_values() {
            held.body.lock().await.is_gone = true;
        }
    }

    /// Wait until nothing is under way any more.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Read what is stored. Blocks.
    fn load(&self, tenant: &TenantId) -> Result<Vec<Held>, SubscriptionError> {
        let (store, streams) = (&self.parts().store, &self.parts().streams);
        let damaged = |what: &str, error: String| {
            ReadError::bad_record(format!("{what} of the tenant {tenant}: {error}"))
        };
        let records = store.records(Some(tenant), RecordSpace::Subscription, None, usize::MAX)?;
        let mut links: HashMap<String, BTreeMap<StreamPath, Link>> = HashMap::new();
        let stored = match records.is_empty() {
            true => Vec::new(),
            false => store.records(
                Some(tenant),
                RecordSpace::SubscriptionLink,
                None,
                usize::MAX,
            )?,
        };
        for (name, bytes) in stored {
            let link: StoredLink = serde_json::from_slice(&bytes)
                .map_err(|error| damaged("a subscription's link", error.to_string()))?;
            let id = name.split('/').next().unwrap_or_default().to_owned();
            links.entry(id).or_default().insert(link.path, link.link);
        }
        let load = |(name, bytes): (String, Bytes)| {
            let wrong = |error: String| damaged("a subscription", error);
            let state: State =
                serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
            let id = SubscriptionId::new(&name)
                .map_err(|error: InvalidName| wrong(error.to_string()))?;
            let mut extents = BTreeMap::new();
            let links = links.remove(&name).unwrap_or_default();
            for path in links.keys() {
                if let Some(extent) = streams.extent(tenant, path)? {
                    extents.insert(path.clone(), extent);
                }
            }
            if state.config.pattern.is_some() {
                extents.extend(streams.extents(tenant, |path| state.config.matches(path))?);
            }
            Ok(Held {
                key: SubscriptionKey {
                    tenant: tenant.clone(),
                    id,
                },
                body: tokio::sync::Mutex::new(Body {
                    subscription: Subscription {
                        state,
                        links,
                        extents,
                    },
                    is_gone: false,
                }),
            })
        };
        records.into_iter().map(load).collect()
    }
}

type Named = (StreamPath, Option<Extent>);

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
