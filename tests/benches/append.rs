//! Appends to Durable Streams: the real binary on a scratch folder, keep-alive connections that each append again and
//! again and wait for the answer, which leaves when the bytes are on disk.
//!
//! `cargo bench -p antiphon-tests --bench append -- SECONDS`, 5 unless said otherwise. The folder is where `TMPDIR` says.

#![allow(clippy::print_stdout, reason = "it says what it measured")]

use std::time::Duration;

use antiphon_tests::load::{Connection, exchanges, percentile, request};
use antiphon_tests::process::Process;

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let mut connection = Connection::open(&server);
    println!("connections  streams  bytes  appends/s  p50 ms  p99 ms");
    for (round, (connections, streams, bytes)) in [
        (1, 1, 300),
        (8, 8, 300),
        (64, 64, 300),
        (64, 1, 300),
        (64, 64, 4_000),
    ]
    .into_iter()
    .enumerate()
    {
        let path = |n: usize| format!("/v1/stream/r{round}/s{}", n % streams);
        for n in 0..streams {
            let (status, _) =
                connection.exchange(&request(&server, "PUT", &path(n), "text/plain", b""));
            assert_eq!(status, 201);
        }
        let body = vec![b'x'; bytes];
        let append = |n: usize| request(&server, "POST", &path(n), "text/plain", &body);
        let time = Duration::from_secs(seconds);
        let mut run = exchanges(&server, connections, time, 204, append);
        assert_eq!(run.failed, 0);
        println!(
            "{connections:>11}  {streams:>7}  {bytes:>5}  {:>9.0}  {:>6.2}  {:>6.2}",
            run.per_second(),
            percentile(&mut run.latencies, 0.5),
            percentile(&mut run.latencies, 0.99),
        );
    }
    server.terminate();
}
