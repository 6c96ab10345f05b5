//! Tenants and their keys.
//!
//! A key names its tenant, so it is found without an index over tenants:
//! `ant_<tenant>_<64 hex digits>`. Only its SHA-256 is stored. Session tokens have
//! the same form with `ast_`. Invariant: what a key or token may do is decided
//! from its record alone; the texts are never logged.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{Author, Digest, SessionId, TenantId};
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Store, Write};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    Deploy,
    Invoke,
    Read,
    Inspect,
    Admin,
    /// Forward the authorization of somebody else: for runtimes that call this one.
    InterAgent,
    /// Session tokens: send messages.
    Send,
    /// Session tokens: interrupt.
    Interrupt,
}

impl Right {
    pub fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Inspect => "inspect",
            Self::Admin => "admin",
            Self::InterAgent => "inter-agent",
            Self::Send => "send",
            Self::Interrupt => "interrupt",
        }
    }
}

/// The stored form of a key, under its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeyRecord {
    rights: BTreeSet<Right>,
    created_at: Time,
}

/// The stored form of a session token, under its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names the token where it may be shown.
    pub id: String,
    pub session: SessionId,
    pub author: Author,
    pub rights: BTreeSet<Right>,
    pub expires_at: Time,
}

/// Who asks, as far as the key or token says.
#[derive(Debug, Clone, PartialEq)]
pub enum Holder {
    Key {
        tenant: TenantId,
        rights: BTreeSet<Right>,
    },
    Token {
        tenant: TenantId,
        token: TokenRecord,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("the key file: {0}")]
    KeyFile(#[from] io::Error),
}

#[derive(Clone)]
pub struct Tenants {
    store: Arc<dyn Store>,
    keys: moka::sync::Cache<Digest, Arc<Holder>>,
}

const KEY: &str = "ant";
const TOKEN: &str = "ast";

/// Digits of a digest that name a key or token where it may be shown.
const ID_DIGITS: usize = 16;

impl Tenants {
    pub fn new(store: Arc<dyn Store>) -> Self {
        // Ten thousand holders in memory; others cost a read of the store.
        Self {
            store,
            keys: moka::sync::Cache::new(10_000),
        }
    }

    /// All tenants. Blocks.
    pub fn list(&self) -> Result<Vec<TenantId>, ReadError> {
        let records = self
            .store
            .records(None, RecordSpace::Tenant, None, usize::MAX)?;
        let parse = |(name, _): (String, bytes::Bytes)| {
            TenantId::new(&name).map_err(|error| ReadError::bad_record(error.to_string()))
        };
        records.into_iter().map(parse).collect()
    }

    /// Make tenant `default` if the store has no tenant, and write a key for it into `file` if
    /// that is not there: readable by this user only, and nowhere else.
    pub async fn bootstrap(&self, file: &Path, now: Time) -> Result<(), TenantError> {
        let reader = self.clone();
        let listed = tokio::task::spawn_blocking(move || reader.list());
        let tenants = listed
            .await
            .map_err(|_| ReadError::Io("the reading thread ended early".into()))??;
        let default = TenantId::new("default").expect("it obeys the rule");
        if !tenants.is_empty() && !tenants.contains(&default) {
            return Ok(());
        }
        if tenants.contains(&default) && file.exists() {
            return Ok(());
        }
        let text = mint(KEY, &default);
        let rights = [
            Right::Deploy,
            Right::Invoke,
            Right::Read,
            Right::Inspect,
            Right::Admin,
        ]
        .into();
        let record = KeyRecord {
            rights,
            created_at: now,
        };
        let writes = vec![
            Write::Record {
                key: tenant_key(&default),
                bytes: bytes::Bytes::from_static(b"{}"),
            },
            Write::Record {
                key: holder_key(&default, RecordSpace::Key, &text),
                bytes: json(&record),
            },
        ];
        crate::store::write(&*self.store, writes).await?;
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(())
    }

