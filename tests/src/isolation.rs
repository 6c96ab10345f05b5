//! Tenants learn nothing of each other: whatever another one does with the same names at the same time, each answer is
//! what it would be if the tenant were alone.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value;

use crate::server::Server;
use crate::tenants::tenant;

/// What tenants do. `WORD` is a word of the tenant's own; `<echo>` is a component; `@k` makes it idempotent;
/// `~` asks for a stream of events. Nothing here
/// begins what the next step would race with.
const STEPS: [&str; 79] = [
    "PUT /v1/agents/echo <echo>",
    "PUT /v1/agents/echo <echo>",
    "PUT /v1/agents/puppet <puppet>",
    r#"PUT /v1/agents/echo/config {"environment": {"TONE": "WORD"}}"#,
    r#"PUT /v1/agents/late/config {"environment": {"TONE": "WORD"}}"#,
    r#"POST /v1/agents/echo/rollback {"version": 1}"#,
    "DELETE /v1/agents/puppet",
    "GET /v1/agents",
    "GET /v1/agents/echo",
    "GET /v1/agents/late/config",
    "GET /v1/agents/puppet/versions",
    "GET /v1/agents/echo/logs",
    "GET /v1/components/DIGEST",
    r#"PUT /v1/sessions/s {"agents": ["echo"]}"#,
    r#"PUT /v1/sessions/s {"agents": ["echo"]}"#,
    r#"PUT /v1/sessions/t {"agents": ["echo", "puppet"], "entry": "puppet"}"#,
    r#"POST /v1/sessions @k {"agents": ["echo"]}"#,
    "DELETE /v1/sessions/t",
    "GET /v1/sessions",
    "GET /v1/sessions/s",
    "GET /v1/sessions/t",
    r#"POST /v1/agents/echo/invoke {"session": "s", "body": "WORD"}"#,
    r#"POST /v1/agents/echo/invoke {"session": "s", "body": "WORD again"}"#,
    r#"POST /v1/agents/echo/invoke @k {"session": "s", "body": "WORD"}"#,
    r#"POST /v1/agents/echo/invoke @k {"session": "s", "body": "another WORD"}"#,
    r#"POST /v1/agents/echo/invoke @l {"body": "WORD"}"#,
    r#"POST /v1/agents/echo/invoke ~ {"session": "s", "body": "WORD aloud"}"#,
    "GET /v1/models",
    "GET /v1/models/late",
    r#"POST /v1/chat/completions @c {"model": "echo", "messages": [{"role": "user", "content": "WORD"}]}"#,
    r#"POST /v1/chat/completions @d {"model": "echo", "messages": [{"role": "user", "content": "WORD"}], "stream": true}"#,
    r#"POST /v1/responses @c {"model": "echo", "input": "WORD"}"#,
    r#"POST /v1/responses @d {"model": "echo", "input": "WORD", "previous_response_id": "resp_s:2"}"#,
    "GET /v1/responses/resp_s:2",
    "GET /v1/responses/resp_s:2?stream=true",
    "GET /v1/sessions/s/events",
    "GET /v1/sessions/t/events?offset=now",
    "GET /v1/sessions/s/events?offset=-1&live=long-poll",
    "GET /v1/sessions/s/transcript",
    "GET /v1/sessions/s/journal",
    "GET /v1/operations/s:2",
    "POST /v1/sessions/s/interrupt",
    "GET /v1/sessions/s/questions",
    r#"POST /v1/sessions/s/questions/2 @q {"text": "WORD"}"#,
    r#"PUT /v1/sessions/s/slots/x {"content": "WORD"}"#,
    "GET /v1/sessions/s/slots/x",
    "GET /v1/sessions/s/slots",
    r#"POST /v1/sessions/s/fork {"at": 1, "session": "f"}"#,
    "GET /v1/sessions/f/journal",
    r#"POST /v1/sessions/s/tokens {"author": "ana"}"#,
    r#"POST /v1/keys {"scopes": ["read"], "label": "WORD"}"#,
    "GET /v1/keys",
    "PUT /v1/secrets/example WORD-WORD",
    "GET /v1/secrets",
    "DELETE /v1/secrets/example",
    r#"PUT /v1/stream/a ["WORD"]"#,
    r#"PUT /v1/stream/a ["another WORD"]"#,
    r#"POST /v1/stream/a {"say": "WORD"}"#,
    "GET /v1/stream/a",
    "GET /v1/stream/a?offset=-1&live=long-poll",
    "DELETE /v1/stream/a",
    r#"PUT /v1/stream/__ds/subscriptions/s {"type": "pull-wake", "pattern": "WORD/*", "wake_stream": "a"}"#,
    r#"PUT /v1/stream/__ds/subscriptions/s {"type": "pull-wake", "streams": ["WORD"], "wake_stream": "a"}"#,
    "GET /v1/stream/__ds/subscriptions/s",
    "DELETE /v1/stream/__ds/subscriptions/s",
    "GET /v1/stream/sessions/s",
    "GET /v1/stream/sessions/t?offset=now",
    "GET /v1/sessions/s/socket",
    "GET /v1/notices?kind=session-opened,session-changed",
    "GET /v1/notices?session=s&kind=turn-ended",
    r#"PUT /v1/webhooks/w {"url": "https://WORD.example", "sessions": ["none"]}"#,
    "GET /v1/webhooks",
    "GET /v1/webhooks/w",
    "GET /v1/webhooks/w/dead-letters",
    "POST /v1/webhooks/w/rotate",
    "DELETE /v1/webhooks/w",
    "GET /v1/usage",
    "GET /v1/tenants/OWN",
    "GET /v1/tenants/OTHER",
];

