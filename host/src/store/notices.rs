//! The numbers of tenants' notices, and who waits for more of them.
//!
//! Notices of many sessions meet in one order, that in which they become durable: so the commit thread numbers
//! them, and whoever commits does not know the number. They are pieces of one stream, whose id no other has.
//!
//! Invariant: the last notice of a tenant is never removed as long as there is a tenant, so that no number is given twice.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::engine::{Engine, EngineError, Order};
use super::keys::{self, Row};
use super::{ReadError, StreamKey};
use crate::id::{Seq, StreamId, TenantId};

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
    pub(in crate::store) fn removed(
        &mut self,
        key: &[u8],
        engine: &dyn Engine,
    ) -> Result<(), EngineError> {
        let row = keys::split(key).and_then(|(stem, _)| keys::parse(stem));
        let Some(Row::Piece(StreamKey { tenant, id }, seq)) = row else {
            return Ok(());
        };
        if id != StreamId::NOTICES {
            return Ok(());
        }
        let last = match self.last.get(&tenant) {
            Some(last) => *last,
            None => last_in(engine, &tenant)?,
        };
        self.last.insert(tenant.clone(), last);
        if last == seq {
            self.last.remove(&tenant);
            self.new.insert(tenant, Seq(0));
        }
        Ok(())
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
        // From now on it is told what becomes durable; what was before is read without keeping the commit thread.
        let receiver = {
            let mut ends = self.lock();
            let end = ends.entry(tenant.clone());
            end.or_insert_with(|| watch::Sender::new(Seq(0)))
                .subscribe()
        };
        let known = *receiver.borrow();
        if known == Seq(0) {
            let last = last()?;
            if let Some(end) = self.lock().get(tenant) {
                end.send_if_modified(|end| {
                    let is_more = *end < last;
                    *end = last.max(*end);
                    is_more
                });
            }
        }
        Ok(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, watch::Sender<Seq>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn tell(&self, new: BTreeMap<TenantId, Seq>) {
        if new.is_empty() {
            return;
        }
        let mut ends = self.lock();
        for (tenant, last) in new {
            // Nobody follows any more: whoever comes next reads it anew.
            if ends.get(&tenant).is_some_and(|end| end.send(last).is_err()) {
                ends.remove(&tenant);
            }
        }
    }
}
