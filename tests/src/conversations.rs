//! The example agents, end to end.

use antiphon::model::scripted::{Gate, Provider, Received, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{Event, said};

pub(crate) fn is_thinker(request: &Received) -> bool {
    let system = request.body["messages"][0]["content"].as_str();
    system.is_some_and(|system| system.starts_with("You think about"))
}

/// One talks at once while the other thinks; chatter does not disturb the thought, and
/// what was found is told when it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_talks_and_one_thinks() {
    let gate = Gate::new();
    let thought = gate.clone();
    let mut thoughts = 0;
    let provider = Provider::answering(move |request| {
        if is_thinker(request) {
            thoughts += 1;
            let text = format!("thought {thoughts}");
            return Reply::stream().wait(&thought).say(&text).finish("stop");
        }
        Reply::text(request.last("user").map_or("nothing", |last| match last {
            "Porto?" => "Let me see. ",
            "And Lisbon?" => "Also. ",
            _ => "It says: go. ",
        }))
    })
    .await;
    let server = Server::asking(&provider).await;
    server
        .configure("talker", json!({"watches": ["analysis"]}))
        .await
        .is(201);
    server.deploy("talker").await;
    let grants =
        json!({"grants": ["kernel", "mailbox", "transcript", "model", "turn", "log", "context"]});
    server.configure("thinker", grants).await.is(201);
    server.deploy("thinker").await;
    server.session("s", &["talker", "thinker"]).await;
    let mut events = server.follow("s").await;

    assert_eq!(
        server.reply("talker", "s", json!("Porto?")).await,
        "Let me see. "
    );
    // The thinker is at it, and holds the slot.
    let mut requests = provider.requests();
    while !requests.iter().any(is_thinker) {
        provider.received(requests.len() + 1).await;
        requests = provider.requests();
    }
    assert_eq!(
        server.get("/v1/sessions/s/slots/analysis").await["state"],
        "locked"
    );
    assert_eq!(
        server.reply("talker", "s", json!("And Lisbon?")).await,
        "Also. "
    );
    let lisbon = provider.requests();
    let lisbon = lisbon
        .iter()
        .find(|it| it.last("user") == Some("And Lisbon?"));
    let prompt = lisbon.expect("it was asked").body.to_string();
    assert!(prompt.contains("state=\\\"locked\\\""), "{prompt}");

    gate.open();
    let seen = events.until(|event| event.kind == "slot-committed").await;
    let interrupted = seen
        .iter()
        .any(|event| event.kind == "turn-ended" && event.data["outcome"] != "completed");
    assert!(!interrupted, "{seen:?}");
    let rest = events
        .until(|event| {
            event.data["text"]
                .as_str()
                .is_some_and(|it| it.contains("go."))
        })
        .await;
    let told = rest
        .iter()
        .find(|event| event.kind == "turn-started" && event.data["agent"] == "talker");
    assert_eq!(
        told.expect("the talker was woken").data["causes"],
        json!([{"slot": "analysis"}])
    );
    // The second question is thought about too, in one more turn, which may be quicker than what is said of the first.
    let is_commit = |event: &Event| event.kind == "slot-committed";
    if !rest.iter().any(is_commit) {
        events.until(is_commit).await;
    }
    let slot = server.get("/v1/sessions/s/slots/analysis").await;
    assert_eq!(slot["content"], "thought 6");
    server.stop().await;
}

/// The clerk's model pulls one message, keeps a note, and leaves the other where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clerk_lives_on_its_mailbox() {
    let provider = Provider::start([
        Reply::tool_call("c1", "mailbox_list", "{}"),
        Reply::tool_call("c2", "mailbox_pull", r#"{"max": 1}"#),
        Reply::tool_call("c3", "context_note", r#"{"text": "the contract is due"}"#),
        Reply::text("I saw to the contract."),
        Reply::text("Still here."),
    ])
    .await;
    let server = Server::asking(&provider).await;
    server.configure("clerk", json!({})).await.is(201);
    server.session("s", &["clerk"]).await;
    let first = server.post("s", json!("the contract")).await;
    let second = server.post("s", json!("the weather")).await;
    let mut events = server.follow("s").await;
    server.deploy("clerk").await;
    let turn = events.turn("clerk").await;
    assert_eq!(said(&turn), "I saw to the contract.");
    let fates = json!([
        {"message": first, "fate": "consumed"},
        {"message": second, "fate": "left"},
    ]);
    assert_eq!(turn.last().expect("it ended").data["inputs"], fates);
    let answers: Vec<Value> = provider.requests()[3].body["messages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["content"].clone())
        .collect();
    assert_eq!(answers.len(), 3);
    let pulled = answers[1].as_str().expect("a text");
    assert!(
        pulled.contains("the contract") && !pulled.contains("weather"),
        "{pulled}"
    );

    // In the next turn its note is in view, the message it dealt with is not pulled again.
    server.post("s", json!("hello")).await;
    events.turn("clerk").await;
    let prompt = provider.requests()[4].body["messages"].to_string();
    assert!(prompt.contains("the contract is due"), "{prompt}");
    assert!(
        prompt.contains("Messages waiting in your mailbox: 2"),
        "{prompt}"
    );
    server.stop().await;
}

/// The connection to the model breaks in a word; the model goes on and repeats itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_gone_on_with() {
    let provider = Provider::start([
        Reply::stream().say("Rents are ").say("low").cut(),
        Reply::stream()
            .say("are")
            .say(" lower")
            .say(" there.")
            .finish("stop"),
        Reply::text("Yes."),
    ])
    .await;
    let server = Server::asking(&provider).await;
    server.configure("talker", json!({})).await.is(201);
    server.deploy("talker").await;
    server.session("s", &["talker"]).await;
    let mut events = server.follow("s").await;

    let whole = "Rents are lower there.";
    assert_eq!(server.reply("talker", "s", json!("Porto?")).await, whole);
    let turn = events.turn("talker").await;
    assert_eq!(said(&turn), whole);
    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(transcript["items"][1]["text"], whole);
    let told = provider.requests()[1].last("assistant").map(str::to_owned);
    assert_eq!(told.as_deref(), Some("Rents are low"));
    server.reply("talker", "s", json!("Sure?")).await;
    let told = provider.requests()[2].last("assistant").map(str::to_owned);
    assert_eq!(told.as_deref(), Some(whole));
    server.stop().await;
}
