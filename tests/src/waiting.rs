//! Turns that wait for a model keep no instance: others run in their place, and nobody notices.

use antiphon::config::Model;
use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::{Server, model_of};
use crate::stream::said;

/// An answer whose first piece comes when the gate is opened.
fn late(gate: &Gate, text: &str) -> Reply {
    Reply::stream().wait(gate).say(text).finish("stop")
}

/// One of which nothing at all comes before.
fn later(gate: &Gate, text: &str) -> Reply {
    Reply::stream().after(gate).say(text).finish("stop")
}

/// A host with room for one turn, in which no instance outlasts the wait for a model.
async fn with_one_place(provider: &Provider) -> Server {
    with_model(model_of(provider)).await
}

/// The same, whose model takes one call at a time.
async fn with_one_call(provider: &Provider) -> Server {
    let mut model = model_of(provider);
    model.policy.concurrent_max = Some(1);
    with_model(model).await
}

async fn with_model(model: Model) -> Server {
    Server::with(|config| {
        config.models.insert("default".to_owned(), model);
        config.limits.turns_max = 1;
        config.limits.instance_wait_ms_max = 1;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_waits_for_a_model_leaves_its_place_to_others() {
    let gates = [Gate::new(), Gate::new(), Gate::new(), Gate::new()];
    let [first, second, third, fourth] = &gates;
    let replies = [
        late(first, "one "),
        later(second, "two "),
        Reply::status(503, "busy").after(third),
        later(fourth, "three"),
    ];
    let provider = Provider::start(replies).await;
    let server = with_one_place(&provider).await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    server.session("s", &["puppet"]).await;
    server.session("other", &["echo"]).await;
    let mut events = server.follow("s").await;
    let script = json!([
        {"print": ["stdout", "printed"]},
        {"say": "well, "},
        {"relay": "q"},
        {"log": "between"},
        {"relay": "r"},
        {"relay": "s"},
    ]);
    server.post("s", script).await;
    for (gate, asked) in gates.iter().zip(1..) {
        provider.received(asked).await;
        // There is no other place: it runs in the one of the turn that waits.
        server.reply("echo", "other", json!("hello")).await;
        gate.open();
    }
    let turn = events.turn("puppet").await;
    assert_eq!(said(&turn), "well, one two three");
    assert_eq!(turn.last().expect("it ended").data["outcome"], "completed");

    // It is one turn, with each attempt made once, each line told once, and nothing of it in the journal.
    assert_eq!(provider.requests().len(), 4);
    let logs = server.get("/v1/agents/puppet/logs").await;
    let lines = logs["lines"].as_array().expect("a list").iter();
    let lines: Vec<&Value> = lines.map(|line| &line["text"]).collect();
    assert_eq!(lines, ["printed", "between"]);
    let retried = server.get("/v1/sessions/s/journal?kind=retried").await;
    let retried = retried["entries"].as_array().expect("a list").iter();
    let reasons: Vec<&Value> = retried.map(|entry| &entry["reason"]).collect();
    assert_eq!(reasons, ["provider"], "the one that was busy");
    assert!(server.limits_hit().await.contains("instance_wait_ms_max"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_whose_time_is_up_while_it_has_no_instance_says_so() {
    let gate = Gate::new();
    let provider = Provider::start([late(&gate, "never")]).await;
    let server = with_one_place(&provider).await;
    server.deploy("puppet").await;
    let config = json!({"limits": {"turn_ms_max": 300}});
    server.configure("puppet", config).await.is(201);
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    server
        .post("s", json!([{"say": "well, "}, {"relay": "q"}]))
        .await;
    let turn = events.turn("puppet").await;
    assert_eq!(said(&turn), "well, ");
    let error = &turn.last().expect("it ended").data["error"];
    assert_eq!(error["code"], "deadline");
    assert_eq!(error["message"], "the turn took longer than 300 ms");
    assert_eq!(provider.requests().len(), 1);
    provider.given_up(1).await;
    server.stop().await;
}

/// What ends with an instance keeps it: the slot is still this turn's when the answer comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_holds_a_lock_keeps_its_instance() {
    let gate = Gate::new();
    let provider = Provider::start([late(&gate, "two")]).await;
    let server = with_one_place(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    let script = json!([
        {"lock": "plan"},
        {"say": "one "},
        {"relay": "q"},
        {"commit": ["plan", "done"]},
    ]);
    server.post("s", script).await;
    provider.received(1).await;
    let slot = server.get("/v1/sessions/s/slots/plan").await;
    assert_eq!(slot["state"], "locked", "{slot}");
    gate.open();
    assert_eq!(said(&events.turn("puppet").await), "one two");
    let slot = server.get("/v1/sessions/s/slots/plan").await;
    assert_eq!(slot["content"], "done", "{slot}");
    server.stop().await;
}

/// Who waits to come back to an answer holds up nobody that waits for the model: the answer is read meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_comes_back_and_one_that_would_ask_do_not_wait_for_each_other() {
    let gate = Gate::new();
    let replies = [late(&gate, "one"), Reply::text("two")];
    let provider = Provider::start(replies).await;
    let server = with_one_call(&provider).await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    server.session("s", &["puppet"]).await;
    server.session("t", &["puppet"]).await;
    server.session("other", &["echo"]).await;
    let mut first = server.follow("s").await;
    let mut second = server.follow("t").await;
    server.post("s", json!([{"relay": "q"}])).await;
    provider.received(1).await;
    server
        .reply("echo", "other", json!("its place is free"))
        .await;
    // It has the only place, and waits for the only call.
    server.post("t", json!([{"relay": "r"}])).await;
    second.until(|event| event.kind == "turn-started").await;
    while !called(&server).await {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(said(&first.turn("puppet").await), "one");
    assert_eq!(said(&second.turn("puppet").await), "two");
    server.stop().await;
}

/// Whether the turn of session `t` has asked.
async fn called(server: &Server) -> bool {
    let entries = server.get("/v1/sessions/t/journal?kind=called").await;
    entries["entries"] != json!([])
}
