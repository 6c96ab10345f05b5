//! `GET /v1/openapi.json`: the whole API as an OpenAPI 3.1 document.
//!
//! - `operations`, `streams`, `openai`: every route, what it takes, and what it may answer.
//! - `schemas`: the JSON of requests and answers.
//! - here: the codes of errors with their statuses, and the document put together.
//!
//! The document is kept in `docs/openapi.json` too. Tests hold it to the route table, and every answer
//! that a test gets to it: an answer with a status or code that is not in here fails that test.

mod notices;
mod openai;
mod operations;
mod schemas;
mod streams;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde_json::{Map, Value, json};

use self::operations::{Access, Operation};

/// Every code of an error, with its status.
const CODES: &[(u16, &[&str])] = &[
    (
        400,
        &[
            "invalid_json",
            "unknown_field",
            "invalid_name",
            "invalid_query",
            "invalid_utf8",
            "incomplete_body",
            "invalid_secret",
            "invalid_idempotency_key",
            "invalid_version",
            "invalid_live",
            "invalid_kind",
            "not_a_choice",
            "offset_malformed",
            "offset_ahead",
            "bus_header_malformed",
            "invalid_header",
            "empty_body",
            "invalid_webhook",
            "INVALID_REQUEST",
            "WEBHOOK_URL_REJECTED",
            "unsupported_value",
            "previous_response_not_finished",
            "previous_response_not_found",
        ],
    ),
    (401, &["invalid_key", "TOKEN_INVALID"]),
    (402, &["budget_exhausted"]),
    (
        403,
        &[
            "insufficient_scope",
            "author_mismatch",
            "tenant_suspended",
            "producer_fenced",
        ],
    ),
    (
        404,
        &[
            "agent_not_found",
            "session_not_found",
            "slot_not_found",
            "question_not_found",
            "operation_not_found",
            "version_not_found",
            "token_not_found",
            "component_not_found",
            "turn_not_found",
            "value_not_found",
            "key_not_found",
            "secret_not_found",
            "tenant_not_found",
            "stream_not_found",
            "model_not_found",
            "response_not_found",
            "webhook_not_found",
            "dead_letter_not_found",
            "SUBSCRIPTION_NOT_FOUND",
        ],
    ),
    (408, &["request_timeout"]),
    (
        409,
        &[
            "session_exists",
            "agent_not_in_session",
            "agent_not_ready",
            "entry_agent",
            "too_many_agents",
            "too_many_secrets",
            "slot_locked",
            "question_answered",
            "idle",
            "agent_suspended",
            "not_suspended",
            "tenant_exists",
            "tenant_deleting",
            "too_many_keys",
            "stream_exists",
            "stream_closed",
            "source_deleted",
            "content_type_mismatch",
            "out_of_order",
            "producer_gap",
            "response_in_session",
            "ALREADY_CLAIMED",
            "FENCED",
            "INVALID_OFFSET",
            "NO_PENDING_WORK",
            "SUBSCRIPTION_ALREADY_EXISTS",
        ],
    ),
    (410, &["session_gone", "stream_gone", "notices_gone"]),
    (412, &["version_mismatch"]),
    (413, &["too_large"]),
    (415, &["unsupported_media_type"]),
    (
        422,
        &[
            "not_a_component",
            "precompiled_refused",
            "world_mismatch",
            "import_not_granted",
            "invalid_conversation",
            "compile_limit",
            "idempotency_key_reused",
        ],
    ),
    (426, &["upgrade_required"]),
    (428, &["version_required"]),
    (
        429,
        &["overloaded", "quota_exceeded", "bridge_depth_exceeded"],
    ),
    (500, &["internal", "session_damaged"]),
    (502, &["turn_failed", "webhook_failed"]),
    (503, &["store_latched", "draining"]),
    (504, &["turn_deadline", "turn_asks"]),
];

