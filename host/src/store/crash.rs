//! Crashes and failing disks: what was acknowledged stays, in order, and nothing
//! else is believed.

use proptest::prelude::*;

use super::contract::{End, Owner, append, frame, id, queue, write};
use super::*;

/// A script of commits on two journals, for the disk in memory.
#[derive(Debug, Clone)]
struct Step {
    journal: usize,
    entries: u64,
    /// Waits for its end before the next step, so that groups differ.
    waits: bool,
    /// Goes with a record that counts the steps of its journal.
    recorded: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0usize..2, 1u64..4, any::<bool>(), any::<bool>()).prop_map(
        |(journal, entries, waits, recorded)| Step {
            journal,
            entries,
            waits,
            recorded,
        },
    );
    prop::collection::vec(step, 1..12)
}

fn counter(journal: usize) -> RecordKey {
    RecordKey {
        tenant: Some(TenantId::new("t").unwrap()),
        space: RecordSpace::Wake,
        name: format!("s{journal}"),
    }
}

/// The state after the first `n` steps: the last entry of each journal and its record.
fn state_after(steps: &[Step], n: usize) -> [(u64, Option<String>); 2] {
    let mut state = [(0, None), (0, None)];
    for (at, step) in steps[..n].iter().enumerate() {
        let (last, record) = &mut state[step.journal];
        *last += step.entries;
        if step.recorded {
            *record = Some(at.to_string());
        }
    }
    state
}

fn state_of(store: &dyn Store) -> [(u64, Option<String>); 2] {
    [0, 1].map(|n| {
        let journal = id("t", &format!("s{n}"));
        let frames = store.frames(&journal, Seq(0), usize::MAX).unwrap();
        let mut last = 0;
        for frame in &frames {
            assert_eq!(frame.first().0, last + 1, "a gap");
            last = frame.last().0;
        }
        let record = store.record(&counter(n)).unwrap();
        (
            last,
            record.map(|text| String::from_utf8(text.into()).unwrap()),
        )
    })
}

