//! A small client: a request as one line, and an answer with what is asserted about it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::described;
use crate::server::Server;
use crate::stream::Events;

/// Longer than anything takes: only a test that hangs meets it.
pub(crate) const HANGS: Duration = Duration::from_secs(60);

/// A request on its way. Await it for the whole [`Answer`].
pub(crate) struct Call {
    line: String,
    request: reqwest::RequestBuilder,
}

impl Call {
    /// `line` is `METHOD /path`.
    pub(crate) fn new(server: &Server, line: &str) -> Self {
        let (method, path) = line.split_once(' ').expect("METHOD /path");
        let method = method.parse().expect("a method");
        let url = format!("{}{path}", server.url);
        let request = server.client.request(method, url).bearer_auth(&server.key);
        Self {
            line: line.to_owned(),
            request,
        }
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.request = self.request.json(&body);
        self
    }

    pub(crate) fn text(self, body: &str) -> Self {
        self.header("content-type", "text/plain")
            .body(body.to_owned())
    }

    pub(crate) fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// Replaces the header if it is there.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = value.parse().expect("a header's value");
        self.request = self.request.headers(HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static(name),
            value,
        )]));
        self
    }

    /// With another key or token.
    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn idempotency(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    async fn send(self) -> reqwest::Response {
        let sent = tokio::time::timeout(HANGS, self.request.send()).await;
        sent.unwrap_or_else(|_| panic!("{}: no answer", self.line))
            .unwrap_or_else(|error| panic!("{}: {error:?}", self.line))
    }

    /// Follow the answer as a stream of events.
    pub(crate) async fn events(self) -> Events {
        let call = self.header("accept", "text/event-stream");
        let line = call.line.clone();
        Events::new(line, call.send().await).await
    }
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let line = self.line.clone();
            let response = self.send().await;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = tokio::time::timeout(HANGS, response.bytes()).await;
            let body = body.expect("the body ends").expect("the body is whole");
            described::check(&line, status, &body);
            Answer {
                line,
                status,
                headers,
                body: body.to_vec(),
            }
        })
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.line, self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body, provided the status is this.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.line, self.text());
        if self.body.is_empty() {
            return Value::Null;
        }
        self.json()
    }

    /// An error with this status and code; answers the whole body.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        let body = self.is(status);
        assert_eq!(body["error"]["code"], code, "{}: {body}", self.line);
        body
    }

    #[track_caller]
    pub(crate) fn is_replayed(&self) -> bool {
        self.header("idempotency-replayed") == Some("true")
    }
}
