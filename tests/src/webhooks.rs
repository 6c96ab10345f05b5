//! Webhooks from outside: they are told of everything, in order, also over failures and restarts.

use std::collections::BTreeMap;

use antiphon::config::Config;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

use crate::client::Answer;
use crate::origin::{Origin, page};
use crate::server::Server;

fn reaching(origin: &Origin) -> impl FnOnce(&mut Config) + use<> {
    let address = origin.address.to_string();
    move |config| {
        config.egress.private_allowed = vec![address];
        // Nothing here waits for a second to pass.
        config.limits.webhook_backoff_ms_max = 1;
    }
}

fn url(origin: &Origin) -> String {
    format!("http://127.0.0.1:{}/hook", origin.port())
}

fn fails(origin: &Origin) {
    origin.serve("/hook", &page("500 Internal Server Error", ""));
}

fn works(origin: &Origin) {
    origin.serve("/hook", &page("200 OK", ""));
}

async fn put(server: &Server, body: Value) -> Answer {
    server.call("PUT /v1/webhooks/w").json(body).await
}

async fn shown(server: &Server) -> Value {
    server.get("/v1/webhooks/w").await
}

fn body(request: &str) -> Value {
    let (_, body) = request.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).expect("JSON")
}

/// Checks a request as its receiver would; an error is for those that are not ours.
fn check(secret: &Value, request: &str) -> Result<(), standardwebhooks::WebhookError> {
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut headers = reqwest::header::HeaderMap::new();
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ").expect("a header");
        let name: reqwest::header::HeaderName = name.parse().expect("a name");
        headers.insert(name, value.parse().expect("a value"));
    }
    let secret = secret.as_str().expect("a secret");
    Webhook::new(secret)?.verify(body.as_bytes(), &headers)
}

fn id(request: &str) -> &str {
    crate::origin::value(request, "webhook-id").expect("an id")
}

/// What was told so far, each once, in order; it must have been told in order.
fn told(seen: &[String]) -> Vec<Value> {
    let mut told: BTreeMap<String, Value> = BTreeMap::new();
    let mut end = String::new();
    for request in seen {
        let body = body(request);
        let notices = body["notices"].as_array().expect("a list");
        let offsets = notices.iter().filter_map(|it| it["offset"].as_str());
        assert!(offsets.is_sorted_by(|a, b| a < b), "{body}");
        assert_eq!(notices.last().expect("one")["offset"], body["offset"]);
        for notice in notices {
            let offset = notice["offset"].as_str().expect("an offset");
            told.insert(offset.to_owned(), notice.clone());
        }
        let offset = body["offset"].as_str().expect("an offset");
        assert!(offset >= &*end, "it goes on where it was: {body}");
        offset.clone_into(&mut end);
    }
    told.into_values().collect()
}

async fn all(server: &Server) -> Vec<Value> {
    let page = server.get("/v1/notices").await;
    page["notices"].as_array().expect("a list").clone()
}

