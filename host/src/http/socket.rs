//! `GET /v1/sessions/{id}/socket`: a session over one WebSocket: its events come, messages and interruptions go.
//!
//! What a client asks is done by the handlers that do the same over HTTP, one request after the other: rights, limits,
//! codes and idempotency are theirs. Invariants: events are those of `/events`, in order, each once; nothing is queued
//! for a client that does not read: its connection ends, and it comes back with the last offset it has.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::id::SessionId;
use crate::journal::codec::Encoded;
use crate::tenants::Right;

use super::auth::Caller;
use super::body::{Body, Names, Params};
use super::error::{ApiError, ApiResult};
use super::events::{EventQuery, Events};
use super::{Api, sessions};

/// Proxies close connections that are silent for a minute; a quarter of that survives loss.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Who answers no ping for so long is gone: three were lost.
const SILENT_MAX: Duration = Duration::from_secs(50);

/// Of the name that a client gives a request.
const ID_BYTES_MAX: usize = 128;

/// What a client asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Comes back with the answer.
    id: Option<String>,
    idempotency_key: Option<String>,
    send: Option<Value>,
    interrupt: Option<Value>,
}

type Answering = Pin<Box<dyn Future<Output = Utf8Bytes> + Send>>;

pub(super) async fn open(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Params(query): Params<EventQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Read)?;
    let events = Events::open(&api, &caller, &id, query.offset.as_deref()).await?;
    let upgrade = upgrade.map_err(|rejection| {
        let headers = [(header::UPGRADE, HeaderValue::from_static("websocket"))];
        ApiError::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            format!("a WebSocket is opened here: {rejection}"),
        )
        .headers(headers)
    })?;
    let bytes_max = api.settings.request_bytes_max;
    let upgrade = upgrade
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    // Counted until the socket is closed: a stop waits for it.
    let guard = api.shutdown.guard();
    Ok(upgrade.on_upgrade(async move |socket| {
        let conversation = Conversation { api, caller, id };
        conversation.run(socket, events).await;
        drop(guard);
    }))
}

struct Conversation {
    api: Api,
    caller: Caller,
    id: SessionId,
}

/// Why the server closes.
enum Over {
    /// The session has ended.
    Ended,
    Stopping,
    /// The key or token is good no more.
    Lapsed,
    NoText,
}

impl Over {
    fn frame(&self) -> Message {
        let (code, reason) = match self {
            Self::Ended => (close_code::NORMAL, "the session has ended"),
            Self::Stopping => (close_code::AWAY, "the server is stopping"),
            Self::Lapsed => (close_code::POLICY, "the key is not good any more"),
            Self::NoText => (close_code::UNSUPPORTED, "a request is text"),
        };
        Message::Close(Some(CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        }))
    }
}

