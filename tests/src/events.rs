//! Reading a session as it goes on: catching up, following, going on where one was cut.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{Event, said};

fn offsets(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["offset"].as_str().expect("an offset"))
        .collect()
}

/// From every offset, by every way of reading: what comes after, once, in order, also
/// while a reply streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_any_offset_there_is_no_gap_and_no_overlap() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one ")
        .wait(&gate)
        .say("two ")
        .say("three")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
        .reply(
            "puppet",
            "s",
            json!([{"say": "a"}, {"commit": ["x", "y"]}, {"say": "b"}]),
        )
        .await;
    server.post("s", json!([{"relay": "q"}])).await;
    let mut first = server.follow("s").await;
    let backlog = first.shown("abone ").await;
    let mut readers = vec![(0, server.follow("s").await)];
    for (at, event) in backlog.iter().enumerate() {
        let by_query = format!("GET /v1/sessions/s/events?live=sse&offset={}", event.id);
        readers.push((at + 1, server.call(&by_query).events().await));
        // The header is what a browser sends when it comes back, whatever the address says.
        let by_header = server.call("GET /v1/sessions/s/events?live=sse&offset=-1");
        readers.push((
            at + 1,
            by_header.header("last-event-id", &event.id).events().await,
        ));
    }
    gate.open();
    let rest = first.turn("puppet").await;
    let all: Vec<Event> = backlog.into_iter().chain(rest).collect();
    assert_eq!(said(&all), "abone two three");
    for (at, mut reader) in readers {
        for expected in &all[at..] {
            assert_eq!(reader.next().await.as_ref(), Some(expected), "from {at}");
        }
    }
    let page = server.get("/v1/sessions/s/events").await;
    let events = page["events"].as_array().expect("a list");
    let ids: Vec<&str> = all.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(offsets(events), ids);
    for (at, id) in ids.iter().enumerate() {
        let rest = server
            .get(&format!("/v1/sessions/s/events?offset={id}"))
            .await;
        assert_eq!(
            rest["events"].as_array().expect("a list")[..],
            events[at + 1..]
        );
        assert_eq!(
            (&rest["offset"], &rest["up_to_date"]),
            (&page["offset"], &json!(true))
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_checked() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("x")).await;
    let ahead = "0000000000009999_0000000000000000";
    for way in ["", "&live=sse", "&live=long-poll"] {
        for (offset, code) in [
            ("7", "offset_malformed"),
            ("", "offset_malformed"),
            ("0000000000000001_0000000000000001", "offset_malformed"),
            ("-2", "offset_malformed"),
            (ahead, "offset_ahead"),
        ] {
            let line = format!("GET /v1/sessions/s/events?offset={offset}{way}");
            server.call(&line).await.refused(400, code);
        }
    }
    let header = server.call("GET /v1/sessions/s/events?live=sse");
    header
        .header("last-event-id", ahead)
        .await
        .refused(400, "offset_ahead");
    server
        .call("GET /v1/sessions/s/events?live=morse")
        .await
        .refused(400, "invalid_live");
    server
        .call("GET /v1/sessions/none/events")
        .await
        .refused(404, "session_not_found");

    let now = server.get("/v1/sessions/s/events?offset=now").await;
    assert_eq!(
        (&now["events"], &now["up_to_date"]),
        (&json!([]), &json!(true))
    );
    let start = server.get("/v1/sessions/s/events?offset=-1").await;
    assert_eq!(start, server.get("/v1/sessions/s/events").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_waits_for_the_next_event() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let page = server.get("/v1/sessions/s/events?live=long-poll").await;
    assert_eq!(page["events"][0]["kind"], "session-opened");
    let line = format!(
        "GET /v1/sessions/s/events?live=long-poll&offset={}",
        page["offset"].as_str().expect("an offset")
    );
    let call = server.call(&line);
    let poll = tokio::spawn(async move { call.await });
    server.post("s", json!("x")).await;
    let page = poll.await.expect("it does not panic").is(200);
    assert_eq!(page["events"][0]["kind"], "message-received");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_bounded_and_end_with_the_server() {
    let server = Server::with(|config| config.limits.streams_max = 2).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mut first = server.follow("s").await;
    let second = server.follow("s").await;
    first.next().await.expect("the session was opened");
    let line = "GET /v1/sessions/s/events?live=sse";
    let refused = server.call(line).await;
    refused.refused(429, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(second);
    let restarted = server.restart().await;
    assert_eq!(first.next().await, None);
    restarted.stop().await;
}
