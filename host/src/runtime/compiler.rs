//! Compiling components: bounded in time and memory, away from the threads that serve.
//!
//! A server compiles in a child process, its own program run as `antiphon compile`: what a component does
//! to a compiler, it does to that child, which has a limit on its memory, its computing and its output, no
//! environment, and is killed when its time is up. What it computes is counted, not how long it takes: it yields to
//! turns, and a host that is busy with those must not refuse what it would take when it is not.
//! Where there is no such program (the server as a
//! library, `antiphon replay`) it is compiled in this process; what may be compiled is bounded all
//! the same, by `shape`.
//!
//! Invariants: of one tenant one component is compiled at a time, of all tenants so many; a child is
//! killed if nobody waits for it any more. Files between the two have no name: nobody else can have
//! written what is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Engine;

use crate::id::TenantId;
use crate::telemetry::{self, Limit, UnderWay};

use super::engine;
use super::shape::{self, TooMuch};

/// The child's answer that the component is no component; why stands on its stderr.
const EXIT_INVALID: i32 = 65;

/// What is read of the child's stderr.
const WORDS_BYTES_MAX: u64 = 4 * 1024;

/// The child yields to whoever serves: beside one that computes it has a thirtieth of a core.
const NICE: i32 = 15;

/// A child is ended after so many times what it may compute, whatever it got to compute: somebody waits for it.
const PATIENCE: u32 = 5;

/// How components are compiled.
#[derive(Debug, Clone)]
pub struct Compiling {
    /// The program that is run as `PROGRAM compile`; none to compile in this process.
    pub program: Option<PathBuf>,
    /// Computing, all threads of the compiler together; the kernel counts whole seconds.
    pub ms_max: u64,
    pub memory_bytes_max: u64,
    /// At once, of all tenants.
    pub at_once_max: usize,
    /// Uploads of a tenant that wait.
    pub waiting_max: usize,
}

impl Default for Compiling {
    fn default() -> Self {
        Self {
            program: None,
            ms_max: 60_000,
            memory_bytes_max: 2 * 1024 * 1024 * 1024,
            at_once_max: 1,
            waiting_max: 4,
        }
    }
}

impl Compiling {
    /// How long it is waited for.
    fn time_max(&self) -> Duration {
        Duration::from_millis(self.ms_max).saturating_mul(PATIENCE)
    }
}

/// Why there is no compiled component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CompileError {
    #[error("it does not compile: {0}")]
    Invalid(String),
    #[error("the component is more than this server compiles: {0}")]
    TooMuch(#[from] TooMuch),
    #[error("compiling the component took more than {0} ms of computing")]
    Time(u64),
    #[error("compiling the component took more than {0} bytes of memory, or broke the compiler")]
    Memory(u64),
    #[error("as many components wait to be compiled as may")]
    Busy,
    #[error("the compiler does not run: {0}")]
    NotRun(String),
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::NotRun(error.to_string())
    }
}

/// What this host's compiler made.
pub(super) struct Code(Vec<u8>);

impl Code {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether to wait behind others of the same tenant, however many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A turn, which is counted among those that wait.
    Endless,
    /// An upload, which holds a component in memory meanwhile.
    Bounded,
}

/// Whose turn it is to compile, and how.
pub(super) struct Compiler {
    compiling: Compiling,
    host: Arc<Semaphore>,
    /// Those that have something compiled now.
    tenants: Mutex<HashMap<TenantId, Arc<Tenant>>>,
}

struct Tenant {
    one: Arc<Semaphore>,
    /// Compiling and waiting for it.
    inside: AtomicUsize,
}

/// The right to compile one component.
pub(super) struct Place {
    _host: OwnedSemaphorePermit,
    _one: OwnedSemaphorePermit,
    _inside: Inside,
    _under_way: UnderWay,
}

