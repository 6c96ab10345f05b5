//! Asking an agent: one message in, and its turn followed to the end. The one way to do it, whatever protocol it
//! came in.
//!
//! - [`Onward`] is a session of an answer that is gone on from. [`came`] finds what was asked before.
//! - [`ask`] admits the request, finds or makes the session, and posts the message.
//! - [`Teller`] is what a protocol makes of the entries; [`Telling`] tells them while they come. [`ended`] waits for
//!   the last.
//!
//! Invariant: only durable entries are told, and nobody's hanging up stops the turn.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::clock::Time;
use crate::id::{AgentName, Author, Offset, Seq, SessionId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{Failure, Outcome, Recounted, Tool};
use crate::session::commands::{self, NewMessage, NewSession, Posted};
use crate::session::following::Following;
use crate::session::outcome::{Standing, Taken, Tracker};
use crate::session::{Session, SessionError};
use crate::telemetry::{self, Limit};

use super::Api;
use super::auth::Caller;
use super::bus;
use super::error::{ApiError, ApiResult, settled};
use super::sse;
use super::streams::StreamPermit;

mod onward;

pub(super) use onward::Onward;

/// What is asked of an agent.
pub(super) struct Question {
    pub(super) agent: AgentName,
    pub(super) place: Place,
    pub(super) author: Option<Author>,
    pub(super) body: Value,
    pub(super) instructions: Option<String>,
    /// Tools that the caller offers to call.
    pub(super) tools: Vec<Tool>,
    /// What the caller's protocol wants told again with the answer.
    pub(super) echo: Option<Value>,
}

/// The session that it is asked in.
pub(super) enum Place {
    /// One that is there.
    In(SessionId),
    /// The one of an answer, or a fork of it.
    After(Onward),
    /// One made for it. An idempotency key names it.
    Own {
        expires_after_ms: u64,
        /// What was said before.
        recounted: Vec<Recounted>,
    },
}

/// The request that a question came in.
pub(super) struct Request<'a> {
    /// What an idempotency key counts for.
    pub(super) target: String,
    pub(super) headers: &'a HeaderMap,
    pub(super) bytes: &'a [u8],
    /// The answer is a stream.
    pub(super) streams: bool,
}

/// A question that is in the journal, though perhaps not durable yet.
pub(super) struct Asked {
    pub(super) session: Arc<Session>,
    pub(super) posted: Posted,
    /// For an answer that is a stream.
    pub(super) permit: Option<StreamPermit>,
    pub(super) repeats: Repeats,
}

/// What the same request is, sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// The same message: it has a key.
    Same,
    /// Another one: the first was taken.
    Another,
}

impl Repeats {
    /// An error after the message was taken, which is not how its turn ended.
    pub(super) fn error(self, error: ApiError) -> ApiError {
        match self {
            Self::Same => error,
            Self::Another => error.final_(),
        }
    }
}

impl Asked {
    /// When the message was received.
    pub(super) async fn received_at(&self) -> ApiResult<Time> {
        let entry = self.session.ledger.entry(self.posted.seq).await?;
        let missing = || ApiError::internal("a message that was posted is not there");
        Ok(entry.ok_or_else(missing)?.time)
    }
}

