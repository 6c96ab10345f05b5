//! An agent has only what it was given.

use serde_json::{Value, json};

use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_network_and_environment_are_not_there() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let port = server.url.rsplit(':').next().expect("a port");
    for (step, found) in [
        (json!({"fs": "/etc/passwd"}), json!({"fs": false})),
        (json!({"fs": "Cargo.toml"}), json!({"fs": false})),
        (
            json!({"connect": format!("127.0.0.1:{port}")}),
            json!({"connected": false}),
        ),
        (
            json!({"connect": "169.254.169.254:80"}),
            json!({"connected": false}),
        ),
        (json!("env"), json!({"env": []})),
    ] {
        let answer = server.ask("puppet", json!([step])).await.is(200);
        let reply: Value =
            serde_json::from_str(answer["reply"].as_str().expect("a text")).expect("a line");
        assert_eq!(reply, found, "{step}");
    }
    server
        .configure("puppet", json!({"environment": {"TONE": "brief"}}))
        .await
        .is(201);
    let answer = server.ask("puppet", json!(["env"])).await.is(200);
    assert_eq!(answer["reply"], "{\"env\":[[\"TONE\",\"brief\"]]}\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_knows_its_own_session_only() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("one", &["puppet"]).await;
    server.session("two", &["puppet"]).await;
    server
        .reply("puppet", "one", json!([{"commit": ["plan", "secret"]}]))
        .await;
    let script = json!(["turn", "names", {"read": "plan"}, {"transcript": 10}, {"search": ""}]);
    let said = server.reply("puppet", "two", script).await;
    let expected = [
        r#"{"agent":"puppet","session":"two"}"#,
        r#"{"names":[]}"#,
        r#"{"read":null}"#,
        r#"{"transcript":[]}"#,
        r#"{"found":1}"#,
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_not_computing() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server
        .configure("puppet", json!({"limits": {"cpu_ms_max": 200}}))
        .await
        .is(201);
    // Longer asleep than it may compute.
    let answer = server
        .ask("puppet", json!([{"sleep": 300}, {"say": "awake"}]))
        .await;
    assert_eq!(answer.is(200)["reply"], "awake");
    server.stop().await;
}
