//! Clients that keep the server waiting: it waits for so long, and they lose nothing.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};

use crate::client::HANGS;
use crate::server::Server;

/// Bytes on the wire, and no client that knows better.
struct Raw(TcpStream);

impl Raw {
    async fn open(server: &Server) -> Self {
        // In one step: a stream that is polled for it may hear first that it was cut.
        let stream = std::net::TcpStream::connect(server.address()).expect("the server listens");
        stream.set_nonblocking(true).expect("it can wait");
        Self(TcpStream::from_std(stream).expect("it is a socket"))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it is open");
    }

    /// What comes until the server hangs up.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(HANGS, self.0.read_to_end(&mut bytes)).await;
        // A connection that is cut ends with an error: what came before it counts.
        let _ = read.expect("the server hangs up");
        String::from_utf8(bytes).expect("UTF-8")
    }

    /// One answer without more than this in its body.
    async fn answer(&mut self, body: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(body.as_bytes()) {
            let mut buffer = [0; 1024];
            let read = tokio::time::timeout(HANGS, self.0.read(&mut buffer)).await;
            let count = read.expect("an answer").unwrap_or_default();
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(bytes).expect("UTF-8")
    }
}

/// Somebody ran into the limit; others of this process may have, too.
async fn was_hit(server: &Server, limit: &str) {
    let hit = server.limits_hit().await;
    let name = format!("{{limit=\"{limit}\"}}");
    assert!(hit.contains(&name), "{name} in {hit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_send_a_head_is_cut() {
    let server = Server::with(|config| config.limits.head_ms_max = 500).await;
    for half in [
        "",
        "GET /v1/agents HTTP/1.1\r\nhost: a",
        "PRI * HTTP/2.0\r\n",
    ] {
        let mut raw = Raw::open(&server).await;
        raw.send(half.as_bytes()).await;
        assert_eq!(raw.rest().await, "", "{half:?}");
    }
    was_hit(&server, "head_ms_max").await;
    let mut raw = Raw::open(&server).await;
    raw.send(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(raw.answer("true}").await.starts_with("HTTP/1.1 200"));
    // And the second head on the same connection.
    raw.send(b"GET /heal").await;
    assert_eq!(raw.rest().await, "");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_requests_is_closed() {
    let server = Server::with(|config| {
        config.limits.idle_ms_max = 500;
        config.limits.head_ms_max = 500;
    })
    .await;
    let mut raw = Raw::open(&server).await;
    raw.send(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 200"));
    was_hit(&server, "idle_ms_max").await;
    let mut two = Raw::open(&server).await;
    // The preface and empty settings. The goodbye is a frame of type 7, and then the end.
    two.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(HANGS, two.0.read_to_end(&mut bytes)).await;
    // Who does not answer the goodbye is cut.
    let _ = read.expect("the server hangs up");
    assert!(frames(&bytes).iter().any(|(kind, _)| *kind == 7));
    server.stop().await;
}

/// HTTP/2 frames: type and content.
fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while bytes.len() >= 9 {
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        frames.push((bytes[3], &bytes[9..9 + length]));
        bytes = &bytes[9 + length..];
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_2_client_hears_how_many_requests_it_may_make_at_once() {
    let server = Server::with(|config| {
        config.limits.connection_streams_max = 7;
        config.limits.idle_ms_max = 50;
        config.limits.head_ms_max = 50;
    })
    .await;
    let mut two = Raw::open(&server).await;
    two.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(HANGS, two.0.read_to_end(&mut bytes)).await;
    // Who does not answer the goodbye is cut.
    let _ = read.expect("the server hangs up");
    let frames = frames(&bytes);
    let settings = frames
        .iter()
        .find(|(kind, _)| *kind == 4)
        .expect("settings")
        .1;
    let mut settings = settings.chunks(6);
    assert!(
        settings.any(|setting| setting == [0, 3, 0, 0, 0, 7]),
        "{frames:?}"
    );
    server.stop().await;
}

const HALF: &str = "POST /v1/sessions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer KEY\r\n\
    content-length: 5000000\r\n\r\n{\"agents\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_coming_is_answered_408() {
    let server = Server::with(|config| config.limits.body_stall_ms_max = 50).await;
    let mut raw = Raw::open(&server).await;
    raw.send(HALF.replace("KEY", &server.key).as_bytes()).await;
    let answer = raw.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("\"request_timeout\""), "{answer}");
    was_hit(&server, "body_stall_ms_max").await;
    // Nothing of it was taken.
    assert_eq!(server.get("/v1/sessions").await["sessions"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_drips_is_answered_408() {
    let server = Server::with(|config| config.limits.body_ms_max = 100).await;
    let raw = Raw::open(&server).await;
    let (mut reads, mut writes) = raw.0.into_split();
    writes
        .write_all(HALF.replace("KEY", &server.key).as_bytes())
        .await
        .expect("it is open");
    // Until the server has no more of it.
    let drip = async { while writes.write_all(b" ").await.is_ok() {} };
    tokio::time::timeout(HANGS, drip).await.expect("it ends");
    let mut answer = Vec::new();
    let _ = reads.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    was_hit(&server, "body_ms_max").await;
    server.stop().await;
}

/// Offsets of the whole events in a stream.
fn offsets(stream: &str) -> Vec<&str> {
    let whole = stream.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let lines = whole.lines();
    lines.filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_is_cut_and_goes_on_where_it_was() {
    // Long enough for who reads, however busy the machine is.
    let server = Server::with(|config| config.limits.write_stall_ms_max = 2_000).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let long = "x".repeat(1_000_000);
    for _ in 0..12 {
        server.reply("echo", "s", json!(long)).await;
    }
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket");
    let stream = socket.connect(server.address()).await;
    let mut raw = Raw(stream.expect("the server listens"));
    let ask = |after: &str| {
        format!(
            "GET /v1/sessions/s/events?live=sse HTTP/1.1\r\nhost: a\r\n\
             authorization: Bearer {}\r\nlast-event-id: {after}\r\n\r\n",
            server.key
        )
    };
    raw.send(ask("-1").as_bytes()).await;
    let cut = async {
        while !raw
            .0
            .ready(Interest::ERROR)
            .await
            .expect("a socket")
            .is_error()
        {}
    };
    tokio::time::timeout(HANGS, cut).await.expect("it is cut");
    was_hit(&server, "write_stall_ms_max").await;
    let first = raw.rest().await;
    let first = offsets(&first);

    // What it has, and what follows, is everything.
    let page = server.get("/v1/sessions/s/events?offset=now").await;
    let end = page["offset"].as_str().expect("an offset").to_owned();
    let after = first.last().copied().unwrap_or("-1");
    let call = server.call("GET /v1/sessions/s/events?live=sse");
    let mut events = call.header("last-event-id", after).events().await;
    let mut all: Vec<String> = first.iter().map(|id| (*id).to_owned()).collect();
    while all.last() != Some(&end) {
        all.push(events.next().await.expect("more").id);
    }
    let mut whole = Vec::new();
    let mut events = server.follow("s").await;
    while whole.last() != Some(&end) {
        whole.push(events.next().await.expect("more").id);
    }
    assert_eq!(all, whole);
    server.stop().await;
}

/// Over HTTP/2 only the stream ends that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_ends_beside_others_that_go_on() {
    let server = Server::with(|config| config.limits.write_stall_ms_max = 1_000).await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    server.session("s", &["echo"]).await;
    let long = "x".repeat(100_000);
    for _ in 0..3 {
        server.reply("echo", "s", json!(long)).await;
    }
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(65_535);
    let client = client.build().expect("a client");
    let get = |path: &str| {
        let request = client.get(format!("{}{path}", server.url));
        request.bearer_auth(&server.key).send()
    };
    let stalled = get("/v1/sessions/s/events?live=sse").await.expect("a head");
    assert_eq!(stalled.version(), reqwest::Version::HTTP_2);
    // Meanwhile three seconds pass on the server's clock, on the same connection.
    let invoked = client
        .post(format!("{}/v1/agents/puppet/invoke", server.url))
        .bearer_auth(&server.key)
        .json(&json!({"body": [{"sleep": 3000}]}))
        .send();
    assert_eq!(invoked.await.expect("an answer").status(), 200);
    was_hit(&server, "write_stall_ms_max").await;
    stalled.bytes().await.expect_err("the stream was ended");
    assert_eq!(get("/v1/agents").await.expect("an answer").status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_bound_are_closed_as_they_come() {
    let server = Server::with(|config| config.limits.connections_max = 8).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut raw = Raw::open(&server).await;
        // Whoever is refused may find the connection closed already.
        let _ = raw
            .0
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
            .await;
        let answer = raw.answer("true}").await;
        if answer.is_empty() {
            break held.len();
        }
        held.push(raw);
    };
    // The others are the client's own.
    assert!((5..=8).contains(&refused), "{refused}");
    drop(held.pop());
    held[0]
        .send(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert!(held[0].answer("true}").await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_tenant_are_bounded() {
    let server = Server::with(|config| config.limits.streams_tenant_max = 2).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let first = server.follow("s").await;
    let second = server.call("GET /v1/agents/echo/logs").events().await;
    for (line, accept) in [
        ("GET /v1/sessions/s/events?live=sse", "*/*"),
        ("GET /v1/sessions/s/events?live=long-poll&offset=now", "*/*"),
        ("GET /v1/agents/echo/logs?live=sse", "*/*"),
        ("POST /v1/agents/echo/invoke", "text/event-stream"),
    ] {
        let mut call = server.call(line).header("accept", accept);
        if line.starts_with("POST") {
            call = call.json(json!({"body": "x", "session": "s"}));
        }
        let refused = call.await;
        refused.refused(429, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"), "{line}");
    }
    was_hit(&server, "streams_tenant_max").await;
    // Who was refused a stream has sent no message.
    let page = server.get("/v1/sessions/s/events").await;
    assert!(!page.to_string().contains("message-received"), "{page}");
    // Without a stream, all goes on.
    server.reply("echo", "s", json!("x")).await;
    drop((first, second));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_the_host_are_bounded() {
    let server = Server::with(|config| config.limits.streams_max = 1).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let held = server.follow("s").await;
    let refused = server.call("GET /v1/sessions/s/events?live=sse").await;
    refused.refused(429, "overloaded");
    was_hit(&server, "streams_max").await;
    drop(held);
    server.stop().await;
}
