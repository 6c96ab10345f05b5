//! Turns that wait for a model without an instance.

use super::laws::{check_answered, check_heard, check_repeatable, check_said};
use super::*;
use crate::journal::entry::TurnEnded;

/// Never given up, and given up whenever a model is asked.
const WAITS: [Duration; 2] = [Duration::from_secs(3_600), Duration::ZERO];

fn said(stored: &[Entry]) -> String {
    let words = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Spoke(it) => Some(it.text.as_str()),
        _ => None,
    });
    words.collect()
}

fn ended(stored: &[Entry]) -> Vec<&TurnEnded> {
    let ended = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::TurnEnded(it) => Some(it),
        _ => None,
    });
    ended.collect()
}

/// Nobody can tell from the journal, and no provider from its requests.
#[test]
fn no_entry_says_that_an_instance_was_given_up() {
    let talks: [&[&str]; 10] = [
        &["post a hesitate one; hesitate SLOW two"],
        &["post a say so; hesitate BREAK one two; say three"],
        &["post a glance 3000 SLOW one; model two"],
        &["post a say one; model two three; say four; ask five; model six"],
        &["post a model SLOW one; sleep 50; ask SLOW two"],
        &["post a lock x; ask SLOW one; commit x two; read x; model three"],
        &["post a model BUSY one; model two CUT three; say four"],
        &["post a spawn b say two; ask SLOW one; wait; model three"],
        &["post a ask one; question Which; ask two", "answer a this"],
        &[
            "post a model SLOW one",
            "pass 20",
            "stop a",
            "post a ask two",
        ],
    ];
    for talk in talks {
        let seen = WAITS.map(|wait| {
            let disk = fresh();
            INSTANCE_WAIT.set(wait);
            life(&disk, Time(0), async |world| {
                converse(world, talk, &mut Outside::default()).await;
                world.quiet().await;
                let stored = entries(&*world.store);
                check_answered(&stored);
                check_repeatable(&stored);
                check_said(&stored);
                check_heard(&stored);
                let mut kinds: Vec<Kind> = stored.iter().map(|it| it.payload.kind()).collect();
                // What comes within a window is one entry: in how many an answer is, is a matter of time.
                kinds.dedup();
                let made = PROVIDER.with_borrow(Log::made);
                let mut made: Vec<u32> = made.into_values().collect();
                made.sort_unstable();
                let usages: Vec<_> = ended(&stored).iter().map(|it| it.usage).collect();
                (kinds, said(&stored), usages, made)
            })
        });
        assert_eq!(seen[0], seen[1], "{talk:?}");
    }
}

/// Others run meanwhile. Who holds a lock keeps it, and the place with it.
#[test]
fn the_place_of_a_turn_that_waits_is_free() {
    for (steps, is_free) in [
        ("say one.; model SLOW two", true),
        ("lock x; say one.; model SLOW two; free x", false),
    ] {
        let disk = fresh();
        INSTANCE_WAIT.set(WAITS[1]);
        life(&disk, Time(0), async |world| {
            let lines = [&*format!("post a {steps}"), "shown one."];
            converse(world, &lines, &mut Outside::default()).await;
            let sessions = world.sessions.clone();
            let all = async move { sessions.take_every_place().await };
            let places = world.wait("all places are there", all).await;
            let before = said(&entries(&*world.store));
            assert_eq!(before == "one.", is_free, "{before}");
            drop(places);
            world.quiet().await;
            assert_eq!(said(&entries(&*world.store)), "one.two");
        });
    }
}

/// Whoever stops or deletes others ends those that have no instance.
#[test]
fn a_turn_without_an_instance_ends_as_others_do() {
    for end in ["stop a", "delete"] {
        let disk = fresh();
        INSTANCE_WAIT.set(WAITS[1]);
        life(&disk, Time(0), async |world| {
            let places = u32::try_from(wake::BURIALS_MAX).expect("they are few");
            let burials = world.sessions.0.burials.acquire_many(places).await;
            let lines = ["post a say one; model SLOW two", "shown one", end];
            converse(world, &lines, &mut Outside::default()).await;
            let over = || ended(&entries(&*world.store)).len() == 1;
            world.until("it has ended", over).await;
            world.advance(2_000).await;
            let stored = entries(&*world.store);
            assert_eq!(said(&stored), "one", "{}", print(&stored));
            assert_ne!(ended(&stored)[0].outcome, Outcome::Completed);
            drop(burials);
        });
    }
}
