//! Sleeping: a call that time answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::Digest;
use crate::journal::entry::{CallKind, CallResult, Payload};

use super::{Back, Scope, Stop};

/// A turn cannot sleep longer than it may run, so longer sleeps are cut here. A day: far above any turn.
const SLEEP_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A timer that the guest set. The turn's clock moves when it is done.
pub(in crate::runtime) struct Timer {
    scope: Arc<Scope>,
    n: u32,
    until: Instant,
    done: bool,
}

impl Timer {
    pub(in crate::runtime) fn set(scope: &Arc<Scope>, ms: u64) -> Result<Self, Stop> {
        let ms = ms.min(SLEEP_MS_MAX);
        let target = ms.to_string();
        let asked = || format!("sleeps {ms} ms");
        let (n, left_ms) = match scope.recorded(asked)? {
            Some(recorded) => match &recorded.payload {
                Payload::Called(it) if it.call == CallKind::Timer && it.target == target => {
                    // What the host was down for has passed too.
                    let passed = scope.ledger.clock().now().ms_since(recorded.time);
                    (it.n, ms.saturating_sub(passed))
                }
                _ => return Err(scope.differs(&recorded, asked())),
            },
            None => {
                let digest = Digest::of(target.as_bytes());
                (scope.called(CallKind::Timer, &target, digest)?, ms)
            }
        };
        Ok(Self {
            scope: scope.clone(),
            n,
            until: Instant::now() + Duration::from_millis(left_ms),
            done: false,
        })
    }

    /// Wait until it is done, or for ever if the record says that this poll was not ended by it.
    pub(in crate::runtime) async fn wait(&mut self) {
        if self.done {
            return;
        }
        let ended = match self.scope.timer_in_record(self.n) {
            Ok(InRecord::Ended) => Ok(()),
            Ok(InRecord::NotYet) => std::future::pending().await,
            Ok(InRecord::Live) => self.pass().await,
            Err(stop) => Err(stop),
        };
        self.done = true;
        if let Err(stop) = ended {
            self.scope.record.stop(stop);
        }
    }

    async fn pass(&self) -> Result<(), Stop> {
        let scope = &self.scope;
        if Instant::now() < self.until {
            // What was said before the wait is shown during it.
            scope.ledger.flush();
            scope
                .cpu
                .waiting(tokio::time::sleep_until(self.until))
                .await;
        }
        let mut back = Back::new(self.n, CallResult::Ok);
        back.poll = Some(scope.record.polls.load(Ordering::Relaxed));
        scope.returned(back, &[]).map(drop)
    }
}

/// What the record says of a timer in this poll.
enum InRecord {
    /// It ended this poll.
    Ended,
    /// It ended a later one.
    NotYet,
    /// Nothing: time decides.
    Live,
}

impl Scope {
    /// The guest waits for something. Whatever a timer does meanwhile belongs to this poll.
    pub(in crate::runtime) fn poll_begins(&self) {
        self.record.polls.fetch_add(1, Ordering::Relaxed);
    }

    /// The poll is over. An error found in it ends the turn.
    pub(in crate::runtime) fn poll_ended(&self) -> Result<(), Stop> {
        self.record.take_stop().map_or(Ok(()), Err)
    }

    /// Whether a poll that nothing ends waits for the record: then the record is another guest's.
    pub(in crate::runtime) fn poll_differs(&self) -> Stop {
        let record = self.record.lock();
        match record.as_ref() {
            Some(replay) => match (replay.peek(), replay.left()) {
                (Some(recorded), _) => self.differs(recorded, "waits"),
                (None, Some(words)) => words.into(),
                (None, None) => Stop::Over,
            },
            None => Stop::Over,
        }
    }

    fn timer_in_record(&self, n: u32) -> Result<InRecord, Stop> {
        let next = {
            let record = self.record.lock();
            let Some(replay) = record.as_ref() else {
                return Ok(InRecord::Live);
            };
            let next = replay.peek().map(|recorded| {
                matches!(&recorded.payload, Payload::Returned(back)
                    if back.n == n && back.poll == Some(self.record.polls.load(Ordering::Relaxed)))
            });
            // What was said after it was looked at is still to be said again.
            next.or_else(|| (!replay.is_over()).then_some(false))
        };
        let asked = || format!("waits for the timer of call {n}");
        match next {
            Some(false) => Ok(InRecord::NotYet),
            Some(true) => self.recorded_part(asked).map(|_| InRecord::Ended),
            // The record is at its end: the live edge.
            None => self.recorded_part(asked).map(|_| InRecord::Live),
        }
    }
}
