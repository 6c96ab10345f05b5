//! What is particular to sled: its files, a full disk, many sessions.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::id::Seq;
use crate::store::contract::{Owner, append, frame, id, no_blobs, queue, write};
use crate::store::{
    CommitError, Durability, ReadError, RecordKey, RecordSpace, SledOptions, Store, StoreOpenError,
    Write, check, open_sled,
};

fn open(path: &Path) -> Arc<dyn Store> {
    open_sled(path, SledOptions::default()).unwrap()
}

fn refused(path: &Path) -> StoreOpenError {
    match open_sled(path, SledOptions::default()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// A store with `count` frames in one journal, closed.
fn made(path: &Path, count: u64) {
    let store = open(path);
    let mut owner = Owner::of(&*store, &id("t", "s"));
    for n in 1..=count {
        append(&*store, &mut owner, frame(n, 1));
    }
    store.close();
}

fn last(store: &dyn Store) -> Seq {
    Owner::of(store, &id("t", "s")).opened.last
}

#[test]
fn a_store_reopens_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/store");
    for durability in [Durability::Process, Durability::Power] {
        let options = SledOptions {
            durability,
            ..SledOptions::default()
        };
        let store = open_sled(&path, options).unwrap();
        let mut owner = Owner::of(&*store, &id("t", "s"));
        let first = owner.opened.last.next();
        append(&*store, &mut owner, frame(first.0, 3));
        store.close();
    }
    assert_eq!(last(&*open(&path)), Seq(6));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_second_host_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let path = dir.path().to_owned();
    assert_eq!(refused(dir.path()), StoreOpenError::InUse { path });
    store.close();
    drop(store);
    open(dir.path());
}

#[test]
fn a_bad_snapshot_of_the_log_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 50);
    // Opening again makes sled write a snapshot of what the log holds now.
    open(dir.path()).close();
    let names = |prefix: &str| -> Vec<_> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.starts_with(prefix)
            })
            .collect()
    };
    let snapshots = names("snap.");
    assert!(!snapshots.is_empty());
    for bad in [&b""[..], &[7; 64]] {
        for path in names("snap.") {
            fs::write(path, bad).unwrap();
        }
        let store = open(dir.path());
        assert_eq!(last(&*store), Seq(50));
        assert!(!names("quarantine-snap.").is_empty());
        store.close();
    }
    assert_eq!(check::check(dir.path()).unwrap().problems, []);
}

#[test]
fn a_damaged_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 50);
    let db = dir.path().join("db");
    fs::write(&db, b"").unwrap();
    assert!(matches!(
        refused(dir.path()),
        StoreOpenError::Damaged { .. }
    ));
    fs::remove_file(&db).unwrap();
    assert!(matches!(
        refused(dir.path()),
        StoreOpenError::Damaged { .. }
    ));
    assert!(!db.exists(), "made an empty store over a damaged one");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        check::check(empty.path()),
        Err(check::CheckError::Open(StoreOpenError::Missing { .. }))
    ));
    fs::write(empty.path().join("format"), "antiphon store 4\n").unwrap();
    assert!(matches!(
        refused(empty.path()),
        StoreOpenError::Damaged { .. }
    ));
}

/// Values are split so that a page never grows into a file of its own: see `row.rs`.
#[test]
fn sled_keeps_everything_in_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let record = |n: usize, bytes: usize| Write::Record {
        key: RecordKey {
            tenant: None,
            space: RecordSpace::Agent,
            name: format!("{:0>100}", n * 7919 % 1000),
        },
        bytes: vec![n as u8; bytes].into(),
    };
    for n in 0..1_000 {
        write(&*store, vec![record(n, 6_000)]);
    }
    for n in (0..1_000).filter(|n| n % 9 != 0) {
        let Write::Record { key, .. } = record(n, 0) else {
            unreachable!();
        };
        write(&*store, vec![Write::Unrecord { key }]);
    }
    for n in (0..1_000).step_by(3) {
        write(&*store, vec![record(n, 6_000)]);
        assert!(no_blobs(dir.path()), "after {n}");
    }
}

#[test]
fn one_large_commit_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions {
        cache_bytes: 4 << 20,
        ..SledOptions::default()
    };
    let store = open_sled(dir.path(), options).unwrap();
    let key = RecordKey {
        tenant: None,
        space: RecordSpace::Agent,
        name: "large".into(),
    };
    let bytes: bytes::Bytes = (0..20_000_000u32).map(|n| n as u8).collect();
    let record = Write::Record {
        key: key.clone(),
        bytes: bytes.clone(),
    };
    write(&*store, vec![record]);
    store.close();
    drop(store);
    assert!(open(dir.path()).record(&key).unwrap() == Some(bytes));
}

/// 10,000 sessions of 3 frames: about 6 MB of content, 16 MB on disk. Bounded at 40 MB.
#[test]
fn many_sessions_stay_small() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_sled(
        dir.path(),
        SledOptions {
            durability: Durability::Process,
            ..SledOptions::default()
        },
    )
    .unwrap();
    let mut ends = Vec::new();
    for n in 0..10_000 {
        let mut owner = Owner::of(&*store, &id("t", &format!("session-{n}")));
        for seq in 1..=3 {
            let (tail, end) = queue(&*store, vec![owner.append(frame(seq, 1))]).unwrap();
            owner.tail = tail.unwrap();
            ends.push(end);
        }
        store.release(&owner.journal, owner.opened.generation);
    }
    store.close();
    assert!(ends.iter().all(|end| end.recv().unwrap().is_ok()));
    drop(store);
    let store = open(dir.path());
    let size = store.size_on_disk().unwrap();
    assert!(size < 40_000_000, "{size} bytes");
    assert_eq!(
        Owner::of(&*store, &id("t", "session-7777")).opened.last,
        Seq(3)
    );
}

