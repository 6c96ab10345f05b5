//! A test double: a provider that answers by script.
//!
//! A real HTTP server on a free port of 127.0.0.1, so that what is tested is the way
//! the host really goes. It writes down every request for tests to look at, and
//! tests can wait for what happens instead of for time to pass.
//!
//! ```ignore
//! let provider = Provider::start([Reply::text("Hello there"), Reply::status(503, "busy")]).await;
//! let config = ModelConfig::new(provider.base_url(), "scripted");
//! ```
//!
//! Not for production: it trusts its caller and panics when the machine has no port left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    /// Null if it was not JSON.
    pub body: Value,
}

impl Received {
    /// The text of the last message with this role.
    pub fn last(&self, role: &str) -> Option<&str> {
        let messages = self.body["messages"].as_array()?;
        let message = messages.iter().rfind(|message| message["role"] == role)?;
        message["content"].as_str()
    }
}

/// Holds a reply back until a test lets it go on.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    #[expect(
        clippy::new_without_default,
        reason = "a gate begins closed, which no default says"
    )]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Let everything through, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        let mut open = self.0.subscribe();
        // The sender is held by `self`, so waiting cannot fail.
        let _ = open.wait_for(|open| *open).await;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(Bytes),
    Wait(Gate),
    /// Say nothing more, until the client hangs up.
    Hang,
    /// Break the connection.
    Cut,
}

/// What the provider answers to one request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// None: not even a head is sent.
    status: Option<StatusCode>,
    headers: HeaderMap,
    /// What the head waits for.
    after: Option<Gate>,
    steps: Vec<Step>,
}

impl Reply {
    fn new(status: Option<StatusCode>, content_type: &'static str) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        Self {
            status,
            headers: HeaderMap::from_iter([(http::header::CONTENT_TYPE, content_type)]),
            after: None,
            steps: Vec::new(),
        }
    }

    /// The beginning of a stream: a head and a delta that only has a role.
    pub fn stream() -> Self {
        let delta = json!({"role": "assistant", "content": ""});
        Self::new(Some(StatusCode::OK), "text/event-stream").delta(delta, None)
    }

    /// A whole answer, word by word.
    pub fn text(text: &str) -> Self {
        text.split_inclusive(' ')
            .fold(Self::stream(), Self::say)
            .finish("stop")
    }

    /// A whole answer that calls one tool.
    pub fn tool_call(id: &str, name: &str, arguments: &str) -> Self {
        Self::stream()
            .call(0, id, name, arguments)
            .finish("tool_calls")
    }

    /// An error with a status, in the usual form.
    pub fn status(status: u16, message: &str) -> Self {
        let status = StatusCode::from_u16(status).expect("a script names a status that exists");
        let error = json!({"error": {"message": message, "type": "scripted", "code": null}});
        Self::new(Some(status), "application/json").raw(error.to_string())
    }

    /// A success with any body.
    pub fn body(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::new(Some(StatusCode::OK), content_type).raw(body)
    }

    /// A stream whose first event is cut JSON.
    pub fn broken_json() -> Self {
        Self::new(Some(StatusCode::OK), "text/event-stream").raw("data: {\"choices\": [\n\n")
    }

    /// The request is taken and never answered.
    pub fn silence() -> Self {
        Self::new(None, "text/event-stream")
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        let name = HeaderName::from_static(name);
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    #[must_use]
    pub fn raw(mut self, bytes: impl Into<Bytes>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    /// One event of a stream.
    #[must_use]
    pub fn event(self, event: &Value) -> Self {
        self.raw(format!("data: {event}\n\n"))
    }

    /// A piece of text.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        self.delta(json!({"content": text}), None)
    }

    /// A tool call in three pieces: its name, and its arguments in two.
    #[must_use]
    pub fn call(self, index: u32, id: &str, name: &str, arguments: &str) -> Self {
        let (first, second) =
            arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
        let piece = |call: Value| json!({"tool_calls": [call]});
        let more = |part: &str| piece(json!({"index": index, "function": {"arguments": part}}));
        let function = json!({"name": name, "arguments": ""});
        let begin = json!({"index": index, "id": id, "type": "function", "function": function});
        self.delta(piece(begin), None)
            .delta(more(first), None)
            .delta(more(second), None)
    }

    /// The end of a whole answer, with a usage of 3 tokens in and 5 out.
    #[must_use]
    pub fn finish(self, reason: &str) -> Self {
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8});
        self.delta(json!({}), Some(reason))
            .event(&json!({"object": "chat.completion.chunk", "choices": [], "usage": usage}))
            .raw("data: [DONE]\n\n")
    }

    /// Go on only once the gate is open.
    #[must_use]
    pub fn wait(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// Send not even the head before the gate is open.
    #[must_use]
    pub fn after(mut self, gate: &Gate) -> Self {
        self.after = Some(gate.clone());
        self
    }

    #[must_use]
    pub fn hang(mut self) -> Self {
        self.steps.push(Step::Hang);
        self
    }

    #[must_use]
    pub fn cut(mut self) -> Self {
        self.steps.push(Step::Cut);
        self
    }

    fn delta(self, delta: Value, finish_reason: Option<&str>) -> Self {
        self.event(&json!({
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "scripted",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        }))
    }
}

