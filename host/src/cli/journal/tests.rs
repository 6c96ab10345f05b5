//! Journals in, text out.

use antiphon::clock::Time;
use serde_json::{Value, json};

use super::super::event::Event;
use super::super::event::tests::conversation;
use super::super::term::Paint;
use super::story::Story;
use super::table::Table;

/// 2026-11-21T09:30:00Z.
const START: u64 = 1_795_253_400_000;
const TALK: &str = "run_1.t0.talker";
const THINK: &str = "run_1.t1.thinker";

/// An entry at a seq, so many milliseconds after the start.
fn entry(seq: u64, ms: u64, kind: &str, mut fields: Value) -> Event {
    fields["offset"] = format!("{seq:016}_{:016}", 0).into();
    fields["time"] = Time(START + ms).to_rfc3339().into();
    fields["kind"] = kind.into();
    Event::parse(&fields.to_string()).expect("an entry")
}

fn told(entries: &[Event], table: Table) -> String {
    let mut story = Story::default();
    let mut lines: Vec<_> = entries.iter().flat_map(|entry| story.next(entry)).collect();
    lines.extend(story.finish());
    table.text(&lines)
}

#[track_caller]
fn check(entries: &[Event], expect: &str) {
    let text = told(entries, Table::new(Paint::off(), None, false));
    assert_eq!(text, expect.trim_start_matches('\n'), "\n{text}");
}

fn opening() -> Vec<Event> {
    vec![
        entry(
            1,
            0,
            "session-opened",
            json!({"agents": ["talker", "thinker"], "entry": "talker"}),
        ),
        entry(
            2,
            4,
            "message-received",
            json!({"message": "s:2", "author": "ana", "to": "talker", "body": "Why is\nthe sky blue?"}),
        ),
        entry(
            3,
            5,
            "turn-started",
            json!({"turn": TALK, "run": "run_1", "agent": "talker", "inputs": ["s:2"], "causes": ["messages"], "attempt": 1, "private": {"component": "ab", "version": 7}}),
        ),
    ]
}

