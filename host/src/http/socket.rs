//! `GET /v1/sessions/{id}/socket`: a session over one WebSocket: its events come, messages, interruptions and answers to questions go.
//!
//! What a client asks is done by the handlers that do the same over HTTP, one request after the other: rights, limits,
//! codes and idempotency are theirs. Invariants: events are those of `/events`, in order, each once; nothing is queued
//! for a client that does not read: its connection ends, and it comes back with the last offset it has.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{self, SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::id::{Seq, SessionId};
use crate::journal::codec::Encoded;
use crate::telemetry::{self, Limit};
use crate::tenants::Right;

use super::auth::Caller;
use super::body::{Body, Names, Params};
use super::error::{ApiError, ApiResult};
use super::events::{EventQuery, Events};
use super::server::Place;
use super::{Api, questions, sessions};

/// Proxies close connections that are silent for a minute; a quarter of that survives loss.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Who says nothing while so many pings come is gone.
const UNANSWERED_MAX: u32 = 3;

/// Until the other side has heard that it is over: less than a stop waits for the last requests.
const CLOSE_MAX: Duration = Duration::from_secs(1);

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
    answer: Option<Value>,
}

type Answering = Pin<Box<dyn Future<Output = Utf8Bytes> + Send>>;

pub(super) async fn open(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Params(query): Params<EventQuery>,
    Extension(place): Extension<Place>,
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
    // What is a little too long gets an answer that says so.
    let bytes_max = api.settings.request_bytes_max.saturating_mul(2);
    let upgrade = upgrade
        .max_message_size(bytes_max)
        .max_frame_size(bytes_max);
    // Counted until the socket is closed: a stop waits for it, and so does its place among the connections.
    let guard = (api.shutdown.guard(), place);
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

/// Why it is over.
enum Over {
    /// The session has ended.
    Ended,
    Stopping,
    /// The key or token is good no more.
    Lapsed,
    NoText,
    /// What came breaks the protocol, or is longer than anything that is read.
    Unreadable,
    /// The client said so: the library answers that.
    Closed,
    /// Nobody is there any more.
    Lost,
}

impl Over {
    fn frame(&self) -> Option<Message> {
        let (code, reason) = match self {
            Self::Ended => (close_code::NORMAL, "the session has ended"),
            Self::Stopping => (close_code::AWAY, "the server is stopping"),
            Self::Lapsed => (close_code::POLICY, "the key is not good any more"),
            Self::NoText => (close_code::UNSUPPORTED, "a request is text"),
            Self::Unreadable => (close_code::PROTOCOL, "this cannot be read, or is too long"),
            Self::Closed | Self::Lost => return None,
        };
        Some(Message::Close(Some(CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        })))
    }
}

impl Conversation {
    async fn run(self, socket: WebSocket, events: Events) {
        let (mut sink, mut source) = socket.split();
        let mut answering: Option<Answering> = None;
        let over = self
            .talk(&mut sink, &mut source, &mut answering, events)
            .await;
        if matches!(over, Over::Lost) {
            return;
        }
        // What was begun is told, and the other side hears why it is over: a connection that is dropped with something
        // unread in it takes the last words along.
        let bye = async {
            if let Some(answer) = answer(&mut answering).await {
                sink.send(Message::Text(answer)).await?;
            }
            if let Some(frame) = over.frame() {
                sink.send(frame).await?;
            }
            sink.flush().await?;
            while let Some(Ok(_)) = source.next().await {}
            if matches!(over, Over::Unreadable) {
                // The rest of that is never read, and the socket stays until the other side has read why.
                std::future::pending::<()>().await;
            }
            Ok::<_, axum::Error>(())
        };
        // Who does not take it in time has the last offset that it read.
        let _ = timeout(CLOSE_MAX, bye).await;
    }

    async fn talk(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        source: &mut SplitStream<WebSocket>,
        answering: &mut Option<Answering>,
        events: Events,
    ) -> Over {
        let next = |mut events: Events| async move { Some((events.next().await?, events)) };
        // Whatever else happens, what is being read is not dropped half-way.
        let mut events = Box::pin(stream::unfold(events, next));
        let lapsed = self.caller.clone().lapsed(self.api.clone());
        tokio::pin!(lapsed);
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        loop {
            let out = tokio::select! {
                event = events.next() => match event {
                    Some(event) => Message::Text(shown(&event)),
                    None if self.api.shutdown.is_stopping() => return Over::Stopping,
                    None => return Over::Ended,
                },
                Some(answer) = answer(answering) => Message::Text(answer),
                // One request after the other: who sends faster than they are done waits.
                incoming = source.next(), if answering.is_none() => {
                    unanswered = 0;
                    match incoming {
                        Some(Ok(Message::Text(text))) => {
                            *answering = Some(Box::pin(self.answer(text)));
                            continue;
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        Some(Ok(Message::Binary(_))) => return Over::NoText,
                        Some(Ok(Message::Close(_))) => return Over::Closed,
                        Some(Err(_)) => return Over::Unreadable,
                        None => return Over::Lost,
                    }
                }
                _ = pings.tick() => {
                    // While a request is being done nothing is read.
                    unanswered += u32::from(answering.is_none());
                    if unanswered > UNANSWERED_MAX {
                        return Over::Lost;
                    }
                    Message::Ping(bytes::Bytes::new())
                }
                () = &mut lapsed => return Over::Lapsed,
            };
            let sending = timeout(self.api.settings.write_stall, sink.send(out));
            let sent = tokio::select! {
                sent = sending => sent,
                () = &mut lapsed => return Over::Lost,
                () = self.stopped() => return Over::Lost,
            };
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Over::Lost,
                // Who does not read comes back with the last offset it has.
                Err(_) => {
                    telemetry::hit(Limit::WriteStallMs);
                    return Over::Lost;
                }
            }
        }
    }

    /// The host stops, and has waited for a moment.
    async fn stopped(&self) {
        self.api.shutdown.stopping().await;
        tokio::time::sleep(CLOSE_MAX).await;
    }

    /// Do what is asked, by whom it is done over HTTP.
    fn answer(&self, text: Utf8Bytes) -> impl Future<Output = Utf8Bytes> + Send + use<> {
        let (api, caller, session) = (self.api.clone(), self.caller.clone(), self.id.clone());
        async move {
            let bytes_max = api.settings.request_bytes_max;
            let (id, done) = match parse(&text, bytes_max) {
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

fn parse(text: &str, bytes_max: usize) -> ApiResult<Request> {
    if text.len() > bytes_max {
        telemetry::hit(Limit::RequestBytes);
        return Err(ApiError::too_large(bytes_max));
    }
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
    let api = State(api);
    match (asked.send, asked.interrupt, asked.answer) {
        (Some(message), None, None) => {
            sessions::send(api, caller, Names(session), headers, bytes(message)).await
        }
        (None, Some(body), None) => {
            sessions::interrupt(api, caller, Names(session), bytes(body)).await
        }
        (None, None, Some(mut body)) => {
            let names = Names((session, question(&mut body)?));
            questions::answer(api, caller, names, headers, bytes(body)).await
        }
        _ => Err(ApiError::bad(
            "invalid_json",
            "a request has `send`, `interrupt` or `answer`",
        )),
    }
}

/// The number of the question, which over HTTP is in the path.
fn question(body: &mut Value) -> ApiResult<Seq> {
    let number = body.as_object_mut().and_then(|it| it.remove("question"));
    let number = number.and_then(|it| it.as_u64());
    let message = "an answer names its `question` by the number";
    number
        .map(Seq)
        .ok_or_else(|| ApiError::bad("invalid_json", message))
}
