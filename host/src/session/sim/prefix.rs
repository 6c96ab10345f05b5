//! The prefix law: a journal may end after any of its entries. Every prefix folds, and resuming
//! from it keeps what it holds and comes to the same visible end.

use std::collections::BTreeMap;

use super::laws::{check_answered, check_calls, check_repeatable, check_said};
use super::*;
use crate::journal::codec::{Frame, encode};
use crate::journal::entry::Cause;

/// One message each, so that a prefix lacks nothing that people would still send.
const SCRIPTS: &[&str] = &[
    "say one; say two; say three",
    "model some words come; say and; model more words come",
    "ask some words come; ask others; say done",
    "say so; model BUSY words after all; say end",
    "say so; model words CUT never; say end",
    "lock x; say writing; commit x text; read x; lock y; say held; free y",
    "lock x; ask question; commit x answer; read x; say done",
    "send b lock x,say got it,commit x theirs; lock y; sleep 50; commit y mine; read y",
    "say early; sleep 200; say late; wake 300",
    "lock x; commit x one; say seen; sleep 10; lock x; commit x two; say fine",
    "say before; hurry May I; say between; lock x; hurry Not now; commit x doc; hurry Again; say after",
    "leave; say it stays",
    "get page; say one; post page; get CUT; say two; get closed/page",
    "say shown; trap",
    "lock x; fail",
];

/// The whole journal of a conversation that nothing disturbs.
fn recorded(script: &str) -> Vec<Entry> {
    let disk = fresh();
    life(&disk, Time(0), async |world| {
        let post = format!("post a {script}");
        converse(world, &[&post, "answered"], &mut Outside::default()).await;
        world.quiet().await;
        world.stop_in_order().await;
        entries(&*world.store)
    })
}

/// A disk whose journal ends there.
pub(super) fn cut(entries: &[Entry]) -> Memory {
    let disk = fresh();
    let store = memory(&disk);
    let opened = store.open(&journal()).expect("it opens");
    let encoded: Vec<Encoded> = entries.iter().map(encode).collect();
    let append = Write::Append {
        journal: journal(),
        generation: opened.generation,
        expected: opened.tail,
        frame: Frame::of(&encoded),
    };
    Store::commit(
        &*store,
        crate::store::Commit {
            writes: vec![append],
            done: Box::new(|_| {}),
        },
    )
    .expect("it is queued");
    store.close();
    disk.power_loss()
}

/// What there is to see in the end: each turn's words and outcome by agent and cause, and the slots.
fn visible(entries: &[Entry]) -> BTreeMap<String, Vec<String>> {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut turns: BTreeMap<_, (String, String)> = BTreeMap::new();
    for entry in entries {
        match &entry.payload {
            Payload::TurnStarted(it) => {
                let causes: Vec<&Cause> = it.causes.iter().collect();
                let name = format!("{} for {causes:?}", it.agent);
                turns.insert(it.turn.clone(), (name, String::new()));
            }
            Payload::Spoke(it) => {
                let turn = turns.get_mut(&it.turn).expect("it started");
                turn.1.push_str(&it.text);
            }
            Payload::TurnEnded(it) => {
                let (name, text) = turns.remove(&it.turn).expect("it started");
                let code = it.error.as_ref().map(|error| error.code.name());
                let line = format!("{text:?} {} {code:?}", it.outcome.name());
                seen.entry(name).or_default().push(line);
            }
            _ => {}
        }
    }
    for (name, slot) in fold(entries).slots {
        let text = slot.document.map(|document| document.content);
        seen.insert(format!("slot {name}"), vec![format!("{text:?}")]);
    }
    seen
}

/// Whether a model's answer is under way there, or a request that may not be made twice: then the
/// other side's part of the rest is lost.
fn is_answering(entries: &[Entry]) -> bool {
    let open = fold(entries).turns.into_iter();
    let calls: Vec<(_, u32)> = open
        .flat_map(|(turn, open)| open.open_calls.into_keys().map(move |n| (turn.clone(), n)))
        .collect();
    entries.iter().any(|entry| match &entry.payload {
        Payload::Streamed(it) => calls.contains(&(it.turn.clone(), it.n)),
        Payload::Called(it) => {
            it.target.starts_with("POST ") && calls.contains(&(it.turn.clone(), it.n))
        }
        _ => false,
    })
}

#[test]
fn every_prefix_of_a_journal_comes_to_the_same_end() {
    for script in SCRIPTS {
        let whole = recorded(script);
        let end = visible(&whole);
        let posted = whole
            .iter()
            .position(|entry| matches!(entry.payload, Payload::MessageReceived(_)))
            .expect("it was posted");
        for length in posted + 1..=whole.len() {
            let prefix = &whole[..length];
            let disk = cut(prefix);
            let now = prefix[length - 1].time;
            let resumed = life(&disk, now.plus_ms(1), async |world| {
                drop(world.session().await);
                world.quiet().await;
                entries(&*world.store)
            });
            assert_eq!(&resumed[..length], prefix, "what is kept is kept");
            check_answered(&resumed);
            check_repeatable(&resumed);
            check_said(&resumed);
            check_calls(&resumed, &PROVIDER.with_borrow(Log::made));
            if !is_answering(prefix) {
                assert_eq!(
                    visible(&resumed),
                    end,
                    "{script}, cut after {length}:\n{}",
                    print(&resumed)
                );
            }
        }
    }
}
