//! `POST /v1/agents/{agent}/invoke`: one turn, answered at once, as a stream, or later.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{AgentName, Author, Offset, SessionId};
use crate::journal::codec::Encoded;
use crate::journal::entry::Failure;
use crate::session::Session;
use crate::session::commands::{self, NewMessage, NewSession, Posted};
use crate::session::following::Following;
use crate::session::outcome::{Standing, Taken, Tracker};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::bus;
use super::error::{ApiError, ApiResult, settled};
use super::streams::StreamPermit;
use super::{sse, wire};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invocation {
    body: Value,
    session: Option<SessionId>,
    author: Option<Author>,
}

pub(super) async fn invoke(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let invocation = if body::is_text(&headers) {
        let body = Value::String(body::text(&bytes)?.to_owned());
        Invocation {
            body,
            session: None,
            author: None,
        }
    } else {
        body::json(&bytes)?
    };
    api.must_be_ready(&caller, &agent)?;
    let bytes_more = api.admit(&caller, &invocation.body)?;
    let inbound = api.forwarded(&caller, &headers)?;
    let target = format!("invoke/{agent}");
    let idempotency = bus::idempotency(&caller, &target, &headers, &inbound, &bytes)?;
    let (id, new) = match &invocation.session {
        Some(session) => (session.clone(), None),
        None => {
            let id = idempotency.map_or_else(SessionId::fresh, |it| SessionId::of_key(&it.key));
            let new = NewSession {
                agents: vec![agent.clone()],
                entry: agent.clone(),
                expires_after_ms: Some(api.sessions.invoked_expire_after_ms()),
                called_by: None,
                idempotency: None,
            };
            (id, Some(new))
        }
    };
    let session = match new {
        Some(_) => api.sessions.get_or_absent(caller.tenant(), &id).await?,
        None => api.sessions.get(caller.tenant(), &id).await?,
    };
    api.may_open(&caller, &session).await?;
    api.may_add(&caller, &session, idempotency, bytes_more)
        .await?;
    let message = NewMessage {
        author: caller.author(invocation.author)?,
        to: Some(agent),
        body: invocation.body,
        idempotency,
        invoked: true,
        bus: bus::context(&api, &inbound),
        called_by: None,
        authorization: inbound.authorization,
    };
    // Before the message is taken: whoever is refused has asked for nothing yet.
    let permit = match body::wants_events(&headers) && !prefers_async(&headers) {
        true => Some(api.streams.permit(caller.tenant())?),
        false => None,
    };
    let posted = settled(
        &session,
        commands::post(&api.sessions, &session.ledger, new.as_ref(), message),
    )
    .await?;
    let mut response = if prefers_async(&headers) {
        accepted(&session, &posted).await?
    } else if let Some(permit) = permit {
        streamed(api, caller, session, &posted, permit).await?
    } else {
        answered(&api, session, &posted).await?
    };
    if posted.replayed {
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn prefers_async(headers: &HeaderMap) -> bool {
    headers.get_all("prefer").iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value
            .split(',')
            .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
    })
}

async fn accepted(session: &Session, posted: &Posted) -> ApiResult<Response> {
    session.ledger.durable(posted.seq).await?;
    let location = format!("/v1/operations/{}", posted.message);
    let id = &session.journal.session;
    let operation = wire::operation(id, &posted.message, &Standing::Open(None));
    let mut response = (StatusCode::ACCEPTED, Json(operation)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::LOCATION,
        HeaderValue::from_str(&location).map_err(ApiError::internal)?,
    );
    headers.insert(
        "preference-applied",
        HeaderValue::from_static("respond-async"),
    );
    set(headers, "x-antiphon-session", id.as_str());
    Ok(response)
}

async fn answered(api: &Api, session: Arc<Session>, posted: &Posted) -> ApiResult<Response> {
    let id = session.journal.session.clone();
    let mut following = Following::new(api.sessions.clone(), session, &posted.message);
    let mut response = match following.end().await? {
        Standing::Done(taken) => finished(&id, &taken)?,
        Standing::SetAside(reason) => {
            return Err(failed(
                &id,
                None,
                StatusCode::BAD_GATEWAY,
                "turn_failed",
                reason,
            ));
        }
        Standing::Open(_) => return Err(ApiError::internal("a message is over and open")),
    };
    set(response.headers_mut(), "x-antiphon-session", id.as_str());
    Ok(response)
}

