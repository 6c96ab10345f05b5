//! Tenants that are not served: those suspended, whose agents begin nothing new, and those being removed, whose
//! sessions are closed for good.
//!
//! Removal: nobody opens a session of the tenant any more; every open one is dropped with what runs in it; then
//! its agents, its rows and its components go, and its name is free. Invariant: what a crash leaves of it is
//! removed by the next process, as the tenant stays marked until the end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agents::DeployError;
use crate::id::{SessionId, TenantId};
use crate::ledger::Ledger;
use crate::store::{JournalId, OpenError, ReadError, Store};
use crate::tenants::{Standing, TenantError, Tenants};

use super::wake::{AGAIN_MS, blocking};
use super::{SessionError, Sessions};

/// Rows removed by one commit, and the pause between: others' commits go before.
const REMOVE_ROWS: usize = 1_000;
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// How long who was let in before may take to finish a write that no session knows of: a key, a secret.
const LATE_WRITES: Duration = Duration::from_secs(1);

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct NotServed {
    pub(super) suspended: HashSet<TenantId>,
    pub(super) leaving: HashSet<TenantId>,
}

/// Tells every driver when it changes.
#[derive(Debug)]
pub(super) struct Served(watch::Sender<NotServed>);

impl Default for Served {
    fn default() -> Self {
        Self(watch::Sender::new(NotServed::default()))
    }
}

impl Served {
    pub(super) fn begins_turns(&self, tenant: &TenantId) -> bool {
        let not = self.0.borrow();
        !not.suspended.contains(tenant) && !not.leaving.contains(tenant)
    }

    pub(super) fn is_leaving(&self, tenant: &TenantId) -> bool {
        self.0.borrow().leaving.contains(tenant)
    }

    pub(super) fn changes(&self) -> watch::Receiver<NotServed> {
        self.0.subscribe()
    }
}

#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Agents(#[from] DeployError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
}

impl Sessions {
    /// Have the tenant's agents begin turns, or none until this is called again. What runs goes on.
    pub fn serve_tenant(&self, tenant: &TenantId, is_served: bool) {
        self.0.served.0.send_if_modified(|not| match is_served {
            true => not.suspended.remove(tenant),
            false => not.suspended.insert(tenant.clone()),
        });
    }

    /// Take up what an older process left: tenants that are suspended or half removed. What is stored of a tenant that
    /// nobody knows is kept as a suspended one, for the operator to look at. Call it before any session is opened.
    pub async fn take_up_tenants(&self, tenants: &Tenants) -> Result<(), TenantError> {
        let store = self.0.parts.store.clone();
        let stored = tokio::task::spawn_blocking(move || store.tenants()).await;
        let stored = stored.map_err(|panicked| ReadError::Io(panicked.to_string()))??;
        for tenant in stored {
            if tenants.adopt(&tenant).await? {
                tracing::warn!(%tenant, "something is stored of a tenant that nobody made: it is suspended");
            }
        }
        for (tenant, record) in tenants.list() {
            match record.standing {
                Standing::Active => {}
                Standing::Suspended => self.serve_tenant(&tenant, false),
                Standing::Deleting => self.remove_tenant(tenants, tenant),
            }
        }
        Ok(())
    }

    /// Remove everything that a tenant has, in the background, however often that takes; the tenant is marked
    /// as being deleted. At the end its name is free.
    pub fn remove_tenant(&self, tenants: &Tenants, tenant: TenantId) {
        let is_new = self
            .0
            .served
            .0
            .send_if_modified(|not| not.leaving.insert(tenant.clone()));
        if !is_new {
            // Somebody is removing it.
            return;
        }
        let (sessions, tenants) = (self.clone(), tenants.clone());
        self.0.tasks.spawn(async move {
            let removing = async {
                while let Err(error) = sessions.remove(&tenants, &tenant).await {
                    tracing::warn!(%tenant, %error, "a tenant is not removed yet");
                    tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
                }
                tracing::info!(%tenant, "a tenant is removed");
            };
            tokio::select! {
                () = removing => {}
                // The next process goes on with it.
                () = sessions.0.draining.cancelled() => {}
            }
        });
    }

    async fn remove(&self, tenants: &Tenants, tenant: &TenantId) -> Result<(), RemoveError> {
        let parts = &self.0.parts;
        self.close_all(tenant).await;
        let digests = parts.agents.remove_tenant(tenant).await;
        parts.logs.forget_tenant(tenant);
        parts.minutes.forget(tenant);
        parts.models.forget_tenant(tenant);
        for _ in 0..2 {
            self.clear_rows(tenant).await?;
            tokio::time::sleep(LATE_WRITES).await;
        }
        self.clear_rows(tenant).await?;
        parts.agents.remove_components(digests).await?;
        parts.budgets.forget_tenant(tenant);
        self.0.agenda.forget_tenant(tenant);
        self.0.quotas.forget_tenant(tenant);
        self.0.served.0.send_modify(|not| {
            not.suspended.remove(tenant);
        });
        tenants.end_deletion(tenant).await?;
        self.0.served.0.send_modify(|not| {
            not.leaving.remove(tenant);
        });
        Ok(())
    }

    /// Drop every open session of the tenant, with what runs in it, and wait until none is there: who is just
    /// opening one has it taken away.
    async fn close_all(&self, tenant: &TenantId) {
        loop {
            let mut opening = false;
            let open: Vec<Arc<Ledger>> = {
                let mut map = self.map();
                let of_tenant = |journal: &JournalId| journal.tenant == *tenant;
                let open = map.iter().filter(|(journal, _)| of_tenant(journal));
                let open = open.filter_map(|(_, cell)| {
                    opening |= cell.get().is_none();
                    Some(cell.get()?.ledger.clone())
                });
                let open = open.collect();
                map.retain(|journal, cell| !of_tenant(journal) || cell.get().is_none());
                open
            };
            for ledger in &open {
                ledger.abandon();
            }
            if !opening {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }

    async fn clear_rows(&self, tenant: &TenantId) -> Result<(), SessionError> {
        // One by one first: that waits for what is still on its way into each.
        let mut after: Option<SessionId> = None;
        loop {
            let (store, owner) = (self.0.parts.store.clone(), tenant.clone());
            let page =
                blocking(move || Ok(store.journals(&owner, after.as_ref(), REMOVE_ROWS)?)).await?;
            for session in &page.sessions {
                let journal = JournalId {
                    tenant: tenant.clone(),
                    session: session.clone(),
                };
                self.remove_rows(move |store| store.clear(&journal, REMOVE_ROWS))
                    .await?;
            }
            match page.sessions.last().filter(|_| page.more) {
                Some(last) => after = Some(last.clone()),
                None => break,
            }
        }
        let owner = tenant.clone();
        self.remove_rows(move |store| store.clear_tenant(&owner, REMOVE_ROWS))
            .await
    }

    /// Until nothing is left.
    async fn remove_rows(
        &self,
        some: impl Fn(&dyn Store) -> Result<bool, OpenError> + Clone + Send + 'static,
    ) -> Result<(), SessionError> {
        loop {
            let (store, some) = (self.0.parts.store.clone(), some.clone());
            if blocking(move || Ok(some(&*store)?)).await? {
                return Ok(());
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }
}
