//! Whether a target is asked at all: a circuit that opens when it keeps failing.
//!
//! Closed, everybody passes. After `failures_to_open` failed attempts in a row, of whichever calls, it is open:
//! nobody passes for `cooldown_ms`. Then exactly one attempt passes, the probe. Its first piece of an answer closes
//! the circuit, on trial: until an answer came whole, one more failure opens it again. A failed
//! probe opens it again, twice as long, up to `cooldown_ms_max`. A probe that was given up proves nothing: the next
//! who comes is the probe.
//!
//! Moments are durations since any one moment of the process. What attempts say that began before the circuit opened is not heard: they are old news.

use std::time::Duration;

use super::BreakerPolicy;

/// What an attempt says about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Condition {
    /// It does what it should, be it a refusal of the request.
    Works,
    /// It answers, which says nothing about the next answer.
    Answers,
    Fails,
}

/// The right to make one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what becomes of the attempt must be heard"]
pub(in crate::model) struct Pass {
    is_probe: bool,
    /// How often the circuit had opened by then.
    opened: u32,
}

/// The circuit is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Refused {
    pub(in crate::model) left: Duration,
    /// Its time is over, and somebody is just finding out.
    pub(in crate::model) is_probed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    Probed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Breaker {
    state: State,
    /// How often in a row it opened without an answer that came whole.
    times: u32,
    opened: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
            times: 0,
            opened: 0,
        }
    }
}

impl Breaker {
    /// Whether somebody would pass now. Who has no breaker always would.
    pub(in crate::model) fn look(
        &self,
        policy: BreakerPolicy,
        now: Duration,
    ) -> Result<(), Refused> {
        if policy.failures_to_open == 0 {
            return Ok(());
        }
        let (left, is_probed) = match self.state {
            State::Closed { .. } => return Ok(()),
            State::Open { until } => (until.saturating_sub(now), false),
            State::Probed => (Duration::ZERO, true),
        };
        if left.is_zero() && !is_probed {
            return Ok(());
        }
        Err(Refused { left, is_probed })
    }

    /// Pass, or hear for how long nobody does.
    pub(in crate::model) fn pass(
        &mut self,
        policy: BreakerPolicy,
        now: Duration,
    ) -> Result<Pass, Refused> {
        let mut pass = Pass {
            is_probe: false,
            opened: self.opened,
        };
        self.look(policy, now)?;
        let is_open = matches!(self.state, State::Open { .. });
        if is_open && policy.failures_to_open > 0 {
            self.state = State::Probed;
            pass.is_probe = true;
        }
        Ok(pass)
    }

    /// What an attempt found.
    pub(in crate::model) fn heard(
        &mut self,
        pass: Pass,
        condition: Condition,
        policy: BreakerPolicy,
        now: Duration,
    ) {
        let is_old = pass.opened != self.opened;
        match (self.state, condition) {
            _ if is_old => {}
            (State::Closed { .. }, Condition::Works) => *self = self.closed(),
            (State::Closed { .. }, Condition::Answers) => {}
            (State::Closed { failures }, Condition::Fails) => {
                let failures = failures.saturating_add(1);
                let most = policy.failures_to_open;
                if most > 0 && failures >= most {
                    self.open(policy, now);
                } else {
                    self.state = State::Closed { failures };
                }
            }
            // Only the probe is heard, and whoever passed without asking.
            (State::Open { .. } | State::Probed, Condition::Works) => *self = self.closed(),
            (State::Probed, _) if !pass.is_probe => {}
            (State::Open { .. }, _) => {}
            (State::Probed, Condition::Answers) => {
                let failures = policy.failures_to_open.saturating_sub(1);
                self.state = State::Closed { failures };
            }
            (State::Probed, Condition::Fails) => self.open(policy, now),
        }
    }

    /// The attempt was given up before it said anything.
    pub(in crate::model) fn given_up(&mut self, pass: Pass, now: Duration) {
        if pass.is_probe && pass.opened == self.opened && self.state == State::Probed {
            self.state = State::Open { until: now };
        }
    }

    /// 0 closed, 1 being probed, 2 open.
    pub(in crate::model) fn level(&self) -> u8 {
        match self.state {
            State::Closed { .. } => 0,
            State::Probed => 1,
            State::Open { .. } => 2,
        }
    }

    /// It refuses nobody: forgetting it forgets some failures in a row at most.
    pub(in crate::model) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn closed(&self) -> Self {
        Self {
            opened: self.opened,
            ..Self::default()
        }
    }

