//! The ledger over a disk in memory.

use std::collections::BTreeSet;
use std::convert::Infallible;

use super::*;
use crate::clock::Time;
use crate::journal::codec::Encoded;
use crate::journal::entry::{Entry, Kind, Payload, Usage};
use crate::journal::script::{Script, message, name};
use crate::store::{Fault, Memory, memory};

fn journal() -> JournalId {
    JournalId {
        tenant: name("t"),
        session: name("s"),
    }
}

fn open(disk: &Memory) -> Arc<Ledger> {
    Ledger::open(memory(disk), journal(), Clock::manual(Time(0))).expect("it opens")
}

fn turn() -> TurnId {
    name("r.t0.a")
}

/// Append what the lines say, which must be legal after what is there.
fn write(ledger: &Ledger, lines: &str) -> Result<Seq, Dead> {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let appended = ledger.append(None, |batch| {
            let payload = Script::payload_after(batch.state(), line);
            batch.push(payload);
            Ok::<_, Infallible>(())
        });
        match appended {
            Ok(()) => {}
            Err(AppendError::Dead(dead)) => return Err(dead),
            Err(AppendError::Refused(never)) => match never {},
        }
    }
    Ok(ledger.look(|state| state.last))
}

fn say(ledger: &Ledger, text: &str) {
    ledger
        .say(&turn(), text, |_| Ok::<_, Infallible>(()))
        .expect("it is alive");
}

fn decode(entries: &[Encoded]) -> Vec<Entry> {
    entries
        .iter()
        .map(|encoded| encoded.decode().unwrap())
        .collect()
}

/// Everything said, in order, and checked to be whole.
fn spoken(entries: &[Encoded]) -> String {
    let mut text = String::new();
    for entry in decode(entries) {
        if let Payload::Spoke(spoke) = entry.payload {
            assert_eq!(spoke.at, text.len() as u64);
            text += &spoke.text;
        }
    }
    text
}

async fn all(ledger: &Ledger) -> Vec<Encoded> {
    let (mut after, until) = (Seq(0), ledger.look(|state| state.last));
    let mut all = Vec::new();
    while after < until {
        let entries = ledger.entries(after, until).await.unwrap();
        assert_eq!(entries.first().map(|entry| entry.seq), Some(after.next()));
        after = entries.last().expect("none only if there are none").seq;
        all.extend(entries);
    }
    all
}

const TURN: &str = "open a b\ngot a\nstart r.t0.a takes=2 messages";

#[tokio::test]
async fn what_is_durable_is_there_after_a_power_loss_and_nothing_else_is_promised() {
    let disk = Memory::new();
    let ledger = open(&disk);
    let acknowledged = write(&ledger, "open a\ngot a").unwrap();
    ledger.durable(acknowledged).await.unwrap();
    let mark = ledger.mark();
    assert_eq!((mark.durable, mark.dead), (Seq(2), None));
    write(&ledger, "got a").unwrap();
    assert!(ledger.has_unflushed());
    let ledger = open(&disk.power_loss());
    assert_eq!(ledger.look(|state| state.last), Seq(2));
    assert_eq!(ledger.settle().await, Ok(Seq(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_offset_is_followed_without_gap_or_overlap_while_others_append() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 50;
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, "open a b").unwrap();
    let last = Seq(1 + WRITERS * EACH);
    let mut tasks = tokio::task::JoinSet::new();
    for after in (0..last.0).step_by(7) {
        let mut follower = ledger.follow(Seq(after));
        tasks.spawn(async move {
            let mut seen = Vec::new();
            while follower.at() < last {
                let entries = follower.next().await.unwrap();
                assert!(!entries.is_empty());
                seen.extend(entries.iter().map(|entry| entry.seq.0));
            }
            assert_eq!(seen, (after + 1..=last.0).collect::<Vec<_>>());
        });
    }
    for _ in 0..WRITERS {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            for at in 0..EACH {
                let seq = write(&ledger, "got a").unwrap();
                if at % 3 == 0 {
                    ledger.durable(seq).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
            ledger.settle().await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(open(&disk).look(|state| state.last), last);
}

#[tokio::test]
async fn words_are_joined_and_stand_before_the_next_entry_of_their_turn() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, TURN).unwrap();
    say(&ledger, "one ");
    say(&ledger, "two ");
    // Another's entry does not wait for the words, nor do they for it.
    write(&ledger, "got b").unwrap();
    let seen = ledger
        .append(Some(&turn()), |batch| {
            Ok::<_, Infallible>(batch.state().last)
        })
        .unwrap_or_default();
    assert_eq!(seen, Seq(5), "the words are an entry already");
    say(&ledger, "three");
    ledger.settle().await.unwrap();
    let entries = all(&ledger).await;
    let kinds: Vec<Kind> = entries.iter().skip(3).map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::MessageReceived, Kind::Spoke, Kind::Spoke]);
    assert_eq!(spoken(&entries), "one two three");
}

#[tokio::test]
async fn long_words_become_several_entries_at_borders_of_characters() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, TURN).unwrap();
    let text = "aé€😀".repeat(20_000);
    say(&ledger, &text);
    ledger.settle().await.unwrap();
    let entries = all(&ledger).await;
    assert!(entries.len() > 5);
    assert!(entries.iter().all(|entry| entry.len() < 64 * 1024));
    assert_eq!(spoken(&entries), text);
}