/// Counts who waits or compiles, also if it is given up. Whoever comes meanwhile finds the same tenant.
struct Inside(Arc<Tenant>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compiler {
    pub(super) fn new(compiling: Compiling) -> Self {
        Self {
            host: Arc::new(Semaphore::new(compiling.at_once_max.max(1))),
            compiling,
            tenants: Mutex::default(),
        }
    }

    /// Wait for a place: first the tenant's, so that one tenant's many never stand before another's one.
    pub(super) async fn place(
        &self,
        tenant: &TenantId,
        patience: Patience,
    ) -> Result<Place, CompileError> {
        let tenant = self.tenant(tenant);
        let before = tenant.inside.fetch_add(1, Ordering::Relaxed);
        let inside = Inside(tenant);
        // One of them compiles.
        if patience == Patience::Bounded && before > self.compiling.waiting_max {
            telemetry::hit(Limit::CompilesWaiting);
            return Err(CompileError::Busy);
        }
        let closed = |_| CompileError::NotRun("the server ends".into());
        let one = inside.0.one.clone().acquire_owned().await.map_err(closed)?;
        let host = self.host.clone().acquire_owned().await.map_err(closed)?;
        Ok(Place {
            _host: host,
            _one: one,
            _inside: inside,
            _under_way: UnderWay::compile(),
        })
    }

    fn tenant(&self, tenant: &TenantId) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Tenant {
                one: Arc::new(Semaphore::new(1)),
                inside: AtomicUsize::new(0),
            })
        };
        tenants.retain(|_, it| Arc::strong_count(it) > 1);
        tenants.entry(tenant.clone()).or_insert_with(new).clone()
    }

    /// Compile what [`check`] let pass. `folder` is where files without a name may be.
    pub(super) async fn compile(
        &self,
        engine: &Engine,
        folder: Option<&Path>,
        bytes: Bytes,
        place: Place,
    ) -> Result<Code, CompileError> {
        let compiled = match &self.compiling.program {
            Some(program) => {
                let code = self.compile_in_child(program, folder, bytes).await;
                drop(place);
                code
            }
            None => self.compile_in_process(engine, bytes, place).await,
        };
        match &compiled {
            Err(CompileError::Time(_)) => telemetry::hit(Limit::CompileMs),
            Err(CompileError::Memory(_)) => telemetry::hit(Limit::CompileMemoryBytes),
            _ => {}
        }
        compiled
    }

    /// A thread cannot be ended, and what it computes is not counted apart: one that takes too long is waited for no
    /// longer, and keeps its place.
    async fn compile_in_process(
        &self,
        engine: &Engine,
        bytes: Bytes,
        place: Place,
    ) -> Result<Code, CompileError> {
        let engine = engine.clone();
        let compiling = tokio::task::spawn_blocking(move || {
            let code = compile_here(&engine, &bytes);
            drop(place);
            code
        });
        match tokio::time::timeout(self.compiling.time_max(), compiling).await {
            Ok(Ok(code)) => code,
            Ok(Err(_)) => Err(CompileError::Invalid("the compiler gave up on it".into())),
            Err(_) => Err(CompileError::Time(self.compiling.ms_max)),
        }
    }

    async fn compile_in_child(
        &self,
        program: &Path,
        folder: Option<&Path>,
        bytes: Bytes,
    ) -> Result<Code, CompileError> {
        let Compiling {
            ms_max,
            memory_bytes_max,
            ..
        } = self.compiling;
        let folder = folder.map_or_else(std::env::temp_dir, Path::to_owned);
        let files = tokio::task::spawn_blocking(move || Files::new(&folder, &bytes));
        let files = files
            .await
            .map_err(|error| CompileError::NotRun(error.to_string()))??;
        let mut child = tokio::process::Command::new(program)
            .arg("compile")
            .args(["--ms-max", &ms_max.to_string()])
            .args(["--memory-bytes-max", &memory_bytes_max.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(files.component.try_clone()?))
            .stdout(Stdio::from(files.code.try_clone()?))
            .stderr(Stdio::from(files.words.try_clone()?))
            // If nobody waits any more.
            .kill_on_drop(true)
            .spawn()?;
        let status = match tokio::time::timeout(self.compiling.time_max(), child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                child.kill().await?;
                return Err(CompileError::Time(ms_max));
            }
        };
        let reading = tokio::task::spawn_blocking(move || files.read(status));
        let read = reading.await;
        match read.map_err(|error| CompileError::NotRun(error.to_string()))?? {
            Answer::Code(code) => Ok(code),
            Answer::Invalid(words) => Err(CompileError::Invalid(words)),
            Answer::Time => Err(CompileError::Time(ms_max)),
            Answer::Died(words) => {
                tracing::warn!(%status, words, "the compiler died of a component");
                Err(CompileError::Memory(memory_bytes_max))
            }
        }
    }
}

/// What passes between the child and this process.
struct Files {
    component: File,
    code: File,
    words: File,
}

enum Answer {
    Code(Code),
    Invalid(String),
    Time,
    Died(String),
}

impl Files {
    fn new(folder: &Path, bytes: &[u8]) -> io::Result<Self> {
        let mut component = tempfile::tempfile_in(folder)?;
        component.write_all(bytes)?;
        component.rewind()?;
        Ok(Self {
            component,
            code: tempfile::tempfile_in(folder)?,
            words: tempfile::tempfile_in(folder)?,
        })
    }

    fn read(mut self, status: ExitStatus) -> io::Result<Answer> {
        if status.success() {
            let mut code = Vec::new();
            self.code.rewind()?;
            self.code.read_to_end(&mut code)?;
            return Ok(Answer::Code(Code(code)));
        }
        let mut words = Vec::new();
        self.words.rewind()?;
        self.words.take(WORDS_BYTES_MAX).read_to_end(&mut words)?;
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        Ok(
            match (
                status.code(),
                status.signal().and_then(Signal::from_named_raw),
            ) {
                (Some(EXIT_INVALID), _) => Answer::Invalid(words),
                (_, Some(Signal::XCPU)) => Answer::Time,
                _ => Answer::Died(words),
            },
        )
    }
}

