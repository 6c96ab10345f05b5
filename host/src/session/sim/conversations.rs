//! Conversations that crash: whoever spoke has spoken once, and the rest follows as if nothing had been.

use serde_json::json;

use super::crash::{Crash, survives_on};
use super::laws::{check_answered, check_calls, check_kept, check_repeatable, check_resumed};
use super::nested::{all_quiet, children, words};
use super::*;
use crate::id::TurnId;
use crate::journal::codec::encode;
use crate::journal::entry::{Halt, TurnEnded};
use crate::runtime::conversation::definition::Definition;
use crate::runtime::random::Seeds;
use crate::session::replay::{self, Case};

/// A disk on which the agent `a` is a conversation of these participants, all of them remote, and
/// `b` a script.
fn deployed_conversation(fields: &str) -> Memory {
    let mut json: serde_json::Value = serde_json::from_str(fields).expect("JSON");
    json["participants"] = json!([remote("Ada"), remote("Bo")]);
    deploy_conversation(&json)
}

fn remote(name: &str) -> serde_json::Value {
    json!({"name": name, "url": "http://127.0.0.1:9/v1", "model": "m"})
}

fn deploy_conversation(json: &serde_json::Value) -> Memory {
    let disk = fresh();
    let definition = Definition::parse(json.to_string().as_bytes()).expect("it is valid");
    let digest = stored(&definition.bytes());
    let mut deployment = Deployment::default();
    let config = AgentConfig::default();
    deployment.put_config(Arc::new(config), Time(0), 10);
    deployment.put_conversation(digest, Time(0), 10);
    let store = memory(&disk);
    let key = RecordKey {
        tenant: Some(tenant()),
        space: RecordSpace::Agent,
        name: "a".into(),
    };
    let bytes = deployment.bytes();
    let commit = crate::store::Commit {
        writes: vec![Write::Record { key, bytes }],
        done: Box::new(|_| {}),
    };
    Store::commit(&*store, commit).expect("it is queued");
    store.close();
    disk.power_loss()
}

/// As [`Components`] keeps it. Other tests open the folder meanwhile, which removes what is half-written.
fn stored(bytes: &[u8]) -> Digest {
    drop(components());
    let (digest, folder) = (Digest::of(bytes), std::env::temp_dir().join("antiphon-sim"));
    let thread = format!("{:?}", std::thread::current().id());
    let written = folder.join(format!("{digest}.{thread}"));
    std::fs::write(&written, bytes).expect("it is written");
    std::fs::rename(written, folder.join(format!("{digest}.wasm"))).expect("it is renamed");
    digest
}

const FOUR: &str = r#"{"max_turns":4}"#;

/// What participants say that repeat what they were told last: the provider does.
fn turns(seed: &str, count: usize) -> Vec<(&'static str, String)> {
    let words = seed.split_inclusive(' ');
    let words = words.filter(|word| !["BUSY", "SLOW", "CUT"].contains(&word.trim()));
    let mut last: String = words.collect();
    let mut turns: Vec<(&str, String)> = Vec::new();
    for index in 0..count {
        if let Some((name, text)) = turns.last() {
            last = format!("[{name}] {}", text.trim());
        }
        turns.push((["Ada", "Bo"][index % 2], last.clone()));
    }
    turns
}

fn reply(turns: &[(&str, String)]) -> String {
    let lines = turns
        .iter()
        .map(|(name, text)| format!("[{name}] {text}\n"));
    lines.collect()
}

