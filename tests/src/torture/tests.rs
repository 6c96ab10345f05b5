//! A short run of the torture; and the laws themselves: each finds what breaks it.

use serde_json::{Value, json};

use super::book::Book;
use super::client::Acknowledged;
use super::provider::Asked;
use super::{Options, laws, run, script};

/// Short, and drawn once and for all; `cargo bench -p antiphon-tests --bench torture`
/// does the same for as long as one likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_break_no_law() {
    let summary = run(&Options { kills: 5, seed: 5 }).await;
    let summary = summary.unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(summary.words > 100 && summary.commits > 5, "{summary}");
}

/// A journal of one turn that asks a model and says the answer, then these entries.
fn book(more: &[Value]) -> Book {
    let body = json!([{"say": "so "}, {"work": {"slot": "plan", "question": "q", "document": "d ", "times": 2}}]);
    let turn = "r.t0.left";
    let request = "0".repeat(64);
    let mut entries = vec![
        json!({"kind": "session-opened"}),
        json!({"kind": "message-received", "message": "s:2", "author": "ana", "to": "left", "body": body}),
        json!({"kind": "turn-started", "turn": turn, "agent": "left", "inputs": ["s:2"]}),
        json!({"kind": "spoke", "turn": turn, "at": 0, "text": "so "}),
        json!({"kind": "slot-locked", "turn": turn, "slot": "plan", "n": 0}),
        json!({"kind": "called", "turn": turn, "n": 1, "target": "default", "request": request}),
        json!({"kind": "streamed", "turn": turn, "n": 1, "pieces": [{"text": "ka.1.0 "}]}),
    ];
    entries.extend_from_slice(more);
    let mut book = Book::new("s");
    for (at, mut entry) in entries.into_iter().enumerate() {
        entry["offset"] = json!(format!("{:016}_{:016}", at + 1, 0));
        entry["time"] = json!(format!("2026-01-01T00:00:{:02}.000Z", at + 1));
        book.take(entry);
    }
    book
}

fn of_turn(kind: &str, mut fields: Value) -> Value {
    fields["kind"] = json!(kind);
    fields["turn"] = json!("r.t0.left");
    fields
}

fn returned() -> Value {
    of_turn("returned", json!({"n": 1, "result": "ok"}))
}

fn whole() -> Vec<Value> {
    vec![
        returned(),
        of_turn("spoke", json!({"at": 3, "text": "ka.1.0 "})),
        of_turn("slot-committed", json!({"slot": "plan", "n": 2})),
        of_turn("spoke", json!({"at": 10, "text": "[committed]"})),
        of_turn(
            "turn-ended",
            json!({"outcome": "completed", "inputs": [{"message": "s:2", "fate": "consumed"}]}),
        ),
    ]
}

/// What all laws that look at a journal alone find in it.
fn found(more: &[Value]) -> Vec<String> {
    let mut book = book(more);
    let mut wrong = std::mem::take(&mut book.broken);
    laws::messages_are_consumed_once(&book, false, &mut wrong);
    laws::words_are_said_once(&book, &mut wrong);
    laws::turns_outlive_the_host(&book, &mut wrong);
    wrong
}

#[test]
fn nothing_is_wrong_with_a_turn_that_does_what_it_is_asked() {
    for entries in 0..=whole().len() {
        assert_eq!(found(&whole()[..entries]), [""; 0], "{entries} entries");
    }
}

#[test]
fn what_breaks_a_law_in_a_journal_is_found() {
    let spoke = |at: u64, text: &str| of_turn("spoke", json!({"at": at, "text": text}));
    let failed = |code: &str| {
        let fates = json!([{"message": "s:2", "fate": "consumed"}]);
        of_turn(
            "turn-ended",
            json!({"outcome": "failed", "error": {"code": code}, "inputs": fates}),
        )
    };
    let interrupt = of_turn("interrupt-requested", json!({}));
    let after_the_end = [whole(), vec![spoke(21, "more")]].concat();
    let broken: [(&str, Vec<Value>); 9] = [
        (
            "a word twice",
            vec![spoke(3, "ka.1.0 "), spoke(10, "ka.1.0 ")],
        ),
        ("a gap", vec![spoke(4, "ka.1.0 ")]),
        ("words that nobody answered", vec![spoke(3, "kb.1.0 ")]),
        (
            "words after an interruption",
            vec![interrupt, spoke(3, "ka.1.0 ")],
        ),
        ("words after the end", after_the_end),
        ("two returns", vec![returned(), returned()]),
        (
            "two holders",
            vec![of_turn("slot-locked", json!({"slot": "plan", "n": 2}))],
        ),
        ("a lost turn", vec![failed("host-lost")]),
        ("poison after progress", vec![failed("poison")]),
    ];
    for (what, entries) in broken {
        assert!(!found(&entries).is_empty(), "{what}");
    }
    let mut unfinished = whole();
    unfinished.remove(1);
    assert!(!found(&unfinished).is_empty(), "an answer that is not said");
}