/// Refuse what is made of too much, before anything reads it in earnest.
pub(super) fn check(bytes: &[u8]) -> Result<(), CompileError> {
    shape::check(bytes).map_err(|too_much| {
        telemetry::hit(Limit::ComponentShape);
        CompileError::TooMuch(too_much)
    })
}

/// Compile in this process, on this thread.
pub(super) fn compile_here(engine: &Engine, bytes: &[u8]) -> Result<Code, CompileError> {
    let code = engine.precompile_component(bytes);
    code.map(Code)
        .map_err(|error| CompileError::Invalid(format!("{error:#}")))
}

/// What the child is told.
#[derive(Debug, Clone, Copy)]
pub struct ChildLimits {
    pub ms_max: u64,
    pub memory_bytes_max: u64,
}

/// The child: the component from stdin, its code to stdout. Answers the exit code.
pub fn child(limits: ChildLimits) -> io::Result<u8> {
    restrain(limits)?;
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let mut config = engine::config(None);
    // On every core: whoever serves goes before it.
    config.parallel_compilation(true);
    let engine = Engine::new(&config).map_err(io::Error::other)?;
    match compile_here(&engine, &bytes) {
        Ok(code) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(code.bytes())?;
            stdout.flush()?;
            Ok(0)
        }
        Err(error) => {
            let words = match error {
                CompileError::Invalid(words) => words,
                other => other.to_string(),
            };
            io::stderr().write_all(words.as_bytes())?;
            Ok(EXIT_INVALID as u8)
        }
    }
}

/// From here on this process gets no more than this, whatever becomes of its parent.
fn restrain(limits: ChildLimits) -> io::Result<()> {
    let bounds = |resource, current, maximum| {
        let [current, maximum] = [current, maximum].map(Some);
        rustix::process::setrlimit(resource, Rlimit { current, maximum })
    };
    let limit = |resource, most| bounds(resource, most, most);
    // At the first of these it is told why (SIGXCPU, which ends it), at the second it would be killed as for anything.
    let seconds = limits.ms_max.div_ceil(1_000).max(1);
    bounds(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    limit(Resource::As, limits.memory_bytes_max)?;
    limit(Resource::Fsize, limits.memory_bytes_max)?;
    limit(Resource::Core, 0)?;
    rustix::process::nice(NICE)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::shape::tests::nested_most;
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn compiler(at_once_max: usize, waiting_max: usize) -> Compiler {
        Compiler::new(Compiling {
            at_once_max,
            waiting_max,
            ..Compiling::default()
        })
    }

    #[test]
    fn of_a_tenant_one_is_compiled_and_so_many_wait() {
        let compiler = compiler(2, 1);
        let (one, other) = (tenant("one"), tenant("other"));
        let bounded = |tenant| Box::pin(compiler.place(tenant, Patience::Bounded));
        let first = bounded(&one).now_or_never().expect("a place");
        let mut second = bounded(&one);
        assert!((&mut second).now_or_never().is_none(), "it waits");
        let refused = bounded(&one).now_or_never().expect("an answer");
        assert_eq!(refused.err(), Some(CompileError::Busy));
        // A turn is patient, and another tenant has nothing to do with it.
        let mut turns = Box::pin(compiler.place(&one, Patience::Endless));
        assert!((&mut turns).now_or_never().is_none());
        let others = bounded(&other).now_or_never().expect("a place");
        drop(first);
        let second = second.now_or_never().expect("its turn came");
        assert!((&mut turns).now_or_never().is_none());
        drop((second, others));
        assert!((&mut turns).now_or_never().is_some());
        // Who gives up is not counted any more.
        drop(turns);
        let first = bounded(&one).now_or_never().expect("a place");
        for _ in 0..3 {
            assert!(bounded(&one).now_or_never().is_none());
        }
        drop(first);
        assert!(bounded(&one).now_or_never().expect("a place").is_ok());
    }

    #[test]
    fn one_tenants_many_never_stand_before_anothers_one() {
        let compiler = compiler(1, 10);
        let (one, other) = (tenant("one"), tenant("other"));
        let place = |tenant| Box::pin(compiler.place(tenant, Patience::Bounded));
        let first = place(&one).now_or_never().expect("a place");
        let mut rest: Vec<_> = (0..3).map(|_| place(&one)).collect();
        for waits in &mut rest {
            assert!(waits.now_or_never().is_none());
        }
        let mut others = place(&other);
        assert!((&mut others).now_or_never().is_none());
        drop(first);
        // Both next ones may be in the host's line; who came first there goes first.
        assert!((&mut rest[0]).now_or_never().is_none());
        assert!((&mut others).now_or_never().is_some());
    }

    /// What passes the bounds is read on half the stack that threads here have.
    #[test]
    fn types_as_deep_as_may_be_are_read_on_a_small_stack() {
        let bytes = nested_most();
        assert_eq!(check(&bytes), Ok(()));
        let engine = Engine::default();
        let small = std::thread::Builder::new().stack_size(1024 * 1024);
        let reading = small.spawn(move || compile_here(&engine, &bytes).is_ok());
        assert!(reading.unwrap().join().unwrap());
    }
}
