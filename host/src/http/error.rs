//! Errors as clients see them: one table from the errors of the layers below to
//! status, code and words.
//!
//! Three texts are kept apart: the code, which a client may act on; the message, for
//! whoever reads it; and what went wrong inside, which goes to the log alone.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::agents::{ConfigError, DeployError};
use crate::budgets::Exhausted;
use crate::id::{InvalidName, MalformedOffset, Offset};
use crate::ledger::{Dead, FollowError};
use crate::runtime::conversation::definition::{DEFINITION_BYTES_MAX, DefinitionError};
use crate::runtime::engine::ComponentError;
use crate::secrets::SecretError;
use crate::session::commands::CommandError;
use crate::session::following::FollowingError;
use crate::session::fork::ForkError;
use crate::session::{Exceeded, Session, SessionError};
use crate::store::{CommitError, Damage, ReadError};
use crate::tenants::TenantError;

/// Marks an answer whose cause is in the log; never leaves the host.
pub(super) const INTERNAL: &str = "x-antiphon-internal";

/// Somebody has to remove something, or to raise the quota: a minute is soon.
const QUOTA_RETRY_S: u32 = 60;

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Box<str>,
    /// The field of the request that is wrong, where one is.
    param: Option<Box<str>>,
    /// For the log.
    internal: Option<Box<str>>,
    /// Beside `error` in the body.
    fields: Option<Value>,
    /// They are inside of it instead.
    are_inside: bool,
    retry_after_s: Option<u32>,
    /// Clients that retry on 409 and 5xx must not: asking again changes nothing.
    is_final: bool,
    /// The connection ends with the answer.
    closes: bool,
    /// Beside those that every error has.
    headers: Option<Box<HeaderMap>>,
}

/// The code of an answer that is an error, for whoever writes it down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let is_final = status == StatusCode::CONFLICT;
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            internal: None,
            fields: None,
            are_inside: false,
            retry_after_s: None,
            is_final,
            closes: false,
            headers: None,
        }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("{limit} bytes is the most"),
        )
    }

    /// The client keeps the server waiting; the connection ends with the answer.
    pub(super) fn too_slow(message: impl Into<String>) -> Self {
        Self {
            closes: true,
            ..Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        }
    }

    pub(super) fn overloaded(message: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(1),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message)
        }
    }

    /// Removing something helps, and asking again at once does not.
    pub(super) fn quota_exceeded(exceeded: &Exceeded) -> Self {
        let Exceeded { quota, used, limit } = exceeded;
        let fields = json!({"quota": quota, "used": used, "limit": limit});
        let error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "quota_exceeded",
            exceeded.to_string(),
        );
        Self {
            retry_after_s: Some(QUOTA_RETRY_S),
            ..error.with(fields)
        }
    }

    pub(super) fn draining() -> Self {
        let error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "the server is stopping",
        );
        Self {
            retry_after_s: Some(1),
            ..error
        }
    }

    pub(super) fn internal(internal: impl ToString) -> Self {
        let error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong inside the server",
        );
        Self {
            internal: Some(internal.to_string().into()),
            ..error
        }
    }

    /// What was stored of a session cannot be read; of anything else, it is our affair alone.
    fn damaged(damage: &Damage) -> Self {
        let Some(journal) = &damage.journal else {
            return Self::internal(damage);
        };
        let message =
            "what is stored of the session is damaged: it is set aside, and all others go on";
        let error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "session_damaged",
            message,
        );
        let entry = damage.seq.map(|seq| Offset(seq).to_string());
        Self {
            internal: Some(damage.to_string().into()),
            is_final: true,
            ..error.with(json!({"session": journal.session, "entry": entry}))
        }
    }

    fn budget_exhausted(exhausted: &Exhausted) -> Self {
        let budget = json!({
            "cap": exhausted.cap.name(),
            "spent_micros": exhausted.spent_micros,
            "limit_micros": exhausted.limit_micros,
            "until": exhausted.until.map(|until| until.to_rfc3339()),
        });
        let (status, message) = (StatusCode::PAYMENT_REQUIRED, exhausted.to_string());
        let error = Self::new(status, "budget_exhausted", message);
        Self {
            is_final: true,
            ..error
        }
        .with(json!({"budget": budget}))
    }

    /// Of this field of the request, as `messages[0].content`.
    pub(super) fn param(self, param: impl Into<Box<str>>) -> Self {
        Self {
            param: Some(param.into()),
            ..self
        }
    }

    pub(super) fn with(self, fields: Value) -> Self {
        Self {
            fields: Some(fields),
            ..self
        }
    }

    pub(super) fn headers(
        self,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        Self {
            headers: Some(Box::new(headers.into_iter().collect())),
            ..self
        }
    }

    /// More about it, inside of `error`.
    pub(super) fn within(self, fields: Value) -> Self {
        Self {
            are_inside: true,
            ..self.with(fields)
        }
    }

    /// Asking again changes nothing.
    pub(super) fn final_(self) -> Self {
        Self {
            is_final: true,
            ..self
        }
    }

    fn latched(internal: impl ToString) -> Self {
        let message = "the server's disk failed: it takes no more writes until it is restarted";
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_latched", message);
        Self {
            internal: Some(internal.to_string().into()),
            ..error
        }
    }
}

