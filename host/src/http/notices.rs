//! `GET /v1/notices`: what happens in all sessions of a tenant.

use std::collections::{BTreeSet, VecDeque};
use std::str::FromStr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{InvalidName, NoticeOffset};
use crate::journal::notice::NoticeKind;
use crate::notices::{Filter, Follower, NAMES_MAX, NoticeError, Page, public};
use crate::tenants::Right;

use super::auth::Caller;
use super::body::{self, Params};
use super::error::{ApiError, ApiResult};
use super::streams::StreamPermit;
use super::{Api, sse};

/// How long a poll waits, as those of events do.
const POLL: Duration = Duration::from_secs(25);

/// On one page, or handed to a stream at once.
const NOTICES: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct Query {
    offset: Option<String>,
    live: Option<String>,
    session: Option<String>,
    agent: Option<String>,
    kind: Option<String>,
}

impl From<NoticeError> for ApiError {
    fn from(error: NoticeError) -> Self {
        let text = error.to_string();
        match error {
            NoticeError::Ahead => Self::bad("offset_ahead", text),
            NoticeError::Gone { earliest } => {
                let fields = json!({"earliest": earliest.to_string()});
                Self::new(StatusCode::GONE, "notices_gone", text).with(fields)
            }
            NoticeError::Read(error) => error.into(),
        }
    }
}

/// Names with commas between; none is any.
fn list<T: FromStr<Err = InvalidName> + Ord>(text: Option<&str>) -> ApiResult<BTreeSet<T>> {
    let names = text.into_iter().flat_map(|text| text.split(','));
    let names: BTreeSet<T> = names.map(str::parse).collect::<Result<_, _>>()?;
    within(names.len())?;
    Ok(names)
}

fn within(count: usize) -> ApiResult<()> {
    match count > NAMES_MAX {
        true => Err(ApiError::bad(
            "invalid_query",
            format!("{NAMES_MAX} names is the most"),
        )),
        false => Ok(()),
    }
}

/// Kinds of notices by name.
pub(super) fn kind(name: &str) -> ApiResult<NoticeKind> {
    let unknown = || ApiError::bad("invalid_kind", "there is no such kind of notice");
    NoticeKind::of_name(name).ok_or_else(unknown)
}

/// Where reading starts; none is the first notice that is kept.
pub(super) async fn place(
    api: &Api,
    caller: &Caller,
    offset: &str,
) -> ApiResult<Option<NoticeOffset>> {
    Ok(match offset {
        "-1" => None,
        "now" => Some(api.notices.end(caller.tenant()).await?),
        text => Some(text.parse()?),
    })
}

pub(super) async fn list_or_follow(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    caller.need(Right::Read)?;
    let kinds = query.kind.as_deref().into_iter();
    let kinds = kinds.flat_map(|text| text.split(',')).map(kind);
    let filter = Filter {
        sessions: list(query.session.as_deref())?,
        agents: list(query.agent.as_deref())?,
        kinds: kinds.collect::<ApiResult<_>>()?,
    };
    let last_id = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let offset = last_id.or(query.offset.as_deref()).unwrap_or("-1");
    let from = place(&api, &caller, offset).await?;
    let follow = async || api.notices.follow(caller.tenant(), from, filter).await;
    match query.live.as_deref() {
        Some("sse") => {}
        None if body::wants_events(&headers) => {}
        Some("long-poll") => {
            let _permit = api.streams.permit(caller.tenant())?;
            return poll(&api, follow().await?, caller).await;
        }
        None => return Ok(answer(follow().await?.page(NOTICES).await?)),
        Some(_) => {
            let message = "`live` is `sse` or `long-poll`";
            return Err(ApiError::bad("invalid_live", message));
        }
    }
    let permit = api.streams.permit(caller.tenant())?;
    let follower = follow().await?;
    Ok(live(api.clone(), caller, follower, permit))
}

fn answer(page: Page) -> Response {
    let notices = page.notices.iter();
    let notices: Vec<Value> = notices.map(|(at, notice)| public(*at, notice)).collect();
    let body = json!({
        "notices": notices,
        "offset": page.at.to_string(),
        "up_to_date": page.is_end,
    });
    Json(body).into_response()
}

async fn poll(api: &Api, mut follower: Follower, caller: Caller) -> ApiResult<Response> {
    let lapsed = caller.lapsed(api.clone());
    let next = tokio::select! {
        next = follower.next(NOTICES) => Some(next?),
        () = tokio::time::sleep(POLL) => None,
        () = api.shutdown.stopping() => None,
        () = lapsed => return Err(super::auth::unknown()),
    };
    // As far as was looked there is nothing.
    let page = next.unwrap_or_else(|| Page {
        notices: Vec::new(),
        at: follower.at(),
        is_end: follower.is_at_end(),
    });
    Ok(answer(page))
}

fn live(api: Api, caller: Caller, follower: Follower, permit: StreamPermit) -> Response {
    let lapsed = caller.lapsed(api.clone());
    let state = (api, follower, VecDeque::new(), permit);
    let events = stream::unfold(state, |(api, mut follower, mut ready, permit)| async move {
        loop {
            if let Some((at, notice)) = ready.pop_front() {
                let json = public(at, &notice).to_string();
                let kind = notice.what.kind().name();
                let event = sse::event(&at.to_string(), kind, json.as_bytes());
                return Some((event, (api, follower, ready, permit)));
            }
            let next = tokio::select! {
                next = follower.next(NOTICES) => next,
                // The client comes back with its last id, to whoever serves then.
                () = api.shutdown.stopping() => return None,
            };
            // Who fell behind what is kept is told so when it comes back.
            ready.extend(next.ok()?.notices);
        }
    });
    sse::response(events, lapsed)
}
