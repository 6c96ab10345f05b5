//! What follows from a state: a journal as text, a situation, the actions.

use super::*;
use crate::journal::script::Script;
use crate::session::rules::NoModel;

const IDLE_MS: u64 = 1_000;

/// Idle since 0, nobody holds it, nothing runs.
fn idle() -> Situation {
    Situation::default()
}

fn print(action: &Action) -> String {
    match action {
        Action::Start(agent) => format!("start {agent}"),
        Action::Hold { agent, reason } => format!("hold {agent}: {reason}"),
        Action::Release(agent) => format!("release {agent}"),
        Action::Resume(turn) => format!("resume {turn}"),
        Action::GiveUpAsking(turn) => format!("give up {turn}"),
        Action::Abort(turn) => format!("abort {turn}"),
        Action::SetAside {
            agent,
            message,
            deliveries,
        } => {
            format!("aside {agent} {} {deliveries}", message.seq())
        }
        Action::Cancel(owed) => format!("cancel {} {}", owed.turn, owed.n),
        Action::FlushSoon => "flush".into(),
        Action::Expire => "expire".into(),
        Action::Bury => "bury".into(),
        Action::Hibernate => "rest".into(),
        Action::WakeAt(at) => format!("look {}", at.0),
    }
}

fn check(now: u64, script: &str, situation: &Situation, expect: &[&str]) {
    let state = Script::run(script).expect("it is legal").state;
    let actions = decide(Time(now), &state, situation, IDLE_MS);
    let actions: Vec<String> = actions.iter().map(print).collect();
    assert_eq!(actions, expect, "at {now} after\n{script}");
}

fn turns(turns: &[&str]) -> BTreeSet<TurnId> {
    turns
        .iter()
        .map(|turn| crate::journal::script::name(turn))
        .collect()
}

/// Those of `a`.
fn rules(rules: Rules) -> BTreeMap<AgentName, Rules> {
    BTreeMap::from([(crate::journal::script::name("a"), rules)])
}

const TURN: &str = "open a b\ngot a\nstart r.t0.a takes=2 messages\n";

#[test]
fn every_agent_with_something_due_starts() {
    check(
        0,
        "open a b\ngot a\ngot b",
        &idle(),
        &["start a", "start b"],
    );
    check(
        0,
        "open a b\ngot a\nput x wakes=b",
        &idle(),
        &["start a", "start b"],
    );
    check(
        0,
        &format!("{TURN}got a\ngot b"),
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &["start b"],
    );
    let wake =
        "open a\ngot a\nstart r.t0.a takes=2 messages\nend r.t0.a completed 2:consumed wake=700";
    check(699, wake, &idle(), &["look 700"]);
    check(700, wake, &idle(), &["start a"]);
}

#[test]
fn a_turn_that_nobody_runs_is_taken_up_again() {
    check(0, TURN, &idle(), &["resume r.t0.a"]);
    check(
        0,
        &format!("{TURN}got b"),
        &idle(),
        &["resume r.t0.a", "start b"],
    );
    check(
        0,
        TURN,
        &Situation {
            draining: true,
            ..idle()
        },
        &[],
    );
}

#[test]
fn nothing_starts_that_cannot_or_may_not() {
    let busy = || Situation {
        busy: BTreeSet::from([crate::journal::script::name("a")]),
        ..idle()
    };
    check(0, "open a b\ngot a\ngot b", &busy(), &["start b"]);
    // It does not keep the session in memory, and does not look again and again.
    check(0, "open a\ngot a", &busy(), &["look 1000"]);
    check(1_000, "open a\ngot a", &busy(), &["rest"]);
    let draining = Situation {
        draining: true,
        ..idle()
    };
    check(0, "open a b\ngot a\ngot b", &draining, &["look 1000"]);
}

