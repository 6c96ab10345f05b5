//! Turns that ask people: put aside, answered, given up.

use super::laws::{check_answered, check_heard, check_repeatable, check_said};
use super::*;
use crate::bus;
use crate::journal::entry::{Failure, Reply, RetryReason, TurnEnded};

/// The question of `a`, as soon as it is durable; its session is let go.
async fn asks(world: &World) -> Seq {
    let session = world.session().await;
    let ledger = session.ledger.clone();
    let durable = || asked(&ledger, "a").is_some_and(|it| ledger.mark().durable >= it);
    world.until("it asks", durable).await;
    asked(&ledger, "a").expect("it asks")
}

async fn rests(world: &World) {
    let rests = || world.sessions.open_count() == 0;
    world.until("it rests", rests).await;
}

async fn answers(world: &World, question: Seq, text: &str) -> Result<Seq, CommandError> {
    let session = world.session().await;
    let answered = answer(&session.ledger, question, text);
    session.ledger.flush();
    let durable = || {
        let last = session.ledger.look(|state| state.last);
        session.ledger.mark().durable == last
    };
    world.until("it is durable", durable).await;
    answered
}

async fn post(world: &World, text: &str) {
    converse(world, &[&format!("post a {text}")], &mut Outside::default()).await;
}

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

fn reasons(stored: &[Entry]) -> Vec<RetryReason> {
    let retried = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Retried(it) if it.n.is_none() => Some(it.reason),
        _ => None,
    });
    retried.collect()
}

fn check(stored: &[Entry]) {
    check_answered(stored);
    check_repeatable(stored);
    check_said(stored);
    check_heard(stored);
}

/// As long as people think, nothing of the turn is in memory and its session neither; the answer wakes it.
#[test]
fn a_turn_that_asks_is_put_aside_and_goes_on_with_the_answer() {
    life(&fresh(), Time(0), async |world| {
        post(world, "say one; ask two; question Which one; say three").await;
        let question = asks(world).await;
        rests(world).await;
        // Far longer than a turn may run.
        let limit = world.sessions.limits().turn_ms_max;
        world.advance(10 * limit).await;
        assert_eq!(said(&entries(&*world.store)), "onetwo");
        let answered = answers(world, question, "the second").await;
        let seq = answered.expect("it is open");
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(
            said(&stored),
            "onetwo<the second of ada>three",
            "{}",
            print(&stored)
        );
        assert_eq!(reasons(&stored), [RetryReason::Answered]);
        let asked = PROVIDER.with_borrow(Log::made);
        assert_eq!(asked.values().copied().collect::<Vec<_>>(), [1]);
        let at = |seq: Seq| &stored[usize::try_from(seq.0 - 1).unwrap()].payload;
        assert!(matches!(at(question), Payload::Asked(it) if it.text == "Which one"));
        assert!(matches!(at(seq), Payload::Answered(it) if it.question == question));
        // Answered once.
        let again = answers(world, question, "the first").await;
        assert_eq!(again, Err(CommandError::NotAsked));
        check(&stored);
        world.stop_in_order().await;
    });
}

/// Nobody opens the session: time does.
#[test]
fn a_question_that_nobody_answers_is_given_up_once() {
    life(&fresh(), Time(0), async |world| {
        post(world, "say one; question Which one; say two").await;
        let question = asks(world).await;
        rests(world).await;
        let until = world.sessions.limits().question_ms_max;
        world.advance(until - 100_000).await;
        world
            .until("it is given up", || is_quiet(&*world.store))
            .await;
        let stored = entries(&*world.store);
        assert_eq!(said(&stored), "one<Expired>two", "{}", print(&stored));
        let closed: Vec<&Entry> = stored
            .iter()
            .filter(|entry| matches!(&entry.payload, Payload::Answered(it) if it.reply == Reply::Expired))
            .collect();
        let asked = stored[usize::try_from(question.0 - 1).unwrap()].time;
        assert_eq!(closed.len(), 1);
        let waited = closed[0].time.ms_since(asked);
        // What wakes its session reads on another thread, while virtual time goes on.
        assert!((until..until + 600_000).contains(&waited), "{waited}");
        assert_eq!(
            answers(world, question, "the first").await,
            Err(CommandError::NotAsked)
        );
        check(&stored);
    });
}

