//! One call of a model, and when it is made again: what the call policy decides, with the journal around it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use tokio::time::Instant;

use crate::clock::Time;
use crate::id::{Digest, Seq};
use crate::journal::entry::RetryReason;
use crate::model::{
    self, Attempt, CallPolicy, Deadline, Delta, ModelError, Recalled, Request, Target, Then, Until,
};

use super::super::forwarded::Behalf;
use super::super::{Scope, Stop, Tried};

/// Bytes of what a provider did wrong, in words.
pub(super) const DETAIL_CHARS_MAX: usize = 1_000;

/// The part that is still open.
pub(super) struct Call {
    pub(super) n: u32,
    pub(super) target: Target,
    behalf: Behalf,
    pub(super) request: Arc<Request>,
    pub(super) digest: Digest,
    pub(super) tried: Tried,
    policy: CallPolicy,
    /// When it must be over. Counted from when this process first did something for it: the time that a host was
    /// down is not the call's.
    until: Option<Until>,
    /// An attempt that is under way, until the provider begins to answer.
    opening: Option<Opening>,
    /// None if this process has not made the call, or it is not answered yet.
    pub(super) source: Option<model::Answer>,
    /// What of it came while nobody was there to take it.
    came: VecDeque<Option<Result<Delta, ModelError>>>,
    /// The guest has a handle on the answer: it waits for pieces, and no longer for the call to be taken.
    pub(super) is_handed_out: bool,
    /// It broke off after pieces that the guest gets first.
    pub(super) broken: Option<ModelError>,
}

/// It needs nobody who waits for it: the call goes on whoever that is.
type Opening = MaybeDone<BoxFuture<'static, Result<model::Answer, ModelError>>>;

/// What is written down before an attempt.
pub(super) enum Begin {
    /// It is.
    Written(Seq),
    /// That it repeats another.
    Again {
        reason: RetryReason,
        detail: Option<String>,
    },
}

impl Call {
    pub(super) fn new(
        scope: &Scope,
        target: Target,
        behalf: Behalf,
        request: Request,
        digest: Digest,
    ) -> Self {
        Self {
            n: 0,
            policy: scope.models.policy(&target).of_agent(&scope.policy),
            target,
            behalf,
            request: Arc::new(request),
            digest,
            tried: Tried {
                attempts: 0,
                failures: 0,
            },
            until: None,
            opening: None,
            source: None,
            came: VecDeque::new(),
            is_handed_out: false,
            broken: None,
        }
    }

    /// Begin one attempt: when there is a place for it, and it is written down and durable. Or take an answer that
    /// somebody else got, if the request allows it: then nothing leaves the host, and nothing is waited for.
    pub(super) async fn attempt(
        &mut self,
        scope: &Scope,
        begin: Begin,
    ) -> Result<Result<(), ModelError>, Stop> {
        let until = self.until(scope);
        if until.left().is_zero() {
            return Ok(Err(until.deadline.into()));
        }
        let recall = scope
            .models
            .recall(&scope.tenant, &self.target, &self.request, until);
        let leading = match waiting(scope, recall).await {
            Ok(Recalled::Answer(answer)) => {
                self.source = Some(answer);
                return Ok(Ok(()));
            }
            Ok(Recalled::Nothing(leading)) => leading,
            Err(error) => return Ok(Err(error)),
        };
        let admit = scope
            .models
            .admit(&scope.tenant, &self.target, &self.policy, until);
        let admitted = match waiting(scope, admit).await {
            Ok(admitted) => admitted,
            Err(error) => return Ok(Err(error)),
        };
        let written = match begin {
            Begin::Written(seq) => seq,
            Begin::Again { reason, detail } => {
                admitted.repeats();
                scope.retried(self.n, self.tried.attempts + 1, reason, detail)?
            }
        };
        scope.cpu.waiting(scope.ledger.durable(written)).await?;
        let headers = match scope.forwarded(&self.behalf).await? {
            Ok(headers) => headers,
            Err(lost) => return Ok(Err(ModelError::Refused(lost.to_string()))),
        };
        if self.tried.attempts == 0 && scope.is_over_budget() {
            // The cap was reached while it waited for its place.
            return Ok(Err(ModelError::OverBudget));
        }
        self.tried.attempts += 1;
        scope.ledger.mark_call(&scope.turn, self.n, true);
        let ms_max = self.policy.attempt_ms_max;
        let own = Until {
            at: Instant::now() + Duration::from_millis(ms_max),
            deadline: Deadline::Attempt { ms_max },
        };
        let (request, key) = (self.request.clone(), self.key(scope));
        let (models, target) = (scope.models.clone(), self.target.clone());
        let opening = async move {
            let attempt = Attempt {
                request: &request,
                idempotency_key: &key,
                headers,
                until: own,
            };
            let opened = models.open(admitted, leading, &target, attempt, until);
            opened.await
        };
        self.opening = Some(maybe_done(opening.boxed()));
        Ok(Ok(()))
    }

    /// Wait until the attempt that is under way is answered, or has failed. Dropping the future loses nothing.
    pub(super) async fn opens(&mut self) {
        if let Some(opening) = &mut self.opening {
            opening.await;
        }
    }