fn status_of(code: &str) -> u16 {
    let known = CODES.iter().find(|(_, codes)| codes.contains(&code));
    known.map_or(0, |(status, _)| *status)
}

pub(super) async fn show() -> Response {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string().into());
    let kind = (header::CONTENT_TYPE, "application/json");
    ([kind], text.clone()).into_response()
}

/// The document.
pub fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations::all() {
        let path = paths.entry(operation.path).or_default();
        path.insert(operation.method.to_lowercase(), shown(&operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Antiphon",
            "version": "1",
            "description": "A self-hosted edge runtime for AI agents. docs/http.md says what it all means.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key, a session token, or the operator's key."},
                "address": {"type": "apiKey", "in": "query", "name": "access_token", "description": "On GET, a key or token for who cannot set headers."},
            },
            "responses": refusals(),
            "schemas": schemas::all(),
        },
    })
}

fn shown(operation: &Operation) -> Value {
    let mut it = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses(operation),
    });
    match operation.access {
        Access::Open => it["security"] = json!([]),
        Access::Scope(scope) => it["x-scope"] = json!(scope),
        Access::Token { scope, right } => {
            it["x-scope"] = json!(scope);
            it["x-token-scope"] = json!(right);
        }
        Access::Operator => it["x-scope"] = json!("operator"),
    }
    let reads = operation.method == "GET" && !matches!(operation.access, Access::Open);
    if reads {
        it["security"] = json!([{"key": []}, {"address": []}]);
    }
    let mut parameters: Vec<Value> = named(operation.path)
        .map(|name| path_parameter(operation.path, name))
        .collect();
    parameters.extend(operation.query.iter().map(|name| query_parameter(name)));
    parameters.extend(operation.headers.iter().map(|name| header_parameter(name)));
    if !parameters.is_empty() {
        it["parameters"] = json!(parameters);
    }
    if !operation.bodies.is_empty() {
        it["requestBody"] = json!({
            "required": operation.body_required,
            "content": contents(&operation.bodies),
        });
    }
    it
}

/// The names in braces.
fn named(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn contents(of: &[(&'static str, &'static str)]) -> Value {
    let mut content = Map::new();
    for (media, schema) in of {
        content.insert(
            (*media).to_owned(),
            json!({"schema": schemas::named(schema)}),
        );
    }
    Value::Object(content)
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    let mut good: BTreeMap<u16, Vec<(&'static str, &'static str)>> = BTreeMap::new();
    for (status, media, schema) in &operation.answers {
        let content = good.entry(*status).or_default();
        if !media.is_empty() {
            content.push((media, schema));
        }
    }
    for (status, content) in good {
        let mut response = json!({"description": phrase(status)});
        if !content.is_empty() {
            response["content"] = contents(&content);
        }
        responses.insert(status.to_string(), response);
    }
    for (status, codes) in errors(operation) {
        let name = refusal(status, &codes);
        let reference = json!({"$ref": format!("#/components/responses/{name}")});
        responses.insert(status.to_string(), reference);
    }
    responses.insert(
        "431".to_owned(),
        json!({"$ref": "#/components/responses/431"}),
    );
    Value::Object(responses)
}

/// The name of an answer that says one of these codes; the codes are in order.
fn refusal(status: u16, codes: &[&str]) -> String {
    format!("{status}.{}", codes.join("."))
}

/// Every answer that refuses something, by its name.
fn refusals() -> Map<String, Value> {
    let mut refusals = Map::new();
    for operation in operations::all() {
        for (status, codes) in errors(&operation) {
            let response = json!({
                "description": phrase(status),
                "content": {"application/json": {"schema": {
                    "allOf": [schemas::named("Error")],
                    "properties": {"error": {"properties": {"code": {"enum": codes}}}},
                }}},
            });
            refusals.insert(refusal(status, &codes), response);
        }
    }
    let too_long = "the head is over `header_bytes_max`; the HTTP library says so, without JSON";
    refusals.insert("431".to_owned(), json!({"description": too_long}));
    refusals
}

/// What an operation refuses, by status.
fn errors(operation: &Operation) -> BTreeMap<u16, Vec<&'static str>> {
    let mut errors: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    for code in &operation.codes {
        errors.entry(status_of(code)).or_default().push(code);
    }
    for codes in errors.values_mut() {
        codes.sort_unstable();
        codes.dedup();
    }
    errors
}

