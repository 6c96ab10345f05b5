//! How sessions rest, wake, end and stop.

use bytes::Bytes;

use super::laws::{check_answered, check_resumed};
use super::*;

/// Talk for a while without any fault; the disk and the time afterwards.
fn after(lines: &[&str]) -> (Memory, Time) {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        converse(world, lines, &mut Outside::default()).await;
        world.stop_in_order().await;
        world.clock.now()
    });
    (disk.process_kill(), now)
}

#[test]
fn a_session_rests_and_is_woken_by_its_agent_and_by_people() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = ["post a say one; wake 600000", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        let rests = || world.sessions.open_count() == 0;
        world.until("it rests", rests).await;
        assert!(
            world.clock.now() < Time(600_000),
            "it rests before it is due"
        );
        let awake = || {
            entries(&*world.store)
                .iter()
                .any(|entry| matches!(&entry.payload, Payload::Spoke(it) if it.text == "awake."))
        };
        world.until("it wakes by itself", awake).await;
        world.until("it rests", rests).await;
        let before = entries(&*world.store);
        converse(
            world,
            &["post a say two", "answered"],
            &mut Outside::default(),
        )
        .await;
        let stored = entries(&*world.store);
        assert_eq!(stored[..before.len()], before);
        check_answered(&stored);
        world.until("it rests", rests).await;
        world.stop_in_order().await;
    });
}

#[test]
fn an_id_that_was_only_looked_at_leaves_nothing() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        assert!(matches!(world.get().await, Err(SessionError::NotFound)));
        drop(world.session().await);
        world
            .until("it rests", || world.sessions.open_count() == 0)
            .await;
        assert_eq!(world.store.exists(&journal()), Ok(false));
    });
}

fn is_empty(store: &dyn Store) -> bool {
    let records = |space| {
        store
            .records(Some(&tenant()), space, None, 10)
            .expect("it reads")
            .is_empty()
    };
    let journals = store.journals(&tenant(), None, 10).expect("it reads");
    journals.sessions.is_empty() && records(RecordSpace::Wake) && records(RecordSpace::Tombstone)
}

async fn check_gone(world: &World) {
    for _ in 0..2 {
        assert!(matches!(world.get().await, Err(SessionError::Gone)));
        let sessions = world.sessions.clone();
        let opened = async move {
            sessions
                .get_or_absent(&tenant(), &name("s"))
                .await
                .map(|_| ())
        };
        assert!(matches!(
            world.wait("an answer", opened).await,
            Err(SessionError::Gone)
        ));
    }
}

#[test]
fn a_session_that_expires_is_buried_and_leaves_nothing_after_a_day() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let new = new_session(Some(900_000));
        commands::post(
            &world.sessions,
            &session.ledger,
            Some(&new),
            new_message("a", "say hello"),
        )
        .unwrap();
        drop(session);
        world
            .until("it rests", || world.sessions.open_count() == 0)
            .await;
        assert!(world.clock.now() < Time(900_000));
        world
            .until("it is removed", || {
                world.store.exists(&journal()) == Ok(false)
            })
            .await;
        assert!(world.clock.now() >= Time(900_000));
        check_gone(world).await;
        world.advance(wake::TOMBSTONE_MS).await;
        world
            .until("nothing is left", || is_empty(&*world.store))
            .await;
        assert!(matches!(world.get().await, Err(SessionError::NotFound)));
        // The id is free again.
        converse(
            world,
            &["post a say hello", "answered"],
            &mut Outside::default(),
        )
        .await;
        assert_eq!(entries(&*world.store)[0].seq, Seq(1));
        world.stop_in_order().await;
    });
}

/// What became of a message, as whoever follows it is told.
async fn standing(session: &Session, message: MessageId) -> outcome::Standing {
    let mut follower = session.ledger.follow(message.seq());
    let mut tracker = outcome::Tracker::new(message);
    while !tracker.is_over() {
        for encoded in follower.next().await.expect("it is told before the end") {
            tracker.next(&encoded).expect("it decodes");
        }
    }
    tracker.standing()
}

