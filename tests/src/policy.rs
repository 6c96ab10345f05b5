//! How calls of models are made: what the server's settings and an agent's say, seen at the provider.

use antiphon::config::PolicySettings;
use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::{Server, model_of};

/// A server whose model `NAME` is this provider under this policy, and a puppet that asks it.
async fn server(provider: &Provider, name: &str, policy: Value) -> Server {
    let mut model = model_of(provider);
    model.policy = serde_json::from_value::<PolicySettings>(policy).expect("it is of the form");
    let server = Server::with(|config| {
        config.models.insert(name.to_owned(), model);
    })
    .await;
    let config = json!({"model": name});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
}

async fn details(server: &Server, kind: &str) -> Vec<String> {
    let page = server
        .get(&format!("/v1/sessions/s/journal?kind={kind}"))
        .await;
    let entries = page["entries"].as_array().expect("a list");
    let detail = |entry: &Value| entry["detail"].as_str().unwrap_or_default().to_owned();
    entries.iter().map(detail).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_hangs_is_given_up_and_made_again() {
    let provider = Provider::start([Reply::silence(), Reply::text("now")]).await;
    let policy = json!({"attempt_ms_max": 200, "backoff": {"first_ms": 0, "ms_max": 0}});
    let server = server(&provider, "default", policy).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"model\":\"now\"}\n");
    // The socket is closed: nobody works for an answer that nobody waits for.
    provider.given_up(1).await;
    let words = "call exceeded its per-attempt deadline of 200 ms";
    assert_eq!(details(&server, "retried").await, [words]);
    let keys: Vec<_> = provider
        .requests()
        .iter()
        .map(|it| it.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys[0], keys[1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_that_is_too_long_ends_the_call() {
    let busy = |after| Reply::status(429, "later").header("retry-after", after);
    let provider = Provider::start([busy("0"), busy("2"), Reply::text("too late")]).await;
    let policy = json!({"retry_after_ms_max": 1000});
    let server = server(&provider, "default", policy).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"error\":\"provider\",\"status\":429}\n");
    assert_eq!(provider.requests().len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_circuit_sends_nothing_and_is_its_models_alone() {
    let failing = Provider::answering(|_| Reply::status(503, "down")).await;
    let policy = json!({
        "attempts_max": 1,
        "breaker": {"failures_to_open": 2, "cooldown_ms": 600_000},
    });
    let server = server(&failing, "failing", policy).await;
    let config = json!({"model": "failing", "models": ["offline"]});
    server.configure("puppet", config).await.is(201);
    let script = json!([
        {"model": "q"}, {"model": "q"}, {"model": "q"}, {"model_named": ["offline", "q"]}
    ]);
    let said = server.reply("puppet", "s", script).await;
    let lines: Vec<&str> = said.lines().collect();
    let provider = r#"{"error":"provider","status":503}"#;
    assert_eq!(
        lines[..3],
        [provider, provider, r#"{"error":"circuit-open"}"#]
    );
    assert!(lines[3].starts_with("{\"model\":"), "{said}");
    assert_eq!(failing.requests().len(), 2);
    let detail = details(&server, "returned").await.remove(2);
    let left = detail.strip_prefix(r#"circuit open for "failing"; "#);
    let left = left.and_then(|left| left.strip_suffix(" ms remaining before retry allowed"));
    let left: u64 = left.expect("it says how long").parse().expect("ms");
    assert!((590_000..=600_000).contains(&left), "{detail}");
    let metrics = server.call("GET /metrics").await;
    for line in [
        r#"antiphon_call_circuit{tenant="default",target="failing"} 2"#,
        r#"antiphon_call_attempts_total{tenant="default",target="failing",outcome="provider"} 2"#,
        r#"antiphon_calls_refused_total{tenant="default",target="failing",reason="circuit-open"} 1"#,
        r#"antiphon_calls_under_way{tenant="default",target="failing"} 0"#,
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
    // It is not remembered over a start.
    let server = server.restart().await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said.trim(), provider);
    server.stop().await;
}

/// One place: the second turn waits for it, and goes on when the first is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_a_place() {
    let gate = Gate::new();
    let held = Reply::stream().say("so ").wait(&gate);
    let provider = Provider::start([held, Reply::text("mine")]).await;
    let policy = json!({"concurrent_max": 1});
    let server = server(&provider, "default", policy).await;
    let mut first = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    first.until(|event| event.kind == "spoke").await;
    server.session("other", &["puppet"]).await;
    let mut second = server.follow("other").await;
    server
        .post("other", json!([{"say": "waits"}, {"model": "q"}]))
        .await;
    // What was said before the wait is shown during it.
    second.until(|event| event.kind == "spoke").await;
    assert_eq!(provider.requests().len(), 1);
    server
        .call("POST /v1/sessions/s/interrupt")
        .json(json!({"agent": "puppet"}))
        .await
        .is(202);
    let events = second.turn("puppet").await;
    assert!(crate::stream::said(&events).contains("mine"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_policy_is_checked_when_it_is_given() {
    let server = Server::start().await;
    for (policy, named) in [
        (
            json!({"attempts_max": 0}),
            "`policy.attempts_max` must be from 1 to 10",
        ),
        (
            json!({"breaker": {"cooldown_ms": 0}}),
            "`policy.breaker.cooldown_ms`",
        ),
        (
            json!({"attempt_ms_max": 2, "call_ms_max": 1}),
            "`policy.call_ms_max`",
        ),
        (json!({"retries": 1}), "`retries`"),
    ] {
        let config = json!({"policy": policy});
        let put = server.configure("puppet", config).await;
        assert!((400..500).contains(&put.status), "{}", put.text());
        assert!(put.text().contains(named), "{}", put.text());
    }
    let policy = json!({"attempts_max": 1, "breaker": {"failures_to_open": 0}});
    let config = json!({"policy": policy});
    server.configure("puppet", config).await.is(201);
    server.stop().await;
}

/// One agent asks, another of the same tenant gets the same answer; who does not ask for it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_given_again_to_whom_it_may() {
    let replies = [Reply::text("It is so."), Reply::text("To you alone.")];
    let provider = Provider::start(replies).await;
    let server = server(&provider, "cached", json!({})).await;
    let config = json!({"model": "cached"});
    server.configure("other", config).await.is(201);
    server
        .deploy_as("other", crate::guests::component("puppet"))
        .await;
    server.session("o", &["other"]).await;
    let script = || json!([{"model_cached": ["q", 60]}]);
    let first = server.invoke("puppet", "s", script()).await.is(200);
    let again = server.invoke("other", "o", script()).await.is(200);
    assert_eq!(first["reply"], "{\"model\":\"It is so.\"}\n");
    assert_eq!(first["reply"], again["reply"]);
    assert_eq!(first["usage"]["model_calls"], 1);
    assert_eq!(again["usage"]["model_calls"], 0, "{again}");
    assert_eq!(provider.requests().len(), 1);
    let journal = server.get("/v1/sessions/o/journal?kind=returned").await;
    let returned = &journal["entries"][0];
    assert_eq!(
        (&returned["cached"], &returned["attempts"]),
        (&json!(true), &json!(0))
    );
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"model\":\"To you alone.\"}\n");
    let metrics = server.call("GET /metrics").await;
    for outcome in ["hit", "miss"] {
        let line = format!(
            r#"antiphon_model_cache_total{{tenant="default",target="cached",outcome="{outcome}"}} 1"#
        );
        assert!(metrics.text().contains(&line), "{line}: {}", metrics.text());
    }
    server.stop().await;
}
