//! Calls that are made again, and calls that are not made at all.

use super::laws::{check_answered, check_calls, check_repeatable, check_said};
use super::*;
use crate::config::PolicySettings;
use crate::journal::entry::{CallResult, RetryReason};

/// What became of calls, as text.
fn about_calls(stored: &[Entry]) -> Vec<String> {
    let line = |entry: &Entry| match &entry.payload {
        Payload::Called(it) => Some(format!("{} called", it.n)),
        Payload::Retried(it) => {
            it.n.map(|n| format!("{n} again: {} {:?}", it.attempt, it.reason))
        }
        Payload::Returned(it) => Some(match &it.result {
            CallResult::Ok => format!("{} ok after {}", it.n, it.attempts),
            CallResult::Failed { error, detail, .. } => {
                format!("{} {error} after {}: {detail}", it.n, it.attempts)
            }
            CallResult::Dropped => format!("{} dropped", it.n),
        }),
        _ => None,
    };
    stored.iter().filter_map(line).collect()
}

fn texts(stored: &[Entry]) -> String {
    let text = |entry: &Entry| match &entry.payload {
        Payload::Spoke(spoke) => Some(spoke.text.clone()),
        _ => None,
    };
    stored.iter().filter_map(text).collect()
}

fn retries(stored: &[Entry]) -> Vec<RetryReason> {
    let retried = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Retried(it) if it.n.is_some() => Some(it.reason),
        _ => None,
    });
    retried.collect()
}

/// A host that is lost between two attempts: what the journal knows of them is not tried once more than it
/// may be, and the guest hears one answer.
#[test]
fn a_host_lost_between_attempts_goes_on_where_the_journal_is() {
    // Before the second attempt is written down, and after.
    for written in [false, true] {
        let disk = fresh();
        let provider = PROVIDER.with_borrow(Log::clone);
        let now = life(&disk, Time(0), async |world| {
            let lines = ["post a say so; ask BUSY SLOW words"];
            converse(world, &lines, &mut Outside::default()).await;
            let is_there = || {
                let made = provider.made().values().sum::<u32>();
                made == 1 + u32::from(written)
            };
            world.until("the attempt was made", is_there).await;
            world.clock.now()
        });
        let disk = disk.power_loss();
        life(&disk, now, async |world| {
            world.quiet().await;
            let stored = entries(&*world.store);
            // What was not written down is not known: the first failure is forgotten with its host.
            let expect: &[RetryReason] = match written {
                false => &[RetryReason::HostLost],
                true => &[RetryReason::Provider, RetryReason::HostLost],
            };
            assert_eq!(retries(&stored), expect, "{}", print(&stored));
            assert_eq!(texts(&stored), "sowords");
            let attempts = 2 + u32::from(written);
            let last = about_calls(&stored).pop();
            assert!(last.is_some_and(|it| it.ends_with(&format!("ok after {attempts}"))));
            check_answered(&stored);
            check_repeatable(&stored);
            check_said(&stored);
            check_calls(&stored, &provider.made());
        });
    }
}

/// What a policy gives the agent `a`, with its provider gone.
fn asks(policy: &str, lines: &[&str], back: bool) -> Vec<Entry> {
    let policy: PolicySettings = serde_json::from_str(policy).expect("it is of the form");
    policy.check().expect("it is allowed");
    let disk = configured(COLLECT, |agent, config| {
        if agent == "a" {
            config.policy = policy.clone();
            config.limits.turn_ms_max = Some(60_000);
        }
    });
    let provider = PROVIDER.with_borrow(Log::clone);
    life(&disk, Time(0), async |world| {
        provider.be_gone(true);
        converse(world, lines, &mut Outside::default()).await;
        world.quiet().await;
        if back {
            provider.be_gone(false);
            let lines = ["post a sleep 5000; ask words", "answered"];
            converse(world, &lines, &mut Outside::default()).await;
        }
        let stored = entries(&*world.store);
        check_answered(&stored);
        check_calls(&stored, &provider.made());
        stored
    })
}

const GONE: &str = "provider after 3: the provider cannot be reached: it is gone";

#[test]
fn a_circuit_opens_refuses_and_closes_by_one_probe() {
    let policy = r#"{"breaker":{"failures_to_open":4}}"#;
    let lines = ["post a ask one; ask two; ask three", "answered"];
    let stored = asks(policy, &lines, true);
    let calls = about_calls(&stored);
    let ends: Vec<&String> = calls.iter().filter(|it| it.contains(" after ")).collect();
    assert!(ends[0].ends_with(GONE), "{calls:#?}");
    // The fourth failure: it was sent, so it is told what came of it, and is not tried again.
    let gone = GONE.replace("after 3", "after 1");
    assert!(ends[1].ends_with(&gone), "{calls:#?}");
    let open = r#"circuit-open after 0: circuit open for "default"; "#;
    assert!(ends[2].contains(open), "{calls:#?}");
    assert!(
        ends[2].ends_with(" ms remaining before retry allowed"),
        "{calls:#?}"
    );
    assert!(ends[3].ends_with("ok after 1"), "{calls:#?}");
    assert!(texts(&stored).ends_with("[CircuitOpen]words"));
    // A call that was not sent is none.
    let refused = stored.iter().find_map(|entry| match &entry.payload {
        Payload::Returned(it) if it.attempts == 0 => Some(it.usage.model_calls),
        _ => None,
    });
    assert_eq!(refused, Some(0));
}

