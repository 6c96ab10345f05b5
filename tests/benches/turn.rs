//! P1: a durable turn over HTTP, and where its time goes.
//!
//! `cargo bench -p antiphon-tests --bench turn [-- SECONDS]` starts the real binary on a
//! fresh data folder, deploys the agent `worker` (pull, read a slot, lock it, commit it,
//! say one chunk), and drives it over keep-alive connections on loopback: the load
//! generator shares the machine. Prints turns per second, latencies, and the mean
//! of each stage from the server's own histograms. Absolute figures belong to the machine;
//! docs/performance.md says on which they were taken.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use antiphon_tests::load::{Connection, components, open_sessions, percentile, turns};
use antiphon_tests::process::Process;

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
    open_sessions(&server, 64);
    // Once around, so that every session is open and every page of the pool was touched.
    turns(&server, 64, Duration::from_secs(1));
    for connections in [1, 64] {
        let before = connection.stages(&server);
        let mut run = turns(&server, connections, Duration::from_secs(seconds));
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
