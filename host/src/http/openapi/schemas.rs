//! The JSON of requests and answers, as JSON Schema.
//!
//! Requests are closed: what is not named is refused. Answers are open: fields are added.

use serde_json::{Value, json};

use crate::journal::notice::NoticeKind;

/// A reference to a schema by its name.
pub(super) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object of a request: all of its fields, and those that must be there.
fn closed(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// An object of an answer: all these fields are there.
fn open(properties: Value) -> Value {
    let required: Vec<&String> = properties
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    json!({"type": "object", "required": required, "properties": properties.clone()})
}

fn list(of: &str) -> Value {
    json!({"type": "array", "items": named(of)})
}

fn or_null(of: Value) -> Value {
    json!({"anyOf": [of, {"type": "null"}]})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

/// Seconds up to a bound.
fn seconds(max: u64) -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": max})
}

pub(super) fn all() -> Value {
    let mut schemas = json!({});
    for group in [
        names(),
        agents(),
        sessions(),
        journal(),
        webhooks(),
        subscriptions(),
        messages(),
        openai(),
        keys(),
        tenants(),
        reports(),
    ] {
        if let (Value::Object(all), Value::Object(group)) = (&mut schemas, group) {
            all.extend(group);
        }
    }
    schemas
}

fn names() -> Value {
    let name = json!({"type": "string", "pattern": "^[A-Za-z0-9._@-]{1,128}$"});
    json!({
        "Any": {},
        "Text": {"type": "string"},
        "Bytes": {"type": "string", "format": "binary"},
        "StreamPath": {"type": "string", "minLength": 1, "maxLength": 256, "description": "Of as many segments as one likes: slashes are part of it."},
        "Stream": {
            "type": "object",
            "description": "one event of text/event-stream; `data` is one line of JSON",
            "properties": {"id": text(), "event": text(), "data": text()},
        },
        "Name": name,
        "SessionId": name,
        "Author": name,
        "AgentName": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
        "TenantName": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
        "MessageId": {"type": "string", "pattern": "^[A-Za-z0-9._@-]{1,128}:[0-9]{1,19}$"},
        "TurnId": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"},
        "KeyId": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
        "QuestionNumber": {"type": "integer", "minimum": 1},
        "Digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "Offset": {"type": "string", "pattern": "^(-1|now|[0-9]{16}_[0-9]{16})$"},
        "Error": open(json!({
            "error": open(json!({
                "code": text(),
                "message": text(),
                "param": or_null(text()),
                "type": {"enum": ["invalid_request_error", "server_error"]},
            })),
        })),
    })
}

fn agents() -> Value {
    json!({
        "Agent": open(json!({
            "agent": named("AgentName"),
            "ready": {"type": "boolean"},
            "version": or_null(count()),
            "kind": or_null(json!({"enum": ["component", "conversation"]})),
            "component": or_null(named("Digest")),
            "created_at": or_null(time()),
            "description": or_null(text()),
        })),
        "Agents": open(json!({"agents": list("Agent")})),
        "Config": {"type": "object", "description": "docs/agents.md, Configuration. Unknown fields are refused by name."},
        "Conversation": {"type": "object", "description": "docs/conversations.md. Unknown fields are refused by name."},
        "Version": open(json!({
            "version": count(),
            "kind": {"enum": ["component", "conversation"]},
            "component": named("Digest"),
            "config": named("Config"),
            "created_at": time(),
        })),
        "Versions": open(json!({"versions": list("Version")})),
        "RollBack": closed(json!({"version": count()}), &["version"]),
        "Line": open(json!({
            "number": count(),
            "time": time(),
            "session": named("SessionId"),
            "turn": text(),
            "source": {"enum": ["stdout", "stderr", "log"]},
            "text": text(),
        })),
        "Lines": open(json!({"lines": list("Line")})),
    })
}

fn sessions() -> Value {
    let participant = open(json!({
        "agent": named("AgentName"),
        "turn": or_null(text()),
        "pending": count(),
        "question": or_null(count()),
        "suspended": or_null(json!({"type": "object"})),
    }));
    json!({
        "NewSession": closed(json!({
            "agents": {"type": "array", "items": named("AgentName"), "minItems": 1, "maxItems": 32},
            "entry": or_null(named("AgentName")),
            "expires_after": or_null(json!({"type": "integer", "minimum": 1, "maximum": u64::MAX})),
        }), &["agents"]),
        "Session": open(json!({
            "session": named("SessionId"),
            "entry": or_null(named("AgentName")),
            "agents": {"type": "array", "items": participant},
            "slots": count(),
            "offset": named("Offset"),
            "last_event_at": time(),
            "expires_at": or_null(time()),
        })),
        "Sessions": open(json!({
            "sessions": {"type": "array", "items": open(json!({"session": named("SessionId")}))},
            "cursor": or_null(named("SessionId")),
        })),
        "Fork": closed(json!({
            "at": {"anyOf": [count(), named("Offset"), {"type": "null"}]},
            "session": or_null(named("SessionId")),
        }), &[]),
        "Resumption": closed(json!({"author": or_null(named("Author"))}), &[]),
        "Interruption": closed(json!({
            "agent": or_null(named("AgentName")),
            "author": or_null(named("Author")),
        }), &[]),
        "Place": open(json!({"offset": named("Offset")})),
        "Question": open(json!({
            "question": count(),
            "agent": named("AgentName"),
            "turn": text(),
            "text": text(),
            "choices": {"type": "array", "items": text()},
            "asked_at": time(),
            "until": time(),
        })),
        "Questions": open(json!({"questions": list("Question")})),
        "NewAnswer": closed(json!({
            "text": or_null(text()),
            "choice": or_null(text()),
            "note": or_null(text()),
            "author": or_null(named("Author")),
        }), &[]),
        "Answered": open(json!({"question": count(), "offset": named("Offset")})),
        "Slot": open(json!({
            "slot": named("Name"),
            "version": or_null(count()),
            "state": {"enum": ["idle", "locked"]},
            "locked_by": {},
            "written_at": or_null(time()),
            "by": or_null(json!({"type": "object"})),
            "bytes": or_null(count()),
        })),
        "Slots": open(json!({"slots": list("Slot")})),
        "Document": closed(json!({"content": text(), "author": or_null(named("Author"))}), &["content"]),
        "Written": open(json!({
            "slot": named("Name"),
            "version": count(),
            "written_at": time(),
            "bytes": count(),
        })),
    })
}

fn subscriptions() -> Value {
    let texts = json!({"type": "array", "items": text()});
    let work = json!({"type": "array", "items": open(json!({
        "path": text(),
        "link_type": {"enum": ["explicit", "glob"]},
        "acked_offset": named("Offset"),
        "tail_offset": named("Offset"),
        "has_pending": {"type": "boolean"},
    }))});
    let acks = json!({"type": "array", "items": {
        "type": "object",
        "required": ["stream", "offset"],
        "properties": {"stream": text(), "offset": named("Offset")},
    }});
    json!({
        "NewSubscription": {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"enum": ["webhook", "pull-wake"]},
                "pattern": text(),
                "streams": texts,
                "webhook": {"type": "object", "required": ["url"], "properties": {"url": text()}},
                "wake_stream": text(),
                "lease_ttl_ms": {"type": "integer", "minimum": 1_000, "maximum": 600_000},
                "description": {"type": "string", "maxLength": 2_000},
            },
        },
        "Subscription": open(json!({
            "id": named("Name"),
            "subscription_id": named("Name"),
            "type": {"enum": ["webhook", "pull-wake"]},
            "pattern": or_null(text()),
            "streams": {"type": "array", "items": open(json!({
                "path": text(),
                "link_type": {"enum": ["explicit", "glob"]},
                "acked_offset": named("Offset"),
            }))},
            "webhook": or_null(json!({"type": "object"})),
            "wake_stream": or_null(text()),
            "lease_ttl_ms": count(),
            "created_at": time(),
            "status": {"enum": ["active", "failed"]},
            "description": or_null(text()),
        })),
        "StreamNames": {
            "type": "object",
            "required": ["streams"],
            "properties": {"streams": texts},
        },
        "Claim": {
            "type": "object",
            "required": ["worker"],
            "properties": {"worker": {"type": "string", "minLength": 1, "maxLength": 256}},
        },
        "Claimed": open(json!({
            "wake_id": text(),
            "generation": count(),
            "token": text(),
            "streams": work,
            "lease_ttl_ms": count(),
        })),
        "WakeReport": {
            "type": "object",
            "required": ["wake_id", "generation"],
            "properties": {
                "wake_id": text(),
                "generation": count(),
                "acks": acks,
                "done": {"type": "boolean"},
            },
        },
        "WakeReported": open(json!({"ok": {"type": "boolean"}, "next_wake": {"type": "boolean"}})),
        "JwkSet": open(json!({"keys": {"type": "array", "items": {"type": "object"}}})),
    })
}

