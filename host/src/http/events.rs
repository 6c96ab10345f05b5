//! A session's events, transcript and journal.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::id::{Offset, Seq, SessionId};
use crate::journal::codec::Encoded;
use crate::journal::entry::Kind;
use crate::journal::state::Phase;
use crate::ledger::{Dead, FollowError, Follower, transcript};
use crate::session::Session;
use crate::tenants::Right;

use super::auth::Caller;
use super::body::{self, Names, Params};
use super::error::{ApiError, ApiResult};
use super::streams::StreamPermit;
use super::{Api, sse, wire};

/// How long a poll waits: shorter than the minute after which proxies give up.
const POLL: Duration = Duration::from_secs(25);

/// Events on one page.
const PAGE_BYTES: usize = 1024 * 1024;

/// Items of transcript on one page.
const ITEMS: usize = 50;
const ITEMS_MAX: usize = 200;

#[derive(Deserialize)]
pub(super) struct EventQuery {
    pub(super) offset: Option<String>,
    live: Option<String>,
}

/// Where reading starts: after this entry.
fn start(session: &Session, offset: Option<&str>) -> ApiResult<Seq> {
    let durable = session.ledger.mark().durable;
    let Offset(seq) = match offset {
        None => Offset(Seq(0)),
        Some("now") => Offset(durable),
        Some(text) => text.parse()?,
    };
    if seq > durable {
        return Err(ApiError::bad(
            "offset_ahead",
            "the offset is beyond the end of the session",
        ));
    }
    Ok(seq)
}

pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Params(query): Params<EventQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let last_id = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let after = start(&session, last_id.or(query.offset.as_deref()))?;
    match query.live.as_deref() {
        Some("sse") => live(&api, caller, session, after),
        None if body::wants_events(&headers) => live(&api, caller, session, after),
        Some("long-poll") => poll(&api, caller, &session, after).await,
        None => Ok(page(&session, after).await?.0),
        Some(_) => Err(ApiError::bad(
            "invalid_live",
            "`live` is `sse` or `long-poll`",
        )),
    }
}

/// Visible durable entries after a place, and whether there were any.
async fn page(session: &Arc<Session>, after: Seq) -> ApiResult<(Response, bool)> {
    let (entries, at, up_to_date) = read(session, after, PAGE_BYTES, Kind::is_visible).await?;
    let public: Vec<_> = entries.iter().map(Encoded::public).collect();
    let events = public
        .iter()
        .map(|bytes| serde_json::from_slice::<&RawValue>(bytes));
    let events: Vec<&RawValue> = events
        .collect::<Result<_, _>>()
        .map_err(ApiError::internal)?;
    let any = !events.is_empty();
    let offset = Offset(at).to_string();
    let page = wire::Page {
        events: Some(events),
        entries: None,
        offset,
        up_to_date,
    };
    Ok((Json(page).into_response(), any))
}

/// A page of durable entries of some kinds, where it ends, and whether that is the end.
pub(super) async fn read(
    session: &Session,
    after: Seq,
    bytes_max: usize,
    wanted: impl Fn(Kind) -> bool,
) -> ApiResult<(Vec<Encoded>, Seq, bool)> {
    let durable = session.ledger.mark().durable;
    let (mut page, mut bytes, mut at) = (Vec::new(), 0, after);
    while at < durable && bytes < bytes_max {
        let entries = session.ledger.entries(at, durable).await?;
        if entries.is_empty() {
            break;
        }
        for encoded in entries {
            if bytes >= bytes_max {
                break;
            }
            at = encoded.seq;
            if wanted(encoded.kind) {
                bytes += encoded.len();
                page.push(encoded);
            }
        }
    }
    Ok((page, at, at >= durable))
}

