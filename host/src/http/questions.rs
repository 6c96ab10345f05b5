//! `/v1/sessions/{id}/questions`: what agents ask people, and the answers.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{Author, Offset, Seq, SessionId};
use crate::journal::entry::Kind;
use crate::session::Session;
use crate::session::commands::{self, CommandError, NewAnswer, With};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult, settled};
use super::wire;

/// Those that are open.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Names(id): Names<SessionId>,
) -> ApiResult<Json<Value>> {
    caller.enter(&id, Right::Read)?;
    let session = api.sessions.get(caller.tenant(), &id).await?;
    let (last, questions) = session.ledger.look(|state| {
        let mut questions: Vec<_> = state.questions().collect();
        questions.sort_by_key(|(.., question)| question.question);
        let questions = questions.into_iter();
        let questions: Vec<Value> = questions
            .map(|(turn, open, question)| wire::question(turn, open, question))
            .collect();
        (state.last, questions)
    });
    session.ledger.durable(last).await?;
    Ok(Json(json!({"questions": questions})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    text: Option<String>,
    choice: Option<String>,
    note: Option<String>,
    author: Option<Author>,
}

impl Answer {
    fn with(&self) -> ApiResult<With> {
        match (&self.text, &self.choice) {
            (Some(text), None) => Ok(With::Text(text.clone())),
            (None, Some(choice)) => Ok(With::Choice(choice.clone())),
            _ => {
                let message = "an answer is a `text` or a `choice`";
                Err(ApiError::bad("invalid_json", message))
            }
        }
    }

    fn len(&self) -> usize {
        let parts = [&self.text, &self.choice, &self.note];
        parts.into_iter().flatten().map(String::len).sum()
    }
}

pub(super) async fn answer(
    State(api): State<Api>,
    caller: Caller,
    Names((id, question)): Names<(SessionId, Seq)>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.enter(&id, Right::Send)?;
    let answer = body::json::<Answer>(&bytes)?;
    let with = answer.with()?;
    let bytes_more = api.admit_bytes(&caller, answer.len())?;
    let by = caller.author(answer.author)?;
    // Another author's answer is another one, under whatever key.
    let target = format!("questions/{id}/{question}/{by}");
    let idempotency = body::idempotency_key(&headers)?
        .map(|key| commands::idempotency(caller.tenant().as_str(), &target, key, &bytes));
    let session = api.sessions.get(caller.tenant(), &id).await?;
    api.may_add(&caller, &session, idempotency, bytes_more)
        .await?;
    let new = NewAnswer {
        question,
        with,
        by,
        note: answer.note,
        idempotency,
    };
    let answered = commands::answer(&session.ledger, new);
    let is_closed = matches!(answered, Err(CommandError::NotAsked));
    let answered = match settled(&session, answered).await {
        Err(_) if is_closed && !was_asked(&session, question).await? => {
            let message = "there is no such question";
            return Err(ApiError::not_found("question_not_found", message));
        }
        answered => answered?,
    };
    session.ledger.durable(answered.seq).await?;
    let body = json!({"question": question, "offset": Offset(answered.seq).to_string()});
    let mut response = (StatusCode::OK, Json(body)).into_response();
    if answered.replayed {
        response
            .headers_mut()
            .insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Whether it was a question once.
async fn was_asked(session: &Session, question: Seq) -> ApiResult<bool> {
    let durable = session.ledger.mark().durable;
    if question > durable {
        return Ok(false);
    }
    let entry = session.ledger.entry(question).await?;
    Ok(entry.is_some_and(|entry| entry.kind == Kind::Asked))
}
