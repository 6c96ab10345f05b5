//! `/v1/sessions`: opening, listing, ending; who takes part; messages, interruptions, resuming.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{AgentName, Author, Offset, SessionId};
use crate::session::Session;
use crate::session::commands::{self, NewMessage, NewSession};
use crate::tenants::Right;

use super::Api;
use super::asking::set;
use super::auth::Caller;
use super::body::{self, Body, Names, Params};
use super::bus;
use super::error::{ApiError, ApiResult, agent_not_found, settled};
use super::wire;

/// Sessions on one page.
const PAGE_MAX: usize = 100;
/// Agents of one session.
const AGENTS_MAX: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    agents: Vec<AgentName>,
    /// May be left out where there is one agent only.
    entry: Option<AgentName>,
    /// Seconds without events.
    expires_after: Option<u64>,
}

impl New {
    fn check(self, api: &Api, caller: &Caller) -> ApiResult<NewSession> {
        let mut agents = self.agents;
        agents.sort();
        agents.dedup();
        let entry = match self.entry {
            Some(entry) => entry,
            None if agents.len() == 1 => agents[0].clone(),
            None => {
                return Err(ApiError::bad(
                    "invalid_json",
                    "say which agent is the `entry`",
                ));
            }
        };
        if !agents.contains(&entry) {
            return Err(ApiError::conflict(
                "agent_not_in_session",
                "`entry` is not one of `agents`",
            ));
        }
        if agents.len() > AGENTS_MAX {
            return Err(ApiError::bad(
                "invalid_json",
                format!("{AGENTS_MAX} agents is the most"),
            ));
        }
        for agent in &agents {
            let known = api.sessions.agents().get(caller.tenant(), agent);
            if known.is_none() {
                return Err(ApiError::not_found(
                    "agent_not_found",
                    format!("there is no agent `{agent}`"),
                ));
            }
        }
        if self.expires_after == Some(0) {
            return Err(ApiError::bad(
                "invalid_json",
                "`expires_after` is at least one second",
            ));
        }
        let expires_after_ms = self
            .expires_after
            .map(|seconds| seconds.saturating_mul(1000));
        Ok(NewSession {
            agents,
            entry,
            expires_after_ms,
            called_by: None,
            idempotency: None,
            recounted: Vec::new(),
        })
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let mut new = body::json::<New>(&bytes)?.check(&api, &caller)?;
    new.idempotency = body::idempotency_key(&headers)?
        .map(|key| commands::idempotency(caller.tenant().as_str(), "sessions", key, &bytes));
    let id = new
        .idempotency
        .map_or_else(SessionId::fresh, |it| SessionId::of_key(&it.key));
    let session = api.sessions.get_or_absent(caller.tenant(), &id).await?;
    api.may_open(&caller, &session).await?;
    let opened = settled(&session, commands::open(&session.ledger, &new)).await?;
    let (_, body) = described(&session).await?;
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    if !opened {
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    set(
        response.headers_mut(),
        "location",
        &format!("/v1/sessions/{id}"),
    );
    Ok(response)
}

pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let new = body::json::<New>(&bytes)?.check(&api, &caller)?;
    let session = api.sessions.get_or_absent(caller.tenant(), &id).await?;
    api.may_open(&caller, &session).await?;
    let opened = settled(&session, commands::open(&session.ledger, &new)).await?;
    let (_, body) = described(&session).await?;
    let status = if opened {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(body)).into_response())
}

/// The session as it stands, once that is durable.
pub(super) async fn described(session: &Session) -> ApiResult<(Offset, Value)> {
    let (last, body) = session
        .ledger
        .look(|state| (state.last, wire::session(&session.journal.session, state)));
    session.ledger.durable(last).await?;
    Ok((Offset(last), body))
}

