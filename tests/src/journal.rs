//! What a session's journal says, and who may read it.

use antiphon::model::scripted::{Provider, Reply};
use serde_json::{Value, json};

use crate::golden;
use crate::process::command;
use crate::server::Server;

/// Names that are made anew each time, by the order in which they come.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn steady(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => self.steady_text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.steady(value)),
            Value::Object(fields) => {
                fields.remove("time");
                fields.remove("wake_at");
                fields.values_mut().for_each(|value| self.steady(value));
            }
            _ => {}
        }
    }

    fn steady_text(&mut self, text: &mut String) {
        let Some(at) = text.find("run_") else { return };
        let run = text[at..at + 36].to_owned();
        let number = self.0.iter().position(|it| *it == run).unwrap_or_else(|| {
            self.0.push(run.clone());
            self.0.len() - 1
        });
        *text = text.replace(&run, &format!("run{number}"));
    }
}

/// `seq kind detail`, one line per entry. Pieces of one answer are one line: how they
/// come in is the network's business.
pub(crate) fn lines(entries: &[Value]) -> String {
    let mut names = Names::default();
    let mut lines = Vec::new();
    let mut before = Value::Null;
    for entry in entries {
        let mut entry = entry.clone();
        names.steady(&mut entry);
        let fields = entry.as_object_mut().expect("an object");
        fields.remove("private");
        let offset = fields.remove("offset").expect("every entry has an offset");
        let seq = offset
            .as_str()
            .and_then(|offset| offset[..16].parse::<u64>().ok());
        if seq.is_some() && fields.get("version").and_then(Value::as_u64) == seq {
            fields["version"] = json!("its own");
        }
        let kind = fields.remove("kind").expect("every entry has a kind");
        if kind == "streamed" {
            fields.remove("pieces");
        }
        let kind = kind.as_str().expect("a word").to_owned();
        if kind != "streamed" || before != kind {
            lines.push(format!("{} {kind} {entry}", lines.len() + 1));
        }
        before = json!(kind);
    }
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_of_one_turn() {
    let provider = Provider::start([Reply::text("yes")]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let script = json!([
        {"read": "plan"}, {"lock": "plan"}, {"say": "so "}, {"model": "q"},
        {"commit": ["plan", "new"]}, {"lock": "b"}, {"release": "b"}, {"send": ["nobody", "x"]},
        {"transcript": 5}, {"note": "n"},
    ]);
    server.reply("puppet", "s", script).await;
    golden::check("journal.txt", &lines(&server.journal("s").await));

    let only = server
        .get("/v1/sessions/s/journal?kind=slot-committed")
        .await;
    assert_eq!(only["entries"].as_array().expect("a list").len(), 1);
    let secret = server.call("GET /v1/sessions/s/journal").await;
    assert!(!secret.text().contains("secret"), "{}", secret.text());
    server
        .call("GET /v1/sessions/none/journal")
        .await
        .refused(404, "session_not_found");
    server.stop().await;
}

/// Every kind of event as clients see it: fields are only ever added.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_forms_of_events() {
    let provider = Provider::start([Reply::stream().say("shown").hang()]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    // It has no component, so what it is sent stays.
    server.configure("idle", json!({})).await.is(201);
    server.session("s", &["puppet", "idle"]).await;
    let script = json!([{"say": "a"}, {"send": ["idle", "hi"]}, {"commit": ["plan", "x"]}]);
    server.reply("puppet", "s", script).await;
    let version = server.get("/v1/sessions/s/slots/plan").await["version"].to_string();
    let put = server
        .call("PUT /v1/sessions/s/slots/plan")
        .header("if-match", &version);
    put.json(json!({"content": "y", "author": "ana"}))
        .await
        .is(200);
    server
        .invoke("puppet", "s", json!([{"fail": "no idea"}]))
        .await
        .refused(502, "turn_failed");
    let mut events = server.follow("s").await;
    server.post("s", json!([{"relay": "q"}])).await;
    events.shown("ashown").await;
    server
        .call("POST /v1/sessions/s/interrupt")
        .json(json!({"author": "ana"}))
        .await
        .is(202);
    let call = server.call("POST /v1/sessions/s/messages");
    let waiting = call
        .json(json!({"to": "idle", "author": "ana", "body": {"n": 1}}))
        .await
        .is(202);
    let waiting = waiting["message"].as_str().expect("an id").to_owned();
    server
        .call(&format!("POST /v1/operations/{waiting}/cancel"))
        .await
        .is(200);
    server.call("DELETE /v1/sessions/s/agents/idle").await;
    server.call("POST /v1/sessions/s/agents/idle").await.is(201);
    let page = server.get("/v1/sessions/s/events").await;
    let mut events = page["events"].as_array().expect("a list").clone();
    let fork = server.call("POST /v1/sessions/s/fork");
    fork.json(json!({"at": 4, "session": "f"})).await.is(201);
    let page = server.get("/v1/sessions/f/events").await;
    let page = page["events"].as_array().expect("a list");
    let own = page
        .iter()
        .skip_while(|event| event["kind"] != "session-forked");
    events.extend(own.cloned());
    // What was said before a session began.
    let messages = json!([
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]);
    let chat = server.call("POST /v1/chat/completions");
    let chat = chat
        .json(json!({"model": "puppet", "messages": messages}))
        .await;
    chat.is(200);
    let session = chat.header("x-antiphon-session").expect("its session");
    let page = server.get(&format!("/v1/sessions/{session}/events")).await;
    let page = page["events"].as_array().expect("a list");
    let told = page.iter().filter(|event| event["kind"] == "recounted");
    events.extend(told.cloned());
    golden::check("events.txt", &lines(&events));
    server.stop().await;
}

/// What `antiphon journal` prints with a key.
async fn told(server: &Server, key: &str, more: &[&str]) -> (String, String) {
    let mut command = command(&["journal", "s", "--url", &server.url, "--key", key]);
    command.args(more);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it runs").expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    assert!(output.status.success(), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_tells_what_the_key_may_see() {
    let reply = Reply::stream().say("It rains.").finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("puppet").await;
    server.session("s", &["puppet"]).await;
    let body = json!([{"lock": "plan"}, {"relay": "q"}, {"commit": ["plan", "go"]}]);
    server.reply("puppet", "s", body).await;

    let key = server.key.clone();
    let (all, warning) = told(&server, &key, &[]).await;
    assert_eq!(warning, "");
    for words in [
        "waited",
        "asks model default",
        "locks slot plan",
        "held the lock for",
        "It rains.",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    assert!(!all.contains("still open"), "{all}");
    let (json, _) = told(&server, &key, &["--json"]).await;
    assert_eq!(json.lines().count(), server.journal("s").await.len());
    let (events, _) = told(&server, &key, &["--events"]).await;

    let call = server.call("POST /v1/sessions/s/tokens");
    let token = call
        .json(json!({"author": "ana", "scopes": ["read"]}))
        .await
        .is(201);
    let token = token["token"].as_str().expect("a text").to_owned();
    let (seen, warning) = told(&server, &token, &[]).await;
    assert_eq!(seen, events);
    assert!(warning.contains("may not inspect"), "{warning}");
    assert!(
        seen.contains("It rains.") && !seen.contains("asks model"),
        "{seen}"
    );
    server.stop().await;
}
