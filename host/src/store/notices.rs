//! The numbers of tenants' notices, and who waits for more of them.
//!
//! Notices of many sessions meet in one order, that in which they become durable: so the commit thread numbers
//! them, and whoever commits does not know the number. They are pieces of one stream, whose id no other has.
//!
//! Invariant: the last notice of a tenant is never removed as long as there is a tenant, so that no number is given twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::engine::{Engine, EngineError, Order};
use super::keys::{self, Row};
use super::{ReadError, StreamKey};
use crate::id::{Seq, TenantId};

/// Tenants whose last number is kept in memory; those of more are read again.
const KNOWN_MAX: usize = 10_000;

/// The last number of each tenant. The commit thread's own.
#[derive(Default)]
pub(in crate::store) struct Numbers {
    last: HashMap<TenantId, Seq>,
    /// What this group gave out.
    new: BTreeMap<TenantId, Seq>,
}

impl Numbers {
    /// Before a group: all of the last one is applied, or the store is latched.
    pub(in crate::store) fn begin(&mut self) {
        self.new.clear();
        if self.last.len() > KNOWN_MAX {
            self.last.clear();
        }
    }

    pub(in crate::store) fn next(
        &mut self,
        tenant: &TenantId,
        engine: &dyn Engine,
    ) -> Result<Seq, EngineError> {
        let last = match self.last.get(tenant) {
            Some(last) => *last,
            None => last_in(engine, tenant)?,
        };
        let next = last.next();
        self.last.insert(tenant.clone(), next);
        self.new.insert(tenant.clone(), next);
        Ok(next)
    }

    /// A key is removed: if it is a tenant's last notice, all of the tenant is being removed.
    pub(in crate::store) fn removed(&mut self, key: &[u8]) {
        if self.last.is_empty() {
            return;
        }
        let row = keys::split(key).and_then(|(stem, _)| keys::parse(stem));
        if let Some(Row::Piece(stream, seq)) = row
            && stream == StreamKey::notices(&stream.tenant)
            && self.last.get(&stream.tenant) == Some(&seq)
        {
            self.last.remove(&stream.tenant);
        }
    }

    /// What is durable now, after a group.
    pub(in crate::store) fn take_new(&mut self) -> BTreeMap<TenantId, Seq> {
        std::mem::take(&mut self.new)
    }
}

fn last_in(engine: &dyn Engine, tenant: &TenantId) -> Result<Seq, EngineError> {
    let range = keys::stream(&StreamKey::notices(tenant));
    let last = engine
        .range(&range.start, &range.end, Order::Backward)
        .next();
    let Some((key, _)) = last.transpose()? else {
        return Ok(Seq(0));
    };
    number_of(&key).ok_or_else(|| EngineError::Failed("a key among notices is none".to_owned()))
}

/// Of a key among notices.
pub(in crate::store) fn number_of(key: &[u8]) -> Option<Seq> {
    match keys::split(key).and_then(|(stem, _)| keys::parse(stem)) {
        Some(Row::Piece(_, seq)) => Some(seq),
        _ => None,
    }
}

/// The last durable notice of each tenant whose readers wait for more.
#[derive(Default)]
pub(in crate::store) struct Ends(Mutex<HashMap<TenantId, watch::Sender<Seq>>>);

impl Ends {
    /// Follow a tenant's. `last` reads the last durable one.
    pub(in crate::store) fn watch(
        &self,
        tenant: &TenantId,
        last: impl FnOnce() -> Result<Seq, ReadError>,
    ) -> Result<watch::Receiver<Seq>, ReadError> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = ends.get(tenant).filter(|end| end.receiver_count() > 0) {
            return Ok(end.subscribe());
        }
        // With the lock held: what becomes durable meanwhile is told afterwards.
        let (sender, receiver) = watch::channel(last()?);
        ends.insert(tenant.clone(), sender);
        Ok(receiver)
    }

    pub(in crate::store) fn tell(&self, new: BTreeMap<TenantId, Seq>) {
        if new.is_empty() {
            return;
        }
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (tenant, last) in new {
            // Nobody follows any more: whoever comes next reads it anew.
            if ends.get(&tenant).is_some_and(|end| end.send(last).is_err()) {
                ends.remove(&tenant);
            }
        }
    }
}
