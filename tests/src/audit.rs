//! What administrators did, as it is kept.

use serde_json::{Value, json};

use crate::guests::component;
use crate::server::Server;
use crate::tenants::operator;

/// `ACTION TARGET STATUS [CODE]`, newest first.
fn told(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().expect("entries");
    let line = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let line = format!(
            "{} {} {} {}",
            text("action"),
            text("target"),
            entry["status"],
            text("code")
        );
        line.trim().to_owned()
    };
    entries.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deeds_are_written_down_with_who_and_what() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let config = json!({"card": {"description": "x"}});
    server.configure("echo", config).await.is(201);
    let back = server.call("POST /v1/agents/echo/rollback");
    back.json(json!({"version": 9}))
        .await
        .refused(404, "version_not_found");
    server.session("s", &["echo"]).await;
    let token = server.call("POST /v1/sessions/s/tokens");
    let token = token.json(json!({"author": "ana"})).await.is(201);
    let id = token["id"].as_str().expect("an id").to_owned();
    let revoke = server.call(&format!("DELETE /v1/sessions/s/tokens/{id}"));
    assert_eq!(revoke.await.status, 204);
    let secret = server
        .call("PUT /v1/secrets/example")
        .text("sk-very-secret");
    secret.await.is(201);
    server.call("DELETE /v1/secrets/example").await;
    let minted = server.call("POST /v1/keys");
    let minted = minted.json(json!({"scopes": ["read"]})).await.is(201);
    let key = minted["id"].as_str().expect("an id").to_owned();
    let reader = minted["key"].as_str().expect("a key").to_owned();
    // Who may not do it writes nothing down, and neither does who only reads.
    let denied = server.call("DELETE /v1/agents/echo").key(&reader).await;
    denied.refused(403, "insufficient_scope");
    server.call("GET /v1/agents").key(&reader).await.is(200);
    let gone = server.call(&format!("DELETE /v1/keys/{key}")).await;
    assert_eq!(gone.status, 204);
    server.call("DELETE /v1/sessions/s").await;
    let last = server.call("DELETE /v1/agents/echo").await;

    let page = server.get("/v1/audit").await;
    let expected = [
        "agent-deleted agents/echo 204".to_owned(),
        "session-deleted sessions/s 204".to_owned(),
        format!("key-revoked keys/{key} 204"),
        format!("key-minted keys/{key} 201"),
        "secret-deleted secrets/example 204".to_owned(),
        "secret-put secrets/example 201".to_owned(),
        format!("token-revoked sessions/s/tokens/{id} 204"),
        format!("token-minted sessions/s/tokens/{id} 201"),
        "agent-rolled-back agents/echo/rollback 404 version_not_found".to_owned(),
        "agent-configured agents/echo/config 201".to_owned(),
        "agent-deployed agents/echo 201".to_owned(),
    ];
    assert_eq!(told(&page), expected);
    assert_eq!(page["before"], Value::Null);
    let newest = &page["entries"][0];
    assert_eq!(newest["request"].as_str(), last.header("x-request-id"));
    assert_eq!(newest["by"]["key"].as_str().map(str::len), Some(16));
    let whole = page.to_string();
    assert!(
        !whole.contains(&server.key) && !whole.contains("sk-very-secret"),
        "{whole}"
    );

    // A restart forgets nothing, and pages go back to the first.
    let server = server.restart().await;
    let (mut all, mut before) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/audit?limit=4{before}")).await;
        all.extend(told(&page));
        match page["before"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    assert_eq!(all, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_administrators_read_it_and_the_oldest_go() {
    let server = Server::with(|config| config.limits.audit_entries_max = 3).await;
    for n in 0..5 {
        let put = server.call(&format!("PUT /v1/secrets/s{n}"));
        put.text("sk-very-secret").await.is(201);
    }
    let page = server.get("/v1/audit").await;
    assert_eq!(
        told(&page),
        [
            "secret-put secrets/s4 201",
            "secret-put secrets/s3 201",
            "secret-put secrets/s2 201"
        ]
    );
    let other = server
        .call("POST /v1/keys")
        .json(json!({"scopes": ["read", "inspect"]}));
    let other = other.await.is(201);
    let other = other["key"].as_str().expect("a key");
    let denied = server.call("GET /v1/audit").key(other).await;
    denied.refused(403, "insufficient_scope");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_and_the_operator_the_hosts() {
    let server = Server::start().await;
    let operator = operator(&server);
    let operate = |line: &str, body: Value| server.call(line).key(&operator).json(body);
    let made = operate("POST /v1/tenants", json!({"tenant": "acme"}))
        .await
        .is(201);
    let key = made["key"]["key"].as_str().expect("a key").to_owned();
    operate("PUT /v1/tenants/acme/quotas", json!({"turns_max": 3}))
        .await
        .is(200);
    let upload = server.call("PUT /v1/agents/echo").key(&key);
    let upload = upload.header("content-type", "application/wasm");
    upload.body(component("echo").to_vec()).await.is(201);

    let own = server.call("GET /v1/audit").key(&key).await.is(200);
    assert_eq!(
        told(&own),
        [
            "agent-deployed agents/echo 201",
            "quotas-set tenants/acme/quotas 200",
            "tenant-created tenants/acme 201",
        ]
    );
    assert!(own["entries"][1]["by"]["operator"].is_string(), "{own}");
    let default = server.get("/v1/audit").await;
    assert_eq!(told(&default), [""; 0], "another tenant's");
    operate("DELETE /v1/tenants/acme", json!({})).await.is(202);
    let host = server.call("GET /v1/audit").key(&operator).await.is(200);
    assert_eq!(
        told(&host),
        [
            "tenant-deleted tenants/acme 202",
            "quotas-set tenants/acme/quotas 200",
            "tenant-created tenants/acme 201",
        ]
    );
    server.stop().await;
}
