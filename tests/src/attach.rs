//! Readers who come and go, on lines that break: whatever they attach by, they have every event once.

use std::net::SocketAddr;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::server::Server;
use crate::sockets::Socket;

/// A proxy that cuts each connection after so many bytes of its answer, and each by another number.
struct Shears {
    address: SocketAddr,
}

impl Shears {
    async fn start(
        of: SocketAddr,
        mut lengths: impl Iterator<Item = usize> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let length = lengths.next().expect("they do not end");
                tokio::spawn(async move {
                    let far = TcpStream::connect(of).await.expect("the server listens");
                    cut(near, far, length).await;
                });
            }
        });
        Self { address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn cut(near: TcpStream, far: TcpStream, length: usize) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    let asked = tokio::spawn(async move {
        // Either side may be gone first.
        let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
    });
    let mut left = length;
    let mut buffer = [0; 512];
    while left > 0 {
        let most = left.min(buffer.len());
        let read = far_in.read(&mut buffer[..most]).await.unwrap_or(0);
        if read == 0 || near_out.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        left -= read;
    }
    asked.abort();
}

/// How a reader attaches.
#[derive(Debug, Clone, Copy)]
enum By {
    Sse,
    Poll,
    Socket,
    /// As a Durable Stream.
    Stream,
}

/// What a reader has of a session so far, and where it is.
struct Reader {
    seen: Vec<Value>,
    at: String,
}

impl Reader {
    fn new() -> Self {
        Self {
            seen: Vec::new(),
            at: "-1".to_owned(),
        }
    }

    fn take(&mut self, event: Value) {
        event["offset"]
            .as_str()
            .expect("an offset")
            .clone_into(&mut self.at);
        self.seen.push(event);
    }

    /// Attach once, and take what comes until the line breaks, or this many events came.
    async fn attach(&mut self, url: &str, key: &str, by: By, events_max: usize) {
        match by {
            By::Socket => self.attach_socket(url, key, events_max).await,
            By::Sse => {
                let path = format!("/v1/sessions/s/events?live=sse&offset={}", self.at);
                self.attach_lines(url, key, &path, events_max).await;
            }
            By::Poll => {
                let path = format!("/v1/sessions/s/events?offset={}", self.at);
                let page = get(url, key, &path).await;
                let events = page.and_then(|page| page["events"].as_array().cloned());
                events
                    .into_iter()
                    .flatten()
                    .for_each(|event| self.take(event));
            }
            By::Stream => {
                let path = format!("/v1/stream/sessions/s?offset={}", self.at);
                let page = get(url, key, &path).await;
                let events = page.and_then(|page| page.as_array().cloned());
                events
                    .into_iter()
                    .flatten()
                    .for_each(|event| self.take(event));
            }
        }
    }

    async fn attach_socket(&mut self, url: &str, key: &str, events_max: usize) {
        let Some(mut socket) = Socket::try_at(url, key, "s", &self.at).await else {
            return;
        };
        for _ in 0..events_max {
            let mut next = socket.next().await;
            match next["event"].take() {
                Value::Null => return,
                event => self.take(event),
            }
        }
    }

    async fn attach_lines(&mut self, url: &str, key: &str, path: &str, events_max: usize) {
        let request = reqwest::Client::new().get(format!("{url}{path}"));
        let Ok(mut answer) = request.bearer_auth(key).send().await else {
            return;
        };
        let (mut text, mut taken) = (Vec::new(), 0);
        // What is not followed by an empty line was cut: it comes again.
        while let Ok(Some(chunk)) = answer.chunk().await {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                let event = String::from_utf8(event).expect("UTF-8");
                let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
                    continue;
                };
                self.take(serde_json::from_str(data).expect("JSON"));
                taken += 1;
                if taken == events_max {
                    return;
                }
            }
        }
    }
}

/// None if the line broke.
async fn get(url: &str, key: &str, path: &str) -> Option<Value> {
    let request = reqwest::Client::new().get(format!("{url}{path}"));
    let answer = request.bearer_auth(key).send().await.ok()?;
    answer.json().await.ok()
}

/// Each reader's ways to attach, each for so many events; and where each connection breaks.
type Storm = (Vec<Vec<(By, usize)>>, Vec<usize>);

fn storm() -> impl Strategy<Value = Storm> {
    let by = prop_oneof![
        Just(By::Sse),
        Just(By::Poll),
        Just(By::Socket),
        Just(By::Stream)
    ];
    let ways = prop::collection::vec((by, 1..12usize), 1..8);
    (
        prop::collection::vec(ways, 1..6),
        prop::collection::vec(200..6_000usize, 1..20),
    )
}

/// People write while readers come and go; in the end each has what the session has.
async fn check((readers, lengths): Storm) -> Result<(), TestCaseError> {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let shears = Shears::start(server.address(), lengths.into_iter().cycle()).await;
    let writing = async {
        for n in 0..15 {
            server
                .post("s", json!(format!("{n} \r\n\0 \u{2028} é")))
                .await;
        }
        server.invoke("echo", "s", json!("the last")).await.is(200)
    };
    let (url, key) = (shears.url(), server.key.clone());
    let (over, _) = tokio::sync::watch::channel(false);
    let reading = readers.into_iter().map(|ways| {
        let (url, key) = (url.clone(), key.clone());
        let mut over = over.subscribe();
        tokio::spawn(async move {
            let mut reader = Reader::new();
            let attaching = async {
                for (by, events_max) in ways {
                    reader.attach(&url, &key, by, events_max).await;
                }
            };
            tokio::select! {
                () = attaching => {}
                // Nothing more comes: who waits for it goes on elsewhere.
                _ = over.wait_for(|over| *over) => {}
            }
            reader
        })
    });
    let reading: Vec<_> = reading.collect();
    let last = writing.await;
    over.send_replace(true);
    let all = server.get("/v1/sessions/s/events").await;
    let all = all["events"].as_array().expect("a list").clone();
    for reader in reading {
        let mut reader = reader.await.expect("it does not panic");
        // What is left, on a line that holds.
        while reader
            .seen
            .last()
            .is_none_or(|it| it["offset"] != last["offset"])
        {
            reader
                .attach(&server.url, &key, By::Stream, usize::MAX)
                .await;
        }
        prop_assert_eq!(&reader.seen, &all);
    }
    server.stop().await;
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn whoever_comes_and_goes_has_every_event_once(storm in storm()) {
        runtime().block_on(check(storm))?;
    }
}

/// Two ends of each connection are in this process: more than many systems let one open unless it asks.
fn open_many_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    let resource = rustix::process::Resource::Nofile;
    rustix::process::setrlimit(resource, raised).expect("up to the maximum anybody may");
}

/// As many as a tenant may have, and each has all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_see_the_same() {
    const READERS: usize = 1_000;
    open_many_files();
    let server = Server::with(|config| config.limits.streams_tenant_max = READERS as u64).await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mut streams = Vec::with_capacity(READERS);
    for _ in 0..READERS {
        streams.push(server.follow("s").await);
    }
    let one_more = server.call("GET /v1/sessions/s/events?live=sse").await;
    one_more.refused(429, "overloaded");
    for n in 0..5 {
        server.post("s", json!(n)).await;
    }
    let last = server.invoke("echo", "s", json!("the last")).await.is(200);
    let all = server.get("/v1/sessions/s/events").await;
    for mut stream in streams {
        let seen = stream
            .until(|event| event.data["offset"] == last["offset"])
            .await;
        let seen: Vec<&Value> = seen.iter().map(|event| &event.data).collect();
        assert_eq!(json!(seen), all["events"]);
    }
    server.stop().await;
}
