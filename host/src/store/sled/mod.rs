//! The engine on disk: sled 0.34.7, one tree, kept to what it does reliably.
//!
//! - A commit is a record of the [`redo`] log, then rows in sled's memory. sled is brought to disk only
//!   when much has gathered there, and for a *checkpoint*: when the redo log is full, and begins anew. A commit that is too long for the redo log goes past it: a batch of sled's and a
//!   checkpoint.
//! - Never `flush_async`, which deadlocks. [`Engine::commit`] and [`Engine::tidy`] are called by the commit thread only.
//! - `flush` brings sled's log to the kernel (`sync_file_range`), not safely to the
//!   disk; so a checkpoint goes on with `fdatasync` on our own handle of the same file, which
//!   covers the file's size too.
//! - sled may write over a segment (512 KiB) of its log when it has begun later ones. What it moved out of it must be on
//!   disk by then: so less than a segment is written before it is brought to disk, but for a commit past the redo log.
//! - A background write of sled that fails (a full disk) records the error without
//!   waking those who wait for it. [`Watchdog`] wakes them.
//! - Traversing the tree for a read splits pages, which writes; after a failed write such reads
//!   fail too. So the disk never gets full by us: see [`SledOptions::reserve_bytes`].
//! - After a failed write the database is leaked, never dropped: dropping
//!   writes and syncs again, and panics when that fails.
//!
//! Invariant: nothing is read from or written to sled's files but by sled, except
//! that `db` is synced; values stay below [`super::row::VALUE_MAX`], so that sled
//! never makes a file under `blobs`, which it would not sync.

mod files;
mod redo;
mod room;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use sled::{Batch, Db, IVec};

use self::redo::RedoLog;
use self::room::Room;
use super::engine::{Changes, Engine, EngineError, Order, Others, Rows};

pub use self::files::StoreOpenError;

/// Written to sled before it is brought to disk, at most, by what [`written`] says.
const UNSYNCED_MAX: usize = 384 * 1024;

/// The same before pages are moved, of which a step has 256 KiB at most.
const UNSYNCED_BEFORE_MOVES_MAX: usize = 128 * 1024;

/// What an acknowledged commit survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however sudden.
    Process,
    /// Also the end of the machine's power.
    #[default]
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SledOptions {
    /// sled's page cache. The process grows by several times as much.
    pub cache_bytes: u64,
    pub durability: Durability,
    /// The store latches before less than this is free on its disk: sled splits pages
    /// while it reads, so on a disk that is really full even reads fail.
    pub reserve_bytes: u64,
    /// The file may grow by this much more than twice what the rows do.
    pub slack_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            durability: Durability::Power,
            // A group of up to 256 KiB makes sled rewrite pages around its rows, in the
            // worst case hundreds of them; opening again needs some, too.
            reserve_bytes: 64 << 20,
            // A hundredth of what disks have, and more than a small store ever takes.
            slack_bytes: 16 << 20,
        }
    }
}

pub(in crate::store) struct SledEngine {
    db: Db,
    /// Our own handle of sled's log: a file is synced by inode, not by handle.
    log: File,
    options: SledOptions,
    path: PathBuf,
    watchdog: Watchdog,
    /// Used by the commit thread alone.
    writer: Mutex<Writer>,
    /// Held until the end: a second process is told so.
    _lock: File,
}

struct Writer {
    redo: RedoLog,
    room: Room,
    /// Bytes that sled wrote since it was last brought to disk, or somewhat more.
    unsynced: usize,
    has_failed: bool,
}

impl SledEngine {
    pub(in crate::store) fn open_or_create(
        path: &Path,
        options: SledOptions,
    ) -> Result<Self, StoreOpenError> {
        Self::of(files::open_or_create(path, options)?, path, options)
    }

    /// Refuses a folder that holds no store.
    pub(in crate::store) fn open_existing(
        path: &Path,
        options: SledOptions,
    ) -> Result<Self, StoreOpenError> {
        Self::of(files::open_existing(path, options)?, path, options)
    }