#[test]
fn an_agent_that_works_does_not_make_another_one_late() {
    // b failed and tries again at 1000; it wakes at 700 in the second case.
    let failed = "open a b\ngot b\nstart q.t0.b takes=2 messages\nend q.t0.b failed *\ngot a\nstart r.t0.a takes=5 messages\n";
    let running = || Situation {
        running: turns(&["r.t0.a"]),
        ..idle()
    };
    check(0, failed, &running(), &["look 1000"]);
    check(999, failed, &running(), &["look 1000"]);
    check(1_000, failed, &running(), &["start b"]);
    check(
        0,
        failed,
        &Situation {
            unflushed: true,
            ..running()
        },
        &["flush", "look 1000"],
    );
    let wakes = "open a b\ngot b\nstart q.t0.b takes=2 messages\nend q.t0.b completed * wake=700\ngot a\nstart r.t0.a takes=5 messages\n";
    check(0, wakes, &running(), &["look 700"]);
    // What the working agent itself has to do later is looked at when it is done.
    let own = "open a\ngot a\nstart q.t0.a takes=2 messages\nend q.t0.a completed * wake=700\ngot a\nstart r.t0.a takes=5 messages\n";
    check(0, own, &running(), &[]);
}

#[test]
fn an_instance_whose_turn_is_over_is_ended() {
    let over = format!("{TURN}stop r.t0.a\nend r.t0.a interrupted *\n");
    check(
        0,
        &over,
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &["abort r.t0.a"],
    );
    check(
        0,
        &format!("{over}delete"),
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &["abort r.t0.a"],
    );
    check(
        0,
        TURN,
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &[],
    );
}

#[test]
fn a_message_delivered_too_often_is_set_aside() {
    let mut script = String::from("open a\ngot a\n");
    for attempt in 0..3 {
        script +=
            &format!("start r{attempt}.t0.a takes=2 messages\nend r{attempt}.t0.a failed *\n");
    }
    check(0, &script, &idle(), &["aside a 2 3", "look 4000"]);
    check(
        0,
        &script,
        &Situation {
            draining: true,
            ..idle()
        },
        &["aside a 2 3", "look 4000"],
    );
    // Not while the agent works on something else.
    check(
        0,
        &format!("{script}got a\nstart q.t0.a takes=9 messages"),
        &Situation {
            running: turns(&["q.t0.a"]),
            ..idle()
        },
        &[],
    );
}

#[test]
fn a_session_with_nothing_to_do_rests() {
    check(0, "open a", &idle(), &["look 1000"]);
    check(999, "open a", &idle(), &["look 1000"]);
    check(1_000, "open a", &idle(), &["rest"]);
    check(
        1_000,
        "open a",
        &Situation {
            held: true,
            ..idle()
        },
        // Nobody says when it is let go.
        &["look 2000"],
    );
    check(
        1_000,
        "open a",
        &Situation {
            unflushed: true,
            ..idle()
        },
        &["flush"],
    );
    check(
        1_000,
        TURN,
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &[],
    );
    check(
        1_000,
        "open a",
        &Situation {
            idle_since: Time(500),
            ..idle()
        },
        &["look 1500"],
    );
}

#[test]
fn an_id_that_somebody_looked_at_rests_too() {
    check(0, "", &idle(), &["look 1000"]);
    check(1_000, "", &idle(), &["rest"]);
    check(
        1_000,
        "",
        &Situation {
            held: true,
            ..idle()
        },
        // Nobody says when it is let go.
        &["look 2000"],
    );
}

#[test]
fn a_session_expires_when_nothing_else_is_to_do() {
    check(0, "open a expires=500", &idle(), &["look 500"]);
    check(500, "open a expires=500", &idle(), &["expire"]);
    check(
        500,
        "open a expires=500",
        &Situation {
            held: true,
            ..idle()
        },
        &["expire"],
    );
    check(
        0,
        "open a expires=500",
        &Situation {
            held: true,
            ..idle()
        },
        &["look 500"],
    );
    check(
        500,
        "open a expires=500",
        &Situation {
            draining: true,
            ..idle()
        },
        &["look 1000"],
    );
    check(
        500,
        "open a expires=500",
        &Situation {
            unflushed: true,
            ..idle()
        },
        &["flush"],
    );
    check(500, "open a expires=500\ngot a", &idle(), &["start a"]);
    check(
        500,
        "open a expires=500\ngot a\nstart r.t0.a takes=2 messages",
        &Situation {
            running: turns(&["r.t0.a"]),
            ..idle()
        },
        &[],
    );
    // Its agent is not there to take what waits: not for ever.
    let busy = || Situation {
        busy: BTreeSet::from([crate::journal::script::name("a")]),
        ..idle()
    };
    check(
        499,
        "open a expires=500\ngot a",
        &Situation {
            held: true,
            ..busy()
        },
        &["look 500"],
    );
    check(500, "open a expires=500\ngot a", &busy(), &["expire"]);
}

