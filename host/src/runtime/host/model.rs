//! `model`: language models.
//!
//! A call is written down and durable before it leaves the host, its pieces before
//! the guest gets them. Text and tool calls live in the `streamed` entries, so the
//! journal holds an answer once.

mod convert;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use wasmtime::component::Resource;

use crate::journal::entry::{CallKind, CallResult, Piece, Usage as EntryUsage};
use crate::ledger::WINDOW_MS;
use crate::model::{
    Answer, Delta as ModelDelta, Finish as ModelFinish, ModelError as CallError,
    ToolCall as ModelToolCall, Usage as ModelUsage,
};
use crate::runtime::bindings::antiphon::agent::model::{
    Completion, Delta, Host, HostDeltas, ModelError, ProviderError, Request,
};
use crate::runtime::guest::Guest;
use crate::runtime::scope::{Scope, Stop};

use self::convert::{
    delta_bytes, delta_to_wit, entry_usage, finish_to_wit, joined, request_of_wit,
    tool_call_to_wit, usage_to_wit,
};
use super::reply::{TooLarge, say};

/// Text of one `streamed` entry: far below what the store splits.
const PIECES_BYTES_MAX: usize = 32 * 1024;

/// An answer on its way, and what came of it.
#[allow(
    unreachable_pub,
    reason = "the generated bindings name it in a public module"
)]
pub struct Deltas {
    call: Option<Call>,
    /// Written down, not yet taken by the guest.
    ready: VecDeque<ModelDelta>,
    text: String,
    tool_calls: Vec<ModelToolCall>,
    end: Option<(ModelFinish, Option<ModelUsage>)>,
}

/// The part that is still open.
struct Call {
    n: u32,
    answer: Answer,
}

/// Why a step of an answer failed: for the guest, or for the whole instance.
enum Failed {
    Guest(ModelError),
    Stop(Stop),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

fn into_wit<T>(result: Result<T, Failed>) -> wasmtime::Result<Result<T, ModelError>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failed::Guest(error)) => Ok(Err(error)),
        Err(Failed::Stop(stop)) => Err(stop.into()),
    }
}

impl Deltas {
    /// Write the call down, make it durable, make it.
    async fn open(scope: &Arc<Scope>, request: Request) -> Result<Self, Failed> {
        let default = scope.model_names.first().map_or("default", String::as_str);
        let name = request.model.clone().unwrap_or_else(|| default.to_owned());
        let allowed = scope.model_names.contains(&name);
        let request = request_of_wit(request);
        let digest = request.digest();
        let target: String = name.chars().take(64).collect();
        let n = scope.called(CallKind::Model, &target, &digest.0)?;
        if !allowed {
            let refused = CallError::Refused(format!(
                "the agent is not configured for the model {target:?}"
            ));
            return Err(fail(scope, n, &[], refused, "")?);
        }
        let called = scope.ledger.look(|state| state.last);
        scope
            .cpu
            .waiting(scope.ledger.durable(called))
            .await
            .map_err(Stop::Dead)?;
        let key = scope.call_key(n, &digest.0);
        match scope
            .cpu
            .waiting(scope.models.open(&name, &request, &key))
            .await
        {
            Ok(answer) => Ok(Self {
                call: Some(Call { n, answer }),
                ready: VecDeque::new(),
                text: String::new(),
                tool_calls: Vec::new(),
                end: None,
            }),
            Err(error) => Err(fail(scope, n, &[], error, "")?),
        }
    }

    /// Take in what has arrived, waiting for at least one piece. Pieces are written down
    /// before anybody sees them. With `window`, wait a little longer for more, so that a
    /// fast model does not cost an entry per token.
    async fn advance(&mut self, scope: &Arc<Scope>, window: Option<Instant>) -> Result<(), Failed> {
        let Some(Call { n, answer }) = &mut self.call else {
            return Ok(());
        };
        let n = *n;
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        loop {
            let next = match answer.next().now_or_never() {
                Some(next) => next,
                None if pieces.is_empty() => {
                    // What was said before the wait is shown during it.
                    if scope.ledger.has_unflushed() {
                        scope.ledger.flush();
                    }
                    scope.cpu.waiting(answer.next()).await
                }
                None => match window {
                    Some(until) => {
                        match scope
                            .cpu
                            .waiting(tokio::time::timeout_at(until, answer.next()))
                            .await
                        {
                            Ok(next) => next,
                            Err(_) => break,
                        }
                    }
                    None => break,
                },
            };
            match next {
                Some(Ok(delta)) => {
                    bytes += delta_bytes(&delta);
                    let last = matches!(delta, ModelDelta::Finished { .. });
                    pieces.push(delta);
                    if last || bytes >= PIECES_BYTES_MAX {
                        break;
                    }
                }
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                None => {
                    failed = Some(CallError::Other("the answer ended without an end".into()));
                    break;
                }
            }
        }
        for delta in &pieces {
            match delta {
                ModelDelta::Text(text) => self.text.push_str(text),
                ModelDelta::ToolCall(call) => self.tool_calls.push(call.clone()),
                ModelDelta::Finished { reason, usage } => self.end = Some((*reason, *usage)),
            }
        }
        let written = joined(&pieces);
        self.ready.extend(pieces);
        if let Some(error) = failed {
            self.call = None;
            return Err(fail(scope, n, &written, error, &self.text)?);
        }
        if let Some((_, usage)) = self.end {
            self.call = None;
            scope.returned(n, CallResult::Ok, Some(entry_usage(usage)), &written)?;
            // Paid for: let it be durable soon. The guest does not wait for it.
            scope.ledger.flush();
        } else {
            scope.streamed(n, written)?;
        }
        Ok(())
    }

