//! Who gets the next place: fair turns between tenants, in order within each. PURE.
//!
//! A tenant that has many waiting delays its own and nobody else's: it never has more places than it may, and
//! places that come free go round the tenants that wait.
//!
//! Invariant: nobody waits while there is a place that they may have. Invariant: `running` and `waiting` count
//! exactly the tickets that were given out and neither left nor were dropped.

use std::collections::{BTreeMap, VecDeque};

/// Names one who runs or waits.
pub(in crate::fair) type Ticket = u64;

/// How many places there are, and for one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub host_max: usize,
    pub tenant_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fair) enum Entry {
    Go(Ticket),
    Wait(Ticket),
}

#[derive(Debug)]
struct Line {
    running: usize,
    waiting: VecDeque<Ticket>,
    bounds: Bounds,
}

/// The places of one gate.
#[derive(Debug)]
pub(in crate::fair) struct Fair<K> {
    lines: BTreeMap<K, Line>,
    /// Tenants with somebody waiting; the first is next.
    round: VecDeque<K>,
    running: usize,
    newest: Ticket,
}

impl<K> Default for Fair<K> {
    fn default() -> Self {
        Self {
            lines: BTreeMap::new(),
            round: VecDeque::new(),
            running: 0,
            newest: 0,
        }
    }
}

impl<K: Ord + Clone> Fair<K> {
    /// Come in. The bounds hold for the tenant from now on.
    pub(in crate::fair) fn enter(&mut self, tenant: &K, bounds: Bounds) -> Entry {
        self.newest += 1;
        let ticket = self.newest;
        let running = self.running;
        let line = self.lines.entry(tenant.clone()).or_insert_with(|| Line {
            running: 0,
            waiting: VecDeque::new(),
            bounds,
        });
        line.bounds = bounds;
        if line.waiting.is_empty() && line.may_run(running) {
            line.running += 1;
            self.running += 1;
            return Entry::Go(ticket);
        }
        if line.waiting.is_empty() {
            self.round.push_back(tenant.clone());
        }
        line.waiting.push_back(ticket);
        Entry::Wait(ticket)
    }

    /// Leave a place, or the line; answers who goes now.
    pub(in crate::fair) fn leave(&mut self, tenant: &K, ticket: Ticket) -> Vec<Ticket> {
        let Some(line) = self.lines.get_mut(tenant) else {
            return Vec::new();
        };
        match line.waiting.iter().position(|it| *it == ticket) {
            Some(at) => {
                line.waiting.remove(at);
                if line.waiting.is_empty() {
                    self.round.retain(|it| it != tenant);
                }
            }
            None => {
                line.running -= 1;
                self.running -= 1;
            }
        }
        if line.running == 0 && line.waiting.is_empty() {
            self.lines.remove(tenant);
        }
        self.next()
    }

    /// Everybody who may go now, tenant by tenant.
    fn next(&mut self) -> Vec<Ticket> {
        let mut go = Vec::new();
        let mut passed = 0;
        while passed < self.round.len() {
            let tenant = self.round[passed].clone();
            let line = self.lines.get_mut(&tenant);
            let Some(line) = line.filter(|line| line.may_run(self.running)) else {
                passed += 1;
                continue;
            };
            let Some(ticket) = line.waiting.pop_front() else {
                self.round.remove(passed);
                continue;
            };
            line.running += 1;
            self.running += 1;
            go.push(ticket);
            self.round.remove(passed);
            if !line.waiting.is_empty() {
                self.round.push_back(tenant);
            }
        }
        go
    }

    /// How many of the tenant wait.
    #[cfg(test)]
    fn waiting(&self, tenant: &K) -> usize {
        self.lines.get(tenant).map_or(0, |line| line.waiting.len())
    }
}

