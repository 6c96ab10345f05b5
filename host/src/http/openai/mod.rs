//! `/v1/models`, `/v1/chat/completions`, `/v1/responses`: the API that OpenAI's clients speak. An agent is a model.
//!
//! - `models`: which there are. `chat`, `responses`: one group of routes each, over [`super::asking`].
//! - `wire`: pure, what requests ask for. `telling`: pure, what of a message's entries its asker is told, and how it
//!   ended. `completion`, `response`: pure, that in the words of one API and the other, whole and as events.
//!
//! Invariant: nothing of these APIs is kept beside the journal. The id of a response is its message's, and the number
//! of an event follows from the entry that it comes from, so whoever asks again, later or elsewhere, is told the same.

pub(super) mod chat;
mod completion;
pub(super) mod models;
mod response;
pub(super) mod responses;

mod telling;
mod wire;

use http::HeaderMap;

use crate::id::SessionId;

use super::error::{ApiError, ApiResult};

impl From<wire::Unfit> for ApiError {
    fn from(unfit: wire::Unfit) -> Self {
        let error = Self::bad(unfit.code, unfit.message);
        match unfit.param {
            Some(param) => error.param(param),
            None => error,
        }
    }
}

/// The session that the request is for, if it names one.
fn session(headers: &HeaderMap) -> ApiResult<Option<SessionId>> {
    let name = headers.get("x-antiphon-session");
    let name = name.map(|name| SessionId::new(name.to_str().unwrap_or_default()));
    Ok(name.transpose()?)
}
