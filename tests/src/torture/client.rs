//! Clients: some send, some interrupt, some follow. None of them gives up at a crash.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::book::seq;
use super::chance::Chance;
use super::provider::lock;
use super::script;

/// Longer than anything takes: only a run that hangs meets it.
pub(super) const HANGS: Duration = Duration::from_secs(60);

/// The server as clients know it: an address, and whether somebody is there.
#[derive(Clone)]
pub(super) struct Outside {
    http: reqwest::Client,
    url: String,
    key: String,
    /// The number of the process that runs, or 0.
    up: watch::Receiver<u64>,
}

impl Outside {
    pub(super) fn new(url: &str, key: &str, up: watch::Receiver<u64>) -> Self {
        // A connection to a process that was killed is of no use to the next one.
        let http = reqwest::Client::builder().pool_max_idle_per_host(4).build();
        Self {
            http: http.expect("a client without proxies or certificates of its own"),
            url: url.to_owned(),
            key: key.to_owned(),
            up,
        }
    }

    pub(super) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    /// Wait until a process runs; answers its number.
    async fn up(&self) -> u64 {
        let mut up = self.up.clone();
        let running = up.wait_for(|up| *up != 0).await.map(|up| *up);
        match running {
            Ok(process) => process,
            // The run is over, and this client ends with it.
            Err(_) => std::future::pending().await,
        }
    }

    /// A request to this process failed, so it was killed: wait until that is known.
    async fn down(&self, process: u64, error: &reqwest::Error) {
        let mut up = self.up.clone();
        let down = tokio::time::timeout(HANGS, up.wait_for(|up| *up != process)).await;
        assert!(
            down.is_ok(),
            "a request failed and nobody was killed: {error:?}"
        );
    }

    /// Ask until there is an answer; its status and JSON.
    async fn insist(&self, request: impl Fn() -> reqwest::RequestBuilder) -> (u16, Value) {
        loop {
            let process = self.up().await;
            let answer = async {
                let answer = request().timeout(HANGS).send().await?;
                Ok((answer.status().as_u16(), answer.bytes().await?))
            };
            match answer.await {
                Ok((status, body)) => {
                    return (status, serde_json::from_slice(&body).unwrap_or(Value::Null));
                }
                Err(error) => self.down(process, &error).await,
            }
        }
    }
}

/// What was acknowledged: a message by its id, or an interruption by the offset of its end.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) session: String,
    pub(super) offset: u64,
    pub(super) message: Option<(String, Value)>,
}

/// Where clients write down what they were promised.
pub(super) type Promises = Arc<Mutex<Vec<Acknowledged>>>;

/// Send one message, under a key of its own, until it is acknowledged.
pub(super) async fn post(
    outside: &Outside,
    session: &str,
    token: &str,
    mut message: Value,
    to: &Promises,
) {
    message["author"] = json!("ana");
    let path = format!("/v1/sessions/{session}/messages");
    let request = || {
        let request = outside.request("POST", &path).json(&message);
        request.header("idempotency-key", token)
    };
    let (status, answer) = outside.insist(request).await;
    assert_eq!(status, 202, "{token}: {answer}");
    let id = answer["message"].as_str().expect("an id").to_owned();
    lock(to).push(Acknowledged {
        session: session.to_owned(),
        offset: seq(&answer["offset"]),
        message: Some((id, message["body"].clone())),
    });
}

/// Send message after message until told to stop; each is sent until it is acknowledged.
pub(super) async fn keep_posting(
    outside: Outside,
    session: String,
    agents: &'static [&'static str],
    mut chance: Chance,
    stop: watch::Receiver<bool>,
    promises: Promises,
) {
    for number in 0.. {
        if *stop.borrow() {
            return;
        }
        let token = format!("{session}-{number}");
        let message = if agents.contains(&"talker") {
            json!({"body": format!("{token}-text")})
        } else {
            let to = agents[usize::from(chance.one_in(3))];
            json!({"to": to, "body": script::message(&token, to, &mut chance)})
        };
        post(&outside, &session, &token, message, &promises).await;
        pause(&mut chance, 20, 300, &stop).await;
    }
}

