//! Forks: at any place, beside the session they come from, through crashes, given up, and at once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

use super::laws::{check_answered, check_said};
use super::*;
use crate::journal::entry::{Failure, Idempotency};
use crate::session::commands::CommandError;
use crate::session::fork::{ForkError, Forked, NewFork, Next};

fn fork_journal() -> JournalId {
    JournalId {
        session: name("fork"),
        ..journal()
    }
}

fn new_fork(at: Option<u64>) -> NewFork {
    NewFork {
        session: name("fork"),
        at: at.map(Seq),
        idempotency: None,
        next: None,
    }
}

async fn fork(world: &World, new: &NewFork) -> Result<Forked, ForkError> {
    let (sessions, new) = (world.sessions.clone(), new.clone());
    let forking = async move { sessions.fork(&tenant(), &name("s"), &new).await };
    world.wait("an answer", forking).await
}

async fn forked(world: &World, at: Option<u64>) -> Arc<Session> {
    fork(world, &new_fork(at))
        .await
        .expect("it is forked")
        .session
}

/// Nothing of the fork is left, and nobody is about to make it.
fn is_gone(store: &dyn Store) -> bool {
    let record = |space| {
        let key = RecordKey {
            tenant: Some(tenant()),
            space,
            name: "fork".into(),
        };
        store.record(&key).expect("it reads").is_some()
    };
    store.exists(&fork_journal()) == Ok(false)
        && !record(RecordSpace::Fork)
        && !record(RecordSpace::Wake)
}

fn listed(world: &World) -> Vec<String> {
    let (sessions, _) = world.sessions.list(&tenant(), None, 10).expect("it reads");
    sessions.iter().map(ToString::to_string).collect()
}

/// The fork is what the session was up to `at`, and then its own.
fn check_copy(fork: &[Entry], parent: &[Entry], at: usize) {
    assert_eq!(fork[..at], parent[..at]);
    let Payload::SessionForked(forked) = &fork[at].payload else {
        panic!("{}", print(fork));
    };
    assert_eq!((&forked.from, forked.at), (&name("s"), Seq(at as u64)));
    let (before, after) = (fold(&parent[..at]), fold(&fork[..=at]));
    assert_ne!(before.secret, after.secret);
}

#[test]
fn a_fork_in_the_middle_of_a_turn_goes_on_beside_it() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = [
            "post b say later; wake 400000",
            "answered",
            "post a say begun; lock x; sleep 300000; commit x doc; say done",
            "shown begun",
            "post a say second",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let parent = entries(&*world.store);
        let fork = forked(world, None).await;
        let at = parent.len();
        let end = entries_of(&*world.store, &fork_journal());
        check_copy(&end, &parent, at);
        let Payload::TurnEnded(ended) = &end[at + 1].payload else {
            panic!("{}", print(&end));
        };
        let code = ended.error.as_ref().map(|error| error.code);
        assert_eq!(
            (ended.outcome, code),
            (Outcome::Interrupted, Some(Failure::Forked))
        );
        let mut outside = Outside::default();
        let lines = ["answered", "post b say third", "put x mine", "answered"];
        converse_in(world, fork.clone(), &lines, &mut outside).await;
        assert_eq!(outside.messages[0].session(), name("fork"));
        // The turn of the session it comes from is not in its way, and the other way round.
        let busy = fold(&entries(&*world.store));
        assert!(busy.slots[&name("x")].lock.is_some(), "it still writes");
        world
            .until("nothing is due", || is_quiet(&*world.store))
            .await;
        let stored = entries_of(&*world.store, &fork_journal());
        check_answered(&stored);
        let text = print(&stored);
        assert!(
            text.contains("\"second\"") && text.contains("\"third\""),
            "{text}"
        );
        assert!(!text.contains("\"awake.\""), "{text}");
        let text = print(&entries(&*world.store));
        assert!(
            text.contains("\"done\"") && text.contains("\"awake.\""),
            "{text}"
        );
        check_said(&entries(&*world.store));
        world.stop_in_order().await;
    });
}

