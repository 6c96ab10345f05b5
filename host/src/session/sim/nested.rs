//! Agents that call agents: each call is made once and comes to one end, whatever happens to the host.

use super::laws::{check_answered, check_kept, check_repeatable, check_resumed, check_said};
use super::*;
use crate::bus;
use crate::journal::entry::{CallResult, Failure, Piece};

/// The sessions of nested calls.
pub(super) fn children(store: &dyn Store) -> Vec<(SessionId, Vec<Entry>)> {
    let page = store.journals(&tenant(), None, 100).expect("it reads");
    let others = page.sessions.into_iter().filter(|it| *it != name("s"));
    others
        .map(|session| {
            let journal = JournalId {
                tenant: tenant(),
                session: session.clone(),
            };
            (session, entries_of(store, &journal))
        })
        .collect()
}

pub(super) fn all_quiet(store: &dyn Store) -> bool {
    let quiet = |entries: &[Entry]| {
        let state = fold(entries);
        // What is left to do is to expire, or to be buried.
        state.turns.is_empty() && state.owed.is_empty() && !waits(&state)
    };
    let parent = entries(store);
    (parent.is_empty() || quiet(&parent)) && children(store).iter().all(|(_, it)| quiet(it))
}

fn waits(state: &State) -> bool {
    let pending = state.participants.values().flat_map(|it| &it.pending);
    state.phase == Phase::Open && pending.into_iter().any(|it| it.fresh)
}

pub(super) fn words(entries: &[Entry]) -> String {
    let spoke = entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Spoke(spoke) => Some(spoke.text.as_str()),
        _ => None,
    });
    spoke.collect()
}

/// Every call was made once, has one end, and says what its child said.
fn check_nested(store: &dyn Store) {
    let mut journals = children(store);
    journals.push((name("s"), entries(store)));
    let story = || {
        let texts = journals
            .iter()
            .map(|(id, it)| format!("{id}\n{}", print(it)));
        texts.collect::<Vec<_>>().join("\n")
    };
    for (session, entries) in &journals {
        check_said(entries);
        for (at, entry) in entries.iter().enumerate() {
            let Payload::AgentCalled(called) = &entry.payload else {
                continue;
            };
            let returned = entries[at..].iter().find_map(|entry| match &entry.payload {
                Payload::Returned(it) if it.turn == called.turn && it.n == called.n => Some(it),
                _ => None,
            });
            let told: String = entries[at..]
                .iter()
                .filter_map(|entry| match &entry.payload {
                    Payload::Streamed(it) if it.turn == called.turn && it.n == called.n => Some(it),
                    _ => None,
                })
                .flat_map(|it| &it.pieces)
                .map(|piece| match piece {
                    Piece::Text(text) => text.as_str(),
                    _ => panic!("a reply is text"),
                })
                .collect();
            let child = journals.iter().find(|(id, _)| *id == called.session);
            let Some((_, child)) = child.filter(|(_, child)| !child.is_empty()) else {
                let is_ok = returned.is_some_and(|it| it.result == CallResult::Ok);
                assert!(!is_ok, "a reply of nobody\n{}", story());
                continue;
            };
            let count =
                |of: fn(&Payload) -> bool| child.iter().filter(|it| of(&it.payload)).count();
            let received = count(|it| matches!(it, Payload::MessageReceived(_)));
            assert_eq!(received, 1, "called once\n{}", story());
            let ended =
                count(|it| matches!(it, Payload::TurnEnded(_) | Payload::MessageSetAside(_)));
            assert_eq!(ended, 1, "it has one end\n{}", story());
            let Payload::MessageReceived(message) = &child[1].payload else {
                panic!("a child begins with its message\n{}", story());
            };
            let called_by = message.called_by.as_ref().expect("it knows its caller");
            assert_eq!(
                (&called_by.session, &called_by.turn),
                (session, &called.turn)
            );
            let bus = message.private.bus.as_ref().expect("it has a context");
            assert_eq!(bus.run, called.turn.run(), "one run\n{}", story());
            match returned.map(|it| &it.result) {
                Some(CallResult::Ok) => assert_eq!(told, words(child), "{}", story()),
                Some(_) => assert!(words(child).starts_with(&told), "{}", story()),
                // Its caller ended first: it is told to end, and does.
                None => {}
            }
        }
    }
}

