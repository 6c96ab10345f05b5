//! A conversation of two whose participants answer at once, over HTTP and with full durability.
//!
//! `cargo bench -p antiphon-tests --bench conversation [-- SECONDS]` starts the real binary on a fresh data
//! folder and has conversations of 100 turns in it, by one client and by 16: once between two remote participants,
//! which this process answers for on loopback, and once between two agents, each in a session of its own.
//! Prints speakers' turns per second. The prompt of a remote participant grows with every turn; an agent is told
//! only what is new.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, Provider, components, request};
use antiphon_tests::process::Process;
use serde_json::{Value, json};

const TURNS: u32 = 100;

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let worker = components(&["worker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");
    // The remote participants are on loopback, which the operator must allow.
    let settings = [("ANTIPHON_EGRESS__PRIVATE_ALLOWED", "[\"127.0.0.0/8\"]")];
    let server = Process::try_start(data.path(), &settings).expect("the server starts");
    let mut connection = Connection::open(&server);
    for agent in ["ada", "bo"] {
        connection.deploy(&server, agent, &worker);
    }
    let url = Provider::start().url;
    let remote = |name: &str| json!({"name": name, "url": url, "model": "instant"});
    let agent = |name: &str, agent: &str| json!({"name": name, "agent": agent});
    let kinds = [
        ("remote", [remote("Ada"), remote("Bo")]),
        ("agents", [agent("Ada", "ada"), agent("Bo", "bo")]),
    ];
    for (kind, participants) in kinds {
        let definition = json!({"participants": participants, "max_turns": TURNS});
        // The one before was idle for longer than the server waits for a request.
        let mut connection = Connection::open(&server);
        connection.json(&server, "PUT", &format!("/v1/agents/{kind}"), &definition);
        // Once around, so that everything was touched.
        load(&server, kind, 1, Duration::ZERO);
        for clients in [1, 16] {
            let (conversations, elapsed) =
                load(&server, kind, clients, Duration::from_secs(seconds));
            let turns = f64::from(conversations * TURNS) / elapsed.as_secs_f64();
            println!(
                "{kind}, {clients:>2} at once: {turns:>6.0} turns/s, {conversations} conversations of {TURNS}"
            );
        }
    }
}

/// Hold conversations one after another, by so many clients, for so long.
fn load(server: &Process, agent: &str, clients: u32, time: Duration) -> (u32, Duration) {
    let path = format!("/v1/agents/{agent}/invoke");
    let body = br#"{"body":"Begin."}"#;
    let request = request(server, "POST", &path, "application/json", body);
    let start = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (request, mut connection) = (request.clone(), Connection::open(server));
            std::thread::spawn(move || {
                let mut conversations = 0;
                while conversations == 0 || start.elapsed() < time {
                    let (status, answer) = connection.exchange(&request);
                    let text = String::from_utf8_lossy(&answer);
                    assert_eq!(status, 200, "{text}");
                    let answer: Value = serde_json::from_str(&text).expect("JSON");
                    let reply = answer["reply"].as_str().expect("a reply");
                    let lines = reply.matches("[Ada] ").count() + reply.matches("[Bo] ").count();
                    assert!(lines >= TURNS as usize, "{lines} of {TURNS}: {reply}");
                    conversations += 1;
                }
                conversations
            })
        })
        .collect();
    let conversations = clients
        .into_iter()
        .map(|it| it.join().expect("a client ends"));
    (conversations.sum(), start.elapsed())
}
