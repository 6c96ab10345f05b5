//! Requests that nobody would make: any bytes in any place of any route.
//!
//! Whatever comes is answered as the document says, never with 500, and the server goes on. More cases with
//! `PROPTEST_CASES=10000`; what once failed is in `testdata/requests.txt` and is sent each time.

use std::sync::OnceLock;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::client::Answer;
use crate::described;
use crate::guests::component;
use crate::logged;
use crate::server::Server;

/// One server for all cases: what a case leaves behind, the next one meets.
struct Target {
    runtime: Runtime,
    server: Server,
}

fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let runtime = Runtime::new().expect("a runtime");
        let server = runtime.block_on(async {
            let server = Server::with(|config| {
                config.limits.component_bytes_max = 4 * 1024 * 1024;
                config.limits.turn_ms_max = 5_000;
            })
            .await;
            server.deploy("echo").await;
            server.deploy("puppet").await;
            server.session("s", &["echo", "puppet"]).await;
            server.reply("echo", "s", json!("hello")).await;
            server
        });
        Target { runtime, server }
    })
}

#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// Send it; the client holds the answer to the document.
fn answer(request: &Request) -> Answer {
    let Target { runtime, server } = target();
    let mut call = server.call(&request.line).body(request.body.clone());
    for (name, value) in &request.headers {
        call = call.header(name, value);
    }
    let answer = runtime.block_on(async { call.await });
    assert_ne!(answer.status, 500, "{request:?}: {}", answer.text());
    logged::check();
    answer
}

/// What requests have in their places, right and nearly right.
const PARTS: [&str; 22] = [
    "s",
    "t",
    "echo",
    "puppet",
    "none",
    "s:4",
    "s:1",
    "s:99999999999999999999",
    "plan",
    "-1",
    "now",
    "0000000000000003_0000000000000000",
    "0000000000000099_0000000000000000",
    "0000000000000003_0000000000000001",
    "0",
    "9223372036854775807",
    "18446744073709551616",
    "message-received",
    "run_0193.t0.echo",
    "2026-01-01",
    "deploy",
    "0000000000000000000000000000000000000000000000000000000000000000",
];

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(&PARTS[..]).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[ -~]{1,140}",
    ]
}

/// In a path or a query.
fn escaped(text: &str) -> String {
    // Clients take these for folders, however they are written, and ask for another path.
    if matches!(text, "." | "..") {
        return "dots".to_owned();
    }
    percent_encode(text.as_bytes(), NON_ALPHANUMERIC).to_string()
}

/// A header's value.
fn visible() -> impl Strategy<Value = String> {
    part().prop_map(|text| {
        text.chars()
            .filter(|char| (' '..='~').contains(char))
            .collect()
    })
}