/// Put the question to the agent, which the caller has found to be there.
pub(super) async fn ask(
    api: &Api,
    caller: &Caller,
    request: Request<'_>,
    question: Question,
) -> ApiResult<Asked> {
    let bytes_more = admit(api, caller, &question)?;
    let inbound = api.forwarded(caller, request.headers)?;
    let (target, headers) = (&request.target, request.headers);
    let idempotency = bus::idempotency(caller, target, headers, &inbound, request.bytes)?;
    let mut onward = None;
    let (session, new) = match question.place {
        Place::In(id) => (api.sessions.get(caller.tenant(), &id).await?, None),
        Place::After(it) => (onward.insert(it).session.clone(), None),
        Place::Own {
            expires_after_ms,
            recounted,
        } => {
            let id = idempotency.map_or_else(SessionId::fresh, |it| SessionId::of_key(&it.key));
            let new = NewSession {
                agents: vec![question.agent.clone()],
                entry: question.agent.clone(),
                expires_after_ms: Some(expires_after_ms),
                called_by: None,
                idempotency: None,
                recounted,
            };
            let session = api.sessions.get_or_absent(caller.tenant(), &id).await?;
            (session, Some(new))
        }
    };
    let repeats = match idempotency {
        Some(_) => Repeats::Same,
        None => Repeats::Another,
    };
    api.may_open(caller, &session).await?;
    api.may_add(caller, &session, idempotency, bytes_more)
        .await?;
    let message = NewMessage {
        author: caller.author(question.author)?,
        to: Some(question.agent),
        body: question.body,
        idempotency,
        after: None,
        invoked: true,
        bus: bus::context(api, &inbound),
        called_by: None,
        authorization: inbound.authorization,
        instructions: question.instructions,
        tools: question.tools,
        echo: question.echo,
    };
    // Before the message is taken: whoever is refused has asked for nothing yet.
    let permit = match request.streams {
        true => Some(api.streams.permit(caller.tenant())?),
        false => None,
    };
    if let Some(onward) = onward {
        let (session, posted) = onward.post(api, caller, message).await?;
        return Ok(Asked {
            session,
            posted,
            permit,
            repeats,
        });
    }
    let posted = settled(
        &session,
        commands::post(&api.sessions, &session.ledger, new.as_ref(), message),
    )
    .await?;
    Ok(Asked {
        session,
        posted,
        permit,
        repeats,
    })
}

/// The question that came before with the same idempotency key and the same body, if it came to one of these sessions or to
/// one that the key names. Looked for before anything that the request names, which may be gone since.
pub(super) async fn came(
    api: &Api,
    caller: &Caller,
    request: &Request<'_>,
    session: Option<&SessionId>,
    is_own: bool,
) -> ApiResult<Option<Asked>> {
    let inbound = api.forwarded(caller, request.headers)?;
    let (target, headers) = (&request.target, request.headers);
    let idempotency = bus::idempotency(caller, target, headers, &inbound, request.bytes)?;
    let Some(idempotency) = idempotency else {
        return Ok(None);
    };
    let own = is_own.then(|| SessionId::of_key(&idempotency.key));
    for id in session.cloned().into_iter().chain(own) {
        let session = match api.sessions.get(caller.tenant(), &id).await {
            Ok(session) => session,
            Err(SessionError::NotFound | SessionError::Gone) => continue,
            Err(error) => return Err(error.into()),
        };
        let came = commands::came(&session.ledger, idempotency, api.clock.now());
        if let Some(posted) = settled(&session, came).await? {
            let permit = match request.streams {
                true => Some(api.streams.permit(caller.tenant())?),
                false => None,
            };
            return Ok(Some(Asked {
                session,
                posted,
                permit,
                repeats: Repeats::Same,
            }));
        }
    }
    Ok(None)
}

/// Refuse what is too much. Answers how many bytes it is.
fn admit(api: &Api, caller: &Caller, question: &Question) -> ApiResult<u64> {
    let bytes_max = api.sessions.limits().message_bytes_max;
    let mut bytes = api.admit(caller, &question.body)?;
    let mut texts: Vec<&str> = question.instructions.iter().map(String::as_str).collect();
    if let Place::Own { recounted, .. } = &question.place {
        let limit = api.settings.recounted_max;
        if recounted.len() > limit {
            return Err(too_many(limit));
        }
        texts.extend(recounted.iter().map(|it| it.text.as_str()));
    }
    let tools = question.tools.iter();
    texts.extend(tools.flat_map(|it| [it.name.as_str(), &it.description, &it.parameters]));
    for text in texts {
        if text.len() > bytes_max {
            telemetry::hit(Limit::MessageBytes);
            return Err(ApiError::too_large(bytes_max));
        }
        bytes += text.len() as u64;
    }
    Ok(bytes)
}