#[derive(Deserialize)]
pub(super) struct ListQuery {
    cursor: Option<SessionId>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let count = query.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let (sessions, tenant) = (api.sessions.clone(), caller.tenant().clone());
    let page =
        tokio::task::spawn_blocking(move || sessions.list(&tenant, query.cursor.as_ref(), count));
    let (sessions, next) = page.await.map_err(ApiError::internal)??;
    let sessions: Vec<Value> = sessions.iter().map(|id| json!({"session": id})).collect();
    Ok(Json(json!({"sessions": sessions, "cursor": next})))
}

pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
) -> ApiResult<Json<Value>> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    Ok(Json(described(&session).await?.1))
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    settled(&session, commands::delete(&session.ledger)).await?;
    session.ledger.settle().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn add_agent(
    State(api): State<Api>,
    caller: Caller,
    Names((id, agent)): Names<(SessionId, AgentName)>,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    api.sessions
        .agents()
        .get(caller.tenant(), &agent)
        .ok_or_else(agent_not_found)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    if session.ledger.look(|state| state.participants.len()) >= AGENTS_MAX {
        return Err(ApiError::conflict(
            "too_many_agents",
            format!("{AGENTS_MAX} agents is the most"),
        ));
    }
    let added = settled(&session, commands::add_agent(&session.ledger, &agent)).await?;
    let status = if added {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(described(&session).await?.1)).into_response())
}

pub(super) async fn remove_agent(
    State(api): State<Api>,
    caller: Caller,
    Names((id, agent)): Names<(SessionId, AgentName)>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    settled(&session, commands::remove_agent(&session.ledger, &agent)).await?;
    session.ledger.settle().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    body: Value,
    to: Option<AgentName>,
    author: Option<Author>,
}

pub(super) async fn send(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Send)?;
    let message = if body::is_text(&headers) {
        Message {
            body: Value::String(body::text(&bytes)?.to_owned()),
            to: None,
            author: None,
        }
    } else {
        body::json(&bytes)?
    };
    let bytes_more = api.admit(&caller, &message.body)?;
    let inbound = api.forwarded(&caller, &headers)?;
    let target = format!("messages/{id}");
    let idempotency = bus::idempotency(&caller, &target, &headers, &inbound, &bytes)?;
    let session: Arc<Session> = api.sessions.get(caller.tenant(), &id).await?;
    api.may_add(&caller, &session, idempotency, bytes_more)
        .await?;
    let message = NewMessage {
        author: caller.author(message.author)?,
        to: message.to,
        body: message.body,
        idempotency,
        after: None,
        invoked: false,
        bus: bus::context(&api, &inbound),
        called_by: None,
        authorization: inbound.authorization,
        instructions: None,
        tools: Vec::new(),
        echo: None,
    };
    let posted = commands::post(&api.sessions, &session.ledger, None, message);
    let posted = settled(&session, posted).await?;
    session.ledger.durable(posted.seq).await?;
    let body = json!({"message": posted.message, "offset": Offset(posted.seq).to_string()});
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if posted.replayed {
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    set(
        response.headers_mut(),
        "location",
        &format!("/v1/operations/{}", posted.message),
    );
    Ok(response)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Interruption {
    agent: Option<AgentName>,
    author: Option<Author>,
}

pub(super) async fn interrupt(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Interrupt)?;
    let interruption = if bytes.is_empty() {
        Interruption::default()
    } else {
        body::json::<Interruption>(&bytes)?
    };
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let by = caller.author(interruption.author)?;
    let last = commands::interrupt(&session.ledger, interruption.agent.as_ref(), by);
    let last = settled(&session, last).await?;
    session.ledger.durable(last).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({"offset": Offset(last).to_string()})),
    )
        .into_response())
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resumption {
    author: Option<Author>,
}

pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    Names((id, agent)): Names<(SessionId, AgentName)>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let resumption = if bytes.is_empty() {
        Resumption::default()
    } else {
        body::json::<Resumption>(&bytes)?
    };
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let by = caller.author(resumption.author)?;
    let seq = commands::resume(&session.ledger, &agent, by);
    let seq = settled(&session, seq).await?;
    session.ledger.durable(seq).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(json!({"offset": Offset(seq).to_string()})),
    )
        .into_response())
}
