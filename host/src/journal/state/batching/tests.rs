//! Which messages a turn takes, and when, as tables over journals.

use super::*;
use crate::id::RunId;
use crate::journal::entry::Outcome;
use crate::journal::script::{Script, name};

fn with(policy: Policy) -> Batching {
    Batching {
        policy,
        ..Batching::default()
    }
}

const ALL: [Policy; 4] = [
    Policy::Collect,
    Policy::Followup,
    Policy::Interrupt,
    Policy::Steer,
];

fn quiet(quiet_ms: u64, wait_ms_max: u64) -> Batching {
    Batching {
        quiet_ms,
        wait_ms_max,
        ..Batching::default()
    }
}

fn numbers(messages: &[MessageId]) -> Vec<u64> {
    messages.iter().map(|message| message.seq().0).collect()
}

/// What a turn of `a` takes now, if there is one.
fn takes(script: &str, now: u64, batching: &Batching) -> Option<Vec<u64>> {
    let state = Script::run(script).expect("it is legal").state;
    let due = state.due(&name("a"), Time(now), batching)?;
    Some(numbers(&due.inputs))
}

#[test]
fn what_waits_is_one_input_or_one_each() {
    let burst = "open a\ngot a\ngot a\ngot a";
    for policy in ALL {
        let expect = match policy {
            Policy::Followup => vec![2],
            Policy::Collect | Policy::Interrupt | Policy::Steer => vec![2, 3, 4],
        };
        assert_eq!(takes(burst, 0, &with(policy)), Some(expect), "{policy:?}");
    }
}

/// 5 is an agent's, of the run `r`.
const MIXED: &str = "open a b\ngot b\nstart r.t0.b takes=2 messages\n\
    got a\nsend r.t0.b 0 a\ngot a\ngot a\nend r.t0.b completed *\n";

#[test]
fn what_an_agent_sent_is_a_turn_of_its_own_in_its_place() {
    for policy in ALL {
        let batching = with(policy);
        assert_eq!(takes(MIXED, 0, &batching), Some(vec![4]), "{policy:?}");
        let second =
            format!("{MIXED}start q.t0.a takes=4 messages\nend q.t0.a completed 4:consumed\n");
        assert_eq!(takes(&second, 0, &batching), Some(vec![5]), "{policy:?}");
        let state = Script::run(&second).unwrap().state;
        let due = state.due(&name("a"), Time(0), &batching).unwrap();
        assert_eq!(due.run, Some(name("r")), "its run, not a fresh one");
        let third =
            format!("{second}start r.t1.a takes=5 messages\nend r.t1.a completed 5:consumed\n");
        let rest = if policy == Policy::Followup {
            vec![6]
        } else {
            vec![6, 7]
        };
        assert_eq!(takes(&third, 0, &batching), Some(rest), "{policy:?}");
    }
}

/// What one caller gives a turn is nobody else's: neither its system text, nor its tools, nor what they are asked for.
#[test]
fn what_callers_give_a_turn_is_theirs_alone() {
    let burst = "open a\ngot a be=kind\ngot a be=kind\ngot a be=brief\ngot a\ngot a\n\
        got a tool=look\ngot a tool=look\ngot a be=kind tool=look\ngot a\n";
    for policy in ALL {
        let batching = with(policy);
        let turns: &[&[u64]] = match policy {
            Policy::Followup => &[&[2], &[3], &[4], &[5], &[6], &[7], &[8], &[9], &[10]],
            _ => &[&[2, 3], &[4], &[5, 6], &[7], &[8], &[9], &[10]],
        };
        let mut script = burst.to_owned();
        for (at, turn) in turns.iter().enumerate() {
            let taken = takes(&script, 0, &batching);
            assert_eq!(taken, Some(turn.to_vec()), "{policy:?}");
            let all: Vec<String> = turn.iter().map(u64::to_string).collect();
            script += &format!(
                "start q{at}.t0.a takes={} messages\nend q{at}.t0.a completed *\n",
                all.join(",")
            );
        }
        assert_eq!(takes(&script, 0, &batching), None, "{policy:?}");
    }
    // Nothing is waited for that could not join.
    let batching = quiet(500, 10_000);
    let at = |lines: &str| takes(&format!("open a\n@100\n{lines}"), 100, &batching);
    assert_eq!(at("got a be=kind"), None);
    assert_eq!(at("got a be=kind\ngot a"), Some(vec![2]));
    assert_eq!(at("got a tool=look"), Some(vec![2]));
    assert_eq!(at("got a\ngot a tool=look"), Some(vec![2]));
}

