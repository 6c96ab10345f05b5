//! Saw = saved = sees: what people were shown, what the transcript holds, and what the
//! model is sent next are the same text.

use antiphon::model::scripted::{Gate, Provider, Received, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{kinds, said};

/// What the model is told of the conversation before this turn: `role: text`.
fn told(request: &Received) -> Vec<String> {
    let messages = request.body["messages"].as_array().expect("a list");
    let lines = messages.iter().map(|message| {
        let text = |name: &str| message[name].as_str().unwrap_or_default();
        format!("{}: {}", text("role"), text("content"))
    });
    lines.collect()
}

fn items(transcript: &Value) -> Vec<(String, String, Value)> {
    let items = transcript["items"].as_array().expect("a list");
    let item = |item: &Value| {
        let who = item["agent"].as_str().or(item["author"].as_str());
        let text = item["text"].as_str().expect("a text");
        (
            who.expect("somebody").to_owned(),
            text.to_owned(),
            item["end"].clone(),
        )
    };
    items.iter().map(item).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_whole_reply() {
    let text = "Ünïcode, \"quotes\",\nlines\r\n and <tags> \u{1f3b6} come through.";
    let provider = Provider::start([Reply::text(text), Reply::text("And?")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    let script = json!([{"relay": "first"}]);
    assert_eq!(server.reply("puppet", "s", script.clone()).await, text);
    assert_eq!(said(&events.turn("puppet").await), text);
    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(
        items(&transcript)[1],
        ("puppet".into(), text.into(), json!("complete"))
    );

    server
        .reply("puppet", "s", json!([{"relay": "second"}]))
        .await;
    let expected = [
        format!("user: {script}"),
        format!("assistant: {text}"),
        "user: second".to_owned(),
    ];
    assert_eq!(told(&provider.requests()[1]), expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_interrupted_reply() {
    let gate = Gate::new();
    let cut = Reply::stream()
        .say("one ")
        .say("two ")
        .wait(&gate)
        .say("three")
        .finish("stop");
    let provider = Provider::start([cut, Reply::text("fine")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    let script = json!([{"relay": "first"}]);
    server.post("s", script.clone()).await;
    events.shown("one two ").await;
    let call = server.call("POST /v1/sessions/s/interrupt");
    let accepted = call.json(json!({"author": "ana"})).await.is(202);
    let rest = events.turn("puppet").await;
    assert_eq!(kinds(&rest), ["interrupt-requested", "turn-ended"]);
    assert_eq!(rest[1].data["outcome"], "interrupted");
    assert_eq!(accepted["offset"], json!(rest[1].id));
    // The call is given up: nobody pays for words that nobody sees.
    provider.given_up(1).await;
    gate.open();

    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(
        items(&transcript)[1],
        ("puppet".into(), "one two ".into(), json!("interrupted"))
    );
    let said_next = server.reply(
        "puppet",
        "s",
        json!([{"transcript": 9}, {"relay": "second"}]),
    );
    let said_next = said_next.await;
    assert!(
        said_next.contains("puppet (interrupted): one two \""),
        "{said_next}"
    );
    let told = told(&provider.requests()[1]);
    assert_eq!(told[1], "assistant: one two ");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupting_nobody_is_a_conflict() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    for (body, status, code) in [
        (json!({}), 409, "idle"),
        (json!({"agent": "echo"}), 409, "idle"),
        (json!({"agent": "puppet"}), 409, "agent_not_in_session"),
        (json!({"agent": "a/b"}), 400, "invalid_name"),
        (json!({"turn": "x"}), 400, "unknown_field"),
    ] {
        let call = server.call("POST /v1/sessions/s/interrupt").json(body);
        call.await.refused(status, code);
    }
    server
        .call("POST /v1/sessions/s/interrupt")
        .await
        .refused(409, "idle");
    server.stop().await;
}

/// The transcript and the events after it are the whole conversation, each word once, at
/// whatever moment the transcript is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_is_continued_by_the_events_after_it() {
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
    server.reply("puppet", "s", json!([{"say": "a"}])).await;
    server.post("s", json!([{"relay": "q"}])).await;
    server.follow("s").await.shown("aone ").await;
    let half = server.get("/v1/sessions/s/transcript").await;
    let last = items(&half).last().expect("items").clone();
    assert_eq!(last, ("puppet".into(), "one ".into(), Value::Null));
    let offset = half["offset"].as_str().expect("an offset");
    let line = format!("GET /v1/sessions/s/events?live=sse&offset={offset}");
    let mut rest = server.call(&line).events().await;
    gate.open();
    let rest = rest.turn("puppet").await;
    assert_eq!(last.1 + &said(&rest), "one two");
    let whole = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(items(&whole).last().expect("items").1, "one two");
    assert_eq!(whole["offset"], json!(rest.last().expect("it ended").id));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_is_read_page_by_page() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    for text in ["1", "2", "3"] {
        server.reply("echo", "s", json!(text)).await;
    }
    let whole = items(&server.get("/v1/sessions/s/transcript").await);
    assert_eq!(whole.len(), 6);
    for limit in 1..=7 {
        let (mut pages, mut before) = (Vec::new(), String::new());
        loop {
            let line = format!("/v1/sessions/s/transcript?limit={limit}{before}");
            let page = server.get(&line).await;
            let mut older = items(&page);
            assert!(older.len() <= limit);
            older.append(&mut pages);
            pages = older;
            let Some(next) = page["before"].as_str() else {
                break;
            };
            before = format!("&before={next}");
        }
        assert_eq!(pages, whole, "pages of {limit}");
    }
    let malformed = server.call("GET /v1/sessions/s/transcript?before=x").await;
    malformed.refused(400, "offset_malformed");
    server.stop().await;
}
