//! The fold: what may follow what, and what each entry changes.

use std::fmt::Write as _;

use super::*;
use crate::journal::entry::Cause;
use crate::journal::script::{Script, message, name};

/// The state as text: a line for each thing that is open or due.
fn print(state: &State) -> String {
    let mut text = String::new();
    for (agent, participant) in &state.participants {
        for pending in &participant.pending {
            let fresh = if pending.fresh { "fresh" } else { "left" };
            let _ = write!(text, "{agent} has {} {fresh}", pending.message.seq());
            if pending.deliveries > 0 {
                let _ = write!(
                    text,
                    " tried {} until {}",
                    pending.deliveries, pending.not_before.0
                );
            }
            text.push('\n');
        }
        for (slot, run) in &participant.watched {
            let run = run.as_ref().map_or("-", RunId::as_str);
            let _ = writeln!(text, "{agent} watches {slot} {run}");
        }
        if let Some(wake) = &participant.wake {
            let _ = writeln!(text, "{agent} wakes {} {}", wake.at.0, wake.run);
        }
        if let Some(turn) = &participant.turn {
            let open = &state.turns[turn];
            let _ = writeln!(
                text,
                "{agent} runs {turn} said {} calls {}",
                open.said, open.calls
            );
        }
    }
    for (name, slot) in &state.slots {
        let version = slot
            .document
            .as_ref()
            .map_or(0, |document| document.version.0);
        let holder = slot.lock.as_ref().map_or("idle", TurnId::as_str);
        let _ = writeln!(text, "slot {name} v{version} {holder}");
    }
    for run in state.runs.keys() {
        let _ = writeln!(text, "run {run} next {}", state.next_index(run));
    }
    if state.phase != Phase::Open {
        let _ = writeln!(text, "{:?}", state.phase);
    }
    text
}

/// What the script leaves, or why its last line is illegal.
fn check(script: &str, expect: &str) {
    let result = match Script::run(script) {
        Ok(script) => print(&script.state),
        Err(illegal) => format!("{}: {}\n", illegal.seq, illegal.why),
    };
    let expect: String = expect
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(result, expect, "after\n{script}");
}

/// After two agents, a message for `a` (2) and its turn: the ways in which it may go on, and may not.
const OPEN: &str = "open a b\ngot a\nstart r.t0.a takes=2 messages\n";

fn check_next(lines: &str, why: &str) {
    let script = format!("{OPEN}{lines}");
    let last = script
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    check(&script, &format!("{last}: {why}"));
}

#[test]
fn a_session_opens_once_and_ends_for_good() {
    check("got a", "1: the session is not open yet");
    check("open a b entry=c", "1: the entry agent takes no part");
    check("open a\nopen a", "2: the session is open already");
    check("open a\ndelete", "Ended");
    check("open a\nexpire\ngot a", "3: the session has ended");
    check_next("delete", "a turn is open");
    check_next("expire", "a turn is open");
}

#[test]
fn numbers_and_times_follow() {
    let mut script = Script::run(OPEN).unwrap();
    let mut entry = script.entries.last().cloned().unwrap();
    let before = script.state.clone();
    assert_eq!(
        script.state.next(&entry).unwrap_err().why,
        "its number does not follow"
    );
    entry.seq = Seq(5);
    assert_eq!(
        script.state.next(&entry).unwrap_err().why,
        "its number does not follow"
    );
    assert_eq!(script.state, before);
    check("@5\nopen a\n@4\ngot a", "2: time went back");
}

#[test]
fn participants_come_and_go() {
    check("open a b\nadd b", "2: the agent takes part already");
    check("open a b\nremove a", "2: the entry agent cannot leave");
    check("open a b\nremove c", "2: the agent takes no part");
    check(
        "open b a\ngot a\nstart r.t0.a takes=2 messages\nremove a",
        "4: the agent's turn is open",
    );
    check("open a b\nremove b\ngot b", "3: the agent takes no part");
    // It takes with it what waits, and forgets the runs.
    check(
        "open b a\ngot b\nstart r.t0.b takes=2 messages\nsend r.t0.b 0 a\nlock r.t0.b 1 x\ncommit r.t0.b 2 x wakes=a\nend r.t0.b completed *\nremove a",
        "b has 2 left\nslot x v6 idle",
    );
}

#[test]
fn messages_carry_the_number_of_their_entry() {
    check("open a\ngot c", "2: the agent takes no part");
    check("open a\ngot a id=7", "2: its id is not its number");
    check_next("send r.t0.a 0 b id=9", "its id is not its number");
    check_next("send r.t0.a 0 c", "the agent takes no part");
    check_next("send r.t0.a 1 b", "its call number does not follow");
    check_next("send r.t1.a 0 b", "the turn is not open");
    check_next("send r.t0.a 0 b as=b", "it is another agent's turn");
    check_next("got a key=k\ngot a key=k", "its idempotency key is taken");
    check_next("aside a 3", "no such message waits");
    check_next("aside c 2", "the agent takes no part");
    check(
        &format!("{OPEN}send r.t0.a 0 b\nend r.t0.a completed 2:consumed"),
        "b has 4 fresh\nrun r next 1",
    );
}