/// A disk of a few megabytes, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None where mounting is not permitted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// Append until the store latches: how many entries were acknowledged, and why it latched.
fn fill(store: &dyn Store) -> (u64, String) {
    let mut owner = Owner::of(store, &id("t", "s"));
    let mut acknowledged = 0;
    loop {
        assert!(acknowledged < 1_000_000, "the disk is never full");
        let append = owner.append(frame(acknowledged + 1, 20));
        let (tail, end) = queue(store, vec![append]).unwrap();
        if let Err(latched) = end.recv().unwrap() {
            assert_eq!(
                queue(store, vec![]).unwrap_err(),
                CommitError::Latched(latched.clone())
            );
            return (acknowledged, latched.reason);
        }
        owner.tail = tail.unwrap();
        acknowledged += 20;
    }
}

#[test]
fn the_store_latches_before_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small disk is not permitted here");
        return;
    };
    let path = disk.0.path().join("store");
    let options = SledOptions {
        reserve_bytes: 2 << 20,
        ..SledOptions::default()
    };
    let store = open_sled(&path, options).unwrap();
    let (acknowledged, reason) = fill(&*store);
    assert_eq!(
        reason,
        "the disk is full: less than the reserve of 2 MiB is free"
    );
    let frames = store.frames(&id("t", "s"), Seq(0), usize::MAX).unwrap();
    assert_eq!(frames.last().unwrap().last(), Seq(acknowledged));
    store.close();
    drop(store);
    // Opening needs little room, so the same disk will do.
    let store = open_sled(&path, options).unwrap();
    assert_eq!(last(&*store), Seq(acknowledged));
    store.close();
    drop(store);
    assert_eq!(check::check(&path).unwrap().problems, []);
}

/// Somebody else may fill the disk: sled's own writes fail then, in the background.
#[test]
fn a_full_disk_latches_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small disk is not permitted here");
        return;
    };
    let path = disk.0.path().join("store");
    let options = SledOptions {
        reserve_bytes: 0,
        ..SledOptions::default()
    };
    let store = open_sled(&path, options).unwrap();
    let (acknowledged, reason) = fill(&*store);
    assert_eq!(reason, "the disk is full");
    // Reads that make sled split a page fail, and say why; none hangs or sees too much.
    match store.frames(&id("t", "s"), Seq(0), usize::MAX) {
        Ok(frames) => assert_eq!(frames.last().unwrap().last(), Seq(acknowledged)),
        Err(error) => assert_eq!(error, ReadError::Io("the disk is full".into())),
    }
    store.close();

    // With more room everything acknowledged is there. (A copy, because this process
    // keeps the failed store's lock for ever.)
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let store = open(copy.path());
    assert!(last(&*store) >= Seq(acknowledged));
    store.close();
    drop(store);
    assert_eq!(check::check(copy.path()).unwrap().problems, []);
}

/// What is on disk when the process is killed now.
fn killed(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    copy
}

#[test]
fn a_process_that_is_killed_loses_nothing() {
    for durability in [Durability::Process, Durability::Power] {
        let dir = tempfile::tempdir().unwrap();
        let options = SledOptions {
            durability,
            ..SledOptions::default()
        };
        let store = open_sled(dir.path(), options).unwrap();
        let mut owner = Owner::of(&*store, &id("t", "s"));
        let record = |text: Vec<u8>| Write::Record {
            key: RecordKey {
                tenant: None,
                space: RecordSpace::Agent,
                name: "newest".into(),
            },
            bytes: text.into(),
        };
        // Enough for several checkpoints, and now and then a commit that goes past the redo log.
        for n in 1..=1_500 {
            append(&*store, &mut owner, frame(n, 1));
            let long = if n % 500 == 0 { 300_000 } else { 0 };
            let text = [n.to_string().into_bytes(), vec![b' '; long]].concat();
            write(&*store, vec![record(text.clone())]);
            if n % 100 == 1 || long > 0 {
                let left = killed(dir.path());
                // Killed again before it has written anything.
                let left = {
                    let store = open(left.path());
                    std::mem::forget(store);
                    killed(left.path())
                };
                let after = open(left.path());
                assert_eq!(last(&*after), Seq(n));
                let Write::Record { key, .. } = record(Vec::new()) else {
                    unreachable!();
                };
                assert!(after.record(&key).unwrap() == Some(text.into()));
                after.close();
                drop(after);
                assert_eq!(check::check(left.path()).unwrap().problems, []);
            }
        }
    }
}

#[test]
fn a_store_without_a_redo_log_gets_one_once() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 5);
    let (format, redo) = (dir.path().join("format"), dir.path().join("redo"));
    // As older binaries left it.
    fs::remove_file(&redo).unwrap();
    fs::write(&format, "antiphon store 1\n").unwrap();
    open(dir.path()).close();
    assert_eq!(fs::read_to_string(&format).unwrap(), "antiphon store 3\n");
    assert!(redo.exists());
    // One without packed rows is taken over as it is, what stands in its redo log too.
    fs::write(&format, "antiphon store 2\n").unwrap();
    open(dir.path()).close();
    assert_eq!(fs::read_to_string(&format).unwrap(), "antiphon store 3\n");
    fs::remove_file(&redo).unwrap();
    let StoreOpenError::Damaged { reason, .. } = refused(dir.path()) else {
        panic!("not damaged");
    };
    assert_eq!(reason, "its file `redo` is gone");
    assert!(
        !redo.exists(),
        "made an empty one where something may be lost"
    );
}
