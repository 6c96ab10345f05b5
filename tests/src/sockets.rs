//! A session over one WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::HANGS;
use crate::server::Server;

/// A client of a session.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(server: &Server, key: &str, session: &str, offset: &str) -> Self {
        Self::at(&server.url, key, session, offset).await
    }

    pub(crate) async fn at(server: &str, key: &str, session: &str, offset: &str) -> Self {
        let opened = Self::try_at(server, key, session, offset).await;
        opened.expect("it opens")
    }

    /// None if it does not open.
    pub(crate) async fn try_at(
        server: &str,
        key: &str,
        session: &str,
        offset: &str,
    ) -> Option<Self> {
        let url = format!("{server}/v1/sessions/{session}/socket?offset={offset}");
        let url = url.replacen("http", "ws", 1);
        let mut request = url.into_client_request().expect("a URL");
        let key = format!("Bearer {key}").parse().expect("a header");
        request.headers_mut().insert("authorization", key);
        let (stream, _) = connect_async(request).await.ok()?;
        Some(Self(stream))
    }

    pub(crate) async fn say(&mut self, request: Value) {
        let text = Message::text(request.to_string());
        self.0.send(text).await.expect("it is open");
    }

    /// What comes next but pings: an event, an answer, or `{"close": code}`.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            let next = tokio::time::timeout(HANGS, self.0.next()).await;
            match next.expect("something comes") {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).expect("JSON");
                }
                Some(Ok(Message::Close(frame))) => {
                    return json!({"close": frame.map(|it| u16::from(it.code))});
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return json!({"error": error.to_string()}),
                None => return json!({"close": null}),
            }
        }
    }

    /// The answer to this request, and the events before it.
    pub(crate) async fn answer(&mut self, id: &str) -> (Value, Vec<Value>) {
        let mut events = Vec::new();
        loop {
            let mut next = self.next().await;
            match next["answer"].take() {
                Value::Null => events.push(next["event"].take()),
                answer if answer["id"] == id => return (answer, events),
                answer => panic!("another answer: {answer}"),
            }
        }
    }

    /// Events until this many turns have ended.
    async fn until_ended(&mut self, mut events: Vec<Value>, turns: usize) -> Vec<Value> {
        let ended = |events: &[Value]| {
            events
                .iter()
                .filter(|it| it["kind"] == "turn-ended")
                .count()
        };
        while ended(&events) < turns {
            let mut next = self.next().await;
            assert!(next["event"].is_object(), "{next}");
            events.push(next["event"].take());
        }
        events
    }
}

async fn ready() -> Server {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server
}

