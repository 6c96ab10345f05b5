//! `POST /v1/agents/{agent}/invoke`: one turn, answered at once, as a stream, or later.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::id::{AgentName, Author, Offset, SessionId};
use crate::journal::codec::Encoded;
use crate::session::Session;
use crate::session::commands::Posted;
use crate::session::outcome::{Standing, Tracker};
use crate::telemetry::Stage;
use crate::tenants::Right;

use super::Api;
use super::asking::{self, Asked, Place, Question, Request, Teller, Telling, set};
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult};
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
    let is_stream = body::wants_events(&headers) && !prefers_async(&headers);
    let request = Request {
        target: format!("invoke/{agent}"),
        headers: &headers,
        bytes: &bytes,
        streams: is_stream,
    };
    let question = Question {
        agent,
        place: match invocation.session {
            Some(session) => Place::In(session),
            None => Place::Own {
                expires_after_ms: api.sessions.invoked_expire_after_ms(),
                recounted: Vec::new(),
            },
        },
        author: invocation.author,
        body: invocation.body,
        instructions: None,
        tools: Vec::new(),
        echo: None,
    };
    let asked = asking::ask(&api, &caller, request, question).await?;
    let Asked {
        session, posted, ..
    } = asked;
    let mut response = if prefers_async(&headers) {
        accepted(&session, &posted).await?
    } else if let Some(permit) = asked.permit {
        let id = session.journal.session.clone();
        // The head names the run, so it waits for the turn; what came until then follows it.
        let mut telling = Telling::new(&api, session, &posted, permit, Events);
        let turn = telling.begun().await?;
        let mut response = telling.response(api, caller);
        asking::name(response.headers_mut(), &id, &posted, &turn);
        response
    } else {
        let id = session.journal.session.clone();
        let ended = asking::ended(&api, session.clone(), &posted).await?;
        let taken = asking::answered(&id, ended)?;
        let mut response = Json(wire::answer(&id, &taken)).into_response();
        set(response.headers_mut(), "x-antiphon-session", id.as_str());
        Stage::Answer.took(session.ledger.mark().since);
        response
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

/// The events of the message and its turn, with the ids that `/events` has.
struct Events;

impl Teller for Events {
    fn tell(&mut self, encoded: &Encoded, tracker: &Tracker) -> Vec<Bytes> {
        if !encoded.kind.is_visible() || !tracker.concerns(encoded) {
            return Vec::new();
        }
        let id = Offset(encoded.seq).to_string();
        vec![sse::event(&id, encoded.kind.name(), &encoded.public())]
    }
}
