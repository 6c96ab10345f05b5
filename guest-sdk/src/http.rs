//! Requests to places outside, where the agent's configuration allows them.
//!
//! Only for agents that are granted `http`. A secret is named and never held: the host sets the
//! header that a rule of the configuration names, or puts the rule's secret in place of
//! `${secret:NAME}` in the value of a header. See `wit/http.wit` for what is promised and what is not.
//!
//! ```
//! use antiphon_sdk::http::{self, Request, Response};
//! use antiphon_sdk::testing::Host;
//!
//! let host = Host::new("guide");
//! host.respond(Response::new(200).body(r#"{"open": true}"#));
//! let turn = host.turn_with(|_| {
//!     let museum = http::get("https://museum.example/v1/today")?;
//!     let today: antiphon_sdk::serde_json::Value = museum.json().unwrap();
//!     assert_eq!(today["open"], true);
//!     Ok(Default::default())
//! });
//! assert_eq!(turn.fetched[0].url, "https://museum.example/v1/today");
//! ```

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::antiphon::agent::http::{HttpError, Method, Request, Response};
use crate::host;

/// Make a request and wait for the whole answer. Whatever its status, an answer is no error.
pub fn fetch(request: &Request) -> Result<Response, HttpError> {
    host::http::fetch(request)
}

/// Ask for what is at a URL.
pub fn get(url: impl Into<String>) -> Result<Response, HttpError> {
    fetch(&Request::new(Method::Get, url))
}

/// Send JSON to a URL.
pub fn post_json(url: impl Into<String>, body: &impl Serialize) -> Result<Response, HttpError> {
    fetch(&Request::new(Method::Post, url).json(body)?)
}

/// What went wrong, for whoever reads a log or a failed turn.
pub fn in_words(error: &HttpError) -> String {
    match error {
        HttpError::Refused(why) => format!("refused: {why}"),
        HttpError::Deadline => "the request took longer than it may".to_owned(),
        HttpError::TooLarge => "the request or its answer is larger than it may be".to_owned(),
        HttpError::OutcomeUnknown => "nobody knows whether it was carried out".to_owned(),
        HttpError::Unreachable(why) => format!("unreachable: {why}"),
        HttpError::Other(what) => what.clone(),
    }
}

impl Request {
    /// Without headers and body, and with the host's own bound of time.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            method,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: None,
        }
    }

    /// With a header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With this as JSON, and a header that says so. An error if it is no JSON, such as a map whose
    /// keys are no texts.
    pub fn json(self, body: &impl Serialize) -> Result<Self, HttpError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| HttpError::Other(format!("the body: {error}")))?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Given up after this long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        self
    }
}

impl Response {
    /// Without headers and body: for tests.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With a header more: for tests. Names of answers are in lower case.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// With this body: for tests.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Whether the status is one of success, 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first value of a header.
    pub fn value(&self, name: &str) -> Option<&str> {
        let named = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        let (_, value) = self.headers.iter().find(named)?;
        Some(value)
    }

    /// The body as text; what is not UTF-8 has replacement characters.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}
