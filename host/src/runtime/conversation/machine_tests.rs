//! Conversations as tables: what was said, and what came of it.

use serde_json::{Value, json};

use super::*;
use crate::journal::script::name;

fn definition(fields: &str) -> Arc<Definition> {
    let mut json: Value = serde_json::from_str(fields).expect("JSON");
    if json.get("participants").is_none() {
        json["participants"] =
            json!([{"name": "Ada", "agent": "ada"}, {"name": "Bo", "agent": "bo"}]);
    }
    Arc::new(Definition::parse(json.to_string().as_bytes()).expect("it is valid"))
}

fn three(fields: &str) -> Arc<Definition> {
    let mut json: Value = serde_json::from_str(fields).expect("JSON");
    json["participants"] = json!([
        {"name": "Ada", "agent": "ada"},
        {"name": "Bo", "url": "https://example.com/v1", "model": "m", "instructions": "Be brief."},
        {"name": "Cy X.", "agent": "cy"},
    ]);
    Arc::new(Definition::parse(json.to_string().as_bytes()).expect("it is valid"))
}

/// Play a conversation: `say TEXT`, `cost MICROS`, `choose ANSWER`, `judge ANSWER`, `break WHY`. Answers the
/// steps that were next, each as it came, and the last one.
fn play(definition: &Arc<Definition>, lines: &[&str]) -> Vec<String> {
    let mut talk = Talk::new(definition.clone(), "the seed".into());
    let mut steps = Vec::new();
    for line in lines {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "cost" {
            talk.spend(rest.parse().expect("a number"));
            continue;
        }
        let step = describe(&talk.step());
        assert_eq!(describe(&talk.step()), step, "asking changes nothing");
        let speaker = match talk.step() {
            Step::Speak { participant, .. } => Some(participant),
            _ => None,
        };
        match (verb, speaker) {
            ("say", Some(speaker)) => talk.said(speaker, rest),
            ("break", Some(speaker)) => talk.failed(speaker, rest),
            ("choose", None) => talk.selected(rest),
            ("judge", None) => talk.judged(rest),
            _ => panic!("{line:?} does not follow {step}"),
        }
        steps.push(step);
    }
    steps.push(describe(&talk.step()));
    steps
}

fn describe(step: &Step<'_>) -> String {
    match step {
        Step::Select(agent) => format!("select {agent}"),
        Step::Judge(agent) => format!("judge {agent}"),
        Step::Speak { participant, index } => format!("{index}:{participant}"),
        Step::Halt(halt) => serde_json::to_string(halt).expect("it is JSON"),
    }
}

