//! Whether a failed attempt is followed by another, and when.

use std::time::Duration;

use super::{Backoff, CallPolicy};

/// What is known of a call after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Failed {
    /// Attempts that the target failed, this one included. Those lost with a host are not among them.
    pub(in crate::model) failures: u32,
    pub(in crate::model) may_pass: bool,
    /// When the target wants to be asked again, if it said.
    pub(in crate::model) retry_after_ms: Option<u64>,
    /// Until the call must be over; none if nothing bounds it.
    pub(in crate::model) left: Option<Duration>,
    /// How long the target will not be asked, by anybody.
    pub(in crate::model) refused_for: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Next {
    /// Wait so long, then try again.
    Again(Duration),
    /// The failure is the call's.
    Fail,
    /// Another attempt may help, but its wait would pass the deadline.
    TooLate,
}

/// Decide. `jitter` is random.
pub(in crate::model) fn next(policy: &CallPolicy, failed: Failed, jitter: u64) -> Next {
    if !failed.may_pass || failed.failures >= policy.attempts_max {
        return Next::Fail;
    }
    let wait = match failed.retry_after_ms {
        // Sooner than the target wants would be an attempt for nothing.
        Some(ms) if ms > policy.retry_after_ms_max => return Next::Fail,
        Some(ms) => Duration::from_millis(ms),
        None => backoff(policy.backoff, failed.failures, jitter),
    };
    // It would come back to a closed door, and know less than it knows now.
    if failed.refused_for.is_some_and(|refused| refused > wait) {
        return Next::Fail;
    }
    match failed.left {
        Some(left) if wait >= left => Next::TooLate,
        _ => Next::Again(wait),
    }
}

/// After failure `n`, counted from 1.
fn backoff(backoff: Backoff, n: u32, jitter: u64) -> Duration {
    let Backoff { first_ms, ms_max } = backoff;
    let doubled = first_ms.saturating_mul(1 << n.saturating_sub(1).min(32));
    let jitter = jitter.checked_rem(first_ms).unwrap_or_default();
    Duration::from_millis(doubled.saturating_add(jitter).min(ms_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Failed = Failed {
        failures: 1,
        may_pass: true,
        retry_after_ms: None,
        left: None,
        refused_for: None,
    };

    fn again(ms: u64) -> Next {
        Next::Again(Duration::from_millis(ms))
    }

    #[test]
    fn waits_double_and_jitter_stays_within_its_bounds() {
        let policy = CallPolicy {
            attempts_max: 10,
            ..CallPolicy::default()
        };
        // The protocol's: 250 to 499, 500 to 749, 1000 to 1249; then ours ends them.
        for (failures, least, most) in [
            (1, 250, 499),
            (2, 500, 749),
            (3, 1_000, 1_249),
            (6, 8_000, 8_249),
            (7, 10_000, 10_000),
            (9, 10_000, 10_000),
        ] {
            let failed = Failed { failures, ..FAILED };
            assert_eq!(next(&policy, failed, 0), again(least));
            assert_eq!(next(&policy, failed, 249), again(most));
            assert_eq!(next(&policy, failed, 250), again(least), "it wraps");
            assert!(matches!(next(&policy, failed, u64::MAX), Next::Again(_)));
        }
        let none = CallPolicy {
            backoff: Backoff {
                first_ms: 0,
                ms_max: 0,
            },
            ..policy
        };
        assert_eq!(next(&none, FAILED, 7), again(0));
        let endless = CallPolicy {
            attempts_max: u32::MAX,
            ..policy
        };
        let late = Failed {
            failures: 1_000_000,
            ..FAILED
        };
        assert_eq!(next(&endless, late, 0), again(10_000));
    }

    #[test]
    fn who_is_asked_again_and_when() {
        let policy = CallPolicy::default();
        let s = Duration::from_secs;
        for (failed, expect) in [
            (
                Failed {
                    may_pass: false,
                    ..FAILED
                },
                Next::Fail,
            ),
            (
                Failed {
                    failures: 2,
                    ..FAILED
                },
                again(500),
            ),
            (
                Failed {
                    failures: 3,
                    ..FAILED
                },
                Next::Fail,
            ),
            (
                Failed {
                    retry_after_ms: Some(0),
                    ..FAILED
                },
                again(0),
            ),
            (
                Failed {
                    retry_after_ms: Some(30_000),
                    ..FAILED
                },
                again(30_000),
            ),
            (
                Failed {
                    retry_after_ms: Some(30_001),
                    ..FAILED
                },
                Next::Fail,
            ),
            (
                Failed {
                    retry_after_ms: Some(2_000),
                    left: Some(s(2)),
                    ..FAILED
                },
                Next::TooLate,
            ),
            (
                Failed {
                    retry_after_ms: Some(2_000),
                    left: Some(s(3)),
                    ..FAILED
                },
                again(2_000),
            ),
            (
                Failed {
                    left: Some(Duration::ZERO),
                    ..FAILED
                },
                Next::TooLate,
            ),
            (
                Failed {
                    left: Some(Duration::ZERO),
                    may_pass: false,
                    ..FAILED
                },
                Next::Fail,
            ),
            (
                Failed {
                    refused_for: Some(s(5)),
                    ..FAILED
                },
                Next::Fail,
            ),
            (
                Failed {
                    refused_for: Some(s(1)),
                    retry_after_ms: Some(1_000),
                    ..FAILED
                },
                again(1_000),
            ),
        ] {
            assert_eq!(next(&policy, failed, 0), expect, "{failed:?}");
        }
    }
}
