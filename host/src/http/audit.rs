//! `GET /v1/audit`, and writing down what administrators do.
//!
//! Which requests are deeds stands in one table here, by route, so that no handler can forget it. A
//! deed is finished and written down also when its client hangs up meanwhile.

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::auth::Administrator;
use super::body::Params;
use super::error::{ApiError, ApiResult, Code};
use crate::audit::{By, Entry};
use crate::id::TenantId;
use crate::tenants::{Holder, Who};

/// Entries on one page.
const PAGE: usize = 50;
const PAGE_MAX: usize = 500;

/// Of a target: the longest names fit. Longer is a path that no name obeys.
const TARGET_MAX: usize = 512;

/// What a request of this route does, if it is a deed.
fn action(method: &Method, path: &str) -> Option<&'static str> {
    Some(match (method.as_str(), path) {
        ("PUT", "/v1/agents/{agent}") => "agent-deployed",
        ("DELETE", "/v1/agents/{agent}") => "agent-deleted",
        ("PUT", "/v1/agents/{agent}/config") => "agent-configured",
        ("POST", "/v1/agents/{agent}/rollback") => "agent-rolled-back",
        ("DELETE", "/v1/sessions/{id}") => "session-deleted",
        ("DELETE", "/v1/responses/{id}") => "response-deleted",
        ("POST", "/v1/sessions/{id}/tokens") => "token-minted",
        ("DELETE", "/v1/sessions/{id}/tokens/{token}") => "token-revoked",
        ("POST", "/v1/keys" | "/v1/tenants/{tenant}/keys") => "key-minted",
        ("POST", "/v1/keys/{id}/rotate") => "key-rotated",
        ("DELETE", "/v1/keys/{id}") => "key-revoked",
        ("PUT", "/v1/secrets/{name}") => "secret-put",
        ("DELETE", "/v1/secrets/{name}") => "secret-deleted",
        ("PUT", "/v1/webhooks/{name}") => "webhook-put",
        ("POST", "/v1/webhooks/{name}/rotate") => "webhook-rotated",
        ("DELETE", "/v1/webhooks/{name}") => "webhook-deleted",
        ("POST", "/v1/tenants") => "tenant-created",
        ("DELETE", "/v1/tenants/{tenant}") => "tenant-deleted",
        ("PUT", "/v1/tenants/{tenant}/quotas") => "quotas-set",
        ("POST", "/v1/tenants/{tenant}/suspend") => "tenant-suspended",
        ("POST", "/v1/tenants/{tenant}/resume") => "tenant-resumed",
        ("GET", "/v1/tenants/{tenant}/export") => "tenant-exported",
        _ => return None,
    })
}

/// The request's id, for whoever writes it down.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Who asks, once that is known.
#[derive(Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<Arc<Holder>>>);

impl Asker {
    pub(super) fn is(&self, holder: &Arc<Holder>) {
        // A request has one asker: a second time is the same one.
        let _ = self.0.set(holder.clone());
    }
}

/// The id of what a request made, where the path does not say it.
#[derive(Clone)]
pub(super) struct Made(pub(super) String);

/// Around every route.
pub(super) async fn watch(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let Some(action) = path.and_then(|path| action(request.method(), path.as_str())) else {
        return next.run(request).await;
    };
    let id = request.extensions().get::<RequestId>().cloned();
    let Some(RequestId(id)) = id else {
        return ApiError::internal("a request without an id").into_response();
    };
    let asker = Asker::default();
    request.extensions_mut().insert(asker.clone());
    let path = request.uri().path().to_owned();
    let tasks = api.shutdown.clone();
    // A task of its own: hanging up must not leave a deed that is not written down.
    let done = tasks.spawn(async move {
        let response = next.run(request).await;
        if let Some(holder) = asker.0.get() {
            let answer = Answer::of(&response);
            write_down(&api, holder, &id, action, &path, answer).await;
        }
        response
    });
    match done.await {
        Ok(response) => response,
        Err(_) => ApiError::internal("a deed broke off").into_response(),
    }
}

/// What of an answer is written down.
struct Answer {
    status: StatusCode,
    code: Option<&'static str>,
    made: Option<String>,
}

impl Answer {
    fn of(response: &Response) -> Self {
        let extensions = response.extensions();
        Self {
            status: response.status(),
            code: extensions.get().map(|Code(code)| *code),
            made: extensions.get().map(|Made(id)| id.clone()),
        }
    }
}

async fn write_down(
    api: &Api,
    holder: &Holder,
    request: &str,
    action: &'static str,
    path: &str,
    answer: Answer,
) {
    let by = match &holder.who {
        Who::Operator => By::Operator(holder.id()),
        Who::Key { .. } => By::Key(holder.id()),
        Who::Token { .. } => By::Token(holder.id()),
    };
    let mut target = path.strip_prefix("/v1/").unwrap_or(path).to_owned();
    if let Some(id) = &answer.made {
        target.push('/');
        target.push_str(id);
    }
    // A path is ASCII.
    target.truncate(TARGET_MAX);
    let Answer { status, code, .. } = answer;
    let tenant = holder.tenant().map_or("", TenantId::as_str);
    tracing::info!(
        target: "audit", request, tenant, ?by, action, on = target, status = status.as_u16(), code,
        "audit"
    );
    // Who may not do it could otherwise push out what others did.
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return;
    }
    let entry = Entry {
        time: api.clock.now(),
        by,
        action: action.to_owned(),
        target,
        status: status.as_u16(),
        code: code.map(str::to_owned),
    };
    let owners = owners(api, holder, path, answer.made.as_deref());
    if let Err(error) = api.audit.record(&owners, request, &entry).await {
        tracing::error!(%error, request, "what was done is in the log alone");
    }
}

/// Whose entry it is: the operator's deeds are the host's, and the tenant's that they concern.
fn owners(api: &Api, holder: &Holder, path: &str, made: Option<&str>) -> Vec<Option<TenantId>> {
    if let Some(tenant) = holder.tenant() {
        return vec![Some(tenant.clone())];
    }
    let named = path.strip_prefix("/v1/tenants/");
    let named = named.and_then(|rest| rest.split('/').next());
    let tenant = named.or(made).and_then(|name| TenantId::new(name).ok());
    // One that is being deleted gets no more rows.
    let is_there = |tenant: &TenantId| {
        let record = api.tenants.get(tenant);
        record.is_some_and(|it| it.standing != crate::tenants::Standing::Deleting)
    };
    let tenant = tenant.filter(is_there);
    std::iter::once(None).chain(tenant.map(Some)).collect()
}

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    before: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(api): State<Api>,
    administrator: Administrator,
    Params(query): Params<AuditQuery>,
) -> ApiResult<Json<Value>> {
    let owner = administrator.own()?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let page = api.audit.page(&owner, query.before.as_deref(), limit).await;
    let (entries, older) = page?;
    let before = entries.last().filter(|_| older).map(|(id, _)| id.clone());
    let entries: Vec<Value> = entries.iter().map(|(id, entry)| shown(id, entry)).collect();
    Ok(Json(json!({"entries": entries, "before": before})))
}

fn shown(request: &str, entry: &Entry) -> Value {
    json!({
        "request": request,
        "time": entry.time.to_rfc3339(),
        "by": entry.by,
        "action": entry.action,
        "target": entry.target,
        "status": entry.status,
        "code": entry.code,
    })
}
