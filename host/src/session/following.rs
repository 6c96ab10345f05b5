//! Following one message to the end of its turn, across sessions that are closed and opened again.

use std::sync::Arc;

use crate::id::{MessageId, Seq};
use crate::journal::codec::Encoded;
use crate::ledger::{Dead, FollowError, Follower};
use crate::store::ReadError;

use super::outcome::{Standing, Tracker};
use super::{Session, SessionError, Sessions};

/// Why a message cannot be followed any further.
#[derive(Debug, thiserror::Error)]
pub enum FollowingError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A message and what becomes of it. Sees durable entries alone.
pub struct Following {
    sessions: Sessions,
    session: Arc<Session>,
    follower: Follower,
    pub tracker: Tracker,
}

impl Following {
    pub fn new(sessions: Sessions, session: Arc<Session>, message: &MessageId) -> Self {
        // From before the message, which is the first event of its turn.
        let follower = session.ledger.follow(Seq(message.seq().0 - 1));
        Self {
            sessions,
            session,
            follower,
            tracker: Tracker::new(message.clone()),
        }
    }

    /// The next durable entries. Each must be given to [`Self::track`].
    pub async fn next(&mut self) -> Result<Vec<Encoded>, FollowingError> {
        loop {
            match self.follower.next().await {
                Ok(entries) => return Ok(entries),
                Err(FollowError::Dead(Dead::Closed | Dead::Fenced | Dead::Illegal(_))) => {
                    let journal = self.session.journal.clone();
                    let session = self.sessions.get(&journal.tenant, &journal.session);
                    self.session = session.await?;
                    self.follower = self.session.ledger.follow(self.follower.at());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub fn track(&mut self, encoded: &Encoded) -> Result<(), FollowingError> {
        let undecodable = |error| self.session.ledger.undecodable(&error);
        Ok(self.tracker.next(encoded).map_err(undecodable)?)
    }

    /// Wait until it is over.
    pub async fn end(&mut self) -> Result<Standing, FollowingError> {
        while !self.tracker.is_over() {
            for encoded in self.next().await? {
                self.track(&encoded)?;
            }
        }
        Ok(self.tracker.standing())
    }
}
