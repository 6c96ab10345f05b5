//! Agents that begin nothing before something is there.

use super::laws::check_answered;
use super::*;
use crate::journal::entry::Fate;

/// Entries about `b`, as text without what differs from run to run.
fn about_b(stored: &[Entry]) -> Vec<String> {
    let line = |entry: &Entry| match &entry.payload {
        Payload::AgentSuspended(it) => Some(format!(
            "{} waits until ready {}: {}",
            it.agent, it.until_ready, it.reason
        )),
        Payload::AgentResumed(it) => Some(format!("{} goes on, by {:?}", it.agent, it.by)),
        Payload::SlotCommitted(it) => Some(format!("{} committed", it.slot)),
        Payload::TurnStarted(it) if it.agent == name("b") => {
            Some(format!("b takes {}", it.inputs.len()))
        }
        _ => None,
    };
    stored.iter().filter_map(line).collect()
}

#[test]
fn an_agent_waits_for_a_slot_and_says_so_once() {
    life(&fresh(), Time(0), async |world| {
        let lines = [
            "post a lock y; say begun; sleep 5000; commit y doc",
            "shown begun",
            "post b say one",
            "post b say two",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        world.quiet().await;
        let stored = entries(&*world.store);
        let expect = [
            "b waits until ready true: the slot `y` is locked",
            "y committed",
            "b goes on, by None",
            "b takes 2",
        ];
        assert_eq!(about_b(&stored), expect, "{}", print(&stored));
        check_answered(&stored);
    });
}

#[test]
fn an_agent_waits_for_its_model_until_it_is_worth_a_try() {
    life(&fresh(), Time(0), async |world| {
        let provider = PROVIDER.with_borrow(Log::clone);
        provider.be_gone(true);
        let lines = ["post b ask one", "answered", "post b ask two"];
        converse(world, &lines, &mut Outside::default()).await;
        let session = world.session().await;
        let waits = || {
            session
                .ledger
                .look(|state| state.participants[&name("b")].is_until_ready())
        };
        world.until("it waits", waits).await;
        let since = world.clock.now();
        // Nobody is told that it is back: it is looked at again.
        provider.be_gone(false);
        drop(session);
        world.quiet().await;
        let stored = entries(&*world.store);
        let expect = [
            "b takes 1",
            "b waits until ready true: the model `default` cannot be reached",
            "b goes on, by None",
            "b takes 1",
        ];
        assert_eq!(about_b(&stored), expect, "{}", print(&stored));
        let resumed = stored
            .iter()
            .find(|entry| entry.payload.kind() == Kind::AgentResumed)
            .expect("it went on");
        let waited = resumed.time.ms_since(since);
        assert!((3_000..6_000).contains(&waited), "{waited}");
        let ended = stored.iter().rev().find_map(|entry| match &entry.payload {
            Payload::TurnEnded(it) => Some(it),
            _ => None,
        });
        let ended = ended.expect("it ended");
        assert_eq!(
            (ended.outcome, ended.inputs[0].fate),
            (Outcome::Completed, Fate::Consumed)
        );
        assert_eq!(provider.made().len(), 1, "the second, once");
    });
}

/// What is missing does not keep its session in memory, nor is it forgotten there.
#[test]
fn a_host_that_starts_again_has_heard_nothing_against_a_model() {
    let disk = fresh();
    let provider = PROVIDER.with_borrow(Log::clone);
    let now = life(&disk, Time(0), async |world| {
        provider.be_gone(true);
        let lines = ["post b ask one", "answered", "post b ask two"];
        converse(world, &lines, &mut Outside::default()).await;
        let waits = || {
            entries(&*world.store)
                .iter()
                .any(|entry| entry.payload.kind() == Kind::AgentSuspended)
        };
        world.until("it waits", waits).await;
        assert!(world.stop(1_000).await);
        world.clock.now()
    });
    provider.be_gone(false);
    life(&disk.process_kill(), now, async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        let resumed = stored
            .iter()
            .find(|entry| entry.payload.kind() == Kind::AgentResumed)
            .expect("it went on");
        assert!(resumed.time.ms_since(now) < 1_000, "{}", print(&stored));
        check_answered(&stored);
    });
}