#[test]
fn a_turn_takes_what_is_due_under_the_next_name_of_its_run() {
    check(
        "open a\nstart r.t0.a takes=2 messages",
        "2: a message it takes does not wait",
    );
    check(
        "open a b\ngot a\nstart r.t0.b takes=2 messages",
        "3: a message it takes does not wait",
    );
    check(
        "open a\ngot a\nstart r.t0.a messages",
        "3: its causes do not say what it takes",
    );
    check(
        "open a\ngot a\nstart r.t0.a takes=2 slot:x",
        "3: its causes do not say what it takes",
    );
    check("open a\nstart r.t0.a", "2: what caused it is not due");
    check(
        "open a\nstart r.t0.a slot:x",
        "2: what caused it is not due",
    );
    check("open a\nstart r.t0.a wake", "2: what caused it is not due");
    check(
        "open a\ngot a\nstart r.t1.a takes=2 messages",
        "3: its name is not the next of its run",
    );
    check(
        "open a\ngot a\nstart r.t0.a takes=2 messages as=b",
        "3: the agent takes no part",
    );
    check(
        "open a\ngot a\nstart r.t0.a takes=2 messages run=q",
        "3: its name is not the next of its run",
    );
    check_next("start r.t0.a takes=2 messages", "the turn is open already");
    check_next("start r.t1.a takes=2 messages", "the agent's turn is open");
}

#[test]
fn calls_are_numbered_and_return_once() {
    check_next("call r.t0.a 1", "its call number does not follow");
    check_next(
        "call r.t0.a 0\ncall r.t0.a 0",
        "its call number does not follow",
    );
    check_next("call r.t0.b 0", "the turn is not open");
    check_next("stream r.t0.a 0", "no such call is open");
    check_next("back r.t0.a 0", "no such call is open");
    check_next(
        "call r.t0.a 0\nback r.t0.a 0\nback r.t0.a 0",
        "no such call is open",
    );
    check_next(
        "call r.t0.a 0\nback r.t0.a 0\nstream r.t0.a 0",
        "no such call is open",
    );
    check_next("see r.t0.a 0\nback r.t0.a 0", "no such call is open");
    check_next("see r.t0.a 3", "its call number does not follow");
    check_next("pull r.t0.a 0 takes=3", "a pulled message does not wait");
    check_next("pull r.t1.a 0 takes=2", "the turn is not open");
    check_next("pull r.t0.a 1 takes=2", "its call number does not follow");
    check_next("leave r.t0.a 0 2", "the turn did not pull it");
    check_next(
        "pull r.t0.a 0 takes=2\nleave r.t0.a 1 2\nleave r.t0.a 2 2",
        "the turn did not pull it",
    );
    // Two calls may be open at once, and return in any order.
    check(
        &format!(
            "{OPEN}call r.t0.a 0\ncall r.t0.a 1\nstream r.t0.a 0\nback r.t0.a 1\nback r.t0.a 0"
        ),
        "a has 2 fresh\na runs r.t0.a said 0 calls 2\nrun r next 1",
    );
}

#[test]
fn words_follow_one_another() {
    check_next("spoke r.t0.a 1 x", "words are missing before it");
    check_next(
        "spoke r.t0.a 0 one\nspoke r.t0.a 0 one",
        "words are missing before it",
    );
    check_next("spoke r.t0.a 0 one as=b", "it is another agent's turn");
    check_next("spoke r.t0.b 0 one", "the turn is not open");
    check(
        &format!("{OPEN}spoke r.t0.a 0 one\nspoke r.t0.a 3 two"),
        "a has 2 fresh\na runs r.t0.a said 6 calls 0\nrun r next 1",
    );
}

#[test]
fn a_lock_has_one_holder_and_a_commit_one_version() {
    let both = "open a b\ngot a\ngot b\nstart r.t0.a takes=2 messages\nstart q.t0.b takes=3 messages\nlock r.t0.a 0 x\n";
    let then = |lines: &str, why: &str| check(&format!("{both}{lines}"), why);
    then("lock q.t0.b 0 x", "7: the slot is locked");
    then("lock r.t0.a 1 x", "7: the slot is locked");
    then("lock q.t0.b 1 y", "7: its call number does not follow");
    then("commit q.t0.b 0 x", "7: the turn does not hold the slot");
    then("commit r.t0.a 1 y", "7: the turn does not hold the slot");
    then("commit r.t0.a 1 x v=6", "7: its version is not its number");
    then("commit r.t0.a 0 x", "7: its call number does not follow");
    then("commit r.t0.a 1 x wakes=a", "7: it wakes its own writer");
    then("put x", "7: the slot is locked");
    then("free q.t0.b 0 x", "7: the turn does not hold the slot");
    then("free r.t0.a 0 x", "7: its call number does not follow");
    then(
        "commit r.t0.a 1 x\ncommit r.t0.a 2 x",
        "8: the turn does not hold the slot",
    );
    then(
        "free r.t0.a 1 x\nfree r.t0.a 2 x",
        "8: the turn does not hold the slot",
    );
    // A lock dies with its turn, and a slot that nobody ever wrote with its lock.
    let idle = "b has 3 fresh\nb runs q.t0.b said 0 calls 0\nrun q next 1";
    then("end r.t0.a failed 2:consumed", idle);
    then("free r.t0.a 1 x\nend r.t0.a completed 2:consumed", idle);
    then(
        "commit r.t0.a 1 x\nlock r.t0.a 2 x\nend r.t0.a failed 2:consumed\nput x",
        "b has 3 fresh\nb runs q.t0.b said 0 calls 0\nslot x v10 idle\nrun q next 1",
    );
}

