//! Agents that mean harm: whatever they do, a typed end in the journal, no lock kept, and the next turn of a
//! good agent in the same session as good as any. What the components themselves can be is in `bombs`.

#[path = "../guests/hostile/src/mode.rs"]
mod mode;

use std::process::Command;

use serde_json::{Value, json};

use crate::guests::component;
use crate::origin::Origin;
use crate::server::Server;
use mode::Mode;

/// How a turn in a mode must end.
enum End {
    /// With one of these codes, and this in the words that people get.
    Fails(&'static [&'static str], &'static str),
    /// And what it says about what it got.
    Completes(fn(&str)),
}

/// What ends an agent that keeps the host busy: whichever it comes to first.
const BUSY: &[&str] = &["cpu", "limit", "deadline"];

/// What it may use is low where it goes on for ever, and elsewhere so much that a slow machine is no reason to end.
fn limits(mode: Mode) -> Value {
    let mut limits = match mode {
        Mode::Spins | Mode::Prints | Mode::Commits => {
            json!({"cpu_ms_max": 500, "turn_ms_max": 2_500})
        }
        Mode::Calls => json!({"host_calls_max": 10_000}),
        Mode::Speaks => json!({"host_calls_max": 1_000, "reply_bytes_max": 100_000}),
        Mode::Waits => json!({"turn_ms_max": 500}),
        _ => json!({}),
    };
    limits["memory_bytes_max"] = json!(48 * 1024 * 1024);
    limits
}

fn expected(mode: Mode) -> End {
    match mode {
        Mode::Spins => End::Fails(&["cpu"], "computed longer"),
        Mode::Prints | Mode::Commits => End::Fails(BUSY, ""),
        Mode::Calls | Mode::Speaks => End::Fails(&["limit"], "calls"),
        Mode::Allocates | Mode::SendsGiB => End::Fails(&["limit"], "memory"),
        Mode::Recurses => End::Fails(&["trap"], "stack"),
        Mode::Opens => End::Fails(&["limit"], "handle"),
        Mode::SendsTooMuch => End::Fails(&["limit"], "in one call"),
        Mode::TrapsHolding | Mode::TrapsSpeaking => End::Fails(&["trap"], "unreachable"),
        Mode::Waits => End::Fails(&["deadline"], "took longer"),
        Mode::FailsAtLength => End::Fails(&["agent"], "yyyy"),
        Mode::Exits => End::Fails(&["trap"], "ended its process"),
        Mode::Injects => End::Fails(&["agent"], "event: turn-ended"),
        Mode::MakesSlots => End::Completes(|said| ends(said, "256 slots: ")),
        Mode::Notes => End::Completes(|said| ends(said, "256 notes: ")),
        Mode::Mails => End::Completes(|said| ends(said, " messages")),
        Mode::Wakes => End::Completes(|said| assert_eq!(said, "")),
        Mode::Guesses => End::Completes(|said| {
            assert!(said.lines().count() > 20, "{said}");
            all(said, &["None", "false", "0"]);
        }),
        Mode::Reaches => End::Completes(|said| all(said, &["false", "0"])),
        Mode::Fetches | Mode::Forges => End::Completes(|said| all(said, &["refused"])),
    }
}

#[track_caller]
fn ends(said: &str, words: &str) {
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains(words), "{said}");
}

/// Every line ends in one of these: nothing was got.
#[track_caller]
fn all(said: &str, wanted: &[&str]) {
    for line in said.lines() {
        let found = line.rsplit(' ').next().unwrap_or_default();
        assert!(wanted.contains(&found), "{line}");
    }
}

/// A server with a hostile agent and a good one, and a session `good` with something to steal.
async fn besieged(origin: &Origin) -> Server {
    let server = Server::with(|config| {
        config.limits.handles_max = 100;
        config.limits.cpu_ms_max = 60_000;
        config.limits.mailbox_messages_max = 100;
        config.egress.private_allowed = vec![origin.address.to_string()];
        let address = [origin.address.ip()];
        config
            .egress
            .names
            .insert("good.example".into(), address.to_vec());
    })
    .await;
    arm(&server, origin, Mode::Injects).await;
    server.deploy("hostile").await;
    server.deploy("echo").await;
    server.session("good", &["echo"]).await;
    server.reply("echo", "good", json!("a treasure")).await;
    server
        .call("PUT /v1/sessions/good/slots/plan")
        .text("a treasure")
        .await
        .is(200);
    server
}

