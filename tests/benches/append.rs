//! Appends to Durable Streams: the real binary on a scratch folder, keep-alive connections that each append again and
//! again and wait for the answer, which leaves when the bytes are on disk.
//!
//! `cargo bench -p antiphon-tests --bench append -- SECONDS`, 5 unless said otherwise. The folder is where `TMPDIR` says.
//! With a URL after that, another server that runs there is asked the same, for comparison.

#![allow(clippy::print_stdout, reason = "it says what it measured")]

use std::time::Duration;

use antiphon_tests::load::{Connection, exchanges, percentile, request_as};
use antiphon_tests::process::Process;

fn main() {
    let seconds = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(5);
    let data = tempfile::tempdir().expect("a scratch folder");
    let other = std::env::args().find(|argument| argument.starts_with("http://"));
    let own = other.is_none().then(|| Process::start(data.path()));
    let (url, key) = match (&own, other) {
        (Some(own), _) => (own.url.clone(), own.key.clone()),
        (None, other) => (other.unwrap_or_default(), "none".to_owned()),
    };
    let mut connection = Connection::to(&url);
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
                connection.exchange(&request_as(&key, "PUT", &path(n), "text/plain", b""));
            assert_eq!(status, 201);
        }
        let body = vec![b'x'; bytes];
        let append = |n: usize| request_as(&key, "POST", &path(n), "text/plain", &body);
        let time = Duration::from_secs(seconds);
        let mut run = exchanges(&url, connections, time, 204, append);
        assert_eq!(run.failed, 0);
        println!(
            "{connections:>11}  {streams:>7}  {bytes:>5}  {:>9.0}  {:>6.2}  {:>6.2}",
            run.per_second(),
            percentile(&mut run.latencies, 0.5),
            percentile(&mut run.latencies, 0.99),
        );
    }
    if let Some(own) = own {
        own.terminate();
    }
}
