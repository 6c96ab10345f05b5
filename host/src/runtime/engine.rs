//! The one engine: its configuration, its clock of epochs, and compiled components.
//!
//! Invariants: every component is compiled by the one [`config`]. Only code that
//! this host compiled itself is ever loaded: uploads in compiled form are
//! refused, and the cache on disk is authenticated with the host's own key.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::component::{Component, Linker, types::ComponentItem};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::id::Digest;

use super::bindings::ComponentPre;
use super::guest::Guest;
use super::host;
use super::limits::{
    INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, TICK, TurnLimits,
};
use super::wasi;

/// Interfaces of `antiphon:agent` that can be granted.
pub const INTERFACES: [&str; 10] = [
    "kernel",
    "mailbox",
    "context",
    "transcript",
    "reply",
    "model",
    "turn",
    "log",
    "agents",
    "http",
];

/// Of these, the ones that reach beyond the session: an agent has them only if its configuration says so.
const ASKED_FOR: [&str; 2] = ["agents", "http"];

const PACKAGE: &str = "antiphon:agent/";
const VERSION: &str = "@0.1.0";

/// Reset by copying up to here, by unmapping beyond: most agents of Rust touch less.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;

/// Why a component cannot be an agent. The texts are for whoever uploads it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComponentError {
    #[error("{0}")]
    NotAComponent(String),
    #[error("compiled code is not accepted; upload the component itself")]
    Precompiled,
    #[error("{0}")]
    WorldMismatch(String),
    #[error("the component imports `{0}`, which it is not granted")]
    ImportNotGranted(String),
}

/// Which interfaces an agent may import.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grants(BTreeSet<String>);

