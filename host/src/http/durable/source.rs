//! What can be read as a Durable Stream: one that clients append to, or a session's events.
//!
//! Invariant: only what is durable is read. Of a session only visible entries are shown, and a reading that met
//! none says how far it looked, so that nobody looks at them again.

use std::sync::Arc;

use tokio::sync::watch;

use crate::http::error::{ApiError, ApiResult};
use crate::http::{Api, events};
use crate::id::Seq;
use crate::journal::codec::Encoded;
use crate::journal::entry::Kind;
use crate::journal::state::Phase;
use crate::ledger::{Dead, FollowError, Follower};
use crate::session::Session;
use crate::streams::{Batch, End, Mark, Stream, StreamError};

const JSON: &str = "application/json";

#[derive(Clone)]
pub(super) enum Source {
    Stream(Arc<Stream>),
    Session(Arc<Session>),
}

/// Tells when there is more to read.
pub(super) enum Waiter {
    Stream(watch::Receiver<Mark>),
    Session(Api, Arc<Session>, Box<Follower>),
}

impl Source {
    pub(super) fn content_type(&self) -> &str {
        match self {
            Self::Stream(stream) => &stream.content_type,
            Self::Session(_) => JSON,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.is_json,
            Self::Session(_) => true,
        }
    }

    /// Names it for caches: another life of it has another name.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Stream(stream) => stream.id(),
            Self::Session(session) => session.journal.session.to_string(),
        }
    }

    /// Its durable end, and whether nothing comes after that.
    pub(super) fn end(&self) -> (Seq, bool) {
        match self {
            Self::Stream(stream) => {
                let mark = stream.mark();
                (mark.tail, mark.closed)
            }
            Self::Session(session) => (session.ledger.mark().durable, has_ended(session)),
        }
    }

    /// Somebody is there: what expires when nobody is lives on.
    pub(super) fn touch(&self) {
        if let Self::Stream(stream) = self {
            stream.touch();
        }
    }

    pub(super) async fn read(&self, after: Seq, bytes_max: usize) -> ApiResult<Batch> {
        match self {
            Self::Stream(stream) => Ok(stream.read(after, bytes_max).await?),
            Self::Session(session) => {
                let ended = has_ended(session);
                let (entries, at, up_to_date) =
                    events::read(session, after, bytes_max, Kind::is_visible).await?;
                Ok(Batch {
                    pieces: entries.iter().map(Encoded::public).collect(),
                    at,
                    up_to_date,
                    closed: up_to_date && ended,
                })
            }
        }
    }

    /// Get it before reading, so that nothing that comes in between is missed.
    pub(super) fn waiter(&self, api: &Api, after: Seq) -> Waiter {
        match self {
            Self::Stream(stream) => Waiter::Stream(stream.watch()),
            Self::Session(session) => {
                let follower = Box::new(session.ledger.follow(after));
                Waiter::Session(api.clone(), session.clone(), follower)
            }
        }
    }
}

fn has_ended(session: &Session) -> bool {
    // The end is the last entry: it counts once that is durable.
    let (phase, last) = session.ledger.look(|state| (state.phase, state.last));
    phase == Phase::Ended && session.ledger.mark().durable >= last
}

impl Waiter {
    /// Wait until there is something after `after`, or nothing more will come; answers what to read from then on, as a
    /// session may have been closed and opened again meanwhile.
    pub(super) async fn more(&mut self, after: Seq) -> ApiResult<Option<Source>> {
        match self {
            Self::Stream(mark) => {
                let is_over = |mark: &Mark| {
                    let is_gone = matches!(mark.end, Some(End::Removed | End::Deleted));
                    mark.tail > after || mark.closed || is_gone
                };
                let mark = mark.wait_for(is_over).await;
                match mark.map(|mark| mark.end.clone()) {
                    Ok(Some(End::Deleted)) => Err(StreamError::Gone.into()),
                    Ok(Some(End::Removed)) | Err(_) => Err(StreamError::NotFound.into()),
                    Ok(Some(End::Latched(_)) | None) => Ok(None),
                }
            }
            Self::Session(api, session, follower) => loop {
                match follower.next().await {
                    Ok(entries) if entries.iter().any(|entry| entry.kind.is_visible()) => {
                        return Ok(Some(Source::Session(session.clone())));
                    }
                    Ok(_) => {}
                    Err(FollowError::Dead(Dead::Closed | Dead::Fenced | Dead::Illegal(_))) => {
                        if has_ended(session) {
                            return Ok(Some(Source::Session(session.clone())));
                        }
                        let journal = &session.journal;
                        let opened = api.sessions.get(&journal.tenant, &journal.session).await;
                        *session = opened?;
                        **follower = session.ledger.follow(follower.at());
                    }
                    Err(error) => return Err(ApiError::from(error)),
                }
            },
        }
    }
}
