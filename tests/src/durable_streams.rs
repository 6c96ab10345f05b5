//! Durable Streams from outside: what the conformance suite does not ask (restarts, tenants, limits, sessions), and
//! that suite itself.

use std::fs;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use antiphon::store::{check, transfer};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::server::Server;
use crate::tenants::{operator, tenant};

const START: &str = "0000000000000000_0000000000000000";

/// A request to a stream of text.
fn text(server: &Server, line: &str, body: &str) -> Call {
    server.call(line).text(body)
}

async fn made(server: &Server, path: &str, body: &str) {
    let put = text(server, &format!("PUT /v1/stream/{path}"), body).await;
    assert_eq!(put.status, 201, "{path}: {}", put.text());
}

async fn appended(server: &Server, path: &str, body: &str) -> String {
    let post = text(server, &format!("POST /v1/stream/{path}"), body).await;
    assert_eq!(post.status, 204, "{path}: {}", post.text());
    next(&post)
}

fn next(answer: &Answer) -> String {
    let next = answer.header("stream-next-offset");
    next.unwrap_or_else(|| panic!("{}: no offset", answer.line))
        .to_owned()
}

async fn read(server: &Server, path: &str) -> String {
    let answer = server.call(&format!("GET /v1/stream/{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text().to_owned()
}

fn produced(call: Call, seq: &str) -> Call {
    call.header("producer-id", "p")
        .header("producer-epoch", "0")
        .header("producer-seq", seq)
}

/// A live reading, until its stream says a word.
struct Following {
    response: reqwest::Response,
    read: String,
}

impl Following {
    async fn of(server: &Server, path: &str, key: &str) -> Self {
        let url = format!("{}/v1/stream/{path}", server.url);
        let request = server.client.get(url);
        let request = match key {
            "" => request,
            key => request.bearer_auth(key),
        };
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let read = String::new();
        Self { response, read }
    }

    async fn until(&mut self, word: &str) {
        while !self.read.contains(word) {
            let chunk = tokio::time::timeout(crate::client::HANGS, self.response.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("no {word} in {}", self.read));
            let chunk = chunk.expect("the stream is whole");
            let chunk = chunk.unwrap_or_else(|| panic!("it ended without {word}: {}", self.read));
            self.read
                .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    async fn ends(mut self) -> String {
        let end = async {
            while let Ok(Some(chunk)) = self.response.chunk().await {
                self.read
                    .push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            }
        };
        let ended = tokio::time::timeout(crate::client::HANGS, end).await;
        ended.expect("the stream ends");
        self.read
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_appended_is_there_after_a_restart_with_all_that_goes_with_it() {
    let server = Server::start().await;
    made(&server, "a/b", "one ").await;
    let post = || text(&server, "POST /v1/stream/a/b", "two ");
    assert_eq!(produced(post(), "0").await.status, 200);
    let post = || text(&server, "POST /v1/stream/a/b", "three ");
    assert_eq!(
        produced(post().header("stream-seq", "5"), "1").await.status,
        200
    );
    let fork = server
        .call("PUT /v1/stream/fork")
        .header("stream-forked-from", "/v1/stream/a/b");
    assert_eq!(fork.header("stream-ttl", "3600").await.status, 201);
    appended(&server, "fork", "four").await;
    made(&server, "done", "all").await;
    let close = server
        .call("POST /v1/stream/done")
        .header("stream-closed", "true");
    assert_eq!(close.await.status, 204);
    made(&server, "deleted", "nothing").await;
    assert_eq!(server.call("DELETE /v1/stream/deleted").await.status, 204);

    let server = server.restart().await;
    assert_eq!(read(&server, "a/b").await, "one two three ");
    assert_eq!(read(&server, "fork").await, "one two three four");
    server
        .call("GET /v1/stream/deleted")
        .await
        .refused(404, "stream_not_found");
    // A repetition is one, a gap is one, and the order is kept.
    let post = || text(&server, "POST /v1/stream/a/b", "three ");
    let again = produced(post(), "1").await;
    assert_eq!(
        (again.status, again.header("producer-seq")),
        (204, Some("1"))
    );
    let gap = produced(post(), "3").await;
    gap.refused(409, "producer_gap");
    assert_eq!(gap.header("producer-expected-seq"), Some("2"));
    post()
        .header("stream-seq", "5")
        .await
        .refused(409, "out_of_order");
    let head = server.call("HEAD /v1/stream/fork").await;
    assert_eq!(head.header("stream-ttl"), Some("3600"));
    let late = text(&server, "POST /v1/stream/done", "late").await;
    late.refused(409, "stream_closed");
    assert_eq!(late.header("stream-closed"), Some("true"));
    // A fork keeps what it took over.
    assert_eq!(server.call("DELETE /v1/stream/a/b").await.status, 204);
    server
        .call("GET /v1/stream/a/b")
        .await
        .refused(410, "stream_gone");
    let server = server.restart().await;
    server
        .call("GET /v1/stream/a/b")
        .await
        .refused(410, "stream_gone");
    assert_eq!(read(&server, "fork").await, "one two three four");
    let data = server.data().join("store");
    server
        .stop_and(move || {
            let report = check::check(&data).expect("it opens");
            assert!(
                report.problem_count == 0 && report.pieces >= 5,
                "{report:?}"
            );
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_its_tenants_and_a_key_does_what_its_scopes_say() {
    let server = Server::start().await;
    let other = tenant(&server, "acme").await;
    made(&server, "s", "ours").await;
    for line in [
        "GET /v1/stream/s",
        "GET /v1/stream/s?offset=-1&live=sse",
        "POST /v1/stream/s",
        "DELETE /v1/stream/s",
    ] {
        let theirs = text(&server, line, "x").key(&other).await;
        theirs.refused(404, "stream_not_found");
    }
    let own = text(&server, "PUT /v1/stream/s", "theirs")
        .key(&other)
        .await;
    assert_eq!(own.status, 201, "the same path, their own stream");
    let forked = server.call("PUT /v1/stream/t").key(&other);
    forked
        .header("stream-forked-from", "/v1/stream/none")
        .await
        .refused(404, "stream_not_found");
    assert_eq!(read(&server, "s").await, "ours");

    let key = |scopes: Value| {
        let call = server.call("POST /v1/keys").json(json!({"scopes": scopes}));
        async move {
            call.await.is(201)["key"]
                .as_str()
                .expect("a key")
                .to_owned()
        }
    };
    let (reader, writer) = (key(json!(["read"])).await, key(json!(["invoke"])).await);
    for (line, may_read) in [
        ("GET /v1/stream/s", true),
        ("HEAD /v1/stream/s", true),
        ("PUT /v1/stream/new", false),
        ("POST /v1/stream/s", false),
        ("DELETE /v1/stream/s", false),
    ] {
        let by_reader = text(&server, line, "x").key(&reader).await;
        assert_eq!(
            by_reader.status == 403,
            !may_read,
            "{line}: {}",
            by_reader.status
        );
        let by_writer = text(&server, line, "x").key(&writer).await;
        assert_eq!(
            by_writer.status == 403,
            may_read,
            "{line}: {}",
            by_writer.status
        );
    }
    for line in ["GET /v1/stream/s", "PUT /v1/stream/s"] {
        server.call(line).key("x").await.refused(401, "invalid_key");
        let by_operator = server.call(line).key(&operator(&server)).await;
        by_operator.refused(403, "insufficient_scope");
    }
    server.stop().await;
}

/// Without a key, where the operator said so: the streams of one tenant, and nothing else of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_open_only_where_the_operator_opened_them() {
    let nobody = |server: &Server, line: &str| {
        let (method, path) = line.split_once(' ').expect("METHOD /path");
        let url = format!("{}{path}", server.url);
        server
            .client
            .request(method.parse().expect("a method"), url)
            .send()
    };
    let closed = Server::start().await;
    for line in ["PUT /v1/stream/s", "GET /v1/stream/s"] {
        let answer = nobody(&closed, line).await.expect("an answer");
        assert_eq!(answer.status(), 401, "{line}");
    }
    closed.stop().await;

    let open_to = "default".parse().expect("a name");
    let server = Server::with(|config| config.http.streams_open_to = Some(open_to)).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let other = tenant(&server, "acme").await;
    let put = nobody(&server, "PUT /v1/stream/s")
        .await
        .expect("an answer");
    assert_eq!(put.status(), 201);
    assert_eq!(read(&server, "s").await, "");
    let get = nobody(&server, "GET /v1/stream/s")
        .await
        .expect("an answer");
    let cache = get.headers()["cache-control"].to_str().expect("ASCII");
    assert!(cache.starts_with("public"), "{cache}");
    // A page that somebody inside looks at writes nothing, wherever it is from; one of this server's does.
    for (origin, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        (&*server.url, 204),
    ] {
        let post = server.client.post(format!("{}/v1/stream/s", server.url));
        let post = post
            .header("origin", origin)
            .header("content-type", "application/octet-stream");
        let answer = post.body("x").send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{origin}");
    }
    // Who shows a key is who the key says.
    let theirs = server.call("GET /v1/stream/s").key(&other).await;
    theirs.refused(404, "stream_not_found");
    server
        .call("GET /v1/stream/s")
        .key("x")
        .await
        .refused(401, "invalid_key");
    for line in [
        "GET /v1/stream/sessions/s",
        "GET /v1/sessions/s",
        "GET /v1/agents",
    ] {
        let answer = nobody(&server, line).await.expect("an answer");
        assert_eq!(answer.status(), 401, "{line}");
    }
    let mut live = Following::of(&server, "s?offset=-1&live=sse", "").await;
    live.until("upToDate").await;
    let suspend = server
        .call("POST /v1/tenants/default/suspend")
        .key(&operator(&server));
    suspend.await.is(200);
    live.ends().await;
    let answer = nobody(&server, "GET /v1/stream/s")
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_suspended_or_deleted_has_no_readers_and_keeps_nothing() {
    let server = Server::start().await;
    let key = tenant(&server, "acme").await;
    let put = text(&server, "PUT /v1/stream/s", &"x".repeat(50_000))
        .key(&key)
        .await;
    assert_eq!(put.status, 201);
    let mut live = Following::of(&server, "s?offset=now&live=sse", &key).await;
    live.until("upToDate").await;
    let operate = |line: &str| server.call(line).key(&operator(&server));
    operate("POST /v1/tenants/acme/suspend").await.is(200);
    live.ends().await;
    server
        .call("GET /v1/stream/s")
        .key(&key)
        .await
        .refused(403, "tenant_suspended");
    operate("POST /v1/tenants/acme/resume").await.is(200);

    // What it exports is all of it.
    let export = operate("GET /v1/tenants/acme/export").await;
    let pieces = export
        .text()
        .lines()
        .filter(|line| line.starts_with("{\"piece\""));
    assert_eq!(pieces.count(), 1);
    let mut live = Following::of(&server, "s?offset=now&live=sse", &key).await;
    live.until("upToDate").await;
    operate("DELETE /v1/tenants/acme").await.is(202);
    live.ends().await;
    // The name is free once nothing is left.
    let made = async {
        loop {
            let new = operate("POST /v1/tenants")
                .json(json!({"tenant": "acme"}))
                .await;
            match new.status {
                201 => {
                    return new.is(201)["key"]["key"]
                        .as_str()
                        .expect("a key")
                        .to_owned();
                }
                _ => new.refused(409, "tenant_deleting"),
            };
        }
    };
    let key = tokio::time::timeout(crate::client::HANGS, made)
        .await
        .expect("it is removed");
    server
        .call("GET /v1/stream/s")
        .key(&key)
        .await
        .refused(404, "stream_not_found");
    let put = text(&server, "PUT /v1/stream/s", "new").key(&key).await;
    assert_eq!(put.status, 201);
    let data = server.data().join("store");
    server
        .stop_and(move || {
            let report = check::check(&data).expect("it opens");
            assert_eq!((report.problem_count, report.pieces), (0, 1), "{report:?}");
        })
        .await;
}

/// What one host exports another one serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_brings_streams_along() {
    let server = Server::start().await;
    made(&server, "a", "text\n").await;
    let binary = server.call("PUT /v1/stream/b").body(vec![0, 255, 10]);
    assert_eq!(binary.await.status, 201);
    let fork = server
        .call("PUT /v1/stream/c")
        .header("stream-forked-from", "/v1/stream/a");
    assert_eq!(fork.await.status, 201);
    appended(&server, "c", "more").await;
    let server = server
        .restart_after(|data| {
            let store = data.join("store");
            let mut lines = Vec::new();
            assert_eq!(transfer::export(&store, &mut lines).expect("it opens"), 0);
            fs::remove_dir_all(&store).expect("it can be removed");
            transfer::import(&store, BufReader::new(&lines[..])).expect("it is whole");
        })
        .await;
    assert_eq!(read(&server, "a").await, "text\n");
    assert_eq!(read(&server, "c").await, "text\nmore");
    let binary = server.call("GET /v1/stream/b").await;
    assert_eq!(binary.body, [0, 255, 10]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_a_stream_of_its_visible_events_that_nobody_writes() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("hello")).await;
    let events = server.get("/v1/sessions/s/events").await;
    let answer = server.call("GET /v1/stream/sessions/s").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("stream-up-to-date"), Some("true"));
    assert_eq!(&answer.is(200), &events["events"]);
    assert_eq!(next(&answer), events["offset"]);
    let head = server.call("HEAD /v1/stream/sessions/s").await;
    assert_eq!(next(&head), next(&answer));
    // Any place that the one gives is a place of the other.
    for event in events["events"].as_array().expect("a list") {
        let offset = event["offset"].as_str().expect("an offset");
        let rest = server
            .get(&format!("/v1/sessions/s/events?offset={offset}"))
            .await;
        let same = server
            .get(&format!("/v1/stream/sessions/s?offset={offset}"))
            .await;
        assert_eq!(same, rest["events"]);
    }
    for method in ["PUT", "POST", "DELETE"] {
        let line = format!("{method} /v1/stream/sessions/s");
        server.call(&line).await.refused(405, "method_not_allowed");
    }
    server
        .call("GET /v1/stream/sessions/none")
        .await
        .refused(404, "session_not_found");

    // A token of the session reads it, and no other stream.
    let token = json!({"author": "ana", "scopes": ["read"]});
    let token = server
        .call("POST /v1/sessions/s/tokens")
        .json(token)
        .await
        .is(201);
    let token = token["token"].as_str().expect("a token").to_owned();
    server
        .call("GET /v1/stream/sessions/s")
        .key(&token)
        .await
        .is(200);
    server.session("other", &["echo"]).await;
    let other = server
        .call("GET /v1/stream/sessions/other")
        .key(&token)
        .await;
    other.refused(404, "session_not_found");
    server
        .call("GET /v1/stream/x")
        .key(&token)
        .await
        .refused(403, "insufficient_scope");

    // Live: what is said next, and the end when the session ends.
    let poll = format!(
        "GET /v1/stream/sessions/s?live=long-poll&offset={}",
        next(&answer)
    );
    let path = format!("sessions/s?live=sse&offset={}", next(&answer));
    let mut live = Following::of(&server, &path, &server.key).await;
    live.until("upToDate").await;
    let (polled, _) = tokio::join!(server.call(&poll), server.post("s", json!("again")));
    let polled = polled.is(200);
    assert_eq!(polled[0]["kind"], "message-received");
    live.until("turn-ended").await;
    server.call("DELETE /v1/sessions/s").await;
    let all = live.ends().await;
    assert!(
        all.contains("\"streamClosed\":true") || !all.contains("error"),
        "{all}"
    );
    server.stop().await;
}

/// What nobody is shown is not looked at twice: the place moves on past it, and a poll waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invisible_entries_make_nobody_spin() {
    let server = Server::with(|config| config.limits.stream_wait_ms_max = 50).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
        .reply(
            "puppet",
            "s",
            json!([{"commit": ["x", "text"]}, {"read": "x"}, {"say": "a"}, {"read": "x"}]),
        )
        .await;
    let all = server.call("GET /v1/stream/sessions/s").await;
    let (mut at, mut rounds) = (START.to_owned(), 0);
    loop {
        let line = format!("GET /v1/stream/sessions/s?live=long-poll&offset={at}");
        let polled = server.call(&line).await;
        assert!(next(&polled) >= at);
        at = next(&polled);
        rounds += 1;
        if polled.status == 204 {
            break;
        }
    }
    assert_eq!(at, next(&all));
    assert!(rounds <= 3, "{rounds}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bound_is_met_with_a_clear_answer() {
    let server = Server::with(|config| {
        config.limits.stream_body_bytes_max = 1_000;
        config.limits.stream_read_bytes_max = 1_000;
        config.limits.stream_open_max = 2;
        config.limits.stream_wait_ms_max = 50;
        config.limits.stream_live_ms_max = 50;
    })
    .await;
    // Names and types.
    let longest = "p".repeat(256);
    made(&server, &longest, "x").await;
    let line = format!("PUT /v1/stream/{longest}p");
    server.call(&line).await.refused(400, "invalid_name");
    server
        .call("PUT /v1/stream/a%00b")
        .await
        .refused(400, "invalid_name");
    let kind = format!("text/{}", "x".repeat(124));
    let odd = server
        .call("PUT /v1/stream/s")
        .header("content-type", &kind)
        .await;
    odd.refused(400, "invalid_header");
    let producer = "p".repeat(257);
    let odd = text(&server, &format!("POST /v1/stream/{longest}"), "x");
    let odd = produced(odd, "0").header("producer-id", &producer).await;
    odd.refused(400, "invalid_header");

    // Bodies and readings: what is too long for one answer comes in several.
    made(&server, "s", "").await;
    let large = text(&server, "POST /v1/stream/s", &"x".repeat(1_001)).await;
    large.refused(413, "too_large");
    for word in ["a", "b", "c", "d"] {
        appended(&server, "s", &word.repeat(600)).await;
    }
    let (mut at, mut read, mut answers) = (START.to_owned(), String::new(), 0);
    loop {
        let answer = server.call(&format!("GET /v1/stream/s?offset={at}")).await;
        read.push_str(answer.text());
        at = next(&answer);
        answers += 1;
        assert!(answer.body.len() <= 1_000 + 600);
        if answer.header("stream-up-to-date").is_some() {
            break;
        }
    }
    assert_eq!((read.len(), answers), (2_400, 2));

    // A poll and a live connection end by themselves.
    let poll = server
        .call(&format!("GET /v1/stream/s?live=long-poll&offset={at}"))
        .await;
    assert_eq!((poll.status, next(&poll)), (204, at.clone()));
    assert_eq!(poll.header("stream-up-to-date"), Some("true"));
    let live = Following::of(&server, &format!("s?live=sse&offset={at}"), &server.key).await;
    let said = live.ends().await;
    assert!(
        said.contains("\"upToDate\":true") && !said.contains("streamClosed"),
        "{said}"
    );
    server.stop().await;
}

/// A fork of a fork of a fork, and so many producers that the first is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_are_as_deep_as_may_be_and_producers_as_many() {
    const DEPTH_MAX: usize = 64;
    const PRODUCERS_MAX: usize = 1_000;
    let server = Server::start().await;
    made(&server, "f0", "x").await;
    let fork = |n: usize| {
        let call = server.call(&format!("PUT /v1/stream/f{}", n + 1));
        call.header("stream-forked-from", &format!("/v1/stream/f{n}"))
    };
    for n in 0..DEPTH_MAX {
        assert_eq!(fork(n).await.status, 201, "{n}");
        // One that adds nothing is not looked into.
        appended(&server, &format!("f{}", n + 1), "x").await;
    }
    fork(DEPTH_MAX).await.refused(400, "invalid_header");
    made(&server, "p", "").await;
    let produced = async |producer: usize| {
        let call = text(&server, "POST /v1/stream/p", "x");
        let call = call.header("producer-id", &format!("p{producer}"));
        let call = call.header("producer-epoch", "0");
        call.header("producer-seq", "0").await.status
    };
    for producer in 0..=PRODUCERS_MAX {
        assert_eq!(produced(producer).await, 200);
    }
    assert_eq!(produced(PRODUCERS_MAX).await, 204, "it is known");
    assert_eq!(produced(0).await, 200, "it was forgotten");
    let hit = server.limits_hit().await;
    for limit in ["stream_fork_depth_max", "stream_producers_max"] {
        assert!(hit.contains(limit), "{limit}: {hit}");
    }
    server.stop().await;
}

/// As many streams as may be in use, and one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_use_are_bounded_and_those_at_rest_make_room() {
    let server = Server::with(|config| config.limits.stream_open_max = 2).await;
    for path in ["a", "b", "c"] {
        made(&server, path, "x").await;
    }
    let mut first = Following::of(&server, "a?offset=-1&live=sse", &server.key).await;
    let mut second = Following::of(&server, "b?offset=-1&live=sse", &server.key).await;
    first.until("upToDate").await;
    second.until("upToDate").await;
    server
        .call("GET /v1/stream/c")
        .await
        .refused(429, "overloaded");
    assert!(server.limits_hit().await.contains("stream_open_max"));
    assert_eq!(read(&server, "a").await, "x");
    // Who closes ends the reader, who makes room.
    let close = text(&server, "POST /v1/stream/a", " and out").header("stream-closed", "true");
    assert_eq!(close.await.status, 204);
    let said = first.ends().await;
    let (word, end) = (said.find("data:  and out"), said.find("streamClosed"));
    assert!(word.is_some() && word < end, "{said}");
    drop(second);
    server.stop().await;
}

/// A quota of bytes counts what is appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_count_for_the_quota() {
    let server = Server::with(|config| config.quotas.storage_bytes_max = Some(100_000)).await;
    made(&server, "s", "").await;
    let mut taken = 0;
    loop {
        let post = text(&server, "POST /v1/stream/s", &"x".repeat(10_000)).await;
        if post.status != 204 {
            post.refused(429, "quota_exceeded");
            break;
        }
        taken += 1;
    }
    assert!((5..10).contains(&taken), "{taken}");
    // What is there can be read and removed.
    assert_eq!(read(&server, "s").await.len(), taken * 10_000);
    assert_eq!(server.call("DELETE /v1/stream/s").await.status, 204);
    server.stop().await;
}

/// Browsers of an origin that may call can send and see what the protocol needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_may_call_see_the_protocols_headers() {
    let origin = "https://app.example";
    let server = Server::with(|config| config.http.cors_origins = vec![origin.to_owned()]).await;
    let asked = server
        .call("OPTIONS /v1/stream/s")
        .header("origin", origin)
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "stream-ttl,if-none-match")
        .await;
    let listed =
        |headers: &HeaderMap, name: &str| headers[name].to_str().expect("ASCII").to_owned();
    let allowed = listed(&asked.headers, "access-control-allow-headers");
    assert!(
        allowed.contains("producer-id") && allowed.contains("if-none-match"),
        "{allowed}"
    );
    let put = text(&server, "PUT /v1/stream/s", "x")
        .header("origin", origin)
        .await;
    let exposed = listed(&put.headers, "access-control-expose-headers");
    assert!(exposed.contains("stream-next-offset"), "{exposed}");
    assert_eq!(put.header("access-control-allow-origin"), Some(origin));
    server.stop().await;
}

/// The public suite for servers of Durable Streams, as it is published; and its client, following a session.
const SUITE: &str = "@durable-streams/server-conformance-tests@0.3.6";
const RUNNER: &str = "vitest@4.1.12";

/// Where the suite is installed once: beside the test's own binary. None if it cannot be, with why.
fn suite() -> Result<PathBuf, String> {
    let binary = std::env::current_exe().expect("the test has a binary");
    let folder = binary.with_file_name("durable-streams-suite-0.3.6");
    let runner = folder.join("node_modules/vitest/vitest.mjs");
    let whole = folder.join("installed");
    if whole.exists() && runner.exists() {
        return Ok(folder);
    }
    let is_there = |program: &str| {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        version.is_ok_and(|it| it.success())
    };
    if !is_there("node") || !is_there("npm") {
        return Err("node or npm is not here".to_owned());
    }
    fs::create_dir_all(&folder).expect("the target folder is writable");
    fs::write(
        folder.join("package.json"),
        "{\"private\":true,\"type\":\"module\"}",
    )
    .expect("the target folder is writable");
    let install = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--save-exact",
            SUITE,
            RUNNER,
        ])
        .current_dir(&folder)
        .output()
        .map_err(|error| error.to_string())?;
    if !install.status.success() {
        let why = String::from_utf8_lossy(&install.stderr).into_owned();
        return Err(format!("npm could not install it: {why}"));
    }
    fs::write(whole, "").expect("the target folder is writable");
    Ok(folder)
}