#[test]
fn an_interruption_is_a_cut() {
    check_next("stop r.t0.b", "the turn is not open");
    check_next("stop r.t0.a as=b", "it is another agent's turn");
    for line in [
        "spoke r.t0.a 0 x",
        "call r.t0.a 1",
        "back r.t0.a 0",
        "stream r.t0.a 0",
        "see r.t0.a 1",
        "pull r.t0.a 1 takes=2",
        "send r.t0.a 1 b",
        "lock r.t0.a 1 x",
        "stop r.t0.a",
        "end r.t0.a completed *",
        "end r.t0.a failed *",
    ] {
        check_next(
            &format!("call r.t0.a 0\nstop r.t0.a\n{line}"),
            "the turn is interrupted",
        );
    }
    check_next(
        "lock r.t0.a 0 x\nstop r.t0.a\ncommit r.t0.a 1 x",
        "the turn is interrupted",
    );
    check(&format!("{OPEN}stop r.t0.a\nend r.t0.a interrupted *"), "");
}

#[test]
fn a_turn_ends_once() {
    check_next("end r.t0.a completed * as=b", "it is another agent's turn");
    check_next(
        "end r.t0.a completed *\nend r.t0.a completed *",
        "the turn is not open",
    );
    check_next(
        "end r.t0.a completed *\nspoke r.t0.a 0 x",
        "the turn is not open",
    );
}

/// Inputs: 2 pulled, 3 not pulled, 4 pulled and left again, 6 invoked and not pulled; 5 came later; 1 of
/// an earlier turn was left and is pulled now.
#[test]
fn inputs_follow_the_outcome() {
    let before = "open a\ngot a\nstart q.t0.a takes=2 messages\nend q.t0.a completed *\n\
        got a\ngot a\ngot a\ngot a invoked\nstart r.t0.a takes=5,6,7,8 messages\n\
        got a\npull r.t0.a 0 takes=2,5,7\nleave r.t0.a 1 7\n";
    let said = "spoke r.t0.a 0 word\n";
    let later = "a has 10 fresh\n";
    for (lines, outcome, expect) in [
        ("", "completed", "a has 6 left\na has 7 left\n"),
        (said, "completed", "a has 6 left\na has 7 left\n"),
        ("", "interrupted", ""),
        ("", "cancelled", ""),
        (said, "failed", ""),
        (
            "",
            "failed",
            "a has 2 left\na has 5 fresh tried 1 until 1000\na has 6 fresh tried 1 until 1000\na has 7 fresh tried 1 until 1000\n",
        ),
    ] {
        check(
            &format!("{before}{lines}end r.t0.a {outcome} *"),
            &format!("{expect}{later}"),
        );
    }
}

#[test]
fn a_message_is_tried_three_times_each_after_a_longer_wait() {
    let mut script = Script::run("open a\ngot a").unwrap();
    let mut now = 0;
    for (attempt, wait) in [1_000, 2_000, 4_000].into_iter().enumerate() {
        let due = script
            .state
            .due(&name("a"), Time(now), &Batching::default())
            .expect("it is due");
        assert_eq!(due.inputs, [message(2)]);
        assert_eq!(script.state.undeliverable().count(), 0);
        script.line(&format!("@{now}")).unwrap();
        script
            .line(&format!("start r{attempt}.t0.a takes=2 messages"))
            .unwrap();
        script
            .line(&format!("end r{attempt}.t0.a failed *"))
            .unwrap();
        assert_eq!(script.state.next_due(), Some(Time(now + wait)));
        now += wait;
        assert_eq!(
            script
                .state
                .due(&name("a"), Time(now - 1), &Batching::default()),
            None
        );
    }
    assert_eq!(
        script
            .state
            .due(&name("a"), Time(now), &Batching::default()),
        None,
        "spent"
    );
    let (agent, pending) = script.state.undeliverable().next().expect("it is spent");
    assert_eq!((agent.as_str(), &pending.message), ("a", &message(2)));
    script.line("aside a 2").unwrap();
    assert_eq!(print(&script.state), "");
    assert_eq!(script.state.next_due(), None, "nothing is due for ever");
}

#[test]
fn what_arrives_while_an_agent_works_is_its_next_input() {
    let mut script = Script::run(&format!("{OPEN}got a\ngot a\ngot a")).unwrap();
    assert_eq!(
        script.state.due(&name("a"), Time(0), &Batching::default()),
        None,
        "its turn is open"
    );
    script.line("end r.t0.a completed 2:consumed").unwrap();
    let due = |messages_max| {
        let batching = Batching {
            messages_max,
            ..Batching::default()
        };
        script.state.due(&name("a"), Time(0), &batching).unwrap()
    };
    assert_eq!(due(10).inputs, [message(4), message(5), message(6)]);
    assert_eq!(due(2).inputs, [message(4), message(5)]);
    assert_eq!(due(10).causes, [Cause::Messages]);
}

