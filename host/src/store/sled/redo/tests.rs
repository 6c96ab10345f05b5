use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::engine::Change;

type Image = BTreeMap<Vec<u8>, Vec<u8>>;

fn changes(rows: &[(u8, Option<Vec<u8>>)]) -> Changes {
    let rows = rows.iter().cloned();
    rows.map(|(key, new)| (vec![key; 3], Change { new, old: None }))
        .collect()
}

fn rows_of(changes: &Changes) -> Rows {
    let rows = changes.iter();
    rows.map(|(key, change)| (key.clone(), change.new.clone()))
        .collect()
}

fn put(image: &mut Image, rows: &[(Vec<u8>, Option<Vec<u8>>)]) {
    for (key, value) in rows {
        match value {
            Some(value) => image.insert(key.clone(), value.clone()),
            None => image.remove(key),
        };
    }
}

/// A log in a scratch folder.
struct Scratch {
    folder: tempfile::TempDir,
    log: RedoLog,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (log, commits) =
            RedoLog::open(&folder.path().join("redo"), Durability::Process).unwrap();
        assert!(commits.is_empty());
        Self { folder, log }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("redo")).unwrap()
    }

    fn commits(&self) -> Vec<Rows> {
        read(&self.bytes()).unwrap().2
    }
}

/// One of some rows, small and large.
fn commit() -> impl Strategy<Value = Vec<(u8, Option<Vec<u8>>)>> {
    let value = prop_oneof![
        4 => (0usize..100).prop_map(Some),
        1 => (4_000usize..9_000).prop_map(Some),
        1 => Just(None),
    ];
    let value = (value, any::<u8>()).prop_map(|(len, byte)| len.map(|len| vec![byte; len]));
    prop::collection::vec((0u8..6, value), 1..5)
}

#[derive(Debug, Clone)]
enum Step {
    Log(Vec<(u8, Option<Vec<u8>>)>),
    /// As the engine does when a commit is too long.
    Through(Vec<(u8, Option<Vec<u8>>)>),
    Checkpoint,
    /// The process ends and the next one opens the log.
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => commit().prop_map(Step::Log),
        1 => commit().prop_map(Step::Through),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..12)
}

/// An engine whose disk has what was there at the last checkpoint, and of what came since as much as it pleases.
#[derive(Default)]
struct Disk {
    synced: Image,
    since: Rows,
    acknowledged: Image,
}

impl Disk {
    fn checkpoint(&mut self) {
        self.synced = self.acknowledged.clone();
        self.since.clear();
    }

