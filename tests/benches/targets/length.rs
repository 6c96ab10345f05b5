//! P9: what a turn costs in a session that has become long.
//!
//! One session is driven up to 10, 10,000 and 100,000 entries. At each length turns are taken in it
//! and in fresh sessions, one here, one there, so that whatever the machine does in
//! between happens to both. The ratio counts.

use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request};
use antiphon_tests::process::Process;
use serde_json::{Value, json};

use super::Options;
use super::report::{Bound, Report, Spread};

const RATIO_MAX: f64 = 1.2;

/// Turns here and there, at each length.
const PAIRS: usize = 500;

/// Turns in one fresh session before the next one is taken: it is to stay fresh.
const FRESH_TURNS: usize = 10;

/// A kind of turn: what it is called, its agent, its message.
struct Turn {
    what: &'static str,
    agent: &'static str,
    body: Value,
}

pub(super) fn measure(_: &Options, report: &mut Report) {
    report.begin("P9", "a turn in a session that has become long");
    let [worker, puppet] = components(&["worker", "puppet"])
        .try_into()
        .expect("one for each");
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "worker", &worker);
    connection.deploy(&server, "puppet", &puppet);
    let turns = [
        Turn {
            what: "read, lock and commit a slot",
            agent: "worker",
            body: json!("go"),
        },
        Turn {
            what: "read 20 items of transcript",
            agent: "puppet",
            body: json!([{"window": 20}]),
        },
    ];
    open(&mut connection, &server, "long");
    // Once around, so that everything is loaded and every page of the pool was touched.
    let mut fresh = Fresh::default();
    for turn in &turns {
        pairs(&mut connection, &server, &mut fresh, "warm", turn, 50);
    }
    for length in [10, 10_000, 100_000] {
        let entries = grow(&mut connection, &server, length);
        for turn in &turns {
            let (mut long, mut short) =
                pairs(&mut connection, &server, &mut fresh, "long", turn, PAIRS);
            let (long, short) = (percentile(&mut long, 0.5), percentile(&mut short, 0.5));
            let ratio = long / short;
            let figures = [
                ("p50", Spread::of(&[long]), " ms"),
                ("fresh", Spread::of(&[short]), " ms"),
                ("ratio", Spread::of(&[ratio]), ""),
            ];
            report.line("P9", &format!("{} at entry {entries}", turn.what), &figures);
            if length > 10 {
                let what = format!(
                    "times a fresh session's p50 at entry {entries}: {}",
                    turn.what
                );
                report.bound("P9", &what, ratio, Bound::AtMost(RATIO_MAX));
            }
        }
    }
    assert!(server.terminate().success(), "it stops in order");

    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    for session in ["long", "fresh0"] {
        let start = Instant::now();
        entries_of(&mut connection, &server, session);
        let took = start.elapsed().as_secs_f64() * 1e3;
        let what = format!("first look at `{session}` after a restart");
        report.line("P9", &what, &[("", Spread::of(&[took]), " ms")]);
    }
}

/// Fresh sessions, one after the other.
#[derive(Default)]
struct Fresh {
    sessions: usize,
    turns: usize,
}

impl Fresh {
    fn session(&mut self, connection: &mut Connection, server: &Process) -> String {
        let at = self.turns / FRESH_TURNS;
        if at == self.sessions {
            open(connection, server, &format!("fresh{at}"));
            self.sessions += 1;
        }
        self.turns += 1;
        format!("fresh{at}")
    }
}

fn open(connection: &mut Connection, server: &Process, session: &str) {
    let path = format!("/v1/sessions/{session}");
    let body = json!({"agents": ["puppet", "worker"], "entry": "worker"});
    connection.json(server, "PUT", &path, &body);
}

fn entries_of(connection: &mut Connection, server: &Process, session: &str) -> u64 {
    let path = format!("/v1/sessions/{session}");
    let shown = connection.json(server, "GET", &path, &Value::Null);
    let offset = shown["offset"].as_str().and_then(|offset| offset.get(..16));
    offset.and_then(|it| it.parse().ok()).expect("an offset")
}

/// Turns until the long session has so many entries; how many it has then.
fn grow(connection: &mut Connection, server: &Process, length: u64) -> u64 {
    loop {
        let entries = entries_of(connection, server, "long");
        if entries >= length {
            return entries;
        }
        // A turn makes at least six entries.
        for _ in 0..(length - entries).div_ceil(12).min(200) {
            let body = json!({"session": "long", "author": "ana", "body": "go"});
            connection.json(server, "POST", "/v1/agents/worker/invoke", &body);
        }
    }
}

/// Turns in a session and in fresh ones, one here, one there.
fn pairs(
    connection: &mut Connection,
    server: &Process,
    fresh: &mut Fresh,
    session: &str,
    turn: &Turn,
    count: usize,
) -> (Vec<Duration>, Vec<Duration>) {
    if session == "warm" {
        open(connection, server, session);
    }
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let other = fresh.session(connection, server);
        for (session, latencies) in [(session, &mut here), (&other, &mut there)] {
            let body = json!({"session": session, "author": "ana", "body": turn.body});
            let path = format!("/v1/agents/{}/invoke", turn.agent);
            let kind = "application/json";
            let request = request(server, "POST", &path, kind, body.to_string().as_bytes());
            let start = Instant::now();
            let (status, _) = connection.exchange(&request);
            latencies.push(start.elapsed());
            assert_eq!(status, 200, "{path}");
        }
    }
    (here, there)
}
