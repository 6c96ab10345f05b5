//! Calls of language models.
//!
//! Owns what a request and an answer are for the host, the configured providers by
//! name, and one call from the first byte out to the last delta in. A leaf: it knows
//! no session, no journal and no guest. The types mirror `wit/model.wit`.
//!
//! - `wire.rs`: the provider's JSON, and a request's canonical bytes.
//! - `sse.rs`, `tool_calls.rs`, `decoder.rs`: from bytes to deltas.
//! - `config.rs`: one configured model. `client.rs`: one HTTP call.
//! - `health.rs`: whether models answer, as far as calls tell.
//! - `offline.rs`: the built-in provider.
//! - [`scripted`]: a test double, a provider that answers by script.
//!
//! Invariant: one [`Models::open`] makes at most one request to a provider. Nothing is
//! retried, cached or budgeted here: that is the call policy's, which stands above.
//! Invariant: an [`Answer`] ends with exactly one of [`Delta::Finished`] and an error.
//! Invariant: keys, prompts and answers are never logged, and no error text holds a key.

mod client;
mod config;
mod decoder;
mod error;
mod health;
mod offline;
pub mod scripted;
#[cfg(test)]
pub(crate) mod simulated;
mod sse;
mod tool_calls;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use crate::id::Digest;

pub use client::Endpoint;
pub use config::{MaxTokens, ModelConfig};
pub use error::{Fault, ModelError, SetupError};

use health::{Health, Heard};

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
}

impl Request {
    /// Names the request in the journal. The same for equal requests, on every version
    /// of the host, whatever provider they go to; there is one also for requests that
    /// `open` would refuse.
    pub fn digest(&self) -> Digest {
        Digest::of(&wire::canonical(self))
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
    },
}

impl Target {
    pub fn name(&self) -> &str {
        match self {
            Self::Model(name) | Self::Remote { name, .. } => name,
        }
    }
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
    /// It could not be connected to, several times in a row.
    Gone {
        again_in: Duration,
    },
}

#[derive(Debug)]
struct Shared {
    providers: BTreeMap<String, Provider>,
    http: reqwest::Client,
    offline_token_ms: u64,
    health: Mutex<Health>,
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
            http: client::connections()?,
            offline_token_ms,
            health: Mutex::default(),
        })))
    }

    /// No models at all, not even the built-in one.
    pub fn none() -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Shared {
            providers: BTreeMap::new(),
            http: client::connections()?,
            offline_token_ms: 0,
            health: Mutex::default(),
        })))
    }

    /// `default` is a provider inside this process.
    #[cfg(test)]
    pub(crate) fn simulated(log: simulated::Log) -> Self {
        // Reading the system's certificates takes longer than most simulations.
        static HTTP: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
        let http = HTTP.get_or_init(|| client::connections().expect("there is a client"));
        let provider = Provider::Simulated(log);
        Self(Arc::new(Shared {
            providers: BTreeMap::from([(Self::DEFAULT.to_owned(), provider)]),
            http: http.clone(),
            offline_token_ms: 0,
            health: Mutex::default(),
        }))
    }

    /// In order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.providers.keys().map(String::as_str)
    }

    /// Ask. The same key with the same request lets a provider that knows such keys
    /// recognise a repetition.
    pub async fn open(
        &self,
        name: &str,
        request: &Request,
        idempotency_key: &str,
    ) -> Result<Answer, ModelError> {
        self.open_with(name, request, idempotency_key, HeaderMap::new())
            .await
    }

    /// Ask whoever it is.
    pub async fn open_target(
        &self,
        target: &Target,
        request: &Request,
        idempotency_key: &str,
        headers: HeaderMap,
    ) -> Result<Answer, ModelError> {
        let Target::Remote { endpoint, .. } = target else {
            let name = target.name();
            return self
                .open_with(name, request, idempotency_key, headers)
                .await;
        };
        #[cfg(test)]
        if let Some(Provider::Simulated(log)) = self.0.providers.get(Self::DEFAULT) {
            let incoming = simulated::Incoming::open(log, request, idempotency_key)?;
            return Ok(Answer {
                source: Source::Simulated(incoming),
                begun: false,
                over: false,
            });
        }
        let http = &self.0.http;
        let incoming = client::open(http, endpoint, request, idempotency_key, headers).await?;
        Ok(Answer {
            source: Source::Remote(Box::new(incoming)),
            begun: false,
            over: false,
        })
    }

    /// Ask with more headers, such as those that say on whose behalf. They cannot
    /// replace the host's own.
    pub async fn open_with(
        &self,
        name: &str,
        request: &Request,
        idempotency_key: &str,
        headers: HeaderMap,
    ) -> Result<Answer, ModelError> {
        let opened = self.source(name, request, idempotency_key, headers).await;
        if let Some(heard) = Heard::of(&opened) {
            self.health().heard(name, heard, Instant::now());
        }
        Ok(Answer {
            source: opened?,
            begun: false,
            over: false,
        })
    }

    /// Whether the model is worth asking now.
    pub fn readiness(&self, name: &str) -> Readiness {
        if !self.0.providers.contains_key(name) {
            return Readiness::Unknown;
        }
        let gone_for = self.health().gone_for(name, Instant::now());
        gone_for.map_or(Readiness::Ready, |again_in| Readiness::Gone { again_in })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.0
            .health
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn source(
        &self,
        name: &str,
        request: &Request,
        idempotency_key: &str,
        headers: HeaderMap,
    ) -> Result<Source, ModelError> {
        Ok(match self.0.providers.get(name) {
            None => {
                return Err(ModelError::Refused(format!(
                    "this host has no model called {name:?}"
                )));
            }
            Some(Provider::Offline) => {
                Source::Offline(offline::Incoming::new(request, self.0.offline_token_ms))
            }
            #[cfg(test)]
            Some(Provider::Simulated(log)) => {
                Source::Simulated(simulated::Incoming::open(log, request, idempotency_key)?)
            }
            Some(Provider::Remote(endpoint)) => Source::Remote(Box::new(
                client::open(&self.0.http, endpoint, request, idempotency_key, headers).await?,
            )),
        })
    }
}

#[derive(Debug)]
enum Source {
    Remote(Box<client::Incoming>),
    Offline(offline::Incoming),
    #[cfg(test)]
    Simulated(simulated::Incoming),
}

/// An answer on its way. Dropping it stops the call.
#[derive(Debug)]
pub struct Answer {
    source: Source,
    /// A delta was handed out.
    begun: bool,
    over: bool,
}

impl Answer {
    /// The next piece; none after `Finished` or an error. While the first piece has not
    /// come, an error is the same as one of [`Models::open`]; after it, it is
    /// `Interrupted`. Dropping the future loses nothing: the next call goes on.
    pub async fn next(&mut self) -> Option<Result<Delta, ModelError>> {
        if self.over {
            return None;
        }
        let item = match &mut self.source {
            Source::Remote(incoming) => incoming.next().await,
            Source::Offline(incoming) => Ok(incoming.next().await),
            #[cfg(test)]
            Source::Simulated(incoming) => incoming.next().await,
        };
        Some(match item {
            Ok(delta) => {
                self.begun = true;
                self.over = matches!(delta, Delta::Finished { .. });
                Ok(delta)
            }
            Err(fault) => {
                self.over = true;
                Err(if self.begun {
                    ModelError::Interrupted(fault)
                } else {
                    fault.into()
                })
            }
        })
    }
}