fn phrase(status: u16) -> &'static str {
    let status = http::StatusCode::from_u16(status).ok();
    status
        .and_then(|status| status.canonical_reason())
        .unwrap_or("an answer")
}

fn path_parameter(path: &str, name: &str) -> Value {
    let schema = match (name, path) {
        ("id", path) if path.starts_with("/v1/operations") => "MessageId",
        ("id", path) if path.starts_with("/v1/models") => "Text",
        ("id", path) if path.starts_with("/v1/responses") => "ResponseId",
        ("id", path) if path.starts_with("/v1/keys") => "KeyId",
        ("id", path) if path.starts_with("/v1/stream/__ds") => "Name",
        ("id", _) => "SessionId",
        ("agent", _) => "AgentName",
        ("digest", _) => "Digest",
        ("tenant", _) => "TenantName",
        ("token", _) => "KeyId",
        ("turn", _) => "TurnId",
        ("path", _) => "StreamPath",
        ("letter", _) => "Offset",
        ("question", _) => "QuestionNumber",
        ("name", path) if path.starts_with("/v1/webhooks") => "AgentName",
        _ => "Name",
    };
    json!({"name": name, "in": "path", "required": true, "schema": schemas::named(schema)})
}

fn query_parameter(name: &str) -> Value {
    let schema = match name {
        "limit" => json!({"type": "integer", "minimum": 0}),
        "live" => json!({"enum": ["sse", "long-poll"]}),
        "live-logs" => json!({"enum": ["sse"]}),
        "cursor-place" => schemas::named("Offset"),
        "cursor" | "session" => schemas::named("SessionId"),
        "offset" => schemas::named("Offset"),
        "from" | "to" => json!({"type": "string", "format": "date"}),
        "kind" => json!({"type": "string"}),
        "stream-cursor" => json!({"type": "integer", "minimum": 0}),
        "stream" => json!({"type": "boolean"}),
        "starting_after" => json!({"type": "integer", "minimum": 0}),
        "before-request" => json!({"type": "string"}),
        _ => schemas::named("Offset"),
    };
    let name = match name {
        "stream-cursor" => "cursor",
        name => name.split('-').next().unwrap_or(name),
    };
    json!({"name": name, "in": "query", "required": false, "schema": schema})
}

fn header_parameter(name: &str) -> Value {
    let schema = match name {
        "idempotency-key" => json!({"type": "string", "pattern": "^[!-~]{1,255}$"}),
        "if-match" => json!({"type": "string", "pattern": "^\"?[0-9]{1,19}\"?$"}),
        "prefer" => json!({"type": "string", "enum": ["respond-async"]}),
        "x-antiphon-session" => schemas::named("SessionId"),
        "last-event-id" => schemas::named("Offset"),
        _ => json!({"type": "string"}),
    };
    json!({"name": name, "in": "header", "required": false, "schema": schema})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_an_operation_names_has_a_status() {
        for operation in operations::all() {
            for code in &operation.codes {
                assert_ne!(status_of(code), 0, "{code} of {}", operation.id);
            }
        }
    }

    #[test]
    fn operations_have_names_of_their_own_and_schemas_that_are_there() {
        let mut ids = std::collections::BTreeSet::new();
        for operation in operations::all() {
            assert!(ids.insert(operation.id), "{}", operation.id);
        }
        let document = document().to_string();
        let all = schemas::all();
        for part in document.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(all.get(name).is_some(), "{name}");
        }
    }
}
