//! The contract of [`Store`], checked on every engine.

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use super::*;
use crate::clock::Time;
use crate::id::TurnId;
use crate::journal::codec::{Encoded, encode};
use crate::journal::entry::{Entry, Payload, SlotReleased, Spoke};

pub(super) fn id(tenant: &str, session: &str) -> JournalId {
    JournalId {
        tenant: TenantId::new(tenant).unwrap(),
        session: SessionId::new(session).unwrap(),
    }
}

fn entry(seq: u64, payload: Payload) -> Encoded {
    encode(&Entry {
        seq: Seq(seq),
        time: Time(seq),
        payload,
    })
}

pub(super) fn spoke(seq: u64, text: &str) -> Encoded {
    let payload = Payload::Spoke(Spoke {
        turn: TurnId::new("r.t0.echo").unwrap(),
        agent: crate::id::AgentName::new("echo").unwrap(),
        text: text.into(),
        at: 0,
        speaker: None,
        index: None,
    });
    entry(seq, payload)
}

/// A frame of `count` entries from `first`.
pub(super) fn frame(first: u64, count: u64) -> Frame {
    let entries: Vec<Encoded> = (first..first + count)
        .map(|seq| spoke(seq, &format!("word {seq}")))
        .collect();
    Frame::of(&entries)
}

fn long_frame(first: u64, bytes: usize) -> Frame {
    Frame::of(&[spoke(first, &noise(bytes))])
}

/// A text that nothing makes shorter: so long a row has as many parts as its length says.
pub(super) fn noise(bytes: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    let mut state = bytes as u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(LETTERS[(state >> 58) as usize])
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// A journal held open, with the end it expects.
pub(super) struct Owner {
    pub(super) journal: JournalId,
    pub(super) opened: Opened,
    pub(super) tail: Tail,
}

impl Owner {
    pub(super) fn of(store: &dyn Store, journal: &JournalId) -> Self {
        let opened = store.open(journal).unwrap();
        Self {
            journal: journal.clone(),
            tail: opened.tail,
            opened,
        }
    }

    pub(super) fn append(&self, frame: Frame) -> Write {
        Write::Append {
            journal: self.journal.clone(),
            generation: self.opened.generation,
            expected: self.tail,
            frame,
        }
    }

    fn snapshot(&self, seq: u64, bytes: &[u8]) -> Write {
        Write::Snapshot {
            journal: self.journal.clone(),
            generation: self.opened.generation,
            seq: Seq(seq),
            bytes: Bytes::copy_from_slice(bytes),
        }
    }

    fn value(&self, bytes: &[u8]) -> (Digest, Write) {
        let digest = Digest::of(bytes);
        let write = Write::Value {
            journal: self.journal.clone(),
            digest,
            bytes: Bytes::copy_from_slice(bytes),
        };
        (digest, write)
    }
}

/// Where a commit says how it ended.
pub(super) type End = mpsc::Receiver<Result<(), Latched>>;

/// Queue a commit.
pub(super) fn queue(
    store: &dyn Store,
    writes: Vec<Write>,
) -> Result<(Option<Tail>, End), CommitError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let done = Box::new(move |result| drop(sender.send(result)));
    store
        .commit(Commit { writes, done })
        .map(|tail| (tail, receiver))
}

/// Commit and wait.
pub(super) fn write(store: &dyn Store, writes: Vec<Write>) -> Option<Tail> {
    let (tail, done) = queue(store, writes).unwrap();
    assert_eq!(done.recv().unwrap(), Ok(()));
    tail
}

pub(super) fn append(store: &dyn Store, owner: &mut Owner, frame: Frame) {
    owner.tail = write(store, vec![owner.append(frame)]).unwrap();
}

fn key(tenant: Option<&str>, space: RecordSpace, name: &str) -> RecordKey {
    RecordKey {
        tenant: tenant.map(|tenant| TenantId::new(tenant).unwrap()),
        space,
        name: name.into(),
    }
}

fn record(key: &RecordKey, bytes: &str) -> Write {
    Write::Record {
        key: key.clone(),
        bytes: Bytes::copy_from_slice(bytes.as_bytes()),
    }
}

fn firsts(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.first().0).collect()
}