#[tokio::test]
async fn an_interruption_drops_what_nobody_was_shown() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, TURN).unwrap();
    say(&ledger, "shown");
    ledger.settle().await.unwrap();
    say(&ledger, " not shown");
    let cut = ledger.append(None, |batch| {
        batch.drop_chunk(&turn());
        Ok::<_, Infallible>(())
    });
    assert!(cut.is_ok());
    write(&ledger, "stop r.t0.a\nend r.t0.a interrupted *").unwrap();
    // The instance does not know yet.
    say(&ledger, " too late");
    ledger.settle().await.unwrap();
    assert_eq!(spoken(&all(&ledger).await), "shown");
    assert_eq!(spoken(&all(&open(&disk)).await), "shown");
}

#[tokio::test]
async fn entries_are_the_same_from_memory_and_from_the_store() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, "open a b").unwrap();
    // More than is kept in memory, in frames of several entries.
    for round in 0..40 {
        let text = "x".repeat(10_000);
        let body = serde_json::Value::String(format!("{round} {text}"));
        for agent in ["a", "b"] {
            let pushed = ledger.append(None, |batch| {
                let Payload::MessageReceived(mut received) = got(batch.next_seq(), agent) else {
                    unreachable!()
                };
                received.body = body.clone();
                batch.push(Payload::MessageReceived(received));
                Ok::<_, Infallible>(())
            });
            assert!(pushed.is_ok());
        }
        ledger.settle().await.unwrap();
    }
    let kept = ledger.lock().recent_bytes();
    assert!(kept < 512 * 1024, "{kept} bytes although nobody reads");
    let (live, stored) = (all(&ledger).await, all(&open(&disk)).await);
    assert_eq!(live.len(), 81);
    assert_eq!(live, stored);
    for after in [0, 1, 40, 79, 80] {
        let one = ledger.entry(Seq(after + 1)).await.unwrap();
        assert_eq!(one.as_ref(), live.get(usize::try_from(after).unwrap()));
    }
    assert_eq!(ledger.entry(Seq(0)).await, Ok(None));
    assert_eq!(ledger.entry(Seq(82)).await, Ok(None));
}

fn got(seq: Seq, agent: &str) -> Payload {
    Payload::MessageReceived(crate::journal::entry::MessageReceived {
        message: message(seq.0),
        author: name("ada"),
        to: name(agent),
        body: serde_json::Value::Null,
        called_by: None,
        private: Default::default(),
    })
}

#[tokio::test]
async fn walking_back_from_anywhere_finds_all_of_a_kind_newest_first() {
    let disk = Memory::new();
    let writer = open(&disk);
    write(&writer, TURN).unwrap();
    for round in 0..20 {
        write(&writer, &format!("got b\nsee r.t0.a {round}")).unwrap();
        if round % 3 == 0 {
            writer.settle().await.unwrap();
        }
    }
    writer.settle().await.unwrap();
    let kinds = &[Kind::MessageReceived];
    let received: Vec<Seq> = all(&writer)
        .await
        .iter()
        .filter(|it| kinds.contains(&it.kind))
        .map(|it| it.seq)
        .collect();
    let fresh = open(&disk);
    // A ledger with all in memory, one with none, one with a part.
    let half = open(&disk);
    write(&half, "got b").unwrap();
    for (ledger, extra) in [(&writer, None), (&fresh, None), (&half, Some(Seq(44)))] {
        for before in 0..=46 {
            let mut back = ledger.back(Seq(before), kinds);
            let mut found = Vec::new();
            while let Some(entry) = back.next().await.unwrap() {
                found.push(entry.seq);
            }
            found.reverse();
            let expect: Vec<Seq> = received
                .iter()
                .copied()
                .chain(extra)
                .filter(|seq| seq.0 < before)
                .collect();
            assert_eq!(found, expect, "before {before}");
        }
    }
}

