//! From an upload to the first answer, and what others meet while a component is compiled.
//!
//! `cargo bench -p antiphon-tests --bench upload [-- FILE…]` starts the real binary on a fresh folder and deploys the agent `worker`, the
//! same with 10 MB of functions more, which is what agents of interpreted languages bring, and the components named. Of each it
//! prints how long the upload took, and the first turn; the same bytes under another name; and the first turn of a process that
//! starts on what was compiled. Beside each, the turns of a quiet agent, alone and meanwhile.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request, turns_beside};
use antiphon_tests::process::Process;
use serde_json::json;

/// Of functions, in the larger one.
const GROWN_BYTES: usize = 10 * 1024 * 1024;

/// Between two turns of the quiet agent.
const PAUSE: Duration = Duration::from_millis(5);

/// For which its turns are measured alone.
const ALONE: Duration = Duration::from_secs(5);

fn main() {
    let [worker, echo] = components(&["worker", "echo"])
        .try_into()
        .expect("one for each");
    let bytes = std::fs::read(&worker).expect("it was just built");
    let mut uploads = vec![
        Upload::of("worker", bytes.clone()),
        Upload::of("worker-grown", grown(bytes, GROWN_BYTES)),
    ];
    let named = std::env::args().skip(1).filter(|it| it.ends_with(".wasm"));
    uploads.extend(named.map(|file| {
        let bytes = std::fs::read(&file).expect("the file can be read");
        let name = Path::new(&file).file_stem().and_then(|it| it.to_str());
        Upload::of(&name.unwrap_or("named").to_ascii_lowercase(), bytes)
    }));
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "echo", &echo);
    let agents = json!({"agents": ["echo"]});
    connection.json(&server, "PUT", "/v1/sessions/quiet", &agents);
    let quiet = {
        let body = br#"{"session":"quiet","body":"go"}"#;
        let path = "/v1/agents/echo/invoke";
        request(&server, "POST", path, "application/json", body)
    };
    let rest = || std::thread::sleep(ALONE);
    // Once around, so that everything is touched.
    turns_beside(&server.url, &quiet, PAUSE, rest);
    let (mut alone, ()) = turns_beside(&server.url, &quiet, PAUSE, rest);
    println!("a quiet turn alone: {}", latencies(&mut alone));
    for upload in &uploads {
        let name = &upload.agent;
        println!("{name}, {:.2} MB", upload.bytes.len() as f64 / 1e6);
        for agent in [name.clone(), again(name)] {
            let path = format!("/v1/agents/{agent}/config");
            connection.json(&server, "PUT", &path, &json!({"grants": GRANTS}));
        }
        let (mut meanwhile, took) = turns_beside(&server.url, &quiet, PAUSE, || {
            let took = upload.under(&server, name);
            // So short an upload has few turns beside it.
            println!(
                "  uploaded and compiled: {:>8.1} ms",
                took.as_secs_f64() * 1e3
            );
            took
        });
        println!("  a quiet turn meanwhile: {}", latencies(&mut meanwhile));
        let first = first_turn(&server, name);
        let answered = (took + first).as_secs_f64() * 1e3;
        println!(
            "  first turn: {:.1} ms, {answered:.1} ms after the upload began",
            first.as_secs_f64() * 1e3
        );
        let took = upload.under(&server, &again(name));
        println!(
            "  the same bytes under another name: {:.1} ms",
            took.as_secs_f64() * 1e3
        );
    }
    assert!(server.terminate().success(), "it stops in order");
    for upload in &uploads {
        let server = Process::start(data.path());
        let first = first_turn(&server, &upload.agent);
        println!(
            "{}: first turn of a new process {:.1} ms",
            upload.agent,
            first.as_secs_f64() * 1e3
        );
        server.kill();
    }
}

fn again(name: &str) -> String {
    format!("{name}-again")
}

/// All there are: tools for some languages import what their agents do not use.
const GRANTS: [&str; 11] = [
    "kernel",
    "mailbox",
    "context",
    "transcript",
    "reply",
    "model",
    "turn",
    "log",
    "agents",
    "http",
    "questions",
];

struct Upload {
    agent: String,
    bytes: Vec<u8>,
}

impl Upload {
    fn of(agent: &str, bytes: Vec<u8>) -> Self {
        Self {
            agent: agent.to_owned(),
            bytes,
        }
    }

    /// Until the server has said that it may be invoked.
    fn under(&self, server: &Process, agent: &str) -> Duration {
        let path = format!("/v1/agents/{agent}");
        let put = request(server, "PUT", &path, "application/wasm", &self.bytes);
        let mut connection = Connection::open(server);
        let start = Instant::now();
        let (status, answer) = connection.exchange(&put);
        let took = start.elapsed();
        let words = String::from_utf8_lossy(&answer);
        assert!(matches!(status, 200 | 201), "{agent}: {status} {words}");
        took
    }
}

/// In a session of its own, whatever it answers.
fn first_turn(server: &Process, agent: &str) -> Duration {
    let body = json!({"body": "go"}).to_string();
    let path = format!("/v1/agents/{agent}/invoke");
    let invoke = request(server, "POST", &path, "application/json", body.as_bytes());
    let mut connection = Connection::open(server);
    let start = Instant::now();
    let (status, answer) = connection.exchange(&invoke);
    let took = start.elapsed();
    let words = String::from_utf8_lossy(&answer);
    assert_eq!(status, 200, "{agent}: {words}");
    took
}

fn latencies(latencies: &mut [Duration]) -> String {
    let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|part| percentile(latencies, part));
    let count = latencies.len();
    format!("p50 {p50:.2} ms, p99 {p99:.2} ms, worst {worst:.1} ms of {count}")
}

/// The component with a module beside it that nobody instantiates: it is compiled all the same.
fn grown(mut component: Vec<u8>, bytes: usize) -> Vec<u8> {
    let count = bytes / FUNCTION_BYTES;
    let mut types = leb(count);
    types.resize(types.len() + count, 0);
    let mut code = leb(count);
    for n in 0..count {
        let body = function(n);
        code.extend(leb(body.len()));
        code.extend(body);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // One type, from a number to a number; then which function has which, and their code.
    module.extend(section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]));
    module.extend(section(3, &types));
    module.extend(section(10, &code));
    component.extend(section(1, &module));
    component
}

const FUNCTION_BYTES: usize = 1_000;

/// Mixes its argument with numbers, and leaves early for some.
fn function(n: usize) -> Vec<u8> {
    let mut body = vec![0];
    let mut k = n;
    while body.len() < FUNCTION_BYTES {
        k = k.wrapping_mul(31).wrapping_add(7);
        let small = u8::try_from(k % 63 + 1).expect("below 64");
        // local.get 0, i32.const, i32.xor, local.tee 0, i32.const, i32.eq, if, local.get 0, return, end
        let step = [
            0x20, 0, 0x41, small, 0x73, 0x22, 0, 0x41, small, 0x46, 0x04, 0x40, 0x20, 0, 0x0f, 0x0b,
        ];
        body.extend(step);
    }
    body.extend([0x20, 0, 0x0b]);
    body
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

/// As the binary format writes unsigned numbers: seven bits a byte, lowest first.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
