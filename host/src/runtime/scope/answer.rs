//! Calls of models: made, streamed, returned; or answered from the record.
//!
//! A call is written down and durable before it leaves the host, its pieces before
//! the guest gets them, and the guest gets them as they are written down. Text and tool calls live
//! in the `streamed` entries, so the journal holds an answer once.
//!
//! Invariant: a call is made again only while no piece of its answer was written down.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::id::{Digest, Seq};
use crate::journal::entry::{CallKind, CallResult, Payload, Piece, RetryReason, Usage};
use crate::ledger::WINDOW_MS;
use crate::model::{self, Delta, ModelError, Request};

use super::reply::TooLarge;
use super::{Back, Scope, Stop};

/// Text of one `streamed` entry: far below what the store splits.
const PIECES_BYTES_MAX: usize = 32 * 1024;

/// How often one call is made at most while a provider fails in ways that may pass.
const ATTEMPTS_MAX: u32 = 3;
/// The wait before the second attempt, doubled for the third. A provider may ask for another.
const RETRY_MS: u64 = 500;
/// No provider is waited for longer than this.
const RETRY_MS_MAX: u64 = 30_000;

/// Bytes of what a provider did wrong, in words.
const DETAIL_CHARS_MAX: usize = 1_000;

/// Why there is no (whole) answer: from the entry, so the same in every run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum NoAnswer {
    Refused(String),
    OverBudget,
    Deadline,
    CircuitOpen,
    /// The text of the call up to where it broke off.
    Interrupted(String),
    Provider {
        status: u16,
        text: String,
    },
    Other(String),
}

/// Why a step of an answer failed: for the guest, or for the whole instance.
pub(in crate::runtime) enum Failed {
    Guest(NoAnswer),
    Stop(Stop),
}

impl From<Stop> for Failed {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct Completion {
    pub(in crate::runtime) text: String,
    /// Of kind `ToolCall`.
    pub(in crate::runtime) tool_calls: Vec<Piece>,
    pub(in crate::runtime) finish: String,
    pub(in crate::runtime) usage: Option<Usage>,
}

/// An answer on its way, and what came of it.
pub(in crate::runtime) struct Answer {
    call: Option<Call>,
    /// Written down, not yet taken by the guest.
    ready: VecDeque<Piece>,
    text: String,
    tool_calls: Vec<Piece>,
    end: Option<(String, Option<Usage>)>,
    /// Pieces came.
    begun: bool,
}

/// The part that is still open.
struct Call {
    n: u32,
    model: String,
    request: Request,
    digest: Digest,
    /// Times it was made.
    attempts: u32,
    /// None if this process has not made the call.
    source: Option<model::Answer>,
    /// It broke off after pieces that the guest gets first.
    broken: Option<ModelError>,
}

impl Scope {
    /// Ask a model: write the call down, make it durable, make it.
    pub(in crate::runtime) async fn ask(
        &self,
        model: Option<String>,
        request: Request,
    ) -> Result<Answer, Failed> {
        let default = self.model_names.first().map_or("default", String::as_str);
        let model = model.unwrap_or_else(|| default.to_owned());
        let target: String = model.chars().take(64).collect();
        let digest = request.digest();
        let asked = || format!("asks the model {target:?}, request {digest}");
        let recorded = self.recorded(asked).map_err(|stop| stop.asking(&request))?;
        if let Some(recorded) = recorded {
            let n = match &recorded.payload {
                Payload::Called(it)
                    if it.call == CallKind::Model
                        && it.request == digest
                        && it.target == target =>
                {
                    it.n
                }
                _ => return Err(self.differs(&recorded, asked()).asking(&request).into()),
            };
            self.record.keep(&request);
            let failed = self.failed_at_opening(n)?;
            let mut answer = Answer::new(model, request, digest);
            answer.is_call(n);
            return match failed {
                Some(result) => Err(Failed::Guest(no_answer(result, ""))),
                None => Ok(answer),
            };
        }
        let mut answer = Answer::new(model, request, digest);
        let n = self.called(CallKind::Model, &target, digest)?;
        answer.is_call(n);
        if !self.model_names.contains(&target) {
            let text = format!("the agent is not configured for the model {target:?}");
            let refused = ModelError::Refused(text);
            return Err(answer.fail(self, &refused, true)?);
        }
        let called = self.ledger.look(|state| state.last);
        match answer.make(self, called).await? {
            Ok(()) => Ok(answer),
            Err(error) => Err(answer.fail(self, &error, true)?),
        }
    }

