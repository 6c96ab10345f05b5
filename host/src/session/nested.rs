//! Sessions as the nested calls of a turn reach them: opening a child, waiting for it, ending it.
//!
//! Invariant: opening, waiting and ending name a call by its key, and can be done again any number of
//! times: nothing is made twice, and what is over stays over.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::bus::Authorization;
use crate::id::{AgentName, Author, Digest, MessageId, SessionId, TenantId};
use crate::journal::entry::{Failure, Idempotency, Outcome as TurnOutcome, Usage};
use crate::journal::state::{Child, Phase};
use crate::ledger::{Dead, FollowError};
use crate::model::Works;
use crate::runtime::scope::peers::{
    Announcement, ChildError, Lost, NotCalled, Opening, Outcome, Peers,
};
use crate::store::{JournalId, ReadError};

use super::commands::{self, CommandError, NewMessage, NewSession};
use super::following::{Following, FollowingError};
use super::outcome::{Ended, Standing};
use super::quotas::Holding;
use super::{Session, SessionError, Sessions, authorization};

/// One tenant's sessions.
pub(super) struct Nested {
    pub(super) sessions: Sessions,
    pub(super) tenant: TenantId,
}

impl Peers for Nested {
    fn admit(&self, agent: &AgentName) -> Result<(), NotCalled> {
        if !self.sessions.0.served.begins_turns(&self.tenant) {
            return Err(NotCalled::Refused("the tenant is suspended".into()));
        }
        let agents = self.sessions.agents();
        if agents.get(&self.tenant, agent).is_none() {
            return Err(NotCalled::UnknownAgent);
        }
        if agents.active(&self.tenant, agent).is_none() {
            let why = "the agent has no component yet".to_owned();
            return Err(NotCalled::Refused(why));
        }
        if let Err(overload) = self.sessions.overload(&self.tenant) {
            return Err(NotCalled::Refused(overload.to_string()));
        }
        let exceeded = self
            .sessions
            .may_hold_as_known(&self.tenant, Holding::Session);
        exceeded.map_err(|exceeded| NotCalled::Refused(exceeded.to_string()))
    }

    fn announce(&self, child: &SessionId) -> Announcement {
        let announced = &self.sessions.0.announced;
        Box::new(announced.put(JournalId {
            tenant: self.tenant.clone(),
            session: child.clone(),
        }))
    }

    fn open(&self, opening: Opening) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            let session = self
                .sessions
                .get_or_absent(&self.tenant, &opening.session)
                .await
                .map_err(|error| lost(&error))?;
            let new = NewSession {
                agents: vec![opening.agent.clone()],
                entry: opening.agent.clone(),
                expires_after_ms: Some(self.sessions.0.parts.invoked_expire_after_ms),
                called_by: Some(opening.called_by.clone()),
                idempotency: None,
                recounted: Vec::new(),
            };
            let caller = opening.called_by.turn.as_str().rsplit('.').next();
            let message = NewMessage {
                // The last part of a turn's id is a slug, which is an author's name too.
                author: caller
                    .and_then(|slug| Author::new(slug).ok())
                    .ok_or_else(|| Lost::Because("the caller has no name".into()))?,
                to: Some(opening.agent),
                idempotency: Some(Idempotency {
                    key: opening.key,
                    body: Digest::of(opening.body.to_string().as_bytes()),
                }),
                body: opening.body,
                after: None,
                invoked: true,
                bus: Some(opening.context),
                called_by: Some(opening.called_by),
                authorization: opening.authorization,
                instructions: None,
                tools: Vec::new(),
                echo: None,
            };
            // Told once, it is told, also if the key is not remembered any more.
            if known(&session, &opening.key).is_some() {
                return Ok(());
            }
            match commands::post(&self.sessions, &session.ledger, Some(&new), message) {
                Ok(_) => Ok(()),
                Err(CommandError::Dead(Dead::Closed)) => Err(Lost::Stopping),
                Err(error) => Err(Lost::Because(error.to_string())),
            }
        })
    }

    fn outcome(&self, session: SessionId, key: Digest) -> BoxFuture<'_, Result<Outcome, Lost>> {
        Box::pin(async move {
            let session = self
                .sessions
                .get(&self.tenant, &session)
                .await
                .map_err(|error| lost(&error))?;
            let message = known(&session, &key)
                .ok_or_else(|| Lost::Because("its session does not know the call".into()))?;
            let mut following = Following::new(self.sessions.clone(), session, &message);
            match following.end().await {
                Ok(standing) => Ok(outcome(standing)),
                Err(FollowingError::Session(error)) => Err(lost(&error)),
                Err(FollowingError::Follow(FollowError::Dead(Dead::Latched(_)))) => {
                    Err(Lost::Stopping)
                }
                Err(error) => Err(Lost::Because(error.to_string())),
            }
        })
    }

    fn authorization(
        &self,
        message: MessageId,
    ) -> BoxFuture<'_, Result<Option<Authorization>, ReadError>> {
        Box::pin(async move { authorization::kept(&self.sessions, &self.tenant, &message).await })
    }
}

