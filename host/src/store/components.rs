//! Components by digest: one file each, named by its SHA-256.
//!
//! Too large for the store's log, and never changed, so plain files do.
//!
//! Invariant: a file under its final name is complete and on disk. What is read is
//! checked against its name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::id::Digest;

const TEMPORARY: &str = "new-";

#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    #[error("component {0} is damaged: its bytes have another digest")]
    Damaged(Digest),
    #[error("the folder of components: {0}")]
    Io(#[from] std::io::Error),
}

/// The folder of components. Blocks; has no state but the folder's.
#[derive(Debug)]
pub struct Components {
    path: PathBuf,
    temporary: AtomicU64,
}

impl Components {
    /// Opens the folder, made if there is none, and removes what a crash left half-written.
    pub fn open(path: &Path) -> Result<Self, ComponentError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
            sync_dir(parent)?;
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            temporary: AtomicU64::new(0),
        })
    }

    /// Keep a component; the same again is harmless. A crash before it returns leaves the
    /// whole component or nothing under its name; after, it is there.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ComponentError> {
        let digest = Digest::of(bytes);
        let file = self.file(&digest);
        // A damaged one is written anew.
        if matches!(self.get(&digest), Ok(Some(_))) {
            // Whoever wrote it may not have come to sync the folder.
            sync_dir(&self.path)?;
            return Ok(digest);
        }
        let n = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.path.join(format!("{TEMPORARY}{n}"));
        let written = self.write(&temporary, &file, bytes);
        if written.is_err() {
            // Best effort: opening the folder removes it, too.
            drop(fs::remove_file(&temporary));
        }
        written.map(|()| digest)
    }

    fn write(&self, temporary: &Path, file: &Path, bytes: &[u8]) -> Result<(), ComponentError> {
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(temporary, file)?;
        Ok(sync_dir(&self.path)?)
    }

    pub fn get(&self, digest: &Digest) -> Result<Option<Bytes>, ComponentError> {
        let bytes = match fs::read(self.file(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if Digest::of(&bytes) == *digest {
            Ok(Some(bytes.into()))
        } else {
            Err(ComponentError::Damaged(*digest))
        }
    }

    /// Remove a component; fine if it is not there. A crash may bring it back.
    pub fn delete(&self, digest: &Digest) -> Result<(), ComponentError> {
        match fs::remove_file(self.file(digest)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(sync_dir(&self.path)?),
        }
    }

    /// The digests of all components, in order.
    pub fn list(&self) -> Result<Vec<Digest>, ComponentError> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string()
                && let Some(digest) = name.strip_suffix(".wasm")
                && let Ok(digest) = Digest::try_from(digest.to_owned())
            {
                digests.push(digest);
            }
        }
        digests.sort();
        Ok(digests)
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.path.join(format!("{digest}.wasm"))
    }
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn components_are_kept_by_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("components");
        let components = Components::open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let digest = components.put(b"one").unwrap();
        assert_eq!(components.put(b"one").unwrap(), digest);
        let other = components.put(b"two").unwrap();
        assert_eq!(components.get(&digest).unwrap(), Some(Bytes::from("one")));
        let mut both = vec![digest, other];
        both.sort();
        assert_eq!(components.list().unwrap(), both);
        components.delete(&digest).unwrap();
        components.delete(&digest).unwrap();
        assert_eq!(components.get(&digest).unwrap(), None);
        assert_eq!(components.list().unwrap(), vec![other]);
    }

    #[test]
    fn a_damaged_component_is_refused_and_can_be_put_again() {
        let dir = tempfile::tempdir().unwrap();
        let components = Components::open(dir.path()).unwrap();
        let digest = components.put(b"one").unwrap();
        fs::write(components.file(&digest), b"onf").unwrap();
        let error = components.get(&digest).unwrap_err();
        assert!(matches!(error, ComponentError::Damaged(d) if d == digest));
        components.put(b"one").unwrap();
        assert_eq!(components.get(&digest).unwrap(), Some(Bytes::from("one")));
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("new-0"), b"half").unwrap();
        let components = Components::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(components.list().unwrap(), vec![]);
    }
}
