//! `/v1/stream/__ds/…`: subscriptions to Durable Streams, and the keys that webhooks are signed with.
//!
//! Codes of errors are the protocol's, in capitals. Invariant: whoever reports of a wake has its token and nothing
//! else, so the tenant comes from there.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::authority;
use crate::http::Api;
use crate::http::auth::StreamCaller;
use crate::http::body::{Body, Names};
use crate::http::error::{ApiError, ApiResult};
use crate::id::{Offset, Seq, SubscriptionId};
use crate::store::CommitError;
use crate::streams::StreamPath;
use crate::subscriptions::config::{
    Config, Delivery, LEASE_DEFAULT_MS, LEASE_MS, Pattern, TEXT_BYTES_MAX,
};
use crate::subscriptions::delivery::{described, link_type};
use crate::subscriptions::keys::Token;
use crate::subscriptions::state::{Ack, Refusal};
use crate::subscriptions::{Report, SubscriptionError, SubscriptionKey, View};
use crate::tenants::Right;

/// Of a worker's name.
const WORKER_BYTES_MAX: usize = 256;

/// The body that makes a subscription. What it does not name is ignored, as in the protocol.
#[derive(Deserialize)]
struct Asked {
    r#type: String,
    pattern: Option<String>,
    #[serde(default)]
    streams: Vec<String>,
    webhook: Option<AskedWebhook>,
    wake_stream: Option<String>,
    lease_ttl_ms: Option<u64>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct AskedWebhook {
    url: String,
}

#[derive(Deserialize)]
struct AskedStreams {
    streams: Vec<String>,
}

#[derive(Deserialize)]
struct AskedClaim {
    worker: String,
}

#[derive(Deserialize)]
struct AskedReport {
    wake_id: String,
    generation: u64,
    #[serde(default)]
    acks: Vec<AskedAck>,
    #[serde(default)]
    done: bool,
}

#[derive(Deserialize)]
struct AskedAck {
    #[serde(alias = "path")]
    stream: String,
    offset: String,
}

fn invalid(message: impl ToString) -> ApiError {
    ApiError::bad("INVALID_REQUEST", message.to_string())
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes).map_err(invalid)
}

fn stream(text: &str) -> ApiResult<StreamPath> {
    StreamPath::new(text.trim_matches('/')).map_err(invalid)
}

impl TryFrom<Asked> for Config {
    type Error = ApiError;

    fn try_from(asked: Asked) -> Result<Self, ApiError> {
        let streams = asked.streams.iter().map(|path| stream(path));
        let pattern = asked.pattern.filter(|pattern| !pattern.is_empty());
        let config = Self {
            delivery: match (&*asked.r#type, asked.webhook, asked.wake_stream) {
                ("webhook", Some(webhook), _) => Delivery::Webhook { url: webhook.url },
                ("webhook", None, _) => return Err(invalid("a webhook needs `webhook.url`")),
                ("pull-wake", _, Some(wake)) => Delivery::PullWake {
                    stream: stream(&wake)?,
                },
                ("pull-wake", _, None) => return Err(invalid("`wake_stream` is missing")),
                _ => return Err(invalid("`type` is `webhook` or `pull-wake`")),
            },
            pattern: pattern
                .map(Pattern::try_from)
                .transpose()
                .map_err(invalid)?,
            streams: streams.collect::<ApiResult<_>>()?,
            lease_ttl_ms: asked.lease_ttl_ms.unwrap_or(LEASE_DEFAULT_MS),
            description: asked.description,
        };
        if config.pattern.is_none() && config.streams.is_empty() {
            return Err(invalid("`pattern`, `streams` or both are needed"));
        }
        if !LEASE_MS.contains(&config.lease_ttl_ms) {
            let (least, most) = (LEASE_MS.start(), LEASE_MS.end());
            return Err(invalid(format!("`lease_ttl_ms` is from {least} to {most}")));
        }
        if config
            .description
            .as_ref()
            .is_some_and(|it| it.len() > TEXT_BYTES_MAX)
        {
            return Err(invalid(format!(
                "`description`: {TEXT_BYTES_MAX} bytes is the most"
            )));
        }
        if let Delivery::PullWake { stream } = &config.delivery
            && config.streams.contains(stream)
        {
            return Err(invalid("the wake stream would wake itself"));
        }
        Ok(config)
    }
}

