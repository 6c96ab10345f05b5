//! What a tenant's agents may compute in a minute: pure.
//!
//! A bucket that holds one minute's allowance and is refilled evenly. Whoever computes takes from it,
//! also what is not there: a guest is looked at after it ran. While it is empty nobody of the tenant
//! computes; how long that is, is the answer. So a burst may take a whole minute's allowance at once,
//! and a tenant that never stops gets its share of every second instead of a stop of a minute.
//!
//! Times are durations since any fixed moment, and never go back.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Who waited gets at least this much, so that nobody is woken for less than a few looks at a guest.
const SHARE_MIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minute {
    allowance: Duration,
    /// Nanoseconds that are left; below zero if more was taken than there was.
    left_ns: i128,
    at: Duration,
}

impl Minute {
    /// A full bucket.
    pub fn new(allowance: Duration, now: Duration) -> Self {
        Self {
            allowance,
            left_ns: ns(allowance),
            at: now,
        }
    }

    /// Another allowance from now on. What was taken stays taken.
    pub fn allow(&mut self, allowance: Duration, now: Duration) {
        if allowance == self.allowance {
            return;
        }
        self.refill(now);
        let taken = ns(self.allowance) - self.left_ns;
        self.allowance = allowance;
        self.left_ns = ns(allowance) - taken.min(ns(allowance));
    }

    /// So much was computed. None if the tenant may go on at once, else how long it waits.
    pub fn take(&mut self, computed: Duration, now: Duration) -> Option<Duration> {
        self.refill(now);
        self.left_ns -= ns(computed);
        self.wait()
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let more = ns(passed).saturating_mul(ns(self.allowance)) / ns(MINUTE);
        self.left_ns = self.left_ns.saturating_add(more).min(ns(self.allowance));
    }

    fn wait(&self) -> Option<Duration> {
        if self.left_ns > 0 {
            return None;
        }
        // An allowance below the share is had whole.
        let wanted = ns(SHARE_MIN.min(self.allowance));
        let wait = (wanted - self.left_ns).saturating_mul(ns(MINUTE)) / ns(self.allowance).max(1);
        Some(Duration::from_nanos(
            u64::try_from(wait).unwrap_or(u64::MAX),
        ))
    }
}

fn ns(duration: Duration) -> i128 {
    // Below 2^94: no sum or product here comes near the end of the type.
    i128::try_from(duration.as_nanos().min(u128::from(u64::MAX))).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_minutes_allowance_may_be_computed_at_once_and_comes_back_evenly() {
        let mut minute = Minute::new(ms(6_000), ms(0));
        assert_eq!(minute.take(ms(5_999), ms(0)), None);
        // A tenth of the time: one computed millisecond comes back in ten.
        assert_eq!(minute.take(ms(1), ms(0)), Some(ms(500)));
        assert_eq!(minute.take(ms(0), ms(0)), Some(ms(500)));
        assert_eq!(minute.take(ms(0), ms(500)), None);
        assert_eq!(minute.take(ms(50), ms(500)), Some(ms(500)));
        // More is taken than there is by whoever ran when it ran out.
        assert_eq!(minute.take(ms(20), ms(500)), Some(ms(700)));
        assert_eq!(minute.take(ms(0), ms(120_000)), None);
        assert_eq!(
            minute.take(ms(5_999), ms(120_000)),
            None,
            "never more than a minute's"
        );
        assert_eq!(minute.take(ms(1), ms(120_000)), Some(ms(500)));
    }

    #[test]
    fn another_allowance_leaves_what_was_taken() {
        let mut minute = Minute::new(ms(6_000), ms(0));
        assert_eq!(minute.take(ms(3_000), ms(0)), None);
        minute.allow(ms(3_000), ms(0));
        assert_eq!(minute.take(ms(0), ms(0)), Some(ms(1_000)));
        minute.allow(ms(60_000), ms(0));
        assert_eq!(minute.take(ms(0), ms(0)), None);
        // So small that it is had whole or not at all.
        let mut minute = Minute::new(ms(10), ms(0));
        assert_eq!(minute.take(ms(10), ms(0)), Some(ms(60_000)));
        let mut minute = Minute::new(Duration::MAX, ms(0));
        assert_eq!(minute.take(Duration::MAX / 2, ms(0)), Some(ms(0)));
    }

    proptest! {
        /// However it is taken: over any time nobody gets more than the minute and what came back.
        #[test]
        fn a_tenant_that_obeys_gets_its_share_and_no_more(
            allowance in 1_u64..120_000,
            runs in prop::collection::vec((1_u64..200, 0_u64..100), 1..300),
        ) {
            let mut minute = Minute::new(ms(allowance), ms(0));
            let (mut now, mut computed, mut longest) = (ms(0), ms(0), ms(0));
            for (run, pause) in runs {
                let run = ms(run);
                (now, computed, longest) = (now + ms(pause), computed + run, longest.max(run));
                if let Some(wait) = minute.take(run, now) {
                    prop_assert!(wait > Duration::ZERO);
                    now += wait;
                    prop_assert_eq!(minute.take(ms(0), now + Duration::from_nanos(1)), None);
                }
            }
            let most = ms(allowance) + now * u32::try_from(allowance).unwrap() / 60_000 + longest;
            prop_assert!(computed <= most + ms(1), "{computed:?} of {most:?} in {now:?}");
        }
    }
}