/// Give the hostile agent what it needs for this mode, and no more.
async fn arm(server: &Server, origin: &Origin, mode: Mode) {
    let rule = |host: &str, port: u16| json!({"scheme": "http", "host": host, "port": port});
    let rules = json!([
        rule("good.example", origin.port()),
        rule("127.0.0.1", port(server)),
        rule("localhost", port(server)),
        rule("169.254.169.254", 80),
        rule("[fd00:ec2::254]", 80),
    ]);
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
    let config = json!({"grants": grants, "http": rules, "limits": limits(mode)});
    let answer = server.configure("hostile", config).await;
    // A version of its own, unless nothing changes.
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
}

fn port(server: &Server) -> u16 {
    let port = server.url.rsplit(':').next().expect("a port");
    port.parse().expect("a number")
}

/// One turn in this mode, in a session of its own, and all that must hold after it.
async fn attack(server: &Server, origin: &Origin, mode: Mode, session: &str) {
    let (name, seen) = (mode.name(), origin.seen().len());
    arm(server, origin, mode).await;
    server.session(session, &["echo", "hostile"]).await;
    let aim = if mode == Mode::Fetches {
        port(server)
    } else {
        origin.port()
    };
    let order = json!({"mode": name, "port": aim});
    let answer = server.invoke("hostile", session, order).await;
    let ended = last_turn(server, session, "hostile").await;
    match expected(mode) {
        End::Fails(codes, words) => {
            assert!(
                answer.status == 502 || answer.status == 504,
                "{name}: {}",
                answer.text()
            );
            let code = ended["error"]["code"].as_str().expect("a code");
            assert!(codes.contains(&code), "{name}: {ended}");
            let message = ended["error"]["message"].as_str().expect("words");
            assert!(message.contains(words), "{name}: {message}");
            assert!(message.chars().count() <= 500, "{name}: {message}");
        }
        End::Completes(check) => {
            assert_eq!(ended["outcome"], "completed", "{name}: {ended}");
            check(answer.is(200)["reply"].as_str().expect("a text"));
        }
    }
    assert_eq!(origin.seen().len(), seen, "{name}: nothing was sent");
    let slots = server.get(&format!("/v1/sessions/{session}/slots")).await;
    for slot in slots["slots"].as_array().expect("a list") {
        assert_eq!(slot["state"], "idle", "{name}: {slot}");
    }
    if mode == Mode::Mails {
        // Its mailbox is full until it has read.
        server.follow(session).await.turn("echo").await;
    }
    let said = server.reply("echo", session, json!("still here")).await;
    assert!(said.ends_with("still here"), "{name}: {said}");
    server
        .call(&format!("DELETE /v1/sessions/{session}"))
        .await
        .is(204);
}

