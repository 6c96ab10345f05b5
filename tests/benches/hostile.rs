//! What hostile agents cost others, and what is left of them.
//!
//! `cargo bench -p antiphon-tests --bench hostile [-- TIMES MODES…]` starts the real binary, and has the agent `worker` of
//! one tenant do a durable turn every few milliseconds, alone and then while each mode of another tenant's hostile agent
//! (all, or those that are named) runs TIMES times (1,000), four at once. Prints the good agent's latencies of both, mode by mode, in one run; and what the
//! server's process holds before and after: memory, descriptors, threads, turns that run. The modes after which it held
//! more memory run once more in the end: what is a leak grows again, what is a cache does not.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../guests/hostile/src/mode.rs"]
mod mode;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request, request_as, turns_beside};
use antiphon_tests::observed::Observed;
use antiphon_tests::process::Process;
use mode::Mode;
use serde_json::{Value, json};

const JSON: &str = "application/json";

/// Hostile turns at once.
const AT_ONCE: usize = 4;

/// Between two turns of the good agent.
const PAUSE: Duration = Duration::from_millis(5);

/// Good turns that are measured without an attack.
const ALONE: Duration = Duration::from_secs(10);

/// Bounds low enough that a thousand of each come to their end in minutes.
fn limits() -> Value {
    json!({"memory_bytes_max": 32 * 1024 * 1024, "cpu_ms_max": 20, "turn_ms_max": 200})
}

/// More memory than this after a mode has it looked at twice.
const GREW_BYTES: u64 = 4 * 1024 * 1024;

/// The server, and who attacks it.
struct Place {
    server: Process,
    hostile: String,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let times = arguments.iter().find_map(|argument| argument.parse().ok());
    let times = times.unwrap_or(1_000);
    let named = |mode: &Mode| arguments.iter().any(|argument| argument == mode.name());
    let mut modes: Vec<Mode> = Mode::ALL.iter().copied().filter(named).collect();
    if modes.is_empty() {
        modes.extend(Mode::ALL);
    }
    let components = components(&["worker", "hostile"]);
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    let grants = [
        "kernel",
        "mailbox",
        "context",
        "transcript",
        "reply",
        "model",
        "turn",
        "log",
        "http",
    ];
    let config = json!({"grants": grants, "limits": limits()});
    connection.deploy(&server, "worker", &components[0]);
    let hostile = connection.tenant(data.path(), "bad");
    connection.json_as(&hostile, "PUT", "/v1/agents/hostile/config", &config);
    connection.deploy_as(&hostile, "hostile", &components[1]);
    let good = json!({"agents": ["worker"]});
    connection.json(&server, "PUT", "/v1/sessions/good", &good);
    let place = Arc::new(Place { server, hostile });
    let server = &place.server;

    // Once around, so that what is made once is there.
    for mode in &modes {
        attack(&place, *mode, AT_ONCE);
    }
    good_turns(&place, || std::thread::sleep(Duration::from_secs(1)));
    let before = held(server, &mut connection);
    println!("before: {before}");
    let mut alone = good_turns(&place, || std::thread::sleep(ALONE)).0;
    println!("{}", line("alone", &mut alone, ALONE, &BTreeMap::new()));
    let start = Instant::now();
    let mut all = Vec::new();
    let mut grew = Vec::new();
    for mode in &modes {
        let begun = Instant::now();
        let memory = Observed::of(server).resident_bytes;
        let (mut latencies, ends) = good_turns(&place, || attack(&place, *mode, times));
        println!(
            "{}",
            line(mode.name(), &mut latencies, begun.elapsed(), &ends)
        );
        let mut connection = Connection::open(server);
        println!("{:17}{}", "", held(server, &mut connection));
        all.extend(latencies);
        if Observed::of(server).resident_bytes > memory + GREW_BYTES {
            grew.push(*mode);
        }
    }
    println!(
        "{}",
        line("all attacks", &mut all, start.elapsed(), &BTreeMap::new())
    );
    for mode in grew {
        attack(&place, mode, times);
        let mut connection = Connection::open(server);
        println!("{:<17}{}", mode.name(), held(server, &mut connection));
    }
    let mut after = good_turns(&place, || std::thread::sleep(ALONE)).0;
    println!(
        "{}",
        line("alone again", &mut after, ALONE, &BTreeMap::new())
    );
    // The server has closed the first, which was idle for minutes.
    let mut connection = Connection::open(server);
    println!("after:  {}", held(server, &mut connection));
    let metrics = connection.metrics(server);
    for hit in metrics
        .lines()
        .filter(|line| line.starts_with("antiphon_limits_hit_total"))
    {
        println!("  {hit}");
    }
}