#[test]
fn a_watched_slot_is_one_cause_however_often_it_is_written() {
    let two = "open a b\ngot a\nstart r.t0.a takes=2 messages\nlock r.t0.a 0 x\ncommit r.t0.a 1 x wakes=b\n\
        lock r.t0.a 2 x\ncommit r.t0.a 3 x wakes=b\nend r.t0.a completed 2:consumed\n";
    check(two, "b watches x r\nslot x v7 idle\nrun r next 1");
    let script = Script::run(two).unwrap();
    let due = script
        .state
        .due(&name("b"), Time(0), &Batching::default())
        .unwrap();
    assert_eq!(
        (due.causes, due.run),
        (vec![Cause::Slot(name("x"))], Some(name("r")))
    );
    assert_eq!(script.state.next_due(), Some(Time(0)));
    // Taken once; what is written meanwhile is due again afterwards; from outside it names no run.
    check(
        &format!("{two}start r.t1.b slot:x"),
        "b runs r.t1.b said 0 calls 0\nslot x v7 idle\nrun r next 2",
    );
    check(
        &format!("{two}start r.t1.b slot:x\nput x wakes=b\nend r.t1.b completed"),
        "b watches x -\nslot x v10 idle",
    );
    // Whoever left is not woken.
    check(&format!("{two}remove b\nput x wakes=b"), "slot x v10 idle");
}

#[test]
fn a_wake_up_is_the_newest_asked_for() {
    let asked = format!("{OPEN}end r.t0.a completed 2:consumed wake=500\ngot a\n");
    check(&asked, "a has 5 fresh\na wakes 500 r\nrun r next 1");
    let script = Script::run(&asked).unwrap();
    let causes = |now| {
        script
            .state
            .due(&name("a"), Time(now), &Batching::default())
            .unwrap()
            .causes
    };
    assert_eq!(causes(499), [Cause::Messages]);
    assert_eq!(causes(500), [Cause::Messages, Cause::Wake]);
    check(
        &format!("{asked}start q.t0.a takes=5 messages\nend q.t0.a completed 5:consumed wake=300"),
        "a wakes 300 q\nrun q next 1",
    );
    check(
        &format!("{asked}start r.t1.a takes=5 messages wake\nend r.t1.a completed 5:consumed"),
        "",
    );
}

#[test]
fn keys_are_remembered_for_a_day() {
    let day = IDEMPOTENCY_MS;
    let key = |text: &str| Digest::of(text.as_bytes());
    let mut script = Script::run("@5\nopen a\ngot a key=k\n@6\ngot a key=l").unwrap();
    let remembered = |script: &Script, text, now| {
        script
            .state
            .remembered(&key(text), Time(now))
            .map(|it| it.message)
    };
    assert_eq!(remembered(&script, "k", 5 + day - 1), Some(Seq(2)));
    assert_eq!(remembered(&script, "k", 5 + day), None);
    assert_eq!(remembered(&script, "m", 5), None);
    // What is past does not count, although nothing came that swept it out.
    assert_eq!(script.state.remembered_len(Time(5)), 2);
    assert_eq!(script.state.remembered_len(Time(5 + day)), 1);
    assert_eq!(script.state.remembered_len(Time(6 + day)), 0);
    // A key is free again then, and the new use counts.
    script.line(&format!("@{}", 5 + day)).unwrap();
    script.line("got a key=k").unwrap();
    assert_eq!(remembered(&script, "k", 5 + day), Some(Seq(4)));
    assert_eq!(script.state.remembered.len(), 2);
    script.line(&format!("@{}", 6 + day)).unwrap();
    script.line("got a key=m").unwrap();
    assert_eq!(script.state.remembered.len(), 2, "swept");
    assert_eq!(remembered(&script, "k", 6 + day), Some(Seq(4)));
}

#[test]
fn a_session_expires_after_its_last_entry() {
    let mut script = Script::run("@10\nopen a expires=100").unwrap();
    assert_eq!(
        (script.state.expires_at(), script.state.next_due()),
        (Some(Time(110)), Some(Time(110)))
    );
    script.line("@50").unwrap();
    script.line("got a").unwrap();
    assert_eq!(script.state.expires_at(), Some(Time(150)));
    assert_eq!(
        script.state.next_due(),
        Some(Time(0)),
        "a message is due before"
    );
    script.line("expire").unwrap();
    assert_eq!(script.state.next_due(), Some(Time(0)), "to be buried");
    assert_eq!(
        script.state.due(&name("a"), Time(50), &Batching::default()),
        None
    );
}

