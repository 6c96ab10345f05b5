//! Places for turns that run, and how many wait for one.
//!
//! There is a set of places for each depth of calls: a turn that waits for one that it called keeps its place, and
//! must not keep that one from having any.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::fair::{Bounds, Gate, Pass};
use crate::id::TenantId;
use crate::telemetry::{self, Limit};
use crate::tenants::Quotas;

use super::Sessions;

/// Who has more to do than may be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    #[error("the server runs as many turns as it may")]
    Host,
    #[error("as many turns of the tenant wait as may")]
    Tenant,
}

pub(super) struct Places {
    depths: Vec<Arc<Gate>>,
    /// At every depth.
    waiting: AtomicUsize,
    of_tenants: Mutex<BTreeMap<TenantId, Arc<AtomicUsize>>>,
}

impl Places {
    pub(super) fn new(depth_max: u32) -> Self {
        let depths = 0..depth_max.max(1);
        Self {
            depths: depths.map(|_| Arc::default()).collect(),
            waiting: AtomicUsize::new(0),
            of_tenants: Mutex::default(),
        }
    }

    /// Wait for a place. Giving up leaves the line.
    pub(super) async fn take(&self, tenant: &TenantId, depth: u32, bounds: Bounds) -> Pass {
        let at = usize::try_from(depth).unwrap_or(usize::MAX);
        let mut pass = self.depths[at.min(self.depths.len() - 1)].enter(tenant, bounds);
        if pass.waits() {
            let _waiting = Waiting::start(self, tenant);
            pass.admitted().await;
        }
        pass
    }

    /// A turn of the tenant waits for something else before it takes a place, and is counted as long as this lives.
    pub(super) fn waits(&self, tenant: &TenantId) -> Waiting<'_> {
        Waiting::start(self, tenant)
    }

    /// How many turns wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many of the tenant's.
    pub(super) fn waiting_of(&self, tenant: &TenantId) -> usize {
        let all = lock(&self.of_tenants);
        all.get(tenant)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Counts a turn that waits for a place, also if it is given up while it waits.
pub(super) struct Waiting<'a> {
    places: &'a Places,
    tenant: TenantId,
}

impl<'a> Waiting<'a> {
    fn start(places: &'a Places, tenant: &TenantId) -> Self {
        places.waiting.fetch_add(1, Ordering::Relaxed);
        let mut all = lock(&places.of_tenants);
        let count = all.entry(tenant.clone()).or_default();
        count.fetch_add(1, Ordering::Relaxed);
        Self {
            places,
            tenant: tenant.clone(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut all = lock(&self.places.of_tenants);
        if let Some(count) = all.get(&self.tenant)
            && count.fetch_sub(1, Ordering::Relaxed) == 1
        {
            all.remove(&self.tenant);
        }
    }
}

impl Sessions {
    /// Why the host takes nothing more now, or nothing of this tenant.
    pub fn overload(&self, tenant: &TenantId) -> Result<(), Overload> {
        let parts = &self.0.parts;
        if self.open_count() > parts.sessions_open_max {
            telemetry::hit(Limit::SessionsOpen);
            return Err(Overload::Host);
        }
        if self.0.turns.waiting() >= parts.turns_waiting_max {
            telemetry::hit(Limit::TurnsWaiting);
            return Err(Overload::Host);
        }
        let own = self.quotas(tenant).turns_waiting_max;
        let own = own.unwrap_or(parts.turns_waiting_tenant_max as u64);
        if self.0.turns.waiting_of(tenant) as u64 >= own {
            telemetry::hit(Limit::TurnsWaitingTenant);
            return Err(Overload::Tenant);
        }
        Ok(())
    }

    /// So that no turn begins until they are dropped.
    #[cfg(test)]
    pub(super) async fn take_every_place(&self) -> Vec<Pass> {
        let nobody = TenantId::new("nobody").expect("a name");
        let all = Bounds {
            tenant_max: usize::MAX,
            ..self.bounds(&nobody)
        };
        let mut places = Vec::new();
        for _ in 0..all.host_max {
            places.push(self.0.turns.take(&nobody, 0, all).await);
        }
        places
    }

    /// What the operator gave the tenant, over what all have.
    pub(super) fn quotas(&self, tenant: &TenantId) -> Quotas {
        let own = self.0.parts.tenants.get(tenant);
        own.unwrap_or_default().quotas.or(self.0.parts.quotas)
    }

    /// How many turns of the tenant may run.
    pub(super) fn bounds(&self, tenant: &TenantId) -> Bounds {
        let parts = &self.0.parts;
        let own = self.quotas(tenant).turns_max;
        let own = own.map(|it| usize::try_from(it).unwrap_or(usize::MAX));
        // A lone tenant has nobody to leave room for.
        let of_all = match parts.tenants.count() {
            0 | 1 => parts.turns_max,
            _ => parts.turns_tenant_max,
        };
        Bounds {
            host_max: parts.turns_max,
            tenant_max: own.unwrap_or(of_all),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_and_who_gives_up_is_forgotten() {
        let places = Places::new(2);
        let tenant = |name: &str| TenantId::new(name).expect("a name");
        let (a, b) = (tenant("a"), tenant("b"));
        let of = Bounds {
            host_max: 1,
            tenant_max: 1,
        };
        let first = places.take(&a, 0, of).await;
        let mut second = Box::pin(places.take(&a, 0, of));
        let mut third = Box::pin(places.take(&b, 0, of));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!((places.waiting(), places.waiting_of(&a)), (2, 1));
        // Deeper calls have places of their own, and the deepest share the last set.
        let deeper = places.take(&a, 1, of).now_or_never();
        assert!(deeper.is_some());
        assert!(places.take(&a, 7, of).now_or_never().is_none());
        drop(second);
        assert_eq!((places.waiting(), places.waiting_of(&a)), (1, 0));
        drop(first);
        let third = third.now_or_never().expect("it is woken");
        assert_eq!(places.waiting(), 0);
        drop(third);
        let fourth = places.take(&a, 0, of).now_or_never();
        assert!(fourth.is_some());
    }
}
