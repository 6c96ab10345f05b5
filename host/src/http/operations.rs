//! `/v1/operations`: a message as a long-running operation.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;

use crate::id::{MessageId, SessionId};
use crate::session::commands;
use crate::session::outcome::{self, Standing};
use crate::session::{Session, SessionError};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{Names, Params};
use super::error::{ApiError, ApiResult, settled};
use super::wire;

fn not_found() -> ApiError {
    ApiError::not_found("operation_not_found", "there is no such operation")
}

/// A fork has the messages of the session it was made from, under their old ids; what becomes of
/// them there is its own affair.
#[derive(Deserialize)]
pub(super) struct Within {
    session: Option<SessionId>,
}

async fn find(
    api: &Api,
    caller: &Caller,
    message: &MessageId,
    within: Within,
    right: Right,
) -> ApiResult<(std::sync::Arc<Session>, Standing)> {
    let id = within.session.unwrap_or_else(|| message.session());
    caller.enter(&id, right)?;
    let session = match api.sessions.get(caller.tenant(), &id).await {
        Ok(session) => session,
        Err(SessionError::NotFound) => return Err(not_found()),
        Err(error) => return Err(error.into()),
    };
    let standing = outcome::look(&session, message)
        .await?
        .ok_or_else(not_found)?;
    Ok((session, standing))
}

pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(message): Names<MessageId>,
    Params(within): Params<Within>,
) -> ApiResult<Json<Value>> {
    let (session, standing) = find(&api, &caller, &message, within, Right::Read).await?;
    let id = &session.journal.session;
    Ok(Json(wire::operation(id, &message, &standing)))
}

/// Cancelling what is done already changes nothing and is no error.
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Names(message): Names<MessageId>,
    Params(within): Params<Within>,
) -> ApiResult<Json<Value>> {
    let (session, _) = find(&api, &caller, &message, within, Right::Interrupt).await?;
    settled(&session, commands::cancel(&session.ledger, &message)).await?;
    session.ledger.settle().await?;
    let standing = outcome::look(&session, &message)
        .await?
        .ok_or_else(not_found)?;
    let id = &session.journal.session;
    Ok(Json(wire::operation(id, &message, &standing)))
}