#[test]
fn words_of_two_attempts_are_not_one_answer() {
    assert_eq!(script::words_once("ka.1.0 ka.1.1 kb.2.0 "), Ok(3));
    for text in [
        "ka.1.0 ka.1.2 ",
        "ka.1.1 ",
        "ka.1.0 ka.2.1 ",
        "ka.1.0 ka.2.0 ",
        "ka.1.0 ka.1.0 ",
    ] {
        assert!(script::words_once(text).is_err(), "{text}");
    }
}

#[test]
fn what_was_promised_and_is_not_there_is_found() {
    let book = book(&whole());
    let found = |promise: Acknowledged| {
        let mut wrong = Vec::new();
        laws::promises_are_kept(&book, &[promise], &mut wrong);
        wrong.len()
    };
    let body = book.messages["s:2"].body.clone();
    let promise = |id: &str, body: Value| Acknowledged {
        session: "s".to_owned(),
        offset: 2,
        message: Some((id.to_owned(), body)),
    };
    assert_eq!(found(promise("s:2", body.clone())), 0);
    assert_eq!(found(promise("s:9", body)), 1, "it is missing");
    assert_eq!(found(promise("s:2", json!("x"))), 1, "it is another one");
    let interruption = Acknowledged {
        message: None,
        offset: 12,
        ..promise("", Value::Null)
    };
    assert_eq!(found(interruption), 1, "the turn ended otherwise");
}

#[test]
fn what_was_shown_otherwise_is_found() {
    let book = book(&whole());
    let found = |shown: &[Value]| {
        let mut wrong = Vec::new();
        laws::shown_is_kept(&book, "somebody", 0, shown, &mut wrong);
        wrong.len()
    };
    let mut shown = book.events.clone();
    assert_eq!(found(&shown), 0);
    shown[3]["text"] = json!("no ");
    assert_eq!(found(&shown), 1);
    assert!(found(&book.events[1..]) > 0, "one was left out");
}

#[test]
fn calls_that_are_made_again_are_found() {
    let book = book(&whole());
    let keys = laws::Keys::of([&book].into_iter());
    let key = keys.first().expect("there is a call").to_owned();
    let asked = |second: u32, answer: &str| Asked {
        key: key.clone(),
        at: format!("2026-01-01T00:00:{second:02}.500Z"),
        answer: answer.to_owned(),
        own_words: Vec::new(),
        last_question: "q".to_owned(),
    };
    let found = |asked: &[Asked]| {
        let mut wrong = Vec::new();
        laws::calls_are_made_once(&keys, asked, &mut wrong);
        laws::answers_are_kept(&keys, asked, &mut wrong);
        wrong.len()
    };
    // The call is entry 6, its return entry 8.
    assert_eq!(found(&[asked(6, "ka.1.0 ")]), 0);
    assert_eq!(
        found(&[asked(5, "ka.1.0 ")]),
        1,
        "before it was written down"
    );
    assert_eq!(
        found(&[asked(6, "ka.1.0 ka.1.1 ")]),
        1,
        "a part is taken for the whole"
    );
    assert_eq!(found(&[asked(6, "kb.1.0 ")]), 1, "another answer");
    assert_eq!(
        found(&[asked(6, ""), asked(7, "ka.1.0 ")]),
        1,
        "not declared"
    );
    let after = [asked(6, "ka.1.0 "), asked(9, "ka.1.0 ")];
    assert_eq!(found(&after), 2, "not declared, and after its return");
}

#[test]
fn locks_and_documents_that_may_not_be_are_found() {
    let book = book(&whole());
    let found = |slot: Value| {
        let mut wrong = Vec::new();
        let ended = ["r.t0.left".to_owned()].into();
        laws::locks_die_with_their_turns(&book, &[slot], &ended, false, &mut wrong);
        wrong.len()
    };
    let slot = json!({"slot": "plan", "version": 10, "content": "d d ", "locked_by": null});
    let with = |name: &str, value: Value| {
        let mut slot = slot.clone();
        slot[name] = value;
        slot
    };
    assert_eq!(found(slot.clone()), 0);
    assert_eq!(found(with("locked_by", json!("r.t0.left"))), 1);
    assert_eq!(found(with("content", json!("d "))), 1, "half of it");
    assert_eq!(found(with("version", json!(9))), 1);
}
