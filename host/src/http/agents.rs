//! `/v1/agents`: deployments, configurations, versions, logs.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::agents::{AgentConfig, Deployed};
use crate::id::{AgentName, SessionId};
use crate::logs::Line;
use crate::runtime::conversation::definition::Definition;
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names, Params, Upload};
use super::error::{ApiError, ApiResult, agent_not_found};
use super::{sse, wire};

pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let agents = api.sessions.agents().list(caller.tenant());
    let agents: Vec<Value> = agents
        .iter()
        .map(|(name, it)| wire::agent(name, it))
        .collect();
    Ok(Json(json!({"agents": agents})))
}

pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let deployment = api
        .sessions
        .agents()
        .get(caller.tenant(), &agent)
        .ok_or_else(agent_not_found)?;
    Ok(Json(wire::agent(&agent, &deployment)))
}

pub(super) async fn config(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
) -> ApiResult<Json<AgentConfig>> {
    caller.need(Right::Read)?;
    let deployment = api
        .sessions
        .agents()
        .get(caller.tenant(), &agent)
        .ok_or_else(agent_not_found)?;
    Ok(Json((*deployment.config).clone()))
}

pub(super) async fn versions(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let deployment = api
        .sessions
        .agents()
        .get(caller.tenant(), &agent)
        .ok_or_else(agent_not_found)?;
    let versions: Vec<Value> = deployment
        .versions()
        .iter()
        .rev()
        .map(|it| wire::version(it))
        .collect();
    Ok(Json(json!({"versions": versions})))
}

/// A component, or the definition of a conversation: the content type says which.
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
    headers: HeaderMap,
    Upload(bytes): Upload,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let (agents, tenant) = (api.sessions.agents(), caller.tenant());
    let deployed = match body::content_type(&headers).as_deref() {
        Some("application/wasm") => agents.put_component(tenant, &agent, bytes).await?,
        Some("application/json") => {
            let definition = Definition::parse(&bytes)?;
            agents.put_conversation(tenant, &agent, definition).await?
        }
        _ => {
            let message = "upload a component as `Content-Type: application/wasm`, and a conversation as `application/json`";
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                message,
            ));
        }
    };
    Ok(answer(&agent, &deployed))
}

pub(super) async fn put_config(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let config = AgentConfig::parse(&bytes)?;
    let deployed = api
        .sessions
        .agents()
        .put_config(caller.tenant(), &agent, config)
        .await?;
    Ok(answer(&agent, &deployed))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollBack {
    version: u64,
}

pub(super) async fn roll_back(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let RollBack { version } = body::json(&bytes)?;
    let deployed = api
        .sessions
        .agents()
        .roll_back(caller.tenant(), &agent, version)
        .await?;
    Ok(answer(&agent, &deployed))
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Deploy)?;
    api.sessions
        .agents()
        .delete(caller.tenant(), &agent)
        .await?;
    api.logs.forget(caller.tenant(), &agent);
    Ok(StatusCode::NO_CONTENT)
}

fn answer(agent: &AgentName, deployed: &Deployed) -> Response {
    let status = if deployed.changed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    (status, Json(wire::agent(agent, &deployed.deployment))).into_response()
}

#[derive(Deserialize)]
pub(super) struct LogQuery {
    session: Option<SessionId>,
    live: Option<String>,
}

fn line(line: &Line) -> Value {
    let mut value = json!(line);
    value["time"] = json!(line.time.to_rfc3339());
    value
}

pub(super) async fn logs(
    State(api): State<Api>,
    caller: Caller,
    Names(agent): Names<AgentName>,
    Params(query): Params<LogQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    caller.need(Right::Inspect)?;
    api.sessions
        .agents()
        .get(caller.tenant(), &agent)
        .ok_or_else(agent_not_found)?;
    let (lines, receiver) = api.logs.read(caller.tenant(), &agent);
    let wanted = move |line: &Line| query.session.as_ref().is_none_or(|it| *it == line.session);
    if query.live.as_deref() != Some("sse") && !body::wants_events(&headers) {
        let lines: Vec<Value> = lines
            .iter()
            .filter(|it| wanted(it))
            .map(|it| line(it))
            .collect();
        return Ok(Json(json!({"lines": lines})).into_response());
    }
    let permit = api.streams.permit(caller.tenant())?;
    let backlog: std::collections::VecDeque<_> =
        lines.into_iter().filter(|it| wanted(it)).collect();
    let lapsed = caller.lapsed(api.clone());
    let state = (backlog, receiver, permit, api);
    let events = stream::unfold(state, move |(mut backlog, mut receiver, permit, api)| {
        let wanted = wanted.clone();
        async move {
            loop {
                let next = match backlog.pop_front() {
                    Some(next) => next,
                    None => tokio::select! {
                        next = receiver.recv() => match next {
                            Ok(next) => next,
                            // Logs may drop lines; the numbers show the gap.
                            Err(RecvError::Lagged(_)) => continue,
                            Err(RecvError::Closed) => return None,
                        },
                        () = api.shutdown.stopping() => return None,
                    },
                };
                if wanted(&next) {
                    let event = sse::event(
                        &next.number.to_string(),
                        "line",
                        line(&next).to_string().as_bytes(),
                    );
                    return Some((event, (backlog, receiver, permit, api)));
                }
            }
        }
    });
    Ok(sse::response(events, lapsed))
}
