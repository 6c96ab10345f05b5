//! `/v1/webhooks`: where notices are pushed to.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::id::{AgentName, NoticeOffset, SessionId, WebhookName};
use crate::journal::notice::NoticeKind;
use crate::notices::webhook::Config;
use crate::notices::webhooks::{Put, View, WebhookError, WebhookKey};
use crate::notices::{Filter, NAMES_MAX};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body::{self, Body, Names, Params};
use super::error::{ApiError, ApiResult};

/// Dead letters on one page: each may be some ten kilobytes.
const LETTERS: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    url: String,
    #[serde(default)]
    sessions: BTreeSet<SessionId>,
    #[serde(default)]
    agents: BTreeSet<AgentName>,
    #[serde(default)]
    kinds: BTreeSet<String>,
    offset: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct LetterQuery {
    cursor: Option<String>,
}

impl From<WebhookError> for ApiError {
    fn from(error: WebhookError) -> Self {
        let text = error.to_string();
        match error {
            WebhookError::NotFound => Self::not_found("webhook_not_found", text),
            WebhookError::NoDeadLetter => Self::not_found("dead_letter_not_found", text),
            WebhookError::TooMany(_) => Self::overloaded(text),
            WebhookError::Rejected(_) => Self::bad("invalid_webhook", text),
            WebhookError::Failed(_) => Self::new(StatusCode::BAD_GATEWAY, "webhook_failed", text),
            WebhookError::Notice(error) => error.into(),
            WebhookError::Read(error) => error.into(),
            WebhookError::Commit(error) => error.into(),
            WebhookError::Secret(_) | WebhookError::Open(_) | WebhookError::Broken => {
                Self::internal(text)
            }
        }
    }
}

/// A dead letter's id.
fn place(letter: &str) -> ApiResult<NoticeOffset> {
    Ok(letter.parse().map_err(|_| WebhookError::NoDeadLetter)?)
}

fn key(caller: &Caller, name: WebhookName) -> WebhookKey {
    WebhookKey {
        tenant: caller.tenant().clone(),
        name,
    }
}

fn shown(name: &WebhookName, view: &View) -> Value {
    let webhook = &view.webhook;
    let Config { url, filter } = &webhook.config;
    let failing = webhook.failing.as_ref().map(|failing| {
        json!({
            "attempts": failing.attempts,
            "since": failing.since.to_rfc3339(),
            "next_at": failing.next.to_rfc3339(),
            "error": failing.error,
        })
    });
    json!({
        "webhook": name.as_str(),
        "url": url,
        "sessions": filter.sessions.iter().map(SessionId::as_str).collect::<Vec<_>>(),
        "agents": filter.agents.iter().map(AgentName::as_str).collect::<Vec<_>>(),
        "kinds": filter.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "created_at": webhook.created.to_rfc3339(),
        "offset": webhook.cursor.to_string(),
        "failing": failing,
        "missed": webhook.missed,
        "dead_letters": view.dead_letters,
    })
}

pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<WebhookName>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let asked: Asked = body::json(&bytes)?;
    let lists = [asked.sessions.len(), asked.agents.len(), asked.kinds.len()];
    if lists.into_iter().any(|count| count > NAMES_MAX) {
        let message = format!("{NAMES_MAX} names is the most");
        return Err(ApiError::bad("invalid_json", message));
    }
    let kinds = asked.kinds.iter().map(|kind| super::notices::kind(kind));
    let config = Config {
        url: asked.url,
        filter: Filter {
            kinds: kinds.collect::<ApiResult<BTreeSet<NoticeKind>>>()?,
            sessions: asked.sessions,
            agents: asked.agents,
        },
    };
    let from = match asked.offset.as_deref() {
        None => None,
        Some(text) => {
            let place = super::notices::place(&api, &caller, text).await?;
            // Refused now, rather than counted as missed later.
            let filter = Filter::default();
            let follower = api.notices.follow(caller.tenant(), place, filter).await?;
            Some(follower.at())
        }
    };
    let key = key(&caller, name);
    let (webhook, put) = api.webhooks.put(&key, config, from).await?;
    let mut json = shown(&key.name, &webhook);
    let status = match put {
        Put::Made { secret } => {
            json["secret"] = secret.into();
            StatusCode::CREATED
        }
        Put::Changed => StatusCode::OK,
    };
    Ok((status, Json(json)).into_response())
}

pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Value>> {
    caller.need(Right::Deploy)?;
    let webhooks = api.webhooks.list(caller.tenant()).await;
    let webhooks: Vec<Value> = webhooks.iter().map(|(name, it)| shown(name, it)).collect();
    Ok(Json(json!({"webhooks": webhooks})))
}

pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<WebhookName>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Deploy)?;
    let key = key(&caller, name);
    let webhook = api.webhooks.get(&key).await?;
    Ok(Json(shown(&key.name, &webhook)))
}

pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<WebhookName>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Deploy)?;
    api.webhooks.remove(&key(&caller, name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<WebhookName>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Deploy)?;
    let overlap_ms = super::keys::overlap_ms(&bytes)?;
    let secret = api.webhooks.rotate(&key(&caller, name), overlap_ms).await?;
    let json = json!({"secret": secret});
    Ok((StatusCode::CREATED, Json(json)).into_response())
}

pub(super) async fn letters(
    State(api): State<Api>,
    caller: Caller,
    Names(name): Names<WebhookName>,
    Params(query): Params<LetterQuery>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Deploy)?;
    let key = key(&caller, name);
    api.webhooks.get(&key).await?;
    let cursor: Option<NoticeOffset> = query.cursor.map(|text| text.parse()).transpose()?;
    let letters = api.webhooks.letters(&key, cursor, LETTERS).await?;
    let next = letters.last().filter(|_| letters.len() == LETTERS);
    let next = next.map(|(at, _)| at.to_string());
    let letters: Vec<Value> = letters
        .into_iter()
        .map(|(at, letter)| {
            // What was sent is JSON; it was made here.
            let body: Value = serde_json::from_str(&letter.body).unwrap_or(Value::Null);
            json!({
                "id": at.to_string(),
                "message": letter.message,
                "died_at": letter.died.to_rfc3339(),
                "attempts": letter.attempts,
                "error": letter.error,
                "body": body,
            })
        })
        .collect();
    Ok(Json(json!({"dead_letters": letters, "cursor": next})))
}

pub(super) async fn retry_letter(
    State(api): State<Api>,
    caller: Caller,
    Names((name, letter)): Names<(WebhookName, String)>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Deploy)?;
    let key = key(&caller, name);
    api.webhooks.retry_letter(&key, place(&letter)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn forget_letter(
    State(api): State<Api>,
    caller: Caller,
    Names((name, letter)): Names<(WebhookName, String)>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Deploy)?;
    let key = key(&caller, name);
    api.webhooks.forget_letter(&key, place(&letter)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
