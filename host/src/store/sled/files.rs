//! The store's folder: what is in it, who may open it, and how a bad one is refused.
//!
//! ```text
//! lock              held by the process that has the store open
//! format            written last when a store is made: "antiphon store 3"; 2 has no packed rows, 1 no `redo`
//! redo              what was committed last: [`super::redo`]
//! db conf blobs snap.*   sled's
//! quarantine-snap.* snapshots of sled's log that kept it from opening
//! ```
//!
//! Invariant: an empty store is made only where there never was one. Where `format`
//! stands, `db` must hold something; a store that cannot be opened is left as it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sled::{Config, Db, Mode};

use super::SledOptions;
use super::redo::{RedoError, RedoLog, Rows};

const FORMAT: &str = "antiphon store 3\n";
/// Without packed rows: a binary that knows no others would take them for damage.
const FORMAT_2: &str = "antiphon store 2\n";
/// Without a redo log: a binary that knows no other would lose what stands in one.
const FORMAT_1: &str = "antiphon store 1\n";
const SNAPSHOT: &str = "snap.";

/// Why there is no store. The folder was left as it was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreOpenError {
    #[error("the store in {} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("there is no store in {}", path.display())]
    Missing { path: PathBuf },
    /// Nothing was repaired and no empty store was put in its place.
    #[error("the store in {} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("could not {what}: {text}")]
    Io { what: &'static str, text: String },
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> StoreOpenError {
    move |error| StoreOpenError::Io {
        what,
        text: error.to_string(),
    }
}

pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) log: File,
    pub(super) lock: File,
    pub(super) redo: RedoLog,
    /// What stands in it, commit by commit.
    pub(super) commits: Vec<Rows>,
}

/// A crash in here leaves a store, or a folder in which one can be made again.
pub(super) fn open_or_create(path: &Path, options: SledOptions) -> Result<Opened, StoreOpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("make the store's folder"))?;
    open(path, options)
}

pub(super) fn open_existing(path: &Path, options: SledOptions) -> Result<Opened, StoreOpenError> {
    if path.join("format").exists() || path.join("db").exists() {
        open(path, options)
    } else {
        Err(StoreOpenError::Missing { path: path.into() })
    }
}

/// How long to wait for another holder of the store: a process that is being
/// replaced may still be ending, and a child just forked holds our files until it
/// becomes another program. Longer than that, it is another host.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(25);

fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, StoreOpenError>,
) -> Result<T, StoreOpenError> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(StoreOpenError::InUse { .. }) => std::thread::sleep(LOCK_WAIT),
            other => return other,
        }
    }
    attempt()
}

fn open(path: &Path, options: SledOptions) -> Result<Opened, StoreOpenError> {
    let lock = patiently(|| lock(path))?;
    let made = read_format(path)?;
    let db_path = path.join("db");
    let has_log = fs::metadata(&db_path).is_ok_and(|db| db.len() > 0);
    if made.is_some() && !has_log {
        return Err(StoreOpenError::Damaged {
            path: path.into(),
            reason: "its file `db` is gone or empty".into(),
        });
    }
    let db = open_without_bad_snapshot(path, options)?;
    let log = OpenOptions::new()
        .write(true)
        .open(&db_path)
        .map_err(io("open the store's log"))?;
    let has_redo = matches!(made, Some(Format::Newest | Format::Two));
    let (redo, commits) = open_redo(path, has_redo, options)?;
    if made != Some(Format::Newest) {
        if let Err(error) = db.flush() {
            return Err(refused(path, &error));
        }
        log.sync_all().map_err(io("sync the store's log"))?;
        sync_dir(path).map_err(io("sync the store's folder"))?;
        write_format(path).map_err(io("mark the store as made"))?;
    }
    sync_dir(path).map_err(io("sync the store's folder"))?;
    if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
        sync_dir(parent).map_err(io("sync the folder of the store's folder"))?;
    }
    Ok(Opened {
        db,
        log,
        lock,
        redo,
        commits,
    })
}