/// The host is lost while people think, and again once they have answered.
#[test]
fn a_question_outlives_hosts_and_its_answer_too() {
    let disk = fresh();
    let (question, now) = life(&disk, Time(0), async |world| {
        post(world, "say one; approve May I; say two").await;
        (asks(world).await, world.clock.now())
    });
    let disk = disk.power_loss();
    let now = life(&disk, now, async |world| {
        rests(world).await;
        assert_eq!(asks(world).await, question);
        // No place for a turn, so that the host is lost between the answer and what follows it.
        let places = world.sessions.take_every_place().await;
        answers(world, question, "yes").await.expect("it is open");
        drop(places);
        world.clock.now()
    });
    let disk = disk.power_loss();
    life(&disk, now, async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(said(&stored), "one<yes of ada>two", "{}", print(&stored));
        let reasons = reasons(&stored);
        assert!(reasons.contains(&RetryReason::Answered), "{reasons:?}");
        assert!(reasons.len() <= 2, "{reasons:?}");
        check(&stored);
    });
}

#[test]
fn a_turn_may_ask_as_often_as_it_may_and_no_attempt_has_failed() {
    life(&fresh(), Time(0), async |world| {
        let steps: Vec<String> = (0..50).map(|n| format!("question {n}")).collect();
        post(world, &format!("{}; say done", steps.join("; "))).await;
        let mut expected = String::new();
        for n in 0..50 {
            let question = asks(world).await;
            let text = format!("no {n}");
            answers(world, question, &text).await.expect("it is open");
            expected.push_str(&format!("<{text} of ada>"));
        }
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(said(&stored), format!("{expected}done"));
        assert_eq!(reasons(&stored), vec![RetryReason::Answered; 50]);
        assert_eq!(ended(&stored)[0].outcome, Outcome::Completed);
        check(&stored);
    });
}

#[test]
fn a_lock_is_not_held_over_a_question() {
    life(&fresh(), Time(0), async |world| {
        post(
            world,
            "lock z; question Now; commit z doc; question Then; read z",
        )
        .await;
        let question = asks(world).await;
        answers(world, question, "so").await.expect("it is open");
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(
            said(&stored),
            "<HeldLock><so of ada>doc",
            "{}",
            print(&stored)
        );
        check(&stored);
    });
}

/// What is asked of one agent does not keep another one, and a turn that is put aside has no place.
#[test]
fn a_turn_that_is_put_aside_takes_no_place_from_others() {
    life(&fresh(), Time(0), async |world| {
        post(world, "question Which").await;
        let question = asks(world).await;
        let places = world.sessions.take_every_place().await;
        drop(places);
        let lines = ["post b say meanwhile", "shown meanwhile"];
        converse(world, &lines, &mut Outside::default()).await;
        answers(world, question, "so").await.expect("it is open");
        world.quiet().await;
        check(&entries(&*world.store));
    });
}

/// Whatever ends a turn ends one that asks, at once and for good.
#[test]
fn whoever_ends_a_turn_ends_one_that_asks() {
    type End = fn(&Ledger);
    let ends: [(End, Option<Outcome>); 3] = [
        (
            |ledger| {
                commands::interrupt(ledger, None, name("ada")).expect("it is open");
            },
            Some(Outcome::Interrupted),
        ),
        (
            |ledger| {
                let message = MessageId::of(&name("s"), Seq(2));
                assert_eq!(commands::cancel(ledger, &message), Ok(true));
            },
            Some(Outcome::Cancelled),
        ),
        (|ledger| commands::delete(ledger).expect("it is open"), None),
    ];
    for (end, outcome) in ends {
        for is_at_rest in [false, true] {
            life(&fresh(), Time(0), async |world| {
                post(world, "say one; question Which; say never").await;
                let question = asks(world).await;
                if is_at_rest {
                    rests(world).await;
                }
                let session = world.session().await;
                end(&session.ledger);
                session.ledger.flush();
                let again = answer(&session.ledger, question, "so");
                let gone = [Err(CommandError::NotAsked), Err(CommandError::Gone)];
                assert!(gone.contains(&again), "{again:?}");
                drop(session);
                let Some(outcome) = outcome else {
                    let removed = || world.store.exists(&journal()) == Ok(false);
                    return world.until("it is removed", removed).await;
                };
                world.quiet().await;
                let stored = entries(&*world.store);
                let ended = ended(&stored);
                assert_eq!(ended.len(), 1);
                assert_eq!(ended[0].outcome, outcome, "{}", print(&stored));
                assert_eq!(said(&stored), "one");
                check_answered(&stored);
            });
        }
    }
}

