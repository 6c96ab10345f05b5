//! Notices that are too old, or too many, are removed from the beginning.
//!
//! Invariant: the newest one stays, so that the store knows how far it counted.

use std::time::Duration;

use super::{Kept, NoticeError, Notices, blocking};
use crate::clock::Time;
use crate::id::{Seq, TenantId};
use crate::journal::notice::parse;
use crate::store::{OpenError, ReadError, Store, StreamKey};

/// Between two looks: what is kept longer does no harm.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// Rows removed by one commit, and the pause between, so that whoever writes goes before.
const ROWS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

impl Notices {
    /// Remove what is not to be kept, until this is dropped.
    pub async fn sweep(self) {
        loop {
            for tenant in self.0.tenants.names() {
                if let Err(error) = self.sweep_tenant(&tenant).await {
                    tracing::warn!(%tenant, %error, "old notices are not removed yet");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn sweep_tenant(&self, tenant: &TenantId) -> Result<(), NoticeError> {
        loop {
            let (store, key) = (self.0.store.clone(), StreamKey::notices(tenant));
            let (kept, now) = (self.0.kept, self.0.clock.now());
            let until = blocking(move || due(&*store, &key, kept, now)).await?;
            let Some(until) = until else {
                return Ok(());
            };
            loop {
                let (store, key) = (self.0.store.clone(), StreamKey::notices(tenant));
                let is_done = blocking(move || trim(&*store, &key, until)).await?;
                tokio::time::sleep(PAUSE).await;
                if is_done {
                    break;
                }
            }
        }
    }
}

/// Up to where notices are to be removed next; none if none is.
fn due(
    store: &dyn Store,
    key: &StreamKey,
    kept: Kept,
    now: Time,
) -> Result<Option<Seq>, NoticeError> {
    let end = *store.notices_end(&key.tenant)?.borrow();
    let newest = Seq(end.0.saturating_sub(1));
    let too_many = Seq(end.0.saturating_sub(kept.notices_max)).min(newest);
    let mut until = Seq(0);
    // In pages, so that a long time without a sweep is not read at once.
    for (seq, row) in store.pieces(key, Seq(0), newest, super::READ_BYTES)? {
        let is_old = || -> Result<bool, NoticeError> {
            let notices = parse(&row).map_err(|error| ReadError::bad_record(error.to_string()))?;
            let last = notices.last().map_or(Time(0), |notice| notice.time);
            Ok(now.ms_since(last) > kept.ms_max)
        };
        if seq > too_many && !is_old()? {
            break;
        }
        until = seq;
    }
    if until == Seq(0) {
        return Ok(None);
    }
    Ok(Some(until))
}

/// True if none of them is left: what was begun is finished, or a notice of several rows would be cut in half.
fn trim(store: &dyn Store, key: &StreamKey, until: Seq) -> Result<bool, NoticeError> {
    store.trim(key, until, ROWS).map_err(|error| match error {
        OpenError::Read(error) => NoticeError::Read(error),
        OpenError::Latched(latched) => NoticeError::Read(ReadError::Io(latched.to_string())),
    })
}
