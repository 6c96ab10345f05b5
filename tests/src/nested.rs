//! Agents that call agents, from outside.

use antiphon::model::scripted::{Provider, Reply};
use serde_json::{Value, json};

use crate::bus::deploy_caller;
use crate::server::Server;

fn lines(reply: &Value) -> Vec<Value> {
    let text = reply["reply"].as_str().expect("a reply");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_agent_works_in_a_session_of_its_own() {
    let server = Server::start().await;
    deploy_caller(&server).await;
    server.deploy("echo").await;
    let script = json!([
        {"call": ["caller", ["who"]]},
        {"spawn": ["echo", "second"]},
        {"call": ["echo", {"n": 1}]},
        "wait",
        {"call": ["caller", "text"]},
    ]);
    let answer = server.ask("caller", script).await.is(200);
    let said = lines(&answer);
    let who: Value = serde_json::from_str(said[0]["reply"].as_str().expect("words")).expect("JSON");
    assert_eq!(who["run"], answer["run"], "one run");
    assert_eq!(who["parent"], answer["turn"], "its caller");
    assert_eq!(said[1]["reply"], "{\"n\":1}");
    assert_eq!(said[2]["reply"], "second");
    assert_eq!(said[3]["reply"], "called with text");

    // Linked both ways.
    let (parent, child) = (
        &answer["session"],
        said[0]["session"].as_str().expect("an id"),
    );
    let shown = server.get(&format!("/v1/sessions/{child}")).await;
    assert_eq!(
        shown["called_by"],
        json!({"session": parent, "turn": answer["turn"]})
    );
    let events = server
        .get(&format!(
            "/v1/sessions/{}/events",
            parent.as_str().expect("an id")
        ))
        .await;
    let called: Vec<&Value> = events["events"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["kind"] == "agent-called")
        .collect();
    assert_eq!(called.len(), 4);
    assert_eq!(
        (&called[0]["session"], &called[0]["agent"]),
        (&json!(child), &json!("caller"))
    );
    assert!(
        called[0].get("request").is_none(),
        "digests are in no event: {}",
        called[0]
    );
    let events = server.get(&format!("/v1/sessions/{child}/events")).await;
    let received = &events["events"][1];
    assert_eq!(received["called_by"]["session"], *parent);
    assert_eq!(received["author"], "caller");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_called_is_told_in_words() {
    let server = Server::with(|config| config.limits.message_bytes_max = 400).await;
    deploy_caller(&server).await;
    server.deploy("puppet").await;
    server.configure("empty", json!({})).await.is(201);
    let deep = json!([{"call": ["caller", [{"call": ["caller", [{"call": ["caller", [{"call": ["caller", "x"]}]]}]]}]]}]);
    let told = lines(&server.ask("caller", deep).await.is(200));
    let mut reply = told[0].clone();
    for _ in 0..3 {
        reply = serde_json::from_str(reply["reply"].as_str().expect("words")).expect("JSON");
    }
    assert_eq!(
        reply,
        json!({"error": "too-deep", "observed": 4, "limit": 4})
    );
    let script = json!([
        {"call": ["nobody", "x"]},
        {"call": ["Not A Name", "x"]},
        {"call": ["empty", "x"]},
        {"call": ["puppet", ["trap"]]},
        {"call": ["puppet", [{"say": "half "}, "trap"]]},
    ]);
    let told = lines(&server.ask("caller", script).await.is(200));
    assert_eq!(told[0], json!({"error": "unknown-agent"}));
    assert_eq!(told[1], json!({"error": "unknown-agent"}));
    assert_eq!(told[2]["error"], "refused");
    assert_eq!(told[3]["error"], "failed");
    assert!(
        told[3]["why"].as_str().expect("words").starts_with("trap:"),
        "{}",
        told[3]
    );
    assert_eq!(told[4]["said"], "half ");
    server.stop().await;

    // Not granted, not called.
    let server = Server::start().await;
    let refused = server
        .upload("caller", crate::guests::component("caller"))
        .await;
    refused.refused(422, "import_not_granted");
    server.stop().await;
}

/// The circuit is its agent's alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_breaks_is_not_called_for_a_while() {
    let server = Server::start().await;
    let policy = json!({"breaker": {"failures_to_open": 2, "cooldown_ms": 600_000}});
    let grants = ["mailbox", "reply", "model", "turn", "agents"];
    let config = json!({"grants": grants, "policy": policy});
    server.configure("caller", config).await.is(201);
    let component = crate::guests::component("caller");
    server.deploy_as("caller", component).await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    let trap = json!({"call": ["puppet", ["trap"]]});
    let echo = json!({"call": ["echo", "x"]});
    let script = json!([trap, echo, trap, trap, echo]);
    let told = lines(&server.ask("caller", script).await.is(200));
    let errors: Vec<_> = told.iter().map(|told| told["error"].as_str()).collect();
    let failed = Some("failed");
    assert_eq!(errors, [failed, None, failed, Some("refused"), None]);
    let why = told[3]["why"].as_str().expect("words");
    assert!(why.starts_with("circuit open for \"puppet\"; "), "{why}");
    let metrics = server.call("GET /metrics").await;
    for line in [
        r#"antiphon_call_circuit{tenant="default",target="agent/puppet"} 2"#,
        r#"antiphon_calls_refused_total{tenant="default",target="agent/puppet",reason="circuit-open"} 1"#,
    ] {
        assert!(
            metrics.text().contains(line),
            "{line} is missing:\n{}",
            metrics.text()
        );
    }
    server.stop().await;
}

/// Four calls deep, each hop one deeper, with the credential of whoever began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_and_authorization_go_down_with_the_calls() {
    let provider = Provider::start((0..4).map(|n| Reply::text(&n.to_string()))).await;
    let server = Server::asking(&provider).await;
    deploy_caller(&server).await;
    let minted = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["invoke", "inter-agent"]}));
    let minted = minted.await.is(201);
    let mut script = json!([{"model": "q"}]);
    for _ in 0..3 {
        script = json!([{"model": "q"}, {"call": ["caller", script]}]);
    }
    let answer = server
        .call("POST /v1/agents/caller/invoke")
        .json(json!({"body": script}))
        .key(minted["key"].as_str().expect("a key"))
        .header("x-tangle-forwarded-authorization", "Bearer sk-tan-ana")
        .await
        .is(200);
    let sent: Vec<_> = provider.requests();
    assert_eq!(sent.len(), 4);
    for (hop, request) in sent.iter().enumerate() {
        let header = |name: &str| request.headers[name].to_str().expect("text");
        assert_eq!(header("x-tangle-forwarded-depth"), (hop + 1).to_string());
        let authorization = header("x-tangle-forwarded-authorization");
        assert_eq!(authorization, "Bearer sk-tan-ana");
        assert_eq!(header("x-tangle-runid"), answer["run"]);
        let parent = request.headers.get("x-tangle-parent-turnid");
        assert_eq!(parent.is_some(), hop > 0, "hop {hop}");
    }
    server.stop().await;
}