fn shown(api: &Api, id: &SubscriptionId, view: &View) -> Value {
    let config = &view.config;
    let keys = api.subscriptions.keys();
    let (kind, webhook, wake_stream) = match &config.delivery {
        Delivery::Webhook { url } => {
            let jwks_url = format!("{}/__ds/jwks.json", view.root);
            let signing = json!({"alg": "ed25519", "kid": keys.kid(), "jwks_url": jwks_url});
            ("webhook", json!({"url": url, "signing": signing}), None)
        }
        Delivery::PullWake { stream } => ("pull-wake", Value::Null, Some(stream.as_str())),
    };
    let streams = view.work.iter().map(|work| {
        json!({
            "path": work.path.as_str(),
            "link_type": link_type(work),
            "acked_offset": Offset(work.acked).to_string(),
        })
    });
    json!({
        "id": id.as_str(),
        "subscription_id": id.as_str(),
        "type": kind,
        "pattern": config.pattern.as_ref().map(ToString::to_string),
        "streams": streams.collect::<Vec<_>>(),
        "webhook": webhook,
        "wake_stream": wake_stream,
        "lease_ttl_ms": config.lease_ttl_ms,
        "created_at": view.created.to_rfc3339(),
        "status": if view.is_failed { "failed" } else { "active" },
        "description": config.description,
    })
}

fn key(caller: &StreamCaller, id: SubscriptionId) -> SubscriptionKey {
    SubscriptionKey {
        tenant: caller.tenant().clone(),
        id,
    }
}

pub(in crate::http) async fn put(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(id): Names<SubscriptionId>,
    uri: Uri,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Response> {
    caller.need(Right::Invoke)?;
    let config = Config::try_from(parsed::<Asked>(&bytes)?)?;
    let authority = authority(&api, &uri, &headers).ok_or_else(|| invalid("`Host` is missing"))?;
    let root = format!("{authority}/v1/stream");
    let key = key(&caller, id);
    let (view, is_new) = api.subscriptions.create(&key, config, root).await?;
    let status = match is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(shown(&api, &key.id, &view))).into_response())
}

pub(in crate::http) async fn get(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(id): Names<SubscriptionId>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let key = key(&caller, id);
    let view = api.subscriptions.get(&key).await?;
    Ok(Json(shown(&api, &key.id, &view)))
}