    fn of(
        opened: files::Opened,
        path: &Path,
        options: SledOptions,
    ) -> Result<Self, StoreOpenError> {
        let watchdog = Watchdog::start(opened.db.clone()).map_err(|error| StoreOpenError::Io {
            what: "start the watchdog's thread",
            text: error.to_string(),
        })?;
        let file = opened.log.metadata().map_err(|error| StoreOpenError::Io {
            what: "look at the store's file",
            text: error.to_string(),
        })?;
        let engine = Self {
            db: opened.db,
            log: opened.log,
            writer: Mutex::new(Writer {
                redo: opened.redo,
                room: Room::of(file.len(), options.slack_bytes),
                unsynced: 0,
                has_failed: false,
            }),
            options,
            path: path.to_owned(),
            watchdog,
            _lock: opened.lock,
        };
        engine
            .redo(opened.commits)
            .map_err(|error| StoreOpenError::Io {
                what: "write again what was committed last",
                text: error.to_string(),
            })?;
        Ok(engine)
    }

    /// Write again what was committed when the process before this one ended.
    fn redo(&self, commits: Vec<redo::Rows>) -> Result<(), EngineError> {
        let mut writer = self.writer();
        for rows in commits {
            for (key, value) in rows {
                self.put(&mut writer, &key, value.as_deref())?;
            }
        }
        self.checkpoint(&mut writer)
    }

    /// Refuse before the disk is full. Nothing was touched, so this is no failure of sled.
    fn check_room(&self) -> Result<(), EngineError> {
        let disk = rustix::fs::fstatvfs(&self.log).map_err(|errno| of_io(&errno.into()))?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) >= self.options.reserve_bytes {
            return Ok(());
        }
        let reserve = self.options.reserve_bytes >> 20;
        Err(EngineError::Failed(format!(
            "the disk is full: less than the reserve of {reserve} MiB is free"
        )))
    }

    /// Run a write; after the first that fails, by error or panic, the database is never dropped.
    fn guarded<T>(
        &self,
        writer: &mut Writer,
        write: impl FnOnce(&mut Writer) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let result = catch_unwind(AssertUnwindSafe(|| write(writer)))
            .unwrap_or_else(|panic| Err(EngineError::Failed(text_of_panic(&*panic))));
        if result.is_err() {
            writer.has_failed = true;
            std::mem::forget(self.db.clone());
        }
        result
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By way of the redo log.
    fn log(&self, writer: &mut Writer, changes: &Changes) -> Result<(), EngineError> {
        writer.redo.append(changes).map_err(|error| of_io(&error))?;
        for (key, change) in changes {
            self.put(writer, key, change.new.as_deref())?;
        }
        Ok(())
    }

    /// A row that stands in the redo log, which makes its commit whole wherever a crash cuts it.
    fn put(
        &self,
        writer: &mut Writer,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), EngineError> {
        let written = written(key, value);
        if writer.unsynced + written > UNSYNCED_MAX {
            self.write_out(writer)?;
        }
        match value {
            Some(value) => self.db.insert(key, value)?,
            None => self.db.remove(key)?,
        };
        writer.unsynced += written;
        Ok(())
    }

    /// Past the redo log.
    fn write_through(&self, writer: &mut Writer, changes: &Changes) -> Result<(), EngineError> {
        self.checkpoint(writer)?;
        writer.redo.clear().map_err(|error| of_io(&error))?;
        let mut batch = Batch::default();
        for (key, change) in changes {
            match &change.new {
                Some(value) => batch.insert(&key[..], &value[..]),
                None => batch.remove(&key[..]),
            }
        }
        self.db.apply_batch(batch)?;
        self.checkpoint(writer)
    }

    /// Bring all of sled to disk: what stands in the redo log is not needed any more.
    fn checkpoint(&self, writer: &mut Writer) -> Result<(), EngineError> {
        self.write_out(writer)?;
        writer.redo.begin_epoch();
        Ok(())
    }

    fn write_out(&self, writer: &mut Writer) -> Result<(), EngineError> {
        self.db.flush()?;
        if self.options.durability == Durability::Power {
            self.log.sync_data().map_err(|error| of_io(&error))?;
        }
        writer.unsynced = 0;
        Ok(())
    }

    /// All of it is in sled, and on disk there.
    fn close(&self) -> Result<(), EngineError> {
        let mut writer = self.writer();
        if writer.has_failed {
            return Ok(());
        }
        self.guarded(&mut writer, |writer| {
            self.checkpoint(writer)?;
            writer.redo.clear().map_err(|error| of_io(&error))
        })
    }

    /// Move so many pages, as a step of [`Engine::tidy`].
    fn move_pages(&self, writer: &mut Writer, moves: usize) -> Result<(), EngineError> {
        for step in room::steps(moves) {
            if writer.unsynced > UNSYNCED_BEFORE_MOVES_MAX {
                self.checkpoint(writer)?;
            }
            writer.room.move_pages(&self.db, step)?;
            writer.unsynced += self.db.flush()?;
        }
        Ok(())
    }
}

