//! What OpenAI's clients ask for: agents as models, chat completions, responses that can be followed again.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::server::Server;
use crate::stream::{Event, Events, kinds};
use crate::tenants::tenant;

fn chat(server: &Server, body: Value) -> Call {
    server.call("POST /v1/chat/completions").json(body)
}

/// One message of the user.
fn says(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

fn respond(server: &Server, body: Value) -> Call {
    server.call("POST /v1/responses").json(body)
}

/// A script of the puppet, as a text.
fn script(steps: Value) -> String {
    steps.to_string()
}

/// `author: text` of each item.
async fn transcript(server: &Server, session: &str) -> Vec<String> {
    let page = server
        .get(&format!("/v1/sessions/{session}/transcript"))
        .await;
    let items = page["items"].as_array().expect("items").clone();
    let line = |item: &Value| {
        let who = [&item["agent"], &item["author"]];
        let who = who.into_iter().find_map(Value::as_str).expect("a name");
        format!("{who}: {}", item["text"].as_str().expect("a text"))
    };
    items.iter().map(line).collect()
}

async fn events_of(server: &Server, session: &str) -> Vec<Value> {
    let page = server.get(&format!("/v1/sessions/{session}/events")).await;
    page["events"].as_array().expect("events").clone()
}

fn session_of(answer: &Answer) -> String {
    let session = answer.header("x-antiphon-session").expect("its session");
    session.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_models() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.configure("late", json!({})).await.is(201);
    let models = server.get("/v1/models").await;
    let model = server.get("/v1/models/echo").await;
    assert_eq!(models, json!({"object": "list", "data": [model]}));
    assert_eq!(
        (&model["id"], &model["object"]),
        (&json!("echo"), &json!("model"))
    );
    assert_eq!(model["owned_by"], "default");
    assert!(
        model["created"]
            .as_u64()
            .is_some_and(|it| it > 1_700_000_000),
        "{model}"
    );
    for none in ["late", "none", "gpt-4.1", "Echo", "a%20b"] {
        let refused = server.call(&format!("GET /v1/models/{none}")).await;
        let body = refused.refused(404, "model_not_found");
        assert_eq!(body["error"]["param"], "model");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }
    server.stop().await;
}

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

/// Seconds since 1970.
fn seconds(text: &str) -> u64 {
    let time = humantime::parse_rfc3339(text).expect("a time");
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since.expect("it is after 1970").as_secs()
}

/// The chunks of a stream, without what is random.
fn chunks(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let mut lines = Vec::new();
    let mut head: Option<Value> = None;
    for block in answer.text().split_terminator("\n\n") {
        if block.starts_with(": ") {
            continue;
        }
        let data = block.strip_prefix("data: ").expect("chunks have no names");
        let Ok(mut chunk) = serde_json::from_str::<Value>(data) else {
            lines.push(data.to_owned());
            continue;
        };
        if let Some(fields) = chunk.as_object_mut().filter(|it| it.contains_key("id")) {
            let own: Vec<Value> = ["id", "object", "created", "model"]
                .map(|name| fields.remove(name).expect(name))
                .to_vec();
            let own = Value::from(own);
            assert_eq!(
                head.get_or_insert(own.clone()),
                &own,
                "all are of one answer"
            );
        }
        lines.push(chunk.to_string());
    }
    lines
}

fn delta(delta: Value, finish: Value) -> String {
    json!({"choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]})
        .to_string()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_the_same_answer() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let messages = json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]);
    let body = json!({"model": "echo", "messages": messages});
    let ask = |server: &Server, body: &Value| chat(server, body.clone()).idempotency("k");
    let first = ask(&server, &body).await;
    let again = ask(&server, &body).await;
    assert_eq!((first.is_replayed(), again.is_replayed()), (false, true));
    assert_eq!(first.is(200), again.is(200));
    ask(&server, &says("echo", "other"))
        .await
        .refused(422, "idempotency_key_reused");
    let respond =
        |server: &Server| respond(server, json!({"model": "echo", "input": "x"})).idempotency("k");
    let response = respond(&server).await;
    let server = server.restart().await;
    assert_eq!(ask(&server, &body).await.is(200), first.json());
    let again = respond(&server).await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), response.is(200));
    assert_eq!(events_of(&server, &session_of(&first)).await.len(), 7);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_made_and_looked_at_again() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let asked = script(json!([{"transcript": 10}, "instructions"]));
    let answer = respond(
        &server,
        json!({
            "model": "puppet",
            "instructions": "be brief",
            "metadata": {"a": "b"},
            "input": [
                {"role": "user", "content": "one"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
                {"role": "user", "content": [{"type": "input_text", "text": asked}]},
            ],
        }),
    )
    .await;
    let body = answer.is(200);
    let session = session_of(&answer);
    let text = "{\"transcript\":[\"user: one\",\"puppet (complete): two\"]}\n{\"instructions\":\"be brief\"}\n";
    let (id, item) = (format!("resp_{session}:4"), format!("msg_{session}:4"));
    assert_eq!(body["id"], json!(id));
    assert_eq!(
        body["output"],
        json!([{
            "id": item, "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        }])
    );
    for (field, value) in [
        ("status", json!("completed")),
        ("instructions", json!("be brief")),
        ("metadata", json!({"a": "b"})),
        ("previous_response_id", Value::Null),
        ("store", json!(true)),
        ("error", Value::Null),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    let path = format!("/v1/responses/{id}");
    assert_eq!(server.get(&path).await, body);
    let server = server.restart().await;
    assert_eq!(server.get(&path).await, body);
    // Its operation is the same thing.
    let operation = server.get(&format!("/v1/operations/{session}:4")).await;
    assert_eq!(operation["response"]["reply"], json!(text));
    let deleted = server.call(&format!("DELETE {path}")).await.is(200);
    assert_eq!(
        deleted,
        json!({"id": id, "object": "response", "deleted": true})
    );
    server
        .call(&format!("GET {path}"))
        .await
        .refused(410, "session_gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_goes_on_from_the_one_before() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    let tell = script(json!([{"transcript": 10}]));
    let after = |model: &str, previous: &Value, input: &str| {
        let body = json!({"model": model, "input": input, "previous_response_id": previous});
        respond(&server, body)
    };
    let text = |body: &Value| {
        body["output"][0]["content"][0]["text"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = after("puppet", &first["id"], "two").await;
    assert_eq!(session_of(&second), session);
    let second = second.is(200);
    assert_eq!(second["previous_response_id"], first["id"]);
    let told = text(&after("puppet", &second["id"], &tell).await.is(200));
    assert_eq!(
        told,
        "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\",\"user: two\",\"puppet (complete): heard two\\n\"]}\n"
    );
    // From an older one it is another session, which has nothing of what came later.
    let branch = |key: &str| after("puppet", &first["id"], &tell).idempotency(key);
    let other = branch("k").await;
    assert_ne!(session_of(&other), session);
    let body = other.is(200);
    assert_eq!(
        text(&body),
        "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\"]}\n"
    );
    let again = branch("k").await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), body);
    assert_eq!(
        server
            .get(&format!(
                "/v1/responses/{}",
                body["id"].as_str().expect("an id")
            ))
            .await,
        body
    );

    for previous in [
        "resp_none:2",
        "resp_x",
        "chatcmpl-1",
        &format!("resp_{session}:1"),
    ] {
        let refused = after("puppet", &json!(previous), "x").await;
        let body = refused.refused(400, "previous_response_not_found");
        assert_eq!(body["error"]["param"], "previous_response_id");
    }
    after("echo", &second["id"], "x")
        .await
        .refused(409, "agent_not_in_session");
    let call = after("puppet", &second["id"], "x").header("x-antiphon-session", "s");
    call.await.refused(400, "unsupported_value");
    server.stop().await;
}

/// One that goes on from another one, with more fields.
fn goes_on(server: &Server, model: &str, previous: &Value, input: Value, more: Value) -> Call {
    let mut body = json!({"model": model, "input": input, "previous_response_id": previous});
    let fields = more.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("an object").extend(fields);
    respond(server, body)
}

async fn session_count(server: &Server) -> usize {
    let page = server.get("/v1/sessions").await;
    page["sessions"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_go_on_at_once_each_sees_its_own_alone() {
    let server = Server::with(|config| config.limits.forks_max = 8).await;
    server.deploy("puppet").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let asks = (0..8).map(|n| {
        let input = script(json!([{"transcript": 10}, {"say": format!("{n}")}]));
        goes_on(&server, "puppet", &first["id"], json!(input), json!({})).into_future()
    });
    let answers = futures_util::future::join_all(asks).await;
    let mut there = 0;
    for (n, answer) in answers.iter().enumerate() {
        let body = answer.is(200);
        let told = "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\"]}\n";
        assert_eq!(
            body["output"][0]["content"][0]["text"],
            format!("{told}{n}"),
            "nobody else's"
        );
        there += usize::from(session_of(answer) == session);
    }
    assert_eq!(there, 1, "the first goes on there, all others in forks");
    assert_eq!(session_count(&server).await, 8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_where_a_response_ended_is_not_answered_twice() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one")
        .wait(&gate)
        .say("!")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let body =
        json!({"model": "puppet", "input": script(json!([{"relay": "q"}])), "background": true});
    let answer = respond(&server, body).await;
    let session = session_of(&answer);
    let first = answer.is(200)["id"].clone();
    let mut reader = followed(&server, first.as_str().expect("an id"), None).await;
    let is_delta = |event: &Event| event.kind == "response.output_text.delta";
    reader.until(is_delta).await;
    let waiting = |input: &str| {
        let body = json!({"model": "puppet", "input": input, "background": true});
        respond(&server, body).header("x-antiphon-session", &session)
    };
    let second = waiting("two").await.is(200)["id"].clone();
    let third = waiting("three").await.is(200)["id"].clone();
    // Nothing goes on from what is not over, whether it runs or waits.
    for open in [&first, &second] {
        let refused = goes_on(&server, "puppet", open, json!("x"), json!({})).await;
        let body = refused.refused(400, "previous_response_not_finished");
        assert_eq!(body["error"]["param"], "previous_response_id");
    }
    // One that was taken back is over, and may be gone on from where it was.
    let cancel = format!(
        "POST /v1/responses/{}/cancel",
        third.as_str().expect("an id")
    );
    assert_eq!(server.call(&cancel).await.is(200)["status"], "cancelled");
    gate.open();
    reader.rest().await;
    let second = second.as_str().expect("an id");
    followed(&server, second, None).await.rest().await;

    let other = goes_on(&server, "puppet", &first, json!("four"), json!({})).await;
    let fork = session_of(&other);
    assert_ne!(fork, session);
    let text = &other.is(200)["output"][0]["content"][0]["text"];
    assert_eq!(*text, "heard four\n");
    let events = events_of(&server, &fork).await;
    let of = |kind: &'static str| events.iter().filter(move |it| it["kind"] == kind);
    let reasons: Vec<&Value> = of("message-set-aside").map(|it| &it["reason"]).collect();
    let elsewhere = json!("it is answered in the session that this one was forked from");
    assert_eq!(reasons, [&json!("cancelled"), &elsewhere]);
    assert_eq!(of("turn-started").count(), 2, "the first's and the fork's");

    let other = goes_on(&server, "puppet", &third, json!("five"), json!({})).await;
    assert_ne!(session_of(&other), session);
    let text = &other.is(200)["output"][0]["content"][0]["text"];
    assert_eq!(*text, "heard five\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_no_fork_and_its_key_free() {
    let server = Server::with(|config| config.limits.message_bytes_max = 200).await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = goes_on(&server, "puppet", &first["id"], json!("two"), json!({})).await;
    let second = second.is(200);
    let ask = |model: &str, input: Value, more: Value| {
        goes_on(&server, model, &first["id"], input, more).idempotency("k")
    };
    let none = json!({});
    let image = json!([{"type": "image_generation_call"}]);
    ask("puppet", image, none.clone())
        .await
        .refused(400, "unsupported_value");
    ask("puppet", json!("x".repeat(201)), none.clone())
        .await
        .refused(413, "too_large");
    let unnamed = json!({"user": "auth0|x"});
    ask("puppet", json!("x"), unnamed)
        .await
        .refused(400, "invalid_name");
    ask("echo", json!("x"), none.clone())
        .await
        .refused(409, "agent_not_in_session");
    let named = ask("puppet", json!("x"), none.clone()).header("x-antiphon-session", &session);
    let refused = named.await.refused(400, "unsupported_value");
    assert_eq!(refused["error"]["param"], "previous_response_id");
    assert_eq!(session_count(&server).await, 1);
    let answer = ask("puppet", json!("three"), none.clone()).await;
    assert_eq!(
        answer.is(200)["output"][0]["content"][0]["text"],
        "heard three\n"
    );
    // Where it may go on without a fork, it may be named.
    let newest = goes_on(
        &server,
        "puppet",
        &second["id"],
        json!("four"),
        none.clone(),
    );
    let newest = newest.header("x-antiphon-session", &session).await;
    assert_eq!(session_of(&newest), session);
    newest.is(200);
    // A key counts for the whole body.
    let alone = respond(&server, json!({"model": "puppet", "input": "x"})).idempotency("other");
    alone.await.is(200);
    let other = goes_on(&server, "puppet", &first["id"], json!("x"), none);
    let other = other.idempotency("other").await;
    other.refused(422, "idempotency_key_reused");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_its_answer_when_what_it_referred_to_is_gone() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = goes_on(&server, "puppet", &first["id"], json!("two"), json!({}));
    second.await.is(200);
    let refer = || {
        let input = json!([
            {"type": "item_reference", "id": first["output"][0]["id"]},
            {"role": "user", "content": "three"},
        ]);
        respond(&server, json!({"model": "puppet", "input": input})).idempotency("refers")
    };
    let branch =
        || goes_on(&server, "puppet", &first["id"], json!("four"), json!({})).idempotency("branch");
    let (referred, branched) = (refer().await.is(200), branch().await.is(200));
    let delete = server.call(&format!("DELETE /v1/sessions/{session}"));
    assert_eq!(delete.await.status, 204);
    let again = refer().await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), referred);
    let again = branch().await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), branched);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_session_of_people_a_response_is_one_of_its_turns() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("hello")).await;
    let body = json!({"model": "echo", "input": "one", "user": "ben"});
    let first = respond(&server, body)
        .header("x-antiphon-session", "s")
        .await;
    let first = first.is(200);
    assert_eq!(first["id"], "resp_s:7");
    server.reply("echo", "s", json!("meanwhile")).await;
    let body = json!({"model": "echo", "input": "two", "previous_response_id": first["id"]});
    let second = respond(&server, body).await;
    assert_eq!(session_of(&second), "s");
    // Any message of a person can be looked at as a response, and none be deleted alone.
    let shown = server.get("/v1/responses/resp_s:2").await;
    assert_eq!(shown["output"][0]["content"][0]["text"], "hello");
    server
        .call("DELETE /v1/responses/resp_s:7")
        .await
        .refused(409, "response_in_session");
    assert_eq!(transcript(&server, "s").await.len(), 8);
    server.stop().await;
}

/// However often a short request refers to a long answer, it is no longer than one that says it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_are_bounded_and_for_those_who_may_read() {
    let server = Server::with(|config| {
        config.limits.recounted_max = 4;
        config.limits.request_bytes_max = 2_000;
    })
    .await;
    server.deploy("echo").await;
    let made = respond(&server, json!({"model": "echo", "input": "x".repeat(600)})).await;
    let item = made.is(200)["output"][0]["id"].clone();
    let refer = |count: usize, input: &str| {
        let mut items = vec![json!({"type": "item_reference", "id": item}); count];
        items.push(json!({"role": "user", "content": input}));
        respond(&server, json!({"model": "echo", "input": items}))
    };
    let refused = refer(3, "y").await.refused(413, "too_large");
    assert_eq!(refused["error"]["message"], "2000 bytes is the most");
    assert!(server.limits_hit().await.contains("request_bytes_max"));
    // Counted before any of them is looked for.
    let none = vec![json!({"type": "item_reference", "id": "msg_none:2"}); 5];
    let refused = respond(&server, json!({"model": "echo", "input": none})).await;
    let refused = refused.refused(413, "too_large");
    let message = "4 earlier messages is the most";
    assert_eq!(refused["error"]["message"], message);
    assert!(server.limits_hit().await.contains("recounted_max"));
    let answer = refer(2, "y").await;
    assert_eq!(answer.is(200)["output"][0]["content"][0]["text"], "y");
    let told = transcript(&server, &session_of(&answer)).await;
    assert_eq!(told.len(), 4, "both were told");
    for (scopes, status) in [(json!(["invoke"]), 403), (json!(["invoke", "read"]), 200)] {
        let minted = server.call("POST /v1/keys").json(json!({"scopes": scopes}));
        let key = minted.await.is(201)["key"].clone();
        let answer = refer(1, "y").key(key.as_str().expect("a key")).await;
        match status {
            200 => drop(answer.is(200)),
            status => drop(answer.refused(status, "insufficient_scope")),
        }
    }
    server.stop().await;
}

/// `number type`, and what it says of status or text.
fn lines(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        assert_eq!(event.kind, event.data["type"].as_str().expect("a type"));
        let says = [
            &event.data["delta"],
            &event.data["text"],
            &event.data["response"]["status"],
        ];
        let says = says.into_iter().find(|it| !it.is_null());
        let says = says.map_or_else(String::new, |it| format!(" {it}"));
        let kind = event.kind.trim_start_matches("response.");
        format!("{} {kind}{says}", event.data["sequence_number"])
    };
    events.iter().map(line).collect()
}

async fn followed(server: &Server, id: &str, after: Option<u64>) -> Events {
    let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
    let line = format!("GET /v1/responses/{id}?stream=true{after}");
    server.call(&line).events().await
}

fn number(event: &Event) -> u64 {
    event.data["sequence_number"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_is_gone_on_with_after_any_of_them() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let steps = json!([{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]);
    let body = json!({"model": "puppet", "input": script(steps), "stream": true});
    let mut stream = respond(&server, body).events().await;
    let session = stream.head["x-antiphon-session"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(stream.head.contains_key("x-antiphon-run"));
    let all = stream.rest().await;
    assert_eq!(
        lines(&all),
        [
            r#"2000 created "queued""#,
            r#"3000 in_progress "in_progress""#,
            // 4 says what the agent pulled.
            "5000 output_item.added",
            "5001 content_part.added",
            r#"5002 output_text.delta "one ""#,
            r#"8000 output_text.delta "two""#,
            r#"9000 output_text.done "one two""#,
            "9001 content_part.done",
            "9002 output_item.done",
            r#"9003 completed "completed""#,
        ]
    );
    let id = format!("resp_{session}:2");
    let whole = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(all.last().expect("its end").data["response"], whole);
    assert_eq!(all[8].data["item"], whole["output"][0]);
    let resumed = async |server: &Server| {
        for (at, event) in all.iter().enumerate() {
            let rest = followed(server, &id, Some(number(event)))
                .await
                .rest()
                .await;
            assert_eq!(rest, all[at + 1..]);
        }
        assert_eq!(followed(server, &id, None).await.rest().await, all);
    };
    resumed(&server).await;
    let server = server.restart().await;
    resumed(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_in_the_background_is_followed_while_it_runs() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one ")
        .wait(&gate)
        .say("two")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let body =
        json!({"model": "puppet", "input": script(json!([{"relay": "q"}])), "background": true});
    let answer = respond(&server, body).await;
    let made = answer.is(200);
    assert!(
        ["queued", "in_progress"].contains(&made["status"].as_str().expect("a status")),
        "{made}"
    );
    assert_eq!(
        (&made["background"], &made["output"]),
        (&json!(true), &json!([]))
    );
    let id = made["id"].as_str().expect("an id").to_owned();
    let mut reader = followed(&server, &id, None).await;
    let is_delta = |event: &Event| event.kind == "response.output_text.delta";
    let seen = reader.until(is_delta).await;
    drop(reader);
    let running = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(running["status"], "in_progress");
    assert_eq!(running["output"][0]["content"][0]["text"], "one ");
    assert_eq!(running["usage"], Value::Null);
    // The rest, by another reader, which was there before the rest was.
    let mut rest = followed(&server, &id, seen.last().map(number)).await;
    gate.open();
    let rest = rest.rest().await;
    let all = followed(&server, &id, None).await.rest().await;
    let joined: Vec<Event> = seen.into_iter().chain(rest).collect();
    assert_eq!(joined, all);
    let said: String = all
        .iter()
        .filter(|it| is_delta(it))
        .map(|it| it.data["delta"].as_str().expect("words"))
        .collect();
    assert_eq!(said, "one two");
    assert_eq!(
        all.last().expect("its end").data["response"],
        server.get(&format!("/v1/responses/{id}")).await
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_cancelled_and_says_so() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("half")
        .wait(&gate)
        .say("never")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let body = json!({"model": "puppet", "input": script(json!([{"relay": "q"}])), "background": true, "stream": true});
    let mut stream = respond(&server, body).events().await;
    let seen = stream
        .until(|event| event.kind == "response.output_text.delta")
        .await;
    let id = seen[0].data["response"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let cancel = format!("POST /v1/responses/{id}/cancel");
    let cancelled = server.call(&cancel).await.is(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["output"][0]["status"], "incomplete");
    assert_eq!(cancelled["output"][0]["content"][0]["text"], "half");
    assert_eq!(server.call(&cancel).await.is(200), cancelled);
    let rest = stream.rest().await;
    let expected = [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds(&rest), expected);
    assert_eq!(rest[3].data["response"], cancelled);
    provider.given_up(1).await;

    // One whose turn fails, as an event and as a status.
    let failing = script(json!([{"fail": "no idea"}]));
    let body = json!({"model": "puppet", "input": failing, "background": true, "stream": true});
    let events = respond(&server, body).events().await.rest().await;
    let last = events.last().expect("its end");
    assert_eq!(last.kind, "response.failed");
    assert_eq!(
        last.data["response"]["error"],
        json!({"code": "server_error", "message": "agent: no idea"})
    );
    let body = json!({"model": "puppet", "input": failing});
    let refused = respond(&server, body).await;
    refused.refused(502, "turn_failed");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    server.stop().await;
}

/// How long a response is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_stored_is_soon_gone() {
    let server = Server::start().await;
    server.deploy("echo").await;
    for (store, kept_s) in [(true, 24 * 3_600), (false, 3_600)] {
        let answer = respond(
            &server,
            json!({"model": "echo", "input": "x", "store": store}),
        )
        .await;
        assert_eq!(answer.is(200)["store"], json!(store));
        let shown = server
            .get(&format!("/v1/sessions/{}", session_of(&answer)))
            .await;
        let time = |name: &str| seconds(shown[name].as_str().expect("a time"));
        assert_eq!(time("expires_at") - time("last_event_at"), kept_s);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_do_what_their_scopes_say_and_tenants_see_their_own() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let made = respond(&server, json!({"model": "echo", "input": "x"})).await;
    let id = made.is(200)["id"].as_str().expect("an id").to_owned();
    let mut keys = Vec::new();
    for scope in ["invoke", "read"] {
        let minted = server
            .call("POST /v1/keys")
            .json(json!({"scopes": [scope]}));
        keys.push(
            minted.await.is(201)["key"]
                .as_str()
                .expect("a key")
                .to_owned(),
        );
    }
    let other = tenant(&server, "other").await;
    let response = json!({"model": "echo", "input": "x"});
    for (line, body, scope, elsewhere) in [
        ("GET /v1/models".to_owned(), None, "read", None),
        (
            "GET /v1/models/echo".to_owned(),
            None,
            "read",
            Some("model_not_found"),
        ),
        (
            "POST /v1/chat/completions".to_owned(),
            Some(says("echo", "x")),
            "invoke",
            Some("model_not_found"),
        ),
        (
            "POST /v1/responses".to_owned(),
            Some(response),
            "invoke",
            Some("model_not_found"),
        ),
        (
            format!("GET /v1/responses/{id}"),
            None,
            "read",
            Some("response_not_found"),
        ),
        (
            format!("POST /v1/responses/{id}/cancel"),
            None,
            "invoke",
            Some("response_not_found"),
        ),
        (
            format!("DELETE /v1/responses/{id}"),
            None,
            "invoke",
            Some("response_not_found"),
        ),
    ] {
        let call = |key: &str| {
            let call = server.call(&line).key(key);
            match &body {
                Some(body) => call.json(body.clone()),
                None => call,
            }
        };
        let (allowed, denied) = match scope {
            "invoke" => (&keys[0], &keys[1]),
            _ => (&keys[1], &keys[0]),
        };
        call(denied).await.refused(403, "insufficient_scope");
        match elsewhere {
            Some(code) => drop(call(&other).await.refused(404, code)),
            None => assert_eq!(call(&other).await.is(200)["data"], json!([])),
        }
        call(allowed).await.is(200);
    }
    server.stop().await;
}

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

/// What an application tells an agent is not for the people in the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instructions_are_shown_to_those_who_may_inspect() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let messages =
        json!([{"role": "system", "content": "the secret"}, {"role": "user", "content": "hi"}]);
    let call = chat(&server, json!({"model": "echo", "messages": messages}));
    call.header("x-antiphon-session", "s").await.is(200);
    let events = events_of(&server, "s").await;
    let received = events.iter().find(|it| it["kind"] == "message-received");
    let message = received.expect("it is there")["message"]
        .as_str()
        .expect("an id");
    let line = format!("GET /v1/responses/resp_{message}");
    let shown = server.call(&line).await.is(200);
    assert_eq!(shown["instructions"], "the secret");
    let token = server.call("POST /v1/sessions/s/tokens");
    let token = token.json(json!({"author": "ana"})).await.is(201);
    let key = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["read", "invoke"]}));
    let key = key.await.is(201);
    for reader in [&token["token"], &key["key"]] {
        let reader = reader.as_str().expect("a text");
        let shown = server.call(&line).key(reader).await.is(200);
        assert_eq!(shown["instructions"], Value::Null);
        assert_eq!(shown["output"][0]["content"][0]["text"], "hi");
        let line = format!("{line}?stream=true");
        let events = server.call(&line).key(reader).events().await.rest().await;
        assert!(!format!("{events:?}").contains("the secret"));
    }
    server.stop().await;
}

/// A server that stops: who asked without a key is told not to ask again, for the message waits for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_is_told_not_to_ask_again_once_the_message_was_taken() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().say("Half ").wait(&gate)]).await;
    let server = Server::asking(&provider).await;
    server.deploy("talker").await;
    server.session("s", &["talker"]).await;
    let ask = |key: Option<&str>, streams: bool| {
        let mut body = says("talker", "hi");
        body["stream"] = streams.into();
        let call = chat(&server, body).header("x-antiphon-session", "s");
        match key {
            Some(key) => call.idempotency(key),
            None => call,
        }
    };
    let mut events = server.follow("s").await;
    let mut half = ask(None, true).events().await;
    events.until(|it| it.kind == "spoke").await;
    let waiting = [
        (None, false),
        (None, true),
        (Some("k"), false),
        (Some("l"), true),
    ];
    let asked = waiting.map(|(key, streams)| {
        let call = ask(key, streams);
        tokio::spawn(async move { call.await })
    });
    for _ in &asked {
        events.until(|it| it.kind == "message-received").await;
    }
    server.shutdown.stop();
    for (asked, (key, _)) in asked.into_iter().zip(waiting) {
        let answer = asked.await.expect("it does not panic");
        answer.refused(503, "draining");
        let may_retry = answer.header("x-should-retry");
        assert_eq!(may_retry, key.is_none().then_some("false"));
    }
    let rest = half.rest().await;
    let last = rest.last().expect("something");
    assert_eq!(last.data["error"]["code"], "draining", "{rest:?}");
    drop(gate);
    server.stop().await;
}
