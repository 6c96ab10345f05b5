//! Calls of language models.
//!
//! Owns what a request and an answer are for the host, the configured providers by
//! name, and one call from the first byte out to the last delta in. A leaf: it knows
//! no session, no journal and no guest. The types mirror `wit/model.wit`.
//!
//! - `wire.rs`: the provider's JSON, and a request's canonical bytes.
//! - `sse.rs`, `tool_calls.rs`, `decoder.rs`: from bytes to deltas.
//! - `config.rs`: one configured model. `client.rs`: one HTTP call, `connections.rs`: over what.
//! - `policy.rs`: how calls are made, pure. `admission.rs`: who may make one now.
//! - `cache.rs`: answers that may be given again.
//! - `offline.rs`: the built-in provider.
//! - [`scripted`]: a test double, a provider that answers by script.
//!
//! Invariant: one [`Models::open`] makes at most one request to a provider, and only who was
//! admitted makes one. When an attempt is followed by another is decided here ([`Models::next`]), but
//! done above, where it can be written down first.
//! Invariant: an [`Answer`] ends with exactly one of [`Delta::Finished`] and an error.
//! Invariant: keys, prompts and answers are never logged, and no error text holds a key.

mod admission;
mod cache;
mod client;
mod config;
mod connections;
mod decoder;
mod error;
mod offline;
mod policy;
pub mod scripted;
#[cfg(test)]
pub(crate) mod simulated;
mod sse;
mod tool_calls;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::id::{AgentName, Digest, TenantId};
use crate::journal::entry::Price;

pub use admission::{Admitted, Works};
pub use cache::CacheBounds;
pub use client::Endpoint;
pub use config::{MaxTokens, ModelConfig};
pub use error::{Class, Deadline, Fault, ModelError, SetupError};
pub use policy::{Backoff, BreakerPolicy, CallPolicy};

use admission::Admissions;
use cache::{Cache, Follower, Found, Lead};
use connections::Connections;
use policy::{Failed, Next};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    /// JSON, as the model wrote it: it may be malformed.
    pub arguments: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    System(String),
    User {
        name: Option<String>,
        text: String,
    },
    Assistant {
        text: Option<String>,
        tool_calls: Vec<ToolCall>,
    },
    Tool {
        /// The id of the tool call this answers.
        call: String,
        text: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments, as text.
    pub parameters: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    Automatic,
    Never,
    Required,
    Named(String),
}

/// None and empty are left out of the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    pub seed: Option<i64>,
    pub reasoning_effort: Option<String>,
    /// JSON, as the provider's `response_format`.
    pub response_format: Option<String>,
}

/// What a model is asked. Which model it is asked of is not part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    pub parameters: Parameters,
    /// How many seconds old an answer to the same request may be that somebody else got. Nothing that a
    /// provider is told.
    pub cache: Option<u32>,
}

impl Request {
    /// Names the request in the journal. The same for equal requests, on every version
    /// of the host, whatever provider they go to; there is one also for requests that
    /// `open` would refuse.
    pub fn digest(&self) -> Digest {
        self.digest_and_bytes().0
    }

    /// The same, and how long the request is.
    pub fn digest_and_bytes(&self) -> (Digest, u64) {
        let canonical = wire::canonical(self);
        (Digest::of(&canonical), canonical.len() as u64)
    }
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stop,
    Length,
    ToolCalls,
    Filtered,
    Other,
}

impl Finish {
    /// The guest's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool-calls",
            Self::Filtered => "filtered",
            Self::Other => "other",
        }
    }

    /// From the word; one that is not known is `Other`.
    pub fn of_name(name: &str) -> Self {
        [Self::Stop, Self::Length, Self::ToolCalls, Self::Filtered]
            .into_iter()
            .find(|finish| finish.name() == name)
            .unwrap_or(Self::Other)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Never empty.
    Text(String),
    /// A whole tool call.
    ToolCall(ToolCall),
    /// The last delta of a complete answer.
    Finished {
        reason: Finish,
        /// None if the provider did not say.
        usage: Option<Usage>,
    },
}