fn skipped(why: &str) {
    let line = format!("SKIPPED: the conformance suite of Durable Streams: {why}\n");
    // Past the capture of the test's output: who reads the log must see it.
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}

/// `node ARGUMENTS` in the suite's folder; its output, provided that it ends well.
async fn node(folder: PathBuf, arguments: Vec<String>, url: String) -> String {
    let run = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .args(arguments)
            .current_dir(folder)
            .env("URL", url)
            .output()
    });
    let run = run.await.expect("it does not panic").expect("node runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{out}\n{error}");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_conformance_suite_passes() {
    let folder = match tokio::task::spawn_blocking(suite)
        .await
        .expect("it does not panic")
    {
        Ok(folder) => folder,
        Err(why) => return skipped(&why),
    };
    let open_to = "default".parse().expect("a name");
    let server = Server::with(|config| {
        config.http.streams_open_to = Some(open_to);
        // Its webhooks are on this machine.
        config.egress.private_allowed = vec!["127.0.0.0/8".to_owned()];
        // The suite waits four seconds for a poll at most.
        config.limits.stream_wait_ms_max = 500;
    })
    .await;
    let script = "import { runConformanceTests } from '@durable-streams/server-conformance-tests'\n\
        runConformanceTests({ baseUrl: process.env.URL, longPollTimeoutMs: 3000, subscriptions: true })\n";
    fs::write(folder.join("suite.test.mjs"), script).expect("the target folder is writable");
    let arguments = [
        "node_modules/vitest/vitest.mjs",
        "run",
        "suite.test.mjs",
        "--reporter=json",
        // Nothing is said about how fast this machine is: five seconds are its default.
        "--testTimeout=120000",
        "--hookTimeout=120000",
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    let out = node(folder.clone(), arguments, server.url.clone()).await;
    let report: Value = serde_json::from_str(&out).expect("a report");
    let count = |name: &str| report[name].as_u64().expect("a number");
    assert_eq!(
        (
            count("numPassedTests"),
            count("numFailedTests"),
            count("numTotalTests")
        ),
        (338, 0, 338)
    );

    // The client of the same people follows a session as it is.
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("hello")).await;
    let script = format!(
        "import {{ stream }} from '@durable-streams/client'\n\
         const it = await stream({{ url: process.env.URL + '/v1/stream/sessions/s', live: false,\n\
           headers: {{ authorization: 'Bearer {}' }} }})\n\
         console.log(JSON.stringify(await it.json()))\n",
        server.key
    );
    fs::write(folder.join("follow.mjs"), script).expect("the target folder is writable");
    let out = node(folder, vec!["follow.mjs".to_owned()], server.url.clone()).await;
    let followed: Value = serde_json::from_str(&out).expect("events");
    assert_eq!(
        followed,
        server.get("/v1/sessions/s/events").await["events"]
    );
    server.stop().await;
}
