//! What leaves the host for places that agents name: who may send what where, and the sending.
//!
//! - [`allow`], [`address`], [`head`], [`redirect`]: pure: rules of an agent's configuration,
//!   addresses that may be dialled, headers and secrets, where an answer sends a request on to.
//! - [`dial`]: connections that obey them.
//! - [`webhook`]: where the host may send something by itself.
//!
//! Every hop of a request is checked like the first: its rule, its address, its secret.
//! Invariant: nothing is sent that no rule covers, and a secret goes only with a request whose own
//! rule names it. A request is made once; whether it is made again is decided above, where it is
//! written down first. What models are asked goes through model/, whose addresses are
//! the operator's; those of remote participants are their owner's, and are asked over connections of [`Egress::client`].

pub mod address;
pub mod allow;
pub mod dial;
pub mod head;
pub mod redirect;
#[cfg(test)]
pub(crate) mod simulated;
pub mod webhook;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use url::Url;

use crate::secret::Secret;

use self::address::{Grants, InvalidGrant};
use self::allow::{Rule, SecretSource};
use self::dial::{AddressRefused, Dialler, Names};
use self::redirect::{Hop, REDIRECTS_MAX};

/// What stands where a secret came back in an answer.
const HIDDEN: &str = "(secret)";

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Grant(#[from] InvalidGrant),
    #[error("the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// A request as an agent wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// In capitals.
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case. A value that is not UTF-8 has replacement characters.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Bounds of one request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From the call to the last byte, redirects included.
    pub ms_max: u64,
    pub request_bytes_max: usize,
    pub response_bytes_max: usize,
    /// Of the names and values of all headers, in either direction.
    pub header_bytes_max: usize,
}

/// Why there is no answer. Texts are for whoever wrote the agent, and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// It, or where it was sent on to, is not allowed.
    #[error("{0}")]
    Refused(String),
    #[error("the request took longer than it may")]
    Deadline,
    #[error("{0}")]
    TooLarge(String),
    /// It was sent, and may have been carried out; it cannot be made twice.
    #[error("nobody knows whether the request was carried out")]
    OutcomeUnknown,
    /// There was no connection: nothing was sent.
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Other(String),
}

/// Looks a secret up for whoever is bound to it. None if it is not there.
pub type Lookup =
    Arc<dyn Fn(SecretSource) -> Pin<Box<dyn Future<Output = Option<Secret>> + Send>> + Send + Sync>;

/// Whether a request may be made twice as well as once (RFC 9110, 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS")
}

/// The host's way out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress(Arc<Way>);

#[derive(Debug)]
enum Way {
    Network(Dialler),
    Nowhere,
    #[cfg(test)]
    Simulated(simulated::Log),
}

/// The head of an answer, and where its body comes from.
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Body,
}

enum Body {
    Network(reqwest::Response),
    #[cfg(test)]
    Whole(Bytes),
}

impl Egress {
    /// `private_allowed` are addresses off the public Internet that may be dialled, `names` those
    /// that are not asked of the system's resolver.
    pub fn new(
        private_allowed: &[String],
        names: BTreeMap<String, Vec<IpAddr>>,
    ) -> Result<Self, SetupError> {
        let grants = Grants::parse(private_allowed)?;
        let dialler = Dialler::new(grants, &Names::new(names))?;
        Ok(Self(Arc::new(Way::Network(dialler))))
    }

    /// Every request is refused.
    pub fn nowhere() -> Self {
        Self(Arc::new(Way::Nowhere))
    }

    /// To nowhere but an origin inside this process.
    #[cfg(test)]
    pub(crate) fn simulated(log: simulated::Log) -> Self {
        Self(Arc::new(Way::Simulated(log)))
    }

    /// A client for requests to this URL, whose connections obey the rules of addresses. It follows
    /// no redirects: ask again for where one leads.
    pub fn client(&self, url: &Url) -> Result<&reqwest::Client, AddressRefused> {
        match &*self.0 {
            Way::Network(dialler) => dialler.client(url),
            Way::Nowhere => Err(AddressRefused("everything".to_owned())),
            #[cfg(test)]
            Way::Simulated(_) => Err(AddressRefused("everything real".to_owned())),
        }
    }

    /// Send a request as far as the rules let it, and wait for the whole answer. `call_key` is the
    /// request's `Idempotency-Key`, unless it has one.
    pub async fn send(
        &self,
        request: &Request,
        rules: &[Rule],
        secrets: &Lookup,
        bounds: Bounds,
        call_key: &str,
    ) -> Result<Response, EgressError> {
        let first = first_hop(request, bounds, call_key)?;
        let mut used = Vec::new();
        let sent = self.follow(first, rules, secrets, bounds, &mut used);
        let time = Duration::from_millis(bounds.ms_max);
        let sent = tokio::time::timeout(time, sent).await;
        hide(sent.unwrap_or(Err(EgressError::Deadline)), &used)
    }