impl Grants {
    /// None names something that cannot be granted.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let names: BTreeSet<String> = names.into_iter().collect();
        match names
            .iter()
            .find(|name| !INTERFACES.contains(&name.as_str()))
        {
            Some(unknown) => Err(unknown.clone()),
            None => Ok(Self(names)),
        }
    }

    /// What an agent may import whose configuration says nothing.
    pub fn by_default() -> Self {
        let names = INTERFACES.iter().filter(|name| !ASKED_FOR.contains(name));
        Self(names.map(|name| (*name).to_owned()).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// A component ready to be instantiated with a set of grants. Cheap to clone.
#[derive(Clone)]
pub struct Loaded {
    pub digest: Digest,
    pub(super) pre: ComponentPre<Guest>,
}

pub struct Runtime {
    engine: Engine,
    cache: Option<Cache>,
    loaded: moka::sync::Cache<(Digest, Grants), Loaded>,
    /// One compilation at a time: it takes all the CPU it gets.
    compiling: Mutex<()>,
    /// Whether instances come from the pool.
    pub pooling: bool,
    _ticker: Ticker,
}

impl Runtime {
    /// `cache` is a folder for compiled components; without one they are compiled after each start.
    pub fn new(turns_max: u32, limits: &TurnLimits, cache: Option<&Path>) -> io::Result<Self> {
        let (engine, pooling) = match Engine::new(&config(Some((turns_max, limits)))) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::warn!(%error, "no address space for a pool of instances; allocating on demand");
                (Engine::new(&config(None)).map_err(io::Error::other)?, false)
            }
        };
        let cache = cache.map(Cache::open).transpose()?;
        let ticker = Ticker::start(&engine)?;
        let loaded = moka::sync::Cache::builder()
            .max_capacity(1_000)
            .support_invalidation_closures()
            .build();
        Ok(Self {
            engine,
            cache,
            loaded,
            compiling: Mutex::new(()),
            pooling,
            _ticker: ticker,
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Check and compile a component, or take it from a cache. Blocks for as long as compiling takes.
    pub fn load(
        &self,
        digest: Digest,
        bytes: &[u8],
        grants: &Grants,
    ) -> Result<Loaded, ComponentError> {
        let key = (digest, grants.clone());
        if let Some(loaded) = self.loaded.get(&key) {
            return Ok(loaded);
        }
        check_form(bytes)?;
        let _one;
        let component = match self.cached(digest) {
            Some(component) => component,
            None => {
                _one = self
                    .compiling
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                // Whoever compiled meanwhile may have compiled the same.
                if let Some(loaded) = self.loaded.get(&key) {
                    return Ok(loaded);
                }
                match self.cached(digest) {
                    Some(component) => component,
                    None => self.compile(digest, bytes)?,
                }
            }
        };
        check_imports(&self.engine, &component, grants)?;
        let mismatch = |error: wasmtime::Error| ComponentError::WorldMismatch(format!("{error:#}"));
        let pre = self
            .linker(grants)
            .map_err(mismatch)?
            .instantiate_pre(&component)
            .map_err(mismatch)?;
        let pre = ComponentPre::new(pre).map_err(|_| {
            ComponentError::WorldMismatch(format!(
                "the component does not export `{PACKAGE}agent{VERSION}` with its function `handle`"
            ))
        })?;
        let loaded = Loaded { digest, pre };
        self.loaded.insert(key, loaded.clone());
        Ok(loaded)
    }

    /// A component loaded before with these grants, without the bytes at hand.
    pub fn loaded(&self, digest: Digest, grants: &Grants) -> Option<Loaded> {
        self.loaded.get(&(digest, grants.clone()))
    }

    /// Nobody has the component any more.
    pub fn forget(&self, digest: Digest) {
        self.loaded
            .invalidate_entries_if(move |(of, _), _| *of == digest)
            .expect("the cache was built for it");
        if let Some(cache) = &self.cache {
            cache.remove(&self.engine, digest);
        }
    }

    fn cached(&self, digest: Digest) -> Option<Component> {
        self.cache.as_ref()?.get(&self.engine, digest)
    }

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Component, ComponentError> {
        let component = Component::from_binary(&self.engine, bytes).map_err(|error| {
            ComponentError::NotAComponent(format!("it does not compile: {error:#}"))
        })?;
        if let Some(cache) = &self.cache {
            // The cache only saves time.
            if let Err(error) = cache.put(&self.engine, digest, &component) {
                tracing::warn!(%error, "a compiled component was not cached");
            }
        }
        Ok(component)
    }

    fn linker(&self, grants: &Grants) -> wasmtime::Result<Linker<Guest>> {
        let mut linker = Linker::new(&self.engine);
        wasi::add_to_linker(&mut linker)?;
        host::add_to_linker(&mut linker, grants)?;
        Ok(linker)
    }
}

/// The configuration of every engine of this host.
fn config(pool: Option<(u32, &TurnLimits)>) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // A turn that is run again must compute the same.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    // Threads and component-model async are not even compiled in (features of the crate): the
    // one cannot be repeated, the other is not complete in this version.
    config.concurrency_support(false);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // On a small machine compiling in parallel would take every core from the turns.
    config.parallel_compilation(cores > 4);
    if let Some((turns_max, limits)) = pool {
        let memory_max = usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(turns_max)
            .total_core_instances(turns_max.saturating_mul(4))
            .total_memories(turns_max.saturating_mul(2))
            .total_tables(turns_max.saturating_mul(4))
            .total_stacks(turns_max)
            .max_core_instances_per_component(INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_component_instance_size(4 * 1024 * 1024)
            .max_core_instance_size(4 * 1024 * 1024)
            .max_memory_size(memory_max)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// The first bytes say what was uploaded, in words for whoever built it.
fn check_form(bytes: &[u8]) -> Result<(), ComponentError> {
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(ComponentError::Precompiled);
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(ComponentError::NotAComponent(
            "this is a core WebAssembly module; build a component with `--target wasm32-wasip2`"
                .into(),
        )),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(ComponentError::NotAComponent(
            "this is not WebAssembly".into(),
        )),
    }
}

/// Every import is `wasi:*` or granted; interfaces of which only types are used need no grant.
fn check_imports(
    engine: &Engine,
    component: &Component,
    grants: &Grants,
) -> Result<(), ComponentError> {
    let ty = component.component_type();
    for (name, import) in ty.imports(engine) {
        let granted = name
            .strip_prefix(PACKAGE)
            .and_then(|rest| rest.strip_suffix(VERSION))
            .is_some_and(|interface| grants.contains(interface) || interface == "agent");
        let has_functions = match &import.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(_, item)| {
                    matches!(
                        item.ty,
                        ComponentItem::ComponentFunc(_) | ComponentItem::Resource(_)
                    )
                })
            }
            _ => true,
        };
        if !granted && has_functions && !wasi::is_linked(name) {
            return Err(ComponentError::ImportNotGranted(name.to_owned()));
        }
    }
    Ok(())
}

/// Compiled components on disk: MAC, then what wasmtime serialised.
struct Cache {
    folder: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// The folder and the key beside it belong to this host's user alone.
    fn open(folder: &Path) -> io::Result<Self> {
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
    fn get(&self, engine: &Engine, digest: Digest) -> Option<Component> {
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

    /// What cannot be removed takes room and no more.
    fn remove(&self, engine: &Engine, digest: Digest) {
        if let Err(error) = fs::remove_file(self.path(engine, digest))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%digest, %error, "a compiled component was not removed");
        }
    }

    fn put(&self, engine: &Engine, digest: Digest, component: &Component) -> io::Result<()> {
        let path = self.path(engine, digest);
        let code = component.serialize().map_err(io::Error::other)?;
        let mac = self.mac(&path).chain_update(&code).finalize().into_bytes();
        write_new(&self.folder, &path, &[&mac, &code])
    }
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

/// Advances the epoch from a thread of the system: a guest that never yields can hold every
/// async worker, and with them every timer of the async runtime.
struct Ticker(Arc<AtomicBool>);

impl Ticker {
    fn start(engine: &Engine) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.weak(), stop.clone());
        std::thread::Builder::new()
            .name("epoch".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else {
                        break;
                    };
                    engine.increment_epoch();
                }
            })?;
        Ok(Self(stop))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