    /// The recorded result of a call that failed before the guest had a handle on its answer.
    fn failed_at_opening(&self, n: u32) -> Result<Option<CallResult>, Stop> {
        let at_opening = {
            let record = self.record.lock();
            let front = record.as_ref().and_then(|replay| replay.peek());
            front.is_some_and(|recorded| {
                matches!(&recorded.payload, Payload::Returned(back) if back.n == n && back.opening)
            })
        };
        if !at_opening {
            return Ok(None);
        }
        let asked = || format!("hears why call {n} failed");
        Ok(self
            .recorded_part(asked)?
            .and_then(|recorded| match recorded.payload {
                Payload::Returned(back) => Some(back.result),
                _ => None,
            }))
    }
}

impl Answer {
    fn new(model: String, request: Request, digest: Digest) -> Self {
        Self {
            call: Some(Call {
                n: 0,
                model,
                request,
                digest,
                attempts: 0,
                source: None,
                broken: None,
            }),
            ready: VecDeque::new(),
            text: String::new(),
            tool_calls: Vec::new(),
            end: None,
            begun: false,
        }
    }

    fn is_call(&mut self, n: u32) {
        if let Some(call) = &mut self.call {
            call.n = n;
        }
    }

    /// Make the call once `written` is durable, and again while it fails in a way that may pass.
    async fn make(
        &mut self,
        scope: &Scope,
        mut written: Seq,
    ) -> Result<Result<(), ModelError>, Stop> {
        let Some(call) = &mut self.call else {
            return Ok(Ok(()));
        };
        loop {
            scope.cpu.waiting(scope.ledger.durable(written)).await?;
            call.attempts += 1;
            let key = scope.call_key(call.n, &call.digest);
            let opened = scope.models.open(&call.model, &call.request, &key);
            match scope.cpu.waiting(opened).await {
                Ok(source) => {
                    call.source = Some(source);
                    return Ok(Ok(()));
                }
                Err(error) if call.may_retry(&error) => {
                    written = call.retry(scope, &error).await?;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Take in what has arrived, waiting for at least one piece. Pieces are written down
    /// before anybody sees them. With `window`, wait a little longer for more, so that a
    /// fast model does not cost an entry per token.
    async fn advance(&mut self, scope: &Scope, window: Option<Instant>) -> Result<(), Failed> {
        let Some(call) = &mut self.call else {
            return Ok(());
        };
        let n = call.n;
        let asked = || format!("takes the answer of call {n}");
        if let Some(recorded) = scope.recorded(asked)? {
            return match recorded.payload {
                Payload::Streamed(it) if it.n == n => self.take_again(scope, it.pieces),
                Payload::Returned(it) if it.n == n && it.result != CallResult::Dropped => {
                    self.call = None;
                    Err(Failed::Guest(no_answer(it.result, &self.text)))
                }
                _ => Err(scope.differs(&recorded, asked()).into()),
            };
        }
        if let Some(error) = call.broken.take() {
            return Err(self.fail(scope, &error, false)?);
        }
        if call.source.is_none() {
            if self.begun {
                // Its pieces were handed out before the host was lost: the rest is nobody's.
                let lost = ModelError::Interrupted(model::Fault::Cut);
                return Err(self.fail(scope, &lost, false)?);
            }
            call.attempts = scope.record.attempts(n);
            let attempt = call.attempts + 1;
            let written = scope.retried(n, attempt, RetryReason::HostLost, None)?;
            if let Err(error) = self.make(scope, written).await? {
                return Err(self.fail(scope, &error, false)?);
            }
        }
        loop {
            let (deltas, error) = self.receive(scope, window).await;
            let call = self.call.as_mut().expect("it was open at the start");
            match error {
                Some(error) if deltas.is_empty() => {
                    let again = !self.begun && call.may_retry(&error);
                    if !again {
                        return Err(self.fail(scope, &error, false)?);
                    }
                    let written = call.retry(scope, &error).await?;
                    if let Err(error) = self.make(scope, written).await? {
                        return Err(self.fail(scope, &error, false)?);
                    }
                }
                error => {
                    call.broken = error;
                    return Ok(self.take(scope, joined(&deltas))?);
                }
            }
        }
    }

    /// Wait for pieces: all that is there, or the first to come.
    async fn receive(
        &mut self,
        scope: &Scope,
        window: Option<Instant>,
    ) -> (Vec<Delta>, Option<ModelError>) {
        let source = self.call.as_mut().and_then(|call| call.source.as_mut());
        let Some(source) = source else {
            let gone = ModelError::Other("the call is not open".into());
            return (Vec::new(), Some(gone));
        };
        let (mut deltas, mut bytes) = (Vec::new(), 0);
        loop {
            let next = match (source.next().now_or_never(), window) {
                (Some(next), _) => next,
                (None, _) if deltas.is_empty() => {
                    // What was said before the wait is shown during it.
                    if scope.ledger.has_unflushed() {
                        scope.ledger.flush();
                    }
                    scope.cpu.waiting(source.next()).await
                }
                (None, Some(until)) => {
                    let next = tokio::time::timeout_at(until, source.next());
                    match scope.cpu.waiting(next).await {
                        Ok(next) => next,
                        Err(_) => return (deltas, None),
                    }
                }
                (None, None) => return (deltas, None),
            };
            match next {
                Some(Ok(delta)) => {
                    bytes += delta_bytes(&delta);
                    let last = matches!(delta, Delta::Finished { .. });
                    deltas.push(delta);
                    if last || bytes >= PIECES_BYTES_MAX {
                        return (deltas, None);
                    }
                }
                Some(Err(error)) => return (deltas, Some(error)),
                None => {
                    let error = ModelError::Other("the answer ended without an end".into());
                    return (deltas, Some(error));
                }
            }
        }
    }

    /// New pieces: written down, then the guest's.
    fn take(&mut self, scope: &Scope, pieces: Vec<Piece>) -> Result<(), Stop> {
        self.take_in(&pieces);
        let Some(call) = &self.call else {
            return Ok(());
        };
        if let Some((_, usage)) = self.end {
            let mut back = Back::new(call.n, CallResult::Ok);
            back.attempts = call.attempts;
            back.usage = Usage {
                model_calls: 1,
                ..usage.unwrap_or_default()
            };
            scope.returned(back, &pieces)?;
            self.call = None;
            // Paid for: let it be durable soon. The guest does not wait for it.
            scope.ledger.flush();
        } else {
            scope.streamed(call.n, pieces)?;
        }
        Ok(())
    }

    /// Pieces of the record. The last ones come with the call's return.
    fn take_again(&mut self, scope: &Scope, pieces: Vec<Piece>) -> Result<(), Failed> {
        let n = self.call.as_ref().map_or(0, |call| call.n);
        self.take_in(&pieces);
        if self.end.is_none() {
            return Ok(());
        }
        self.call = None;
        let asked = || format!("takes the end of call {n}");
        match scope.recorded_part(asked)? {
            Some(recorded) => match &recorded.payload {
                Payload::Returned(it) if it.n == n => Ok(()),
                _ => Err(scope.differs(&recorded, asked()).into()),
            },
            // Both are one append, but a journal may be cut between any two entries.
            None => {
                let mut back = Back::new(n, CallResult::Ok);
                back.usage.model_calls = 1;
                Ok(scope.returned(back, &[])?)
            }
        }
    }

    fn take_in(&mut self, pieces: &[Piece]) {
        self.begun |= !pieces.is_empty();
        for piece in pieces {
            match piece {
                Piece::Text(text) => self.text.push_str(text),
                Piece::ToolCall { .. } => self.tool_calls.push(piece.clone()),
                Piece::Finished { reason, usage } => self.end = Some((reason.clone(), *usage)),
            }
            self.ready.push_back(piece.clone());
        }
    }

    /// The next piece; none after the last one.
    pub(in crate::runtime) async fn next(
        &mut self,
        scope: &Scope,
    ) -> Result<Option<Piece>, Failed> {
        scope.count()?;
        if self.ready.is_empty() {
            self.advance(scope, None).await?;
        }
        Ok(self.ready.pop_front())
    }

    pub(in crate::runtime) async fn complete(
        mut self,
        scope: &Scope,
    ) -> Result<Completion, Failed> {
        while self.call.is_some() {
            // Nobody sees the pieces before the end, so they may be written in few entries.
            let window = Instant::now() + Duration::from_millis(100 * WINDOW_MS);
            self.advance(scope, Some(window)).await?;
        }
        Ok(self.completion())
    }

    /// Show the rest of the text while it arrives.
    pub(in crate::runtime) async fn relay(mut self, scope: &Scope) -> Result<Completion, Failed> {
        scope.count()?;
        if !scope.may_speak {
            self.give_up(scope)?;
            let refused = "the agent is not granted `reply`, so nothing can be relayed".to_owned();
            return Err(Failed::Guest(NoAnswer::Refused(refused)));
        }
        let mut shown = Instant::now() - Duration::from_millis(WINDOW_MS);
        loop {
            let mut text = String::new();
            for piece in self.ready.drain(..) {
                if let Piece::Text(more) = piece {
                    text.push_str(&more);
                }
            }
            if !text.is_empty() {
                if let Err(TooLarge) = scope.say(&text)? {
                    self.give_up(scope)?;
                    let error = "the turn has said as many bytes as it may".to_owned();
                    return Err(Failed::Guest(NoAnswer::Other(error)));
                }
                if self.call.is_some() && !scope.is_replaying() {
                    scope.ledger.flush();
                }
                shown = Instant::now();
                scope.may_say().await?;
            }
            if self.call.is_none() {
                return Ok(self.completion());
            }
            let until = shown + Duration::from_millis(WINDOW_MS);
            self.advance(scope, Some(until)).await?;
        }
    }

    /// The guest lets go of the answer.
    pub(in crate::runtime) fn give_up(&mut self, scope: &Scope) -> Result<(), Stop> {
        let Some(call) = self.call.take() else {
            return Ok(());
        };
        let asked = || format!("gives call {} up", call.n);
        if let Some(recorded) = scope.recorded(asked)? {
            return match &recorded.payload {
                Payload::Returned(it) if it.n == call.n && it.result == CallResult::Dropped => {
                    Ok(())
                }
                _ => Err(scope.differs(&recorded, asked())),
            };
        }
        let mut back = Back::new(call.n, CallResult::Dropped);
        back.attempts = call.attempts.max(1);
        back.usage.model_calls = 1;
        scope.returned(back, &[])
    }

    /// Write down that the call failed; answers what the guest is told.
    fn fail(&mut self, scope: &Scope, error: &ModelError, opening: bool) -> Result<Failed, Stop> {
        let (n, attempts) = self
            .call
            .take()
            .map_or((0, 1), |call| (call.n, call.attempts));
        let mut back = Back::new(
            n,
            CallResult::Failed {
                error: error.name().into(),
                status: error.status(),
                detail: error.to_string().chars().take(DETAIL_CHARS_MAX).collect(),
            },
        );
        // A refusal is none of the provider's calls.
        back.usage.model_calls = u64::from(attempts > 0);
        back.attempts = attempts;
        back.opening = opening;
        let told = no_answer(back.result.clone(), &self.text);
        scope.returned(back, &[])?;
        Ok(Failed::Guest(told))
    }

    fn completion(self) -> Completion {
        let (finish, usage) = self.end.unwrap_or_else(|| ("other".to_owned(), None));
        Completion {
            text: self.text,
            tool_calls: self.tool_calls,
            finish,
            usage,
        }
    }
}

impl Call {
    fn may_retry(&self, error: &ModelError) -> bool {
        error.is_transient() && self.attempts < ATTEMPTS_MAX
    }

    /// Wait as long as the provider needs, and write the next attempt down.
    async fn retry(&self, scope: &Scope, error: &ModelError) -> Result<Seq, Stop> {
        let doubled = RETRY_MS << self.attempts.saturating_sub(1).min(16);
        let wait_ms = error.retry_after_ms().unwrap_or(doubled).min(RETRY_MS_MAX);
        // What was said before the wait is shown during it.
        scope.ledger.flush();
        let wait = tokio::time::sleep(Duration::from_millis(wait_ms));
        scope.cpu.waiting(wait).await;
        let detail = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
        let (attempt, reason) = (self.attempts + 1, RetryReason::Provider);
        scope.retried(self.n, attempt, reason, Some(detail))
    }
}

/// What the guest is told, from the entry and the text that it names no second time.
fn no_answer(result: CallResult, text: &str) -> NoAnswer {
    let CallResult::Failed {
        error,
        status,
        detail,
    } = result
    else {
        return NoAnswer::Other("the call was given up".to_owned());
    };
    match error.as_str() {
        "refused" => NoAnswer::Refused(detail),
        "over-budget" => NoAnswer::OverBudget,
        "deadline" => NoAnswer::Deadline,
        "circuit-open" => NoAnswer::CircuitOpen,
        "interrupted" => NoAnswer::Interrupted(text.to_owned()),
        "provider" => NoAnswer::Provider {
            status,
            text: detail,
        },
        _ => NoAnswer::Other(detail),
    }
}

/// The pieces as entries hold them: neighbouring texts are one.
fn joined(deltas: &[Delta]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for delta in deltas {
        match (delta, pieces.last_mut()) {
            (Delta::Text(more), Some(Piece::Text(text))) => text.push_str(more),
            (Delta::Text(text), _) => pieces.push(Piece::Text(text.clone())),
            (Delta::ToolCall(call), _) => pieces.push(Piece::ToolCall {
                id: call.id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
            }),
            (Delta::Finished { reason, usage }, _) => pieces.push(Piece::Finished {
                reason: reason.name().into(),
                usage: usage.map(|usage| Usage {
                    model_calls: 1,
                    input_tokens: usage.input_tokens,
                    output_tokens: usage.output_tokens,
                }),
            }),
        }
    }
    pieces
}

fn delta_bytes(delta: &Delta) -> usize {
    match delta {
        Delta::Text(text) => text.len(),
        Delta::ToolCall(call) => call.name.len() + call.arguments.len(),
        Delta::Finished { .. } => 0,
    }
}
