//! `/v1/secrets`: what goes with agents' requests. Written and listed by name, never read back.
//!
//! The scope is `deploy`: whoever may configure an agent may have it send any secret of the tenant
//! anywhere, so that a key that could do the one and not the other would protect nothing.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::id::SecretName;
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{Body, Names};
use super::error::{ApiError, ApiResult};

pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.need(Right::Deploy)?;
    let secrets = api.secrets.list(caller.tenant()).await?;
    let secrets: Vec<Value> = secrets
        .iter()
        .map(|(name, written_at)| json!({"name": name, "written_at": written_at.to_rfc3339()}))
        .collect();
    Ok(Json(json!({"secrets": secrets})))
}

/// The body is the secret itself, whatever its content type.
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<SecretName>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let now = api.clock.now();
    let is_new = api.secrets.put(caller.tenant(), &name, &bytes, now).await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let body = json!({"name": name, "written_at": now.to_rfc3339()});
    Ok((status, Json(body)).into_response())
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<SecretName>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Deploy)?;
    if api.secrets.delete(caller.tenant(), &name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        let message = "there is no such secret";
        Err(ApiError::not_found("secret_not_found", message))
    }
}
