//! One turn: a fresh store and instance, `handle` called once, and how it ended.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::clock::Time;
use crate::journal::context::{Change, Context};
use crate::journal::entry::{Cause, Failure, TurnError};
use crate::journal::state::Pending;
use crate::ledger::Dead;
use crate::telemetry::{self, Limit, Stage};

use super::bindings::exports::antiphon::agent::agent as export;
use super::engine::{Loaded, Runtime};
use super::guest::Guest;
use super::host::mailbox;
use super::limits::{REPLAY_CPU_FACTOR, TurnLimits};
use super::random::Seeds;
use super::replay::Differs;
use super::scope::messages::Header;
use super::scope::{Scope, Stop};

/// Functions named in a backtrace.
const BACKTRACE_FRAMES_MAX: usize = 32;

/// What the turn is given.
#[derive(Debug, Clone)]
pub struct Input {
    pub causes: Vec<Cause>,
    pub messages: Vec<Pending>,
    pub context: Context,
    pub seeds: Seeds,
}

/// How the instance ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Exit {
    Completed {
        wake_at: Option<Time>,
        context: Vec<Change>,
    },
    Failed {
        error: TurnError,
        backtrace: Option<String>,
        stderr: Option<String>,
    },
    /// Run again, it did something else than it had done.
    Differs {
        differs: Box<Differs>,
        /// None if it came to its end.
        backtrace: Option<String>,
        stderr: Option<String>,
    },
    /// The turn was ended by somebody else while the instance ran.
    Over,
    /// It asked people something, which is durable: the turn goes on once that is answered.
    Aside,
    /// It waits for a model without an instance. How it goes on is in its scope.
    Waits,
    /// The session's ledger takes no more entries.
    Dead(Dead),
}

/// Run one turn. Dropping the future ends the instance where it is.
pub async fn start(runtime: &Runtime, loaded: &Loaded, scope: Arc<Scope>, input: Input) -> Exit {
    // What earlier attempts ran counts; the time the host was down does not.
    let wall = scope.runs_for();
    let exit = match tokio::time::timeout(wall, run(runtime, loaded, &scope, input)).await {
        Ok(exit) => exit,
        Err(_) => {
            telemetry::hit(Limit::TurnMs);
            let text = TurnLimits::took_too_long(scope.limits.turn_ms_max);
            failed(&scope, Failure::Deadline, text, None)
        }
    };
    // A line that it has begun is ended by the instance that goes on.
    if exit != Exit::Waits {
        scope.print_rest();
    }
    exit
}

