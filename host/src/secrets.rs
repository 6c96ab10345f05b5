//! Tenants' secrets: what goes with agents' requests, and no agent sees.
//!
//! A secret is a record of its tenant, sealed with the host's key for that tenant and name. It
//! is written and used, and never read back over HTTP. A secret named `env:NAME` is a variable of the
//! host's environment, and only one that the operator offers to every tenant.
//!
//! Invariant: a text leaves this file as a [`Secret`] and to whoever is bound to its tenant only.
//! Where it may be sent is decided by egress/.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::egress::Lookup;
use crate::egress::allow::SecretSource;
use crate::id::{SecretName, TenantId};
use crate::seal::{Seal, SealError};
use crate::secret::Secret;
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Store, Write};

/// A shorter one could be guessed, and could not be told from other text where it comes back.
pub const SECRET_BYTES_MIN: usize = 8;
/// The longest tokens that servers take in one header.
pub const SECRET_BYTES_MAX: usize = 8 * 1024;
/// Of one tenant: as many as anybody gives names to.
const SECRETS_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
    Length,
    #[error("a secret stands in a header, so it is text on one line without control characters")]
    NotOneLine,
    #[error("a tenant may have {SECRETS_MAX} secrets")]
    TooMany,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("a secret cannot be sealed: {0}")]
    Seal(#[from] io::Error),
    #[error("a secret cannot be opened: {0}")]
    Open(#[from] SealError),
}

/// Whether a text can be a secret.
pub fn check(text: &[u8]) -> Result<&str, SecretError> {
    if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) {
        return Err(SecretError::Length);
    }
    let text = std::str::from_utf8(text).map_err(|_| SecretError::NotOneLine)?;
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(SecretError::NotOneLine);
    }
    Ok(text)
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Record {
    written_at: Time,
    /// Hex of what [`Seal`] made.
    sealed: String,
}

#[derive(Clone)]
pub struct Secrets(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    seal: Seal,
    /// Variables that the operator offers.
    environment: BTreeMap<String, Secret>,
    /// Secrets are counted and written one at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Secrets {
    pub fn new(store: Arc<dyn Store>, seal: Seal, environment: BTreeMap<String, Secret>) -> Self {
        Self(Arc::new(Inner {
            store,
            seal,
            environment,
            writing: tokio::sync::Mutex::new(()),
        }))
    }

    /// Keep a secret, in place of what had its name: durable when it returns. True if it is new.
    pub async fn put(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        text: &[u8],
        now: Time,
    ) -> Result<bool, SecretError> {
        let text = check(text)?;
        let _one = self.0.writing.lock().await;
        let names = self.list(tenant).await?;
        let is_new = !names.iter().any(|(other, _)| other == name);
        if is_new && names.len() >= SECRETS_MAX {
            return Err(SecretError::TooMany);
        }
        let sealed = self.0.seal.seal(&context(tenant, name), text.as_bytes())?;
        let record = Record {
            written_at: now,
            sealed: hex::encode(sealed),
        };
        let bytes = serde_json::to_vec(&record).expect("records have string keys");
        let write = Write::Record {
            key: key(tenant, name),
            bytes: bytes.into(),
        };
        crate::store::write(&*self.0.store, vec![write]).await?;
        Ok(is_new)
    }

    /// Names, and when they were written last, in order of name.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<(SecretName, Time)>, SecretError> {
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        let records = blocking(move || {
            let store = &inner.store;
            store.records(Some(&tenant), RecordSpace::Secret, None, usize::MAX)
        });
        let list = records.await?.into_iter().map(|(name, bytes)| {
            let damaged = |error: String| ReadError::bad_record(format!("secret {name}: {error}"));
            let parsed = SecretName::new(&name).map_err(|error| damaged(error.to_string()))?;
            let record: Record =
                serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            Ok((parsed, record.written_at))
        });
        list.collect()
    }

    /// Forget a secret: durable when it returns. False if there is none.
    pub async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError> {
        let _one = self.0.writing.lock().await;
        let (inner, of) = (self.0.clone(), key(tenant, name));
        let key = of.clone();
        if blocking(move || inner.store.record(&of)).await?.is_none() {
            return Ok(false);
        }
        crate::store::write(&*self.0.store, vec![Write::Unrecord { key }]).await?;
        Ok(true)
    }

    /// The text, for whoever sends it. None if there is no such secret.
    pub async fn get(
        &self,
        tenant: &TenantId,
        source: &SecretSource,
    ) -> Result<Option<Secret>, SecretError> {
        let name = match source {
            SecretSource::Environment(variable) => {
                return Ok(self.0.environment.get(variable).cloned());
            }
            SecretSource::Tenant(name) => name,
        };
        let (inner, of) = (self.0.clone(), key(tenant, name));
        let Some(bytes) = blocking(move || inner.store.record(&of)).await? else {
            return Ok(None);
        };
        let damaged = |_| ReadError::bad_record(format!("secret {name}"));
        let record: Record = serde_json::from_slice(&bytes).map_err(|_| damaged(()))?;
        let sealed = hex::decode(&record.sealed).map_err(|_| damaged(()))?;
        let text = self.0.seal.open(&context(tenant, name), &sealed)?;
        let text = String::from_utf8(text).map_err(|_| damaged(()))?;
        Ok(Some(Secret::new(text)))
    }

    /// For whoever sends requests of this tenant's agents. What cannot be read is not there: the
    /// request is refused, and the log says why.
    pub fn of(&self, tenant: &TenantId) -> Lookup {
        let (secrets, tenant) = (self.clone(), tenant.clone());
        Arc::new(move |source: SecretSource| {
            let (secrets, tenant) = (secrets.clone(), tenant.clone());
            Box::pin(async move {
                let got = secrets.get(&tenant, &source).await;
                got.unwrap_or_else(|error| {
                    tracing::error!(%tenant, secret = %source, %error, "a secret cannot be read");
                    None
                })
            })
        })
    }
}