fn appends_continue_the_journal(store: &dyn Store) {
    let journal = id("t", "s");
    assert!(!store.exists(&journal).unwrap());
    let mut owner = Owner::of(store, &journal);
    assert_eq!(owner.opened.last, Seq(0));
    append(store, &mut owner, frame(1, 2));
    append(store, &mut owner, frame(3, 1));
    // Neither the number nor the expected end may be wrong, and a refusal changes nothing.
    let refused = |write| queue(store, vec![write]).unwrap_err();
    assert_eq!(
        refused(owner.append(frame(5, 1))),
        CommitError::TailMismatch
    );
    let stale = Write::Append {
        journal: journal.clone(),
        generation: owner.opened.generation,
        expected: Tail(Seq(2)),
        frame: frame(3, 1),
    };
    assert_eq!(refused(stale), CommitError::TailMismatch);
    assert_eq!(refused(owner.snapshot(4, b"")), CommitError::TailMismatch);
    append(store, &mut owner, frame(4, 1));
    assert!(store.exists(&journal).unwrap());

    let newer = Owner::of(store, &journal);
    assert_eq!(newer.opened.last, Seq(4));
    assert!(newer.opened.generation > owner.opened.generation);
    assert_eq!(refused(owner.append(frame(5, 1))), CommitError::Fenced);
    assert_eq!(refused(owner.snapshot(1, b"")), CommitError::Fenced);
    // What is not the owner's to give back stays with the newer one.
    store.release(&journal, owner.opened.generation);
    write(store, vec![newer.append(frame(5, 1))]);
    store.release(&journal, newer.opened.generation);
    assert_eq!(
        refused(Write::Append {
            journal: journal.clone(),
            generation: newer.opened.generation,
            expected: Tail(Seq(5)),
            frame: frame(6, 1),
        }),
        CommitError::Fenced
    );
    let last = Owner::of(store, &journal);
    assert_eq!(last.opened.last, Seq(5));
    assert!(last.opened.generation > newer.opened.generation);
}

fn commits_end_in_order(store: &dyn Store) {
    let mut owner = Owner::of(store, &id("t", "s"));
    let ends = Arc::new(Mutex::new(Vec::new()));
    for n in 1..=50 {
        let ends = Arc::clone(&ends);
        let done = Box::new(move |result: Result<(), Latched>| {
            ends.lock().unwrap().push((n, result));
        });
        let writes = vec![owner.append(frame(n, 1))];
        owner.tail = store.commit(Commit { writes, done }).unwrap().unwrap();
    }
    // Opening waits for everything accepted.
    let again = Owner::of(store, &owner.journal);
    assert_eq!(again.opened.last, Seq(50));
    store.close();
    let all: Vec<(u64, Result<(), Latched>)> = (1..=50).map(|n| (n, Ok(()))).collect();
    assert_eq!(*ends.lock().unwrap(), all);
    assert!(matches!(
        queue(store, vec![again.append(frame(51, 1))]),
        Err(CommitError::Latched(_))
    ));
}