async fn run(runtime: &Runtime, loaded: &Loaded, scope: &Arc<Scope>, input: Input) -> Exit {
    let guest = Guest::new(scope.clone(), &input.seeds, input.context);
    let mut store = Store::new(runtime.engine(), guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(scope.limits.host_call_bytes_max);
    store.set_max_component_handles(scope.limits.handles_max);
    let cpu_max = Duration::from_millis(scope.limits.cpu_ms_max);
    scope.cpu.begin();
    store.epoch_deadline_callback(move |mut store| {
        let guest = store.data_mut();
        let cpu_max = if guest.scope.is_replaying() {
            cpu_max * REPLAY_CPU_FACTOR
        } else {
            cpu_max
        };
        if guest.scope.cpu.pause() > cpu_max {
            guest.cpu_exceeded = true;
            return Ok(UpdateDeadline::Interrupt);
        }
        let scope = guest.scope.clone();
        // Others get a turn at every tick; their time is not this guest's.
        Ok(UpdateDeadline::YieldCustom(
            1,
            Box::pin(async move { others_first(&scope).await }),
        ))
    });
    // Armed before instantiation: start functions are guest code too.
    store.set_epoch_deadline(1);

    let is_nested = input.messages.iter().any(Pending::is_nested);
    let cause = |cause: &Cause| match cause {
        Cause::Messages if is_nested => export::Cause::Nested,
        Cause::Messages => export::Cause::Messages,
        Cause::Slot(slot) => export::Cause::Slot(slot.as_str().to_owned()),
        Cause::Wake => export::Cause::Wake,
    };
    let causes = input.causes.iter().map(cause).collect();
    let headers = input.messages.iter().map(Header::from);
    let headers = headers.map(mailbox::header).collect();
    let turn_input = export::TurnInput { causes, headers };
    let called = async {
        let instantiated = loaded.pre.instantiate_async(&mut store);
        let component = Stage::Instantiate.of(instantiated).await?;
        let agent = component.antiphon_agent_agent();
        let handled = agent.call_handle(&mut store, &turn_input);
        Stage::Guest.of(handled).await
    };
    let answer = called.await;
    scope.cpu.step_aside();
    // Only a guest that came to its end by itself must have come to the record's end too.
    if answer.is_ok()
        && let Err(stop) = scope.finish()
    {
        return stopped(scope, stop, None);
    }
    match answer {
        Ok(Ok(output)) => Exit::Completed {
            wake_at: output.wake_at.map(Time),
            context: std::mem::take(&mut store.data_mut().changes),
        },
        Ok(Err(error)) => failed(scope, Failure::Agent, agent_error(error), None),
        Err(error) => trapped(scope, store.data(), &error),
    }
}

/// What a guest waits for that has computed for a tick: whoever else can run, the disk if the turn writes faster
/// than that, its tenant's minute, and a place if it has computed for long. Its own calls never wait for these.
async fn others_first(scope: &Scope) {
    scope.cpu.step_aside();
    tokio::task::yield_now().await;
    // A dead ledger is told of by the next call that needs it.
    let _ = scope.ledger.room().await;
    scope.cpu.allowed().await;
    scope.cpu.resume();
}

fn agent_error(error: export::AgentError) -> String {
    match error {
        export::AgentError::InvalidInput(text) => format!("invalid input: {text}"),
        export::AgentError::Unavailable(text) => format!("unavailable: {text}"),
        export::AgentError::Other(text) => text,
    }
}

fn trapped(scope: &Scope, guest: &Guest, error: &wasmtime::Error) -> Exit {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(backtrace);
    if guest.cpu_exceeded {
        let text = format!(
            "the agent computed longer than {} ms",
            scope.limits.cpu_ms_max
        );
        telemetry::hit(Limit::CpuMs);
        return failed(scope, Failure::Cpu, text, backtrace);
    }
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stopped(scope, stop.clone(), backtrace);
    }
    if guest.limiter.refused() {
        let text = format!(
            "the agent needs more memory than {} bytes",
            scope.limits.memory_bytes_max
        );
        telemetry::hit(Limit::MemoryBytes);
        return failed(scope, Failure::Limit, text, backtrace);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        if *trap == Trap::StackOverflow {
            telemetry::hit(Limit::Stack);
        }
        return failed(scope, Failure::Trap, trap.to_string(), backtrace);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let text = format!("the agent ended its process with {}", exit.0);
        return failed(scope, Failure::Trap, text, backtrace);
    }
    let text = error.root_cause().to_string();
    let text = match engine_limit(error, &text) {
        Some(limit @ Limit::Handles) => {
            telemetry::hit(limit);
            format!(
                "the agent holds more than {} handles",
                scope.limits.handles_max
            )
        }
        Some(limit) => {
            telemetry::hit(limit);
            let max = scope.limits.host_call_bytes_max;
            format!("the agent handed over more than {max} bytes in one call of the host")
        }
        None => text,
    };
    failed(scope, Failure::Limit, text, backtrace)
}

/// Limits of wasmtime itself: the table of resources has a type, the others only their words. Tests hold
/// these against the version that is pinned.
fn engine_limit(error: &wasmtime::Error, text: &str) -> Option<Limit> {
    if error.is::<ResourceTableError>() || text.contains("handle limit exceeded") {
        return Some(Limit::Handles);
    }
    text.contains("fuel allocated for hostcalls")
        .then_some(Limit::HostCallBytes)
}

/// The exit of an instance that could not go on.
pub(super) fn stopped(scope: &Scope, stop: Stop, backtrace: Option<String>) -> Exit {
    let text = stop.to_string();
    match stop {
        Stop::Over => Exit::Over,
        Stop::Aside => Exit::Aside,
        Stop::Waits => Exit::Waits,
        Stop::Dead(dead) => Exit::Dead(dead),
        Stop::Limit(_) => failed(scope, Failure::Limit, text, backtrace),
        Stop::Misuse(_) => failed(scope, Failure::Trap, text, backtrace),
        Stop::Read(_) => failed(scope, Failure::Component, text, backtrace),
        Stop::Differs(differs) => Exit::Differs {
            differs,
            backtrace,
            stderr: scope.output.stderr_end(),
        },
    }
}

pub(super) fn failed(
    scope: &Scope,
    code: Failure,
    message: String,
    backtrace: Option<String>,
) -> Exit {
    // The guest chose part of these words.
    let message: String = message.chars().take(500).collect();
    let stderr = scope.output.stderr_end();
    Exit::Failed {
        error: TurnError { code, message },
        backtrace,
        stderr,
    }
}

fn backtrace(backtrace: &WasmBacktrace) -> String {
    let frames = backtrace.frames().iter().take(BACKTRACE_FRAMES_MAX);
    let lines: Vec<String> = frames
        .map(|frame| match frame.func_name() {
            Some(name) => rustc_name(name),
            None => format!("function {}", frame.func_index()),
        })
        .collect();
    lines.join("\n")
}

/// The name as it stands in the source, without the hash that the compiler adds.
fn rustc_name(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}
