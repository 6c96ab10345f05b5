//! `/v1/responses`: made, looked at, followed again, cancelled, deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{AgentName, MessageId, Seq, SessionId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{Kind, Payload, ToolCall};
use crate::ledger::transcript;
use crate::session::commands::{self, Posted};
use crate::session::outcome::{self, Standing, Tracker};
use crate::session::{Session, SessionError};
use crate::store::ReadError;
use crate::telemetry::{self, Limit};
use crate::tenants::Right;

use super::super::Api;
use super::super::asking::{self, Onward, Place, Question, Request, Teller, Telling};
use super::super::auth::Caller;
use super::super::body::{Body, Names, Params};
use super::super::error::{ApiError, ApiResult, settled};
use super::response::{self, Asked, Events};
use super::telling::{Steps, taken};
use super::wire::{Echo, NewResponse, Unfit};
use super::{models, session};

fn not_found() -> ApiError {
    ApiError::not_found("response_not_found", "there is no such response")
}

fn no_previous() -> ApiError {
    let message = "there is no such response, or not any more";
    ApiError::bad("previous_response_not_found", message).param("previous_response_id")
}

pub(in crate::http) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let mut new = NewResponse::read(&bytes)?;
    let agent = models::agent(&api, &caller, &new.model)?;
    api.may_ask(&caller)?;
    let named = session(&headers)?;
    let previous = new.previous_response_id.as_deref();
    let previous = previous.map(|id| previous_message(id, named.as_ref()));
    let previous = previous.transpose()?;
    let request = Request {
        target: format!("responses/{agent}"),
        headers: &headers,
        bytes: &bytes,
        streams: new.is_stream(),
    };
    let is_background = new.is_background();
    let of_previous = previous.as_ref().map(MessageId::session);
    let place = named.as_ref().or(of_previous.as_ref());
    let came = asking::came(&api, &caller, &request, place, named.is_none()).await?;
    let asking::Asked {
        session,
        posted,
        permit,
        repeats,
    } = match came {
        Some(came) => came,
        None => {
            refer(&api, &caller, &mut new).await?;
            let question = question(&api, &caller, new, agent, previous, named).await?;
            asking::ask(&api, &caller, request, question).await?
        }
    };
    let asked = asked(&session, &posted.message).await?;
    let asked =
        asked.ok_or_else(|| ApiError::internal("a message that was posted is not there"))?;
    let id = session.journal.session.clone();
    if let Some(permit) = permit {
        let teller = ResponseTeller::new(asked, None);
        let mut telling = Telling::new(&api, session, &posted, permit, teller);
        let turn = match is_background {
            true => Standing::Open(None),
            false => telling
                .begun()
                .await
                .map_err(|error| repeats.error(error))?,
        };
        let mut response = telling.response(api, caller);
        asking::name(response.headers_mut(), &id, &posted, &turn);
        return Ok(response);
    }
    let standing = if is_background {
        session.ledger.durable(posted.seq).await?;
        let standing = outcome::look(&session, &posted.message).await?;
        standing.unwrap_or(Standing::Open(None))
    } else {
        asking::answer(&api, session, &posted, repeats).await?
    };
    let mut response = Json(asked.whole(&standing)).into_response();
    asking::name(response.headers_mut(), &id, &posted, &standing);
    Ok(response)
}

/// Put the items of earlier responses in where the input refers to them: as many as may be told of what was said before,
/// and as long as a request may be. What an agent is told here is read, so whoever asks may read.
async fn refer(api: &Api, caller: &Caller, new: &mut NewResponse) -> ApiResult<()> {
    let references = new.references();
    if references.is_empty() {
        return Ok(());
    }
    caller.need(Right::Read)?;
    let (count_max, bytes_max) = (api.settings.recounted_max, api.settings.request_bytes_max);
    if references.len() > count_max {
        return Err(asking::too_many(count_max));
    }
    let missing = |at: usize| {
        let message = "there is no such item, or not any more";
        ApiError::not_found("response_not_found", message).param(format!("input[{at}]"))
    };
    // Each response is read once, and nothing kept of it but what is referred to.
    let mut wanted: BTreeMap<MessageId, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for (at, id) in references {
        let message = response::message_of_item(&id).ok_or_else(|| missing(at))?;
        let items = wanted.entry(message).or_default();
        items.entry(id).or_default().push(at);
    }
    let mut bytes: usize = 0;
    for (message, items) in wanted {
        let first = items.values().flatten().copied().min().unwrap_or_default();
        let found = match look(api, caller, &message).await {
            Ok(found) => found.ok_or_else(|| missing(first))?,
            Err(SessionError::NotFound | SessionError::Gone) => return Err(missing(first)),
            Err(error) => return Err(error.into()),
        };
        let whole = found.asked.whole(&found.standing);
        for (id, places) in items {
            let output = whole["output"].as_array();
            let item = output.and_then(|items| items.iter().find(|item| item["id"] == *id));
            let item = item.ok_or_else(|| missing(places[0]))?;
            bytes = bytes.saturating_add(item.to_string().len().saturating_mul(places.len()));
            if bytes > bytes_max {
                telemetry::hit(Limit::RequestBytes);
                return Err(ApiError::too_large(bytes_max));
            }
            for at in places {
                new.resolve(at, item.clone());
            }
        }
    }
    Ok(())
}

