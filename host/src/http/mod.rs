//! HTTP: the only place that knows our status codes, the JSON of the API, and headers.
//!
//! A handler parses, makes one call down, and converts. Invariants: tenant and
//! session come from the caller's key or token, never from a body; an answer leaves
//! only when the entries it was made from are durable.

mod admission;
mod agents;
mod asking;
mod audit;
mod auth;
mod body;
mod bus;
mod console;
mod durable;
mod error;
mod events;
mod forks;
mod health;
mod inspect;
mod invoke;
mod keys;
mod notices;
mod openai;
mod openapi;
mod operations;
mod patience;
mod questions;
mod secrets;
mod server;
mod sessions;
mod slots;
mod socket;
mod sse;
mod streams;
mod tenants;
mod tls;
mod tokens;
mod usage;
mod watch;
mod webhooks;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::{HeaderName, HeaderValue, Method, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::id::TenantId;
use crate::logs::Logs;
use crate::notices::Notices;
use crate::notices::webhooks::Webhooks;
use crate::secrets::Secrets;
use crate::session::Sessions;
use crate::shutdown::Shutdown;
use crate::streams::Streams;
use crate::subscriptions::Subscriptions;
use crate::telemetry::{Stage, Telemetry};
use crate::tenants::Tenants;

pub use openapi::document as openapi;
pub use patience::Patience;
pub use server::{Bounds, run};
pub use tls::{Tls, TlsError};

/// What handlers reach.
#[derive(Clone)]
pub(crate) struct Api {
    parts: Arc<Parts>,
    streams: streams::Streams,
}

pub struct Parts {
    pub sessions: Sessions,
    pub durable: Streams,
    pub subscriptions: Subscriptions,
    pub notices: Notices,
    pub webhooks: Webhooks,
    pub tenants: Tenants,
    pub secrets: Secrets,
    pub audit: Audit,
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
    /// The same of one tenant.
    pub streams_tenant_max: usize,
    /// Messages before the one that is asked, in a request that begins a session.
    pub recounted_max: usize,
    /// After how long without events sessions end that a request of the OpenAI API made for itself alone.
    pub chat_expire_after_ms: u64,
    /// Whose Durable Streams anybody may use without a key.
    pub streams_open_to: Option<TenantId>,
    pub stream_body_bytes: usize,
    pub stream_read_bytes: usize,
    /// A request that waits for a turn, while the turn asks people.
    pub question_wait: Duration,
    /// A long poll of a Durable Stream, and a live connection to one.
    pub stream_wait: Duration,
    pub stream_live: Duration,
    /// Until more of a body comes, and until all of it has come.
    pub body_stall: Duration,
    pub body_time: Duration,
    /// Until a client takes more of what is written, where a connection is not watched as a whole: a WebSocket.
    pub write_stall: Duration,
    /// Clients reach the server over TLS.
    pub is_secure: bool,
    pub cors_origins: Vec<HeaderValue>,
}

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// Every route of the API.
pub fn router(parts: Parts) -> Router {
    let (host_max, tenant_max) = (
        parts.settings.streams_max,
        parts.settings.streams_tenant_max,
    );
    let streams = streams::Streams::new(host_max, tenant_max);
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
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{id}", get(openai::models::show))
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/responses", post(openai::responses::create))
        .route(
            "/v1/responses/{id}",
            get(openai::responses::show).delete(openai::responses::remove),
        )
        .route("/v1/responses/{id}/cancel", post(openai::responses::cancel))
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
        .route("/v1/sessions/{id}/socket", get(socket::open))
        .route("/v1/sessions/{id}/transcript", get(events::transcript))
        .route("/v1/sessions/{id}/journal", get(events::journal))
        .route("/v1/sessions/{id}/turns/{turn}", get(inspect::turn))
        .route("/v1/sessions/{id}/values/{digest}", get(inspect::value))
        .route("/v1/notices", get(notices::list_or_follow))
        .route("/v1/webhooks", get(webhooks::list))
        .route(
            "/v1/webhooks/{name}",
            get(webhooks::show)
                .put(webhooks::put)
                .delete(webhooks::remove),
        )
        .route("/v1/webhooks/{name}/rotate", post(webhooks::rotate))
        .route("/v1/webhooks/{name}/dead-letters", get(webhooks::letters))
        .route(
            "/v1/webhooks/{name}/dead-letters/{letter}",
            delete(webhooks::forget_letter),
        )
        .route(
            "/v1/webhooks/{name}/dead-letters/{letter}/retry",
            post(webhooks::retry_letter),
        )
        .route("/v1/sessions/{id}/questions", get(questions::list))
        .route(
            "/v1/sessions/{id}/questions/{question}",
            post(questions::answer),
        )
        .route("/v1/sessions/{id}/slots", get(slots::list))
        .route(
            "/v1/sessions/{id}/slots/{name}",
            put(slots::put).get(slots::show),
        )
        .route(
            "/v1/stream/sessions/{id}",
            get(durable::read_session).head(durable::head_session),
        )
        .route(
            "/v1/stream/__ds/jwks.json",
            get(durable::subscriptions::jwks),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}",
            put(durable::subscriptions::put)
                .get(durable::subscriptions::get)
                .delete(durable::subscriptions::remove),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}/streams",
            post(durable::subscriptions::link),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}/streams/{*path}",
            delete(durable::subscriptions::unlink),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}/claim",
            post(durable::subscriptions::claim),
        )
        // The same report, by whoever was sent for and whoever claimed.
        .route(
            "/v1/stream/__ds/subscriptions/{id}/callback",
            post(durable::subscriptions::ack),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}/ack",
            post(durable::subscriptions::ack),
        )
        .route(
            "/v1/stream/__ds/subscriptions/{id}/release",
            post(durable::subscriptions::release),
        )
        .route(
            "/v1/stream/{*path}",
            put(durable::put)
                .post(durable::append)
                .get(durable::read)
                .head(durable::head)
                .delete(durable::remove),
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
        .route("/v1/audit", get(audit::list))
        .route("/v1/openapi.json", get(openapi::show))
        .route("/console", get(console::page))
        .route("/console/{*path}", get(console::file))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route_layer(middleware::from_fn_with_state(api.clone(), audit::watch))
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors(&api.settings.cors_origins))
        .layer(middleware::from_fn_with_state(api.clone(), around))
        .with_state(api)
}

