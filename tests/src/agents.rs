//! Agents: configuration, components, versions.

use serde_json::json;

use crate::guests::component;
use crate::server::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_may_come_before_the_component() {
    let server = Server::start().await;
    let made = server.configure("echo", json!({"card": {"description": "hi"}})).await.is(201);
    assert_eq!((&made["ready"], &made["version"]), (&json!(false), &json!(null)));
    server.invoke("echo", "s", json!("x")).await.refused(409, "agent_not_ready");

    let made = server.upload("echo", component("echo")).await.is(201);
    assert_eq!((&made["ready"], &made["version"]), (&json!(true), &json!(1)));
    let again = server.upload("echo", component("echo")).await.is(200);
    assert_eq!(again, made);
    server.stop().await;
}
