//! P1 to P3: the same work done by Antiphon and by others, by turns, with the same load generator on the same disk.

use std::time::Duration;

use antiphon_tests::load::{Connection, components, exchanges, percentile, request, request_as};
use antiphon_tests::process::Process;
use serde_json::json;

use super::Options;
use super::peers::{self, Peer};
use super::report::{Bound, Report, Spread};

/// Sessions, objects and streams of their own for each connection.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Agents whose turns are measured, and what of others their work is.
const AGENTS: [&str; 2] = ["worker", "echo"];

/// One who is asked: the request of each connection, and the status that says it was done.
struct Subject {
    name: &'static str,
    url: String,
    requests: Vec<Vec<u8>>,
    status: u16,
}

/// Work that several can do.
struct Work {
    target: &'static str,
    what: &'static str,
    /// What it is called at those who do it.
    name: &'static str,
    /// Whom Antiphon is to make how much of, at 64 connections.
    bounds: &'static [(&'static str, f64)],
}

const WORKS: [Work; 3] = [
    Work {
        target: "P1",
        what: "durable turn with a slot",
        name: "turn",
        bounds: &[(peers::DURABLE_OBJECT, 3.0), (peers::RESTATE, 10.0)],
    },
    Work {
        target: "P2",
        what: "durable turn without one",
        name: "hello",
        bounds: &[(peers::WASMTIME, 0.5)],
    },
    Work {
        target: "P3",
        what: "durable append of 300 B",
        name: "append",
        bounds: &[(peers::DURABLE_STREAMS, 1.0)],
    },
];

pub(super) fn measure(options: &Options, report: &mut Report) {
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let peers = peers::start(options.peers.as_deref(), data.path());
    let requests = Requests::prepare(&server);
    for work in WORKS.iter().filter(|work| options.wants(work.target)) {
        let own = requests.of(&server, work);
        let others = peers.iter().filter(|peer| peer.does.contains(&work.name));
        let subjects: Vec<Subject> = std::iter::once(own).chain(others.map(of_peer)).collect();
        for connections in [1, CONNECTIONS_MAX] {
            let at = match connections {
                1 => "at one connection".to_owned(),
                more => format!("at {more} connections"),
            };
            report.begin(work.target, &format!("{}, {at}", work.what));
            let figures = rounds(&subjects, connections, options);
            let own = figures[0].per_second().median;
            for (subject, figures) in subjects.iter().zip(&figures) {
                let per_second = figures.per_second();
                let of_it = own / per_second.median;
                let of_it = Spread::of(&[of_it]);
                let mut line = vec![
                    ("", per_second, "/s"),
                    ("p50", Spread::of(&figures.p50_ms), " ms"),
                    ("p99", Spread::of(&figures.p99_ms), " ms"),
                ];
                if subject.name != ANTIPHON {
                    line.push(("antiphon makes", of_it, " of it"));
                }
                report.line(work.target, &format!("{}, {at}", subject.name), &line);
                let bound = work.bounds.iter().find(|(name, _)| *name == subject.name);
                if let Some((name, bound)) = bound.filter(|_| connections > 1) {
                    let what = format!("of {name} at the {}, {at}", work.what);
                    let bound = Bound::AtLeast(*bound);
                    report.bound(work.target, &what, of_it.median, bound);
                }
            }
        }
    }
    server.terminate();
}

const ANTIPHON: &str = "antiphon";

/// What Antiphon is asked.
struct Requests {
    turns: Vec<Vec<Vec<u8>>>,
    appends: Vec<Vec<u8>>,
}

impl Requests {
    /// With an agent, a session and a stream for each.
    fn prepare(server: &Process) -> Self {
        let mut connection = Connection::open(server);
        let mut turns = Vec::new();
        for (agent, component) in AGENTS.iter().zip(components(&AGENTS)) {
            connection.deploy(server, agent, &component);
            let path = format!("/v1/agents/{agent}/invoke");
            let of = |n: usize| {
                let session = format!("/v1/sessions/{agent}{n}");
                connection.json(server, "PUT", &session, &json!({"agents": [agent]}));
                let body = format!(r#"{{"session":"{agent}{n}","body":"go"}}"#);
                request(server, "POST", &path, "application/json", body.as_bytes())
            };
            turns.push((0..CONNECTIONS_MAX).map(of).collect());
        }
        let of = |n: usize| {
            let path = format!("/v1/stream/s{n}");
            let made = request(server, "PUT", &path, "text/plain", b"");
            assert_eq!(connection.exchange(&made).0, 201);
            request(server, "POST", &path, "text/plain", &[b'x'; 300])
        };
        let appends = (0..CONNECTIONS_MAX).map(of).collect();
        Self { turns, appends }
    }

    fn of(&self, server: &Process, work: &Work) -> Subject {
        let (requests, status) = match work.name {
            "turn" => (&self.turns[0], 200),
            "hello" => (&self.turns[1], 200),
            _ => (&self.appends, 204),
        };
        Subject {
            name: ANTIPHON,
            url: server.url.clone(),
            requests: requests.clone(),
            status,
        }
    }
}

fn of_peer(peer: &Peer) -> Subject {
    let request = |n: usize| {
        let path = (peer.path)(n);
        request_as("none", peer.method, &path, peer.content_type, peer.body)
    };
    Subject {
        name: peer.name,
        url: peer.url.clone(),
        requests: (0..CONNECTIONS_MAX).map(request).collect(),
        status: peer.status,
    }
}

/// What came of one subject's rounds.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Figures {
    fn per_second(&self) -> Spread {
        Spread::of(&self.rates)
    }
}

/// All subjects in each round, so that they meet the same machine. The first round is for touching everything.
fn rounds(subjects: &[Subject], connections: usize, options: &Options) -> Vec<Figures> {
    let mut all: Vec<Figures> = subjects.iter().map(|_| Figures::default()).collect();
    for round in 0..=options.rounds {
        let time = if round == 0 {
            Duration::from_secs(1)
        } else {
            options.time
        };
        for (subject, figures) in subjects.iter().zip(&mut all) {
            let of = |n: usize| subject.requests[n].clone();
            let mut run = exchanges(&subject.url, connections, time, subject.status, of);
            let (name, failed) = (subject.name, run.failed);
            assert_eq!(
                failed, 0,
                "{name} failed, with another status than at first"
            );
            if round > 0 {
                figures.rates.push(run.per_second());
                figures.p50_ms.push(percentile(&mut run.latencies, 0.5));
                figures.p99_ms.push(percentile(&mut run.latencies, 0.99));
            }
        }
    }
    all
}
