//! One session to many readers: the real binary on a scratch folder, plain connections that follow the events of one
//! session, while turns go on in it.
//!
//! `cargo bench -p antiphon-tests --bench fanout -- READERS SECONDS`, 1,000 and 5 unless said otherwise. What is counted is
//! events that reached a reader, of all readers together, from the first turn until every reader has the last event; and that
//! each has all of them, once.

#![allow(clippy::print_stdout, reason = "it says what it measured")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request};
use antiphon_tests::process::Process;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|it| it.parse().ok()).collect();
    let readers = *numbers.first().unwrap_or(&1_000);
    let seconds = *numbers.get(1).unwrap_or(&5);
    let worker = components(&["worker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");
    let room = (readers + 10).to_string();
    let settings = [
        ("ANTIPHON_LIMITS__STREAMS_MAX", room.as_str()),
        ("ANTIPHON_LIMITS__STREAMS_TENANT_MAX", room.as_str()),
    ];
    let server = Process::try_start(data.path(), &settings).expect("the server starts");
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "worker", &worker);
    let agents = json!({"agents": ["worker"]});
    connection.json(&server, "PUT", "/v1/sessions/b0", &agents);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (_, address) = server.url.split_once("://").expect("a URL");
    let address: SocketAddr = address.parse().expect("an address");
    let follow = request(
        &server,
        "GET",
        "/v1/sessions/b0/events?live=sse&offset=now",
        "text/plain",
        b"",
    );
    let (last, wanted) = watch::channel(None::<String>);
    let tasks: Vec<_> = (0..readers)
        .map(|_| runtime.spawn(read(address, follow.clone(), wanted.clone())))
        .collect();
    // All are there once the server counts them.
    while !connection.metrics(&server).lines().any(|line| {
        line.starts_with("antiphon_streams_open") && line.ends_with(&format!(" {readers}"))
    }) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        let begun = Instant::now();
        let body = json!({"session": "b0", "body": "go"});
        connection.json(&server, "POST", "/v1/agents/worker/invoke", &body);
        latencies.push(begun.elapsed());
    }
    let page = connection.json(
        &server,
        "GET",
        "/v1/sessions/b0/events?offset=-1",
        &json!({}),
    );
    let mut at = page["offset"].as_str().expect("an offset").to_owned();
    loop {
        let path = format!("/v1/sessions/b0/events?offset={at}");
        let page = connection.json(&server, "GET", &path, &json!({}));
        at = page["offset"].as_str().expect("an offset").to_owned();
        if page["up_to_date"] == json!(true) {
            break;
        }
    }
    last.send_replace(Some(at));
    let found: Vec<(usize, Instant)> = tasks
        .into_iter()
        .map(|task| runtime.block_on(task).expect("a reader ends"))
        .collect();
    let end = found.iter().map(|(_, end)| *end).max().unwrap_or(start);
    let counts: Vec<usize> = found.iter().map(|(count, _)| *count).collect();
    assert!(
        counts.iter().all(|count| *count == counts[0]),
        "all have all"
    );
    let (took, all) = ((end - start).as_secs_f64(), counts.iter().sum::<usize>());
    println!(
        "{readers} readers, {} events each from {} turns in {took:.1} s: {:.0} events/s delivered; a turn p50 {:.2} ms, p99 {:.2} ms",
        counts[0],
        latencies.len(),
        all as f64 / took,
        percentile(&mut latencies, 0.5),
        percentile(&mut latencies, 0.99),
    );
    server.terminate();
}

/// Follow until the last event is there; how many came, and when that was.
async fn read(
    address: SocketAddr,
    follow: Vec<u8>,
    mut wanted: watch::Receiver<Option<String>>,
) -> (usize, Instant) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(&follow).await.expect("it is sent");
    let (mut count, mut newest, mut rest) = (0, String::new(), Vec::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let is_over = |newest: &str, wanted: &Option<String>| wanted.as_deref() == Some(newest);
        if is_over(&newest, &wanted.borrow_and_update()) {
            return (count, Instant::now());
        }
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read.expect("the stream is whole"),
            _ = wanted.changed() => continue,
        };
        assert!(read > 0, "the server hung up");
        rest.extend_from_slice(&buffer[..read]);
        // Whole lines; a chunk's length stands on a line of its own.
        let whole = rest
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n') {
            if let Some(id) = line.strip_prefix(b"id: ") {
                count += 1;
                newest.clear();
                newest.push_str(&String::from_utf8_lossy(id));
            }
        }
        rest.drain(..whole);
    }
}