/// What an entry made open or due is over once it is taken and ended: the state does not grow with history.
#[test]
fn the_state_is_as_small_after_a_thousand_turns_as_after_one() {
    let mut script = Script::run("open a b").unwrap();
    let mut sizes = Vec::new();
    for turn in 0..1_000 {
        let start = script.state.last.0;
        for line in [
            format!("got a key={turn}"),
            format!("start r{turn}.t0.a takes={} messages", start + 1),
            format!("pull r{turn}.t0.a 0 takes={}", start + 1),
            format!("send r{turn}.t0.a 1 b"),
            format!("lock r{turn}.t0.a 2 x"),
            format!("commit r{turn}.t0.a 3 x wakes=b"),
            format!("end r{turn}.t0.a completed *"),
            format!("start r{turn}.t1.b takes={} messages slot:x", start + 4),
            format!("end r{turn}.t1.b interrupted *"),
            format!("@{}", (turn + 1) * IDEMPOTENCY_MS),
        ] {
            script
                .line(&line)
                .unwrap_or_else(|illegal| panic!("{line}: {illegal}"));
        }
        sizes.push(serde_json::to_vec(&script.state).unwrap().len());
    }
    assert!(
        sizes[999] < sizes[1] + 100,
        "{} then {}",
        sizes[1],
        sizes[999]
    );
}

/// Two agents at work, a slot held, another written, a wake-up asked for, keys remembered, messages that wait.
const BUSY: &str = "open a b\ngot b\nstart q.t0.b takes=2 messages\nend q.t0.b completed * wake=9000\n\
    got a key=k\nstart r.t0.a takes=5 messages\nsend r.t0.a 0 b\nspoke r.t0.a 0 words\n\
    lock r.t0.a 1 x\nput y wakes=b\ngot a\n";

#[test]
fn what_was_said_before_stands_at_the_beginning_alone() {
    check(
        "open a b\ntold-before\ntold-before b\ngot a",
        "a has 4 fresh",
    );
    check("told-before", "1: the session is not open yet");
    check("open a\ntold-before b", "2: the agent takes no part");
    check(
        "open a\ntold-before\nadd b\ntold-before",
        "4: something has happened here already",
    );
    check(
        "open a\ngot a\ntold-before",
        "3: something has happened here already",
    );
    let script = Script::run("open a\ngot a be=brief\ngot a").unwrap();
    let pending = &script.state.participants[&name("a")].pending;
    assert_eq!(
        (pending[0].is_instructed(), pending[1].is_instructed()),
        (true, false)
    );
}

#[test]
fn a_turn_that_asked_for_tools_says_no_more() {
    let turn = "open a b\ngot a\nstart r.t0.a takes=2 messages\nspoke r.t0.a 0 well\n";
    let asked = format!("{turn}tools r.t0.a 0 look\n");
    check(
        &asked,
        "a has 2 fresh\na runs r.t0.a said 4 calls 1\nrun r next 1",
    );
    for (line, why) in [
        ("spoke r.t0.a 4 more", "6: the turn has asked for tools"),
        ("tools r.t0.a 1 look", "6: the turn has asked for tools"),
    ] {
        check(&format!("{asked}{line}"), why);
    }
    check(&format!("{turn}tools r.t0.a 0"), "5: it calls nothing");
    check(
        &format!("{turn}tools r.t0.a 0 look as=b"),
        "5: it is another agent's turn",
    );
    // What was asked for was shown: a turn that fails after it is not made again.
    check(&format!("{asked}end r.t0.a failed * code=agent"), "");
}

#[test]
fn a_fork_takes_over_what_waits_and_drops_what_was_promised() {
    check(
        BUSY,
        "a has 5 fresh\na has 11 fresh\na runs r.t0.a said 5 calls 2\n\
         b has 2 left\nb has 7 fresh\nb watches y -\nb wakes 9000 q\n\
         slot x v0 r.t0.a\nslot y v10 idle\nrun q next 1\nrun r next 1",
    );
    // The end of the open turn is all that can follow, and frees what it held.
    check(
        &format!("{BUSY}fork parent\nend r.t0.a interrupted * code=forked"),
        "a has 11 fresh\nb has 2 left\nb has 7 fresh\nslot y v10 idle\nrun r next 1",
    );
    for (line, why) in [
        ("spoke r.t0.a 5 more", "13: the turn is interrupted"),
        ("end r.t0.a completed *", "13: the turn is interrupted"),
        ("again r.t0.a 2", "13: the turn is interrupted"),
    ] {
        check(&format!("{BUSY}fork parent\n{line}"), why);
    }
    check("fork parent", "1: the session is not open yet");
    check("open a\ndelete\nfork parent", "3: the session has ended");
    check(
        "open a\nfork parent at=2",
        "2: it is not where it says it is",
    );
    check(
        "open a\nfork parent at=0",
        "2: it is not where it says it is",
    );
}

#[test]
fn a_fork_forgets_keys_and_has_a_secret_of_its_own() {
    let mut script = Script::run("open a\ngot a key=k\nfork parent").unwrap();
    let key = Digest::of(b"k");
    assert_eq!(script.state.remembered(&key, Time(0)), None);
    assert_eq!(script.state.secret, "another secret");
    // The key counts anew, and a fork can be forked.
    script.line("got a key=k").unwrap();
    script.line("fork other").unwrap();
    assert_eq!(script.state.remembered(&key, Time(0)), None);
    assert_eq!(script.state.participants[&name("a")].pending.len(), 2);
}

