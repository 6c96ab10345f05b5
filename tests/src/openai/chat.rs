//! Chat completions.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;

use super::{chat, chunks, delta, events_of, says, script, seconds, session_of, transcript};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_alone_is_a_session_of_its_own() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let asked = script(json!([{"transcript": 10}, "instructions", {"say": "four"}]));
    let answer = chat(
        &server,
        json!({
            "model": "puppet",
            "temperature": 0.1,
            "some_later_field": {"x": 1},
            "user": "ana",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "two"},
                {"role": "user", "content": [{"type": "text", "text": "three"}], "name": "ben"},
                {"role": "assistant", "content": "3"},
                {"role": "developer", "content": "and kind"},
                {"role": "user", "content": asked},
            ],
        }),
    )
    .await;
    let body = answer.is(200);
    let session = session_of(&answer);
    let said = "{\"transcript\":[\"ana: one\",\"puppet (complete): two\",\"ben: three\",\"puppet (complete): 3\"]}\n\
        {\"instructions\":\"be brief\\n\\nand kind\"}\nfour";
    let created = body["created"].as_u64().expect("seconds");
    assert_eq!(
        body,
        json!({
            "id": format!("chatcmpl-{session}:6"),
            "object": "chat.completion",
            "created": created,
            "model": "puppet",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": said, "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        })
    );
    // What the agent saw is what is saved, and what people are shown.
    let expected = ["ana: one", "puppet: two", "ben: three", "puppet: 3"];
    let mut expected = expected.map(str::to_owned).to_vec();
    expected.extend([format!("ana: {asked}"), format!("puppet: {said}")]);
    assert_eq!(transcript(&server, &session).await, expected);
    let events = events_of(&server, &session).await;
    let told = |at: usize| (events[at]["by"].clone(), events[at]["text"].clone());
    assert_eq!(events[1]["kind"], "recounted");
    assert_eq!(told(1), (json!({"author": "ana"}), json!("one")));
    assert_eq!(told(2), (json!({"agent": "puppet"}), json!("two")));
    assert_eq!(events[5]["kind"], "message-received");
    assert!(
        !events
            .iter()
            .any(|it| it.to_string().contains("be brief") && it["kind"] != "spoke")
    );
    assert_eq!(
        answer.header("x-antiphon-offset"),
        events[5]["offset"].as_str()
    );
    assert_eq!(answer.header("x-antiphon-run"), events[6]["run"].as_str());
    let shown = server.get(&format!("/v1/sessions/{session}")).await;
    let time = |name: &str| seconds(shown[name].as_str().expect("a time"));
    assert_eq!(time("expires_at") - time("last_event_at"), 3_600);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_chunks_of_what_was_said() {
    let reply = Reply::stream().say("one ").say("two").finish("stop");
    let provider = Provider::start([reply.clone(), reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let steps = json!([{"say": "a\n"}, {"commit": ["x", "y"]}, {"relay": "q"}]);
    let mut body = says("puppet", &script(steps));
    body["stream"] = json!(true);
    let answer = chat(&server, body.clone()).await;
    let told = chunks(&answer);
    assert_eq!(
        told[0],
        delta(json!({"role": "assistant", "content": ""}), Value::Null)
    );
    assert_eq!(told[1], delta(json!({"content": "a\n"}), Value::Null));
    let end = [delta(json!({}), json!("stop")), "[DONE]".to_owned()];
    assert_eq!(told[told.len() - 2..], end);
    // One chunk for each entry of what was said.
    let session = session_of(&answer);
    let events = events_of(&server, &session).await;
    let spoke = events.iter().filter(|event| event["kind"] == "spoke");
    let spoke: Vec<String> = spoke
        .map(|event| delta(json!({"content": event["text"]}), Value::Null))
        .collect();
    assert_eq!(told[1..told.len() - 2], spoke);
    assert!(answer.header("x-antiphon-run").is_some());
    assert_eq!(
        answer.header("x-antiphon-offset"),
        events[1]["offset"].as_str()
    );

    body["stream_options"] = json!({"include_usage": true});
    let answer = chat(&server, body).await;
    let told = chunks(&answer);
    let chunk: Value = serde_json::from_str(&told[0]).expect("a chunk");
    assert_eq!(chunk["usage"], Value::Null);
    assert!(chunk.as_object().expect("an object").contains_key("usage"));
    let ended = events_of(&server, &session_of(&answer)).await;
    let usage = ended.last().expect("its end")["usage"].clone();
    let tokens = |name: &str| usage[name].as_u64().unwrap_or_default();
    let (input, output) = (tokens("input_tokens"), tokens("output_tokens"));
    assert!(output > 0, "{usage}");
    let last = json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}});
    assert_eq!(
        told[told.len() - 2..],
        [last.to_string(), "[DONE]".to_owned()]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_session_its_own_transcript_is_the_truth() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("hello")).await;
    let ask = |model: &str, session: &str| {
        let messages = json!([
            {"role": "user", "content": "a lie"},
            {"role": "assistant", "content": "another"},
            {"role": "user", "content": "new"},
            {"role": "user", "content": "words"},
        ]);
        let call = chat(
            &server,
            json!({"model": model, "messages": messages, "user": "ben"}),
        );
        call.header("x-antiphon-session", session)
    };
    let answer = ask("echo", "s").await;
    let body = answer.is(200);
    assert_eq!(body["choices"][0]["message"]["content"], "new\n\nwords");
    assert_eq!(session_of(&answer), "s");
    let expected = [
        "ana: hello",
        "echo: hello",
        "ben: new\n\nwords",
        "echo: new\n\nwords",
    ];
    assert_eq!(transcript(&server, "s").await, expected);
    ask("echo", "none").await.refused(404, "session_not_found");
    ask("echo", "a/b").await.refused(400, "invalid_name");
    let refused = ask("puppet", "s").await;
    refused.refused(409, "agent_not_in_session");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_refused_in_their_form() {
    let server = Server::with(|config| {
        config.limits.message_bytes_max = 20;
        config.limits.recounted_max = 2;
    })
    .await;
    server.deploy("echo").await;
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = json!({"role": "assistant", "content": "y"});
    let long = "0123456789012345678-+";
    for (body, status, code, param) in [
        (says("none", "x"), 404, "model_not_found", json!("model")),
        (says("gpt-4.1", "x"), 404, "model_not_found", json!("model")),
        (
            json!({"model": "echo"}),
            400,
            "invalid_json",
            json!("messages"),
        ),
        (
            json!({"model": "echo", "messages": [user("x")], "n": 3}),
            400,
            "unsupported_value",
            json!("n"),
        ),
        (
            json!({"model": "echo", "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            400,
            "unsupported_value",
            json!("messages[0].content[0]"),
        ),
        (
            json!({"model": "echo", "messages": [user("x")], "user": "auth0|x"}),
            400,
            "invalid_name",
            json!("user"),
        ),
        (
            json!({"model": "echo", "messages": [assistant]}),
            400,
            "invalid_json",
            json!("messages"),
        ),
        (says("echo", long), 413, "too_large", Value::Null),
        (
            json!({"model": "echo", "messages": [{"role": "system", "content": long}, user("x")]}),
            413,
            "too_large",
            Value::Null,
        ),
        (
            json!({"model": "echo", "messages": [user(long), assistant, user("x")]}),
            413,
            "too_large",
            Value::Null,
        ),
        (
            json!({"model": "echo", "messages": [user("1"), assistant, user("2"), assistant, user("x")]}),
            413,
            "too_large",
            Value::Null,
        ),
    ] {
        let body = chat(&server, body).await.refused(status, code);
        let error = body["error"].as_object().expect("an error");
        let names: Vec<&String> = error.keys().collect();
        assert_eq!(names, ["code", "message", "param", "type"]);
        assert_eq!(error["param"], param, "{body}");
    }
    assert!(server.limits_hit().await.contains("recounted_max"));
    let call = server.call("POST /v1/chat/completions").body("{");
    call.await.refused(400, "invalid_json");
    let unkeyed = chat(&server, says("echo", "x")).key("wrong").await;
    unkeyed.refused(401, "invalid_key");
    // As much as may be.
    let most = json!([{"role": "system", "content": &long[1..]}, user(&long[1..]), assistant, user(&long[1..])]);
    let answer = chat(&server, json!({"model": "echo", "messages": most})).await;
    assert_eq!(
        answer.is(200)["choices"][0]["message"]["content"],
        long[1..]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_failed_is_an_error_and_is_not_asked_again() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let failing = script(json!([{"say": "shown"}, {"fail": "no idea"}]));
    let answer = chat(&server, says("puppet", &failing)).await;
    let body = answer.refused(502, "turn_failed");
    assert_eq!(
        (&body["reply"], &body["error"]["type"]),
        (&json!("shown"), &json!("server_error"))
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    let mut streamed = says("puppet", &failing);
    streamed["stream"] = json!(true);
    let answer = chat(&server, streamed).await;
    let told = chunks(&answer);
    assert_eq!(told[1], delta(json!({"content": "shown"}), Value::Null));
    let last: Value = serde_json::from_str(told.last().expect("an error")).expect("JSON");
    assert_eq!(last["error"]["code"], "turn_failed");
    assert_eq!(last["error"]["message"], "agent: no idea");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_stopped_is_what_was_shown() {
    let gates = [Gate::new(), Gate::new()];
    let reply = |gate: &Gate| {
        Reply::stream()
            .say("half")
            .wait(gate)
            .say("never")
            .finish("stop")
    };
    let provider = Provider::start([reply(&gates[0]), reply(&gates[1])]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut body = says("puppet", &script(json!([{"relay": "q"}])));
    let mut events = server.follow("s").await;
    let mut answers = Vec::new();
    for stream in [false, true] {
        body["stream"] = json!(stream);
        let call = chat(&server, body.clone()).header("x-antiphon-session", "s");
        let call = tokio::spawn(async move { call.await });
        events.until(|event| event.kind == "spoke").await;
        server.call("POST /v1/sessions/s/interrupt").await.is(202);
        answers.push(call.await.expect("it does not panic"));
    }
    let choice = &answers[0].is(200)["choices"][0];
    assert_eq!(choice["message"]["content"], "half");
    assert_eq!(choice["finish_reason"], "length");
    let told = chunks(&answers[1]);
    let expected = [
        delta(json!({"role": "assistant", "content": ""}), Value::Null),
        delta(json!({"content": "half"}), Value::Null),
        delta(json!({}), json!("length")),
        "[DONE]".to_owned(),
    ];
    assert_eq!(told, expected);
    server.stop().await;
}
