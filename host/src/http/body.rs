//! Reading requests: bodies, paths, headers. Everything is bounded and has a clear error.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::telemetry::{self, Limit};

use super::Api;
use super::error::{ApiError, ApiResult};

/// A whole body of at most the configured size.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<Api> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        Ok(Self(
            read(
                request.into_body(),
                Limit::RequestBytes,
                api.settings.request_bytes_max,
            )
            .await?,
        ))
    }
}

/// A component's bytes.
pub(super) struct Upload(pub(super) Bytes);

impl FromRequest<Api> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        Ok(Self(
            read(
                request.into_body(),
                Limit::ComponentBytes,
                api.settings.component_bytes_max,
            )
            .await?,
        ))
    }
}

async fn read(body: axum::body::Body, limit: Limit, bytes_max: usize) -> ApiResult<Bytes> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            telemetry::hit(limit);
            Err(ApiError::too_large(bytes_max))
        }
        Err(_) => Err(ApiError::bad("incomplete_body", "the body ended early")),
    }
}

/// A JSON body without fields that nobody knows.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    // serde takes an array for an object, by the order of the fields.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::bad("invalid_json", "the body is an object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let code = if text.starts_with("unknown field") {
            "unknown_field"
        } else if error.is_data() && text.contains("a name of ") {
            "invalid_name"
        } else {
            "invalid_json"
        };
        ApiError::bad(code, text)
    })
}

/// The parts of a path, each a name that obeys its rule.
pub(super) struct Names<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        api: &Api,
    ) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, api).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                let text = error.body_text();
                let rule = text.find("a name of ").or_else(|| text.find("a digest"));
                Err(ApiError::bad(
                    "invalid_name",
                    rule.map_or("the path is not valid", |at| &text[at..]),
                ))
            }
            Err(error) => Err(ApiError::internal(error)),
        }
    }
}

/// The parameters after the `?`.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        api: &Api,
    ) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, api).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => {
                let text = error.body_text();
                Err(match text.find("a name of ") {
                    Some(rule) => ApiError::bad("invalid_name", &text[rule..]),
                    None => ApiError::bad("invalid_query", text),
                })
            }
        }
    }
}

/// The `Idempotency-Key`, if there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> ApiResult<Option<&str>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .filter(|key| {
            (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .map(Some)
        .ok_or_else(|| {
            let message = "an Idempotency-Key is 1 to 255 visible ASCII characters";
            ApiError::bad("invalid_idempotency_key", message)
        })
}

/// Whether the body is plain text rather than JSON.
pub(super) fn is_text(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| kind.starts_with("text/"))
}

pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

/// Whether the client asks for an event stream.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| {
        accept
            .split(',')
            .any(|kind| kind.trim().starts_with("text/event-stream"))
    })
}

/// Text of a body that must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> ApiResult<&str> {
    std::str::from_utf8(bytes)
        .map_err(|_| ApiError::bad("invalid_utf8", "the body is not UTF-8 text"))
}
