//! `POST /v1/chat/completions`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderMap;

use crate::id::SessionId;
use crate::journal::codec::Encoded;
use crate::session::outcome::{Standing, Tracker};
use crate::tenants::Right;

use super::super::Api;
use super::super::asking::{self, Asked, Place, Question, Request, Teller, Telling};
use super::super::auth::Caller;
use super::super::body::Body;
use super::super::error::{ApiError, ApiResult};
use super::completion::{Chunks, Completion};
use super::telling::{Step, Steps};
use super::wire::Chat;
use super::{models, session};

pub(in crate::http) async fn complete(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let chat = Chat::read(&bytes)?;
    let agent = models::agent(&api, &caller, &chat.model)?;
    let (is_stream, includes_usage) = (chat.is_stream(), chat.includes_usage());
    let talk = chat.talk(&agent)?;
    let request = Request {
        target: format!("chat/{agent}"),
        headers: &headers,
        bytes: &bytes,
        streams: is_stream,
    };
    let question = Question {
        agent: agent.clone(),
        place: match session(&headers)? {
            Some(session) => Place::In(session),
            None => Place::Own {
                expires_after_ms: api.settings.chat_expire_after_ms,
                recounted: talk.earlier,
            },
        },
        author: talk.author,
        body: talk.input,
        instructions: talk.instructions,
        tools: talk.tools,
        echo: None,
    };
    let asked = asking::ask(&api, &caller, request, question).await?;
    let repeats = asked.repeats;
    let received_at = asked.received_at().await;
    let completion = Completion {
        message: asked.posted.message.clone(),
        model: agent,
        received_at: received_at.map_err(|error| repeats.error(error))?,
    };
    let Asked {
        session, posted, ..
    } = asked;
    let id = session.journal.session.clone();
    if let Some(permit) = asked.permit {
        let teller = ChatTeller {
            session: id.clone(),
            steps: Steps::default(),
            chunks: Chunks::new(completion, includes_usage),
        };
        let mut telling = Telling::new(&api, session, &posted, permit, teller);
        // Until a turn has begun, what went wrong has a status of its own.
        let turn = telling
            .begun()
            .await
            .map_err(|error| repeats.error(error))?;
        if let Standing::SetAside(_) = &turn {
            asking::answered(&id, turn.clone()).map_err(ApiError::final_)?;
        }
        let mut response = telling.response(api, caller);
        asking::name(response.headers_mut(), &id, &posted, &turn);
        return Ok(response);
    }
    let turn = asking::answer(&api, session, &posted, repeats).await?;
    let mut response = Json(completion.whole(&turn)).into_response();
    asking::name(response.headers_mut(), &id, &posted, &turn);
    Ok(response)
}

struct ChatTeller {
    session: SessionId,
    steps: Steps,
    chunks: Chunks,
}

impl Teller for ChatTeller {
    fn tell(&mut self, encoded: &Encoded, tracker: &Tracker) -> Vec<Bytes> {
        let steps = self.steps.next(encoded, tracker);
        let chunks = steps.iter().flat_map(|step| {
            let error = match step {
                Step::Over(standing) => asking::answered(&self.session, standing.clone()).err(),
                Step::Received(_) | Step::Begun | Step::Words(_) | Step::Calls(_) => None,
            };
            self.chunks.next(step, error.map(|error| error.body()))
        });
        chunks.collect()
    }

    fn broken(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![Chunks::broken(&error.body())]
    }
}
