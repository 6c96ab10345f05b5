//! `antiphon replay`: recorded turns run again by the real binary, from a server's journal.

use std::path::PathBuf;
use std::sync::OnceLock;

use antiphon::model::scripted::{Provider, Reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guests::component;
use crate::process::command;
use crate::server::Server;

/// Component bytes as a file.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"));
    let path = folder.path().join(format!("{name}.wasm"));
    std::fs::write(&path, bytes).expect("it is written");
    path
}

/// A guest whose texts say something else: new code, as small as it can be.
fn changed(package: &str, text: &str, other: &str) -> Vec<u8> {
    assert_eq!(text.len(), other.len(), "its data stays where it is");
    let mut bytes = component(package).to_vec();
    let at: Vec<usize> = bytes
        .windows(text.len())
        .enumerate()
        .filter(|(_, window)| *window == text.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert!(!at.is_empty(), "{package} says {text:?}");
    for at in at {
        bytes[at..at + text.len()].copy_from_slice(other.as_bytes());
    }
    bytes
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }

    #[track_caller]
    fn has(&self, code: i32, parts: &[&str]) {
        let all = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{all}");
        for part in parts {
            assert!(all.contains(part), "{part:?} in {all}");
        }
    }
}

async fn replay_with(server: &Server, key: &str, arguments: &[&str]) -> Said {
    replay_in(server, "s", key, arguments).await
}

async fn replay_in(server: &Server, session: &str, key: &str, arguments: &[&str]) -> Said {
    let mut command = command(&["replay", session]);
    command
        .args(arguments)
        .args(["--url", &server.url, "--key", key]);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it runs").expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// What came with a request is part of its journal, and of no event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_was_told_instructions_is_told_them_again() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let asked = json!(["instructions", {"transcript": 10}]).to_string();
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": asked},
    ]);
    let chat = server.call("POST /v1/chat/completions");
    let chat = chat
        .json(json!({"model": "puppet", "messages": messages}))
        .await;
    chat.is(200);
    let header = |name: &str| chat.header(name).expect("it is there").to_owned();
    let turn = format!("{}.t0.puppet", header("x-antiphon-run"));
    let session = header("x-antiphon-session");
    let said = replay_in(&server, &session, &server.key, &[&turn, "--json"]).await;
    assert_eq!(
        (said.code, &said.json()["same"]),
        (Some(0), &json!(true)),
        "{}{}",
        said.out,
        said.err
    );
    server.stop().await;
}

async fn replay(server: &Server, arguments: &[&str]) -> Said {
    replay_with(server, &server.key, arguments).await
}

/// The id of the session's newest turn.
async fn newest(server: &Server) -> String {
    let page = server.get("/v1/sessions/s/journal?kind=turn-started").await;
    let turns = page["entries"].as_array().expect("a list");
    let turn = turns.last().expect("there was a turn");
    turn["turn"].as_str().expect("an id").to_owned()
}