impl Line {
    fn may_run(&self, running: usize) -> bool {
        running < self.bounds.host_max && self.running < self.bounds.tenant_max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(host_max: usize, tenant_max: usize) -> Bounds {
        Bounds {
            host_max,
            tenant_max,
        }
    }

    #[test]
    fn places_go_round_the_tenants() {
        let (mut fair, of) = (Fair::default(), bounds(2, 9));
        let first: Vec<_> = (0..5).map(|_| fair.enter(&"a", of)).collect();
        assert_eq!(first[..2], [Entry::Go(1), Entry::Go(2)]);
        assert_eq!(fair.enter(&"b", of), Entry::Wait(6));
        assert_eq!(fair.enter(&"c", of), Entry::Wait(7));
        assert_eq!(fair.waiting(&"a"), 3);
        assert_eq!(fair.leave(&"a", 1), [3], "whose line is the oldest");
        assert_eq!(fair.leave(&"a", 2), [6]);
        assert_eq!(fair.leave(&"a", 3), [7]);
        assert_eq!(fair.leave(&"b", 6), [4]);
        // Who gives up leaves the line, and the round.
        for (tenant, ticket) in [("a", 5), ("c", 7), ("a", 4)] {
            assert!(fair.leave(&tenant, ticket).is_empty());
        }
        assert!(fair.lines.is_empty() && fair.round.is_empty());
    }

    #[test]
    fn a_full_tenant_leaves_the_others_their_places() {
        let (mut fair, of) = (Fair::default(), bounds(8, 3));
        let go = |entry| matches!(entry, Entry::Go(_));
        let of_a: Vec<_> = (0..5).map(|_| go(fair.enter(&"a", of))).collect();
        assert_eq!(of_a, [true, true, true, false, false]);
        assert!(go(fair.enter(&"b", of)) && go(fair.enter(&"c", of)));
        // Given more, it takes them as they come free.
        assert!(!go(fair.enter(&"a", bounds(8, 4))));
        assert_eq!(fair.leave(&"b", 6), [4]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8),
        /// The one of this place among those who are in.
        Leave(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let enter = (0..4u8).prop_map(Step::Enter);
        let leave = any::<prop::sample::Index>().prop_map(Step::Leave);
        prop::collection::vec(prop_oneof![3 => enter, 2 => leave], 0..200)
    }

    proptest! {
        /// Against what was given out: nobody runs beyond a bound, nobody is lost, nobody goes twice, each
        /// tenant's go in order, and nobody waits who may run.
        #[test]
        fn it_counts_what_it_gave_out(
            steps in steps(), host_max in 1..8usize, tenant_max in 1..6usize,
        ) {
            let of = bounds(host_max, tenant_max);
            let mut fair = Fair::default();
            let mut running: Vec<(u8, Ticket)> = Vec::new();
            let mut waiting: Vec<(u8, Ticket)> = Vec::new();
            for step in steps {
                let gone = match step {
                    Step::Enter(tenant) => {
                        match fair.enter(&tenant, of) {
                            Entry::Go(ticket) => running.push((tenant, ticket)),
                            Entry::Wait(ticket) => waiting.push((tenant, ticket)),
                        }
                        Vec::new()
                    }
                    Step::Leave(at) => {
                        let count = running.len() + waiting.len();
                        if count == 0 {
                            continue;
                        }
                        let at = at.index(count);
                        let (tenant, ticket) = match at.checked_sub(running.len()) {
                            None => running.remove(at),
                            Some(at) => waiting.remove(at),
                        };
                        fair.leave(&tenant, ticket)
                    }
                };
                for ticket in gone {
                    let at = waiting.iter().position(|(_, it)| *it == ticket);
                    let (tenant, _) = waiting.remove(at.expect("it waited"));
                    prop_assert!(waiting.iter().all(|(of, it)| *of != tenant || *it > ticket), "in order");
                    running.push((tenant, ticket));
                }
                prop_assert!(running.len() <= host_max);
                for tenant in 0..4 {
                    let runs = running.iter().filter(|(of, _)| *of == tenant).count();
                    let waits = waiting.iter().filter(|(of, _)| *of == tenant).count();
                    prop_assert!(runs <= tenant_max);
                    prop_assert_eq!(fair.waiting(&tenant), waits);
                    let may = runs < tenant_max && running.len() < host_max;
                    prop_assert!(waits == 0 || !may, "{} waits", tenant);
                }
            }
        }
    }
}
