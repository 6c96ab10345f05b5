//! Places that tenants take in fair turns: [`order`] with wakers.
//!
//! Owns who has a place and who waits for one; what the places are for, and how many there are, is the affair of
//! whoever keeps a [`Gate`].

mod order;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::id::TenantId;

pub use self::order::Bounds;
use self::order::{Entry, Fair, Ticket};

#[derive(Debug, Default)]
pub struct Gate(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fair: Fair<TenantId>,
    wakes: BTreeMap<Ticket, oneshot::Sender<()>>,
}

impl Gate {
    /// Take a place, or one in the line.
    pub fn enter(self: &Arc<Self>, tenant: &TenantId, bounds: Bounds) -> Pass {
        let mut inner = self.lock();
        let (ticket, woken) = match inner.fair.enter(tenant, bounds) {
            Entry::Go(ticket) => (ticket, None),
            Entry::Wait(ticket) => {
                let (wake, woken) = oneshot::channel();
                inner.wakes.insert(ticket, wake);
                (ticket, Some(woken))
            }
        };
        drop(inner);
        Pass {
            gate: self.clone(),
            tenant: tenant.clone(),
            ticket,
            woken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, or one in the line. Dropping it gives it to whoever is next.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    tenant: TenantId,
    ticket: Ticket,
    woken: Option<oneshot::Receiver<()>>,
}

impl Pass {
    /// Whether it was a place in the line.
    pub fn waits(&self) -> bool {
        self.woken.is_some()
    }

    /// Wait for the place, if it is none yet.
    pub async fn admitted(&mut self) {
        if let Some(woken) = &mut self.woken {
            // The sender goes only with its message, or with the pass itself.
            let _ = woken.await;
            self.woken = None;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let wakes: Vec<_> = {
            let mut inner = self.gate.lock();
            inner.wakes.remove(&self.ticket);
            let go = inner.fair.leave(&self.tenant, self.ticket);
            go.iter().filter_map(|it| inner.wakes.remove(it)).collect()
        };
        for wake in wakes {
            // Who stopped waiting leaves its place by itself.
            let _ = wake.send(());
        }
    }
}
