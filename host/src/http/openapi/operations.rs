//! Every route: what it takes, who may use it, and what it may answer.

/// Who may make a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Keys with this scope.
    Scope(&'static str),
    /// The same, and session tokens with this one.
    Token {
        scope: &'static str,
        right: &'static str,
    },
    /// The operator's key; for some requests also an administrator's.
    Operator,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) access: Access,
    pub(super) query: Vec<&'static str>,
    pub(super) headers: Vec<&'static str>,
    /// Media type and schema.
    pub(super) bodies: Vec<(&'static str, &'static str)>,
    pub(super) body_required: bool,
    /// Status, media type (none for no body) and schema.
    pub(super) answers: Vec<(u16, &'static str, &'static str)>,
    pub(super) codes: Vec<&'static str>,
}

pub(super) const JSON: &str = "application/json";
pub(super) const STREAM: &str = "text/event-stream";
const TEXT: &str = "text/plain";

/// What reading a body may answer.
pub(super) const BODY: &[&str] = &["too_large", "request_timeout", "incomplete_body"];
const OBJECT: &[&str] = &["invalid_json", "unknown_field", "invalid_name"];

/// What may become of looking for a session.
pub(super) const SESSION: &[&str] = &[
    "session_not_found",
    "session_gone",
    "session_damaged",
    "store_latched",
    "draining",
];

/// What may become of a write.
pub(super) const WRITE: &[&str] = &["store_latched", "draining"];

/// What may become of a message.
pub(super) const MESSAGE: &[&str] = &[
    "agent_not_in_session",
    "author_mismatch",
    "bridge_depth_exceeded",
    "budget_exhausted",
    "bus_header_malformed",
    "idempotency_key_reused",
    "invalid_idempotency_key",
    "invalid_utf8",
    "overloaded",
    "quota_exceeded",
    "too_large",
];

pub(super) fn of(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        access: Access::Open,
        query: Vec::new(),
        headers: Vec::new(),
        bodies: Vec::new(),
        body_required: false,
        answers: Vec::new(),
        codes: Vec::new(),
    }
}

impl Operation {
    fn keyed(mut self, access: Access) -> Self {
        self.access = access;
        let named = self.path.contains('{');
        self.codes(&[
            "invalid_key",
            "insufficient_scope",
            "tenant_suspended",
            "internal",
        ])
        .codes(if named { &["invalid_name"] } else { &[] })
    }

    pub(super) fn scope(self, scope: &'static str) -> Self {
        self.keyed(Access::Scope(scope))
    }

    pub(super) fn token(self, scope: &'static str, right: &'static str) -> Self {
        self.keyed(Access::Token { scope, right })
    }

    fn operator(self) -> Self {
        self.keyed(Access::Operator)
    }

