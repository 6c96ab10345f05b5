//! What waits to be written: a line for each owner, and groups that take from all of them in turn. PURE.
//!
//! Whoever writes much, or much at once, has the others wait for one group and for what of its own was
//! taken into that, however long its line is.
//!
//! Invariant: what one owner queued leaves in the order it came. Nothing is left behind for ever: who
//! was passed over for its size is first in the next group.

use std::collections::{HashMap, VecDeque};

/// Whose line: the bytes of a tenant's name, none for the host itself.
pub(in crate::store) type Line = Box<[u8]>;

#[derive(Debug)]
pub(in crate::store) struct Lines<T> {
    waiting: HashMap<Line, VecDeque<(usize, T)>>,
    /// Owners with something waiting, each once; the first is next.
    round: VecDeque<Line>,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            round: VecDeque::new(),
        }
    }
}

impl<T> Lines<T> {
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    pub(in crate::store) fn push(&mut self, line: Line, bytes: usize, item: T) {
        let round = &mut self.round;
        let waiting = self.waiting.entry(line).or_insert_with_key(|line| {
            round.push_back(line.clone());
            VecDeque::new()
        });
        waiting.push_back((bytes, item));
    }

    /// What is written together: of each owner in turn, as long as all of it comes to so many bytes. What
    /// is larger by itself goes alone.
    pub(in crate::store) fn next_group(&mut self, bytes_max: usize) -> Vec<T> {
        let (mut group, mut bytes) = (Vec::new(), 0);
        // Those before `passed` do not fit any more and keep their places.
        let mut passed = 0;
        while let Some(line) = self.round.get(passed) {
            let Some(waiting) = self.waiting.get_mut(line) else {
                self.round.remove(passed);
                continue;
            };
            let fits = |(more, _): &mut (usize, T)| group.is_empty() || bytes + *more <= bytes_max;
            let Some((more, item)) = waiting.pop_front_if(fits) else {
                passed += 1;
                continue;
            };
            bytes += more;
            group.push(item);
            let is_over = waiting.is_empty();
            if let Some(line) = self.round.remove(passed) {
                if is_over {
                    self.waiting.remove(&line);
                } else {
                    self.round.push_back(line);
                }
            }
        }
        group
    }

    /// Everything that is left, in the order of the groups.
    pub(in crate::store) fn drain(&mut self) -> Vec<T> {
        self.next_group(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_who_writes_much_lets_the_others_in() {
        let mut lines = Lines::default();
        for n in 0..5 {
            lines.push((*b"busy").into(), 60, ("busy", n));
        }
        lines.push((*b"quiet").into(), 10, ("quiet", 0));
        let group = lines.next_group(100);
        assert_eq!(group, [("busy", 0), ("quiet", 0)]);
        // What does not fit keeps its place before those that come.
        lines.push((*b"quiet").into(), 50, ("quiet", 1));
        assert_eq!(lines.next_group(100), [("busy", 1)]);
        assert_eq!(lines.next_group(100), [("quiet", 1)]);
        lines.push((*b"huge").into(), 1_000, ("huge", 0));
        assert_eq!(lines.next_group(100), [("busy", 2)]);
        assert_eq!(lines.next_group(100), [("huge", 0)]);
        assert_eq!(lines.drain(), [("busy", 3), ("busy", 4)]);
        assert!(lines.is_empty() && lines.waiting.is_empty());
    }

    proptest! {
        /// In order for each, within the bound, nothing lost; and whoever waits at the begin of a
        /// group goes before anybody goes twice, unless it does not fit.
        #[test]
        fn groups_take_in_turns(
            steps in prop::collection::vec(prop::option::of((0..4u8, 1..120usize)), 1..200),
        ) {
            let mut lines = Lines::default();
            let mut waiting: [VecDeque<(u64, usize)>; 4] = Default::default();
            let (mut queued, mut taken) = (0, 0);
            for step in steps.into_iter().chain(std::iter::repeat_n(None, 200)) {
                let Some((owner, bytes)) = step else {
                    let waited = waiting.each_ref().map(|line| line.front().copied());
                    let group: Vec<(u8, u64, usize)> = lines.next_group(100);
                    let total: usize = group.iter().map(|(.., bytes)| bytes).sum();
                    prop_assert!(total <= 100 || group.len() == 1);
                    let mut times = [0; 4];
                    for (owner, id, bytes) in &group {
                        let of = usize::from(*owner);
                        prop_assert_eq!(waiting[of].pop_front(), Some((*id, *bytes)));
                        times[of] += 1;
                    }
                    taken += group.len();
                    let most = times.into_iter().max().unwrap_or(0);
                    for (owner, waited) in waited.into_iter().enumerate() {
                        let is_too_large = |bytes: usize| total + bytes > 100;
                        prop_assert!(
                            most < 2 || times[owner] > 0 || waited.is_none_or(|(_, bytes)| is_too_large(bytes)),
                            "{} waits", owner
                        );
                    }
                    continue;
                };
                queued += 1;
                lines.push([owner].into(), bytes, (owner, queued, bytes));
                waiting[usize::from(owner)].push_back((queued, bytes));
            }
            prop_assert!(lines.is_empty());
            prop_assert_eq!(taken as u64, queued);
        }
    }
}