#[test]
fn whoever_waits_in_a_session_that_ends_is_told() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let new = new_session(None);
        let post = |to, text| {
            commands::post(
                &world.sessions,
                &session.ledger,
                Some(&new),
                new_message(to, text),
            )
            .unwrap()
        };
        let held = [
            post("b", "sleep 5000; say late"),
            post("a", "sleep 5000; say late"),
        ];
        world
            .until("both work", || {
                session.ledger.look(|state| state.turns.len()) == 2
            })
            .await;
        let pending = [post("b", "say never"), post("a", "say never")];
        let wait = |posted: &commands::Posted| {
            let (session, message) = (session.clone(), posted.message.clone());
            async move { standing(&session, message).await }
        };
        let [mut told_held, mut told_pending] = [Vec::new(), Vec::new()];
        for (at, ends) in ["remove", "delete"].into_iter().enumerate() {
            match ends {
                "remove" => commands::remove_agent(&session.ledger, &name("b")).unwrap(),
                _ => commands::delete(&session.ledger).unwrap(),
            }
            told_held.push(world.wait(ends, wait(&held[at])).await);
            told_pending.push(world.wait(ends, wait(&pending[at])).await);
        }
        for told in told_held {
            let outcome::Standing::Done(taken) = told else {
                panic!("{told:?}")
            };
            assert_eq!(
                taken.ended.map(|ended| ended.outcome),
                Some(Outcome::Cancelled)
            );
        }
        for told in told_pending {
            assert!(matches!(told, outcome::Standing::SetAside(_)), "{told:?}");
        }
    });
}

/// Crash at every sync of the end of a session: in the end it is gone, all of it.
#[test]
fn a_burial_that_a_crash_cuts_off_goes_on() {
    let talk = [
        "post a say one; lock x; commit x doc",
        "post b say two",
        "answered",
    ];
    for late in [false, true] {
        for k in 1..SYNCS_MAX {
            let (disk, now) = after(&talk);
            let fault = if k % 2 == 0 {
                Fault::StopBeforeSync(k / 2)
            } else {
                Fault::StopAfterSync(k / 2 + 1)
            };
            disk.inject(fault);
            let mut outside = Outside::default();
            let ended = life(&disk, now, async |world| {
                converse(world, &["delete"], &mut outside).await;
                world
                    .until("it is removed", || {
                        disk.is_stopped() || world.store.exists(&journal()) == Ok(false)
                    })
                    .await;
                world.advance(wake::TOMBSTONE_MS).await;
                world
                    .until("nothing is left", || {
                        disk.is_stopped() || is_empty(&*world.store)
                    })
                    .await;
                world.clock.now()
            });
            let hit = disk.is_stopped();
            let disk = disk.power_loss();
            // The next start may come much later.
            let start = if late {
                ended.plus_ms(2 * wake::TOMBSTONE_MS)
            } else {
                now
            };
            life(&disk, start, async |world| {
                if outside.acknowledged.is_empty() && world.store.exists(&journal()) == Ok(true) {
                    world.quiet_or_ended().await;
                    if fold(&entries(&*world.store)).phase != Phase::Ended {
                        return;
                    }
                }
                world
                    .until("it is removed", || {
                        world.store.exists(&journal()) == Ok(false)
                    })
                    .await;
                world.advance(wake::TOMBSTONE_MS).await;
                world
                    .until("nothing is left", || is_empty(&*world.store))
                    .await;
                world.stop_in_order().await;
            });
            if !hit {
                assert!(
                    k > 4,
                    "it writes at least the end, the tombstone, the removal, the record"
                );
                break;
            }
        }
    }
}

/// A long journal is removed in several commits: one that has lost its beginning is not folded.
#[test]
fn half_a_burial_is_finished_however_late() {
    for start in [Time(1), Time(2 * wake::TOMBSTONE_MS)] {
        let (disk, _) = after(&["post a say one", "answered"]);
        let store = memory(&disk);
        let until = Bytes::copy_from_slice(&wake::TOMBSTONE_MS.to_be_bytes());
        let record = |space, bytes: Bytes| {
            let (tenant, name) = (Some(tenant()), "s".to_owned());
            let key = RecordKey {
                tenant,
                space,
                name,
            };
            Write::Record { key, bytes }
        };
        let writes = vec![
            record(RecordSpace::Wake, Bytes::copy_from_slice(&[0; 8])),
            record(RecordSpace::Tombstone, until),
        ];
        let done = Box::new(|_| {});
        store
            .commit(crate::store::Commit { writes, done })
            .expect("it is queued");
        assert_eq!(
            store.clear(&journal(), 1),
            Ok(false),
            "there is more than one row"
        );
        life(&disk, start, async |world| {
            let removed = || world.store.exists(&journal()) == Ok(false);
            world.until("it is removed", removed).await;
            world.advance(wake::TOMBSTONE_MS).await;
            world
                .until("nothing is left", || is_empty(&*world.store))
                .await;
        });
    }
}