type Script = Box<dyn FnMut(&Received) -> Reply + Send>;

#[derive(Default, Clone, Copy)]
struct Counts {
    connections: usize,
    received: usize,
    given_up: usize,
}

struct Shared {
    script: Mutex<Script>,
    received: Mutex<Vec<Received>>,
    counts: watch::Sender<Counts>,
}

/// The running provider. Dropping it closes every connection.
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

impl Provider {
    /// Answers requests in the order they arrive. More requests than replies get status 500.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies: VecDeque<Reply> = replies.into_iter().collect();
        Self::answering(move |_| {
            replies
                .pop_front()
                .unwrap_or_else(|| Reply::status(500, "the script is over"))
        })
        .await
    }

    /// Answers by looking at the request: for requests whose order is not known.
    pub async fn answering(script: impl FnMut(&Received) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a machine that runs tests has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(script)),
            received: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
        });
        let server = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            address,
            shared,
            server,
        }
    }

    /// For [`super::ModelConfig::base_url`].
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// TCP connections so far.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().connections
    }

    /// Wait until so many requests arrived.
    pub async fn received(&self, count: usize) {
        self.reached(|counts| counts.received >= count).await;
    }

    /// Wait until the client gave up so many replies before their end.
    pub async fn given_up(&self, count: usize) {
        self.reached(|counts| counts.given_up >= count).await;
    }

    async fn reached(&self, is_reached: impl Fn(&Counts) -> bool) {
        // The sender lives in `shared`, so waiting cannot fail.
        let _ = self.shared.counts.subscribe().wait_for(is_reached).await;
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A panic in one test's script says enough by itself.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.counts.send_modify(|counts| counts.connections += 1);
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(|request| respond(request, Arc::clone(&shared)));
    // A client that hangs up is part of most scripts.
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: http::Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<http::Response<impl Body<Data = Bytes, Error = Broken>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let received = Received {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let reply = (lock(&shared.script))(&received);
    lock(&shared.received).push(received);
    shared.counts.send_modify(|counts| counts.received += 1);
    let unfinished = Unfinished {
        shared,
        ended: false,
    };
    let Some(status) = reply.status else {
        return std::future::pending().await;
    };
    if let Some(gate) = &reply.after {
        gate.pass().await;
    }
    let mut response = http::Response::new(StreamBody::new(stream::unfold(
        (reply.steps.into_iter(), Some(unfinished)),
        |(mut steps, unfinished)| async {
            let unfinished = unfinished?;
            let frame = loop {
                match steps.next() {
                    Some(Step::Send(bytes)) => break Ok(Frame::data(bytes)),
                    Some(Step::Wait(gate)) => gate.pass().await,
                    Some(Step::Hang) => std::future::pending().await,
                    Some(Step::Cut) => {
                        // The server sends what it has when it must wait, and
                        // forgets it when the body fails.
                        tokio::task::yield_now().await;
                        break Err(Broken);
                    }
                    None => {
                        unfinished.finish();
                        return None;
                    }
                }
            };
            if frame.is_err() {
                unfinished.finish();
                return Some((frame, (steps, None)));
            }
            Some((frame, (steps, Some(unfinished))))
        },
    )));
    *response.status_mut() = status;
    *response.headers_mut() = reply.headers;
    Ok(response)
}

#[derive(Debug, thiserror::Error)]
#[error("the script breaks the connection")]
struct Broken;

/// Counts a reply as given up unless it came to its end.
struct Unfinished {
    shared: Arc<Shared>,
    ended: bool,
}

impl Unfinished {
    fn finish(mut self) {
        self.ended = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.ended {
            self.shared
                .counts
                .send_modify(|counts| counts.given_up += 1);
        }
    }
}