const FIELDS: [&str; 26] = [
    "body",
    "session",
    "author",
    "agents",
    "entry",
    "expires_after",
    "to",
    "at",
    "agent",
    "content",
    "scopes",
    "expires_in",
    "label",
    "overlap",
    "version",
    "grants",
    "http",
    "limits",
    "batching",
    "watches",
    "model",
    "policy",
    "card",
    "participants",
    "tenant",
    "x",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        part().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let field = prop_oneof![select(&FIELDS[..]).prop_map(str::to_owned), any::<String>()];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((field, inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// What a request of this kind carries when it is right, with a field that is not.
fn nearly(right: Value) -> impl Strategy<Value = Value> {
    (Just(right), select(&FIELDS[..]), any_json(), any::<bool>()).prop_map(
        |(mut right, field, value, changes)| {
            if changes {
                right[field] = value;
            }
            right
        },
    )
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |value: Value| value.to_string().into_bytes();
    let rights = select(vec![
        json!({"body": "x"}),
        json!({"agents": ["echo"]}),
        json!({"content": "x"}),
        json!({"author": "ana"}),
        json!({"scopes": ["read"]}),
        json!({"version": 1}),
        json!({"at": 3}),
        json!({}),
    ]);
    prop_oneof![
        1 => vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
        3 => any_json().prop_map(bytes),
        4 => rights.prop_flat_map(nearly).prop_map(bytes),
    ]
}

const HEADERS: [&str; 14] = [
    "idempotency-key",
    "if-match",
    "last-event-id",
    "prefer",
    "content-type",
    "x-tangle-forwarded-authorization",
    "x-tangle-forwarded-depth",
    "x-tangle-runid",
    "x-tangle-turnid",
    "x-tangle-parent-turnid",
    "x-tangle-speaker",
    "x-tangle-protocol-version",
    "x-antiphon-timeout-ms",
    "origin",
];

fn headers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let value = prop_oneof![
        3 => visible(),
        1 => Just("application/json".to_owned()),
        1 => Just("text/plain".to_owned()),
        1 => Just("application/wasm".to_owned()),
    ];
    vec((select(&HEADERS[..]), value), 0..4)
}

/// Routes that a case may ask: the agents stay, for the cases to come.
fn routes() -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for (path, operations) in described::document()["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let route = (method.to_uppercase(), path.clone());
            if route != ("DELETE".to_owned(), "/v1/agents/{agent}".to_owned()) {
                routes.push(route);
            }
        }
    }
    routes
}

const QUERIES: [&str; 9] = [
    "offset",
    "before",
    "limit",
    "cursor",
    "session",
    "kind",
    "from",
    "to",
    "access_token",
];

fn request() -> impl Strategy<Value = Request> {
    let query = vec((select(&QUERIES[..]), part()), 0..3);
    (select(routes()), vec(part(), 3), query, headers(), body()).prop_map(
        |((method, path), parts, query, headers, body)| {
            let mut parts = parts.iter();
            let fill = |part: &str| match part.starts_with('{') {
                true => escaped(parts.next().map_or("", String::as_str)),
                false => part.to_owned(),
            };
            let path: Vec<String> = path.split('/').map(fill).collect();
            let query: Vec<String> = query
                .iter()
                .map(|(name, value)| format!("{name}={}", escaped(value)))
                .collect();
            let line = format!("{method} {}?{}", path.join("/"), query.join("&"));
            Request {
                line,
                headers,
                body,
            }
        },
    )
}

/// A component with some of its bytes changed, cut off, or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    (any::<bool>(), vec(change, 1..6)).prop_map(|(small, changes)| {
        let mut bytes = match small {
            true => wat::parse_str("(component (core module) (type (func)))").expect("it is one"),
            false => component("echo").to_vec(),
        };
        for (at, byte, kind) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

fn upload(bytes: Vec<u8>) -> Request {
    Request {
        line: "PUT /v1/agents/mutant".to_owned(),
        headers: vec![("content-type", "application/wasm".to_owned())],
        body: bytes,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_answered_as_the_document_says(request in request()) {
        answer(&request);
    }
}

proptest! {
    // Each may be compiled whole.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 8,
        max_shrink_iters: 50,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_component_is_taken_or_refused(bytes in mutated()) {
        let answer = answer(&upload(bytes));
        prop_assert!(matches!(answer.status, 200 | 201 | 422), "{}", answer.status);
    }
}

/// Requests that once went wrong, or nearly: `METHOD /path`, then headers, then a blank line and the body; `%%` between
/// two of them.
#[test]
fn what_once_went_wrong_does_not() {
    let corpus = include_str!("../testdata/requests.txt");
    for text in corpus.split("\n%%\n") {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines().filter(|line| !line.starts_with('#'));
        let line = lines.next().expect("METHOD /path").to_owned();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let known = |name: &str| HEADERS.iter().copied().find(|it| *it == name);
        let headers =
            headers.map(|(name, value)| (known(name).expect("a header"), value.to_owned()));
        answer(&Request {
            line,
            headers: headers.collect(),
            body: body.as_bytes().to_vec(),
        });
    }
}