/// Nobody waits for it any more: it ends in time, though nobody wakes it.
#[test]
fn a_callers_deadline_ends_a_turn_that_asks() {
    life(&fresh(), Time(0), async |world| {
        let session = world.session().await;
        let mut message = new_message("a", "say one; question Which; say never");
        message.bus = Some(bus::Context {
            run: name("r"),
            parent: None,
            depth: 1,
            deadline: Some(DEADLINE),
            speaker: None,
            authorized: false,
            left_micros: None,
        });
        let new = new_session(None);
        commands::post(&world.sessions, &session.ledger, Some(&new), message).expect("it is taken");
        drop(session);
        asks(world).await;
        rests(world).await;
        world.until("it ends", || is_quiet(&*world.store)).await;
        let stored = entries(&*world.store);
        let ended = ended(&stored);
        let error = ended[0].error.as_ref().map(|error| error.code);
        assert_eq!(error, Some(Failure::CallerDeadline), "{}", print(&stored));
        let at = stored.last().expect("it is there").time;
        assert!(at >= DEADLINE, "{at:?}");
        assert!(at.ms_since(DEADLINE) < 600_000, "{at:?}");
        assert!(reasons(&stored).is_empty(), "it was not taken up again");
    });
}

/// A session that would expire does not while people think, and does afterwards.
#[test]
fn an_open_question_keeps_its_session() {
    life(&fresh(), Time(0), async |world| {
        let session = world.session().await;
        let new = new_session(Some(60_000));
        let message = new_message("a", "question Which");
        commands::post(&world.sessions, &session.ledger, Some(&new), message).expect("it is taken");
        drop(session);
        let question = asks(world).await;
        rests(world).await;
        world.advance(600_000).await;
        answers(world, question, "so").await.expect("it is open");
        let removed = || world.store.exists(&journal()) == Ok(false);
        world.until("it expires", removed).await;
    });
}

/// Messages that come meanwhile wait, as they do while a turn runs; whom they interrupt they interrupt.
#[test]
fn messages_meet_a_turn_that_asks_as_one_that_runs() {
    for (policy, expected) in [
        (Policy::Collect, "<so of ada>two"),
        (Policy::Followup, "<so of ada>two"),
        (Policy::Steer, "<so of ada>two"),
        (Policy::Interrupt, "two"),
    ] {
        let batching = Batching { policy, ..COLLECT };
        life(&deployed(batching), Time(0), async |world| {
            post(world, "question Which; more").await;
            let question = asks(world).await;
            post(world, "say two").await;
            if policy != Policy::Interrupt {
                assert_eq!(asks(world).await, question, "it goes on asking");
                answers(world, question, "so").await.expect("it is open");
            }
            world.quiet().await;
            let stored = entries(&*world.store);
            assert_eq!(said(&stored), expected, "{policy:?}\n{}", print(&stored));
            let turns = if policy == Policy::Steer { 1 } else { 2 };
            assert_eq!(ended(&stored).len(), turns, "{policy:?}");
            check_answered(&stored);
        });
    }
}

/// A host that stops waits for no person.
#[test]
fn a_host_that_stops_leaves_a_question_open() {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        post(world, "say one; question Which; say two").await;
        asks(world).await;
        world.stop_in_order().await;
        world.clock.now()
    });
    let disk = disk.process_kill();
    life(&disk, now, async |world| {
        let question = asks(world).await;
        answers(world, question, "so").await.expect("it is open");
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(said(&stored), "one<so of ada>two");
        assert_eq!(reasons(&stored), [RetryReason::Answered]);
        check(&stored);
    });
}
