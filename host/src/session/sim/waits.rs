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
        let session = world.session().await;
        let post = |to, text| {
            let (new, message) = (new_session(None), new_message(to, text));
            commands::post(&world.sessions, &session.ledger, Some(&new), message)
                .expect("it is taken");
        };
        post("a", "lock y; sleep 5000; commit y doc");
        let is_locked = |state: &State| state.slots.contains_key(&name("y"));
        world
            .until("it is locked", || session.ledger.look(is_locked))
            .await;
        post("b", "say one");
        let waits = |state: &State| state.participants[&name("b")].is_until_ready();
        world.until("it waits", || session.ledger.look(waits)).await;
        post("b", "say two");
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

/// For `b` a model is gone after one call.
fn impatient() -> Memory {
    configured(COLLECT, |_, config| {
        config.policy.breaker.failures_to_open = Some(3);
    })
}

/// Its model is gone: `b` hears so in its first turn, and waits with what came meanwhile.
async fn waits_for_its_model(world: &World, provider: &Log) {
    provider.be_gone(true);
    let session = world.session().await;
    let post = |text| {
        let (new, message) = (new_session(None), new_message("b", text));
        commands::post(&world.sessions, &session.ledger, Some(&new), message).expect("it is taken");
    };
    post("ask one");
    let works = || session.ledger.look(|state| !state.turns.is_empty());
    world.until("it works", works).await;
    post("ask two");
    let waits = || {
        let is_suspended = |entry: &Entry| entry.payload.kind() == Kind::AgentSuspended;
        entries(&*world.store).iter().any(is_suspended)
    };
    world.until("it waits", waits).await;
}

#[test]
fn an_agent_waits_for_its_model_until_it_is_worth_a_try() {
    life(&impatient(), Time(0), async |world| {
        let provider = PROVIDER.with_borrow(Log::clone);
        waits_for_its_model(world, &provider).await;
        // Nobody is told that it is back: it is looked at again.
        provider.be_gone(false);
        world.quiet().await;
        let stored = entries(&*world.store);
        let expect = [
            "b takes 1",
            "b waits until ready true: the model `default` cannot be reached",
            "b goes on, by None",
            "b takes 1",
        ];
        assert_eq!(about_b(&stored), expect, "{}", print(&stored));
        let at = |kind| {
            let entry = stored.iter().find(|entry| entry.payload.kind() == kind);
            entry.expect("it is there").time
        };
        let waited = at(Kind::AgentResumed).ms_since(at(Kind::AgentSuspended));
        // What a turn needs is read on other threads, while virtual time goes on.
        assert!((3_000..600_000).contains(&waited), "{waited}");
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

/// What was heard is not kept: the first thing after a start is a try.
#[test]
fn a_host_that_starts_again_has_heard_nothing_against_a_model() {
    let disk = impatient();
    let provider = PROVIDER.with_borrow(Log::clone);
    let now = life(&disk, Time(0), async |world| {
        waits_for_its_model(world, &provider).await;
        world.clock.now()
    });
    life(&disk.process_kill(), now, async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        let after = stored
            .iter()
            .position(|entry| entry.payload.kind() == Kind::AgentSuspended)
            .expect("it waited");
        let kinds: Vec<Kind> = stored[after + 1..]
            .iter()
            .map(|entry| entry.payload.kind())
            .take(2)
            .collect();
        assert_eq!(kinds, [Kind::AgentResumed, Kind::TurnStarted]);
        check_answered(&stored);
    });
}