#[test]
fn a_session_that_has_ended_is_buried_once_all_of_it_is_still() {
    check(0, "open a\ndelete", &idle(), &["bury"]);
    check(
        0,
        "open a\nexpire",
        &Situation {
            held: true,
            draining: true,
            ..idle()
        },
        &["bury"],
    );
    check(
        0,
        "open a\ndelete",
        &Situation {
            unflushed: true,
            ..idle()
        },
        &["flush"],
    );
}

#[test]
fn a_burst_is_waited_for_and_the_session_stays_awake_for_it() {
    let batching = Batching {
        quiet_ms: 1_500,
        ..Batching::default()
    };
    let situation = || Situation {
        rules: rules(Rules {
            batching,
            ..Rules::default()
        }),
        ..idle()
    };
    let burst = "open a b\n@100\ngot a\n@400\ngot a";
    check(400, burst, &situation(), &["look 1000"]);
    // It would rest by now, and be late.
    check(1_000, burst, &situation(), &["look 1900"]);
    check(1_899, burst, &situation(), &["look 1900"]);
    check(1_900, burst, &situation(), &["start a"]);
    // What others do does not wait with it.
    check(
        400,
        &format!("{burst}\ngot b"),
        &situation(),
        &["start b", "look 1900"],
    );
    // By default nothing is waited for.
    check(400, burst, &idle(), &["start a"]);
}

#[test]
fn an_agent_whose_slot_is_locked_waits_and_says_so_once() {
    let situation = || Situation {
        rules: rules(Rules {
            slots_idle: BTreeSet::from([crate::journal::script::name("x")]),
            ..Rules::default()
        }),
        running: turns(&["r.t0.b"]),
        ..idle()
    };
    let locked = "open a b\ngot b\nstart r.t0.b takes=2 messages\nlock r.t0.b 0 x\n";
    let held = format!("{locked}got a\nsuspend a until-ready\n");
    check(0, locked, &situation(), &[]);
    check(
        0,
        &format!("{locked}got a"),
        &situation(),
        &["hold a: the slot `x` is locked"],
    );
    check(0, &held, &situation(), &[]);
    check(0, &format!("{held}got a\ngot a"), &situation(), &[]);
    let free = format!("{held}free r.t0.b 1 x\n");
    check(0, &free, &situation(), &["release a"]);
    check(0, &format!("{free}resume a"), &situation(), &["start a"]);
    // Nothing waits any more, so there is nothing to wait for.
    check(0, &format!("{held}aside a 5"), &situation(), &["release a"]);
    // Another slot, or another agent's lock, is no matter.
    let other = locked.replace(" x", " y");
    check(0, &format!("{other}got a"), &situation(), &["start a"]);
    // Whoever stops starts nothing, and holds nothing.
    let draining = Situation {
        draining: true,
        ..situation()
    };
    check(0, &format!("{locked}got a"), &draining, &[]);
}

#[test]
fn an_agent_that_failed_too_often_is_not_resumed_by_itself() {
    let suspended = "open a\ngot a\nsuspend a\n";
    check(0, suspended, &idle(), &["look 1000"]);
    let held = "open a\ngot a\nsuspend a until-ready\n";
    check(0, held, &idle(), &["release a"]);
    // A session that waits for somebody is not due; one that waits for something is.
    let state = |script| Script::run(script).unwrap().state;
    assert_eq!(state(suspended).next_due(), None);
    assert_eq!(state(held).next_due(), Some(Time(0)));
}