#[test]
fn a_turn_that_runs_is_joined_only_by_what_it_was_told_for() {
    let steer = with(Policy::Steer);
    let joins = |first: &str, then: &str| {
        let begun = format!("open a\ngot a {first}\nstart r.t0.a takes=2 messages\n");
        joins(&format!("{begun}{then}"), &steer)
    };
    assert_eq!(joins("", "got a\ngot a be=kind\ngot a"), [4]);
    assert!(joins("", "got a tool=look").is_empty());
    assert!(joins("tool=look", "got a").is_empty());
    assert!(joins("be=kind", "got a").is_empty());
    assert_eq!(joins("be=kind", "got a be=kind"), [4]);
}

fn run_of(script: &str) -> Option<RunId> {
    let state = Script::run(script).expect("it is legal").state;
    let due = state.due(&name("a"), Time(1_000), &Batching::default());
    due.expect("it is due").run
}

#[test]
fn a_turn_without_messages_belongs_to_its_oldest_cause() {
    let writes = |at: u64, run: &str, slot: &str, message: u64| {
        format!(
            "@{at}\ngot b\nstart {run}.t0.b takes={message} messages\nlock {run}.t0.b 0 {slot}\n\
            commit {run}.t0.b 1 {slot} wakes=a\nend {run}.t0.b completed {message}:consumed\n"
        )
    };
    let two = format!(
        "open a b\n{}{}",
        writes(10, "r", "y", 2),
        writes(20, "q", "x", 7)
    );
    assert_eq!(run_of(&two), Some(name("r")), "by time, not by name");
    // What people send begins a run of its own, whatever else it is a turn for.
    assert_eq!(run_of(&format!("{two}got a\n")), None);
    let woken = "open a b\ngot a\nstart w.t0.a takes=2 messages\nend w.t0.a completed * wake=15\n";
    let both = format!("{woken}{}", writes(20, "q", "x", 5));
    assert_eq!(run_of(&both), Some(name("w")));
    let both = format!("{woken}{}", writes(12, "q", "x", 5));
    assert_eq!(run_of(&both), Some(name("q")));
    // Written by people: no run, so a fresh one.
    assert_eq!(run_of("open a\nput x wakes=a"), None);
}

#[test]
fn a_burst_is_waited_for_but_not_for_long() {
    let burst = "open a\n@100\ngot a\n@250\ngot a\n@400\ngot a";
    for (batching, starts, why) in [
        (quiet(0, 10_000), 0, "nothing is waited for"),
        (quiet(200, 10_000), 600, "quiet after the last one"),
        (quiet(200, 350), 450, "the oldest waited as long as it may"),
        (
            Batching {
                messages_max: 3,
                ..quiet(200, 10_000)
            },
            0,
            "as many as one turn takes",
        ),
        (
            Batching {
                messages_max: 2,
                ..quiet(200, 10_000)
            },
            0,
            "more than one turn takes",
        ),
    ] {
        let state = Script::run(burst).unwrap().state;
        let due = |now| state.due(&name("a"), Time(now), &batching).is_some();
        assert!(due(starts.max(400)), "{why}");
        assert!(starts == 0 || !due(starts - 1), "{why}");
        let later = state.later(Time(400), |_| batching);
        assert_eq!(later, (starts > 400).then_some(Time(starts)), "{why}");
        // The record that survives a crash knows no policy, and is early.
        assert_eq!(state.next_due(), Some(Time(0)));
    }
}

#[test]
fn nobody_who_waits_for_an_answer_waits_for_quiet() {
    let batching = quiet(500, 10_000);
    assert_eq!(takes("open a\n@100\ngot a", 100, &batching), None);
    let invoked = "open a\n@100\ngot a\ngot a invoked";
    assert_eq!(takes(invoked, 100, &batching), Some(vec![2, 3]));
    // Nothing more can join what stands before a turn of its own.
    assert_eq!(takes(MIXED, 0, &batching), Some(vec![4]));
}