fn frames_are_found_from_inside(store: &dyn Store) {
    let journal = id("t", "s");
    let mut owner = Owner::of(store, &journal);
    assert_eq!(store.frames(&journal, Seq(0), 1 << 20), Ok(vec![]));
    for (first, count) in [(1, 2), (3, 3), (6, 1)] {
        append(store, &mut owner, frame(first, count));
    }
    let after = |after, max| firsts(&store.frames(&journal, Seq(after), max).unwrap());
    for (seq, found) in [
        (0, vec![1, 3, 6]),
        (1, vec![1, 3, 6]),
        (2, vec![3, 6]),
        (4, vec![3, 6]),
        (5, vec![6]),
        (6, vec![]),
        (700, vec![]),
        (u64::MAX, vec![]),
    ] {
        assert_eq!(after(seq, 1 << 20), found, "after {seq}");
    }
    // At least one, whatever the bound.
    assert_eq!(after(0, 0), vec![1]);
    assert_eq!(after(0, frame(1, 2).bytes().len()), vec![1, 3]);
    let frames = store.frames(&journal, Seq(0), 1 << 20).unwrap();
    assert_eq!(frames[1], frame(3, 3));

    let turn = TurnId::new("r.t0.echo").unwrap();
    let slot = crate::id::SlotName::new("plan").unwrap();
    let released = entry(
        7,
        Payload::SlotReleased(SlotReleased {
            turn,
            slot,
            n: Some(0),
        }),
    );
    append(store, &mut owner, Frame::of(&[released, spoke(8, "x")]));
    append(store, &mut owner, frame(9, 1));
    let before = |before, kinds: &[Kind], max| {
        firsts(
            &store
                .frames_before(&journal, Seq(before), kinds, max)
                .unwrap(),
        )
    };
    let spoke = &[Kind::Spoke][..];
    assert_eq!(before(u64::MAX, spoke, 1 << 20), vec![9, 7, 6, 3, 1]);
    assert_eq!(before(9, spoke, 1 << 20), vec![7, 6, 3, 1]);
    assert_eq!(before(8, &[Kind::SlotReleased], 1 << 20), vec![7]);
    assert_eq!(before(7, &[Kind::SlotReleased], 1 << 20), Vec::<u64>::new());
    assert_eq!(before(4, spoke, 1 << 20), vec![3, 1]);
    assert_eq!(before(u64::MAX, spoke, 0), vec![9]);
    assert_eq!(before(0, spoke, 1 << 20), Vec::<u64>::new());
}

fn long_rows_come_back_whole(store: &dyn Store) {
    let journal = id("t", "s");
    let mut owner = Owner::of(store, &journal);
    let long = long_frame(1, 300_000);
    append(store, &mut owner, long.clone());
    append(store, &mut owner, frame(2, 1));
    append(store, &mut owner, long_frame(3, 20_000));
    let frames = store.frames(&journal, Seq(0), 1 << 20).unwrap();
    assert_eq!(firsts(&frames), vec![1, 2, 3]);
    assert_eq!(frames[0], long);
    let back = store
        .frames_before(&journal, Seq(4), &[Kind::Spoke], 1 << 20)
        .unwrap();
    assert_eq!(firsts(&back), vec![3, 2, 1]);
    assert_eq!(back[2], long);
    assert_eq!(Owner::of(store, &journal).opened.last, Seq(3));

    let owner = Owner::of(store, &journal);
    for len in [0, 1, 6_137, 6_138, 1_000_000] {
        let bytes = noise(len).into_bytes();
        let (digest, value) = owner.value(&bytes);
        // Twice in one commit and once more: harmless.
        write(store, vec![value.clone(), value.clone()]);
        write(store, vec![value]);
        assert_eq!(store.value(&journal, &digest).unwrap().unwrap(), bytes);
    }
    assert_eq!(store.value(&journal, &Digest::of(b"other")), Ok(None));
    assert_eq!(store.snapshot(&journal), Ok(None));
    // Longer and shorter ones in turn leave nothing behind.
    for len in [10, 100_000, 10, 20_000] {
        let bytes = noise(len).into_bytes();
        write(
            store,
            vec![owner.snapshot(2, b"first"), owner.snapshot(3, &bytes)],
        );
        let kept = store.snapshot(&journal).unwrap();
        assert_eq!(kept, Some((Seq(3), Bytes::from(bytes))));
    }
}

