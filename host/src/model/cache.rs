//! Answers that may be given again: kept ones, and those that are just coming.
//!
//! Only for requests that ask for it (`Request::cache`), and only of the host's own models. Equal requests of one
//! tenant share one answer, whoever its agents are; nothing is shared between tenants. Equal means the same model
//! and the same JSON (RFC 8785). Of several that ask at once one leads: it makes the call, the others join and get
//! the same pieces as they come. The call is a task of its own: if the one that led is interrupted, the others get
//! their answer all the same, and once nobody waits any more the call is dropped.
//!
//! Invariant: what is given again is what was given, piece by piece; only the usage of it is nothing. Invariant:
//! errors and answers that broke off are never kept. In memory only: a host that has just started knows no
//! answers.

mod flight;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::{Digest, TenantId};
use crate::telemetry;

use super::{Delta, Request, wire};

use flight::Flight;

pub(super) use flight::{Follower, Lead};

/// What is kept of answers, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBounds {
    /// Of all tenants.
    pub bytes_max: u64,
    pub tenant_bytes_max: u64,
    /// Nobody gets an answer that is older.
    pub seconds_max: u64,
}

impl Default for CacheBounds {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            bytes_max: 64 * MIB,
            tenant_bytes_max: 16 * MIB,
            seconds_max: 24 * 60 * 60,
        }
    }
}

/// Bytes of a piece besides its text: what holds it.
const PIECE_BYTES: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    tenant: TenantId,
    request: Digest,
}

/// A whole answer. Its last piece is `Finished`.
#[derive(Debug)]
struct Kept {
    pieces: Arc<[Delta]>,
    since: Instant,
    bytes: u64,
}

/// Of one tenant, oldest first.
type Order = VecDeque<(Key, Arc<Kept>)>;

#[derive(Debug)]
pub(super) struct Cache {
    bounds: CacheBounds,
    kept: moka::sync::Cache<Key, Arc<Kept>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    flights: BTreeMap<Key, Weak<Flight>>,
    /// So that one tenant's answers push out its own.
    orders: BTreeMap<TenantId, Order>,
}

/// What there is for a request.
#[derive(Debug)]
pub(super) enum Found {
    Kept(Arc<[Delta]>),
    /// Somebody is asking the same.
    Joined(Follower),
    /// Nobody is: the asker has to.
    Nothing(Lead),
}

impl Cache {
    pub(super) fn new(bounds: CacheBounds) -> Arc<Self> {
        let kept = moka::sync::Cache::builder()
            .max_capacity(bounds.bytes_max)
            .weigher(|_, kept: &Arc<Kept>| u32::try_from(kept.bytes).unwrap_or(u32::MAX))
            .build();
        Arc::new(Self {
            bounds,
            kept,
            known: Mutex::default(),
        })
    }

    /// Look for an answer that is at most so many seconds old, or is just coming.
    pub(super) fn find(
        self: &Arc<Self>,
        tenant: &TenantId,
        model: &str,
        request: &Request,
        seconds: u32,
    ) -> Found {
        let key = Key::of(tenant, model, request);
        let age_max = Duration::from_secs(u64::from(seconds).min(self.bounds.seconds_max));
        let count = |outcome| telemetry::cache_asked(tenant.as_str(), model, outcome);
        let mut known = self.known();
        if let Some(kept) = self.kept.get(&key)
            && kept.since.elapsed() <= age_max
        {
            count("hit");
            return Found::Kept(kept.pieces.clone());
        }
        let flight = known.flights.get(&key).and_then(Weak::upgrade);
        if let Some(follower) = flight.and_then(Follower::join) {
            count("joined");
            return Found::Joined(follower);
        }
        count("miss");
        let lead = Lead::new(self.clone(), key.clone());
        known.flights.insert(key, lead.flight());
        Found::Nothing(lead)
    }

    /// The flight is over, with a whole answer or none. Whoever asks from now on does not join it.
    fn landed(&self, key: &Key, flight: &Weak<Flight>, pieces: Option<&[Delta]>) {
        let mut known = self.known();
        let is_its = known.flights.get(key);
        if is_its.is_some_and(|it| it.ptr_eq(flight)) {
            known.flights.remove(key);
        }
        if let Some(pieces) = pieces {
            self.keep(&mut known, key, pieces);
        }
    }

    fn keep(&self, known: &mut Known, key: &Key, pieces: &[Delta]) {
        let bytes = pieces.iter().map(bytes).sum::<usize>() as u64;
        if bytes > self.bounds.tenant_bytes_max.min(self.bounds.bytes_max) {
            return;
        }
        let kept = Arc::new(Kept {
            pieces: pieces.iter().map(given_again).collect(),
            since: Instant::now(),
            bytes,
        });
        let order = known.orders.entry(key.tenant.clone()).or_default();
        order.push_back((key.clone(), kept.clone()));
        self.kept.insert(key.clone(), kept);
        self.make_room(order);
        let age_max = Duration::from_secs(self.bounds.seconds_max);
        let is_old = |order: &Order| {
            let newest = order.back();
            newest.is_none_or(|(_, kept)| kept.since.elapsed() > age_max)
        };
        known.orders.retain(|_, order| !is_old(order));
    }

    /// Forget a tenant's oldest answers, until the others are within its bound.
    fn make_room(&self, order: &mut Order) {
        let age_max = Duration::from_secs(self.bounds.seconds_max);
        let mut sum: u64 = order.iter().map(|(_, kept)| kept.bytes).sum();
        while let Some((key, kept)) = order.front() {
            let is_old = kept.since.elapsed() > age_max;
            let is_kept = self.kept.get(key).is_some_and(|it| Arc::ptr_eq(&it, kept));
            if sum <= self.bounds.tenant_bytes_max && !is_old && is_kept {
                break;
            }
            if is_kept {
                self.kept.invalidate(key);
            }
            sum -= kept.bytes;
            order.pop_front();
        }
    }

    /// The tenant is gone.
    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        let mut known = self.known();
        for (key, _) in known.orders.remove(tenant).into_iter().flatten() {
            self.kept.invalidate(&key);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Key {
    fn of(tenant: &TenantId, model: &str, request: &Request) -> Self {
        let json = wire::canonical(request);
        // Where the standard's numbers could not tell two requests apart, only the same bytes are the same.
        let json = wire::rfc_8785(&json).unwrap_or(json);
        Self {
            tenant: tenant.clone(),
            request: Digest::of_parts(&[model.as_bytes(), &json]),
        }
    }
}

fn bytes(piece: &Delta) -> usize {
    PIECE_BYTES
        + match piece {
            Delta::Text(text) => text.len(),
            Delta::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.len(),
            Delta::Finished { .. } => 0,
        }
}

/// As it is given to whoever did not pay for it.
fn given_again(piece: &Delta) -> Delta {
    match piece {
        Delta::Finished { reason, .. } => Delta::Finished {
            reason: *reason,
            usage: Some(super::Usage::default()),
        },
        piece => piece.clone(),
    }
}

#[cfg(test)]
mod tests;
