//! Metrics of the host, for Prometheus.

use std::sync::OnceLock;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// One recorder per process: metrics count the process, however many hosts tests run in it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

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
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("somebody else records metrics in this process");
            }
            handle
        });
        metrics::describe_counter!(
            "antiphon_requests_total",
            "HTTP requests answered, by status"
        );
        metrics::describe_counter!("antiphon_turns_total", "Turns ended, by outcome");
        metrics::describe_histogram!(
            "antiphon_turn_seconds",
            "Time from the start of an instance to its end"
        );
        metrics::describe_gauge!("antiphon_sessions_open", "Sessions in memory");
        Self(handle.clone())
    }

    pub fn request(&self, status: u16) {
        counter!("antiphon_requests_total", "status" => status.to_string()).increment(1);
    }

    pub fn sessions_open(&self, count: usize) {
        gauge!("antiphon_sessions_open").set(count as f64);
    }

    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// A turn ended.
pub fn turn_ended(outcome: &'static str, seconds: f64) {
    counter!("antiphon_turns_total", "outcome" => outcome).increment(1);
    histogram!("antiphon_turn_seconds").record(seconds);
}