/// The newest turn again, with another component.
async fn with(server: &Server, name: &str, bytes: &[u8], more: &[&str]) -> Said {
    let turn = newest(server).await;
    let path = file(name, bytes);
    let path = path.to_str().expect("UTF-8");
    let mut arguments = vec![turn.as_str(), "--component", path];
    arguments.extend(more);
    replay(server, &arguments).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_component_of_the_turn_does_the_same() {
    let provider = Provider::start([Reply::text("It rains."), Reply::status(500, "no")]).await;
    let server = Server::asking(&provider).await;
    let config = json!({"environment": {"PLACE": "Faro"}, "models": ["other"]});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    // Longer than what stands in an entry, and replaced before it is replayed.
    let long = "word ".repeat(30_000);
    let first = server
        .call("PUT /v1/sessions/s/slots/plan")
        .json(json!({"content": long, "author": "ana"}))
        .await
        .is(200);
    server.reply("puppet", "s", json!("earlier words")).await;
    server
        .reply("puppet", "s", json!([{"note": "kept in view"}]))
        .await;
    let script = json!([
        {"read": "plan"}, "view", {"note": "n"}, "dice", "env", "budget", {"say": "so "},
        {"relay": "q"}, {"model_named": ["other", "q"]}, {"lock": "b"}, {"read": "b"},
        {"commit": ["b", long]}, {"read": "b"}, {"send": ["nobody", "x"]}, {"transcript": 5},
        {"search": "earlier"}, {"sleep": 20}, {"print": ["stdout", "seen by its developer"]},
        {"wake_in": 3_600_000}, {"print": ["stderr", "and this"]}, "dice",
    ]);
    server.reply("puppet", "s", script).await;
    let turn = newest(&server).await;
    let version = first["version"].to_string();
    let put = server
        .call("PUT /v1/sessions/s/slots/plan")
        .header("if-match", &version);
    put.json(json!({"content": "short", "author": "ana"}))
        .await
        .is(200);

    let said = replay(&server, &[&turn]).await;
    said.has(
        0,
        &[
            "the same: ",
            "ended completed",
            "seen by its developer",
            "and this",
        ],
    );
    assert!(!said.out.contains("seen by"), "{}", said.out);
    let said = replay(&server, &[&turn, "--json"]).await.json();
    assert_eq!(said["same"], true, "{said}");
    assert_eq!(said["calls"], said["calls_recorded"]);
    let events = server.get("/v1/sessions/s/transcript").await;
    let items = events["items"].as_array().expect("items");
    assert_eq!(items.last().expect("the reply")["text"], said["said"]);

    // Another turn of the same version, by the number that the journal shows.
    let page = server.get("/v1/sessions/s/journal?kind=turn-started").await;
    let offset = page["entries"][0]["offset"].as_str().expect("an offset");
    let number: u64 = offset[..16].parse().expect("a number");
    let said = replay(&server, &[&number.to_string()]).await;
    said.has(0, &["the same: 1 call, 3 words, ended completed"]);
    server.stop().await;
}

/// What the call policy decided is in the journal: nothing of it is decided again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_made_again_or_refused_are_the_same() {
    let busy = || Reply::status(503, "busy").header("retry-after", "0");
    let provider = Provider::start([busy(), Reply::text("words"), busy(), busy()]).await;
    let server = Server::asking(&provider).await;
    let policy = json!({"breaker": {"failures_to_open": 2, "cooldown_ms": 600_000}});
    let config = json!({"policy": policy});
    server.configure("puppet", config).await.is(201);
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!([{"model": "q"}, {"model": "q"}, {"model": "q"}]);
    let said = server.reply("puppet", "s", script).await;
    let expect = [
        r#"{"model":"words"}"#,
        r#"{"error":"provider","status":503}"#,
        r#"{"error":"circuit-open"}"#,
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expect);
    assert_eq!(provider.requests().len(), 4);
    let turn = newest(&server).await;
    let again = replay(&server, &[&turn]).await;
    again.has(0, &["the same: ", "ended completed"]);
    assert_eq!(provider.requests().len(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_difference_is_named() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server.reply("puppet", "s", json!("of rain")).await;

    let hears = changed("puppet", "heard ", "feels ");
    let said = with(&server, "feels", &hears, &[]).await;
    said.has(
        1,
        &[
            "it differs after 1 of 1 call and 0 of 3 words",
            r#"the words "heard of rain"#,
            r#"says "feels"#,
            "where it was:\n",
        ],
    );
    let said = with(&server, "worker", component("worker"), &["--json"]).await;
    let json = said.json();
    assert_eq!(
        (said.code, &json["same"], &json["component"]),
        (Some(1), &json!(false), &json!("given"))
    );
    assert_eq!(json["difference"]["now"], "reads the slot count");

    // It says the same, and then leaves the rest undone.
    server
        .reply(
            "puppet",
            "s",
            json!([{"say": "hello"}, {"lock": "b"}, {"say": "."}]),
        )
        .await;
    let json = with(&server, "echo", component("echo"), &["--json"])
        .await
        .json();
    let difference = &json["difference"];
    assert!(
        difference["recorded"]
            .as_str()
            .is_some_and(|it| it.contains("hello")),
        "{json}"
    );

    // A trap names where.
    let json = with(&server, "worker", component("worker"), &["--json"])
        .await
        .json();
    assert_eq!(json["difference"]["now"], "reads the slot count", "{json}");
    server
        .reply("puppet", "s", json!([{"read": "count"}, {"say": "done"}]))
        .await;
    let json = with(&server, "worker", component("worker"), &["--json"])
        .await
        .json();
    let difference = &json["difference"];
    assert!(
        difference["recorded"]
            .as_str()
            .is_some_and(|it| it.starts_with("the words")),
        "{json}"
    );
    assert_eq!(difference["now"], r#"locks the slot "count""#, "{json}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_model_is_compared_with_what_was() {
    let provider = Provider::start([Reply::text("Good day.")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("talker").await;
    server.session("s", &["talker"]).await;
    server.reply("talker", "s", json!("hello")).await;
    assert_eq!(
        replay(&server, &[&newest(&server).await]).await.code,
        Some(0)
    );

    let new = changed("talker", "You talk with people", "You talk with horses");
    let said = with(&server, "horses", &new, &[]).await;
    said.has(
        1,
        &[
            "it differs at entry ",
            "(called) after ",
            "asking the model \"default\"",
            "the request differs from its first message on",
            "then system: You talk with people. Answer",
            "now  system: You talk with horses. Answer",
        ],
    );
    let json = with(&server, "horses", &new, &["--json"]).await.json();
    let text = |name: &str| json["difference"][name]["messages"][0]["text"].to_string();
    assert!(text("request").contains("horses") && text("request_recorded").contains("people"));
    assert_eq!(provider.requests().len(), 1, "no model is asked");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!([{"calls": 1_000}, {"read": "plan"}, {"say": "done"}]);
    server.reply("puppet", "s", script).await;
    let json = replay(&server, &[&newest(&server).await, "--json"])
        .await
        .json();
    assert_eq!(json["same"], true, "{json}");
    assert_eq!(json["calls"], 1_002);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_compared() {
    let provider = Provider::start([Reply::stream().say("shown").hang()]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;

    for (step, code) in [
        (json!("trap"), "trap"),
        (json!({"fail": "no idea"}), "agent"),
    ] {
        server
            .invoke("puppet", "s", json!([{"say": "x"}, step]))
            .await
            .refused(502, "turn_failed");
        let said = replay(&server, &[&newest(&server).await]).await;
        said.has(0, &[&format!("ended failed ({code})")]);
    }
    // The words of the error are its end.
    let new = changed("puppet", "heard ", "feels ");
    let said = with(&server, "feels", &new, &[]).await;
    said.has(0, &["the same"]);

    let mut events = server.follow("s").await;
    server
        .post("s", json!([{"relay": "q"}, {"say": "never"}]))
        .await;
    events.shown("xxshown").await;
    server
        .call("POST /v1/sessions/s/interrupt")
        .json(json!({"author": "ana"}))
        .await
        .is(202);
    let said = replay(&server, &[&newest(&server).await]).await;
    said.has(0, &["ended interrupted; here it would have gone on"]);

    // An agent that is quicker: it is done where the other went on.
    server.reply("puppet", "s", json!([{"say": "a"}])).await;
    let said = with(&server, "echo", component("echo"), &[]).await;
    said.has(1, &["it differs"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replayed_is_said_in_words() {
    let provider = Provider::start([Reply::stream().say("shown").hang()]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let said = replay(&server, &["3"]).await;
    said.has(
        1,
        &["the session has no turn 3", "nothing was done in it yet"],
    );
    server.reply("puppet", "s", json!("hello")).await;
    let turn = newest(&server).await;
    let listed = format!("{turn} completed");
    let said = replay(&server, &["999"]).await;
    said.has(1, &["the session has no turn 999", "its turns:", &listed]);

    let text = file("text", b"no component");
    let text = text.to_str().expect("UTF-8");
    let said = replay(&server, &[&turn, "--component", text]).await;
    said.has(1, &["this is not WebAssembly"]);
    let said = replay(&server, &[&turn, "--component", "nowhere.wasm"]).await;
    said.has(1, &["cannot read nowhere.wasm"]);

    let call = server.call("POST /v1/sessions/s/tokens");
    let token = call.json(json!({"author": "ana"})).await.is(201);
    let token = token["token"].as_str().expect("a text").to_owned();
    let said = replay_with(&server, &token, &[&turn]).await;
    said.has(1, &["this needs the scope `inspect`"]);

    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.shown("heard hello\nshown").await;
    let open = newest(&server).await;
    let said = replay(&server, &[&open]).await;
    said.has(1, &["has not ended yet"]);

    // Neither the session's secret nor what an open turn may still draw.
    let ended = server.get(&format!("/v1/sessions/s/turns/{turn}")).await;
    assert!(ended["random"]["secure"].is_string(), "{ended}");
    assert_eq!(ended["config"]["model"], "default");
    let open = server.get(&format!("/v1/sessions/s/turns/{open}")).await;
    assert_eq!(
        (&open["random"], &open["ended"]),
        (&Value::Null, &Value::Null)
    );
    for path in [
        format!("/v1/sessions/s/turns/{turn}"),
        format!(
            "/v1/components/{}",
            ended["component"].as_str().expect("a digest")
        ),
    ] {
        server
            .call(&format!("GET {path}"))
            .key(&token)
            .await
            .refused(403, "insufficient_scope");
        assert_eq!(server.call(&format!("GET {path}")).await.status, 200);
    }
    server.stop().await;
}

/// What a deleted agent ran with stays for those who look into what it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_of_a_deleted_agent() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    server.reply("puppet", "s", json!(["dice"])).await;
    let turn = newest(&server).await;
    server.deploy_as("puppet", component("echo")).await;
    server.call("DELETE /v1/agents/puppet").await.is(204);
    replay(&server, &[&turn])
        .await
        .has(0, &["puppet, version 1"]);
    server.stop().await;
}

/// A fork has its own secret and its own name, and older turns had those of the other session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_from_before_a_fork() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!(["dice", "turn"]);
    server.reply("puppet", "s", script.clone()).await;
    let old = newest(&server).await;
    for (from, to) in [("s", "f"), ("f", "g")] {
        server
            .call(&format!("POST /v1/sessions/{from}/fork"))
            .json(json!({"session": to}))
            .await
            .is(201);
        server.reply("puppet", to, script.clone()).await;
        let page = server
            .get(&format!("/v1/sessions/{to}/journal?kind=turn-started"))
            .await;
        let new = page["entries"].as_array().and_then(|turns| turns.last());
        let new = new.expect("a turn")["turn"]
            .as_str()
            .expect("an id")
            .to_owned();
        for turn in [&old, &new] {
            let said = replay_in(&server, to, &server.key, &[turn]).await;
            said.has(0, &["the same: 1 call"]);
        }
        let journal = server.call(&format!("GET /v1/sessions/{to}/journal")).await;
        assert!(!journal.text().contains("secret"), "{}", journal.text());
    }
    server.stop().await;
}
