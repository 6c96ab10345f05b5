//! The call policy: how the host makes a call that leaves it. PURE: time comes from outside as a
//! moment or a remainder, jitter as a number.
//!
//! Owns the numbers of a policy and the decisions: whether and when a failed attempt is followed
//! by another (`attempt`), whether a target is asked at all (`breaker`), and who waits for a place
//! (`gate`). Which failures may pass is [`ModelError::class`](super::ModelError::class)'s table. It knows
//! nothing of models but that: calls of remote participants and of other agents are made by the same policy.
//!
//! Invariant: nothing here waits, sends or keeps anything durable. Breakers are closed at the start of
//! the host.

mod attempt;
mod breaker;
mod gate;

use crate::config::{BackoffSettings, BreakerSettings, PolicySettings};

pub(super) use attempt::{Failed, Next, next};
pub(super) use breaker::{Breaker, Condition, Pass, Refused};
pub(super) use gate::{Entry, Gate, Ticket};

/// How one call is made. Every time is in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallPolicy {
    pub attempt_ms_max: u64,
    pub call_ms_max: u64,
    pub attempts_max: u32,
    pub backoff: Backoff,
    pub retry_after_ms_max: u64,
    pub breaker: BreakerPolicy,
    pub concurrent_max: usize,
    pub queue_max: usize,
}

/// Before attempt `n + 1` it waits `first_ms * 2^(n-1)` and a random part of `first_ms`, but never more
/// than `ms_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first_ms: u64,
    pub ms_max: u64,
}

/// When a target is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// 0 for never.
    pub failures_to_open: u32,
    pub cooldown_ms: u64,
    pub cooldown_ms_max: u64,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            // A long answer takes one minute; twice that is no answer any more.
            attempt_ms_max: 120_000,
            // Two attempts that hang, and one that answers. Half of what a turn may take by default.
            call_ms_max: 300_000,
            attempts_max: 3,
            // The agent-bus protocol's wait, with an end.
            backoff: Backoff {
                first_ms: 250,
                ms_max: 10_000,
            },
            // Providers that count by the minute ask for less than that; who asks for more means "not now".
            retry_after_ms_max: 30_000,
            breaker: BreakerPolicy {
                // More than the attempts of one call: a request that nobody can answer is not the target's
                // failure alone.
                failures_to_open: 5,
                // A server that is started again is there by then.
                cooldown_ms: 5_000,
                // Whoever waits is not kept for more than a minute from a target that is back.
                cooldown_ms_max: 60_000,
            },
            // A quarter of the turns of a host, and all the others may wait.
            concurrent_max: 256,
            queue_max: 1_000,
        }
    }
}

impl CallPolicy {
    /// What the settings say, over this.
    pub fn with(mut self, settings: &PolicySettings) -> Self {
        let PolicySettings {
            attempt_ms_max,
            call_ms_max,
            attempts_max,
            backoff: BackoffSettings { first_ms, ms_max },
            retry_after_ms_max,
            breaker,
            concurrent_max,
            queue_max,
        } = settings;
        let BreakerSettings {
            failures_to_open,
            cooldown_ms,
            cooldown_ms_max,
        } = breaker;
        let own = &mut self.breaker;
        for (own, set) in [
            (&mut self.attempt_ms_max, attempt_ms_max),
            (&mut self.call_ms_max, call_ms_max),
            (&mut self.backoff.first_ms, first_ms),
            (&mut self.backoff.ms_max, ms_max),
            (&mut self.retry_after_ms_max, retry_after_ms_max),
            (&mut own.cooldown_ms, cooldown_ms),
            (&mut own.cooldown_ms_max, cooldown_ms_max),
        ] {
            *own = set.unwrap_or(*own);
        }
        // A time that was raised takes its bound along, unless that was set too.
        if cooldown_ms_max.is_none() {
            own.cooldown_ms_max = own.cooldown_ms_max.max(own.cooldown_ms);
        }
        if ms_max.is_none() {
            self.backoff.ms_max = self.backoff.ms_max.max(self.backoff.first_ms);
        }
        for (own, set) in [
            (&mut self.attempts_max, attempts_max),
            (&mut own.failures_to_open, failures_to_open),
        ] {
            *own = set.map_or(*own, |set| u32::try_from(set).unwrap_or(u32::MAX));
        }
        for (own, set) in [
            (&mut self.concurrent_max, concurrent_max),
            (&mut self.queue_max, queue_max),
        ] {
            *own = set.map_or(*own, |set| usize::try_from(set).unwrap_or(usize::MAX));
        }
        self
    }

    /// The same for an agent's own settings. How much at once a target is asked is its operator's: an agent
    /// may lower it.
    pub fn of_agent(self, settings: &PolicySettings) -> Self {
        let own = self.with(settings);
        Self {
            concurrent_max: own.concurrent_max.min(self.concurrent_max),
            queue_max: own.queue_max.min(self.queue_max),
            ..own
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> PolicySettings {
        serde_json::from_str(json).expect("it is of the form")
    }

    #[test]
    fn settings_override_field_by_field() {
        let default = CallPolicy::default();
        assert_eq!(default.with(&settings("{}")), default);
        let all = settings(
            r#"{"attempt_ms_max":1,"call_ms_max":2,"attempts_max":3,"backoff":{"first_ms":4,"ms_max":5},
                "retry_after_ms_max":6,"breaker":{"failures_to_open":7,"cooldown_ms":8,"cooldown_ms_max":9},
                "concurrent_max":10,"queue_max":11}"#,
        );
        let expect = CallPolicy {
            attempt_ms_max: 1,
            call_ms_max: 2,
            attempts_max: 3,
            backoff: Backoff {
                first_ms: 4,
                ms_max: 5,
            },
            retry_after_ms_max: 6,
            breaker: BreakerPolicy {
                failures_to_open: 7,
                cooldown_ms: 8,
                cooldown_ms_max: 9,
            },
            concurrent_max: 10,
            queue_max: 11,
        };
        assert_eq!(default.with(&all), expect);
        let some = settings(r#"{"attempts_max":1,"breaker":{"cooldown_ms":70000}}"#);
        let both = expect.with(&some);
        assert_eq!((both.attempts_max, both.call_ms_max), (1, 2));
        assert_eq!(both.breaker.failures_to_open, 7, "the rest stays");
        assert_eq!(
            both.breaker.cooldown_ms_max, 70_000,
            "the bound comes along"
        );
    }

    #[test]
    fn an_agent_lowers_how_much_goes_at_once_and_never_raises_it() {
        let default = CallPolicy::default();
        let more = settings(r#"{"concurrent_max":9999,"queue_max":9999,"attempts_max":9}"#);
        let policy = default.of_agent(&more);
        assert_eq!((policy.concurrent_max, policy.queue_max), (256, 1_000));
        assert_eq!(policy.attempts_max, 9);
        let less = default.of_agent(&settings(r#"{"concurrent_max":1,"queue_max":0}"#));
        assert_eq!((less.concurrent_max, less.queue_max), (1, 0));
    }
}
