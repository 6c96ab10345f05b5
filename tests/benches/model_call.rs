//! What the host adds to a call of a model: policy, forwarded headers, journal.
//!
//! `cargo bench -p antiphon-tests --bench model_call [-- ROUNDS]` starts the real binary twice, with full durability
//! and with `durability = process`, and one provider in this process that answers at once. In each round an agent
//! asks the model 200 times in a row in each of them, and so does a plain client in this process, with a new
//! connection for each call and with one that is kept. What is measured is always the same, at the provider: from the
//! arrival of one request to the arrival of the next. Prints p50 and p99 of each, the differences, and what
//! the wait for the disk was. The rounds alternate, so that all meet the same machine.
//!
//! Then what it costs to wait without an instance: turns that ask a provider which thinks for 20 ms, on a host that keeps
//! their instances and on one that gives them up after 1 ms.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, Provider, components, percentile, request};
use antiphon_tests::process::Process;
use serde_json::json;

/// Calls in a row: one turn's.
const CALLS: usize = 200;

/// How long a provider thinks before it says anything.
const THINKS: Duration = Duration::from_millis(20);
/// Turns of a round that wait for it.
const WAITS: usize = 20;

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(20);
    let puppet = components(&["puppet"]).remove(0);
    let provider = Provider::start();
    let mut hosts: Vec<Host> = ["power", "process"]
        .into_iter()
        .map(|durability| {
            let setting = ("ANTIPHON_DURABILITY", durability);
            Host::start(durability, &provider, &puppet, setting)
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut direct = [(true, Vec::new()), (false, Vec::new())];
    // The first round is for touching everything.
    for round in 0..=rounds {
        for (is_kept, cycles) in &mut direct {
            runtime.block_on(ask(&provider.url, *is_kept));
            let found = between(&provider);
            cycles.extend(found.into_iter().filter(|_| round > 0));
        }
        for host in &mut hosts {
            host.ask(CALLS);
            let found = between(&provider);
            host.cycles.extend(found.into_iter().filter(|_| round > 0));
        }
    }
    let mut floor = 0.0;
    for (is_kept, cycles) in &mut direct {
        let name = if *is_kept {
            "one connection"
        } else {
            "a connection each"
        };
        let p50 = percentile(cycles, 0.5) * 1e3;
        println!(
            "direct, {name:<17}: p50 {p50:>7.1} µs, p99 {:>7.1} µs",
            percentile(cycles, 0.99) * 1e3
        );
        // What the host uses.
        floor = p50;
    }
    for host in &mut hosts {
        let p50 = percentile(&mut host.cycles, 0.5) * 1e3;
        let p99 = percentile(&mut host.cycles, 0.99) * 1e3;
        let flush_us = host.flush_us();
        println!(
            "host, {:<19}: p50 {p50:>7.1} µs, p99 {:>7.1} µs; {:.1} µs more, {:.2} times; flush mean {:.1} µs",
            host.name,
            p99,
            p50 - floor,
            p50 / floor,
            flush_us,
        );
    }
    wait(rounds, &puppet);
}

fn wait(rounds: usize, puppet: &Path) {
    let provider = Provider::thinking(THINKS);
    let settings = [("kept", "60000"), ("given up", "1")];
    let mut hosts = settings.map(|(name, ms)| {
        let setting = ("ANTIPHON_LIMITS__INSTANCE_WAIT_MS_MAX", ms);
        Host::start(name, &provider, puppet, setting)
    });
    for round in 0..=rounds {
        for host in &mut hosts {
            for _ in 0..WAITS {
                let start = Instant::now();
                host.ask(1);
                let beside = start.elapsed().saturating_sub(THINKS);
                host.cycles.extend((round > 0).then_some(beside));
            }
        }
    }
    let mut kept = None;
    for host in &mut hosts {
        let p50 = percentile(&mut host.cycles, 0.5) * 1e3;
        let p99 = percentile(&mut host.cycles, 0.99) * 1e3;
        let metrics = host.connection.metrics(&host.server);
        let is_kept = !metrics.contains("limit=\"instance_wait_ms_max\"");
        assert_eq!(is_kept, host.name == "kept", "{metrics}");
        let more = p50 - *kept.get_or_insert(p50);
        println!(
            "instance {:<15}: p50 {p50:>7.1} µs, p99 {p99:>7.1} µs beside 20 ms of thinking; {more:.1} µs more",
            host.name,
        );
    }
}

/// A server with an agent that asks the provider.
struct Host {
    name: &'static str,
    connection: Connection,
    server: Process,
    cycles: Vec<Duration>,
    /// Seconds and count of the stage `flush` before all this.
    flush: (f64, f64),
    _data: tempfile::TempDir,
}

impl Host {
    fn start(
        name: &'static str,
        provider: &Provider,
        puppet: &Path,
        setting: (&str, &str),
    ) -> Self {
        let data = tempfile::tempdir().expect("a scratch folder");
        let settings = [("ANTIPHON_MODEL_URL", provider.url.as_str()), setting];
        let server = Process::try_start(data.path(), &settings).expect("it starts");
        let mut connection = Connection::open(&server);
        connection.deploy(&server, "puppet", puppet);
        connection.json(
            &server,
            "PUT",
            "/v1/sessions/s",
            &json!({"agents": ["puppet"]}),
        );
        let flush = connection
            .stages(&server)
            .remove("flush")
            .unwrap_or_default();
        Self {
            name,
            connection,
            server,
            cycles: Vec::new(),
            flush,
            _data: data,
        }
    }

    /// One turn that asks so often.
    fn ask(&mut self, calls: usize) {
        let script = json!({"session": "s", "body": [{"models": calls}]}).to_string();
        let path = "/v1/agents/puppet/invoke";
        let kind = "application/json";
        let invoke = request(&self.server, "POST", path, kind, script.as_bytes());
        let (status, body) = self.connection.exchange(&invoke);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }

    fn flush_us(&mut self) -> f64 {
        let stages = self.connection.stages(&self.server);
        let (sum, count) = stages.get("flush").copied().unwrap_or_default();
        (sum - self.flush.0) / (count - self.flush.1).max(1.0) * 1e6
    }
}

/// The same calls without a host.
async fn ask(url: &str, is_kept: bool) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let body = json!({
        "model": "default",
        "messages": [{"role": "user", "content": "q"}],
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    for _ in 0..CALLS {
        let mut call = client.post(format!("{url}/chat/completions")).json(&body);
        if !is_kept {
            call = call.header("connection", "close");
        }
        let mut answer = call.send().await.expect("it answers");
        while answer.chunk().await.expect("it is whole").is_some() {}
    }
}

/// From each arrival to the next, of one row of calls.
fn between(provider: &Provider) -> Vec<Duration> {
    let arrivals = provider.arrivals();
    assert_eq!(arrivals.len(), CALLS, "each call was made once");
    arrivals
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]))
        .collect()
}
