//! A session that cannot be folded keeps nobody busy.

use super::*;
use crate::journal::codec::{Frame, encode};
use crate::journal::script::Script;

/// A session that is due, and whose journal ends with an entry that cannot follow.
fn damaged() -> (Memory, Time, Seq) {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        let lines = ["post a say one; wake 5000", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        world.stop_in_order().await;
        world.clock.now()
    });
    let disk = disk.power_loss();
    let store = memory(&disk);
    let state = fold(&entries(&*store));
    let entry = Entry {
        seq: state.last.next(),
        time: state.time,
        payload: Script::payload_after(&state, "lost r.t0.a x"),
    };
    let opened = store.open(&journal()).expect("it opens");
    let append = Write::Append {
        journal: journal(),
        generation: opened.generation,
        expected: opened.tail,
        frame: Frame::of(&[encode(&entry)]),
    };
    let done = Box::new(|_| {});
    let writes = vec![append];
    store
        .commit(crate::store::Commit { writes, done })
        .expect("it is queued");
    store.close();
    (disk.power_loss(), now, entry.seq)
}

#[test]
fn it_is_looked_at_once_and_then_refused_from_memory() {
    let (disk, now, seq) = damaged();
    life(&disk, now, async |world| {
        let is_set_aside = || world.sessions.0.set_aside.check(&journal()).is_err();
        // Nobody asks for it: its wake record does, when it is due.
        world.until("it is set aside", is_set_aside).await;
        assert!(world.clock.now() >= now.plus_ms(1_000), "it was due later");
        world.advance(600_000).await;
        let (due, next) = world.sessions.0.agenda.take_due(Time(u64::MAX));
        assert_eq!((due, next), (vec![], None), "nobody looks again");
        for _ in 0..2 {
            let Err(SessionError::Read(ReadError::Damaged(damage))) = world.get().await else {
                panic!("it is refused");
            };
            assert_eq!((damage.journal, damage.seq), (Some(journal()), Some(seq)));
        }
        assert_eq!(world.sessions.open_count(), 0);
        let (sessions, _) = world.sessions.list(&tenant(), None, 10).expect("it reads");
        assert_eq!(sessions, [journal().session], "it is listed all the same");
        world.stop_in_order().await;
    });
}

/// Whoever holds the session while damage is found in it is told, and so is everybody after.
#[test]
fn what_is_found_while_it_is_open_ends_it() {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let lines = ["post a say one; sleep 60000; say two", "shown one"];
        converse(world, &lines, &mut Outside::default()).await;
        let session = world.session().await;
        let mut follower = session.ledger.follow(session.ledger.mark().durable);
        let found = session.ledger.damaged(Some(Seq(2)), "a test says so");
        let ReadError::Damaged(damage) = found else {
            panic!("{found}");
        };
        let next = async move { follower.next().await.err() };
        let told = world.wait("the follower is told", next).await;
        let dead = Dead::Damaged(damage.clone());
        assert_eq!(told, Some(dead.clone().into()));
        let post = new_message("a", "say three");
        let refused = commands::post(&world.sessions, &session.ledger, None, post);
        assert_eq!(refused, Err(CommandError::Dead(dead)));
        let error = SessionError::Read(ReadError::Damaged(damage));
        assert_eq!(world.get().await.err(), Some(error));
        drop(session);
        world
            .until("its driver is gone", || world.sessions.0.tasks.is_empty())
            .await;
        let text = print(&entries(&*world.store));
        assert!(!text.contains("two"), "nothing is built on it: {text}");
    });
}
