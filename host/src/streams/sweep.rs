//! What goes on behind: streams past their time are removed, and the pieces of those that are gone. Both at a
//! bounded rate, so that whoever appends goes before; what a stop leaves undone is found at the next start.

use std::sync::PoisonError;
use std::time::Duration;

use super::head::{Expiry, Head};
use super::path::StreamPath;
use super::{HEADS, StreamError, Streams, gone_key};
use crate::id::{StreamId, TenantId};
use crate::store::{ReadError, RecordSpace, StreamKey, Write};

/// Rows removed by one commit, and the pause between.
const ROWS: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(20);

/// Between two looks at all streams. Whoever asks for one that has expired is told so before.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// After a failed removal.
const AGAIN: Duration = Duration::from_secs(60);

impl Streams {
    /// Remove what is to be removed, until this is dropped.
    pub async fn sweep(self) {
        for tenant in self.0.tenants.names() {
            self.clear(tenant);
        }
        tokio::join!(self.keep_clearing(), self.keep_expiring());
    }

    /// Removals under way are finished. Nobody begins one any more.
    pub async fn finish(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// A tenant has streams whose pieces are to be removed.
    pub(super) fn clear(&self, tenant: TenantId) {
        let to_clear = self.0.to_clear.lock();
        let mut to_clear = to_clear.unwrap_or_else(PoisonError::into_inner);
        to_clear.insert(tenant);
        drop(to_clear);
        self.0.cleared.notify_one();
    }

    async fn keep_clearing(&self) {
        loop {
            self.0.cleared.notified().await;
            let tenants = {
                let to_clear = self.0.to_clear.lock();
                std::mem::take(&mut *to_clear.unwrap_or_else(PoisonError::into_inner))
            };
            for tenant in tenants {
                if let Err(error) = self.clear_tenant(&tenant).await {
                    tracing::warn!(%tenant, %error, "what was appended to deleted streams is not removed yet");
                    tokio::time::sleep(AGAIN).await;
                    self.clear(tenant);
                }
            }
        }
    }

    /// Remove the pieces of the tenant's streams that are gone.
    pub(super) async fn clear_tenant(&self, tenant: &TenantId) -> Result<(), StreamError> {
        loop {
            let (store, of) = (self.0.store.clone(), tenant.clone());
            let gone = self
                .blocking(move || {
                    Ok(store.records(Some(&of), RecordSpace::StreamGone, None, HEADS)?)
                })
                .await?;
            if gone.is_empty() {
                return Ok(());
            }
            for (name, _) in gone {
                let id = StreamId::try_from(name.clone());
                let id = id.map_err(|error| ReadError::bad_record(error.to_string()))?;
                let stream = StreamKey {
                    tenant: tenant.clone(),
                    id,
                };
                self.clear_stream(&stream).await?;
            }
        }
    }

    /// Off the async threads, and waited for by [`Self::finish`]: it holds the store.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StreamError> + Send + 'static,
    ) -> Result<T, StreamError> {
        match self.0.tasks.spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Io("the reading thread ended early".into()).into()),
        }
    }

    async fn clear_stream(&self, stream: &StreamKey) -> Result<(), StreamError> {
        loop {
            let (store, of) = (self.0.store.clone(), stream.clone());
            let is_clear = self
                .blocking(move || Ok(store.clear_stream(&of, ROWS)?))
                .await?;
            tokio::time::sleep(PAUSE).await;
            if is_clear {
                break;
            }
        }
        let key = gone_key(stream);
        match crate::store::write(&*self.0.store, vec![Write::Unrecord { key }]).await {
            Ok(()) => Ok(()),
            Err(crate::store::CommitError::Latched(latched)) => Err(latched.into()),
            Err(other) => unreachable!("a record has no owner: {other}"),
        }
    }

    async fn keep_expiring(&self) {
        loop {
            for tenant in self.0.tenants.names() {
                if let Err(error) = self.expire_tenant(&tenant).await {
                    tracing::warn!(%tenant, %error, "streams past their time are not removed yet");
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Remove the tenant's streams that are past their time.
    pub(super) async fn expire_tenant(&self, tenant: &TenantId) -> Result<(), StreamError> {
        let mut after: Option<String> = None;
        loop {
            let (store, of) = (self.0.store.clone(), tenant.clone());
            let page = self
                .blocking(move || {
                    Ok(store.records(Some(&of), RecordSpace::Stream, after.as_deref(), HEADS)?)
                })
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (name, bytes) in &page {
                let Ok(head) = serde_json::from_slice::<Head>(bytes) else {
                    // Whoever asks for it hears of the damage.
                    continue;
                };
                let Ok(path) = StreamPath::new(name) else {
                    continue;
                };
                if head.deleted || !self.may_be_over(&head) {
                    continue;
                }
                // To look for it removes it, if it is over.
                match self.find(tenant, &path).await {
                    Ok(_) | Err(StreamError::NotFound | StreamError::Gone | StreamError::Busy) => {}
                    Err(error @ StreamError::Latched(_)) => return Err(error),
                    Err(error @ StreamError::Read(_)) => {
                        tracing::warn!(%tenant, %path, %error, "a stream cannot be read");
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// As far as its head knows: it may have been used since.
    fn may_be_over(&self, head: &Head) -> bool {
        let ends = head.expiry.map(|it| it.ends(head.touched));
        let slack = head.expiry.map_or(0, Expiry::slack_ms);
        ends.is_some_and(|ends| ends.plus_ms(slack) <= self.0.clock.now())
    }
}
