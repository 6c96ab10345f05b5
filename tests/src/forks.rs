//! Forks: the same up to a place, and from there on two sessions.

use antiphon::model::scripted::{Gate, Provider, Received, Reply};
use serde_json::{Value, json};

use crate::process::command;
use crate::server::Server;
use crate::stream::kinds;

impl Server {
    /// Fork `s`; answers the new session.
    async fn fork(&self, body: Value) -> Value {
        let call = self.call("POST /v1/sessions/s/fork").json(body).await;
        let session = call.is(201);
        let location = format!(
            "/v1/sessions/{}",
            session["session"].as_str().expect("an id")
        );
        assert_eq!(call.header("location"), Some(location.as_str()));
        session
    }

    async fn transcript(&self, session: &str) -> Value {
        self.get(&format!("/v1/sessions/{session}/transcript"))
            .await["items"]
            .clone()
    }
}

/// What the model is told: `role: text`.
fn told(request: &Received) -> Vec<String> {
    let messages = request.body["messages"].as_array().expect("a list");
    let text = |message: &Value, name: &str| message[name].as_str().unwrap_or_default().to_owned();
    messages
        .iter()
        .map(|message| format!("{}: {}", text(message, "role"), text(message, "content")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_go_on_from_there_and_the_model_hears_the_own_words() {
    let replies = ["one", "two", "not mine", "mine"].map(Reply::text);
    let provider = Provider::start(replies).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    let opened = server
        .call("PUT /v1/sessions/s")
        .json(json!({"agents": ["puppet"], "expires_after": 3600}))
        .await
        .is(201);
    let relay = |text: &str| json!([{"relay": text}]);
    server.reply("puppet", "s", relay("first")).await;
    server
        .reply(
            "puppet",
            "s",
            json!([{"commit": ["plan", "old"]}, {"relay": "second"}]),
        )
        .await;
    let shared = server.transcript("s").await;
    let here = server.get("/v1/sessions/s").await["offset"].clone();
    server
        .reply(
            "puppet",
            "s",
            json!([{"commit": ["plan", "new"]}, {"relay": "third"}]),
        )
        .await;
    let parent = server.transcript("s").await;

    let fork = server.fork(json!({"at": here, "session": "f"})).await;
    assert_eq!(fork["entry"], opened["entry"]);
    assert!(fork["expires_at"].is_string(), "{fork}");
    assert_eq!(server.transcript("f").await, shared);
    assert_eq!(
        server.get("/v1/sessions/f/slots/plan").await["content"],
        "old"
    );
    assert_eq!(
        server.get("/v1/sessions/s/slots/plan").await["content"],
        "new"
    );

    let script = relay("own");
    assert_eq!(server.reply("puppet", "f", script).await, "mine");
    let heard = told(provider.requests().last().expect("it was asked"));
    let words = heard.join("\n");
    assert!(
        !words.contains("not mine") && !words.contains("third"),
        "{words}"
    );
    let said = ["assistant: one", "assistant: two"].map(|said| heard.iter().any(|it| it == said));
    assert_eq!(
        (said, heard.last().map(String::as_str)),
        ([true; 2], Some("user: own"))
    );
    assert_eq!(
        server.transcript("s").await,
        parent,
        "the other one heard nothing of it"
    );

    // A turn from before drew its numbers from the other one's secret, and can be run again here.
    let turn = server.journal("f").await;
    let turn = turn.iter().find(|entry| entry["kind"] == "turn-started");
    let turn = turn
        .and_then(|entry| entry["turn"].as_str())
        .expect("an id");
    let [here, there] = ["f", "s"].map(|session| format!("/v1/sessions/{session}/turns/{turn}"));
    let (here, there) = (server.get(&here).await, server.get(&there).await);
    assert!(here["random"].is_object(), "{here}");
    assert_eq!(here, there);

    // The id of what is written here names this one; what came with it keeps its id.
    let posted = server.post("f", json!([{"say": "more"}])).await;
    assert!(posted.starts_with("f:"), "{posted}");
    let messages = server.transcript("f").await;
    assert!(
        messages[0]["message"]
            .as_str()
            .is_some_and(|id| id.starts_with("s:"))
    );

    // It needs nothing of the other one.
    server.call("DELETE /v1/sessions/s").await.is(204);
    let server = server.restart().await;
    let items = server.transcript("f").await;
    let count = shared.as_array().expect("items").len();
    assert_eq!(
        items.as_array().expect("items")[..count],
        shared.as_array().expect("items")[..]
    );
    assert_eq!(
        server.get("/v1/sessions/f/slots/plan").await["content"],
        "old"
    );
    server
        .call("POST /v1/sessions/s/fork")
        .await
        .refused(410, "session_gone");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_middle_of_a_turn() {
    let gate = Gate::new();
    let reply = Reply::stream().say("so far ").wait(&gate).say("and on");
    let provider = Provider::start([reply.finish("stop"), Reply::text("next")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let mut events = server.follow("s").await;
    let first = server
        .post("s", json!([{"lock": "plan"}, {"relay": "q"}]))
        .await;
    events.shown("so far ").await;
    let waiting = server.post("s", json!([{"relay": "later"}])).await;
    server.fork(json!({"session": "f"})).await;

    // The open turn ended there, its lock is free, and what waits is answered.
    let mut events = server.follow("f").await;
    let before = events.until(|event| event.kind == "session-forked").await;
    let forked = before.last().expect("the last").data.clone();
    assert_eq!(forked["from"], "s");
    let at = forked["at"].as_u64().expect("a number");
    assert!(
        forked["offset"]
            .as_str()
            .expect("an offset")
            .starts_with(&format!("{:016}", at + 1))
    );
    let ended = events.turn("puppet").await;
    assert_eq!(kinds(&ended), ["turn-ended"]);
    let ended = &ended[0].data;
    assert_eq!(
        (&ended["outcome"], &ended["error"]["code"]),
        (&json!("interrupted"), &json!("forked"))
    );
    let next = events.turn("puppet").await;
    assert_eq!(crate::stream::said(&next), "next");
    let slot = server.call("GET /v1/sessions/f/slots/plan").await;
    slot.refused(404, "slot_not_found");
    let slots = server.get("/v1/sessions/s/slots/plan").await;
    assert_eq!(slots["state"], "locked", "there it still writes");
    let item = server.transcript("f").await[1].clone();
    assert_eq!(
        (&item["text"], &item["end"]),
        (&json!("so far "), &json!("interrupted"))
    );

    // What the turn has still to draw there is told to nobody here.
    let turn = ended["turn"].as_str().expect("an id");
    let of = |session: &str| format!("/v1/sessions/{session}/turns/{turn}");
    let cut_off = server.get(&of("f")).await;
    assert!(
        cut_off["ended"].is_string() && cut_off["random"].is_null(),
        "{cut_off}"
    );
    assert!(server.get(&of("s")).await["random"].is_null());

    // One message, two sessions, each with its own answer.
    let operation = async |message: &str, within: &str| {
        let path = format!("/v1/operations/{message}?session={within}");
        server.get(&path).await
    };
    let here = operation(&waiting, "f").await;
    assert_eq!(
        (&here["done"], &here["response"]["reply"]),
        (&json!(true), &json!("next"))
    );
    assert_eq!(here["metadata"]["session"], "f");
    let cut = operation(&first, "f").await;
    assert_eq!(
        (&cut["done"], &cut["error"]["code"]),
        (&json!(true), &json!("forked"))
    );
    let there = operation(&waiting, "s").await;
    assert_eq!(there["done"], false);
    let renamed = waiting.replace("s:", "f:");
    server
        .call(&format!("GET /v1/operations/{renamed}"))
        .await
        .refused(404, "operation_not_found");
    gate.open();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_are_not_there_and_names_that_are_taken() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("one")).await;
    let end = server.journal("s").await.len() as u64;
    let fork = |body: Value| server.call("POST /v1/sessions/s/fork").json(body);
    let offset = |seq: u64| json!(format!("{seq:016}_0000000000000000"));
    for (at, code) in [
        (json!(0), "offset_malformed"),
        (json!("-1"), "offset_malformed"),
        (offset(0), "offset_malformed"),
        (json!("7"), "offset_malformed"),
        (json!(end + 1), "offset_ahead"),
        (offset(end + 1), "offset_ahead"),
        (json!(u64::MAX), "offset_ahead"),
        (json!(-7), "invalid_json"),
        (json!(1.5), "invalid_json"),
        (json!({"seq": 1}), "invalid_json"),
    ] {
        fork(json!({"at": at})).await.refused(400, code);
    }
    fork(json!({"where": 1}))
        .await
        .refused(400, "unknown_field");
    fork(json!({"session": "a/b"}))
        .await
        .refused(400, "invalid_name");
    fork(json!({"session": "s"}))
        .await
        .refused(409, "session_exists");
    server
        .call("POST /v1/sessions/none/fork")
        .await
        .refused(404, "session_not_found");
    let listed = server.get("/v1/sessions").await;
    assert_eq!(
        listed["sessions"],
        json!([{"session": "s"}]),
        "nothing was begun"
    );

    fork(json!({"at": 1, "session": "f"})).await.is(201);
    let refused = fork(json!({"at": 1, "session": "f"})).await;
    refused.refused(409, "session_exists");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let journal = server.journal("f").await;
    assert_eq!(journal.len(), 2);
    assert_eq!(journal[1]["kind"], "session-forked");
    assert_eq!(
        journal[1].get("private"),
        None,
        "the secret is shown to nobody"
    );
    // Of a fork, and with nothing said: from where it stands.
    let again = server.call("POST /v1/sessions/f/fork").await.is(201);
    let id = again["session"].as_str().expect("an id");
    assert_eq!(server.journal(id).await.len(), 3);
    assert_eq!(server.reply("echo", id, json!("two")).await, "two");

    // Its id stays gone when it is gone.
    server.call("DELETE /v1/sessions/f").await.is(204);
    fork(json!({"at": 1, "session": "f"}))
        .await
        .refused(410, "session_gone");
    let token = server.call("POST /v1/sessions/s/tokens");
    let token = token.json(json!({"author": "ana"})).await.is(201);
    let token = token["token"].as_str().expect("a text").to_owned();
    fork(json!({}))
        .key(&token)
        .await
        .refused(403, "insufficient_scope");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_fork() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let fork = |body: Value| {
        let call = server.call("POST /v1/sessions/s/fork").json(body);
        call.idempotency("k")
    };
    let (one, two) = tokio::join!(fork(json!({"at": 1})), fork(json!({"at": 1})));
    assert_eq!(one.is(201)["session"], two.is(201)["session"]);
    assert!(one.is_replayed() != two.is_replayed());
    fork(json!({})).await.refused(422, "idempotency_key_reused");
    let other = server
        .call("POST /v1/sessions/s/fork")
        .json(json!({"at": 1}));
    let other = other.idempotency("other").await.is(201);
    assert_ne!(other["session"], one.is(201)["session"]);
    // What was answered is answered again, whatever became of the session it comes from.
    server.call("DELETE /v1/sessions/s").await.is(204);
    let again = fork(json!({"at": 1})).await;
    assert_eq!(again.is(201)["session"], one.is(201)["session"]);
    assert!(again.is_replayed());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_names_the_new_session() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("one")).await;
    let run = async |more: &[&str]| {
        let mut command = command(&["fork", "s", "--url", &server.url, "--key", &server.key]);
        command.args(more);
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("it runs").expect("the binary runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, out, err) = run(&[]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let whole = server.journal("s").await.len();
    assert_eq!(server.journal(out.trim()).await.len(), whole + 1);
    let (code, out, _) = run(&["--at", "1", "--as", "f"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "f\n"));
    let (code, out, err) = run(&["--at", "999"]).await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("offset_ahead"), "{err}");
    server.stop().await;
}
