//! Who may have a call under way, and who waits for a place.
//!
//! Whoever comes waits behind those who came before, and each goes as soon as fewer calls are under way than
//! it allows. One that allows less than others may be passed by them: it must not hold up everybody.
//!
//! Invariant: a ticket is under way, waits, or is not known; leaving is right for each.

use std::collections::{BTreeSet, VecDeque};

use super::CallPolicy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) struct Ticket(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Entry {
    Go(Ticket),
    /// Until [`Gate::leave`] of another names the ticket.
    Wait(Ticket),
    /// As many wait as may.
    Full,
}

#[derive(Debug, Default)]
pub(in crate::model) struct Gate {
    last: u64,
    under_way: BTreeSet<Ticket>,
    /// Each with how many may be under way for it to go.
    waiting: VecDeque<(Ticket, usize)>,
}

impl Gate {
    pub(in crate::model) fn enter(&mut self, policy: &CallPolicy) -> Entry {
        self.last += 1;
        let ticket = Ticket(self.last);
        // Those who wait could not go when the last one left, and nobody left since; so who can go now
        // allows more than they do, or nobody waits.
        if self.under_way.len() < policy.concurrent_max {
            self.under_way.insert(ticket);
            return Entry::Go(ticket);
        }
        if self.waiting.len() >= policy.queue_max {
            return Entry::Full;
        }
        self.waiting.push_back((ticket, policy.concurrent_max));
        Entry::Wait(ticket)
    }

    /// The call is over, or its wait was given up. Answers who goes now.
    pub(in crate::model) fn leave(&mut self, ticket: Ticket) -> Vec<Ticket> {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        let mut go = Vec::new();
        if !self.under_way.remove(&ticket) {
            return go;
        }
        let mut at = 0;
        while let Some((next, most)) = self.waiting.get(at).copied() {
            if self.under_way.len() < most {
                self.waiting.remove(at);
                self.under_way.insert(next);
                go.push(next);
            } else {
                at += 1;
            }
        }
        go
    }

    pub(in crate::model) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(in crate::model) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(concurrent_max: usize, queue_max: usize) -> CallPolicy {
        CallPolicy {
            concurrent_max,
            queue_max,
            ..CallPolicy::default()
        }
    }

    fn waits(gate: &mut Gate, policy: &CallPolicy) -> Ticket {
        match gate.enter(policy) {
            Entry::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn goes(gate: &mut Gate, policy: &CallPolicy) -> Ticket {
        match gate.enter(policy) {
            Entry::Go(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn places_are_given_in_order_and_the_queue_has_an_end() {
        let (mut gate, policy) = (Gate::default(), policy(2, 2));
        let (one, two) = (goes(&mut gate, &policy), goes(&mut gate, &policy));
        let (three, four) = (waits(&mut gate, &policy), waits(&mut gate, &policy));
        assert_eq!(gate.enter(&policy), Entry::Full);
        assert_eq!((gate.under_way(), gate.waiting()), (2, 2));
        assert_eq!(gate.leave(two), [three]);
        assert_eq!(gate.leave(one), [four]);
        assert_eq!(gate.leave(one), [], "it is gone");
        assert_eq!(gate.leave(three), []);
        assert_eq!(gate.leave(four), []);
        assert_eq!((gate.under_way(), gate.waiting()), (0, 0));
    }

    #[test]
    fn who_gives_up_waiting_is_passed_over() {
        let (mut gate, policy) = (Gate::default(), policy(1, 2));
        let one = goes(&mut gate, &policy);
        let (two, three) = (waits(&mut gate, &policy), waits(&mut gate, &policy));
        assert_eq!(gate.leave(two), []);
        let four = waits(&mut gate, &policy);
        assert_eq!(gate.leave(one), [three]);
        assert_eq!(gate.leave(three), [four]);
    }

    #[test]
    fn who_allows_less_holds_up_nobody() {
        let (mut gate, few, many) = (Gate::default(), policy(1, 9), policy(2, 9));
        let (one, two) = (goes(&mut gate, &many), goes(&mut gate, &many));
        let (modest, next) = (waits(&mut gate, &few), waits(&mut gate, &many));
        assert_eq!(gate.leave(one), [next]);
        assert_eq!(gate.leave(two), []);
        assert_eq!(gate.leave(next), [modest]);
        assert_eq!(goes(&mut gate, &many), Ticket(5));
    }

    #[test]
    fn nobody_may_wait_where_no_queue_is() {
        let (mut gate, policy) = (Gate::default(), policy(1, 0));
        let one = goes(&mut gate, &policy);
        assert_eq!(gate.enter(&policy), Entry::Full);
        gate.leave(one);
        goes(&mut gate, &policy);
    }
}
