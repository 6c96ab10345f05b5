//! Reading requests: bodies, paths, headers. Everything is bounded and has a clear error.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::telemetry::{self, Limit};

use super::Api;
use super::error::{ApiError, ApiResult};

/// A whole body of at most the configured size.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<Api> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let bytes_max = api.settings.request_bytes_max;
        let read = read(request.into_body(), Limit::RequestBytes, bytes_max, api);
        Ok(Self(read.await?))
    }
}

/// A component's bytes.
pub(super) struct Upload(pub(super) Bytes);

impl FromRequest<Api> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let bytes_max = api.settings.component_bytes_max;
        let read = read(request.into_body(), Limit::ComponentBytes, bytes_max, api);
        Ok(Self(read.await?))
    }
}

/// What is appended to a stream.
pub(super) struct StreamBody(pub(super) Bytes);

impl FromRequest<Api> for StreamBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let bytes_max = api.settings.stream_body_bytes;
        let read = read(request.into_body(), Limit::StreamBodyBytes, bytes_max, api);
        Ok(Self(read.await?))
    }
}

async fn read(
    body: axum::body::Body,
    limit: Limit,
    bytes_max: usize,
    api: &Api,
) -> ApiResult<Bytes> {
    let mut body = body;
    let read = async {
        let read = pieces(&mut body, bytes_max, api.settings.body_stall).await;
        if matches!(read, Err(Unread::Large)) {
            // A client that is cut while it sends never sees why: let it send as much once more.
            passed_over(body, bytes_max, api.settings.body_stall).await;
        }
        read
    };
    let read = tokio::time::timeout(api.settings.body_time, read).await;
    match read.unwrap_or(Err(Unread::Time)) {
        Ok(bytes) => Ok(bytes),
        Err(Unread::Large) => {
            telemetry::hit(limit);
            Err(ApiError::too_large(bytes_max))
        }
        Err(Unread::Broken) => Err(ApiError::bad("incomplete_body", "the body ended early")),
        Err(Unread::Stall) => {
            telemetry::hit(Limit::BodyStallMs);
            Err(ApiError::too_slow("nothing more of the body came"))
        }
        Err(Unread::Time) => {
            telemetry::hit(Limit::BodyMs);
            Err(ApiError::too_slow("the body did not come in time"))
        }
    }
}

/// Why a body was not read.
enum Unread {
    Broken,
    Large,
    /// Nothing came for a while.
    Stall,
    /// It did not come whole in time.
    Time,
}

/// The whole body, provided that something of it keeps coming.
async fn pieces(
    body: &mut axum::body::Body,
    bytes_max: usize,
    stall: Duration,
) -> Result<Bytes, Unread> {
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = tokio::time::timeout(stall, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Unread::Stall)? else {
            break;
        };
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            continue;
        };
        if first.len() + more.len() + data.len() > bytes_max {
            return Err(Unread::Large);
        }
        // Most bodies come in one piece, which is not copied.
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(if more.is_empty() {
        first
    } else {
        more.freeze()
    })
}

/// Read and forget so many bytes at most.
async fn passed_over(mut body: axum::body::Body, bytes_max: usize, stall: Duration) {
    let mut left = bytes_max;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(stall, body.frame()).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
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
