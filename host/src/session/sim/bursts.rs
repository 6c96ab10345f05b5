//! Bursts: how many turns they make, and of what.

use super::laws::{check_answered, check_said};
use super::*;
use crate::journal::entry::{Fate, TurnEnded};

/// How the agents take their messages, and what is said.
pub(super) type Talk<'a> = (Batching, &'a [&'a str]);

/// One of each, for crashes to be put in.
pub(super) const TALK: &[Talk<'_>] = &[
    (
        COLLECT,
        &[
            "post a say one; sleep 20; say more",
            "shown one",
            "post a say two",
            "post a model three four",
            "answered",
        ],
    ),
    (
        Batching {
            quiet_ms: 50,
            ..COLLECT
        },
        &[
            "post a say one",
            "post a say two; lock x; commit x doc",
            "answered",
        ],
    ),
    (
        Batching {
            policy: Policy::Followup,
            ..COLLECT
        },
        &[
            "post a say one; sleep 20",
            "post a send b say sent",
            "post a say three",
            "answered",
        ],
    ),
    (
        Batching {
            policy: Policy::Interrupt,
            ..COLLECT
        },
        &[
            "post a lock x; say one; sleep 60000; say never",
            "shown one",
            "post a say two; sleep 20; model three four",
            "post a lock x; commit x doc; say five",
            "answered",
        ],
    ),
    (
        Batching {
            policy: Policy::Steer,
            ..COLLECT
        },
        &[
            "post a say one; sleep 20; more",
            "shown one",
            "post a model two three",
            "post a say four; sleep 20; more",
            "post a say five",
            "answered",
        ],
    ),
];

fn with(policy: Policy) -> Batching {
    Batching { policy, ..COLLECT }
}

fn post(world: &World, session: &Session, to: &str, text: &str) -> MessageId {
    let new = new_session(None);
    let message = new_message(to, text);
    let posted = commands::post(&world.sessions, &session.ledger, Some(&new), message);
    posted.expect("it is taken").message
}

async fn works(world: &World, session: &Session) {
    let works = || session.ledger.look(|state| !state.turns.is_empty());
    world.until("it works", works).await;
}

/// Exactly so long, step by step.
async fn pass(world: &World, ms: u64) {
    for _ in 0..ms {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        world.advance(1).await;
    }
}

/// Everything that was posted is dealt with, and on the disk. Answers what is there.
async fn settled(world: &World, session: &Session) -> Vec<Entry> {
    let settled = || {
        let last = session.ledger.look(|state| state.last);
        session.ledger.mark().durable == last && is_quiet(&*world.store)
    };
    world.until("all is done", settled).await;
    entries(&*world.store)
}

/// Numbers of what each turn of `a` began with.
fn taken(stored: &[Entry]) -> Vec<Vec<u64>> {
    let started = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::TurnStarted(it) if it.agent == name("a") => Some(&it.inputs),
        _ => None,
    });
    started
        .map(|inputs| inputs.iter().map(|input| input.seq().0).collect())
        .collect()
}

fn numbers(messages: &[MessageId]) -> Vec<u64> {
    messages.iter().map(|message| message.seq().0).collect()
}

fn ended(stored: &[Entry]) -> Vec<&TurnEnded> {
    let ended = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::TurnEnded(it) if it.agent == name("a") => Some(it),
        _ => None,
    });
    ended.collect()
}

fn calls() -> usize {
    PROVIDER.with_borrow(Log::made).len()
}

#[test]
fn what_arrives_while_an_agent_works_is_one_input_and_gets_one_reply() {
    let disk = deployed(COLLECT);
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        post(world, &session, "a", "say begun; sleep 1000; say done");
        works(world, &session).await;
        let burst: Vec<MessageId> = (0..36)
            .map(|n| post(world, &session, "a", &format!("once model all; say {n}.")))
            .collect();
        let stored = settled(world, &session).await;
        let taken = taken(&stored);
        assert_eq!(taken.len(), 2, "{}", print(&stored));
        assert_eq!(taken[1], numbers(&burst));
        assert_eq!(calls(), 1);
        let ended = ended(&stored);
        let fates: Vec<(MessageId, Fate)> = ended[1]
            .inputs
            .iter()
            .map(|input| (input.message.clone(), input.fate))
            .collect();
        let consumed: Vec<(MessageId, Fate)> =
            burst.into_iter().map(|it| (it, Fate::Consumed)).collect();
        assert_eq!(fates, consumed, "in the entry of the outcome");
        let said: String = stored
            .iter()
            .filter_map(|entry| match &entry.payload {
                Payload::Spoke(it) if it.turn == ended[1].turn => Some(it.text.as_str()),
                _ => None,
            })
            .collect();
        let expect: String = (0..36).map(|n| format!("{n}.")).collect();
        assert_eq!(said, format!("all{expect}"));
        check_answered(&stored);
    });
}

#[test]
fn a_burst_is_one_turn_if_quiet_is_waited_for() {
    for count in [2, 3, 5] {
        for quiet_ms in [0, 150] {
            let disk = deployed(Batching {
                quiet_ms,
                ..COLLECT
            });
            life(&disk, Time(0), async |world| {
                let session = world.session().await;
                let mut burst = Vec::new();
                for n in 0..count {
                    burst.push(post(world, &session, "a", &format!("say {n}; sleep 1000")));
                    pass(world, 40).await;
                }
                let stored = settled(world, &session).await;
                let burst = numbers(&burst);
                let expect = match quiet_ms {
                    0 => vec![vec![burst[0]], burst[1..].to_vec()],
                    _ => vec![burst.clone()],
                };
                assert_eq!(taken(&stored), expect, "{}", print(&stored));
            });
        }
    }
}

