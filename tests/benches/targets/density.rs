//! P7: what many sessions cost in memory, at rest, followed, and while their turns wait on a model; and what a quiet turn meets meanwhile.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, percentile, request};
use antiphon_tests::observed::Observed;
use antiphon_tests::process::Process;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::Options;
use super::report::{Bound, Report, Spread};
use super::silent::Silent;

const SESSIONS: usize = 20_000;
const STREAMS: usize = 10_000;
/// Turns that begin to wait at once, and how often as many come: they wait with instances for `INSTANCE_WAIT_MS`, and
/// without them from then on.
const WAVE: usize = 1_000;
const WAVES: usize = 4;
const WAITING: usize = WAVE * WAVES;
/// Long enough for all of a wave to be looked at while they have instances.
const INSTANCE_WAIT_MS: &str = "10000";

const SESSIONS_MB_MAX: f64 = 1_000.0;
const WAITING_KB_MAX: f64 = 64.0;

/// Turns of a quiet session that are measured each time.
const QUIET: usize = 1_000;

/// Connections that open sessions.
const OPENERS: usize = 16;

pub(super) fn measure(_: &Options, report: &mut Report) {
    report.begin("P7", "many sessions, and a quiet one beside them");
    let runtime = Runtime::new().expect("this machine runs threads");
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let clear = runtime.block_on(Silent::in_the_clear());
    let sealed = runtime.block_on(Silent::over_tls(scratch.path()));
    let components = components(&["worker", "talker"]);
    let start = |data: &str, model: &Silent| {
        let [turns, calls, sessions, streams, connections] = [
            WAVE + 10,
            WAITING,
            SESSIONS + 10,
            STREAMS + 10,
            STREAMS + 100,
        ]
        .map(|it| it.to_string());
        let mut settings = vec![
            ("ANTIPHON_MODELS__DEFAULT__BASE_URL", &*model.url),
            // All of them are calls under way.
            ("ANTIPHON_MODELS__DEFAULT__POLICY__CONCURRENT_MAX", &calls),
            ("ANTIPHON_LIMITS__TURNS_MAX", &turns),
            ("ANTIPHON_LIMITS__INSTANCE_WAIT_MS_MAX", INSTANCE_WAIT_MS),
            ("ANTIPHON_LIMITS__TURNS_TENANT_MAX", &turns),
            ("ANTIPHON_LIMITS__SESSIONS_OPEN_MAX", &sessions),
            ("ANTIPHON_LIMITS__STREAMS_MAX", &streams),
            ("ANTIPHON_LIMITS__STREAMS_TENANT_MAX", &streams),
            ("ANTIPHON_LIMITS__CONNECTIONS_MAX", &connections),
        ];
        let certificate = model.certificate.as_deref().and_then(Path::to_str);
        settings.extend(certificate.map(|file| ("SSL_CERT_FILE", file)));
        let data = scratch.path().join(data);
        let server = Process::try_start(&data, &settings).expect("the server starts");
        let mut connection = Connection::open(&server);
        for (agent, component) in ["worker", "talker"].iter().zip(&components) {
            connection.deploy(&server, agent, component);
        }
        server
    };

    // Each on a server of its own, whose memory has only grown: what a process gives back it does when it likes.
    for (how, model) in [("HTTP/2", &sealed), ("HTTP/1.1", &clear)] {
        let mut place = Place::new(start(&how.replace('/', "-"), model), report);
        let empty = place.told("nothing else", 1, Observed::default());
        for n in 0..WAITING {
            place.open(&format!("w{n}"), "talker");
        }
        let open = place.told("4,000 sessions, just opened", WAITING, empty);
        place.ask(model, 0);
        let what = format!("1,000 turns that have just asked a model over {how}");
        place.told(&what, WAVE, open);
        place.put_aside(WAVE);
        // What the first of them had stays with the pool of instances, for the next.
        let first = place.told("the same without their instances", WAVE, open);
        for wave in 1..WAVES {
            place.ask(model, wave);
            place.put_aside((wave + 1) * WAVE);
        }
        let connections = model.connections();
        let what = format!("3,000 more, {connections} connections in all");
        let more = WAITING - WAVE;
        let waiting = place.told(&what, more, first);
        let each = waiting.since(&first).resident_bytes as f64 / more as f64 / 1e3;
        let what = format!("KB for each turn that waits on a model over {how}, beside its session");
        let bound = Bound::AtMost(WAITING_KB_MAX);
        place.report.bound("P7", &what, each, bound);
        place.server.kill();
    }

    let mut place = Place::new(start("sessions", &clear), report);
    let empty = place.told("nothing else, again", 1, Observed::default());
    place.open_all();
    let open = place.told("20,000 sessions, just used", SESSIONS, empty);
    place.rest();
    let resting = place.told("20,000 sessions, at rest", SESSIONS, empty);
    let bounds = [(resting, "at rest"), (open, "just used")];
    for (observed, how) in bounds {
        let what = format!("MB in memory with 20,000 sessions {how}");
        let bound = Bound::AtMost(SESSIONS_MB_MAX);
        let value = observed.resident_mb();
        place.report.bound("P7", &what, value, bound);
    }
    let followed = place.follow(&runtime);
    place.told("10,000 event streams of as many", STREAMS, resting);
    drop(followed);
    place.server.kill();
}