    pub(super) fn query(mut self, names: &[&'static str]) -> Self {
        self.query.extend(names);
        self.codes(&["invalid_query", "invalid_name"])
    }

    pub(super) fn headers(mut self, names: &[&'static str]) -> Self {
        self.headers.extend(names);
        self
    }

    /// A JSON body in which unknown fields are ignored.
    pub(super) fn takes_any(mut self, schema: &'static str) -> Self {
        self.bodies.push((JSON, schema));
        self.body_required = true;
        self.codes(BODY).codes(&["invalid_json", "invalid_name"])
    }

    pub(super) fn takes(mut self, schema: &'static str) -> Self {
        self.bodies.push((JSON, schema));
        self.body_required = true;
        self.codes(BODY).codes(OBJECT)
    }

    pub(super) fn may_take(self, schema: &'static str) -> Self {
        let mut operation = self.takes(schema);
        operation.body_required = false;
        operation
    }

    pub(super) fn or_takes(mut self, media: &'static str, schema: &'static str) -> Self {
        self.bodies.push((media, schema));
        self.body_required = true;
        self.codes(BODY)
    }

    pub(super) fn json(self, status: u16, schema: &'static str) -> Self {
        self.answer(status, JSON, schema)
    }

    pub(super) fn answer(mut self, status: u16, media: &'static str, schema: &'static str) -> Self {
        self.answers.push((status, media, schema));
        self
    }

    pub(super) fn empty(self, status: u16) -> Self {
        self.answer(status, "", "")
    }

    pub(super) fn codes(mut self, codes: &[&'static str]) -> Self {
        self.codes.extend(codes);
        self
    }
}

pub(super) fn all() -> Vec<Operation> {
    let groups = [
        agents(),
        invocations(),
        sessions(),
        in_sessions(),
        reading(),
        slots(),
        questions(),
        super::openai::openai(),
        super::notices::notices(),
        super::notices::webhooks(),
        super::streams::streams(),
        super::streams::subscriptions(),
        keys(),
        tenants(),
        rest(),
    ];
    groups.into_iter().flatten().collect()
}

fn agents() -> Vec<Operation> {
    vec![
        of("GET", "/v1/agents", "listAgents", "The agents, by name")
            .scope("read")
            .json(200, "Agents"),
        of("GET", "/v1/agents/{agent}", "showAgent", "An agent")
            .scope("read")
            .json(200, "Agent")
            .codes(&["agent_not_found"]),
        of(
            "PUT",
            "/v1/agents/{agent}",
            "deployAgent",
            "Deploy a component, or the definition of a conversation",
        )
        .scope("deploy")
        .takes("Conversation")
        .or_takes("application/wasm", "Bytes")
        .json(200, "Agent")
        .json(201, "Agent")
        .codes(WRITE)
        .codes(&[
            "unsupported_media_type",
            "not_a_component",
            "precompiled_refused",
            "world_mismatch",
            "import_not_granted",
            "invalid_conversation",
            "compile_limit",
            "overloaded",
        ]),
        of(
            "DELETE",
            "/v1/agents/{agent}",
            "deleteAgent",
            "Delete an agent; its sessions stay",
        )
        .scope("deploy")
        .empty(204)
        .codes(WRITE)
        .codes(&["agent_not_found"]),
        of(
            "GET",
            "/v1/agents/{agent}/config",
            "showConfig",
            "An agent's configuration, with all defaults",
        )
        .scope("read")
        .json(200, "Config")
        .codes(&["agent_not_found"]),
        of(
            "PUT",
            "/v1/agents/{agent}/config",
            "configureAgent",
            "Replace an agent's configuration",
        )
        .scope("deploy")
        .takes("Config")
        .json(200, "Agent")
        .json(201, "Agent")
        .codes(WRITE)
        .codes(&[
            "import_not_granted",
            "invalid_conversation",
            "compile_limit",
            "overloaded",
        ]),
        of(
            "GET",
            "/v1/agents/{agent}/versions",
            "listVersions",
            "The versions of an agent, newest first",
        )
        .scope("read")
        .json(200, "Versions")
        .codes(&["agent_not_found"]),
        of(
            "POST",
            "/v1/agents/{agent}/rollback",
            "rollBack",
            "Make an older version the newest",
        )
        .scope("deploy")
        .takes("RollBack")
        .json(200, "Agent")
        .json(201, "Agent")
        .codes(WRITE)
        .codes(&[
            "agent_not_found",
            "version_not_found",
            "import_not_granted",
            "invalid_conversation",
            "compile_limit",
            "overloaded",
        ]),
        of(
            "GET",
            "/v1/agents/{agent}/logs",
            "readLogs",
            "What an agent printed and logged",
        )
        .scope("inspect")
        .query(&["session", "live-logs"])
        .json(200, "Lines")
        .answer(200, STREAM, "Stream")
        .codes(&["agent_not_found", "overloaded"]),
        of(
            "GET",
            "/v1/components/{digest}",
            "showComponent",
            "A component, or the definition of a conversation",
        )
        .scope("inspect")
        .answer(200, "application/wasm", "Bytes")
        .json(200, "Conversation")
        .codes(&["component_not_found"]),
    ]
}

fn invocations() -> Vec<Operation> {
    vec![
        of(
            "POST",
            "/v1/agents/{agent}/invoke",
            "invoke",
            "One message, one turn, one answer",
        )
        .scope("invoke")
        .headers(&["idempotency-key", "prefer"])
        .takes("Invocation")
        .or_takes(TEXT, "Text")
        .json(200, "Answer")
        .answer(200, STREAM, "Stream")
        .json(202, "Operation")
        .codes(SESSION)
        .codes(MESSAGE)
        .codes(&[
            "agent_not_found",
            "agent_not_ready",
            "agent_suspended",
            "turn_failed",
            "turn_deadline",
            "turn_asks",
        ]),
        of(
            "GET",
            "/v1/operations/{id}",
            "showOperation",
            "What became of a message",
        )
        .token("read", "read")
        .query(&["session"])
        .json(200, "Operation")
        .codes(SESSION)
        .codes(&["operation_not_found"]),
        of(
            "POST",
            "/v1/operations/{id}/cancel",
            "cancelOperation",
            "Take a message back, or end its turn",
        )
        .token("invoke", "interrupt")
        .query(&["session"])
        .json(200, "Operation")
        .codes(SESSION)
        .codes(&["operation_not_found"]),
    ]
}

fn sessions() -> Vec<Operation> {
    vec![
        of("GET", "/v1/sessions", "listSessions", "The sessions, by id")
            .scope("read")
            .query(&["cursor", "limit"])
            .json(200, "Sessions"),
        of(
            "POST",
            "/v1/sessions",
            "openSession",
            "Open a session with an id of its own",
        )
        .scope("invoke")
        .headers(&["idempotency-key"])
        .takes("NewSession")
        .json(201, "Session")
        .codes(SESSION)
        .codes(&[
            "agent_not_found",
            "agent_not_in_session",
            "idempotency_key_reused",
            "invalid_idempotency_key",
            "overloaded",
            "quota_exceeded",
            "session_exists",
        ]),
        of("GET", "/v1/sessions/{id}", "showSession", "A session")
            .token("read", "read")
            .json(200, "Session")
            .codes(SESSION),
        of(
            "PUT",
            "/v1/sessions/{id}",
            "putSession",
            "Open a session of this id",
        )
        .scope("invoke")
        .takes("NewSession")
        .json(200, "Session")
        .json(201, "Session")
        .codes(SESSION)
        .codes(&[
            "agent_not_found",
            "agent_not_in_session",
            "overloaded",
            "quota_exceeded",
            "session_exists",
        ]),
        of(
            "DELETE",
            "/v1/sessions/{id}",
            "deleteSession",
            "End a session, and remove what it holds",
        )
        .scope("invoke")
        .empty(204)
        .codes(SESSION),
        of(
            "POST",
            "/v1/sessions/{id}/fork",
            "forkSession",
            "A new session that is the same up to a place",
        )
        .scope("invoke")
        .headers(&["idempotency-key"])
        .may_take("Fork")
        .json(201, "Session")
        .codes(SESSION)
        .codes(&[
            "idempotency_key_reused",
            "invalid_idempotency_key",
            "offset_ahead",
            "offset_malformed",
            "overloaded",
            "quota_exceeded",
            "session_exists",
        ]),
    ]
}

fn in_sessions() -> Vec<Operation> {
    vec![
        of(
            "POST",
            "/v1/sessions/{id}/agents/{agent}",
            "addAgent",
            "Have an agent take part",
        )
        .scope("invoke")
        .json(200, "Session")
        .json(201, "Session")
        .codes(SESSION)
        .codes(&["agent_not_found", "too_many_agents"]),
        of(
            "DELETE",
            "/v1/sessions/{id}/agents/{agent}",
            "removeAgent",
            "Have an agent leave",
        )
        .scope("invoke")
        .empty(204)
        .codes(SESSION)
        .codes(&["agent_not_in_session", "entry_agent"]),
        of(
            "POST",
            "/v1/sessions/{id}/agents/{agent}/resume",
            "resumeAgent",
            "Forgive an agent that failed too often",
        )
        .scope("invoke")
        .may_take("Resumption")
        .json(202, "Place")
        .codes(SESSION)
        .codes(&["agent_not_in_session", "author_mismatch", "not_suspended"]),
        of(
            "POST",
            "/v1/sessions/{id}/tokens",
            "mintToken",
            "A token for one author of the session",
        )
        .scope("invoke")
        .takes("NewToken")
        .json(201, "Token")
        .codes(SESSION),
        of(
            "DELETE",
            "/v1/sessions/{id}/tokens/{token}",
            "revokeToken",
            "Take a token back",
        )
        .scope("invoke")
        .empty(204)
        .codes(WRITE)
        .codes(&["token_not_found"]),
        of(
            "POST",
            "/v1/sessions/{id}/messages",
            "sendMessage",
            "Send a message, and do not wait",
        )
        .token("invoke", "send")
        .headers(&["idempotency-key"])
        .takes("Message")
        .or_takes(TEXT, "Text")
        .json(202, "Posted")
        .codes(SESSION)
        .codes(MESSAGE),
        of(
            "POST",
            "/v1/sessions/{id}/interrupt",
            "interrupt",
            "End a turn at its last shown chunk",
        )
        .token("invoke", "interrupt")
        .may_take("Interruption")
        .json(202, "Place")
        .codes(SESSION)
        .codes(&["agent_not_in_session", "author_mismatch", "idle"]),
    ]
}

fn reading() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/sessions/{id}/events",
            "readEvents",
            "What happened, from a place on",
        )
        .token("read", "read")
        .query(&["offset", "live"])
        .headers(&["last-event-id"])
        .json(200, "Events")
        .answer(200, STREAM, "Stream")
        .codes(SESSION)
        .codes(&[
            "invalid_live",
            "offset_ahead",
            "offset_malformed",
            "overloaded",
        ]),
        of(
            "GET",
            "/v1/sessions/{id}/socket",
            "openSocket",
            "The same over a WebSocket, which also takes messages and interruptions",
        )
        .token("read", "read")
        .query(&["offset"])
        .empty(101)
        .codes(SESSION)
        .codes(&[
            "offset_ahead",
            "offset_malformed",
            "overloaded",
            "upgrade_required",
        ]),
        of(
            "GET",
            "/v1/sessions/{id}/transcript",
            "readTranscript",
            "Who said what, page by page backwards",
        )
        .token("read", "read")
        .query(&["before", "limit"])
        .json(200, "Transcript")
        .codes(SESSION)
        .codes(&["offset_malformed"]),
        of(
            "GET",
            "/v1/sessions/{id}/journal",
            "readJournal",
            "Every entry, with its private part",
        )
        .scope("inspect")
        .query(&["offset", "kind"])
        .json(200, "Entries")
        .codes(SESSION)
        .codes(&["invalid_kind", "offset_ahead", "offset_malformed"]),
        of(
            "GET",
            "/v1/sessions/{id}/turns/{turn}",
            "showTurn",
            "What a turn ran with",
        )
        .scope("inspect")
        .json(200, "Turn")
        .codes(SESSION)
        .codes(&["turn_not_found"]),
        of(
            "GET",
            "/v1/sessions/{id}/values/{digest}",
            "showValue",
            "The bytes of a long document",
        )
        .scope("inspect")
        .answer(200, "application/octet-stream", "Bytes")
        .codes(SESSION)
        .codes(&["value_not_found"]),
    ]
}