#[test]
fn a_turn_that_a_fork_ended_is_no_failure_of_its_agent() {
    let fork = "fork parent\nend r.t0.a interrupted * code=forked\n";
    let script = Script::run(&format!("{OPEN}{fork}")).unwrap();
    let agent = &script.state.participants[&name("a")];
    assert_eq!(agent.failures, Failures::default());
    // Neither is it a success: one that failed before waits as long as before.
    let failing = "open a\ngot a invoked\nstart r.t0.a takes=2 messages\nend r.t0.a failed * code=trap\n\
        got a invoked\nstart s.t0.a takes=5 messages\nend s.t0.a failed * code=trap\n\
        @5000\ngot a\nstart t.t0.a takes=8 messages\n";
    let before = Script::run(failing).unwrap().state;
    let end = "fork parent\nend t.t0.a interrupted * code=forked\n";
    let after = Script::run(&format!("{failing}{end}")).unwrap().state;
    let failures = |state: &State| state.participants[&name("a")].failures.clone();
    assert!(failures(&before).not_before > Time(0));
    assert_eq!(failures(&after), failures(&before));
}

#[test]
fn a_turn_that_never_gets_on_is_poison_and_one_that_waits_is_not() {
    let check = |lines: &str, poison: bool| {
        let start = "open a\ngot a\nstart r.t0.a takes=2 messages\n";
        let script = Script::run(&format!("{start}{lines}")).expect("it is legal");
        let turn = &script.state.turns[&name::<TurnId>("r.t0.a")];
        assert_eq!(turn.is_poison(), poison, "{lines}");
    };
    check("", false);
    check("again r.t0.a 2", false);
    check("again r.t0.a 2\nagain r.t0.a 3", true);
    // Anything that it does begins the count anew.
    check("again r.t0.a 2\nagain r.t0.a 3\nsee r.t0.a 0", false);
    check("see r.t0.a 0\nagain r.t0.a 2\nagain r.t0.a 3", false);
    // Being stopped on purpose is no attempt.
    check("again r.t0.a 2\nagain r.t0.a 3 host-stopped", false);
    // A call that is made again has not got on, but the turn is not to blame so soon.
    let calls = |attempts: std::ops::RangeInclusive<u32>| {
        let again =
            attempts.map(|attempt| format!("\nagain r.t0.a {attempt}\nagain r.t0.a {attempt} n=0"));
        format!("call r.t0.a 0{}", again.collect::<String>())
    };
    check(&calls(2..=10), false);
    check(&calls(2..=11), true);
}

/// A run from outside may come again: its turns go on counting, also once it was forgotten.
#[test]
fn turns_of_a_run_from_outside_never_repeat_their_ids() {
    let mut script = Script::run("open a").expect("it is legal");
    let mut ids = std::collections::BTreeSet::new();
    for round in 0..600 {
        let run = format!("caller{}", if round % 3 == 0 { 0 } else { round });
        let seq = script.state.last.0 + 1;
        script
            .line(&format!("got a run={run} depth=1"))
            .expect("it is legal");
        let index = script.state.next_index(&name(&run));
        let turn = format!("{run}.t{index}.a");
        assert!(ids.insert(turn.clone()), "{turn} again");
        let lines = [
            format!("start {turn} takes={seq} messages"),
            format!("pull {turn} 0 takes={seq}"),
            format!("end {turn} completed *"),
        ];
        for line in lines {
            script.line(&line).expect("it is legal");
        }
    }
    assert!(
        script.state.runs.len() <= 256,
        "they are forgotten some day"
    );
}

#[test]
fn depth_stays_with_the_run() {
    let script = Script::run(
        "open a b\ngot a run=r depth=2\nstart r.t0.a takes=2 messages\nsend r.t0.a 0 b\n\
        end r.t0.a completed *\nstart r.t1.b takes=4 messages",
    );
    let state = script.expect("it is legal").state;
    assert_eq!(
        state.turns[&name::<TurnId>("r.t1.b")].depth,
        2,
        "what it caused is as deep"
    );
}

#[test]
fn what_a_turn_called_is_owed_an_end_unless_it_came_back() {
    let owed = |script: &str| {
        let start = "open a\ngot a\nstart r.t0.a takes=2 messages\nnest r.t0.a 0 b one\nnest r.t0.a 1 b two\n";
        let state = Script::run(&format!("{start}{script}"))
            .expect("it is legal")
            .state;
        let names = state.owed.iter().map(|owed| owed.child.session.to_string());
        (names.collect::<Vec<_>>().join(" "), state.next_due())
    };
    assert_eq!(owed("back r.t0.a 0\nend r.t0.a completed *").0, "two");
    assert_eq!(owed("end r.t0.a failed * code=trap").0, "one two");
    assert_eq!(owed("drop r.t0.a 1").0, "two", "at once");
    assert_eq!(owed("stop r.t0.a\nend r.t0.a interrupted *").0, "one two");
    let (left, due) = owed("end r.t0.a completed *\ntold r.t0.a 0 b one\ntold r.t0.a 1 b two");
    assert_eq!((left.as_str(), due), ("", None));
    assert_eq!(
        owed("end r.t0.a completed *").1,
        Some(Time(0)),
        "the next process too"
    );
    // What a fork copies of it belongs to the other session.
    assert_eq!(
        owed("fork parent\nend r.t0.a interrupted * code=forked").0,
        ""
    );
    let twice =
        "open a\ngot a\nstart r.t0.a takes=2 messages\nnest r.t0.a 0 b one\ntold r.t0.a 0 b one";
    assert!(Script::run(twice).is_err());
}

