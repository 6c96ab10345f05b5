//! Who asks: a key or a session token becomes a [`Caller`], and handlers see nothing else.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Method, StatusCode, header};

use crate::id::{Author, SessionId, TenantId};
use crate::tenants::{Holder, Right};

use super::Api;
use super::error::{ApiError, ApiResult};

/// Who a tenant's key speaks for when it names nobody.
const ANYBODY: &str = "user";

/// Whoever sent the request, with what they may do.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Holder>);

impl Caller {
    pub(super) fn tenant(&self) -> &TenantId {
        self.0.tenant()
    }

    /// Refuse unless the key or token has the right. For a session's own routes use [`Self::enter`].
    pub(super) fn need(&self, right: Right) -> ApiResult<()> {
        match &*self.0 {
            Holder::Key { rights, .. } if rights.contains(&right) => Ok(()),
            Holder::Key { .. } | Holder::Token { .. } => Err(insufficient(right)),
        }
    }

    /// Refuse unless the caller has the right in this session. To a token other sessions do not exist.
    pub(super) fn enter(&self, session: &SessionId, right: Right) -> ApiResult<()> {
        match &*self.0 {
            Holder::Key { rights, .. } => {
                let needed = match right {
                    Right::Send | Right::Interrupt => Right::Invoke,
                    other => other,
                };
                if rights.contains(&needed) {
                    Ok(())
                } else {
                    Err(insufficient(needed))
                }
            }
            Holder::Token { token, .. } if token.session != *session => Err(ApiError::not_found(
                "session_not_found",
                "there is no such session",
            )),
            Holder::Token { token, .. } if token.rights.contains(&right) => Ok(()),
            Holder::Token { .. } => Err(insufficient(right)),
        }
    }

    /// Who is speaking. A token speaks for its author only.
    pub(super) fn author(&self, named: Option<Author>) -> ApiResult<Author> {
        match (&*self.0, named) {
            (Holder::Key { .. }, Some(named)) => Ok(named),
            (Holder::Key { .. }, None) => Ok(Author::new(ANYBODY)?),
            (Holder::Token { token, .. }, None) => Ok(token.author.clone()),
            (Holder::Token { token, .. }, Some(named)) if named == token.author => Ok(named),
            (Holder::Token { .. }, Some(_)) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "author_mismatch",
                "this token speaks for another author",
            )),
        }
    }
}

fn insufficient(right: Right) -> ApiError {
    let message = format!("this needs the scope `{}`", right.name());
    ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", message)
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let refused = || {
            let message = "send a key as `Authorization: Bearer KEY`";
            ApiError::new(StatusCode::UNAUTHORIZED, "invalid_key", message)
        };
        let text = presented(parts).ok_or_else(refused)?;
        let holder = api.tenants.holder(&text, api.clock.now()).await?;
        holder.map(Self).ok_or_else(refused)
    }
}

/// The key of the header; on GET also the parameter that browsers' EventSource can send.
fn presented(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| key.trim().to_owned());
    }
    if parts.method != Method::GET {
        return None;
    }
    let query = parts.uri.query()?;
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("access_token="))
        .map(str::to_owned)
}