/// What is sealed, and whose. Names hold no space.
fn context(tenant: &TenantId, name: &SecretName) -> String {
    format!("secret {tenant} {name}")
}

fn key(tenant: &TenantId, name: &SecretName) -> RecordKey {
    RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Secret,
        name: name.as_str().to_owned(),
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(_) => Err(ReadError::Io("the reading thread ended early".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::script::name;
    use crate::store::{Memory, memory};

    fn secrets(disk: &Memory, key: u8) -> Secrets {
        let offered = BTreeMap::from([("OFFERED".to_owned(), Secret::new("from-outside"))]);
        Secrets::new(memory(disk), Seal::of_key(&[key; 32]), offered)
    }

    fn source(text: &str) -> SecretSource {
        SecretSource::try_from(text.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn a_secret_is_its_tenants_alone_and_lies_sealed() {
        let disk = Memory::new();
        let secrets = secrets(&disk, 1);
        let (one, other, s) = (name("t"), name("u"), name("s"));
        assert!(
            secrets
                .put(&one, &s, b"sk-very-secret", Time(7))
                .await
                .unwrap()
        );
        let got = secrets.get(&one, &source("s")).await.unwrap();
        assert_eq!(got, Some(Secret::new("sk-very-secret")));
        assert_eq!(secrets.get(&other, &source("s")).await.unwrap(), None);
        assert_eq!(secrets.get(&one, &source("S")).await.unwrap(), None);
        assert_eq!(secrets.list(&one).await.unwrap(), [(s.clone(), Time(7))]);
        assert!(secrets.list(&other).await.unwrap().is_empty());

        let stored = secrets.0.store.record(&key(&one, &s)).unwrap().unwrap();
        let text = String::from_utf8(stored.to_vec()).unwrap();
        assert!(
            !text.contains("very") && !text.contains(&hex::encode("very")),
            "{text}"
        );

        assert!(
            !secrets
                .put(&one, &s, b"another one", Time(8))
                .await
                .unwrap()
        );
        let got = secrets.of(&one)(source("s")).await;
        assert_eq!(got, Some(Secret::new("another one")));
        assert!(!secrets.delete(&other, &s).await.unwrap());
        assert!(secrets.delete(&one, &s).await.unwrap());
        assert!(!secrets.delete(&one, &s).await.unwrap());
        assert_eq!(secrets.get(&one, &source("s")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn it_opens_on_no_other_host_and_in_no_other_place() {
        let disk = Memory::new();
        let here = secrets(&disk, 1);
        let (tenant, s) = (name("t"), name("s"));
        here.put(&tenant, &s, b"sk-very-secret", Time(0))
            .await
            .unwrap();
        let stored = here.0.store.record(&key(&tenant, &s)).unwrap().unwrap();
        // Whoever writes into the store cannot make it another secret's text.
        let moved = Write::Record {
            key: key(&tenant, &name("other")),
            bytes: stored,
        };
        crate::store::write(&*here.0.store, vec![moved])
            .await
            .unwrap();
        let opened = here.get(&tenant, &source("other")).await;
        assert!(matches!(opened, Err(SecretError::Open(_))), "{opened:?}");
        assert_eq!(here.of(&tenant)(source("other")).await, None);
        here.0.store.close();
        let elsewhere = secrets(&disk, 2).get(&tenant, &source("s")).await;
        assert!(
            matches!(elsewhere, Err(SecretError::Open(_))),
            "{elsewhere:?}"
        );
    }

    #[tokio::test]
    async fn of_the_environment_there_is_what_the_operator_offers() {
        let secrets = secrets(&Memory::new(), 1);
        let got = secrets
            .get(&name("t"), &source("env:OFFERED"))
            .await
            .unwrap();
        assert_eq!(got, Some(Secret::new("from-outside")));
        assert_eq!(
            secrets.get(&name("t"), &source("env:PATH")).await.unwrap(),
            None
        );
    }

    #[test]
    fn what_no_header_can_hold_is_refused() {
        let long = |bytes: usize| "x".repeat(bytes);
        for (bad, good) in [
            (long(7), long(8)),
            (long(SECRET_BYTES_MAX + 1), long(SECRET_BYTES_MAX)),
            ("two\nlines".into(), "two lines".into()),
            ("ends in a line\n".into(), "ends in a line".into()),
            (" with a margin".into(), "without a margin".into()),
            ("nul\0 in it".into(), "no nul in it".into()),
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(check(good.as_bytes()).is_ok(), "{good:?}");
        }
        assert!(check(b"\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}
