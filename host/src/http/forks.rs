//! `/v1/sessions/{id}/fork`: a new session from the beginning of another one.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use crate::id::{MalformedOffset, Offset, Seq, SessionId};
use crate::session::commands;
use crate::session::fork::NewFork;
use crate::tenants::Right;

use super::Api;
use super::asking::set;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::ApiResult;
use super::sessions::described;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fork {
    /// Without it, the newest durable entry.
    at: Option<Place>,
    session: Option<SessionId>,
}

/// A place as its number, or as the offset that reads and streams give.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`at` is the number of an entry or an offset")]
enum Place {
    Number(u64),
    Offset(String),
}

impl Place {
    fn seq(&self) -> Result<Option<Seq>, MalformedOffset> {
        match self {
            Self::Number(number) => Ok(Some(Seq(*number))),
            Self::Offset(text) if text == "now" => Ok(None),
            Self::Offset(text) => text.parse().map(|Offset(seq)| Some(seq)),
        }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let fork = if bytes.is_empty() {
        Fork::default()
    } else {
        body::json(&bytes)?
    };
    let idempotency = body::idempotency_key(&headers)?.map(|key| {
        let target = format!("forks/{id}");
        commands::idempotency(caller.tenant().as_str(), &target, key, &bytes)
    });
    let derived = || idempotency.map_or_else(SessionId::fresh, |it| SessionId::of_key(&it.key));
    let new = NewFork {
        session: fork.session.unwrap_or_else(derived),
        at: match fork.at {
            Some(place) => place.seq()?,
            None => None,
        },
        idempotency,
        next: None,
    };
    api.may_fork(&caller, &new.session).await?;
    let forked = api.sessions.fork(caller.tenant(), &id, &new).await?;
    let (_, body) = described(&forked.session).await?;
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    let headers = response.headers_mut();
    if forked.replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    set(
        headers,
        "location",
        &format!("/v1/sessions/{}", new.session),
    );
    Ok(response)
}
