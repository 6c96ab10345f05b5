//! `GET /v1/usage`: what a tenant used and what it cost, by days.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::budgets::Standing;
use crate::clock::Day;
use crate::id::SessionId;
use crate::journal::entry::Usage;
use crate::tenants::Right;

use super::auth::Caller;
use super::body::Params;
use super::error::{ApiError, ApiResult};
use super::{Api, wire};

/// Days that are shown when nobody says from when on: what a month's bill is compared with.
const DAYS: u64 = 30;

#[derive(Deserialize)]
pub(super) struct UsageQuery {
    from: Option<String>,
    to: Option<String>,
    session: Option<SessionId>,
}

fn day(text: Option<&str>, default: Day) -> ApiResult<Day> {
    let parse = |text: &str| text.parse::<Day>();
    let parsed = text.map_or(Ok(default), parse);
    parsed.map_err(|error| ApiError::bad("invalid_query", error.to_string()))
}

/// Needs a key with `read`: a token is of one session and sees no bill.
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Params(query): Params<UsageQuery>,
) -> ApiResult<Json<Value>> {
    caller.need(Right::Read)?;
    let (budgets, tenant) = (api.sessions.budgets().clone(), caller.tenant().clone());
    let now = api.clock.now();
    let to = day(query.to.as_deref(), now.day())?;
    let from = day(query.from.as_deref(), to.minus(DAYS - 1))?;
    if from > to {
        let message = "`from` is after `to`";
        return Err(ApiError::bad("invalid_query", message));
    }
    let session = query.session.clone();
    let read = tokio::task::spawn_blocking(move || {
        let report = budgets.report(&tenant, (from, to), session.as_ref(), now)?;
        Ok::<_, ApiError>((report, budgets.standings(&tenant, now)?))
    });
    let (report, standings) = read.await.map_err(ApiError::internal)??;
    let days = report.days.iter().map(|it| {
        let mut row = wire::usage(it.usage);
        row["day"] = json!(it.day.to_string());
        row
    });
    let of_cap = |it: &Standing| {
        json!({
            "cap": it.cap.name(),
            "spent_micros": it.spent_micros,
            "limit_micros": it.limit_micros,
        })
    };
    let earlier = Some(report.earlier).filter(|it| *it != Usage::default());
    Ok(Json(json!({
        "from": from.to_string(),
        "to": to.to_string(),
        "session": query.session,
        "days": days.collect::<Vec<_>>(),
        "total": wire::usage(report.total()),
        "earlier": earlier.map(wire::usage),
        "budgets": standings.iter().map(of_cap).collect::<Vec<_>>(),
    })))
}
