//! Compiled components on disk.
//!
//! Invariant: only code that this host compiled itself is ever loaded. Files are authenticated with the
//! host's own key; their names hold the digest of the component and the hash of the engine's configuration.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::id::Digest;

use super::compiler::Code;

/// Compiled components on disk: MAC, then what wasmtime serialised.
pub(super) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// The folder and the key beside it belong to this host's user alone.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let path = folder.join("key");
        let key = match fs::read(&path) {
            Ok(bytes) if bytes.len() == 32 => bytes.try_into().expect("its length was checked"),
            Ok(_) | Err(_) => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                write_new(folder, &path, &[&key])?;
                key
            }
        };
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    fn path(&self, engine: &Engine, digest: Digest) -> PathBuf {
        let mut hasher = std::hash::DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder
            .join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }

    fn mac(&self, path: &Path) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        // The name is covered too, so that no file can stand in for another.
        mac.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        mac
    }

    #[allow(
        unsafe_code,
        reason = "the bytes carry this host's own MAC: it compiled them itself"
    )]
    pub(super) fn get(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(engine, digest);
        let bytes = fs::read(&path).ok()?;
        let (mac, code) = bytes.split_first_chunk::<32>()?;
        if self
            .mac(&path)
            .chain_update(code)
            .verify_slice(mac)
            .is_err()
        {
            tracing::warn!(path = %path.display(), "a cached component is not authentic; compiling it again");
            return None;
        }
        // SAFETY: the MAC says that these are the bytes `put` wrote under this name, which
        // holds the hash of the engine's configuration; they are copied, not mapped.
        unsafe { Component::deserialize(engine, code) }.ok()
    }

    /// The code comes from this host's own compiler, in this process or in its child.
    pub(super) fn put(&self, engine: &Engine, digest: Digest, code: &[u8]) -> io::Result<()> {
        let path = self.path(engine, digest);
        let mac = self.mac(&path).chain_update(code).finalize().into_bytes();
        write_new(&self.folder, &path, &[&mac, code])
    }

    /// What cannot be removed takes room and no more.
    pub(super) fn remove(&self, engine: &Engine, digest: Digest) {
        if let Err(error) = fs::remove_file(self.path(engine, digest))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%digest, %error, "a compiled component was not removed");
        }
    }

    /// Where files may be made that have no name.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What the compiler just made. An error if it is none of this engine.
#[allow(
    unsafe_code,
    reason = "the bytes come from this host's own compiler: `code` can be made nowhere else"
)]
pub(super) fn load(engine: &Engine, code: &Code) -> wasmtime::Result<Component> {
    // SAFETY: `Code` is made by `compiler` alone, from what wasmtime gave in this process, or from
    // a file without a name that only a child of this process had, which ran this same program.
    unsafe { Component::deserialize(engine, code.bytes()) }
}

/// Write whole or not at all, readable by this user only.
fn write_new(folder: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = folder.join(format!("{}.new", uuid::Uuid::now_v7().simple()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    for part in parts {
        io::Write::write_all(&mut file, part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)
}
