//! Keeps sled's file from growing beyond what it holds.
//!
//! A segment of sled's log can be used again when every page in it was written elsewhere since. sled 0.34.7 moves
//! the last few of those pages only when it happens to rewrite another page, one for one; short rows, which is what we
//! write, hardly ever make it do that. So its list of pages to move grows, nearly empty segments stay, and the file
//! with them: by 55 MB for every 10,000 sessions that come and go.
//!
//! So when the file has grown by more than twice what the rows did, as many pages are moved as rows are
//! written: a key in a tree of its own is overwritten, and every tenth time sled rewrites that page,
//! and moves one other. Nothing else of its interface does. While the file is not too large nothing is
//! moved and nothing is paid. Pages are moved while no commit waits, a few at a time; while commits
//! wait, no more after a group than it makes necessary, so that a flood neither waits for what came
//! before it nor lets the file grow.
//!
//! Pages are below 128 KiB ([`super::super::row`]), so a step moves at most 256.

use sled::{Db, Tree};

use super::super::engine::{Change, Changes, Others};

/// Rows in sled's pages and their heads, and what is free in between, take up to twice their bytes.
const BYTES_PER_ROW_BYTE: i64 = 2;

/// Pages moved at once while others wait: some 10 ms.
const MOVES_MAX: usize = 128;

/// What is left for later.
const OWED_MAX: usize = 100_000;

/// While the file is too large, at least so many for each group: the list was not begun today.
const MOVES_MIN: usize = 8;

/// Pages moved without looking how much that was, and at once while nobody waits.
const STEP: usize = 2;

/// sled consolidates a page when it has ten fragments (`PAGE_CONSOLIDATION_THRESHOLD`).
const WRITES_PER_MOVE: usize = 10;

/// Whether the file is too large, and how many pages that says to move.
#[derive(Debug)]
struct Measure {
    /// Bytes of the file when it was opened.
    opened: u64,
    slack: u64,
    /// Bytes of rows that came since, less those that went.
    grown: i64,
    /// Rows that were written since pages were last moved.
    written: usize,
    /// Pages to move for rows that were written before.
    owed: usize,
}

impl Measure {
    fn of(opened: u64, slack: u64) -> Self {
        Self {
            opened,
            slack,
            grown: 0,
            written: 0,
            owed: 0,
        }
    }

    fn add(&mut self, changes: &Changes) {
        let size = |key: &[u8], value: &[u8]| {
            i64::try_from(key.len() + value.len()).expect("rows are far below that")
        };
        for (key, Change { new, old }) in changes {
            self.grown += new.as_ref().map_or(0, |value| size(key, value));
            self.grown -= old.as_ref().map_or(0, |value| size(key, value));
        }
        self.written += changes.len();
    }

    /// How many pages to move now that the file has so many bytes.
    fn moves(&mut self, file: u64, others: Others) -> usize {
        let written = std::mem::take(&mut self.written);
        let grown = self.grown.saturating_mul(BYTES_PER_ROW_BYTE);
        let room = self.opened.saturating_add_signed(grown);
        if file <= room.saturating_add(self.slack) {
            self.owed = 0;
            return 0;
        }
        if written > 0 {
            self.owed = (self.owed + written.max(MOVES_MIN)).min(OWED_MAX);
        }
        let moves = match others {
            Others::Wait => written.clamp(MOVES_MIN, MOVES_MAX),
            Others::Absent => STEP,
        };
        let moves = moves.min(self.owed);
        self.owed -= moves;
        moves
    }
}

pub(super) struct Room {
    measure: Measure,
    /// What is overwritten; made when it is first needed.
    tree: Option<Tree>,
    overwritten: u8,
}

impl Room {
    pub(super) fn of(file: u64, slack: u64) -> Self {
        Self {
            measure: Measure::of(file, slack),
            tree: None,
            overwritten: 0,
        }
    }

    /// These changes were applied.
    pub(super) fn add(&mut self, changes: &Changes) {
        self.measure.add(changes);
    }

    /// How many pages to move now that the file has so many bytes.
    pub(super) fn moves(&mut self, file: u64, others: Others) -> usize {
        self.measure.moves(file, others)
    }

    /// Whether there are more to move when nobody waits.
    pub(super) fn is_owed(&self) -> bool {
        self.measure.owed > 0
    }

    /// A step of [`steps`].
    pub(super) fn move_pages(&mut self, db: &Db, count: usize) -> sled::Result<()> {
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => none.insert(db.open_tree("room")?),
        };
        for _ in 0..count * WRITES_PER_MOVE {
            self.overwritten = self.overwritten.wrapping_add(1);
            tree.insert([0], &[self.overwritten])?;
        }
        Ok(())
    }
}

/// So many pages, as many at once as may be.
pub(super) fn steps(moves: usize) -> impl Iterator<Item = usize> {
    (0..moves).step_by(STEP).map(move |at| STEP.min(moves - at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: u64 = 10_000;

    fn change(new: Option<usize>, old: Option<usize>) -> Change {
        Change {
            new: new.map(|bytes| vec![0; bytes]),
            old: old.map(|bytes| vec![0; bytes].into()),
        }
    }

    #[test]
    fn pages_are_moved_only_while_the_file_outgrows_its_rows() {
        let mut measure = Measure::of(100, SLACK);
        let wait = |measure: &mut Measure, file| measure.moves(file, Others::Wait);
        let key = || vec![0; 10];
        let many = |n: u8| (0..n).map(|at| (vec![at], change(Some(1), Some(1))));
        measure.add(&Changes::from([(key(), change(Some(990), None))]));
        assert_eq!(wait(&mut measure, 100 + SLACK + 2_000), 0);
        measure.add(&many(1).collect());
        assert_eq!(wait(&mut measure, 100 + SLACK + 2_001), MOVES_MIN);
        // Rows that are replaced or go make no room for the file.
        measure.add(&Changes::from([(key(), change(Some(490), Some(990)))]));
        assert_eq!(wait(&mut measure, 100 + SLACK + 1_000), 0);
        measure.add(&many(1).collect());
        assert_eq!(wait(&mut measure, 100 + SLACK + 1_001), MOVES_MIN);
        measure.add(&Changes::from([(key(), change(None, Some(490)))]));
        measure.add(&Changes::from([(key(), change(None, Some(490)))]));
        assert_eq!(wait(&mut measure, SLACK), 0, "what was there may have gone");
    }

    #[test]
    fn who_waits_does_so_for_no_more_than_its_own() {
        let mut measure = Measure::of(0, 0);
        let many = |n: u8| (0..n).map(|at| (vec![at], change(Some(1), Some(1))));
        measure.add(&many(100).collect());
        assert_eq!(measure.moves(u64::MAX, Others::Wait), 100);
        measure.add(&many(255).collect());
        assert_eq!(measure.moves(u64::MAX, Others::Wait), MOVES_MAX);
        measure.add(&many(1).collect());
        assert_eq!(measure.moves(u64::MAX, Others::Wait), MOVES_MIN);
        assert_eq!(measure.owed, 255 - MOVES_MAX);
        // Nobody waits: the rest, in steps.
        let steps = (0..).take_while(|_| measure.moves(u64::MAX, Others::Absent) > 0);
        assert_eq!(steps.count(), (255 - MOVES_MAX).div_ceil(STEP));
        measure.add(&many(100).collect());
        assert_eq!(measure.moves(0, Others::Absent), 0);
        assert_eq!(measure.owed, 0, "it is small enough again");
    }
}
