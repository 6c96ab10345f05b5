//! Tenants, their keys and session tokens, and who holds one.
//!
//! - `record`: what is stored of a tenant.
//! - `keys`: texts and records of keys and tokens; `minting`: made, rotated, taken back.
//! - here: all tenants in memory, keys looked up and kept, changes made durable and told.
//!
//! Invariant: what was revoked, has expired, or is of a tenant that is not active is refused from the
//! moment its change is durable, also by who looked it up before: [`Tenants::lapsed`] tells them.
//! It removes nothing but its own records: `session` removes what a tenant has.

mod keys;
mod minting;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use crate::clock::{Clock, Time};
use crate::id::{Digest, TenantId};
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Store, Write};

pub use keys::{Holder, Key, NewKey, Right, TokenRecord, Who};
pub use record::{Quotas, Record, Standing};

use keys::Address;

/// Holders in memory; others cost a read of the store.
const HOLDERS_MAX: u64 = 10_000;

/// Keys of one tenant. More would be for people, who get session tokens.
pub const KEYS_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the key file: {0}")]
    KeyFile(#[from] io::Error),
    #[error("there is no such tenant")]
    NotFound,
    #[error("there is such a tenant already")]
    Exists,
    #[error("the tenant is being deleted")]
    Deleting,
    #[error("there is no such key")]
    NoSuchKey,
    #[error("a tenant has {KEYS_MAX} keys at most")]
    TooManyKeys,
}

/// Why a text lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nobody's, or not any more.
    Unknown,
    Suspended,
}

/// What a new key is for.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub rights: BTreeSet<Right>,
    pub expires_at: Option<Time>,
    pub label: Option<String>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Tenants(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    all: RwLock<BTreeMap<TenantId, Record>>,
    holders: moka::sync::Cache<Digest, Arc<Holder>>,
    /// Counts whatever may end somebody's right to be here.
    changes: watch::Sender<u64>,
    /// Tenants and keys are changed one at a time: each change builds on what is stored.
    changing: tokio::sync::Mutex<()>,
}

impl Tenants {
    /// Read all tenants. Blocks.
    pub fn open(store: Arc<dyn Store>, clock: Clock) -> Result<Self, ReadError> {
        let records = store.records(None, RecordSpace::Tenant, None, usize::MAX)?;
        let parse = |(name, bytes): (String, bytes::Bytes)| {
            let damaged = |error: String| ReadError::bad_record(format!("tenant {name}: {error}"));
            let tenant = TenantId::new(&name).map_err(|error| damaged(error.to_string()))?;
            let record = serde_json::from_slice(&bytes);
            Ok((tenant, record.map_err(|error| damaged(error.to_string()))?))
        };
        let all = records.into_iter().map(parse);
        let all = all.collect::<Result<_, ReadError>>()?;
        Ok(Self(Arc::new(Inner {
            store,
            clock,
            all: RwLock::new(all),
            holders: moka::sync::Cache::new(HOLDERS_MAX),
            changes: watch::Sender::new(0),
            changing: tokio::sync::Mutex::new(()),
        })))
    }

    /// All tenants, in order of name.
    pub fn list(&self) -> Vec<(TenantId, Record)> {
        let all = self.all();
        all.iter()
            .map(|(tenant, record)| (tenant.clone(), *record))
            .collect()
    }

    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Their names.
    pub fn names(&self) -> Vec<TenantId> {
        self.all().keys().cloned().collect()
    }

    pub fn get(&self, tenant: &TenantId) -> Option<Record> {
        self.all().get(tenant).copied()
    }