/// Whom a call goes to.
#[derive(Debug, Clone)]
pub enum Target {
    /// One of the host's models.
    Model(String),
    /// An endpoint that became known at run time, and what it is called.
    Remote {
        name: String,
        endpoint: Arc<Endpoint>,
        price: Price,
    },
}

impl Target {
    pub fn name(&self) -> &str {
        match self {
            Self::Model(name) | Self::Remote { name, .. } => name,
        }
    }

    /// For metrics: one of few.
    fn label(&self) -> &str {
        match self {
            Self::Model(name) => name,
            Self::Remote { .. } => "remote",
        }
    }
}

/// When something must be over, and whose deadline that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    pub at: Instant,
    pub deadline: Deadline,
}

impl Until {
    pub fn sooner(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    pub fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// One attempt of a call, as it goes out.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub request: &'a Request,
    /// The same for every attempt of a call: a provider that knows such keys recognises a repetition.
    pub idempotency_key: &'a str,
    /// More headers, such as those that say on whose behalf. They cannot replace the host's own.
    pub headers: HeaderMap,
    /// From the connection to the last piece, waiting for the reader included.
    pub until: Until,
}

/// An attempt that failed.
#[derive(Debug)]
pub struct Failure {
    /// How many the target failed, this one included.
    pub failures: u32,
    pub error: ModelError,
    /// The call must be over by then.
    pub until: Until,
    /// Any number, a different one for each.
    pub jitter: u64,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// Wait, then try again.
    Again(Duration),
    /// This is the end of the call.
    Fail(ModelError),
}

/// What answers under a name.
#[derive(Debug)]
enum Provider {
    Remote(Box<Endpoint>),
    Offline,
    #[cfg(test)]
    Simulated(simulated::Log),
}

/// Whether a model is worth asking now, as far as this process has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// The host has none by this name.
    Unknown,
    /// Its circuit is open.
    Gone {
        again_in: Duration,
    },
}

/// How soon to look again while somebody finds out whether a model is back.
const PROBED: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Shared {
    providers: BTreeMap<String, Provider>,
    connections: Connections,
    offline_token_ms: u64,
    admissions: Admissions,
    cache: Arc<Cache>,
}

/// The host's models by name. Clones share connections.
#[derive(Debug, Clone)]
pub struct Models(Arc<Shared>);

impl Models {
    /// The name that agents use unless configured otherwise.
    pub const DEFAULT: &'static str = "default";
    /// The name of the built-in provider: it is always there.
    pub const OFFLINE: &'static str = "offline";
    /// Slow enough to be seen streaming, faster than anybody reads.
    pub const OFFLINE_TOKEN_MS: u64 = 15;

    /// With no model configured, the built-in provider answers to `default` too.
    pub fn new(
        configs: BTreeMap<String, ModelConfig>,
        offline_token_ms: u64,
        cache: CacheBounds,
    ) -> Result<Self, SetupError> {
        let mut providers = BTreeMap::from([(Self::OFFLINE.to_owned(), Provider::Offline)]);
        if configs.is_empty() {
            providers.insert(Self::DEFAULT.to_owned(), Provider::Offline);
        }
        for (name, config) in configs {
            let endpoint = Endpoint::new(&name, config)?;
            providers.insert(name, Provider::Remote(Box::new(endpoint)));
        }
        Ok(Self(Arc::new(Shared {
            providers,
            connections: Connections::new()?,
            offline_token_ms,
            admissions: Admissions::default(),
            cache: Cache::new(cache),
        })))
    }

