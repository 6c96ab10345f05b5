//! What a host comes to as load grows, and what of it is used up first.
//!
//! `cargo bench -p antiphon-tests --bench growth [-- SECONDS]` drives durable turns over 1 to 512 connections, so many seconds
//! each (3), and prints beside the rate what a turn takes of the server's process: computing, writes to the disk, bytes
//! on it. Where the rate stands still, the column that has come to the machine's own figure says why. Then the same for
//! appends of 300 bytes to streams, which run no guest.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use antiphon_tests::load::{
    Connection, Run, components, exchanges, open_sessions, percentile, request, turns,
};
use antiphon_tests::observed::Observed;
use antiphon_tests::process::Process;

const CONNECTIONS: [usize; 5] = [1, 8, 64, 256, 512];

fn main() {
    let seconds = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(3));
    let worker = components(&["worker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "worker", &worker);
    let most = CONNECTIONS.into_iter().max().unwrap_or_default();
    open_sessions(&server, most);
    let append = |n: usize| {
        let path = format!("/v1/stream/s{n}");
        request(&server, "POST", &path, "text/plain", &[b'x'; 300])
    };
    for n in 0..most {
        let path = format!("/v1/stream/s{n}");
        let made = request(&server, "PUT", &path, "text/plain", b"");
        assert_eq!(connection.exchange(&made).0, 201);
    }
    // Once around, so that every session is open and every page of the pool was touched.
    turns(&server, most, time);
    println!("durable turns");
    for connections in CONNECTIONS {
        measure(&server, connections, || turns(&server, connections, time));
    }
    println!("durable appends of 300 B");
    for connections in CONNECTIONS {
        measure(&server, connections, || {
            exchanges(&server.url, connections, time, 204, append)
        });
    }
    server.terminate();
}

fn measure(server: &Process, connections: usize, load: impl FnOnce() -> Run) {
    let before = Observed::of(server);
    let mut run = load();
    let used = Observed::of(server).since(&before);
    assert_eq!(run.failed, 0, "all succeed");
    let count = run.latencies.len() as f64;
    println!(
        "{connections:>5} connections: {:>7.0}/s, p50 {:>6.2} ms, p99 {:>6.2} ms; {:>4.2} cores, {:>5.0} µs of computing, {:>5.2} writes, {:>5.1} KB to the disk each",
        run.per_second(),
        percentile(&mut run.latencies, 0.5),
        percentile(&mut run.latencies, 0.99),
        used.cpu.as_secs_f64() / run.elapsed.as_secs_f64(),
        used.cpu.as_secs_f64() * 1e6 / count,
        used.write_calls as f64 / count,
        used.written_bytes as f64 / count / 1e3,
    );
}
