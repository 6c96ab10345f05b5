//! Which streams changed, for whoever has to act on that: tenants that are watched, and no others, so that an append
//! that concerns nobody costs a look into a set.
//!
//! Invariant: a change is told when it is durable. Several of one stream may be told as one, the last; none is lost
//! between two calls of [`Changes::hand_on`].

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::path::StreamPath;
use crate::id::{Seq, StreamId, TenantId};

/// What is durable of a stream, as far as its end goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// What is created again at the same path is another.
    pub id: StreamId,
    /// The last piece that it took over: where its own begin.
    pub base: Seq,
    pub tail: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Grown(Extent),
    Removed(StreamId),
}

#[derive(Default)]
pub struct Changes {
    watched: RwLock<HashSet<TenantId>>,
    changed: Mutex<BTreeMap<(TenantId, StreamPath), Change>>,
    told: Notify,
}

impl Changes {
    /// Tell of this tenant's streams from now on.
    pub fn watch(&self, tenant: &TenantId) {
        let watched = self.watched.write();
        let mut watched = watched.unwrap_or_else(PoisonError::into_inner);
        watched.insert(tenant.clone());
    }

    /// And not any more.
    pub fn leave(&self, tenant: &TenantId) {
        let watched = self.watched.write();
        let mut watched = watched.unwrap_or_else(PoisonError::into_inner);
        watched.remove(tenant);
    }

    pub(super) fn tell(&self, tenant: &TenantId, path: &StreamPath, change: Change) {
        let watched = self.watched.read();
        let watched = watched.unwrap_or_else(PoisonError::into_inner);
        if !watched.contains(tenant) {
            return;
        }
        drop(watched);
        let key = (tenant.clone(), path.clone());
        self.changed().insert(key, change);
        self.told.notify_one();
    }

    /// Wait until something changed that was not handed on. For one who asks: two would share.
    pub async fn next(&self) {
        while self.changed().is_empty() {
            self.told.notified().await;
        }
    }

    /// Hand on what changed since the last time. Whoever comes meanwhile waits until all of it is, so that nobody misses a change
    /// that was told before.
    pub fn hand_on(&self, to: impl FnOnce(BTreeMap<(TenantId, StreamPath), Change>)) {
        let mut changed = self.changed();
        if !changed.is_empty() {
            to(std::mem::take(&mut *changed));
        }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<(TenantId, StreamPath), Change>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
