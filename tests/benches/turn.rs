//! P1: a durable turn over HTTP, and where its time goes.
//!
//! `cargo bench -p antiphon-tests --bench turn [-- SECONDS]` starts the real binary on a
//! fresh data folder, deploys the agent `worker` (pull, read a slot, lock it, commit it,
//! say one chunk), and drives it over keep-alive connections on loopback: the load
//! generator shares the machine. Prints turns per second, latencies, and the mean
//! of each stage from the server's own histograms. Absolute figures belong to the machine;
//! docs/performance.md says on which they were taken.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request};
use antiphon_tests::process::Process;
use serde_json::json;

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let worker = components(&["worker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");

    let server = Process::start(data.path());
    println!(
        "start of the process to `listening`: {:.0} ms",
        server.started.as_secs_f64() * 1e3
    );
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "worker", &worker);
    for session in 0..64 {
        let path = format!("/v1/sessions/b{session}");
        connection.json(&server, "PUT", &path, &json!({"agents": ["worker"]}));
    }
    // Once around, so that every session is open and every page of the pool was touched.
    load(&server, 64, Duration::from_secs(1));
    for connections in [1, 64] {
        let before = connection.stages(&server);
        let mut run = load(&server, connections, Duration::from_secs(seconds));
        let after = connection.stages(&server);
        println!(
            "{connections:>3} connections: {:>6.0} turns/s, p50 {:.2} ms, p99 {:.2} ms, {} failed",
            run.latencies.len() as f64 / run.elapsed.as_secs_f64(),
            percentile(&mut run.latencies, 0.50),
            percentile(&mut run.latencies, 0.99),
            run.failed,
        );
        for (stage, (sum, count)) in &after {
            let (sum_before, count_before) = before.get(stage).copied().unwrap_or_default();
            let (sum, count) = (sum - sum_before, count - count_before);
            if count > 0.0 {
                println!(
                    "      {stage:<12} mean {:>8.1} µs, {count:>7} times",
                    sum / count * 1e6
                );
            }
        }
    }
}

fn load(server: &Process, connections: usize, time: Duration) -> Run {
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..connections)
        .map(|worker| {
            let body = format!(r#"{{"session":"b{worker}","body":"go"}}"#);
            let request = request(
                server,
                "POST",
                "/v1/agents/worker/invoke",
                "application/json",
                body.as_bytes(),
            );
            let stop = stop.clone();
            let mut connection = Connection::open(server);
            std::thread::spawn(move || {
                let (mut latencies, mut failed) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let (status, _) = connection.exchange(&request);
                    latencies.push(start.elapsed());
                    failed += usize::from(status != 200);
                }
                (latencies, failed)
            })
        })
        .collect();
    let start = Instant::now();
    std::thread::sleep(time);
    stop.store(true, Ordering::Relaxed);
    let mut run = Run {
        latencies: Vec::new(),
        failed: 0,
        elapsed: Duration::ZERO,
    };
    for worker in workers {
        let (latencies, failed) = worker.join().expect("a worker ends");
        run.latencies.extend(latencies);
        run.failed += failed;
    }
    run.elapsed = start.elapsed();
    run
}

struct Run {
    latencies: Vec<Duration>,
    failed: usize,
    elapsed: Duration,
}
