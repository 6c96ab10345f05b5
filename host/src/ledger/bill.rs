//! What appended entries used: counted for the tenant, kept for the next frame, told to the metrics.
//!
//! And what only this process knows of calls under way: whether they have left the host. One that waits
//! for its place, or is answered by what another call got, costs nothing if its turn is cut off.

use std::collections::{BTreeMap, BTreeSet};

use crate::budgets::{Meter, usage_write};
use crate::clock::Day;
use crate::id::TurnId;
use crate::journal::entry::{Payload, Usage};
use crate::journal::state::{OpenCall, OpenTurn, Spent, State};
use crate::store::{JournalId, Write};
use crate::telemetry::ModelUse;

#[derive(Default)]
pub(super) struct Bill {
    pub(super) meter: Meter,
    /// The whole of each day that unflushed entries touched.
    days: BTreeMap<Day, Usage>,
    /// Calls that are written down and have not left the host. What an older process left may have.
    unmade: BTreeSet<(TurnId, u32)>,
}

/// What stood there before an entry, and what it says that was used.
pub(super) struct Before {
    spent: Spent,
    models: Vec<(String, Usage)>,
    over: Option<Over>,
}

/// What is under way no longer.
enum Over {
    Call(TurnId, u32),
    Turn(TurnId),
}

impl Bill {
    pub(super) fn before(&self, state: &State, payload: &Payload) -> Before {
        let used = |call: &OpenCall, usage| Some((call.model.clone()?, usage));
        let (models, over) = match payload {
            Payload::Returned(returned) => {
                let turn = state.turns.get(&returned.turn);
                let call = turn.and_then(|turn| turn.open_calls.get(&returned.n));
                let used = call.and_then(|call| used(call, returned.usage));
                let over = Over::Call(returned.turn.clone(), returned.n);
                (used.into_iter().collect(), Some(over))
            }
            Payload::TurnEnded(ended) => {
                let open = state.turns.get(&ended.turn).into_iter();
                let cut = open.flat_map(|open| self.made(&ended.turn, open));
                let models = cut.filter_map(|call| used(call, call.cut())).collect();
                (models, Some(Over::Turn(ended.turn.clone())))
            }
            _ => (Vec::new(), None),
        };
        Before {
            spent: *state.spent(),
            models,
            over,
        }
    }

    /// The entry was taken in.
    pub(super) fn after(&mut self, journal: &JournalId, state: &State, before: Before) {
        match before.over {
            Some(Over::Call(turn, n)) => drop(self.unmade.remove(&(turn, n))),
            Some(Over::Turn(turn)) => self.unmade.retain(|(of, _)| *of != turn),
            None => {}
        }
        let spent = state.spent();
        if spent.total == before.spent.total {
            return;
        }
        self.days.insert(spent.day, spent.of_day);
        let micros = spent.total.since(before.spent.total).cost_micros;
        self.meter.add(spent.day, micros);
        for (model, usage) in before.models {
            let used = ModelUse {
                tenant: journal.tenant.as_str(),
                model: &model,
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                cost_micros: usage.cost_micros,
            };
            used.count();
        }
    }

    /// The whole of the days that were touched, for the commit of the entries that did: a crash leaves both or
    /// neither.
    pub(super) fn take_writes(&mut self, journal: &JournalId) -> impl Iterator<Item = Write> {
        let days = std::mem::take(&mut self.days).into_iter();
        days.map(|(day, usage)| usage_write(journal, day, usage))
    }

    /// A call is written down and waits, or is about to leave the host.
    pub(super) fn mark(&mut self, turn: &TurnId, n: u32, is_made: bool) {
        let call = (turn.clone(), n);
        if is_made {
            self.unmade.remove(&call);
        } else {
            self.unmade.insert(call);
        }
    }

    /// What the turn used if it ends now: what came back, and what is under way as far as that is known.
    pub(super) fn usage_at_end(&self, turn: &TurnId, open: &OpenTurn) -> Usage {
        let mut usage = open.usage;
        self.made(turn, open).for_each(|call| usage.add(call.cut()));
        usage
    }

    /// Calls under way that may have left the host.
    fn made<'a>(
        &'a self,
        turn: &'a TurnId,
        open: &'a OpenTurn,
    ) -> impl Iterator<Item = &'a OpenCall> {
        let calls = open.open_calls.iter();
        let made = calls.filter(|(n, _)| !self.unmade.contains(&(turn.clone(), **n)));
        made.map(|(_, call)| call)
    }
}