/// One of two, and the other.
struct Tenant<'a> {
    key: &'a str,
    name: &'static str,
    other: &'static str,
    word: &'static str,
}

async fn perform(server: &Server, of: &Tenant<'_>, step: &str) -> String {
    let digest = antiphon::id::Digest::of(crate::guests::component("puppet"));
    let step = step
        .replace("WORD", of.word)
        .replace("OWN", of.name)
        .replace("OTHER", of.other)
        .replace("DIGEST", &digest.to_string());
    let mut parts = step.splitn(3, ' ');
    let line = [parts.next(), parts.next()].map(Option::unwrap_or_default);
    let mut call = server.call(&line.join(" ")).key(of.key);
    let mut body = parts.next().unwrap_or_default();
    if let Some((key, rest)) = body.strip_prefix('@').and_then(|it| it.split_once(' ')) {
        call = call.idempotency(key);
        body = rest;
    }
    if let Some(rest) = body.strip_prefix("~ ") {
        call = call.header("accept", "text/event-stream");
        body = rest;
    }
    let guest = body.strip_prefix('<').and_then(|it| it.strip_suffix('>'));
    let answer = match (guest, line[1].contains("/secrets/")) {
        (Some(guest), _) => {
            let component = crate::guests::component(guest);
            let call = call.header("content-type", "application/wasm");
            call.body(component).await
        }
        (None, true) if !body.is_empty() => call.text(body).await,
        (None, _) if line[1].contains("/stream/") => {
            let call = call.header("content-type", "application/json");
            call.body(body.to_owned()).await
        }
        (None, _) => call.body(body.to_owned()).await,
    };
    let text = match serde_json::from_slice::<Value>(&answer.body) {
        Ok(mut json) => {
            if ["/notices", "/webhooks"]
                .iter()
                .any(|it| line[1].contains(it))
            {
                forget_offsets(&mut json);
            }
            settle(&mut json);
            json.to_string()
        }
        Err(_) if answer.header("content-type") == Some("text/event-stream") => {
            let text = String::from_utf8_lossy(&answer.body);
            text.lines().map(event_line).collect()
        }
        Err(_) => format!("{} bytes", answer.body.len()),
    };
    let replayed = answer.is_replayed();
    format!("{step} -> {} {replayed} {text}", answer.status)
}