/// Made only where no binary that writes one has had the store.
fn open_redo(
    path: &Path,
    must_exist: bool,
    options: SledOptions,
) -> Result<(RedoLog, Vec<Rows>), StoreOpenError> {
    let damaged = |reason| StoreOpenError::Damaged {
        path: path.into(),
        reason,
    };
    let file = path.join("redo");
    if must_exist && !file.exists() {
        return Err(damaged("its file `redo` is gone".into()));
    }
    RedoLog::open(&file, options.durability).map_err(|error| match error {
        RedoError::Io(error) => io("open the store's redo log")(error),
        RedoError::Damaged(reason) => damaged(reason),
    })
}

fn lock(path: &Path) -> Result<File, StoreOpenError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(io("open the store's lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StoreOpenError::InUse { path: path.into() }),
        Err(errno) => Err(io("lock the store")(errno.into())),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Newest,
    Two,
    One,
}

/// How the store was made, if it was, completely, some time.
fn read_format(path: &Path) -> Result<Option<Format>, StoreOpenError> {
    match fs::read(path.join("format")) {
        Ok(text) if text == FORMAT.as_bytes() => Ok(Some(Format::Newest)),
        Ok(text) if text == FORMAT_2.as_bytes() => Ok(Some(Format::Two)),
        Ok(text) if text == FORMAT_1.as_bytes() => Ok(Some(Format::One)),
        Ok(_) => Err(StoreOpenError::Damaged {
            path: path.into(),
            reason: "its file `format` is not one that this binary knows".into(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read the store's format")(error)),
    }
}

fn write_format(path: &Path) -> io::Result<()> {
    let new = path.join("format.new");
    let mut file = File::create(&new)?;
    file.write_all(FORMAT.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path.join("format"))
}

pub(in crate::store) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// sled refuses to open over a bad snapshot of its log, although the log alone has
/// everything: then the snapshots are moved aside, once, and the log is read whole.
fn open_without_bad_snapshot(path: &Path, options: SledOptions) -> Result<Db, StoreOpenError> {
    let open_sled = || patiently(|| open_sled(path, options));
    let first = match open_sled() {
        Err(error @ StoreOpenError::Damaged { .. }) => error,
        other => return other,
    };
    let snapshots = snapshots(path).map_err(io("list the store's folder"))?;
    if snapshots.is_empty() {
        return Err(first);
    }
    let rename = |from: &str, to: &str| {
        fs::rename(path.join(from), path.join(to)).map_err(io("move a bad snapshot aside"))
    };
    for name in &snapshots {
        rename(name, &format!("quarantine-{name}"))?;
    }
    match open_sled() {
        Ok(db) => {
            tracing::warn!(
                path = %path.display(), ?snapshots, %first,
                "snapshots of the store's log were bad; moved aside, the log is complete"
            );
            Ok(db)
        }
        Err(_) => {
            for name in &snapshots {
                rename(&format!("quarantine-{name}"), name)?;
            }
            Err(first)
        }
    }
}

fn open_sled(path: &Path, options: SledOptions) -> Result<Db, StoreOpenError> {
    let config = Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes)
        .mode(Mode::LowSpace)
        .flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => Err(refused(path, &error)),
        Err(panic) => Err(StoreOpenError::Damaged {
            path: path.into(),
            reason: super::text_of_panic(&*panic),
        }),
    }
}

fn refused(path: &Path, error: &sled::Error) -> StoreOpenError {
    match error {
        // sled's own lock, which has no kind of its own.
        sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock") => {
            StoreOpenError::InUse { path: path.into() }
        }
        // The end of a file where there should be more of it is damage, not a bad disk.
        sled::Error::Io(error) if error.kind() != ErrorKind::UnexpectedEof => StoreOpenError::Io {
            what: "open the store",
            text: error.to_string(),
        },
        error => StoreOpenError::Damaged {
            path: path.into(),
            reason: error.to_string(),
        },
    }
}

fn snapshots(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(SNAPSHOT)
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The bytes of everything in the folder, as long as files say they are.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += size(&entry.path())?,
            Ok(metadata) => bytes += metadata.len(),
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
