//! Sessions: opening, listing, who takes part, ending; and the messages sent to them.

use std::collections::BTreeSet;

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{kinds, said};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_twice_is_the_same_session_or_a_conflict() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    let put = |body: Value| server.call("PUT /v1/sessions/s").json(body);
    let both = json!({"agents": ["echo", "puppet"], "entry": "puppet", "expires_after": 3600});
    let made = put(both.clone()).await.is(201);
    assert_eq!(
        (&made["entry"], &made["session"]),
        (&json!("puppet"), &json!("s"))
    );
    assert_eq!(put(both).await.is(200), made);
    for other in [
        json!({"agents": ["echo"]}),
        json!({"agents": ["echo", "puppet"], "entry": "echo", "expires_after": 3600}),
        json!({"agents": ["echo", "puppet"], "entry": "puppet"}),
    ] {
        let refused = put(other).await;
        refused.refused(409, "session_exists");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
    }
    for (body, status, code) in [
        (json!({"agents": ["nobody"]}), 404, "agent_not_found"),
        (
            json!({"agents": ["echo"], "entry": "puppet"}),
            409,
            "agent_not_in_session",
        ),
        (json!({"agents": ["echo", "puppet"]}), 400, "invalid_json"),
        (json!({"agents": []}), 400, "invalid_json"),
        (
            json!({"agents": ["echo"], "expires_after": 0}),
            400,
            "invalid_json",
        ),
        (json!({"agents": ["Echo"]}), 400, "invalid_name"),
        (
            json!({"agents": ["echo"], "color": 1}),
            400,
            "unknown_field",
        ),
        (json!(["echo"]), 400, "invalid_json"),
    ] {
        server
            .call("PUT /v1/sessions/t")
            .json(body)
            .await
            .refused(status, code);
    }
    server
        .call("GET /v1/sessions/t")
        .await
        .refused(404, "session_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_one_session() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let post = |key: &str, agents: Value| {
        let call = server.call("POST /v1/sessions").idempotency(key);
        call.json(json!({"agents": agents}))
    };
    let first = post("k", json!(["echo"])).await;
    let again = post("k", json!(["echo"])).await;
    assert_eq!(first.is(201), again.is(201));
    assert_eq!((first.is_replayed(), again.is_replayed()), (false, true));
    let id = first.json()["session"].as_str().expect("a name").to_owned();
    assert_eq!(
        first.header("location"),
        Some(format!("/v1/sessions/{id}").as_str())
    );
    assert_ne!(
        post("l", json!(["echo"])).await.is(201)["session"],
        json!(id)
    );
    let call = server.call("POST /v1/sessions").idempotency("k");
    let other = call
        .json(json!({"agents": ["echo"], "expires_after": 5}))
        .await;
    other.refused(422, "idempotency_key_reused");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listing_goes_page_by_page() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let names: BTreeSet<String> = (0..5).map(|n| format!("s{n}")).collect();
    for name in &names {
        server.session(name, &["echo"]).await;
    }
    let (mut found, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/sessions?limit=2{cursor}")).await;
        let sessions = page["sessions"].as_array().expect("a list");
        assert!(sessions.len() <= 2);
        for session in sessions {
            let name = session["session"].as_str().expect("a name").to_owned();
            assert!(found.insert(name), "no session twice");
        }
        let Some(next) = page["cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, names);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_id_is_gone_and_stays_gone() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let message = server.post("s", json!("x")).await;
    let mut events = server.follow("s").await;
    events.turn("echo").await;
    assert_eq!(server.call("DELETE /v1/sessions/s").await.status, 204);
    // Whoever follows hears of the end.
    let last = events.rest().await;
    assert_eq!(kinds(&last), ["session-changed"]);
    assert_eq!(last[0].data["change"], "deleted");
    let server = server.restart().await;
    for line in [
        "GET /v1/sessions/s",
        "DELETE /v1/sessions/s",
        "GET /v1/sessions/s/events",
        "GET /v1/sessions/s/events?live=sse",
        "GET /v1/sessions/s/transcript",
        "GET /v1/sessions/s/slots",
        "GET /v1/sessions/s/journal",
        "POST /v1/sessions/s/agents/echo",
        "POST /v1/sessions/s/interrupt",
        &format!("GET /v1/operations/{message}"),
    ] {
        server.call(line).await.refused(410, "session_gone");
    }
    let put = server
        .call("PUT /v1/sessions/s")
        .json(json!({"agents": ["echo"]}));
    put.await.refused(410, "session_gone");
    let post = server
        .call("POST /v1/sessions/s/messages")
        .json(json!({"body": "x"}));
    post.await.refused(410, "session_gone");
    server
        .invoke("echo", "s", json!("x"))
        .await
        .refused(410, "session_gone");
    assert_eq!(server.get("/v1/sessions").await["sessions"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_come_and_go() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    server.session("s", &["echo"]).await;
    server
        .call("POST /v1/sessions/s/agents/puppet")
        .await
        .is(201);
    server
        .call("POST /v1/sessions/s/agents/puppet")
        .await
        .is(200);
    assert_eq!(server.reply("puppet", "s", json!("x")).await, "heard x\n");
    assert_eq!(
        server
            .call("DELETE /v1/sessions/s/agents/puppet")
            .await
            .status,
        204
    );
    for (line, status, code) in [
        ("POST /v1/sessions/s/agents/nobody", 404, "agent_not_found"),
        (
            "POST /v1/sessions/none/agents/puppet",
            404,
            "session_not_found",
        ),
        (
            "DELETE /v1/sessions/s/agents/puppet",
            409,
            "agent_not_in_session",
        ),
        ("DELETE /v1/sessions/s/agents/echo", 409, "entry_agent"),
    ] {
        server.call(line).await.refused(status, code);
    }
    server
        .invoke("puppet", "s", json!("x"))
        .await
        .refused(409, "agent_not_in_session");

    // What waits for an agent that leaves is done with, and its sender can see it.
    server.configure("idle", json!({})).await.is(201);
    server.call("POST /v1/sessions/s/agents/idle").await.is(201);
    let call = server.call("POST /v1/sessions/s/messages");
    let waiting = call.json(json!({"to": "idle", "body": "x"})).await;
    let operation = waiting
        .header("location")
        .expect("its operation")
        .to_owned();
    assert_eq!(server.get(&operation).await["done"], false);
    let left = server.call("DELETE /v1/sessions/s/agents/idle").await;
    assert_eq!(left.status, 204);
    let operation = server.get(&operation).await;
    assert_eq!(operation["error"]["code"], "set_aside", "{operation}");
    server.stop().await;
}

/// What waits for an agent that leaves is gone with it, and its turn ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_leaves_ends_its_turn() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().say("so ").wait(&gate).finish("stop")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    server.session("s", &["echo", "puppet"]).await;
    let mut events = server.follow("s").await;
    let call = server.call("POST /v1/sessions/s/messages");
    call.json(json!({"to": "puppet", "body": [{"relay": "q"}]}))
        .await
        .is(202);
    events.shown("so ").await;
    assert_eq!(
        server
            .call("DELETE /v1/sessions/s/agents/puppet")
            .await
            .status,
        204
    );
    let ended = events.turn("puppet").await;
    assert_eq!(ended.last().expect("it ended").data["outcome"], "cancelled");
    provider.given_up(1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_message_survives_a_restart_and_is_answered() {
    let server = Server::start().await;
    server.configure("echo", json!({})).await.is(201);
    server.session("s", &["echo"]).await;
    let call = server.call("POST /v1/sessions/s/messages").idempotency("k");
    let answer = call.json(json!({"body": "hello"})).await;
    let accepted = answer.is(202);
    let message = accepted["message"].as_str().expect("an id");
    assert_eq!(
        answer.header("location"),
        Some(format!("/v1/operations/{message}").as_str())
    );

    let server = server.restart().await;
    let events = server.get("/v1/sessions/s/events").await;
    assert_eq!(events["events"][1]["body"], "hello");
    assert_eq!(events["events"][1]["offset"], accepted["offset"]);
    let call = server.call("POST /v1/sessions/s/messages").idempotency("k");
    let again = call.json(json!({"body": "hello"})).await;
    assert!(again.is_replayed());
    assert_eq!(again.is(202), accepted);
    let call = server.call("POST /v1/sessions/s/messages").idempotency("k");
    call.json(json!({"body": "other"}))
        .await
        .refused(422, "idempotency_key_reused");

    // The agent is ready at last, and nobody asks again.
    server.deploy("echo").await;
    let events = server.follow("s").await.turn("echo").await;
    assert_eq!(said(&events), "hello");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_cannot_be_delivered_are_refused() {
    let server = Server::with(|config| {
        config.limits.mailbox_messages_max = 2;
        config.limits.message_bytes_max = 10;
        config.limits.request_bytes_max = 200;
    })
    .await;
    // Without a component nothing is pulled.
    server.configure("echo", json!({})).await.is(201);
    server.session("s", &["echo"]).await;
    let post = |body: Value| server.call("POST /v1/sessions/s/messages").json(body);
    for (body, status, code) in [
        (
            json!({"body": "x", "to": "puppet"}),
            409,
            "agent_not_in_session",
        ),
        (json!({"body": "x", "to": "a/b"}), 400, "invalid_name"),
        (json!({"body": "x", "author": "a b"}), 400, "invalid_name"),
        (json!({"text": "x"}), 400, "unknown_field"),
        (json!({"body": "0123456789-"}), 413, "too_large"),
        (json!({"body": "x".repeat(300)}), 413, "too_large"),
    ] {
        post(body).await.refused(status, code);
    }
    let none = server
        .call("POST /v1/sessions/none/messages")
        .json(json!({"body": "x"}));
    none.await.refused(404, "session_not_found");
    post(json!({"body": "1"})).await.is(202);
    server
        .call("POST /v1/sessions/s/messages")
        .text("2")
        .await
        .is(202);
    let full = post(json!({"body": "3"})).await;
    full.refused(429, "overloaded");
    assert_eq!(full.header("retry-after"), Some("1"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_sends_wakes_and_leaves() {
    let server = Server::start().await;
    server
        .deploy_as("one", crate::guests::component("puppet"))
        .await;
    server
        .deploy_as("two", crate::guests::component("puppet"))
        .await;
    server.session("s", &["one", "two"]).await;
    let mut events = server.follow("s").await;
    let sends = json!([{"send": ["two", "hi"]}, {"send": ["one", "me"]}, {"send": ["x", "y"]}]);
    let said_by_one = server.reply("one", "s", sends).await;
    assert_eq!(said_by_one.lines().count(), 2, "{said_by_one}");
    // Whichever of the two turns ends first.
    let ended = std::cell::Cell::new(0);
    let both_ended = |event: &crate::stream::Event| {
        ended.set(ended.get() + u32::from(event.kind == "turn-ended"));
        ended.get() == 2
    };
    let turns = events.until(both_ended).await;
    assert!(said(&turns).contains("heard hi\n"));
    // One request, one run: the turns differ in their index.
    let started: Vec<_> = turns
        .iter()
        .filter(|event| event.kind == "turn-started")
        .collect();
    assert_eq!(started[0].data["run"], started[1].data["run"]);
    let turn = started[1].data["turn"].as_str().expect("an id");
    assert!(turn.ends_with(".t1.two"), "{turn}");

    // A message that is left wakes nobody, and is there when somebody else does.
    server.post("s", json!(["leave", {"wake_in": 0}])).await;
    let left = events.turn("one").await;
    assert_eq!(
        left.last().expect("it ended").data["inputs"][0]["fate"],
        "left"
    );
    let woken = events.turn("one").await;
    assert!(
        said(&woken).starts_with("woken by Cause::Wake\n"),
        "{}",
        said(&woken)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_events_expires() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let call = server.call("PUT /v1/sessions/s");
    let made = call
        .json(json!({"agents": ["echo"], "expires_after": 1}))
        .await
        .is(201);
    assert!(made["expires_at"].is_string(), "{made}");
    let events = server.follow("s").await.rest().await;
    let last = events.last().expect("events");
    assert_eq!(last.kind, "session-changed");
    assert_eq!(last.data["change"], "expired");
    let gone = server.call("GET /v1/sessions/s").await;
    gone.refused(410, "session_gone");
    server.stop().await;
}
