//! Webhooks of tenants: making, changing and removing them, and their dead letters.
//!
//! Invariants: what is stored of a webhook and what is in memory change together, one change after the other for each
//! webhook, also if whoever asked is gone meanwhile; a removed one is written by nobody any more. A secret is shown once,
//! and sealed in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::webhook::{Config, DeadLetter, Patience, Sealed, Webhook};
use super::{NoticeError, Notices};
use crate::clock::Time;
use crate::egress::{Egress, webhook};
use crate::fair::{self, Gate};
use crate::id::{NoticeOffset, TenantId, WebhookName};
use crate::seal::{Seal, SealError};
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Store, Write};
use crate::telemetry::{self, Limit};
use crate::tenants::Standing;

/// Of a secret: as long as what it makes (RFC 2104).
const SECRET_BYTES: usize = 32;

/// Dead letters read at once: each may be some ten kilobytes.
const LETTERS: usize = 100;

/// What webhooks work with.
pub struct Parts {
    pub notices: Notices,
    pub egress: Egress,
    pub seal: Seal,
    /// Places for requests to webhooks of any kind, which tenants take in turns.
    pub gate: Arc<Gate>,
    pub places: fair::Bounds,
    pub bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of a tenant.
    pub webhooks_max: usize,
    /// Of a webhook.
    pub dead_letters_max: usize,
    pub patience: Patience,
}

/// Names a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebhookKey {
    pub tenant: TenantId,
    pub name: WebhookName,
}

#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("there is no such webhook")]
    NotFound,
    #[error("there is no such dead letter")]
    NoDeadLetter,
    #[error("a tenant has {0} webhooks at most")]
    TooMany(usize),
    #[error("{0}")]
    Rejected(String),
    #[error("it could not be delivered: {0}")]
    Failed(String),
    #[error(transparent)]
    Notice(#[from] NoticeError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("a secret cannot be made: {0}")]
    Secret(std::io::Error),
    #[error("a secret cannot be opened: {0}")]
    Open(#[from] SealError),
    #[error("a change ended early")]
    Broken,
}

/// What became of a webhook that was put.
pub enum Put {
    Made { secret: String },
    Changed,
}

/// A webhook, and how many dead letters it has.
#[derive(Debug, Clone)]
pub struct View {
    pub webhook: Webhook,
    pub dead_letters: usize,
}

/// All webhooks of this host. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) parts: Parts,
    all: Mutex<HashMap<TenantId, BTreeMap<WebhookName, Arc<Held>>>>,
    /// Each held by whoever makes or removes one of the tenant's.
    making: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A webhook in memory.
pub(super) struct Held {
    pub(super) key: WebhookKey,
    /// None once it was removed.
    kept: tokio::sync::Mutex<Option<Kept>>,
    /// It is something else now: whoever waits on its behalf looks again.
    pub(super) changed: Notify,
    /// It was removed.
    pub(super) gone: CancellationToken,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) webhook: Webhook,
    /// Where the notices of its dead letters end.
    pub(super) letters: BTreeSet<NoticeOffset>,
    /// Counts how often somebody made it something else: what was seen of it before is void.
    pub(super) generation: u64,
}

impl WebhookKey {
    fn record(&self) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::Webhook,
            name: self.name.as_str().to_owned(),
        }
    }

    /// Of a dead letter, which is named by where its notices end.
    pub(super) fn dead_record(&self, letter: NoticeOffset) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::DeadLetter,
            name: format!("{}/{letter}", self.name),
        }
    }

    /// What its secrets are sealed for.
    pub(super) fn sealed_for(&self) -> String {
        format!("webhook {}/{}", self.tenant, self.name)
    }

    fn write(&self, webhook: &Webhook) -> Write {
        let bytes = serde_json::to_vec(webhook).expect("a webhook has string keys");
        Write::Record {
            key: self.record(),
            bytes: bytes.into(),
        }
    }

    /// Its dead letters after one, oldest first. Blocks.
    fn letters(
        &self,
        store: &dyn Store,
        after: Option<NoticeOffset>,
        count_max: usize,
    ) -> Result<Vec<(NoticeOffset, bytes::Bytes)>, ReadError> {
        let prefix = format!("{}/", self.name);
        let after = after.map_or_else(|| prefix.clone(), |it| format!("{prefix}{it}"));
        let space = RecordSpace::DeadLetter;
        let records = store.records(Some(&self.tenant), space, Some(&after), count_max)?;
        let own = records.into_iter().map_while(|(name, bytes)| {
            let letter = name.strip_prefix(&prefix)?.parse().ok()?;
            Some((letter, bytes))
        });
        Ok(own.collect())
    }
}

