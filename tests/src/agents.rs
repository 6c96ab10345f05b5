//! Agents: configuration, components, versions, and what they print.

use serde_json::{Value, json};

use crate::guests::component;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_may_come_before_the_component() {
    let server = Server::start().await;
    let made = server
        .configure("echo", json!({"card": {"description": "hi"}}))
        .await
        .is(201);
    assert_eq!(made["ready"], false);
    assert_eq!(made["version"], Value::Null);
    let refused = server.ask("echo", json!("x")).await;
    refused.refused(409, "agent_not_ready");
    assert_eq!(refused.header("x-should-retry"), Some("false"));

    let made = server.upload("echo", component("echo")).await.is(201);
    assert_eq!(made["ready"], true);
    assert_eq!(made["version"], 1);
    assert_eq!(made["description"], "hi");
    assert_eq!(server.upload("echo", component("echo")).await.is(200), made);
    assert_eq!(server.ask("echo", json!("x")).await.is(200)["reply"], "x");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_half_makes_the_next_version_and_any_can_come_back() {
    let server = Server::start().await;
    let tone = json!({"environment": {"TONE": "brief"}});
    server.deploy_as("a", component("echo")).await;
    server.configure("a", tone.clone()).await.is(201);
    server.configure("a", tone).await.is(200);
    server.deploy_as("a", component("puppet")).await;
    assert_eq!(
        server.ask("a", json!("x")).await.is(200)["reply"],
        "heard x\n"
    );

    let roll_back = |version: u64| {
        server
            .call("POST /v1/agents/a/rollback")
            .json(json!({"version": version}))
    };
    assert_eq!(roll_back(1).await.is(201)["version"], 4);
    assert_eq!(roll_back(4).await.is(200)["version"], 4);
    roll_back(9).await.refused(404, "version_not_found");
    assert_eq!(server.ask("a", json!("x")).await.is(200)["reply"], "x");
    assert_eq!(
        server.get("/v1/agents/a/config").await["environment"],
        json!({})
    );

    let server = server.restart().await;
    let versions = server.get("/v1/agents/a/versions").await;
    let numbers: Vec<&Value> = versions["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|version| &version["version"])
        .collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
    assert_eq!(server.ask("a", json!("x")).await.is(200)["reply"], "x");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_refused_and_named() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    for (config, code, named) in [
        (json!({"modle": "x"}), "unknown_field", "modle"),
        (json!({"batching": {"quiet": 1}}), "unknown_field", "quiet"),
        (
            json!({"grants": ["kernel", "files"]}),
            "invalid_json",
            "files",
        ),
        (
            json!({"limits": {"cpu_ms_max": "2"}}),
            "invalid_json",
            "expected u64",
        ),
        (
            json!({"environment": {"A=B": "x"}}),
            "invalid_json",
            "environment",
        ),
        (json!([]), "invalid_json", ""),
    ] {
        let body = server.configure("puppet", config).await.refused(400, code);
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.contains(named), "{message}");
    }
    let body = server
        .configure("puppet", json!({"grants": ["mailbox", "reply"]}))
        .await;
    let body = body.refused(422, "import_not_granted");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.contains("antiphon:agent/"), "{message}");
    // Nothing of it was taken.
    assert_eq!(server.get("/v1/agents/puppet").await["version"], 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_agent_is_gone_and_its_sessions_keep_their_messages() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    assert_eq!(server.reply("echo", "s", json!("one")).await, "one");
    assert_eq!(server.call("DELETE /v1/agents/echo").await.status, 204);
    for line in [
        "GET /v1/agents/echo",
        "GET /v1/agents/echo/config",
        "GET /v1/agents/echo/versions",
        "GET /v1/agents/echo/logs",
        "DELETE /v1/agents/echo",
    ] {
        server.call(line).await.refused(404, "agent_not_found");
    }
    assert_eq!(server.get("/v1/agents").await["agents"], json!([]));

    // What comes meanwhile waits until somebody of that name is there again.
    let mut events = server.follow("s").await;
    events.turn("echo").await;
    server.post("s", json!("two")).await;
    server.deploy("echo").await;
    let events = events.turn("echo").await;
    assert_eq!(crate::stream::said(&events), "two");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_prints_and_logs_can_be_read_and_followed() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!([
        {"print": ["stdout", "to stdout"]},
        {"print": ["stderr", "to stderr"]},
        {"log": "to the log"},
    ]);
    server.reply("puppet", "s", script).await;
    let logs = server.get("/v1/agents/puppet/logs").await;
    let lines: Vec<String> = logs["lines"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| format!("{} {} {}", line["number"], line["source"], line["text"]))
        .collect();
    let expected = [
        r#"1 "stdout" "to stdout""#,
        r#"2 "stderr" "to stderr""#,
        r#"3 "log" "to the log""#,
    ];
    assert_eq!(lines, expected);
    let line = &logs["lines"][2];
    assert_eq!(line["level"], "info");
    assert_eq!(line["fields"], json!([["from", "puppet"]]));
    let others = server.get("/v1/agents/puppet/logs?session=other").await;
    assert_eq!(others["lines"], json!([]));

    let mut follower = server
        .call("GET /v1/agents/puppet/logs?live=sse")
        .events()
        .await;
    server.reply("puppet", "s", json!([{"log": "live"}])).await;
    let lines = follower.until(|line| line.data["text"] == "live").await;
    let ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_counts() {
    let server = Server::start().await;
    server.deploy("worker").await;
    server.session("s", &["worker"]).await;
    for count in ["1", "2"] {
        assert_eq!(server.reply("worker", "s", json!("go")).await, "done");
        let slot = server.get("/v1/sessions/s/slots/count").await;
        assert_eq!(slot["content"], count);
    }
    server.stop().await;
}
