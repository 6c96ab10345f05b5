//! Tools, and going round with a model.

use std::cell::Cell;

use antiphon_sdk::mailbox::{Body, Sender};
use antiphon_sdk::model::{Finish, Message, ModelError, Request, ToolChoice};
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::testing::{Answer, Host, Limits};
use antiphon_sdk::tools::{
    self, Rounds, Tool, ToolSet, context_tools, mailbox_tools, transcript_tools,
};
use antiphon_sdk::{AgentError, TurnOutput, reply};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
struct Weather {
    /// The city.
    city: String,
    days: Option<u8>,
}

fn weather<'a>() -> Tool<'a> {
    Tool::new(
        "weather",
        "Tells the weather.",
        |Weather { city, days }: Weather| {
            if city == "Atlantis" {
                Err("no such city")
            } else {
                Ok(format!("{city}: {days:?}"))
            }
        },
    )
}

/// A turn that goes round with the scripted answers.
fn round(host: &Host, tools: ToolSet<'_>, rounds_max: u32) -> Result<Rounds, ModelError> {
    let mut tools = tools;
    let mut rounds = None;
    let _ = host.turn_with(|_| {
        let request = Prompt::new().task("Go.").request();
        rounds = Some(tools::relay(request, &mut tools, rounds_max));
        Ok(TurnOutput::default())
    });
    rounds.expect("the turn went round")
}

fn results(request: &Request) -> Vec<&str> {
    let mut texts = Vec::new();
    for message in &request.messages {
        if let Message::Tool(tool) = message {
            texts.push(&*tool.text);
        }
    }
    texts
}

#[test]
fn a_schema_says_what_the_type_says_and_no_more() {
    let declarations = ToolSet::new().with(weather()).declarations();
    let schema: Value = serde_json::from_str(&declarations[0].parameters).expect("JSON");
    assert_eq!(schema["type"], "object");
    assert_eq!(
        schema["properties"]["city"],
        json!({"description": "The city.", "type": "string"})
    );
    assert_eq!(schema["required"], json!(["city"]));
    assert!(
        schema.get("$schema").is_none() && schema.get("title").is_none(),
        "{schema}"
    );
}

#[test]
fn what_a_model_gets_wrong_is_told_to_it() {
    let host = Host::new("guide");
    host.answer(
        Answer::call("weather", json!({"city": "Porto", "days": 2}))
            .and_raw_call("weather", "{\"city\": \"Porto\"")
            .and_call("weather", json!({"town": "Porto"}))
            .and_call("weather", json!({"city": "Atlantis"}))
            .and_call("wether", json!({})),
    );
    host.answer(Answer::text("Fine."));
    round(&host, ToolSet::new().with(weather()), 5).expect("it answers");

    let requests = host.requests();
    let [good, cut, missing, own, unknown] = results(&requests[1])[..] else {
        panic!("one result for each call, in order");
    };
    assert_eq!(good, "Porto: Some(2)");
    assert!(cut.contains("EOF"), "{cut}");
    assert!(missing.contains("missing field `city`"), "{missing}");
    assert_eq!(own, "Error: no such city");
    assert!(
        unknown.contains("\"wether\"") && unknown.contains("weather"),
        "{unknown}"
    );
}

proptest! {
    #[test]
    fn nothing_that_a_model_writes_panics(name in ".{0,9}", arguments in ".{0,40}") {
        let mut tools = ToolSet::new().with(weather());
        prop_assert!(!tools.call(&name, &arguments).is_empty());
        prop_assert!(!tools.call("weather", &arguments).is_empty());
    }
}

#[test]
fn a_tool_may_change_what_it_borrows_and_the_later_of_two_counts() {
    let calls = Cell::new(0);
    let count = |by| {
        let calls = &calls;
        Tool::new("count", "Counts.", move |_: Value| {
            calls.set(calls.get() + by);
            Ok::<_, String>(calls.get().to_string())
        })
    };
    let mut tools = ToolSet::new().with(count(1)).with(count(10));
    assert_eq!(
        (tools.call("count", ""), tools.call("count", "{}")),
        ("10".into(), "20".into())
    );
    assert_eq!(tools.declarations().len(), 1);
}