    fn completion(self) -> Completion {
        let (finish, usage) = self.end.unwrap_or((ModelFinish::Other, None));
        Completion {
            text: self.text,
            tool_calls: self.tool_calls.into_iter().map(tool_call_to_wit).collect(),
            finish: finish_to_wit(finish),
            usage: usage.map(usage_to_wit),
        }
    }

    async fn complete(mut self, scope: &Arc<Scope>) -> Result<Completion, Failed> {
        while self.call.is_some() {
            // Nobody sees the pieces before the end, so they may be written in few entries.
            let window = Instant::now() + Duration::from_millis(100 * WINDOW_MS);
            self.advance(scope, Some(window)).await?;
        }
        Ok(self.completion())
    }

    async fn relay(mut self, scope: &Arc<Scope>) -> Result<Completion, Failed> {
        if !scope.may_speak {
            self.drop_call(scope)?;
            let refused = "the agent is not granted `reply`, so nothing can be relayed".to_owned();
            return Err(Failed::Guest(ModelError::Refused(refused)));
        }
        let mut shown = Instant::now() - Duration::from_millis(WINDOW_MS);
        loop {
            let mut text = String::new();
            for delta in self.ready.drain(..) {
                if let ModelDelta::Text(more) = delta {
                    text.push_str(&more);
                }
            }
            if !text.is_empty() {
                if let Err(TooLarge) = say(scope, &text)? {
                    self.drop_call(scope)?;
                    let error = "the turn has said as many bytes as it may".to_owned();
                    return Err(Failed::Guest(ModelError::Other(error)));
                }
                if self.call.is_some() {
                    scope.ledger.flush();
                }
                shown = Instant::now();
                scope
                    .cpu
                    .waiting(scope.ledger.room())
                    .await
                    .map_err(Stop::Dead)?;
            }
            if self.call.is_none() {
                return Ok(self.completion());
            }
            let advanced = self
                .advance(scope, Some(shown + Duration::from_millis(WINDOW_MS)))
                .await;
            if let Err(failed) = advanced {
                self.say_rest(scope)?;
                return Err(failed);
            }
        }
    }

    /// What was received before the answer broke off is said too: it is in `interrupted`.
    fn say_rest(&mut self, scope: &Arc<Scope>) -> Result<(), Failed> {
        for delta in self.ready.drain(..) {
            if let ModelDelta::Text(text) = delta {
                let _too_large = say(scope, &text)?;
            }
        }
        Ok(())
    }

    fn drop_call(&mut self, scope: &Scope) -> Result<(), Stop> {
        match self.call.take() {
            Some(call) => scope.returned(call.n, CallResult::Dropped, None, &[]),
            None => Ok(()),
        }
    }
}

/// Write the failure of call `n` down; answers what the guest is told.
fn fail(
    scope: &Scope,
    n: u32,
    pieces: &[Piece],
    error: CallError,
    text: &str,
) -> Result<Failed, Stop> {
    let detail: String = error.to_string().chars().take(1_000).collect();
    let result = CallResult::Failed {
        error: error.name().into(),
        status: error.status(),
        detail: detail.clone(),
    };
    let usage = EntryUsage {
        model_calls: 1,
        ..EntryUsage::default()
    };
    scope.returned(n, result, Some(usage), pieces)?;
    Ok(Failed::Guest(match error {
        CallError::Refused(text) => ModelError::Refused(text),
        CallError::OverBudget => ModelError::OverBudget,
        CallError::Deadline => ModelError::Deadline,
        CallError::CircuitOpen => ModelError::CircuitOpen,
        CallError::Interrupted(_) => ModelError::Interrupted(text.to_owned()),
        CallError::Provider(fault) => ModelError::Provider(ProviderError {
            status: fault.status(),
            text: detail,
        }),
        CallError::Other(text) => ModelError::Other(text),
    }))
}

impl Host for Guest {
    async fn complete(
        &mut self,
        request: Request,
    ) -> wasmtime::Result<Result<Completion, ModelError>> {
        let scope = self.scope.clone();
        into_wit(match Deltas::open(&scope, request).await {
            Ok(deltas) => deltas.complete(&scope).await,
            Err(failed) => Err(failed),
        })
    }

    async fn open(
        &mut self,
        request: Request,
    ) -> wasmtime::Result<Result<Resource<Deltas>, ModelError>> {
        let scope = self.scope.clone();
        match into_wit(Deltas::open(&scope, request).await)? {
            Ok(deltas) => Ok(Ok(self.table.push(deltas)?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl HostDeltas for Guest {
    async fn next(
        &mut self,
        deltas: Resource<Deltas>,
    ) -> wasmtime::Result<Result<Option<Delta>, ModelError>> {
        let scope = self.scope.clone();
        scope.count()?;
        let deltas = self.table.get_mut(&deltas)?;
        if deltas.ready.is_empty() {
            let advanced = deltas.advance(&scope, None).await;
            // Pieces that came with the failure are handed out first; it is in the journal already, and
            // the partial text of the error holds them all.
            if let Err(error) = into_wit(advanced)? {
                deltas.ready.clear();
                return Ok(Err(error));
            }
        }
        Ok(Ok(deltas.ready.pop_front().map(delta_to_wit)))
    }

    async fn relay(
        &mut self,
        deltas: Resource<Deltas>,
    ) -> wasmtime::Result<Result<Completion, ModelError>> {
        let scope = self.scope.clone();
        scope.count()?;
        let deltas = self.table.delete(deltas)?;
        into_wit(deltas.relay(&scope).await)
    }

    fn drop(&mut self, deltas: Resource<Deltas>) -> wasmtime::Result<()> {
        let mut deltas = self.table.delete(deltas)?;
        Ok(deltas.drop_call(&self.scope)?)
    }
}
