//! Durable Streams: appended to by whoever may, read by whoever may, for as long as they live.
//!
//! ```text
//! http -> Streams::find -> Stream::append -> store (commit thread) -> Mark -> whoever waits
//!                       -> Stream::read   <- store
//!      -> Streams::create, delete            one at a time in each tenant
//! sweep: removes what expired and what was deleted, at a bounded rate
//! ```
//!
//! - `piece`, `state`, `head`, `path`, `json`: pure: what is stored, what may be appended, what a stream is.
//! - `live`, `read`: an open stream. `changes`: which ones changed, for whoever acts on that.
//! - `making`: creating, forking, deleting. `sweep`: what goes on behind.
//!
//! Invariants: a stream that is open is open once, and whoever loads, makes or removes one of a tenant holds
//! the tenant's `making` lock; one is closed only when nobody uses it and all it was told is durable. Status codes,
//! headers and sessions are not known here.

mod changes;
mod head;
mod json;
mod live;
mod making;
mod path;
mod piece;
mod read;
mod state;
mod sweep;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Time};
use crate::id::{Seq, TenantId};
use crate::store::{Latched, OpenError, ReadError, RecordKey, RecordSpace, Store, StreamKey};
use crate::telemetry::{self, Limit};
use crate::tenants::{Standing, Tenants};

pub use self::changes::{Change, Changes, Extent};
pub use self::head::{Expiry, TYPE_BYTES_MAX, essence, is_json};
pub use self::json::{array, flatten};
pub use self::live::{AppendError, Appended, End, Mark, Stream};
pub use self::making::{CreateError, Fork, NewStream};
pub use self::path::{PATH_BYTES_MAX, StreamPath};
pub use self::piece::Tag;
pub use self::read::Batch;
pub use self::state::{LABEL_BYTES_MAX, Refusal, Verdict, Wish};

use self::head::Head;
use self::piece::Piece;
use self::state::State;

/// Why a stream cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("there is no such stream")]
    NotFound,
    /// Only its forks still use it.
    #[error("the stream was deleted")]
    Gone,
    #[error("as many streams are in use as may be")]
    Busy,
    #[error(transparent)]
    Latched(#[from] Latched),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<OpenError> for StreamError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Read(error) => error.into(),
            OpenError::Latched(latched) => latched.into(),
        }
    }
}

/// The streams of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

type Name = (TenantId, StreamPath);
type Making = Arc<tokio::sync::Mutex<()>>;

struct Inner {
    store: Arc<dyn Store>,
    clock: Clock,
    tenants: Tenants,
    open_max: usize,
    open: Mutex<HashMap<Name, Arc<Stream>>>,
    making: Mutex<HashMap<TenantId, Making>>,
    /// Tenants with streams whose pieces are to be removed.
    to_clear: Mutex<HashSet<TenantId>>,
    cleared: Notify,
    changes: Arc<Changes>,
    /// Removals that a client no longer waits for.
    tasks: TaskTracker,
}

/// What a stream works with.
#[derive(Clone)]
struct Ground {
    store: Arc<dyn Store>,
    clock: Clock,
    changes: Arc<Changes>,
}

fn head_key(tenant: &TenantId, path: &StreamPath) -> RecordKey {
    RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Stream,
        name: path.as_str().to_owned(),
    }
}

fn of_id(space: RecordSpace, stream: &StreamKey) -> RecordKey {
    RecordKey {
        tenant: Some(stream.tenant.clone()),
        space,
        name: stream.id.to_string(),
    }
}

fn state_key(stream: &StreamKey) -> RecordKey {
    of_id(RecordSpace::StreamState, stream)
}

fn gone_key(stream: &StreamKey) -> RecordKey {
    of_id(RecordSpace::StreamGone, stream)
}