#[test]
fn a_model_that_is_not_ready_is_looked_at_again() {
    let without = |again_at| Situation {
        rules: rules(Rules {
            no_model: Some(NoModel {
                reason: "no model".into(),
                again_at,
            }),
            ..Rules::default()
        }),
        ..idle()
    };
    let waits = "open a\ngot a\n";
    let held = "open a\ngot a\nsuspend a until-ready\n";
    check(0, waits, &without(Some(Time(700))), &["hold a: no model"]);
    check(0, held, &without(Some(Time(700))), &["look 700"]);
    // It stays awake for it.
    check(1_000, held, &without(Some(Time(1_700))), &["look 1700"]);
    // Only another configuration helps: not in memory.
    check(0, held, &without(None), &["look 1000"]);
    check(1_000, held, &without(None), &["rest"]);
    // Nothing is due, so nothing is missing.
    check(0, "open a", &without(Some(Time(700))), &["look 1000"]);
}

#[test]
fn a_turn_that_asks_is_left_alone_until_it_is_answered_or_over() {
    let asks = format!("{TURN}ask r.t0.a 0 yes no until=500\n");
    // Its instance ends by itself.
    let running = || Situation {
        running: turns(&["r.t0.a"]),
        ..idle()
    };
    check(0, &asks, &running(), &["look 500"]);
    check(0, &asks, &idle(), &["look 500"]);
    check(499, &asks, &idle(), &["look 500"]);
    check(500, &asks, &idle(), &["give up r.t0.a"]);
    check(500, &asks, &running(), &["give up r.t0.a"]);
    let draining = || Situation {
        draining: true,
        ..idle()
    };
    check(500, &asks, &draining(), &[]);
    // What comes meanwhile waits for it, and others go on.
    check(0, &format!("{asks}got a"), &idle(), &["look 500"]);
    check(
        0,
        &format!("{asks}got b"),
        &idle(),
        &["start b", "look 500"],
    );
    for over in ["answer r.t0.a 0 yes", "@500\nanswer r.t0.a 0"] {
        check(500, &format!("{asks}{over}"), &running(), &[]);
        check(500, &format!("{asks}{over}"), &idle(), &["resume r.t0.a"]);
    }
    let again = "answer r.t0.a 0 yes\nagain r.t0.a 2 answered";
    check(0, &format!("{asks}{again}"), &running(), &[]);
    check(0, &format!("{asks}{again}"), &idle(), &["resume r.t0.a"]);
    let stopped = "stop r.t0.a\nend r.t0.a interrupted *";
    check(
        0,
        &format!("{asks}{stopped}"),
        &running(),
        &["abort r.t0.a"],
    );
    // Its caller waits no longer: whoever takes it up ends it.
    let called =
        "open a\ngot a run=r until=400\nstart r.t0.a takes=2 messages\nask r.t0.a 0 until=500";
    check(0, called, &idle(), &["look 400"]);
    check(400, called, &idle(), &["resume r.t0.a"]);
}

#[test]
fn a_session_rests_while_people_think_and_does_not_expire() {
    let asks =
        "open a expires=700\ngot a\nstart r.t0.a takes=2 messages\nask r.t0.a 0 until=90000\n";
    check(0, asks, &idle(), &["look 1000"]);
    check(1_000, asks, &idle(), &["rest"]);
    check(
        1_000,
        asks,
        &Situation {
            held: true,
            ..idle()
        },
        &["look 2000"],
    );
    // Not for less than it takes to get tired again.
    check(89_500, asks, &idle(), &["look 90000"]);
    // An instance that does not run is all that it takes.
    let running = Situation {
        running: turns(&["r.t0.a"]),
        ..idle()
    };
    check(1_000, asks, &running, &["look 90000"]);
    let called = format!("{asks}answer r.t0.a 0 yes");
    check(1_000, &called, &idle(), &["resume r.t0.a"]);
}