/// Wait until it was told of everything there is now.
async fn is_told(server: &Server, origin: &Origin) -> Vec<String> {
    let all = all(server).await;
    let last = &all.last().expect("a notice")["offset"];
    let mut seen = origin.received(1).await;
    while !seen.iter().any(|request| body(request)["offset"] == *last) {
        seen = origin.received(seen.len() + 1).await;
    }
    assert_eq!(told(&seen), all);
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_told_in_order_signed_and_by_the_next_process_too() {
    let origin = Origin::start().await;
    works(&origin);
    let server = Server::with(reaching(&origin)).await;
    server.deploy("echo").await;
    server.session("a", &["echo"]).await;
    // From the first notice on, which was there before it.
    let made = put(&server, json!({"url": url(&origin), "offset": "-1"})).await;
    let made = made.is(201);
    for n in 0..20 {
        server.post("a", json!(n)).await;
    }
    server.invoke("echo", "a", json!("x")).await.is(200);
    is_told(&server, &origin).await;
    let server = server.restart().await;
    server.invoke("echo", "a", json!("y")).await.is(200);
    let seen = is_told(&server, &origin).await;
    for request in &seen {
        assert!(request.starts_with("POST /hook "));
        check(&made["secret"], request).expect("it is signed");
        let other = request.replacen("\"webhook\":\"w\"", "\"webhook\":\"v\"", 1);
        check(&made["secret"], &other).expect_err("it is what was signed");
    }
    assert_eq!(body(&seen[0])["notices"][0]["kind"], "session-opened");
    // The secret is shown by nothing else, and the store does not hold it.
    let again = put(&server, json!({"url": url(&origin)})).await.is(200);
    assert!(again.get("secret").is_none(), "{again}");
    let shown = shown(&server).await;
    assert_eq!(
        (&shown["failing"], &shown["missed"]),
        (&Value::Null, &json!(0))
    );

    // Two are good for a while, and then one.
    let rotate = server.call("POST /v1/webhooks/w/rotate").await.is(201);
    server.invoke("echo", "a", json!("z")).await.is(200);
    let seen = is_told(&server, &origin).await;
    for secret in [&made["secret"], &rotate["secret"]] {
        check(secret, seen.last().expect("one")).expect("it is signed");
    }
    let rotate = server.call("POST /v1/webhooks/w/rotate");
    let rotate = rotate.json(json!({"overlap": 0})).await.is(201);
    server.invoke("echo", "a", json!("!")).await.is(200);
    let seen = is_told(&server, &origin).await;
    let last = seen.last().expect("one");
    check(&rotate["secret"], last).expect("it is signed");
    check(&made["secret"], last).expect_err("it has ended");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_as_it_was_and_then_put_aside() {
    let origin = Origin::start().await;
    fails(&origin);
    let reaching = reaching(&origin);
    let server = Server::with(|config| {
        reaching(config);
        config.limits.webhook_attempts_max = 3;
    })
    .await;
    server.deploy("echo").await;
    let config = json!({"url": url(&origin), "kinds": ["session-opened"]});
    put(&server, config).await.is(201);
    server.session("a", &["echo"]).await;
    let seen = origin.received(3).await;
    let (first, third) = (&seen[0], &seen[2]);
    assert_eq!((id(first), body(first)), (id(third), body(third)));
    // Once it is aside the next have their turn.
    works(&origin);
    server.session("b", &["echo"]).await;
    let seen = origin.received(4).await;
    assert_eq!(body(&seen[3])["notices"][0]["session"], "b");
    assert_ne!(id(&seen[3]), id(first));

    let letters = "/v1/webhooks/w/dead-letters";
    let listed = server.get(letters).await;
    let letter = &listed["dead_letters"][0];
    assert_eq!(
        (&letter["attempts"], &letter["body"]),
        (&json!(3), &body(first))
    );
    assert_eq!(letter["error"], "it answered 500 Internal Server Error");
    assert_eq!(shown(&server).await["dead_letters"], 1);
    let one = format!("{letters}/{}", letter["id"].as_str().expect("an id"));
    fails(&origin);
    let retry = server.call(&format!("POST {one}/retry")).await;
    retry.refused(502, "webhook_failed");
    // It is kept over a restart.
    let server = server.restart().await;
    works(&origin);
    server.call(&format!("POST {one}/retry")).await.is(204);
    let seen = origin.received(6).await;
    assert_eq!((id(&seen[5]), body(&seen[5])), (id(first), body(first)));
    let again = server.call(&format!("POST {one}/retry")).await;
    again.refused(404, "dead_letter_not_found");
    assert_eq!(server.get(letters).await["dead_letters"], json!([]));
    assert_eq!(shown(&server).await["dead_letters"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_dead_letters_are_kept_as_may_be() {
    let origin = Origin::start().await;
    fails(&origin);
    let reaching = reaching(&origin);
    let server = Server::with(|config| {
        reaching(config);
        config.limits.webhook_attempts_max = 1;
        config.limits.dead_letters_max = 1;
        config.limits.webhooks_tenant_max = 1;
    })
    .await;
    server.deploy("echo").await;
    let config = json!({"url": url(&origin), "kinds": ["session-opened"]});
    put(&server, config.clone()).await.is(201);
    let second = server.call("PUT /v1/webhooks/x").json(config).await;
    second.refused(429, "overloaded");
    for (n, session) in ["a", "b", "c"].into_iter().enumerate() {
        server.session(session, &["echo"]).await;
        // Each by itself.
        origin.received(n + 1).await;
    }
    works(&origin);
    server.session("d", &["echo"]).await;
    origin.received(4).await;
    let listed = server.get("/v1/webhooks/w/dead-letters").await;
    let letters = listed["dead_letters"].as_array().expect("a list");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["body"]["notices"][0]["session"], "c");
    assert_eq!(shown(&server).await["dead_letters"], 1);
    let id = letters[0]["id"].as_str().expect("an id");
    let line = format!("DELETE /v1/webhooks/w/dead-letters/{id}");
    server.call(&line).await.is(204);
    server
        .call(&line)
        .await
        .refused(404, "dead_letter_not_found");
    let hit = server.limits_hit().await;
    for limit in ["dead_letters_max", "webhooks_tenant_max"] {
        assert!(hit.contains(limit), "{limit}: {hit}");
    }
    // With the webhook all of it goes, and the name is free.
    server.call("DELETE /v1/webhooks/w").await.is(204);
    for line in [
        "GET /v1/webhooks/w",
        "DELETE /v1/webhooks/w",
        "POST /v1/webhooks/w/rotate",
        "GET /v1/webhooks/w/dead-letters",
        "POST /v1/webhooks/w/dead-letters/0000000000000001_0000000000000000/retry",
    ] {
        server.call(line).await.refused(404, "webhook_not_found");
    }
    put(&server, json!({"url": url(&origin)})).await.is(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_can_be_changed_and_moved_back() {
    let origin = Origin::start().await;
    works(&origin);
    let server = Server::with(reaching(&origin)).await;
    server.deploy("echo").await;
    for session in ["a", "b"] {
        server.session(session, &["echo"]).await;
    }
    // From now on; nothing is told of what was before.
    let config = json!({"url": url(&origin), "sessions": ["b"], "kinds": ["session-changed"]});
    put(&server, config).await.is(201);
    for session in ["a", "b"] {
        server
            .call(&format!("DELETE /v1/sessions/{session}"))
            .await
            .is(204);
    }
    let seen = origin.received(1).await;
    let notices = &body(&seen[0])["notices"];
    assert_eq!(
        (&notices[0]["session"], notices.as_array().map(Vec::len)),
        (&json!("b"), Some(1))
    );
    // All of it again.
    let config = json!({"url": url(&origin), "kinds": ["session-opened"], "offset": "-1"});
    put(&server, config).await.is(200);
    let seen = origin.received(2).await;
    let sessions: Vec<_> = told(&seen[1..])
        .iter()
        .map(|it| it["session"].clone())
        .collect();
    assert_eq!(sessions, ["a", "b"]);
    server.stop().await;
}

/// Also while it is failing, and while a request is under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_webhook_can_be_moved_back() {
    let origin = Origin::start().await;
    works(&origin);
    let server = Server::with(reaching(&origin)).await;
    server.deploy("echo").await;
    let config = json!({"url": url(&origin), "kinds": ["session-opened"], "offset": "-1"});
    put(&server, config.clone()).await.is(201);
    server.session("a", &["echo"]).await;
    origin.received(1).await;
    fails(&origin);
    server.session("b", &["echo"]).await;
    origin.received(3).await;
    put(&server, config.clone()).await.is(200);
    works(&origin);
    let sessions = |seen: &[String]| -> Vec<Value> {
        let told = told(seen);
        told.iter().map(|it| it["session"].clone()).collect()
    };
    // From the first one on, whatever was tried meanwhile, also before it worked again.
    let begins = |request: &String| body(request)["notices"][0]["session"] == "a";
    let mut seen = origin.received(4).await;
    while !seen
        .iter()
        .rposition(begins)
        .is_some_and(|first| first > 0 && sessions(&seen[first..]) == ["a", "b"])
    {
        seen = origin.received(seen.len() + 1).await;
    }
    // Nobody answers this one; the webhook is moved meanwhile. What failed above may come once more before.
    let hanging = json!({"url": format!("http://127.0.0.1:{}/hangs", origin.port()), "offset": "-1",
        "kinds": ["session-opened"]});
    put(&server, hanging).await.is(200);
    let hangs = |seen: &[String]| seen.iter().any(|it| it.starts_with("POST /hangs "));
    while !hangs(&seen) {
        seen = origin.received(seen.len() + 1).await;
    }
    put(&server, config).await.is(200);
    server.call("DELETE /v1/webhooks/w").await.is(204);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_goes_with_its_tenant_also_if_the_server_stops_in_between() {
    let origin = Origin::start().await;
    works(&origin);
    let server = Server::with(reaching(&origin)).await;
    let key = crate::tenants::tenant(&server, "acme").await;
    let config = json!({"url": url(&origin)});
    let made = server.call("PUT /v1/webhooks/w").key(&key).json(config);
    made.await.is(201);
    let operator = crate::tenants::operator(&server);
    let line = "DELETE /v1/tenants/acme";
    server.call(line).key(&operator).await.is(202);
    let server = server.restart().await;
    while server
        .call("GET /v1/tenants/acme")
        .key(&operator)
        .await
        .status
        != 404
    {
        tokio::task::yield_now().await;
    }
    let key = crate::tenants::tenant(&server, "acme").await;
    let none = server.call("GET /v1/webhooks").key(&key).await.is(200);
    assert_eq!(none["webhooks"], json!([]));
    let echo = server.call("PUT /v1/agents/echo").key(&key);
    let echo = echo.header("content-type", "application/wasm");
    echo.body(crate::guests::component("echo")).await.is(201);
    let made = server.call("PUT /v1/sessions/s").key(&key);
    made.json(json!({"agents": ["echo"]})).await.is(201);
    server.stop().await;
    assert_eq!(
        origin.seen(),
        Vec::<String>::new(),
        "nothing of the next one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_webhook_is_looked_at() {
    let origin = Origin::start().await;
    let server = Server::start().await;
    let names: Vec<String> = (0..101).map(|n| format!("s{n}")).collect();
    let https = "https://example.com/hook";
    let ahead = "0000000000000009_0000000000000000";
    for (bad, code) in [
        (json!({}), "invalid_json"),
        (json!({"url": https, "secret": "mine"}), "unknown_field"),
        (json!({"url": https, "sessions": names}), "invalid_json"),
        (json!({"url": https, "sessions": ["a/b"]}), "invalid_name"),
        (json!({"url": https, "kinds": ["spoke"]}), "invalid_kind"),
        (json!({"url": https, "offset": "x"}), "offset_malformed"),
        (json!({"url": https, "offset": ahead}), "offset_ahead"),
        (json!({"url": "example.com"}), "invalid_webhook"),
        (json!({"url": "http://example.com"}), "invalid_webhook"),
        (json!({"url": "https://u:p@example.com"}), "invalid_webhook"),
        (
            json!({"url": format!("{https}{}", "x".repeat(2_000))}),
            "invalid_webhook",
        ),
        // The operator has not let the host dial these.
        (json!({"url": url(&origin)}), "invalid_webhook"),
        (json!({"url": "https://10.0.0.1/"}), "invalid_webhook"),
        (json!({"url": "https://localhost/"}), "invalid_webhook"),
    ] {
        let answer = put(&server, bad.clone()).await;
        assert_eq!(answer.status, 400, "{bad}");
        answer.refused(400, code);
    }
    let reader = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["read"]}));
    let reader = reader.await.is(201);
    let reader = reader["key"].as_str().expect("a key");
    let call = server.call("PUT /v1/webhooks/w").key(reader);
    let call = call.json(json!({"url": https})).await;
    call.refused(403, "insufficient_scope");
    // A URL may be as good as a key.
    let call = server.call("GET /v1/webhooks").key(reader).await;
    call.refused(403, "insufficient_scope");
    server.stop().await;
}
