//! `/v1/keys`: further keys of the caller's tenant, for programs that may do less, or forward more.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult};

/// What a key may be for; `send` and `interrupt` are of session tokens.
const RIGHTS: [Right; 6] = [
    Right::Deploy,
    Right::Invoke,
    Right::Read,
    Right::Inspect,
    Right::Admin,
    Right::InterAgent,
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    scopes: BTreeSet<Right>,
}

pub(super) async fn mint(
    State(api): State<Api>,
    caller: Caller,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Admin)?;
    let new: New = body::json(&bytes)?;
    if new.scopes.is_empty() || !new.scopes.iter().all(|right| RIGHTS.contains(right)) {
        let known = RIGHTS.map(|right| format!("`{}`", right.name())).join(", ");
        let message = format!("a key's scopes are of {known}");
        return Err(ApiError::bad("invalid_json", message));
    }
    let now = api.clock.now();
    let minted = api
        .tenants
        .mint_key(caller.tenant(), new.scopes.clone(), now);
    let (key, id) = minted.await?;
    let body = json!({"key": key, "id": id, "scopes": new.scopes});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Admin)?;
    if api.tenants.revoke_key(caller.tenant(), &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("key_not_found", "there is no such key"))
    }
}
