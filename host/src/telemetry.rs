//! Metrics of the host, for Prometheus.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// One recorder per process: metrics count the process, however many hosts tests run in it.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// What every turn counts, found once: finding a metric by its name costs more than counting.
static FREQUENT: OnceLock<Frequent> = OnceLock::new();

struct Frequent {
    /// In the order of [`Stage`].
    stages: [Histogram; 6],
    turn_seconds: Histogram,
    places: Gauge,
}

impl Frequent {
    /// Once there is somebody who records; until then nothing is counted.
    fn find() -> Self {
        Self {
            stages: Stage::ALL.map(|stage| histogram!(STAGE, "stage" => stage.name())),
            turn_seconds: histogram!("antiphon_turn_seconds"),
            places: gauge!(PLACES),
        }
    }
}

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
        metrics::describe_counter!(
            "antiphon_requests_total",
            "HTTP requests answered, by status"
        );
        metrics::describe_counter!("antiphon_turns_total", "Turns ended, by outcome");
        metrics::describe_histogram!(
            "antiphon_turn_seconds",
            "Time from the start of an instance to its end"
        );
        metrics::describe_counter!(
            TOKENS,
            "Tokens of models' calls, by tenant, model and direction (input, output)"
        );
        metrics::describe_counter!(
            COST,
            "What models' calls cost in micro-units, by tenant and model"
        );
        metrics::describe_gauge!("antiphon_sessions_open", "Sessions in memory");
        metrics::describe_gauge!(CONNECTIONS, "Connections of clients that are open");
        metrics::describe_gauge!(
            STREAMS,
            "Event streams, log streams and long polls that are open"
        );
        metrics::describe_counter!(
            LIMITS,
            "What was refused or ended because it had come to a limit, by the limit's name"
        );
        metrics::describe_counter!(COMPUTED, "Microseconds computed in guests, by tenant");
        metrics::describe_gauge!(PLACES, "Turns that have a place to run");
        metrics::describe_gauge!(COMPILING, "Components being compiled");
        // Shown from the start: nothing is under way.
        FREQUENT.get_or_init(Frequent::find).places.increment(0.0);
        gauge!(COMPILING).increment(0.0);
        gauge!(CONNECTIONS).increment(0.0);
        gauge!(STREAMS).increment(0.0);
        for (name, what) in [
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
            metrics::describe_counter!(name, what);
        }
        for (name, what) in [
            (UNDER_WAY, "Calls under way"),
            (WAITING, "Calls that wait for a place"),
            (CIRCUIT, "Circuits: 0 closed, 1 being probed, 2 open"),
        ] {
            metrics::describe_gauge!(name, what);
        }
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

/// Parts of a turn's time, in the order in which they pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the request's head to its answer, all others included.
    Http,
    /// From `turn-started` until the instance may run: waiting for a place, loading the component.
    Admission,
    /// For a turn that is taken up again: from the moment its attempt is durable until it does
    /// something new.
    Replay,
    /// A fresh store and instance.
    Instantiate,
    /// The guest with its host calls.
    Guest,
    /// From handing entries to the store until they are on disk.
    Flush,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Http,
        Self::Admission,
        Self::Replay,
        Self::Instantiate,
        Self::Guest,
        Self::Flush,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Admission => "admission",
            Self::Replay => "replay",
            Self::Instantiate => "instantiate",
            Self::Guest => "guest",
            Self::Flush => "flush",
        }
    }

    /// The stage took from `start` until now.
    pub fn took(self, start: Instant) {
        if let Some(frequent) = FREQUENT.get() {
            frequent.stages[self as usize].record(start.elapsed().as_secs_f64());
        }
    }
}

const STAGE: &str = "antiphon_stage_seconds";

/// A turn ended, this long after it started.
pub fn turn_ended(outcome: &'static str, seconds: f64) {
    counter!("antiphon_turns_total", "outcome" => outcome).increment(1);
    if let Some(frequent) = FREQUENT.get() {
        frequent.turn_seconds.record(seconds);
    }
}

const LIMITS: &str = "antiphon_limits_hit_total";
const COMPUTED: &str = "antiphon_guest_cpu_micros_total";
const PLACES: &str = "antiphon_turns_running";
const COMPILING: &str = "antiphon_compiles_running";

