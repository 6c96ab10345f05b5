//! Subscriptions to Durable Streams from outside: what the conformance suite does not ask (webhooks that fail, restarts,
//! tenants, limits).

use serde_json::{Value, json};

use crate::client::{Answer, Call};
use crate::origin::{Origin, page};
use crate::server::Server;
use crate::tenants::tenant;

const SUBSCRIPTION: &str = "/v1/stream/__ds/subscriptions/s";

async fn made(server: &Server, path: &str) {
    let put = server.call(&format!("PUT /v1/stream/{path}")).text("");
    assert_eq!(put.await.status, 201, "{path}");
}

async fn appended(server: &Server, path: &str) -> String {
    let post = server.call(&format!("POST /v1/stream/{path}")).text("x");
    let answer = post.await;
    assert_eq!(answer.status, 204, "{path}");
    let next = answer.header("stream-next-offset").expect("an offset");
    next.to_owned()
}

/// Wakes go to this path of the origin.
fn webhook(origin: &Origin, path: &str) -> Value {
    let url = format!("http://127.0.0.1:{}{path}", origin.port());
    json!({"type": "webhook", "pattern": "events/*", "webhook": {"url": url}, "lease_ttl_ms": 5_000})
}

async fn subscribed(server: &Server, body: Value) -> Value {
    let put = server.call(&format!("PUT {SUBSCRIPTION}")).json(body);
    put.await.is(201)
}

fn reaching(origin: &Origin) -> impl FnOnce(&mut antiphon::config::Config) {
    let address = origin.address.to_string();
    move |config| config.egress.private_allowed = vec![address]
}

/// The body of a request as it came.
fn body(request: &str) -> Value {
    let (_, body) = request.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).expect("JSON")
}

fn report(server: &Server, action: &str, wake: &Value, token: &Value, acks: Value) -> Call {
    let report = json!({
        "wake_id": wake["wake_id"], "generation": wake["generation"], "acks": acks, "done": true,
    });
    let call = server.call(&format!("POST {SUBSCRIPTION}/{action}"));
    call.key(token.as_str().expect("a token")).json(report)
}

