//! `/v1/models`: the tenant's agents.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use crate::agents::Deployment;
use crate::id::AgentName;
use crate::tenants::Right;

use super::super::Api;
use super::super::auth::Caller;
use super::super::body::Names;
use super::super::error::{ApiError, ApiResult};

/// A model; none if the agent has no component yet.
fn model(caller: &Caller, agent: &AgentName, deployment: &Deployment) -> Option<Value> {
    let created_at = deployment.active()?.created_at;
    Some(json!({
        "id": agent,
        "object": "model",
        "created": created_at.0 / 1_000,
        "owned_by": caller.tenant(),
    }))
}

fn not_found(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    let message =
        format!("there is no model {name:?}: models are the agents that are deployed here");
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
}

/// The agent that a request means by its model.
pub(super) fn agent(api: &Api, caller: &Caller, model: &str) -> ApiResult<AgentName> {
    // What is no agent's name is no agent.
    let agent = AgentName::new(model).map_err(|_| not_found(model))?;
    let deployment = api.sessions.agents().get(caller.tenant(), &agent);
    let deployment = deployment.filter(|it| it.active().is_some());
    deployment.map(|_| agent).ok_or_else(|| not_found(model))
}

pub(in crate::http) async fn list(
    State(api): State<Api>,
    caller: Caller,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let agents = api.sessions.agents().list(caller.tenant());
    let models = agents.iter();
    let models: Vec<Value> = models
        .filter_map(|(agent, deployment)| model(&caller, agent, deployment))
        .collect();
    Ok(Json(json!({"object": "list", "data": models})))
}

pub(in crate::http) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<String>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let agent = agent(&api, &caller, &name)?;
    let deployment = api.sessions.agents().get(caller.tenant(), &agent);
    let model = deployment.and_then(|it| model(&caller, &agent, &it));
    model.map(Json).ok_or_else(|| not_found(&name))
}
