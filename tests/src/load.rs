//! What benchmarks load a server with: keep-alive connections on loopback, with just enough
//! HTTP for answers that have a length, so that the load generator costs next to nothing.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Process;

/// Components of these packages of the workspace.
pub fn components(packages: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    antiphon::guest::build(&root, packages).expect("the guests build")
}

/// The whole of a request.
pub fn request(process: &Process, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    request_as(&process.key, method, path, kind, body)
}

/// The same by the holder of another key.
pub fn request_as(key: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The key that makes tenants, of the server on this folder.
pub fn operator_key(data: &Path) -> String {
    std::fs::read_to_string(data.join("operator.key")).expect("the server wrote it")
}

/// One keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(process: &Process) -> Self {
        Self::to(&process.url)
    }

    /// To any server.
    pub fn to(url: &str) -> Self {
        let (_, address) = url.split_once("://").expect("a URL");
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Send a whole request; the answer's status and body.
    pub fn exchange(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.stream.write_all(request).expect("the request is sent");
        self.buffer.clear();
        let mut chunk = [0; 16 * 1024];
        loop {
            let read = self.stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "the server closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.trim().parse().ok())
                .unwrap_or(0);
            if self.buffer.len() >= end + 4 + length {
                let status = head[9..12].parse().expect("a status");
                return (status, self.buffer[end + 4..].to_vec());
            }
        }
    }

    /// A request with a body of JSON; panics unless it succeeds.
    pub fn json(&mut self, process: &Process, method: &str, path: &str, body: &Value) -> Value {
        self.json_as(&process.key, method, path, body)
    }

    /// The same by the holder of another key.
    pub fn json_as(&mut self, key: &str, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        self.succeed(key, method, path, "application/json", body.as_bytes())
    }

    /// Deploy a component.
    pub fn deploy(&mut self, process: &Process, agent: &str, component: &Path) {
        self.deploy_as(&process.key, agent, component);
    }

    /// The same by the holder of another key.
    pub fn deploy_as(&mut self, key: &str, agent: &str, component: &Path) {
        let bytes = std::fs::read(component).expect("the component is there");
        let path = format!("/v1/agents/{agent}");
        self.succeed(key, "PUT", &path, "application/wasm", &bytes);
    }

    /// Make a tenant of the server on this folder; its key.
    pub fn tenant(&mut self, data: &Path, name: &str) -> String {
        let new = json!({"tenant": name});
        let made = self.json_as(&operator_key(data), "POST", "/v1/tenants", &new);
        made["key"]["key"].as_str().expect("a key").to_owned()
    }

    fn succeed(&mut self, key: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Value {
        let (status, answer) = self.exchange(&request_as(key, method, path, kind, body));
        let text = String::from_utf8_lossy(&answer);
        assert!((200..300).contains(&status), "{path}: {status} {text}");
        serde_json::from_slice(&answer).unwrap_or(Value::Null)
    }

    /// The server's own figures.
    pub fn metrics(&mut self, process: &Process) -> String {
        let (_, body) = self.exchange(&request(process, "GET", "/metrics", "text/plain", b""));
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Sum in seconds and count of each stage so far.
    pub fn stages(&mut self, process: &Process) -> BTreeMap<String, (f64, f64)> {
        let mut stages: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in self.metrics(process).lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let stage = name.split_once("stage=\"");
            let Some((stage, _)) = stage.and_then(|(_, rest)| rest.split_once('"')) else {
                continue;
            };
            let value: f64 = value.parse().unwrap_or_default();
            if name.starts_with("antiphon_stage_seconds_sum") {
                stages.entry(stage.to_owned()).or_default().0 = value;
            } else if name.starts_with("antiphon_stage_seconds_count") {
                stages.entry(stage.to_owned()).or_default().1 = value;
            }
        }
        stages
    }
}

/// A provider of a model that answers every request at once, with the same words.
pub struct Provider {
    pub url: String,
    arrivals: Arc<Mutex<Vec<Instant>>>,
}

impl Provider {
    pub fn start() -> Self {
        Self::thinking(Duration::ZERO)
    }

    /// One that says nothing for so long, and then all.
    pub fn thinking(pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/v1", listener.local_addr().expect("it is bound"));
        let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
        let seen = arrivals.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || answer(stream, pause, &seen));
            }
        });
        Self { url, arrivals }
    }

    /// When requests had arrived whole, since this was asked last.
    pub fn arrivals(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.arrivals.lock().expect("nobody panics with it"))
    }
}