fn webhooks() -> Value {
    let webhook = json!({
        "webhook": text(),
        "url": text(),
        "sessions": {"type": "array", "items": named("SessionId")},
        "agents": {"type": "array", "items": named("AgentName")},
        "kinds": {"type": "array", "items": named("NoticeKind")},
        "created_at": time(),
        "offset": named("Offset"),
        "failing": or_null(open(json!({
            "attempts": count(),
            "since": time(),
            "next_at": time(),
            "error": text(),
        }))),
        "missed": count(),
        "dead_letters": count(),
    });
    let mut made = webhook.clone();
    made["secret"] = text();
    let names = |of: &str| json!({"type": "array", "items": named(of), "maxItems": 100});
    json!({
        "NoticeKind": {"enum": NoticeKind::ALL.map(NoticeKind::name)},
        "NewWebhook": closed(json!({
            "url": {"type": "string", "maxLength": 2000},
            "sessions": names("SessionId"),
            "agents": names("AgentName"),
            "kinds": names("NoticeKind"),
            "offset": or_null(named("Offset")),
        }), &["url"]),
        "Webhook": open(webhook),
        "MadeWebhook": open(made),
        "Webhooks": open(json!({"webhooks": list("Webhook")})),
        "WebhookSecret": open(json!({"secret": text()})),
        "DeadLetter": open(json!({
            "id": named("Offset"),
            "message": text(),
            "died_at": time(),
            "attempts": count(),
            "error": text(),
            "body": {"type": "object"},
        })),
        "DeadLetters": open(json!({"dead_letters": list("DeadLetter"), "cursor": or_null(named("Offset"))})),
    })
}

