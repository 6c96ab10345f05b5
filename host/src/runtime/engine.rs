//! The one engine: its configuration, its clock of epochs, and compiled components.
//!
//! Invariants: every component is compiled by the one [`config`], within the bounds of `shape` and
//! `compiler`. Only code that this host compiled itself is ever loaded: uploads in compiled form are
//! refused, and `cache` says which files are ours.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use wasmtime::component::{Component, Linker, types::ComponentItem};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::id::{Digest, TenantId};

use super::bindings::ComponentPre;
use super::cache::{self, Cache};
use super::compiler::{self, Code, CompileError, Compiler, Compiling, Patience};
use super::guest::Guest;
use super::host;
use super::limits::{
    INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, TICK, TurnLimits,
};
use super::wasi;

/// Interfaces of `antiphon:agent` that can be granted.
pub const INTERFACES: [&str; 11] = [
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
    "questions",
];

/// Of these, the ones that reach beyond the session or have people wait for: an agent has them only if its
/// configuration says so.
const ASKED_FOR: [&str; 3] = ["agents", "http", "questions"];

const PACKAGE: &str = "antiphon:agent/";
const VERSION: &str = "@0.1.0";

/// Reset by copying up to so much, by unmapping beyond: most agents of Rust write less.
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
    /// It is too much work, or made of too much.
    #[error("{0}")]
    CompileLimit(String),
    #[error("as many of your components wait to be compiled as may")]
    Busy,
    /// Not the component's fault.
    #[error("{0}")]
    NoCompiler(String),
}

impl From<CompileError> for ComponentError {
    fn from(error: CompileError) -> Self {
        let text = error.to_string();
        match error {
            CompileError::Invalid(_) => Self::NotAComponent(text),
            CompileError::TooMuch(_) | CompileError::Time(_) | CompileError::Memory(_) => {
                Self::CompileLimit(text)
            }
            CompileError::Busy => Self::Busy,
            CompileError::NotRun(_) => Self::NoCompiler(text),
        }
    }
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
    compiler: Compiler,
    /// Whether instances come from the pool.
    pub pooling: bool,
    _ticker: Ticker,
}

impl Runtime {
    /// `cache` is a folder for compiled components; without one they are compiled after each start.
    pub fn new(
        turns_max: u32,
        limits: &TurnLimits,
        cache: Option<&Path>,
        compiling: Compiling,
    ) -> io::Result<Self> {
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
            compiler: Compiler::new(compiling),
            pooling,
            _ticker: ticker,
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Check and compile a component, or take it from a cache: for a tenant, within its bounds, off the
    /// threads that serve.
    pub async fn load(
        self: &Arc<Self>,
        tenant: &TenantId,
        component: (Digest, Bytes),
        grants: &Grants,
        patience: Patience,
    ) -> Result<Loaded, ComponentError> {
        let (digest, bytes) = component;
        if let Some(loaded) = self.find(digest, &bytes, grants).await? {
            return Ok(loaded);
        }
        let place = self.compiler.place(tenant, patience).await?;
        // Whoever compiled meanwhile may have compiled the same.
        if let Some(loaded) = self.find(digest, &bytes, grants).await? {
            return Ok(loaded);
        }
        let folder = self.cache.as_ref().map(Cache::folder);
        let compiled = self.compiler.compile(&self.engine, folder, bytes, place);
        let code = compiled.await?;
        let (runtime, grants) = (self.clone(), grants.clone());
        blocking(move || runtime.keep(digest, &code, &grants)).await
    }

    /// The same here and now, for nobody's account: blocks for as long as compiling takes.
    pub fn load_here(
        &self,
        digest: Digest,
        bytes: &[u8],
        grants: &Grants,
    ) -> Result<Loaded, ComponentError> {
        if let Some(loaded) = self.known(digest, bytes, grants)? {
            return Ok(loaded);
        }
        let code = compiler::compile_here(&self.engine, bytes)?;
        self.keep(digest, &code, grants)
    }

    async fn find(
        self: &Arc<Self>,
        digest: Digest,
        bytes: &Bytes,
        grants: &Grants,
    ) -> Result<Option<Loaded>, ComponentError> {
        if let Some(loaded) = self.loaded(digest, grants) {
            return Ok(Some(loaded));
        }
        let (runtime, bytes, grants) = (self.clone(), bytes.clone(), grants.clone());
        blocking(move || runtime.known(digest, &bytes, &grants)).await
    }

    /// From a cache; none if it must be compiled, and may be.
    fn known(
        &self,
        digest: Digest,
        bytes: &[u8],
        grants: &Grants,
    ) -> Result<Option<Loaded>, ComponentError> {
        if let Some(loaded) = self.loaded(digest, grants) {
            return Ok(Some(loaded));
        }
        check_form(bytes)?;
        let cached = self.cache.as_ref();
        let cached = cached.and_then(|cache| cache.get(&self.engine, digest));
        match cached {
            Some(component) => self.link(digest, &component, grants).map(Some),
            None => {
                compiler::check(bytes)?;
                Ok(None)
            }
        }
    }

    /// Take what was compiled, and keep it on disk.
    fn keep(&self, digest: Digest, code: &Code, grants: &Grants) -> Result<Loaded, ComponentError> {
        let component = cache::load(&self.engine, code).map_err(|error| {
            ComponentError::CompileLimit(format!("this server cannot run it: {error:#}"))
        })?;
        if let Some(cache) = &self.cache {
            // The cache only saves time.
            if let Err(error) = cache.put(&self.engine, digest, code.bytes()) {
                tracing::warn!(%error, "a compiled component was not cached");
            }
        }
        self.link(digest, &component, grants)
    }

    fn link(
        &self,
        digest: Digest,
        component: &Component,
        grants: &Grants,
    ) -> Result<Loaded, ComponentError> {
        check_imports(&self.engine, component, grants)?;
        let mismatch = |error: wasmtime::Error| ComponentError::WorldMismatch(format!("{error:#}"));
        let pre = self
            .linker(grants)
            .map_err(mismatch)?
            .instantiate_pre(component)
            .map_err(mismatch)?;
        let pre = ComponentPre::new(pre).map_err(|_| {
            ComponentError::WorldMismatch(format!(
                "the component does not export `{PACKAGE}agent{VERSION}` with its function `handle`"
            ))
        })?;
        let loaded = Loaded { digest, pre };
        self.loaded.insert((digest, grants.clone()), loaded.clone());
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

    fn linker(&self, grants: &Grants) -> wasmtime::Result<Linker<Guest>> {
        let mut linker = Linker::new(&self.engine);
        wasi::add_to_linker(&mut linker)?;
        host::add_to_linker(&mut linker, grants)?;
        Ok(linker)
    }
}

/// Run something that takes long or touches the disk where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ComponentError> + Send + 'static,
) -> Result<T, ComponentError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ComponentError::NotAComponent(
            "the compiler gave up on it".into(),
        )),
    }
}

/// The configuration of every engine of this host. What it compiles is the same with a pool and without.
pub(super) fn config(pool: Option<(u32, &TurnLimits)>) -> Config {
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
            .table_keep_resident(KEEP_RESIDENT_BYTES)
            // Of kernels since 6.7: which pages a guest wrote. Without it the lowest are reset, written or not, and the
            // stack of an agent of Rust, which is higher, is unmapped: each turn then faults it in again, on all cores.
            .pagemap_scan(Enabled::Auto);
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