/// A bound that somebody came to. Those that are settings have their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    ComponentBytes,
    /// What a component is made of: too many of something.
    ComponentShape,
    CompileMs,
    CompileMemoryBytes,
    CompilesWaiting,
    MemoryBytes,
    CpuMs,
    CpuTenantMinute,
    TurnMs,
    /// A recursion without an end.
    Stack,
    HostCalls,
    HostCallBytes,
    WrittenBytes,
    Handles,
    ReplyBytes,
    MessageBytes,
    SlotBytes,
    Slots,
    MailboxMessages,
    Recounted,
    CallDepth,
    QuestionBytes,
    QuestionChoices,
    QuestionsTurn,
    QuestionMs,
    QuestionWaitMs,
    HttpCalls,
    HttpMs,
    /// Of a request of an agent or of its answer: body or headers.
    HttpBytes,
    Streams,
    StreamsTenant,
    Connections,
    Handshakes,
    HandshakeMs,
    HeadMs,
    BodyStallMs,
    BodyMs,
    WriteStallMs,
    IdleMs,
    TurnsWaiting,
    TurnsWaitingTenant,
    SessionsOpen,
    Forks,
    RequestBytes,
    StreamBodyBytes,
    StreamOpen,
    StreamProducers,
    StreamForkDepth,
    Subscriptions,
    SubscriptionStreams,
    Webhooks,
    WebhooksTenant,
    DeadLetters,
    Notices,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Self::ComponentBytes => "component_bytes_max",
            Self::ComponentShape => "component_shape",
            Self::CompileMs => "compile_ms_max",
            Self::CompileMemoryBytes => "compile_memory_bytes_max",
            Self::CompilesWaiting => "compiles_waiting_max",
            Self::MemoryBytes => "memory_bytes_max",
            Self::CpuMs => "cpu_ms_max",
            Self::CpuTenantMinute => "cpu_tenant_minute_ms_max",
            Self::TurnMs => "turn_ms_max",
            Self::Stack => "stack",
            Self::HostCalls => "host_calls_max",
            Self::HostCallBytes => "host_call_bytes_max",
            Self::WrittenBytes => "written_bytes_max",
            Self::Handles => "handles_max",
            Self::ReplyBytes => "reply_bytes_max",
            Self::MessageBytes => "message_bytes_max",
            Self::SlotBytes => "slot_bytes_max",
            Self::Slots => "slots_max",
            Self::MailboxMessages => "mailbox_messages_max",
            Self::Recounted => "recounted_max",
            Self::CallDepth => "call_depth_max",
            Self::QuestionBytes => "question_bytes_max",
            Self::QuestionChoices => "question_choices_max",
            Self::QuestionsTurn => "questions_turn_max",
            Self::QuestionMs => "question_ms_max",
            Self::QuestionWaitMs => "question_wait_ms_max",
            Self::HttpCalls => "http_calls_max",
            Self::HttpMs => "http_ms_max",
            Self::HttpBytes => "http_bytes",
            Self::Streams => "streams_max",
            Self::StreamsTenant => "streams_tenant_max",
            Self::Connections => "connections_max",
            Self::Handshakes => "handshakes_max",
            Self::HandshakeMs => "handshake_ms_max",
            Self::HeadMs => "head_ms_max",
            Self::BodyStallMs => "body_stall_ms_max",
            Self::BodyMs => "body_ms_max",
            Self::WriteStallMs => "write_stall_ms_max",
            Self::IdleMs => "idle_ms_max",
            Self::TurnsWaiting => "turns_waiting_max",
            Self::TurnsWaitingTenant => "turns_waiting_tenant_max",
            Self::SessionsOpen => "sessions_open_max",
            Self::Forks => "forks_max",
            Self::RequestBytes => "request_bytes_max",
            Self::StreamBodyBytes => "stream_body_bytes_max",
            Self::StreamOpen => "stream_open_max",
            Self::StreamProducers => "stream_producers_max",
            Self::StreamForkDepth => "stream_fork_depth_max",
            Self::Subscriptions => "subscriptions_max",
            Self::SubscriptionStreams => "subscription_streams_max",
            Self::Webhooks => "webhooks_max",
            Self::WebhooksTenant => "webhooks_tenant_max",
            Self::DeadLetters => "dead_letters_max",
            Self::Notices => "notices_max",
        }
    }
}

/// Somebody came to a limit, and was refused or ended for it.
pub fn hit(limit: Limit) {
    counter!(LIMITS, "limit" => limit.name()).increment(1);
}

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

const TOKENS: &str = "antiphon_model_tokens_total";
const COST: &str = "antiphon_model_cost_micros_total";

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

const CONNECTIONS: &str = "antiphon_connections";
const STREAMS: &str = "antiphon_streams_open";
const ATTEMPTS: &str = "antiphon_call_attempts_total";
const RETRIES: &str = "antiphon_call_retries_total";
const REFUSED: &str = "antiphon_calls_refused_total";
const CACHE: &str = "antiphon_model_cache_total";
const UNDER_WAY: &str = "antiphon_calls_under_way";
const WAITING: &str = "antiphon_calls_waiting";
const CIRCUIT: &str = "antiphon_call_circuit";

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