fn slots() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/sessions/{id}/slots",
            "listSlots",
            "The documents, without contents",
        )
        .token("read", "read")
        .json(200, "Slots")
        .codes(SESSION),
        of(
            "GET",
            "/v1/sessions/{id}/slots/{name}",
            "showSlot",
            "A document",
        )
        .token("read", "read")
        .json(200, "Slot")
        .codes(SESSION)
        .codes(&["slot_not_found"]),
        of(
            "PUT",
            "/v1/sessions/{id}/slots/{name}",
            "putSlot",
            "Write a document",
        )
        .token("invoke", "send")
        .headers(&["if-match"])
        .takes("Document")
        .or_takes(TEXT, "Text")
        .json(200, "Written")
        .codes(SESSION)
        .codes(&[
            "author_mismatch",
            "invalid_utf8",
            "invalid_version",
            "overloaded",
            "quota_exceeded",
            "slot_locked",
            "version_mismatch",
            "version_required",
        ]),
    ]
}

fn questions() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/sessions/{id}/questions",
            "listQuestions",
            "What agents ask people, as far as it is open",
        )
        .token("read", "read")
        .json(200, "Questions")
        .codes(SESSION),
        of(
            "POST",
            "/v1/sessions/{id}/questions/{question}",
            "answerQuestion",
            "Answer a question: its turn goes on",
        )
        .token("invoke", "send")
        .headers(&["idempotency-key"])
        .takes("NewAnswer")
        .json(200, "Answered")
        .codes(SESSION)
        .codes(&[
            "author_mismatch",
            "idempotency_key_reused",
            "invalid_idempotency_key",
            "not_a_choice",
            "overloaded",
            "question_answered",
            "question_not_found",
            "quota_exceeded",
        ]),
    ]
}