/// What sled writes for a row, with its share of the pages that are written again. In 400 checkpoints with short rows and long
/// ones `flush` told of 0.6 times as much in the middle, with what stays free at the end of a segment.
fn written(key: &[u8], value: Option<&[u8]>) -> usize {
    4 * (key.len() + value.map_or(0, <[u8]>::len)) + 256
}

impl Engine for SledEngine {
    fn commit(&self, changes: &Changes) -> Result<(), EngineError> {
        self.check_room()?;
        let mut writer = self.writer();
        self.guarded(&mut writer, |writer| {
            if !RedoLog::takes(changes) {
                return self.write_through(writer, changes);
            }
            if !writer.redo.has_room_for(changes) {
                self.checkpoint(writer)?;
            }
            self.log(writer, changes)
        })?;
        writer.room.add(changes);
        Ok(())
    }

    fn tidy(&self, others: Others) -> Result<bool, EngineError> {
        if self.check_room().is_err() {
            return Ok(false);
        }
        let file = self.log.metadata().map_err(|error| of_io(&error))?.len();
        let mut writer = self.writer();
        let moves = writer.room.moves(file, others);
        self.guarded(&mut writer, |writer| self.move_pages(writer, moves))?;
        Ok(writer.room.is_owed())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get(key).map_err(|error| of_sled(&error))?;
        Ok(value.map(bytes_of))
    }

    fn range(&self, low: &[u8], high: &[u8], order: Order) -> Rows<'_> {
        let mut rows = self.db.range(low..high);
        Box::new(std::iter::from_fn(move || {
            let row = match order {
                Order::Forward => rows.next(),
                Order::Backward => rows.next_back(),
            }?;
            Some(match row {
                Ok((key, value)) => Ok((bytes_of(key), bytes_of(value))),
                Err(error) => Err(of_sled(&error)),
            })
        }))
    }

    fn size_on_disk(&self) -> Result<u64, EngineError> {
        files::size(&self.path).map_err(|error| of_io(&error))
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the next process will write again what was committed last");
        }
        // It holds the database too; sled's own lock goes with the last handle.
        self.watchdog.stop();
    }
}

/// A view of what sled read, not a copy.
fn bytes_of(value: IVec) -> Bytes {
    Bytes::from_owner(value)
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        of_sled(&error)
    }
}

fn of_sled(error: &sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => of_io(error),
        error => EngineError::Failed(format!("sled: {error}")),
    }
}

fn of_io(error: &std::io::Error) -> EngineError {
    // sled hides the number of the error in its text and keeps only the kind.
    EngineError::Failed(if error.kind() == std::io::ErrorKind::StorageFull {
        "the disk is full".into()
    } else {
        error.to_string()
    })
}

fn text_of_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("sled panicked: {}", text.unwrap_or("without a message"))
}

/// Wakes those who wait inside sled for a background write that has failed.
///
/// `Log::exit_reservation` of sled 0.34.7 stores the error and notifies nobody, so
/// a `flush` that waits already would wait for ever. Any later `flush` notifies on its
/// way out with the same error; this thread makes one as soon as it sees the error.
struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// How long a failed write may go unnoticed. One look costs a load and two
/// context switches, so looking every half a second costs nothing.
const WATCH_EVERY: Duration = Duration::from_millis(500);

impl Watchdog {
    fn start(db: Db) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let thread = Builder::new().name("store-watchdog".into()).spawn({
            let stop = Arc::clone(&stop);
            move || watch(&db, &stop)
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    fn stop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's watchdog panicked");
        }
    }
}

fn watch(db: &Db, (stop, told): &(Mutex<bool>, Condvar)) {
    let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stopped {
        if let Err(error) = db.context.global_error() {
            tracing::error!(%error, "a background write of sled failed");
            // With the error set it does not wait; what it answers is the error.
            if db.flush().is_ok() {
                tracing::debug!("nobody waited for it");
            }
        }
        (stopped, _) = told
            .wait_timeout(stopped, WATCH_EVERY)
            .unwrap_or_else(PoisonError::into_inner);
    }
}