/// The text that a webhook's owner keeps, as Standard Webhooks has it.
fn text_of(secret: &[u8]) -> String {
    format!("whsec_{}", BASE64.encode(secret))
}

impl Webhooks {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            all: Mutex::default(),
            making: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn now(&self) -> Time {
        self.0.parts.notices.0.clock.now()
    }

    pub(super) fn standing(&self, tenant: &TenantId) -> Option<Standing> {
        let found = self.0.parts.notices.0.tenants.get(tenant);
        found.map(|record| record.standing)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, BTreeMap<WebhookName, Arc<Held>>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self, tenant: &TenantId) -> Arc<tokio::sync::Mutex<()>> {
        let making = self.0.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        making.entry(tenant.clone()).or_default().clone()
    }

    pub(super) fn held(&self, key: &WebhookKey) -> Result<Arc<Held>, WebhookError> {
        let all = self.all();
        let found = all.get(&key.tenant).and_then(|own| own.get(&key.name));
        found.cloned().ok_or(WebhookError::NotFound)
    }

    /// As it is now.
    pub(super) async fn kept(&self, held: &Held) -> Result<Kept, WebhookError> {
        let kept = held.kept.lock().await;
        kept.clone().ok_or(WebhookError::NotFound)
    }

    async fn store(&self, writes: Vec<Write>) -> Result<(), WebhookError> {
        Ok(crate::store::write(&*self.parts().notices.0.store, writes).await?)
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, WebhookError> {
        let store = self.parts().notices.0.store.clone();
        match tokio::task::spawn_blocking(move || read(&*store)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ReadError::Io("the reading thread ended early".into()).into()),
        }
    }