/// Interrupted, it ends what it called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_the_caller_stops_the_called() {
    let server = Server::start().await;
    deploy_caller(&server).await;
    server.session("s", &["caller"]).await;
    let script =
        json!([{"call": ["caller", [{"say": "begun"}, {"sleep": 600000}, {"say": "never"}]]}]);
    server.post("s", script).await;
    let mut events = server.follow("s").await;
    let called = events.until(|event| event.kind == "agent-called").await;
    let child = called.last().expect("it came").data["session"]
        .as_str()
        .expect("an id")
        .to_owned();
    let mut inner = server.follow(&child).await;
    inner.shown("begun").await;
    let shown = server.get("/v1/sessions/s").await;
    assert_eq!(shown["calls"][0]["session"], json!(child));
    server
        .call("POST /v1/sessions/s/interrupt")
        .json(json!({}))
        .await
        .is(202);
    let rest = inner.turn("caller").await;
    let ended = &rest.last().expect("its end").data;
    assert_eq!(
        (&ended["kind"], &ended["outcome"]),
        (&json!("turn-ended"), &json!("cancelled"))
    );
    events.until(|event| event.kind == "call-cancelled").await;
    let shown = server.get("/v1/sessions/s").await;
    assert_eq!(shown["calls"], json!([]));
    server.stop().await;
}

/// The time that a call is given is the time that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_takes_no_longer_than_it_is_given() {
    let server = Server::start().await;
    deploy_caller(&server).await;
    let script = json!([{"call_within": ["caller", [{"sleep": 600000}], 100]}, {"call_within": ["caller", "quick", 60000]}]);
    let told = lines(&server.ask("caller", script).await.is(200));
    assert_eq!(told[0], json!({"error": "deadline"}));
    assert_eq!(told[1]["reply"], "called with quick");
    server.stop().await;
}
