//! What request and response cannot do, with the real binary: the agent outlives its caller, speaks unprompted; people
//! change their device in the middle of a word; several of them talk at once.

use std::path::PathBuf;

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::conversations::is_thinker;
use crate::guests::component;
use crate::process::Process;
use crate::sockets::Socket;

/// Where its data is.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn start(&self, provider: &Provider) -> Process {
        let model = [("ANTIPHON_MODEL_URL", &*provider.base_url())];
        Process::try_start(&self.data(), &model).expect("the server starts")
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    async fn deploy(&self, process: &Process, agent: &str, config: Value) {
        let path = format!("/v1/agents/{agent}/config");
        let (status, answer) = process.json("PUT", &path, Some(config)).await;
        assert!(status < 300, "{answer}");
        process.put_agent(agent, component(agent)).await;
    }
}

async fn open(process: &Process, agents: &[&str]) {
    let body = json!({"agents": agents, "entry": agents[0]});
    let (status, answer) = process.json("PUT", "/v1/sessions/s", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
}

async fn get(process: &Process, path: &str) -> Value {
    let (status, answer) = process.json("GET", path, None).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// The first notice of this kind after a place; waits for it.
async fn noticed(process: &Process, from: &str, kind: &str) -> Value {
    let mut from = from.to_owned();
    loop {
        let path = format!("/v1/notices?live=long-poll&kind={kind}&offset={from}");
        let page = get(process, &path).await;
        if let Some(notice) = page["notices"].get(0) {
            return notice.clone();
        }
        page["offset"]
            .as_str()
            .expect("an offset")
            .clone_into(&mut from);
    }
}

async fn token(process: &Process, author: &str) -> String {
    let body = json!({"author": author});
    let minted = process
        .json("POST", "/v1/sessions/s/tokens", Some(body))
        .await;
    minted.1["token"].as_str().expect("a token").to_owned()
}

/// What was said by these events.
fn said(events: &[Value]) -> String {
    let texts = events.iter().filter(|it| it["kind"] == "spoke");
    texts.filter_map(|it| it["text"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_outlives_its_caller() {
    let (place, gate) = (Place::new(), Gate::new());
    let answer = Reply::stream()
        .wait(&gate)
        .say("It took a while.")
        .finish("stop");
    let provider = Provider::start([answer]).await;
    let process = place.start(&provider);
    place.deploy(&process, "talker", json!({})).await;
    open(&process, &["talker"]).await;
    // Somebody waits for the answer, and is gone while the model thinks.
    let address = process.url.trim_start_matches("http://");
    let mut caller = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let body = json!({"session": "s", "body": "How long?"}).to_string();
    let request = format!(
        "POST /v1/agents/talker/invoke HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        process.key,
        body.len()
    );
    caller
        .write_all(request.as_bytes())
        .await
        .expect("it is open");
    provider.received(1).await;
    drop(caller);
    gate.open();
    // Nobody is there when it ends. Who comes later is told, and reads it.
    let ended = noticed(&process, "-1", "turn-ended").await;
    assert_eq!(
        (&ended["session"], &ended["outcome"]),
        (&json!("s"), &json!("completed"))
    );
    assert_eq!(
        process.transcript("s").await,
        ["user: How long?", "talker: It took a while."]
    );
    assert_eq!(provider.requests().len(), 1, "it was asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_speaks_unprompted() {
    let (place, gate) = (Place::new(), Gate::new());
    let thought = gate.clone();
    let provider = Provider::answering(move |request| {
        if is_thinker(request) {
            return Reply::stream().wait(&thought).say("Porto.").finish("stop");
        }
        Reply::text(match request.last("user") {
            Some("Where to?") => "Let me think. ",
            _ => "I thought about it: Porto.",
        })
    })
    .await;
    let process = place.start(&provider);
    let watching = json!({"watches": ["analysis"]});
    place.deploy(&process, "talker", watching).await;
    place.deploy(&process, "thinker", json!({})).await;
    open(&process, &["talker", "thinker"]).await;
    let body = json!({"session": "s", "body": "Where to?"});
    let (status, first) = process
        .json("POST", "/v1/agents/talker/invoke", Some(body))
        .await;
    assert_eq!((status, &first["reply"]), (200, &json!("Let me think. ")));
    // The person has an answer and goes. The server is lost, too.
    let seen = get(&process, "/v1/notices").await["offset"].clone();
    let seen = seen.as_str().expect("an offset").to_owned();
    process.kill();
    gate.open();
    let process = place.start(&provider);
    // Back again, the person is told that there is news, and by whom.
    let news = loop {
        let news = noticed(&process, &seen, "news").await;
        let offset = news["offset"].as_str().expect("an offset");
        if news["entries"]
            .as_array()
            .is_some_and(|it| it.contains(&json!("spoke")))
        {
            break news;
        }
        let next = noticed(&process, offset, "news").await;
        if next["entries"]
            .as_array()
            .is_some_and(|it| it.contains(&json!("spoke")))
        {
            break next;
        }
    };
    assert_eq!(
        news["agents"]
            .as_array()
            .map(|it| it.contains(&json!("talker"))),
        Some(true)
    );
    process.said_all("s", &["Porto.".to_owned()]).await;
    let events = get(&process, "/v1/sessions/s/events").await;
    let events = events["events"].as_array().expect("a list");
    let unprompted = events
        .iter()
        .filter(|it| it["kind"] == "turn-started" && it["agent"] == "talker")
        .nth(1)
        .expect("a second turn");
    assert_eq!(unprompted["causes"], json!([{"slot": "analysis"}]));
    assert_eq!(unprompted["inputs"], json!([]), "nobody asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_person_changes_the_device_in_the_middle_of_a_word() {
    let place = Place::new();
    let gates = [Gate::new(), Gate::new()];
    let answer = Reply::stream()
        .say("One wo")
        .wait(&gates[0])
        .say("rd, ano")
        .wait(&gates[1])
        .say("ther.")
        .finish("stop");
    let provider = Provider::start([answer]).await;
    let process = place.start(&provider);
    place.deploy(&process, "talker", json!({})).await;
    open(&process, &["talker"]).await;
    // On the desk: a WebSocket.
    let desk = token(&process, "ana").await;
    let mut socket = Socket::at(&process.url, &desk, "s", "-1").await;
    socket
        .say(json!({"id": "1", "send": {"body": "Say it."}}))
        .await;
    let (_, mut seen) = socket.answer("1").await;
    while !said(&seen).ends_with("wo") {
        seen.push(socket.next().await["event"].take());
    }
    drop(socket);
    // On the way: nobody is there for the next piece. Then the phone, with its own token, by an event stream.
    gates[0].open();
    process.said_all("s", &["rd, ano".to_owned()]).await;
    let phone = token(&process, "ana").await;
    let last = seen.last().expect("one")["offset"]
        .as_str()
        .expect("an offset")
        .to_owned();
    let path = format!("/v1/sessions/s/events?live=sse&offset={last}&access_token={phone}");
    let mut stream = reqwest::get(format!("{}{path}", process.url))
        .await
        .expect("it opens");
    let mut text = String::new();
    while !text.contains("ano") {
        let chunk = stream
            .chunk()
            .await
            .expect("it is open")
            .expect("there is more");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    gates[1].open();
    while !text.contains("turn-ended") || !text.ends_with("\n\n") {
        let chunk = stream
            .chunk()
            .await
            .expect("it is open")
            .expect("there is more");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    seen.extend(data.map(|data| serde_json::from_str::<Value>(data).expect("JSON")));
    // Both together are everything, each once.
    assert_eq!(said(&seen), "One word, another.");
    assert_eq!(
        json!(seen),
        get(&process, "/v1/sessions/s/events").await["events"]
    );
    assert_eq!(
        process.transcript("s").await,
        ["ana: Say it.", "talker: One word, another."]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_people_see_one_order_and_are_told_apart() {
    let place = Place::new();
    let provider = Provider::answering(|_| Reply::text("Noted. ")).await;
    let process = place.start(&provider);
    place.deploy(&process, "talker", json!({})).await;
    open(&process, &["talker"]).await;
    let mut people = Vec::new();
    for name in ["ana", "bo", "cy"] {
        let token = token(&process, name).await;
        // Each on two devices.
        for _ in 0..2 {
            let socket = Socket::at(&process.url, &token, "s", "-1").await;
            people.push((name, socket));
        }
    }
    for round in 0..5 {
        for (n, (name, socket)) in people.iter_mut().enumerate() {
            let id = format!("{n}-{round}");
            let body = format!("{name} {id}");
            // Nobody waits for anybody.
            socket.say(json!({"id": id, "send": {"body": body}})).await;
        }
    }
    // What the last of all turns left: everybody has it.
    let count = 5 * people.len();
    let all = loop {
        let page = get(&process, "/v1/sessions/s/events").await;
        let events = page["events"].as_array().expect("a list").clone();
        let taken = events.iter().filter(|it| it["kind"] == "turn-ended");
        let taken: usize = taken
            .filter_map(|it| Some(it["inputs"].as_array()?.len()))
            .sum();
        if taken == count {
            break events;
        }
        let offset = page["offset"].as_str().expect("an offset");
        get(
            &process,
            &format!("/v1/sessions/s/events?live=long-poll&offset={offset}"),
        )
        .await;
    };
    let last = &all.last().expect("one")["offset"];
    for (_, socket) in &mut people {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|it: &Value| it["offset"] != *last) {
            let mut next = socket.next().await;
            match next["answer"].take() {
                Value::Null => seen.push(next["event"].take()),
                answer => assert_eq!(answer["status"], 202, "{answer}"),
            }
        }
        assert_eq!(seen, all, "one order for all");
    }
    let received: Vec<&Value> = all
        .iter()
        .filter(|it| it["kind"] == "message-received")
        .collect();
    assert_eq!(received.len(), count);
    for message in &received {
        let body = message["body"].as_str().expect("a text");
        let (name, _) = body.split_once(' ').expect("a name");
        assert_eq!(message["author"], name);
    }
    // The model saw the same order, with names: the last request holds all of it.
    let bodies: Vec<&str> = received
        .iter()
        .filter_map(|it| it["body"].as_str())
        .collect();
    let requests = provider.requests();
    let prompt = requests.last().expect("one").body.to_string();
    let places: Vec<_> = bodies
        .iter()
        .map(|body| prompt.find(body).expect("it is there"))
        .collect();
    assert!(places.is_sorted(), "{prompt}");
}
