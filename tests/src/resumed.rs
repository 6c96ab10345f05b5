//! The real binary is lost in the middle of a turn, and the next one takes the turn up again.

use std::path::Path;

use antiphon::model::scripted::{Gate, Provider, Received, Reply};
use serde_json::{Value, json};

use crate::guests::component;
use crate::process::{Process, command};

fn start(data: &Path, provider: &Provider) -> Process {
    Process::try_start(data, &[("ANTIPHON_MODEL_URL", &provider.base_url())])
        .expect("the server starts")
}

/// A session `s` with one agent, and a message in it.
async fn post(process: &Process, agent: &str, body: Value) {
    process.put_agent(agent, component(agent)).await;
    let (status, body_of) = process
        .json("PUT", "/v1/sessions/s", Some(json!({"agents": [agent]})))
        .await;
    assert_eq!(status, 201, "{body_of}");
    let (status, body_of) = process
        .json(
            "POST",
            "/v1/sessions/s/messages",
            Some(json!({"body": body})),
        )
        .await;
    assert_eq!(status, 202, "{body_of}");
}

/// Entries of a kind.
async fn entries(process: &Process, kind: &str) -> Vec<Value> {
    let path = format!("/v1/sessions/s/journal?kind={kind}");
    let (status, page) = process.json("GET", &path, None).await;
    assert_eq!(status, 200, "{page}");
    page["entries"].as_array().expect("a list").clone()
}

/// Wait for the end of the session's turn.
async fn ended(process: &Process) -> Value {
    let mut offset = "-1".to_owned();
    loop {
        let path = format!("/v1/sessions/s/events?live=long-poll&offset={offset}");
        let (status, page) = process.json("GET", &path, None).await;
        assert_eq!(status, 200, "{page}");
        let events = page["events"].as_array().expect("events");
        if let Some(ended) = events.iter().find(|event| event["kind"] == "turn-ended") {
            return ended.clone();
        }
        offset = page["offset"].as_str().expect("an offset").to_owned();
    }
}

/// The turn again, from its journal alone: what its attempts did together is one turn.
async fn replays(process: &Process) {
    let started = entries(process, "turn-started").await;
    let turn = started[0]["turn"].as_str().expect("an id");
    let mut command = command(&["replay", "s", turn, "--json"]);
    command.args(["--url", &process.url, "--key", &process.key]);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("it runs").expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{output:?}");
    let said: Value = serde_json::from_str(&text).expect("an object");
    assert_eq!(said["calls"], said["calls_recorded"]);
}

fn key(request: &Received) -> String {
    let key = request.headers.get("idempotency-key").expect("a key");
    key.to_str().expect("it is text").to_owned()
}

/// Ten calls, and a kill while each but the first is under way: when the next request is there,
/// the answer before it is durable.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_that_was_durable_is_asked_for_again() {
    let data = tempfile::tempdir().expect("a folder");
    let mut replies = vec![Reply::text("answer 0")];
    for call in 1..10 {
        replies.extend([Reply::silence(), Reply::text(&format!("answer {call}"))]);
    }
    let provider = Provider::start(replies).await;
    let mut process = start(data.path(), &provider);
    let script: Vec<Value> = (0..10).map(|n| json!({"model": format!("q{n}")})).collect();
    post(&process, "puppet", script.into()).await;
    for killed in 1..10 {
        provider.received(2 * killed).await;
        process.kill();
        process = start(data.path(), &provider);
    }
    let ended = ended(&process).await;
    assert_eq!(ended["outcome"], "completed", "{ended}");

    let requests = provider.requests();
    let asked: Vec<&str> = requests.iter().filter_map(|it| it.last("user")).collect();
    let expected: Vec<String> = (0..10)
        .flat_map(|n| vec![format!("q{n}"); if n == 0 { 1 } else { 2 }])
        .collect();
    assert_eq!(asked, expected);
    for pair in requests[1..].chunks(2) {
        assert_eq!(key(&pair[0]), key(&pair[1]), "the same call");
    }
    let said: String = (0..10)
        .map(|n| format!("{{\"model\":\"answer {n}\"}}\n"))
        .collect();
    let transcript = process.transcript("s").await;
    assert_eq!(transcript[1..], [format!("puppet: {said}")]);

    let retried = entries(&process, "retried").await;
    let (calls, turns): (Vec<&Value>, Vec<&Value>) =
        retried.iter().partition(|entry| entry.get("n").is_some());
    assert_eq!((calls.len(), turns.len()), (9, 9));
    assert!(retried.iter().all(|entry| entry["reason"] == "host-lost"));
    assert_eq!(turns[8]["attempt"], 10);
    assert_eq!(entries(&process, "turn-started").await.len(), 1);
    replays(&process).await;
}

/// Half of an answer was shown: it stays, and the model is asked to go on from it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_cut_goes_on_from_what_was_shown() {
    let data = tempfile::tempdir().expect("a folder");
    let cut = Reply::stream().say("The first half ").wait(&Gate::new());
    let provider = Provider::start([cut, Reply::text("and the second.")]).await;
    let process = start(data.path(), &provider);
    post(&process, "talker", "Tell me both.".into()).await;
    process.said_all("s", &["The first half ".to_owned()]).await;
    process.kill();
    let process = start(data.path(), &provider);
    let ended = ended(&process).await;
    assert_eq!(ended["outcome"], "completed", "{ended}");
    assert_eq!(
        process.transcript("s").await,
        [
            "user: Tell me both.",
            "talker: The first half and the second."
        ]
    );
    let requests = provider.requests();
    assert_eq!(requests.len(), 2);
    assert_ne!(key(&requests[0]), key(&requests[1]), "another call");
    assert_eq!(requests[1].last("assistant"), Some("The first half "));
    let returned = entries(&process, "returned").await;
    assert_eq!(returned[0]["error"], "interrupted", "{returned:?}");
    replays(&process).await;
}

