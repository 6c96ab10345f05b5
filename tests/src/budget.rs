//! What models cost, and what may be spent on them.
//!
//! A scripted answer is 3 tokens in and 5 out; at these prices it costs 5 micro-units.

use antiphon::config::{Config, Model, Price, TenantBudget};
use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::guests;
use crate::process::{Process, command};
use crate::server::{Server, model_of};

const PRICE: Price = Price {
    input_micros: 1_000_000,
    output_micros: 400_000,
};

fn priced(provider: &Provider) -> Model {
    Model {
        price: Some(PRICE),
        ..model_of(provider)
    }
}

fn answers(count: usize) -> impl Iterator<Item = Reply> {
    std::iter::repeat_n(Reply::text("hm"), count)
}

async fn started(
    replies: impl IntoIterator<Item = Reply>,
    change: impl FnOnce(&mut Config),
) -> (Provider, Server) {
    let provider = Provider::start(replies).await;
    let model = priced(&provider);
    let server = Server::with(|config| {
        config.models.insert("default".to_owned(), model);
        change(config);
    })
    .await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    (provider, server)
}

async fn may_spend(server: &Server, budget: Value) {
    let configured = server.configure("puppet", json!({"budget": budget})).await;
    configured.is(201);
}

/// One call of a model, told whole.
fn asks() -> Value {
    json!([{"model": "q"}])
}

/// What the journal says that was used, as ends of turns say it.
fn cost_of(entries: &[Value]) -> u64 {
    let ends = entries.iter().filter(|entry| entry["kind"] == "turn-ended");
    ends.map(|end| end["usage"]["cost_micros"].as_u64().unwrap_or(0))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_spent_is_refused_once_it_is_all_it_may() {
    let (provider, server) = started(answers(5), |_| {}).await;
    may_spend(&server, json!({"session_micros_max": 12})).await;
    for _ in 0..3 {
        let answer = server.invoke("puppet", "s", asks()).await.is(200);
        let usage = json!({"model_calls": 1, "estimated_calls": 0, "input_tokens": 3,
            "output_tokens": 5, "cost_micros": 5, "nested_micros": 0});
        assert_eq!(answer["usage"], usage);
    }
    let before = server.journal("s").await;
    let expect = json!({"cap": "session", "spent_micros": 15, "limit_micros": 12, "until": null});
    let refused = server.invoke("puppet", "s", asks()).await;
    let body = refused.refused(402, "budget_exhausted");
    assert_eq!(body["budget"], expect);
    let text = "the session's budget is used up: 15 of 12 micro-units";
    assert_eq!(body["error"]["message"], text);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let message = server.call("POST /v1/sessions/s/messages");
    let message = message
        .json(json!({"body": "hello", "author": "ana"}))
        .await;
    assert_eq!(message.refused(402, "budget_exhausted")["budget"], expect);
    assert_eq!(server.journal("s").await, before, "nothing was changed");
    assert_eq!(cost_of(&before), 15);

    // Another session has its own, and a restart forgets nothing.
    server.session("other", &["puppet"]).await;
    server.reply("puppet", "other", asks()).await;
    let server = server.restart().await;
    let refused = server.invoke("puppet", "s", asks()).await;
    assert_eq!(refused.refused(402, "budget_exhausted")["budget"], expect);
    may_spend(&server, json!({"session_micros_max": 16})).await;
    server.reply("puppet", "s", asks()).await;
    assert_eq!(provider.requests().len(), 5);
    server.stop().await;
}

/// The turn is told, and may end as it likes; the next run begins with nothing spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_spent_its_budget_is_told_and_completes() {
    let (provider, server) = started(answers(3), |_| {}).await;
    may_spend(&server, json!({"run_micros_max": 6})).await;
    let script = json!([{"model": "1"}, {"model": "2"}, {"model": "3"}, {"say": "bye"}]);
    let said = server.reply("puppet", "s", script).await;
    let hm = "{\"model\":\"hm\"}\n";
    assert_eq!(said, format!("{hm}{hm}{{\"error\":\"over-budget\"}}\nbye"));
    assert_eq!(provider.requests().len(), 2);
    let journal = server.get("/v1/sessions/s/journal?kind=returned").await;
    let refused = &journal["entries"][2];
    assert_eq!(refused["error"], "over-budget", "{refused}");
    assert_eq!(
        refused["detail"],
        "the run's budget is used up: 10 of 6 micro-units"
    );
    assert_eq!(server.reply("puppet", "s", asks()).await, hm);
    server.stop().await;
}

