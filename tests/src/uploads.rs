//! What may be uploaded, and what is refused with which words.

use serde_json::json;

use crate::guests::{component, of_text};
use crate::server::Server;

/// The export of an agent around an empty `handle` that is never called here.
const NOBODY: &str = "(component)";

const FOREIGN: &str = r#"(component (import "acme:billing/charge@1.0.0" (instance
    (export "charge" (func)))))"#;

const MISSING_WASI: &str = r#"(component (import "wasi:nn/graph@0.2.0" (instance
    (export "load" (func)))))"#;

const UNGRANTED: &str = r#"(component (import "antiphon:agent/files@0.1.0" (instance
    (export "read" (func)))))"#;

const OTHER_VERSION: &str = r#"(component (import "antiphon:agent/reply@0.2.0" (instance
    (export "say" (func)))))"#;

/// The right name with another signature.
const WRONG_TYPE: &str = r#"(component (import "antiphon:agent/reply@0.1.0" (instance
    (export "say" (func (param "number" u32))))))"#;

fn precompiled() -> Vec<u8> {
    let engine = wasmtime::Engine::default();
    engine
        .precompile_component(&of_text("(component)"))
        .expect("it compiles")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_agent_is_refused_with_its_reason() {
    let server = Server::start().await;
    for (bytes, code, words) in [
        (Vec::new(), "not_a_component", "not WebAssembly"),
        (
            b"#!/bin/sh\n".to_vec(),
            "not_a_component",
            "not WebAssembly",
        ),
        (
            of_text("(module)"),
            "not_a_component",
            "core WebAssembly module",
        ),
        (
            component("echo")[..5000].to_vec(),
            "not_a_component",
            "compile",
        ),
        (
            precompiled(),
            "precompiled_refused",
            "upload the component itself",
        ),
        (
            of_text(NOBODY),
            "world_mismatch",
            "antiphon:agent/agent@0.1.0",
        ),
        (
            of_text(WRONG_TYPE),
            "world_mismatch",
            "antiphon:agent/reply@0.1.0",
        ),
        (
            of_text(MISSING_WASI),
            "import_not_granted",
            "wasi:nn/graph@0.2.0",
        ),
        (
            of_text(FOREIGN),
            "import_not_granted",
            "acme:billing/charge@1.0.0",
        ),
        (
            of_text(UNGRANTED),
            "import_not_granted",
            "antiphon:agent/files@0.1.0",
        ),
        (
            of_text(OTHER_VERSION),
            "import_not_granted",
            "antiphon:agent/reply@0.2.0",
        ),
    ] {
        let body = server.upload("a", &bytes).await.refused(422, code);
        let message = body["error"]["message"].as_str().expect("a text");
        assert!(message.contains(words), "{message}");
    }
    // Nothing came of it.
    server
        .call("GET /v1/agents/a")
        .await
        .refused(404, "agent_not_found");

    server
        .call("PUT /v1/agents/a")
        .body(component("echo").to_vec())
        .await
        .refused(415, "unsupported_media_type");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_needs_its_grant() {
    let server = Server::start().await;
    server
        .configure("echo", json!({"grants": ["mailbox"]}))
        .await
        .is(201);
    let body = server.upload("echo", component("echo")).await;
    let body = body.refused(422, "import_not_granted");
    let message = body["error"]["message"].as_str().expect("a text");
    assert!(message.contains("antiphon:agent/reply@0.1.0"), "{message}");
    server
        .configure("echo", json!({"grants": ["mailbox", "reply"]}))
        .await
        .is(201);
    server.deploy("echo").await;
    assert_eq!(server.ask("echo", json!("hi")).await.is(200)["reply"], "hi");
    server.stop().await;
}

/// The thinker's crate links all of the SDK, whose types mention interfaces it never calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interfaces_of_which_only_types_are_used_need_no_grant() {
    let server = Server::start().await;
    // `agent` uses the type `header` of `mailbox`; this one exports it and calls nothing.
    let types = r#"(component
        (import "antiphon:agent/mailbox@0.1.0" (instance
            (type $sender (variant (case "person" string) (case "agent" string)))
            (export "sender" (type (eq $sender))))))"#;
    server.configure("a", json!({"grants": []})).await.is(201);
    // It gets past the imports, to what it does not export.
    server
        .upload("a", &of_text(types))
        .await
        .refused(422, "world_mismatch");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_over_the_limit_is_too_large() {
    let bytes = component("echo");
    let limit = bytes.len() as u64;
    let server = Server::with(|config| config.limits.component_bytes_max = limit).await;
    server.deploy_as("echo", bytes).await;
    let longer = [bytes, b"\0"].concat();
    server
        .upload("echo", &longer)
        .await
        .refused(413, "too_large");
    server.stop().await;
}
