//! Responses that go on from others: each in a session of its own from there on.

use antiphon::model::scripted::{Gate, Reply};
use serde_json::{Value, json};

use crate::client::Call;
use crate::server::Server;
use crate::stream::Event;

use super::{events_of, followed, in_background, relaying, respond, script, session_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_goes_on_from_the_one_before() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    let tell = script(json!([{"transcript": 10}]));
    let after = |model: &str, previous: &Value, input: &str| {
        let body = json!({"model": model, "input": input, "previous_response_id": previous});
        respond(&server, body)
    };
    let text = |body: &Value| {
        body["output"][0]["content"][0]["text"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = after("puppet", &first["id"], "two").await;
    assert_eq!(session_of(&second), session);
    let second = second.is(200);
    assert_eq!(second["previous_response_id"], first["id"]);
    let told = text(&after("puppet", &second["id"], &tell).await.is(200));
    assert_eq!(
        told,
        "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\",\"user: two\",\"puppet (complete): heard two\\n\"]}\n"
    );
    // From an older one it is another session, which has nothing of what came later.
    let branch = |key: &str| after("puppet", &first["id"], &tell).idempotency(key);
    let other = branch("k").await;
    assert_ne!(session_of(&other), session);
    let body = other.is(200);
    assert_eq!(
        text(&body),
        "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\"]}\n"
    );
    let again = branch("k").await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), body);
    assert_eq!(
        server
            .get(&format!(
                "/v1/responses/{}",
                body["id"].as_str().expect("an id")
            ))
            .await,
        body
    );

    for previous in [
        "resp_none:2",
        "resp_x",
        "chatcmpl-1",
        &format!("resp_{session}:1"),
    ] {
        let refused = after("puppet", &json!(previous), "x").await;
        let body = refused.refused(400, "previous_response_not_found");
        assert_eq!(body["error"]["param"], "previous_response_id");
    }
    after("echo", &second["id"], "x")
        .await
        .refused(409, "agent_not_in_session");
    let call = after("puppet", &second["id"], "x").header("x-antiphon-session", "s");
    call.await.refused(400, "unsupported_value");
    server.stop().await;
}

/// One that goes on from another one, with more fields.
fn goes_on(server: &Server, model: &str, previous: &Value, input: Value, more: Value) -> Call {
    let mut body = json!({"model": model, "input": input, "previous_response_id": previous});
    let fields = more.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("an object").extend(fields);
    respond(server, body)
}