    async fn follow(
        &self,
        mut hop: Hop,
        rules: &[Rule],
        secrets: &Lookup,
        bounds: Bounds,
        used: &mut Vec<Secret>,
    ) -> Result<Response, EgressError> {
        for _ in 0..=REDIRECTS_MAX {
            let headers = dress(&hop, rules, secrets, used).await?;
            let answered = self.make(&hop, headers).await?;
            let location = answered.headers.get(http::header::LOCATION);
            let location = location.map(http::HeaderValue::as_bytes);
            let next = redirect::next(&hop, answered.status, location);
            match next.map_err(EgressError::Other)? {
                Some(next) => hop = next,
                None => return answered.whole(&hop.method, bounds).await,
            }
        }
        let text = format!("redirected more than {REDIRECTS_MAX} times");
        Err(EgressError::Refused(text))
    }

    async fn make(&self, hop: &Hop, headers: HeaderMap) -> Result<Answered, EgressError> {
        match &*self.0 {
            Way::Network(dialler) => {
                let client = dialler.client(&hop.url);
                let client = client.map_err(|error| EgressError::Refused(error.to_string()))?;
                let mut request = client
                    .request(hop.method.clone(), hop.url.clone())
                    .headers(headers);
                if !hop.body.is_empty() {
                    request = request.body(hop.body.clone());
                }
                let response = request.send().await;
                let response = response.map_err(|error| failure(error, &hop.method))?;
                Ok(Answered {
                    status: response.status().as_u16(),
                    headers: response.headers().clone(),
                    body: Body::Network(response),
                })
            }
            Way::Nowhere => Err(EgressError::Refused("nothing leaves from here".to_owned())),
            #[cfg(test)]
            Way::Simulated(log) => log.answer(hop, &headers).await,
        }
    }
}

/// Whether a request may be sent at all, as far as that can be said without secrets and addresses.
pub fn check(request: &Request, rules: &[Rule], bounds: Bounds) -> Result<(), EgressError> {
    let hop = first_hop(request, bounds, "")?;
    let covering = allow::covering(rules, hop.method.as_str(), &hop.url);
    covering.map(drop).map_err(EgressError::Refused)
}

/// What can be said about a request before its rule is known.
fn first_hop(request: &Request, bounds: Bounds, call_key: &str) -> Result<Hop, EgressError> {
    let refused = |text: String| EgressError::Refused(text);
    let head_bytes = request.headers.iter();
    let head_bytes: usize = head_bytes
        .map(|(name, value)| name.len() + value.len())
        .sum();
    for (what, bytes, bytes_max) in [
        ("body", request.body.len(), bounds.request_bytes_max),
        (
            "URL and headers",
            head_bytes + request.url.len(),
            bounds.header_bytes_max,
        ),
    ] {
        if bytes > bytes_max {
            let text = format!("the request's {what}: {bytes_max} bytes is the most");
            return Err(EgressError::TooLarge(text));
        }
    }
    let method = Method::from_bytes(request.method.as_bytes());
    let method = method.map_err(|_| refused("that is no method".to_owned()))?;
    if request.url.chars().any(char::is_control) {
        return Err(refused("the URL holds a control character".to_owned()));
    }
    if head::has_placeholder(&request.url) {
        let text = "a secret stands in a header, not in a URL".to_owned();
        return Err(refused(text));
    }
    let mut url = Url::parse(&request.url).map_err(|error| refused(format!("the URL: {error}")))?;
    url.set_fragment(None);
    let mut head = head::check(&request.headers).map_err(refused)?;
    let key = http::HeaderName::from_static("idempotency-key");
    if !head.iter().any(|(name, _)| *name == key) {
        head.push((key, call_key.to_owned()));
    }
    Ok(Hop {
        method,
        url,
        head,
        body: request.body.clone(),
    })
}

/// The hop's headers as they leave. Secrets that they hold are added to `used`.
async fn dress(
    hop: &Hop,
    rules: &[Rule],
    secrets: &Lookup,
    used: &mut Vec<Secret>,
) -> Result<HeaderMap, EgressError> {
    let rule = allow::covering(rules, hop.method.as_str(), &hop.url);
    let rule = rule.map_err(EgressError::Refused)?.secret.as_ref();
    let secret = match rule {
        Some(rule) if head::needs_secret(&hop.head, Some(rule)) => {
            let found = secrets(rule.name.clone()).await;
            let missing = || EgressError::Refused(format!("there is no secret `{}`", rule.name));
            Some(found.ok_or_else(missing)?)
        }
        Some(_) | None => None,
    };
    let text = secret.as_ref().map(Secret::reveal);
    let dressed = head::dressed(&hop.head, rule, text).map_err(EgressError::Refused)?;
    used.extend(secret);
    Ok(dressed)
}

