//! Agents that start no turn: suspended for failing, or waiting for what is missing.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::process::command;
use crate::server::Server;
use crate::stream::{kinds, said};

fn agent<'a>(session: &'a Value, name: &str) -> &'a Value {
    let agents = session["agents"].as_array().expect("a list");
    let agent = agents.iter().find(|agent| agent["agent"] == name);
    agent.expect("it takes part")
}

/// A puppet in the session `s`, suspended for its first failure.
async fn strict() -> Server {
    let server = Server::start().await;
    let config = json!({"supervision": {"failures_max": 1}});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
}

async fn fail(server: &Server) {
    let failed = server.invoke("puppet", "s", json!(["trap"])).await;
    failed.refused(502, "turn_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_agent_says_why_takes_messages_and_is_resumed_by_somebody() {
    let server = strict().await;
    let resume = "POST /v1/sessions/s/agents/puppet/resume";
    server.call(resume).await.refused(409, "not_suspended");
    let before = server.get("/v1/sessions/s").await;
    assert_eq!(agent(&before, "puppet")["suspended"], Value::Null);

    fail(&server).await;
    let session = server.get("/v1/sessions/s").await;
    let suspended = &agent(&session, "puppet")["suspended"];
    assert_eq!(suspended["reason"], "1 failures within 60 s");
    assert_eq!(suspended["until_ready"], false);
    assert_eq!(suspended["since"], session["last_event_at"]);

    // Whoever waits is told at once; a message waits.
    let refused = server.invoke("puppet", "s", json!("hello")).await;
    refused.refused(409, "agent_suspended");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(
        server.get("/v1/sessions/s").await,
        session,
        "nothing was changed"
    );
    server.post("s", json!("waits")).await;
    let session = server.get("/v1/sessions/s").await;
    assert_eq!(agent(&session, "puppet")["pending"], 1);
    let mut events = server.follow("s").await;
    let suspension = events.until(|it| it.kind == "agent-suspended").await;
    let form = &suspension.last().expect("it is there").data;
    assert_eq!(form.get("until_ready"), None, "{form}");

    let resumed = server.call(resume).json(json!({"author": "ana"})).await;
    let offset = resumed.is(202)["offset"].clone();
    let turn = events.turn("puppet").await;
    let [received, resumed, ..] = &turn[..] else {
        panic!("{turn:?}");
    };
    assert_eq!(received.data["body"], "waits");
    assert_eq!(
        (&resumed.data["by"], &resumed.data["offset"]),
        (&json!("ana"), &offset)
    );
    assert_eq!(said(&turn), "heard waits\n");
    server.call(resume).await.refused(409, "not_suspended");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_resume_and_whom() {
    let server = strict().await;
    fail(&server).await;
    let minted = server.call("POST /v1/sessions/s/tokens");
    let token = minted.json(json!({"author": "ana"})).await.is(201);
    let token = token["token"].as_str().expect("a text");
    for (path, status, code) in [
        ("s/agents/none/resume", 409, "agent_not_in_session"),
        ("none/agents/puppet/resume", 404, "session_not_found"),
        ("s/agents/Puppet/resume", 400, "invalid_name"),
    ] {
        let call = server.call(&format!("POST /v1/sessions/{path}"));
        call.await.refused(status, code);
    }
    let resume = "POST /v1/sessions/s/agents/puppet/resume";
    let by_token = server.call(resume).key(token).await;
    by_token.refused(403, "insufficient_scope");
    server.call(resume).await.is(202);
    server.stop().await;
}

/// `antiphon resume`: whether it went well, and what it said, where it should say it.
async fn resumes(server: &Server) -> (bool, String) {
    let mut command = command(&["resume", "s", "puppet", "--url", &server.url]);
    command.args(["--key", &server.key]);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it runs").expect("the binary runs");
    let is_fine = output.status.success();
    let said = if is_fine {
        output.stdout
    } else {
        output.stderr
    };
    (is_fine, String::from_utf8(said).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_resumes_once() {
    let server = strict().await;
    fail(&server).await;
    assert_eq!(
        resumes(&server).await,
        (true, "puppet gets turns again\n".to_owned())
    );
    assert_eq!(
        server.reply("puppet", "s", json!("again")).await,
        "heard again\n"
    );
    let (again, said) = resumes(&server).await;
    assert!(!again && said.contains("not suspended"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_waits_for_its_slot_and_goes_on_by_itself() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().say("so ").wait(&gate).finish("stop")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let config = json!({"before_turn": {"slots_idle": ["draft"]}, "inject": ["brief", "notes"]});
    server.configure("reader", config).await.is(201);
    let puppet = crate::guests::component("puppet");
    server.deploy_as("reader", puppet).await;
    server.session("s", &["puppet", "reader"]).await;
    let mut events = server.follow("s").await;
    server
        .post(
            "s",
            json!([{"lock": "draft"}, {"relay": "q"}, {"commit": ["draft", "text"]}]),
        )
        .await;
    events.shown("so ").await;
    let call = server.call("POST /v1/sessions/s/messages");
    let body = json!([{"read": "draft"}, "env"]);
    call.json(json!({"to": "reader", "body": body}))
        .await
        .is(202);
    let suspended = events.until(|event| event.kind == "agent-suspended").await;
    let suspended = &suspended.last().expect("it is there").data;
    assert_eq!(suspended["agent"], "reader");
    assert_eq!(suspended["reason"], "the slot `draft` is locked");
    assert_eq!(suspended["until_ready"], true);
    let session = server.get("/v1/sessions/s").await;
    let waits = &agent(&session, "reader")["suspended"];
    assert_eq!(waits["until_ready"], true, "{waits}");
    // Nobody can resume it: it is not up to anybody.
    let resume = server
        .call("POST /v1/sessions/s/agents/reader/resume")
        .await;
    resume.refused(409, "not_suspended");

    gate.open();
    let rest = events.turn("reader").await;
    let kinds = kinds(&rest);
    let at = |kind: &str| kinds.iter().position(|it| *it == kind).expect(kind);
    assert!(at("slot-committed") < at("agent-resumed"), "{kinds:?}");
    let resumed = &rest[at("agent-resumed")].data;
    assert_eq!(
        (&resumed["agent"], resumed.get("by")),
        (&json!("reader"), None)
    );
    let heard = said(&rest);
    assert!(heard.contains("\"content\":\"text\""), "{heard}");
    assert!(heard.contains("brief,notes"), "{heard}");
    server.stop().await;
}

/// What the configuration injects, the model is shown: the documents as they stand when the turn
/// begins, with their state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_slots_are_shown_to_the_model() {
    let provider = Provider::start([Reply::text("I know.")]).await;
    let server = Server::asking(&provider).await;
    server
        .configure("talker", json!({"inject": ["brief", "notes"]}))
        .await
        .is(201);
    server.deploy("talker").await;
    server.session("s", &["talker"]).await;
    let put = server.call("PUT /v1/sessions/s/slots/brief");
    put.text("The customer is <angry>.").await.is(200);
    let answer = server.invoke("talker", "s", json!("Do you know?")).await;
    assert_eq!(answer.is(200)["reply"], "I know.");
    let request = provider.requests()[0].body.to_string();
    assert!(
        request.contains("The customer is &lt;angry&gt;."),
        "{request}"
    );
    assert!(request.contains("name=\\\"notes\\\""), "{request}");
    server.stop().await;
}