    /// How that ended. An attempt that is answered brings its pieces from now on.
    pub(super) fn opened(&mut self) -> Result<(), ModelError> {
        let opening = self.opening.take();
        let mut opening = opening.filter(|it| !matches!(it, MaybeDone::Gone));
        let opened = opening.as_mut().and_then(|it| Pin::new(it).take_output());
        match opened {
            Some(opened) => {
                self.source = Some(opened?);
                Ok(())
            }
            // An answer of somebody else's was there at once.
            None if self.source.is_some() => Ok(()),
            None => Err(ModelError::Other("the call is not open".into())),
        }
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// The next piece; none if there is no more, or the call is not made. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<Delta, ModelError>> {
        match self.came.pop_front() {
            Some(came) => came,
            None => self.source.as_mut()?.next().await,
        }
    }

    /// Wait for what `opened` or `next` answers at once then.
    pub(super) async fn comes(&mut self) {
        if self.is_opening() {
            self.opens().await;
        } else if self.came.is_empty() {
            let next = self.next().await;
            self.came.push_back(next);
        }
    }

    /// Take in all that comes: whoever needs it finds it here. Bounded by what an answer may be.
    pub(super) async fn gather(&mut self) -> Infallible {
        self.opens().await;
        if self.is_opening()
            && let Err(error) = self.opened()
        {
            self.opening = Some(MaybeDone::Done(Err(error)));
            return std::future::pending().await;
        }
        while let Some(source) = &mut self.source
            && !matches!(
                self.came.back(),
                Some(None | Some(Err(_) | Ok(Delta::Finished { .. })))
            )
        {
            let next = source.next().await;
            self.came.push_back(next);
        }
        std::future::pending().await
    }

    /// Its answer is one that another call got.
    pub(super) fn is_cached(&self) -> bool {
        self.source.as_ref().is_some_and(model::Answer::is_cached)
    }

    /// Wait as long as the policy or the provider wants; or answer why it is not tried again.
    pub(super) async fn again(
        &mut self,
        scope: &Scope,
        error: ModelError,
    ) -> Result<Begin, ModelError> {
        // What was lost with a host is not the provider's failure, and was not counted here.
        self.tried.failures += 1;
        // The attempt brought nothing: if its turn is cut off while it waits for the next one, there is nothing
        // to pay for.
        scope.ledger.mark_call(&scope.turn, self.n, false);
        let detail = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
        // After its turn's time nobody would be there to hear the answer.
        let until = match scope.wall_left() {
            Some(left) => self.until(scope).sooner(Until {
                at: Instant::now() + left,
                deadline: Deadline::Turn,
            }),
            None => self.until(scope),
        };
        let failed = model::Failure {
            failures: self.tried.failures,
            error,
            until,
            jitter: self.jitter(scope),
        };
        let then = scope
            .models
            .next(&scope.tenant, &self.target, &self.policy, failed);
        let wait = match then {
            Then::Again(wait) => wait,
            Then::Fail(error) => return Err(error),
        };
        waiting(scope, tokio::time::sleep(wait)).await;
        Ok(Begin::Again {
            reason: RetryReason::Provider,
            detail: Some(detail),
        })
    }

    fn until(&mut self, scope: &Scope) -> Until {
        let ms_max = self.policy.call_ms_max;
        let now = Instant::now();
        let own = self.until.get_or_insert_with(|| Until {
            at: now + Duration::from_millis(ms_max),
            deadline: Deadline::Call { ms_max },
        });
        within(*own, now, scope.deadline, scope.ledger.clock().now())
    }

    /// The key under which it is made, the same if it is made again.
    fn key(&self, scope: &Scope) -> String {
        scope.call_key(self.n, &self.digest)
    }

    /// Different for every call and failure, and nobody can tell how: as good as random.
    fn jitter(&self, scope: &Scope) -> u64 {
        let failures = self.tried.failures.to_be_bytes();
        let Digest(bytes) = Digest::of_parts(&[self.key(scope).as_bytes(), &failures]);
        let mut first = [0; 8];
        first.copy_from_slice(&bytes[..8]);
        u64::from_be_bytes(first)
    }
}

/// Wait with the watch stopped. What was said before a wait is shown during it.
async fn waiting<T>(scope: &Scope, wait: impl Future<Output = T>) -> T {
    let mut wait = std::pin::pin!(wait);
    if let Some(done) = wait.as_mut().now_or_never() {
        return done;
    }
    scope.ledger.flush();
    scope.cpu.waiting(wait).await
}

/// The call's own deadline or the turn's, which is told in the clock's time.
fn within(own: Until, now: Instant, deadline: Option<Time>, clock: Time) -> Until {
    let Some(deadline) = deadline else {
        return own;
    };
    let left = Duration::from_millis(deadline.ms_since(clock));
    match now.checked_add(left) {
        Some(at) => own.sooner(Until {
            at,
            deadline: Deadline::Turn,
        }),
        // Beyond all time.
        None => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_deadline_counts() {
        let now = Instant::now();
        let own = Until {
            at: now + Duration::from_secs(5),
            deadline: Deadline::Call { ms_max: 5_000 },
        };
        for (deadline, left_ms, is_turns) in [
            (None, 5_000, false),
            (Some(99_999), 5_000, false),
            (Some(u64::MAX), 5_000, false),
            (Some(1_250), 250, true),
            (Some(1_000), 0, true),
            (Some(0), 0, true),
        ] {
            let until = within(own, now, deadline.map(Time), Time(1_000));
            assert_eq!(until.at - now, Duration::from_millis(left_ms));
            assert_eq!(until.deadline == Deadline::Turn, is_turns);
        }
    }
}
