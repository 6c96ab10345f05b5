//! Notices: what a tenant is told of all its sessions, in one order.
//!
//! ```text
//! ledger --Write::Notice, in the commit of the entries--> store --end--> read, follow --> http
//!                                                                    \-> webhooks --> places outside
//! ```
//!
//! - What notices say follows from entries: [`crate::journal::notice`].
//! - `sweep`: old ones are removed.
//! - [`webhook`]: pure: what becomes of one. [`webhooks`]: all there are. `push`: telling them.
//!
//! Invariants: a notice is durable with the entries it is about, and read only then; those of a tenant have one order, in
//! which each is read once from any place. Who was away longer than notices are kept is told so.

mod push;
mod sweep;
pub mod webhook;
pub mod webhooks;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::id::{AgentName, NoticeOffset, Offset, Seq, SessionId, TenantId};
use crate::journal::notice::{Notice, NoticeKind, parse};
use crate::store::{ReadError, Store, StreamKey};
use crate::tenants::Tenants;

/// Names of one sort in a filter.
pub const NAMES_MAX: usize = 100;

/// Read at once: some thousand notices.
const READ_BYTES: usize = 512 * 1024;

/// What is kept of a tenant's notices.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Commits that had something to tell.
    pub notices_max: u64,
    pub ms_max: u64,
}

/// Which notices somebody wants. What is empty leaves none out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    pub sessions: BTreeSet<SessionId>,
    pub agents: BTreeSet<AgentName>,
    pub kinds: BTreeSet<NoticeKind>,
}

impl Filter {
    pub fn wants(&self, notice: &Notice) -> bool {
        let concerns = |agent| notice.what.concerns(agent);
        (self.sessions.is_empty() || self.sessions.contains(&notice.session))
            && (self.agents.is_empty() || self.agents.iter().any(concerns))
            && (self.kinds.is_empty() || self.kinds.contains(&notice.what.kind()))
    }
}

/// A notice as anybody is shown it, with the place after it.
pub fn public(at: NoticeOffset, notice: &Notice) -> Value {
    let mut json = serde_json::to_value(&notice.what).expect("notices have string keys");
    json["offset"] = at.to_string().into();
    json["time"] = notice.time.to_rfc3339().into();
    json["session"] = notice.session.as_str().into();
    json["place"] = Offset(notice.at).to_string().into();
    json
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoticeError {
    #[error("the offset is beyond the end of the notices")]
    Ahead,
    /// What came after the place is not kept any more.
    #[error("the notices after this offset are not kept any more")]
    Gone { earliest: NoticeOffset },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Notices after a place.
#[derive(Debug, PartialEq)]
pub struct Page {
    /// Each with the place after it.
    pub notices: Vec<(NoticeOffset, Notice)>,
    /// How far was looked.
    pub at: NoticeOffset,
    /// Nothing durable came after it.
    pub is_end: bool,
}

/// All notices of this host. Cheap to clone.
#[derive(Clone)]
pub struct Notices(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    tenants: Tenants,
    kept: Kept,
}

impl Notices {
    pub fn new(store: Arc<dyn Store>, clock: Clock, tenants: Tenants, kept: Kept) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            tenants,
            kept,
        }))
    }

    /// Follow a tenant's notices from a place: none is from the first one that is kept.
    pub async fn follow(
        &self,
        tenant: &TenantId,
        from: Option<NoticeOffset>,
        filter: Filter,
    ) -> Result<Follower, NoticeError> {
        let (store, of) = (self.0.store.clone(), tenant.clone());
        let end = blocking(move || Ok(store.notices_end(&of)?)).await?;
        let mut follower = Follower {
            store: self.0.store.clone(),
            tenant: tenant.clone(),
            filter: Arc::new(filter),
            at: from,
            end,
        };
        follower.begin().await?;
        Ok(follower)
    }

    /// Where the tenant's notices end now.
    pub async fn end(&self, tenant: &TenantId) -> Result<NoticeOffset, NoticeError> {
        let (store, of) = (self.0.store.clone(), tenant.clone());
        let end = blocking(move || Ok(*store.notices_end(&of)?.borrow())).await?;
        Ok(NoticeOffset::after(end))
    }
}

