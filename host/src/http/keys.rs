//! `/v1/keys`: the keys of the caller's tenant, for programs that may do less, or forward more.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::Time;
use crate::tenants::{Key, NewKey, Right, Terms};

use super::Api;
use super::audit::Made;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult};

/// Ten years, in seconds: longer is for ever, which has no number.
const EXPIRES_IN_MAX: u64 = 10 * 365 * 24 * 3_600;

/// How long a key that is followed by another one is good for, in seconds: a day to bring the new one to wherever the
/// old one is, and a month at most.
const OVERLAP: u64 = 24 * 3_600;
const OVERLAP_MAX: u64 = 30 * 24 * 3_600;

/// Characters that say what a key is for.
const LABEL_CHARS_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    scopes: BTreeSet<Right>,
    /// Seconds; for ever without.
    expires_in: Option<u64>,
    label: Option<String>,
}

/// What a body asks a new key to be.
pub(super) fn terms(bytes: &[u8], now: Time) -> ApiResult<Terms> {
    let new: New = body::json(bytes)?;
    let known = new.scopes.iter().all(|it| Right::OF_KEYS.contains(it));
    if new.scopes.is_empty() || !known {
        let known = Right::OF_KEYS.map(|right| format!("`{}`", right.name()));
        let message = format!("a key's scopes are of {}", known.join(", "));
        return Err(ApiError::bad("invalid_json", message));
    }
    if !new
        .expires_in
        .is_none_or(|it| (1..=EXPIRES_IN_MAX).contains(&it))
    {
        let message = format!("`expires_in` is 1 to {EXPIRES_IN_MAX} seconds");
        return Err(ApiError::bad("invalid_json", message));
    }
    let is_label = |text: &String| {
        text.chars().count() <= LABEL_CHARS_MAX && !text.chars().any(char::is_control)
    };
    if !new.label.as_ref().is_none_or(is_label) {
        let message = format!("a `label` is {LABEL_CHARS_MAX} characters at most, on one line");
        return Err(ApiError::bad("invalid_json", message));
    }
    Ok(Terms {
        rights: new.scopes,
        expires_at: new.expires_in.map(|it| now.plus_ms(it * 1_000)),
        label: new.label,
    })
}

/// A key, without its text.
pub(super) fn shown(key: &Key) -> Value {
    json!({
        "id": key.id,
        "scopes": key.rights,
        "label": key.label,
        "created_at": key.created_at.to_rfc3339(),
        "expires_at": key.expires_at.map(Time::to_rfc3339),
    })
}

/// A key with its text, which is shown this once.
pub(super) fn minted(new: &NewKey) -> Value {
    let mut json = shown(&new.key);
    json["key"] = new.text.clone().into();
    json
}

pub(super) async fn mint(
    State(api): State<Api>,
    caller: Caller,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Admin)?;
    let terms = terms(&bytes, api.clock.now())?;
    let key = api.tenants.mint_key(caller.tenant(), terms).await?;
    Ok(created(minted(&key), &key.key.id))
}

/// What was made, and its id for whoever writes that down.
pub(super) fn created(body: Value, id: &str) -> Response {
    let made = Extension(Made(id.to_owned()));
    (StatusCode::CREATED, made, Json(body)).into_response()
}

pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.need(Right::Admin)?;
    let keys = api.tenants.keys(caller.tenant()).await?;
    let keys: Vec<Value> = keys.iter().map(shown).collect();
    Ok(Json(json!({"keys": keys})))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    /// Seconds.
    overlap: Option<u64>,
}

/// How long what is followed by another one is good for, as a body says.
pub(super) fn overlap_ms(bytes: &[u8]) -> ApiResult<u64> {
    let rotation: Rotation = match bytes.is_empty() {
        true => Rotation::default(),
        false => body::json(bytes)?,
    };
    let overlap = rotation.overlap.unwrap_or(OVERLAP);
    if overlap > OVERLAP_MAX {
        let message = format!("`overlap` is 0 to {OVERLAP_MAX} seconds");
        return Err(ApiError::bad("invalid_json", message));
    }
    Ok(overlap * 1_000)
}

pub(super) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Admin)?;
    let overlap_ms = overlap_ms(&bytes)?;
    let rotated = api.tenants.rotate_key(caller.tenant(), &id, overlap_ms);
    let (new, old) = rotated.await?;
    let mut json = minted(&new);
    json["replaces"] = shown(&old);
    Ok(created(json, &new.key.id))
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
        Err(no_such_key())
    }
}

pub(super) fn no_such_key() -> ApiError {
    ApiError::not_found("key_not_found", "there is no such key")
}