/// Every conversation that came to its end said each turn once, in order, all of its words, and wrote down
/// one beginning and one end of it.
fn check_turns(seed: &str, count: usize, stored: &[Entry]) {
    let expect = turns(seed, count);
    let of = |turn: &TurnId| {
        let mine = stored
            .iter()
            .filter(|entry| entry.payload.made_by() == Some(turn));
        let (mut text, mut voiced, mut steps) = (String::new(), String::new(), Vec::new());
        for entry in mine {
            match &entry.payload {
                Payload::Spoke(it) => {
                    text.push_str(&it.text);
                    if it.speaker.is_some() {
                        voiced.push_str(&it.text);
                    }
                }
                Payload::SpeakerStarted(it) => {
                    assert_eq!(it.speaker_turn.as_str(), {
                        let slug = it.speaker.to_lowercase();
                        format!("{}.t{}.{slug}", turn.run(), it.index)
                    });
                    steps.push(format!("{} begins", it.speaker));
                }
                Payload::SpeakerEnded(it) => {
                    assert!(it.ended_at >= it.started_at && it.attempts > 0, "{it:?}");
                    steps.push(format!("{} ends", it.speaker));
                }
                Payload::Halted(it) => steps.push(it.halt.name().to_owned()),
                _ => {}
            }
        }
        (text, voiced, steps)
    };
    for entry in stored {
        let Payload::TurnEnded(TurnEnded {
            turn,
            agent,
            outcome,
            ..
        }) = &entry.payload
        else {
            continue;
        };
        if *agent != name("a") || *outcome != Outcome::Completed {
            continue;
        }
        let (text, voiced, steps) = of(turn);
        assert_eq!(text, reply(&expect), "\n{}", print(stored));
        let words: String = expect.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(voiced, words, "\n{}", print(stored));
        let mut wanted: Vec<String> = expect
            .iter()
            .flat_map(|(name, _)| [format!("{name} begins"), format!("{name} ends")])
            .collect();
        wanted.push("max_turns".into());
        assert_eq!(steps, wanted, "\n{}", print(stored));
    }
}

fn completed(stored: &[Entry]) -> usize {
    let completed = stored.iter().filter(|entry| {
        matches!(&entry.payload, Payload::TurnEnded(it) if it.agent == name("a") && it.outcome == Outcome::Completed)
    });
    completed.count()
}

const SEEDS: &[&str] = &[
    "one two three",
    "one BUSY two SLOW three",
    "one two CUT three four",
];

#[test]
fn a_conversation_survives_a_crash_at_every_sync() {
    for seed in SEEDS {
        let post = format!("post a {seed}");
        let lines = [post.as_str(), "post b say meanwhile", "answered"];
        let check = |stored: &[Entry]| {
            check_turns(seed, 4, stored);
            let posted = stored.iter().any(|entry| {
                matches!(&entry.payload, Payload::MessageReceived(it) if it.to == name("a"))
            });
            assert_eq!(
                completed(stored),
                usize::from(posted),
                "\n{}",
                print(stored)
            );
        };
        for (crash, fault) in [
            (Crash::PowerLoss, Fault::StopBeforeSync as fn(u64) -> Fault),
            (Crash::PowerLoss, Fault::StopAfterSync),
            (Crash::ProcessKill, Fault::StopBeforeSync),
            (Crash::PowerLoss, Fault::FailSync),
        ] {
            let mut hits = 0;
            for k in 1..SYNCS_MAX {
                let again = (k % 3 == 0).then_some(Fault::StopAfterSync(1 + k % 4));
                let disk = deployed_conversation(FOUR);
                if !survives_on(disk, &lines, fault(k), crash, again, |_| (), check) {
                    break;
                }
                hits += 1;
            }
            assert!(
                (8..SYNCS_MAX - 1).contains(&hits),
                "{hits} syncs of {seed:?}"
            );
        }
    }
}