const TALK: &[&[&str]] = &[
    &["post a say one; call b say hi; say done", "answered"],
    &[
        "post a spawn b say slow,sleep 20,say end; spawn b say two; wait; wait; say done",
        "answered",
    ],
    // Left behind, and told to end.
    &[
        "post a spawn b say begun,sleep 3600000,say never; sleep 5; say left",
        "answered",
    ],
    &[
        "post a spawn b sleep 3600000,say never; drop; say dropped",
        "answered",
    ],
    &[
        "post a say one; call b say begun,sleep 3600000,say never",
        "pass 50",
        "stop a",
        "answered",
    ],
    // In a circle, as deep as may be.
    &["post a call b call a call b call a say deep", "answered"],
    &["post a call b fail; call b trap; say done", "answered"],
    &["post a call nobody say hi; say done", "answered"],
];

/// Talk with a fault, crash, recover, and look at every law. False if the fault came too late.
fn survives(lines: &[&str], fault: Fault, again: Option<Fault>) -> bool {
    let disk = fresh();
    disk.inject(fault);
    let mut outside = Outside::default();
    let mut now = life(&disk, Time(0), async |world| {
        converse(world, lines, &mut outside).await;
        world.clock.now()
    });
    let hit = disk.is_stopped();
    let mut disk = disk.power_loss();
    if let Some(fault) = again {
        disk.inject(fault);
        now = life(&disk, now, async |world| {
            let over = || disk.is_stopped() || all_quiet(&*world.store);
            world.until("it stops or is done", over).await;
            world.clock.now()
        });
        disk = disk.power_loss();
    }
    check_kept(&entries(&*memory(&disk)), &outside);
    let lost = fold(&entries(&*memory(&disk))).turns;
    life(&disk, now, async |world| {
        // Nobody opens anything: wake records do.
        world
            .until("all is quiet", || all_quiet(&*world.store))
            .await;
        let stored = entries(&*world.store);
        check_kept(&stored, &outside);
        check_answered(&stored);
        check_resumed(&stored, lost.keys());
        check_repeatable(&stored);
        check_nested(&*world.store);
        world.stop_in_order().await;
    });
    hit
}

#[test]
fn every_call_has_one_end_whatever_sync_the_host_dies_at() {
    for lines in TALK {
        let mut hits = 0;
        for k in 1..SYNCS_MAX {
            let before = survives(lines, Fault::StopBeforeSync(k), None);
            let after = survives(lines, Fault::StopAfterSync(k), None);
            if !before && !after {
                break;
            }
            hits += 1;
        }
        assert!(
            (1..SYNCS_MAX - 1).contains(&hits),
            "{hits} syncs in {lines:?}"
        );
    }
}

#[test]
fn every_call_has_one_end_if_the_host_dies_again_in_recovery() {
    for lines in TALK {
        for k in (1..12).step_by(2) {
            for again in [1, 2, 4] {
                survives(
                    lines,
                    Fault::StopBeforeSync(k),
                    Some(Fault::StopAfterSync(again)),
                );
            }
        }
    }
}

/// What the caller hears, in the words of the script.
fn heard(lines: &[&str]) -> String {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        converse(world, lines, &mut Outside::default()).await;
        world
            .until("all is quiet", || all_quiet(&*world.store))
            .await;
        check_nested(&*world.store);
        words(&entries(&*world.store))
    })
}

#[test]
fn a_caller_hears_what_its_child_said() {
    assert_eq!(heard(TALK[0]), "one(hi)done");
    assert_eq!(heard(TALK[1]), "(slowend)(two)done");
    assert_eq!(heard(TALK[3]), "dropped");
    let failed = heard(TALK[6]);
    assert!(failed.contains("[Failed { why: \"agent:"), "{failed}");
    assert!(
        failed.contains("trap:") && failed.ends_with("done"),
        "{failed}"
    );
    assert_eq!(heard(TALK[7]), "[UnknownAgent]done");
}

#[test]
fn a_circle_ends_where_calls_are_too_deep() {
    let said = heard(TALK[5]);
    assert_eq!(said, "((([TooDeep(TooDeep { observed: 4, limit: 4 })])))");
}

#[test]
fn what_nobody_waits_for_is_cancelled() {
    for talk in [TALK[2], TALK[3], TALK[4]] {
        let disk = fresh();
        life(&disk, Time(0), async |world| {
            converse(world, talk, &mut Outside::default()).await;
            world
                .until("all is quiet", || all_quiet(&*world.store))
                .await;
            let stored = entries(&*world.store);
            let told = stored
                .iter()
                .filter(|it| matches!(it.payload, Payload::CallCancelled(_)));
            assert_eq!(told.count(), 1, "{}", print(&stored));
            // One that was stopped before it began has no session.
            for (_, child) in children(&*world.store) {
                assert!(!words(&child).contains("never"), "{}", print(&child));
            }
        });
    }
}