fn journal() -> Value {
    json!({
        "Event": open(json!({"offset": named("Offset"), "time": time(), "kind": text()})),
        "StreamedEvents": list("Event"),
        // What a stream holds is its writers' affair.
        "Anything": {},
        "StreamedMessages": {"type": "array"},
        "Events": open(json!({"events": list("Event"), "offset": named("Offset"), "up_to_date": {"type": "boolean"}})),
        "Notice": open(json!({
            "offset": named("Offset"),
            "time": time(),
            "kind": named("NoticeKind"),
            "session": named("SessionId"),
            "place": named("Offset"),
        })),
        "Notices": open(json!({"notices": list("Notice"), "offset": named("Offset"), "up_to_date": {"type": "boolean"}})),
        "Entries": open(json!({"entries": list("Event"), "offset": named("Offset"), "up_to_date": {"type": "boolean"}})),
        "Item": open(json!({"offset": named("Offset"), "time": time(), "text": text()})),
        "Transcript": open(json!({
            "items": list("Item"),
            "before": or_null(named("Offset")),
            "offset": named("Offset"),
        })),
        "Turn": open(json!({
            "turn": text(),
            "session": named("SessionId"),
            "agent": named("AgentName"),
            "started": named("Offset"),
            "ended": or_null(named("Offset")),
            "component": {},
            "version": {},
            "config": or_null(named("Config")),
            "random": {},
        })),
    })
}

