//! What tenants hold in the store, and whether they may hold more.
//!
//! Only of tenants that have such a quota: their rows are counted at the first question, and again in the background
//! once a count is old. Between counts what is begun is added. Invariant: a tenant is refused as soon as
//! a count says so; what is there stays, and what runs goes on and is counted next time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::TenantId;
use crate::store::{Holdings, Store};
use crate::tenants::Quotas as TenantQuotas;

use super::wake::blocking;
use super::{SessionError, Sessions};

/// A count is good for this long: a tenant passes its quota by what it writes in that time at most.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What somebody is about to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// One more.
    Session,
    /// So many bytes in one that is there.
    Bytes(u64),
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant has {used} of its {limit} {quota}")]
pub struct Exceeded {
    /// `sessions` or `storage-bytes`.
    pub quota: &'static str,
    pub used: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    holdings: Holdings,
    at: Instant,
    /// Somebody counts again.
    is_counting: bool,
}

pub(super) struct Quotas {
    store: Arc<dyn Store>,
    counts: Mutex<HashMap<TenantId, Count>>,
}

impl Quotas {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            counts: Mutex::default(),
        }
    }

    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        self.counts().remove(tenant);
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<TenantId, Count>> {
        self.counts
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn count(&self, tenant: &TenantId) -> Result<(), SessionError> {
        let (store, of) = (self.store.clone(), tenant.clone());
        let counted = blocking(move || Ok(store.holdings(&of)?)).await;
        let mut counts = self.counts();
        match counted {
            Ok(holdings) => {
                let count = Count {
                    holdings,
                    at: Instant::now(),
                    is_counting: false,
                };
                counts.insert(tenant.clone(), count);
                Ok(())
            }
            Err(error) => {
                if let Some(count) = counts.get_mut(tenant) {
                    count.is_counting = false;
                }
                Err(error)
            }
        }
    }

    /// Whether a count is missing (none), or old and nobody's yet.
    fn is_due(&self, tenant: &TenantId) -> Option<bool> {
        let mut counts = self.counts();
        let count = counts.get_mut(tenant)?;
        let is_due = !count.is_counting && count.at.elapsed() >= COUNT_EVERY;
        count.is_counting |= is_due;
        Some(is_due)
    }

    /// By the last count and what came since; nothing is refused where nothing was counted.
    fn check(
        &self,
        tenant: &TenantId,
        quotas: &TenantQuotas,
        more: Holding,
    ) -> Result<(), Exceeded> {
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(tenant) else {
            return Ok(());
        };
        let holdings = &mut count.holdings;
        let (sessions, bytes) = match more {
            Holding::Session => (1, 0),
            Holding::Bytes(bytes) => (0, bytes),
        };
        let used = |quota, used: u64, more: u64, limit: Option<u64>| match limit {
            // A full tenant adds nothing, be it as small as may be.
            Some(limit) if used >= limit || used.saturating_add(more) > limit => {
                Err(Exceeded { quota, used, limit })
            }
            _ => Ok(()),
        };
        if sessions > 0 {
            used("sessions", holdings.sessions, sessions, quotas.sessions_max)?;
        }
        used(
            "storage-bytes",
            holdings.bytes,
            bytes,
            quotas.storage_bytes_max,
        )?;
        holdings.sessions += sessions;
        holdings.bytes = holdings.bytes.saturating_add(bytes);
        Ok(())
    }
}

impl Sessions {
    /// Whether the tenant may hold more; if so, it is counted as if it did.
    pub async fn may_hold(
        &self,
        tenant: &TenantId,
        more: Holding,
    ) -> Result<Result<(), Exceeded>, SessionError> {
        let quotas = self.quotas(tenant);
        if (quotas.sessions_max, quotas.storage_bytes_max) == (None, None) {
            return Ok(Ok(()));
        }
        match self.0.quotas.is_due(tenant) {
            None => self.0.quotas.count(tenant).await?,
            Some(false) => {}
            Some(true) => {
                let (sessions, tenant) = (self.clone(), tenant.clone());
                self.0.tasks.spawn(async move {
                    if let Err(error) = sessions.0.quotas.count(&tenant).await {
                        tracing::warn!(%tenant, %error, "what a tenant holds was not counted");
                    }
                });
            }
        }
        Ok(self.0.quotas.check(tenant, &quotas, more))
    }

    /// The same by the last count, without waiting for one.
    pub(super) fn may_hold_as_known(
        &self,
        tenant: &TenantId,
        more: Holding,
    ) -> Result<(), Exceeded> {
        self.0.quotas.check(tenant, &self.quotas(tenant), more)
    }

    /// What the tenant holds, counted now.
    pub async fn holdings(&self, tenant: &TenantId) -> Result<Holdings, SessionError> {
        self.0.quotas.count(tenant).await?;
        let counts = self.0.quotas.counts();
        Ok(counts.get(tenant).map(|it| it.holdings).unwrap_or_default())
    }
}
