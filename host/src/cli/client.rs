//! The server as these commands see it: HTTP requests and their answers, typed.
//!
//! Answers are read leniently, fields that a newer server adds are ignored. A request that
//! must not happen twice carries an `Idempotency-Key` and may then be repeated.

use std::time::Duration;

use antiphon::id::{AgentName, Author, Digest, SecretName, Seq, SessionId, TurnId};
use antiphon::secret::Secret;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::event::Event;
use super::fault::hinted;
use super::fork;
use super::place::Place;
use super::questions::Question;
use super::replay::Turn;

/// Nobody waits longer for a connection on the same planet.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: Secret,
}

/// Why a request has no answer of the kind asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The server said no.
    #[error("{message}{}", if code.is_empty() { String::new() } else { format!(" ({code})") })]
    Refused {
        status: StatusCode,
        code: String,
        message: String,
        retry_after: Option<Duration>,
    },
    #[error("cannot reach the server at {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("the server's answer to {what} is not what was expected: {reason}")]
    Strange { what: &'static str, reason: String },
}

impl CallError {
    /// Whether the same request may work a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                *status == StatusCode::SERVICE_UNAVAILABLE
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::BAD_GATEWAY
            }
            Self::Unreachable { .. } => true,
            Self::Strange { .. } => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unreachable { .. } | Self::Strange { .. } => None,
        }
    }

    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }

    /// For a person: with what to do about it, where that is known.
    pub(super) fn explain(self) -> anyhow::Error {
        let hint = match &self {
            Self::Unreachable { .. } => "is it running? `antiphon serve` starts one",
            Self::Refused { code, .. } => match code.as_str() {
                "invalid_key" => "give the right one with --key, or its data folder with --data",
                "insufficient_scope" => "use a key that has this scope: --key KEY",
                "agent_not_found" => "deploy it first: antiphon deploy AGENT FILE.wasm",
                "session_not_found" | "session_gone" => "without --session a new one is opened",
                "agent_not_in_session" => "name one of the session's agents",
                "tenant_not_found" => "antiphon tenant list names those that there are",
                "budget_exhausted" => "antiphon usage says what was spent",
                "import_not_granted" => {
                    "add the interface to `grants` in the agent's configuration"
                }
                "too_large" | "compile_limit" => {
                    "the server's `limits` in its settings say how much it takes"
                }
                _ => return self.into(),
            },
            Self::Strange { .. } => return self.into(),
        };
        hinted(self.to_string(), hint)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Deployed {
    #[serde(default)]
    pub(super) version: Option<u64>,
    /// The answer was 201: this made a new version.
    #[serde(skip)]
    pub(super) is_new: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Session {
    pub(super) session: SessionId,
    #[serde(default)]
    agents: Vec<Participant>,
}

#[derive(Debug, Deserialize)]
struct Participant {
    agent: String,
}

/// What can be known of a secret.
#[derive(Debug, Deserialize)]
pub(super) struct KeptSecret {
    pub(super) name: String,
    pub(super) written_at: String,
}

impl Session {
    pub(super) fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents
            .iter()
            .map(|participant| participant.agent.as_str())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Accepted {
    pub(super) message: String,
}

/// None of either before the first commit.
#[derive(Debug, Deserialize)]
pub(super) struct Slot {
    pub(super) content: Option<String>,
    pub(super) version: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    /// Where the next page begins.
    pub(super) offset: String,
    pub(super) up_to_date: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Transcript {
    #[serde(default)]
    pub(super) items: Vec<TranscriptItem>,
    #[serde(default)]
    pub(super) offset: Option<String>,
}

/// What a person (`author`) or an agent said.
#[derive(Debug, Deserialize)]
pub(super) struct TranscriptItem {
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    agent: Option<String>,
    #[serde(default)]
    pub(super) text: String,
}

impl TranscriptItem {
    pub(super) fn speaker(&self) -> &str {
        self.agent
            .as_deref()
            .or(self.author.as_deref())
            .unwrap_or("?")
    }
}

/// The answer of an invocation without a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Invoked {
    #[serde(default)]
    pub(super) reply: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct LogLine {
    #[serde(default)]
    pub(super) number: u64,
    #[serde(default)]
    pub(super) time: Value,
    #[serde(default)]
    pub(super) session: String,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default)]
    pub(super) level: Option<String>,
    #[serde(default)]
    pub(super) text: String,
    #[serde(default)]
    pub(super) fields: Vec<(String, String)>,
}

impl Client {
    pub(super) fn new(place: Place) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .user_agent(concat!("antiphon/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&place.url) {
            // A proxy of the network around us cannot reach this machine's loopback.
            http = http.no_proxy();
            // Its certificate is for the name by which others know it. Who could stand in its place
            // here could also do so where there is no TLS.
            http = http.tls_danger_accept_invalid_certs(true);
        }
        Ok(Self {
            http: http.build()?,
            url: place.url,
            key: place.key,
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.key.reveal()))
            // A key with a line break is no key: the server will say so.
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        bearer.set_sensitive(true);
        self.http
            .request(method, format!("{}{path}", self.url))
            .header(AUTHORIZATION, bearer)
    }

    /// Send and wait for the head of a good answer.
    async fn send(&self, request: RequestBuilder) -> Result<Response, CallError> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body: Value = response.json().await.unwrap_or_default();
        let text = |name: &str| body["error"][name].as_str().map(str::to_owned);
        Err(CallError::Refused {
            status,
            code: text("code").unwrap_or_default(),
            message: text("message").unwrap_or_else(|| format!("the server answered {status}")),
            retry_after,
        })
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> CallError {
        // The outer texts repeat the address; the innermost says what happened.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        CallError::Unreachable {
            url: self.url.clone(),
            reason: cause.to_string(),
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        response: Response,
    ) -> Result<T, CallError> {
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| CallError::Strange {
            what,
            reason: error.to_string(),
        })
    }

    /// Whether somebody answers there.
    pub(super) async fn is_alive(&self) -> bool {
        self.send(self.request(Method::GET, "/healthz"))
            .await
            .is_ok()
    }

    pub(super) async fn put_config(
        &self,
        agent: &AgentName,
        config: Vec<u8>,
    ) -> Result<(), CallError> {
        let request = self
            .request(Method::PUT, &format!("/v1/agents/{agent}/config"))
            .header(CONTENT_TYPE, "application/json")
            .body(config);
        self.send(request).await.map(drop)
    }

    /// A component or a conversation, as its first byte says: no component begins as JSON does.
    pub(super) async fn put_component(
        &self,
        agent: &AgentName,
        component: Vec<u8>,
    ) -> Result<Deployed, CallError> {
        let content_type = match component.trim_ascii_start().first() {
            Some(b'{' | b'[') => "application/json",
            _ => "application/wasm",
        };
        let request = self
            .request(Method::PUT, &format!("/v1/agents/{agent}"))
            .header(CONTENT_TYPE, content_type)
            .body(component);
        let response = self.send(request).await?;
        let is_new = response.status() == StatusCode::CREATED;
        let deployed: Deployed = self.json("an upload", response).await?;
        Ok(Deployed { is_new, ..deployed })
    }

    pub(super) async fn open_session(
        &self,
        id: Option<&SessionId>,
        agents: &[&AgentName],
        entry: &AgentName,
    ) -> Result<Session, CallError> {
        let (method, path) = match id {
            Some(id) => (Method::PUT, format!("/v1/sessions/{id}")),
            None => (Method::POST, "/v1/sessions".to_owned()),
        };
        let body = json!({"agents": agents, "entry": entry});
        let response = self.send(self.request(method, &path).json(&body)).await?;
        self.json("opening a session", response).await
    }

    /// Make a session from the beginning of another one.
    pub(super) async fn fork(
        &self,
        from: &SessionId,
        at: Option<&fork::Place>,
        name: Option<&SessionId>,
    ) -> Result<Session, CallError> {
        let body = json!({"at": at, "session": name});
        let request = self.request(Method::POST, &format!("/v1/sessions/{from}/fork"));
        let response = self.send(request.json(&body)).await?;
        self.json("a fork", response).await
    }

    pub(super) async fn session(&self, id: &SessionId) -> Result<Session, CallError> {
        let response = self
            .send(self.request(Method::GET, &format!("/v1/sessions/{id}")))
            .await?;
        self.json("reading a session", response).await
    }

    /// Send a message. The same `key` makes a repetition harmless.
    pub(super) async fn send_message(
        &self,
        session: &SessionId,
        to: Option<&AgentName>,
        author: &str,
        text: &str,
        key: &str,
    ) -> Result<Accepted, CallError> {
        let mut body = json!({"author": author, "body": text});
        if let Some(to) = to {
            body["to"] = to.as_str().into();
        }
        let request = self
            .request(Method::POST, &format!("/v1/sessions/{session}/messages"))
            .header("idempotency-key", key)
            .json(&body);
        let response = self.send(request).await?;
        self.json("a message", response).await
    }

    /// What agents ask people, as far as it is open.
    pub(super) async fn questions(&self, session: &SessionId) -> Result<Vec<Question>, CallError> {
        #[derive(Deserialize)]
        struct Page {
            questions: Vec<Question>,
        }
        let path = format!("/v1/sessions/{session}/questions");
        let response = self.send(self.request(Method::GET, &path)).await?;
        let page: Page = self.json("questions", response).await?;
        Ok(page.questions)
    }

    pub(super) async fn answer(
        &self,
        session: &SessionId,
        question: Seq,
        body: &Value,
        key: &str,
    ) -> Result<(), CallError> {
        let path = format!("/v1/sessions/{session}/questions/{question}");
        let request = self.request(Method::POST, &path).json(body);
        let request = request.header("idempotency-key", key);
        self.send(request).await.map(drop)
    }

    pub(super) async fn interrupt(
        &self,
        session: &SessionId,
        agent: Option<&AgentName>,
    ) -> Result<(), CallError> {
        let body = agent.map_or_else(|| json!({}), |agent| json!({"agent": agent}));
        let path = format!("/v1/sessions/{session}/interrupt");
        self.send(self.request(Method::POST, &path).json(&body))
            .await
            .map(drop)
    }

    pub(super) async fn resume(
        &self,
        session: &SessionId,
        agent: &AgentName,
        author: Option<&Author>,
    ) -> Result<(), CallError> {
        let body = author.map_or_else(|| json!({}), |author| json!({"author": author}));
        let path = format!("/v1/sessions/{session}/agents/{agent}/resume");
        self.send(self.request(Method::POST, &path).json(&body))
            .await
            .map(drop)
    }

    /// What the server answers, for commands that show it as it is; null if it says nothing.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        self.json("an answer", response).await
    }

    /// An answer of any length, piece by piece.
    pub(super) async fn download(&self, path: &str) -> Result<Response, CallError> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(super) async fn put_secret(
        &self,
        name: &SecretName,
        text: Vec<u8>,
    ) -> Result<(), CallError> {
        let request = self
            .request(Method::PUT, &format!("/v1/secrets/{name}"))
            .header(CONTENT_TYPE, "text/plain")
            .body(text);
        self.send(request).await.map(drop)
    }

    pub(super) async fn secrets(&self) -> Result<Vec<KeptSecret>, CallError> {
        #[derive(Deserialize)]
        struct List {
            secrets: Vec<KeptSecret>,
        }
        let request = self.request(Method::GET, "/v1/secrets");
        let list: List = self.json("secrets", self.send(request).await?).await?;
        Ok(list.secrets)
    }

    pub(super) async fn delete_secret(&self, name: &SecretName) -> Result<(), CallError> {
        let request = self.request(Method::DELETE, &format!("/v1/secrets/{name}"));
        self.send(request).await.map(drop)
    }

    pub(super) async fn slot(&self, session: &SessionId, name: &str) -> Result<Slot, CallError> {
        let path = format!("/v1/sessions/{session}/slots/{name}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        self.json("a slot", response).await
    }

    pub(super) async fn transcript(
        &self,
        session: &SessionId,
        items_max: u32,
    ) -> Result<Transcript, CallError> {
        let path = format!("/v1/sessions/{session}/transcript?limit={items_max}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        self.json("the transcript", response).await
    }

    /// A page of events after an offset.
    pub(super) async fn events(
        &self,
        session: &SessionId,
        offset: &str,
    ) -> Result<Page, CallError> {
        self.page("events", session, offset).await
    }

    /// A page of all entries after an offset, for a key that may inspect.
    pub(super) async fn journal(
        &self,
        session: &SessionId,
        offset: &str,
    ) -> Result<Page, CallError> {
        self.page("journal", session, offset).await
    }

    /// A turn with what it was started with.
    pub(super) async fn turn(&self, session: &SessionId, turn: &TurnId) -> Result<Turn, CallError> {
        let path = format!("/v1/sessions/{session}/turns/{turn}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        self.json("a turn", response).await
    }

    /// A long document that the session's journal names.
    pub(super) async fn value(
        &self,
        session: &SessionId,
        digest: &Digest,
    ) -> Result<Bytes, CallError> {
        self.bytes(&format!("/v1/sessions/{session}/values/{digest}"))
            .await
    }

    pub(super) async fn component(&self, digest: &Digest) -> Result<Bytes, CallError> {
        self.bytes(&format!("/v1/components/{digest}")).await
    }

    async fn bytes(&self, path: &str) -> Result<Bytes, CallError> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let bytes = response.bytes().await;
        bytes.map_err(|error| self.unreachable(&error))
    }

    async fn page(
        &self,
        what: &'static str,
        session: &SessionId,
        offset: &str,
    ) -> Result<Page, CallError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(alias = "entries")]
            events: Vec<Box<RawValue>>,
            offset: String,
            up_to_date: bool,
        }
        let path = format!("/v1/sessions/{session}/{what}?offset={offset}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        let answer: Answer = self.json(what, response).await?;
        Ok(Page {
            events: answer
                .events
                .iter()
                .filter_map(|event| Event::parse(event.get()))
                .collect(),
            offset: answer.offset,
            up_to_date: answer.up_to_date,
        })
    }

    /// The live stream of events after an offset; none is the beginning.
    pub(super) async fn follow(
        &self,
        session: &SessionId,
        offset: Option<&str>,
    ) -> Result<Response, CallError> {
        let mut request = self
            .request(
                Method::GET,
                &format!("/v1/sessions/{session}/events?live=sse"),
            )
            .header(ACCEPT, "text/event-stream");
        if let Some(offset) = offset {
            request = request.header("last-event-id", offset);
        }
        self.send(request).await
    }

    pub(super) async fn invoke(&self, agent: &AgentName, text: &str) -> Result<Invoked, CallError> {
        let path = format!("/v1/agents/{agent}/invoke");
        let request = self
            .request(Method::POST, &path)
            .json(&json!({"body": text}));
        let response = self.send(request).await?;
        self.json("an invocation", response).await
    }

    /// Invoke and follow: the session it is in, where its message begins, and the stream.
    pub(super) async fn invoke_stream(
        &self,
        agent: &AgentName,
        body: &Value,
    ) -> Result<(Option<SessionId>, Response), CallError> {
        let request = self
            .request(Method::POST, &format!("/v1/agents/{agent}/invoke"))
            .header(ACCEPT, "text/event-stream")
            .json(body);
        let response = self.send(request).await?;
        let session = response
            .headers()
            .get("x-antiphon-session")
            .and_then(|value| SessionId::new(value.to_str().ok()?).ok());
        Ok((session, response))
    }

    /// What an agent printed, as far as it is kept.
    pub(super) async fn logs(
        &self,
        agent: &AgentName,
        session: Option<&SessionId>,
    ) -> Result<Vec<LogLine>, CallError> {
        let mut path = format!("/v1/agents/{agent}/logs");
        if let Some(session) = session {
            path.push_str(&format!("?session={session}"));
        }
        #[derive(Deserialize)]
        struct Page {
            lines: Vec<LogLine>,
        }
        let response = self.send(self.request(Method::GET, &path)).await?;
        let page: Page = self.json("the logs", response).await?;
        Ok(page.lines)
    }

    /// What was used, as the server says it.
    pub(super) async fn usage(&self, query: &str) -> Result<Box<RawValue>, CallError> {
        let path = format!("/v1/usage?{query}");
        let response = self.send(self.request(Method::GET, &path)).await?;
        self.json("the usage", response).await
    }
}

fn is_loopback(url: &str) -> bool {
    let parsed = url::Url::parse(url).ok();
    match parsed.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, is) in [
            ("http://127.0.0.1:7171", true),
            ("https://127.0.0.1:7171", true),
            ("https://[::1]:1", true),
            ("http://localhost", true),
            ("https://localhost.example", false),
            ("https://127.0.0.1.example", false),
            ("https://127.example", false),
            ("https://10.0.0.1", false),
            ("https://example/127.0.0.1", false),
        ] {
            assert_eq!(is_loopback(url), is, "{url}");
        }
    }

    #[test]
    fn refusals_read_as_sentences() {
        let error = CallError::Refused {
            status: StatusCode::NOT_FOUND,
            code: "agent_not_found".into(),
            message: "no agent `poet`".into(),
            retry_after: None,
        };
        assert!(!error.is_transient());
        assert_eq!(error.to_string(), "no agent `poet` (agent_not_found)");
        assert_eq!(
            error.explain().to_string(),
            "no agent `poet` (agent_not_found)"
        );
    }
}
