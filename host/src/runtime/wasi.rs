//! WASI, which languages' standard libraries import, with nothing behind it.
//!
//! No files, no sockets, no network; the clock of the journal; randomness from
//! the session's secret and the turn's id; output goes to the agent's log.
//! `sleep` waits really: it is a call that the journal answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::io::poll;
use wasmtime_wasi::p2::{
    DynPollable, OutputStream, Pollable, StreamError, StreamResult, subscribe,
};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::logs::Source;

use super::guest::Guest;
use super::random::{Seed, Seeds};
use super::scope::timer::Timer;
use super::scope::{Scope, TurnClock};

/// Bytes of randomness per call.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;

const PACKAGES: [&str; 7] = [
    "wasi:io/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:sockets/",
    "wasi:random/",
    "wasi:http/",
];

/// Whether an import is one of those always linked. What is behind the name is checked by the linker.
pub(super) fn is_linked(import: &str) -> bool {
    PACKAGES.iter().any(|package| import.starts_with(package)) && import.contains("@0.2.")
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<Guest, Clocks>(linker, |guest| ClocksView {
        scope: guest.scope.clone(),
        table: &mut guest.table,
    })?;
    poll::add_to_linker::<Guest, Polls>(linker, |guest| PollsView {
        scope: guest.scope.clone(),
        table: &mut guest.table,
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// WASI for one turn.
pub(super) fn context(scope: &Arc<Scope>, seeds: &Seeds) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    for (name, value) in &scope.environment {
        builder.env(name, value);
    }
    builder
        .stdout(Output {
            scope: scope.clone(),
            source: Source::Stdout,
        })
        .stderr(Output {
            scope: scope.clone(),
            source: Source::Stderr,
        })
        .secure_random(random(&seeds.secure))
        .insecure_random(random(&seeds.insecure))
        .insecure_random_seed(u128::from_be_bytes(
            seeds.seed.0[..16]
                .try_into()
                .expect("sixteen of thirty-two bytes"),
        ))
        .max_random_size(RANDOM_BYTES_MAX)
        .wall_clock(scope.clock.clone())
        .monotonic_clock(scope.clock.clone())
        .allow_ip_name_lookup(false)
        .allow_tcp(false)
        .allow_udp(false);
    builder.build()
}

fn random(seed: &Seed) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(seed.0)
}

impl HostWallClock for TurnClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now().0)
    }
}

impl HostMonotonicClock for TurnClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.now()
            .ms_since(self.started())
            .saturating_mul(1_000_000)
    }
}

struct Clocks;

impl HasData for Clocks {
    type Data<'a> = ClocksView<'a>;
}

struct ClocksView<'a> {
    scope: Arc<Scope>,
    table: &'a mut ResourceTable,
}

impl ClocksView<'_> {
    fn timer(&mut self, ms: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = Timer::set(&self.scope, ms)?;
        let timer = self.table.push(timer)?;
        subscribe(self.table, timer)
    }
}

impl monotonic_clock::Host for ClocksView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::now(&self.scope.clock))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::resolution(&self.scope.clock))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = HostMonotonicClock::now(&self.scope.clock);
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, nanoseconds: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.timer(nanoseconds.div_ceil(1_000_000))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        self.wait().await;
    }
}

/// `wasi:io/poll` over the table, counting polls for the timers and their record.
struct Polls;

impl HasData for Polls {
    type Data<'a> = PollsView<'a>;
}

struct PollsView<'a> {
    scope: Arc<Scope>,
    table: &'a mut ResourceTable,
}

impl PollsView<'_> {
    /// Wait for what the guest waits for. In replay it is there at once.
    async fn waits<T>(
        scope: &Scope,
        wait: impl Future<Output = wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        scope.poll_begins();
        let mut wait = std::pin::pin!(wait);
        let done = match wait.as_mut().now_or_never() {
            Some(done) => done,
            None if scope.is_replaying() => return Err(scope.poll_differs().into()),
            None => wait.await,
        };
        scope.poll_ended()?;
        done
    }
}

impl poll::Host for PollsView<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        Self::waits(&self.scope, poll::Host::poll(self.table, pollables)).await
    }
}

impl poll::HostPollable for PollsView<'_> {
    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        Self::waits(&self.scope, poll::HostPollable::block(self.table, pollable)).await
    }

    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        self.scope.count()?;
        self.scope.poll_begins();
        let ready = poll::HostPollable::ready(self.table, pollable).await;
        self.scope.poll_ended()?;
        ready
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(self.table, pollable)
    }
}

/// The guest's standard output or error.
#[derive(Clone)]
struct Output {
    scope: Arc<Scope>,
    source: Source,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.scope.printed(self.source, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        if self.scope.may_print() {
            Ok(64 * 1024)
        } else {
            Err(StreamError::Closed)
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.scope.printed(self.source, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.wasi_http,
            table: &mut self.table,
            hooks: &mut self.no_http,
        }
    }
}

/// Refuses every request: no agent can be granted `http` yet.
pub(super) struct NoHttp;

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), HttpError>> + Send>,
);

impl WasiHttpHooks for NoHttp {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _fut: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, HttpError>> + Send> {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}
