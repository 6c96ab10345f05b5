//! HTTP: the only place that knows our status codes, the JSON of the API, and headers.
//!
//! A handler parses, makes one call down, and converts. Invariants: tenant and
//! session come from the caller's key or token, never from a body; an answer leaves
//! only when the entries it was made from are durable.

mod admission;
mod agents;
mod auth;
mod body;
mod bus;
mod error;
mod events;
mod forks;
mod health;
mod inspect;
mod invoke;
mod keys;
mod operations;
mod secrets;
mod server;
mod sessions;
mod slots;
mod sse;
mod tenants;
mod tokens;
mod usage;
mod wire;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use http::{HeaderName, HeaderValue, Method};
use tokio::sync::Semaphore;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::clock::Clock;
use crate::logs::Logs;
use crate::secrets::Secrets;
use crate::session::Sessions;
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Limit, Stage, Telemetry};
use crate::tenants::Tenants;

pub use server::run;

/// What handlers reach.
#[derive(Clone)]
pub(crate) struct Api {
    parts: Arc<Parts>,
    streams: Arc<Semaphore>,
}

pub struct Parts {
    pub sessions: Sessions,
    pub tenants: Tenants,
    pub secrets: Secrets,
    pub logs: Logs,
    pub clock: Clock,
    pub telemetry: Telemetry,
    pub shutdown: Shutdown,
    pub settings: Settings,
}

/// Bounds and settings of the edge.
#[derive(Debug, Clone)]
pub struct Settings {
    pub component_bytes_max: usize,
    pub request_bytes_max: usize,
    /// Event streams and long polls open at once.
    pub streams_max: usize,
    pub cors_origins: Vec<HeaderValue>,
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// A place among the open streams, until dropped.
pub(crate) type StreamPermit = tokio::sync::OwnedSemaphorePermit;

impl Api {
    /// Refuse when as many streams and polls are open as may be.
    fn stream_permit(&self) -> error::ApiResult<StreamPermit> {
        let refused = |_| {
            telemetry::hit(Limit::Streams);
            error::ApiError::overloaded("as many streams are open as may be")
        };
        self.streams.clone().try_acquire_owned().map_err(refused)
    }
}

/// Every route of the API.
pub fn router(parts: Parts) -> Router {
    let cors = cors(&parts.settings.cors_origins);
    let streams = Arc::new(Semaphore::new(parts.settings.streams_max));
    let api = Api {
        parts: Arc::new(parts),
        streams,
    };
    Router::new()
        .route("/v1/agents", get(agents::list))
        .route(
            "/v1/agents/{agent}",
            get(agents::show).put(agents::put).delete(agents::remove),
        )
        .route(
            "/v1/agents/{agent}/config",
            get(agents::config).put(agents::put_config),
        )
        .route("/v1/agents/{agent}/versions", get(agents::versions))
        .route("/v1/agents/{agent}/rollback", post(agents::roll_back))
        .route("/v1/agents/{agent}/logs", get(agents::logs))
        .route("/v1/agents/{agent}/invoke", post(invoke::invoke))
        .route("/v1/components/{digest}", get(inspect::component))
        .route("/v1/operations/{id}", get(operations::show))
        .route("/v1/operations/{id}/cancel", post(operations::cancel))
        .route("/v1/sessions", get(sessions::list).post(sessions::create))
        .route(
            "/v1/sessions/{id}",
            get(sessions::show)
                .put(sessions::put)
                .delete(sessions::remove),
        )
        .route(
            "/v1/sessions/{id}/agents/{agent}",
            post(sessions::add_agent).delete(sessions::remove_agent),
        )
        .route(
            "/v1/sessions/{id}/agents/{agent}/resume",
            post(sessions::resume),
        )
        .route("/v1/sessions/{id}/tokens", post(tokens::mint))
        .route("/v1/sessions/{id}/tokens/{token}", delete(tokens::revoke))
        .route("/v1/sessions/{id}/messages", post(sessions::send))
        .route("/v1/sessions/{id}/interrupt", post(sessions::interrupt))
        .route("/v1/sessions/{id}/fork", post(forks::create))
        .route("/v1/sessions/{id}/events", get(events::events))
        .route("/v1/sessions/{id}/transcript", get(events::transcript))
        .route("/v1/sessions/{id}/journal", get(events::journal))
        .route("/v1/sessions/{id}/turns/{turn}", get(inspect::turn))
        .route("/v1/sessions/{id}/values/{digest}", get(inspect::value))
        .route("/v1/sessions/{id}/slots", get(slots::list))
        .route(
            "/v1/sessions/{id}/slots/{name}",
            put(slots::put).get(slots::show),
        )
        .route("/v1/keys", get(keys::list).post(keys::mint))
        .route("/v1/keys/{id}", delete(keys::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/tenants", get(tenants::list).post(tenants::create))
        .route(
            "/v1/tenants/{tenant}",
            get(tenants::show).delete(tenants::remove),
        )
        .route("/v1/tenants/{tenant}/quotas", put(tenants::put_quotas))
        .route("/v1/tenants/{tenant}/suspend", post(tenants::suspend))
        .route("/v1/tenants/{tenant}/resume", post(tenants::resume))
        .route("/v1/tenants/{tenant}/keys", post(tenants::mint_key))
        .route("/v1/tenants/{tenant}/export", get(tenants::export))
        .route("/v1/secrets", get(secrets::list))
        .route(
            "/v1/secrets/{name}",
            put(secrets::put).delete(secrets::remove),
        )
        .route("/v1/usage", get(usage::show))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .layer(cors)
        .layer(middleware::from_fn(request_id))
        .with_state(api)
}

/// Web pages of these origins may call; none by default.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let exposed = [
        "x-request-id",
        "x-antiphon-session",
        "x-antiphon-run",
        "x-antiphon-offset",
        "etag",
        "location",
        "retry-after",
        "idempotency-replayed",
    ];
    let allowed = [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "last-event-id",
        "prefer",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(allowed.map(HeaderName::from_static))
        .expose_headers(exposed.map(HeaderName::from_static))
}

/// Every answer names its request, and sniffs nothing.
async fn request_id(request: Request, next: Next) -> Response {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        if response_failed_inside(headers) {
            tracing::error!(request = %id, "a request failed inside the host");
        }
        headers.insert("x-request-id", value);
    }
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Errors leave their internal text in the log; this joins the two by the request's id.
fn response_failed_inside(headers: &mut http::HeaderMap) -> bool {
    headers.remove(error::INTERNAL).is_some()
}

async fn count(
    axum::extract::State(api): axum::extract::State<Api>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let response = next.run(request).await;
    Stage::Http.took(start);
    api.telemetry.request(response.status().as_u16());
    response
}