impl Answered {
    async fn whole(self, method: &Method, bounds: Bounds) -> Result<Response, EgressError> {
        let mut head_bytes = 0;
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            head_bytes += name.as_str().len() + value.len();
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.push((name.as_str().to_owned(), value));
        }
        if head_bytes > bounds.header_bytes_max {
            let most = bounds.header_bytes_max;
            let text = format!("the answer's headers: {most} bytes is the most");
            return Err(EgressError::TooLarge(text));
        }
        Ok(Response {
            status: self.status,
            headers,
            body: self.body.whole(method, bounds.response_bytes_max).await?,
        })
    }
}

impl Body {
    async fn whole(self, method: &Method, bytes_max: usize) -> Result<Bytes, EgressError> {
        let too_large = || {
            let text = format!("the answer's body: {bytes_max} bytes is the most");
            EgressError::TooLarge(text)
        };
        match self {
            Self::Network(mut response) => {
                // What it announces need not be read. An answer to HEAD announces and has none.
                let announced = response.content_length().unwrap_or(0);
                if *method != Method::HEAD && announced > bytes_max as u64 {
                    return Err(too_large());
                }
                let mut whole = BytesMut::new();
                loop {
                    let chunk = response.chunk().await;
                    match chunk.map_err(|error| failure(error, method))? {
                        Some(chunk) if whole.len() + chunk.len() > bytes_max => {
                            return Err(too_large());
                        }
                        Some(chunk) => whole.extend_from_slice(&chunk),
                        None => return Ok(whole.freeze()),
                    }
                }
            }
            #[cfg(test)]
            Self::Whole(bytes) if bytes.len() > bytes_max => Err(too_large()),
            #[cfg(test)]
            Self::Whole(bytes) => Ok(bytes),
        }
    }
}

/// Why the network gave no whole answer. The texts name neither URL nor address.
fn failure(error: reqwest::Error, method: &Method) -> EgressError {
    if let Some(refused) = AddressRefused::of(&error) {
        return EgressError::Refused(refused.to_string());
    }
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    if error.is_connect() {
        EgressError::Unreachable(format!("there is no connection: {text}"))
    } else if error.is_builder() {
        EgressError::Refused(format!("such a request cannot be made: {text}"))
    } else if is_idempotent(method.as_str()) {
        EgressError::Other(format!("the connection broke: {text}"))
    } else {
        EgressError::OutcomeUnknown
    }
}

/// Put [`HIDDEN`] wherever one of the secrets came back as it is: in headers, body and words.
fn hide(sent: Result<Response, EgressError>, used: &[Secret]) -> Result<Response, EgressError> {
    let in_text = |text: String| {
        used.iter()
            .fold(text, |text, secret| text.replace(secret.reveal(), HIDDEN))
    };
    match sent {
        Ok(mut response) => {
            for (_, value) in &mut response.headers {
                *value = in_text(std::mem::take(value));
            }
            for secret in used {
                response.body = replaced(response.body, secret.reveal().as_bytes());
            }
            Ok(response)
        }
        Err(EgressError::Refused(text)) => Err(EgressError::Refused(in_text(text))),
        Err(EgressError::TooLarge(text)) => Err(EgressError::TooLarge(in_text(text))),
        Err(EgressError::Unreachable(text)) => Err(EgressError::Unreachable(in_text(text))),
        Err(EgressError::Other(text)) => Err(EgressError::Other(in_text(text))),
        Err(error @ (EgressError::Deadline | EgressError::OutcomeUnknown)) => Err(error),
    }
}

fn replaced(body: Bytes, secret: &[u8]) -> Bytes {
    let (mut shown, mut rest) = (BytesMut::new(), &body[..]);
    while let Some(at) = rest
        .windows(secret.len().max(1))
        .position(|it| it == secret)
    {
        shown.extend_from_slice(&rest[..at]);
        shown.extend_from_slice(HIDDEN.as_bytes());
        rest = &rest[at + secret.len()..];
    }
    if shown.is_empty() && rest.len() == body.len() {
        return body;
    }
    shown.extend_from_slice(rest);
    shown.freeze()
}

#[cfg(test)]
mod tests;