/// Two agents speak at once, words come before and after a message, one turn is still open.
const TALK: &str = "open a b\ngot a\ngot b\nstart r.t0.a takes=2 messages\nstart q.t0.b takes=3 messages\n\
    spoke r.t0.a 0 one\nspoke q.t0.b 0 eins\nspoke r.t0.a 3 two\ngot a\nspoke q.t0.b 4 zwei\n\
    end r.t0.a completed 2:consumed\nstart p.t0.a takes=9 messages\nspoke p.t0.a 0 three\n\
    end q.t0.b failed *\nspoke p.t0.a 5 four\ngot a\nspoke p.t0.a 9 five";

#[tokio::test]
async fn pages_of_any_size_make_the_whole_transcript() {
    let disk = Memory::new();
    let writer = open(&disk);
    write(&writer, TALK).unwrap();
    writer.settle().await.unwrap();
    let none = BTreeSet::new();
    for ledger in [writer, open(&disk)] {
        let last = ledger.look(|state| state.last);
        let whole = transcript::window(&ledger, last.next(), last, 100, &none)
            .await
            .unwrap();
        let texts: Vec<&str> = whole.items.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "hello",
                "hello",
                "onetwo",
                "einszwei",
                "hello",
                "threefourfive",
                "hello"
            ]
        );
        let ends: Vec<Option<transcript::Ending>> =
            whole.items.iter().map(|item| item.end).collect();
        use transcript::Ending::{Complete, Failed};
        assert_eq!(
            ends,
            [None, None, Some(Complete), Some(Failed), None, None, None]
        );
        assert_eq!(whole.before, None);
        for size in 1..=8 {
            let (mut before, mut items) = (Some(last.next()), Vec::new());
            while let Some(at) = before {
                let page = transcript::window(&ledger, at, last, size, &none)
                    .await
                    .unwrap();
                assert!(page.items.len() <= size);
                assert!(page.before.is_none_or(|next| next < at), "paging goes on");
                items.splice(0..0, page.items);
                before = page.before;
            }
            assert_eq!(items, whole.items, "pages of {size}");
        }
    }
}

/// What was shown up to an entry is what a window at that entry shows, whatever came later.
#[tokio::test]
async fn a_window_shows_the_session_as_it_stood() {
    let disk = Memory::new();
    let ledger = open(&disk);
    let mut then = Vec::new();
    let none = BTreeSet::new();
    for line in TALK.lines() {
        let last = write(&ledger, line).unwrap();
        then.push((
            last,
            transcript::window(&ledger, last.next(), last, 100, &none)
                .await
                .unwrap(),
        ));
    }
    for (until, window) in &then {
        assert_eq!(
            *window,
            transcript::window(&ledger, Seq(99), *until, 100, &none)
                .await
                .unwrap()
        );
    }
    let without = BTreeSet::from([Seq(9)]);
    let window = transcript::window(&ledger, Seq(99), Seq(99), 100, &without)
        .await
        .unwrap();
    assert_eq!(window.items.len(), 6);
}

#[tokio::test]
async fn a_snapshot_is_written_when_it_is_worth_it_and_changes_nothing() {
    let disk = Memory::new();
    let store = memory(&disk);
    let ledger = Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    write(&ledger, TURN).unwrap();
    ledger.settle().await.unwrap();
    ledger.snapshot(true);
    ledger.settle().await.unwrap();
    assert_eq!(store.snapshot(&journal()), Ok(None), "too few entries");
    for round in 0..70 {
        write(&ledger, &format!("see r.t0.a {round}")).unwrap();
    }
    ledger.snapshot(true);
    ledger.settle().await.unwrap();
    assert_eq!(store.snapshot(&journal()), Ok(None), "not durable yet");
    ledger.snapshot(true);
    write(&ledger, "got a").unwrap();
    ledger.settle().await.unwrap();
    let (seq, bytes) = store.snapshot(&journal()).unwrap().expect("now it is");
    assert_eq!(seq, Seq(73));
    let state = ledger.look(State::clone);
    assert_eq!(open(&disk).look(State::clone), state, "snapshot and tail");

    // A snapshot of another fold, or a damaged one, is no snapshot.
    let mut other = bytes.to_vec();
    other[3] ^= 1;
    for bytes in [other, b"junk".to_vec(), bytes[..bytes.len() - 1].to_vec()] {
        let disk = disk.process_kill();
        let store = memory(&disk);
        let generation = store.open(&journal()).unwrap().generation;
        let write = crate::store::Write::Snapshot {
            journal: journal(),
            generation,
            seq,
            bytes: bytes.into(),
        };
        crate::store::write(&*store, vec![write]).await.unwrap();
        let ledger = Ledger::open(store, journal(), Clock::manual(Time(0))).unwrap();
        assert_eq!(ledger.look(State::clone), state);
    }
}