/// What people and agents do, and at every place of it somebody forks.
#[test]
fn a_fork_at_any_place_comes_to_rest_and_is_that_session_up_to_there() {
    let lines = [
        "post b say one; wake 400",
        "post a send b lock x,say got it,commit x b; say sent",
        "post a model two three four",
        "answered",
        "put x text",
        "post a lock y; commit y doc; say five; fail",
        "answered",
    ];
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        converse(world, &lines, &mut Outside::default()).await;
        world.quiet().await;
        world.stop_in_order().await;
        world.clock.now()
    });
    let disk = disk.process_kill();
    let count = entries(&*memory(&disk)).len();
    assert!(count > 30, "{count}");
    for at in 1..=count {
        let disk = disk.process_kill();
        life(&disk, now, async |world| {
            let parent = entries(&*world.store);
            drop(forked(world, Some(at as u64)).await);
            check_copy(&entries_of(&*world.store, &fork_journal()), &parent, at);
            assert_eq!(listed(world), ["fork", "s"]);
            let rests = || {
                fold(&entries_of(&*world.store, &fork_journal()))
                    .next_due()
                    .is_none()
            };
            world.until("nothing is due in it", rests).await;
            check_answered(&entries_of(&*world.store, &fork_journal()));
            assert_eq!(entries(&*world.store), parent, "it is not touched");
            world
                .until("it rests", || world.sessions.open_count() == 0)
                .await;
            world.stop_in_order().await;
        });
    }
}

fn long() -> (Memory, Time) {
    with_documents(2)
}

/// A session with so many documents, which are copied one by one.
fn with_documents(count: usize) -> (Memory, Time) {
    let document = "long ".repeat(60_000);
    let mut lines = vec!["post a say one; lock x; wake 1000000000".to_owned()];
    let slots = ["p", "q"].into_iter().map(str::to_owned);
    let slots = slots.chain((2..).map(|n| format!("p{n}"))).take(count);
    lines.extend(slots.map(|slot| format!("put {slot} {slot}{document}")));
    lines.push("answered".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        converse(world, &lines, &mut Outside::default()).await;
        world.stop_in_order().await;
        world.clock.now()
    });
    (disk.power_loss(), now)
}

#[test]
fn a_crash_at_any_sync_leaves_a_whole_fork_or_none() {
    let faults: [fn(u64) -> Fault; 3] =
        [Fault::StopBeforeSync, Fault::StopAfterSync, Fault::FailSync];
    for (fault, is_kill) in faults.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let (mut whole, mut none) = (0, 0);
        for k in 1..SYNCS_MAX {
            let (disk, now) = long();
            let parent = entries(&*memory(&disk));
            disk.inject(fault(k));
            let answer = life(&disk, now, async |world| {
                let (sessions, new) = (world.sessions.clone(), new_fork(None));
                let making = tokio::spawn(async move {
                    let forked = sessions.fork(&tenant(), &name("s"), &new).await;
                    forked.map(|_| ())
                });
                let over = || making.is_finished() || disk.is_stopped();
                world.until("it is made or it stops", over).await;
                let answer = making.is_finished().then_some(making);
                match answer {
                    Some(answer) => Some(answer.await.expect("it does not panic")),
                    None => None,
                }
            });
            let hit = disk.is_stopped() || matches!(answer, Some(Err(_)));
            let disk = if is_kill {
                disk.process_kill()
            } else {
                disk.power_loss()
            };
            life(&disk, now, async |world| {
                let is_there = || entries_of(&*world.store, &fork_journal()).len() > parent.len();
                if answer == Some(Ok(())) {
                    assert!(is_there(), "it was acknowledged");
                }
                if is_there() {
                    whole += 1;
                    let fork = entries_of(&*world.store, &fork_journal());
                    check_copy(&fork, &parent, parent.len());
                    assert_eq!(listed(world), ["fork", "s"]);
                    assert!(matches!(fork_again(world).await, Err(ForkError::Exists)));
                } else {
                    none += 1;
                    assert_eq!(listed(world), ["s"], "half of it is no session");
                    // By itself: nobody asks for it.
                    world
                        .until("it is removed", || is_gone(&*world.store))
                        .await;
                    assert!(matches!(fork_again(world).await, Ok(())));
                }
                let session = forked_or_there(world).await;
                assert!(texts(&session).iter().all(|text| text.len() > 300_000));
                assert_eq!(entries(&*world.store)[..parent.len()], parent);
            });
            if !hit {
                break;
            }
        }
        assert!(none >= 3 && whole >= 1, "{none} none, {whole} whole");
    }
}

