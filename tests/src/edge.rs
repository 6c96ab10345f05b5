//! What holds for every request: names, errors, headers, pages of other origins.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::json;

use crate::server::{Server, model_of};
use crate::stream::said;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_names_its_request_and_every_error_is_json() {
    let server = Server::start().await;
    let mut ids = std::collections::BTreeSet::new();
    for (line, status, code) in [
        ("GET /healthz", 200, ""),
        ("GET /metrics", 200, ""),
        ("GET /v1/agents", 200, ""),
        ("GET /", 404, "route_not_found"),
        ("GET /v1", 404, "route_not_found"),
        ("GET /v1/sessions/", 404, "route_not_found"),
        ("GET /v2/agents", 404, "route_not_found"),
        ("PATCH /v1/agents", 405, "method_not_allowed"),
        ("DELETE /v1/sessions", 405, "method_not_allowed"),
        ("GET /v1/agents/echo/invoke", 405, "method_not_allowed"),
        ("GET /v1/agents/echo", 404, "agent_not_found"),
        ("GET /v1/sessions?limit=many", 400, "invalid_query"),
        ("GET /v1/sessions?cursor=a%2Fb", 400, "invalid_name"),
        (
            "GET /v1/sessions/s/transcript?limit=-1",
            400,
            "invalid_query",
        ),
        ("GET /v1/sessions/s/journal?kind=song", 400, "invalid_kind"),
    ] {
        let answer = server.call(line).await;
        let id = answer.header("x-request-id").expect("an id").to_owned();
        assert!(ids.insert(id), "{line}: the id is new");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            (
                "content-security-policy",
                "default-src 'none'; frame-ancestors 'none'",
            ),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{line}");
        }
        if code.is_empty() {
            assert_eq!(answer.status, status, "{line}");
            continue;
        }
        let body = answer.refused(status, code);
        assert_eq!(body["error"]["type"], "invalid_request_error", "{line}");
        assert_ne!(body["error"]["message"], "", "{line}");
        let fields = body["error"].as_object().expect("an object").len();
        assert_eq!(fields, 4, "code, message, param and type: {body}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_break_the_rule_are_refused_wherever_they_stand() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let long = "x".repeat(129);
    for bad in [
        "a%2Fb", "a%00b", "a%0Ab", "a%20b", "%C3%A9", "%FF", "a:b", &long,
    ] {
        for line in [
            format!("GET /v1/agents/{bad}"),
            format!("PUT /v1/agents/{bad}/config"),
            format!("POST /v1/agents/{bad}/invoke"),
            format!("GET /v1/sessions/{bad}"),
            format!("PUT /v1/sessions/{bad}"),
            format!("DELETE /v1/sessions/{bad}"),
            format!("POST /v1/sessions/{bad}/messages"),
            format!("GET /v1/sessions/{bad}/events"),
            format!("POST /v1/sessions/s/agents/{bad}"),
            format!("GET /v1/sessions/s/slots/{bad}"),
            format!("PUT /v1/sessions/s/slots/{bad}"),
            format!("GET /v1/operations/{bad}"),
        ] {
            let call = server
                .call(&line)
                .json(json!({"body": "x", "agents": ["echo"]}));
            // `a:b` has the colon of an operation but not its number.
            call.await.refused(400, "invalid_name");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_json_is_refused() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    for line in [
        "PUT /v1/agents/echo/config",
        "POST /v1/agents/echo/rollback",
        "POST /v1/agents/echo/invoke",
        "POST /v1/sessions",
        "PUT /v1/sessions/t",
        "POST /v1/sessions/s/tokens",
        "POST /v1/sessions/s/messages",
        "POST /v1/sessions/s/interrupt",
        "PUT /v1/sessions/s/slots/plan",
    ] {
        for body in ["{", "[]", "7", "nonsense", "{} {}", "\u{feff}{}"] {
            let call = server.call(line).header("content-type", "application/json");
            let answer = call.body(body).await;
            answer.refused(400, "invalid_json");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_ask_first() {
    let origin = "https://chat.example.com";
    let server = Server::with(|config| config.http.cors_origins = vec![origin.to_owned()]).await;
    let asks = |origin: &str| {
        let call = server.call("OPTIONS /v1/agents").header("origin", origin);
        let call = call.header("access-control-request-method", "POST");
        call.header(
            "access-control-request-headers",
            "authorization,idempotency-key",
        )
    };
    let allowed = asks(origin).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(origin));
    let headers = allowed
        .header("access-control-allow-headers")
        .expect("headers");
    for name in [
        "authorization",
        "idempotency-key",
        "last-event-id",
        "if-match",
    ] {
        assert!(headers.contains(name), "{headers}");
    }
    let refused = asks("https://evil.example.com").await;
    assert_eq!(refused.header("access-control-allow-origin"), None);

    let evil = server
        .call("GET /v1/agents")
        .header("origin", "https://evil.example.com")
        .await;
    assert_eq!(evil.header("access-control-allow-origin"), None);
    let answer = server.call("GET /v1/agents").header("origin", origin).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
    let exposed = answer
        .header("access-control-expose-headers")
        .expect("headers");
    for name in [
        "x-request-id",
        "x-antiphon-offset",
        "etag",
        "location",
        "retry-after",
    ] {
        assert!(exposed.contains(name), "{exposed}");
    }
    server.stop().await;

    let server = Server::start().await;
    let answer = server.call("GET /v1/agents").header("origin", origin).await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        None,
        "none by default"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_need_no_key() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.ask("echo", json!("x")).await.is(200);
    let bare = |path: &str| server.client.get(format!("{}{path}", server.url)).send();
    let ready = bare("/readyz").await.expect("an answer").text().await;
    assert_eq!(ready.expect("a text"), r#"{"ready":true}"#);
    assert_eq!(bare("/healthz").await.expect("an answer").status(), 200);
    let metrics = bare("/metrics").await.expect("an answer").text().await;
    let metrics = metrics.expect("a text");
    for name in [
        "antiphon_requests_total{status=\"200\"}",
        "antiphon_turns_total{outcome=\"completed\"}",
        "antiphon_turn_seconds",
        "antiphon_sessions_open",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_served_once_at_a_time() {
    let server = Server::start().await;
    let second = server.second().await;
    assert!(second.to_string().contains("store"), "{second}");
    server.call("GET /v1/agents").await.is(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    let mode = |path: std::path::PathBuf| {
        std::fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(server.data().join("default.key")), 0o600);
    let url = std::fs::read_to_string(server.data().join("url")).expect("the address");
    assert_eq!(url, server.url);
    server.stop().await;
}

/// What is more than the host may do at once is refused at the door, and nothing else fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_host_says_when_to_come_back() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().wait(&gate).say("late").finish("stop")]).await;
    let model = model_of(&provider);
    let server = Server::with(|config| {
        config.models.insert("default".to_owned(), model);
        config.limits.turns_max = 1;
        config.limits.turns_waiting_max = 1;
    })
    .await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server.session("t", &["puppet"]).await;
    let mut events = server.follow("s").await;
    // It keeps its place as long as it holds the lock, however long the model takes.
    let script = json!([{"lock": "plan"}, {"relay": "q"}]);
    server.post("s", script).await;
    provider.received(1).await;
    // The only place is taken, and so is the only place to wait for it.
    let mut waiting = server.follow("t").await;
    server.post("t", json!("hello")).await;
    waiting.until(|event| event.kind == "turn-started").await;
    for line in [
        "POST /v1/agents/puppet/invoke",
        "POST /v1/sessions/s/messages",
    ] {
        let refused = server.call(line).json(json!({"body": "x"})).await;
        refused.refused(429, "overloaded");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    // Reading goes on, and so does what runs.
    server.get("/v1/sessions/s/transcript").await;
    gate.open();
    assert_eq!(said(&events.turn("puppet").await), "late");
    assert_eq!(said(&waiting.turn("puppet").await), "heard hello\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_holds_as_many_sessions_as_it_may_takes_nothing_more() {
    let server = Server::with(|config| config.limits.sessions_open_max = 1).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.post("s", json!("one")).await;
    server.session("t", &["echo"]).await;
    let message = server.call("POST /v1/sessions/s/messages");
    let refused = message.json(json!({"body": "two"})).await;
    refused.refused(429, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let hit = server.limits_hit().await;
    assert!(hit.contains("sessions_open_max"), "{hit}");
    // What is not in memory any more is in nobody's way.
    server.call("DELETE /v1/sessions/t").await.is(204);
    let server = server.restart().await;
    server.post("s", json!("two")).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_too_long_is_refused() {
    let server = Server::with(|config| config.limits.header_bytes_max = 8 * 1024).await;
    let call = server
        .call("GET /v1/agents")
        .header("x-long", &"x".repeat(20_000));
    assert_eq!(call.await.status, 431);
    server.call("GET /v1/agents").await.is(200);
    server.stop().await;
}
