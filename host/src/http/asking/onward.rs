//! Asking in the session of an answer that is gone on from, or in a fork of it.
//!
//! Invariant: a request that is refused leaves no fork behind. The fork is the last step before the message, and refused
//! itself where the message would be.

use std::sync::Arc;

use crate::id::{Seq, SessionId};
use crate::session::Session;
use crate::session::commands::{self, CommandError, NewMessage, Posted};
use crate::session::fork::{ForkError, NewFork, Next};

use super::super::Api;
use super::super::auth::Caller;
use super::super::error::{ApiError, ApiResult, settled};

/// Where an answer is gone on from.
pub(in crate::http) struct Onward {
    /// The answer's session.
    pub(in crate::http) session: Arc<Session>,
    /// It is asked there if nobody sent a message after this entry; none for at its end, wherever that is.
    pub(in crate::http) after: Option<Seq>,
    /// Else in a fork that shares the entries up to this one; none if it may be nowhere else.
    pub(in crate::http) fork_at: Option<Seq>,
}

impl Onward {
    /// Post the message. Answers the session that has it.
    pub(super) async fn post(
        self,
        api: &Api,
        caller: &Caller,
        message: NewMessage,
    ) -> ApiResult<(Arc<Session>, Posted)> {
        let there = NewMessage {
            after: self.after,
            ..message.clone()
        };
        let posted = commands::post(&api.sessions, &self.session.ledger, None, there);
        if posted != Err(CommandError::Overtaken) {
            let posted = settled(&self.session, posted).await?;
            return Ok((self.session, posted));
        }
        let Some(at) = self.fork_at else {
            let message = "the session has gone on since that response: it goes on in a fork, and not in the session that is named";
            let error = ApiError::bad("unsupported_value", message);
            return Err(error.param("previous_response_id"));
        };
        let session = self.fork(api, caller, &message, at).await?;
        let posted = commands::post(&api.sessions, &session.ledger, None, message);
        let posted = settled(&session, posted).await?;
        Ok((session, posted))
    }

    async fn fork(
        &self,
        api: &Api,
        caller: &Caller,
        message: &NewMessage,
        at: Seq,
    ) -> ApiResult<Arc<Session>> {
        // The agent is named: forks have many.
        let agent = message.to.clone();
        let agent = agent.ok_or_else(|| ApiError::internal("a question to no agent"))?;
        let key = message.idempotency;
        let fork = NewFork {
            session: key.map_or_else(SessionId::fresh, |it| SessionId::of_key(&it.key)),
            at: Some(at),
            idempotency: key,
            next: Some(Next {
                agent,
                bus: message.bus.clone(),
            }),
        };
        api.may_fork(caller, &fork.session).await?;
        let from = &self.session.journal.session;
        let forked = api.sessions.fork(caller.tenant(), from, &fork).await;
        let forked = forked.map_err(|error| match error {
            // Its name is of the key alone, so the key was used for it.
            ForkError::Exists => ForkError::KeyReused,
            other => other,
        });
        Ok(forked?.session)
    }
}