impl ApiError {
    /// The body of the answer, which may also be an event of a stream.
    pub(super) fn body(&self) -> Value {
        let kind = if self.status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        // The form that clients of OpenAI read, on every route.
        let error = json!({
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "type": kind,
        });
        let mut body = json!({"error": error});
        let place = if self.are_inside { "/error" } else { "" };
        let object = body.pointer_mut(place).and_then(Value::as_object_mut);
        if let (Some(object), Some(Value::Object(fields))) = (object, &self.fields) {
            object.extend(fields.clone());
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.body();
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(Code(self.code));
        let headers = response.headers_mut();
        if let Some(own) = self.headers {
            headers.extend(*own);
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert("retry-after", HeaderValue::from(seconds));
        }
        if self.is_final {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.closes {
            headers.insert("connection", HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        if let Some(internal) = self.internal {
            tracing::error!(code = self.code, error = %internal, "answered with an error");
            headers.insert(INTERNAL, HeaderValue::from_static("1"));
        }
        response
    }
}

pub(super) async fn no_route() -> ApiError {
    ApiError::not_found("route_not_found", "there is nothing at this path")
}

pub(super) async fn no_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not know the method",
    )
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::bad("invalid_name", error.to_string())
    }
}

impl From<MalformedOffset> for ApiError {
    fn from(error: MalformedOffset) -> Self {
        Self::bad("offset_malformed", error.to_string())
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => Self::damaged(&damage),
            ReadError::Io(_) => Self::internal(error),
        }
    }
}

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Latched(latched) => Self::latched(latched),
            CommitError::Fenced | CommitError::TailMismatch => Self::internal(error),
        }
    }
}

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> Self {
        match error {
            TenantError::Read(error) => error.into(),
            TenantError::Commit(error) => error.into(),
            TenantError::KeyFile(error) => Self::internal(error),
            TenantError::NotFound => super::tenants::not_found(),
            TenantError::NoSuchKey => super::keys::no_such_key(),
            TenantError::Exists => Self::conflict("tenant_exists", error.to_string()),
            TenantError::Deleting => Self::conflict("tenant_deleting", error.to_string()),
            TenantError::TooManyKeys => Self::conflict("too_many_keys", error.to_string()),
        }
    }
}

impl From<Dead> for ApiError {
    fn from(dead: Dead) -> Self {
        match dead {
            Dead::Latched(latched) => Self::latched(latched),
            Dead::Closed => Self::draining(),
            Dead::Damaged(damage) => Self::damaged(&damage),
            Dead::Fenced | Dead::Illegal(_) => Self::internal(dead),
        }
    }
}

impl From<FollowError> for ApiError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Dead(dead) => dead.into(),
            FollowError::Read(error) => error.into(),
        }
    }
}

impl From<FollowingError> for ApiError {
    fn from(error: FollowingError) -> Self {
        match error {
            FollowingError::Session(error) => error.into(),
            FollowingError::Follow(error) => error.into(),
            FollowingError::Read(error) => error.into(),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotFound => {
                Self::not_found("session_not_found", "there is no such session")
            }
            SessionError::Gone => gone(),
            SessionError::Draining => Self::draining(),
            SessionError::Latched(latched) => Self::latched(latched),
            SessionError::Read(error) => error.into(),
            SessionError::Broken(_) => Self::internal(error),
        }
    }
}

fn gone() -> ApiError {
    ApiError::new(
        StatusCode::GONE,
        "session_gone",
        "the session was deleted or has expired",
    )
}

/// What a command answers. A refusal is made from the newest state, so it leaves once that state
/// is durable: nobody is told what a crash could take back.
pub(super) async fn settled<T>(session: &Session, done: Result<T, CommandError>) -> ApiResult<T> {
    if done.is_err() {
        session.ledger.settle().await?;
    }
    Ok(done?)
}

impl From<ForkError> for ApiError {
    fn from(error: ForkError) -> Self {
        let text = error.to_string();
        match error {
            ForkError::Session(error) => error.into(),
            ForkError::AtNothing => Self::bad("offset_malformed", text),
            ForkError::Ahead => Self::bad("offset_ahead", text),
            ForkError::Exists => Self::conflict("session_exists", text),
            ForkError::KeyReused => key_reused(text),
            ForkError::Busy => Self::overloaded(text),
            ForkError::GivenUp => Self::internal(text),
            ForkError::Refused(error) => error.into(),
        }
    }
}