/// The documents of [`long`].
fn texts(session: &Session) -> [String; 2] {
    ["p", "q"].map(|slot| {
        let (_, found) = session.ledger.look_at_slot(&name(slot), |_| ());
        found.and_then(|(_, text)| text).unwrap_or_default()
    })
}

async fn fork_again(world: &World) -> Result<(), ForkError> {
    fork(world, &new_fork(None)).await.map(|_| ())
}

async fn forked_or_there(world: &World) -> Arc<Session> {
    let sessions = world.sessions.clone();
    let get = async move { sessions.get(&tenant(), &name("fork")).await };
    world.wait("an answer", get).await.expect("it is there")
}

/// Poll a fork until its record is there and no further, so that it stands in its middle.
async fn begin<'a>(
    world: &World,
    making: &mut Pin<Box<dyn Future<Output = Result<Forked, ForkError>> + Send + 'a>>,
) {
    let key = RecordKey {
        tenant: Some(tenant()),
        space: RecordSpace::Fork,
        name: "fork".into(),
    };
    let begun = || world.store.record(&key).expect("it reads").is_some();
    let mut step = || {
        if begun() {
            return true;
        }
        let polled = making
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        begun()
    };
    world.until("it is begun", &mut step).await;
}

#[test]
fn a_fork_that_is_given_up_is_removed() {
    // It goes on by itself until it is told: on a busy machine it may have copied some by then, but not all.
    let (disk, now) = with_documents(30);
    life(&disk, now, async |world| {
        let new = new_fork(None);
        let (owner, from) = (tenant(), name("s"));
        let mut making: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(world.sessions.fork(&owner, &from, &new));
        begin(world, &mut making).await;
        assert_eq!(listed(world), ["s"]);
        drop(making);
        world
            .until("it is removed", || is_gone(&*world.store))
            .await;
        let session = forked(world, None).await;
        assert_eq!(session.journal, fork_journal());
    });
}

#[test]
fn as_many_are_made_at_once_as_may_be() {
    let (disk, now) = long();
    life(&disk, now, async |world| {
        let permit = || world.sessions.0.forks.try_acquire().expect("there are two");
        let permits = [permit(), permit()];
        let busy = fork(world, &new_fork(None)).await;
        assert!(matches!(busy, Err(ForkError::Busy)));
        drop(permits);
        let _one = permit();
        assert!(fork(world, &new_fork(None)).await.is_ok());
    });
}

fn keyed(body: &[u8]) -> NewFork {
    NewFork {
        idempotency: Some(Idempotency {
            key: Digest::of(b"key"),
            body: Digest::of(body),
        }),
        ..new_fork(None)
    }
}

