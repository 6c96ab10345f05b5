//! Whether models answer, as far as the calls of this process tell: PURE, time comes from outside.
//!
//! A model that could not be connected to several times in a row is taken for gone, and looked at again
//! after a while, each time a longer one. This is no circuit breaker: it refuses no call. It is asked by
//! those who would rather wait than begin, and it is in memory only: a host that has just started
//! has heard nothing against anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Fault, ModelError};

/// Failures in a row that are no accident: as many as one call makes attempts.
const FAILURES: u32 = 3;

/// The first wait: a server that is started again is there by then.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest: whoever waits is not kept from a model that is back for more than a minute.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What a call says about the way to the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It answered, be it with an error.
    Answered,
    /// No connection, or one that ended before an answer began.
    Nothing,
}

impl Heard {
    /// None if a call that ended so says nothing about the way.
    pub(super) fn of<T>(opened: &Result<T, ModelError>) -> Option<Self> {
        match opened {
            Ok(_) => Some(Self::Answered),
            Err(ModelError::Provider(Fault::Unreachable(_) | Fault::Cut)) => Some(Self::Nothing),
            Err(ModelError::Provider(_) | ModelError::Interrupted(_)) => Some(Self::Answered),
            // It may be slow or far: nobody knows.
            Err(ModelError::Deadline) => None,
            // It was not asked.
            Err(
                ModelError::Refused(_)
                | ModelError::OverBudget
                | ModelError::CircuitOpen
                | ModelError::Other(_),
            ) => None,
        }
    }
}

/// The last outcomes of one model.
#[derive(Debug, Default)]
struct Record {
    /// Calls in a row that heard nothing.
    failures: u32,
    /// How often it was taken for gone in a row, and until when.
    times: u32,
    until: Option<Instant>,
}

/// What was heard of each model.
#[derive(Debug, Default)]
pub(super) struct Health(BTreeMap<String, Record>);

impl Health {
    pub(super) fn heard(&mut self, model: &str, heard: Heard, now: Instant) {
        match heard {
            Heard::Answered => drop(self.0.remove(model)),
            Heard::Nothing => {
                let record = self.0.entry(model.to_owned()).or_default();
                record.failures = record.failures.saturating_add(1);
                let is_gone = record.until.is_some_and(|until| now < until);
                // The attempts of one call are one look at it.
                if record.failures >= FAILURES && !is_gone {
                    record.until = Some(now + (AGAIN * (1 << record.times.min(4))).min(AGAIN_MAX));
                    record.times = record.times.saturating_add(1);
                }
            }
        }
    }

    /// How long until it is worth looking again; none if it is ready.
    pub(super) fn gone_for(&self, model: &str, now: Instant) -> Option<Duration> {
        let until = self.0.get(model)?.until?;
        until
            .checked_duration_since(now)
            .filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone_for_s(health: &Health, now: Instant) -> Option<u64> {
        health.gone_for("m", now).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_model_that_is_gone_is_looked_at_again_ever_more_seldom() {
        let mut health = Health::default();
        let mut now = Instant::now();
        for _ in 1..FAILURES {
            health.heard("m", Heard::Nothing, now);
            assert_eq!(gone_for_s(&health, now), None, "it may be an accident");
        }
        for wait in [5, 10, 20, 40, 60, 60] {
            health.heard("m", Heard::Nothing, now);
            // The other attempts of the same call change nothing.
            health.heard("m", Heard::Nothing, now + Duration::from_secs(1));
            assert_eq!(gone_for_s(&health, now), Some(wait));
            assert_eq!(health.gone_for("other", now), None);
            now += Duration::from_secs(wait);
            assert_eq!(gone_for_s(&health, now), None, "worth a try");
        }
        health.heard("m", Heard::Nothing, now);
        health.heard("m", Heard::Answered, now);
        assert_eq!(gone_for_s(&health, now), None, "one answer is enough");
        health.heard("m", Heard::Nothing, now);
        assert_eq!(gone_for_s(&health, now), None, "and all is forgotten");
    }

    #[test]
    fn only_the_way_to_the_provider_counts() {
        let of = |error: ModelError| Heard::of::<()>(&Err(error));
        let status = Fault::Status {
            status: 503,
            text: String::new(),
            retry_after_ms: None,
        };
        assert_eq!(Heard::of(&Ok(())), Some(Heard::Answered));
        assert_eq!(of(ModelError::Provider(status)), Some(Heard::Answered));
        assert_eq!(of(ModelError::Provider(Fault::Cut)), Some(Heard::Nothing));
        let unreachable = Fault::Unreachable(String::new());
        assert_eq!(of(ModelError::Provider(unreachable)), Some(Heard::Nothing));
        assert_eq!(of(ModelError::Deadline), None);
        assert_eq!(of(ModelError::Refused(String::new())), None);
    }
}
