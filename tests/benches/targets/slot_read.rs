//! P5: a slot is read while another turn holds its lock, guest and host call together.
//!
//! In this process, with the library that the binary is made of: the host marks each call of a guest for `tracing`, and here
//! somebody listens. From one mark to the next a guest has been given its answer, has gone around its loop, and has called
//! again. The holder sleeps with the lock in its hands.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use antiphon::config::Config;
use antiphon::shutdown::Shutdown;
use antiphon_tests::load::{components, percentile};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::Options;
use super::report::{Bound, Report, Spread};

const P99_US_MAX: f64 = 100.0;

/// In a turn.
const READS: usize = 10_000;

/// What is read: a page of text.
const DOCUMENT_BYTES: usize = 2_000;

/// How long the holder holds it: longer than the reader reads.
const HELD_MS: u64 = 20_000;

pub(super) fn measure(options: &Options, report: &mut Report) {
    report.begin("P5", "a slot of 2 KB is read, guest and host call together");
    let marks = Marks::default();
    let listens = marks.clone().with_filter(Targets::new().with_target(
        "antiphon::stage",
        tracing_subscriber::filter::LevelFilter::TRACE,
    ));
    let subscriber = tracing_subscriber::registry().with(listens);
    tracing::subscriber::set_global_default(subscriber).expect("nobody listens yet");
    let runtime = tokio::runtime::Runtime::new().expect("this machine runs threads");
    let found = runtime.block_on(read(&marks, options.rounds));
    for (how, mut reads) in [
        ("nobody holds the lock", found.free),
        ("locked", found.locked),
    ] {
        let at = |part| percentile(&mut reads, part) * 1e3;
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(at);
        let figures = [("p50", p50), ("p99", p99), ("worst", worst)];
        let figures = figures.map(|(name, us)| (name, Spread::of(&[us]), " µs"));
        report.line("P5", how, &figures);
        if how == "locked" {
            let what = "µs p99 of a read while another turn holds the lock";
            report.bound("P5", what, p99, Bound::AtMost(P99_US_MAX));
        }
    }
}

/// When guests called, since this was asked last.
#[derive(Clone, Default)]
struct Marks(Arc<Mutex<Vec<Instant>>>);

impl Marks {
    fn take(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

impl<S: tracing::Subscriber> Layer<S> for Marks {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        let now = Instant::now();
        self.0.lock().expect("nobody panics with it").push(now);
    }
}

struct Found {
    free: Vec<Duration>,
    locked: Vec<Duration>,
}

async fn read(marks: &Marks, rounds: usize) -> Found {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let config = Config {
        data: folder.path().join("data"),
        ..Config::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (data, shutdown) = (config.data.clone(), Shutdown::new());
    let server = tokio::spawn(antiphon::serve(listener, config, shutdown.clone()));
    let client = reqwest::Client::new();
    let ready = client.get(format!("{url}/readyz")).send().await;
    assert!(
        ready.expect("an answer").status().is_success(),
        "it is ready"
    );
    let key = std::fs::read_to_string(data.join("default.key")).expect("its key");
    let asked = Asked { client, url, key };

    let puppet = std::fs::read(components(&["puppet"]).remove(0)).expect("the component");
    for agent in ["reader", "holder"] {
        asked.deploy(agent, puppet.clone()).await;
    }
    let both = json!({"agents": ["reader", "holder"], "entry": "reader"});
    asked.json("PUT", "/v1/sessions/s", both).await;
    asked
        .invoke(
            "holder",
            json!([{"commit": ["page", "x".repeat(DOCUMENT_BYTES)]}]),
        )
        .await;
    let reads = json!([{"reads": ["page", READS]}]);
    // Once around, so that everything is touched.
    asked.invoke("reader", reads.clone()).await;
    marks.take();
    let mut found = Found {
        free: Vec::new(),
        locked: Vec::new(),
    };
    for _ in 0..rounds {
        asked.invoke("reader", reads.clone()).await;
        found.free.extend(between(&marks.take()));
    }
    let hold = json!([{"lock": "page"}, {"sleep": HELD_MS}]);
    let body = json!({"to": "holder", "body": hold});
    asked.json("POST", "/v1/sessions/s/messages", body).await;
    while asked
        .json("GET", "/v1/sessions/s/slots/page", Value::Null)
        .await["state"]
        == "idle"
    {
        tokio::task::yield_now().await;
    }
    marks.take();
    for _ in 0..rounds {
        asked.invoke("reader", reads.clone()).await;
        found.locked.extend(between(&marks.take()));
    }
    let slot = asked
        .json("GET", "/v1/sessions/s/slots/page", Value::Null)
        .await;
    assert_ne!(slot["state"], "idle", "it was held all the time: {slot}");
    let interrupt = "/v1/sessions/s/interrupt";
    asked
        .json("POST", interrupt, json!({"agent": "holder"}))
        .await;
    shutdown.stop();
    server.await.expect("it ends").expect("in order");
    found
}

/// From each mark to the next, but for the calls around the reads.
fn between(marks: &[Instant]) -> impl Iterator<Item = Duration> {
    assert!(marks.len() >= READS, "each read is marked: {}", marks.len());
    marks
        .windows(2)
        .skip(2)
        .take(READS - 2)
        .map(|pair| pair[1] - pair[0])
}

struct Asked {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Asked {
    async fn send(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request
            .bearer_auth(&self.key)
            .send()
            .await
            .expect("an answer");
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        assert!(status.is_success(), "{status} {body}");
        body
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> Value {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.url));
        self.send(request.json(&body)).await
    }

    async fn deploy(&self, agent: &str, component: Vec<u8>) {
        let request = self.client.put(format!("{}/v1/agents/{agent}", self.url));
        let request = request.header("content-type", "application/wasm");
        self.send(request.body(component)).await;
    }

    async fn invoke(&self, agent: &str, script: Value) {
        let body = json!({"session": "s", "body": script});
        self.json("POST", &format!("/v1/agents/{agent}/invoke"), body)
            .await;
    }
}