#[test]
fn a_turn_is_told_with_its_calls_and_how_long_they_took() {
    let mut entries = opening();
    entries.extend([
        entry(4, 5, "observed", json!({"turn": TALK, "n": 0, "call": "mailbox-pulled", "messages": ["s:2"]})),
        entry(5, 6, "message-sent", json!({"message": "s:5", "from": "talker", "to": "thinker", "body": {"ask": 1}, "turn": TALK, "n": 1})),
        entry(6, 7, "turn-started", json!({"turn": THINK, "run": "run_1", "agent": "thinker", "inputs": ["s:5"], "causes": ["messages"], "attempt": 1})),
        entry(7, 8, "called", json!({"turn": TALK, "n": 2, "call": "model", "request": "00", "target": "default"})),
        entry(8, 9, "slot-locked", json!({"turn": THINK, "n": 1, "slot": "analysis"})),
        entry(9, 300, "streamed", json!({"turn": TALK, "n": 2, "pieces": [{"text": "Give me "}]})),
        entry(10, 301, "spoke", json!({"turn": TALK, "agent": "talker", "text": "Give me ", "at": 0})),
        entry(11, 900, "streamed", json!({"turn": TALK, "n": 2, "pieces": [{"text": "a moment."}, {"tool-call": {"id": "c", "name": "weather", "arguments": "{}"}}]})),
        entry(12, 901, "spoke", json!({"turn": TALK, "agent": "talker", "text": "a moment.", "at": 8})),
        entry(13, 905, "returned", json!({"turn": TALK, "n": 2, "result": "ok", "usage": {"model_calls": 1, "input_tokens": 5, "output_tokens": 7}, "attempts": 2})),
        entry(14, 910, "message-received", json!({"message": "s:14", "author": "ana", "to": "talker", "body": "And?", "private": {"invoked": true}})),
        entry(15, 1_600, "turn-ended", json!({"turn": TALK, "agent": "talker", "outcome": "completed", "usage": {"model_calls": 1, "input_tokens": 5, "output_tokens": 7}, "inputs": [{"message": "s:2", "fate": "consumed"}]})),
        entry(16, 1_601, "turn-started", json!({"turn": "run_2.t0.talker", "run": "run_2", "agent": "talker", "inputs": ["s:14"], "causes": ["messages"], "attempt": 1})),
        entry(17, 1_602, "observed", json!({"turn": "run_2.t0.talker", "n": 0, "call": "slot-refused", "slot": "analysis", "error": "held", "holder": THINK})),
        entry(18, 1_603, "called", json!({"turn": "run_2.t0.talker", "n": 1, "call": "timer", "request": "00", "target": "500"})),
        entry(19, 2_103, "returned", json!({"turn": "run_2.t0.talker", "n": 1, "result": "ok", "usage": {}, "attempts": 1})),
        entry(20, 2_109, "slot-committed", json!({"slot": "analysis", "version": 20, "by": {"agent": "thinker"}, "bytes": 312, "turn": THINK, "n": 4})),
        entry(21, 2_110, "turn-ended", json!({"turn": "run_2.t0.talker", "agent": "talker", "outcome": "interrupted", "usage": {}, "inputs": [{"message": "s:14", "fate": "consumed"}]})),
        entry(22, 2_111, "turn-ended", json!({"turn": THINK, "agent": "thinker", "outcome": "completed", "usage": {}, "inputs": [{"message": "s:5", "fate": "consumed"}], "wake_at": START + 60_000})),
    ]);
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     ana        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; version 7; run_1.t0.talker
     4  09:30:00.005  ├  talker     observed            pulls #2
     5  09:30:00.006  ├  talker     message-sent        to thinker: {"ask":1}
     6  09:30:00.007  │┌ thinker    turn-started        begins: 1 message (#5); waited 1 ms; run_1.t1.thinker
     7  09:30:00.008  ├│ talker     called              asks model default (call 2)
     8  09:30:00.009  │├ thinker    slot-locked         locks slot analysis
    12  09:30:00.301  ├│ talker     spoke               Give me a moment.
    13  09:30:00.905  ├│ talker     returned            model default answered after 897 ms, first piece after 292 ms; calls weather; 5 tokens in, 7 out; 2 attempts
    14  09:30:00.910  ││ ana        message-received    to talker, who is at work, and waits for the answer: And?
    15  09:30:01.600  └│ talker     turn-ended          turn 3 completed after 1.5 s; first word after 296 ms; 1 model call of 897 ms; 5 tokens in, 7 out
    16  09:30:01.601  ┌│ talker     turn-started        begins: 1 message (#14); waited 691 ms, while turn 3 ran; run_2.t0.talker
    17  09:30:01.602  ├│ talker     observed            does not get the lock of analysis: thinker's turn 6 has held it for 1.5 s
    18  09:30:01.603  ├│ talker     called              waits for a timer of 500 ms (call 1)
    19  09:30:02.103  ├│ talker     returned            a timer of 500 ms is over after 500 ms
    20  09:30:02.109  │├ thinker    slot-committed      writes slot analysis: version 20, 312 B; held the lock for 2.1 s
    21  09:30:02.110  └│ talker     turn-ended          turn 16 interrupted after 509 ms; slept 500 ms
    22  09:30:02.111   └ thinker    turn-ended          turn 6 completed after 2.1 s; wants to be woken at 09:31:00.000
"#,
    );
}

#[test]
fn requests_are_told_with_what_they_brought() {
    let mut entries = opening();
    let body = json!({"text": "{\"a\":1}"});
    let stored = json!({"digest": "00", "bytes": 204_800});
    let headers = json!([["date", "x"], ["content-type", "application/json"]]);
    entries.extend([
        entry(4, 10, "called", json!({"turn": TALK, "n": 0, "call": "http", "request": "00", "target": "GET https://a.example/v1/x"})),
        entry(5, 210, "returned", json!({"turn": TALK, "n": 0, "result": "ok", "usage": {}, "attempts": 1, "answered": {"status": 200, "headers": headers, "body": body}})),
        entry(6, 211, "called", json!({"turn": TALK, "n": 1, "call": "http", "request": "00", "target": "GET https://a.example/v1/y"})),
        entry(7, 212, "retried", json!({"turn": TALK, "n": 1, "attempt": 2, "reason": "host-lost"})),
        entry(8, 311, "returned", json!({"turn": TALK, "n": 1, "result": "ok", "usage": {}, "attempts": 2, "answered": {"status": 404, "headers": [], "body": stored}})),
        entry(9, 312, "called", json!({"turn": TALK, "n": 2, "call": "http", "request": "00", "target": "POST https://b.example/"})),
        entry(10, 312, "returned", json!({"turn": TALK, "n": 2, "result": "failed", "error": "refused", "status": 0, "detail": "no rule allows it", "usage": {}, "attempts": 0})),
        entry(11, 400, "turn-ended", json!({"turn": TALK, "agent": "talker", "outcome": "completed", "usage": {}, "inputs": [{"message": "s:2", "fate": "consumed"}]})),
    ]);
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     ana        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; version 7; run_1.t0.talker
     4  09:30:00.010  ├  talker     called              requests GET https://a.example/v1/x (call 0)
     5  09:30:00.210  ├  talker     returned            GET https://a.example/v1/x answered after 200 ms; 200, 7 B of application/json
     6  09:30:00.211  ├  talker     called              requests GET https://a.example/v1/y (call 1)
     7  09:30:00.212  ├  talker     retried             GET https://a.example/v1/y is tried again (call 1), attempt 2: the host was lost
     8  09:30:00.311  ├  talker     returned            GET https://a.example/v1/y answered after 100 ms; 404, 200 KiB; 2 attempts
     9  09:30:00.312  ├  talker     called              requests POST https://b.example/ (call 2)
    10  09:30:00.312  ├  talker     returned            POST https://b.example/ failed after 0 ms; refused: no rule allows it
    11  09:30:00.400  └  talker     turn-ended          turn 3 completed after 395 ms; 300 ms in requests
"#,
    );
}

