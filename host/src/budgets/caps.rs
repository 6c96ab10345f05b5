//! PURE: caps on what may be spent, and whether one is reached.
//!
//! The rule of all of them: what is spent before a step decides whether it may begin. A step that
//! began goes on, so a cap is passed by at most what was under way. With a cap of 12 and steps of 5,
//! three steps are made, 15 are spent, and the fourth is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// What one agent may spend, as its owner configures it. A cap that is left out is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentBudget {
    /// Of one run in one session: its turns, and the agents that they called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_micros_max: Option<u64>,
    /// Of the whole session, whoever of its agents spent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_micros_max: Option<u64>,
}

/// What one tenant may spend, as the operator configures it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantBudget {
    /// In all.
    pub total_micros_max: Option<u64>,
    /// On one day, UTC.
    pub day_micros_max: Option<u64>,
}

/// Which cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    Run,
    Session,
    TenantDay,
    Tenant,
}

impl Cap {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Session => "session",
            Self::TenantDay => "tenant-day",
            Self::Tenant => "tenant",
        }
    }
}

/// A cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    pub cap: Cap,
    pub spent_micros: u64,
    pub limit_micros: u64,
    /// When it is lifted by itself.
    pub until: Option<Time>,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.cap {
            Cap::Run => "the run's budget",
            Cap::Session => "the session's budget",
            Cap::TenantDay => "the tenant's budget of the day",
            Cap::Tenant => "the tenant's budget",
        };
        let (spent, limit) = (self.spent_micros, self.limit_micros);
        write!(f, "{whose} is used up: {spent} of {limit} micro-units")?;
        match self.until {
            Some(until) => write!(f, ", until {}", until.to_rfc3339()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Exhausted {}

pub(super) fn reached(
    cap: Cap,
    spent_micros: u64,
    limit: Option<u64>,
    until: Option<Time>,
) -> Option<Exhausted> {
    let limit_micros = limit.filter(|limit| spent_micros >= *limit)?;
    Some(Exhausted {
        cap,
        spent_micros,
        limit_micros,
        until,
    })
}

impl AgentBudget {
    /// Whether something may begin that has cost so much in its session and in its run.
    pub fn check(&self, session_micros: u64, run_micros: u64) -> Result<(), Exhausted> {
        self.check_session(session_micros)?;
        reached(Cap::Run, run_micros, self.run_micros_max, None).map_or(Ok(()), Err)
    }

    /// The same without the run's cap: a run has none of its own before it begins.
    pub fn check_session(&self, session_micros: u64) -> Result<(), Exhausted> {
        let (cap, limit) = (Cap::Session, self.session_micros_max);
        reached(cap, session_micros, limit, None).map_or(Ok(()), Err)
    }

    /// What is left of both; none if neither is capped.
    pub fn left_micros(&self, session_micros: u64, run_micros: u64) -> Option<u64> {
        let left = |limit: Option<u64>, spent: u64| limit.map(|it| it.saturating_sub(spent));
        let of_run = left(self.run_micros_max, run_micros);
        let of_session = left(self.session_micros_max, session_micros);
        of_run.into_iter().chain(of_session).min()
    }

    /// The same where a caller has handed down what is left of the run: a run may spend no more here
    /// than its caller has left.
    pub fn within(self, left_of_run: Option<u64>) -> Self {
        let caps = self.run_micros_max.into_iter().chain(left_of_run);
        Self {
            run_micros_max: caps.min(),
            ..self
        }
    }
}

impl TenantBudget {
    /// With what it leaves open from another.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            total_micros_max: self.total_micros_max.or(other.total_micros_max),
            day_micros_max: self.day_micros_max.or(other.day_micros_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(run: Option<u64>, session: Option<u64>) -> AgentBudget {
        AgentBudget {
            run_micros_max: run,
            session_micros_max: session,
        }
    }

    #[test]
    fn three_steps_of_five_fit_under_twelve() {
        let budget = budget(None, Some(12));
        let mut spent = 0;
        while budget.check(spent, 0).is_ok() {
            spent += 5;
        }
        assert_eq!(spent, 15);
        let exhausted = budget.check(spent, 0).unwrap_err();
        assert_eq!(
            exhausted.to_string(),
            "the session's budget is used up: 15 of 12 micro-units"
        );
    }

    #[test]
    fn a_cap_is_reached_by_spending_all_of_it() {
        for (run, session, spent_run, spent_session, reached) in [
            (None, None, u64::MAX, u64::MAX, None),
            (Some(2), None, 1, 9, None),
            (Some(2), None, 2, 2, Some(Cap::Run)),
            (None, Some(2), 9, 1, None),
            (None, Some(2), 0, 2, Some(Cap::Session)),
            (Some(1), Some(1), 1, 1, Some(Cap::Session)),
            (Some(0), None, 0, 0, Some(Cap::Run)),
        ] {
            let checked = budget(run, session).check(spent_session, spent_run);
            assert_eq!(checked.err().map(|it| it.cap), reached);
        }
    }

    #[test]
    fn what_is_left_is_the_least_that_is_left_of_anything() {
        for (run, session, left) in [
            (None, None, None),
            (Some(10), None, Some(7)),
            (None, Some(10), Some(5)),
            (Some(10), Some(10), Some(5)),
            (Some(1), Some(10), Some(0)),
        ] {
            assert_eq!(budget(run, session).left_micros(5, 3), left);
        }
    }

    #[test]
    fn a_caller_hands_down_no_more_than_it_has() {
        let within = |run, left| budget(run, Some(9)).within(left).run_micros_max;
        assert_eq!(within(None, None), None);
        assert_eq!(within(Some(4), None), Some(4));
        assert_eq!(within(None, Some(3)), Some(3));
        assert_eq!(within(Some(4), Some(3)), Some(3));
        assert_eq!(within(Some(4), Some(5)), Some(4));
        assert_eq!(
            budget(None, Some(9)).within(Some(1)).session_micros_max,
            Some(9)
        );
    }

    #[test]
    fn it_says_until_when() {
        let exhausted = reached(Cap::TenantDay, 7, Some(7), Some(Time(86_400_000)));
        assert_eq!(
            exhausted.unwrap().to_string(),
            "the tenant's budget of the day is used up: 7 of 7 micro-units, until 1970-01-02T00:00:00.000Z"
        );
    }
}