async fn shown(server: &Server) -> Answer {
    server.call(&format!("GET {SUBSCRIPTION}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_is_told_again_also_by_the_next_process() {
    let origin = Origin::start().await;
    origin.serve("/hook", &page("500 Internal Server Error", ""));
    let server = Server::with(reaching(&origin)).await;
    let made_ = subscribed(&server, webhook(&origin, "/hook")).await;
    assert_eq!(made_["status"], "active");
    made(&server, "events/a").await;
    let tail = appended(&server, "events/a").await;
    // At first, and after a second.
    let seen = origin.received(2).await;
    let (first, second) = (body(&seen[0]), body(&seen[1]));
    assert!(
        seen[0]
            .to_ascii_lowercase()
            .contains("\r\nwebhook-signature: t=")
    );
    assert!(second["generation"].as_u64() > first["generation"].as_u64());
    assert_ne!(second["wake_id"], first["wake_id"]);
    assert_eq!(first["subscription_id"], "s");
    let stream = json!([{
        "path": "events/a", "link_type": "glob", "has_pending": true, "tail_offset": tail,
        "acked_offset": "0000000000000000_0000000000000000",
    }]);
    assert_eq!(first["streams"], stream);
    let callback = format!("{}{SUBSCRIPTION}/callback", server.url);
    assert_eq!(first["callback_url"], json!(callback));
    // Whoever was told first comes too late.
    let late = report(
        &server,
        "callback",
        &first,
        &first["callback_token"],
        json!([]),
    );
    late.await.refused(409, "FENCED");
    let server = server.restart().await;
    // It says nothing of being done, and calls back.
    origin.serve("/hook", &page("200 OK", "later"));
    let seen = origin.received(3).await;
    let last = body(seen.last().expect("three came"));
    assert_eq!(last["streams"], stream);
    let acks = json!([{"stream": "events/a", "offset": tail}]);
    let done = loop {
        // The one that came before the answer was another is over by now.
        let seen = origin.seen();
        let wake = body(seen.last().expect("some came"));
        let answer = report(
            &server,
            "callback",
            &wake,
            &wake["callback_token"],
            acks.clone(),
        );
        let answer = answer.await;
        if answer.status == 200 {
            break answer.json();
        }
        origin.received(seen.len() + 1).await;
    };
    assert_eq!(done, json!({"ok": true, "next_wake": false}));
    let now = shown(&server).await.is(200);
    assert_eq!(now["status"], "active");
    assert_eq!(now["streams"][0]["acked_offset"], json!(tail));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_its_tenants() {
    let origin = Origin::start().await;
    let server = Server::with(reaching(&origin)).await;
    let other = tenant(&server, "acme").await;
    made(&server, "wakes").await;
    let pulled = json!({"type": "pull-wake", "pattern": "events/*", "wake_stream": "wakes"});
    subscribed(&server, pulled).await;
    made(&server, "events/a").await;
    let tail = appended(&server, "events/a").await;
    let wakes = server
        .call("GET /v1/stream/wakes?offset=-1&live=long-poll")
        .await;
    let event: Value = serde_json::from_str(wakes.text()).expect("an event");
    assert_eq!(
        (&event["type"], &event["stream"]),
        (&json!("wake"), &json!("events/a"))
    );
    let not_there = "SUBSCRIPTION_NOT_FOUND";
    let claim = format!("POST {SUBSCRIPTION}/claim");
    let worker = json!({"worker": "w"});
    let theirs = |line: &str| server.call(line).key(&other);
    theirs(&format!("GET {SUBSCRIPTION}"))
        .await
        .refused(404, not_there);
    theirs(&claim)
        .json(worker.clone())
        .await
        .refused(404, not_there);
    theirs(&format!("DELETE {SUBSCRIPTION}")).await.is(204);
    let claimed = server.call(&claim).json(worker.clone()).await.is(200);
    // The tenant stands in the token, and cannot be changed there.
    let token = claimed["token"].as_str().expect("a token");
    let forged = json!(token.replace(".default", ".acme"));
    let acks = json!([{"path": "events/a", "offset": tail}]);
    let ack = |token: &Value| report(&server, "ack", &claimed, token, acks.clone());
    ack(&forged).await.refused(404, not_there);
    let key = json!(server.key);
    ack(&key).await.refused(401, "TOKEN_INVALID");
    // Nor does a token open anything else.
    let read = server.call("GET /v1/stream/events/a").key(token).await;
    read.refused(401, "invalid_key");
    assert_eq!(ack(&claimed["token"]).await.is(200)["next_wake"], false);
    server
        .call(&claim)
        .json(worker)
        .await
        .refused(409, "NO_PENDING_WORK");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_subscription_is_looked_at() {
    let origin = Origin::start().await;
    let server = Server::with(|config| {
        config.limits.subscriptions_max = 1;
        config.limits.subscription_streams_max = 1;
    })
    .await;
    let put = |body: Value| server.call(&format!("PUT {SUBSCRIPTION}")).json(body);
    let pulled = |more: Value| {
        let mut body = json!({"type": "pull-wake", "streams": ["a"], "wake_stream": "wakes"});
        let fields = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(fields);
        body
    };
    for bad in [
        json!([]),
        json!({"type": "other", "pattern": "*"}),
        json!({"type": "webhook", "pattern": "*"}),
        json!({"type": "pull-wake", "pattern": "*"}),
        pulled(json!({"streams": []})),
        pulled(json!({"streams": ["wakes"]})),
        pulled(json!({"streams": ["sessions/s"]})),
        pulled(json!({"pattern": "a//b"})),
        pulled(json!({"lease_ttl_ms": 999})),
        pulled(json!({"lease_ttl_ms": 600_001})),
        pulled(json!({"description": "x".repeat(2_001)})),
        pulled(json!({"streams": ["a", "b"]})),
    ] {
        put(bad).await.refused(400, "INVALID_REQUEST");
    }
    // The operator has not let the host dial this machine.
    let rejected = put(webhook(&origin, "/")).await;
    rejected.refused(400, "WEBHOOK_URL_REJECTED");
    put(pulled(json!({}))).await.is(201);
    put(pulled(json!({}))).await.is(200);
    let other = put(pulled(json!({"description": "other"}))).await;
    other.refused(409, "SUBSCRIPTION_ALREADY_EXISTS");
    let more = server.call("PUT /v1/stream/__ds/subscriptions/t");
    more.json(pulled(json!({})))
        .await
        .refused(429, "overloaded");
    let links = format!("{SUBSCRIPTION}/streams");
    let link = server.call(&format!("POST {links}"));
    link.json(json!({"streams": ["b"]}))
        .await
        .refused(400, "INVALID_REQUEST");
    for line in [format!("DELETE {links}/a"), format!("DELETE {links}/none")] {
        server.call(&line).await.is(204);
    }
    let ack = server.call(&format!("POST {SUBSCRIPTION}/ack"));
    ack.key("none")
        .json(json!({}))
        .await
        .refused(401, "TOKEN_INVALID");
    let claim = server.call(&format!("POST {SUBSCRIPTION}/claim"));
    claim
        .json(json!({"worker": ""}))
        .await
        .refused(400, "INVALID_REQUEST");
    let hit = server.limits_hit().await;
    for limit in ["subscriptions_max", "subscription_streams_max"] {
        assert!(hit.contains(limit), "{limit}: {hit}");
    }
    server.call(&format!("DELETE {SUBSCRIPTION}")).await.is(204);
    shown(&server).await.refused(404, "SUBSCRIPTION_NOT_FOUND");
    server.stop().await;
}