/// What is asked, and where.
async fn question(
    api: &Api,
    caller: &Caller,
    new: NewResponse,
    agent: AgentName,
    previous: Option<MessageId>,
    named: Option<SessionId>,
) -> ApiResult<Question> {
    let (echo, is_stored) = (
        new.echo(previous.is_none() && named.is_none()),
        new.is_stored(),
    );
    let (place, calls) = match (previous, named) {
        (Some(previous), named) => {
            let (onward, calls) = onward(api, caller, &previous, named.is_some()).await?;
            (Some(Place::After(onward)), calls)
        }
        (None, named) => (named.map(Place::In), Vec::new()),
    };
    let talk = new.talk(&agent, calls)?;
    Ok(Question {
        agent,
        place: place.unwrap_or_else(|| Place::Own {
            expires_after_ms: match is_stored {
                true => api.sessions.invoked_expire_after_ms(),
                false => api.settings.chat_expire_after_ms,
            },
            recounted: talk.earlier,
        }),
        author: talk.author,
        body: talk.input,
        instructions: talk.instructions,
        tools: talk.tools,
        echo: Some(serde_json::to_value(&echo).map_err(ApiError::internal)?),
    })
}

/// The message of the response before, which is in the session that is named, if one is.
fn previous_message(id: &str, named: Option<&SessionId>) -> ApiResult<MessageId> {
    let message = response::message(id).ok_or_else(no_previous)?;
    if named.is_some_and(|named| *named != message.session()) {
        let message = "`previous_response_id` is of another session than the request";
        return Err(Unfit::unsupported("previous_response_id", message).into());
    }
    Ok(message)
}

/// Where a response is gone on from, once it is over: in its own session; or if that has gone on without it, in a fork of
/// it as it was when the response ended, which has nothing of what came later. A session that people share is theirs: there
/// it goes on at the end. Answers the calls that it asked for, too.
async fn onward(
    api: &Api,
    caller: &Caller,
    message: &MessageId,
    is_named: bool,
) -> ApiResult<(Onward, Vec<ToolCall>)> {
    let session = match api.sessions.get(caller.tenant(), &message.session()).await {
        Ok(session) => session,
        Err(SessionError::NotFound | SessionError::Gone) => return Err(no_previous()),
        Err(error) => return Err(error.into()),
    };
    let tracker = outcome::track(&session, message).await?;
    let tracker = tracker.ok_or_else(no_previous)?;
    let standing = tracker.standing();
    let calls = taken(&standing).map_or_else(Vec::new, |taken| taken.calls.clone());
    let Some(over_at) = tracker.over_at() else {
        let message = "the response is not over yet: wait for its end, or cancel it";
        let error = ApiError::bad("previous_response_not_finished", message);
        return Err(error.param("previous_response_id"));
    };
    let (after, fork_at) = match made_by_responses(&session).await? {
        true => {
            let newest = newest_at(&session, message, &standing).await?;
            // Its own message is after the first entry, so then it is not asked there.
            let after = newest.unwrap_or(Seq(0));
            (Some(after), (!is_named).then_some(over_at))
        }
        false => (None, None),
    };
    let onward = Onward {
        session,
        after,
        fork_at,
    };
    Ok((onward, calls))
}

/// Up to where nobody has said anything since; none if somebody has.
async fn newest_at(
    session: &Session,
    message: &MessageId,
    standing: &Standing,
) -> ApiResult<Option<Seq>> {
    let durable = session.ledger.mark().durable;
    let none = BTreeSet::new();
    let window = transcript::window(&session.ledger, durable.next(), durable, 1, &none).await?;
    let turn = taken(standing).map(|taken| &taken.turn);
    let is_newest = window.items.last().is_none_or(|item| {
        item.message.as_ref() == Some(message) || (turn.is_some() && item.turn.as_ref() == turn)
    });
    Ok(is_newest.then_some(durable))
}

/// Whether the session was opened by a response, and all its messages came from responses.
async fn made_by_responses(session: &Session) -> ApiResult<bool> {
    if session.ledger.look(|state| state.has_unechoed) {
        return Ok(false);
    }
    let (mut after, until) = (Seq(0), session.ledger.mark().durable);
    loop {
        let entries = session.ledger.entries(after, until).await?;
        let Some(last) = entries.last() else {
            return Ok(false);
        };
        after = last.seq;
        let mut entries = entries.iter();
        if let Some(first) = entries.find(|it| it.kind == Kind::MessageReceived) {
            let Payload::MessageReceived(it) = session.ledger.decode(first)?.payload else {
                return Ok(false);
            };
            return Ok(echo(it.private.echo).opened);
        }
    }
}