    /// Run this to its end, also if nobody waits for it any more: what is stored and what is in memory must not part.
    async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, WebhookError>> + Send + 'static,
    ) -> Result<T, WebhookError> {
        let done = self.0.tasks.spawn(work).await;
        done.unwrap_or(Err(WebhookError::Broken))
    }

    /// Make it something else: durable, then in memory. `change` says what else is to be written with it.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        held: &Arc<Held>,
        change: impl FnOnce(&mut Kept) -> Result<(T, Vec<Write>), WebhookError> + Send + 'static,
    ) -> Result<T, WebhookError> {
        let (this, held) = (self.clone(), held.clone());
        self.whole(async move {
            let mut kept = held.kept.lock().await;
            let mut changed = kept.clone().ok_or(WebhookError::NotFound)?;
            let (value, mut writes) = change(&mut changed)?;
            writes.push(held.key.write(&changed.webhook));
            this.store(writes).await?;
            *kept = Some(changed);
            Ok(value)
        })
        .await
    }

    /// Go on with what an older process left. What cannot be read is said, and keeps nothing else back.
    pub async fn take_up(&self) {
        for tenant in self.parts().notices.0.tenants.names() {
            // One that is being removed tells nobody anything, whoever has its name later.
            if self.standing(&tenant) == Some(Standing::Deleting) {
                continue;
            }
            let of = tenant.clone();
            match self.reading(move |store| load(store, &of)).await {
                Ok(loaded) => {
                    for (name, webhook, letters) in loaded {
                        let tenant = tenant.clone();
                        self.keep(WebhookKey { tenant, name }, webhook, letters);
                    }
                }
                Err(error) => {
                    tracing::error!(%tenant, %error, "the tenant's webhooks cannot be read: none is told");
                }
            }
        }
    }

    /// Have it told from now on.
    fn keep(&self, key: WebhookKey, webhook: Webhook, letters: BTreeSet<NoticeOffset>) {
        let held = Arc::new(Held {
            key: key.clone(),
            kept: tokio::sync::Mutex::new(Some(Kept {
                webhook,
                letters,
                generation: 0,
            })),
            changed: Notify::new(),
            gone: CancellationToken::new(),
        });
        let mut all = self.all();
        let own = all.entry(key.tenant).or_default();
        own.insert(key.name, held.clone());
        drop(all);
        self.0.tasks.spawn(self.clone().push(held));
    }

    /// Make a webhook, or change one. `from`: where it begins, or is moved to.
    pub async fn put(
        &self,
        key: &WebhookKey,
        config: Config,
        from: Option<NoticeOffset>,
    ) -> Result<(View, Put), WebhookError> {
        webhook::check(&self.parts().egress, &config.url).map_err(WebhookError::Rejected)?;
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move {
            let making = this.making(&key.tenant);
            let _making = making.lock().await;
            match this.held(&key) {
                Ok(held) => {
                    let view = this.make_other(&held, config, from).await?;
                    Ok((view, Put::Changed))
                }
                Err(_) => this.make(&key, config, from).await,
            }
        })
        .await
    }

    async fn make_other(
        &self,
        held: &Arc<Held>,
        config: Config,
        from: Option<NoticeOffset>,
    ) -> Result<View, WebhookError> {
        let changing = self.change(held, move |kept| {
            let webhook = &mut kept.webhook;
            if webhook.config != config || from.is_some() {
                webhook.config = config;
                // It may be that what was tried is not wanted any more.
                webhook.delivered(from.unwrap_or(webhook.cursor));
                kept.generation += 1;
            }
            Ok((View::of(kept), Vec::new()))
        });
        let view = changing.await?;
        held.changed.notify_one();
        Ok(view)
    }

    /// With the `making` lock held.
    async fn make(
        &self,
        key: &WebhookKey,
        config: Config,
        from: Option<NoticeOffset>,
    ) -> Result<(View, Put), WebhookError> {
        // Nothing is made in a tenant that is being removed.
        match self.standing(&key.tenant) {
            Some(Standing::Active) => {}
            Some(Standing::Suspended | Standing::Deleting) | None => {
                return Err(WebhookError::NotFound);
            }
        }
        let webhooks_max = self.parts().bounds.webhooks_max;
        if self.all().get(&key.tenant).map_or(0, BTreeMap::len) >= webhooks_max {
            telemetry::hit(Limit::WebhooksTenant);
            return Err(WebhookError::TooMany(webhooks_max));
        }
        let cursor = match from {
            Some(from) => from,
            None => self.parts().notices.end(&key.tenant).await?,
        };
        let (secret, sealed) = self.secret(key)?;
        let webhook = Webhook {
            config,
            created: self.now(),
            secrets: vec![Sealed {
                sealed,
                until: None,
            }],
            cursor,
            failing: None,
            missed: 0,
        };
        self.store(vec![key.write(&webhook)]).await?;
        self.keep(key.clone(), webhook.clone(), BTreeSet::new());
        let view = View {
            webhook,
            dead_letters: 0,
        };
        Ok((view, Put::Made { secret }))
    }

    /// A fresh secret, as text and sealed.
    fn secret(&self, key: &WebhookKey) -> Result<(String, String), WebhookError> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)
            .map_err(|error| WebhookError::Secret(std::io::Error::other(error)))?;
        let sealed = self.parts().seal.seal(&key.sealed_for(), &secret);
        let sealed = sealed.map_err(WebhookError::Secret)?;
        Ok((text_of(&secret), hex::encode(sealed)))
    }

    /// Another secret, and its text.
    pub async fn rotate(&self, key: &WebhookKey, overlap_ms: u64) -> Result<String, WebhookError> {
        let held = self.held(key)?;
        let (text, sealed) = self.secret(key)?;
        let now = self.now();
        let rotating = self.change(&held, move |kept| {
            kept.webhook.rotate(sealed, now, overlap_ms);
            Ok(((), Vec::new()))
        });
        rotating.await?;
        Ok(text)
    }

    pub async fn get(&self, key: &WebhookKey) -> Result<View, WebhookError> {
        let held = self.held(key)?;
        Ok(View::of(&self.kept(&held).await?))
    }

    /// A tenant's, by name.
    pub async fn list(&self, tenant: &TenantId) -> Vec<(WebhookName, View)> {
        let own = self.all().get(tenant).cloned().unwrap_or_default();
        let mut webhooks = Vec::with_capacity(own.len());
        for (name, held) in own {
            if let Ok(kept) = self.kept(&held).await {
                webhooks.push((name, View::of(&kept)));
            }
        }
        webhooks
    }

    pub async fn remove(&self, key: &WebhookKey) -> Result<(), WebhookError> {
        let (this, key) = (self.clone(), key.clone());
        self.whole(async move {
            let making = this.making(&key.tenant);
            let _making = making.lock().await;
            let held = this.held(&key)?;
            let mut kept = held.kept.lock().await;
            let letters = kept.as_ref().map(|kept| kept.letters.clone());
            let letters = letters.unwrap_or_default().into_iter();
            let mut keys = vec![key.record()];
            keys.extend(letters.map(|letter| key.dead_record(letter)));
            let writes = keys.into_iter().map(|key| Write::Unrecord { key });
            this.store(writes.collect()).await?;
            *kept = None;
            held.gone.cancel();
            let mut all = this.all();
            if let Some(own) = all.get_mut(&key.tenant) {
                own.remove(&key.name);
                if own.is_empty() {
                    all.remove(&key.tenant);
                }
            }
            Ok(())
        })
        .await
    }

    /// Its dead letters after one, oldest first.
    pub async fn letters(
        &self,
        key: &WebhookKey,
        after: Option<NoticeOffset>,
        count_max: usize,
    ) -> Result<Vec<(NoticeOffset, DeadLetter)>, WebhookError> {
        let of = key.clone();
        let read = self.reading(move |store| of.letters(store, after, count_max));
        let letters = read.await?.into_iter();
        let letters = letters.map(|(at, bytes)| Ok((at, parse_letter(&bytes)?)));
        letters.collect()
    }

    pub(super) async fn letter(
        &self,
        key: &WebhookKey,
        letter: NoticeOffset,
    ) -> Result<DeadLetter, WebhookError> {
        let record = key.dead_record(letter);
        let read = self.reading(move |store| store.record(&record)).await?;
        Ok(parse_letter(&read.ok_or(WebhookError::NoDeadLetter)?)?)
    }

    pub async fn forget_letter(
        &self,
        key: &WebhookKey,
        letter: NoticeOffset,
    ) -> Result<(), WebhookError> {
        let held = self.held(key)?;
        let record = key.dead_record(letter);
        let forgetting = self.change(&held, move |kept| match kept.letters.remove(&letter) {
            true => Ok(((), vec![Write::Unrecord { key: record }])),
            false => Err(WebhookError::NoDeadLetter),
        });
        forgetting.await
    }

    /// Let go of a tenant's, for good: it is being removed, and is marked as such.
    pub async fn forget_tenant(&self, tenant: &TenantId) {
        let making = self.making(tenant);
        let _making = making.lock().await;
        let own = self.all().remove(tenant).unwrap_or_default();
        for held in own.into_values() {
            held.gone.cancel();
            *held.kept.lock().await = None;
        }
        let making = self.0.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        making.remove(tenant);
    }

    /// Wait until nothing is under way any more.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl View {
    fn of(kept: &Kept) -> Self {
        Self {
            webhook: kept.webhook.clone(),
            dead_letters: kept.letters.len(),
        }
    }
}

