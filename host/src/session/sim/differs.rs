//! A turn that is taken up again and does not do what it did.

use super::laws::check_answered;
use super::prefix::cut;
use super::*;
use crate::journal::entry::{Failure, Fate};

/// Talk until the words are shown and the machine is off; what is stored when the next process is done.
fn taken_up(steps: &str, until: impl Fn(&[Entry]) -> bool) -> Vec<Entry> {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        let post = format!("post a {steps}");
        converse(world, &[&post], &mut Outside::default()).await;
        world
            .until("it sleeps", || until(&entries(&*world.store)))
            .await;
        world.clock.now()
    });
    life(&disk.power_loss(), now, async |world| {
        world.quiet().await;
        entries(&*world.store)
    })
}

fn sleeps(entries: &[Entry]) -> bool {
    entries
        .iter()
        .any(|entry| entry.payload.kind() == Kind::Called)
}

/// Its error, and the fates of what it took.
fn ending(stored: &[Entry]) -> (String, Vec<Fate>) {
    let mut ends = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::TurnEnded(ended) => Some(ended),
        _ => None,
    });
    let ended = ends.next().expect("it ended");
    assert!(
        ends.next().is_none(),
        "it is not tried again\n{}",
        print(stored)
    );
    assert_eq!(ended.outcome, Outcome::Failed);
    let error = ended.error.as_ref().expect("it failed");
    assert_eq!(error.code, Failure::Nondeterminism, "{}", error.message);
    let fates = ended.inputs.iter().map(|input| input.fate).collect();
    (error.message.clone(), fates)
}

fn words(stored: &[Entry]) -> String {
    let words = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Spoke(spoke) => Some(spoke.text.as_str()),
        _ => None,
    });
    words.collect()
}

#[test]
fn other_words_end_the_turn_and_nothing_is_said_twice() {
    let stored = taken_up("say a; differ; sleep 50; say never", sleeps);
    let (message, fates) = ending(&stored);
    let said = words(&stored);
    let before = said.strip_prefix('a').expect("it said that once");
    assert!(before.parse::<u64>().is_ok(), "{said}");
    let (recorded, asked) = message.split_once(", the agent says ").expect(&message);
    assert!(
        recorded.starts_with("the journal has the words "),
        "{message}"
    );
    assert_ne!(
        recorded.rsplit(' ').next(),
        Some(asked),
        "both are named: {message}"
    );
    // People have an answer to it, if half a one.
    assert_eq!(fates, [Fate::Consumed]);
    check_answered(&stored);
}

#[test]
fn another_call_ends_the_turn_and_its_message_is_set_aside_at_once() {
    let stored = taken_up("differ lock; sleep 50", sleeps);
    let (message, fates) = ending(&stored);
    assert!(
        message.contains("the lock of slot d") && message.contains("the agent locks the slot \"d"),
        "{message}"
    );
    assert_eq!(fates, [Fate::Returned]);
    let asides = stored
        .iter()
        .filter(|entry| entry.payload.kind() == Kind::MessageSetAside);
    assert_eq!(asides.count(), 1, "{}", print(&stored));
    check_answered(&stored);
}

/// The lock that is taken again is none of the agent's calls: its clock stands still, in this
/// attempt as in the next, which has no entry of it.
#[test]
fn taking_locks_again_does_not_move_the_clock() {
    let disk = fresh();
    let whole = life(&disk, Time(0), async |world| {
        let post = "post a lock x; sleep 5; say b; now; sleep 500; say c; now";
        converse(world, &[post, "answered"], &mut Outside::default()).await;
        world.quiet().await;
        entries(&*world.store)
    });
    let mut taken_again = 0;
    for length in 2..whole.len() {
        for k in 1..6 {
            let disk = cut(&whole[..length]);
            disk.inject(Fault::StopAfterSync(k));
            let now = life(&disk, Time(100_000), async |world| {
                let session = world.session().await;
                world
                    .until("it stops or is done", || {
                        world.disk.is_stopped() || is_quiet(&*world.store)
                    })
                    .await;
                drop(session);
                world.clock.now().plus_ms(100_000)
            });
            let stored = life(&disk.power_loss(), now, async |world| {
                let session = world.session().await;
                world.quiet().await;
                drop(session);
                entries(&*world.store)
            });
            let again = |entry: &&Entry| matches!(&entry.payload, Payload::SlotLocked(it) if it.n.is_none());
            taken_again += stored.iter().filter(again).count();
            for entry in &stored {
                if let Payload::TurnEnded(ended) = &entry.payload {
                    assert_eq!(ended.error, None, "{length} {k}\n{}", print(&stored));
                }
            }
        }
    }
    assert!(taken_again > 10, "it was taken again {taken_again} times");
}
