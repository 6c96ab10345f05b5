//! P1: a durable turn over HTTP, and where its time goes.
//!
//! `cargo bench -p antiphon-tests --bench turn [-- SECONDS]` starts the real binary on a
//! fresh data folder, deploys the agent `worker` (pull, read a slot, lock it, commit it,
//! say one chunk), and drives it over keep-alive connections on loopback: the load
//! generator shares the machine. Prints turns per second, latencies, and the mean
//! of each stage from the server's own histograms. Absolute figures belong to the machine;
//! docs/performance.md says on which they were taken.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let binary = build_binary(&root);
    let worker = antiphon::guest::build(&root, &["worker"])
        .expect("the worker builds")
        .remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");

    let server = Server::start(&binary, data.path());
    println!(
        "start of the process to `listening`: {:.0} ms",
        server.started.as_secs_f64() * 1e3
    );
    server.put(
        "/v1/agents/worker",
        "application/wasm",
        &std::fs::read(worker).expect("the component"),
    );
    for session in 0..64 {
        server.put(
            &format!("/v1/sessions/b{session}"),
            "application/json",
            br#"{"agents":["worker"]}"#,
        );
    }
    // Once around, so that every session is open and every page of the pool was touched.
    server.load(64, Duration::from_secs(1));
    for connections in [1, 64] {
        let before = server.stages();
        let run = server.load(connections, Duration::from_secs(seconds));
        let after = server.stages();
        println!(
            "{connections:>3} connections: {:>6.0} turns/s, p50 {:.2} ms, p99 {:.2} ms, {} failed",
            run.latencies.len() as f64 / run.elapsed.as_secs_f64(),
            run.percentile(0.50),
            run.percentile(0.99),
            run.failed,
        );
        for (stage, (sum, count)) in &after {
            let (sum_before, count_before) = before.get(stage).copied().unwrap_or_default();
            let (sum, count) = (sum - sum_before, count - count_before);
            if count > 0.0 {
                println!(
                    "      {stage:<12} mean {:>8.1} µs, {count:>7} times",
                    sum / count * 1e6
                );
            }
        }
    }
}

fn build_binary(root: &Path) -> PathBuf {
    let status = Command::new("cargo")
        .args(["build", "--release", "--package", "antiphon"])
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the binary builds");
    root.join("target/release/antiphon")
}

struct Server {
    child: Child,
    address: String,
    key: String,
    started: Duration,
}

impl Server {
    fn start(binary: &Path, data: &Path) -> Self {
        let start = Instant::now();
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it listens");
        let started = start.elapsed();
        let address = line
            .trim()
            .rsplit_once("http://")
            .expect("an address")
            .1
            .to_owned();
        let key = std::fs::read_to_string(data.join("default.key")).expect("its key");
        Self {
            child,
            address,
            key,
            started,
        }
    }

    fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    fn put(&self, path: &str, kind: &str, body: &[u8]) {
        let mut connection = Connection::open(&self.address);
        let status = connection
            .exchange(&self.request("PUT", path, kind, body))
            .0;
        assert!(status == 200 || status == 201, "PUT {path}: {status}");
    }

    fn load(&self, connections: usize, time: Duration) -> Run {
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..connections)
            .map(|worker| {
                let body = format!(r#"{{"session":"b{worker}","body":"go"}}"#);
                let request = self.request(
                    "POST",
                    "/v1/agents/worker/invoke",
                    "application/json",
                    body.as_bytes(),
                );
                let (address, stop) = (self.address.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut connection = Connection::open(&address);
                    let (mut latencies, mut failed) = (Vec::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        let (status, _) = connection.exchange(&request);
                        latencies.push(start.elapsed());
                        failed += usize::from(status != 200);
                    }
                    (latencies, failed)
                })
            })
            .collect();
        let start = Instant::now();
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
        run.latencies.sort();
        run
    }

    /// Sum and count of each stage so far.
    fn stages(&self) -> BTreeMap<String, (f64, f64)> {
        let mut connection = Connection::open(&self.address);
        let (_, body) = connection.exchange(&self.request("GET", "/metrics", "text/plain", b""));
        let mut stages: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for line in String::from_utf8_lossy(&body).lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Some((_, rest)) = name.split_once("stage=\"") else {
                continue;
            };
            let Some((stage, _)) = rest.split_once('"') else {
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

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Run {
    latencies: Vec<Duration>,
    failed: usize,
    elapsed: Duration,
}

impl Run {
    /// In milliseconds.
    fn percentile(&self, part: f64) -> f64 {
        let at = (self.latencies.len() as f64 * part) as usize;
        self.latencies
            .get(at)
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// One keep-alive connection; just enough HTTP for answers with a length.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("no delay");
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    fn exchange(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
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
}
