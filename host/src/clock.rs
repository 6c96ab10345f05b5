//! The clock, handed in at the top: wall time in the host, any time in tests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 UTC.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn day(self) -> Day {
        Day(u32::try_from(self.0 / DAY_MS).unwrap_or(u32::MAX))
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-21T09:30:00.125Z`.
    pub fn to_rfc3339(self) -> String {
        self.rfc3339().to_string()
    }

    /// The same, to be written somewhere.
    pub fn rfc3339(self) -> impl fmt::Display {
        // The last moment of the year 9999 is the last that RFC 3339 can say.
        let ms = self.0.min(253_402_300_799_999);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms))
    }
}

/// A day in UTC, counted from 1970-01-01.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Day(u32);

/// Of every day: leap seconds are none of ours.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A text that is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a day such as 2026-11-21")]
pub struct MalformedDay(String);

impl Day {
    pub fn start(self) -> Time {
        Time(u64::from(self.0) * DAY_MS)
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub fn minus(self, days: u64) -> Self {
        Self(
            self.0
                .saturating_sub(u32::try_from(days).unwrap_or(u32::MAX)),
        )
    }
}

/// `2026-11-21`: days stand in the order of their texts.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.start().to_rfc3339()[..10])
    }
}

impl FromStr for Day {
    type Err = MalformedDay;

    fn from_str(text: &str) -> Result<Self, MalformedDay> {
        let malformed = || MalformedDay(text.chars().take(32).collect());
        // Only the whole form is taken: a text has one day, and a day one text.
        if text.len() != 10 || !text.is_ascii() {
            return Err(malformed());
        }
        let midnight = humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
        let elapsed = midnight
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let days = elapsed.ok_or_else(malformed)?.as_millis() / u128::from(DAY_MS);
        Ok(Self(u32::try_from(days).unwrap_or(u32::MAX)))
    }
}

/// Where the time comes from. A clock may step back; whoever needs order makes it.
#[derive(Debug, Clone)]
pub enum Clock {
    System,
    /// Moves only when told to.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub fn manual(start: Time) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(start.0)))
    }

    pub fn now(&self) -> Time {
        match self {
            #[expect(
                clippy::disallowed_methods,
                reason = "the one place that reads the machine's clock"
            )]
            Self::System => {
                let elapsed = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Time(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Manual(now) => Time(now.load(Ordering::Relaxed)),
        }
    }

    /// Move a manual clock; the machine's clock cannot be moved and stays as it is.
    pub fn advance_ms(&self, ms: u64) {
        if let Self::Manual(now) = self {
            now.fetch_add(ms, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_795_253_400_125, "2026-11-21T09:30:00.125Z"),
        ] {
            assert_eq!(Time(ms).to_rfc3339(), text);
        }
    }

    #[test]
    fn days_are_those_of_utc_and_come_back() {
        for (ms, text) in [
            (0, "1970-01-01"),
            (DAY_MS - 1, "1970-01-01"),
            (DAY_MS, "1970-01-02"),
            (951_782_400_000, "2000-02-29"),
            (1_795_253_400_125, "2026-11-21"),
        ] {
            let day = Time(ms).day();
            assert_eq!(day.to_string(), text);
            assert_eq!(text.parse(), Ok(day));
            assert_eq!(day.start().day(), day);
            assert_eq!(day.next().minus(1), day);
        }
        for text in [
            "",
            "2026-1-1",
            "2026-02-30",
            "2026-11-21T",
            "yesterday",
            "1969-12-31",
            "２０２６",
        ] {
            assert!(text.parse::<Day>().is_err(), "{text}");
        }
        assert_eq!(Time(u64::MAX).day().to_string(), "9999-12-31");
        assert_eq!(Day(3).minus(u64::MAX), Day(0));
    }
}
