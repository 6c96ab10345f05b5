//! One call of a model, and when it is made again.

use std::time::Duration;

use crate::id::{Digest, Seq};
use crate::journal::entry::RetryReason;
use crate::model::{self, ModelError, Request, Target};

use super::{Behalf, Scope, Stop, Tried};

/// How often one call is made at most while a provider fails in ways that may pass.
const ATTEMPTS_MAX: u32 = 3;
/// The wait before the second attempt, doubled for the third. A provider may ask for another.
const RETRY_MS: u64 = 500;
/// No provider is waited for longer than this.
const RETRY_MS_MAX: u64 = 30_000;

/// Bytes of what a provider did wrong, in words.
pub(super) const DETAIL_CHARS_MAX: usize = 1_000;

/// The part that is still open.
pub(super) struct Call {
    pub(super) n: u32,
    pub(super) target: Target,
    pub(super) behalf: Behalf,
    pub(super) request: Request,
    pub(super) digest: Digest,
    pub(super) tried: Tried,
    /// None if this process has not made the call.
    pub(super) source: Option<model::Answer>,
    /// It broke off after pieces that the guest gets first.
    pub(super) broken: Option<ModelError>,
}

impl Call {
    /// What was lost with a host is not the provider's failure.
    pub(super) fn may_retry(&self, error: &ModelError) -> bool {
        error.is_transient() && self.tried.failures + 1 < ATTEMPTS_MAX
    }

    /// Wait as long as the provider needs, and write the next attempt down.
    pub(super) async fn retry(&mut self, scope: &Scope, error: &ModelError) -> Result<Seq, Stop> {
        let doubled = RETRY_MS << self.tried.failures.min(16);
        self.tried.failures += 1;
        let wait_ms = error.retry_after_ms().unwrap_or(doubled).min(RETRY_MS_MAX);
        // What was said before the wait is shown during it.
        scope.ledger.flush();
        let wait = tokio::time::sleep(Duration::from_millis(wait_ms));
        scope.cpu.waiting(wait).await;
        let detail = error.to_string().chars().take(DETAIL_CHARS_MAX).collect();
        let (attempt, reason) = (self.tried.attempts + 1, RetryReason::Provider);
        scope.retried(self.n, attempt, reason, Some(detail))
    }
}