/// What the wake record says once everything queued is written.
async fn wake(store: &Arc<dyn Store>) -> Option<Time> {
    let nobody = RecordKey {
        name: "nobody".to_owned(),
        ..wake_key(&journal())
    };
    let barrier = vec![crate::store::Write::Unrecord { key: nobody }];
    crate::store::write(&**store, barrier).await.unwrap();
    store
        .record(&wake_key(&journal()))
        .unwrap()
        .and_then(|bytes| parse_wake(&bytes))
}

#[tokio::test]
async fn the_wake_record_is_never_later_than_what_is_due() {
    let disk = Memory::new();
    let store = memory(&disk);
    let ledger = Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    for (lines, record) in [
        ("open a expires=1000", Some(1_000)),
        ("got a", Some(0)),
        // What is stale stays while the session is in memory: it does no harm.
        ("start r.t0.a takes=2 messages", Some(0)),
        ("end r.t0.a completed 2:consumed wake=500", Some(0)),
    ] {
        write(&ledger, lines).unwrap();
        ledger.settle().await.unwrap();
        assert_eq!(wake(&store).await, record.map(Time), "{lines}");
    }
    assert!(ledger.close());
    assert_eq!(ledger.died().await, Dead::Closed);
    let ledger = Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    assert_eq!(wake(&store).await, Some(Time(500)), "at rest it is exact");
    write(&ledger, "start r.t1.a wake\nend r.t1.a completed").unwrap();
    assert!(!ledger.close(), "not before it is durable");
    ledger.settle().await.unwrap();
    assert!(ledger.close());
    let ledger = Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    assert_eq!(wake(&store).await, Some(Time(1_000)), "expiry is left");
    write(&ledger, "delete").unwrap();
    ledger.settle().await.unwrap();
    assert_eq!(wake(&store).await, Some(Time(0)), "to be buried");
}

/// Its last owner may still be writing the record that it rests by when the next one opens it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_opened_as_it_goes_to_rest_has_its_record_too() {
    let disk = Memory::new();
    let store = memory(&disk);
    let open = || Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    let first = open();
    write(&first, "open a").unwrap();
    first.settle().await.unwrap();
    assert!(first.close());
    for round in 0..100 {
        let ledger = open();
        let got = write(&ledger, "got a").unwrap();
        ledger.durable(got).await.unwrap();
        assert_eq!(wake(&store).await, Some(Time(0)), "round {round}");
        let turn = format!(
            "start r{round}.t0.a takes={got} messages\nend r{round}.t0.a completed {got}:consumed"
        );
        write(&ledger, &turn).unwrap();
        ledger.settle().await.unwrap();
        assert!(ledger.close());
    }
}