#[test]
fn whoever_waits_for_one_that_is_not_opened_opens_it_alone() {
    let (disk, now) = long();
    life(&disk, now, async |world| {
        let fork = || {
            let sessions = world.sessions.clone();
            async move {
                let new = keyed(b"one");
                sessions.fork(&tenant(), &name("s"), &new).await
            }
        };
        // In memory, so that no fork waits for it.
        let _parent = world.session().await;
        let (fail, failing) = tokio::sync::oneshot::channel::<SessionError>();
        let make = Box::pin(async move { Err(failing.await.expect("it is sent")) });
        let opening = world.sessions.enter(&fork_journal()).expect("it is served");
        let comes = fork();
        let fails = tokio::spawn(async move {
            let error = opening.run::<SessionError>(make).await.err();
            assert_eq!(error, Some(SessionError::NotFound));
            // At once, before the one that waited is done with it.
            comes.await
        });
        let waits = tokio::spawn(fork());
        for _ in 0..100 {
            world.advance(1).await;
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished(), "it is being opened");
        fail.send(SessionError::NotFound).expect("it waits");
        let both = async move { tokio::join!(waits, fails) };
        let (one, two) = world.wait("both answer", both).await;
        let (one, two) = (one.expect("no panic"), two.expect("no panic"));
        let (one, two) = (one.expect("it is made"), two.expect("it is there"));
        assert!(one.replayed != two.replayed, "one of them made it");
        assert!(Arc::ptr_eq(&one.session, &two.session));
    });
}

#[test]
fn nothing_stays_of_an_opening_that_is_given_up() {
    let (disk, now) = long();
    life(&disk, now, async |world| {
        let (owner, unknown) = (tenant(), name("unknown"));
        let mut waiter = Box::pin(world.sessions.get(&owner, &unknown));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        assert_eq!(world.sessions.open_count(), 1);
        drop(waiter);
        world
            .until("it is forgotten", || world.sessions.open_count() == 0)
            .await;
    });
}

#[test]
fn forks_are_refused_where_there_is_nothing_or_somebody() {
    let (disk, now) = long();
    life(&disk, now, async |world| {
        let last = entries(&*world.store).len() as u64;
        let refused = async |new: NewFork| fork(world, &new).await.err();
        assert_eq!(refused(new_fork(Some(0))).await, Some(ForkError::AtNothing));
        assert_eq!(
            refused(new_fork(Some(last + 1))).await,
            Some(ForkError::Ahead)
        );
        let itself = NewFork {
            session: name("s"),
            ..new_fork(None)
        };
        assert_eq!(refused(itself).await, Some(ForkError::Exists));
        let sessions = world.sessions.clone();
        let unknown = async move {
            let new = new_fork(None);
            // Into itself, and it is not there: nobody waits for himself.
            sessions.fork(&tenant(), &name("fork"), &new).await.err()
        };
        let not_found = ForkError::Session(SessionError::NotFound);
        assert_eq!(world.wait("an answer", unknown).await, Some(not_found));
        // Somebody who only looked whether it is there is not in the way.
        let sessions = world.sessions.clone();
        let look = async move { sessions.get_or_absent(&tenant(), &name("fork")).await };
        drop(world.wait("an answer", look).await.expect("it is absent"));
        drop(forked(world, Some(2)).await);
        assert_eq!(refused(new_fork(Some(2))).await, Some(ForkError::Exists));
    });
}

#[test]
fn a_key_makes_one_fork_whatever_becomes_of_the_session_it_comes_from() {
    let (disk, now) = long();
    life(&disk, now, async |world| {
        let (first, second) = (keyed(b"one"), keyed(b"one"));
        let both = {
            let (one, two) = (world.sessions.clone(), world.sessions.clone());
            async move {
                let (owner, from) = (tenant(), name("s"));
                tokio::join!(
                    one.fork(&owner, &from, &first),
                    two.fork(&owner, &from, &second)
                )
            }
        };
        let (one, two) = world.wait("both answer", both).await;
        let (one, two) = (one.expect("it is made"), two.expect("it is there"));
        assert!(one.replayed != two.replayed, "one of them made it");
        assert!(Arc::ptr_eq(&one.session, &two.session));
        drop((one, two));
        let parent = world.get().await.expect("it is there");
        commands::delete(&parent.ledger).expect("it is open");
        drop(parent);
        world
            .until("the session it comes from is removed", || {
                world.store.exists(&journal()) == Ok(false)
            })
            .await;
        assert!(
            fork(world, &keyed(b"one"))
                .await
                .is_ok_and(|it| it.replayed)
        );
        assert!(matches!(
            fork(world, &keyed(b"two")).await,
            Err(ForkError::KeyReused)
        ));
        let gone = ForkError::Session(SessionError::Gone);
        assert_eq!(fork(world, &new_fork(None)).await.err(), Some(gone));
        // It needs nothing of it, documents included.
        world
            .until("it rests", || world.sessions.open_count() == 0)
            .await;
        let session = forked_or_there(world).await;
        assert!(texts(&session).iter().all(|text| text.len() > 300_000));
    });
}