/// The request tells more of what was said before than it may.
pub(super) fn too_many(limit: usize) -> ApiError {
    telemetry::hit(Limit::Recounted);
    let message = format!("{limit} earlier messages is the most");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

/// What a protocol makes of the entries of a message, from its own one on.
pub(super) trait Teller: Send + 'static {
    /// What an entry says, if anything, now that the tracker has it.
    fn tell(&mut self, encoded: &Encoded, tracker: &Tracker) -> Vec<Bytes>;

    /// It breaks off here. Nothing, where a reader goes on by itself from the last that it has.
    fn broken(&mut self, _error: &ApiError) -> Vec<Bytes> {
        Vec::new()
    }
}

/// A stream that is about to be told.
pub(super) struct Telling<T> {
    following: Following,
    teller: T,
    ready: VecDeque<Bytes>,
    is_broken: bool,
    _permit: StreamPermit,
}

impl<T: Teller> Telling<T> {
    pub(super) fn new(
        api: &Api,
        session: Arc<Session>,
        posted: &Posted,
        permit: StreamPermit,
        teller: T,
    ) -> Self {
        Self {
            following: Following::new(api.sessions.clone(), session, &posted.message),
            teller,
            ready: VecDeque::new(),
            is_broken: false,
            _permit: permit,
        }
    }

    /// Wait until a turn has the message, or none will. What came until then is kept.
    pub(super) async fn begun(&mut self) -> ApiResult<Standing> {
        let tracker = |it: &Self| it.following.tracker.turn().is_some();
        while !tracker(self) && !self.following.tracker.is_over() {
            self.more().await?;
        }
        Ok(self.following.tracker.standing())
    }

    async fn more(&mut self) -> ApiResult<()> {
        for encoded in self.following.next().await? {
            let was_over = self.following.tracker.is_over();
            self.following.track(&encoded)?;
            if !was_over {
                let told = self.teller.tell(&encoded, &self.following.tracker);
                self.ready.extend(told);
            }
        }
        Ok(())
    }

    /// Tell it while it comes. A reader that is cut goes on where its protocol says.
    pub(super) fn response(self, api: Api, caller: Caller) -> Response {
        let lapsed = caller.lapsed(api);
        let events = stream::unfold(self, |mut telling| async move {
            loop {
                if let Some(event) = telling.ready.pop_front() {
                    return Some((event, telling));
                }
                if telling.following.tracker.is_over() || telling.is_broken {
                    return None;
                }
                if let Err(error) = telling.more().await {
                    telling.is_broken = true;
                    let last = telling.teller.broken(&error);
                    telling.ready.extend(last);
                }
            }
        });
        sse::response(events, lapsed)
    }
}

/// Wait until its turn is over, and how it ended.
pub(super) async fn ended(
    api: &Api,
    session: Arc<Session>,
    posted: &Posted,
) -> ApiResult<Standing> {
    let id = session.journal.session.clone();
    let mut following = Following::new(api.sessions.clone(), session, &posted.message);
    let mut patience = Patience::new(api.settings.question_wait);
    while !following.tracker.is_over() {
        let Some(entries) = patience.wait(&mut following).await? else {
            return Err(asks(&id, &following.tracker));
        };
        for encoded in entries {
            following.track(&encoded)?;
        }
    }
    match following.tracker.standing() {
        Standing::Open(_) => Err(ApiError::internal("a message is over and open")),
        over => Ok(over),
    }
}

/// A turn that runs has an end; people may take days, for which no request is kept waiting.
struct Patience {
    wait: Duration,
    /// What is asked, and until when the request waits for it.
    asked: Option<(Seq, Instant)>,
}

impl Patience {
    fn new(wait: Duration) -> Self {
        Self { wait, asked: None }
    }

    /// The next entries; none if the turn has asked people for too long.
    async fn wait(&mut self, following: &mut Following) -> ApiResult<Option<Vec<Encoded>>> {
        let asks = following.tracker.asks();
        let is_same = |asked: &(Seq, Instant)| Some(asked.0) == asks;
        let since = || asks.map(|question| (question, Instant::now() + self.wait));
        self.asked = self.asked.filter(is_same).or_else(since);
        let Some((_, until)) = self.asked else {
            return Ok(Some(following.next().await?));
        };
        match tokio::time::timeout_at(until, following.next()).await {
            Ok(entries) => Ok(Some(entries?)),
            Err(_) => {
                telemetry::hit(Limit::QuestionWaitMs);
                Ok(None)
            }
        }
    }
}