fn messages() -> Value {
    json!({
        "Invocation": closed(json!({
            "body": {},
            "session": or_null(named("SessionId")),
            "author": or_null(named("Author")),
        }), &["body"]),
        "Message": closed(json!({
            "body": {},
            "to": or_null(named("AgentName")),
            "author": or_null(named("Author")),
        }), &["body"]),
        "Posted": open(json!({"message": named("MessageId"), "offset": named("Offset")})),
        "Usage": open(json!({
            "model_calls": count(),
            "estimated_calls": count(),
            "input_tokens": count(),
            "output_tokens": count(),
            "cost_micros": count(),
            "nested_micros": count(),
        })),
        "Answer": open(json!({
            "session": named("SessionId"),
            "run": text(),
            "turn": text(),
            "offset": named("Offset"),
            "outcome": {"enum": ["completed", "interrupted"]},
            "reply": text(),
            "usage": named("Usage"),
        })),
        "Operation": {
            "type": "object",
            "required": ["name", "done", "metadata"],
            "properties": {
                "name": named("MessageId"),
                "done": {"type": "boolean"},
                "metadata": open(json!({
                    "session": named("SessionId"),
                    "turn": or_null(text()),
                    "run": or_null(text()),
                    "reply": or_null(text()),
                })),
                "response": named("Answer"),
                "error": open(json!({"code": text(), "message": text()})),
            },
        },
    })
}

/// Of OpenAI's API, whose clients know the rest. Requests are open there: what is not named is ignored.
fn openai() -> Value {
    let any = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties});
    json!({
        "ResponseId": {"type": "string", "pattern": "^resp_[A-Za-z0-9._@-]{1,128}:[0-9]{1,19}$"},
        "Model": open(json!({
            "id": named("AgentName"),
            "object": {"const": "model"},
            "created": count(),
            "owned_by": named("TenantName"),
        })),
        "Models": open(json!({"object": {"const": "list"}, "data": list("Model")})),
        "ChatMessage": any(&["role"], json!({
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"anyOf": [text(), {"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
            "name": or_null(named("Author")),
        })),
        "Chat": any(&["model", "messages"], json!({
            "model": text(),
            "messages": {"type": "array", "items": named("ChatMessage"), "minItems": 1},
            "stream": or_null(json!({"type": "boolean"})),
            "stream_options": or_null(any(&[], json!({"include_usage": or_null(json!({"type": "boolean"}))}))),
            "n": or_null(json!({"const": 1})),
            "user": or_null(named("Author")),
        })),
        "Completion": open(json!({
            "id": text(),
            "object": {"const": "chat.completion"},
            "created": count(),
            "model": named("AgentName"),
            "choices": {"type": "array", "items": open(json!({
                "index": count(),
                "message": open(json!({"role": {"const": "assistant"}, "content": or_null(text()), "refusal": or_null(text())})),
                "finish_reason": {"enum": ["stop", "length"]},
            }))},
            "usage": open(json!({"prompt_tokens": count(), "completion_tokens": count(), "total_tokens": count()})),
        })),
        "NewResponse": any(&["model", "input"], json!({
            "model": text(),
            "input": {"anyOf": [text(), {"type": "array", "items": {"type": "object"}}]},
            "instructions": or_null(text()),
            "previous_response_id": or_null(named("ResponseId")),
            "background": or_null(json!({"type": "boolean"})),
            "store": or_null(json!({"type": "boolean"})),
            "stream": or_null(json!({"type": "boolean"})),
            "metadata": or_null(json!({"type": "object", "additionalProperties": text()})),
            "user": or_null(named("Author")),
        })),
        "Response": open(json!({
            "id": named("ResponseId"),
            "object": {"const": "response"},
            "created_at": count(),
            "status": {"enum": ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]},
            "background": {"type": "boolean"},
            "error": or_null(open(json!({"code": text(), "message": text()}))),
            "incomplete_details": or_null(open(json!({"reason": text()}))),
            "instructions": or_null(text()),
            "metadata": {"type": "object"},
            "model": named("AgentName"),
            "output": {"type": "array", "items": {"type": "object"}},
            "previous_response_id": or_null(named("ResponseId")),
            "store": {"type": "boolean"},
            "usage": or_null(open(json!({"input_tokens": count(), "output_tokens": count(), "total_tokens": count()}))),
        })),
        "DeletedResponse": open(json!({
            "id": named("ResponseId"),
            "object": {"const": "response"},
            "deleted": {"const": true},
        })),
    })
}