fn finished(session: &SessionId, taken: &Taken) -> ApiResult<Response> {
    let error = taken.ended.as_ref().and_then(|ended| ended.error.as_ref());
    if let Some(error) = error {
        let (status, code) = match error.code {
            Failure::Deadline | Failure::CallerDeadline => {
                (StatusCode::GATEWAY_TIMEOUT, "turn_deadline")
            }
            _ => (StatusCode::BAD_GATEWAY, "turn_failed"),
        };
        let message = format!("{}: {}", error.code.name(), error.message);
        return Err(failed(session, Some(taken), status, code, message));
    }
    if taken
        .ended
        .as_ref()
        .is_some_and(|ended| ended.outcome.name() == "cancelled")
    {
        let message = "the turn was cancelled".to_owned();
        return Err(failed(
            session,
            Some(taken),
            StatusCode::BAD_GATEWAY,
            "turn_failed",
            message,
        ));
    }
    Ok(Json(wire::answer(session, taken)).into_response())
}

fn failed(
    session: &SessionId,
    taken: Option<&Taken>,
    status: StatusCode,
    code: &'static str,
    message: String,
) -> ApiError {
    let fields = json!({
        "session": session,
        "run": taken.map(|taken| &taken.run),
        "turn": taken.map(|taken| &taken.turn),
        "reply": taken.map_or("", |taken| taken.reply.as_str()),
    });
    ApiError::new(status, code, message).with(fields)
}

/// The events of the message and its turn, with the ids that `/events` has.
async fn streamed(
    api: Api,
    caller: Caller,
    session: Arc<Session>,
    posted: &Posted,
    permit: StreamPermit,
) -> ApiResult<Response> {
    let lapsed = caller.lapsed(api.clone());
    let id = session.journal.session.clone();
    let mut following = Following::new(api.sessions.clone(), session, &posted.message);
    // The head names the run, so it waits for the turn; what came until then follows it.
    let mut first = Vec::new();
    while following.tracker.turn().is_none() && !following.tracker.is_over() {
        for encoded in following.next().await? {
            following.track(&encoded)?;
            first.extend(own(&encoded, &following.tracker));
        }
    }
    let run = match following.tracker.standing() {
        Standing::Open(Some(taken)) | Standing::Done(taken) => Some(taken.run),
        Standing::Open(None) | Standing::SetAside(_) => None,
    };
    let state = (following, std::collections::VecDeque::from(first), permit);
    let events = stream::unfold(state, |(mut following, mut ready, permit)| async move {
        loop {
            if let Some(event) = ready.pop_front() {
                return Some((event, (following, ready, permit)));
            }
            if following.tracker.is_over() {
                return None;
            }
            // A reader that is cut goes on at `/events`, after the last id it has.
            for encoded in following.next().await.ok()? {
                let was_over = following.tracker.is_over();
                following.track(&encoded).ok()?;
                if !was_over {
                    ready.extend(own(&encoded, &following.tracker));
                }
            }
        }
    });
    let mut response = sse::response(events, lapsed);
    let headers = response.headers_mut();
    set(headers, "x-antiphon-session", id.as_str());
    set(
        headers,
        "x-antiphon-offset",
        &Offset(posted.seq).to_string(),
    );
    if let Some(run) = run {
        set(headers, "x-antiphon-run", run.as_str());
    }
    Ok(response)
}

/// The entry as an event, if it is about the tracked message or its turn.
fn own(encoded: &Encoded, tracker: &Tracker) -> Option<bytes::Bytes> {
    if !encoded.kind.is_visible() || !tracker.concerns(encoded) {
        return None;
    }
    Some(sse::event(
        &Offset(encoded.seq).to_string(),
        encoded.kind.name(),
        &encoded.public(),
    ))
}

pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names and offsets are ASCII by their rules.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
