//! P4: what the host adds to each piece of an answer, from the provider to whoever follows the session.
//!
//! A provider in this process streams an answer piece by piece, each with the time it left. In each round a plain
//! client reads an answer from the provider itself, then somebody follows a session in which an agent relays one, alone and
//! beside other sessions that do the same. What is measured is always the same: from the moment the provider
//! writes a piece to the moment the reader has it, with everything on disk before it is shown.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request, request_as};
use antiphon_tests::process::Process;
use serde_json::json;

use super::Options;
use super::report::{Bound, Report, Spread};

const ALONE_MS_MAX: f64 = 1.0;
const BESIDE_MS_MAX: f64 = 5.0;

/// Sessions that relay an answer at the same time.
const OTHERS: usize = 32;

/// Of an answer, and the time between: a quick model's.
const PIECES: usize = 150;
const PAUSE: Duration = Duration::from_millis(15);

pub(super) fn measure(options: &Options, report: &mut Report) {
    let beside = format!("of a session, beside {OTHERS}");
    report.begin(
        "P4",
        "a piece of an answer, from the provider to the reader",
    );
    let provider = provider();
    let talker = components(&["talker"]).remove(0);
    let data = tempfile::tempdir().expect("a scratch folder");
    let model = [("ANTIPHON_MODEL_URL", &*provider)];
    let server = Process::try_start(data.path(), &model).expect("the server starts");
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "talker", &talker);
    for n in 0..=OTHERS {
        let path = format!("/v1/sessions/s{n}");
        connection.json(&server, "PUT", &path, &json!({"agents": ["talker"]}));
    }
    let asked = request_as("", "POST", "/chat/completions", "application/json", b"{}");
    let mut readers = [
        Reader::named("of the provider"),
        Reader::named("of a session"),
        Reader::named(&beside),
    ];
    // The first round is for touching everything.
    for round in 0..=options.rounds {
        let latencies = [
            read(&provider, &asked),
            relayed(&server, &mut connection, 0),
            relayed(&server, &mut connection, OTHERS),
        ];
        for (reader, mut latencies) in readers.iter_mut().zip(latencies) {
            if round > 0 {
                reader.p50_ms.push(percentile(&mut latencies, 0.5));
                reader.p99_ms.push(percentile(&mut latencies, 0.99));
            }
        }
    }
    let direct = Spread::of(&readers[0].p50_ms).median;
    for reader in &readers {
        let p50 = Spread::of(&reader.p50_ms);
        let added = Spread::of(&[p50.median - direct]);
        let p99 = Spread::of(&reader.p99_ms);
        let figures = [
            ("p50", p50, " ms"),
            ("p99", p99, " ms"),
            ("added", added, " ms"),
        ];
        report.line("P4", &reader.name, &figures);
    }
    let bounds = [(ALONE_MS_MAX, "alone"), (BESIDE_MS_MAX, "beside others")];
    for (reader, (bound, how)) in readers[1..].iter().zip(bounds) {
        let added = Spread::of(&reader.p50_ms).median - direct;
        let what = format!("ms added to a piece's p50, {how}");
        report.bound("P4", &what, added, Bound::AtMost(bound));
    }
}

/// Who reads an answer, and how late its pieces were in each round.
struct Reader {
    name: String,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Reader {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            p50_ms: Vec::new(),
            p99_ms: Vec::new(),
        }
    }
}

/// Nanoseconds since the beginning, the same for everybody here.
fn now() -> u128 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos()
}

/// Streams an answer to whatever is asked, and says where it is.
fn provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || while answer(&stream).is_some() {});
        }
    });
    format!("http://{address}")
}

/// None once the client has gone.
fn answer(mut stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut asked, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        asked.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&asked);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lengths = head.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().ok())?
        });
        let length: usize = lengths.sum();
        if body.len() >= length {
            break;
        }
    }
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    let mut send = |event: &str| {
        let data = format!("data: {event}\n\n");
        let chunk = format!("{:x}\r\n{data}\r\n", data.len());
        stream.write_all(chunk.as_bytes()).ok()
    };
    for _ in 0..PIECES {
        std::thread::sleep(PAUSE);
        let choice = json!({"index": 0, "delta": {"content": format!("T{};", now())}});
        send(&json!({"object": "chat.completion.chunk", "choices": [choice]}).to_string())?;
    }
    let choice = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    send(&json!({"object": "chat.completion.chunk", "choices": [choice]}).to_string())?;
    send("[DONE]")?;
    stream.write_all(b"0\r\n\r\n").ok()
}

/// Ask, and read until all pieces have come: how long each took.
fn read(url: &str, asked: &[u8]) -> Vec<Duration> {
    let (_, address) = url.split_once("://").expect("a URL");
    let mut stream = TcpStream::connect(address).expect("it accepts");
    stream.write_all(asked).expect("it is sent");
    arriving(stream)
}

fn arriving(mut stream: TcpStream) -> Vec<Duration> {
    let (mut text, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let mut latencies = Vec::new();
    while latencies.len() < PIECES {
        let read = stream.read(&mut buffer).expect("it is open");
        assert!(read > 0, "the stream ended early");
        let arrived = now();
        text.extend_from_slice(&buffer[..read]);
        // A piece is `T`, its time, `;`. What is no piece is passed over.
        while let Some(end) = text.iter().position(|byte| *byte == b';') {
            let before: Vec<u8> = text.drain(..=end).collect();
            let digits = before
                .iter()
                .rev()
                .skip(1)
                .take_while(|byte| byte.is_ascii_digit());
            let count = digits.count();
            let start = before.len() - 1 - count;
            if count > 0 && start > 0 && before[start - 1] == b'T' {
                let sent = String::from_utf8_lossy(&before[start..before.len() - 1]);
                let sent: u128 = sent.parse().expect("digits");
                let nanos = u64::try_from(arrived - sent).expect("less than an age");
                latencies.push(Duration::from_nanos(nanos));
            }
        }
    }
    latencies
}

/// Follow a session in which an answer is relayed, while the same goes on in so many others.
fn relayed(server: &Process, connection: &mut Connection, others: usize) -> Vec<Duration> {
    let followers: Vec<_> = (0..=others)
        .map(|n| {
            let path = format!("/v1/sessions/s{n}/events?live=sse&offset=now");
            let follow = request(server, "GET", &path, "text/plain", b"");
            let (_, address) = server.url.split_once("://").expect("a URL");
            let mut stream = TcpStream::connect(address).expect("it accepts");
            stream.write_all(&follow).expect("it is sent");
            // It is connected once the head is there.
            let mut head = Vec::new();
            while !head.ends_with(b": connected\n\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a head");
                head.push(byte[0]);
            }
            std::thread::spawn(move || arriving(stream))
        })
        .collect();
    for n in 0..=others {
        let path = format!("/v1/sessions/s{n}/messages");
        connection.json(server, "POST", &path, &json!({"body": "Go on."}));
    }
    let mut latencies: Vec<_> = followers
        .into_iter()
        .map(|follower| follower.join().expect("it reads"))
        .collect();
    latencies.swap_remove(0)
}