fn keys() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/keys",
            "listKeys",
            "The tenant's keys, without their texts",
        )
        .scope("admin")
        .json(200, "Keys"),
        of("POST", "/v1/keys", "mintKey", "A further key")
            .scope("admin")
            .takes("NewKey")
            .json(201, "MintedKey")
            .codes(WRITE)
            .codes(&["too_many_keys"]),
        of("DELETE", "/v1/keys/{id}", "revokeKey", "Take a key back")
            .scope("admin")
            .empty(204)
            .codes(WRITE)
            .codes(&["key_not_found"]),
        of(
            "POST",
            "/v1/keys/{id}/rotate",
            "rotateKey",
            "A new key in place of one, which ends later",
        )
        .scope("admin")
        .may_take("Rotation")
        .json(201, "MintedKey")
        .codes(WRITE)
        .codes(&["key_not_found", "too_many_keys"]),
        of("GET", "/v1/secrets", "listSecrets", "The names of secrets")
            .scope("deploy")
            .json(200, "Secrets"),
        of(
            "PUT",
            "/v1/secrets/{name}",
            "putSecret",
            "A secret, for agents' requests",
        )
        .scope("deploy")
        .or_takes(TEXT, "Text")
        .json(200, "Secret")
        .json(201, "Secret")
        .codes(WRITE)
        .codes(&["invalid_secret", "too_many_secrets"]),
        of(
            "DELETE",
            "/v1/secrets/{name}",
            "deleteSecret",
            "Forget a secret",
        )
        .scope("deploy")
        .empty(204)
        .codes(WRITE)
        .codes(&["secret_not_found"]),
    ]
}