    fn all(&self) -> RwLockReadGuard<'_, BTreeMap<TenantId, Record>> {
        self.0
            .all
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, tenant: &TenantId, record: Option<Record>) {
        let mut all = self
            .0
            .all
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match record {
            Some(record) => all.insert(tenant.clone(), record),
            None => all.remove(tenant),
        };
    }

    /// Make tenant `default` if there is none, and write a key for it and one for the operator into
    /// `folder`, each if its file is not there: readable by this user only, and nowhere else.
    pub async fn bootstrap(&self, folder: &Path) -> Result<(), TenantError> {
        let default = TenantId::new("default").expect("it obeys the rule");
        if self.all().is_empty() {
            self.write(&default, self.fresh(Quotas::default())).await?;
        }
        let operator = folder.join("operator.key");
        if !operator.exists() {
            let terms = Terms {
                rights: [Right::Admin].into(),
                ..Terms::default()
            };
            write_key(&operator, &self.make_key(None, terms).await?)?;
        }
        let file = folder.join("default.key");
        if self.get(&default).is_some() && !file.exists() {
            let terms = Terms {
                rights: Right::of_first_key(),
                ..Terms::default()
            };
            write_key(&file, &self.make_key(Some(&default), terms).await?)?;
        }
        Ok(())
    }

    fn fresh(&self, quotas: Quotas) -> Record {
        Record {
            standing: Standing::Active,
            created_at: self.0.clock.now(),
            quotas,
        }
    }

    /// Make a tenant, with its first key: durable when it returns.
    pub async fn create(
        &self,
        tenant: &TenantId,
        quotas: Quotas,
    ) -> Result<(Record, NewKey), TenantError> {
        let _one = self.0.changing.lock().await;
        match self.get(tenant) {
            Some(record) if record.standing == Standing::Deleting => {
                return Err(TenantError::Deleting);
            }
            Some(_) => return Err(TenantError::Exists),
            None => {}
        }
        let record = self.fresh(quotas);
        let terms = Terms {
            rights: Right::of_first_key(),
            ..Terms::default()
        };
        // The key first: a tenant that nobody can enter would be in the way of the next try.
        let key = self.make_key(Some(tenant), terms).await?;
        self.write(tenant, record).await?;
        Ok((record, key))
    }

    /// Make a tenant that is not served of what is stored under its name; false if there is such a tenant.
    pub async fn adopt(&self, tenant: &TenantId) -> Result<bool, CommitError> {
        let _one = self.0.changing.lock().await;
        if self.get(tenant).is_some() {
            return Ok(false);
        }
        let record = Record {
            standing: Standing::Suspended,
            ..self.fresh(Quotas::default())
        };
        self.write(tenant, record).await?;
        Ok(true)
    }

    /// Replace what the tenant may use, or have it served or not: durable when it returns. One that is
    /// being deleted stays so.
    pub async fn change(
        &self,
        tenant: &TenantId,
        change: impl FnOnce(&mut Record),
    ) -> Result<Record, TenantError> {
        let _one = self.0.changing.lock().await;
        let mut record = self.get(tenant).ok_or(TenantError::NotFound)?;
        if record.standing == Standing::Deleting {
            return Err(TenantError::Deleting);
        }
        change(&mut record);
        self.write(tenant, record).await?;
        Ok(record)
    }

    /// From now on it is being deleted, also after a restart. Fine if it is already.
    pub async fn begin_deletion(&self, tenant: &TenantId) -> Result<(), TenantError> {
        let deleting = |record: &mut Record| record.standing = Standing::Deleting;
        match self.change(tenant, deleting).await {
            Ok(_) | Err(TenantError::Deleting) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Everything that the tenant had is gone: its name is free.
    pub async fn end_deletion(&self, tenant: &TenantId) -> Result<(), TenantError> {
        let _one = self.0.changing.lock().await;
        let key = tenant_key(tenant);
        crate::store::write(&*self.0.store, vec![Write::Unrecord { key }]).await?;
        self.set(tenant, None);
        Ok(())
    }

    async fn write(&self, tenant: &TenantId, record: Record) -> Result<(), CommitError> {
        let write = Write::Record {
            key: tenant_key(tenant),
            bytes: json(&record),
        };
        crate::store::write(&*self.0.store, vec![write]).await?;
        self.set(tenant, Some(record));
        self.changed();
        Ok(())
    }

    /// Have everybody look whether they may stay.
    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// Who holds this text. Reads the store only for holders not seen lately.
    pub async fn holder(&self, text: &str) -> Result<Result<Arc<Holder>, Denied>, ReadError> {
        let Some(at) = Address::of(text) else {
            return Ok(Err(Denied::Unknown));
        };
        let Some(holder) = self.find(at).await? else {
            return Ok(Err(Denied::Unknown));
        };
        Ok(self.check(&holder).map(|()| holder))
    }

    fn check(&self, holder: &Holder) -> Result<(), Denied> {
        if holder.is_expired(self.0.clock.now()) {
            return Err(Denied::Unknown);
        }
        holder.tenant().map_or(Ok(()), |tenant| self.admits(tenant))
    }

    /// Whether anybody of the tenant is let in.
    pub fn admits(&self, tenant: &TenantId) -> Result<(), Denied> {
        match self.get(tenant).map(|record| record.standing) {
            Some(Standing::Active) => Ok(()),
            Some(Standing::Suspended) => Err(Denied::Suspended),
            Some(Standing::Deleting) | None => Err(Denied::Unknown),
        }
    }

    async fn find(&self, at: Address) -> Result<Option<Arc<Holder>>, ReadError> {
        loop {
            if let Some(holder) = self.0.holders.get(&at.digest) {
                return Ok(Some(holder));
            }
            let before = *self.0.changes.borrow();
            let (store, key) = (self.0.store.clone(), at.key());
            let read = tokio::task::spawn_blocking(move || store.record(&key));
            let Some(bytes) = read.await.map_err(|_| ended())?? else {
                return Ok(None);
            };
            let holder = Holder::parse(at.clone(), &bytes);
            let holder = holder
                .map_err(|error| ReadError::bad_record(format!("a key's record: {error}")))?;
            let holder = Arc::new(holder);
            self.0.holders.insert(at.digest, holder.clone());
            // A change that came between the reading and this would be kept out for ever: whoever
            // makes one counts it first, and then forgets the holder.
            if *self.0.changes.borrow() == before {
                return Ok(Some(holder));
            }
            self.0.holders.invalidate(&at.digest);
        }
    }

    /// Wait until nobody of the tenant is let in any more.
    pub async fn closes(&self, tenant: &TenantId) {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.admits(tenant).is_err() || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Wait until the holder may not be here any more.
    pub async fn lapsed(&self, holder: &Holder) {
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.check(holder).is_err() {
                return;
            }
            match self.find(holder.at.clone()).await {
                // Its term may have been shortened.
                Ok(Some(found)) if self.check(&found).is_ok() => {
                    let left = found
                        .expires_at
                        .map(|at| at.ms_since(self.0.clock.now()).max(1));
                    // Wall time may step; an hour at most is slept on it.
                    let wait = Duration::from_millis(left.unwrap_or(u64::MAX).min(3_600_000));
                    tokio::select! {
                        _ = changes.changed() => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                _ => return,
            }
        }
    }
}

fn ended() -> ReadError {
    ReadError::Io("the reading thread ended early".into())
}

/// Write a key's text where only this user reads it.
fn write_key(file: &Path, key: &NewKey) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(key.text.as_bytes())?;
    file.sync_all()
}

fn tenant_key(tenant: &TenantId) -> RecordKey {
    RecordKey {
        tenant: None,
        space: RecordSpace::Tenant,
        name: tenant.as_str().to_owned(),
    }
}

fn json(value: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("records have string keys")
        .into()
}

#[cfg(test)]
mod tests;