/// What a call cost stands with what it was asked at: other prices change nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_has_its_budget_for_each_tenant() {
    let (_provider, server) = started(answers(4), |config| {
        config.budgets.day_micros_max = Some(5);
        let own = TenantBudget {
            total_micros_max: None,
            day_micros_max: Some(6),
        };
        let tenant = "default".parse().expect("a tenant");
        config.budgets.tenants.insert(tenant, own);
    })
    .await;
    for _ in 0..2 {
        server.reply("puppet", "s", asks()).await;
    }
    let check = async |server: &Server| {
        let refused = server.ask("puppet", asks()).await;
        let body = refused.refused(402, "budget_exhausted");
        let budget = &body["budget"];
        assert_eq!(budget["cap"], "tenant-day");
        assert_eq!(
            (&budget["spent_micros"], &budget["limit_micros"]),
            (&json!(10), &json!(6))
        );
        let until = budget["until"].as_str().expect("a time");
        assert!(until.ends_with("T00:00:00.000Z"), "{until}");
        let usage = server.get("/v1/usage").await;
        let expect = json!([{"cap": "tenant-day", "spent_micros": 10, "limit_micros": 6}]);
        assert_eq!(usage["budgets"], expect);
    };
    check(&server).await;
    let server = server.restart().await;
    check(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_told_by_days_and_sessions_and_outlives_them() {
    let (_provider, server) = started(answers(3), |_| {}).await;
    server.session("gone", &["puppet"]).await;
    server.reply("puppet", "gone", asks()).await;
    server
        .reply("puppet", "s", json!([{"model": "1"}, {"model": "2"}]))
        .await;
    let of = |calls: u64| {
        json!({"model_calls": calls, "estimated_calls": 0, "input_tokens": 3 * calls,
            "output_tokens": 5 * calls, "cost_micros": 5 * calls, "nested_micros": 0})
    };
    let all = server.get("/v1/usage").await;
    assert_eq!(all["total"], of(3), "{all}");
    assert_eq!(
        (&all["earlier"], &all["budgets"]),
        (&Value::Null, &json!([]))
    );
    let days = all["days"].as_array().expect("a list");
    // Midnight may have passed.
    let sum: u64 = days
        .iter()
        .map(|it| it["cost_micros"].as_u64().expect("a number"))
        .sum();
    assert_eq!(sum, 15);
    assert_eq!(server.get("/v1/usage?session=s").await["total"], of(2));
    assert_eq!(server.get("/v1/usage?session=none").await["total"], of(0));

    let mut events = server.follow("gone").await;
    server.call("DELETE /v1/sessions/gone").await.is(204);
    events.until(|it| it.kind == "session-changed").await;
    let server = server.restart().await;
    assert_eq!(server.get("/v1/usage").await["total"], of(3));

    let range = "/v1/usage?from=2020-01-01&to=2020-01-31";
    let empty = server.get(range).await;
    assert_eq!((&empty["days"], &empty["total"]), (&json!([]), &of(0)));
    assert_eq!(
        (&empty["from"], &empty["to"]),
        (&json!("2020-01-01"), &json!("2020-01-31"))
    );
    for query in [
        "from=yesterday",
        "to=2026-13-01",
        "from=2026-02-01&to=2026-01-01",
    ] {
        let refused = server.call(&format!("GET /v1/usage?{query}")).await;
        refused.refused(400, "invalid_query");
    }
    let refused = server.call("GET /v1/usage?session=a/b").await;
    refused.refused(400, "invalid_name");
    server.stop().await;
}

/// The bill is the tenant's: a token is of one session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_needs_a_key_of_the_tenant() {
    let (_provider, server) = started([], |_| {}).await;
    let minted = server.call("POST /v1/sessions/s/tokens");
    let token = minted.json(json!({"author": "ana"})).await.is(201);
    let token = token["token"].as_str().expect("a text");
    for path in ["/v1/usage", "/v1/usage?session=s"] {
        let line = format!("GET {path}");
        server
            .call(&line)
            .key(token)
            .await
            .refused(403, "insufficient_scope");
        server
            .call(&line)
            .key("nobody")
            .await
            .refused(401, "invalid_key");
        server.call(&line).await.is(200);
    }
    server.stop().await;
}

/// What came before the cap was reached waits, visibly, and begins once there is more to spend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_when_the_budget_ends_is_held_until_there_is_more() {
    let gate = Gate::new();
    let (_provider, server) = started(
        [Reply::stream().wait(&gate).say("hm").finish("stop")],
        |_| {},
    )
    .await;
    may_spend(&server, json!({"session_micros_max": 5})).await;
    let mut events = server.follow("s").await;
    server.post("s", asks()).await;
    events.until(|it| it.kind == "turn-started").await;
    server.post("s", json!("waits")).await;
    gate.open();
    let held = events.until(|it| it.kind == "agent-suspended").await;
    let reason = &held.last().expect("it is there").data;
    assert_eq!(
        reason["reason"],
        "the session's budget is used up: 5 of 5 micro-units"
    );
    assert_eq!(reason["until_ready"], true);
    may_spend(&server, json!({"session_micros_max": 6})).await;
    let turn = events.turn("puppet").await;
    assert_eq!(crate::stream::said(&turn), "heard waits\n");
    server.stop().await;
}

