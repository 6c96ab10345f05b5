//! One call of a provider over HTTP.
//!
//! Owns the request's headers, and how failures of the way are told apart. One
//! request per call: no redirects, no
//! retries, not even those the HTTP library would make by itself; the call policy
//! above decides about those. No proxy from the environment: where keys and prompts
//! go is said in the configuration and nowhere else.
//!
//! Invariant: at most one network read and one event wait in memory for the reader;
//! a slow reader slows the provider down.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use reqwest::Url;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::connections::{Connections, Place};
use super::decoder::Decoder;
use super::{Attempt, CallPolicy, Delta, Fault, ModelConfig, ModelError, SetupError, wire};
use crate::egress::dial::AddressRefused;
use crate::secret::Secret;

/// An error's words come first; whatever follows is somebody's HTML.
const ERROR_BODY_BYTES_MAX: usize = 4 * 1024;

/// The words of an error come with its status; who hangs in the middle of them has said enough.
const ERROR_BODY: Duration = Duration::from_secs(2);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Where a model is asked: a checked configuration.
#[derive(Debug)]
pub struct Endpoint {
    url: Url,
    /// Marked sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
    config: ModelConfig,
    /// Where connections of its own rules are made; the operator's if none.
    http: Option<reqwest::Client>,
    /// Why nothing can be sent there.
    refusal: Option<String>,
}

impl Endpoint {
    /// `model` is what errors call it.
    pub fn new(model: &str, config: ModelConfig) -> Result<Self, SetupError> {
        let wrong = |reason| SetupError::Config {
            model: model.to_owned(),
            reason,
        };
        let mut url = Url::parse(&config.base_url).map_err(|_| wrong("base_url is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong("base_url must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("base_url must not contain a password: use api_key"));
        }
        url.path_segments_mut()
            .map_err(|()| wrong("base_url must begin with http:// or https://"))?
            .pop_if_empty()
            .extend(["chat", "completions"]);
        url.set_fragment(None);
        let authorization = config
            .api_key
            .as_ref()
            .map(|key| HeaderValue::from_str(&format!("Bearer {}", key.reveal())))
            .transpose()
            .map_err(|_| wrong("the key contains characters that no header can hold"))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(Self {
            url,
            authorization,
            config,
            http: None,
            refusal: None,
        })
    }

    /// Reached by these connections, whatever the operator's are.
    pub fn through(self, http: reqwest::Client) -> Self {
        Self {
            http: Some(http),
            ..self
        }
    }

    /// Whoever asks it hears this. Asking is what is written down, so it is the place to say so.
    pub fn refusing(self, why: String) -> Self {
        Self {
            refusal: Some(why),
            ..self
        }
    }

    pub(super) fn policy(&self) -> CallPolicy {
        self.config.policy
    }

