//! What is durable: journals, snapshots, long values, records, and what was appended to streams.
//!
//! This file is the contract; the engines keep it. Everything here blocks, so
//! async code calls it on blocking threads, except [`Store::commit`], which only
//! queues. Nothing asks for more than one journal at a time and no commit spans
//! two journals, so that a replicated log can stand behind the same trait.
//!
//! Invariant: a commit is applied whole or not at all, those of a tenant in the order queued, and
//! its `done` is called only after it is on disk (see `durability`) or failed. After the
//! first failed sync the store is latched: every later commit fails, reads go on.

mod changes;
pub mod check;
mod commit;
pub mod components;
mod damage;
mod engine;
mod keys;
mod lines;
mod local;
mod memory;
mod notices;
mod owners;
mod row;
mod sled;
pub mod transfer;
mod view;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

pub use self::damage::Damage;
pub use self::memory::{Fault, Memory};
pub use self::sled::{Durability, SledOptions, StoreOpenError};

use self::local::LocalStore;
use self::sled::SledEngine;
use crate::id::{Digest, Seq, SessionId, StreamId, TenantId};
use crate::journal::codec::Frame;
use crate::journal::entry::Kind;

/// Names a journal. Held by whoever was given a scope on it; no function here
/// takes tenant and session apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId {
    pub tenant: TenantId,
    pub session: SessionId,
}

/// Names one life of a stream. Whoever appends to one numbers its pieces, under a lock of its own: the
/// store takes them as they come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    pub tenant: TenantId,
    pub id: StreamId,
}

impl StreamKey {
    /// The stream of a tenant's notices, which the store numbers itself.
    pub fn notices(tenant: &TenantId) -> Self {
        Self {
            tenant: tenant.clone(),
            id: StreamId::NOTICES,
        }
    }
}

/// Who may append: each opening of a journal gets a higher one, and appends of
/// older ones are fenced. Not durable: a process has the store to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// The end of a journal, opaque to callers: what the next append expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tail(pub(in crate::store) Seq);

/// The key of a record inside a tenant: a namespace and a name, e.g. `agent` and
/// `echo`. A record of the host itself has no tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey {
    pub tenant: Option<TenantId>,
    pub space: RecordSpace,
    /// No NUL; otherwise any bytes in the order they are to be listed.
    pub name: String,
}

/// What records are for. One word each, part of the stored key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordSpace {
    /// Host: the tenants.
    Tenant,
    /// Tenant keys by digest.
    Key,
    /// Deployments by agent name.
    Agent,
    /// Session tokens by digest.
    Token,
    /// Sessions that must be woken, by session; the value says when.
    Wake,
    /// Ids of sessions that are gone; the value says until when to remember.
    Tombstone,
    /// Sessions that are being copied from another one, and are not there before that is done.
    Fork,
    /// Sealed credentials that came with messages, by message.
    Authorization,
    /// Secrets by name, sealed.
    Secret,
    /// What was used, by day and session.
    Usage,
    /// What administrators did, by request.
    Audit,
    /// Durable Streams by path: what they are.
    Stream,
    /// How far a stream had come, by its id: a fold of its pieces.
    StreamState,
    /// Streams that are gone and whose pieces are being removed, by id.
    StreamGone,
    /// Subscriptions to streams, by id.
    Subscription,
    /// The streams that they look at, each with a cursor, by subscription and digest of the path.
    SubscriptionLink,
    /// Where notices are pushed to, by name.
    Webhook,
    /// Notices that could not be pushed, by webhook and place.
    DeadLetter,
}

impl RecordSpace {
    pub const ALL: [Self; 18] = [
        Self::Tenant,
        Self::Key,
        Self::Agent,
        Self::Token,
        Self::Wake,
        Self::Tombstone,
        Self::Fork,
        Self::Authorization,
        Self::Secret,
        Self::Usage,
        Self::Audit,
        Self::Stream,
        Self::StreamState,
        Self::StreamGone,
        Self::Subscription,
        Self::SubscriptionLink,
        Self::Webhook,
        Self::DeadLetter,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Agent => "agent",
            Self::Token => "token",
            Self::Wake => "wake",
            Self::Tombstone => "tombstone",
            Self::Fork => "fork",
            Self::Authorization => "authorization",
            Self::Secret => "secret",
            Self::Usage => "usage",
            Self::Audit => "audit",
            Self::Stream => "stream",
            Self::StreamState => "stream-state",
            Self::StreamGone => "stream-gone",
            Self::Subscription => "subscription",
            Self::SubscriptionLink => "subscription-link",
            Self::Webhook => "webhook",
            Self::DeadLetter => "dead-letter",
        }
    }
}