#[test]
fn a_wait_that_would_pass_a_deadline_is_not_begun() {
    let turn = "deadline after 1: call exceeded the deadline of its turn; the last attempt: \
                the provider cannot be reached: it is gone";
    let call = "deadline after 1: call exceeded its deadline of 2000 ms; the last attempt: \
                the provider cannot be reached: it is gone";
    let slow = r#""backoff":{"first_ms":60000,"ms_max":60000}"#;
    for (policy, expect) in [
        (format!("{{{slow}}}"), turn),
        (format!(r#"{{"call_ms_max":2000,{slow}}}"#), call),
        (r#"{"attempts_max":1}"#.to_owned(), &GONE.replace("3", "1")),
    ] {
        let stored = asks(&policy, &["post a ask one; say then", "answered"], false);
        let calls = about_calls(&stored);
        assert!(calls[1].ends_with(expect), "{calls:#?}");
        assert!(texts(&stored).ends_with("]then"), "the turn goes on");
        let at = |kind| {
            let entry = stored.iter().find(|entry| entry.payload.kind() == kind);
            entry.expect("it is there").time
        };
        let took = at(Kind::Returned).ms_since(at(Kind::Called));
        assert!(took < 60_000, "nobody waited: {took}");
    }
}

#[test]
fn an_attempt_ends_at_its_deadline_and_says_at_which() {
    let policy: PolicySettings = serde_json::from_str(
        r#"{"attempt_ms_max":700,"attempts_max":2,"breaker":{"failures_to_open":0}}"#,
    )
    .expect("it is of the form");
    let disk = configured(COLLECT, |_, config| config.policy = policy.clone());
    let provider = PROVIDER.with_borrow(Log::clone);
    life(&disk, Time(0), async |world| {
        let lines = [
            "post a ask SLOW one; model two SLOW three; say done",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let words = "call exceeded its per-attempt deadline of 700 ms";
        let expect = [
            "0 called".replace('0', &n_of(&stored, 0)),
            format!("{} again: 2 Provider", n_of(&stored, 0)),
            format!("{} deadline after 2: {words}", n_of(&stored, 0)),
            format!("{} called", n_of(&stored, 1)),
            format!(
                "{} interrupted after 1: the answer broke off: {words}",
                n_of(&stored, 1)
            ),
        ];
        assert_eq!(about_calls(&stored), expect);
        assert_eq!(texts(&stored), "[Deadline]two [cut after 4]done");
        check_calls(&stored, &provider.made());
    });
}

/// The number of the turn's call that left the host at this place.
fn n_of(stored: &[Entry], at: usize) -> String {
    let mut calls = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Called(it) => Some(it.n.to_string()),
        _ => None,
    });
    calls.nth(at).expect("it is called")
}

/// One place and no queue: who comes second hears that the model is busy.
#[test]
fn a_tenant_has_so_many_calls_under_way_and_no_more() {
    let policy: PolicySettings =
        serde_json::from_str(r#"{"concurrent_max":1,"queue_max":0}"#).expect("it is of the form");
    let disk = configured(COLLECT, |_, config| config.policy = policy.clone());
    life(&disk, Time(0), async |world| {
        let lines = [
            "fire a model one SLOW SLOW two",
            "shown one",
            "post b ask three; sleep 5000; ask four",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let said = texts(&stored);
        let busy = r#"[Refused("\"default\" is busy: 1 calls are under way and 0 wait")]"#;
        assert!(said.contains(busy), "{said}");
        assert!(said.contains("four") && !said.contains("three"), "{said}");
    });
}

/// Who is interrupted while it waits for a place leaves it to the next.
#[test]
fn an_interrupted_turn_leaves_the_queue() {
    let policy: PolicySettings =
        serde_json::from_str(r#"{"concurrent_max":1}"#).expect("it is of the form");
    let disk = configured(COLLECT, |_, config| config.policy = policy.clone());
    life(&disk, Time(0), async |world| {
        // Over an hour, if it held its place to the end.
        let slow = format!("fire a model one {}two", "SLOW ".repeat(5_000));
        let lines = [
            slow.as_str(),
            "shown one",
            "fire b say waits; ask three",
            "shown waits",
            "stop b",
            "stop a",
            "post b ask four",
            "answered",
        ];
        let start = world.clock.now();
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let said = texts(&stored);
        assert!(said.contains("four") && !said.contains("three"), "{said}");
        assert!(world.clock.now().ms_since(start) < 3_600_000);
        check_answered(&stored);
    });
}
