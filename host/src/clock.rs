//! The clock, handed in at the top: wall time in the host, any time in tests.

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

    /// RFC 3339 in UTC with milliseconds: `2026-11-21T09:30:00.125Z`.
    pub fn to_rfc3339(self) -> String {
        // The last moment of the year 9999 is the last that RFC 3339 can say.
        let ms = self.0.min(253_402_300_799_999);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
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
}
