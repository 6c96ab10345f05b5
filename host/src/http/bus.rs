//! The agent bus as it comes in: the headers of a call, and what of them counts.

use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::bus::{self, Inbound, Malformed, TooDeep};
use crate::id::{Digest, RunId, TurnId};
use crate::journal::entry::Idempotency;
use crate::session::commands;
use crate::telemetry::{self, Limit};
use crate::tenants::Right;

use super::Api;
use super::auth::Caller;
use super::body;
use super::error::{ApiError, ApiResult};

impl Api {
    /// What the caller's runtime says about the call. Refused if it is too deep. An authorization counts only
    /// from a key that may forward one: from anybody else it is as if it were not there.
    pub(super) fn forwarded(&self, caller: &Caller, headers: &HeaderMap) -> ApiResult<Inbound> {
        let mut inbound = Inbound::read(headers)?;
        let admitted = bus::admit(inbound.depth, self.sessions.limits().call_depth_max);
        admitted.inspect_err(|_| telemetry::hit(Limit::CallDepth))?;
        if caller.need(Right::InterAgent).is_err() {
            inbound.authorization = None;
        }
        Ok(inbound)
    }
}

/// What the call stands for, if it may be a repeat: of its `Idempotency-Key`, or else of the turn that
/// makes it (protocol: run and turn; the parent turn and the body too, for nested runs share ids).
pub(super) fn idempotency(
    caller: &Caller,
    target: &str,
    headers: &HeaderMap,
    inbound: &Inbound,
    bytes: &[u8],
) -> ApiResult<Option<Idempotency>> {
    let of = |key: &str| commands::idempotency(caller.tenant().as_str(), target, key, bytes);
    if let Some(key) = body::idempotency_key(headers)? {
        return Ok(Some(of(key)));
    }
    let (Some(run), Some(turn)) = (&inbound.run, &inbound.turn) else {
        return Ok(None);
    };
    let parent = inbound.parent.as_ref().map_or("", TurnId::as_str);
    let tuple = [run.as_str(), parent, turn.as_str()].map(str::as_bytes);
    let [run, parent, turn] = tuple;
    Ok(Some(of(
        &Digest::of_parts(&[run, parent, turn, bytes]).to_string()
    )))
}

/// What a turn carries on of it.
pub(super) fn context(api: &Api, inbound: &Inbound) -> Option<bus::Context> {
    bus::Context::of(inbound, RunId::fresh, api.clock.now())
}

impl From<Malformed> for ApiError {
    fn from(error: Malformed) -> Self {
        Self::bad("bus_header_malformed", error.to_string())
    }
}

impl From<TooDeep> for ApiError {
    fn from(error: TooDeep) -> Self {
        let TooDeep { observed, limit } = error;
        // No `Retry-After`: asked again, it is as deep as before.
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "bridge_depth_exceeded",
            format!("the call is {observed} deep, and calls of depth {limit} are refused"),
        )
        .with(json!({"observed": observed, "limit": limit}))
        .final_()
    }
}