#[test]
fn speakers_of_a_conversation_follow_one_another() {
    for (lines, why) in [
        ("speaker r.t0.a 1 ada", "its index does not follow"),
        ("spoken r.t0.a 0 ada", "no speaker's turn is open"),
        (
            "spoke r.t0.a 0 word speaker=ada index=0",
            "its speaker's turn is not open",
        ),
        (
            "speaker r.t0.a 0 ada\nspeaker r.t0.a 0 bo",
            "another speaker's turn is open",
        ),
        (
            "speaker r.t0.a 0 ada\nspoken r.t0.a 1 ada",
            "another speaker's turn is open",
        ),
        (
            "speaker r.t0.a 0 ada\nspoke r.t0.a 0 word speaker=ada index=1",
            "its speaker's turn is not open",
        ),
        (
            "speaker r.t0.a 0 ada\nspoken r.t0.a 0 ada\nspoken r.t0.a 1 ada",
            "no speaker's turn is open",
        ),
        (
            "speaker r.t0.a 0 ada\nspoken r.t0.a 0 ada\nspeaker r.t0.a 0 bo",
            "its index does not follow",
        ),
        ("halt r.t0.a\nhalt r.t0.a", "the conversation has halted"),
        (
            "halt r.t0.a\nspeaker r.t0.a 0 ada",
            "the conversation has halted",
        ),
        (
            "halt r.t0.a\nspoke r.t0.a 0 word",
            "the conversation has halted",
        ),
        ("halt r.t0.a\ncall r.t0.a 0", "the conversation has halted"),
        ("stop r.t0.a\nhalt r.t0.a", "the turn is interrupted"),
        ("halt s.t0.a", "the turn is not open"),
    ] {
        check_next(lines, why);
    }
    let script = format!(
        "{OPEN}speaker r.t0.a 0 ada\nspoke r.t0.a 0 [ada]\nspoke r.t0.a 5 one speaker=ada index=0\n\
         spoken r.t0.a 0 ada\nspeaker r.t0.a 1 bo\nhalt r.t0.a\nagain r.t0.a 2\nend r.t0.a failed *"
    );
    assert!(Script::run(&script).is_ok());
    let stopped = format!("{OPEN}speaker r.t0.a 0 ada\nhalt r.t0.a\nstop r.t0.a");
    assert!(
        Script::run(&stopped).is_ok(),
        "whoever stops it says so first"
    );
}

#[test]
fn a_turn_that_asks_is_put_aside_until_it_is_answered() {
    let ask = "ask r.t0.a 2 yes no until=1000\n";
    for (lines, why) in [
        ("ask r.t0.a 2 until=1000", "12: the turn holds a lock"),
        ("answer r.t0.a 2 yes", "12: no such question is open"),
        (
            "again r.t0.a 2 answered",
            "12: the turn was not put aside, or is taken up because it was",
        ),
    ] {
        check(&format!("{BUSY}{lines}"), why);
    }
    for (lines, why) in [
        ("ask r.t0.a 1 until=1000", "its call number does not follow"),
        (
            "ask r.t0.a 2 question=3 until=1000",
            "its id is not its number",
        ),
        (
            "@2000\nask r.t0.a 2 until=1000",
            "it is over before it is asked",
        ),
        ("ask r.t0.a 2 until=1000 as=b", "it is another agent's turn"),
        ("ask s.t0.a 0 until=1000", "the turn is not open"),
        // Nothing of it follows but the answer, a request to stop, and its end.
        (
            &format!("{ask}ask r.t0.a 3 until=1000"),
            "the turn is put aside",
        ),
        (&format!("{ask}see r.t0.a 3"), "the turn is put aside"),
        (
            &format!("{ask}spoke r.t0.a 5 more"),
            "the turn is put aside",
        ),
        (
            &format!("{ask}again r.t0.a 2"),
            "what the turn asked is not answered",
        ),
        (
            &format!("{ask}end r.t0.a completed *"),
            "the turn is put aside",
        ),
        (
            &format!("{ask}answer r.t0.a 2 maybe"),
            "it is none of the choices",
        ),
        (
            &format!("{ask}answer r.t0.a 1 yes"),
            "no such question is open",
        ),
        (
            &format!("{ask}answer r.t0.a 2 yes question=1"),
            "no such question is open",
        ),
        (
            &format!("{ask}@999\nanswer r.t0.a 2"),
            "there is time left to answer",
        ),
        (
            &format!("{ask}stop r.t0.a\nanswer r.t0.a 2 yes"),
            "the turn is interrupted",
        ),
        (
            &format!("{ask}got a key=k\nanswer r.t0.a 2 yes key=k"),
            "its idempotency key is taken",
        ),
        // It is answered once, and then it is taken up before it does anything.
        (
            &format!("{ask}answer r.t0.a 2 yes\nanswer r.t0.a 2 no"),
            "no such question is open",
        ),
        (
            &format!("{ask}answer r.t0.a 2 yes\nsee r.t0.a 3"),
            "the turn is put aside",
        ),
        (
            &format!("{ask}answer r.t0.a 2 yes\nend r.t0.a completed *"),
            "the turn is put aside",
        ),
        (
            &format!("{ask}answer r.t0.a 2 yes\nagain r.t0.a 2"),
            "the turn was not put aside, or is taken up because it was",
        ),
    ] {
        let script = format!("{ASKING}{lines}");
        let illegal = Script::run(&script).err().expect("it is illegal");
        assert_eq!(illegal.why, why, "{lines}");
    }
    for lines in [
        "answer r.t0.a 2 yes\nagain r.t0.a 2 answered\nsee r.t0.a 3\nend r.t0.a completed *",
        "@1000\nanswer r.t0.a 2\nagain r.t0.a 2 answered\nend r.t0.a completed *",
        "stop r.t0.a\nend r.t0.a interrupted *",
        "end r.t0.a cancelled *",
        "end r.t0.a failed * code=caller-deadline",
        "fork parent\nend r.t0.a interrupted * code=forked",
        "got a\nput x\nanswer r.t0.a 2 yes key=k",
    ] {
        let script = Script::run(&format!("{ASKING}{ask}{lines}"));
        assert!(script.is_ok(), "{lines}: {:?}", script.err());
    }
}