/// Nobody said how much it was, so it is guessed from what went and came, and the guess is marked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stopped_on_its_way_is_booked_as_far_as_it_came() {
    let half = Reply::stream().say("half of it").hang();
    let silent = Reply::stream().say("words").event(&json!({
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    }));
    let (_provider, server) = started([half, silent.raw("data: [DONE]\n\n")], |_| {}).await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.until(|it| it.kind == "spoke").await;
    server
        .call("POST /v1/sessions/s/interrupt")
        .json(json!({"author": "ana"}))
        .await
        .is(202);
    let ended = events.until(|it| it.kind == "turn-ended").await;
    let usage = &ended.last().expect("it is there").data["usage"];
    assert_eq!(
        (&usage["model_calls"], &usage["estimated_calls"]),
        (&json!(1), &json!(1))
    );
    // `half of it`: ten bytes.
    assert_eq!(usage["output_tokens"], 3);
    let input = usage["input_tokens"].as_u64().expect("a number");
    assert!(input > 0, "{usage}");
    // Three tokens out at 400,000 are 1.2 micro-units, and the call is rounded up once.
    assert_eq!(usage["cost_micros"], input + 2);
    let answer = server.invoke("puppet", "s", asks()).await.is(200);
    let usage = &answer["usage"];
    assert_eq!(
        (&usage["estimated_calls"], &usage["output_tokens"]),
        (&json!(1), &json!(2))
    );
    let journal = server.journal("s").await;
    let total = server.get("/v1/usage").await["total"]["cost_micros"].clone();
    assert_eq!(total, cost_of(&journal));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_are_counted_for_the_operator() {
    let provider = Provider::start(answers(2)).await;
    let model = priced(&provider);
    let server = Server::with(|config| {
        config.models.insert("metered".to_owned(), model);
    })
    .await;
    server
        .configure("puppet", json!({"model": "metered"}))
        .await
        .is(201);
    server.deploy("puppet").await;
    for _ in 0..2 {
        server.ask("puppet", asks()).await.is(200);
    }
    let metrics = server.call("GET /metrics").await;
    for line in [
        r#"antiphon_model_cost_micros_total{tenant="default",model="metered"} 10"#,
        r#"antiphon_model_tokens_total{tenant="default",model="metered",direction="input"} 6"#,
        r#"antiphon_model_tokens_total{tenant="default",model="metered",direction="output"} 10"#,
    ] {
        assert!(metrics.text().lines().any(|it| it == line), "{line}");
    }
    server.stop().await;
}

/// The binary is killed between two turns and in a third. What it says afterwards that was used is
/// what the journal says, to the micro-unit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_survives_the_death_of_the_process() {
    let hangs = Reply::stream().say("never ").hang();
    let replies = answers(2).chain([hangs]).chain(answers(9));
    let provider = Provider::start(replies).await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = provider.base_url();
    let settings = [
        ("ANTIPHON_MODEL_URL", url.as_str()),
        ("ANTIPHON_MODELS__DEFAULT__PRICE__INPUT_MICROS", "1000000"),
        ("ANTIPHON_MODELS__DEFAULT__PRICE__OUTPUT_MICROS", "400000"),
        ("ANTIPHON_BUDGETS__TOTAL_MICROS_MAX", "1000000"),
    ];
    let data = folder.path().join("data");
    let start = || Process::try_start(&data, &settings).expect("it starts");
    let process = start();
    process
        .put_agent("puppet", guests::component("puppet"))
        .await;
    let agents = json!({"agents": ["puppet"]});
    process.json("PUT", "/v1/sessions/s", Some(agents)).await;
    let invoke = async |process: &Process| {
        let body = json!({"body": asks(), "session": "s"});
        let (status, body) = process
            .json("POST", "/v1/agents/puppet/invoke", Some(body))
            .await;
        assert_eq!(status, 200, "{body}");
    };
    invoke(&process).await;
    invoke(&process).await;
    let message = json!({"body": [{"relay": "q"}]});
    let (status, _) = process
        .json("POST", "/v1/sessions/s/messages", Some(message))
        .await;
    assert_eq!(status, 202);
    process.said_all("s", &["never ".to_owned()]).await;
    process.kill();

    let process = start();
    // The turn that was cut off is told that its answer broke off, and fails.
    invoke(&process).await;
    let (_, usage) = process.json("GET", "/v1/usage", None).await;
    let (_, page) = process.json("GET", "/v1/sessions/s/journal", None).await;
    let entries = page["entries"].as_array().expect("entries");
    let cost = cost_of(entries);
    assert!(cost > 15, "three whole calls and a part of one: {cost}");
    assert_eq!(usage["total"]["cost_micros"], cost, "{usage}");
    assert_eq!(usage["total"]["estimated_calls"], 1);
    assert_eq!(usage["budgets"][0]["spent_micros"], cost);
    let shown = command(&["usage", "--url", &process.url, "--key", &process.key]).output();
    let shown = String::from_utf8(shown.expect("it runs").stdout).expect("text");
    assert!(
        shown.lines().any(|line| line.starts_with("total ")),
        "{shown}"
    );
    process.kill();
}
