//! What a wasmtime store holds for one turn.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

use crate::journal::context::{Change, Context};

use super::limits::Limiter;
use super::random::Seeds;
use super::scope::Scope;
use super::wasi::{self, NoHttp};

pub(crate) struct Guest {
    pub(super) scope: Arc<Scope>,
    pub(super) table: ResourceTable,
    pub(super) wasi: WasiCtx,
    pub(super) wasi_http: WasiHttpCtx,
    pub(super) no_http: NoHttp,
    pub(super) limiter: Limiter,
    /// The agent's context with this turn's changes, which take effect with the outcome.
    pub(super) context: Context,
    pub(super) changes: Vec<Change>,
    pub(super) cpu_exceeded: bool,
}

impl Guest {
    pub(super) fn new(scope: Arc<Scope>, seeds: &Seeds, context: Context) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(scope.limits.handles_max);
        Self {
            table,
            wasi: wasi::context(&scope, seeds),
            wasi_http: WasiHttpCtx::new(),
            no_http: NoHttp,
            limiter: Limiter::new(&scope.limits),
            context,
            changes: Vec::new(),
            cpu_exceeded: false,
            scope,
        }
    }
}