/// One thing to write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Add a frame at the end of an open journal. A crash leaves all of the frame or nothing.
    Append {
        journal: JournalId,
        generation: Generation,
        expected: Tail,
        frame: Frame,
    },
    /// Replace the journal's snapshot: a fold of all entries up to `seq`, which must be durable already.
    Snapshot {
        journal: JournalId,
        generation: Generation,
        seq: Seq,
        bytes: Bytes,
    },
    /// Keep a long value for entries that name it. Writing the same again is harmless.
    Value {
        journal: JournalId,
        digest: Digest,
        bytes: Bytes,
    },
    /// Create or replace a record.
    Record { key: RecordKey, bytes: Bytes },
    /// Remove a record; fine if it is not there.
    Unrecord { key: RecordKey },
    /// Add a piece to a stream, under a number that it never had. A crash leaves all of it or nothing.
    Piece {
        stream: StreamKey,
        seq: Seq,
        bytes: Bytes,
    },
    /// Add to a tenant's notices: a piece of [`StreamKey::notices`] under the next number, in the order in which
    /// commits become durable. A crash leaves it if it leaves the rest of its commit.
    Notice { tenant: TenantId, bytes: Bytes },
}

/// Writes that become durable together, and who is told.
pub struct Commit {
    pub writes: Vec<Write>,
    /// Called once, on the commit thread: it must only wake somebody.
    pub done: Box<dyn FnOnce(Result<(), Latched>) + Send>,
}

/// The store stopped taking writes: a sync failed, so nothing after the last
/// good sync can be trusted to be on disk. Only a restart helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store no longer takes writes: {reason}")]
pub struct Latched {
    pub reason: String,
}

/// Why a commit was not queued. Nothing of it was or will be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    #[error(transparent)]
    Latched(#[from] Latched),
    /// The journal was opened again by somebody else.
    #[error("the journal has a newer owner")]
    Fenced,
    /// The append does not continue the journal.
    #[error("the append expects another end of the journal")]
    TailMismatch,
}

/// Why a read failed. The data may be damaged; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the disk or the store's files failed: {0}")]
    Io(String),
    #[error("stored bytes are damaged: {0}")]
    Damaged(Damage),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Latched(#[from] Latched),
}

/// A journal just opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub generation: Generation,
    pub tail: Tail,
    /// The last durable entry; 0 if the journal is empty.
    pub last: Seq,
}

/// One page of journals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPage {
    pub sessions: Vec<SessionId>,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// What one tenant has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    pub sessions: u64,
    /// Of entries, long values, snapshots and records as they are stored, most of them packed, with their keys. The disk holds more: how much more
    /// is the engine's affair.
    pub bytes: u64,
}