/// Interrupt somebody now and then.
pub(super) async fn keep_interrupting(
    outside: Outside,
    session: String,
    agents: &'static [&'static str],
    mut chance: Chance,
    stop: watch::Receiver<bool>,
    promises: Promises,
) {
    let path = format!("/v1/sessions/{session}/interrupt");
    while !*stop.borrow() {
        pause(&mut chance, 100, 900, &stop).await;
        let agent = agents[usize::from(chance.one_in(2))];
        let body = json!({"agent": agent, "author": "ben"});
        let request = || outside.request("POST", &path).json(&body);
        let (status, answer) = outside.insist(request).await;
        match status {
            202 => lock(&promises).push(Acknowledged {
                session: session.clone(),
                offset: seq(&answer["offset"]),
                message: None,
            }),
            409 => assert_eq!(answer["error"]["code"], "idle", "{answer}"),
            _ => panic!("interrupting {session}: {status} {answer}"),
        }
    }
}

/// Between two things a person does. Not to wait for anything.
async fn pause(chance: &mut Chance, low: u64, high: u64, stop: &watch::Receiver<bool>) {
    let pause = Duration::from_millis(chance.between(low, high));
    let mut stop = stop.clone();
    let stopped = stop.wait_for(|stop| *stop);
    let _ = tokio::time::timeout(pause, stopped).await;
}

/// What one client was shown, over every crash.
pub(super) struct Follower {
    pub(super) session: String,
    pub(super) name: &'static str,
    shown: Mutex<Vec<Value>>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

impl Follower {
    pub(super) fn new(session: &str, name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            session: session.to_owned(),
            name,
            shown: Mutex::default(),
            last: watch::Sender::new(0),
        })
    }

    /// What was shown after the first so many events.
    pub(super) fn shown(&self, after: usize) -> Vec<Value> {
        lock(&self.shown)[after..].to_vec()
    }

    /// Wait until the event with this number was shown.
    pub(super) async fn reached(&self, seq: u64) {
        let mut last = self.last.subscribe();
        let reached = tokio::time::timeout(HANGS, last.wait_for(|last| *last >= seq)).await;
        let (session, name) = (&self.session, self.name);
        assert!(
            reached.is_ok(),
            "{session}, {name}: event {seq} is never shown"
        );
    }

    fn show(&self, event: Value) {
        self.last.send_replace(seq(&event["offset"]));
        lock(&self.shown).push(event);
    }

    fn offset(&self) -> Option<String> {
        let shown = lock(&self.shown);
        Some(shown.last()?["offset"].as_str()?.to_owned())
    }

    /// Follow as a stream, going on after the last id.
    pub(super) async fn stream(self: Arc<Self>, outside: Outside) {
        let path = format!("/v1/sessions/{}/events?live=sse", self.session);
        loop {
            let process = outside.up().await;
            let mut request = outside.request("GET", &path);
            if let Some(offset) = self.offset() {
                request = request.header("last-event-id", offset);
            }
            if let Err(error) = self.read_stream(request).await {
                outside.down(process, &error).await;
            }
        }
    }

    async fn read_stream(&self, request: reqwest::RequestBuilder) -> reqwest::Result<()> {
        let mut answer = request.send().await?;
        assert_eq!(
            answer.status(),
            200,
            "{}: {:?}",
            self.session,
            self.offset()
        );
        let mut buffer = Vec::new();
        while let Some(bytes) = answer.chunk().await? {
            buffer.extend_from_slice(&bytes);
            while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = buffer.drain(..end + 2).collect();
                let block = String::from_utf8_lossy(&block);
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let Some(data) = field("data: ") else {
                    continue;
                };
                let event: Value = serde_json::from_str(data).expect("an event is JSON");
                assert_eq!(event["offset"].as_str(), field("id: "), "{block}");
                assert_eq!(event["kind"].as_str(), field("event: "), "{block}");
                self.show(event);
            }
        }
        Ok(())
    }

    /// Follow page by page.
    pub(super) async fn poll(self: Arc<Self>, outside: Outside) {
        let mut offset = "-1".to_owned();
        loop {
            let session = &self.session;
            let path = format!("/v1/sessions/{session}/events?live=long-poll&offset={offset}");
            let (status, page) = outside.insist(|| outside.request("GET", &path)).await;
            assert_eq!(status, 200, "{session}: {page}");
            let events = page["events"].as_array().expect("events");
            events.iter().for_each(|event| self.show(event.clone()));
            offset = page["offset"].as_str().expect("an offset").to_owned();
        }
    }
}