/// Stop before and after each sync: a session in which something is due has its record.
#[tokio::test]
async fn no_crash_leaves_a_due_session_without_its_record() {
    for k in 1..8 {
        for fault in [Fault::StopBeforeSync(k), Fault::StopAfterSync(k)] {
            let disk = Memory::new();
            disk.inject(fault);
            let ledger = open(&disk);
            for line in [
                "open a",
                "got a",
                TURN.lines().nth(2).unwrap(),
                "end r.t0.a completed * wake=9",
            ] {
                write(&ledger, line).unwrap();
                ledger.flush();
            }
            while !disk.is_stopped() && ledger.mark().durable < Seq(4) {
                tokio::task::yield_now().await;
            }
            for disk in [disk.power_loss(), disk.process_kill()] {
                let store = memory(&disk);
                let state = Ledger::open(store.clone(), journal(), Clock::manual(Time(0)))
                    .unwrap()
                    .look(State::clone);
                if let Some(due) = state.next_due() {
                    assert!(
                        wake(&store).await.is_some_and(|at| at <= due),
                        "{fault:?}: {due:?} at {}",
                        state.last
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn the_newer_owner_has_everything_that_the_older_one_was_promised() {
    let disk = Memory::new();
    let store = memory(&disk);
    let older = Ledger::open(store.clone(), journal(), Clock::manual(Time(0))).unwrap();
    write(&older, "open a\ngot a").unwrap();
    older.flush();
    write(&older, "got a").unwrap();
    let newer = Ledger::open(store, journal(), Clock::manual(Time(0))).unwrap();
    assert_eq!(
        newer.look(|state| state.last),
        Seq(2),
        "what was accepted, and no more"
    );
    assert_eq!(older.durable(Seq(3)).await, Err(Dead::Fenced));
    assert_eq!(older.died().await, Dead::Fenced);
    assert_eq!(write(&older, "got a"), Err(Dead::Fenced));
    write(&newer, "got a").unwrap();
    newer.settle().await.unwrap();
    assert_eq!(older.durable(Seq(2)).await, Ok(()), "that stands");
    assert_eq!(all(&open(&disk)).await.len(), 3);
}

#[tokio::test]
async fn after_a_failed_sync_waiters_are_told_and_reads_go_on() {
    for k in 1..4 {
        let disk = Memory::new();
        disk.inject(Fault::FailSync(k));
        let ledger = open(&disk);
        let mut follower = ledger.follow(Seq(0));
        let mut acknowledged = Seq(0);
        let failed = loop {
            let line = if acknowledged == Seq(0) {
                "open a"
            } else {
                "got a"
            };
            let seq = write(&ledger, line).expect("nobody knows yet");
            match ledger.durable(seq).await {
                Ok(()) => acknowledged = seq,
                Err(dead) => break dead,
            }
        };
        assert!(matches!(failed, Dead::Latched(_)), "{failed:?}");
        assert_eq!(acknowledged, Seq(k - 1));
        ledger.flush();
        assert!(matches!(
            write(&ledger, "got a"),
            Ok(_) | Err(Dead::Latched(_))
        ));
        assert_eq!(ledger.mark().durable, acknowledged);
        let mut seen = Seq(0);
        let end = loop {
            match follower.next().await {
                Ok(entries) => seen = entries.last().unwrap().seq,
                Err(end) => break end,
            }
        };
        assert_eq!(
            seen, acknowledged,
            "all that is durable is read, and nothing else"
        );
        assert!(matches!(end, FollowError::Dead(Dead::Latched(_))));
        let ledger = open(&disk.power_loss());
        assert!(ledger.look(|state| state.last) >= acknowledged);
    }
}

#[tokio::test]
async fn an_illegal_entry_ends_the_ledger_and_is_not_written() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, "open a").unwrap();
    ledger.settle().await.unwrap();
    let pushed = ledger.append(None, |batch| {
        batch.push(got(Seq(99), "a"));
        Ok::<_, Infallible>(())
    });
    assert!(matches!(pushed, Err(AppendError::Dead(Dead::Illegal(_)))));
    assert!(matches!(ledger.died().await, Dead::Illegal(_)));
    assert_eq!(open(&disk).look(|state| state.last), Seq(1));
}

#[tokio::test]
async fn a_panic_in_a_decision_ends_the_ledger_and_whoever_waits_is_told() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, "open a").unwrap();
    ledger.settle().await.unwrap();
    let waiting = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.reached(Seq(2)).await }
    });
    let panicking = std::thread::spawn({
        let ledger = ledger.clone();
        move || {
            ledger
                .append(None, |_| -> Result<(), Infallible> {
                    panic!("as the test wants")
                })
                .is_ok()
        }
    });
    assert!(panicking.join().is_err());
    assert!(write_fails(&ledger));
    assert_eq!(waiting.await.unwrap(), Err(Dead::Fenced));
    assert_eq!(ledger.died().await, Dead::Fenced);
    assert_eq!(open(&disk).look(|state| state.last), Seq(1));
}

fn write_fails(ledger: &Ledger) -> bool {
    ledger.append(None, |_| Ok::<_, Infallible>(())).is_err()
}