    fn headers(
        &self,
        idempotency_key: &str,
        mut headers: HeaderMap,
    ) -> Result<HeaderMap, ModelError> {
        let key = HeaderValue::from_str(idempotency_key).map_err(|_| {
            ModelError::Refused("the idempotency key must be visible ASCII".to_owned())
        })?;
        headers.insert(IDEMPOTENCY_KEY, key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("text/event-stream, application/json"),
        );
        // Servers on the same machine or network say keep-alive and hang up after a
        // stream all the same (llama.cpp does): the next call would fail for nothing. There
        // a new connection costs next to nothing; over TLS it does not, and stays.
        if self.url.scheme() == "http" {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.remove(AUTHORIZATION);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(headers)
    }
}

/// Send the request and wait until the provider begins to answer. Who calls bounds the time.
pub(super) async fn open(
    connections: &Connections,
    endpoint: &Endpoint,
    attempt: Attempt<'_>,
) -> Result<Incoming, ModelError> {
    let config = &endpoint.config;
    if let Some(why) = &endpoint.refusal {
        return Err(ModelError::Refused(why.clone()));
    }
    let place = match &endpoint.http {
        Some(own) => Place::elsewhere(own.clone()),
        None => connections.place(),
    };
    let body = wire::streaming(attempt.request, &config.model, config.max_tokens)?;
    let headers = endpoint.headers(attempt.idempotency_key, attempt.headers)?;
    let (http, url) = (place.http.clone(), endpoint.url.clone());
    // A guest's calls are polled on its fiber, and the pages of that stack stay as long as it waits. Making a request and
    // a connection for it goes deep: that has a task of its own, which ends with the call.
    let send = async move { http.post(url).headers(headers).body(body).send().await };
    let sent = AbortOnDropHandle::new(tokio::spawn(send));
    let response =
        sent.await
            .map_err(|_| Fault::Cut)?
            .map_err(|error| match AddressRefused::of(&error) {
                // Asked again, it leads to the same place.
                Some(refused) => ModelError::Refused(refused.to_string()),
                None => fault(&error).into(),
            })?;
    let mut incoming = Incoming {
        response: Some((response, place)),
        decoder: Decoder::new(config.answer_bytes_max),
        api_key: config.api_key.clone(),
    };
    match incoming.refusal().await {
        None => Ok(incoming),
        Some(fault) => Err(incoming.without_key(fault).into()),
    }
}

/// An answer that is arriving.
pub(super) struct Incoming {
    /// None once the body is not needed any more.
    response: Option<(reqwest::Response, Place)>,
    decoder: Decoder,
    api_key: Option<Secret>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl Incoming {
    /// The next delta. Not to be called after `Finished` or a fault.
    pub(super) async fn next(&mut self) -> Result<Delta, Fault> {
        loop {
            if let Some(item) = self.decoder.pop() {
                return item.map_err(|fault| self.without_key(fault));
            }
            let Some((response, _)) = &mut self.response else {
                return Err(Fault::Cut);
            };
            match response.chunk().await {
                Err(_) => self.decoder.end(Some(Fault::Cut)),
                Ok(None) => self.decoder.end(None),
                Ok(Some(bytes)) => self.decoder.feed(&bytes),
            }
            if self.decoder.is_done() {
                self.response = None;
            }
        }
    }

    /// Nothing more is waited for. An answer that was whole but for its last bytes is whole.
    pub(super) fn end(&mut self, fault: Fault) -> Result<Delta, Fault> {
        self.response = None;
        self.decoder.end(Some(fault.clone()));
        let item = self.decoder.pop().unwrap_or(Err(fault));
        item.map_err(|fault| self.without_key(fault))
    }

    /// What an answer that is not a success says.
    async fn refusal(&mut self) -> Option<Fault> {
        let (response, _) = self.response.as_mut()?;
        let status = response.status();
        if status.is_success() {
            return None;
        }
        let retry_after_ms = retry_after_ms(response.headers());
        let text = if status.is_redirection() {
            "redirects are not followed".to_owned()
        } else {
            let mut body = Vec::new();
            let until = Instant::now() + ERROR_BODY;
            // What came before that or a cut is better than nothing.
            while body.len() < ERROR_BODY_BYTES_MAX
                && let Ok(Ok(Some(bytes))) = timeout_at(until, response.chunk()).await
            {
                let room = ERROR_BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            let text = wire::error_text(&body);
            if text.is_empty() {
                status
                    .canonical_reason()
                    .unwrap_or("no reason given")
                    .to_owned()
            } else {
                text
            }
        };
        Some(Fault::Status {
            status: status.as_u16(),
            text,
            retry_after_ms,
        })
    }

    /// Some providers repeat the key they do not like.
    fn without_key(&self, mut fault: Fault) -> Fault {
        if let Fault::Status { text, .. } | Fault::Reported { text, .. } = &mut fault
            && let Some(key) = &self.api_key
            && !key.reveal().is_empty()
        {
            *text = text.replace(key.reveal(), "(key)");
        }
        fault
    }
}

/// The milliseconds some providers add, the seconds form, and the date, which counts from the moment that the
/// answer itself names.
fn retry_after_ms(headers: &HeaderMap) -> Option<u64> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| -> Option<u64> { text(name)?.parse().ok() };
    let date = |name: &str| httpdate::parse_http_date(text(name)?).ok();
    let until = || {
        let wait = date("retry-after")?.duration_since(date("date")?);
        // A moment that has passed is now.
        let wait = wait.unwrap_or_default();
        Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
    };
    number("retry-after-ms")
        .or_else(|| number("retry-after").map(|seconds| seconds.saturating_mul(1000)))
        .or_else(until)
}

/// A failure before the head of an answer came. The words hold no address.
fn fault(error: &reqwest::Error) -> Fault {
    if !error.is_connect() {
        return Fault::Cut;
    }
    let io = |kind| {
        sources(error)
            .filter_map(|source| source.downcast_ref::<std::io::Error>())
            .any(|io| io.kind() == kind)
    };
    Fault::Unreachable(if error.is_dns() {
        "its name does not resolve".to_owned()
    } else if error.is_timeout() {
        "it does not accept connections in time".to_owned()
    } else if io(std::io::ErrorKind::ConnectionRefused) {
        "it refused the connection".to_owned()
    } else {
        innermost(error)
    })
}

fn sources<'a>(
    error: &'a reqwest::Error,
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// The words of the first cause: those around it repeat the address.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    sources(error)
        .last()
        .map_or_else(|| "for no stated reason".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