#[test]
fn texts_of_rounds_are_set_apart_and_streamed() {
    let host = Host::new("guide");
    host.answer(Answer::pieces(["Let ", "me see."]).and_call("weather", json!({"city": "Faro"})))
        .answer(Answer::call("weather", json!({"city": "Porto"})))
        .answer(Answer::pieces(["", "It ", "rains."]));
    let rounds = round(&host, ToolSet::new().with(weather()), 5).expect("it answers");

    assert_eq!((rounds.count, &*rounds.completion.text), (3, "It rains."));
    assert_eq!(host.transcript()[0].text, "Let me see.\n\nIt rains.");
    assert_eq!(rounds.messages, host.requests()[2].messages);
}

#[test]
fn the_last_round_forbids_tools_and_runs_none() {
    let host = Host::new("guide");
    let called = Cell::new(0);
    let tool = Tool::new("again", "", |_: Value| {
        called.set(called.get() + 1);
        Ok::<_, String>(String::new())
    });
    for _ in 0..3 {
        host.answer(Answer::call("again", json!({})));
    }
    let rounds = round(&host, ToolSet::new().with(tool), 3).expect("it ends");

    assert_eq!((rounds.count, called.get()), (3, 2));
    assert_eq!(rounds.completion.finish, Finish::ToolCalls);
    let choices: Vec<_> = host
        .requests()
        .into_iter()
        .map(|request| request.tool_choice)
        .collect();
    assert_eq!(choices, [None, None, Some(ToolChoice::Never)]);
}

#[test]
fn an_error_ends_the_rounds_and_keeps_what_was_said() {
    let host = Host::new("guide");
    host.answer(Answer::text("Well, ").and_call("weather", json!({"city": "Faro"})))
        .answer(Answer::pieces(["it ", "ra"]).interrupted());
    let error = round(&host, ToolSet::new().with(weather()), 5).expect_err("it broke off");

    assert_eq!(error, ModelError::Interrupted("it ra".to_owned()));
    assert_eq!(host.transcript()[0].text, "Well, \n\nit ra");
}

#[test]
fn a_quiet_round_says_nothing() {
    let host = Host::new("guide");
    host.answer(Answer::text("Hm.").and_call("weather", json!({"city": "Faro"})))
        .answer(Answer::text("It rains."));
    let turn = host.turn_with(|_| {
        let mut tools = ToolSet::new().with(weather());
        let rounds = tools::complete(Prompt::new().task("Go.").request(), &mut tools, 5)?;
        reply::say(&rounds.completion.text.to_uppercase())?;
        Ok(TurnOutput::default())
    });
    assert_eq!(turn.said, "IT RAINS.");
}

#[test]
fn the_mailbox_and_the_context_are_the_models_to_use() {
    let host = Host::new("clerk");
    host.limits(Limits {
        items_max: 2,
        ..Limits::default()
    });
    let ids: Vec<_> = ["one", "two", "three"]
        .map(|text| host.receive("ana", text))
        .into();
    let turn = host.turn_with(|_| {
        let mut tools = mailbox_tools().and(context_tools());
        let mut call = |name: &str, arguments: Value| tools.call(name, &arguments.to_string());

        assert_eq!(call("mailbox_list", json!({})).lines().count(), 3);
        assert!(call("mailbox_pull", json!({"ids": ["message-99"]})).starts_with("Error"));
        let pulled = call("mailbox_pull", json!({"ids": [ids[1]]}));
        assert!(
            pulled.contains(">two<") && !pulled.contains("one"),
            "{pulled}"
        );
        assert_eq!(call("mailbox_list", json!({})).lines().count(), 2);
        assert!(call("mailbox_pull", json!({"max": 1})).contains(">one<"));
        assert!(call("mailbox_read", json!({"id": ids[2]})).contains(">three<"));
        assert!(call("mailbox_read", json!({"id": "message-99"})).starts_with("Error"));
        assert!(call("mailbox_search", json!({"query": "THREE"})).contains(&ids[2]));
        assert_eq!(call("mailbox_search", json!({"query": "four"})), "None.");

        assert!(call("context_keep", json!({"id": ids[0]})).starts_with("Kept"));
        assert!(call("context_keep", json!({"id": ids[0]})).starts_with("Kept"));
        assert_eq!(
            call("context_note", json!({"text": "Busy day."})),
            "Noted as item-2."
        );
        assert!(
            call("context_note", json!({"text": "More."})).starts_with("Error"),
            "it is full"
        );
        assert!(call("context_keep", json!({"id": "nothing"})).starts_with("Error"));
        assert!(call("context_drop", json!({"id": ids[0]})).starts_with("Dropped"));
        assert!(call("context_drop", json!({"id": ids[0]})).starts_with("Error"));
        Ok::<_, AgentError>(TurnOutput::default())
    });
    assert_eq!(
        (turn.consumed, turn.left),
        (ids[..2].to_vec(), ids[2..].to_vec())
    );
    assert_eq!(host.context().len(), 1);
}

