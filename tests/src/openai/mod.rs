//! What OpenAI's clients ask for: agents as models, chat completions, responses that can be followed again; and what
//! holds for all of it: keys, scopes, what is shown to whom.

mod chat;
mod continued;
mod followed;
mod responses;
mod tools;

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::server::Server;
use crate::stream::{Event, Events};
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

/// A puppet that relays this reply of a model.
async fn relaying(reply: Reply) -> (Provider, Server) {
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    (provider, server)
}

/// A response for which nobody waits, of a puppet that [`relaying`] made.
fn in_background() -> Value {
    json!({"model": "puppet", "input": script(json!([{"relay": "q"}])), "background": true})
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