#[test]
fn what_was_said_before_is_told_as_such() {
    let entries = [
        entry(
            1,
            0,
            "session-opened",
            json!({"agents": ["talker"], "entry": "talker"}),
        ),
        entry(
            2,
            0,
            "recounted",
            json!({"by": {"author": "ana"}, "text": "Is it blue?"}),
        ),
        entry(
            3,
            0,
            "recounted",
            json!({"by": {"agent": "talker"}, "text": "It is."}),
        ),
    ];
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000               session-opened      opens with talker; messages go to talker
     2  09:30:00.000    ana        recounted           said before: Is it blue?
     3  09:30:00.000    talker     recounted           said before: It is.
"#,
    );
}

#[test]
fn silence_retries_and_what_is_left_open_can_be_seen() {
    let mut entries = opening();
    entries.extend([
        entry(4, 6, "slot-locked", json!({"turn": TALK, "n": 0, "slot": "plan"})),
        entry(5, 7, "called", json!({"turn": TALK, "n": 1, "call": "model", "request": "00", "target": "default"})),
        entry(6, 192_007, "retried", json!({"turn": TALK, "n": 1, "attempt": 2, "reason": "the provider answered 503"})),
        entry(7, 192_010, "returned", json!({"turn": TALK, "n": 1, "result": "failed", "error": "provider", "status": 503, "detail": "busy", "usage": {}, "attempts": 2})),
        entry(8, 200_000, "slot-released", json!({"turn": TALK, "slot": "plan", "reason": "host-lost"})),
        entry(9, 200_001, "retried", json!({"turn": TALK, "attempt": 2, "reason": "host-lost"})),
        entry(10, 200_002, "slot-locked", json!({"turn": TALK, "slot": "plan", "retaken": true})),
        entry(11, 200_003, "turn-ended", json!({"turn": TALK, "agent": "talker", "outcome": "failed", "error": {"code": "trap", "message": "unreachable"}, "usage": {}, "inputs": [{"message": "s:2", "fate": "returned"}]})),
        entry(12, 201_003, "turn-started", json!({"turn": "run_2.t0.talker", "run": "run_2", "agent": "talker", "inputs": ["s:2"], "causes": ["messages"], "attempt": 1})),
        entry(13, 201_004, "turn-ended", json!({"turn": "run_2.t0.talker", "agent": "talker", "outcome": "failed", "error": {"code": "trap", "message": "unreachable"}, "usage": {}, "inputs": []})),
        entry(14, 201_004, "message-set-aside", json!({"message": "s:2", "agent": "talker", "reason": "delivered too often", "deliveries": 3})),
        entry(15, 201_005, "agent-suspended", json!({"agent": "talker", "reason": "it failed 5 times in a minute"})),
        entry(16, 201_006, "message-received", json!({"message": "s:16", "author": "ana", "to": "talker", "body": "Hello?"})),
        entry(17, 86_400_000, "agent-resumed", json!({"agent": "talker", "by": "ops"})),
        entry(18, 86_400_001, "session-forked", json!({"from": "s-1", "at": "0000000000000017_0000000000000000"})),
        entry(19, 86_400_001, "turn-started", json!({"turn": "run_3.t0.talker", "run": "run_3", "agent": "talker", "inputs": ["s:16"], "causes": [{"slot": "plan"}, "messages"], "attempt": 2})),
        entry(20, 86_400_002, "slot-locked", json!({"turn": "run_3.t0.talker", "n": 1, "slot": "plan"})),
        entry(21, 86_400_003, "called", json!({"turn": "run_3.t0.talker", "n": 2, "call": "model", "request": "00", "target": "fast"})),
        entry(22, 86_400_004, "message-received", json!({"message": "s:22", "author": "ana", "to": "talker", "body": "Still there?"})),
    ]);
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     ana        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; version 7; run_1.t0.talker
     4  09:30:00.006  ├  talker     slot-locked         locks slot plan
     5  09:30:00.007  ├  talker     called              asks model default (call 1)
                      │  ··· 3 min 12 s of silence; talker waits for model default
     6  09:33:12.007  ├  talker     retried             model default is tried again (call 1), attempt 2: the provider answered 503
     7  09:33:12.010  ├  talker     returned            model default failed after 3 min 12 s; provider (503): busy; 2 attempts
     8  09:33:20.000  ├  talker     slot-released       loses the lock of plan: the host was lost; held it for 3 min 19 s
     9  09:33:20.001  ├  talker     retried             the turn is taken up again, attempt 2: the host was lost
    10  09:33:20.002  ├  talker     slot-locked         locks slot plan again: nobody wrote it in between
    11  09:33:20.003  └  talker     turn-ended          turn 3 failed after 3 min 19 s; trap: unreachable; slot plan is free after 1 ms, not written; #2 given back
    12  09:33:21.003  ┌  talker     turn-started        begins: 1 message (#2); again after 1.0 s; run_2.t0.talker
    13  09:33:21.004  └  talker     turn-ended          turn 12 failed after 1 ms; trap: unreachable
    14  09:33:21.004     talker     message-set-aside   #2 is set aside after 3 turns: delivered too often
    15  09:33:21.005     talker     agent-suspended     gets no more turns: it failed 5 times in a minute
    16  09:33:21.006     ana        message-received    to talker: Hello?
                         ··· 23 h 56 min of silence
        2026-11-22 UTC
    17  09:30:00.000     talker     agent-resumed       gets turns again, says ops
    18  09:30:00.001                session-forked      a copy of s-1 as it was at 17
    19  09:30:00.001  ┌  talker     turn-started        begins: slot plan was written, 1 message (#16); waited 23 h 56 min; attempt 2; run_3.t0.talker
    20  09:30:00.002  ├  talker     slot-locked         locks slot plan
    21  09:30:00.003  ├  talker     called              asks model fast (call 2)
    22  09:30:00.004  │  ana        message-received    to talker, who is at work: Still there?
        still open
        talker: turn 19 since 09:30:00.001; waits for model fast since 09:30:00.003 (call 2); nothing said yet
        slot plan: locked by talker's turn 19 since 09:30:00.002
        talker: 1 message waiting since 09:30:00.004
"#,
    );
}

#[test]
fn whoever_interrupts_by_speaking_and_whoever_waits_for_something_is_told() {
    let mut entries = opening();
    entries.extend([
        entry(4, 6, "message-received", json!({"message": "s:4", "author": "ana", "to": "talker", "body": "No, wait."})),
        entry(5, 6, "interrupt-requested", json!({"turn": TALK, "agent": "talker", "by": "ana", "message": "s:4"})),
        entry(6, 6, "turn-ended", json!({"turn": TALK, "agent": "talker", "outcome": "interrupted", "usage": {}, "inputs": [{"message": "s:2", "fate": "consumed"}]})),
        entry(7, 7, "agent-suspended", json!({"agent": "talker", "reason": "the slot `plan` is locked", "until_ready": true})),
        entry(8, 907, "agent-resumed", json!({"agent": "talker"})),
    ]);
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     ana        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; version 7; run_1.t0.talker
     4  09:30:00.006  │  ana        message-received    to talker, who is at work: No, wait.
     5  09:30:00.006  ├  ana        interrupt-requested stops talker with #4
     6  09:30:00.006  └  talker     turn-ended          turn 3 interrupted after 1 ms
     7  09:30:00.007     talker     agent-suspended     waits: the slot `plan` is locked
     8  09:30:00.907     talker     agent-resumed       gets turns again
        still open
        talker: 1 message waiting since 09:30:00.006
"#,
    );
}