#[test]
fn a_fork_of_a_fork_ends_when_nothing_happens_in_it() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let new = new_session(Some(900_000));
        let message = new_message("a", "say hello");
        commands::post(&world.sessions, &session.ledger, Some(&new), message).unwrap();
        drop(session);
        converse(world, &["answered"], &mut Outside::default()).await;
        world.advance(600_000).await;
        let before = world.clock.now();
        let first = forked(world, None).await;
        let sessions = world.sessions.clone();
        let again = async move {
            let new = NewFork {
                session: name("third"),
                ..new_fork(None)
            };
            sessions.fork(&tenant(), &name("fork"), &new).await
        };
        let third = world.wait("an answer", again).await.expect("it is forked");
        let forks = third.session.ledger.look(|state| state.last);
        assert_eq!(forks, first.ledger.look(|state| state.last).next());
        let expires_at = first
            .ledger
            .look(State::expires_at)
            .expect("as the other does");
        assert!(
            expires_at >= before.plus_ms(900_000),
            "it counts from its own beginning"
        );
        drop((first, third));
        world
            .until("all are removed", || {
                ["s", "fork", "third"].iter().all(|session| {
                    let journal = JournalId {
                        session: name(session),
                        ..journal()
                    };
                    world.store.exists(&journal) == Ok(false)
                })
            })
            .await;
    });
}

/// A fork that goes on from an answer.
#[test]
fn a_fork_for_a_message_takes_nothing_over_that_waits_and_is_not_made_where_it_would_be_refused() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = ["post a say begun; sleep 590000", "shown begun"];
        converse(world, &lines, &mut Outside::default()).await;
        let session = world.session().await;
        let post = |text: &str, after: Option<u64>| {
            let message = NewMessage {
                after: after.map(Seq),
                ..new_message("a", text)
            };
            commands::post(&world.sessions, &session.ledger, None, message)
        };
        // The first message is the second entry, and the newest.
        let second = post("say second", Some(2)).expect("nobody came before");
        for after in [0, 2, second.seq.0 - 1] {
            assert_eq!(post("x", Some(after)), Err(CommandError::Overtaken));
        }
        session.ledger.settle().await.expect("it is written");
        let made_for = |agent: &str| NewFork {
            next: Some(Next {
                agent: name(agent),
                bus: None,
            }),
            // Where it waits, whatever becomes of it while time passes.
            ..new_fork(Some(second.seq.0))
        };
        drop(fork(world, &made_for("a")).await.expect("it is forked"));
        let stored = entries_of(&*world.store, &fork_journal());
        let aside: Vec<&MessageId> = stored
            .iter()
            .filter_map(|entry| match &entry.payload {
                Payload::MessageSetAside(it) => Some(&it.message),
                _ => None,
            })
            .collect();
        assert_eq!(
            aside,
            [&second.message],
            "the turn's own message is done with"
        );
        let state = fold(&stored);
        assert!(state.participants.values().all(|it| it.pending.is_empty()));
        let third = NewFork {
            session: name("third"),
            ..made_for("c")
        };
        let refused = fork(world, &third).await.err();
        let no_part = ForkError::Refused(CommandError::AgentNotInSession);
        assert_eq!(refused, Some(no_part));
        let third = JournalId {
            session: name("third"),
            ..journal()
        };
        world
            .until("nothing is left of it", || {
                world.store.exists(&third) == Ok(false)
            })
            .await;
        drop(session);
        world.stop_in_order().await;
    });
}
