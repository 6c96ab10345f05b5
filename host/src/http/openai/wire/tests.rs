use serde_json::json;

use super::*;

fn agent() -> AgentName {
    AgentName::new("echo").unwrap()
}

fn chat(body: Value) -> Result<Talk, Unfit> {
    Chat::read(body.to_string().as_bytes())?.talk(&agent())
}

fn response(body: Value) -> Result<Talk, Unfit> {
    NewResponse::read(body.to_string().as_bytes())?.talk(&agent(), Vec::new())
}

/// `name: text` of each.
fn told(talk: &Talk) -> Vec<String> {
    let line = |it: &Recounted| match &it.by {
        Writer::Agent(agent) => format!("[{agent}] {}", it.text),
        Writer::Author(author) => format!("{author}: {}", it.text),
    };
    talk.earlier.iter().map(line).collect()
}

#[test]
fn messages_are_told_again_up_to_the_last_answer_and_asked_after_it() {
    let talk = chat(json!({
        "model": "echo",
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one", "name": "ana"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "thr"}, {"type": "text", "text": "ee"}]},
            {"role": "assistant", "content": null},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "developer", "content": "and kind"},
            {"role": "user", "content": "four"},
            {"role": "user", "content": "five"},
        ],
    }));
    let talk = talk.unwrap();
    assert_eq!(talk.instructions.as_deref(), Some("be brief\n\nand kind"));
    assert_eq!(
        told(&talk),
        ["ana: one", "[echo] two", "user: three", "[echo] no"]
    );
    assert_eq!((talk.input, talk.author), (json!("four\n\nfive"), None));
}

#[test]
fn whoever_is_named_is_the_author() {
    let of = |body: Value| chat(body).unwrap().author.map(|it| it.to_string());
    let messages = json!([{"role": "user", "content": "x", "name": "ben"}]);
    assert_eq!(
        of(json!({"model": "echo", "messages": messages})).as_deref(),
        Some("ben")
    );
    let both = json!({"model": "echo", "messages": messages, "user": "ana"});
    assert_eq!(of(both).as_deref(), Some("ana"));
}

#[test]
fn what_cannot_be_is_named() {
    let user = json!([{"role": "user", "content": "x"}]);
    for (body, code, param) in [
        (json!({"messages": user}), "invalid_json", Some("model")),
        (json!({"model": "echo"}), "invalid_json", Some("messages")),
        (
            json!({"model": 1, "messages": user}),
            "invalid_json",
            Some("model"),
        ),
        (
            json!({"model": "echo", "messages": []}),
            "invalid_json",
            Some("messages"),
        ),
        (
            json!({"model": "echo", "messages": user, "n": 2}),
            "unsupported_value",
            Some("n"),
        ),
        (
            json!({"model": "echo", "messages": user, "n": "2"}),
            "invalid_json",
            Some("n"),
        ),
        (
            json!({"model": "echo", "messages": user, "stream": 1}),
            "invalid_json",
            Some("stream"),
        ),
        (
            json!({"model": "echo", "messages": user, "user": "a b"}),
            "invalid_name",
            Some("user"),
        ),
        (
            json!({"model": "echo", "messages": user, "user": ""}),
            "invalid_name",
            Some("user"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": "x", "name": "a/b"}]}),
            "invalid_name",
            Some("messages[0].name"),
        ),
        (
            json!({"model": "echo", "messages": [{"content": "x"}]}),
            "invalid_json",
            Some("messages[0].role"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "critic", "content": "x"}]}),
            "unsupported_value",
            Some("messages[0].role"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": 1}]}),
            "invalid_json",
            Some("messages[0].content"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "unsupported_value",
            Some("messages[0].content[0]"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": [{"text": "x"}]}]}),
            "invalid_json",
            Some("messages[0].content[0].type"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}),
            "invalid_json",
            Some("messages"),
        ),
    ] {
        let unfit = chat(body.clone()).unwrap_err();
        assert_eq!(
            (unfit.code, unfit.param.as_deref()),
            (code, param),
            "{body}: {unfit:?}"
        );
    }
    for (bytes, param) in [("{", None), ("[1]", None), ("{} x", Some("model"))] {
        let unfit = Chat::read(bytes.as_bytes()).unwrap_err();
        assert_eq!(
            (unfit.code, unfit.param.as_deref()),
            ("invalid_json", param),
            "{bytes}"
        );
    }
}

#[test]
fn input_is_a_text_or_messages() {
    let talk = response(json!({"model": "echo", "input": "hello", "instructions": "be brief"}));
    let talk = talk.unwrap();
    assert_eq!(
        (&talk.input, talk.instructions.as_deref()),
        (&json!("hello"), Some("be brief"))
    );
    let talk = response(json!({"model": "echo", "instructions": "a", "input": [
        {"role": "system", "content": "b"},
        {"role": "user", "content": "one"},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]}));
    let talk = talk.unwrap();
    assert_eq!(told(&talk), ["user: one", "[echo] two"]);
    assert_eq!(
        (&talk.input, talk.instructions.as_deref()),
        (&json!("three"), Some("a\n\nb"))
    );
}

