//! Keys and tokens made, rotated and taken back.
//!
//! Invariant: what is answered is durable; what was taken back is looked up anew by everybody who holds it.

use std::collections::BTreeSet;

use crate::clock::Time;
use crate::id::{Author, Digest, SessionId, TenantId};
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Write};

use super::keys::{self, Address, Key, KeyRecord, NewKey, Right, TokenRecord};
use super::{KEYS_MAX, TenantError, Tenants, Terms, ended, json};

impl Tenants {
    /// A tenant's keys, oldest first.
    pub async fn keys(&self, tenant: &TenantId) -> Result<Vec<Key>, ReadError> {
        let (store, owner) = (self.0.store.clone(), tenant.clone());
        let listed = tokio::task::spawn_blocking(move || {
            store.records(Some(&owner), RecordSpace::Key, None, usize::MAX)
        });
        let parse = |(name, bytes): (String, bytes::Bytes)| {
            let record: KeyRecord = serde_json::from_slice(&bytes)
                .map_err(|error| ReadError::bad_record(format!("key {name}: {error}")))?;
            Ok(Key::of(&name, record))
        };
        let listed = listed.await.map_err(|_| ended())??;
        let keys = listed.into_iter().map(parse);
        let mut keys = keys.collect::<Result<Vec<_>, ReadError>>()?;
        keys.sort_by_key(|key| (key.created_at, key.id.clone()));
        Ok(keys)
    }

    /// Make a key: durable when it returns. What has expired long ago makes room.
    pub async fn mint_key(&self, tenant: &TenantId, terms: Terms) -> Result<NewKey, TenantError> {
        let _one = self.0.changing.lock().await;
        let now = self.0.clock.now();
        let keys = self.keys(tenant).await?;
        let (gone, there): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|key| key.expires_at.is_some_and(|at| at <= now));
        if there.len() >= KEYS_MAX {
            return Err(TenantError::TooManyKeys);
        }
        for key in gone {
            self.revoke(tenant, RecordSpace::Key, &key.id, |_| true)
                .await?;
        }
        Ok(self.make_key(Some(tenant), terms).await?)
    }

    pub(super) async fn make_key(
        &self,
        tenant: Option<&TenantId>,
        terms: Terms,
    ) -> Result<NewKey, CommitError> {
        let text = keys::mint(RecordSpace::Key, tenant);
        let at = Address::of(&text).expect("it was just made in this form");
        let key = Key {
            id: String::new(),
            rights: terms.rights,
            created_at: self.0.clock.now(),
            expires_at: terms.expires_at,
            label: terms.label,
        };
        let write = Write::Record {
            key: at.key(),
            bytes: json(&key.record()),
        };
        crate::store::write(&*self.0.store, vec![write]).await?;
        let key = Key::of(&at.digest.to_string(), key.record());
        Ok(NewKey { text, key })
    }

    /// Make a key in place of another one, which ends after the overlap: durable when it returns.
    pub async fn rotate_key(
        &self,
        tenant: &TenantId,
        id: &str,
        overlap_ms: u64,
    ) -> Result<(NewKey, Key), TenantError> {
        let _one = self.0.changing.lock().await;
        let found = self.record_of(tenant, RecordSpace::Key, id).await?;
        let (name, bytes) = found.ok_or(TenantError::NoSuchKey)?;
        let mut old: KeyRecord = serde_json::from_slice(&bytes)
            .map_err(|error| ReadError::bad_record(format!("key {name}: {error}")))?;
        let now = self.0.clock.now();
        let end = now.plus_ms(overlap_ms);
        if old.expires_at.is_some_and(|at| at <= now) {
            return Err(TenantError::NoSuchKey);
        }
        // A key that was to expire is followed by one that does, after as long a time.
        let term_ms = old.expires_at.map(|at| at.ms_since(old.created_at));
        let terms = Terms {
            rights: old.rights.clone(),
            expires_at: term_ms.map(|ms| now.plus_ms(ms)),
            label: old.label.clone(),
        };
        let new = self.make_key(Some(tenant), terms).await?;
        old.expires_at = Some(old.expires_at.map_or(end, |at| at.min(end)));
        let key = RecordKey {
            tenant: Some(tenant.clone()),
            space: RecordSpace::Key,
            name: name.clone(),
        };
        let bytes = json(&old);
        crate::store::write(&*self.0.store, vec![Write::Record { key, bytes }]).await?;
        self.forget(&name);
        Ok((new, Key::of(&name, old)))
    }

    /// Take a key back, by its id: false if there is none. Durable when it returns.
    pub async fn revoke_key(&self, tenant: &TenantId, id: &str) -> Result<bool, TenantError> {
        self.revoke(tenant, RecordSpace::Key, id, |_| true).await
    }

    /// Make a token: durable when it returns. The text is not kept.
    pub async fn mint_token(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        author: Author,
        rights: BTreeSet<Right>,
        expires_at: Time,
    ) -> Result<(String, TokenRecord), CommitError> {
        let text = keys::mint(RecordSpace::Token, Some(tenant));
        let at = Address::of(&text).expect("it was just made in this form");
        let mut id = at.digest.to_string();
        id.truncate(keys::ID_DIGITS);
        let record = TokenRecord {
            id,
            session: session.clone(),
            author,
            rights,
            expires_at,
        };
        let write = Write::Record {
            key: at.key(),
            bytes: json(&record),
        };
        crate::store::write(&*self.0.store, vec![write]).await?;
        Ok((text, record))
    }

    /// Take a token back, by its id: false if there is none. Durable when it returns.
    pub async fn revoke_token(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        id: &str,
    ) -> Result<bool, TenantError> {
        let of_session = |bytes: &[u8]| {
            serde_json::from_slice::<TokenRecord>(bytes)
                .is_ok_and(|record| record.session == *session)
        };
        self.revoke(tenant, RecordSpace::Token, id, of_session)
            .await
    }

    async fn revoke(
        &self,
        tenant: &TenantId,
        space: RecordSpace,
        id: &str,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, TenantError> {
        let found = self.record_of(tenant, space, id).await?;
        let Some((name, _)) = found.filter(|(_, bytes)| is_it(bytes)) else {
            return Ok(false);
        };
        let key = RecordKey {
            tenant: Some(tenant.clone()),
            space,
            name: name.clone(),
        };
        crate::store::write(&*self.0.store, vec![Write::Unrecord { key }]).await?;
        self.forget(&name);
        Ok(true)
    }

    /// Look the key or token of this digest up again, and have everybody do so.
    fn forget(&self, name: &str) {
        // In this order: see `find`.
        self.0.changes.send_if_modified(|changes| {
            *changes += 1;
            false
        });
        if let Ok(digest) = Digest::try_from(name.to_owned()) {
            self.0.holders.invalidate(&digest);
        }
        self.changed();
    }

    /// The record of a key or token by its id, with its name.
    async fn record_of(
        &self,
        tenant: &TenantId,
        space: RecordSpace,
        id: &str,
    ) -> Result<Option<(String, bytes::Bytes)>, ReadError> {
        if !keys::is_id(id) {
            return Ok(None);
        }
        // The id is the beginning of the digest, so the record is the first one after it.
        let (store, owner, start) = (self.0.store.clone(), tenant.clone(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            store.records(Some(&owner), space, Some(&start), 1)
        });
        let found = found.await.map_err(|_| ended())??;
        let first = found.into_iter().next();
        Ok(first.filter(|(name, _)| name.starts_with(id)))
    }
}