/// A turn that has called and said something.
const ASKING: &str = "open a b expires=50\ngot a\nstart r.t0.a takes=2 messages\nsee r.t0.a 0\n\
    spoke r.t0.a 0 hello\nnest r.t0.a 1 b child\n";

#[test]
fn a_question_says_when_its_session_is_due() {
    let due = |lines: &str| {
        let script = Script::run(&format!("{ASKING}{lines}")).expect("it is legal");
        (script.state.next_due(), script.state.expires_at())
    };
    let ask = "ask r.t0.a 2 yes until=1000\n";
    assert_eq!(due("").0, Some(Time(0)), "it runs");
    // It keeps its session, and the message that it took wakes nobody.
    assert_eq!(due(ask), (Some(Time(1_000)), None));
    assert_eq!(due(&format!("{ask}got a")).0, Some(Time(1_000)));
    assert_eq!(due(&format!("{ask}got b")).0, Some(Time(0)), "another's");
    assert_eq!(due(&format!("{ask}answer r.t0.a 2 yes")).0, Some(Time(0)));
    assert_eq!(due(&format!("{ask}stop r.t0.a")).0, Some(Time(0)));
    let caller =
        "open a\ngot a run=r until=700\nstart r.t0.a takes=2 messages\nask r.t0.a 0 until=1000";
    let state = Script::run(caller).expect("it is legal").state;
    assert_eq!(
        state.next_due(),
        Some(Time(700)),
        "its caller waits no longer"
    );
}

#[test]
fn time_put_aside_is_not_time_that_a_turn_ran() {
    let script = Script::run(&format!(
        "{ASKING}@300\nask r.t0.a 2 until=90000\n@80000\nanswer r.t0.a 2 yes\n@80100\nagain r.t0.a 2 answered\n"
    ));
    let state = script.expect("it is legal").state;
    let turn = &state.turns[&name::<TurnId>("r.t0.a")];
    assert_eq!(turn.ran_ms(), 300);
    assert_eq!(turn.ran_until_ms(Time(80_150)), 350);
    assert_eq!((turn.attempt, turn.questions, turn.is_aside), (2, 1, false));
}

/// A turn may be taken up as often as it asks, and is still given up when it takes the host down.
#[test]
fn to_be_answered_is_no_failed_attempt() {
    let mut text = ASKING.to_owned();
    for attempt in 2..60 {
        text += &format!(
            "ask r.t0.a {attempt} yes\nanswer r.t0.a {attempt} yes\nagain r.t0.a {attempt} answered\n"
        );
    }
    let poison = |lines: &str| {
        let script = Script::run(&format!("{text}{lines}")).expect("it is legal");
        script.state.turns[&name::<TurnId>("r.t0.a")].is_poison()
    };
    assert!(!poison(""));
    assert!(!poison("again r.t0.a 60"));
    assert!(poison("again r.t0.a 60\nagain r.t0.a 61"));
    assert!(!poison(
        "again r.t0.a 60\nagain r.t0.a 61\nask r.t0.a 60 yes"
    ));
}

/// Whoever was asked has seen it: a turn that fails after it is not made again.
#[test]
fn what_was_asked_was_shown() {
    let asked = "open a\nput x wakes=a\ngot a\nstart r.t0.a takes=3 messages slot:x\npull r.t0.a 0 takes=3\n\
        ask r.t0.a 1 yes\nanswer r.t0.a 1 yes\nagain r.t0.a 2 answered\nend r.t0.a failed * code=agent";
    let state = Script::run(asked).expect("it is legal").state;
    let agent = &state.participants[&name("a")];
    assert!(agent.pending.is_empty() && agent.watched.is_empty());
}