impl Streams {
    pub fn new(store: Arc<dyn Store>, clock: Clock, tenants: Tenants, open_max: usize) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            tenants,
            open_max,
            open: Mutex::default(),
            making: Mutex::default(),
            to_clear: Mutex::default(),
            cleared: Notify::new(),
            changes: Arc::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Tells which streams changed.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    fn ground(&self) -> Ground {
        Ground {
            store: self.0.store.clone(),
            clock: self.0.clock.clone(),
            changes: self.0.changes.clone(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Name, Arc<Stream>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn making(&self, tenant: &TenantId) -> Making {
        let making = self.0.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        making.entry(tenant.clone()).or_default().clone()
    }

    /// A stream that can be read, and appended to unless it is closed.
    pub async fn find(
        &self,
        tenant: &TenantId,
        path: &StreamPath,
    ) -> Result<Arc<Stream>, StreamError> {
        let name = (tenant.clone(), path.clone());
        let open = self.open().get(&name).cloned();
        let stream = match open {
            Some(stream) => stream,
            None => {
                let making = self.making(tenant);
                let _making = making.lock().await;
                self.load(&name).await?.ok_or(StreamError::NotFound)?
            }
        };
        // Nobody hears of it before it is there for good.
        stream.reached(1).await?;
        if stream.is_expired(self.0.clock.now()) {
            self.expire(&stream).await?;
        }
        let end = stream.mark.borrow().end.clone();
        match end {
            None | Some(End::Latched(_)) => Ok(stream),
            Some(End::Deleted) => Err(StreamError::Gone),
            Some(End::Removed) => Err(StreamError::NotFound),
        }
    }

    /// The stream of this name, whatever it is worth. Call it with the tenant's `making` lock held.
    async fn load(&self, name: &Name) -> Result<Option<Arc<Stream>>, StreamError> {
        if let Some(stream) = self.open().get(name).cloned() {
            return Ok(Some(stream));
        }
        let (ground, owner) = (self.ground(), name.clone());
        let reading = tokio::task::spawn_blocking(move || opened(ground, owner)).await;
        let read =
            reading.map_err(|_| ReadError::Io("the reading thread ended early".into()))??;
        let Some(stream) = read else {
            return Ok(None);
        };
        let stream = Arc::new(stream);
        self.keep(name.clone(), &stream)?;
        Ok(Some(stream))
    }

    /// Have it found by its name from now on. With the tenant's `making` lock held.
    fn keep(&self, name: Name, stream: &Arc<Stream>) -> Result<(), StreamError> {
        match self.0.tenants.get(&name.0).map(|record| record.standing) {
            Some(Standing::Active | Standing::Suspended) => {}
            Some(Standing::Deleting) | None => return Err(StreamError::NotFound),
        }
        let mut open = self.open();
        if open.len() >= self.0.open_max {
            let is_idle = |(name, stream): (&Name, &Arc<Stream>)| {
                let is_idle = Arc::strong_count(stream) == 1 && stream.is_settled();
                is_idle.then(|| name.clone())
            };
            let Some(idle) = open.iter().find_map(is_idle) else {
                telemetry::hit(Limit::StreamOpen);
                return Err(StreamError::Busy);
            };
            open.remove(&idle);
        }
        open.insert(name, stream.clone());
        Ok(())
    }

    /// Let go of what a tenant has open, for good: it is being removed, and is marked as such.
    pub async fn forget_tenant(&self, tenant: &TenantId) {
        let making = self.making(tenant);
        let _making = making.lock().await;
        let mut left = Vec::new();
        self.open().retain(|(owner, _), stream| {
            let stays = owner != tenant;
            if !stays {
                left.push(stream.clone());
            }
            stays
        });
        for stream in left {
            stream.lock().is_leaving = true;
            stream
                .mark
                .send_modify(|mark| mark.end = Some(End::Removed));
        }
        let making = self.0.making.lock();
        making
            .unwrap_or_else(PoisonError::into_inner)
            .remove(tenant);
    }

    /// How far the tenant's streams go whose paths are wanted, as they are stored: so many at most. Those that are
    /// deleted are not there, and those that cannot be read are passed over, since nobody can append to them
    /// either. Blocks: one small reading for each.
    pub fn extents(
        &self,
        tenant: &TenantId,
        most: usize,
        is_wanted: impl Fn(&StreamPath) -> bool,
    ) -> Result<Vec<(StreamPath, Extent)>, ReadError> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let space = RecordSpace::Stream;
            let page = (self.0.store).records(Some(tenant), space, after.as_deref(), HEADS)?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            after = Some(last.clone());
            let paths = page
                .iter()
                .filter_map(|(name, _)| StreamPath::new(name).ok());
            for path in paths.filter(&is_wanted) {
                if found.len() >= most {
                    return Ok(found);
                }
                match self.extent(tenant, &path) {
                    Ok(Some(extent)) => found.push((path, extent)),
                    Ok(None) => {}
                    Err(error @ ReadError::Damaged(_)) => {
                        tracing::warn!(%tenant, %path, %error, "a stream cannot be read");
                    }
                    Err(error @ ReadError::Io(_)) => return Err(error),
                }
            }
        }
    }

    /// The same of one stream. Blocks.
    pub fn extent(
        &self,
        tenant: &TenantId,
        path: &StreamPath,
    ) -> Result<Option<Extent>, ReadError> {
        let (store, name) = (&*self.0.store, (tenant.clone(), path.clone()));
        let found = match stored(store, &name) {
            // Its pieces may have been removed while they were read.
            Err(_) if store.record(&head_key(tenant, path))?.is_none() => None,
            found => found?,
        };
        let there = found.filter(|(head, _)| !head.deleted);
        Ok(there.map(|(head, state)| Extent {
            id: head.id,
            base: head.base(),
            tail: state.tail,
        }))
    }

    #[cfg(test)]
    fn open_count(&self) -> usize {
        self.open().len()
    }
}

/// From the store: its head, its newest snapshot, and the pieces after that. Blocks.
fn opened(ground: Ground, name: Name) -> Result<Option<Stream>, ReadError> {
    let Some((head, state)) = stored(&*ground.store, &name)? else {
        return Ok(None);
    };
    let now = ground.clock.now();
    let slack = head.expiry.map_or(0, Expiry::slack_ms);
    let touched: Time = head.touched.max(state.time).plus_ms(slack).min(now);
    let deleted = head.deleted;
    let stream = Stream::new(name, head, state, (1, touched), ground);
    if deleted {
        stream.lock().is_leaving = true;
        stream
            .mark
            .send_modify(|mark| mark.end = Some(End::Deleted));
    }
    Ok(Some(stream))
}

/// What a stream is, and the fold of its pieces. Blocks.
fn stored(store: &dyn Store, name: &Name) -> Result<Option<(Head, State)>, ReadError> {
    let Some(bytes) = store.record(&head_key(&name.0, &name.1))? else {
        return Ok(None);
    };
    let damaged = |error: String| ReadError::bad_record(format!("stream {}: {error}", name.1));
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let key = StreamKey {
        tenant: name.0.clone(),
        id: head.id,
    };
    let mut state = match store.record(&state_key(&key))? {
        None => State::new(head.base(), head.created),
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?
        }
    };
    loop {
        let pieces = store.pieces(&key, state.tail, Seq(u64::MAX), FOLD_BYTES)?;
        if pieces.is_empty() {
            return Ok(Some((head, state)));
        }
        for (seq, bytes) in pieces {
            if seq != state.tail.next() {
                return Err(damaged(format!("piece {} is missing", state.tail.next())));
            }
            let piece = Piece::parse(&bytes).map_err(|error| damaged(error.to_string()))?;
            state.next(&piece.head);
        }
    }
}

/// Read at a time to fold a stream.
const FOLD_BYTES: usize = 1024 * 1024;

/// Heads looked at in one reading.
const HEADS: usize = 100;
