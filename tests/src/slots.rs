//! The session's documents: versions, locks, and who is woken by a commit.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::client::Call;
use crate::guests::component;
use crate::server::Server;
use crate::stream::{Event, Events, said};

fn put(server: &Server, slot: &str, version: Option<&str>, content: &str) -> Call {
    let call = server.call(&format!("PUT /v1/sessions/s/slots/{slot}"));
    let call = call.json(json!({"content": content, "author": "ana"}));
    match version {
        Some(version) => call.header("if-match", version),
        None => call,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_names_the_version_it_replaces() {
    let server = Server::with(|config| {
        config.limits.slot_bytes_max = 100;
        config.limits.slots_max = 2;
    })
    .await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let wrong = put(&server, "plan", Some("7"), "x").await;
    assert_eq!(
        wrong.refused(412, "version_mismatch")["version"],
        Value::Null
    );
    let first = put(&server, "plan", None, "one").await;
    let version = first.header("etag").expect("a version").to_owned();
    assert_eq!(version, format!("\"{}\"", first.is(200)["version"]));
    let required = put(&server, "plan", None, "x")
        .await
        .refused(428, "version_required");
    assert_eq!(required["version"], first.json()["version"]);
    put(&server, "plan", Some("\"999\""), "x")
        .await
        .refused(412, "version_mismatch");
    put(&server, "plan", Some("new"), "x")
        .await
        .refused(400, "invalid_version");
    let second = put(&server, "plan", Some(&version), "two").await.is(200);
    // Quoted or bare.
    let bare = second["version"].to_string();
    put(&server, "plan", Some(&bare), "three").await.is(200);

    let slot = server.call("GET /v1/sessions/s/slots/plan").await;
    let document = slot.is(200);
    assert_eq!(
        slot.header("etag"),
        Some(format!("\"{}\"", document["version"]).as_str())
    );
    assert_eq!(
        (&document["content"], &document["by"]),
        (&json!("three"), &json!({"author": "ana"}))
    );
    server
        .reply("puppet", "s", json!([{"commit": ["plan", "four"]}]))
        .await;
    let document = server.get("/v1/sessions/s/slots/plan").await;
    assert_eq!(
        (&document["content"], &document["by"]),
        (&json!("four"), &json!({"agent": "puppet"}))
    );

    put(&server, "b", None, &"x".repeat(101))
        .await
        .refused(413, "too_large");
    put(&server, "b", None, "").await.is(200);
    put(&server, "c", None, "x")
        .await
        .refused(429, "overloaded");
    let slots = server.get("/v1/sessions/s/slots").await;
    let names: Vec<&Value> = slots["slots"].as_array().expect("a list").iter().collect();
    assert_eq!((names.len(), &names[0]["slot"]), (2, &json!("b")));
    server
        .call("GET /v1/sessions/s/slots/none")
        .await
        .refused(404, "slot_not_found");
    server
        .call("GET /v1/sessions/none/slots/b")
        .await
        .refused(404, "session_not_found");
    let text = server.call("PUT /v1/sessions/s/slots/b").text("x");
    text.header("if-match", "1")
        .await
        .refused(412, "version_mismatch");
    server.stop().await;
}

/// A long document is kept apart from the journal, and nobody sees a difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_document_comes_back_whole() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let long = "ä".repeat(200_000);
    put(&server, "plan", None, &long).await.is(200);
    assert_eq!(
        server.get("/v1/sessions/s/slots/plan").await["content"],
        json!(long)
    );
    let server = server.restart().await;
    assert_eq!(
        server.get("/v1/sessions/s/slots/plan").await["content"],
        json!(long)
    );
    let read = server.reply("puppet", "s", json!([{"read": "plan"}])).await;
    let read: Value = serde_json::from_str(&read).expect("a line");
    assert_eq!(read["read"]["content"], json!(long));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_keeps_writers_out_and_lets_readers_read() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().wait(&gate).finish("stop")]).await;
    let server = Server::asking(&provider).await;
    for agent in ["holder", "other"] {
        server.deploy_as(agent, component("puppet")).await;
    }
    server.session("s", &["holder", "other"]).await;
    let first = put(&server, "plan", None, "old").await.is(200)["version"].to_string();
    let mut events = server.follow("s").await;
    let script = json!([{"lock": "plan"}, {"model": "q"}, {"commit": ["plan", "new"]}]);
    let holder = server.post("s", script).await;
    provider.received(1).await;

    let locked = put(&server, "plan", Some(&first), "mine").await;
    locked.refused(409, "slot_locked");
    assert_eq!(locked.header("x-should-retry"), Some("false"));
    let slot = server.get("/v1/sessions/s/slots/plan").await;
    let turn = slot["locked_by"].as_str().expect("a turn");
    assert!(turn.ends_with(".holder"), "{turn}");
    assert_eq!(
        (&slot["content"], &slot["state"]),
        (&json!("old"), &json!("locked"))
    );
    let script = json!([{"lock": "plan"}, {"read": "plan"}, {"state": "plan"}]);
    let said = server.reply("other", "s", script).await;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains(turn), "{said}");
    let expected = [
        r#"{"read":{"content":"old","state":"locked"}}"#,
        r#"{"state":"locked"}"#,
    ];
    assert_eq!(lines[1..], expected);

    gate.open();
    events.turn("holder").await;
    assert_eq!(
        server.get("/v1/sessions/s/slots/plan").await["content"],
        "new"
    );
    assert_eq!(
        server.get(&format!("/v1/operations/{holder}")).await["done"],
        true
    );
    server.stop().await;
}

