//! Liveness, readiness, metrics.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::Api;

/// The process answers.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Red while the store takes no writes or the server stops.
pub(super) async fn ready(State(api): State<Api>) -> (StatusCode, Json<Value>) {
    let reason = if api.sessions.store().latched().is_some() {
        Some("store_latched")
    } else if api.shutdown.is_stopping() {
        Some("draining")
    } else {
        None
    };
    match reason {
        None => (StatusCode::OK, Json(json!({"ready": true}))),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"ready": false, "reason": reason})),
        ),
    }
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    api.telemetry.sessions_open(api.sessions.open_count());
    let kind = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    ([kind], api.telemetry.render()).into_response()
}
