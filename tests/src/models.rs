//! Providers of models that misbehave.

use antiphon::config::Model;
use antiphon::model::scripted::{Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;

async fn started(replies: impl IntoIterator<Item = Reply>) -> (Provider, Server) {
    let provider = Provider::start(replies).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    (provider, server)
}

/// What the agent is told when it asks, and gets this.
async fn check(reply: Reply, told: Value) {
    let (_provider, server) = started([reply]).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, format!("{told}\n"));
    let journal = server.get("/v1/sessions/s/journal?kind=returned").await;
    let returned = &journal["entries"][0];
    assert_eq!(returned["result"], "failed", "{returned}");
    assert_eq!(returned["error"], told["error"], "{returned}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_refuses() {
    check(
        Reply::status(401, "no"),
        json!({"error": "provider", "status": 401}),
    )
    .await;
    check(
        Reply::status(400, "what?"),
        json!({"error": "provider", "status": 400}),
    )
    .await;
}

/// What may pass is tried again under the same key, as long as nothing of an answer came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_busy_is_asked_again() {
    let replies = [
        Reply::status(503, "busy").header("retry-after", "0"),
        Reply::stream().cut(),
        Reply::text("now"),
    ];
    let (provider, server) = started(replies).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"model\":\"now\"}\n");
    let keys: Vec<_> = provider
        .requests()
        .iter()
        .map(|request| request.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys, vec![keys[0].clone(); 3]);
    let retried = server.get("/v1/sessions/s/events?kind=retried").await;
    let retried: Vec<&Value> = retried["events"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["kind"] == "retried")
        .collect();
    assert_eq!(retried.len(), 2, "{retried:?}");
    assert_eq!(retried[1]["attempt"], 3);
    assert_eq!(retried[1]["reason"], "provider");
    let journal = server.get("/v1/sessions/s/journal?kind=returned").await;
    assert_eq!(journal["entries"][0]["attempts"], 3);
    server.stop().await;
}

/// It has its tries, and then the agent is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_stays_busy() {
    let busy = || Reply::status(503, "busy").header("retry-after", "0");
    let (provider, server) = started([busy(), busy(), busy(), Reply::text("too late")]).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"error\":\"provider\",\"status\":503}\n");
    assert_eq!(provider.requests().len(), 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_speaks_nonsense() {
    check(
        Reply::broken_json(),
        json!({"error": "provider", "status": 200}),
    )
    .await;
    let page = Reply::body("text/html", "<html>hello</html>");
    check(page, json!({"error": "provider", "status": 200})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_up_before_the_first_word() {
    let cut = Reply::stream().cut();
    let (_provider, server) = started([cut.clone(), cut.clone(), cut]).await;
    let said = server.reply("puppet", "s", json!([{"model": "q"}])).await;
    assert_eq!(said, "{\"error\":\"provider\",\"status\":0}\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_up_mid_answer() {
    let reply = Reply::stream().say("half of ").cut();
    check(
        reply,
        json!({"error": "interrupted", "partial": "half of "}),
    )
    .await;
}

/// Nobody listens there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_there() {
    let gone = Provider::start([]).await.base_url();
    let server = Server::with(|config| {
        let model = Model {
            base_url: gone,
            api_key_env: None,
            api_key: None,
            model: "x".to_owned(),
            price: None,
            policy: antiphon::config::PolicySettings::default(),
        };
        config.models.insert("default".to_owned(), model);
    })
    .await;
    server.deploy("puppet").await;
    let answer = server.ask("puppet", json!([{"model": "q"}])).await.is(200);
    assert_eq!(answer["reply"], "{\"error\":\"provider\",\"status\":0}\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_the_agent_may_not_use() {
    let (provider, server) = started([]).await;
    for name in ["offline", "none"] {
        let script = json!([{"model_named": [name, "q"]}]);
        let said = server.reply("puppet", "s", script).await;
        assert_eq!(said, "{\"error\":\"refused\"}\n");
    }
    server
        .configure("puppet", json!({"models": ["none", "offline"]}))
        .await
        .is(201);
    let said = server
        .reply("puppet", "s", json!([{"model_named": ["none", "q"]}]))
        .await;
    assert_eq!(said, "{\"error\":\"refused\"}\n");
    let said = server
        .reply("puppet", "s", json!([{"model_named": ["offline", "q"]}]))
        .await;
    assert!(said.starts_with("{\"model\":"), "{said}");
    assert!(provider.requests().is_empty());
    server.stop().await;
}

/// What was shown stays, and is what everybody sees from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_breaks_off_leaves_what_was_shown() {
    let reply = Reply::stream().say("half ").say("of ").cut();
    let (provider, server) = started([reply, Reply::text("fine")]).await;
    let answer = server.invoke("puppet", "s", json!([{"relay": "q"}])).await;
    let body = answer.refused(502, "turn_failed");
    assert_eq!(body["reply"], "half of ");
    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(transcript["items"][1]["text"], "half of ");
    assert_eq!(transcript["items"][1]["end"], "failed");
    server
        .reply("puppet", "s", json!([{"relay": "again"}]))
        .await;
    let told = &provider.requests()[1].body["messages"][1];
    assert_eq!(
        (&told["role"], &told["content"]),
        (&json!("assistant"), &json!("half of "))
    );
    // It was asked once: nothing is tried again after a word was shown.
    assert_eq!(provider.requests().len(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_never_answers_ends_with_the_turn() {
    for reply in [
        Reply::silence(),
        Reply::stream().hang(),
        Reply::stream().say("so ").hang(),
    ] {
        let (provider, server) = started([reply]).await;
        server
            .configure("puppet", json!({"limits": {"turn_ms_max": 300}}))
            .await
            .is(201);
        let answer = server.invoke("puppet", "s", json!([{"relay": "q"}])).await;
        answer.refused(504, "turn_deadline");
        provider.received(1).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_counted() {
    let (_provider, server) = started([Reply::text("a b"), Reply::text("c")]).await;
    let answer = server
        .invoke("puppet", "s", json!([{"model": "q"}, {"relay": "q"}]))
        .await;
    let usage = json!({"model_calls": 2, "estimated_calls": 0, "input_tokens": 6,
        "output_tokens": 10, "cost_micros": 0, "nested_micros": 0});
    assert_eq!(answer.is(200)["usage"], usage);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_provider_the_built_in_one_answers() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let first = server
        .ask("puppet", json!([{"relay": "hello"}]))
        .await
        .is(200);
    let again = server
        .ask("puppet", json!([{"relay": "hello"}]))
        .await
        .is(200);
    assert_eq!(first["reply"], again["reply"]);
    assert_ne!(first["reply"], "");
    server.stop().await;
}
