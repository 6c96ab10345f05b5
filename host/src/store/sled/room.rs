//! Keeps sled's file from growing beyond what it holds.
//!
//! A segment of sled's log can be used again when every page in it was written elsewhere since. sled 0.34.7 moves
//! the last few of those pages only when it happens to rewrite another page, one for one; short rows, which is what we
//! write, hardly ever make it do that. So its list of pages to move grows, nearly empty segments stay, and the file
//! with them: by 55 MB for every 10,000 sessions that come and go.
//!
//! So when the file has grown by more than twice what the rows did, as many pages are moved as rows are written: a key
//! in a tree of its own is overwritten, and every tenth time sled rewrites that page, and moves one other. Nothing else
//! of its interface does. While the file is not too large nothing is moved and nothing is paid.
//!
//! Invariant: between two syncs less than one of sled's segments (512 KiB) is written. sled may write over a segment
//! when it has begun later ones; what it moved out of it must be on disk by then. Pages are below 128 KiB
//! ([`super::super::row`]), so a step moves at most 256; what is left unsynced after one is at most [`UNSYNCED_MAX`], and the
//! group that comes next has 256 at most.

use sled::{Db, Tree};

use super::super::engine::{Change, Changes};

/// Rows in sled's pages and their heads, and what is free in between, take up to twice their bytes.
const BYTES_PER_ROW_BYTE: i64 = 2;

const UNSYNCED_MAX: usize = 128 * 1024;

/// Pages moved after one group at most: some 10 ms.
const MOVES_MAX: usize = 128;

/// What is left for later groups.
const OWED_MAX: usize = 100_000;

/// While the file is too large, at least so many after each group: the list was not begun today.
const MOVES_MIN: usize = 8;

/// Pages moved without looking how much that was.
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
    /// Rows that were written, and for which no page was moved yet.
    changes: usize,
}

impl Measure {
    fn add(&mut self, changes: &Changes) {
        let size = |key: &[u8], value: &[u8]| {
            i64::try_from(key.len() + value.len()).expect("rows are far below that")
        };
        for (key, Change { new, old }) in changes {
            self.grown += new.as_ref().map_or(0, |value| size(key, value));
            self.grown -= old.as_ref().map_or(0, |value| size(key, value));
        }
        self.changes += changes.len();
    }

    /// How many pages to move now that the file has so many bytes.
    fn moves(&mut self, file: u64) -> usize {
        let owed = std::mem::take(&mut self.changes);
        let grown = self.grown.saturating_mul(BYTES_PER_ROW_BYTE);
        let room = self.opened.saturating_add_signed(grown);
        if file <= room.saturating_add(self.slack) {
            return 0;
        }
        let moves = owed.clamp(MOVES_MIN, MOVES_MAX);
        self.changes = owed.saturating_sub(moves).min(OWED_MAX);
        moves
    }
}

pub(super) struct Room {
    measure: Measure,
    /// What is overwritten; made when it is first needed.
    tree: Option<Tree>,
    written: u8,
}

impl Room {
    pub(super) fn of(file: u64, slack: u64) -> Self {
        Self {
            measure: Measure {
                opened: file,
                slack,
                grown: 0,
                changes: 0,
            },
            tree: None,
            written: 0,
        }
    }

    /// These changes were applied.
    pub(super) fn add(&mut self, changes: &Changes) {
        self.measure.add(changes);
    }

    /// Move what is to be moved now that the file has so many bytes, and sync as it is needed.
    pub(super) fn make<E: From<sled::Error>>(
        &mut self,
        db: &Db,
        file: u64,
        sync: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = self.measure.moves(file);
        let mut unsynced = 0;
        while left > 0 {
            self.move_pages(db, STEP.min(left))?;
            left = left.saturating_sub(STEP);
            unsynced += db.flush()?;
            if unsynced > UNSYNCED_MAX {
                sync()?;
                unsynced = 0;
            }
        }
        Ok(())
    }

    fn move_pages(&mut self, db: &Db, count: usize) -> sled::Result<()> {
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => none.insert(db.open_tree("room")?),
        };
        for _ in 0..count * WRITES_PER_MOVE {
            self.written = self.written.wrapping_add(1);
            tree.insert([0], &[self.written])?;
        }
        Ok(())
    }
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
        let mut measure = Measure {
            opened: 100,
            slack: SLACK,
            grown: 0,
            changes: 0,
        };
        let key = || vec![0; 10];
        measure.add(&Changes::from([(key(), change(Some(990), None))]));
        assert_eq!(measure.moves(100 + SLACK + 2_000), 0);
        assert_eq!(measure.moves(100 + SLACK + 2_001), MOVES_MIN);
        // Rows that are replaced or go make no room for the file.
        measure.add(&Changes::from([(key(), change(Some(490), Some(990)))]));
        assert_eq!(measure.moves(100 + SLACK + 1_000), 0);
        assert_eq!(measure.moves(100 + SLACK + 1_001), MOVES_MIN);
        measure.add(&Changes::from([(key(), change(None, Some(490)))]));
        measure.add(&Changes::from([(key(), change(None, Some(490)))]));
        assert_eq!(measure.moves(SLACK), 0, "what was there may have gone");
        let many = |n: u8| (0..n).map(|at| (vec![at], change(Some(1), Some(1))));
        measure.add(&many(100).collect());
        assert_eq!(measure.moves(u64::MAX), 100, "as many as rows are written");
        measure.add(&many(255).collect());
        assert_eq!(measure.moves(u64::MAX), MOVES_MAX);
        assert_eq!(measure.moves(u64::MAX), 255 - MOVES_MAX, "the rest later");
    }
}