/// Run the script until it ends or the disk fails; how many commits were acknowledged.
fn run(store: &dyn Store, disk: &Memory, steps: &[Step]) -> usize {
    let mut owners = [0, 1].map(|n| Owner::of(store, &id("t", &format!("s{n}"))));
    let mut waiting: Vec<(_, Option<Result<(), Latched>>)> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let owner = &mut owners[step.journal];
        let first = owner.tail.0.next().0;
        let mut writes = vec![owner.append(frame(first, step.entries))];
        if step.recorded {
            writes.push(Write::Record {
                key: counter(step.journal),
                bytes: at.to_string().into(),
            });
        }
        match queue(store, writes) {
            Ok((tail, done)) => {
                owner.tail = tail.unwrap();
                let end = step.waits.then(|| settle(disk, &done)).flatten();
                let stopped = step.waits && end.is_none();
                waiting.push((done, end));
                if stopped {
                    break;
                }
            }
            Err(CommitError::Latched(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let ends: Vec<Option<Result<(), Latched>>> = waiting
        .into_iter()
        .map(|(done, end)| end.or_else(|| settle(disk, &done)))
        .collect();
    let acknowledged = ends.iter().take_while(|end| **end == Some(Ok(()))).count();
    assert!(
        ends[acknowledged..].iter().all(|end| *end != Some(Ok(()))),
        "acknowledged after one that was not"
    );
    acknowledged
}

/// The end of a commit; none if the machine stopped before it.
fn settle(disk: &Memory, done: &End) -> Option<Result<(), Latched>> {
    loop {
        // Looked at first: an end that came just before the stop must not be missed, as one that
        // came after it is then seen and this one not.
        let stopped = disk.is_stopped();
        match done.try_recv() {
            Ok(end) => return Some(end),
            Err(_) if stopped => return None,
            Err(_) => std::thread::yield_now(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn nothing_acknowledged_is_lost_and_nothing_comes_out_of_order(steps in steps()) {
        for k in 1..=steps.len() as u64 + 1 {
            for fault in [
                Fault::FailSync(k),
                Fault::TearApply(k),
                Fault::StopBeforeSync(k),
                Fault::StopAfterSync(k),
            ] {
                let disk = Memory::new();
                disk.inject(fault);
                let store = memory(&disk);
                let acknowledged = run(&*store, &disk, &steps);
                // Readers see what is durable, which is what was acknowledged or a little more.
                let seen = state_of(&*store);
                let (powerless, killed) = (disk.power_loss(), disk.process_kill());
                let durable = state_of(&*memory(&powerless));
                let reached = |state| (acknowledged..=steps.len())
                    .find(|n| state_after(&steps, *n) == state);
                let kept = reached(durable.clone());
                prop_assert!(kept.is_some(), "{fault:?}: {acknowledged} acknowledged, {durable:?}");
                prop_assert!(reached(seen.clone()) <= kept, "{fault:?}: seen {seen:?}, kept {durable:?}");
                prop_assert!(reached(seen).is_some(), "{fault:?}");
                if !matches!(fault, Fault::TearApply(_)) {
                    prop_assert!(reached(state_of(&*memory(&killed))) >= kept, "{fault:?}");
                }
            }
        }
    }
}

#[test]
fn a_failed_sync_latches() {
    let disk = Memory::new();
    let store = memory(&disk);
    let journal = id("t", "s");
    let key = counter(0);
    let record = |text: &'static str| Write::Record {
        key: key.clone(),
        bytes: text.into(),
    };
    let mut owner = Owner::of(&*store, &journal);
    append(&*store, &mut owner, frame(1, 2));
    write(&*store, vec![record("old")]);
    disk.inject(Fault::FailSync(3));

    let mut writes = vec![owner.append(frame(3, 1)), record("new")];
    writes.push(Write::Snapshot {
        journal: journal.clone(),
        generation: owner.opened.generation,
        seq: Seq(3),
        bytes: "fold".into(),
    });
    let (_, done) = queue(&*store, writes).unwrap();
    let latched = done.recv().unwrap().unwrap_err();
    assert_eq!(latched.reason, "injected: sync");
    assert_eq!(store.latched(), Some(latched.clone()));
    let refused = queue(&*store, vec![record("newer")]).unwrap_err();
    assert_eq!(refused, CommitError::Latched(latched.clone()));
    assert_eq!(
        store.open(&journal),
        Err(OpenError::Latched(latched.clone()))
    );
    assert_eq!(store.clear(&journal, 9), Err(OpenError::Latched(latched)));

    // The engine has it all, but nobody may see it.
    assert_eq!(store.frames(&journal, Seq(0), 999).unwrap(), [frame(1, 2)]);
    assert_eq!(store.frames(&journal, Seq(2), 999).unwrap(), []);
    let spoke = &[Kind::Spoke];
    let back = store.frames_before(&journal, Seq(9), spoke, 999).unwrap();
    assert_eq!(back, [frame(1, 2)]);
    assert_eq!(store.snapshot(&journal), Ok(None));
    assert_eq!(store.record(&key), Ok(Some("old".into())));
    let tenant = key.tenant.as_ref();
    let all = store.records(tenant, RecordSpace::Wake, None, 9).unwrap();
    assert_eq!(all, [("s0".to_owned(), Bytes::from("old"))]);
    store.close();
}

#[test]
fn what_is_not_durable_yet_is_not_read() {
    let disk = Memory::new();
    let store = memory(&disk);
    let tenant = TenantId::new("t").unwrap();
    let list = |store: &dyn Store| {
        let records = store.records(Some(&tenant), RecordSpace::Token, None, 99);
        let names = records
            .unwrap()
            .into_iter()
            .map(|(name, text)| format!("{name}={}", std::str::from_utf8(&text).unwrap()));
        names.collect::<Vec<_>>().join(" ")
    };
    let key = |name: &str| RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Token,
        name: name.into(),
    };
    let record = |name: &str, text: &'static str| Write::Record {
        key: key(name),
        bytes: text.into(),
    };
    let unrecord = |name: &str| Write::Unrecord { key: key(name) };
    let names = ["a", "c", "e", "g"];
    write(&*store, names.map(|name| record(name, "1")).into());
    assert_eq!(list(&*store), "a=1 c=1 e=1 g=1");

    // First, last and between: removed, replaced and new ones, applied and not synced.
    disk.inject(Fault::StopBeforeSync(2));
    let writes = vec![
        unrecord("a"),
        record("b", "2"),
        record("c", "2"),
        unrecord("e"),
        unrecord("g"),
        record("h", "2"),
    ];
    queue(&*store, writes).unwrap();
    while !disk.is_stopped() {
        std::thread::yield_now();
    }
    assert_eq!(list(&*store), "a=1 c=1 e=1 g=1");
    assert_eq!(store.record(&key("a")), Ok(Some("1".into())));
    assert_eq!(store.record(&key("b")), Ok(None));
    assert_eq!(list(&*memory(&disk.process_kill())), "b=2 c=2 h=2");
    assert_eq!(list(&*memory(&disk.power_loss())), "a=1 c=1 e=1 g=1");
}

#[test]
fn readers_beside_a_writer_see_no_gap() {
    let disk = Memory::new();
    let store = memory(&disk);
    let journal = id("t", "s");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut owner = Owner::of(&*store, &journal);
            for n in 0..2_000 {
                let writes = vec![owner.append(frame(n + 1, 1))];
                let (tail, done) = queue(&*store, writes).unwrap();
                owner.tail = tail.unwrap();
                if n % 7 == 0 {
                    done.recv().unwrap().unwrap();
                }
            }
        });
        let mut last = Seq(0);
        while !writer.is_finished() {
            let before = Seq(last.0.saturating_sub(3));
            for frame in store.frames(&journal, before, 400).unwrap() {
                assert!(frame.first() <= last.next(), "a gap after {last}");
                last = last.max(frame.last());
            }
        }
    });
    store.close();
    let frames = store.frames(&journal, Seq(0), usize::MAX).unwrap();
    assert_eq!(frames.len(), 2_000);
}