impl Conversation {
    async fn run(self, socket: WebSocket, events: Events) {
        let (mut sink, mut source) = socket.split();
        let next = |mut events: Events| async move { Some((events.next().await?, events)) };
        // Whatever else happens, what is being read is not dropped half-way.
        let mut events = Box::pin(stream::unfold(events, next));
        let lapsed = self.caller.clone().lapsed(self.api.clone());
        tokio::pin!(lapsed);
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut answering: Option<Answering> = None;
        loop {
            let out = tokio::select! {
                event = events.next() => match event {
                    Some(event) => Message::Text(shown(&event)),
                    None if self.api.shutdown.is_stopping() => Over::Stopping.frame(),
                    None => Over::Ended.frame(),
                },
                Some(answer) = answer(&mut answering) => {
                    heard = Instant::now();
                    Message::Text(answer)
                }
                // One request after the other: who sends faster than they are done waits.
                incoming = source.next(), if answering.is_none() => {
                    heard = Instant::now();
                    match incoming {
                        Some(Ok(Message::Text(text))) => {
                            answering = Some(Box::pin(self.answer(text)));
                            continue;
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Binary(_))) => Over::NoText.frame(),
                        // Also for what breaks the protocol, or is too long: the library has answered that.
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    }
                }
                _ = pings.tick() => match heard.elapsed() > SILENT_MAX && answering.is_none() {
                    true => return,
                    false => Message::Ping(bytes::Bytes::new()),
                },
                () = &mut lapsed => Over::Lapsed.frame(),
            };
            let is_over = matches!(out, Message::Close(_));
            match timeout(self.api.settings.write_stall, sink.send(out)).await {
                Ok(Ok(())) if !is_over => {}
                // Who does not read comes back with the last offset it has.
                Ok(_) => return,
                Err(_) => {
                    crate::telemetry::hit(crate::telemetry::Limit::WriteStallMs);
                    return;
                }
            }
        }
    }

    /// Do what is asked, by whom it is done over HTTP.
    fn answer(&self, text: Utf8Bytes) -> impl Future<Output = Utf8Bytes> + Send + use<> {
        let (api, caller, session) = (self.api.clone(), self.caller.clone(), self.id.clone());
        async move {
            let (id, done) = match parse(&text) {
                Ok(asked) => {
                    let id = asked.id.clone();
                    (id, perform(api, caller, session, asked).await)
                }
                Err(error) => (None, Err(error)),
            };
            let response = axum::response::IntoResponse::into_response(done);
            let status = response.status().as_u16();
            let replayed = response.headers().contains_key("idempotency-replayed");
            let retry_after = response.headers().get(header::RETRY_AFTER);
            let retry_after = retry_after.and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
            // It is in memory already, and JSON.
            let body = response.into_body().collect().await;
            let body = body.map(http_body_util::Collected::to_bytes);
            let mut answer: Value = body
                .ok()
                .and_then(|body| serde_json::from_slice(&body).ok())
                .unwrap_or_else(|| json!({}));
            answer["id"] = id.into();
            answer["status"] = status.into();
            if replayed {
                answer["replayed"] = true.into();
            }
            if let Some(seconds) = retry_after {
                answer["retry_after"] = seconds.into();
            }
            json!({"answer": answer}).to_string().into()
        }
    }
}

/// The answer that is being made; none if there is none, for ever.
async fn answer(answering: &mut Option<Answering>) -> Option<Utf8Bytes> {
    let answer = answering.as_mut()?.await;
    *answering = None;
    Some(answer)
}

fn shown(event: &Encoded) -> Utf8Bytes {
    let text = [b"{\"event\":".as_slice(), &event.public(), b"}"].concat();
    Utf8Bytes::try_from(text).expect("an entry's public form is JSON, and that is UTF-8")
}

fn parse(text: &str) -> ApiResult<Request> {
    let request: Request = super::body::json(text.as_bytes())?;
    if request
        .id
        .as_ref()
        .is_some_and(|id| id.len() > ID_BYTES_MAX)
    {
        let message = format!("an `id` of {ID_BYTES_MAX} bytes is the longest");
        return Err(ApiError::bad("invalid_json", message));
    }
    Ok(request)
}

async fn perform(
    api: Api,
    caller: Caller,
    session: SessionId,
    asked: Request,
) -> ApiResult<Response> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &asked.idempotency_key {
        let malformed = |_| ApiError::bad("invalid_idempotency_key", "it is no header's value");
        headers.insert(
            "idempotency-key",
            HeaderValue::from_str(key).map_err(malformed)?,
        );
    }
    let bytes = |body: Value| Body(body.to_string().into());
    let (api, session) = (State(api), Names(session));
    match (asked.send, asked.interrupt) {
        (Some(message), None) => {
            sessions::send(api, caller, session, headers, bytes(message)).await
        }
        (None, Some(body)) => sessions::interrupt(api, caller, session, bytes(body)).await,
        _ => Err(ApiError::bad(
            "invalid_json",
            "a request has `send` or `interrupt`",
        )),
    }
}