#[test]
fn a_drain_lets_turns_end_and_starts_nothing() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let session = world.session().await;
        let new = new_session(None);
        let post = |to, text| {
            commands::post(
                &world.sessions,
                &session.ledger,
                Some(&new),
                new_message(to, text),
            )
            .unwrap()
        };
        post("a", "say begun; sleep 2000; say done");
        world
            .until("it works", || {
                entries(&*world.store)
                    .iter()
                    .any(|it| it.payload.kind() == Kind::Spoke)
            })
            .await;
        let waits = post("a", "say next");
        drop(session);
        world.stop_in_order().await;
        let stored = entries(&*world.store);
        let state = fold(&stored);
        assert!(state.turns.is_empty());
        assert_eq!(
            stored
                .iter()
                .filter(|it| it.payload.kind() == Kind::TurnStarted)
                .count(),
            1
        );
        assert_eq!(
            state.participants[&name("a")].pending[0].message,
            waits.message
        );
    });
    life(&disk.power_loss(), Time(1_000_000), async |world| {
        world.quiet().await;
        check_answered(&entries(&*world.store));
    });
}

#[test]
fn a_turn_that_outlasts_the_drain_is_taken_up_by_the_next_process() {
    let disk = fresh();
    let turns = life(&disk, Time(0), async |world| {
        let lines = [
            "post a say begun; lock x; sleep 100000",
            "shown begun",
            "post b say two",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        assert!(!world.stop(10).await);
        fold(&entries(&*world.store)).turns
    });
    assert_eq!(turns.len(), 1);
    life(&disk.power_loss(), Time(1_000_000), async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        check_resumed(&stored, turns.keys());
        check_answered(&stored);
    });
}

#[test]
fn a_turn_that_panics_takes_nothing_with_it() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = [
            "post b sleep 50; say fine",
            "post a say words; lock x; sleep 20; panic",
            "shown words",
            "post a say again",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        world.quiet().await;
        let stored = entries(&*world.store);
        check_answered(&stored);
        let text = print(&stored);
        assert!(
            text.contains("a failed(host-lost)")
                && text.contains("\"fine\"")
                && text.contains("\"again\""),
            "{text}"
        );
        world.stop_in_order().await;
    });
}

#[test]
fn a_failed_sync_refuses_everything_after_it() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        converse(
            world,
            &["post a say one", "answered"],
            &mut Outside::default(),
        )
        .await;
        let session = world.session().await;
        let (last, before) = (session.ledger.mark().durable, entries(&*world.store));
        disk.inject(Fault::FailSync(disk.syncs() + 1));
        let posted = commands::post(
            &world.sessions,
            &session.ledger,
            None,
            new_message("a", "say two"),
        )
        .unwrap();
        let ledger = session.ledger.clone();
        let seq = posted.seq;
        let told = world
            .wait(
                "the waiter is told",
                async move { ledger.durable(seq).await },
            )
            .await;
        assert!(matches!(told, Err(Dead::Latched(_))), "{told:?}");
        let read_only = world.get().await.unwrap();
        assert!(read_only.ledger.is_read_only());
        let new = new_message("a", "say three");
        let refused = commands::post(&world.sessions, &read_only.ledger, None, new);
        assert!(
            matches!(refused, Err(CommandError::Dead(Dead::Latched(_)))),
            "{refused:?}"
        );
        assert_eq!(
            entries(&*world.store),
            before,
            "what is durable is still read"
        );
        assert_eq!(session.ledger.mark().durable, last);
        world
            .until("its driver is gone", || world.sessions.0.tasks.is_empty())
            .await;
    });
}
