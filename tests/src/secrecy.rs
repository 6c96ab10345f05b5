//! What clients and logs are not told.

use antiphon::model::scripted::{Provider, Reply};
use serde_json::json;

use crate::client::Answer;
use crate::logged;
use crate::server::{Server, model_of};

/// Words that nobody else logs.
const BODY: &str = "marker-of-a-body";
const SLOT: &str = "marker-of-a-document";
const SECRET: &str = "marker-of-a-secret";
const FORWARDED: &str = "marker-of-an-authorization";
const MODEL_KEY: &str = "marker-of-a-model-key";
const SAID: &str = "marker-of-an-answer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_no_keys_and_no_words_of_people() {
    let replies = [
        Reply::stream().say(SAID).finish("stop"),
        Reply::status(401, &format!("no such key: {MODEL_KEY}")),
        Reply::status(400, SAID),
    ];
    let provider = Provider::start(replies).await;
    let mut model = model_of(&provider);
    model.api_key = Some(antiphon::secret::Secret::new(MODEL_KEY));
    let server = Server::with(|config| {
        config.models.insert("default".to_owned(), model);
    })
    .await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    server.session("s", &["puppet", "echo"]).await;
    let put = server.call("PUT /v1/secrets/example").text(SECRET);
    put.await.is(201);
    let bad = format!("{SECRET}\nand more");
    let put = server.call("PUT /v1/secrets/example").text(&bad);
    put.await.refused(400, "invalid_secret");

    let minted = server.call("POST /v1/sessions/s/tokens");
    let minted = minted.json(json!({"author": "ana"})).await.is(201);
    let token = minted["token"].as_str().expect("a token").to_owned();
    let path = format!("/v1/sessions/s/events?access_token={token}");
    let reader = server.client.get(format!("{}{path}", server.url));
    assert_eq!(reader.send().await.expect("an answer").status(), 200);
    let wrong = server.client.get(format!("{}{path}0", server.url));
    assert_eq!(wrong.send().await.expect("an answer").status(), 401);

    // What goes well, and what fails in every way that a message can make it fail.
    server.reply("echo", "s", json!(BODY)).await;
    server
        .invoke("puppet", "s", json!([{"relay": BODY}]))
        .await
        .is(200);
    for steps in [
        json!([{"relay": BODY}]),
        json!([{"relay": BODY}]),
        json!([{"say": BODY}, "trap"]),
        json!([{BODY: BODY}]),
        json!([{"commit": ["plan", SLOT]}]),
    ] {
        server.invoke("puppet", "s", steps).await;
    }
    for body in [
        format!("{{\"body\": \"{BODY}\""),
        format!("{{\"{BODY}\": 1}}"),
    ] {
        let call = server.call("POST /v1/agents/echo/invoke");
        let call = call.header("content-type", "application/json");
        assert_eq!(call.body(body).await.status, 400);
    }
    let forwards = server.call("POST /v1/keys");
    let forwards = forwards.json(json!({"scopes": ["invoke", "inter-agent"]}));
    let forwards = forwards.await.is(201)["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    for key in [&forwards, &server.key] {
        let call = server.call("POST /v1/agents/echo/invoke").key(key);
        let call = call.header("x-tangle-forwarded-authorization", FORWARDED);
        call.json(json!({"body": BODY})).await;
    }
    server.call("DELETE /v1/sessions/s").await;
    let keys = [server.key.clone(), token, forwards];
    server.stop().await;

    let lines = logged::lines();
    assert!(
        lines.iter().any(|line| line.contains("serving")),
        "it listens"
    );
    assert!(
        lines.iter().any(|line| line.contains("secret-put")),
        "to deeds, too"
    );
    for words in [BODY, SLOT, SECRET, FORWARDED, MODEL_KEY, SAID] {
        let told = lines.iter().find(|line| line.contains(words));
        assert!(told.is_none(), "{words}: {told:?}");
    }
    for key in keys {
        assert!(!lines.iter().any(|line| line.contains(&key)));
    }
}

/// What a client is told when something breaks inside: that it broke, and which request it was.
fn says_nothing(answer: &Answer, data: &std::path::Path) {
    let body = answer.refused(500, "internal");
    let message = &body["error"]["message"];
    assert_eq!(message, "something went wrong inside the server");
    assert_eq!(
        body.as_object().map(serde_json::Map::len),
        Some(1),
        "{body}"
    );
    assert!(!answer.text().contains(&data.display().to_string()));
    let id = answer.header("x-request-id").expect("an id");
    let joined = format!("request={id}");
    assert!(logged::lines().iter().any(|line| line.contains(&joined)));
    assert!(
        answer
            .headers
            .keys()
            .all(|name| name != "x-antiphon-internal")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_inside_is_told_to_the_log_alone() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let agent = server.get("/v1/agents/echo").await;
    let digest = agent["component"].as_str().expect("a digest").to_owned();
    server.call(&format!("GET /v1/components/{digest}")).await;
    // The component's file is a folder now.
    let components = server.data().join("components");
    for entry in std::fs::read_dir(&components).expect("the folder") {
        let path = entry.expect("an entry").path();
        std::fs::remove_file(&path).expect("a file");
        std::fs::create_dir(&path).expect("the folder is writable");
    }
    let answer = server.call(&format!("GET /v1/components/{digest}")).await;
    says_nothing(&answer, server.data());
    server.stop().await;
}