fn line(
    name: &str,
    latencies: &mut [Duration],
    took: Duration,
    ends: &BTreeMap<String, usize>,
) -> String {
    let count = latencies.len();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| percentile(latencies, part));
    let ends: Vec<String> = ends
        .iter()
        .map(|(end, times)| format!("{end} {times}"))
        .collect();
    let seconds = took.as_secs_f64();
    format!(
        "{name:<16} {count:>6} good turns, p50 {p50:>6.2} ms, p99 {p99:>7.2} ms, max {max:>7.1} ms; {seconds:>5.1} s; {}",
        ends.join(", ")
    )
}

/// Turns of the good agent, one after another, for as long as something else goes on.
fn good_turns<T>(place: &Place, meanwhile: impl FnOnce() -> T) -> (Vec<Duration>, T) {
    let of = &place.server;
    let body = br#"{"session":"good","body":"go"}"#;
    let go = request(of, "POST", "/v1/agents/worker/invoke", JSON, body);
    turns_beside(&of.url, &go, PAUSE, meanwhile)
}

/// So many turns in a mode; how they ended.
fn attack(place: &Arc<Place>, mode: Mode, times: usize) -> BTreeMap<String, usize> {
    let next = Arc::new(AtomicUsize::new(0));
    let attackers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (place, next) = (place.clone(), next.clone());
            std::thread::spawn(move || {
                let mut connection = Connection::open(&place.server);
                let mut ends: BTreeMap<String, usize> = BTreeMap::new();
                while next.fetch_add(1, Ordering::Relaxed) < times {
                    let end = once(&place.hostile, &mut connection, mode);
                    *ends.entry(end).or_default() += 1;
                }
                ends
            })
        })
        .collect();
    let mut ends = BTreeMap::new();
    for attacker in attackers {
        for (end, times) in attacker.join().expect("an attacker ends") {
            *ends.entry(end).or_default() += times;
        }
    }
    ends
}

/// One turn in a session of its own, which is deleted; how it ended.
fn once(key: &str, connection: &mut Connection, mode: Mode) -> String {
    // Port 9 of this machine: nobody listens there, and nobody may ask.
    let body = json!({"body": {"mode": mode.name(), "port": 9}}).to_string();
    let path = "/v1/agents/hostile/invoke";
    let asked = request_as(key, "POST", path, JSON, body.as_bytes());
    let (status, answer) = connection.exchange(&asked);
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let session = answer["session"].as_str().expect("a session");
    let path = format!("/v1/sessions/{session}");
    let (deleted, _) = connection.exchange(&request_as(key, "DELETE", &path, "text/plain", b""));
    assert_eq!(deleted, 204, "{answer}");
    if status == 200 {
        return "completed".to_owned();
    }
    let message = answer["error"]["message"].as_str().expect("words");
    let code = message.split(':').next().unwrap_or_default();
    assert!(
        ["agent", "cpu", "deadline", "limit", "trap"].contains(&code),
        "{status} {answer}"
    );
    code.to_owned()
}

/// What the server's process holds now.
fn held(server: &Process, connection: &mut Connection) -> String {
    let observed = Observed::of(server);
    let metrics = connection.metrics(server);
    let gauge = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim().to_owned()
    };
    format!(
        "{:.1} MB in memory, {} descriptors, {} threads, {} sessions open, {} turns running",
        observed.resident_mb(),
        observed.descriptors,
        observed.threads,
        gauge("antiphon_sessions_open "),
        gauge("antiphon_turns_running "),
    )
}