#[test]
fn a_conversation_that_is_stopped_halts_as_aborted_and_what_was_said_stands() {
    let disk = deployed_conversation(FOUR);
    let stored = life(&disk, Time(0), async |world| {
        let lines = ["post a one SLOW two", "shown one", "stop a", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        world.stop_in_order().await;
        entries(&*world.store)
    });
    let [.., halted, asked, ended] = stored.as_slice() else {
        panic!("it ended");
    };
    assert!(matches!(&halted.payload, Payload::Halted(it) if it.halt == Halt::Abort));
    assert!(matches!(asked.payload, Payload::InterruptRequested(_)));
    assert!(matches!(&ended.payload, Payload::TurnEnded(it) if it.outcome == Outcome::Interrupted));
    let said: String = stored
        .iter()
        .filter_map(|entry| match &entry.payload {
            Payload::Spoke(it) => Some(it.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(said, "[Ada] one ");
}

#[test]
fn the_entries_of_a_conversation_are_these() {
    let disk = deployed_conversation(r#"{"max_turns":3,"halt_on":{"pattern":"Ada"}}"#);
    let stored = life(&disk, Time(0), async |world| {
        converse(
            world,
            &["post a hello", "answered"],
            &mut Outside::default(),
        )
        .await;
        world.stop_in_order().await;
        entries(&*world.store)
    });
    let mut text = print(&stored);
    // How many pieces an answer comes in is the disk's and the provider's affair.
    let pieces = |line: &str| line.ends_with(" streamed") || line.ends_with(" returned");
    text = text
        .lines()
        .filter(|line| !pieces(line))
        .filter_map(|line| Some(format!("{}\n", line.split_once(' ')?.1)))
        .collect();
    assert_eq!(
        text,
        r#"session-opened
message-received ada -> a
turn-started a takes [2] [Messages]
observed
speaker-started 0 Ada
called
spoke a "[Ada] "
spoke a "hello"
spoke a "\n"
speaker-ended 0 Ada
speaker-started 1 Bo
called
spoke a "[Bo] "
spoke a "[Ada] "
spoke a "hello"
spoke a "\n"
speaker-ended 1 Bo
halted predicate
turn-ended a completed [2:consumed]
"#
    );
    let halt = stored.iter().find_map(|entry| match &entry.payload {
        Payload::Halted(it) => Some(it.halt.clone()),
        _ => None,
    });
    let reason = r#"the pattern "Ada" matched"#.to_owned();
    assert_eq!(halt, Some(Halt::Predicate { reason }));
}

/// A conversation of every kind of voice: two agents that are the same, a remote one, one that selects, and
/// one that judges.
fn panel() -> Memory {
    deploy_conversation(&panel_definition())
}

fn panel_definition() -> serde_json::Value {
    json!({
        "participants": [
            {"name": "Ada", "agent": "b"},
            remote("Bo"),
            {"name": "Cy", "agent": "b"},
        ],
        "order": {"selector": "b"},
        "halt_on": {"agent": "b"},
        "max_turns": 5,
    })
}

/// Each agent has a session of its own in a conversation, and there one message and one turn for each
/// time that it was asked.
fn check_asked(store: &dyn Store) {
    let stored = entries(store);
    let story = || {
        let children = children(store);
        let texts = children
            .iter()
            .map(|(id, it)| format!("{id}\n{}", print(it)));
        print(&stored) + &texts.collect::<String>()
    };
    for (session, child) in children(store) {
        let calls = stored.iter().filter(
            |entry| matches!(&entry.payload, Payload::AgentCalled(it) if it.session == session),
        );
        let calls = calls.count();
        let count = |of: fn(&Payload) -> bool| child.iter().filter(|it| of(&it.payload)).count();
        let messages = count(|it| matches!(it, Payload::MessageReceived(_)));
        let turns = count(|it| matches!(it, Payload::TurnStarted(_)));
        // A call that was written down and not made when its caller was stopped has no message.
        assert!(messages == calls && turns == calls, "{calls}\n{}", story());
    }
}

/// The panel with a fault, a crash, perhaps another one in recovery. Answers whether the fault came, and what
/// was said in the end.
fn panel_survives(fault: Option<Fault>, again: Option<Fault>) -> (bool, String) {
    let disk = panel();
    if let Some(fault) = fault {
        disk.inject(fault);
    }
    let mut outside = Outside::default();
    let lines = ["post a say hello", "answered"];
    let mut now = life(&disk, Time(0), async |world| {
        converse(world, &lines, &mut outside).await;
        world.clock.now()
    });
    let hit = disk.is_stopped();
    let mut disk = disk.power_loss();
    if let Some(fault) = again {
        disk.inject(fault);
        now = life(&disk, now, async |world| {
            let over = || disk.is_stopped() || all_quiet(&*world.store);
            world.until("it stops or is done", over).await;
            world.clock.now()
        });
        disk = disk.power_loss();
    }
    check_kept(&entries(&*memory(&disk)), &outside);
    let lost = fold(&entries(&*memory(&disk))).turns;
    let said = life(&disk, now, async |world| {
        world
            .until("all is quiet", || all_quiet(&*world.store))
            .await;
        let stored = entries(&*world.store);
        check_kept(&stored, &outside);
        check_answered(&stored);
        check_resumed(&stored, lost.keys());
        check_repeatable(&stored);
        check_calls(&stored, &PROVIDER.with_borrow(Log::made));
        check_asked(&*world.store);
        world.stop_in_order().await;
        words(&stored)
    });
    (hit, said)
}

#[test]
fn a_panel_survives_a_crash_at_every_sync() {
    let (_, undisturbed) = panel_survives(None, None);
    for name in ["[Ada] ", "[Bo] ", "[Cy] "] {
        assert!(undisturbed.contains(name), "{undisturbed}");
    }
    let mut hits = 0;
    for k in 1..SYNCS_MAX {
        let again = (k % 3 == 0).then_some(Fault::StopAfterSync(1 + k % 5));
        let (before, said) = panel_survives(Some(Fault::StopBeforeSync(k)), again);
        assert!(
            said == undisturbed || said.is_empty() && k < 3,
            "{k}: {said}"
        );
        let (after, said) = panel_survives(Some(Fault::StopAfterSync(k)), again);
        assert!(
            said == undisturbed || said.is_empty() && k < 3,
            "{k}: {said}"
        );
        if !before && !after {
            break;
        }
        hits += 1;
    }
    assert!((20..SYNCS_MAX - 1).contains(&hits), "{hits} syncs");
}

#[test]
fn a_conversation_that_nobody_can_answer_halts_by_who_could_not() {
    let disk = deploy_conversation(&json!({
        "participants": [{"name": "Ada", "agent": "b"}, {"name": "Bo", "agent": "nobody"}],
    }));
    let stored = life(&disk, Time(0), async |world| {
        converse(
            world,
            &["post a say hello", "answered"],
            &mut Outside::default(),
        )
        .await;
        world.stop_in_order().await;
        entries(&*world.store)
    });
    let halt = stored.iter().find_map(|entry| match &entry.payload {
        Payload::Halted(it) => Some(it.halt.clone()),
        _ => None,
    });
    let error = Halt::ParticipantError {
        participant: "Bo".into(),
        message: "no agent nobody is deployed".into(),
    };
    assert_eq!(halt, Some(error));
    assert_eq!(words(&stored), "[Ada] hello\n");
}

/// Run again from its journal alone, under another tenant's name, it says what it said.
#[test]
fn a_panel_is_replayed_from_its_journal() {
    let definition = panel_definition();
    let disk = deploy_conversation(&definition);
    let stored = life(&disk, Time(0), async |world| {
        let lines = ["post a say hello", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        world.stop_in_order().await;
        entries(&*world.store)
    });
    let turn = stored.iter().find_map(|entry| match &entry.payload {
        Payload::TurnStarted(it) => Some(it.turn.clone()),
        _ => None,
    });
    let turn = turn.expect("it began");
    let case = Case {
        session: name("s"),
        entries: stored.iter().map(encode).collect(),
        values: Vec::new(),
        config: AgentConfig::default(),
        seeds: Seeds::of("", &turn),
        turn,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let replay = |json: &serde_json::Value| {
        let definition = Definition::parse(json.to_string().as_bytes()).expect("it is valid");
        let bytes = definition.bytes();
        let replayed = replay::run(&case, &bytes);
        runtime.block_on(replayed).expect("it runs")
    };
    let same = replay(&definition);
    assert_eq!(same.difference, None);
    assert_eq!(
        (same.said, same.calls),
        (words(&stored), same.calls_recorded)
    );

    let mut fewer = definition.clone();
    fewer["max_turns"] = json!(4);
    let differs = replay(&fewer).difference.expect("it ends sooner");
    assert!(differs.does.contains("halts: max_turns"), "{differs:?}");
}
