//! Turns that are taken up again: what they find, and when they are given up.

use super::laws::{check_answered, check_repeatable, check_requests, check_resumed, check_said};
use super::*;
use crate::journal::entry::{Failure, RetryReason};

/// Talk until some words were shown, and lose the host.
fn lost_after(lines: &[&str]) -> (Memory, Time) {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        converse(world, lines, &mut Outside::default()).await;
        world.clock.now()
    });
    (disk.power_loss(), now)
}

fn texts(entries: &[Entry]) -> String {
    entries
        .iter()
        .filter_map(|entry| match &entry.payload {
            Payload::Spoke(spoke) => Some(spoke.text.as_str()),
            _ => None,
        })
        .collect()
}

fn reasons(entries: &[Entry]) -> Vec<RetryReason> {
    let retried = entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Retried(it) if it.n.is_none() => Some(it.reason),
        _ => None,
    });
    retried.collect()
}

#[test]
fn a_lock_is_taken_again_only_if_nobody_wrote() {
    for wrote in [false, true] {
        let lines = [
            "post a lock x; say held; ask SLOW answer; commit x mine; read x",
            "shown held",
        ];
        let (disk, now) = lost_after(&lines);
        life(&disk, now, async |world| {
            // No place for a turn until somebody wrote.
            let places = world.sessions.take_every_place().await;
            let session = world.session().await;
            if wrote {
                let put = commands::put_slot(
                    &world.sessions,
                    &session.ledger,
                    &name("x"),
                    name("ada"),
                    None,
                    "theirs",
                );
                put.expect("the slot is free");
            }
            drop((places, session));
            world.quiet().await;
            let stored = entries(&*world.store);
            let expected = if wrote {
                "heldanswerlost.theirs"
            } else {
                "heldanswermine"
            };
            // A turn that slot `x` woke says so too.
            let said = texts(&stored).replace("saw x.", "");
            assert_eq!(said, expected, "{}", print(&stored));
            check_answered(&stored);
            check_repeatable(&stored);
        });
    }
}

/// A request is under way when the host is lost. Only one that may be made twice is made again.
#[test]
fn a_request_is_made_again_only_if_it_may_be() {
    for (verb, said, made) in [("get", "SLOW", 2), ("post", "[unknown]", 1)] {
        let disk = fresh();
        let now = life(&disk, Time(0), async |world| {
            let line = format!("post a say begun; {verb} SLOW; say on; {verb} page");
            converse(world, &[&line], &mut Outside::default()).await;
            let under_way = || !ORIGIN.with_borrow(Origin::made).is_empty();
            world.until("the request is made", under_way).await;
            world.clock.now()
        });
        let disk = disk.power_loss();
        life(&disk, now, async |world| {
            world.quiet().await;
            let stored = entries(&*world.store);
            let expected = format!("begun{said}onpage");
            assert_eq!(texts(&stored), expected, "{}", print(&stored));
            let times = ORIGIN.with_borrow(Origin::made);
            let mut times: Vec<u32> = times.into_values().map(|(_, times)| times).collect();
            times.sort_unstable();
            assert_eq!(times, [1, made], "{}", print(&stored));
            check_requests(&stored, &ORIGIN.with_borrow(Origin::made));
            check_repeatable(&stored);
        });
    }
}

/// A panic under the session's lock: the session is folded again, its turns go on, and nobody else
/// notices.
#[test]
fn a_poisoned_lock_costs_one_session_a_new_start() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = [
            "post a say one; sleep 3600000; say two",
            "post b say three; sleep 3600000; ask words; say four",
            "shown three",
        ];
        let mut outside = Outside::default();
        converse(world, &lines, &mut outside).await;
        let session = world.session().await;
        let ledger = session.ledger.clone();
        let poison = std::panic::AssertUnwindSafe(|| ledger.look(|_| panic!("as the test wants")));
        std::panic::catch_unwind(poison).expect_err("it panics");
        assert!(session.ledger.mark().dead.is_none() || session.ledger.is_read_only());
        drop((session, ledger));
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(
            reasons(&stored),
            [RetryReason::HostLost; 2],
            "{}",
            print(&stored)
        );
        check_answered(&stored);
        check_repeatable(&stored);
        check_said(&stored);
        world.stop_in_order().await;
    });
}

/// A turn that takes the host down before it does anything is given up.
#[test]
fn a_turn_that_never_gets_on_is_poison() {
    let disk = fresh();
    let (mut disk, mut now) = (disk, Time(0));
    for attempt in 1..=4 {
        now = life(&disk, now, async |world| {
            if attempt == 1 {
                let post = ["post a hang", "post b say fine"];
                converse(world, &post, &mut Outside::default()).await;
            }
            let written = || {
                let stored = entries(&*world.store);
                stored.len() >= 9 && reasons(&stored).len() + 1 == attempt
            };
            world.until("the attempt is durable", written).await;
            world.clock.now()
        });
        disk = disk.process_kill();
    }
    life(&disk, now, async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        let ended = stored.iter().find_map(|entry| match &entry.payload {
            Payload::TurnEnded(it) if it.agent == name("a") => Some(it),
            _ => None,
        });
        let code = ended
            .and_then(|it| it.error.as_ref())
            .map(|error| error.code);
        assert_eq!(code, Some(Failure::Poison), "{}", print(&stored));
        // Its message is set aside at once, and the agent goes on.
        check_answered(&stored);
        converse(
            world,
            &["post a say next", "answered"],
            &mut Outside::default(),
        )
        .await;
        assert!(texts(&entries(&*world.store)).ends_with("next"));
        check_resumed(&entries(&*world.store), std::iter::empty());
    });
}

/// An agent that fails and fails is suspended; its messages wait until somebody resumes it.
#[test]
fn an_agent_that_keeps_failing_is_suspended_and_goes_on_when_resumed() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = ["post a trap", "answered", "post a trap", "post b say fine"];
        converse(world, &lines, &mut Outside::default()).await;
        world.quiet().await;
        let stored = entries(&*world.store);
        let state = fold(&stored);
        let participant = &state.participants[&name("a")];
        assert!(participant.suspended.is_some(), "{}", print(&stored));
        assert_eq!(participant.pending.len(), 1, "{}", print(&stored));
        assert!(texts(&stored).contains("fine"), "others go on");
        let failed: Vec<Time> = stored
            .iter()
            .filter_map(|entry| match &entry.payload {
                Payload::TurnEnded(it) if it.outcome == Outcome::Failed => Some(entry.time),
                _ => None,
            })
            .collect();
        assert_eq!(failed.len(), 5);
        let waits: Vec<u64> = failed
            .windows(2)
            .map(|pair| pair[1].ms_since(pair[0]))
            .collect();
        assert!(waits[3] >= 4_000, "it is backed off: {waits:?}");
    });
}
