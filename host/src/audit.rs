//! What was done to a tenant by whom: a bounded record beside what the log says.
//!
//! Each owner, a tenant or the host, has entries of its own, named by the id of the request and
//! so in order of time; the oldest go when there are more than may be kept. Invariant: an entry
//! is durable before the request is answered. It follows the deed: a crash between the two leaves
//! a deed that nobody was told of, and no entry. It holds names and ids, never a key or a body.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::TenantId;
use crate::store::{self, CommitError, ReadError, RecordKey, RecordSpace, Store, Write};

/// Names of the oldest entries that are read at once, to be dropped one by one.
const DOOMED: usize = 64;

/// Who did it, as far as may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// A key of the tenant, by its id.
    Key(String),
    /// A session token, by its id.
    Token(String),
    /// The operator's key, by its id.
    Operator(String),
}

/// One deed. The stored form; fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub time: Time,
    pub by: By,
    pub action: String,
    /// What it was done to, as a path.
    pub target: String,
    /// What was answered.
    pub status: u16,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Whose entries: none for the host's.
type Owner = Option<TenantId>;

/// How many entries an owner has, and which go next.
#[derive(Debug, Default)]
struct Kept {
    count: usize,
    doomed: VecDeque<String>,
    /// The last name that was ever in `doomed`.
    after: Option<String>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    entries_max: usize,
    /// Of owners who did something since the start.
    kept: tokio::sync::Mutex<HashMap<Owner, Kept>>,
}

impl Audit {
    /// Keep so many entries of each owner.
    pub fn new(store: Arc<dyn Store>, entries_max: usize) -> Self {
        Self(Arc::new(Inner {
            store,
            entries_max,
            kept: tokio::sync::Mutex::default(),
        }))
    }

    /// Write down what was done, for each of its owners, at once: durable when it returns.
    /// `request` is the id of the request, unlike any other.
    pub async fn record(
        &self,
        owners: &[Owner],
        request: &str,
        entry: &Entry,
    ) -> Result<(), AuditError> {
        let bytes: Bytes = serde_json::to_vec(entry)
            .expect("an entry has string keys")
            .into();
        let mut writes = Vec::new();
        // Until it is written: who looks for the oldest finds all that were counted.
        let mut kept = self.0.kept.lock().await;
        for owner in owners {
            for name in self.make_room(&mut kept, owner).await? {
                writes.push(Write::Unrecord {
                    key: key(owner, name),
                });
            }
            writes.push(Write::Record {
                key: key(owner, request.to_owned()),
                bytes: bytes.clone(),
            });
        }
        Ok(store::write(&*self.0.store, writes).await?)
    }

    /// Count one entry more, and name those that go for it.
    async fn make_room(
        &self,
        all: &mut HashMap<Owner, Kept>,
        owner: &Owner,
    ) -> Result<Vec<String>, ReadError> {
        if !all.contains_key(owner) {
            let count = self.names(owner, None, usize::MAX).await?.len();
            let kept = Kept {
                count,
                ..Kept::default()
            };
            all.insert(owner.clone(), kept);
        }
        let kept = all.entry(owner.clone()).or_default();
        kept.count += 1;
        let mut going = Vec::new();
        while kept.count > self.0.entries_max {
            if kept.doomed.is_empty() {
                let next = self.names(owner, kept.after.clone(), DOOMED).await?;
                kept.after = next.last().cloned().or(kept.after.take());
                kept.doomed.extend(next);
            }
            // The one that is to be written is not there yet.
            let Some(name) = kept.doomed.pop_front() else {
                break;
            };
            kept.count -= 1;
            going.push(name);
        }
        Ok(going)
    }

    /// The owner is gone, and all it had.
    pub async fn forget(&self, tenant: &TenantId) {
        self.0.kept.lock().await.remove(&Some(tenant.clone()));
    }

    async fn names(
        &self,
        owner: &Owner,
        after: Option<String>,
        count_max: usize,
    ) -> Result<Vec<String>, ReadError> {
        let records = self.records(owner, after, count_max).await?;
        Ok(records.into_iter().map(|(name, _)| name).collect())
    }