    /// No models at all, not even the built-in one.
    pub fn none() -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            providers: BTreeMap::new(),
            connections: Connections::new()?,
            offline_token_ms: 0,
            admissions: Admissions::default(),
            cache: Cache::new(CacheBounds::default()),
        })))
    }

    /// `default` is a provider inside this process.
    #[cfg(test)]
    pub(crate) fn simulated(log: simulated::Log) -> Self {
        // Reading the system's certificates takes longer than most simulations.
        static CONNECTIONS: std::sync::OnceLock<Connections> = std::sync::OnceLock::new();
        let connections =
            CONNECTIONS.get_or_init(|| Connections::new().expect("there is a client"));
        let provider = Provider::Simulated(log);
        Self(Arc::new(Shared {
            providers: BTreeMap::from([(Self::DEFAULT.to_owned(), provider)]),
            connections: connections.clone(),
            offline_token_ms: 0,
            admissions: Admissions::default(),
            cache: Cache::new(CacheBounds::default()),
        }))
    }

    /// Whether whoever is asked is inside this process.
    #[cfg(test)]
    fn simulates(&self) -> bool {
        let default = self.0.providers.get(Self::DEFAULT);
        matches!(default, Some(Provider::Simulated(_)))
    }

    /// In order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.providers.keys().map(String::as_str)
    }

    /// How calls of the target are made, its agent's own settings left out.
    pub fn policy(&self, target: &Target) -> CallPolicy {
        let endpoint = match target {
            Target::Remote { endpoint, .. } => endpoint.as_ref(),
            Target::Model(name) => match self.0.providers.get(name) {
                Some(Provider::Remote(endpoint)) => endpoint,
                _ => return CallPolicy::default(),
            },
        };
        endpoint.policy()
    }

    /// Wait until the tenant may ask the target. Refused if too many wait already or the circuit is open;
    /// dropping the future leaves the queue.
    pub async fn admit(
        &self,
        tenant: &TenantId,
        target: &Target,
        policy: &CallPolicy,
        until: Until,
    ) -> Result<Admitted, ModelError> {
        let admissions = &self.0.admissions;
        admissions.admit(tenant, target, policy, until).await
    }

    /// Leave to call an agent of the tenant; an error while its circuit is open.
    pub fn pass(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
        policy: &CallPolicy,
    ) -> Result<Admitted, ModelError> {
        self.0.admissions.pass(tenant, agent, policy)
    }

    /// The tenant is gone: nothing of what its calls said or found is kept.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        self.0.admissions.forget_tenant(tenant);
        self.0.cache.forget_tenant(tenant);
    }

    /// Look for an answer that somebody else got or is getting, if the request may have one. Waits for one that
    /// is coming until its provider begins to answer.
    pub async fn recall(
        &self,
        tenant: &TenantId,
        target: &Target,
        request: &Request,
        until: Until,
    ) -> Result<Recalled, ModelError> {
        let (Target::Model(model), Some(seconds)) = (target, request.cache) else {
            return Ok(Recalled::Nothing(Leading(None)));
        };
        if !self.0.providers.contains_key(model) {
            return Ok(Recalled::Nothing(Leading(None)));
        }
        loop {
            let mut follower = match self.0.cache.find(tenant, model, request, seconds) {
                Found::Kept(pieces) => {
                    let from = Origin::Kept(pieces.iter().cloned().collect());
                    return Ok(Recalled::Answer(Answer::of(from, until)));
                }
                Found::Joined(follower) => follower,
                Found::Nothing(lead) => return Ok(Recalled::Nothing(Leading(Some(lead)))),
            };
            match timeout_at(until.at, follower.is_open()).await {
                Ok(Ok(true)) => {
                    let from = Origin::Shared(follower);
                    return Ok(Recalled::Answer(Answer::of(from, until)));
                }
                // Who led is gone: one of those who followed leads now.
                Ok(Ok(false)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(until.deadline.into()),
            }
        }
    }

    /// Make one attempt. `leading` says whether others wait for the same answer: then the attempt goes on while
    /// anybody does, and `until` is the asker's alone.
    pub async fn open(
        &self,
        admitted: Admitted,
        leading: Leading,
        target: &Target,
        attempt: Attempt<'_>,
        until: Until,
    ) -> Result<Answer, ModelError> {
        let Leading(Some(lead)) = leading else {
            let until = until.sooner(attempt.until);
            return self
                .attempt(admitted, target, Attempt { until, ..attempt })
                .await;
        };
        let (models, target, request) = (self.clone(), target.clone(), attempt.request.clone());
        let (key, headers) = (attempt.idempotency_key.to_owned(), attempt.headers);
        let own = attempt.until;
        let call = async move {
            let attempt = Attempt {
                request: &request,
                idempotency_key: &key,
                headers,
                until: own,
            };
            models.attempt(admitted, &target, attempt).await
        };
        let Some(mut follower) = lead.make(call) else {
            return Err(ModelError::Other("the call is made already".to_owned()));
        };
        match timeout_at(until.at, follower.is_open()).await {
            Ok(Ok(_)) => Ok(Answer::of(Origin::Shared(follower), until)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(until.deadline.into()),
        }
    }

    async fn attempt(
        &self,
        mut admitted: Admitted,
        target: &Target,
        attempt: Attempt<'_>,
    ) -> Result<Answer, ModelError> {
        admitted.is_made();
        let until = attempt.until;
        let opened = match timeout_at(until.at, self.source(target, attempt)).await {
            Ok(opened) => opened,
            Err(_) => Err(until.deadline.into()),
        };
        match opened {
            Ok(source) => Ok(Answer::of(Origin::Provider { source, admitted }, until)),
            Err(error) => {
                admitted.ended(Err(&error));
                Err(error)
            }
        }
    }

    /// What follows a failed attempt of the tenant.
    pub fn next(
        &self,
        tenant: &TenantId,
        target: &Target,
        policy: &CallPolicy,
        failure: Failure,
    ) -> Then {
        let Failure { error, until, .. } = failure;
        let refused = self
            .0
            .admissions
            .refused_for(tenant, target, policy.breaker);
        let failed = Failed {
            failures: failure.failures,
            may_pass: error.may_pass(),
            retry_after_ms: error.retry_after_ms(),
            left: Some(until.left()),
            refused_for: refused.map(|refused| refused.left),
        };
        match policy::next(policy, failed, failure.jitter) {
            Next::Again(wait) => Then::Again(wait),
            Next::Fail => Then::Fail(error),
            Next::TooLate => Then::Fail(ModelError::Deadline {
                deadline: until.deadline,
                last: Some(error.to_string()),
            }),
        }
    }

    /// Whether the model is worth asking now, for callers of this policy.
    pub fn readiness(&self, tenant: &TenantId, name: &str, policy: &CallPolicy) -> Readiness {
        if !self.0.providers.contains_key(name) {
            return Readiness::Unknown;
        }
        let target = Target::Model(name.to_owned());
        let admissions = &self.0.admissions;
        let refused = admissions.refused_for(tenant, &target, policy.breaker);
        refused.map_or(Readiness::Ready, |refused| Readiness::Gone {
            again_in: if refused.is_probed {
                PROBED
            } else {
                refused.left
            },
        })
    }

    async fn source(&self, target: &Target, attempt: Attempt<'_>) -> Result<Source, ModelError> {
        let provider = match target {
            #[cfg(test)]
            Target::Remote { .. } if self.simulates() => &self.0.providers[Self::DEFAULT],
            Target::Remote { endpoint, .. } => return self.remote(endpoint, attempt).await,
            Target::Model(name) => self.0.providers.get(name).ok_or_else(|| {
                ModelError::Refused(format!("this host has no model called {name:?}"))
            })?,
        };
        match provider {
            Provider::Remote(endpoint) => self.remote(endpoint, attempt).await,
            Provider::Offline => Ok(Source::Offline(offline::Incoming::new(
                attempt.request,
                self.0.offline_token_ms,
            ))),
            #[cfg(test)]
            Provider::Simulated(log) => {
                let (request, key) = (attempt.request, attempt.idempotency_key);
                tokio::time::sleep(simulated::PAUSE).await;
                let incoming = simulated::Incoming::open(log, request, key)?;
                Ok(Source::Simulated(incoming))
            }
        }
    }

    async fn remote(
        &self,
        endpoint: &Endpoint,
        attempt: Attempt<'_>,
    ) -> Result<Source, ModelError> {
        let incoming = client::open(&self.0.connections, endpoint, attempt).await?;
        Ok(Source::Remote(Box::new(incoming)))
    }
}

#[derive(Debug)]
enum Source {
    Remote(Box<client::Incoming>),
    Offline(offline::Incoming),
    #[cfg(test)]
    Simulated(simulated::Incoming),
}

/// What was found for a request before it is sent.
#[derive(Debug)]
pub enum Recalled {
    Answer(Answer),
    Nothing(Leading),
}

/// Whether the call is made for others too.
#[derive(Debug)]
pub struct Leading(Option<Lead>);

impl Leading {
    /// It is made for the asker alone.
    pub fn alone() -> Self {
        Self(None)
    }
}

/// Where an answer comes from.
#[derive(Debug)]
enum Origin {
    Provider { source: Source, admitted: Admitted },
    Shared(Follower),
    Kept(VecDeque<Delta>),
}

/// An answer on its way. Dropping it stops the call, unless others wait for the same.
#[derive(Debug)]
pub struct Answer {
    /// None once it is over.
    from: Option<Origin>,
    until: Until,
    /// A delta was handed out.
    begun: bool,
    is_cached: bool,
}

impl Answer {
    fn of(from: Origin, until: Until) -> Self {
        Self {
            is_cached: match &from {
                Origin::Provider { .. } => false,
                Origin::Shared(follower) => !follower.leads(),
                Origin::Kept(_) => true,
            },
            from: Some(from),
            until,
            begun: false,
        }
    }

    /// Somebody else asked for it and pays for it.
    pub fn is_cached(&self) -> bool {
        self.is_cached
    }

    /// The next piece; none after `Finished` or an error. While the first piece has not
    /// come, an error is the same as one of [`Models::open`]; after it, it is
    /// `Interrupted`. Dropping the future loses nothing: the next call goes on.
    pub async fn next(&mut self) -> Option<Result<Delta, ModelError>> {
        let from = self.from.as_mut()?;
        let item = match timeout_at(self.until.at, from.next()).await {
            Ok(item) => item,
            Err(_) => from.end(Fault::Deadline(self.until.deadline)),
        };
        let item = item.map_err(|failed| match (failed, self.begun) {
            (ModelError::Provider(fault), true) => ModelError::Interrupted(fault),
            (ModelError::Deadline { deadline, .. }, true) => {
                ModelError::Interrupted(Fault::Deadline(deadline))
            }
            (error, _) => error,
        });
        self.begun = true;
        let over = match &item {
            Ok(Delta::Finished { .. }) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        if let Origin::Provider { admitted, .. } = from {
            match over {
                Some(end) => admitted.ended(end),
                None => admitted.answers(),
            }
        }
        if over.is_some() {
            self.from = None;
        }
        Some(item)
    }
}

impl Origin {
    async fn next(&mut self) -> Result<Delta, ModelError> {
        match self {
            Self::Provider { source, .. } => source.next().await.map_err(ModelError::from),
            Self::Shared(follower) => follower.next().await,
            Self::Kept(pieces) => pieces.pop_front().ok_or_else(|| Fault::Cut.into()),
        }
    }

    /// Nobody waits any longer.
    fn end(&mut self, fault: Fault) -> Result<Delta, ModelError> {
        match self {
            Self::Provider { source, .. } => source.end(fault).map_err(ModelError::from),
            Self::Shared(_) | Self::Kept(_) => Err(fault.into()),
        }
    }
}

impl Source {
    async fn next(&mut self) -> Result<Delta, Fault> {
        match self {
            Self::Remote(incoming) => incoming.next().await,
            Self::Offline(incoming) => Ok(incoming.next().await),
            #[cfg(test)]
            Self::Simulated(incoming) => incoming.next().await,
        }
    }

    /// Nobody waits any longer: the end of what has come is its last delta, or the fault is.
    fn end(&mut self, fault: Fault) -> Result<Delta, Fault> {
        match self {
            Self::Remote(incoming) => incoming.end(fault),
            _ => Err(fault),
        }
    }
}
