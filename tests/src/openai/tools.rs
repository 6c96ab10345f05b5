//! Tools of the caller's.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::server::Server;

use super::{
    chat, chunks, delta, events_of, followed, lines, number, respond, says, script, session_of,
};

/// Tools of the caller's, as chat completions offer them.
fn offered() -> Value {
    json!([{"type": "function", "function": {
        "name": "look",
        "description": "Looks somewhere.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
    }}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_asks_its_caller_to_call_tools() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let steps = json!([
        "tools",
        {"call_tools": [["weigh", "{}"]]},
        {"say": "well"},
        {"call_tools": [["look", "{\"where\":\"up\"}"], ["look", "{}"]]},
    ]);
    let messages = json!([{"role": "user", "content": script(steps)}]);
    let body = json!({"model": "puppet", "messages": messages, "tools": offered()});
    let answer = chat(&server, body.clone()).await;
    let choice = answer.is(200)["choices"][0].clone();
    let parameters = "{\\\"properties\\\":{\\\"where\\\":{\\\"type\\\":\\\"string\\\"}},\\\"type\\\":\\\"object\\\"}";
    let said = format!(
        "{{\"tools\":[[\"look\",\"Looks somewhere.\",\"{parameters}\"]]}}\n{{\"call_tools\":\"ToolsError::NotOffered(\\\"weigh\\\")\"}}\nwell"
    );
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], said);
    let calls = json!([
        {"id": "call-0", "type": "function", "function": {"name": "look", "arguments": "{\"where\":\"up\"}"}},
        {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]);
    assert_eq!(choice["message"]["tool_calls"], calls);
    let events = events_of(&server, &session_of(&answer)).await;
    let asked = events.iter().find(|event| event["kind"] == "tools-called");
    assert_eq!(asked.expect("an event")["calls"][0]["name"], "look");

    // The next request brings what they answered, and the calls that they answer.
    let mut messages = messages.as_array().expect("a list").clone();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": "call-0", "content": "sky"}));
    messages.push(json!({"role": "tool", "tool_call_id": "call-1", "content": [{"type": "text", "text": "floor"}]}));
    let mut next = body.clone();
    next["messages"] = json!(messages);
    let answer = chat(&server, next.clone()).await;
    assert_eq!(
        answer.is(200)["choices"][0]["message"]["content"],
        "look: sky\nlook: floor\n"
    );
    let page = server
        .get(&format!("/v1/sessions/{}/transcript", session_of(&answer)))
        .await;
    let results = json!({"tool_results": [
        {"id": "call-0", "name": "look", "arguments": "{\"where\":\"up\"}", "content": "sky"},
        {"id": "call-1", "name": "look", "arguments": "{}", "content": "floor"},
    ]});
    let text = page["items"][2]["text"].as_str().expect("a text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), results);

    // Told again later, it is the same text of the transcript.
    messages.push(json!({"role": "assistant", "content": "done"}));
    messages.push(json!({"role": "user", "content": "and?"}));
    next["messages"] = json!(messages);
    let answer = chat(&server, next).await;
    assert_eq!(
        answer.is(200)["choices"][0]["message"]["content"],
        "heard and?\n"
    );
    let page = server
        .get(&format!("/v1/sessions/{}/transcript", session_of(&answer)))
        .await;
    assert_eq!(page["items"][2]["text"].as_str(), Some(text));

    // As chunks.
    let mut streamed = body;
    streamed["stream"] = json!(true);
    let told = chunks(&chat(&server, streamed).await);
    let calls: Vec<Value> = calls
        .as_array()
        .expect("a list")
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let mut call = call.clone();
            call["index"] = json!(index);
            call
        })
        .collect();
    let end = [
        delta(json!({"tool_calls": calls}), Value::Null),
        delta(json!({}), json!("tool_calls")),
        "[DONE]".to_owned(),
    ];
    assert_eq!(told[told.len() - 3..], end);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_asks_its_caller_to_call_tools() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let tools = json!([{"type": "function", "name": "look", "parameters": {"type": "object"}}]);
    let steps = json!([{"say": "well"}, {"call_tools": [["look", "{}"]]}]);
    let body = json!({"model": "puppet", "input": script(steps), "tools": tools, "stream": true});
    let mut stream = respond(&server, body).events().await;
    let session = stream.head["x-antiphon-session"]
        .to_str()
        .expect("text")
        .to_owned();
    let all = stream.rest().await;
    assert_eq!(
        lines(&all)[5..],
        [
            r#"6000 output_text.done "well""#,
            "6001 content_part.done",
            "6002 output_item.done",
            "6003 output_item.added",
            r#"6004 function_call_arguments.delta "{}""#,
            "6005 function_call_arguments.done",
            "6006 output_item.done",
            r#"7000 completed "completed""#,
        ]
    );
    let id = format!("resp_{session}:2");
    let whole = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(all.last().expect("its end").data["response"], whole);
    assert_eq!(whole["output"][0]["content"][0]["text"], "well");
    assert_eq!(whole["output"][1], all[11].data["item"]);
    assert_eq!(
        (&whole["output"][1]["call_id"], &whole["output"][1]["name"]),
        (&json!("call-0"), &json!("look"))
    );
    for (at, event) in all.iter().enumerate() {
        let rest = followed(&server, &id, Some(number(event)))
            .await
            .rest()
            .await;
        assert_eq!(rest, all[at + 1..]);
    }
    // What they answered is enough: what was called stands in the journal.
    let output = json!([{"type": "function_call_output", "call_id": "call-0", "output": "sky"}]);
    let body = json!({"model": "puppet", "input": output, "previous_response_id": id});
    let next = respond(&server, body).await.is(200);
    assert_eq!(next["output"][0]["content"][0]["text"], "look: sky\n");
    // And without a session of its own, with everything told again.
    let input = json!([
        {"role": "user", "content": "look"},
        whole["output"][0],
        whole["output"][1],
        {"type": "function_call_output", "call_id": "call-0", "output": "sea"},
    ]);
    let next = respond(&server, json!({"model": "puppet", "input": input}))
        .await
        .is(200);
    assert_eq!(next["output"][0]["content"][0]["text"], "look: sea\n");
    // Or referred to.
    let refer = |id: &Value| {
        let input = json!([
            {"type": "item_reference", "id": id},
            {"type": "function_call_output", "call_id": "call-0", "output": "see"},
        ]);
        respond(&server, json!({"model": "puppet", "input": input}))
    };
    let next = refer(&whole["output"][1]["id"]).await.is(200);
    assert_eq!(next["output"][0]["content"][0]["text"], "look: see\n");
    for none in [
        "msg_none:2",
        "x",
        "fc_none:2_1",
        &format!("fc_{session}:2_other"),
    ] {
        let refused = refer(&json!(none)).await.refused(404, "response_not_found");
        assert_eq!(refused["error"]["param"], "input[0]");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_asked_for_last_and_only_if_they_are_offered() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let ask = |steps: Value, tools: Value, choice: Value| {
        let mut body = says("puppet", &script(steps));
        body["tools"] = tools;
        body["tool_choice"] = choice;
        chat(&server, body)
    };
    let look = || json!([{"call_tools": [["look", "{}"]]}]);
    let text = |answer: &Answer| answer.is(200)["choices"][0]["message"]["content"].clone();
    let refused = json!("{\"call_tools\":\"ToolsError::NotOffered(\\\"look\\\")\"}\n");
    assert_eq!(text(&ask(look(), Value::Null, Value::Null).await), refused);
    assert_eq!(text(&ask(look(), offered(), json!("none")).await), refused);
    assert_eq!(
        text(&ask(look(), offered(), json!("auto")).await),
        Value::Null
    );
    let after = json!([{"call_tools": [["look", "{}"]]}, {"say": "more"}]);
    let failed = ask(after, offered(), Value::Null)
        .await
        .refused(502, "turn_failed");
    let message = failed["error"]["message"].as_str().expect("a text");
    assert!(
        message.starts_with("trap: the agent said something after"),
        "{message}"
    );
    let search = json!([{"type": "web_search"}]);
    let refused = ask(look(), search, Value::Null)
        .await
        .refused(400, "unsupported_value");
    assert_eq!(refused["error"]["param"], "tools[0]");
    // In the answer of `invoke` too, where nothing is offered but by a session's earlier messages: none.
    let answer = server.ask("puppet", look()).await.is(200);
    assert_eq!(answer.get("tool_calls"), None);
    server.stop().await;
}