#[test]
fn what_is_new_is_shown_as_it_is() {
    let entries = [
        entry(1, 0, "new-kind", json!({"what": "ever", "turn": TALK})),
        entry(
            2,
            1,
            "retried",
            json!({"turn": TALK, "attempt": 2, "reason": "bored", "cost": 3}),
        ),
        entry(
            3,
            2,
            "observed",
            json!({"turn": TALK, "n": 3, "call": "stars", "seen": 7}),
        ),
        entry(
            4,
            3,
            "returned",
            json!({"turn": TALK, "n": 9, "result": "ok", "usage": {"cached": 4}, "attempts": 1}),
        ),
        entry(5, 4, "turn-started", json!({"turn": 5, "inputs": "none"})),
        entry(6, 5, "spoke", json!({})),
    ];
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000    talker     new-kind            {"what":"ever"}
     2  09:30:00.001    talker     retried             the turn is taken up again, attempt 2: bored {"cost":3}
     3  09:30:00.002    talker     observed            stars {"seen":7}
     4  09:30:00.003    talker     returned            a call answered; {"cached":4}
     5  09:30:00.004  ┌            turn-started        begins: {"inputs":"none","turn":5}
     6  09:30:00.005  │            spoke
        still open
        : turn 5 since 09:30:00.004; nothing said yet
"#,
    );
    // Whatever an entry holds, it is a line and no panic.
    for kind in antiphon::journal::entry::Kind::ALL.map(|kind| kind.name()) {
        for fields in [
            json!({}),
            json!({"turn": {}, "n": "x", "pieces": 1, "inputs": [1, {}]}),
        ] {
            let text = told(
                &[entry(1, 0, kind, fields)],
                Table::new(Paint::off(), Some(200), true),
            );
            assert!(text.contains(kind), "{text}");
        }
    }
}