fn records_are_listed_by_name(store: &dyn Store) {
    let spaces = [RecordSpace::Agent, RecordSpace::Token];
    let names = ["a", "ab", "abc", "b", "s", "s0", "é"];
    let mut writes = Vec::new();
    for tenant in [None, Some("a"), Some("ab")] {
        for space in spaces {
            for name in names {
                let text = format!("{tenant:?} {} {name}", space.name());
                writes.push(record(&key(tenant, space, name), &text));
            }
        }
    }
    write(store, writes);
    let tenant = TenantId::new("a").unwrap();
    let list = |after: Option<&str>, max| -> Vec<String> {
        let records = store
            .records(Some(&tenant), RecordSpace::Agent, after, max)
            .unwrap();
        records.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(list(None, 100), names);
    assert_eq!(list(None, 2), ["a", "ab"]);
    assert_eq!(list(Some("ab"), 2), ["abc", "b"]);
    assert_eq!(list(Some("aa"), 1), ["ab"]);
    assert_eq!(list(Some("é"), 9), Vec::<String>::new());
    let hosts = store.records(None, RecordSpace::Token, None, 1).unwrap();
    assert_eq!(hosts, [("a".to_owned(), Bytes::from("None token a"))]);

    let kept = key(Some("a"), RecordSpace::Agent, "ab");
    let text = Bytes::from(r#"Some("a") agent ab"#);
    assert_eq!(store.record(&kept), Ok(Some(text)));
    write(store, vec![record(&kept, &noise(25_000))]);
    write(store, vec![record(&kept, "short")]);
    assert_eq!(store.record(&kept), Ok(Some(Bytes::from("short"))));
    // Removed, made again and removed again in one commit; one that never was.
    let unrecord = Write::Unrecord { key: kept.clone() };
    let never = key(None, RecordSpace::Tombstone, "x");
    let writes = vec![
        record(&kept, &noise(25_000)),
        unrecord.clone(),
        record(&kept, "again"),
        unrecord,
        Write::Unrecord { key: never.clone() },
        record(&key(None, RecordSpace::Tombstone, "y"), "gone"),
    ];
    write(store, writes);
    assert_eq!(store.record(&kept), Ok(None));
    assert_eq!(list(None, 2), ["a", "abc"]);
    assert_eq!(store.record(&never), Ok(None));
}

fn neighbours_do_not_leak(store: &dyn Store) {
    let sessions = ["S", "s", "s-0", "s.", "s0", "s00", "t"];
    let mut digests = Vec::new();
    for tenant in ["a", "ab", "a-b"] {
        for session in sessions {
            let mut owner = Owner::of(store, &id(tenant, session));
            let text = format!("{tenant}/{session}");
            append(store, &mut owner, Frame::of(&[spoke(1, &text)]));
            let (digest, value) = owner.value(text.as_bytes());
            write(store, vec![value, owner.snapshot(1, text.as_bytes())]);
            digests.push(digest);
        }
    }
    // A value alone is no journal.
    let (_, value) = Owner::of(store, &id("a", "only-a-value")).value(b"x");
    write(store, vec![value]);
    assert!(!store.exists(&id("a", "only-a-value")).unwrap());
    write(
        store,
        vec![record(&key(Some("a"), RecordSpace::Wake, "s"), "1")],
    );

    let tenant = TenantId::new("a").unwrap();
    let page = |after: Option<&str>, max| {
        let after = after.map(|after| SessionId::new(after).unwrap());
        let page = store.journals(&tenant, after.as_ref(), max).unwrap();
        let names: Vec<String> = page.sessions.iter().map(ToString::to_string).collect();
        (names.join(" "), page.more)
    };
    let all = |text: &str, more| (text.to_owned(), more);
    assert_eq!(page(None, 100), all("S s s-0 s. s0 s00 t", false));
    assert_eq!(page(None, 7), all("S s s-0 s. s0 s00 t", false));
    assert_eq!(page(None, 2), all("S s", true));
    assert_eq!(page(Some("s"), 2), all("s-0 s.", true));
    assert_eq!(page(Some("s0"), 2), all("s00 t", false));
    assert_eq!(page(Some("t"), 2), all("", false));
    let other = TenantId::new("b").unwrap();
    assert_eq!(store.journals(&other, None, 9).unwrap().sessions, vec![]);

    // Clearing one, one row at a time, leaves the others alone.
    let gone = id("a", "s");
    let mut steps = 1;
    while !store.clear(&gone, 1).unwrap() {
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert_eq!(store.clear(&gone, 1), Ok(true));
    assert!(!store.exists(&gone).unwrap());
    assert_eq!(store.frames(&gone, Seq(0), 1 << 20), Ok(vec![]));
    assert_eq!(store.snapshot(&gone), Ok(None));
    assert_eq!(Owner::of(store, &gone).opened.last, Seq(0));
    assert_eq!(page(None, 100), all("S s-0 s. s0 s00 t", false));
    let mut digests = digests.iter();
    for tenant in ["a", "ab", "a-b"] {
        for session in sessions {
            let journal = id(tenant, session);
            let text = format!("{tenant}/{session}");
            let digest = digests.next().unwrap();
            if journal == gone {
                assert_eq!(store.value(&journal, digest), Ok(None));
                continue;
            }
            let frames = store.frames(&journal, Seq(0), 1 << 20).unwrap();
            assert_eq!(frames, [Frame::of(&[spoke(1, &text)])]);
            let bytes = Bytes::from(text);
            assert_eq!(store.value(&journal, digest), Ok(Some(bytes.clone())));
            assert_eq!(store.snapshot(&journal), Ok(Some((Seq(1), bytes))));
        }
    }
}

fn a_long_journal_is_cleared_in_steps(store: &dyn Store) {
    let journal = id("t", "s");
    let mut owner = Owner::of(store, &journal);
    append(store, &mut owner, long_frame(1, 50_000));
    append(store, &mut owner, long_frame(2, 50_000));
    let fenced = owner.append(frame(3, 1));
    assert_eq!(store.clear(&journal, 4), Ok(false));
    // Whoever had it open does not have it any more; its end is still known.
    assert_eq!(queue(store, vec![fenced]).unwrap_err(), CommitError::Fenced);
    assert!(store.exists(&journal).unwrap());
    assert_eq!(firsts(&store.frames(&journal, Seq(0), 0).unwrap()), vec![2]);
    assert_eq!(Owner::of(store, &journal).opened.last, Seq(2));
    while !store.clear(&journal, 4).unwrap() {}
    let mut owner = Owner::of(store, &journal);
    append(store, &mut owner, frame(1, 1));
    assert!(store.size_on_disk().unwrap() > 0);
    assert_eq!(store.latched(), None);
}

fn pieces_stand_in_order_and_apart(store: &dyn Store) {
    let of = |tenant: &str, id: u8| StreamKey {
        tenant: TenantId::new(tenant).unwrap(),
        id: StreamId([id; 16]),
    };
    let streams = [of("a", 0), of("a", 1), of("a", 255), of("ab", 0)];
    let text = |stream: &StreamKey, seq: u64| format!("{} {} {seq} ", stream.tenant, stream.id);
    let long = || noise(8_000);
    for seq in 1..=5 {
        let piece = |stream: &StreamKey| Write::Piece {
            stream: stream.clone(),
            seq: Seq(seq),
            // The third is of several parts.
            bytes: if seq == 3 { long() } else { text(stream, seq) }.into(),
        };
        write(store, streams.iter().map(piece).collect());
    }
    let seqs = |stream: &StreamKey, after, until, max| -> Vec<u64> {
        let pieces = store.pieces(stream, Seq(after), Seq(until), max).unwrap();
        pieces.iter().map(|(seq, _)| seq.0).collect()
    };
    for stream in &streams {
        assert_eq!(seqs(stream, 0, u64::MAX, 1 << 20), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(stream, 2, 4, 1 << 20), [3, 4]);
        assert_eq!(seqs(stream, 2, 5, 0), [3], "one at least");
        assert_eq!(seqs(stream, 5, 9, 9), Vec::<u64>::new());
        assert_eq!(seqs(stream, 5, 2, 9), Vec::<u64>::new());
        let pieces = store.pieces(stream, Seq(2), Seq(3), 1).unwrap();
        assert_eq!(pieces[0].1, long());
    }
    // They are no sessions, and they count.
    let tenant = TenantId::new("a").unwrap();
    assert_eq!(store.journals(&tenant, None, 9).unwrap().sessions, vec![]);
    let holdings = store.holdings(&tenant).unwrap();
    assert!(
        holdings.sessions == 0 && holdings.bytes > 24_000,
        "{holdings:?}"
    );

    while !store.clear_stream(&streams[1], 2).unwrap() {}
    for stream in [&streams[0], &streams[2], &streams[3]] {
        assert_eq!(seqs(stream, 0, 9, 1 << 20), [1, 2, 3, 4, 5]);
    }
    assert_eq!(seqs(&streams[1], 0, 9, 1 << 20), Vec::<u64>::new());
    while !store.clear_tenant(&tenant, 3).unwrap() {}
    assert_eq!(store.holdings(&tenant), Ok(Holdings::default()));
    assert_eq!(seqs(&streams[3], 0, 9, 1 << 20), [1, 2, 3, 4, 5]);
}

fn notices_are_numbered_as_they_become_durable(store: &dyn Store) {
    let tenant = |name: &str| TenantId::new(name).unwrap();
    let notice = |of: &str, text: &str| Write::Notice {
        tenant: tenant(of),
        bytes: text.to_owned().into(),
    };
    let read = |of: &str, after: u64| -> Vec<(u64, Bytes)> {
        let stream = StreamKey::notices(&tenant(of));
        let pieces = store.pieces(&stream, Seq(after), Seq(u64::MAX), 1 << 20);
        let pieces = pieces.unwrap().into_iter();
        pieces.map(|(seq, bytes)| (seq.0, bytes)).collect()
    };
    let mut end = store.notices_end(&tenant("a")).unwrap();
    assert_eq!(*end.borrow_and_update(), Seq(0));
    // Of two sessions, and of another tenant.
    let owners = ["s", "t"].map(|session| Owner::of(store, &id("a", session)));
    for (n, owner) in owners.iter().enumerate() {
        let mut writes = vec![notice("a", &n.to_string())];
        writes.push(owner.append(frame(1, 1)));
        write(store, writes);
    }
    write(store, vec![notice("ab", "x")]);
    assert_eq!(read("a", 0), [(1, "0".into()), (2, "1".into())]);
    assert_eq!(read("ab", 0), [(1, "x".into())]);
    assert_eq!(*end.borrow_and_update(), Seq(2));
    // A commit that is refused has no number.
    let fenced = Commit {
        writes: vec![notice("a", "never"), owners[0].append(frame(9, 1))],
        done: Box::new(|_| {}),
    };
    assert!(store.commit(fenced).is_err());
    // The first are removed, and the numbers go on.
    let stream = StreamKey::notices(&tenant("a"));
    while !store.trim(&stream, Seq(1), 1).unwrap() {}
    write(store, vec![notice("a", "2")]);
    assert_eq!(read("a", 0), [(2, "1".into()), (3, "2".into())]);
    assert_eq!(*store.notices_end(&tenant("a")).unwrap().borrow(), Seq(3));
    drop(end);
    // With the tenant all of it goes.
    for owner in &owners {
        store.release(&owner.journal, owner.opened.generation);
    }
    while !store.clear_tenant(&tenant("a"), 2).unwrap() {}
    assert_eq!(*store.notices_end(&tenant("a")).unwrap().borrow(), Seq(0));
    write(store, vec![notice("a", "anew")]);
    assert_eq!(read("a", 0), [(1, "anew".into())]);
}

const CONTRACT: [fn(&dyn Store); 9] = [
    notices_are_numbered_as_they_become_durable,
    appends_continue_the_journal,
    commits_end_in_order,
    frames_are_found_from_inside,
    long_rows_come_back_whole,
    records_are_listed_by_name,
    neighbours_do_not_leak,
    a_long_journal_is_cleared_in_steps,
    pieces_stand_in_order_and_apart,
];

#[test]
fn memory_keeps_the_contract() {
    for check in CONTRACT {
        check(&*memory(&Memory::new()));
    }
}

#[test]
fn sled_keeps_the_contract() {
    for check in CONTRACT {
        let dir = tempfile::tempdir().unwrap();
        let store = open_sled(dir.path(), SledOptions::default()).unwrap();
        check(&*store);
        store.close();
        drop(store);
        let report = check::check(dir.path()).unwrap();
        assert_eq!(report.problems, []);
        assert!(no_blobs(dir.path()), "sled made files it never syncs");
    }
}

pub(super) fn no_blobs(path: &Path) -> bool {
    std::fs::read_dir(path.join("blobs"))
        .unwrap()
        .next()
        .is_none()
}

#[test]
fn journals_given_back_are_forgotten() {
    let disk = Memory::new();
    let store = LocalStore::start(Arc::new(disk)).unwrap();
    for n in 0..100 {
        let owner = Owner::of(&store, &id("t", &format!("s{n}")));
        let (_, done) = queue(&store, vec![owner.append(frame(1, 1))]).unwrap();
        // Some while their commit is in flight, some after.
        if n % 2 == 0 {
            assert_eq!(done.recv().unwrap(), Ok(()));
        }
        store.release(&owner.journal, owner.opened.generation);
    }
    write(&store, vec![]);
    assert_eq!(store.owners_len(), 0);
}