#[test]
fn what_a_response_cannot_be_is_named() {
    let long = "x".repeat(513);
    for (more, code, param) in [
        (json!({"input": 1}), "invalid_json", "input"),
        (json!({"input": []}), "invalid_json", "input"),
        (
            json!({"input": [{"type": "file_search_call", "id": "x"}]}),
            "unsupported_value",
            "input[0]",
        ),
        (
            json!({"input": [{"content": "x"}]}),
            "invalid_json",
            "input[0]",
        ),
        (
            json!({"input": "x", "conversation": "conv_1"}),
            "unsupported_value",
            "conversation",
        ),
        (
            json!({"input": "x", "prompt": {"id": "p"}}),
            "unsupported_value",
            "prompt",
        ),
        (
            json!({"input": "x", "background": true, "store": false}),
            "unsupported_value",
            "store",
        ),
        (
            json!({"input": "x", "metadata": {"a": 1}}),
            "invalid_json",
            "metadata.a",
        ),
        (
            json!({"input": "x", "metadata": {"a": long}}),
            "invalid_json",
            "metadata",
        ),
    ] {
        let mut body = json!({"model": "echo"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let unfit = response(body.clone()).unwrap_err();
        assert_eq!(
            (unfit.code, unfit.param.as_deref()),
            (code, Some(param)),
            "{body}: {unfit:?}"
        );
    }
}

#[test]
fn what_answers_tell_again_comes_back() {
    let body = json!({"model": "echo", "input": "x", "background": true, "metadata": {"a": "b"}});
    let echo = NewResponse::read(body.to_string().as_bytes())
        .unwrap()
        .echo(true);
    let back: Echo = serde_json::from_value(serde_json::to_value(&echo).unwrap()).unwrap();
    assert_eq!(back, echo);
    assert!(back.background && back.store && back.opened);
}

#[test]
fn what_tools_answered_stands_with_the_calls() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let result =
        |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let mut messages = vec![
        json!({"role": "user", "content": "one"}),
        json!({"role": "assistant", "content": null, "tool_calls": [call("1"), call("2")]}),
        result("1", "sky"),
        result("2", "sea"),
    ];
    let told_of = |id: &str, text: &str| json!({"id": id, "name": "look", "arguments": "{}", "content": text});
    let both = json!({"tool_results": [told_of("1", "sky"), told_of("2", "sea")]});
    let talk = chat(json!({"model": "echo", "messages": messages})).unwrap();
    assert_eq!(
        (told(&talk), &talk.input),
        (vec!["user: one".to_owned()], &both)
    );
    messages.push(json!({"role": "user", "content": "and?"}));
    let talk = chat(json!({"model": "echo", "messages": messages})).unwrap();
    assert_eq!(
        (&talk.input["tool_results"], &talk.input["text"]),
        (&both["tool_results"], &json!("and?"))
    );
    // Before the last answer it is told again, as a text.
    messages.extend([
        json!({"role": "assistant", "content": "blue"}),
        json!({"role": "user", "content": "why?"}),
    ]);
    let talk = chat(json!({"model": "echo", "messages": messages})).unwrap();
    let expected = [
        "user: one".to_owned(),
        format!("user: {both}"),
        "user: and?".to_owned(),
        "[echo] blue".to_owned(),
    ];
    assert_eq!(told(&talk), expected);
    // What nobody called has no name.
    let talk = chat(json!({"model": "echo", "messages": [result("9", "x")]})).unwrap();
    assert_eq!(talk.input["tool_results"][0]["name"], Value::Null);
    let unfit =
        chat(json!({"model": "echo", "messages": [{"role": "tool", "content": "x"}]})).unwrap_err();
    assert_eq!(unfit.param.as_deref(), Some("messages[0].tool_call_id"));
}

#[test]
fn tools_are_functions_of_the_callers() {
    let of = |tools: Value, choice: Value| {
        let user = json!([{"role": "user", "content": "x"}]);
        let body =
            json!({"model": "echo", "messages": user, "tools": tools, "tool_choice": choice});
        chat(body).map(|talk| talk.tools)
    };
    let function =
        json!({"name": "look", "description": "Looks.", "parameters": {"type": "object"}});
    let nested = json!([{"type": "function", "function": function}]);
    let look = Tool {
        name: "look".to_owned(),
        description: "Looks.".to_owned(),
        parameters: r#"{"type":"object"}"#.to_owned(),
    };
    assert_eq!(of(nested.clone(), Value::Null), Ok(vec![look]));
    assert_eq!(of(nested, json!("none")), Ok(Vec::new()));
    let plain = of(json!([{"type": "function", "name": "look"}]), json!("auto")).unwrap();
    assert_eq!(plain[0].parameters, r#"{"type":"object","properties":{}}"#);
    for (tools, code, param) in [
        (
            json!([{"type": "web_search"}]),
            "unsupported_value",
            "tools[0]",
        ),
        (
            json!([{"type": "function"}]),
            "invalid_json",
            "tools[0].name",
        ),
        (json!({}), "invalid_json", "tools"),
        (Value::from(vec![json!({}); 129]), "invalid_json", "tools"),
    ] {
        let unfit = of(tools, Value::Null).unwrap_err();
        assert_eq!(
            (unfit.code, unfit.param.as_deref()),
            (code, Some(param)),
            "{unfit:?}"
        );
    }
}