const MAX: fn(u32) -> String = |turns| format!(r#"{{"kind":"max_turns","turns":{turns}}}"#);

fn error(participant: &str, message: &str) -> String {
    let halt = Halt::ParticipantError {
        participant: participant.into(),
        message: message.into(),
    };
    serde_json::to_string(&halt).expect("it is JSON")
}

fn predicate(reason: &str) -> String {
    json!({"kind": "predicate", "reason": reason}).to_string()
}

#[test]
fn two_alternate_and_more_go_round() {
    let two = definition(r#"{"max_turns":4}"#);
    let steps = play(&two, &["say a", "say b", "say c", "say d"]);
    assert_eq!(steps, ["0:0", "1:1", "2:0", "3:1", &MAX(4)]);
    let three = three(r#"{"max_turns":5}"#);
    let steps = play(&three, &["say a", "say b", "say c", "say d", "say e"]);
    assert_eq!(steps, ["0:0", "1:1", "2:2", "3:0", "4:1", &MAX(5)]);
    let once = definition(r#"{"max_turns":1}"#);
    assert_eq!(play(&once, &["say a"]), ["0:0", &MAX(1)]);
}

#[test]
fn a_selector_is_asked_before_every_turn() {
    let chaired = three(r#"{"max_turns":4,"order":{"selector":"chair"}}"#);
    for (answers, expect) in [
        (["Ada", "Bo", "Cy X."], ["0:0", "1:1", "2:2"]),
        (["bo", "BO", "bo."], ["0:1", "1:1", "2:1"]),
        ([" Cy X.\n", "cy-x", "'Ada'"], ["0:2", "1:2", "2:0"]),
    ] {
        let [a, b, c] = answers.map(|answer| format!("choose {answer}"));
        let lines = [&a, "say 1", &b, "say 2", &c, "say 3"];
        let steps = play(&chaired, &lines);
        let spoken: Vec<&String> = steps.iter().filter(|step| step.contains(':')).collect();
        assert_eq!(spoken[..], expect);
        assert_eq!(steps[0], "select chair");
        assert_eq!(steps[6], "select chair", "and before the fourth");
    }
    for (answer, words) in [
        ("choose Di", r#"it chose "Di", who takes no part"#),
        ("choose", r#"it chose "", who takes no part"#),
        ("choose 日本", r#"it chose "日本", who takes no part"#),
        (
            "choose Ada, I think",
            r#"it chose "Ada, I think", who takes no part"#,
        ),
    ] {
        assert_eq!(play(&chaired, &[answer])[1], error("chair", words));
    }
}

#[test]
fn names_without_a_slug_are_chosen_by_themselves() {
    let json = r#"{"participants":[{"name":"日本","agent":"a"},{"name":"Bo","agent":"b"}],
        "order":{"selector":"chair"}}"#;
    let steps = play(&definition(json), &["choose 日本", "say a"]);
    assert_eq!(steps[..2], ["select chair", "0:0"]);
    let steps = play(&definition(json), &["choose 中国"]);
    assert!(steps[1].contains("takes no part"), "{}", steps[1]);
}

#[test]
fn a_cap_lets_the_turn_that_exceeds_it_end_and_refuses_the_next() {
    for (cap, cost, turns, spent) in [
        // The example of the protocol: 12 cents, 5 a turn.
        (120_000, 50_000, 3, 150_000),
        (100_000, 50_000, 2, 100_000),
        (1, 1, 1, 1),
        // Below half a cent each: rounded, they would never reach it.
        (10_000, 4_000, 3, 12_000),
        (3, 1, 3, 3),
    ] {
        let capped = definition(&format!(r#"{{"max_turns":100,"max_cost_micros":{cap}}}"#));
        let cost = format!("cost {cost}");
        let lines: Vec<&str> = (0..turns).flat_map(|_| ["say a", cost.as_str()]).collect();
        let steps = play(&capped, &lines);
        let halt = serde_json::to_string(&Halt::max_credits(spent, cap)).unwrap();
        assert_eq!((steps.len(), &steps[turns]), (turns + 1, &halt));
    }
    let free = definition(r#"{"max_turns":3,"max_cost_micros":1}"#);
    assert_eq!(play(&free, &["say a", "say b", "say c"])[3], MAX(3));
}

#[test]
fn what_selecting_and_judging_cost_counts() {
    let chaired = definition(
        r#"{"order":{"selector":"chair"},"halt_on":{"agent":"judge"},"max_cost_micros":10000}"#,
    );
    let halt = serde_json::to_string(&Halt::max_credits(10_000, 10_000)).unwrap();
    let steps = play(
        &chaired,
        &["choose Bo", "say a", "cost 10000", "judge go on"],
    );
    assert_eq!(steps[3], halt, "after the verdict");
    let steps = play(&chaired, &["cost 10000"]);
    assert_eq!(steps[0], halt);
}

#[test]
fn words_can_end_it() {
    let agreed = definition(r#"{"halt_on":{"pattern":"(?i)\\bagreed\\b"}}"#);
    let halt = predicate(r#"the pattern "(?i)\\bagreed\\b" matched"#);
    assert_eq!(play(&agreed, &["say no", "say Agreed."])[2], halt);
    assert_eq!(play(&agreed, &["say disagreed"])[1], "1:1");
    let last = definition(r#"{"max_turns":1,"halt_on":{"pattern":"x"}}"#);
    assert!(
        play(&last, &["say x"])[1].contains("predicate"),
        "words come before the bound"
    );
    let start = definition(r#"{"halt_on":{"pattern":"^x$"}}"#);
    assert!(
        play(&start, &["say   x  "])[1].contains("predicate"),
        "trimmed"
    );
}

#[test]
fn a_judge_can_end_it() {
    let judged = definition(r#"{"max_turns":2,"halt_on":{"agent":"judge"}}"#);
    for (answer, expect) in [
        ("judge halt", predicate("predicate_true")),
        ("judge Halt.", predicate("predicate_true")),
        ("judge HALT: they agree", predicate("they agree")),
        ("judge halt - they agree. ", predicate("they agree.")),
        ("judge halt\nthey agree", predicate("they agree")),
        ("judge halting is wrong", "1:1".into()),
        ("judge go on", "1:1".into()),
        ("judge do not halt", "1:1".into()),
        ("judge", "1:1".into()),
    ] {
        let steps = play(&judged, &["say a", answer]);
        assert_eq!(steps[1], "judge judge");
        assert_eq!(steps[2], expect, "{answer}");
    }
    let steps = play(&judged, &["say a", "judge no", "say b", "judge no"]);
    assert_eq!(steps[4], MAX(2));
}

#[test]
fn who_cannot_speak_ends_it() {
    let two = definition("{}");
    assert_eq!(
        play(&two, &["say a", "break the provider is gone"])[2],
        error("Bo", "the provider is gone")
    );
    for nothing in ["say", "say    ", "say \n\t"] {
        assert_eq!(
            play(&two, &[nothing])[1],
            error("Ada", r#""Ada" completed without text"#)
        );
    }
    let mut talk = Talk::new(two, "seed".into());
    talk.undecided(&name("judge"), "x".repeat(2_000));
    let Step::Halt(Halt::ParticipantError {
        participant,
        message,
    }) = talk.step()
    else {
        panic!("it halted");
    };
    assert_eq!((participant.as_str(), message.len()), ("judge", 1_000));
}

#[test]
fn the_order_of_looking_is_one() {
    let cost = r#""max_cost_micros":1"#;
    let once = definition(&format!(r#"{{"max_turns":1,{cost}}}"#));
    assert_eq!(play(&once, &["say a", "cost 5"])[1], MAX(1), "all is said");
    let chaired = definition(&format!(r#"{{"order":{{"selector":"chair"}},{cost}}}"#));
    let steps = play(&chaired, &["choose Bo", "say a", "cost 1"]);
    assert!(
        steps[2].contains("max_credits"),
        "nobody is selected for nothing"
    );
    let judged = definition(&format!(r#"{{"halt_on":{{"agent":"judge"}},{cost}}}"#));
    let steps = play(&judged, &["say a", "cost 5", "judge halt: done"]);
    assert_eq!(
        steps[2],
        predicate("done"),
        "a turn is judged whatever came since"
    );
    let steps = play(&judged, &["say a", "cost 5", "judge no"]);
    assert!(steps[2].contains("max_credits"));
}

#[test]
fn a_halt_stands() {
    let two = definition(r#"{"max_turns":1}"#);
    let mut talk = Talk::new(two, "seed".into());
    talk.said(0, "a");
    assert!(matches!(talk.step(), Step::Halt(Halt::MaxTurns { .. })));
    talk.spend(u64::MAX);
    assert!(matches!(
        talk.step(),
        Step::Halt(Halt::MaxTurns { turns: 1 })
    ));
    assert_eq!((talk.turns(), talk.spent_micros()), (1, u64::MAX));
}

/// A talk of three in which `Ada`, `Bo`, `Cy X.` and `Ada` spoke.
fn spoken(fields: &str) -> Talk {
    let mut talk = Talk::new(three(fields), "the seed".into());
    for (participant, text) in [(0, " one "), (1, "two\n"), (2, "three"), (0, "four")] {
        talk.said(participant, text);
    }
    talk
}

#[test]
fn a_remote_participant_sees_the_whole_conversation_from_where_it_stands() {
    let user = |text: &str| Message::User {
        name: None,
        text: text.into(),
    };
    let own = |text: &str| Message::Assistant {
        text: Some(text.into()),
        tool_calls: Vec::new(),
    };
    let talk = spoken("{}");
    assert_eq!(
        talk.view(1),
        [
            Message::System("Be brief.".into()),
            user("the seed"),
            user("[Ada] one"),
            own("two"),
            user("[Cy X.] three"),
            user("[Ada] four"),
        ]
    );
    assert_eq!(
        talk.view(0),
        [
            user("the seed"),
            own("one"),
            user("[Bo] two"),
            user("[Cy X.] three"),
            own("four"),
        ]
    );
    let fresh = Talk::new(three("{}"), "the seed".into());
    assert_eq!(fresh.view(0), [user("the seed")]);
}

#[test]
fn an_agent_is_told_what_is_new_to_it() {
    let talk = spoken("{}");
    assert_eq!(talk.news(1), "[Cy X.] three\n[Ada] four");
    assert_eq!(talk.news(2), "[Ada] four");
    assert_eq!(talk.news(0), "Go on.");
    let mut fresh = Talk::new(three("{}"), "the seed".into());
    assert_eq!(fresh.news(0), "the seed");
    fresh.said(0, "one");
    assert_eq!(fresh.news(1), "the seed\n[Ada] one");
    assert_eq!(fresh.news(2), "the seed\n[Ada] one");
}

#[test]
fn agents_that_decide_are_told_what_is_new_to_them() {
    let who = "Who speaks next: Ada, Bo, Cy X.?";
    let talk = spoken(r#"{"order":{"selector":"chair"},"halt_on":{"agent":"judge"}}"#);
    assert_eq!(talk.ballot(), format!("[Ada] four\n{who}"));
    assert_eq!(talk.case(), "[Ada] four");
    let mut fresh = Talk::new(
        three(r#"{"order":{"selector":"chair"}}"#),
        "the seed".into(),
    );
    assert_eq!(fresh.ballot(), format!("the seed\n{who}"));
    fresh.said(0, "one");
    assert_eq!(fresh.ballot(), format!("[Ada] one\n{who}"));
    assert_eq!(fresh.case(), "the seed\n[Ada] one");
}
