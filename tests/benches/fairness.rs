//! What a tenant with thousands of turns costs another tenant's single one.
//!
//! `cargo bench -p antiphon-tests --bench fairness [-- TURNS]` starts the real binary with the built-in model. The quiet
//! tenant invokes the agent `worker` (a slot locked and committed, one chunk, all durable) one turn after the other; the busy
//! one is given TURNS turns (10,000 unless said) at once that each ask the model for an answer of a second or so, so that most
//! of them wait for a place. Measured: the quiet tenant's turns alone, while the busy one's are accepted, and while they wait; and
//! beside a third tenant that makes the same turns as fast as 16 connections ask.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request, request_as};
use antiphon_tests::process::Process;
use serde_json::json;

const JSON: &str = "application/json";

fn main() {
    let turns: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(10_000);
    let built = components(&["worker", "puppet"]);
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "worker", &built[0]);
    let agents = json!({"agents": ["worker"]});
    connection.json(&server, "PUT", "/v1/sessions/q", &agents);

    let [busy, computing] = ["busy", "computing"].map(|it| connection.tenant(data.path(), it));
    connection.deploy_as(&busy, "puppet", &built[1]);
    connection.deploy_as(&computing, "worker", &built[0]);
    for n in 0..16 {
        let path = format!("/v1/sessions/b{n}");
        connection.json_as(&computing, "PUT", &path, &agents);
    }

    // The first round is for touching everything.
    quiet(&server, Duration::from_millis(500), || false);
    let alone = quiet(&server, Duration::from_secs(3), || false);
    let floor = show("alone", &alone, None);

    let accepting = beside(
        || flood(&server, &busy, turns),
        |is_over| quiet(&server, Duration::from_secs(60), is_over),
    );
    show("while they are accepted", &accepting, Some(floor));
    let waiting = quiet(&server, Duration::from_secs(3), || false);
    show("while they wait", &waiting, Some(floor));

    let stop = Arc::new(AtomicBool::new(false));
    let (beside, done) = {
        let workers: Vec<_> = (0..16)
            .map(|n| {
                let body = json!({"session": format!("b{n}"), "body": "go"}).to_string();
                let path = "/v1/agents/worker/invoke";
                let invoke = request_as(&computing, "POST", path, JSON, body.as_bytes());
                let (mut connection, stop) = (Connection::open(&server), stop.clone());
                std::thread::spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        count += usize::from(connection.exchange(&invoke).0 == 200);
                    }
                    count
                })
            })
            .collect();
        let found = quiet(&server, Duration::from_secs(3), || false);
        stop.store(true, Ordering::Relaxed);
        let done = workers.into_iter().map(|it| it.join().expect("it ends"));
        (found, done.sum::<usize>())
    };
    show("beside 16 that compute", &beside, Some(floor));
    println!("      those: {:.0} turns/s", done as f64 / 3.0);
}

/// Give the busy tenant its turns, over eight connections.
fn flood(server: &Process, key: &str, turns: usize) {
    let body = json!({"body": [{"relay": "Tell me about the sea, at some length."}]}).to_string();
    let path = "/v1/agents/puppet/invoke";
    let invoke = request_as(key, "POST", path, JSON, body.as_bytes());
    let invoke = String::from_utf8(invoke).expect("it is ASCII");
    let invoke = invoke.replacen("\r\n", "\r\nprefer: respond-async\r\n", 1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(server);
                for _ in 0..turns / 8 {
                    let (status, body) = connection.exchange(invoke.as_bytes());
                    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
                }
            });
        }
    });
}

/// Do one thing until another is over.
fn beside<T>(work: impl FnOnce() + Send, watch: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            work();
            over.store(true, Ordering::Relaxed);
        });
        watch(&|| over.load(Ordering::Relaxed))
    })
}

/// The quiet tenant's turns, one after the other, until time is over or something is.
fn quiet(server: &Process, time: Duration, is_over: impl Fn() -> bool) -> Vec<Duration> {
    let body = json!({"session": "q", "body": "go"}).to_string();
    let path = "/v1/agents/worker/invoke";
    let invoke = request(server, "POST", path, JSON, body.as_bytes());
    let (mut connection, mut latencies) = (Connection::open(server), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time && !is_over() {
        let sent = Instant::now();
        let (status, body) = connection.exchange(&invoke);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        latencies.push(sent.elapsed());
    }
    latencies
}

/// Answers the p99 in ms.
fn show(what: &str, latencies: &[Duration], floor: Option<f64>) -> f64 {
    let mut latencies = latencies.to_vec();
    let p50 = percentile(&mut latencies, 0.5);
    let p99 = percentile(&mut latencies, 0.99);
    let ratio = floor.map_or_else(String::new, |floor| {
        format!(", {:.2} of alone", p99 / floor)
    });
    let count = latencies.len();
    println!("quiet, {what:<24}: p50 {p50:.2} ms, p99 {p99:.2} ms{ratio} ({count} turns)");
    p99
}
