//! Webhooks of tenants: making, changing and removing them, and their dead letters.
//!
//! Invariant: what is stored of a webhook and what is in memory change together, one change after the other for each
//! webhook; a secret is shown once, and sealed in the store.

use std::collections::{BTreeMap, HashMap};
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
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Write};
use crate::telemetry::{self, Limit};

/// Of a secret: as long as what it makes (RFC 2104).
const SECRET_BYTES: usize = 32;

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
    pub dead_letters_max: u64,
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
}

/// What became of a webhook that was put.
pub enum Put {
    Made { secret: String },
    Changed,
}

/// All webhooks of this host. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) parts: Parts,
    all: Mutex<HashMap<TenantId, BTreeMap<WebhookName, Arc<Held>>>>,
    /// Held by whoever makes or removes one.
    making: tokio::sync::Mutex<()>,
    pub(super) stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A webhook in memory.
pub(super) struct Held {
    pub(super) key: WebhookKey,
    pub(super) webhook: tokio::sync::Mutex<Webhook>,
    /// It is something else now: whoever waits on its behalf looks again.
    pub(super) changed: Notify,
    /// It was removed.
    pub(super) gone: CancellationToken,
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
    pub(super) fn dead_record(&self, letter: &str) -> RecordKey {
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

    pub(super) fn write(&self, webhook: &Webhook) -> Write {
        let bytes = serde_json::to_vec(webhook).expect("a webhook has string keys");
        Write::Record {
            key: self.record(),
            bytes: bytes.into(),
        }
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
            making: tokio::sync::Mutex::default(),
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

    fn all(&self) -> MutexGuard<'_, HashMap<TenantId, BTreeMap<WebhookName, Arc<Held>>>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held(&self, key: &WebhookKey) -> Result<Arc<Held>, WebhookError> {
        let all = self.all();
        let found = all.get(&key.tenant).and_then(|own| own.get(&key.name));
        found.cloned().ok_or(WebhookError::NotFound)
    }

    pub(super) async fn store(&self, writes: Vec<Write>) -> Result<(), WebhookError> {
        Ok(crate::store::write(&*self.parts().notices.0.store, writes).await?)
    }

    pub(super) async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn crate::store::Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, WebhookError> {
        let store = self.parts().notices.0.store.clone();
        match tokio::task::spawn_blocking(move || read(&*store)).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ReadError::Io("the reading thread ended early".into()).into()),
        }
    }

    /// Go on with what an older process left. What cannot be read is said, and keeps nothing else back.
    pub async fn take_up(&self) {
        for tenant in self.parts().notices.0.tenants.names() {
            let of = tenant.clone();
            let read = self.reading(move |store| {
                store.records(Some(&of), RecordSpace::Webhook, None, usize::MAX)
            });
            let records = match read.await {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(%tenant, %error, "the tenant's webhooks cannot be read: none is told");
                    continue;
                }
            };
            for (name, bytes) in records {
                let webhook = serde_json::from_slice::<Webhook>(&bytes);
                match (WebhookName::new(&name), webhook) {
                    (Ok(name), Ok(webhook)) => {
                        let tenant = tenant.clone();
                        self.keep(WebhookKey { tenant, name }, webhook);
                    }
                    _ => {
                        tracing::error!(%tenant, name, "a stored webhook cannot be read: it is not told")
                    }
                }
            }
        }
    }

    /// Have it told from now on.
    fn keep(&self, key: WebhookKey, webhook: Webhook) {
        let held = Arc::new(Held {
            key: key.clone(),
            webhook: tokio::sync::Mutex::new(webhook),
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
    ) -> Result<(Webhook, Put), WebhookError> {
        webhook::check(&self.parts().egress, &config.url).map_err(WebhookError::Rejected)?;
        let notices = &self.parts().notices;
        let _one = self.0.making.lock().await;
        if let Ok(held) = self.held(key) {
            let mut webhook = held.webhook.lock().await;
            let mut changed = webhook.clone();
            changed.config = config;
            if let Some(from) = from {
                changed.delivered(from);
            }
            if changed != *webhook {
                // It may be that what was tried is not wanted any more.
                changed.failing = None;
                self.store(vec![key.write(&changed)]).await?;
                *webhook = changed;
                held.changed.notify_one();
            }
            return Ok((webhook.clone(), Put::Changed));
        }
        let webhooks_max = self.parts().bounds.webhooks_max;
        if self.all().get(&key.tenant).map_or(0, BTreeMap::len) >= webhooks_max {
            telemetry::hit(Limit::WebhooksTenant);
            return Err(WebhookError::TooMany(webhooks_max));
        }
        let cursor = match from {
            Some(from) => from,
            None => notices.end(&key.tenant).await?,
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
            dead_letters: 0,
        };
        self.store(vec![key.write(&webhook)]).await?;
        self.keep(key.clone(), webhook.clone());
        Ok((webhook, Put::Made { secret }))
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
        let mut webhook = held.webhook.lock().await;
        let mut changed = webhook.clone();
        changed.rotate(sealed, self.now(), overlap_ms);
        self.store(vec![key.write(&changed)]).await?;
        *webhook = changed;
        Ok(text)
    }

    pub async fn get(&self, key: &WebhookKey) -> Result<Webhook, WebhookError> {
        let held = self.held(key)?;
        let webhook = held.webhook.lock().await;
        Ok(webhook.clone())
    }

    /// A tenant's, by name.
    pub async fn list(&self, tenant: &TenantId) -> Vec<(WebhookName, Webhook)> {
        let own = self.all().get(tenant).cloned().unwrap_or_default();
        let mut webhooks = Vec::with_capacity(own.len());
        for (name, held) in own {
            webhooks.push((name, held.webhook.lock().await.clone()));
        }
        webhooks
    }

    pub async fn remove(&self, key: &WebhookKey) -> Result<(), WebhookError> {
        let _one = self.0.making.lock().await;
        let held = self.held(key)?;
        // Nobody writes it any more.
        let _webhook = held.webhook.lock().await;
        let letters = self.letters(key, None, usize::MAX).await?;
        let mut keys = vec![key.record()];
        keys.extend(letters.iter().map(|(letter, _)| key.dead_record(letter)));
        let writes = keys.into_iter().map(|key| Write::Unrecord { key });
        self.store(writes.collect()).await?;
        held.gone.cancel();
        let mut all = self.all();
        if let Some(own) = all.get_mut(&key.tenant) {
            own.remove(&key.name);
            if own.is_empty() {
                all.remove(&key.tenant);
            }
        }
        Ok(())
    }

    /// Its dead letters after one, oldest first, by name.
    pub async fn letters(
        &self,
        key: &WebhookKey,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<(String, DeadLetter)>, WebhookError> {
        let (tenant, prefix) = (key.tenant.clone(), format!("{}/", key.name));
        let after = format!("{prefix}{}", after.unwrap_or_default());
        let records = self.reading(move |store| {
            let space = RecordSpace::DeadLetter;
            let records = store.records(Some(&tenant), space, Some(&after), count_max)?;
            let own = records.into_iter().map_while(|(name, bytes)| {
                let letter = name.strip_prefix(&prefix)?.to_owned();
                Some((letter, bytes))
            });
            Ok(own.collect::<Vec<_>>())
        });
        let records = records.await?.into_iter();
        let letters = records.map(|(name, bytes)| {
            let letter = serde_json::from_slice(&bytes)
                .map_err(|error| ReadError::bad_record(format!("dead letter {name}: {error}")))?;
            Ok((name, letter))
        });
        letters.collect()
    }

    /// A dead letter, with the place of its webhook held: it is read and removed by one at a time.
    pub(super) async fn letter(
        &self,
        key: &WebhookKey,
        letter: &str,
    ) -> Result<DeadLetter, WebhookError> {
        // A place in the notices, or none of ours.
        let _: NoticeOffset = letter.parse().map_err(|_| WebhookError::NoDeadLetter)?;
        let record = key.dead_record(letter);
        let read = self.reading(move |store| store.record(&record)).await?;
        let bytes = read.ok_or(WebhookError::NoDeadLetter)?;
        let letter = serde_json::from_slice(&bytes);
        Ok(letter.map_err(|error| ReadError::bad_record(error.to_string()))?)
    }

    pub async fn forget_letter(&self, key: &WebhookKey, letter: &str) -> Result<(), WebhookError> {
        let held = self.held(key)?;
        let mut webhook = held.webhook.lock().await;
        self.letter(key, letter).await?;
        let mut changed = webhook.clone();
        changed.dead_letters = changed.dead_letters.saturating_sub(1);
        let record = key.dead_record(letter);
        let writes = vec![Write::Unrecord { key: record }, key.write(&changed)];
        self.store(writes).await?;
        *webhook = changed;
        Ok(())
    }

    /// Let go of a tenant's, for good: it is being removed, and is marked as such.
    pub async fn forget_tenant(&self, tenant: &TenantId) {
        let _one = self.0.making.lock().await;
        let own = self.all().remove(tenant).unwrap_or_default();
        for held in own.into_values() {
            held.gone.cancel();
            // Whoever writes it has written.
            drop(held.webhook.lock().await);
        }
    }

    /// Wait until nothing is under way any more.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