#[test]
fn history_goes_back_page_by_page_and_says_what_waits() {
    let host = Host::new("clerk");
    for n in 0..22 {
        host.receive("ana", &format!("number {n}"));
    }
    host.turn_with(|_| {
        antiphon_sdk::mailbox::pull(21);
        Ok(TurnOutput::default())
    })
    .output();
    host.receive_from(
        Sender::Agent("talker".to_owned()),
        Body::Text("<é>".repeat(400)),
    );
    let turn = host.turn_with(|_| {
        let mut tools = mailbox_tools();
        let first = tools.call("mailbox_history", "{}");
        let lines: Vec<_> = first.lines().collect();
        assert_eq!(lines.len(), 21, "{first}");
        assert!(
            lines[0].contains("agent=\"talker\"") && lines[0].contains("cut-from-bytes=\"1600\"")
        );
        assert!(lines[0].len() < 4_000, "{}", lines[0]);
        assert!(lines[1].contains("state=\"waiting\"") && lines[1].contains(">number 21<"));
        assert!(!lines[2].contains("waiting") && lines[2].contains(">number 20<"));
        let cursor = lines[20].split('"').nth(1).expect("a cursor");
        let second = tools.call("mailbox_history", &json!({"cursor": cursor}).to_string());
        assert_eq!(second.lines().count(), 3, "{second}");
        assert!(second.contains(">number 0<"));
        Ok(TurnOutput::default())
    });
    assert_eq!(turn.left.len(), 2, "it takes nothing");
}

#[test]
fn the_timeline_is_who_said_what_when() {
    let host = Host::new("clerk");
    host.receive("ana", "Is it <open>?");
    host.turn_with(|_| {
        antiphon_sdk::mailbox::pull_all();
        reply::say("It is.")?;
        Ok(TurnOutput::default())
    })
    .output();
    host.advance(std::time::Duration::from_secs(60))
        .hear("talker", "Until six.");
    host.turn_with(|_| {
        let mut tools = transcript_tools();
        assert_eq!(
            tools.call("transcript_timeline", "{}"),
            "<said at=\"2026-01-01T00:00:00Z\" person=\"ana\">Is it &lt;open&gt;?</said>\n\
             <said at=\"2026-01-01T00:00:00Z\" agent=\"clerk\">It is.</said>\n\
             <said at=\"2026-01-01T00:01:00Z\" agent=\"talker\">Until six.</said>"
        );
        let end = tools.call("transcript_timeline", &json!({"max": 1}).to_string());
        let (earlier, last) = end.split_once('\n').expect("two lines");
        assert!(last.contains("Until six."), "{end}");
        let before = earlier.split('"').nth(1).expect("a cursor");
        let start = tools.call(
            "transcript_timeline",
            &json!({"before": before}).to_string(),
        );
        assert!(
            start.contains("It is.") && !start.contains("Until six."),
            "{start}"
        );
        assert!(!start.contains("Earlier"), "{start}");
        Ok(TurnOutput::default())
    })
    .output();
}
