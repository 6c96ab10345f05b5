//! Responses: made, looked at again, forgotten.

use serde_json::{Value, json};

use crate::server::Server;

use super::{respond, script, seconds, session_of, transcript};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_made_and_looked_at_again() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let asked = script(json!([{"transcript": 10}, "instructions"]));
    let answer = respond(
        &server,
        json!({
            "model": "puppet",
            "instructions": "be brief",
            "metadata": {"a": "b"},
            "input": [
                {"role": "user", "content": "one"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
                {"role": "user", "content": [{"type": "input_text", "text": asked}]},
            ],
        }),
    )
    .await;
    let body = answer.is(200);
    let session = session_of(&answer);
    let text = "{\"transcript\":[\"user: one\",\"puppet (complete): two\"]}\n{\"instructions\":\"be brief\"}\n";
    let (id, item) = (format!("resp_{session}:4"), format!("msg_{session}:4"));
    assert_eq!(body["id"], json!(id));
    assert_eq!(
        body["output"],
        json!([{
            "id": item, "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        }])
    );
    for (field, value) in [
        ("status", json!("completed")),
        ("instructions", json!("be brief")),
        ("metadata", json!({"a": "b"})),
        ("previous_response_id", Value::Null),
        ("store", json!(true)),
        ("error", Value::Null),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    let path = format!("/v1/responses/{id}");
    assert_eq!(server.get(&path).await, body);
    let server = server.restart().await;
    assert_eq!(server.get(&path).await, body);
    // Its operation is the same thing.
    let operation = server.get(&format!("/v1/operations/{session}:4")).await;
    assert_eq!(operation["response"]["reply"], json!(text));
    let deleted = server.call(&format!("DELETE {path}")).await.is(200);
    assert_eq!(
        deleted,
        json!({"id": id, "object": "response", "deleted": true})
    );
    server
        .call(&format!("GET {path}"))
        .await
        .refused(410, "session_gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_session_of_people_a_response_is_one_of_its_turns() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("hello")).await;
    let body = json!({"model": "echo", "input": "one", "user": "ben"});
    let first = respond(&server, body)
        .header("x-antiphon-session", "s")
        .await;
    let first = first.is(200);
    assert_eq!(first["id"], "resp_s:7");
    server.reply("echo", "s", json!("meanwhile")).await;
    let body = json!({"model": "echo", "input": "two", "previous_response_id": first["id"]});
    let second = respond(&server, body).await;
    assert_eq!(session_of(&second), "s");
    // Any message of a person can be looked at as a response, and none be deleted alone.
    let shown = server.get("/v1/responses/resp_s:2").await;
    assert_eq!(shown["output"][0]["content"][0]["text"], "hello");
    server
        .call("DELETE /v1/responses/resp_s:7")
        .await
        .refused(409, "response_in_session");
    assert_eq!(transcript(&server, "s").await.len(), 8);
    server.stop().await;
}

/// However often a short request refers to a long answer, it is no longer than one that says it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_are_bounded_and_for_those_who_may_read() {
    let server = Server::with(|config| {
        config.limits.recounted_max = 4;
        config.limits.request_bytes_max = 2_000;
    })
    .await;
    server.deploy("echo").await;
    let made = respond(&server, json!({"model": "echo", "input": "x".repeat(600)})).await;
    let item = made.is(200)["output"][0]["id"].clone();
    let refer = |count: usize, input: &str| {
        let mut items = vec![json!({"type": "item_reference", "id": item}); count];
        items.push(json!({"role": "user", "content": input}));
        respond(&server, json!({"model": "echo", "input": items}))
    };
    let refused = refer(3, "y").await.refused(413, "too_large");
    assert_eq!(refused["error"]["message"], "2000 bytes is the most");
    assert!(server.limits_hit().await.contains("request_bytes_max"));
    // Counted before any of them is looked for.
    let none = vec![json!({"type": "item_reference", "id": "msg_none:2"}); 5];
    let refused = respond(&server, json!({"model": "echo", "input": none})).await;
    let refused = refused.refused(413, "too_large");
    let message = "4 earlier messages is the most";
    assert_eq!(refused["error"]["message"], message);
    assert!(server.limits_hit().await.contains("recounted_max"));
    let answer = refer(2, "y").await;
    assert_eq!(answer.is(200)["output"][0]["content"][0]["text"], "y");
    let told = transcript(&server, &session_of(&answer)).await;
    assert_eq!(told.len(), 4, "both were told");
    for (scopes, status) in [(json!(["invoke"]), 403), (json!(["invoke", "read"]), 200)] {
        let minted = server.call("POST /v1/keys").json(json!({"scopes": scopes}));
        let key = minted.await.is(201)["key"].clone();
        let answer = refer(1, "y").key(key.as_str().expect("a key")).await;
        match status {
            200 => drop(answer.is(200)),
            status => drop(answer.refused(status, "insufficient_scope")),
        }
    }
    server.stop().await;
}

/// How long a response is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_stored_is_soon_gone() {
    let server = Server::start().await;
    server.deploy("echo").await;
    for (store, kept_s) in [(true, 24 * 3_600), (false, 3_600)] {
        let answer = respond(
            &server,
            json!({"model": "echo", "input": "x", "store": store}),
        )
        .await;
        assert_eq!(answer.is(200)["store"], json!(store));
        let shown = server
            .get(&format!("/v1/sessions/{}", session_of(&answer)))
            .await;
        let time = |name: &str| seconds(shown[name].as_str().expect("a time"));
        assert_eq!(time("expires_at") - time("last_event_at"), kept_s);
    }
    server.stop().await;
}