#[tokio::test]
async fn a_long_document_is_beside_the_journal_and_always_at_hand() {
    let disk = Memory::new();
    let ledger = open(&disk);
    write(&ledger, "open a").unwrap();
    for text in [
        "short".to_owned(),
        "long ".repeat(20_000),
        "other ".repeat(20_000),
    ] {
        let put = ledger.append(None, |batch| {
            let payload = Script::payload_after(batch.state(), "put x");
            let Payload::SlotCommitted(mut committed) = payload else {
                unreachable!()
            };
            committed.private.content = batch.content(&text);
            batch.push(Payload::SlotCommitted(committed));
            batch.forget_old_texts();
            Ok::<_, Infallible>(())
        });
        assert!(put.is_ok());
        let (seq, found) = ledger.look_at_slot(&name("x"), |_| ());
        assert_eq!(found.unwrap().1.as_ref(), Some(&text));
        ledger.durable(seq).await.unwrap();
        let (_, found) = open(&disk).look_at_slot(&name("x"), |_| ());
        assert_eq!(found.unwrap().1.as_ref(), Some(&text));
    }
}

/// What is stored of the session's usage: day and calls.
fn usage_records(store: &dyn Store) -> Vec<(String, u64)> {
    let records = store.records(Some(&journal().tenant), RecordSpace::Usage, None, 9);
    let records = records.expect("it reads").into_iter();
    let calls = |bytes: &[u8]| {
        let usage: Usage = serde_json::from_slice(bytes).expect("it is a usage");
        usage.model_calls
    };
    records.map(|(name, bytes)| (name, calls(&bytes))).collect()
}

/// A frame may hold entries of two days. Each day is written whole, and a later frame of it again.
#[tokio::test]
async fn usage_is_stored_by_the_days_of_its_entries() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let disk = Memory::new();
    let (store, clock) = (memory(&disk), Clock::manual(Time(DAY_MS - 1)));
    let ledger = Ledger::open(store.clone(), journal(), clock.clone()).unwrap();
    let write = |line: &str| write(&ledger, line).expect("it is legal");
    let call = |n: u32| {
        write(&format!("call run.t0.a {n}"));
        write(&format!("back run.t0.a {n}"));
    };
    write("open a");
    write("got a");
    write("start run.t0.a takes=2 messages");
    call(0);
    call(1);
    clock.advance_ms(1);
    call(2);
    assert_eq!(usage_records(&*store), []);
    ledger.settle().await.unwrap();
    let days = [
        ("1970-01-01/s".to_owned(), 2),
        ("1970-01-02/s".to_owned(), 1),
    ];
    assert_eq!(usage_records(&*store), days);
    call(3);
    ledger.settle().await.unwrap();
    let days = [
        ("1970-01-01/s".to_owned(), 2),
        ("1970-01-02/s".to_owned(), 2),
    ];
    assert_eq!(usage_records(&*store), days);
    // Entries without usage write nothing of it.
    write("got a");
    let syncs = disk.syncs();
    ledger.settle().await.unwrap();
    assert_eq!(
        (disk.syncs(), usage_records(&*store)),
        (syncs + 1, days.into())
    );
    // Folded again, it goes on from there.
    let ledger = Ledger::open(store.clone(), journal(), clock).unwrap();
    assert_eq!(ledger.look(|state| state.spent().total.model_calls), 4);
    assert_eq!(ledger.look(|state| state.spent().of_day.model_calls), 2);
}

/// What an older process left under way may have left the host; of its own calls a process knows.
#[test]
fn a_call_that_has_not_left_the_host_costs_nothing_if_it_is_cut_off() {
    let ledger = open(&Memory::new());
    let begun = "open a\ngot a\nstart r.t0.a takes=2 messages\ncall r.t0.a 0";
    write(&ledger, begun).unwrap();
    let calls = || {
        let at_end = ledger.append(None, |batch| {
            Ok::<_, Infallible>(batch.usage_at_end(&turn()).model_calls)
        });
        at_end.unwrap()
    };
    assert_eq!(calls(), 1);
    ledger.mark_call(&turn(), 0, false);
    assert_eq!(calls(), 0);
    ledger.mark_call(&turn(), 0, true);
    assert_eq!(calls(), 1);
    write(&ledger, "call r.t0.a 1").unwrap();
    ledger.mark_call(&turn(), 1, false);
    assert_eq!(calls(), 1);
    write(&ledger, "back r.t0.a 1").unwrap();
    assert_eq!(calls(), 2);
}
