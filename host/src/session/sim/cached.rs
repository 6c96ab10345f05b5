//! Answers that several calls share.

use super::laws::{check_answered, check_calls};
use super::*;
use crate::journal::entry::Returned;

fn returned(stored: &[Entry]) -> Vec<&Returned> {
    let calls = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Returned(it) => Some(it),
        _ => None,
    });
    calls.collect()
}

fn texts(stored: &[Entry]) -> String {
    let text = |entry: &Entry| match &entry.payload {
        Payload::Spoke(spoke) => Some(spoke.text.clone()),
        _ => None,
    };
    stored.iter().filter_map(text).collect()
}

/// What the lines leave in the journal, and how many calls the provider saw.
fn talk(lines: &[&str]) -> (Vec<Entry>, u32) {
    let disk = fresh();
    let provider = PROVIDER.with_borrow(Log::clone);
    life(&disk, Time(0), async |world| {
        converse(world, lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        check_answered(&stored);
        check_calls(&stored, &provider.made());
        (stored, provider.made().values().sum())
    })
}

#[test]
fn an_answer_is_given_again_and_costs_nothing() {
    let lines = ["post a recall one two; recall one two", "answered"];
    let (stored, made) = talk(&lines);
    assert_eq!((texts(&stored).as_str(), made), ("one twoone two", 1));
    let [first, again] = returned(&stored)[..] else {
        panic!("{}", print(&stored));
    };
    assert_eq!(
        (first.cached, first.attempts, first.usage.model_calls),
        (false, 1, 1)
    );
    assert_eq!(
        (again.cached, again.attempts, again.usage.is_nothing()),
        (true, 0, true)
    );
}

#[test]
fn an_old_answer_another_request_and_one_that_did_not_ask_are_answered_anew() {
    for lines in [
        ["post a recall one; sleep 60100; recall one", "answered"],
        ["post a recall one; recall two", "answered"],
        ["post a recall one; ask one", "answered"],
        ["post a ask one; recall one", "answered"],
        ["post a recall BUSY one; recall BUSY two", "answered"],
    ] {
        let (stored, made) = talk(&lines);
        let busy = lines[0].matches("BUSY").count() as u32;
        assert_eq!(made, 2 + busy, "{lines:?}\n{}", print(&stored));
        assert!(returned(&stored).iter().all(|it| !it.cached));
    }
}

/// What failed or broke off is nobody else's.
#[test]
fn errors_are_not_kept() {
    let lines = ["post a recall one CUT; recall one CUT", "answered"];
    let (stored, made) = talk(&lines);
    assert_eq!(texts(&stored), "[cut after 4][cut after 4]");
    assert_eq!(made, 2);
}

#[test]
fn calls_at_the_same_time_are_one() {
    let lines = [
        "fire a recall one SLOW two",
        "fire b recall one SLOW two",
        "answered",
    ];
    let (stored, made) = talk(&lines);
    assert_eq!((texts(&stored).as_str(), made), ("one twoone two", 1));
    let cached: Vec<bool> = returned(&stored).iter().map(|it| it.cached).collect();
    assert_eq!(
        cached.iter().filter(|cached| **cached).count(),
        1,
        "{cached:?}"
    );
}

/// Who made the call is interrupted: the other gets the answer all the same, of the same call.
#[test]
fn an_answer_outlives_who_asked_first() {
    let lines = [
        "fire a say asks; recall one SLOW SLOW two",
        "shown asks",
        "pass 100",
        "fire b say waits; recall one SLOW SLOW two",
        "shown waits",
        "pass 100",
        "stop a",
        "answered",
    ];
    let (stored, made) = talk(&lines);
    assert_eq!((texts(&stored).as_str(), made), ("askswaitsone two", 1));
}

/// A crash forgets all answers, and no call is made that was not written down.
#[test]
fn a_new_process_knows_no_answers() {
    let disk = fresh();
    let provider = PROVIDER.with_borrow(Log::clone);
    let now = life(&disk, Time(0), async |world| {
        let lines = [
            "post a recall one",
            "answered",
            "post a say so; recall one; hang",
            "shown one",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        world
            .until("both are said", || {
                texts(&entries(&*world.store)) == "onesoone"
            })
            .await;
        world.clock.now()
    });
    life(&disk.power_loss(), now, async |world| {
        let session = world.session().await;
        world
            .until("it hangs again", || {
                session
                    .ledger
                    .look(|state| state.turns.values().any(|turn| turn.attempt == 2))
            })
            .await;
        let lines = ["stop a", "post a recall one", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let cached: Vec<bool> = returned(&stored).iter().map(|it| it.cached).collect();
        assert_eq!(cached, [false, true, false], "{}", print(&stored));
        assert_eq!(texts(&stored), "onesooneone", "{}", print(&stored));
        check_calls(&stored, &provider.made());
    });
}