/// The turn waits for people, longer than a request waits for it.
fn asks(session: &SessionId, tracker: &Tracker) -> ApiError {
    let taken = match tracker.standing() {
        Standing::Open(taken) => taken,
        Standing::Done(taken) => Some(taken),
        Standing::SetAside(_) => None,
    };
    let message =
        "the turn asks people and goes on once they answer: its operation says how it ends";
    let mut fields = of_turn(session, taken.as_ref());
    fields["question"] = json!(tracker.asks());
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "turn_asks", message).with(fields)
}

/// Wait for the answer, for clients that ask again by themselves: errors say whether they may.
pub(super) async fn answer(
    api: &Api,
    session: Arc<Session>,
    posted: &Posted,
    repeats: Repeats,
) -> ApiResult<Standing> {
    let id = session.journal.session.clone();
    let ended = ended(api, session, posted).await;
    let ended = ended.map_err(|error| repeats.error(error))?;
    // How a turn ended is the same with a key, and without one it would be another turn.
    let taken = answered(&id, ended).map_err(ApiError::final_)?;
    Ok(Standing::Done(taken))
}

/// The turn that answered, if one did: it was completed or interrupted, or this is the error that says how it failed.
pub(super) fn answered(session: &SessionId, standing: Standing) -> ApiResult<Taken> {
    let taken = match standing {
        Standing::Done(taken) | Standing::Open(Some(taken)) => taken,
        Standing::SetAside(reason) => {
            let status = StatusCode::BAD_GATEWAY;
            return Err(failed(session, None, status, "turn_failed", reason));
        }
        Standing::Open(None) => return Err(ApiError::internal("nobody has the message")),
    };
    let ended = taken.ended.as_ref();
    if let Some(error) = ended.and_then(|ended| ended.error.as_ref()) {
        let (status, code) = match error.code {
            Failure::Deadline | Failure::CallerDeadline => {
                (StatusCode::GATEWAY_TIMEOUT, "turn_deadline")
            }
            _ => (StatusCode::BAD_GATEWAY, "turn_failed"),
        };
        let message = format!("{}: {}", error.code.name(), error.message);
        return Err(failed(session, Some(&taken), status, code, message));
    }
    if ended.is_some_and(|ended| ended.outcome == Outcome::Cancelled) {
        let message = "the turn was cancelled".to_owned();
        let status = StatusCode::BAD_GATEWAY;
        return Err(failed(
            session,
            Some(&taken),
            status,
            "turn_failed",
            message,
        ));
    }
    Ok(taken)
}

fn failed(
    session: &SessionId,
    taken: Option<&Taken>,
    status: StatusCode,
    code: &'static str,
    message: String,
) -> ApiError {
    ApiError::new(status, code, message).with(of_turn(session, taken))
}

/// What a caller may go on from.
fn of_turn(session: &SessionId, taken: Option<&Taken>) -> Value {
    json!({
        "session": session,
        "run": taken.map(|taken| &taken.run),
        "turn": taken.map(|taken| &taken.turn),
        "reply": taken.map_or("", |taken| taken.reply.as_str()),
    })
}

/// Where whoever asked finds the message and its turn again.
pub(super) fn name(headers: &mut HeaderMap, session: &SessionId, posted: &Posted, turn: &Standing) {
    set(headers, "x-antiphon-session", session.as_str());
    let offset = Offset(posted.seq).to_string();
    set(headers, "x-antiphon-offset", &offset);
    if let Standing::Open(Some(taken)) | Standing::Done(taken) = turn {
        set(headers, "x-antiphon-run", taken.run.as_str());
    }
    if posted.replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
}

pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names and offsets are ASCII by their rules.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
