//! One turn: answered at once, as a stream, or later; and never twice.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{kinds, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_and_text_make_a_turn() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let answer = server.ask("echo", json!("hello")).await;
    let body = answer.is(200);
    let session = body["session"].as_str().expect("a name");
    assert_eq!(answer.header("x-antiphon-session"), Some(session));
    assert_eq!(body["outcome"], "completed");
    assert_eq!(body["reply"], "hello");
    let turn = format!("{}.t0.echo", body["run"].as_str().expect("a run"));
    assert_eq!(body["turn"], json!(turn));
    let end = server.get(&format!("/v1/sessions/{session}")).await;
    assert_eq!(body["offset"], end["offset"], "it ends with its turn");
    assert!(end["expires_at"].is_string(), "{end}");

    let answer = server
        .call("POST /v1/agents/echo/invoke")
        .text("plain\n")
        .await;
    assert_eq!(answer.is(200)["reply"], "plain\n");
    let answer = server.ask("echo", json!({"n": [1, null]})).await;
    assert_eq!(answer.is(200)["reply"], "{\"n\":[1,null]}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_invoked_is_refused() {
    let server = Server::with(|config| config.limits.message_bytes_max = 10).await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let invoke = |agent: &str, body: Value| {
        server
            .call(&format!("POST /v1/agents/{agent}/invoke"))
            .json(body)
    };
    for (agent, body, status, code) in [
        ("nobody", json!({"body": "x"}), 404, "agent_not_found"),
        ("Echo", json!({"body": "x"}), 400, "invalid_name"),
        (
            "echo",
            json!({"body": "x", "session": "none"}),
            404,
            "session_not_found",
        ),
        (
            "echo",
            json!({"body": "x", "session": "a/b"}),
            400,
            "invalid_name",
        ),
        (
            "echo",
            json!({"body": "x", "session": "s"}),
            409,
            "agent_not_in_session",
        ),
        ("echo", json!({"text": "x"}), 400, "unknown_field"),
        ("echo", json!({}), 400, "invalid_json"),
        (
            "echo",
            json!({"body": "x", "author": "a\nb"}),
            400,
            "invalid_name",
        ),
        ("echo", json!({"body": "0123456789-"}), 413, "too_large"),
    ] {
        invoke(agent, body).await.refused(status, code);
    }
    let bytes = server.call("POST /v1/agents/echo/invoke").body("{");
    bytes.await.refused(400, "invalid_json");
    let bytes = server
        .call("POST /v1/agents/echo/invoke")
        .header("content-type", "text/plain");
    bytes.body(vec![0xff]).await.refused(400, "invalid_utf8");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_has_the_events_of_its_turn_with_their_ids() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
        .reply("puppet", "s", json!([{"say": "before"}]))
        .await;

    let script = json!([{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]);
    let call = server
        .call("POST /v1/agents/puppet/invoke")
        .json(json!({"body": script, "session": "s"}));
    let mut stream = call.events().await;
    let head = |name: &str| stream.head[name].to_str().expect("text").to_owned();
    let (session, run, offset) = (
        head("x-antiphon-session"),
        head("x-antiphon-run"),
        head("x-antiphon-offset"),
    );
    let events = stream.rest().await;
    let expected = [
        "message-received",
        "turn-started",
        "spoke",
        "slot-committed",
        "spoke",
        "turn-ended",
    ];
    assert_eq!(kinds(&events), expected);
    assert_eq!(said(&events), "one two");
    assert_eq!((session.as_str(), &events[0].id), ("s", &offset));
    assert_eq!(events[1].data["run"], json!(run));

    // The same ids that the session's events have, so a cut reader goes on there.
    for (at, event) in events.iter().enumerate() {
        let rest = server
            .get(&format!("/v1/sessions/s/events?offset={}", event.id))
            .await;
        let rest = rest["events"].as_array().expect("a list").clone();
        let wanted: Vec<Value> = events[at + 1..].iter().map(|it| it.data.clone()).collect();
        assert_eq!(rest, wanted, "after {}", event.id);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_can_be_looked_at_and_cancelled() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream()
        .say("shown")
        .wait(&gate)
        .say("never")
        .finish("stop")])
    .await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let later = |body: Value| {
        server
            .call("POST /v1/agents/puppet/invoke")
            .header("prefer", "respond-async, wait=1")
            .json(json!({"body": body}))
    };
    let accepted = later(json!([{"relay": "q"}])).await;
    let operation = accepted.is(202);
    let location = accepted.header("location").expect("where it is").to_owned();
    let session = accepted
        .header("x-antiphon-session")
        .expect("its session")
        .to_owned();
    assert_eq!(
        location,
        format!(
            "/v1/operations/{}",
            operation["name"].as_str().expect("a name")
        )
    );
    server.follow(&session).await.shown("shown").await;
    let open = server.get(&location).await;
    assert_eq!(
        (&open["done"], &open["metadata"]["reply"]),
        (&json!(false), &json!("shown"))
    );

    let cancel = format!("POST {location}/cancel");
    let cancelled = server.call(&cancel).await.is(200);
    assert_eq!(
        (&cancelled["done"], &cancelled["error"]["code"]),
        (&json!(true), &json!("cancelled"))
    );
    // Once more changes nothing.
    assert_eq!(server.call(&cancel).await.is(200), cancelled);
    provider.given_up(1).await;

    let accepted = later(json!([{"say": "fine"}])).await;
    let session = accepted
        .header("x-antiphon-session")
        .expect("its session")
        .to_owned();
    server.follow(&session).await.turn("puppet").await;
    let done = server
        .get(accepted.header("location").expect("where it is"))
        .await;
    assert_eq!(done["response"]["reply"], "fine");
    let unknown = server
        .call(&format!("GET /v1/operations/{session}:999"))
        .await;
    unknown.refused(404, "operation_not_found");
    server
        .call("GET /v1/operations/none:1")
        .await
        .refused(404, "operation_not_found");
    server
        .call("GET /v1/operations/none")
        .await
        .refused(400, "invalid_name");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_the_same_turn() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let invoke = |key: &str, body: &str| {
        let call = server.call("POST /v1/agents/echo/invoke").idempotency(key);
        call.json(json!({"body": body}))
    };
    let first = invoke("k", "one").await;
    let again = invoke("k", "one").await;
    assert_eq!((first.is_replayed(), again.is_replayed()), (false, true));
    assert_eq!(first.is(200), again.is(200));
    invoke("k", "two")
        .await
        .refused(422, "idempotency_key_reused");
    let other = invoke("l", "one").await.is(200);
    assert_ne!(other["session"], first.json()["session"]);

    // As a stream, and after a restart too.
    let call = invoke("k", "one");
    let events = call.events().await.rest().await;
    assert_eq!(said(&events), "one");
    let answer = first.json();
    let server = server.restart().await;
    let call = server.call("POST /v1/agents/echo/invoke").idempotency("k");
    let again = call.json(json!({"body": "one"})).await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), answer);
    for key in ["", "a b", "é", &"x".repeat(256)] {
        let call = server.call("POST /v1/agents/echo/invoke").text("x");
        let call = call.idempotency(key).await;
        call.refused(400, "invalid_idempotency_key");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_waits_for_the_first_and_there_is_one_turn() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().wait(&gate).say("once").finish("stop")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let invoke = || {
        let call = server
            .call("POST /v1/agents/puppet/invoke")
            .idempotency("k");
        call.json(json!({"body": [{"relay": "q"}], "session": "s"}))
    };
    let first = invoke();
    let first = tokio::spawn(async move { first.await });
    provider.received(1).await;
    // It has its head while the first still runs, and the rest when that has ended.
    let mut second = invoke().events().await;
    gate.open();
    let events = second.rest().await;
    let first = first.await.expect("it does not panic").is(200);
    assert_eq!(
        (&first["reply"], said(&events).as_str()),
        (&json!("once"), "once")
    );
    assert_eq!(provider.requests().len(), 1);
    let events = server.get("/v1/sessions/s/events").await;
    let events = events["events"].as_array().expect("a list").clone();
    let turns = events
        .iter()
        .filter(|event| event["kind"] == "turn-started");
    assert_eq!(turns.count(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_one_turn_for_all_its_callers() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().wait(&gate).finish("stop")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    provider.received(1).await;
    let call = |body: &str| {
        let call = server.call("POST /v1/agents/puppet/invoke");
        let call = call.json(json!({"body": body, "session": "s"}));
        tokio::spawn(async move { call.await })
    };
    let calls = [call("one"), call("two")];
    let received = |event: &crate::stream::Event| event.kind == "message-received";
    for _ in 0..3 {
        events.until(received).await;
    }
    gate.open();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("it does not panic").is(200));
    }
    assert_eq!(answers[0], answers[1]);
    let mut lines: Vec<&str> = answers[0]["reply"]
        .as_str()
        .expect("a text")
        .lines()
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, ["heard one", "heard two"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_up_does_not_stop_the_turn() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one ")
        .wait(&gate)
        .say("two")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let call = server
        .call("POST /v1/agents/puppet/invoke")
        .json(json!({"body": [{"relay": "q"}], "session": "s"}));
    let mut reader = call.events().await;
    let seen = reader.shown("one ").await;
    drop(reader);
    gate.open();
    // A later reader, from where the first was cut, gets the rest and only that.
    let last = &seen.last().expect("it was shown").id;
    let line = format!("GET /v1/sessions/s/events?offset={last}&live=sse");
    let rest = server.call(&line).events().await.turn("puppet").await;
    assert_eq!(said(&rest), "two");
    assert_eq!(rest.last().expect("it ended").data["outcome"], "completed");
    server.stop().await;
}
