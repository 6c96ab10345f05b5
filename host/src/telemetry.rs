//! Metrics of the host, for Prometheus.
//!
//! - here: the recorder, and what is under way. [`stages`]: where the time of a turn goes. `limits`: bounds that somebody came
//!   to. `usage`: what agents use.
//!
//! Samples of histograms gather until somebody sorts them in: [`Telemetry::keep`] does so while nobody asks for them.

pub mod stages;

mod limits;
mod usage;

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::time::MissedTickBehavior;

pub use limits::{Limit, hit};
pub use stages::Stage;
pub use usage::{CallMetrics, ModelUse, TenantMetrics, cache_asked};

/// One recorder per process: metrics count the process, however many hosts tests run in it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// What every turn counts, found once: finding a metric by its name costs more than counting.
static FREQUENT: OnceLock<Frequent> = OnceLock::new();

struct Frequent {
    /// By status, from 100 on, each once there is an answer with it.
    requests: [OnceLock<Counter>; 500],
    turn_seconds: Histogram,
    places: Gauge,
}

impl Frequent {
    /// Once there is somebody who records; until then nothing is counted.
    fn find() -> Self {
        Self {
            requests: [const { OnceLock::new() }; 500],
            turn_seconds: histogram!("antiphon_turn_seconds"),
            places: gauge!(PLACES),
        }
    }
}

/// How long samples gather: at ten thousand turns a second, 12 MB of them.
const SORT_IN_EVERY: Duration = Duration::from_secs(5);

/// Seconds: from an instantiation (tens of microseconds) to a slow model's answer.
const BUCKETS: [f64; 12] = [
    0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0,
];

#[derive(Clone)]
pub struct Telemetry(PrometheusHandle);

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    pub fn new() -> Self {
        let handle = RECORDER.get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets(&BUCKETS)
                .expect("there are buckets")
                .build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("somebody else records metrics in this process");
            }
            handle
        });
        metrics::describe_counter!(REQUESTS, "HTTP requests answered, by status");
        metrics::describe_counter!("antiphon_turns_total", "Turns ended, by outcome");
        metrics::describe_histogram!(
            "antiphon_turn_seconds",
            "Time from the start of an instance to its end"
        );
        metrics::describe_gauge!("antiphon_sessions_open", "Sessions in memory");
        metrics::describe_gauge!(CONNECTIONS, "Connections of clients that are open");
        metrics::describe_gauge!(
            STREAMS,
            "Event streams, log streams and long polls that are open"
        );
        metrics::describe_gauge!(PLACES, "Turns that have a place to run");
        metrics::describe_gauge!(COMPILING, "Components being compiled");
        // Shown from the start: nothing is under way.
        FREQUENT.get_or_init(Frequent::find).places.increment(0.0);
        gauge!(COMPILING).increment(0.0);
        gauge!(CONNECTIONS).increment(0.0);
        gauge!(STREAMS).increment(0.0);
        stages::describe();
        limits::describe();
        usage::describe();
        Self(handle.clone())
    }

    pub fn request(&self, status: u16) {
        let find = || counter!(REQUESTS, "status" => status.to_string());
        let frequent = FREQUENT.get();
        let known = frequent.and_then(|it| it.requests.get(usize::from(status).checked_sub(100)?));
        match known {
            Some(known) => known.get_or_init(find).increment(1),
            None => find().increment(1),
        }
    }

    pub fn sessions_open(&self, count: usize) {
        gauge!("antiphon_sessions_open").set(count as f64);
    }

    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }

    /// Sort samples in, for as long as the host runs.
    pub async fn keep(self) {
        let mut every = tokio::time::interval(SORT_IN_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.0.run_upkeep();
        }
    }
}

/// A turn ended, this long after it started.
pub fn turn_ended(outcome: &'static str, seconds: f64) {
    counter!("antiphon_turns_total", "outcome" => outcome).increment(1);
    if let Some(frequent) = FREQUENT.get() {
        frequent.turn_seconds.record(seconds);
    }
}

const REQUESTS: &str = "antiphon_requests_total";
const PLACES: &str = "antiphon_turns_running";
const COMPILING: &str = "antiphon_compiles_running";
const CONNECTIONS: &str = "antiphon_connections";
const STREAMS: &str = "antiphon_streams_open";

/// Something that is under way, as long as this lives.
pub struct UnderWay(Gauge);

impl std::fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnderWay").finish_non_exhaustive()
    }
}

impl UnderWay {
    /// A turn has a place.
    pub fn turn() -> Self {
        let places = FREQUENT.get().map(|frequent| frequent.places.clone());
        Self::new(places.unwrap_or_else(|| gauge!(PLACES)))
    }

    /// A component is compiled.
    pub fn compile() -> Self {
        Self::new(gauge!(COMPILING))
    }

    /// A client is connected.
    pub fn connection() -> Self {
        Self::new(gauge!(CONNECTIONS))
    }

    /// A client follows something.
    pub fn stream() -> Self {
        Self::new(gauge!(STREAMS))
    }

    fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
