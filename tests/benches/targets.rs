//! Antiphon beside others that do the same work, in one run: rounds by turns, the same load generator, the same disk.
//!
//! `cargo bench -p antiphon-tests --bench targets [-- --rounds N] [--seconds S] [--peers FOLDER] [--json FILE]`, 5 rounds of 2
//! seconds unless said otherwise. What is measured always is a server of hyper alone that answers with two bytes: what
//! HTTP and the load generator cost on this machine. What else is in the folder is measured too; docs/performance.md says
//! how it comes there. Prints the median of the rounds with the lowest and the highest, and what Antiphon's is of
//! each other's.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod peers;

use std::path::PathBuf;
use std::time::Duration;

use antiphon_tests::load::{Connection, components, exchanges, percentile, request, request_as};
use antiphon_tests::process::Process;
use serde_json::{Value, json};

use self::peers::Peer;

/// Sessions, objects and streams of their own for each connection.
const CONNECTIONS_MAX: usize = 64;

/// One who is asked: the request of each connection, and the status that says it was done.
struct Subject {
    name: &'static str,
    url: String,
    requests: Vec<Vec<u8>>,
    status: u16,
}

/// Work that several can do.
struct Target {
    name: &'static str,
    connections: usize,
    /// Antiphon first.
    subjects: Vec<Subject>,
}

/// What came of one subject's rounds.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|it| it == peers::HYPER) {
        return peers::serve_hyper();
    }
    let option = |name: &str| {
        let at = arguments.iter().position(|it| it == name)?;
        arguments.get(at + 1)
    };
    let number =
        |name: &str, default: u64| option(name).map_or(default, |it| it.parse().expect("a number"));
    let (rounds, seconds) = (number("--rounds", 5), number("--seconds", 2));
    let folder = option("--peers").map(PathBuf::from);

    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let all = peers::start(folder.as_deref(), data.path());
    let targets = targets(&server, &all);
    let mut told = Vec::new();
    for target in &targets {
        let figures = measure(target, rounds, Duration::from_secs(seconds));
        told.push(tell(target, &figures));
    }
    told.push(start(rounds));
    if let Some(file) = option("--json") {
        std::fs::write(file, json!(told).to_string()).expect("the file is written");
    }
    server.terminate();
}

fn targets(server: &Process, peers: &[Peer]) -> Vec<Target> {
    let agents = components(&["worker", "echo"]);
    let mut connection = Connection::open(server);
    for (agent, component) in ["worker", "echo"].iter().zip(&agents) {
        connection.deploy(server, agent, component);
        for n in 0..CONNECTIONS_MAX {
            let path = format!("/v1/sessions/{agent}{n}");
            connection.json(server, "PUT", &path, &json!({"agents": [agent]}));
        }
    }
    for n in 0..CONNECTIONS_MAX {
        let path = format!("/v1/stream/s{n}");
        let made = request(server, "PUT", &path, "text/plain", b"");
        assert_eq!(connection.exchange(&made).0, 201);
    }
    let antiphon = |status, of: &dyn Fn(usize) -> Vec<u8>| Subject {
        name: "antiphon",
        url: server.url.clone(),
        requests: (0..CONNECTIONS_MAX).map(of).collect(),
        status,
    };
    let invoke = |agent: &'static str| {
        move |n: usize| {
            let path = format!("/v1/agents/{agent}/invoke");
            let body = format!(r#"{{"session":"{agent}{n}","body":"go"}}"#);
            request(server, "POST", &path, "application/json", body.as_bytes())
        }
    };
    let text = [b'x'; 300];
    let append = |n: usize| {
        let path = format!("/v1/stream/s{n}");
        request(server, "POST", &path, "text/plain", &text)
    };
    let of = |work: &str| -> Vec<Subject> {
        let peers = peers.iter().filter(|peer| peer.does.contains(&work));
        peers
            .map(|peer| Subject {
                name: peer.name,
                url: peer.url.clone(),
                requests: (0..CONNECTIONS_MAX)
                    .map(|n| {
                        let (path, kind) = ((peer.path)(n), peer.content_type);
                        request_as("none", peer.method, &path, kind, peer.body)
                    })
                    .collect(),
                status: peer.status,
            })
            .collect()
    };
    let mut targets = Vec::new();
    for connections in [1, CONNECTIONS_MAX] {
        let works: [(&'static str, &str, Subject); 3] = [
            (
                "P1 durable turn with a slot",
                "turn",
                antiphon(200, &invoke("worker")),
            ),
            ("P2 durable turn", "hello", antiphon(200, &invoke("echo"))),
            (
                "P3 durable append of 300 B",
                "append",
                antiphon(204, &append),
            ),
        ];
        for (name, work, own) in works {
            let subjects = std::iter::once(own).chain(of(work)).collect();
            targets.push(Target {
                name,
                connections,
                subjects,
            });
        }
    }
    targets
}

/// All subjects in each round, so that they meet the same machine. The first round is for touching everything.
fn measure(target: &Target, rounds: u64, time: Duration) -> Vec<Figures> {
    let mut figures: Vec<Figures> = target.subjects.iter().map(|_| Figures::default()).collect();
    for round in 0..=rounds {
        for (subject, figures) in target.subjects.iter().zip(&mut figures) {
            let of = |n: usize| subject.requests[n].clone();
            let mut run = exchanges(&subject.url, target.connections, time, subject.status, of);
            let (name, failed) = (subject.name, run.failed);
            assert_eq!(failed, 0, "{name} failed at {}", target.name);
            if round > 0 {
                figures.per_second.push(run.per_second());
                figures.p50_ms.push(percentile(&mut run.latencies, 0.5));
                figures.p99_ms.push(percentile(&mut run.latencies, 0.99));
            }
        }
    }
    figures
}

fn tell(target: &Target, figures: &[Figures]) -> Value {
    let at = match target.connections {
        1 => "at one connection".to_owned(),
        more => format!("at {more} connections"),
    };
    println!("{} {at}", target.name);
    let own = median(&figures[0].per_second);
    let mut told = Vec::new();
    for (subject, figures) in target.subjects.iter().zip(figures) {
        let (low, middle, high) = spread(&figures.per_second);
        let (p50, p99) = (median(&figures.p50_ms), median(&figures.p99_ms));
        let ratio = own / middle;
        println!(
            "  {:<24} {middle:>7.0}/s ({low:.0} to {high:.0}), p50 {p50:.2} ms, p99 {p99:.2} ms{}",
            subject.name,
            match told.is_empty() {
                true => String::new(),
                false => format!("; antiphon makes {ratio:.2} of it"),
            }
        );
        told.push(json!({
            "subject": subject.name, "per_second": middle, "low": low, "high": high,
            "p50_ms": p50, "p99_ms": p99, "ratio": ratio,
        }));
    }
    json!({"target": target.name, "connections": target.connections, "subjects": told})
}

/// P8: from the start of the process to `listening`, on an empty folder each time.
fn start(rounds: u64) -> Value {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let data = tempfile::tempdir().expect("a scratch folder");
            let server = Process::start(data.path());
            let started = server.started;
            server.terminate();
            started.as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (low, middle, high) = spread(&times);
    println!("P8 start on an empty folder\n  antiphon {middle:>23.0} ms ({low:.0} to {high:.0})");
    json!({"target": "P8 start on an empty folder", "ms": middle, "low": low, "high": high})
}

fn median(values: &[f64]) -> f64 {
    spread(values).1
}

fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |part: usize| values.get(part).copied().unwrap_or(f64::NAN);
    (
        at(0),
        at(values.len() / 2),
        at(values.len().saturating_sub(1)),
    )
}
