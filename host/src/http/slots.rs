//! `/v1/sessions/{id}/slots`: the session's documents.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{Author, Seq, SessionId, SlotName};
use crate::session::commands;
use crate::tenants::Right;

use super::Api;
use super::asking::set;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult, settled};
use super::wire;

fn not_found() -> ApiError {
    ApiError::not_found("slot_not_found", "there is no such slot")
}

pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
) -> ApiResult<Json<Value>> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let (last, slots) = session.ledger.look(|state| {
        let slots: Vec<Value> = state
            .slots
            .iter()
            .map(|(name, slot)| wire::slot(name, slot))
            .collect();
        (state.last, slots)
    });
    session.ledger.durable(last).await?;
    Ok(Json(json!({"slots": slots})))
}

pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names((id, name)): Names<(SessionId, SlotName)>,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let (last, found) = session.ledger.look_at_slot(&name, |slot| {
        let version = slot.document.as_ref().map(|document| document.version);
        (version, wire::slot(&name, slot))
    });
    session.ledger.durable(last).await?;
    let ((version, mut body), text) = found.ok_or_else(not_found)?;
    body["content"] = text.map_or(Value::Null, Value::String);
    let mut response = Json(body).into_response();
    if let Some(version) = version {
        set(response.headers_mut(), "etag", &format!("\"{version}\""));
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    content: String,
    author: Option<Author>,
}

pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Names((id, name)): Names<(SessionId, SlotName)>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Send)?;
    let document = if body::is_text(&headers) {
        Document {
            content: body::text(&bytes)?.to_owned(),
            author: None,
        }
    } else {
        body::json(&bytes)?
    };
    let version = if_match(&headers)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let bytes_more = document.content.len() as u64;
    api.may_add(&caller, &session, None, bytes_more).await?;
    let by = caller.author(document.author)?;
    let written = commands::put_slot(
        &api.sessions,
        &session.ledger,
        &name,
        by,
        version,
        &document.content,
    );
    let (version, written_at) = settled(&session, written).await?;
    session.ledger.durable(version).await?;
    let body = json!({
        "slot": name,
        "version": version,
        "written_at": written_at.to_rfc3339(),
        "bytes": document.content.len(),
    });
    let mut response = (StatusCode::OK, Json(body)).into_response();
    set(response.headers_mut(), "etag", &format!("\"{version}\""));
    Ok(response)
}

/// The version that a write replaces, quoted as an entity tag or bare.
fn if_match(headers: &HeaderMap) -> ApiResult<Option<Seq>> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    let malformed = || ApiError::bad("invalid_version", "If-Match is the version of a slot");
    text.parse()
        .map(|version| Some(Seq(version)))
        .map_err(|_| malformed())
}