    /// Who holds this text; none if nobody does, or no longer. Reads the store only for
    /// holders not seen lately.
    pub async fn holder(&self, text: &str, now: Time) -> Result<Option<Arc<Holder>>, ReadError> {
        let digest = Digest::of(text.as_bytes());
        if let Some(holder) = self.keys.get(&digest) {
            return Ok(Some(holder).filter(|holder| holder.is_valid(now)));
        }
        let Some((space, tenant)) = parse(text) else {
            return Ok(None);
        };
        let key = holder_key(&tenant, space, text);
        let store = self.store.clone();
        let bytes = match tokio::task::spawn_blocking(move || store.record(&key)).await {
            Ok(bytes) => bytes?,
            Err(_) => None,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let damaged =
            |error: serde_json::Error| ReadError::bad_record(format!("a key's record: {error}"));
        let holder = match space {
            RecordSpace::Key => {
                let record: KeyRecord = serde_json::from_slice(&bytes).map_err(damaged)?;
                Holder::Key {
                    tenant,
                    rights: record.rights,
                }
            }
            _ => Holder::Token {
                tenant,
                token: serde_json::from_slice(&bytes).map_err(damaged)?,
            },
        };
        let holder = Arc::new(holder);
        self.keys.insert(digest, holder.clone());
        Ok(Some(holder).filter(|holder| holder.is_valid(now)))
    }

    /// Make a key: durable when it returns. The text is not kept; the id names it where it may be shown.
    pub async fn mint_key(
        &self,
        tenant: &TenantId,
        rights: BTreeSet<Right>,
        now: Time,
    ) -> Result<(String, String), CommitError> {
        let text = mint(KEY, tenant);
        let record = KeyRecord {
            rights,
            created_at: now,
        };
        let key = holder_key(tenant, RecordSpace::Key, &text);
        let id = key.name[..ID_DIGITS].to_owned();
        let bytes = json(&record);
        crate::store::write(&*self.store, vec![Write::Record { key, bytes }]).await?;
        Ok((text, id))
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
        let text = mint(TOKEN, tenant);
        let id = Digest::of(text.as_bytes()).to_string()[..ID_DIGITS].to_owned();
        let record = TokenRecord {
            id,
            session: session.clone(),
            author,
            rights,
            expires_at,
        };
        let key = holder_key(tenant, RecordSpace::Token, &text);
        crate::store::write(
            &*self.store,
            vec![Write::Record {
                key,
                bytes: json(&record),
            }],
        )
        .await?;
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
        let is_id = id.len() == ID_DIGITS
            && id
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return Ok(false);
        }
        // The id is the beginning of the digest, so the record is the first one after it.
        let (store, owner, start) = (self.store.clone(), tenant.clone(), id.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            store.records(Some(&owner), space, Some(&start), 1)
        });
        let found = found
            .await
            .map_err(|_| ReadError::Io("the reading thread ended early".into()))??;
        let Some((name, bytes)) = found
            .into_iter()
            .next()
            .filter(|(name, _)| name.starts_with(id))
        else {
            return Ok(false);
        };
        if !is_it(&bytes) {
            return Ok(false);
        }
        let digest = Digest::try_from(name.clone()).ok();
        let key = RecordKey {
            tenant: Some(tenant.clone()),
            space,
            name,
        };
        crate::store::write(&*self.store, vec![Write::Unrecord { key }]).await?;
        if let Some(digest) = digest {
            self.keys.invalidate(&digest);
        }
        Ok(true)
    }
}

impl Holder {
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Key { tenant, .. } | Self::Token { tenant, .. } => tenant,
        }
    }

    fn is_valid(&self, now: Time) -> bool {
        match self {
            Self::Key { .. } => true,
            Self::Token { token, .. } => now < token.expires_at,
        }
    }
}

fn mint(kind: &str, tenant: &TenantId) -> String {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the system has randomness");
    format!("{kind}_{tenant}_{}", hex::encode(secret))
}

fn parse(text: &str) -> Option<(RecordSpace, TenantId)> {
    let mut parts = text.split('_');
    let (kind, tenant, secret) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || secret.len() != 64 {
        return None;
    }
    // The secret itself is never compared: its digest is looked up.
    let space = match kind {
        KEY => RecordSpace::Key,
        TOKEN => RecordSpace::Token,
        _ => return None,
    };
    Some((space, TenantId::new(tenant).ok()?))
}

fn tenant_key(tenant: &TenantId) -> RecordKey {
    RecordKey {
        tenant: None,
        space: RecordSpace::Tenant,
        name: tenant.as_str().to_owned(),
    }
}

fn holder_key(tenant: &TenantId, space: RecordSpace, text: &str) -> RecordKey {
    let name = Digest::of(text.as_bytes()).to_string();
    RecordKey {
        tenant: Some(tenant.clone()),
        space,
        name,
    }
}

fn json(value: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(value)
        .expect("records have string keys")
        .into()
}
