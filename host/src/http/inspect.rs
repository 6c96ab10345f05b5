//! What a recorded turn ran with: for whoever runs it again on a machine of his own.
//!
//! Invariant: a component is given only to the tenant that deployed it, and of a session's secret
//! only what one ended turn drew from it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};

use crate::id::{Digest, Offset, Seq, SessionId, TurnId};
use crate::journal::entry::{Entry, Failure, Kind, Payload, TurnStarted};
use crate::ledger::Ledger;
use crate::runtime::random::Seeds;
use crate::store::ReadError;
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::Names;
use super::error::{ApiError, ApiResult};

/// A component, or a conversation, of any version that the tenant has, or had when a turn began.
pub(super) async fn component(
    State(api): State<Api>,
    caller: Caller,
    Names(digest): Names<Digest>,
) -> ApiResult<Response> {
    caller.need(Right::Inspect)?;
    let agents = api.sessions.agents();
    let bytes = agents.component(caller.tenant(), digest).await?;
    let not_found = || ApiError::not_found("component_not_found", "there is no such component");
    let bytes = bytes.ok_or_else(not_found)?;
    let content_type = match agents.definition(digest) {
        Some(_) => "application/json",
        None => "application/wasm",
    };
    Ok(([(header::CONTENT_TYPE, content_type)], bytes).into_response())
}

/// A long document that an entry of the session's journal names.
pub(super) async fn value(
    State(api): State<Api>,
    caller: Caller,
    Names((id, digest)): Names<(SessionId, Digest)>,
) -> ApiResult<Response> {
    caller.need(Right::Inspect)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let bytes = session.ledger.value(digest).await?;
    let not_found = || ApiError::not_found("value_not_found", "the journal names no such value");
    let bytes = bytes.ok_or_else(not_found)?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// A turn, with what it was started with.
pub(super) async fn turn(
    State(api): State<Api>,
    caller: Caller,
    Names((id, turn)): Names<(SessionId, TurnId)>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Inspect)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let ledger = &session.ledger;
    let not_found = || ApiError::not_found("turn_not_found", "there is no such turn");
    let (started, it) = started(ledger, &turn).await?.ok_or_else(not_found)?;
    let ended = ended(ledger, &turn).await?;
    // What is still to be drawn is nobody's to know. A turn that a fork cut off may go on in the
    // session that this one comes from.
    let is_drawn = ended
        .as_ref()
        .is_some_and(|(_, code)| *code != Some(Failure::Forked));
    let origin = origin(ledger, &id, started).await?;
    let random = is_drawn.then(|| Seeds::of(&origin.secret, &turn));
    let version = api
        .sessions
        .agents()
        .pinned(caller.tenant(), &it.agent, it.private.version);
    Ok(Json(json!({
        "turn": turn,
        "session": origin.session,
        "agent": it.agent,
        "started": Offset(started).to_string(),
        "ended": ended.map(|(ended, _)| Offset(ended).to_string()),
        "component": it.private.component,
        "version": it.private.version,
        "config": version.map(|version| version.config.clone()),
        "random": random,
    })))
}

/// The session that an entry was written in, which is another one if this is a fork of it, and
/// its secret.
struct Origin {
    session: SessionId,
    secret: String,
}

async fn origin(ledger: &Arc<Ledger>, session: &SessionId, at: Seq) -> Result<Origin, ReadError> {
    const KINDS: &[Kind] = &[Kind::SessionOpened, Kind::SessionForked];
    let mut origin = Origin {
        session: session.clone(),
        secret: String::new(),
    };
    let mut back = ledger.back(ledger.mark().durable.next(), KINDS);
    while let Some(encoded) = back.next().await? {
        let entry = ledger.decode(&encoded)?;
        match entry.payload {
            Payload::SessionForked(forked) if entry.seq > at => origin.session = forked.from,
            Payload::SessionForked(forked) => {
                origin.secret = forked.private.secret;
                break;
            }
            Payload::SessionOpened(opened) => origin.secret = opened.private.secret,
            _ => {}
        }
    }
    Ok(origin)
}

/// The durable beginning of a turn.
async fn started(
    ledger: &Arc<Ledger>,
    turn: &TurnId,
) -> Result<Option<(Seq, TurnStarted)>, ReadError> {
    let end = ledger.mark().durable.next();
    find(ledger, end, &[Kind::TurnStarted], |entry| {
        match entry.payload {
            Payload::TurnStarted(it) if it.turn == *turn => Some((entry.seq, it)),
            _ => None,
        }
    })
    .await
}

/// Where it ended, and why if it did not end well.
async fn ended(
    ledger: &Arc<Ledger>,
    turn: &TurnId,
) -> Result<Option<(Seq, Option<Failure>)>, ReadError> {
    let end = ledger.mark().durable.next();
    find(ledger, end, &[Kind::TurnEnded], |entry| {
        match entry.payload {
            Payload::TurnEnded(it) if it.turn == *turn => {
                Some((entry.seq, it.error.map(|error| error.code)))
            }
            _ => None,
        }
    })
    .await
}

/// The newest entry before a durable place that is wanted. A journal has no index of turns: this reads it, frames
/// without such entries left out.
async fn find<T>(
    ledger: &Arc<Ledger>,
    before: Seq,
    kinds: &'static [Kind],
    wanted: impl Fn(Entry) -> Option<T>,
) -> Result<Option<T>, ReadError> {
    let mut back = ledger.back(before, kinds);
    while let Some(encoded) = back.next().await? {
        if let Some(found) = wanted(ledger.decode(&encoded)?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
