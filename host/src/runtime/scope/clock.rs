//! The turn's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Time;

/// The turn's time: that of the last entry that answered one of its calls.
#[derive(Debug, Clone)]
pub struct TurnClock(Arc<(Time, AtomicU64)>);

impl TurnClock {
    pub fn start(started: Time) -> Self {
        Self(Arc::new((started, AtomicU64::new(started.0))))
    }

    pub fn started(&self) -> Time {
        self.0.0
    }

    pub fn now(&self) -> Time {
        Time(self.0.1.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, now: Time) {
        self.0.1.fetch_max(now.0, Ordering::Relaxed);
    }
}