/// A lock is its holder's again if nobody wrote in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_taken_again() {
    let data = tempfile::tempdir().expect("a folder");
    let provider = Provider::start([Reply::silence(), Reply::text("yes")]).await;
    let process = start(data.path(), &provider);
    let script = json!([{"commit": ["plan", "old"]}, {"lock": "plan"}, {"model": "q"}, {"read": "plan"},
        {"commit": ["plan", "new"]}, {"read": "plan"}]);
    post(&process, "puppet", script).await;
    provider.received(1).await;
    process.kill();
    let process = start(data.path(), &provider);
    let ended = ended(&process).await;
    assert_eq!(ended["outcome"], "completed", "{ended}");
    let (_, slot) = process.json("GET", "/v1/sessions/s/slots/plan", None).await;
    assert_eq!(slot["content"], "new", "{slot}");
    let said = "{\"model\":\"yes\"}\n{\"read\":{\"content\":\"old\",\"state\":\"locked\"}}\n\
        {\"read\":{\"content\":\"new\",\"state\":\"idle\"}}\n";
    let transcript = process.transcript("s").await;
    assert_eq!(transcript[1], format!("puppet: {said}"));
    let locked = entries(&process, "slot-locked").await;
    assert_eq!(locked.len(), 3, "{locked:?}");
    assert!(locked[2].get("n").is_none(), "the host took it again");
    replays(&process).await;
}

/// A host that is asked to stop leaves what outlasts the drain to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_outlasts_the_drain_goes_on_in_the_next_process() {
    let data = tempfile::tempdir().expect("a folder");
    let silent = Provider::start([Reply::silence()]).await;
    let process = start(data.path(), &silent);
    post(&process, "talker", "anybody?".into()).await;
    silent.received(1).await;
    assert!(process.terminate().success(), "the drain has an end");

    let speaking = Provider::start([Reply::text("here again")]).await;
    let process = start(data.path(), &speaking);
    let ended = ended(&process).await;
    assert_eq!(ended["outcome"], "completed", "{ended}");
    assert_eq!(
        process.transcript("s").await,
        ["user: anybody?", "talker: here again"]
    );
    let retried = entries(&process, "retried").await;
    assert_eq!(retried[0]["reason"], "host-stopped", "{retried:?}");
    replays(&process).await;
}

/// What the turn asks, once people can see it.
async fn asked(process: &Process) -> Value {
    let mut offset = "-1".to_owned();
    loop {
        let path = format!("/v1/sessions/s/events?live=long-poll&offset={offset}");
        let (status, page) = process.json("GET", &path, None).await;
        assert_eq!(status, 200, "{page}");
        let events = page["events"].as_array().expect("events");
        if let Some(asked) = events.iter().rfind(|event| event["kind"] == "asked") {
            return asked["question"].clone();
        }
        offset = page["offset"].as_str().expect("an offset").to_owned();
    }
}

/// A question outlives the host, and so does its answer: what was said before it is said once, and what was asked
/// of a model is asked once.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_and_its_answer_outlive_the_host() {
    let data = tempfile::tempdir().expect("a folder");
    let provider =
        Provider::start([Reply::text("maybe"), Reply::silence(), Reply::text("so")]).await;
    let process = start(data.path(), &provider);
    let grants = ["mailbox", "model", "reply", "turn", "kernel", "questions"];
    let config = json!({"grants": grants});
    let (status, body) = process
        .json("PUT", "/v1/agents/asker/config", Some(config))
        .await;
    assert_eq!(status, 201, "{body}");
    let script =
        json!([{"say": "Well. "}, {"model": "may I?"}, {"approve": "May I?"}, {"model": "how?"}]);
    post(&process, "asker", script).await;
    let question = asked(&process).await;
    process.kill();

    let process = start(data.path(), &provider);
    let (_, open) = process.json("GET", "/v1/sessions/s/questions", None).await;
    assert_eq!(open["questions"][0]["question"], question, "{open}");
    let path = format!("/v1/sessions/s/questions/{question}");
    let body = json!({"choice": "approve", "author": "ben"});
    let (status, taken) = process.json("POST", &path, Some(body)).await;
    assert_eq!(status, 200, "{taken}");
    // It goes on, and the host is lost once more.
    provider.received(2).await;
    process.kill();

    let process = start(data.path(), &provider);
    let ended = ended(&process).await;
    assert_eq!(ended["outcome"], "completed", "{ended}");
    let said = "Well. {\"model\":\"maybe\"}\n{\"approved\":true}\n{\"model\":\"so\"}\n";
    let transcript = process.transcript("s").await;
    assert_eq!(transcript[1..], [format!("asker: {said}")]);
    let asked: Vec<_> = provider.requests();
    let asked: Vec<&str> = asked.iter().filter_map(|it| it.last("user")).collect();
    assert_eq!(asked, ["may I?", "how?", "how?"]);
    let retried = entries(&process, "retried").await;
    let turns = retried.iter().filter(|entry| entry.get("n").is_none());
    let reasons: Vec<&Value> = turns.map(|entry| &entry["reason"]).collect();
    assert_eq!(reasons, ["answered", "host-lost"]);
    assert_eq!(entries(&process, "answered").await.len(), 1);
    replays(&process).await;
}
