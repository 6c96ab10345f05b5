//! Who may do what: keys, and tokens for one session and one author.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::said;

async fn mint(server: &Server, body: Value) -> (String, String) {
    let call = server.call("POST /v1/sessions/s/tokens").json(body);
    let token = call.await.is(201);
    let text = |name: &str| token[name].as_str().expect("a text").to_owned();
    (text("token"), text("id"))
}

async fn started() -> Server {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.session("other", &["echo"]).await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_there_is_nothing() {
    let server = started().await;
    let wrong = format!("ant_default_{}", "0".repeat(64));
    for key in ["", "x", &wrong, &server.key[..server.key.len() - 1]] {
        for line in [
            "GET /v1/agents",
            "GET /v1/sessions/s",
            "PUT /v1/agents/echo",
        ] {
            let refused = server.call(line).key(key).await;
            refused.refused(401, "invalid_key");
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        }
    }
    let basic = server
        .call("GET /v1/agents")
        .header("authorization", "Basic eDp5");
    basic.await.refused(401, "invalid_key");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_for_its_session_and_its_scopes() {
    let server = started().await;
    let (reader, _) = mint(&server, json!({"author": "ana", "scopes": ["read"]})).await;
    let (sender, _) = mint(&server, json!({"author": "ana", "scopes": ["send"]})).await;
    let (all, _) = mint(&server, json!({"author": "ana"})).await;
    let message = json!({"body": "x"});
    // Token, request, and the code of the refusal if it is one.
    for (token, line, status, code) in [
        (&reader, "GET /v1/sessions/s", 200, ""),
        (&reader, "GET /v1/sessions/s/events", 200, ""),
        (&reader, "GET /v1/sessions/s/transcript", 200, ""),
        (&reader, "GET /v1/sessions/s/slots", 200, ""),
        (
            &reader,
            "POST /v1/sessions/s/messages",
            403,
            "insufficient_scope",
        ),
        (
            &reader,
            "POST /v1/sessions/s/interrupt",
            403,
            "insufficient_scope",
        ),
        (&sender, "GET /v1/sessions/s", 403, "insufficient_scope"),
        (&sender, "POST /v1/sessions/s/messages", 202, ""),
        (&all, "POST /v1/sessions/s/messages", 202, ""),
        (&all, "GET /v1/sessions/other", 404, "session_not_found"),
        (&all, "GET /v1/sessions/none", 404, "session_not_found"),
        (
            &all,
            "POST /v1/sessions/other/messages",
            404,
            "session_not_found",
        ),
        (&all, "GET /v1/operations/other:1", 404, "session_not_found"),
        (
            &all,
            "GET /v1/sessions/s/journal",
            403,
            "insufficient_scope",
        ),
        (
            &all,
            "POST /v1/sessions/s/tokens",
            403,
            "insufficient_scope",
        ),
        (&all, "DELETE /v1/sessions/s", 403, "insufficient_scope"),
        (&all, "GET /v1/sessions", 403, "insufficient_scope"),
        (&all, "GET /v1/agents", 403, "insufficient_scope"),
        (&all, "GET /v1/agents/echo/logs", 403, "insufficient_scope"),
        (
            &all,
            "POST /v1/agents/echo/invoke",
            403,
            "insufficient_scope",
        ),
        (
            &all,
            "PUT /v1/agents/echo/config",
            403,
            "insufficient_scope",
        ),
    ] {
        let call = server.call(line).key(token);
        let call = if line.starts_with("POST") {
            call.json(message.clone())
        } else {
            call
        };
        let answer = call.await;
        if code.is_empty() {
            answer.is(status);
        } else {
            answer.refused(status, code);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_speaks_for_its_author_only() {
    let server = started().await;
    let (token, _) = mint(&server, json!({"author": "ana"})).await;
    let post = |body: Value| {
        let call = server.call("POST /v1/sessions/s/messages").key(&token);
        call.json(body)
    };
    post(json!({"body": "x", "author": "ben"}))
        .await
        .refused(403, "author_mismatch");
    post(json!({"body": "x", "author": "ana"})).await.is(202);
    post(json!({"body": "y"})).await.is(202);
    let slot = server.call("PUT /v1/sessions/s/slots/plan").key(&token);
    let slot = slot.json(json!({"content": "z", "author": "ben"}));
    slot.await.refused(403, "author_mismatch");
    let mut events = server.follow("s").await;
    let mut authors = Vec::new();
    while authors.len() < 2 {
        let event = events.next().await.expect("more");
        if event.kind == "message-received" {
            authors.push(event.data["author"].clone());
        }
    }
    assert_eq!(authors, ["ana", "ana"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_for_tokens_are_refused() {
    let server = started().await;
    for (body, code) in [
        (json!({}), "invalid_json"),
        (json!({"author": "a b"}), "invalid_name"),
        (json!({"author": "ana", "scopes": []}), "invalid_json"),
        (
            json!({"author": "ana", "scopes": ["deploy"]}),
            "invalid_json",
        ),
        (json!({"author": "ana", "scopes": ["sing"]}), "invalid_json"),
        (json!({"author": "ana", "expires_in": 0}), "invalid_json"),
        (json!({"author": "ana", "role": "x"}), "unknown_field"),
    ] {
        server
            .call("POST /v1/sessions/s/tokens")
            .json(body)
            .await
            .refused(400, code);
    }
    let none = server
        .call("POST /v1/sessions/none/tokens")
        .json(json!({"author": "ana"}));
    none.await.refused(404, "session_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_address_is_for_reading() {
    let server = started().await;
    let (token, _) = mint(&server, json!({"author": "ana"})).await;
    server.reply("echo", "s", json!("hello")).await;
    let bare = |line: String| {
        let (method, path) = line.split_once(' ').expect("METHOD /path");
        let method = method.parse().expect("a method");
        server
            .client
            .request(method, format!("{}{path}", server.url))
            .send()
    };
    let events = bare(format!("GET /v1/sessions/s/events?access_token={token}")).await;
    assert_eq!(events.expect("an answer").status(), 200);
    let post = bare(format!("POST /v1/sessions/s/messages?access_token={token}")).await;
    assert_eq!(post.expect("an answer").status(), 401);
    let wrong = bare(format!(
        "GET /v1/sessions/other/events?access_token={token}"
    ))
    .await;
    assert_eq!(wrong.expect("an answer").status(), 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_worth_nothing() {
    let server = started().await;
    let (token, id) = mint(&server, json!({"author": "ana"})).await;
    let (other, _) = mint(&server, json!({"author": "ben"})).await;
    server.call("GET /v1/sessions/s").key(&token).await.is(200);
    let revoke = |session: &str, id: &str| {
        server.call(&format!("DELETE /v1/sessions/{session}/tokens/{id}"))
    };
    revoke("other", &id).await.refused(404, "token_not_found");
    revoke("s", "0123").await.refused(404, "token_not_found");
    assert_eq!(revoke("s", &id).await.status, 204);
    revoke("s", &id).await.refused(404, "token_not_found");
    server
        .call("GET /v1/sessions/s")
        .key(&token)
        .await
        .refused(401, "invalid_key");
    server.call("GET /v1/sessions/s").key(&other).await.is(200);
    let server = server.restart().await;
    server
        .call("GET /v1/sessions/s")
        .key(&token)
        .await
        .refused(401, "invalid_key");
    server.call("GET /v1/sessions/s").key(&other).await.is(200);
    server.stop().await;
}

/// Waits on the server's clock: a token that has expired when the agent has slept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_expires() {
    let server = started().await;
    server.deploy("puppet").await;
    let (token, _) = mint(&server, json!({"author": "ana", "expires_in": 1})).await;
    let asleep = server.ask("puppet", json!([{"sleep": 1000}])).await;
    asleep.is(200);
    server
        .call("GET /v1/sessions/s")
        .key(&token)
        .await
        .refused(401, "invalid_key");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_interrupts() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one ")
        .wait(&gate)
        .say("two")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let (token, _) = mint(&server, json!({"author": "ana", "scopes": ["interrupt"]})).await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.shown("one ").await;
    server
        .call("POST /v1/sessions/s/interrupt")
        .key(&token)
        .await
        .is(202);
    let rest = events.turn("puppet").await;
    assert_eq!(rest[0].data["by"], "ana");
    assert_eq!(said(&rest), "");
    server.stop().await;
}