/// A session that is deleted takes its calls with it before it is gone.
#[test]
fn a_deleted_session_ends_its_calls() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = [
            "post a call b say begun,sleep 3600000,say never",
            "pass 50",
            "delete",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let over = || {
            let children = children(&*world.store);
            let ended = |(_, it): &(_, Vec<Entry>)| {
                it.iter()
                    .any(|it| matches!(it.payload, Payload::TurnEnded(_)))
            };
            children.iter().all(ended) && entries(&*world.store).is_empty()
        };
        world.until("both are over", over).await;
    });
}

/// The time a caller gives travels with the call.
#[test]
fn a_deadline_ends_the_turn_and_what_it_called() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let mut message = new_message("a", "say one; call b say begun,hang,say never");
        message.invoked = true;
        message.bus = Some(bus::Context {
            run: name("r"),
            parent: None,
            depth: 2,
            deadline: Some(DEADLINE),
            speaker: None,
            authorized: false,
            left_micros: None,
        });
        let new = new_session(None);
        commands::post(&world.sessions, &session.ledger, Some(&new), message).expect("it is taken");
        drop(session);
        let stored = || entries(&*world.store);
        world
            .until("all is quiet", || {
                !stored().is_empty() && all_quiet(&*world.store)
            })
            .await;
        let child = children(&*world.store).remove(0).1;
        for journal in [&stored(), &child] {
            let error = journal.iter().find_map(|it| match &it.payload {
                Payload::TurnEnded(ended) => Some(ended.error.clone()),
                _ => None,
            });
            let error = error.flatten().map(|error| error.code);
            let is_late = matches!(error, Some(Failure::CallerDeadline) | None);
            assert!(is_late, "{}", print(journal));
        }
        let Payload::MessageReceived(message) = &child[1].payload else {
            panic!("its message");
        };
        let bus = message.private.bus.as_ref().unwrap();
        assert_eq!((bus.depth, bus.deadline), (3, Some(DEADLINE)));
        assert_eq!(bus.run, name("r"));
        assert!(!words(&child).contains("never"));
        // Nobody waits for a second try.
        let stored = stored();
        let starts = stored
            .iter()
            .filter(|it| matches!(it.payload, Payload::TurnStarted(_)));
        assert_eq!(starts.count(), 1, "{}", print(&stored));
    });
}

/// More callers than places: whoever is called has places of its own.
#[test]
fn callers_that_wait_do_not_keep_the_called_from_running() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let mut sessions = Vec::new();
        for number in 0..6 {
            let (sessions_, id) = (world.sessions.clone(), format!("p{number}"));
            let get = async move { sessions_.get_or_absent(&tenant(), &name(&id)).await };
            let session = world.wait("a session", get).await.expect("it opens");
            let message = new_message("a", "call b call a sleep 50,say hi; say done");
            let new = new_session(None);
            commands::post(&world.sessions, &session.ledger, Some(&new), message).expect("taken");
            session.ledger.flush();
            sessions.push(session);
        }
        let done = || {
            let is_done = |session: &Arc<Session>| {
                session.ledger.look(|state| {
                    !state.participants.is_empty() && state.turns.is_empty() && !waits(state)
                })
            };
            sessions.iter().all(is_done)
        };
        world.until("all are done", done).await;
    });
}

/// Who hears of a call may ask for its session before it is open.
#[test]
fn a_session_that_is_announced_is_waited_for() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let ask = || {
            let sessions = world.sessions.clone();
            tokio::spawn(async move { sessions.get(&tenant(), &name("s")).await })
        };
        let announcement = world.sessions.0.announced.put(journal());
        let first = ask();
        let session = world.session().await;
        let mut looks = 0;
        let looked = || {
            looks += 1;
            looks > 100
        };
        world.until("it has looked", looked).await;
        assert!(!first.is_finished());
        let new = new_session(None);
        commands::post(
            &world.sessions,
            &session.ledger,
            Some(&new),
            new_message("a", "say hi"),
        )
        .expect("taken");
        drop(announcement);
        world.until("it is found", || first.is_finished()).await;
        first.await.expect("no panic").expect("it is open");
    });
    // A call that comes to nothing is waited for no longer than it takes.
    life(&fresh(), Time(0), async |world| {
        drop(world.sessions.0.announced.put(journal()));
        assert_eq!(world.get().await.err(), Some(SessionError::NotFound));
    });
}