fn keys() -> Value {
    let scopes = json!({
        "type": "array",
        "items": {"enum": ["deploy", "invoke", "read", "inspect", "admin", "inter-agent"]},
        "minItems": 1,
    });
    let key = json!({
        "id": named("KeyId"),
        "scopes": scopes,
        "label": or_null(text()),
        "created_at": time(),
        "expires_at": or_null(time()),
    });
    let mut minted = key.clone();
    minted["key"] = text();
    let rights = json!({
        "type": "array",
        "items": {"enum": ["read", "send", "interrupt"]},
        "minItems": 1,
    });
    json!({
        "NewKey": closed(json!({
            "scopes": scopes,
            "expires_in": or_null(seconds(10 * 365 * 24 * 3_600)),
            "label": or_null(json!({"type": "string", "maxLength": 100, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"})),
        }), &["scopes"]),
        "Key": open(key),
        "Keys": open(json!({"keys": list("Key")})),
        "MintedKey": open(minted),
        "Rotation": closed(json!({
            "overlap": or_null(json!({"type": "integer", "minimum": 0, "maximum": 30 * 24 * 3_600})),
        }), &[]),
        "NewToken": closed(json!({
            "author": named("Author"),
            "scopes": or_null(rights.clone()),
            "expires_in": or_null(seconds(30 * 24 * 3_600)),
        }), &["author"]),
        "Token": open(json!({
            "token": text(),
            "id": named("KeyId"),
            "author": named("Author"),
            "scopes": rights,
            "expires_at": time(),
        })),
        "Secret": open(json!({"name": named("Name"), "written_at": time()})),
        "Secrets": open(json!({"secrets": list("Secret")})),
    })
}

fn tenants() -> Value {
    let quota = || or_null(count());
    json!({
        "Quotas": closed(json!({
            "sessions_max": quota(),
            "storage_bytes_max": quota(),
            "turns_max": quota(),
            "turns_waiting_max": quota(),
            "cpu_minute_ms_max": quota(),
        }), &[]),
        "NewTenant": closed(json!({
            "tenant": named("TenantName"),
            "quotas": named("Quotas"),
        }), &["tenant"]),
        "Tenant": {
            "type": "object",
            "required": ["tenant", "standing"],
            "properties": {
                "tenant": named("TenantName"),
                "standing": {"enum": ["active", "suspended", "deleting"]},
                "created_at": or_null(time()),
                "quotas": {"type": "object"},
                "key": named("MintedKey"),
            },
        },
        "Tenants": open(json!({"tenants": list("Tenant")})),
    })
}

fn reports() -> Value {
    json!({
        "UsageReport": open(json!({
            "from": text(),
            "to": text(),
            "session": or_null(named("SessionId")),
            "days": {"type": "array", "items": {"type": "object"}},
            "total": named("Usage"),
            "earlier": or_null(named("Usage")),
            "budgets": {"type": "array", "items": {"type": "object"}},
        })),
        "AuditEntry": open(json!({
            "request": text(),
            "time": time(),
            "by": {"type": "object", "description": "`key`, `token` or `operator`, and the id of it"},
            "action": text(),
            "target": text(),
            "status": count(),
            "code": or_null(text()),
        })),
        "Audit": open(json!({
            "entries": {"type": "array", "items": named("AuditEntry")},
            "before": or_null(text()),
        })),
        "Ready": {
            "type": "object",
            "required": ["ready"],
            "properties": {
                "ready": {"type": "boolean"},
                "reason": {"enum": ["store_latched", "draining"]},
            },
        },
    })
}