/// Messages that came another way tell nothing again.
fn echo(stored: Option<Value>) -> Echo {
    let stored = stored.and_then(|it| serde_json::from_value(it).ok());
    stored.unwrap_or_default()
}

/// What was asked with a message; none if it is none of a person's.
async fn asked(session: &Session, message: &MessageId) -> Result<Option<Asked>, ReadError> {
    let Some(entry) = session.ledger.entry(message.seq()).await? else {
        return Ok(None);
    };
    let entry = session.ledger.decode(&entry)?;
    let Payload::MessageReceived(it) = entry.payload else {
        return Ok(None);
    };
    Ok((it.message == *message).then(|| Asked {
        message: it.message,
        model: it.to,
        received_at: entry.time,
        instructions: it.private.instructions,
        echo: echo(it.private.echo),
    }))
}

struct ResponseTeller {
    steps: Steps,
    events: Events,
}

impl ResponseTeller {
    fn new(asked: Asked, after: Option<u64>) -> Self {
        Self {
            steps: Steps::default(),
            events: Events::new(asked, after),
        }
    }
}

impl Teller for ResponseTeller {
    fn tell(&mut self, encoded: &Encoded, tracker: &Tracker) -> Vec<Bytes> {
        let steps = self.steps.next(encoded, tracker);
        self.events.next(encoded.seq, &steps)
    }
}

/// A response that is there.
struct Found {
    session: Arc<Session>,
    asked: Asked,
    standing: Standing,
}

async fn find(api: &Api, caller: &Caller, id: &str, right: Right) -> ApiResult<Found> {
    let message = response::message(id).ok_or_else(not_found)?;
    caller.enter(&message.session(), right)?;
    let mut found = match look(api, caller, &message).await {
        Ok(found) => found.ok_or_else(not_found)?,
        Err(SessionError::NotFound) => return Err(not_found()),
        Err(error) => return Err(error.into()),
    };
    // They are the private part of a message, and may be what the people in the session are not to know.
    if caller.need(Right::Inspect).is_err() {
        found.asked.instructions = None;
    }
    Ok(found)
}

/// The response to a message; none if there is no such message.
async fn look(
    api: &Api,
    caller: &Caller,
    message: &MessageId,
) -> Result<Option<Found>, SessionError> {
    let session = api
        .sessions
        .get(caller.tenant(), &message.session())
        .await?;
    let standing = outcome::look(&session, message).await?;
    let asked = asked(&session, message).await?;
    Ok(standing.zip(asked).map(|(standing, asked)| Found {
        session,
        asked,
        standing,
    }))
}

#[derive(Deserialize)]
pub(in crate::http) struct Wanted {
    stream: Option<bool>,
    /// The number of the last event that the reader has.
    starting_after: Option<u64>,
}

pub(in crate::http) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
    Params(wanted): Params<Wanted>,
) -> ApiResult<Response> {
    let found = find(&api, &caller, &id, Right::Read).await?;
    if wanted.stream != Some(true) {
        return Ok(Json(found.asked.whole(&found.standing)).into_response());
    }
    let permit = api.streams.permit(caller.tenant())?;
    let posted = Posted {
        message: found.asked.message.clone(),
        seq: found.asked.message.seq(),
        replayed: false,
    };
    let session = found.session.journal.session.clone();
    let teller = ResponseTeller::new(found.asked, wanted.starting_after);
    let telling = Telling::new(&api, found.session, &posted, permit, teller);
    let mut response = telling.response(api, caller);
    asking::name(response.headers_mut(), &session, &posted, &found.standing);
    Ok(response)
}

/// Cancelling what is done already changes nothing and is no error.
pub(in crate::http) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> ApiResult<Json<Value>> {
    let found = find(&api, &caller, &id, Right::Interrupt).await?;
    let (session, message) = (&found.session, &found.asked.message);
    settled(session, commands::cancel(&session.ledger, message)).await?;
    session.ledger.settle().await?;
    let standing = outcome::look(session, message).await?;
    Ok(Json(found.asked.whole(&standing.ok_or_else(not_found)?)))
}

/// What was said cannot be taken out of a journal: the session goes, with all responses in it.
pub(in crate::http) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<String>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Invoke)?;
    let found = find(&api, &caller, &id, Right::Send).await?;
    if !made_by_responses(&found.session).await? {
        let message =
            "the response is part of a session that was opened for more: delete the session";
        let conflict = StatusCode::CONFLICT;
        return Err(ApiError::new(conflict, "response_in_session", message));
    }
    settled(&found.session, commands::delete(&found.session.ledger)).await?;
    found.session.ledger.settle().await?;
    let (id, deleted) = (found.asked.id(), true);
    Ok(Json(
        json!({"id": id, "object": "response", "deleted": deleted}),
    ))
}