#[test]
fn what_is_due_beside_the_messages_does_not_take_them_early() {
    let batching = quiet(500, 10_000);
    let script = "open a\n@100\ngot a\nput x wakes=a";
    assert_eq!(takes(script, 100, &batching), Some(vec![]));
    assert_eq!(takes(script, 600, &batching), Some(vec![2]));
}

#[test]
fn a_message_that_comes_back_has_waited_enough() {
    let failed = "open a\n@100\ngot a\nstart r.t0.a takes=2 messages\nend r.t0.a failed *\n";
    let batching = quiet(500, 10_000);
    assert_eq!(takes(failed, 1_099, &batching), None);
    assert_eq!(takes(failed, 1_100, &batching), Some(vec![2]));
}

/// What may join the turn of `a` at a time.
fn joins(script: &str, batching: &Batching) -> Vec<u64> {
    let state = Script::run(script).expect("it is legal").state;
    let turn = &state.turns[state.participants[&name("a")]
        .turn
        .as_ref()
        .expect("it runs")];
    numbers(&state.joining(turn, state.time, batching))
}

#[test]
fn only_a_steered_turn_is_joined_and_only_by_people() {
    let runs = "open a b\ngot a\nstart r.t0.a takes=2 messages\n";
    let more = format!("{runs}got a\ngot a\n");
    for policy in ALL {
        let expect: &[u64] = if policy == Policy::Steer {
            &[4, 5]
        } else {
            &[]
        };
        assert_eq!(joins(&more, &with(policy)), expect, "{policy:?}");
    }
    let steer = with(Policy::Steer);
    assert_eq!(
        joins(&format!("{more}pull r.t0.a 0 takes=2,4\n"), &steer),
        [5]
    );
    assert_eq!(
        joins(&format!("{runs}got a\ngot a invoked\ngot a\n"), &steer),
        [4]
    );
    let other = "got b\nstart q.t0.b takes=4 messages\ngot a\nsend q.t0.b 0 a\ngot a\n";
    assert_eq!(
        joins(&format!("{runs}{other}"), &steer),
        [6],
        "nothing overtakes 7"
    );
    // A turn of an agent's message is that agent's alone.
    let own = "open a b\ngot b\nstart r.t0.b takes=2 messages\nsend r.t0.b 0 a\n\
        start r.t1.a takes=4 messages\ngot a\n";
    assert!(joins(own, &steer).is_empty());
    // One that a slot began may be spoken to.
    assert_eq!(
        joins(
            "open a\nput x wakes=a\nstart r.t0.a slot:x\ngot a\n",
            &steer
        ),
        [4]
    );
    let two = Batching {
        messages_max: 2,
        ..steer
    };
    assert_eq!(joins(&more, &two), [4]);
    assert!(joins(&format!("{more}pull r.t0.a 0 takes=4\n"), &two).is_empty());
}

#[test]
fn what_joined_a_turn_shares_its_fate() {
    // 4 is pulled; 5 is pulled and left again; 6 is not pulled.
    let before = "open a\ngot a\nstart r.t0.a takes=2 messages\ngot a\ngot a\ngot a\n\
        pull r.t0.a 0 takes=2,4,5\nleave r.t0.a 1 5\n";
    let said = format!("{before}spoke r.t0.a 0 word\n");
    for (script, outcome, fates) in [
        (before, Outcome::Completed, "2:consumed 4:consumed"),
        (before, Outcome::Interrupted, "2:consumed 4:consumed"),
        (before, Outcome::Cancelled, "2:consumed 4:consumed"),
        (before, Outcome::Failed, "2:returned 4:returned"),
        (said.as_str(), Outcome::Failed, "2:consumed 4:consumed"),
    ] {
        let mut script = Script::run(script).unwrap();
        let found = script.state.fates(&name("r.t0.a"), outcome);
        let found: Vec<String> = found
            .iter()
            .map(|it| format!("{}:{:?}", it.message.seq(), it.fate).to_lowercase())
            .collect();
        assert_eq!(found.join(" "), fates, "{outcome:?}");
        script
            .line(&format!("end r.t0.a {} *", outcome.name()))
            .unwrap();
        let rest = script
            .state
            .due(&name("a"), Time(0), &with(Policy::Steer))
            .unwrap();
        assert_eq!(
            numbers(&rest.inputs),
            [5, 6],
            "what it did not take is the next one's"
        );
    }
}
