//! Places among the open streams: of the host, and of one tenant.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{ApiError, ApiResult};
use crate::id::TenantId;
use crate::telemetry::{self, Limit, UnderWay};

/// Who has how many streams and polls open.
#[derive(Debug, Clone)]
pub(super) struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host_max: usize,
    tenant_max: usize,
    /// Tenants with none have no entry.
    open: Mutex<HashMap<TenantId, usize>>,
}

/// A place among the open streams, until dropped.
#[derive(Debug)]
pub(super) struct StreamPermit {
    shared: Arc<Shared>,
    tenant: TenantId,
    _counted: UnderWay,
}

impl Streams {
    pub(super) fn new(host_max: usize, tenant_max: usize) -> Self {
        Self(Arc::new(Shared {
            host_max,
            tenant_max,
            open: Mutex::default(),
        }))
    }

    /// Refuse when the tenant or the host has as many open as may be.
    pub(super) fn permit(&self, tenant: &TenantId) -> ApiResult<StreamPermit> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(tenant).copied().unwrap_or_default();
        if own >= self.0.tenant_max {
            telemetry::hit(Limit::StreamsTenant);
            let message = "as many streams of this tenant are open as may be";
            return Err(ApiError::overloaded(message));
        }
        if open.values().sum::<usize>() >= self.0.host_max {
            telemetry::hit(Limit::Streams);
            return Err(ApiError::overloaded("as many streams are open as may be"));
        }
        open.insert(tenant.clone(), own + 1);
        drop(open);
        Ok(StreamPermit {
            shared: self.0.clone(),
            tenant: tenant.clone(),
            _counted: UnderWay::stream(),
        })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(&self.tenant) {
            *own -= 1;
            if *own == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_that_has_all_it_may_leaves_the_others_theirs() {
        let streams = Streams::new(3, 2);
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let first = streams.permit(&a).unwrap();
        let second = streams.permit(&a).unwrap();
        assert!(streams.permit(&a).is_err());
        let third = streams.permit(&b).unwrap();
        assert!(streams.permit(&b).is_err(), "the host is full");
        drop(first);
        streams.permit(&a).unwrap();
        drop((second, third));
        assert!(streams.0.open.lock().unwrap().is_empty());
    }
}
