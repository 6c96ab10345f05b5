//! A webhook: what it is told of, how far, and what becomes of it when nobody answers. PURE.
//!
//! Invariant: the cursor moves over notices that were delivered or became a dead letter, and over nothing else that the
//! webhook wants. What is tried again is the same each time.

use serde::{Deserialize, Serialize};

use super::Filter;
use crate::clock::Time;
use crate::id::NoticeOffset;

/// The first pause; each one after it is twice as long.
const BACKOFF_MS: u64 = 1_000;

/// Secrets that are good at once: the newest, and those of two rotations before, so that a header holds their signatures.
const SECRETS_MAX: usize = 3;

/// What a webhook is asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub url: String,
    #[serde(flatten)]
    pub filter: Filter,
}

/// What requests are signed with, sealed by the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// Hexadecimal.
    pub(super) sealed: String,
    /// It was followed by another one, and is used along with that one until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Time>,
}

/// Nobody could be told, so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub attempts: u64,
    pub since: Time,
    /// When it is tried again.
    pub next: Time,
    pub error: String,
    /// Where the notices end that are tried.
    pub(super) until: NoticeOffset,
}

/// The stored form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub config: Config,
    pub created: Time,
    /// The newest first.
    pub(super) secrets: Vec<Sealed>,
    /// How far it was told.
    pub cursor: NoticeOffset,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// Commits whose notices were not kept until it could be told.
    pub missed: u64,
}

/// Notices that could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The `webhook-id` of each attempt.
    pub message: String,
    pub died: Time,
    pub attempts: u64,
    pub error: String,
    /// What was sent.
    pub body: String,
}

/// How often, and with which pauses.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub attempts_max: u64,
    pub backoff_ms_max: u64,
}

impl Patience {
    /// The pause after so many attempts. `jitter` is from -1 to 1.
    fn pause_ms(&self, attempts: u64, jitter: f64) -> u64 {
        let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = BACKOFF_MS.saturating_mul(2_u64.saturating_pow(doubled));
        let pause = pause.min(self.backoff_ms_max);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a tenth of a pause more or less"
        )]
        let spread = (pause as f64 * (1.0 + jitter.clamp(-1.0, 1.0) / 10.0)) as u64;
        spread
    }
}

impl Webhook {
    /// It was told up to here.
    pub(super) fn delivered(&mut self, until: NoticeOffset) {
        self.cursor = until;
        self.failing = None;
    }

    /// It could not be told of what ends there. True if that is not tried any more: it is a dead letter then.
    pub(super) fn failed(
        &mut self,
        until: NoticeOffset,
        error: &str,
        now: Time,
        patience: Patience,
        jitter: f64,
    ) -> bool {
        let before = self.failing.take();
        let attempts = before.as_ref().map_or(0, |it| it.attempts) + 1;
        if attempts >= patience.attempts_max {
            self.cursor = until;
            return true;
        }
        self.failing = Some(Failing {
            attempts,
            since: before.map_or(now, |it| it.since),
            next: now.plus_ms(patience.pause_ms(attempts, jitter)),
            error: error.to_owned(),
            until,
        });
        false
    }

    /// What came after a place it was looked at up to is not kept any more, up to here.
    pub(super) fn missed(&mut self, looked: NoticeOffset, earliest: NoticeOffset) {
        self.missed += earliest.after.0.saturating_sub(looked.after.0);
        self.delivered(earliest);
    }

    /// Another one is used from now on, along with those before for so long.
    pub(super) fn rotate(&mut self, sealed: String, now: Time, overlap_ms: u64) {
        self.secrets
            .retain(|it| it.until.is_none_or(|until| until > now));
        let end = now.plus_ms(overlap_ms);
        for old in &mut self.secrets {
            old.until = Some(old.until.map_or(end, |until| until.min(end)));
        }
        self.secrets.insert(
            0,
            Sealed {
                sealed,
                until: None,
            },
        );
        self.secrets.truncate(SECRETS_MAX);
    }

    /// Those that requests are signed with now.
    pub(super) fn secrets_at(&self, now: Time) -> impl Iterator<Item = &Sealed> {
        let is_good = move |it: &&Sealed| it.until.is_none_or(|until| until > now);
        self.secrets.iter().filter(is_good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Seq;

    const PATIENCE: Patience = Patience {
        attempts_max: 5,
        backoff_ms_max: 3_000,
    };

    fn webhook() -> Webhook {
        Webhook {
            config: Config {
                url: "https://example.com".to_owned(),
                filter: Filter::default(),
            },
            created: Time(0),
            secrets: vec![Sealed {
                sealed: "a".to_owned(),
                until: None,
            }],
            cursor: NoticeOffset::default(),
            failing: None,
            missed: 0,
        }
    }

    fn at(seq: u64) -> NoticeOffset {
        NoticeOffset::after(Seq(seq))
    }

    #[test]
    fn pauses_grow_to_their_bound_and_then_it_is_dead() {
        let mut webhook = webhook();
        let mut pauses = Vec::new();
        for attempt in 1..5 {
            assert!(!webhook.failed(at(3), "no", Time(7), PATIENCE, 0.0));
            let failing = webhook.failing.clone().unwrap();
            assert_eq!((failing.attempts, failing.since), (attempt, Time(7)));
            assert_eq!(webhook.cursor, at(0), "it waits for these");
            pauses.push(failing.next.0 - 7);
        }
        assert_eq!(pauses, [1_000, 2_000, 3_000, 3_000]);
        assert!(webhook.failed(at(3), "no", Time(8), PATIENCE, 0.0));
        assert_eq!((webhook.cursor, &webhook.failing), (at(3), &None));
        // The next ones have all their attempts.
        assert!(!webhook.failed(at(4), "no", Time(9), PATIENCE, 0.0));
        webhook.delivered(at(4));
        assert_eq!((webhook.cursor, &webhook.failing), (at(4), &None));
        assert_eq!(PATIENCE.pause_ms(1, 1.0), 1_100);
        assert_eq!(PATIENCE.pause_ms(1, -9.0), 900);
        assert_eq!(PATIENCE.pause_ms(u64::MAX, 0.0), 3_000);
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let mut webhook = webhook();
        webhook.delivered(at(2));
        // What was looked at, and not wanted, was not missed.
        webhook.missed(at(4), at(7));
        assert_eq!((webhook.cursor, webhook.missed), (at(7), 3));
    }

    #[test]
    fn an_old_secret_ends_with_its_overlap() {
        let mut webhook = webhook();
        let good = |webhook: &Webhook, now| -> String {
            let sealed = webhook.secrets_at(Time(now)).map(|it| it.sealed.as_str());
            sealed.collect()
        };
        webhook.rotate("b".to_owned(), Time(10), 100);
        assert_eq!(good(&webhook, 109), "ba");
        assert_eq!(good(&webhook, 110), "b");
        // One that was to end sooner still does.
        webhook.rotate("c".to_owned(), Time(20), 1_000);
        assert_eq!(good(&webhook, 109), "cba");
        assert_eq!(good(&webhook, 110), "cb");
        webhook.rotate("d".to_owned(), Time(30), 0);
        assert_eq!(good(&webhook, 30), "d");
        webhook.rotate("e".to_owned(), Time(31), 0);
        assert_eq!(webhook.secrets.len(), 2, "those that ended are forgotten");
        for n in 0..9 {
            webhook.rotate(n.to_string(), Time(40), 1_000_000);
        }
        assert_eq!(good(&webhook, 41), "876", "and the oldest of too many");
    }
}
