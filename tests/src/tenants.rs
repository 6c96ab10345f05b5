//! Tenants from outside: made, kept apart, suspended, exported, deleted; their keys.

use std::fs;
use std::io::BufReader;

use antiphon::model::scripted::{Gate, Provider, Reply};
use antiphon::store::{self, SledOptions};
use serde_json::{Value, json};

use crate::bus::deploy_caller;
use crate::client::Call;
use crate::noise::noise;
use crate::server::Server;

pub(crate) fn operator(server: &Server) -> String {
    let file = server.data().join("operator.key");
    fs::read_to_string(file).expect("the operator's key is there")
}

/// A tenant, and a key that may do everything in it.
pub(crate) async fn tenant(server: &Server, name: &str) -> String {
    let new = json!({"tenant": name});
    let call = server.call("POST /v1/tenants").key(&operator(server));
    let made = call.json(new).await.is(201);
    made["key"]["key"].as_str().expect("a key").to_owned()
}

async fn operate(server: &Server, line: &str, body: Value) -> crate::client::Answer {
    server.call(line).key(&operator(server)).json(body).await
}

/// Deploy an agent for the holder of a key.
async fn deploy(server: &Server, key: &str, agent: &str) {
    let call = server.call(&format!("PUT /v1/agents/{agent}")).key(key);
    let upload = call.header("content-type", "application/wasm");
    let upload = upload.body(crate::guests::component(agent));
    upload.await.is(201);
}

