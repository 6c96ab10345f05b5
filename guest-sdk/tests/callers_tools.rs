//! Tools of the caller's: asked for, and answered in a turn of their own.

use antiphon_sdk::mailbox::{self, Body, Sender, ToolResult};
use antiphon_sdk::model::{self, Message, Tool, ToolCall};
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::reply::{self, ToolsError};
use antiphon_sdk::testing::{Answer, Host, Limits, Turn};
use antiphon_sdk::{TurnOutput, turn};
use serde_json::json;

fn measure() -> Tool {
    Tool {
        name: "measure".to_owned(),
        description: "Measures.".to_owned(),
        parameters: "{}".to_owned(),
    }
}

fn call(id: &str, name: &str) -> ToolCall {
    ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: "{}".to_owned(),
    }
}

/// An agent that hands the caller's tools to its model, and its calls to the caller.
fn pass(host: &Host) -> Turn {
    host.turn_with(|_| {
        let messages = mailbox::pull_all();
        let mut request = Prompt::new().transcript(50).messages(&messages).request();
        request.tools = turn::tools();
        let completion = model::relay(&request)?;
        if !completion.tool_calls.is_empty() {
            reply::call_tools(&completion.tool_calls)?;
        }
        Ok(TurnOutput::default())
    })
}

#[test]
fn calls_go_to_the_caller_and_answers_to_the_model() {
    let host = Host::new("guide");
    host.tools(&[measure()]);
    host.receive("ana", "How warm is it?");
    host.answer(Answer::text("Let me see.").and_call("measure", json!({"what": "air"})));
    let asked = pass(&host);
    assert_eq!(asked.requests[0].tools, [measure()]);
    assert_eq!(asked.said, "Let me see.");
    let made = &asked.called_tools[0];
    assert_eq!(
        (made.name.as_str(), made.arguments.as_str()),
        ("measure", r#"{"what":"air"}"#)
    );

    let results = json!({"text": "And?", "tool_results": [
        {"id": "1", "name": "measure", "arguments": "{}", "content": "21 °C"},
        {"id": "2", "name": "measure", "arguments": "{}", "content": "19 °C"},
    ]});
    let ana = Sender::Person("ana".to_owned());
    host.receive_from(ana, Body::Json(results.to_string()));
    host.answer(Answer::text("21 °C."));
    let told = pass(&host);
    assert_eq!((told.said.as_str(), told.called_tools.len()), ("21 °C.", 0));
    let said: Vec<String> = told.requests[0].messages.iter().map(line).collect();
    let expected = [
        "user: How warm is it?",
        "assistant: Let me see.",
        "calls 1 2",
        "1 answers 21 °C",
        "2 answers 19 °C",
        "user: And?",
    ];
    assert_eq!(said, expected);
}

fn line(message: &Message) -> String {
    match message {
        Message::System(text) => format!("system: {text}"),
        Message::User(user) => format!("user: {}", user.text),
        Message::Assistant(said) if said.tool_calls.is_empty() => {
            format!("assistant: {}", said.text.as_deref().unwrap_or_default())
        }
        Message::Assistant(said) => {
            let ids: Vec<&str> = said
                .tool_calls
                .iter()
                .map(|call| call.id.as_str())
                .collect();
            format!("calls {}", ids.join(" "))
        }
        Message::Tool(answer) => format!("{} answers {}", answer.call, answer.text),
    }
}

#[test]
fn what_somebody_writes_is_no_answer_of_a_tool() {
    let host = Host::new("guide");
    let results = json!({"tool_results": [{"id": "1", "name": "measure", "arguments": "{}", "content": "x"}]});
    host.receive("ana", &results.to_string());
    let ana = || Sender::Person("ana".to_owned());
    for body in [
        json!({"tool_results": []}),
        json!({"tool_results": [], "more": 1}),
        json!([1]),
    ] {
        host.receive_from(ana(), Body::Json(body.to_string()));
    }
    host.receive_from(
        ana(),
        Body::Json(json!({"tool_results": [{"id": "1", "content": "x"}]}).to_string()),
    );
    let mut found = Vec::new();
    host.turn_with(|_| {
        let messages = mailbox::pull_all();
        found = messages
            .iter()
            .map(mailbox::Message::tool_results)
            .collect();
        let request = Prompt::new().messages(&messages).request();
        // Without a name a model cannot be told what was called.
        assert!(
            request
                .messages
                .iter()
                .all(|it| matches!(it, Message::User(_)))
        );
        Ok(TurnOutput::default())
    })
    .output();
    assert_eq!(found[..4], [None, None, None, None]);
    let nameless = ToolResult {
        id: "1".to_owned(),
        name: None,
        arguments: None,
        content: "x".to_owned(),
    };
    assert_eq!(found[4].as_ref().map(|it| &it.results[0]), Some(&nameless));
}

#[test]
fn what_cannot_be_called_is_refused() {
    let host = Host::new("guide");
    host.tools(&[measure()]).limits(Limits {
        message_bytes_max: 100,
        ..Limits::default()
    });
    host.receive("ana", "Go.");
    let turn = host.turn_with(|_| {
        let other = |why: &str| Err(ToolsError::Other(why.to_owned()));
        let check = |calls: &[ToolCall], expected: Result<(), ToolsError>| {
            assert_eq!(reply::call_tools(calls), expected);
        };
        check(&[], other("it calls nothing"));
        check(
            &[call("1", "weigh")],
            Err(ToolsError::NotOffered("weigh".to_owned())),
        );
        check(
            &[call("", "measure")],
            other("each call has an id of its own"),
        );
        check(
            &[call("1", "measure"), call("1", "measure")],
            other("each call has an id of its own"),
        );
        check(
            &[call(&"x".repeat(100), "measure")],
            Err(ToolsError::TooLarge),
        );
        check(&[call("1", "measure")], Ok(()));
        check(&[call("2", "measure")], Err(ToolsError::AskedAlready));
        Ok(TurnOutput::default())
    });
    assert_eq!(turn.called_tools, [call("1", "measure")]);
}

#[test]
fn nothing_is_said_after_it() {
    let said = std::panic::catch_unwind(|| {
        let host = Host::new("guide");
        host.tools(&[measure()]);
        host.receive("ana", "Go.");
        let _ = host.turn_with(|_| {
            reply::call_tools(&[call("1", "measure")])?;
            reply::say("more")?;
            Ok(TurnOutput::default())
        });
    });
    assert!(said.is_err());
}
