//! Components that do their harm before any turn, or by what they are made of; and what compiling them
//! may cost.

use std::hash::BuildHasher as _;

use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use crate::guests::{component, of_text};
use crate::process::Process;
use crate::server::Server;

/// A number as WebAssembly writes it.
fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A section of a component.
fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &number(content.len()), content].concat()
}

/// The echo, with this core module instantiated before anything is called.
fn echo_with(module: &str) -> Vec<u8> {
    let echo = component("echo");
    let mut depth = 0;
    let mut modules = 0;
    for payload in Parser::new(0).parse_all(echo) {
        match payload.expect("it is a component") {
            Payload::ModuleSection { .. } => {
                modules += usize::from(depth == 1);
                // The module's own beginning comes next.
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let instantiate = [&[1, 0][..], &number(modules), &[0]].concat();
    let parts = [
        echo,
        &section(1, &of_text(module)),
        &section(2, &instantiate),
    ];
    parts.concat()
}

/// A component with one type that has so many others inside each other.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut types = vec![1];
    for _ in 1..depth {
        types.extend([0x42, 1, 1]);
    }
    types.extend([0x42, 0]);
    [of_text("(component)"), section(7, &types)].concat()
}

/// Records of records of records: few bytes that say a million fields, many times.
fn zip_bomb(levels: usize) -> Vec<u8> {
    let mut text =
        String::from("(component (type $t0 (tuple u64 u64 u64 u64 u64 u64 u64 u64 u64 u64))");
    for level in 1..levels {
        let inner = format!("$t{} ", level - 1).repeat(10);
        text.push_str(&format!("(type $t{level} (tuple {inner}))"));
    }
    text.push(')');
    of_text(&text)
}

fn exports(count: usize) -> Vec<u8> {
    let exports: String = (0..count)
        .map(|at| format!("(export \"e{at}\" (type $t))"))
        .collect();
    of_text(&format!(
        "(component (type $t (record (field \"a\" u8))) {exports})"
    ))
}

/// More levels than there are stacks for.
fn nested_components() -> Vec<u8> {
    let (open, close) = ("(component ".repeat(60), ")".repeat(60));
    of_text(&format!("{open}{close}"))
}

fn one_long_function() -> Vec<u8> {
    let body = "(drop (i32.add (i32.const 1) (i32.const 2)))".repeat(300_000);
    of_text(&format!("(component (core module (func {body})))"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_made_of_too_much_are_refused_before_they_are_compiled() {
    let server = Server::start().await;
    server.deploy("echo").await;
    for (bytes, code, words) in [
        (exports(10_000), "compile_limit", "more than 1000 exports"),
        (nested_types(1_000), "compile_limit", "types inside types"),
        (nested_types(300_000), "compile_limit", "types inside types"),
        (nested_components(), "compile_limit", "levels of components"),
        (
            one_long_function(),
            "compile_limit",
            "bytes in one function",
        ),
        // What the compiler refuses by itself.
        (zip_bomb(7), "not_a_component", "type size"),
    ] {
        let body = server.upload("a", &bytes).await.refused(422, code);
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.contains(words), "{message}");
    }
    // As much as may be, which is no agent for all that.
    for bytes in [exports(1_000), zip_bomb(5), nested_types(30)] {
        server
            .upload("a", &bytes)
            .await
            .refused(422, "world_mismatch");
    }
    server
        .call("GET /v1/agents/a")
        .await
        .refused(404, "agent_not_found");
    assert_eq!(server.ask("echo", json!("hi")).await.is(200)["reply"], "hi");
    let metrics = server.call("GET /metrics").await;
    let series = "antiphon_limits_hit_total{limit=\"component_shape\"}";
    assert!(metrics.text().contains(series), "{}", metrics.text());
    server.stop().await;
}

/// Nobody described them to anybody: whatever they do while they are made is a turn's, with a turn's limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harm_done_while_instantiated_ends_the_turn_that_instantiates() {
    let server = Server::start().await;
    let config = json!({"limits": {"cpu_ms_max": 100, "memory_bytes_max": 32 * 1024 * 1024}});
    server.configure("a", config).await.is(201);
    server.deploy("echo").await;
    let good = echo_with("(module (func $nothing) (start $nothing))");
    for (at, (module, code, words)) in [
        (
            "(module (func $f (loop $l (br $l))) (start $f))",
            "cpu",
            "100 ms",
        ),
        (
            "(module (func $f unreachable) (start $f))",
            "trap",
            "unreachable",
        ),
        ("(module (func $f (call $f)) (start $f))", "trap", "stack"),
        ("(module (memory 600))", "limit", "memory"),
        (
            "(module (memory 1) (func $f (loop $l (drop (memory.grow (i32.const 1))) (br $l))) (start $f))",
            "cpu",
            "100 ms",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        // Between any two, what is active is good.
        server.upload("a", &good).await.is(201);
        assert_eq!(server.ask("a", json!("hi")).await.is(200)["reply"], "hi");
        server.upload("a", &echo_with(module)).await.is(201);
        let session = format!("s{at}");
        server.session(&session, &["a", "echo"]).await;
        let body = server.invoke("a", &session, json!("hi")).await;
        let body = body.refused(502, "turn_failed");
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(
            message.starts_with(&format!("{code}: ")),
            "{module}: {message}"
        );
        assert!(message.contains(words), "{module}: {message}");
        assert_eq!(server.reply("echo", &session, json!("hi")).await, "hi");
    }
    // What the pool has no place for is refused when it is put.
    for module in [
        "(module (memory 60000))",
        "(module (table 10000000 funcref))",
    ] {
        let refused = server.upload("a", &echo_with(module)).await;
        let body = refused.refused(422, "compile_limit");
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.contains("cannot run"), "{message}");
    }
    server.stop().await;
}

/// A component that takes the compiler a while, and that no cache has: `salt` makes it another one.
fn slow(salt: usize) -> Vec<u8> {
    functions(400, salt)
}

/// A component with one module of so many functions of 4 KB.
fn functions(count: usize, salt: usize) -> Vec<u8> {
    // A number in five bytes, which every number here has room in, with or without a sign.
    let number = |number: usize| -> [u8; 5] {
        std::array::from_fn(|at| {
            let more = if at < 4 { 0x80 } else { 0 };
            (number >> (7 * at) & 0x7f) as u8 | more
        })
    };
    let section = |id: u8, content: &[u8]| [&[id][..], &number(content.len()), content].concat();
    // 0 = 0 * 3 + 1
    let step = [0x20, 0, 0x41, 3, 0x6c, 0x20, 1, 0x6a, 0x21, 0];
    let body = |at: usize| {
        let mut body = vec![0, 0x41];
        body.extend(number(at + salt));
        body.extend([0x21, 0]);
        body.extend(step.repeat(400));
        body.push(0x0b);
        [&number(body.len())[..], &body].concat()
    };
    let bodies: Vec<u8> = (0..count).flat_map(body).collect();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        // One type, of functions that take two numbers.
        section(1, &[1, 0x60, 2, 0x7f, 0x7f, 0]),
        section(3, &[&number(count)[..], &vec![0; count]].concat()),
        section(10, &[&number(count)[..], &bodies].concat()),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

/// In this process the time is the upload's, and the bounds are the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiling_that_takes_too_long_is_refused_and_the_server_goes_on() {
    let server = Server::with(|config| config.limits.compile_ms_max = 1).await;
    let body = server.upload("a", &slow(1)).await;
    let body = body.refused(422, "compile_limit");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.contains("more than 1 ms"), "{message}");
    server
        .call("GET /v1/agents/a")
        .await
        .refused(404, "agent_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_a_tenant_wait_in_a_short_line() {
    let server = Server::with(|config| config.limits.compiles_waiting_max = 1).await;
    // Not those of an earlier run, which are compiled.
    let salt = std::hash::RandomState::new().hash_one(()) as u16;
    let components: Vec<Vec<u8>> = (1..=6)
        .map(|at| slow(1_000 * at + usize::from(salt) * 10_000))
        .collect();
    let uploads = components.iter().map(|bytes| server.upload("a", bytes));
    let answers = futures_util::future::join_all(uploads).await;
    let of = |status: u16| answers.iter().filter(|it| it.status == status).count();
    assert_eq!(of(422) + of(429), 6, "no agent, or no room");
    assert!(of(422) >= 2, "one compiles and one waits");
    assert!(of(429) >= 1, "the others are refused");
    for answer in answers.iter().filter(|it| it.status == 429) {
        answer.refused(429, "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    server.upload("a", component("echo")).await.is(201);
    server.stop().await;
}

/// What the answers to an upload say: the status, the code and the words.
async fn upload(server: &Process, bytes: Vec<u8>) -> (u16, String, String) {
    let request = server.request("PUT", "/v1/agents/a");
    let request = request.header("content-type", "application/wasm");
    let answer = request.body(bytes).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("message"))
}

/// The real binary compiles in a child: one that takes too long is killed, one that takes too much dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_compiles_within_its_bounds() {
    let setting = |name: &str| format!("ANTIPHON_LIMITS__{name}");
    let start = |settings: &[(&str, &str)]| {
        let data = tempfile::tempdir().expect("a scratch folder");
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (setting(name), *value))
            .collect();
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        let server = Process::try_start(data.path(), &settings).expect("the server starts");
        (server, data)
    };
    let (server, _data) = start(&[]);
    let (status, _, message) = upload(&server, component("echo").to_vec()).await;
    assert_eq!(status, 201, "{message}");
    let invoke = async |server: &Process| {
        let body = Some(json!({"body": "hi"}));
        server.json("POST", "/v1/agents/a/invoke", body).await
    };
    let (status, answer) = invoke(&server).await;
    assert_eq!((status, &answer["reply"]), (200, &json!("hi")), "{answer}");
    let broken = component("echo")[..5_000].to_vec();
    let (status, code, message) = upload(&server, broken).await;
    assert_eq!((status, &*code), (422, "not_a_component"), "{message}");
    assert!(message.contains("it does not compile"), "{message}");
    drop(server);

    for (limit, most, words) in [
        // Waited for no longer than five times that.
        ("COMPILE_MS_MAX", "1", "more than 1 ms"),
        (
            "COMPILE_MEMORY_BYTES_MAX",
            "50000000",
            "50000000 bytes of memory",
        ),
    ] {
        let (server, _data) = start(&[(limit, most)]);
        let (status, code, message) = upload(&server, component("echo").to_vec()).await;
        assert_eq!((status, &*code), (422, "compile_limit"), "{message}");
        assert!(message.contains(words), "{message}");
        // And goes on: the next is told the same.
        let (status, _, message) = upload(&server, slow(7)).await;
        assert_eq!(status, 422, "{message}");
        let asked = server.request("GET", "/metrics").send();
        let metrics = asked.await.expect("an answer");
        let metrics = metrics.text().await.expect("a text");
        let series = format!(
            "antiphon_limits_hit_total{{limit=\"{}\"}} 2",
            limit.to_ascii_lowercase()
        );
        assert!(metrics.contains(&series), "{series} in {metrics}");
    }
}

/// What a child computes is counted, by the kernel, however long it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_computes_too_much_is_ended() {
    let data = tempfile::tempdir().expect("a scratch folder");
    let settings = [("ANTIPHON_LIMITS__COMPILE_MS_MAX", "1000")];
    let server = Process::try_start(data.path(), &settings).expect("the server starts");
    // Seconds of computing on any machine: 28 MB.
    let (status, code, message) = upload(&server, functions(7_000, 9)).await;
    assert_eq!((status, &*code), (422, "compile_limit"), "{message}");
    assert!(message.contains("more than 1000 ms"), "{message}");
    let (status, _, message) = upload(&server, component("echo").to_vec()).await;
    assert_eq!(status, 201, "{message}");
}

/// A component whose compiled form is lost is compiled again for the turn that needs it, the same way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compiled_and_is_lost_is_compiled_again_for_a_turn() {
    let data = tempfile::tempdir().expect("a scratch folder");
    let server = Process::start(data.path());
    let (status, _, message) = upload(&server, component("echo").to_vec()).await;
    assert_eq!(status, 201, "{message}");
    assert!(server.terminate().success());
    for entry in std::fs::read_dir(data.path().join("compiled")).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|it| it == "cwasm") {
            // Not ours any more: somebody else's code is not run.
            std::fs::write(&path, b"not what was written").expect("it is writable");
        }
    }
    let server = Process::start(data.path());
    let body = Some(json!({"body": "hi"}));
    let (status, answer) = server.json("POST", "/v1/agents/a/invoke", body).await;
    assert_eq!((status, &answer["reply"]), (200, &json!("hi")), "{answer}");
}
