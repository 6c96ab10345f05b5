//! `/v1/sessions/{id}/tokens`: one session, one author, for a browser or a phone.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::id::{Author, SessionId};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult};

/// How long a token is good for, in seconds (design: 3600 unless said; a month at most).
const EXPIRES_IN: u64 = 3_600;
const EXPIRES_IN_MAX: u64 = 30 * 24 * 3_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    author: Author,
    scopes: Option<BTreeSet<Right>>,
    /// Seconds.
    expires_in: Option<u64>,
}

pub(super) async fn mint(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let new: New = body::json(&bytes)?;
    let may: BTreeSet<Right> = [Right::Read, Right::Send, Right::Interrupt].into();
    let rights = new.scopes.unwrap_or_else(|| may.clone());
    if rights.is_empty() || !rights.is_subset(&may) {
        return Err(ApiError::bad(
            "invalid_json",
            "a token's scopes are of `read`, `send`, `interrupt`",
        ));
    }
    let expires_in = new.expires_in.unwrap_or(EXPIRES_IN);
    if !(1..=EXPIRES_IN_MAX).contains(&expires_in) {
        let message = format!("`expires_in` is 1 to {EXPIRES_IN_MAX} seconds");
        return Err(ApiError::bad("invalid_json", message));
    }
    // The session must be there; the token is durable before it is shown.
    api.sessions.get(caller.tenant(), &id).await?;
    let expires_at = api.clock.now().plus_ms(expires_in * 1000);
    let (text, record) = api
        .tenants
        .mint_token(caller.tenant(), &id, new.author, rights, expires_at)
        .await?;
    let body = json!({
        "token": text,
        "id": record.id,
        "author": record.author,
        "scopes": record.rights,
        "expires_at": record.expires_at.to_rfc3339(),
    });
    Ok(super::keys::created(body, &record.id))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Names((id, token)): Names<(SessionId, String)>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    if api
        .tenants
        .revoke_token(caller.tenant(), &id, &token)
        .await?
    {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found(
            "token_not_found",
            "there is no such token",
        ))
    }
}
