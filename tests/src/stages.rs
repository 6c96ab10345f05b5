//! What the log says of the stages of a turn, to who listens and to nobody else.
//!
//! With the real binary: whether a span is of interest is a matter of the whole process, kept by `tracing` from when each is
//! first met, and other tests meet them too.

use std::collections::BTreeSet;

use serde_json::json;

use crate::guests::component;
use crate::process::Process;

/// What a server logs while echo answers once.
async fn logged(filter: &str) -> String {
    let data = tempfile::tempdir().expect("a folder");
    let settings = [("ANTIPHON_LOG", filter)];
    let process = Process::try_start(data.path(), &settings).expect("the server starts");
    process.put_agent("echo", component("echo")).await;
    let session = Some(json!({"agents": ["echo"]}));
    let (status, body) = process.json("PUT", "/v1/sessions/s", session).await;
    assert_eq!(status, 201, "{body}");
    let invocation = Some(json!({"session": "s", "body": "hello"}));
    let (status, body) = process
        .json("POST", "/v1/agents/echo/invoke", invocation)
        .await;
    assert_eq!(status, 200, "{body}");
    process.logged()
}

/// `stage{stage="guest"}` in a line of the log.
fn stage(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("stage{stage=\"")?;
    Some(rest.split_once('"')?.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_are_spans_within_their_turn_for_who_listens_and_for_nobody_else() {
    let log = logged("antiphon::stage=trace").await;
    let (inner, outer): (Vec<_>, Vec<_>) = log
        .lines()
        .filter(|line| line.contains(" close "))
        .partition(|line| stage(line).is_some());
    let turns: Vec<_> = outer
        .iter()
        .filter(|it| it.contains("turn{turn="))
        .collect();
    assert_eq!(turns.len(), 1, "{log}");

    let within = inner.iter().filter(|line| line.contains("turn{turn="));
    let within: BTreeSet<_> = within.filter_map(|line| stage(line)).collect();
    for name in ["admission", "instantiate", "guest", "append"] {
        assert!(within.contains(name), "{name}: {log}");
    }
    assert!(log.lines().any(|line| line.ends_with("call")), "{log}");
    assert!(inner.iter().all(|line| line.contains("time.busy")), "{log}");

    let log = logged("antiphon=debug").await;
    assert!(!log.contains("antiphon::stage"), "{log}");
    assert!(log.contains("antiphon"), "{log}");
}