fn parse_letter(bytes: &[u8]) -> Result<DeadLetter, ReadError> {
    let parsed = serde_json::from_slice(bytes);
    parsed.map_err(|error| ReadError::bad_record(format!("a dead letter: {error}")))
}

type Loaded = (WebhookName, Webhook, BTreeSet<NoticeOffset>);

/// A tenant's webhooks as they are stored. Blocks.
fn load(store: &dyn Store, tenant: &TenantId) -> Result<Vec<Loaded>, ReadError> {
    let mut loaded = Vec::new();
    for (name, bytes) in store.records(Some(tenant), RecordSpace::Webhook, None, usize::MAX)? {
        let webhook = serde_json::from_slice::<Webhook>(&bytes);
        let (Ok(name), Ok(webhook)) = (WebhookName::new(&name), webhook) else {
            tracing::error!(%tenant, name, "a stored webhook cannot be read: it is not told");
            continue;
        };
        let key = WebhookKey {
            tenant: tenant.clone(),
            name: name.clone(),
        };
        let mut letters = BTreeSet::new();
        loop {
            let page = key.letters(store, letters.last().copied(), LETTERS)?;
            let is_last = page.len() < LETTERS;
            letters.extend(page.into_iter().map(|(at, _)| at));
            if is_last {
                break;
            }
        }
        loaded.push((name, webhook, letters));
    }
    Ok(loaded)
}
