//! What agents use: computing, models, and calls that leave the host.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

const COMPUTED: &str = "antiphon_guest_cpu_micros_total";
const TOKENS: &str = "antiphon_model_tokens_total";
const COST: &str = "antiphon_model_cost_micros_total";
const ATTEMPTS: &str = "antiphon_call_attempts_total";
const RETRIES: &str = "antiphon_call_retries_total";
const REFUSED: &str = "antiphon_calls_refused_total";
const CACHE: &str = "antiphon_model_cache_total";
const UNDER_WAY: &str = "antiphon_calls_under_way";
const WAITING: &str = "antiphon_calls_waiting";
const CIRCUIT: &str = "antiphon_call_circuit";

pub(super) fn describe() {
    for (name, what) in [
        (COMPUTED, "Microseconds computed in guests, by tenant"),
        (
            TOKENS,
            "Tokens of models' calls, by tenant, model and direction (input, output)",
        ),
        (
            COST,
            "What models' calls cost in micro-units, by tenant and model",
        ),
        (
            ATTEMPTS,
            "Attempts of calls that leave the host, by outcome",
        ),
        (RETRIES, "Attempts that repeat one that failed or was lost"),
        (REFUSED, "Calls refused before anything was sent, by reason"),
        (
            CACHE,
            "Requests to models that may be answered from the cache, by what was found",
        ),
    ] {
        describe_counter!(name, what);
    }
    for (name, what) in [
        (UNDER_WAY, "Calls under way"),
        (WAITING, "Calls that wait for a place"),
        (CIRCUIT, "Circuits: 0 closed, 1 being probed, 2 open"),
    ] {
        describe_gauge!(name, what);
    }
}

/// What the agents of one tenant use of this host.
pub struct TenantMetrics {
    computed: Counter,
}

impl std::fmt::Debug for TenantMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantMetrics").finish_non_exhaustive()
    }
}

impl TenantMetrics {
    pub fn new(tenant: &str) -> Self {
        Self {
            computed: counter!(COMPUTED, "tenant" => tenant.to_owned()),
        }
    }

    pub fn computed(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.computed.increment(micros);
    }
}

/// What a call of a model used, as it was booked.
#[derive(Debug, Clone, Copy)]
pub struct ModelUse<'a> {
    pub tenant: &'a str,
    pub model: &'a str,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_micros: u64,
}

impl ModelUse<'_> {
    /// A model that used nothing gets no series of its own: agents ask for any name.
    pub fn count(self) {
        let tokens = [("input", self.input_tokens), ("output", self.output_tokens)];
        for (direction, count) in tokens.into_iter().filter(|(_, count)| *count > 0) {
            let (tenant, model) = (self.tenant.to_owned(), self.model.to_owned());
            counter!(TOKENS, "tenant" => tenant, "model" => model, "direction" => direction)
                .increment(count);
        }
        if self.cost_micros > 0 {
            let (tenant, model) = (self.tenant.to_owned(), self.model.to_owned());
            counter!(COST, "tenant" => tenant, "model" => model).increment(self.cost_micros);
        }
    }
}

/// A request looked for an answer: `hit`, `joined` or `miss`.
pub fn cache_asked(tenant: &str, model: &str, outcome: &'static str) {
    let labels = [
        ("tenant", tenant.to_owned()),
        ("target", model.to_owned()),
        ("outcome", outcome.to_owned()),
    ];
    counter!(CACHE, &labels).increment(1);
}

/// Calls of one tenant to one target. Several of the same labels add up.
#[derive(Clone)]
pub struct CallMetrics {
    tenant: String,
    target: String,
    under_way: Gauge,
    waiting: Gauge,
    circuit: Gauge,
}

impl std::fmt::Debug for CallMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallMetrics").finish_non_exhaustive()
    }
}

impl CallMetrics {
    /// `target` is one of few names: of a configured model, or of a kind of targets.
    pub fn new(tenant: &str, target: &str) -> Self {
        let gauge = |name: &'static str| {
            let labels = [("tenant", tenant.to_owned()), ("target", target.to_owned())];
            gauge!(name, &labels)
        };
        Self {
            under_way: gauge(UNDER_WAY),
            waiting: gauge(WAITING),
            circuit: gauge(CIRCUIT),
            tenant: tenant.to_owned(),
            target: target.to_owned(),
        }
    }

    /// So many more, or fewer.
    pub fn under_way(&self, more: i64) {
        self.under_way.increment(more as f64);
    }

    pub fn waiting(&self, more: i64) {
        self.waiting.increment(more as f64);
    }

    /// The circuit's level rose or fell by this.
    pub fn circuit(&self, more: f64) {
        if more != 0.0 {
            self.circuit.increment(more);
        }
    }

    pub fn attempted(&self, outcome: &'static str) {
        self.count(ATTEMPTS, "outcome", outcome);
    }

    pub fn refused(&self, reason: &'static str) {
        self.count(REFUSED, "reason", reason);
    }

    pub fn retried(&self) {
        let labels = [
            ("tenant", self.tenant.clone()),
            ("target", self.target.clone()),
        ];
        counter!(RETRIES, &labels).increment(1);
    }

    fn count(&self, name: &'static str, label: &'static str, value: &'static str) {
        let labels = [
            ("tenant", self.tenant.clone()),
            ("target", self.target.clone()),
            (label, value.to_owned()),
        ];
        counter!(name, &labels).increment(1);
    }
}