/// Somebody who types slowly is answered before he is done.
#[test]
fn a_talk_that_never_pauses_is_answered_all_the_same() {
    let batching = Batching {
        quiet_ms: 100,
        wait_ms_max: 250,
        ..COLLECT
    };
    life(&deployed(batching), Time(0), async |world| {
        let session = world.session().await;
        let begun = world.clock.now();
        for n in 0..8 {
            post(world, &session, "a", &format!("say {n}"));
            pass(world, 60).await;
        }
        let stored = settled(world, &session).await;
        let started = stored
            .iter()
            .find(|entry| entry.payload.kind() == Kind::TurnStarted);
        let waited = started.expect("it began").time.ms_since(begun);
        assert!((250..300).contains(&waited), "{waited}\n{}", print(&stored));
        assert!(taken(&stored).len() <= 3, "{}", print(&stored));
        check_answered(&stored);
    });
}

#[test]
fn five_messages_are_answered_with_two_calls_of_a_slow_model() {
    life(&deployed(COLLECT), Time(0), async |world| {
        let session = world.session().await;
        for _ in 0..5 {
            post(world, &session, "a", "once ask SLOW words");
            pass(world, 200).await;
        }
        let stored = settled(world, &session).await;
        let replies = stored
            .iter()
            .filter(|entry| entry.payload.kind() == Kind::Spoke)
            .count();
        assert!((1..=2).contains(&replies), "{}", print(&stored));
        assert!(calls() <= 2, "{}", print(&stored));
        check_answered(&stored);
    });
}

#[test]
fn followups_are_turns_of_their_own_in_order() {
    life(&deployed(with(Policy::Followup)), Time(0), async |world| {
        let session = world.session().await;
        let posted: Vec<MessageId> = (0..4)
            .map(|n| post(world, &session, "a", &format!("say {n}")))
            .collect();
        let stored = settled(world, &session).await;
        let each: Vec<Vec<u64>> = numbers(&posted).into_iter().map(|it| vec![it]).collect();
        assert_eq!(taken(&stored), each, "{}", print(&stored));
    });
}

#[test]
fn a_person_who_speaks_interrupts_and_nothing_lies_between() {
    let disk = deployed(with(Policy::Interrupt));
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        post(
            world,
            &session,
            "a",
            "lock x; say begun; sleep 60000; say never",
        );
        let has_begun = |state: &State| state.turns.values().any(|it| it.said > 0 && it.calls > 2);
        world
            .until("it has begun", || session.ledger.look(has_begun))
            .await;
        post(world, &session, "a", "say after");
        let stored = settled(world, &session).await;
        let text = print(&stored);
        let at = stored
            .iter()
            .position(|entry| entry.payload.kind() == Kind::InterruptRequested)
            .expect("it is written down");
        let Payload::InterruptRequested(requested) = &stored[at].payload else {
            panic!("{text}");
        };
        let Payload::MessageReceived(message) = &stored[at - 1].payload else {
            panic!("{text}");
        };
        assert_eq!(requested.message.as_ref(), Some(&message.message), "{text}");
        assert_eq!(requested.by, message.author);
        let Payload::TurnEnded(ended) = &stored[at + 1].payload else {
            panic!("{text}");
        };
        assert_eq!(
            (&ended.turn, ended.outcome),
            (&requested.turn, Outcome::Interrupted)
        );
        assert_eq!(ended.inputs[0].fate, Fate::Consumed);
        assert_eq!(
            taken(&stored)[1],
            numbers(std::slice::from_ref(&message.message))
        );
        let words: Vec<&str> = stored
            .iter()
            .filter_map(|entry| match &entry.payload {
                Payload::Spoke(it) => Some(it.text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(words, ["begun", "after"], "{text}");
        check_answered(&stored);
    });
}

#[test]
fn agents_interrupt_nobody() {
    let disk = deployed(with(Policy::Interrupt));
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        post(world, &session, "a", "sleep 500; say done.");
        works(world, &session).await;
        post(world, &session, "b", "send a say heard");
        let stored = settled(world, &session).await;
        let outcomes: Vec<Outcome> = ended(&stored).iter().map(|it| it.outcome).collect();
        assert_eq!(outcomes, [Outcome::Completed; 2], "{}", print(&stored));
    });
}

#[test]
fn a_turn_that_is_steered_takes_what_arrives_and_leaves_the_rest() {
    let disk = deployed(with(Policy::Steer));
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let first = post(world, &session, "a", "say one.; sleep 500; more; sleep 500");
        works(world, &session).await;
        let joined = post(world, &session, "a", "say two.");
        pass(world, 700).await;
        let rest = post(world, &session, "a", "say three.");
        let stored = settled(world, &session).await;
        let expect = [&first, &rest].map(|it| vec![it.seq().0]);
        assert_eq!(taken(&stored), expect, "{}", print(&stored));
        let ended = ended(&stored);
        let fates: Vec<(u64, Fate)> = ended[0]
            .inputs
            .iter()
            .map(|input| (input.message.seq().0, input.fate))
            .collect();
        let consumed = [&first, &joined].map(|it| (it.seq().0, Fate::Consumed));
        assert_eq!(fates, consumed, "{}", print(&stored));
        check_answered(&stored);
        check_said(&stored);
        // Whoever asks what became of it is told of the turn that took it, and of its words since.
        let message = joined.clone();
        let look = async move { outcome::look(&session, &message).await };
        let standing = world
            .wait("what became of it", look)
            .await
            .expect("it reads");
        let Some(outcome::Standing::Done(it)) = standing else {
            panic!("{standing:?}");
        };
        assert_eq!((&it.turn, &it.run), (&ended[0].turn, &ended[0].turn.run()));
        assert!(it.reply.ends_with("two."), "{it:?}");
    });
}
