//! Bursts of messages: what an agent's configuration makes of them, over HTTP.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{Event, said};

/// A turn that speaks, and then waits for the gate.
fn held(gate: &Gate) -> Reply {
    Reply::stream().say("so ").wait(gate).finish("stop")
}

async fn started(provider: &Provider, batching: Value) -> Server {
    let server = Server::asking(provider).await;
    let config = json!({"batching": batching});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
}

fn started_with(events: &[Event]) -> Vec<&Value> {
    let started = events.iter().filter(|event| event.kind == "turn-started");
    started.map(|event| &event.data["inputs"]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_six_messages_are_one_input_and_get_one_reply() {
    let gate = Gate::new();
    let provider = Provider::start([held(&gate)]).await;
    let server = started(&provider, json!({})).await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.shown("so ").await;
    let mut burst = Vec::new();
    for n in 0..36 {
        burst.push(server.post("s", json!(format!("{n}"))).await);
    }
    gate.open();
    events.turn("puppet").await;
    let turn = events.turn("puppet").await;
    assert_eq!(started_with(&turn), [&json!(burst)]);
    let heard: String = (0..36).map(|n| format!("heard {n}\n")).collect();
    assert_eq!(said(&turn), heard);
    let consumed: Vec<Value> = burst
        .iter()
        .map(|message| json!({"message": message, "fate": "consumed"}))
        .collect();
    let ended = &turn.last().expect("it ended").data;
    assert_eq!(ended["inputs"], json!(consumed));
    // Each of them is done, by the same turn.
    for message in [&burst[0], &burst[35]] {
        let operation = server.get(&format!("/v1/operations/{message}")).await;
        assert_eq!(operation["response"]["turn"], ended["turn"], "{operation}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_speaks_interrupts_if_the_turn_was_started_so() {
    let gate = Gate::new();
    let provider = Provider::start([held(&gate), held(&gate)]).await;
    let server = started(&provider, json!({"policy": "interrupt"})).await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.shown("so ").await;
    // The turn goes by the configuration that it was started with.
    server.configure("puppet", json!({})).await.is(201);
    let second = server.post("s", json!([{"relay": "r"}])).await;
    let ended = events.turn("puppet").await;
    let [.., received, requested, ended] = &ended[..] else {
        panic!("{ended:?}");
    };
    assert_eq!(received.data["message"], *second);
    assert_eq!(requested.kind, "interrupt-requested");
    assert_eq!(
        (&requested.data["message"], &requested.data["by"]),
        (&json!(second), &json!("ana"))
    );
    assert_eq!(ended.data["outcome"], "interrupted");
    provider.given_up(1).await;

    // The next one collects.
    events.shown("so ").await;
    server.post("s", json!("third")).await;
    gate.open();
    let turn = events.turn("puppet").await;
    assert_eq!(turn.last().expect("it ended").data["outcome"], "completed");
    assert_eq!(said(&events.turn("puppet").await), "heard third\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_is_steered_by_what_it_pulls() {
    let gate = Gate::new();
    let provider = Provider::start([held(&gate)]).await;
    let server = started(&provider, json!({"policy": "steer"})).await;
    let mut events = server.follow("s").await;
    let script = json!([{"relay": "q"}, "pull", {"say": "done"}]);
    server.post("s", script).await;
    events.shown("so ").await;
    let joined = server.post("s", json!("and this")).await;
    gate.open();
    let turn = events.turn("puppet").await;
    assert!(said(&turn).ends_with("heard and this\ndone"), "{turn:?}");
    let operation = server.get(&format!("/v1/operations/{joined}")).await;
    let response = &operation["response"];
    let ended = &turn.last().expect("it ended").data;
    assert_eq!(response["turn"], ended["turn"], "{operation}");
    assert_eq!(response["reply"], "heard and this\ndone", "{operation}");
    server.stop().await;
}

/// One that never pauses is configured badly, and is told so by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_by_name() {
    let server = Server::start().await;
    for (batching, named) in [
        (json!({"quiet_ms": 20_000}), "`batching.quiet_ms`"),
        (json!({"wait_ms_max": 60_001}), "`batching.wait_ms_max`"),
        (json!({"messages_max": 101}), "`batching.messages_max`"),
    ] {
        let answer = server.configure("puppet", json!({"batching": batching}));
        let refused = answer.await.refused(400, "invalid_json");
        let message = refused["error"]["message"].as_str().expect("a text");
        assert!(message.contains(named), "{message}");
    }
    server.stop().await;
}