fn key_reused(text: String) -> ApiError {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    ApiError::new(status, "idempotency_key_reused", text)
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        let text = error.to_string();
        match error {
            SecretError::Length | SecretError::NotOneLine => Self::bad("invalid_secret", text),
            SecretError::TooMany => Self::conflict("too_many_secrets", text),
            SecretError::Read(error) => error.into(),
            SecretError::Commit(error) => error.into(),
            SecretError::Seal(_) | SecretError::Open(_) => Self::internal(text),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        match error {
            CommandError::Exists => Self::conflict("session_exists", text),
            CommandError::Gone => gone(),
            CommandError::NotFound => Self::not_found("session_not_found", text),
            CommandError::AgentNotInSession => Self::conflict("agent_not_in_session", text),
            CommandError::EntryAgent => Self::conflict("entry_agent", text),
            CommandError::Idle => Self::conflict("idle", text),
            CommandError::Suspended(_) => Self::conflict("agent_suspended", text),
            CommandError::NotSuspended | CommandError::Waits(_) => {
                Self::conflict("not_suspended", text)
            }
            CommandError::BudgetExhausted(exhausted) => Self::budget_exhausted(&exhausted),
            CommandError::KeyReused => key_reused(text),
            // Whoever expects something goes on elsewhere.
            CommandError::Overtaken => Self::internal(text),
            CommandError::Full { .. } => Self::overloaded(text),
            CommandError::TooLarge(limit) => Self::too_large(limit),
            CommandError::NotAsked => Self::conflict(
                "question_answered",
                "the question is answered already, or nobody waits for the answer any more",
            ),
            CommandError::NotAChoice(choices) => {
                let message = if choices.is_empty() {
                    "there are no choices: answer with a `text`"
                } else {
                    "answer with a `choice`, one of those that were given"
                };
                Self::bad("not_a_choice", message).with(json!({"choices": choices}))
            }
            CommandError::SlotLocked(_) => Self::conflict("slot_locked", text),
            CommandError::VersionMismatch(newest) => {
                let newest = newest.map_or(Value::Null, |newest| json!(newest.0));
                let message = "the slot has another version";
                Self::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", message)
                    .with(json!({"version": newest}))
            }
            CommandError::VersionRequired(newest) => {
                let message = "the slot exists: send If-Match with the version you replace";
                Self::new(
                    StatusCode::PRECONDITION_REQUIRED,
                    "version_required",
                    message,
                )
                .with(json!({"version": newest.0}))
            }
            CommandError::Unsealed(_) => Self::internal(text),
            CommandError::Dead(dead) => dead.into(),
        }
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::UnknownField(text) => Self::bad("unknown_field", text),
            ConfigError::Invalid(text) => Self::bad("invalid_json", text),
        }
    }
}

impl From<DefinitionError> for ApiError {
    fn from(error: DefinitionError) -> Self {
        let text = error.to_string();
        match error {
            DefinitionError::UnknownField(_) => Self::bad("unknown_field", text),
            DefinitionError::Malformed(_) => Self::bad("invalid_json", text),
            DefinitionError::TooLarge => Self::too_large(DEFINITION_BYTES_MAX),
            DefinitionError::Invalid(_) | DefinitionError::Cycle { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_conversation",
                text,
            ),
        }
    }
}

impl From<DeployError> for ApiError {
    fn from(error: DeployError) -> Self {
        let unprocessable = |code, text| Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, text);
        let text = error.to_string();
        match error {
            DeployError::Component(ComponentError::NotAComponent(_)) => {
                unprocessable("not_a_component", text)
            }
            DeployError::Component(ComponentError::Precompiled) => {
                unprocessable("precompiled_refused", text)
            }
            DeployError::Component(ComponentError::WorldMismatch(_)) => {
                unprocessable("world_mismatch", text)
            }
            DeployError::Component(ComponentError::CompileLimit(_)) => {
                unprocessable("compile_limit", text)
            }
            DeployError::Component(ComponentError::Busy) => Self::overloaded(text),
            DeployError::Component(ComponentError::NoCompiler(_)) => Self::internal(text),
            DeployError::Component(ComponentError::ImportNotGranted(_)) => {
                unprocessable("import_not_granted", text)
            }
            DeployError::Definition(error) => error.into(),
            DeployError::NotFound => agent_not_found(),
            DeployError::NoSuchVersion => Self::not_found("version_not_found", text),
            DeployError::Commit(error) => error.into(),
            DeployError::Files(_) | DeployError::Missing(_) => Self::internal(text),
        }
    }
}

pub(super) fn agent_not_found() -> ApiError {
    ApiError::not_found("agent_not_found", "there is no such agent")
}
