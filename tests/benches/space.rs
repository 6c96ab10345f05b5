//! What sessions leave on the disk when they are gone.
//!
//! `cargo bench -p antiphon-tests --bench space [-- SESSIONS]` starts the real binary, and in each of five rounds opens
//! SESSIONS sessions (10,000 unless said) with a turn each, deletes them, and waits until nothing of them is stored. Prints
//! the bytes of the tenant's rows and of the store's files after each half. The files must not grow from round to round.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, operator_key, request, request_as};
use antiphon_tests::process::Process;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const CONNECTIONS: usize = 16;

fn main() {
    let sessions: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(10_000);
    let worker = components(&["worker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    Connection::open(&server).deploy(&server, "worker", &worker);
    let store = data.path().join("store");
    println!("empty: {:.1} MB on disk", mb(size(&store)));
    for round in 1..=5 {
        let start = Instant::now();
        each(&server, sessions, |connection, n| {
            let path = format!("/v1/sessions/r{round}-{n}");
            connection.json(&server, "PUT", &path, &json!({"agents": ["worker"]}));
            let body = json!({"session": format!("r{round}-{n}"), "body": "go"}).to_string();
            let path = "/v1/agents/worker/invoke";
            let (status, _) =
                connection.exchange(&request(&server, "POST", path, JSON, body.as_bytes()));
            assert_eq!(status, 200);
        });
        let opened = start.elapsed();
        let full = (held(&server, data.path()), size(&store));
        each(&server, sessions, |connection, n| {
            let path = format!("/v1/sessions/r{round}-{n}");
            let (status, _) = connection.exchange(&request(&server, "DELETE", &path, JSON, b""));
            assert!((200..300).contains(&status), "{status}");
        });
        let start = Instant::now();
        let gone = loop {
            let held = held(&server, data.path());
            if held.0 == 0 {
                break held;
            }
            assert!(
                start.elapsed() < Duration::from_secs(300),
                "{} are left",
                held.0
            );
            std::thread::sleep(Duration::from_millis(100));
        };
        println!(
            "round {round}: {sessions} sessions in {:.1} s: {:.1} MB of rows, {:.1} MB on disk; gone {:.1} s after the last was deleted: {:.1} MB of rows, {:.1} MB on disk",
            opened.as_secs_f64(),
            mb(full.0.1),
            mb(full.1),
            start.elapsed().as_secs_f64(),
            mb(gone.1),
            mb(size(&store)),
        );
    }
}

/// Do something for each of so many, over some connections.
fn each(server: &Process, count: usize, work: impl Fn(&mut Connection, usize) + Sync) {
    std::thread::scope(|scope| {
        for first in 0..CONNECTIONS {
            let work = &work;
            scope.spawn(move || {
                let mut connection = Connection::open(server);
                (first..count)
                    .step_by(CONNECTIONS)
                    .for_each(|n| work(&mut connection, n));
            });
        }
    });
}

/// Sessions and bytes that the tenant holds.
fn held(server: &Process, data: &Path) -> (u64, u64) {
    let show = request_as(&operator_key(data), "GET", "/v1/tenants/default", JSON, b"");
    let (status, body) = Connection::open(server).exchange(&show);
    assert_eq!(status, 200);
    let shown: Value = serde_json::from_slice(&body).expect("JSON");
    let of = |name: &str| shown["holds"][name].as_u64().expect("a number");
    (of("sessions"), of("storage_bytes"))
}

/// Bytes of the files in a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            Some(match metadata.is_dir() {
                true => size(&entry.path()),
                false => metadata.len(),
            })
        })
        .sum()
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