async fn invoke(call: Call, session: &str, body: Value) -> Value {
    let body = json!({"session": session, "body": body});
    call.json(body).await.is(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_makes_tenants_and_enters_none() {
    let server = Server::start().await;
    let made = operate(&server, "POST /v1/tenants", json!({"tenant": "acme"})).await;
    let made = made.is(201);
    assert_eq!(
        (&made["tenant"], &made["standing"]),
        (&json!("acme"), &json!("active"))
    );
    let key = made["key"]["key"].as_str().expect("a key").to_owned();
    let again = operate(&server, "POST /v1/tenants", json!({"tenant": "acme"})).await;
    again.refused(409, "tenant_exists");
    let bad = operate(&server, "POST /v1/tenants", json!({"tenant": "Not A Name"})).await;
    bad.refused(400, "invalid_name");
    let odd = json!({"tenant": "b", "quotas": {"wishes_max": 3}});
    let odd = operate(&server, "POST /v1/tenants", odd).await;
    odd.refused(400, "unknown_field");
    let listed = server.call("GET /v1/tenants").key(&operator(&server)).await;
    let names: Vec<_> = listed.is(200)["tenants"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it["tenant"].clone())
        .collect();
    assert_eq!(names, [json!("acme"), json!("default")]);

    // The operator is in no tenant, and no administrator is the operator.
    for line in ["GET /v1/agents", "GET /v1/sessions", "GET /v1/keys"] {
        let refused = server.call(line).key(&operator(&server)).await;
        refused.refused(403, "insufficient_scope");
    }
    for line in [
        "GET /v1/tenants",
        "DELETE /v1/tenants/acme",
        "POST /v1/tenants/acme/suspend",
        "POST /v1/tenants/acme/resume",
    ] {
        server
            .call(line)
            .key(&key)
            .await
            .refused(403, "insufficient_scope");
    }
    // Of their own they may see what it is; others are not there.
    let own = server.call("GET /v1/tenants/acme").key(&key).await;
    assert_eq!(own.is(200)["standing"], "active");
    for line in ["GET /v1/tenants/default", "GET /v1/tenants/nobody"] {
        let other = server.call(line).key(&key).await;
        other.refused(404, "tenant_not_found");
    }
    // It is the same after a restart, and the files are written once.
    let before = operator(&server);
    let server = server.restart().await;
    assert_eq!(operator(&server), before);
    server.call("GET /v1/tenants/acme").key(&key).await.is(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_tenant_has_is_not_there_for_another() {
    let server = Server::start().await;
    let key = tenant(&server, "acme").await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    server.reply("echo", "s", json!("mine")).await;
    for line in [
        "GET /v1/agents/echo",
        "GET /v1/sessions/s",
        "GET /v1/sessions/s/events",
        "GET /v1/sessions/s/slots",
        "DELETE /v1/sessions/s",
    ] {
        let theirs = server.call(line).key(&key).await;
        assert_eq!(theirs.status, 404, "{line}: {}", theirs.text());
    }
    // The same names, their own things.
    deploy(&server, &key, "echo").await;
    let call = server.call("PUT /v1/sessions/s").key(&key);
    let new = json!({"agents": ["echo"], "entry": "echo"});
    call.json(new).await.is(201);
    let call = server.call("POST /v1/agents/echo/invoke").key(&key);
    assert_eq!(invoke(call, "s", json!("theirs")).await["reply"], "theirs");
    let said = server.get("/v1/sessions/s/transcript").await.to_string();
    assert!(said.contains("mine") && !said.contains("theirs"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_begins_nothing_and_loses_nothing() {
    let gate = Gate::new();
    let provider = Provider::start([Reply::stream().wait(&gate).say("late").finish("stop")]).await;
    let server = Server::asking(&provider).await;
    let key = tenant(&server, "acme").await;
    for agent in ["echo", "puppet"] {
        deploy(&server, &key, agent).await;
    }
    let new = json!({"agents": ["echo", "puppet"], "entry": "puppet"});
    let call = server.call("PUT /v1/sessions/s").key(&key);
    call.json(new).await.is(201);
    let call = server.call("GET /v1/sessions/s/events").key(&key);
    let mut events = call.events().await;
    let send = |body: Value| {
        let call = server.call("POST /v1/sessions/s/messages").key(&key);
        call.json(body)
    };
    let script = json!({"body": [{"relay": "q"}]});
    send(script).await.is(202);
    events.until(|event| event.kind == "turn-started").await;
    let stand = operate(&server, "POST /v1/tenants/acme/suspend", json!({})).await;
    assert_eq!(stand.is(200)["standing"], "suspended");
    // The stream ends, and nobody gets in.
    while events.next().await.is_some() {}
    let out = send(json!({"body": "x", "to": "echo"})).await;
    out.refused(403, "tenant_suspended");
    server.call("GET /v1/agents").await.is(200);
    // What ran goes on, and is there afterwards, also over a restart.
    gate.open();
    let server = server.restart().await;
    let call = server.call("GET /v1/agents").key(&key).await;
    call.refused(403, "tenant_suspended");
    operate(&server, "POST /v1/tenants/acme/resume", json!({}))
        .await
        .is(200);
    let call = server.call("GET /v1/sessions/s/events").key(&key);
    let all = call
        .events()
        .await
        .until(|it| it.kind == "turn-ended")
        .await;
    assert_eq!(crate::stream::said(&all), "late");
    let call = server.call("POST /v1/agents/echo/invoke").key(&key);
    assert_eq!(invoke(call, "s", json!("on")).await["reply"], "on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_expire_rotate_and_end_their_streams() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mint = |body: Value| server.call("POST /v1/keys").json(body);
    for wrong in [
        json!({"scopes": []}),
        json!({"scopes": ["send"]}),
        json!({"scopes": ["read"], "expires_in": 0}),
        json!({"scopes": ["read"], "label": "two\nlines"}),
    ] {
        mint(wrong).await.refused(400, "invalid_json");
    }
    let body = json!({"scopes": ["read"], "expires_in": 3600, "label": "the wall"});
    let old = mint(body).await.is(201);
    let text = |json: &Value, name: &str| json[name].as_str().expect("a text").to_owned();
    let (id, old) = (text(&old, "id"), text(&old, "key"));
    let listed = server.get("/v1/keys").await;
    let found = listed["keys"].as_array().expect("a list").iter();
    let found: Vec<_> = found.filter(|key| key["id"] == id.as_str()).collect();
    assert_eq!(found[0]["label"], "the wall");
    assert!(!listed.to_string().contains(&old), "texts are shown once");

    let call = server.call("GET /v1/sessions/s/events").key(&old);
    let mut events = call.events().await;
    events.next().await.expect("the session's first event");
    let rotate = |overlap: u64| {
        let call = server.call(&format!("POST /v1/keys/{id}/rotate"));
        call.json(json!({"overlap": overlap}))
    };
    let rotated = rotate(600).await.is(201);
    let new = text(&rotated, "key");
    assert_eq!(rotated["replaces"]["id"], id.as_str());
    for key in [&old, &new] {
        server.call("GET /v1/sessions/s").key(key).await.is(200);
    }
    server.reply("echo", "s", json!("still")).await;
    events.until(|event| event.kind == "turn-ended").await;
    // Cut short, it ends at once, and the stream with it.
    rotate(0).await.is(201);
    assert_eq!(events.next().await, None);
    let refused = server.call("GET /v1/sessions/s").key(&old).await;
    refused.refused(401, "invalid_key");
    rotate(0).await.refused(404, "key_not_found");

    let poll = "GET /v1/sessions/s/events?offset=now&live=long-poll";
    let call = server.call("GET /v1/sessions/s/events").key(&new);
    let mut events = call.events().await;
    events.until(|event| event.kind == "turn-ended").await;
    let polling = tokio::spawn(server.call(poll).key(&new).into_future());
    let revoke = format!("DELETE /v1/keys/{}", text(&rotated, "id"));
    assert_eq!(server.call(&revoke).await.status, 204);
    assert_eq!(events.next().await, None);
    let polled = polling.await.expect("it does not panic");
    polled.refused(401, "invalid_key");
    server.call(&revoke).await.refused(404, "key_not_found");
    server.stop().await;
}

/// With a turn that waits for a model, one that waits for the turn it called, a fork, tokens, secrets and mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_tenant_leaves_nothing() {
    let gate = Gate::new();
    let held = || Reply::stream().wait(&gate).say("never").finish("stop");
    let provider = Provider::start([held(), held()]).await;
    let server = Server::asking(&provider).await;
    let key = tenant(&server, "acme").await;
    let of = |line: &str| server.call(line).key(&key);
    for agent in ["echo", "puppet", "worker"] {
        deploy(&server, &key, agent).await;
    }
    let grants = ["mailbox", "reply", "model", "turn", "agents"];
    let config = of("PUT /v1/agents/caller/config").json(json!({"grants": grants}));
    config.await.is(201);
    deploy(&server, &key, "caller").await;
    // Shared with another tenant, and not.
    server.deploy("echo").await;
    deploy_caller(&server).await;
    server.session("s", &["echo"]).await;

    let new = json!({"agents": ["puppet", "caller", "echo"], "entry": "puppet"});
    of("PUT /v1/sessions/s").json(new).await.is(201);
    let call = of("POST /v1/agents/echo/invoke");
    invoke(call, "s", json!("x".repeat(100_000))).await;
    let fork = json!({"session": "fork"});
    of("POST /v1/sessions/s/fork").json(fork).await.is(201);
    let token = json!({"author": "ana"});
    of("POST /v1/sessions/s/tokens").json(token).await.is(201);
    let secret = of("PUT /v1/secrets/example").text("hunter22");
    assert!(secret.await.status < 300);
    let mut events = of("GET /v1/sessions/s/events").events().await;
    for (to, body) in [
        ("puppet", json!([{"relay": "q"}])),
        ("caller", json!([{"call": ["puppet", [{"relay": "q"}]]}])),
        ("puppet", json!("waits")),
    ] {
        let message = json!({"to": to, "body": body});
        of("POST /v1/sessions/s/messages")
            .json(message)
            .await
            .is(202);
    }
    provider.received(2).await;

    let deleted = operate(&server, "DELETE /v1/tenants/acme", json!({})).await;
    assert_eq!(deleted.is(202)["standing"], "deleting");
    while events.next().await.is_some() {}
    of("GET /v1/agents").await.refused(401, "invalid_key");
    let again = operate(&server, "POST /v1/tenants", json!({"tenant": "acme"})).await;
    again.refused(409, "tenant_deleting");
    // Whoever is not in it notices nothing.
    assert_eq!(server.reply("echo", "s", json!("here")).await, "here");
    let shown = async || {
        let call = server.call("GET /v1/tenants/acme").key(&operator(&server));
        call.await.status
    };
    while shown().await != 404 {
        tokio::task::yield_now().await;
    }
    let digest = |agent: &str| antiphon::id::Digest::of(crate::guests::component(agent));
    let components = server.data().join("components");
    let is_there = |agent: &str| components.join(format!("{}.wasm", digest(agent))).exists();
    assert_eq!(
        ["echo", "caller", "puppet", "worker"].map(is_there),
        [true, true, false, false]
    );
    // Its name is free, and whoever has it now has nothing of the other.
    let key = tenant(&server, "acme").await;
    let sessions = server.call("GET /v1/sessions").key(&key).await.is(200);
    assert_eq!(sessions["sessions"], json!([]));
    operate(&server, "DELETE /v1/tenants/acme", json!({}))
        .await
        .is(202);
    while shown().await != 404 {
        tokio::task::yield_now().await;
    }
    let path = server.data().join("store");
    server
        .stop_and(|| {
            let store = store::open_sled(&path, SledOptions::default()).expect("it opens");
            let tenants = store.tenants().expect("it reads");
            let names: Vec<_> = tenants.iter().map(|it| it.as_str()).collect();
            assert_eq!(names, ["default"]);
            store.close();
        })
        .await;
}

/// A host that stops in the middle of it goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_finished_by_the_next_process() {
    let server = Server::start().await;
    let key = tenant(&server, "acme").await;
    deploy(&server, &key, "echo").await;
    let call = server.call("POST /v1/agents/echo/invoke").key(&key);
    call.json(json!({"body": "x"})).await.is(200);
    operate(&server, "DELETE /v1/tenants/acme", json!({}))
        .await
        .is(202);
    let server = server.restart().await;
    let listed = async || {
        let call = server.call("GET /v1/tenants").key(&operator(&server));
        call.await.is(200)["tenants"]
            .as_array()
            .expect("a list")
            .len()
    };
    while listed().await != 1 {
        tokio::task::yield_now().await;
    }
    let digest = antiphon::id::Digest::of(crate::guests::component("echo"));
    let file = server
        .data()
        .join("components")
        .join(format!("{digest}.wasm"));
    assert!(!file.exists());
    server.stop().await;
}

/// Nothing is removed that nobody asked to be: what has no tenant is kept, and shown to the operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_of_nobody_is_kept() {
    let server = Server::start().await;
    let server = server
        .restart_after(|data| {
            let path = data.join("store");
            let store = store::open_sled(&path, SledOptions::default()).expect("it opens");
            let (sender, written) = std::sync::mpsc::sync_channel(1);
            let key = store::RecordKey {
                tenant: Some(antiphon::id::TenantId::new("ghost").expect("a name")),
                space: store::RecordSpace::Tombstone,
                name: "s".into(),
            };
            let bytes = vec![0; 8].into();
            let commit = store::Commit {
                writes: vec![store::Write::Record { key, bytes }],
                done: Box::new(move |end| sender.send(end).expect("it is waited for")),
            };
            store.commit(commit).expect("it is queued");
            written.recv().expect("it ends").expect("it is durable");
            store.close();
        })
        .await;
    let shown = server.call("GET /v1/tenants/ghost").key(&operator(&server));
    assert_eq!(shown.await.is(200)["standing"], "suspended");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_exported_while_the_server_runs() {
    let server = Server::start().await;
    let key = tenant(&server, "acme").await;
    deploy(&server, &key, "echo").await;
    let new = json!({"agents": ["echo"], "entry": "echo"});
    let call = server.call("PUT /v1/sessions/s").key(&key);
    call.json(new).await.is(201);
    let call = server.call("POST /v1/agents/echo/invoke").key(&key);
    let long = "long ".repeat(30_000);
    invoke(call, "s", json!(long)).await;
    let secret = server.call("PUT /v1/secrets/example").key(&key);
    assert!(secret.text("hunter22").await.status < 300);
    server.deploy("echo").await;
    server.session("elsewhere", &["echo"]).await;

    for (key, status) in [(&key, 200), (&operator(&server), 200), (&server.key, 404)] {
        let call = server.call("GET /v1/tenants/acme/export").key(key);
        assert_eq!(call.await.status, status);
    }
    let call = server.call("GET /v1/tenants/acme/export").key(&key);
    let export = call.await;
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    let text = export.text().to_owned();
    assert!(text.contains(&long), "long values are in it");
    for theirs in [
        "elsewhere",
        "\"default\"",
        "\"space\":\"secret\"",
        "hunter22",
    ] {
        assert!(!text.contains(theirs), "{theirs}");
    }
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let end = &lines[lines.len() - 1]["end"]["lines"];
    assert_eq!(*end, json!(lines.len() - 1));
    // A server filled with it has the sessions.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    store::transfer::import(&path, BufReader::new(text.as_bytes())).expect("it is an export");
    let store = store::open_sled(&path, SledOptions::default()).expect("it opens");
    let tenants = store.tenants().expect("it reads");
    assert_eq!(tenants.len(), 1);
    let page = store.journals(&tenants[0], None, 10).expect("it reads");
    assert_eq!(page.sessions.len(), 1);
    store.close();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_holds_what_its_quotas_have_room_for() {
    let server = Server::start().await;
    let key = tenant(&server, "acme").await;
    deploy(&server, &key, "echo").await;
    let quotas = async |quotas: Value| {
        let changed = operate(&server, "PUT /v1/tenants/acme/quotas", quotas).await;
        changed.is(200);
    };
    let put = |id: &str| {
        let call = server.call(&format!("PUT /v1/sessions/{id}")).key(&key);
        call.json(json!({"agents": ["echo"]}))
    };
    let send = |key_of_message: &str, bytes: usize| {
        let call = server.call("POST /v1/sessions/a/messages").key(&key);
        let call = call.idempotency(key_of_message);
        call.json(json!({"body": noise(bytes)}))
    };
    put("a").await.is(201);
    send("first", 10).await.is(202);
    quotas(json!({"sessions_max": 2})).await;
    put("b").await.is(201);
    let refused = put("c").await;
    let told = refused.refused(429, "quota_exceeded");
    assert_eq!(
        (&told["quota"], &told["used"], &told["limit"]),
        (&json!("sessions"), &json!(2), &json!(2))
    );
    assert!(refused.header("retry-after").is_some());
    let fork = server.call("POST /v1/sessions/a/fork").key(&key).await;
    fork.refused(429, "quota_exceeded");
    let invoke = server.call("POST /v1/agents/echo/invoke").key(&key);
    let invoke = invoke.json(json!({"body": "x"})).await;
    invoke.refused(429, "quota_exceeded");
    // What is there is used as before, and the same again is no new one.
    put("b").await.is(200);
    send("second", 10).await.is(202);

    quotas(json!({"storage_bytes_max": 1_000_000})).await;
    put("c").await.is(201);
    send("third", 400_000).await.is(202);
    let refused = send("fourth", 700_000).await;
    let told = refused.refused(429, "quota_exceeded");
    assert_eq!(told["quota"], "storage-bytes");
    quotas(json!({"storage_bytes_max": 1})).await;
    send("fifth", 1).await.refused(429, "quota_exceeded");
    let slot = server.call("PUT /v1/sessions/a/slots/x").key(&key);
    slot.text("x").await.refused(429, "quota_exceeded");
    assert!(send("second", 10).await.is_replayed(), "it came before");
    let shown = server.call("GET /v1/tenants/acme").key(&key).await.is(200);
    assert_eq!(shown["holds"]["sessions"], 3);
    assert!(
        shown["holds"]["storage_bytes"].as_u64() > Some(400_000),
        "{shown}"
    );
    // Others have their own.
    server.deploy("echo").await;
    server.session("a", &["echo"]).await;
    server.post("a", json!("x")).await;
    // And room is made by removing.
    quotas(json!({"sessions_max": 3})).await;
    put("d").await.refused(429, "quota_exceeded");
    server.stop().await;
}

/// Its agents wait for their share of a minute that others have whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_own_minute_is_below_the_hosts() {
    let server = Server::with(|config| config.limits.cpu_ms_max = 60_000).await;
    let key = tenant(&server, "acme").await;
    let quotas = json!({"cpu_minute_ms_max": 20});
    let changed = operate(&server, "PUT /v1/tenants/acme/quotas", quotas.clone()).await;
    assert_eq!(changed.is(200)["quotas"], quotas);
    deploy(&server, &key, "puppet").await;
    let config = server.call("PUT /v1/agents/puppet/config").key(&key);
    let config = config.json(json!({"limits": {"turn_ms_max": 500}})).await;
    config.is(201);
    let spin = server.call("POST /v1/agents/puppet/invoke").key(&key);
    let spin = spin.json(json!({"body": ["spin"]})).await;
    let refused = spin.refused(504, "turn_deadline");
    let message = refused["error"]["message"].as_str().expect("a text");
    assert!(message.starts_with("deadline: "), "{message}");
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    assert_eq!(server.reply("echo", "s", json!("here")).await, "here");
    server.stop().await;
}

/// Each tenant has its own line, and what is too long for it is refused to it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_many_turns_waiting_delays_nobody_else() {
    let gate = Gate::new();
    let held: Vec<_> = (0..5)
        .map(|_| Reply::stream().wait(&gate).say("late").finish("stop"))
        .collect();
    let provider = Provider::start(held).await;
    let server = Server::asking(&provider).await;
    let key = tenant(&server, "acme").await;
    deploy(&server, &key, "puppet").await;
    let quotas = json!({"turns_max": 1, "turns_waiting_max": 2});
    let changed = operate(&server, "PUT /v1/tenants/acme/quotas", quotas).await;
    changed.is(200);
    let invoke = || {
        let call = server.call("POST /v1/agents/puppet/invoke").key(&key);
        let call = call.header("prefer", "respond-async");
        // With the lock it keeps its place, however long the model takes.
        call.json(json!({"body": [{"lock": "plan"}, {"relay": "q"}]}))
    };
    for _ in 0..3 {
        invoke().await.is(202);
    }
    provider.received(1).await;
    // Two wait; as soon as both are in the line, the next one is refused.
    let refused = loop {
        let answer = invoke().await;
        if answer.status != 202 {
            break answer;
        }
    };
    refused.refused(429, "overloaded");
    assert!(refused.header("retry-after").is_some());
    let hit = server.limits_hit().await;
    assert!(hit.contains("turns_waiting_tenant_max"), "{hit}");
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    assert_eq!(server.reply("echo", "s", json!("here")).await, "here");
    assert_eq!(provider.requests().len(), 1, "one at a time");
    gate.open();
    provider.received(3).await;
    server.stop().await;
}