/// How the agent's newest turn ended, as everybody sees it.
async fn last_turn(server: &Server, session: &str, agent: &str) -> Value {
    let mut offset = "-1".to_owned();
    let mut last = Value::Null;
    loop {
        let path = format!("/v1/sessions/{session}/events?offset={offset}");
        let page = server.get(&path).await;
        let events = page["events"].as_array().expect("a list");
        for event in events {
            if event["kind"] == "turn-ended" && event["agent"] == agent {
                last = event.clone();
            }
        }
        if events.is_empty() {
            return last;
        }
        offset = page["offset"].as_str().expect("an offset").to_owned();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_agent_comes_to_a_typed_end() {
    let origin = Origin::start().await;
    let server = besieged(&origin).await;
    for mode in Mode::ALL {
        attack(&server, &origin, *mode, mode.name()).await;
    }
    let metrics = server.call("GET /metrics").await.text().to_owned();
    for limit in [
        "cpu_ms_max",
        "memory_bytes_max",
        "turn_ms_max",
        "handles_max",
        "host_call_bytes_max",
        "reply_bytes_max",
        "slots_max",
        "mailbox_messages_max",
        "stack",
    ] {
        let series = format!("antiphon_limits_hit_total{{limit=\"{limit}\"}}");
        assert!(metrics.contains(&series), "{series} in {metrics}");
    }
    server.stop().await;
}

/// Words that look like events are words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_begin_nothing() {
    let origin = Origin::start().await;
    let server = besieged(&origin).await;
    server.session("s", &["hostile"]).await;
    let mut events = server.follow("s").await;
    let order = json!({"mode": "injects", "port": origin.port()});
    let refused = server.invoke("hostile", "s", order).await;
    let body = refused.refused(502, "turn_failed");
    let seen = events.turn("hostile").await;
    let mut kinds = crate::stream::kinds(&seen);
    // Between its words it asks the host for things.
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "session-opened",
            "message-received",
            "turn-started",
            "spoke",
            "turn-ended"
        ]
    );
    for event in &seen {
        assert_eq!(event.data["kind"], event.kind, "{event:?}");
    }
    let said = crate::stream::said(&seen);
    assert!(
        said.starts_with("\r\n\r\nid: 99\r\nevent: turn-ended"),
        "{said:?}"
    );
    assert_eq!(body["reply"], said);
    let told: Vec<&str> = said.lines().filter(|line| line.contains(": ")).collect();
    let told = &told[told.len() - 5..];
    assert!(told[0].ends_with("lock: false"), "{told:?}");
    let rest = [
        "read: false",
        "send: false",
        "leave: false",
        "fetch: refused",
    ];
    assert_eq!(told[1..], rest);
    // What it printed and logged is lines of its own, of which none is another's.
    let logs = server.get("/v1/agents/hostile/logs").await;
    let lines = logs["lines"].as_array().expect("lines");
    assert!(!lines.is_empty());
    for line in lines {
        assert_eq!(line["session"], "s", "{line}");
    }
    let mut stream = server
        .call("GET /v1/agents/hostile/logs?live=sse")
        .events()
        .await;
    for line in lines {
        let event = stream.next().await.expect("a line");
        assert_eq!((event.kind.as_str(), &event.data), ("line", line));
    }
    drop(stream);
    server.stop().await;
}

/// Set in the process that has one test to itself.
const ALONE: &str = "ANTIPHON_TESTS_ALONE";

/// Descriptors are the process's, so this one has a process of its own.
#[test]
fn nothing_is_left_of_hostile_agents() {
    if std::env::var_os(ALONE).is_none() {
        // Built once, by whoever is first.
        component("hostile");
        let test = std::env::current_exe().expect("the test has a binary");
        let alone = Command::new(test)
            .args(["--exact", "hostile::nothing_is_left_of_hostile_agents"])
            .args(["--nocapture", "--test-threads", "1"])
            .env(ALONE, "1")
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&alone.stdout);
        let errors = String::from_utf8_lossy(&alone.stderr);
        assert!(alone.status.success(), "{text}{errors}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let origin = Origin::start().await;
        let server = besieged(&origin).await;
        let round = async |round: u32| {
            for mode in Mode::ALL {
                let session = format!("{}-{round}", mode.name());
                attack(&server, &origin, *mode, &session).await;
            }
        };
        // The first makes what is made once.
        round(0).await;
        let before = held(&server).await;
        for number in 1..=3 {
            round(number).await;
        }
        let after = held(&server).await;
        // Of some eighty turns: a session whose driver is just ending, a connection that is being closed.
        let margin = 6;
        assert!(after.tasks <= before.tasks + margin, "{before:?} {after:?}");
        assert!(
            after.descriptors <= before.descriptors + margin,
            "{before:?} {after:?}"
        );
        assert!(
            after.sessions <= before.sessions + margin,
            "{before:?} {after:?}"
        );
        assert_eq!((after.running, after.compiling), (0, 0), "{after:?}");
        server.stop().await;
    });
}

#[derive(Debug)]
struct Held {
    tasks: usize,
    descriptors: usize,
    sessions: usize,
    running: usize,
    compiling: usize,
}

async fn held(server: &Server) -> Held {
    let metrics = server.call("GET /metrics").await.text().to_owned();
    let gauge = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().parse::<f64>().ok());
        number.unwrap_or_else(|| panic!("{name} in {metrics}")) as usize
    };
    Held {
        tasks: tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        sessions: gauge("antiphon_sessions_open "),
        running: gauge("antiphon_turns_running "),
        compiling: gauge("antiphon_compiles_running "),
    }
}