    /// What a crash may leave of the engine, made whole by what the log has.
    fn recovered(&self, kept: usize, commits: &[Rows]) -> Image {
        let mut image = self.synced.clone();
        put(&mut image, &self.since[..kept.min(self.since.len())]);
        commits.iter().for_each(|rows| put(&mut image, rows));
        image
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever sled has of what came since a checkpoint, the log makes it what was acknowledged; a record that a crash
    /// cuts off is one whole commit more or nothing.
    #[test]
    fn what_was_acknowledged_is_there_after_any_crash(
        steps in steps(),
        kept in any::<prop::sample::Index>(),
        torn in any::<prop::sample::Index>(),
    ) {
        let mut scratch = Scratch::new();
        let mut disk = Disk::default();
        for step in steps {
            let before = scratch.bytes();
            let mut next = disk.acknowledged.clone();
            match step {
                Step::Log(rows) => {
                    let changes = changes(&rows);
                    prop_assert!(scratch.log.has_room_for(&changes));
                    scratch.log.append(&changes).unwrap();
                    put(&mut next, &rows_of(&changes));
                    // Some of its blocks are written, in any order, before the power goes.
                    let after = scratch.bytes();
                    let is_changed = |at: &usize| before[*at..at + BLOCK] != after[*at..at + BLOCK];
                    let blocks: Vec<usize> = (0..LENGTH).step_by(BLOCK).filter(is_changed).collect();
                    let mut cut = before.clone();
                    let missing = torn.index(blocks.len());
                    for (n, at) in blocks.iter().enumerate().filter(|(n, _)| *n != missing) {
                        prop_assert!(n < blocks.len());
                        cut[*at..at + BLOCK].copy_from_slice(&after[*at..at + BLOCK]);
                    }
                    let commits = read(&cut).unwrap().2;
                    let kept = kept.index(disk.since.len() + 1);
                    prop_assert_eq!(&disk.recovered(kept, &commits), &disk.acknowledged);
                    disk.acknowledged = next;
                    disk.since.extend(rows_of(&changes));
                }
                Step::Through(rows) => {
                    disk.checkpoint();
                    scratch.log.clear().unwrap();
                    put(&mut disk.acknowledged, &rows_of(&changes(&rows)));
                    disk.checkpoint();
                    scratch.log.begin_epoch();
                }
                Step::Checkpoint => {
                    disk.checkpoint();
                    scratch.log.begin_epoch();
                }
                Step::Reopen => {
                    let path = scratch.folder.path().join("redo");
                    let (log, commits) = RedoLog::open(&path, Durability::Power).unwrap();
                    prop_assert_eq!(&disk.recovered(0, &commits), &disk.acknowledged);
                    disk.checkpoint();
                    scratch.log = log;
                }
            }
            let commits = scratch.commits();
            for kept in 0..=disk.since.len() {
                prop_assert_eq!(&disk.recovered(kept, &commits), &disk.acknowledged);
            }
        }
    }

    #[test]
    fn junk_is_an_error_or_the_end(junk in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..LENGTH) {
        let mut scratch = Scratch::new();
        scratch.log.append(&changes(&[(1, Some(vec![7; 5_000]))])).unwrap();
        let mut bytes = scratch.bytes();
        for (byte, junk) in bytes[at..].iter_mut().zip(&junk) {
            *byte = *junk;
        }
        let _ = read(&bytes);
        let _ = read(&junk);
    }
}

/// Three commits of two blocks each.
fn three() -> Scratch {
    let mut scratch = Scratch::new();
    for n in 0..3 {
        let row = (n, Some(vec![n; 5_000]));
        scratch.log.append(&changes(&[row])).unwrap();
    }
    scratch
}

#[test]
fn a_record_that_cannot_be_read_is_the_end_only_if_none_follows() {
    let scratch = three();
    let whole = scratch.bytes();
    // The first epoch that is ever written is an odd one.
    let record = |n: usize| start(1) + n * 2 * BLOCK;
    for flipped in [0, 20, HEAD + 3, 5_000] {
        let broken = |n: usize| {
            let mut bytes = whole.clone();
            bytes[record(n) + flipped] ^= 1;
            read(&bytes)
        };
        assert_eq!(broken(2).unwrap().2.len(), 2, "{flipped}");
        for n in [0, 1] {
            let error = broken(n).unwrap_err().to_string();
            assert!(error.contains(&format!("record {n} of epoch 1")), "{error}");
        }
    }
}

#[test]
fn a_new_epoch_leaves_the_one_before_until_it_has_a_record() {
    let mut scratch = three();
    scratch.log.begin_epoch();
    assert_eq!(scratch.commits().len(), 3);
    let before = scratch.bytes();
    let row = (9, Some(vec![9; 5_000]));
    scratch.log.append(&changes(&[row])).unwrap();
    let after = scratch.bytes();
    assert_eq!(
        scratch.commits(),
        [rows_of(&changes(&[(9, Some(vec![9; 5_000]))]))]
    );
    // Only its first block came.
    let mut cut = before;
    cut[start(2)..start(2) + BLOCK].copy_from_slice(&after[start(2)..start(2) + BLOCK]);
    assert_eq!(read(&cut).unwrap().2.len(), 3);
    scratch.log.clear().unwrap();
    assert_eq!(scratch.commits().concat(), []);
}

/// Somebody stores what looks like a record, where one could begin.
#[test]
fn what_stands_in_a_value_is_no_record() {
    let scratch = three();
    let theirs = scratch.bytes();
    let mut own = Scratch::new();
    let value = [
        vec![0; BLOCK - HEAD - ROW_HEAD - 3],
        theirs[start(1)..].to_vec(),
    ]
    .concat();
    let row = (1, Some(value[..100_000].to_vec()));
    own.log
        .append(&changes(std::slice::from_ref(&row)))
        .unwrap();
    assert_eq!(own.commits(), [rows_of(&changes(&[row]))]);
    let stands = own.bytes()[start(1) + BLOCK..].starts_with(&theirs[16..32]);
    assert!(stands, "at a block, as one of theirs would");
}

#[test]
fn a_log_that_is_none_is_refused() {
    let scratch = three();
    let path = scratch.folder.path().join("redo");
    let refused = || match RedoLog::open(&path, Durability::Power) {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    };
    let bytes = scratch.bytes();
    std::fs::write(&path, &bytes[1..]).unwrap();
    assert_eq!(
        refused(),
        format!("its redo log has {} bytes, not {LENGTH}", LENGTH - 1)
    );
    std::fs::write(&path, vec![0; LENGTH]).unwrap();
    assert_eq!(refused(), "its redo log is not one that this binary knows");
}
