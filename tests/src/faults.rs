//! Agents that break: each ends its own turn, with a typed outcome.

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::guests::component;
use crate::server::Server;
use crate::stream::kinds;

async fn puppet(limits: Value) -> Server {
    let server = Server::with(|config| config.limits.handles_max = 20).await;
    let config = json!({"limits": limits});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server
}

/// A turn that fails: what the caller gets, and what the journal says.
async fn check(limits: Value, step: Value, status: u16, failure: &str, words: &str) {
    let server = puppet(limits).await;
    let script = json!([{"say": "before"}, {"lock": "plan"}, step, {"say": "after"}]);
    let answer = server.invoke("puppet", "s", script).await;
    let code = if status == 504 {
        "turn_deadline"
    } else {
        "turn_failed"
    };
    let body = answer.refused(status, code);
    assert_eq!(body["reply"], "before", "{step}");
    assert_eq!(body["session"], "s");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.starts_with(&format!("{failure}: ")), "{message}");
    assert!(message.contains(words), "{message}");

    let events = server.get("/v1/sessions/s/events").await;
    let last = events["events"]
        .as_array()
        .expect("a list")
        .last()
        .expect("events");
    assert_eq!(
        (&last["kind"], &last["turn"]),
        (&json!("turn-ended"), &body["turn"])
    );
    assert_eq!(last["error"]["code"], failure);
    assert!(!last.to_string().contains("backtrace"), "{last}");

    // The lock died with its holder, and the next turn is as good as any.
    let said = server.reply(
        "puppet",
        "s",
        json!([{"commit": ["plan", "mine"]}, {"read": "plan"}]),
    );
    assert_eq!(
        said.await,
        "{\"read\":{\"content\":\"mine\",\"state\":\"idle\"}}\n"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap() {
    check(json!({}), json!("trap"), 502, "trap", "unreachable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop() {
    check(
        json!({"cpu_ms_max": 50}),
        json!("spin"),
        502,
        "cpu",
        "50 ms",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_recursion() {
    check(json!({}), json!("recurse"), 502, "trap", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_without_end() {
    let limits = json!({"memory_bytes_max": 8 * 1024 * 1024});
    check(limits, json!("allocate"), 502, "limit", "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_never_ends() {
    let limits = json!({"turn_ms_max": 300});
    check(
        limits,
        json!({"sleep": 3_600_000}),
        504,
        "deadline",
        "300 ms",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_own_error() {
    check(
        json!({}),
        json!({"fail": "no idea"}),
        502,
        "agent",
        "no idea",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_handles() {
    check(json!({}), json!({"handles": 50}), 502, "limit", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_host_calls() {
    let server = Server::with(|config| config.limits.host_calls_max = 100).await;
    server.deploy("puppet").await;
    let body = server
        .ask("puppet", json!([{"calls": 50}, {"calls": 50}]))
        .await;
    let body = body.refused(502, "turn_failed");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.contains("host calls"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_in_one_call() {
    let server = Server::with(|config| config.limits.host_call_bytes_max = 64 * 1024).await;
    server.deploy("puppet").await;
    let body = server.ask("puppet", json!([{"big": 100 * 1024}])).await;
    let body = body.refused(502, "turn_failed");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.starts_with("limit: "), "{message}");
    server.stop().await;
}

/// Its tenant may compute a fifth of a second in a minute, itself far more: it stops where it is and waits, and
/// what ends it is its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_minute_is_used_up_computes_no_more() {
    let server = Server::with(|config| {
        config.limits.cpu_tenant_minute_ms_max = 200;
        config.limits.cpu_ms_max = 60_000;
    })
    .await;
    let config = json!({"limits": {"turn_ms_max": 1_000}});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    let body = server.ask("puppet", json!(["spin"])).await;
    let body = body.refused(504, "turn_deadline");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.starts_with("deadline: "), "{message}");
    // Reading, and whatever computes nothing, goes on.
    server.get("/v1/agents").await;
    let metrics = server.call("GET /metrics").await;
    for series in [
        "antiphon_limits_hit_total{limit=\"cpu_tenant_minute_ms_max\"}",
        "antiphon_guest_cpu_micros_total{tenant=\"default\"}",
    ] {
        assert!(metrics.text().contains(series), "{}", metrics.text());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_own_limits_are_below_the_hosts() {
    for (limit, step, words) in [
        (
            "host_calls_max",
            json!({"calls": 50}),
            "limit: the turn used all of its host calls",
        ),
        (
            "written_bytes_max",
            json!({"calls": 50}),
            "limit: the turn used all of its bytes in the journal",
        ),
        (
            "handles_max",
            json!({"handles": 50}),
            "limit: the agent holds more than 20 handles",
        ),
        ("reply_bytes_max", json!({"say_bytes": 50}), "agent: "),
    ] {
        let server = Server::start().await;
        let config = json!({"limits": {limit: 20}});
        server.configure("puppet", config).await.is(201);
        server.deploy("puppet").await;
        let body = server.ask("puppet", json!([step])).await;
        let body = body.refused(502, "turn_failed");
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.starts_with(words), "{message}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_is_too_long_is_the_agents_to_handle() {
    let server = Server::with(|config| config.limits.reply_bytes_max = 10).await;
    server.deploy("puppet").await;
    let body = server
        .ask("puppet", json!([{"say": "short"}, {"say_bytes": 6}]))
        .await
        .refused(502, "turn_failed");
    assert_eq!(body["reply"], "short", "nothing of the long one is shown");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.starts_with("agent: "), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_broke_is_shown_to_its_developer_only() {
    let server = puppet(json!({})).await;
    server
        .invoke("puppet", "s", json!(["trap"]))
        .await
        .refused(502, "turn_failed");
    let journal = server.journal("s").await;
    let private = &journal.last().expect("entries")["private"];
    let backtrace = private["backtrace"].as_str().expect("a backtrace");
    assert!(
        backtrace.contains("puppet::mischief::stumble"),
        "{backtrace}"
    );
    let stderr = private["stderr"].as_str().expect("what it printed");
    assert!(stderr.contains("the puppet stumbles"), "{stderr}");

    let events = server.call("GET /v1/sessions/s/events").await;
    assert!(!events.text().contains("stumble"), "{}", events.text());
    server.stop().await;
}

/// One message, three deliveries with growing pauses of the host's own, then no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_always_fails_is_set_aside() {
    let server = puppet(json!({})).await;
    let mut events = server.follow("s").await;
    let message = server.post("s", json!(["trap"])).await;
    let seen = events
        .until(|event| event.kind == "message-set-aside")
        .await;
    let turn = ["turn-started", "turn-ended"];
    let expected = [
        &["session-opened", "message-received"][..],
        &turn,
        &turn,
        &turn,
    ]
    .concat();
    assert_eq!(
        kinds(&seen),
        [&expected[..], &["message-set-aside"]].concat()
    );
    let last = &seen.last().expect("it is there").data;
    assert_eq!(
        (&last["message"], &last["deliveries"]),
        (&json!(message), &json!(3))
    );

    let operation = server.get(&format!("/v1/operations/{message}")).await;
    assert_eq!(operation["done"], true);
    assert_eq!(operation["error"]["code"], "set_aside");
    assert_eq!(
        server.reply("puppet", "s", json!([{"say": "fine"}])).await,
        "fine"
    );
    server.stop().await;
}

/// Trying again would answer twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_failed_after_words_is_not_tried_again() {
    let server = puppet(json!({})).await;
    let mut events = server.follow("s").await;
    let message = server.post("s", json!([{"say": "half"}, "trap"])).await;
    let seen = events.turn("puppet").await;
    let ended = &seen.last().expect("it ended").data;
    assert_eq!(
        ended["inputs"],
        json!([{"message": message, "fate": "consumed"}])
    );
    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(transcript["items"][1]["text"], "half");
    assert_eq!(transcript["items"][1]["end"], "failed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_agents_of_the_session_go_on() {
    let server = puppet(json!({})).await;
    server.deploy("echo").await;
    server.call("POST /v1/sessions/s/agents/echo").await.is(201);
    server
        .invoke("puppet", "s", json!(["trap"]))
        .await
        .refused(502, "turn_failed");
    assert_eq!(
        server.reply("echo", "s", json!("still here")).await,
        "still here"
    );
    server.stop().await;
}

/// Trap, memory, computing, time: whatever ends the holder of a lock, the lock ends with it, the old
/// document stands, and the next writer goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_holders_that_die_leave_no_lock() {
    let server = Server::with(|_| {}).await;
    // Each has one limit, so that no other end depends on how fast this machine is.
    for (agent, limits) in [
        ("dies", json!({"memory_bytes_max": 8 * 1024 * 1024})),
        ("spins", json!({"cpu_ms_max": 60})),
        ("late", json!({"turn_ms_max": 400})),
    ] {
        let config = json!({"limits": limits});
        server.configure(agent, config).await.is(201);
        server.deploy_as(agent, component("puppet")).await;
    }
    server.deploy("puppet").await;
    let ends = [
        ("dies", json!("trap"), "trap"),
        ("dies", json!("allocate"), "limit"),
        ("spins", json!("spin"), "cpu"),
        ("late", json!({"sleep": 3_600_000}), "deadline"),
    ];
    let one = async |at: usize| {
        let session = format!("s{at}");
        let (agent, step, failure) = &ends[at % ends.len()];
        server.session(&session, &["puppet", agent]).await;
        let old = json!([{"commit": ["plan", "old"]}]);
        server.reply("puppet", &session, old).await;
        let script = json!([{"lock": "plan"}, step]);
        let failed = server.invoke(agent, &session, script).await.json();
        let message = failed["error"]["message"].as_str().expect("a text");
        assert!(message.starts_with(*failure), "{message}");
        let slots = server.get(&format!("/v1/sessions/{session}/slots")).await;
        let slot = &slots["slots"][0];
        assert_eq!(
            (&slot["slot"], &slot["state"]),
            (&json!("plan"), &json!("idle")),
            "{slots}"
        );
        let next = json!([{"read": "plan"}, {"commit": ["plan", "new"]}]);
        let said = server.reply("puppet", &session, next).await;
        assert!(said.contains("\"old\""), "{said}");
    };
    stream::iter(0..1_000).for_each_concurrent(16, one).await;
    server.stop().await;
}