    fn open(&mut self, policy: BreakerPolicy, now: Duration) {
        let doubled = policy.cooldown_ms.saturating_mul(1 << self.times.min(32));
        let most = policy.cooldown_ms_max.max(policy.cooldown_ms);
        let until = now.saturating_add(Duration::from_millis(doubled.min(most)));
        self.state = State::Open { until };
        self.times = self.times.saturating_add(1);
        self.opened = self.opened.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Condition::{Answers, Fails, Works};

    const POLICY: BreakerPolicy = BreakerPolicy {
        failures_to_open: 3,
        cooldown_ms: 5_000,
        cooldown_ms_max: 60_000,
    };
    const OFF: BreakerPolicy = BreakerPolicy {
        failures_to_open: 0,
        ..POLICY
    };

    /// A breaker and a clock that is moved by hand.
    struct Circuit(Breaker, Duration);

    impl Circuit {
        fn new() -> Self {
            Self(Breaker::default(), Duration::from_secs(7))
        }

        fn pass(&mut self) -> Result<Pass, u64> {
            let passed = self.0.pass(POLICY, self.1);
            passed.map_err(|refused| refused.left.as_millis() as u64)
        }

        /// One attempt that ends so; or how long it is refused.
        fn attempt(&mut self, condition: Condition) -> Result<(), u64> {
            let pass = self.pass()?;
            self.0.heard(pass, condition, POLICY, self.1);
            Ok(())
        }

        fn later(&mut self, ms: u64) {
            self.1 += Duration::from_millis(ms);
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_only_then() {
        let mut circuit = Circuit::new();
        for condition in [Fails, Fails, Works, Fails, Answers, Fails] {
            assert_eq!(circuit.attempt(condition), Ok(()));
        }
        assert_eq!(
            circuit.attempt(Fails),
            Ok(()),
            "answers neither count nor clear"
        );
        assert_eq!(circuit.attempt(Fails), Err(5_000));
        circuit.later(4_999);
        assert_eq!(circuit.attempt(Fails), Err(1));
    }

    #[test]
    fn one_probe_decides_and_failed_ones_come_ever_more_seldom() {
        let mut circuit = Circuit::new();
        for _ in 0..3 {
            circuit.attempt(Fails).expect("it is closed");
        }
        for cooldown in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert_eq!(circuit.pass(), Err(cooldown));
            circuit.later(cooldown);
            let probe = circuit.pass().expect("its time is over");
            assert_eq!(circuit.pass(), Err(0), "one at a time");
            assert!(
                circuit
                    .0
                    .look(POLICY, circuit.1)
                    .is_err_and(|it| it.is_probed)
            );
            circuit.0.heard(probe, Fails, POLICY, circuit.1);
        }
        circuit.later(60_000);
        let probe = circuit.pass().expect("its time is over");
        circuit.0.heard(probe, Answers, POLICY, circuit.1);
        let other = circuit.pass().expect("it is closed, on trial");
        circuit.0.heard(other, Fails, POLICY, circuit.1);
        assert_eq!(circuit.pass(), Err(60_000), "one failure was enough");
        circuit.later(60_000);
        circuit.attempt(Works).expect("its time is over");
        for _ in 0..3 {
            assert_eq!(circuit.attempt(Fails), Ok(()), "all is forgotten");
        }
        assert_eq!(circuit.pass(), Err(5_000));
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place() {
        let mut circuit = Circuit::new();
        for _ in 0..3 {
            circuit.attempt(Fails).expect("it is closed");
        }
        circuit.later(5_000);
        let probe = circuit.pass().expect("its time is over");
        circuit.0.given_up(probe, circuit.1);
        let probe = circuit.pass().expect("the next one is the probe");
        assert_eq!(circuit.pass(), Err(0));
        circuit.0.heard(probe, Works, POLICY, circuit.1);
        assert_eq!(circuit.attempt(Works), Ok(()));
    }

    #[test]
    fn old_news_change_nothing() {
        let mut circuit = Circuit::new();
        let old: Vec<Pass> = (0..4)
            .map(|_| circuit.pass().expect("it is closed"))
            .collect();
        for pass in &old[..3] {
            circuit.0.heard(*pass, Fails, POLICY, circuit.1);
        }
        circuit.later(1_000);
        circuit.0.heard(old[3], Fails, POLICY, circuit.1);
        assert_eq!(circuit.pass(), Err(4_000), "not longer");
        circuit.0.heard(old[3], Works, POLICY, circuit.1);
        assert_eq!(circuit.pass(), Err(4_000), "nor shorter");
        circuit.later(4_000);
        let probe = circuit.pass().expect("its time is over");
        circuit.0.given_up(old[3], circuit.1);
        assert_eq!(circuit.pass(), Err(0), "the probe is still out");
        circuit.0.heard(probe, Works, POLICY, circuit.1);
    }

    #[test]
    fn who_has_none_passes_and_is_heard() {
        let mut circuit = Circuit::new();
        for _ in 0..9 {
            let pass = circuit.0.pass(OFF, circuit.1).expect("it has none");
            circuit.0.heard(pass, Fails, OFF, circuit.1);
        }
        assert_eq!(circuit.attempt(Fails), Ok(()), "it was not opened");
        assert_eq!(circuit.pass(), Err(5_000), "but it counted");
        let pass = circuit.0.pass(OFF, circuit.1).expect("it has none");
        circuit.0.heard(pass, Works, OFF, circuit.1);
        assert_eq!(circuit.attempt(Works), Ok(()), "an answer is an answer");
    }
}
