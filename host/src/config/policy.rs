//! How calls that leave the host are made, as somebody writes it down: every field may be
//! left out. PURE.
//!
//! The same form stands under `[models.NAME.policy]` in the server's settings and under
//! `policy` in an agent's configuration. What is left out, and what the fields mean for a call, is
//! `model::policy`'s.

use serde::{Deserialize, Serialize};

/// The longest that an attempt, a call, or a circuit may take: above any turn.
const HOUR_MS: u64 = 60 * 60 * 1000;

/// Each field overrides what stands below it; one that is none leaves it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySettings {
    /// One attempt, from the connection to the last piece of its answer. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt_ms_max: Option<u64>,
    /// The whole call: waiting for its place, all attempts, the waits between them. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_ms_max: Option<u64>,
    /// Attempts of one call, the first included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u64>,
    #[serde(skip_serializing_if = "BackoffSettings::is_empty")]
    pub backoff: BackoffSettings,
    /// The longest `Retry-After` that is waited for. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms_max: Option<u64>,
    #[serde(skip_serializing_if = "BreakerSettings::is_empty")]
    pub breaker: BreakerSettings,
    /// Calls of one tenant to one target that are under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_max: Option<u64>,
    /// Calls that wait for such a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u64>,
}

/// The wait before an attempt that follows a failed one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackoffSettings {
    /// Before the second attempt, jitter not counted. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u64>,
    /// The longest, jitter included. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_max: Option<u64>,
}

/// When calls are refused before anything is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSettings {
    /// Failed attempts in a row that open the circuit; 0 for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_to_open: Option<u64>,
    /// How long it is open the first time. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<u64>,
    /// The longest: each attempt that finds the target still failing doubles the time. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms_max: Option<u64>,
}

impl BackoffSettings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl BreakerSettings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PolicySettings {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong: the field, from `policy` on, and why.
    pub fn check(&self) -> Result<(), (String, String)> {
        let (backoff, breaker) = (&self.backoff, &self.breaker);
        for (name, value, least, most) in [
            ("attempt_ms_max", self.attempt_ms_max, 1, HOUR_MS),
            ("call_ms_max", self.call_ms_max, 1, HOUR_MS),
            ("attempts_max", self.attempts_max, 1, 10),
            ("backoff.first_ms", backoff.first_ms, 0, 60_000),
            ("backoff.ms_max", backoff.ms_max, 0, 600_000),
            ("retry_after_ms_max", self.retry_after_ms_max, 0, 600_000),
            (
                "breaker.failures_to_open",
                breaker.failures_to_open,
                0,
                1_000,
            ),
            ("breaker.cooldown_ms", breaker.cooldown_ms, 1, HOUR_MS),
            (
                "breaker.cooldown_ms_max",
                breaker.cooldown_ms_max,
                1,
                HOUR_MS,
            ),
            ("concurrent_max", self.concurrent_max, 1, 10_000),
            ("queue_max", self.queue_max, 0, 100_000),
        ] {
            if value.is_some_and(|value| !(least..=most).contains(&value)) {
                let reason = format!("must be from {least} to {most}");
                return Err((format!("policy.{name}"), reason));
            }
        }
        for (name, less, other, more) in [
            (
                "attempt_ms_max",
                self.attempt_ms_max,
                "call_ms_max",
                self.call_ms_max,
            ),
            (
                "backoff.first_ms",
                backoff.first_ms,
                "backoff.ms_max",
                backoff.ms_max,
            ),
            (
                "breaker.cooldown_ms",
                breaker.cooldown_ms,
                "breaker.cooldown_ms_max",
                breaker.cooldown_ms_max,
            ),
        ] {
            if let (Some(less), Some(more)) = (less, more)
                && less > more
            {
                let reason = format!("must not be more than `policy.{other}`");
                return Err((format!("policy.{name}"), reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> String {
        let settings: PolicySettings = serde_json::from_str(json).expect("it is of the form");
        match settings.check() {
            Ok(()) => serde_json::to_string(&settings).expect("it has a form"),
            Err((name, reason)) => format!("{name} {reason}"),
        }
    }

    #[test]
    fn the_bounds_themselves_are_allowed_and_kept() {
        for json in [
            "{}",
            r#"{"attempt_ms_max":1,"call_ms_max":1,"attempts_max":1}"#,
            r#"{"attempt_ms_max":3600000,"call_ms_max":3600000,"attempts_max":10}"#,
            r#"{"backoff":{"first_ms":0,"ms_max":0},"retry_after_ms_max":0}"#,
            r#"{"breaker":{"failures_to_open":0,"cooldown_ms":1,"cooldown_ms_max":1}}"#,
            r#"{"concurrent_max":1,"queue_max":0}"#,
        ] {
            assert_eq!(check(json), json);
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (json, expect) in [
            (
                r#"{"attempts_max":0}"#,
                "policy.attempts_max must be from 1 to 10",
            ),
            (
                r#"{"attempts_max":11}"#,
                "policy.attempts_max must be from 1 to 10",
            ),
            (
                r#"{"breaker":{"cooldown_ms":0}}"#,
                "policy.breaker.cooldown_ms must be from 1 to 3600000",
            ),
            (
                r#"{"concurrent_max":0}"#,
                "policy.concurrent_max must be from 1 to 10000",
            ),
            (
                r#"{"attempt_ms_max":2,"call_ms_max":1}"#,
                "policy.attempt_ms_max must not be more than `policy.call_ms_max`",
            ),
            (
                r#"{"backoff":{"first_ms":2,"ms_max":1}}"#,
                "policy.backoff.first_ms must not be more than `policy.backoff.ms_max`",
            ),
        ] {
            assert_eq!(check(json), expect);
        }
        for unknown in [r#"{"attempts":1}"#, r#"{"breaker":{"failures":1}}"#] {
            let error = serde_json::from_str::<PolicySettings>(unknown).unwrap_err();
            assert!(
                error.to_string().starts_with("unknown field"),
                "{unknown}: {error}"
            );
        }
    }
}
