//! Subscriptions as they are in the store: a record each, and one for each stream that they look at.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::state::{Delta, Link, State, Subscription};
use super::{Held, SubscriptionError, SubscriptionKey, Subscriptions};
use crate::id::{Digest, SubscriptionId, TenantId};
use crate::store::{ReadError, RecordKey, RecordSpace, Write};
use crate::streams::StreamPath;

/// As it is stored beside its path, which is too long for a record's name.
#[derive(Serialize, Deserialize)]
struct StoredLink {
    path: StreamPath,
    link: Link,
}

impl SubscriptionKey {
    pub(super) fn record(&self) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::Subscription,
            name: self.id.to_string(),
        }
    }

    pub(super) fn link(&self, path: &StreamPath) -> RecordKey {
        RecordKey {
            tenant: Some(self.tenant.clone()),
            space: RecordSpace::SubscriptionLink,
            name: format!("{}/{}", self.id, Digest::of(path.as_str().as_bytes())),
        }
    }

    /// What stores a change.
    pub(super) fn writes(&self, delta: &Delta) -> Vec<Write> {
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

impl Subscriptions {
    /// Remove what could not be read, if there is such a thing.
    pub(super) async fn delete_unread(
        &self,
        key: &SubscriptionKey,
    ) -> Result<(), SubscriptionError> {
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

    /// Read what is stored; what cannot be read is said, and keeps nothing else back. Blocks.
    pub(super) fn load(&self, tenant: &TenantId) -> Result<Vec<Held>, SubscriptionError> {
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