async fn token(server: &Server, scopes: Value) -> Value {
    let call = server.call("POST /v1/sessions/s/tokens");
    let body = json!({"author": "ana", "scopes": scopes});
    call.json(body).await.is(201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_both_ways_and_goes_on_elsewhere() {
    let server = ready().await;
    let mut socket = Socket::open(&server, &server.key, "s", "-1").await;
    socket
        .say(json!({"id": "1", "send": {"body": "hello"}}))
        .await;
    let (answer, events) = socket.answer("1").await;
    assert_eq!(
        (&answer["status"], &answer["message"]),
        (&json!(202), &json!("s:2"))
    );
    let events = socket.until_ended(events, 1).await;
    let page = server.get("/v1/sessions/s/events").await;
    assert_eq!(json!(events), page["events"], "the same as everywhere");
    // It is cut, more happens, and another one goes on from there, also after a restart.
    drop(socket);
    server.invoke("echo", "s", json!("meanwhile")).await.is(200);
    let server = server.restart().await;
    let last = events.last().expect("one")["offset"]
        .as_str()
        .expect("an offset");
    let mut socket = Socket::open(&server, &server.key, "s", last).await;
    let more = socket.until_ended(Vec::new(), 1).await;
    let rest = server
        .get(&format!("/v1/sessions/s/events?offset={last}"))
        .await;
    assert_eq!(json!(more), rest["events"]);
    // Several of them see the same, whoever sends.
    let mut other = Socket::open(&server, &server.key, "s", "now").await;
    for n in ["a", "b", "c"] {
        socket.say(json!({"id": n, "send": {"body": n}})).await;
        let (answer, _) = socket.answer(n).await;
        assert_eq!(answer["status"], 202);
    }
    let told = server.invoke("echo", "s", json!("the last")).await.is(200);
    let mut seen = Vec::new();
    while seen
        .last()
        .is_none_or(|it: &Value| it["offset"] != told["offset"])
    {
        let next = other.next().await["event"].take();
        seen.push(next);
    }
    let from = more.last().expect("one")["offset"]
        .as_str()
        .expect("an offset");
    let page = server
        .get(&format!("/v1/sessions/s/events?offset={from}"))
        .await;
    assert_eq!(json!(seen), page["events"]);
    server.stop().await;
    assert_eq!(other.next().await, json!({"close": 1001}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_is_answered_as_over_http() {
    let server = ready().await;
    let mut socket = Socket::open(&server, &server.key, "s", "now").await;
    for (request, status, code) in [
        (json!([]), 400, "invalid_json"),
        (json!({}), 400, "invalid_json"),
        (
            json!({"id": "x".repeat(129), "send": {"body": 1}}),
            400,
            "invalid_json",
        ),
        (
            json!({"send": {"body": 1}, "interrupt": {}}),
            400,
            "invalid_json",
        ),
        (json!({"sing": {}}), 400, "unknown_field"),
        (json!({"send": {"text": 1}}), 400, "unknown_field"),
        (
            json!({"send": {"body": 1, "to": "nobody"}}),
            409,
            "agent_not_in_session",
        ),
        (
            json!({"send": {"body": 1}, "idempotency_key": "a\nb"}),
            400,
            "invalid_idempotency_key",
        ),
        (json!({"interrupt": {}}), 409, "idle"),
    ] {
        socket.say(request.clone()).await;
        let mut next = socket.next().await;
        let answer = next["answer"].take();
        assert_eq!(answer["status"], status, "{request}: {answer}");
        assert_eq!(answer["error"]["code"], code, "{request}: {answer}");
    }
    // What is sent twice is taken once.
    let request = json!({"id": "k", "idempotency_key": "k", "send": {"body": "once"}});
    socket.say(request.clone()).await;
    let (first, _) = socket.answer("k").await;
    socket.say(request).await;
    let (again, _) = socket.answer("k").await;
    assert_eq!(first["message"], again["message"]);
    assert_eq!(
        (&first["replayed"], &again["replayed"]),
        (&Value::Null, &json!(true))
    );
    socket
        .0
        .send(Message::binary(vec![1]))
        .await
        .expect("it is open");
    let mut last = socket.next().await;
    while last["event"].is_object() {
        last = socket.next().await;
    }
    assert_eq!(last, json!({"close": 1003}));
    // Before it is open, the errors are those of HTTP.
    for (line, status, code) in [
        ("GET /v1/sessions/s/socket", 426, "upgrade_required"),
        (
            "GET /v1/sessions/s/socket?offset=x",
            400,
            "offset_malformed",
        ),
        ("GET /v1/sessions/none/socket", 404, "session_not_found"),
    ] {
        server.call(line).await.refused(status, code);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_does_what_it_may_and_ends_with_its_socket() {
    let server = ready().await;
    server.session("t", &["echo"]).await;
    let reader = token(&server, json!(["read"])).await;
    let text = reader["token"].as_str().expect("a token");
    let mut socket = Socket::open(&server, text, "s", "now").await;
    socket
        .say(json!({"id": "1", "send": {"body": "hello"}}))
        .await;
    let (answer, _) = socket.answer("1").await;
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!(403), &json!("insufficient_scope"))
    );
    let id = reader["id"].as_str().expect("an id");
    server
        .call(&format!("DELETE /v1/sessions/s/tokens/{id}"))
        .await
        .is(204);
    assert_eq!(socket.next().await, json!({"close": 1008}));

    // In the query, where a browser has nowhere else to put it.
    let sender = token(&server, json!(["read", "send"])).await;
    let text = sender["token"].as_str().expect("a token");
    let url = server.url.replacen("http", "ws", 1);
    let address = |session: &str| {
        format!("{url}/v1/sessions/{session}/socket?offset=now&access_token={text}")
    };
    let (stream, _) = connect_async(address("s")).await.expect("it opens");
    let mut socket = Socket(stream);
    socket
        .say(json!({"id": "2", "send": {"body": "hello", "author": "bo"}}))
        .await;
    let (answer, _) = socket.answer("2").await;
    assert_eq!(answer["error"]["code"], "author_mismatch");
    socket
        .say(json!({"id": "3", "send": {"body": "hello"}}))
        .await;
    let (_, events) = socket.answer("3").await;
    let events = socket.until_ended(events, 1).await;
    assert_eq!(events[0]["author"], "ana");
    assert!(
        connect_async(address("t")).await.is_err(),
        "another session"
    );
    server.call("DELETE /v1/sessions/s").await.is(204);
    let changed = socket.next().await;
    assert_eq!(changed["event"]["change"], "deleted");
    assert_eq!(socket.next().await, json!({"close": 1000}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_and_what_cannot_be_read_ends_the_socket() {
    let server = Server::with(|config| config.limits.request_bytes_max = 64 * 1024).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mut socket = Socket::open(&server, &server.key, "s", "now").await;
    let long = |bytes: usize| json!({"send": {"body": "x".repeat(bytes)}});
    socket.say(long(64 * 1024)).await;
    let answer = socket.next().await["answer"].take();
    assert_eq!(
        (&answer["status"], &answer["error"]["code"]),
        (&json!(413), &json!("too_large"))
    );
    // Longer than anything that is looked at.
    socket.say(long(128 * 1024)).await;
    assert_eq!(socket.next().await, json!({"close": 1002}));
    // A client that says goodbye is answered.
    let mut socket = Socket::open(&server, &server.key, "s", "now").await;
    let close = Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "bye".into(),
    }));
    socket.0.send(close).await.expect("it is open");
    assert_eq!(socket.next().await, json!({"close": 1000}));
    assert_eq!(
        socket.next().await,
        json!({"close": null}),
        "and then it is over"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_loses_nothing() {
    let server = Server::with(|config| {
        config.limits.request_bytes_max = 64 * 1024;
        config.limits.write_stall_ms_max = 50;
    })
    .await;
    // A turn that said what many of these say would say more than it may, and they would come back later.
    let alone = json!({"batching": {"policy": "followup"}});
    server.configure("echo", alone).await.is(201);
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    // More than the buffers between hold.
    for _ in 0..300 {
        server.post("s", json!("x".repeat(60 * 1024))).await;
    }
    let told = server.invoke("echo", "s", json!("the last")).await.is(200);
    let idle = Socket::open(&server, &server.key, "s", "-1").await;
    while !server.limits_hit().await.contains("write_stall_ms_max") {
        tokio::task::yield_now().await;
    }
    drop(idle);
    let all = events_of(&server).await;
    let at = all.iter().position(|it| it["offset"] == told["offset"]);
    let after = &all[at.expect("its end") + 1..];
    assert!(after.is_empty(), "after the last turn: {after:?}");
    // One that reads is never cut for good: whenever it is, it goes on.
    let mut seen: Vec<Value> = Vec::new();
    while seen.len() < all.len() {
        let at = seen
            .last()
            .and_then(|it| it["offset"].as_str())
            .unwrap_or("-1");
        let mut socket = Socket::open(&server, &server.key, "s", at).await;
        while let event @ Value::Object(_) = socket.next().await["event"].take() {
            seen.push(event);
            if seen.len() == all.len() {
                break;
            }
        }
    }
    assert_eq!(seen, all);
    server.stop().await;
}

/// Page by page.
async fn events_of(server: &Server) -> Vec<Value> {
    let (mut events, mut from) = (Vec::new(), "-1".to_owned());
    loop {
        let path = format!("/v1/sessions/s/events?offset={from}");
        let page = server.get(&path).await;
        events.extend(page["events"].as_array().expect("a list").clone());
        if page["up_to_date"] == true {
            return events;
        }
        page["offset"]
            .as_str()
            .expect("an offset")
            .clone_into(&mut from);
    }
}