struct Place<'a> {
    server: Process,
    report: &'a mut Report,
}

impl<'a> Place<'a> {
    /// With a session that turns were taken in, so that everything is loaded and every page of the pool was touched.
    fn new(server: Process, report: &'a mut Report) -> Self {
        let place = Self { server, report };
        place.open("quiet", "worker");
        place.quiet();
        place
    }

    fn open(&self, session: &str, agent: &str) {
        let path = format!("/v1/sessions/{session}");
        let body = json!({"agents": [agent]});
        Connection::open(&self.server).json(&self.server, "PUT", &path, &body);
    }

    /// Turns of the quiet session, one after the other.
    fn quiet(&self) -> Vec<Duration> {
        let mut connection = Connection::open(&self.server);
        let go = turn(&self.server, "quiet");
        let once = |_| {
            let start = Instant::now();
            let (status, _) = connection.exchange(&go);
            assert_eq!(status, 200, "a quiet turn completes");
            start.elapsed()
        };
        (0..QUIET).map(once).collect()
    }

    /// What the process holds now, and how a quiet turn fares.
    fn told(&mut self, what: &str, count: usize, before: Observed) -> Observed {
        let observed = Observed::of(&self.server);
        let each = observed.since(&before).resident_bytes as f64 / count as f64 / 1e3;
        let mut quiet = self.quiet();
        let once = |value: f64| Spread::of(&[value]);
        let mut figures = vec![("memory", once(observed.resident_mb()), " MB")];
        if count > 1 {
            figures.push(("each", once(each), " KB"));
        }
        figures.extend([
            ("quiet turn p50", once(percentile(&mut quiet, 0.5)), " ms"),
            ("p99", once(percentile(&mut quiet, 0.99)), " ms"),
        ]);
        self.report.line("P7", what, &figures);
        observed
    }

    /// Each with a turn.
    fn open_all(&self) {
        let (server, next) = (&self.server, AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..OPENERS {
                scope.spawn(|| {
                    let mut connection = Connection::open(server);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= SESSIONS {
                            return;
                        }
                        let path = format!("/v1/sessions/s{n}");
                        connection.json(server, "PUT", &path, &json!({"agents": ["worker"]}));
                        let (status, _) = connection.exchange(&turn(server, &format!("s{n}")));
                        assert_eq!(status, 200, "a turn completes");
                    }
                });
            }
        });
    }

    /// Until sessions that nobody uses have left memory.
    fn rest(&self) {
        let mut connection = Connection::open(&self.server);
        while gauge(&mut connection, &self.server, "antiphon_sessions_open") > 2 {
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A reader for each of so many sessions.
    fn follow(&self, runtime: &Runtime) -> Vec<TcpStream> {
        let (_, address) = self.server.url.split_once("://").expect("a URL");
        let address: SocketAddr = address.parse().expect("an address");
        let follow = |n: usize| {
            let path = format!("/v1/sessions/s{n}/events?live=sse&offset=now");
            let follow = request(&self.server, "GET", &path, "text/plain", b"");
            async move {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                stream.write_all(&follow).await.expect("it is sent");
                stream
            }
        };
        let streams = (0..STREAMS).map(|n| runtime.block_on(follow(n))).collect();
        let mut connection = Connection::open(&self.server);
        while gauge(&mut connection, &self.server, "antiphon_streams_open") < STREAMS {
            std::thread::sleep(Duration::from_millis(20));
        }
        streams
    }

    /// A wave of turns that ask the model, which does not answer.
    fn ask(&self, model: &Silent, wave: usize) {
        let mut connection = Connection::open(&self.server);
        for n in wave * WAVE..(wave + 1) * WAVE {
            let path = format!("/v1/sessions/w{n}/messages");
            connection.json(&self.server, "POST", &path, &json!({"body": "Go on."}));
        }
        while model.asked() < (wave + 1) * WAVE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Until so many of them have no instance.
    fn put_aside(&self, count: usize) {
        let mut connection = Connection::open(&self.server);
        let name = "antiphon_limits_hit_total{limit=\"instance_wait_ms_max\"}";
        let aside = |text: &str| text.lines().find_map(|line| value(line, name));
        while aside(&connection.metrics(&self.server)).unwrap_or(0) < count {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn turn(server: &Process, session: &str) -> Vec<u8> {
    let body = json!({"session": session, "body": "go"}).to_string();
    let path = "/v1/agents/worker/invoke";
    request(server, "POST", path, "application/json", body.as_bytes())
}

fn gauge(connection: &mut Connection, server: &Process, name: &str) -> usize {
    let metrics = connection.metrics(server);
    let mut values = metrics.lines().filter_map(|line| value(line, name));
    values.next().expect("a gauge")
}

/// Of a line of metrics, if it is this one.
fn value(line: &str, name: &str) -> Option<usize> {
    line.strip_prefix(name)?.trim().parse().ok()
}