/// A journal whose beginning is gone, or of a server that leaves a field out.
#[test]
fn every_part_of_a_journal_can_be_told() {
    let whole = conversation();
    for start in 0..whole.len() {
        let text = told(&whole[start..], Table::new(Paint::off(), None, true));
        assert!(text.lines().count() > whole.len() - start, "{text}");
    }
    for (n, event) in whole.iter().enumerate() {
        let fields: Value = serde_json::from_str(&event.raw).expect("JSON");
        for name in fields.as_object().expect("an object").keys() {
            let mut fields = fields.clone();
            fields.as_object_mut().expect("an object").remove(name);
            let Some(changed) = Event::parse(&fields.to_string()) else {
                assert!(["offset", "kind"].contains(&name.as_str()), "{name}");
                continue;
            };
            let mut events = whole.clone();
            events[n] = changed;
            let text = told(&events, Table::new(Paint::off(), Some(200), false));
            let lines = text.lines().count();
            assert!(lines >= whole.len(), "without {name}: {text}");
        }
    }
}

#[test]
fn a_terminal_cuts_lines_and_everything_wraps_them() {
    let mut entries = opening();
    entries.truncate(2);
    entries[1] = entry(
        2,
        4,
        "message-received",
        json!({"message": "s:2", "author": "ana", "to": "talker", "body": "one two three four five six seven eight\nnine \u{1b}[2J", "private": {"idempotency": "ab"}}),
    );
    let narrow = told(&entries, Table::new(Paint::off(), Some(80), false));
    assert_eq!(
        narrow,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                opens with talker, thinker; messages go to…
     2  09:30:00.004     ana        to talker: one two three four five six seve…
        still open
        talker: 1 message waiting since 09:30:00.004
"#
        .trim_start_matches('\n'),
        "\n{narrow}"
    );
    let full = told(&entries, Table::new(Paint::off(), Some(80), true));
    assert_eq!(
        full,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                opens with talker, thinker; messages go to
                                    talker
     2  09:30:00.004     ana        to talker: one two three four five six seven
                                    eight
                                    nine �[2J
                           private {"idempotency":"ab"}
        still open
        talker: 1 message waiting since 09:30:00.004
"#
        .trim_start_matches('\n'),
        "\n{full}"
    );
}

/// Without the kinds that need scope `inspect` the same fold tells less.
#[test]
fn events_alone_are_a_story_too() {
    check(
        &conversation(),
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     you        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; run_1.t1.talker
     4  09:30:00.006  ├  talker     message-sent        to thinker: {"ask":1}
     8  09:30:00.300  ├  talker     spoke               Give me a moment.
     9  09:30:01.600  └  talker     turn-ended          turn 3 completed after 1.5 s; first word after 295 ms; 1 model call; 5 tokens in, 7 out
                         ··· 1 min of silence
    12  09:31:02.000     thinker    slot-committed      writes slot analysis: version 12, 312 B
    13  09:31:02.000  ┌  talker     turn-started        begins: slot analysis was written; attempt 2; run_2.t1.talker
    14  09:31:02.001  └  talker     turn-ended          turn 13 failed after 1 ms; trap: unreachable
    15  09:31:02.001                new-kind            {"what":"ever"}
        still open
        thinker: 1 message waiting since 09:30:00.006
"#,
    );
}

#[test]
fn a_question_is_told_with_its_answer_and_how_long_people_took() {
    let mut entries = opening();
    entries.extend([
        entry(4, 10, "observed", json!({"turn": TALK, "n": 0, "call": "question-refused", "error": "held-lock"})),
        entry(5, 20, "asked", json!({"question": 5, "turn": TALK, "agent": "talker", "n": 1, "text": "Send it?", "choices": ["yes", "no"], "until": START + 86_400_000})),
        entry(6, 20, "spoke", json!({"turn": THINK, "agent": "thinker", "text": "hm", "at": 0})),
        entry(7, 3_620_020, "answered", json!({"question": 5, "turn": TALK, "agent": "talker", "n": 1, "result": "answered", "text": "yes", "by": "ben", "note": "at once"})),
        entry(8, 3_620_021, "retried", json!({"turn": TALK, "attempt": 2, "reason": "answered"})),
        entry(9, 3_620_030, "asked", json!({"question": 9, "turn": TALK, "agent": "talker", "n": 2, "text": "To whom?", "until": START + 3_621_030})),
        entry(10, 3_621_030, "answered", json!({"question": 9, "turn": TALK, "agent": "talker", "n": 2, "result": "expired"})),
        entry(11, 3_621_040, "asked", json!({"question": 11, "turn": TALK, "agent": "talker", "n": 3, "text": "So?", "until": START + 3_700_000})),
    ]);
    check(
        &entries,
        r#"
        2026-11-21 UTC
     1  09:30:00.000                session-opened      opens with talker, thinker; messages go to talker
     2  09:30:00.004     ana        message-received    to talker: Why is the sky blue?
     3  09:30:00.005  ┌  talker     turn-started        begins: 1 message (#2); waited 1 ms; version 7; run_1.t0.talker
     4  09:30:00.010  ├  talker     observed            cannot ask people: held-lock
     5  09:30:00.020  ├  talker     asked               asks: Send it?; one of yes, no; waits until 2026-11-22T09:30:00.000Z
     6  09:30:00.020  │  thinker    spoke               hm
                      │  ··· 1 h of silence; talker waits for an answer to #5
     7  10:30:20.020  ├  ben        answered            answers #5 of talker after 1 h: yes; and says: at once
     8  10:30:20.021  ├  talker     retried             the turn is taken up again, attempt 2: it was answered
     9  10:30:20.030  ├  talker     asked               asks: To whom?; waits until 10:30:21.030
    10  10:30:21.030  ├  talker     answered            nobody answered #9 after 1.0 s
    11  10:30:21.040  ├  talker     asked               asks: So?; waits until 10:31:40.000
        still open
        talker: turn 3 since 09:30:00.005; waits for an answer to #11 since 10:30:21.040 (call 3); nothing said yet
"#,
    );
}
