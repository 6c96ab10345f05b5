//! How an answer arrives: from the provider, or from the record.

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::journal::entry::{CallResult, Payload, Piece, RetryReason};
use crate::model::{self, Delta, ModelError};

use super::call::{Begin, Call};
use super::failure::no_answer;
use super::pieces::{delta_bytes, joined};
use super::{Answer, Back, Failed, Scope, Stop};

/// Text of one `streamed` entry: far below what the store splits.
const PIECES_BYTES_MAX: usize = 32 * 1024;

impl Answer {
    /// Take in what has arrived, waiting for at least one piece. Pieces are written down
    /// before anybody sees them. With `window`, wait a little longer for more, so that a
    /// fast model does not cost an entry per token.
    pub(super) async fn advance(
        &mut self,
        scope: &Scope,
        window: Option<Instant>,
    ) -> Result<(), Failed> {
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
                    (self.attempts, self.booked) = (it.attempts, it.usage);
                    Err(Failed::Guest(no_answer(it.result, &self.text)))
                }
                _ => Err(scope.differs(&recorded, asked()).into()),
            };
        }
        if let Some(error) = call.broken.take() {
            return Err(self.fail(scope, &error, false)?);
        }
        if call.is_opening() {
            // Another attempt, which an instance before this one was given up with.
            if let Err(error) = self.make(scope, None).await? {
                return Err(self.fail(scope, &error, false)?);
            }
        } else if call.source.is_none() {
            if self.begun {
                // Its pieces were handed out before the host was lost: the rest is nobody's.
                let lost = ModelError::Interrupted(model::Fault::Cut);
                return Err(self.fail(scope, &lost, false)?);
            }
            call.tried = scope.record.tried(n);
            let begin = Begin::Again {
                reason: RetryReason::HostLost,
                detail: None,
            };
            if let Err(error) = self.make(scope, Some(begin)).await? {
                return Err(self.fail(scope, &error, false)?);
            }
        }
        loop {
            let (deltas, error) = self.receive(scope, window).await?;
            let call = self.call.as_mut().expect("it was open at the start");
            match error {
                Some(error) if deltas.is_empty() => {
                    let again = match self.begun {
                        true => Err(error),
                        false => call.again(scope, error).await,
                    };
                    let made = match again {
                        Ok(begin) => self.make(scope, Some(begin)).await?,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = made {
                        return Err(self.fail(scope, &error, false)?);
                    }
                }
                error => {
                    call.broken = error;
                    let pieces = joined(&deltas, call.is_cached());
                    return Ok(self.take(scope, pieces)?);
                }
            }
        }
    }

    /// Wait for pieces: all that is there, or the first to come.
    async fn receive(
        &mut self,
        scope: &Scope,
        window: Option<Instant>,
    ) -> Result<(Vec<Delta>, Option<ModelError>), Stop> {
        let (mut deltas, mut bytes) = (Vec::new(), 0);
        loop {
            let Some(call) = &mut self.call else {
                let gone = ModelError::Other("the call is not open".into());
                return Ok((deltas, Some(gone)));
            };
            let next = match (call.next().now_or_never(), window) {
                (Some(next), _) => next,
                (None, _) if deltas.is_empty() => self.first(scope).await?,
                (None, Some(until)) => {
                    let next = tokio::time::timeout_at(until, call.next());
                    match scope.cpu.waiting(next).await {
                        Ok(next) => next,
                        Err(_) => return Ok((deltas, None)),
                    }
                }
                (None, None) => return Ok((deltas, None)),
            };
            match next {
                Some(Ok(delta)) => {
                    bytes += delta_bytes(&delta);
                    let last = matches!(delta, Delta::Finished { .. });
                    deltas.push(delta);
                    if last || bytes >= PIECES_BYTES_MAX {
                        return Ok((deltas, None));
                    }
                }
                Some(Err(error)) => return Ok((deltas, Some(error))),
                None => {
                    let error = ModelError::Other("the answer ended without an end".into());
                    return Ok((deltas, Some(error)));
                }
            }
        }
    }

    /// The first piece to come. If it is the answer's first and does not come soon, the instance is not kept for it.
    async fn first(&mut self, scope: &Scope) -> Result<Option<Result<Delta, ModelError>>, Stop> {
        // What was said before the wait is shown during it.
        if scope.ledger.has_unflushed() {
            scope.ledger.flush();
        }
        if !self.begun {
            self.comes(scope).await?;
        }
        match &mut self.call {
            Some(call) => Ok(scope.cpu.waiting(call.next()).await),
            None => Ok(None),
        }
    }

    /// Wait until the provider begins to answer, or the attempt has failed.
    pub(super) async fn opens(&mut self, scope: &Scope) -> Result<Result<(), ModelError>, Stop> {
        if self.call.as_ref().is_some_and(Call::is_opening) {
            self.comes(scope).await?;
        }
        Ok(self.call.as_mut().map_or(Ok(()), Call::opened))
    }

    /// Wait for what the call brings next, and not for long with an instance.
    async fn comes(&mut self, scope: &Scope) -> Result<(), Stop> {
        let Some(call) = &mut self.call else {
            return Ok(());
        };
        if let Some(wait) = scope.instance_wait {
            let soon = tokio::time::timeout(wait, call.comes());
            if scope.cpu.waiting(soon).await.is_ok() {
                return Ok(());
            }
            if scope.may_wait_without(call.n)
                && let Some(call) = self.call.take()
            {
                scope.keep(call);
                return Err(Stop::Waits);
            }
        }
        if let Some(call) = &mut self.call {
            scope.cpu.waiting(call.comes()).await;
        }
        Ok(())
    }

    /// New pieces: written down, then the guest's.
    fn take(&mut self, scope: &Scope, pieces: Vec<Piece>) -> Result<(), Stop> {
        self.take_in(&pieces);
        let Some(call) = &self.call else {
            return Ok(());
        };
        if self.end.is_some() {
            let mut back = Back::new(call.n, CallResult::Ok);
            back.attempts = call.tried.attempts;
            (back.used, back.cached) = (self.used(), self.is_cached());
            self.attempts = back.attempts;
            self.booked = scope.returned(back, &pieces)?;
            // Durable within the window, and the guest does not wait for it. A flush right here would make
            // the next call wait for two.
            self.call = None;
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
                Payload::Returned(it) if it.n == n => {
                    (self.attempts, self.booked) = (it.attempts, it.usage);
                    Ok(())
                }
                _ => Err(scope.differs(&recorded, asked()).into()),
            },
            // Both are one append, but a journal may be cut between any two entries.
            None => {
                let mut back = Back::new(n, CallResult::Ok);
                (back.used, back.cached) = (self.used(), self.is_cached());
                self.attempts = back.attempts;
                self.booked = scope.returned(back, &[])?;
                Ok(())
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
}