/// Web pages of these origins may call; none by default. Any may ask whether it may.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let exposed = [
        "x-request-id",
        "x-antiphon-session",
        "x-antiphon-run",
        "x-antiphon-offset",
        "etag",
        "location",
        "retry-after",
        "x-should-retry",
        "idempotency-replayed",
        "stream-next-offset",
        "stream-up-to-date",
        "stream-closed",
        "stream-cursor",
        "stream-ttl",
        "stream-expires-at",
        "stream-sse-data-encoding",
        "producer-epoch",
        "producer-seq",
        "producer-expected-seq",
        "producer-received-seq",
    ];
    let allowed = [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "last-event-id",
        "prefer",
        "x-antiphon-session",
        // What clients of OpenAI send from pages.
        "openai-organization",
        "openai-project",
        "x-stainless-arch",
        "x-stainless-helper-method",
        "x-stainless-lang",
        "x-stainless-os",
        "x-stainless-package-version",
        "x-stainless-retry-count",
        "x-stainless-runtime",
        "x-stainless-runtime-version",
        "x-stainless-timeout",
        "if-none-match",
        "stream-ttl",
        "stream-expires-at",
        "stream-closed",
        "stream-seq",
        "stream-forked-from",
        "stream-fork-offset",
        "stream-fork-sub-offset",
        "producer-id",
        "producer-epoch",
        "producer-seq",
    ];
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
        ])
        .allow_headers(allowed.map(HeaderName::from_static));
    // Where no page may read an answer, none says what of it may be read.
    match origins {
        [] => cors,
        _ => cors.expose_headers(exposed.map(HeaderName::from_static)),
    }
}

/// Around every request: how long it takes, its id, which every answer names, and what browsers are told of it: it is data,
/// and for the one who asked. The console alone is a page, and says itself what a page may do.
async fn around(
    axum::extract::State(api): axum::extract::State<Api>,
    mut request: Request,
    next: Next,
) -> Response {
    let id: Arc<str> = uuid::Uuid::now_v7().simple().to_string().into();
    request
        .extensions_mut()
        .insert(audit::RequestId(id.clone()));
    let mut response = Stage::Http.of(next.run(request)).await;
    api.telemetry.request(response.status().as_u16());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        if response_failed_inside(headers) {
            tracing::error!(request = %id, "a request failed inside the host");
        }
        headers.insert(REQUEST_ID, value);
    }
    for (name, value) in CAREFUL {
        headers.insert(name, value);
    }
    for (name, value) in NO_PAGE {
        headers.entry(name).or_insert(value);
    }
    if api.settings.is_secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, A_YEAR);
    }
    response
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What browsers are told with every answer.
const CAREFUL: [(HeaderName, HeaderValue); 3] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// What an answer may do in a browser, and for how long it is kept, unless it says so itself: nothing, and not at all.
const NO_PAGE: [(HeaderName, HeaderValue); 2] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

const A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// A handler broke down. Its words are for the log, and may hold anything.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    error::ApiError::internal("a handler panicked").into_response()
}

/// Errors leave their internal text in the log; this joins the two by the request's id.
fn response_failed_inside(headers: &mut http::HeaderMap) -> bool {
    headers.remove(error::INTERNAL).is_some()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tower_service::Service;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_tells_the_client_nothing() {
        let broken = || async {
            if std::hint::black_box(true) {
                panic!("the innermost secret");
            }
        };
        let router: Router = Router::new().route("/", get(broken));
        let mut router = router.layer(CatchPanicLayer::custom(panicked));
        let request = Request::builder().uri("/").body(axum::body::Body::empty());
        let response = router.call(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            body.contains("\"internal\"") && !body.contains("secret"),
            "{body}"
        );
    }
}
