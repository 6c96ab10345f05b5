//! The agent bus from outside: what comes in, what goes out, and what does not.

use antiphon::model::scripted::{Provider, Received, Reply};
use serde_json::{Value, json};

use crate::client::Call;
use crate::server::Server;

const AUTHORIZATION: &str = "x-tangle-forwarded-authorization";
const DEPTH: &str = "x-tangle-forwarded-depth";
const RUN: &str = "x-tangle-runid";
const TURN: &str = "x-tangle-turnid";
const PARENT: &str = "x-tangle-parent-turnid";
const SPEAKER: &str = "x-tangle-speaker";
const TIMEOUT: &str = "x-antiphon-timeout-ms";

/// The headers of the bus among those of a request.
fn forwarded(request: &Received) -> Vec<(String, String)> {
    let ours = |name: &str| name.starts_with("x-tangle-") || name.starts_with("x-antiphon-");
    let headers = request.headers.iter();
    let mut found: Vec<(String, String)> = headers
        .filter(|(name, _)| ours(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    found.sort();
    found
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(header, _)| header == name);
    found.map(|(_, value)| value.as_str())
}

/// A server with the guest `caller`, which may call others, and a provider.
async fn started(replies: impl IntoIterator<Item = Reply>) -> (Provider, Server) {
    let provider = Provider::start(replies).await;
    let server = Server::asking(&provider).await;
    deploy_caller(&server).await;
    (provider, server)
}

pub(crate) async fn deploy_caller(server: &Server) {
    let config = json!({"grants": ["mailbox", "reply", "model", "turn", "agents"]});
    server.configure("caller", config).await.is(201);
    server
        .deploy_as("caller", crate::guests::component("caller"))
        .await;
}

fn invoke(server: &Server, body: Value) -> Call {
    server
        .call("POST /v1/agents/caller/invoke")
        .json(json!({"body": body}))
}

/// A key with these scopes.
async fn key(server: &Server, scopes: &[&str]) -> String {
    let minted = server.call("POST /v1/keys").json(json!({"scopes": scopes}));
    let minted = minted.await.is(201);
    minted["key"].as_str().expect("a key").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_headers_go_out_with_every_call() {
    let (provider, server) = started([Reply::text("yes"), Reply::text("no")]).await;
    let trusted = key(&server, &["invoke", "inter-agent"]).await;
    let answer = invoke(&server, json!([{"model": "q"}]))
        .key(&trusted)
        .header(AUTHORIZATION, "Bearer sk-tan-ana")
        .header(DEPTH, "2")
        .header(RUN, "conv_1")
        .header("x-tangle-turnid", "conv_1.t4.gpt-5_codex")
        .header("x-tangle-parent-turnid", "conv_1.t0.outer")
        .header("x-tangle-speaker", "Caller")
        .header(TIMEOUT, "60000")
        .await
        .is(200);
    assert_eq!(answer["run"], "conv_1");
    assert_eq!(answer["turn"], "conv_1.t0.caller");
    let sent = forwarded(&provider.requests()[0]);
    assert_eq!(value(&sent, AUTHORIZATION), Some("Bearer sk-tan-ana"));
    assert_eq!(value(&sent, DEPTH), Some("3"));
    assert_eq!(value(&sent, RUN), Some("conv_1"));
    assert_eq!(value(&sent, TURN), Some("conv_1.t0.caller"));
    assert_eq!(value(&sent, PARENT), Some("conv_1.t4.gpt-5_codex"));
    assert_eq!(value(&sent, SPEAKER), Some("caller"));
    let left: u64 = value(&sent, TIMEOUT)
        .expect("what is left")
        .parse()
        .expect("ms");
    assert!((1..=60_000).contains(&left), "{left}");
    assert!(sent.iter().all(|(_, value)| !value.is_empty()), "{sent:?}");

    // Whoever says nothing begins a run, and nothing is made up for it.
    let answer = invoke(&server, json!([{"model": "q"}])).await.is(200);
    let sent = forwarded(&provider.requests()[1]);
    let names: Vec<&str> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [DEPTH, RUN, SPEAKER, TURN]);
    assert_eq!(value(&sent, DEPTH), Some("1"));
    assert_eq!(value(&sent, RUN), answer["run"].as_str());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_too_deep_are_refused() {
    let server = Server::start().await;
    deploy_caller(&server).await;
    let at = |depth: &str| invoke(&server, json!("hello")).header(DEPTH, depth);
    for depth in ["", "0", "3"] {
        at(depth).await.is(200);
    }
    for (depth, observed) in [("4", 4), ("99", 99)] {
        let answer = at(depth).await;
        let body = answer.refused(429, "bridge_depth_exceeded");
        assert_eq!(
            (&body["observed"], &body["limit"]),
            (&json!(observed), &json!(4))
        );
        let message = body["error"]["message"].as_str().expect("words");
        assert!(
            message.contains(&observed.to_string()) && message.contains('4'),
            "{message}"
        );
        assert_eq!(
            answer.header("retry-after"),
            None,
            "it would be as deep again"
        );
    }
    for depth in ["banana", "-1", "1.5", "0x3", "1e0", "2, 99"] {
        at(depth).await.refused(400, "bus_header_malformed");
    }
    at("2")
        .header(RUN, "a/b")
        .await
        .refused(400, "bus_header_malformed");
    at("2")
        .header(TIMEOUT, "0")
        .await
        .refused(400, "bus_header_malformed");
    let later = at("2").header("x-tangle-protocol-version", "1").await;
    later.refused(400, "bus_header_malformed");
    // Messages to sessions too.
    server.session("s", &["caller"]).await;
    let message = server
        .call("POST /v1/sessions/s/messages")
        .json(json!({"body": "hello"}))
        .header(DEPTH, "4");
    message.await.refused(429, "bridge_depth_exceeded");
    server.stop().await;

    let server = Server::with(|config| config.limits.call_depth_max = 6).await;
    deploy_caller(&server).await;
    let at = |depth: &str| invoke(&server, json!("hello")).header(DEPTH, depth);
    at("5").await.is(200);
    at("6").await.refused(429, "bridge_depth_exceeded");
    server.stop().await;
}

/// Only a key that may forward is believed; nobody else's credential goes anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorization_is_forwarded_for_those_who_may() {
    let replies = [Reply::text("1"), Reply::text("2"), Reply::text("3")];
    let (provider, server) = started(replies).await;
    let plain = key(&server, &["invoke"]).await;
    let trusted = key(&server, &["invoke", "inter-agent"]).await;
    let ask = |key: &str| invoke(&server, json!([{"model": "q"}])).key(key);
    ask(&plain)
        .header(AUTHORIZATION, "Bearer sk-tan-eve")
        .await
        .is(200);
    ask(&trusted)
        .header(AUTHORIZATION, "Bearer  sk-tan-ana")
        .await
        .is(200);
    ask(&trusted).await.is(200);
    let sent: Vec<_> = provider.requests().iter().map(forwarded).collect();
    assert_eq!(value(&sent[0], AUTHORIZATION), None, "not from this key");
    assert_eq!(
        value(&sent[1], AUTHORIZATION),
        Some("Bearer  sk-tan-ana"),
        "verbatim"
    );
    assert_eq!(
        value(&sent[2], AUTHORIZATION),
        None,
        "absent in, absent out"
    );
    // It is in no journal, and once its turn is over, nowhere.
    let sessions = server.get("/v1/sessions").await;
    for session in sessions["sessions"].as_array().expect("a list") {
        let id = session["session"].as_str().expect("an id");
        for entry in server.journal(id).await {
            assert!(!entry.to_string().contains("sk-tan"), "{entry}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_answered_unchanged() {
    let (provider, server) = started([
        Reply::text("one"),
        Reply::text("two"),
        Reply::text("three"),
        Reply::text("four"),
    ])
    .await;
    let call = |parent: &str, turn: &str, question: &str| {
        invoke(&server, json!([{"model": question}]))
            .header(RUN, "conv_1")
            .header(PARENT, parent)
            .header(TURN, turn)
    };
    let (outer, critic) = ("conv_1.t0.outer", "conv_1.t0.critic");
    let first = call(outer, critic, "q").await;
    let again = call(outer, critic, "q").await;
    assert!(again.is_replayed() && !first.is_replayed());
    assert_eq!(first.body, again.body, "the same bytes");
    assert_eq!(provider.requests().len(), 1, "nobody was asked again");
    // The same ids under another turn, or with another body, are another call.
    assert!(!call("conv_1.t1.outer", critic, "q").await.is_replayed());
    assert!(!call(outer, critic, "another").await.is_replayed());
    // A key says more than the ids.
    let keyed = call(outer, critic, "q").idempotency("k1").await;
    assert!(!keyed.is_replayed());
    assert_eq!(provider.requests().len(), 4);
    server.stop().await;
}

/// What is about one hop stays there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_the_connection_do_not_travel_on() {
    let (provider, server) = started([Reply::text("yes")]).await;
    let call = invoke(&server, json!([{"model": "q"}]))
        .header("connection", "keep-alive, x-secret")
        .header("x-secret", "1")
        .header("te", "trailers")
        .header("cookie", "a=b");
    call.await.is(200);
    let sent = &provider.requests()[0].headers;
    let host = sent["host"].to_str().expect("text");
    assert!(
        provider.base_url().contains(host),
        "the provider's own: {host}"
    );
    for name in ["x-secret", "te", "cookie"] {
        assert!(!sent.contains_key(name), "{name}");
    }
    let mine = server.key.trim();
    let authorization = sent
        .get("authorization")
        .map(|value| value.to_str().expect("text"));
    assert!(!authorization.unwrap_or_default().contains(mine));
    server.stop().await;
}

/// A caller that waits no longer ends the turn; one that waits long enough does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_travels_with_the_call() {
    let (_provider, server) = started([Reply::text("in time")]).await;
    let wait = json!([{"say": "wait "}, {"sleep": 600_000}]);
    let answer = invoke(&server, wait).header(TIMEOUT, "3000").await;
    let body = answer.refused(504, "turn_deadline");
    assert_eq!(body["reply"], "wait ");
    let ask = invoke(&server, json!([{"model": "q"}]));
    let answer = ask.header(TIMEOUT, "60000").await.is(200);
    assert!(answer["reply"].as_str().expect("words").contains("in time"));
    let told = invoke(&server, json!(["who"])).header(TIMEOUT, "60000");
    let told = told.await.is(200);
    assert!(
        told["reply"]
            .as_str()
            .expect("words")
            .contains("\"deadline\":true"),
        "{told}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_do_what_their_scopes_say_until_they_are_revoked() {
    let server = Server::start().await;
    deploy_caller(&server).await;
    let minted = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["invoke"]}))
        .await
        .is(201);
    let (key, id) = (
        minted["key"].as_str().expect("a key"),
        minted["id"].as_str().expect("an id"),
    );
    invoke(&server, json!("hello")).key(key).await.is(200);
    let more = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["admin"]}));
    more.key(key).await.refused(403, "insufficient_scope");
    for scopes in [json!([]), json!(["send"]), json!(["everything"])] {
        let call = server.call("POST /v1/keys").json(json!({"scopes": scopes}));
        call.await.refused(400, "invalid_json");
    }
    server.call(&format!("DELETE /v1/keys/{id}")).await.is(204);
    server
        .call(&format!("DELETE /v1/keys/{id}"))
        .await
        .refused(404, "key_not_found");
    invoke(&server, json!("hello"))
        .key(key)
        .await
        .refused(401, "invalid_key");
    server.stop().await;
}