pub trait Store: Send + Sync + 'static {
    /// Take a journal over: bump its generation, so that older owners are fenced, and wait
    /// until everything accepted from them is durable or failed. Writes nothing; a
    /// crash leaves no trace of it.
    fn open(&self, journal: &JournalId) -> Result<Opened, OpenError>;

    /// Give a journal back: its owner is fenced, and the store forgets it once nothing of it
    /// is in flight. Does nothing if somebody newer has it. Writes nothing; a crash
    /// leaves no trace of it.
    fn release(&self, journal: &JournalId, generation: Generation);

    /// Queue a commit; never waits for the disk. Generations and tails are checked
    /// here, against everything queued before, so an accepted commit can fail only
    /// by latching. Answers the journal's new tail if there was an append. A crash before `done` may
    /// leave all of the commit or nothing.
    fn commit(&self, commit: Commit) -> Result<Option<Tail>, CommitError>;

    /// Whether everything accepted so far is durable or has failed.
    fn is_settled(&self) -> bool;

    /// Durable frames that hold entries after `after`, in order, starting with the frame that
    /// holds the first of them, until `bytes_max` is passed (at least one frame, if there is one).
    fn frames(
        &self,
        journal: &JournalId,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, ReadError>;

    /// Like `frames`, newest first, of entries before `before`, and only frames that
    /// contain one of `kinds`.
    fn frames_before(
        &self,
        journal: &JournalId,
        before: Seq,
        kinds: &[Kind],
        bytes_max: usize,
    ) -> Result<Vec<Frame>, ReadError>;

    /// The newest durable snapshot.
    fn snapshot(&self, journal: &JournalId) -> Result<Option<(Seq, Bytes)>, ReadError>;

    /// A value that an entry of this journal names, checked against its digest.
    fn value(&self, journal: &JournalId, digest: &Digest) -> Result<Option<Bytes>, ReadError>;

    /// Whether there is a durable journal.
    fn exists(&self, journal: &JournalId) -> Result<bool, ReadError>;

    /// Journals of a tenant in order of session id, after a given one.
    fn journals(
        &self,
        tenant: &TenantId,
        after: Option<&SessionId>,
        count_max: usize,
    ) -> Result<JournalPage, ReadError>;

    /// Remove up to `rows_max` rows of a closed journal and wait until that is durable. True when nothing is left. A
    /// crash in between leaves a journal without its beginning, so whoever clears one
    /// first makes sure that it will be cleared again (a record in `Wake`).
    fn clear(&self, journal: &JournalId, rows_max: usize) -> Result<bool, OpenError>;

    /// What a tenant has stored. Reads all of it.
    fn holdings(&self, tenant: &TenantId) -> Result<Holdings, ReadError>;

    /// Tenants that have anything stored, in order, also those that there are no more.
    fn tenants(&self) -> Result<Vec<TenantId>, ReadError>;

    /// Remove up to `rows_max` rows of a tenant, whatever they are, and wait until that is durable. True when nothing is
    /// left. Whoever calls this has closed every journal of the tenant, and opens none. A crash in between leaves a part.
    fn clear_tenant(&self, tenant: &TenantId, rows_max: usize) -> Result<bool, OpenError>;

    /// Write out what is durable of a tenant, a line of JSON each, in the form of [`transfer::export`]. Answers
    /// how many rows are damaged.
    fn export_tenant(
        &self,
        tenant: &TenantId,
        out: &mut dyn std::io::Write,
    ) -> Result<u64, transfer::ExportError>;

    fn record(&self, key: &RecordKey) -> Result<Option<Bytes>, ReadError>;

    /// Records of a space in order of name, after a given name.
    fn records(
        &self,
        tenant: Option<&TenantId>,
        space: RecordSpace,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError>;

    /// Durable pieces of a stream after `after` and up to `until`, in order, until `bytes_max` is passed (at
    /// least one, if there is one). What is missing in between is passed over: whoever numbers them sees it.
    fn pieces(
        &self,
        stream: &StreamKey,
        after: Seq,
        until: Seq,
        bytes_max: usize,
    ) -> Result<Vec<(Seq, Bytes)>, ReadError>;

    /// Remove up to `rows_max` rows of a stream that nobody appends to or reads any more, and wait until that is
    /// durable. True when nothing is left. A crash in between leaves a part.
    fn clear_stream(&self, stream: &StreamKey, rows_max: usize) -> Result<bool, OpenError>;

    /// Remove up to `rows_max` rows of a stream from its beginning up to `until`, and wait until that is durable. True
    /// when none of them is left. A crash in between leaves a part.
    fn trim(&self, stream: &StreamKey, until: Seq, rows_max: usize) -> Result<bool, OpenError>;

    /// The number of a tenant's last durable notice, 0 if it has none, and each that follows. Reads the disk.
    fn notices_end(&self, tenant: &TenantId) -> Result<watch::Receiver<Seq>, ReadError>;

    /// Why the store takes no more writes, if so.
    fn latched(&self) -> Option<Latched>;

    /// Bytes on disk, as far as the engine can say.
    fn size_on_disk(&self) -> Result<u64, ReadError>;

    /// Write out what is queued and stop the commit thread. Later commits fail.
    fn close(&self);
}

/// The store of this host in a folder, made if there is none. A crash in the middle of making
/// it leaves one that can be made again.
pub fn open_sled(path: &Path, options: SledOptions) -> Result<Arc<dyn Store>, StoreOpenError> {
    let engine = SledEngine::open_or_create(path, options)?;
    start(Arc::new(engine))
}

/// A store on a disk in memory: for tests, also those of other layers, and for a journal that
/// came from elsewhere.
pub fn memory(disk: &Memory) -> Arc<dyn Store> {
    start(Arc::new(disk.clone())).expect("a test can start a thread")
}

fn start(engine: Arc<dyn engine::Engine>) -> Result<Arc<dyn Store>, StoreOpenError> {
    let store = LocalStore::start(engine).map_err(|error| StoreOpenError::Io {
        what: "start the commit thread",
        text: error.to_string(),
    })?;
    Ok(Arc::new(store))
}

/// Commit and wait until it is durable.
pub async fn write(store: &dyn Store, writes: Vec<Write>) -> Result<(), CommitError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result| {
        // Whoever waited may be gone; the write stands all the same.
        let _ = sender.send(result);
    });
    store.commit(Commit { writes, done })?;
    match receiver.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Latched {
            reason: "the store was closed".into(),
        }
        .into()),
    }
}