fn tenants() -> Vec<Operation> {
    vec![
        of("GET", "/v1/tenants", "listTenants", "All tenants")
            .operator()
            .json(200, "Tenants"),
        of(
            "POST",
            "/v1/tenants",
            "createTenant",
            "A tenant, and its first key",
        )
        .operator()
        .takes("NewTenant")
        .json(201, "Tenant")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_exists"]),
        of("GET", "/v1/tenants/{tenant}", "showTenant", "A tenant")
            .operator()
            .json(200, "Tenant")
            .codes(&["tenant_not_found"]),
        of(
            "DELETE",
            "/v1/tenants/{tenant}",
            "deleteTenant",
            "Remove a tenant with everything it has",
        )
        .operator()
        .json(202, "Tenant")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_not_found"]),
        of(
            "PUT",
            "/v1/tenants/{tenant}/quotas",
            "putQuotas",
            "What a tenant may use",
        )
        .operator()
        .takes("Quotas")
        .json(200, "Tenant")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_not_found"]),
        of(
            "POST",
            "/v1/tenants/{tenant}/suspend",
            "suspendTenant",
            "Let nobody of a tenant in",
        )
        .operator()
        .json(200, "Tenant")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_not_found"]),
        of(
            "POST",
            "/v1/tenants/{tenant}/resume",
            "resumeTenant",
            "Let a tenant in again",
        )
        .operator()
        .json(200, "Tenant")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_not_found"]),
        of(
            "POST",
            "/v1/tenants/{tenant}/keys",
            "mintTenantKey",
            "A key for a tenant that lost its own",
        )
        .operator()
        .takes("NewKey")
        .json(201, "MintedKey")
        .codes(WRITE)
        .codes(&["tenant_deleting", "tenant_not_found", "too_many_keys"]),
        of(
            "GET",
            "/v1/tenants/{tenant}/export",
            "exportTenant",
            "Everything stored of a tenant, as lines of JSON",
        )
        .operator()
        .answer(200, "application/x-ndjson", "Bytes")
        .codes(&["overloaded", "tenant_not_found"]),
    ]
}

fn rest() -> Vec<Operation> {
    vec![
        of(
            "GET",
            "/v1/usage",
            "readUsage",
            "What the tenant used, by days",
        )
        .scope("read")
        .query(&["from", "to", "session"])
        .json(200, "UsageReport"),
        of(
            "GET",
            "/v1/audit",
            "readAudit",
            "What administrators did, newest first",
        )
        .scope("admin")
        .query(&["before-request", "limit"])
        .json(200, "Audit"),
        of("GET", "/v1/openapi.json", "readOpenapi", "This document").json(200, "Any"),
        of("GET", "/console", "showConsole", "A page for people")
            .headers(&["if-none-match"])
            .answer(200, "text/html", "Text")
            .empty(304),
        of(
            "GET",
            "/console/{path}",
            "readConsoleFile",
            "A file that the page is made of",
        )
        .headers(&["if-none-match"])
        .answer(200, "text/javascript", "Text")
        .answer(200, "text/css", "Text")
        .answer(200, "image/svg+xml", "Text")
        .answer(200, "text/html", "Text")
        .empty(304)
        .json(404, "Error"),
        of("GET", "/metrics", "readMetrics", "Metrics for Prometheus")
            .answer(200, TEXT, "Text")
            .codes(&["internal"]),
        of("GET", "/healthz", "isAlive", "Whether the process answers").answer(200, TEXT, "Text"),
        of("GET", "/readyz", "isReady", "Whether the server takes work")
            .json(200, "Ready")
            .json(503, "Ready"),
    ]
}
