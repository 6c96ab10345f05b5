//! `/v1/tenants`: the operator's, and what an administrator may see of their own.

use std::io;

use axum::Json;
use axum::body::Body as ResponseBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::id::TenantId;
use crate::tenants::{Quotas, Record, Standing};

use super::Api;
use super::auth::Administrator;
use super::body::{self, Body, Names};
use super::error::{ApiError, ApiResult};
use super::keys;

/// Bytes of an export that wait for whoever reads it, in pieces of this many.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_WAITING: usize = 8;

pub(super) fn not_found() -> ApiError {
    ApiError::not_found("tenant_not_found", "there is no such tenant")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    tenant: TenantId,
    #[serde(default)]
    quotas: Quotas,
}

fn shown(tenant: &TenantId, record: &Record) -> Value {
    json!({
        "tenant": tenant,
        "standing": record.standing.name(),
        "created_at": (record.created_at.0 > 0).then(|| record.created_at.to_rfc3339()),
        "quotas": record.quotas,
    })
}

pub(super) async fn list(
    State(api): State<Api>,
    administrator: Administrator,
) -> ApiResult<Json<Value>> {
    administrator.of_all()?;
    let all = api.tenants.list();
    let all: Vec<Value> = all.iter().map(|(name, it)| shown(name, it)).collect();
    Ok(Json(json!({"tenants": all})))
}

pub(super) async fn create(
    State(api): State<Api>,
    administrator: Administrator,
    Body(bytes): Body,
) -> ApiResult<Response> {
    administrator.of_all()?;
    let new: New = body::json(&bytes)?;
    let (record, key) = api.tenants.create(&new.tenant, new.quotas).await?;
    let mut json = shown(&new.tenant, &record);
    json["key"] = keys::minted(&key);
    Ok(keys::created(json, new.tenant.as_str()))
}

pub(super) async fn show(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
) -> ApiResult<Json<Value>> {
    administrator.of(&tenant)?;
    let record = api.tenants.get(&tenant).ok_or_else(not_found)?;
    let mut json = shown(&tenant, &record);
    if record.standing != Standing::Deleting {
        let holdings = api.sessions.holdings(&tenant).await?;
        json["holds"] = json!({
            "sessions": holdings.sessions,
            "storage_bytes": holdings.bytes,
            "agents": api.sessions.agents().list(&tenant).len(),
        });
    }
    Ok(Json(json))
}

pub(super) async fn put_quotas(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
    Body(bytes): Body,
) -> ApiResult<Json<Value>> {
    administrator.of_all()?;
    let quotas: Quotas = body::json(&bytes)?;
    let changed = api.tenants.change(&tenant, |it| it.quotas = quotas).await?;
    Ok(Json(shown(&tenant, &changed)))
}

pub(super) async fn suspend(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
) -> ApiResult<Json<Value>> {
    stand(&api, &administrator, &tenant, Standing::Suspended).await
}

pub(super) async fn resume(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
) -> ApiResult<Json<Value>> {
    stand(&api, &administrator, &tenant, Standing::Active).await
}

async fn stand(
    api: &Api,
    administrator: &Administrator,
    tenant: &TenantId,
    standing: Standing,
) -> ApiResult<Json<Value>> {
    administrator.of_all()?;
    let change = |record: &mut Record| record.standing = standing;
    let changed = api.tenants.change(tenant, change).await?;
    api.sessions
        .serve_tenant(tenant, standing == Standing::Active);
    Ok(Json(shown(tenant, &changed)))
}

/// From this answer on nobody gets in; what the tenant has is removed after it.
pub(super) async fn remove(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
) -> ApiResult<Response> {
    administrator.of_all()?;
    api.tenants.begin_deletion(&tenant).await?;
    api.subscriptions.forget_tenant(&tenant).await;
    api.webhooks.forget_tenant(&tenant).await;
    api.durable.forget_tenant(&tenant).await;
    api.sessions.remove_tenant(&api.tenants, tenant.clone());
    let json = json!({"tenant": tenant, "standing": Standing::Deleting.name()});
    Ok((StatusCode::ACCEPTED, Json(json)).into_response())
}

/// A key for a tenant whose administrators have none.
pub(super) async fn mint_key(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
    Body(bytes): Body,
) -> ApiResult<Response> {
    administrator.of(&tenant)?;
    match api.tenants.get(&tenant).map(|record| record.standing) {
        None => return Err(not_found()),
        Some(Standing::Deleting) => {
            return Err(crate::tenants::TenantError::Deleting.into());
        }
        Some(Standing::Active | Standing::Suspended) => {}
    }
    let terms = keys::terms(&bytes, api.clock.now())?;
    let key = api.tenants.mint_key(&tenant, terms).await?;
    Ok(keys::created(keys::minted(&key), &key.key.id))
}

/// Everything stored of the tenant, as lines of JSON, while the server runs. The last line says how many there
/// were: without it, it is not all.
pub(super) async fn export(
    State(api): State<Api>,
    administrator: Administrator,
    Names(tenant): Names<TenantId>,
) -> ApiResult<Response> {
    administrator.of(&tenant)?;
    api.tenants.get(&tenant).ok_or_else(not_found)?;
    let permit = api.streams.permit(&tenant)?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let store = api.sessions.store().clone();
    // Ends by itself when the reader goes away: its next piece finds nobody.
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender));
        match store.export_tenant(&tenant, &mut out) {
            Ok(0) => {}
            Ok(damaged) => tracing::warn!(%tenant, damaged, "an export has damaged rows"),
            Err(error) => tracing::warn!(%tenant, %error, "an export broke off"),
        }
    });
    let state = (receiver, permit, writing);
    let pieces = futures_util::stream::unfold(state, |(mut pieces, permit, writing)| async move {
        let piece: Bytes = pieces.recv().await?;
        Some((Ok::<_, io::Error>(piece), (pieces, permit, writing)))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, ResponseBody::from_stream(pieces)).into_response())
}

/// Hands what is written to an answer, and waits for its reader.
struct Pieces(mpsc::Sender<Bytes>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(piece) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