/// A line of a stream of events, its data settled.
fn event_line(line: &str) -> String {
    let data = line.strip_prefix("data:").map(str::trim_start);
    let json = data.and_then(|data| serde_json::from_str(data).ok());
    json.map_or_else(
        || settled(line) + "\n",
        |mut json: Value| {
            settle(&mut json);
            format!("data: {json}\n")
        },
    )
}

/// Which entries meet in one commit, and so how notices count, is not the same in every run.
fn forget_offsets(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.remove("offset");
            fields.values_mut().for_each(forget_offsets);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_offsets),
        _ => {}
    }
}

/// Make what is random or a time the same in every run.
fn settle(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            // What was deleted is removed, and snapshots are written, some time later.
            fields.remove("holds");
            // Seconds, as OpenAI has them.
            fields.remove("created");
            if fields.get("created_at").is_some_and(Value::is_number) {
                fields.remove("created_at");
            }
            fields.remove("secret");
            fields.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::String(text) => {
            let is_time = text.ends_with('Z') && text.contains('T') && text.starts_with("20");
            *text = match is_time {
                true => "TIME".to_owned(),
                false => settled(text),
            };
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Long runs of digits and letters up to `f` are random, but for offsets.
fn settled(text: &str) -> String {
    let is_word = |char: char| char.is_ascii_alphanumeric();
    let mut settled = String::new();
    for piece in text.split_inclusive(|char| !is_word(char)) {
        let word = piece.trim_end_matches(|char| !is_word(char));
        let is_hex = word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_random = is_hex && !word.starts_with("00000000");
        settled.push_str(if is_random { "RANDOM" } else { word });
        settled.push_str(&piece[word.len()..]);
    }
    settled
}

async fn run(server: &Server, of: &Tenant<'_>, steps: &[usize]) -> Vec<String> {
    let mut answers = Vec::new();
    for step in steps {
        answers.push(perform(server, of, STEPS[*step]).await);
    }
    answers
}

async fn check(ours: &[usize], theirs: &[usize]) -> Result<(), TestCaseError> {
    let ana = |key| Tenant {
        key,
        name: "ana",
        other: "bo",
        word: "aubergine",
    };
    let alone = Server::start().await;
    let key = tenant(&alone, "ana").await;
    let expected = run(&alone, &ana(&key), ours).await;
    alone.stop().await;

    let shared = Server::start().await;
    let (key, other) = (tenant(&shared, "ana").await, tenant(&shared, "bo").await);
    let bo = Tenant {
        key: &other,
        name: "bo",
        other: "ana",
        word: "blueberry",
    };
    let (ana, other) = (ana(&key), run(&shared, &bo, theirs));
    let (answers, others) = tokio::join!(run(&shared, &ana, ours), other);
    shared.stop().await;
    for (answer, expected) in answers.iter().zip(&expected) {
        prop_assert_eq!(answer, expected);
        prop_assert!(!answer.contains("blueberry"));
        prop_assert!(!answer.contains(" 500 "), "{}", answer);
    }
    for answer in others {
        prop_assert!(!answer.contains("aubergine"), "{}", answer);
    }
    Ok(())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Everything once, by both at once.
#[test]
fn two_tenants_do_everything() {
    let all: Vec<usize> = (0..STEPS.len()).collect();
    let mut more = all.clone();
    more.extend(&all);
    runtime()
        .block_on(check(&more, &more))
        .expect("the answers are the same");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn what_one_tenant_does_is_in_no_answer_to_another(
        ours in prop::collection::vec(0..STEPS.len(), 20..60),
        theirs in prop::collection::vec(0..STEPS.len(), 20..60),
    ) {
        runtime().block_on(check(&ours, &theirs))?;
    }
}
