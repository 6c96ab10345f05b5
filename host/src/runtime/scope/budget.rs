//! What the turn may still use.

use std::sync::atomic::Ordering;

use crate::budgets::{AgentBudget, Exhausted};
use crate::clock::Time;
use crate::journal::entry::{Observation, Payload};
use crate::journal::state::State;

use super::{Scope, Stop};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) struct Budget {
    pub(in crate::runtime) host_calls: u64,
    pub(in crate::runtime) reply_bytes: u64,
    /// Running time, waiting included, downtime of the host left out.
    pub(in crate::runtime) wall_ms: u64,
}

impl Scope {
    /// What is left for this turn's run here, in micro-units, if it is capped: the least that is left of
    /// what the run and the session may spend. What a called agent is handed down. (The tenant's caps
    /// bind it where it runs.)
    pub fn left_micros(&self) -> Option<u64> {
        self.ledger.look(|state| {
            let (session, run) = (session_micros(state), state.run_micros(&self.run));
            self.caps(state).left_micros(session, run)
        })
    }

    /// What the agent may spend, in a run that its caller may have bound.
    fn caps(&self, state: &State) -> AgentBudget {
        self.budget.within(state.run_micros_max(&self.run))
    }

    /// Whether no further call of a model may begin.
    pub(super) fn is_over_budget(&self) -> bool {
        let now = self.ledger.clock().now();
        let over = self.ledger.look(|state| self.over_budget(state, now));
        over.is_some()
    }

    /// Why no further call of a model may begin, if so.
    pub(super) fn over_budget(&self, state: &State, now: Time) -> Option<Exhausted> {
        let (session, run) = (session_micros(state), state.run_micros(&self.run));
        let own = self.caps(state).check(session, run);
        let all = own.and_then(|()| self.budgets.check_tenant(&self.tenant, now));
        all.err()
    }

    pub(in crate::runtime) fn budget(&self) -> Result<Budget, Stop> {
        let asked = || "asks for its budget".to_owned();
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::Budget {
                    host_calls,
                    reply_bytes,
                    wall_ms,
                } = it.what
            {
                return Ok(Budget {
                    host_calls,
                    reply_bytes,
                    wall_ms,
                });
            }
            return Err(self.differs(&recorded, asked()));
        }
        let calls = self.calls.load(Ordering::Relaxed);
        self.observe(|batch| {
            let limits = &self.limits;
            let open = batch.state().turns.get(&self.turn);
            let ran = open.map_or(0, |open| open.ran_until_ms(batch.now()));
            let budget = Budget {
                host_calls: limits.host_calls_max.saturating_sub(calls),
                reply_bytes: limits
                    .reply_bytes_max
                    .saturating_sub(batch.said(&self.turn)),
                wall_ms: limits.turn_ms_max.saturating_sub(ran),
            };
            let Budget {
                host_calls,
                reply_bytes,
                wall_ms,
            } = budget;
            let what = Observation::Budget {
                host_calls,
                reply_bytes,
                wall_ms,
            };
            (budget, what)
        })
    }
}

/// What counts against a session's cap.
fn session_micros(state: &State) -> u64 {
    state.spent().total.spent_micros()
}