pub(in crate::http) async fn remove(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(id): Names<SubscriptionId>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    api.subscriptions.delete(&key(&caller, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::http) async fn link(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(id): Names<SubscriptionId>,
    Body(bytes): Body,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    let asked: AskedStreams = parsed(&bytes)?;
    let streams = asked.streams.iter().map(|path| stream(path));
    let streams = streams.collect::<ApiResult<Vec<_>>>()?;
    api.subscriptions.link(&key(&caller, id), streams).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::http) async fn unlink(
    State(api): State<Api>,
    caller: StreamCaller,
    Path((id, path)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    caller.need(Right::Invoke)?;
    let key = key(&caller, SubscriptionId::new(&id)?);
    api.subscriptions.unlink(&key, &stream(&path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::http) async fn claim(
    State(api): State<Api>,
    caller: StreamCaller,
    Names(id): Names<SubscriptionId>,
    Body(bytes): Body,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Invoke)?;
    let AskedClaim { worker } = parsed(&bytes)?;
    if !(1..=WORKER_BYTES_MAX).contains(&worker.len()) {
        let message = format!("`worker` has 1 to {WORKER_BYTES_MAX} bytes");
        return Err(invalid(message));
    }
    let claimed = api.subscriptions.claim(&key(&caller, id), worker).await?;
    Ok(Json(json!({
        "wake_id": claimed.wake,
        "generation": claimed.generation,
        "token": claimed.token,
        "streams": described(&claimed.work),
        "lease_ttl_ms": claimed.lease_ttl_ms,
    })))
}

/// Who reports, and of what.
fn report(
    api: &Api,
    id: SubscriptionId,
    headers: &HeaderMap,
    bytes: &[u8],
) -> ApiResult<(SubscriptionKey, Token, Report)> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let token = bearer.and_then(Token::parse).ok_or_else(unknown_token)?;
    let tenant = token.tenant.clone();
    api.tenants.admits(&tenant).map_err(|_| unknown_token())?;
    let asked: AskedReport = parsed(bytes)?;
    let acks = asked.acks.iter().map(|ack| {
        let wrong = |error: &dyn ToString| ApiError::conflict("INVALID_OFFSET", error.to_string());
        let at: Offset = ack.offset.parse().map_err(|error| wrong(&error))?;
        match at.0 {
            Seq(0) if ack.offset == "-1" => Err(wrong(&"an ack names an offset, not `-1`")),
            at => Ok(Ack {
                stream: stream(&ack.stream)?,
                at,
            }),
        }
    });
    let report = Report {
        acks: acks.collect::<ApiResult<_>>()?,
        wake: asked.wake_id,
        generation: asked.generation,
        is_done: asked.done,
    };
    Ok((SubscriptionKey { tenant, id }, token, report))
}

/// What a webhook or a worker did of a wake.
pub(in crate::http) async fn ack(
    State(api): State<Api>,
    Names(id): Names<SubscriptionId>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<Json<Value>> {
    let (key, token, report) = report(&api, id, &headers, &bytes)?;
    let next_wake = api.subscriptions.ack(&key, token, report).await?;
    Ok(Json(json!({"ok": true, "next_wake": next_wake})))
}

pub(in crate::http) async fn release(
    State(api): State<Api>,
    Names(id): Names<SubscriptionId>,
    headers: HeaderMap,
    Body(bytes): Body,
) -> ApiResult<StatusCode> {
    let (key, token, report) = report(&api, id, &headers, &bytes)?;
    api.subscriptions.release(&key, token, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The public keys of webhooks' signatures. For anybody: they are public.
pub(in crate::http) async fn jwks(State(api): State<Api>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/jwk-set+json"),
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    let keys = api.subscriptions.keys().public().to_string();
    (headers, keys).into_response()
}

fn unknown_token() -> ApiError {
    let message = "send the token of the wake as `Authorization: Bearer TOKEN`";
    ApiError::new(StatusCode::UNAUTHORIZED, "TOKEN_INVALID", message)
}

impl From<SubscriptionError> for ApiError {
    fn from(error: SubscriptionError) -> Self {
        let text = error.to_string();
        match error {
            SubscriptionError::NotFound => Self::not_found("SUBSCRIPTION_NOT_FOUND", text),
            SubscriptionError::Exists => Self::conflict("SUBSCRIPTION_ALREADY_EXISTS", text),
            SubscriptionError::TooMany => Self::overloaded(text),
            SubscriptionError::TooManyStreams(_) | SubscriptionError::NotPulled => invalid(text),
            SubscriptionError::WebhookRejected(_) => Self::bad("WEBHOOK_URL_REJECTED", text),
            SubscriptionError::UnknownToken => unknown_token(),
            SubscriptionError::Refused(refusal) => match refusal {
                Refusal::Fenced => Self::conflict("FENCED", text),
                Refusal::NothingPending => Self::conflict("NO_PENDING_WORK", text),
                Refusal::InvalidOffset(_) => Self::conflict("INVALID_OFFSET", text),
                Refusal::Claimed { holder, generation } => {
                    let fields = json!({"current_holder": holder, "generation": generation});
                    Self::conflict("ALREADY_CLAIMED", text).within(fields)
                }
            },
            SubscriptionError::Latched(latched) => CommitError::from(latched).into(),
            SubscriptionError::Read(error) => error.into(),
        }
    }
}