/// Somebody who reads a tenant's notices, from a place on.
pub struct Follower {
    store: Arc<dyn Store>,
    tenant: TenantId,
    filter: Arc<Filter>,
    at: Option<NoticeOffset>,
    end: watch::Receiver<Seq>,
}

impl Follower {
    /// Whether the place is one that can be gone on from.
    async fn begin(&mut self) -> Result<(), NoticeError> {
        let end = NoticeOffset::after(*self.end.borrow_and_update());
        if self.at.is_some_and(|at| at > end) {
            return Err(NoticeError::Ahead);
        }
        if self.at == Some(end) {
            return Ok(());
        }
        let (store, key) = (self.store.clone(), StreamKey::notices(&self.tenant));
        let first = blocking(move || Ok(store.pieces(&key, Seq(0), end.after, 0)?)).await?;
        let first = first.first().map_or(end.after.next(), |(seq, _)| *seq);
        let earliest = NoticeOffset::after(Seq(first.0 - 1));
        match self.at {
            Some(at) if at < earliest => Err(NoticeError::Gone { earliest }),
            Some(_) => Ok(()),
            None => {
                self.at = Some(earliest);
                Ok(())
            }
        }
    }

    /// How far was looked.
    pub fn at(&self) -> NoticeOffset {
        self.at.unwrap_or_default()
    }

    pub fn is_at_end(&self) -> bool {
        self.at().after >= *self.end.borrow()
    }

    /// What there is now, as much as is read at once: `notices_max` notices at most.
    pub async fn page(&mut self, notices_max: usize) -> Result<Page, NoticeError> {
        let end = *self.end.borrow_and_update();
        let (store, filter, at) = (self.store.clone(), self.filter.clone(), self.at());
        let key = StreamKey::notices(&self.tenant);
        let read = blocking(move || page(&*store, &key, &filter, at, end, notices_max)).await?;
        self.at = Some(read.at);
        Ok(read)
    }

    /// The next that are wanted: waits until there are some.
    pub async fn next(&mut self, notices_max: usize) -> Result<Page, NoticeError> {
        loop {
            let page = self.page(notices_max).await?;
            if !page.notices.is_empty() {
                return Ok(page);
            }
            if page.is_end {
                self.more().await;
            }
        }
    }

    /// Wait until there is something after the end that was read last.
    pub async fn more(&mut self) {
        if self.end.changed().await.is_err() {
            // The store is gone, and with it whoever would wake us.
            std::future::pending::<()>().await;
        }
    }
}

fn page(
    store: &dyn Store,
    key: &StreamKey,
    filter: &Filter,
    from: NoticeOffset,
    end: Seq,
    notices_max: usize,
) -> Result<Page, NoticeError> {
    let (mut notices, mut at) = (Vec::new(), from);
    let rows = store.pieces(key, from.after, end, READ_BYTES)?;
    if rows.is_empty() && from.after < end {
        // All of them were removed, just now.
        let earliest = NoticeOffset::after(end);
        return Err(NoticeError::Gone { earliest });
    }
    'rows: for (seq, row) in rows {
        if seq != at.after.next() {
            // Rows are removed from the beginning: those before were, just now.
            let earliest = NoticeOffset::after(Seq(seq.0 - 1));
            return Err(NoticeError::Gone { earliest });
        }
        let all = parse(&row).map_err(|error| ReadError::bad_record(format!("{seq}: {error}")))?;
        let count = all.len();
        let skipped = usize::try_from(at.index).unwrap_or(usize::MAX);
        for (index, notice) in all.into_iter().enumerate().skip(skipped) {
            if notices.len() == notices_max {
                break 'rows;
            }
            at = match index + 1 == count {
                true => NoticeOffset::after(seq),
                false => NoticeOffset {
                    after: at.after,
                    index: u32::try_from(index + 1).unwrap_or(u32::MAX),
                },
            };
            if filter.wants(&notice) {
                notices.push((at, notice));
            }
        }
        // Also if the place was beyond all that the row has.
        at = at.max(NoticeOffset::after(seq));
    }
    let is_end = at.after >= end;
    Ok(Page {
        notices,
        at,
        is_end,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NoticeError> + Send + 'static,
) -> Result<T, NoticeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::Io("the reading thread ended early".into()).into()),
    }
}