/// Interrupting the holder frees the slot at once, and the old document stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_dies_with_an_interrupted_turn() {
    let provider = Provider::start([Reply::stream().hang()]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!([{"lock": "plan"}, {"model": "q"}, {"commit": ["plan", "new"]}]);
    server.post("s", script).await;
    provider.received(1).await;
    server.call("POST /v1/sessions/s/interrupt").await.is(202);
    put(&server, "plan", None, "mine").await.is(200);
    provider.given_up(1).await;
    server.stop().await;
}

/// Wait until a turn of each has ended, in whatever order.
async fn both(events: &mut Events) -> Vec<Event> {
    let mut seen = Vec::new();
    let mut missing = vec!["watcher", "writer"];
    while !missing.is_empty() {
        let event = events.next().await.expect("more");
        if event.kind == "turn-ended" {
            missing.retain(|agent| event.data["agent"] != *agent);
        }
        seen.push(event);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_commit_wakes_once_and_never_its_own_writer() {
    let server = Server::start().await;
    for agent in ["watcher", "writer"] {
        server.deploy_as(agent, component("puppet")).await;
    }
    let watches = json!({"watches": ["plan"]});
    server.configure("watcher", watches.clone()).await.is(201);
    server.configure("writer", watches).await.is(201);
    server.session("s", &["watcher", "writer"]).await;
    let mut events = server.follow("s").await;
    server
        .reply(
            "writer",
            "s",
            json!([{"commit": ["plan", "x"]}, {"commit": ["else", "y"]}]),
        )
        .await;
    let woken = both(&mut events).await;
    let turn = woken
        .iter()
        .find(|event| event.kind == "turn-started" && event.data["agent"] == "watcher");
    let causes = &turn.expect("it started").data["causes"];
    assert_eq!(causes, &json!([{"slot": "plan"}]));
    assert!(said(&woken).contains("woken by slot plan\n"));

    // A commit over HTTP is somebody else's for both.
    let version = server.get("/v1/sessions/s/slots/plan").await["version"].to_string();
    put(&server, "plan", Some(&version), "z").await.is(200);
    both(&mut events).await;
    // Nothing more was due: the next turn of each is the one asked for.
    for agent in ["watcher", "writer"] {
        assert_eq!(server.reply(agent, "s", json!("x")).await, "heard x\n");
    }
    let events = server.get("/v1/sessions/s/events").await;
    let events = events["events"].as_array().expect("a list").clone();
    let turns = events
        .iter()
        .filter(|event| event["kind"] == "turn-started")
        .count();
    assert_eq!(turns, 6, "one asked, one woken, two by HTTP, two asked");
    server.stop().await;
}