/// The message of a call, if its session has it.
fn known(session: &Session, key: &Digest) -> Option<MessageId> {
    let seq = session.ledger.look(|state| state.ever_remembered(key))?;
    Some(MessageId::of(&session.journal.session, seq))
}

fn lost(error: &SessionError) -> Lost {
    match error {
        SessionError::Draining | SessionError::Latched(_) => Lost::Stopping,
        error => Lost::Because(error.to_string()),
    }
}

fn outcome(standing: Standing) -> Outcome {
    let taken = match standing {
        Standing::Done(taken) | Standing::Open(Some(taken)) => taken,
        Standing::SetAside(why) => {
            return Outcome {
                turn: None,
                text: String::new(),
                error: Some(ChildError::Failed(why)),
                usage: Usage::default(),
                works: Works::No,
            };
        }
        Standing::Open(None) => {
            return Outcome {
                turn: None,
                text: String::new(),
                error: Some(ChildError::Cancelled),
                usage: Usage::default(),
                works: Works::Unsaid,
            };
        }
    };
    let usage = taken.ended.as_ref().map(|ended| ended.usage);
    let works = taken.ended.as_ref().map_or(Works::Unsaid, works);
    let error = taken
        .ended
        .and_then(|ended| match (ended.outcome, ended.error) {
            (TurnOutcome::Completed, _) => None,
            (TurnOutcome::Interrupted, _) => Some(ChildError::Interrupted),
            (TurnOutcome::Cancelled, _) => Some(ChildError::Cancelled),
            (TurnOutcome::Failed | TurnOutcome::Refused, Some(error))
                if error.code == Failure::CallerDeadline =>
            {
                Some(ChildError::Deadline)
            }
            (TurnOutcome::Failed | TurnOutcome::Refused, Some(error)) => {
                let why = format!("{}: {}", error.code.name(), error.message);
                Some(ChildError::Failed(why))
            }
            (TurnOutcome::Failed | TurnOutcome::Refused, None) => {
                Some(ChildError::Failed(ended.outcome.name().to_owned()))
            }
        });
    Outcome {
        turn: Some(taken.turn),
        text: taken.reply,
        error,
        usage: usage.unwrap_or_default(),
        works,
    }
}

/// Whether whoever calls the agent next may expect a reply.
fn works(ended: &Ended) -> Works {
    let failure = ended.error.as_ref().map(|error| error.code);
    match (ended.outcome, failure) {
        (TurnOutcome::Completed, _) | (_, Some(Failure::Agent)) => Works::Yes,
        // Its caller's time or money was up, or somebody stopped it.
        (_, Some(Failure::CallerDeadline | Failure::Forked)) => Works::Unsaid,
        (TurnOutcome::Failed, _) => Works::No,
        (TurnOutcome::Interrupted | TurnOutcome::Cancelled | TurnOutcome::Refused, _) => {
            Works::Unsaid
        }
    }
}

/// End what a call began, if it did and is not over. Durable when it returns. The caller's turn must be
/// over for good: nobody may begin the call any more.
pub(super) async fn cancel(
    sessions: &Sessions,
    tenant: &TenantId,
    child: &Child,
) -> Result<(), SessionError> {
    let session: Arc<Session> = match sessions.get_or_absent(tenant, &child.session).await {
        Ok(session) => session,
        // It is over, whatever it was.
        Err(SessionError::Gone | SessionError::Read(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    if session.ledger.look(|state| state.phase) != Phase::Open {
        return Ok(());
    }
    let Some(message) = known(&session, &child.key) else {
        return Ok(());
    };
    match commands::cancel(&session.ledger, &message) {
        Ok(_) => {
            session.ledger.settle().await?;
            Ok(())
        }
        Err(CommandError::Dead(dead)) => Err(dead.into()),
        // It ended meanwhile.
        Err(_) => Ok(()),
    }
}