async fn poll(
    api: &Api,
    caller: Caller,
    session: &Arc<Session>,
    after: Seq,
) -> ApiResult<Response> {
    let _permit = api.streams.permit(&session.journal.tenant)?;
    let (response, any) = page(session, after).await?;
    if any {
        return Ok(response);
    }
    let mut follower = session.ledger.follow(after);
    let visible = async {
        loop {
            match follower.next().await {
                Ok(entries) if entries.iter().any(|entry| entry.kind.is_visible()) => return,
                Ok(_) => {}
                // What is there is answered; the next poll hears of the rest.
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = visible => {}
        () = tokio::time::sleep(POLL) => {}
        () = api.shutdown.stopping() => {}
        () = caller.lapsed(api.clone()) => return Err(super::auth::unknown()),
    }
    Ok(page(session, after).await?.0)
}

/// The events of a session from a place on: those that are there, then live. Ends with the session, and when the host
/// stops.
pub(super) struct Events {
    api: Api,
    session: Arc<Session>,
    follower: Follower,
    ready: VecDeque<Encoded>,
    _permit: StreamPermit,
}

impl Events {
    /// As a caller who may read the session asks.
    pub(super) async fn open(
        api: &Api,
        caller: &Caller,
        id: &SessionId,
        offset: Option<&str>,
    ) -> ApiResult<Self> {
        let session = api.sessions.get(caller.tenant(), id).await?;
        let after = start(&session, offset)?;
        Self::after(api, session, after)
    }

    fn after(api: &Api, session: Arc<Session>, after: Seq) -> ApiResult<Self> {
        let permit = api.streams.permit(&session.journal.tenant)?;
        let follower = session.ledger.follow(after);
        Ok(Self {
            api: api.clone(),
            session,
            follower,
            ready: VecDeque::new(),
            _permit: permit,
        })
    }

    /// The next one, once it is durable.
    pub(super) async fn next(&mut self) -> Option<Encoded> {
        loop {
            if let Some(encoded) = self.ready.pop_front() {
                return Some(encoded);
            }
            let next = tokio::select! {
                next = self.follower.next() => next,
                // The client comes back with its last id, to whoever serves then.
                () = self.api.shutdown.stopping() => return None,
            };
            match next {
                Ok(entries) => {
                    let visible = entries.into_iter().filter(|entry| entry.kind.is_visible());
                    self.ready.extend(visible);
                }
                Err(FollowError::Dead(Dead::Closed | Dead::Fenced | Dead::Illegal(_))) => {
                    if self.session.ledger.look(|it| it.phase) == Phase::Ended {
                        return None;
                    }
                    let journal = &self.session.journal;
                    let session = self.api.sessions.get(&journal.tenant, &journal.session);
                    self.session = session.await.ok()?;
                    self.follower = self.session.ledger.follow(self.follower.at());
                }
                Err(_) => return None,
            }
        }
    }
}

fn live(api: &Api, caller: Caller, session: Arc<Session>, after: Seq) -> ApiResult<Response> {
    let lapsed = caller.lapsed(api.clone());
    let events = Events::after(api, session, after)?;
    let events = stream::unfold(events, |mut events| async move {
        let encoded = events.next().await?;
        let id = Offset(encoded.seq).to_string();
        let event = sse::event(&id, encoded.kind.name(), &encoded.public());
        Some((event, events))
    });
    Ok(sse::response(events, lapsed))
}

#[derive(Deserialize)]
pub(super) struct TranscriptQuery {
    before: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn transcript(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Params(query): Params<TranscriptQuery>,
) -> ApiResult<Json<Value>> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let durable = session.ledger.mark().durable;
    let before = match query.before {
        None => durable.next(),
        Some(text) => {
            let Offset(seq) = text.parse()?;
            seq.min(durable.next())
        }
    };
    let limit = query.limit.unwrap_or(ITEMS).clamp(1, ITEMS_MAX);
    let window =
        transcript::window(&session.ledger, before, durable, limit, &BTreeSet::new()).await?;
    let items: Vec<Value> = window.items.iter().map(wire::item).collect();
    Ok(Json(json!({
        "items": items,
        "before": window.before.map(|before| Offset(before).to_string()),
        "offset": Offset(durable).to_string(),
    })))
}

#[derive(Deserialize)]
pub(super) struct JournalQuery {
    offset: Option<String>,
    kind: Option<String>,
}

pub(super) async fn journal(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
    Params(query): Params<JournalQuery>,
) -> ApiResult<Response> {
    caller.need(Right::Inspect)?;
    let kind = match query.kind.as_deref() {
        None => None,
        Some(name) => {
            let unknown = || ApiError::bad("invalid_kind", "there is no such kind of entry");
            Some(Kind::of_name(name).ok_or_else(unknown)?)
        }
    };
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let after = start(&session, query.offset.as_deref())?;
    let (entries, at, up_to_date) = read(&session, after, PAGE_BYTES, |it| {
        kind.is_none_or(|kind| kind == it)
    })
    .await?;
    let entries: Result<Vec<Box<RawValue>>, _> = entries.iter().map(wire::entry).collect();
    let page = wire::Page {
        events: None,
        entries: Some(entries.map_err(ApiError::internal)?),
        offset: Offset(at).to_string(),
        up_to_date,
    };
    Ok(Json(page).into_response())
}
