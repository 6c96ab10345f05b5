//! Who asks: a key or a session token becomes a [`Caller`], and handlers see nothing else.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use crate::id::{Author, SessionId, TenantId};
use crate::tenants::{Denied, Holder, Right, TokenRecord, Who};

use super::Api;
use super::audit::Asker;
use super::error::{ApiError, ApiResult};

/// Whoever of a tenant sent the request, with what they may do.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    holder: Arc<Holder>,
    tenant: TenantId,
}

impl Caller {
    fn of(holder: Arc<Holder>) -> ApiResult<Self> {
        let tenant = holder.tenant().cloned().ok_or_else(|| {
            let message = "the operator's key administers tenants and is in none";
            ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", message)
        })?;
        Ok(Self { holder, tenant })
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Wait until they may not be here any more.
    pub(super) async fn lapsed(self, api: Api) {
        api.tenants.lapsed(&self.holder).await;
    }

    fn token(&self) -> Option<&TokenRecord> {
        match &self.holder.who {
            Who::Token { token, .. } => Some(token),
            Who::Key { .. } | Who::Operator => None,
        }
    }

    fn has(&self, right: Right) -> bool {
        matches!(&self.holder.who, Who::Key { rights, .. } if rights.contains(&right))
    }

    /// Refuse unless the key or token has the right. For a session's own routes use [`Self::enter`].
    pub(super) fn need(&self, right: Right) -> ApiResult<()> {
        match self.has(right) {
            true => Ok(()),
            false => Err(insufficient(right)),
        }
    }

    /// Refuse unless the caller has the right in this session. To a token other sessions do not exist.
    pub(super) fn enter(&self, session: &SessionId, right: Right) -> ApiResult<()> {
        match self.token() {
            None => self.need(match right {
                Right::Send | Right::Interrupt => Right::Invoke,
                other => other,
            }),
            Some(token) if token.session != *session => Err(ApiError::not_found(
                "session_not_found",
                "there is no such session",
            )),
            Some(token) if token.rights.contains(&right) => Ok(()),
            Some(_) => Err(insufficient(right)),
        }
    }

    /// Who is speaking. A token speaks for its author only.
    pub(super) fn author(&self, named: Option<Author>) -> ApiResult<Author> {
        match (self.token(), named) {
            (None, Some(named)) => Ok(named),
            (None, None) => Ok(Author::anybody()),
            (Some(token), None) => Ok(token.author.clone()),
            (Some(token), Some(named)) if named == token.author => Ok(named),
            (Some(_), Some(_)) => Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "author_mismatch",
                "this token speaks for another author",
            )),
        }
    }
}

/// Whoever uses a tenant's Durable Streams: with a key, or without one where the operator opened them to anybody.
#[derive(Debug, Clone)]
pub(super) struct StreamCaller {
    tenant: TenantId,
    /// None is anybody.
    caller: Option<Caller>,
}

impl StreamCaller {
    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub(super) fn is_anybody(&self) -> bool {
        self.caller.is_none()
    }

    pub(super) fn need(&self, right: Right) -> ApiResult<()> {
        self.caller.as_ref().map_or(Ok(()), |it| it.need(right))
    }

    /// Wait until they may not be here any more.
    pub(super) async fn lapsed(self, api: Api) {
        match self.caller {
            Some(caller) => caller.lapsed(api).await,
            None => api.tenants.closes(&self.tenant).await,
        }
    }
}

impl FromRequestParts<Api> for StreamCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let has_key =
            parts.headers.contains_key(header::AUTHORIZATION) || presented(parts).is_some();
        match &api.settings.streams_open_to {
            Some(tenant) if !has_key => {
                if is_of_foreign_page(parts, api) {
                    let message = "pages of other origins use streams with a key only";
                    let forbidden = StatusCode::FORBIDDEN;
                    return Err(ApiError::new(forbidden, "insufficient_scope", message));
                }
                api.tenants.admits(tenant).map_err(denied)?;
                Ok(Self {
                    tenant: tenant.clone(),
                    caller: None,
                })
            }
            Some(_) | None => {
                let caller = Caller::from_request_parts(parts, api).await?;
                Ok(Self {
                    tenant: caller.tenant.clone(),
                    caller: Some(caller),
                })
            }
        }
    }
}

/// Whether a browser sends this for a page that is neither of this server nor of an origin that may call. Who is on a closed
/// network must not be used by a page from outside of it to write into streams.
fn is_of_foreign_page(parts: &Parts, api: &Api) -> bool {
    let Some(origin) = parts.headers.get(header::ORIGIN) else {
        return false;
    };
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.or(parts.uri.authority().map(|it| it.as_str().as_bytes()));
    let own = origin.to_str().ok().and_then(|it| it.split_once("://"));
    let is_own = own.is_some_and(|(_, authority)| host == Some(authority.as_bytes()));
    !is_own && !api.settings.cors_origins.contains(origin)
}

/// Whoever may look after tenants: the operator after all of them, an administrator after their own.
#[derive(Debug, Clone)]
pub(super) struct Administrator(Arc<Holder>);

impl Administrator {
    /// Refuse all but the operator.
    pub(super) fn of_all(&self) -> ApiResult<()> {
        match self.0.who {
            Who::Operator => Ok(()),
            Who::Key { .. } | Who::Token { .. } => {
                let message = "this needs the operator's key";
                Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "insufficient_scope",
                    message,
                ))
            }
        }
    }

    /// Whose administrator they are: none is the host's.
    pub(super) fn own(&self) -> ApiResult<Option<TenantId>> {
        match &self.0.who {
            Who::Operator => Ok(None),
            Who::Key { tenant, .. } => self.of(tenant).map(|()| Some(tenant.clone())),
            Who::Token { .. } => Err(insufficient(Right::Admin)),
        }
    }

    /// Refuse unless this tenant is theirs to look after. Others do not exist for them.
    pub(super) fn of(&self, tenant: &TenantId) -> ApiResult<()> {
        match &self.0.who {
            Who::Operator => Ok(()),
            Who::Key { rights, .. } if !rights.contains(&Right::Admin) => {
                Err(insufficient(Right::Admin))
            }
            Who::Key { tenant: own, .. } if own == tenant => Ok(()),
            Who::Key { .. } => Err(super::tenants::not_found()),
            Who::Token { .. } => Err(insufficient(Right::Admin)),
        }
    }
}

fn insufficient(right: Right) -> ApiError {
    let message = format!("this needs the scope `{}`", right.name());
    ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", message)
}

/// Nobody's key, or not any more.
pub(super) fn unknown() -> ApiError {
    let message = "send a key as `Authorization: Bearer KEY`";
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_key", message)
}

async fn holder(parts: &Parts, api: &Api) -> ApiResult<Arc<Holder>> {
    let text = presented(parts).ok_or_else(unknown)?;
    match api.tenants.holder(&text).await? {
        Ok(holder) => {
            if let Some(asker) = parts.extensions.get::<Asker>() {
                asker.is(&holder);
            }
            Ok(holder)
        }
        Err(why) => Err(denied(why)),
    }
}

fn denied(why: Denied) -> ApiError {
    match why {
        Denied::Unknown => unknown(),
        Denied::Suspended => ApiError::new(
            StatusCode::FORBIDDEN,
            "tenant_suspended",
            "the tenant is suspended: whoever runs the server can say why",
        ),
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Self::of(holder(parts, api).await?)
    }
}

impl FromRequestParts<Api> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Ok(Self(holder(parts, api).await?))
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