/// Requests of one connection, until it is closed.
fn answer(mut stream: TcpStream, pause: Duration, arrivals: &Mutex<Vec<Instant>>) -> Option<()> {
    let body = concat!(
        "data: {\"choices\":[{\"delta\":{\"content\":\"Indeed so.\"},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],",
        "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.set_nodelay(true).ok()?;
    let (mut buffer, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        buffer.extend_from_slice(&chunk[..read]);
        while let Some(end) = whole(&buffer) {
            arrivals.lock().ok()?.push(Instant::now());
            buffer.drain(..end);
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }
}

/// Where the first request ends, if all of it is there.
fn whole(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length?.trim().parse().ok()?;
    (buffer.len() >= end + length).then_some(end + length)
}

/// Sessions `b0` to one less than `count`, with the agent `worker` in each.
pub fn open_sessions(server: &Process, count: usize) {
    let mut connection = Connection::open(server);
    for session in 0..count {
        let path = format!("/v1/sessions/b{session}");
        connection.json(server, "PUT", &path, &json!({"agents": ["worker"]}));
    }
}

/// Turns of `worker`, one after the other on each connection, which has a session of its own.
pub fn turns(server: &Process, connections: usize, time: Duration) -> Run {
    let path = "/v1/agents/worker/invoke";
    exchanges(&server.url, connections, time, 200, |worker| {
        let body = format!(r#"{{"session":"b{worker}","body":"go"}}"#);
        request(server, "POST", path, "application/json", body.as_bytes())
    })
}

/// The same request again and again on each connection. One with another status than this has failed.
pub fn exchanges(
    url: &str,
    connections: usize,
    time: Duration,
    expected: u16,
    of: impl Fn(usize) -> Vec<u8>,
) -> Run {
    let stop = Arc::new(AtomicBool::new(false));
    // None begins before all are connected.
    let ready = Arc::new(Barrier::new(connections + 1));
    let workers: Vec<_> = (0..connections)
        .map(|worker| {
            let request = of(worker);
            let (stop, ready) = (stop.clone(), ready.clone());
            let mut connection = Connection::to(url);
            std::thread::spawn(move || {
                let (mut latencies, mut failed) = (Vec::new(), 0);
                ready.wait();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let (status, _) = connection.exchange(&request);
                    latencies.push(start.elapsed());
                    failed += usize::from(status != expected);
                }
                (latencies, failed)
            })
        })
        .collect();
    let start = Instant::now();
    ready.wait();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let mut run = Run {
        latencies: Vec::new(),
        failed: 0,
        elapsed: Duration::ZERO,
    };
    for worker in workers {
        let (latencies, failed) = worker.join().expect("a worker ends");
        run.latencies.extend(latencies);
        run.failed += failed;
    }
    run.elapsed = start.elapsed();
    run
}

/// One request again and again, with a pause between two, for as long as something else goes on.
pub fn turns_beside<T>(
    url: &str,
    request: &[u8],
    pause: Duration,
    meanwhile: impl FnOnce() -> T,
) -> (Vec<Duration>, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let turns = scope.spawn(|| {
            let mut connection = Connection::to(url);
            let mut latencies = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let (status, answer) = connection.exchange(request);
                latencies.push(start.elapsed());
                let text = String::from_utf8_lossy(&answer);
                assert_eq!(status, 200, "a turn fails: {text}");
                std::thread::sleep(pause);
            }
            latencies
        });
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        (turns.join().expect("every turn completes"), done)
    })
}

/// What came of a load.
pub struct Run {
    pub latencies: Vec<Duration>,
    pub failed: usize,
    pub elapsed: Duration,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// The latency below which this part of all lies, in milliseconds.
pub fn percentile(latencies: &mut [Duration], part: f64) -> f64 {
    latencies.sort();
    let at = (latencies.len() as f64 * part) as usize;
    let latency = latencies.get(at.min(latencies.len().saturating_sub(1)));
    latency.map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
}