async fn session_count(server: &Server) -> usize {
    let page = server.get("/v1/sessions").await;
    page["sessions"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_who_go_on_at_once_each_sees_its_own_alone() {
    let server = Server::with(|config| config.limits.forks_max = 8).await;
    server.deploy("puppet").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let asks = (0..8).map(|n| {
        let input = script(json!([{"transcript": 10}, {"say": format!("{n}")}]));
        goes_on(&server, "puppet", &first["id"], json!(input), json!({})).into_future()
    });
    let answers = futures_util::future::join_all(asks).await;
    let mut there = 0;
    for (n, answer) in answers.iter().enumerate() {
        let body = answer.is(200);
        let told = "{\"transcript\":[\"user: one\",\"puppet (complete): heard one\\n\"]}\n";
        assert_eq!(
            body["output"][0]["content"][0]["text"],
            format!("{told}{n}"),
            "nobody else's"
        );
        there += usize::from(session_of(answer) == session);
    }
    assert_eq!(there, 1, "the first goes on there, all others in forks");
    assert_eq!(session_count(&server).await, 8);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_where_a_response_ended_is_not_answered_twice() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one")
        .wait(&gate)
        .say("!")
        .finish("stop");
    let (_provider, server) = relaying(reply).await;
    let body = in_background();
    let answer = respond(&server, body).await;
    let session = session_of(&answer);
    let first = answer.is(200)["id"].clone();
    let mut reader = followed(&server, first.as_str().expect("an id"), None).await;
    let is_delta = |event: &Event| event.kind == "response.output_text.delta";
    reader.until(is_delta).await;
    let waiting = |input: &str| {
        let body = json!({"model": "puppet", "input": input, "background": true});
        respond(&server, body).header("x-antiphon-session", &session)
    };
    let second = waiting("two").await.is(200)["id"].clone();
    let third = waiting("three").await.is(200)["id"].clone();
    // Nothing goes on from what is not over, whether it runs or waits.
    for open in [&first, &second] {
        let refused = goes_on(&server, "puppet", open, json!("x"), json!({})).await;
        let body = refused.refused(400, "previous_response_not_finished");
        assert_eq!(body["error"]["param"], "previous_response_id");
    }
    // One that was taken back is over, and may be gone on from where it was.
    let cancel = format!(
        "POST /v1/responses/{}/cancel",
        third.as_str().expect("an id")
    );
    assert_eq!(server.call(&cancel).await.is(200)["status"], "cancelled");
    gate.open();
    reader.rest().await;
    let second = second.as_str().expect("an id");
    followed(&server, second, None).await.rest().await;

    let other = goes_on(&server, "puppet", &first, json!("four"), json!({})).await;
    let fork = session_of(&other);
    assert_ne!(fork, session);
    let text = &other.is(200)["output"][0]["content"][0]["text"];
    assert_eq!(*text, "heard four\n");
    let events = events_of(&server, &fork).await;
    let of = |kind: &'static str| events.iter().filter(move |it| it["kind"] == kind);
    let reasons: Vec<&Value> = of("message-set-aside").map(|it| &it["reason"]).collect();
    let elsewhere = json!("it is answered in the session that this one was forked from");
    assert_eq!(reasons, [&json!("cancelled"), &elsewhere]);
    assert_eq!(of("turn-started").count(), 2, "the first's and the fork's");

    let other = goes_on(&server, "puppet", &third, json!("five"), json!({})).await;
    assert_ne!(session_of(&other), session);
    let text = &other.is(200)["output"][0]["content"][0]["text"];
    assert_eq!(*text, "heard five\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_no_fork_and_its_key_free() {
    let server = Server::with(|config| config.limits.message_bytes_max = 200).await;
    server.deploy("puppet").await;
    server.deploy("echo").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = goes_on(&server, "puppet", &first["id"], json!("two"), json!({})).await;
    let second = second.is(200);
    let ask = |model: &str, input: Value, more: Value| {
        goes_on(&server, model, &first["id"], input, more).idempotency("k")
    };
    let none = json!({});
    let image = json!([{"type": "image_generation_call"}]);
    ask("puppet", image, none.clone())
        .await
        .refused(400, "unsupported_value");
    ask("puppet", json!("x".repeat(201)), none.clone())
        .await
        .refused(413, "too_large");
    let unnamed = json!({"user": "auth0|x"});
    ask("puppet", json!("x"), unnamed)
        .await
        .refused(400, "invalid_name");
    ask("echo", json!("x"), none.clone())
        .await
        .refused(409, "agent_not_in_session");
    let named = ask("puppet", json!("x"), none.clone()).header("x-antiphon-session", &session);
    let refused = named.await.refused(400, "unsupported_value");
    assert_eq!(refused["error"]["param"], "previous_response_id");
    assert_eq!(session_count(&server).await, 1);
    let answer = ask("puppet", json!("three"), none.clone()).await;
    assert_eq!(
        answer.is(200)["output"][0]["content"][0]["text"],
        "heard three\n"
    );
    // Where it may go on without a fork, it may be named.
    let newest = goes_on(
        &server,
        "puppet",
        &second["id"],
        json!("four"),
        none.clone(),
    );
    let newest = newest.header("x-antiphon-session", &session).await;
    assert_eq!(session_of(&newest), session);
    newest.is(200);
    // A key counts for the whole body.
    let alone = respond(&server, json!({"model": "puppet", "input": "x"})).idempotency("other");
    alone.await.is(200);
    let other = goes_on(&server, "puppet", &first["id"], json!("x"), none);
    let other = other.idempotency("other").await;
    other.refused(422, "idempotency_key_reused");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_its_answer_when_what_it_referred_to_is_gone() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let first = respond(&server, json!({"model": "puppet", "input": "one"})).await;
    let session = session_of(&first);
    let first = first.is(200);
    let second = goes_on(&server, "puppet", &first["id"], json!("two"), json!({}));
    second.await.is(200);
    let refer = || {
        let input = json!([
            {"type": "item_reference", "id": first["output"][0]["id"]},
            {"role": "user", "content": "three"},
        ]);
        respond(&server, json!({"model": "puppet", "input": input})).idempotency("refers")
    };
    let branch =
        || goes_on(&server, "puppet", &first["id"], json!("four"), json!({})).idempotency("branch");
    let (referred, branched) = (refer().await.is(200), branch().await.is(200));
    let delete = server.call(&format!("DELETE /v1/sessions/{session}"));
    assert_eq!(delete.await.status, 204);
    let again = refer().await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), referred);
    let again = branch().await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), branched);
    server.stop().await;
}