    async fn records(
        &self,
        owner: &Owner,
        after: Option<String>,
        count_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError> {
        let (store, owner) = (self.0.store.clone(), owner.clone());
        let read = tokio::task::spawn_blocking(move || {
            store.records(
                owner.as_ref(),
                RecordSpace::Audit,
                after.as_deref(),
                count_max,
            )
        });
        read.await
            .map_err(|_| ReadError::Io("the reading thread ended early".into()))?
    }

    /// The newest entries before the one of a request, newest first, and whether there are older ones.
    pub async fn page(
        &self,
        owner: &Owner,
        before: Option<&str>,
        count_max: usize,
    ) -> Result<(Vec<(String, Entry)>, bool), ReadError> {
        // All of them, which are bounded: pages further back are rarely asked for.
        let mut records = self.records(owner, None, usize::MAX).await?;
        if let Some(before) = before {
            records.retain(|(name, _)| name.as_str() < before);
        }
        let older = records.len() > count_max;
        let parse = |(name, bytes): (String, Bytes)| {
            let entry = serde_json::from_slice(&bytes)
                .map_err(|error| ReadError::bad_record(format!("an audit entry: {error}")))?;
            Ok((name, entry))
        };
        let page = records.into_iter().rev().take(count_max).map(parse);
        Ok((page.collect::<Result<_, ReadError>>()?, older))
    }
}

fn key(owner: &Owner, name: String) -> RecordKey {
    RecordKey {
        tenant: owner.clone(),
        space: RecordSpace::Audit,
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, memory};

    fn entry(n: u64) -> Entry {
        Entry {
            time: Time(n),
            by: By::Key("0123".into()),
            action: "agent-deployed".into(),
            target: "agents/echo".into(),
            status: 201,
            code: None,
        }
    }

    async fn times(audit: &Audit, owner: &Owner) -> Vec<u64> {
        let (page, older) = audit.page(owner, None, 100).await.unwrap();
        assert!(!older);
        page.into_iter().map(|(_, entry)| entry.time.0).collect()
    }

    #[tokio::test]
    async fn the_oldest_go_and_each_owner_has_its_own() {
        let store = memory(&Memory::default());
        let (a, b) = (
            Some(TenantId::new("a").unwrap()),
            Some(TenantId::new("b").unwrap()),
        );
        let audit = Audit::new(store.clone(), 3);
        for n in 0..200 {
            let name = format!("{n:04}");
            audit
                .record(std::slice::from_ref(&a), &name, &entry(n))
                .await
                .unwrap();
        }
        audit
            .record(&[None, b.clone()], "0500", &entry(500))
            .await
            .unwrap();
        assert_eq!(times(&audit, &a).await, [199, 198, 197]);
        assert_eq!(times(&audit, &b).await, [500]);
        assert_eq!(times(&audit, &None).await, [500]);
        // A process that starts counts what is there, also with another bound.
        let audit = Audit::new(store, 2);
        audit
            .record(std::slice::from_ref(&a), "0600", &entry(600))
            .await
            .unwrap();
        assert_eq!(times(&audit, &a).await, [600, 199]);
        let (page, older) = audit.page(&a, Some("0600"), 1).await.unwrap();
        assert_eq!((page[0].0.as_str(), page.len(), older), ("0199", 1, false));
        let (page, older) = audit.page(&a, None, 1).await.unwrap();
        assert_eq!((page[0].0.as_str(), older), ("0600", true));
    }

    #[tokio::test]
    async fn many_at_once_are_as_many_as_may_be() {
        let store = memory(&Memory::default());
        let audit = Audit::new(store, 5);
        let record = |n: u64| {
            let audit = audit.clone();
            async move { audit.record(&[None], &format!("{n:04}"), &entry(n)).await }
        };
        let all = futures_util::future::join_all((0..100).map(record)).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(times(&audit, &None).await.len(), 5);
    }

    /// Stores already written hold these.
    #[test]
    fn entries_come_back() {
        let text = r#"{"time":7,"by":{"key":"0123"},"action":"agent-deployed","target":"agents/echo","status":201}"#;
        assert_eq!(serde_json::to_string(&entry(7)).unwrap(), text);
        assert_eq!(serde_json::from_str::<Entry>(text).unwrap(), entry(7));
    }
}
