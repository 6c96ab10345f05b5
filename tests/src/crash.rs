//! The real binary and the ways it ends: killed, stopped, out of disk, started twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::guests::component;
use crate::noise::noise;
use crate::process::{Process, command};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_it_is_killed_while_eight_clients_post() {
    let data = tempfile::tempdir().expect("a folder");
    let mut acknowledged: Vec<Vec<String>> = vec![Vec::new(); 8];
    for round in 0..3 {
        let process = Process::start(data.path());
        if round == 0 {
            process.put_agent("echo", component("echo")).await;
            for client in 0..8 {
                let path = format!("/v1/sessions/c{client}");
                let (status, body) = process
                    .json("PUT", &path, Some(json!({"agents": ["echo"]})))
                    .await;
                assert_eq!(status, 201, "{body}");
            }
        }
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let request = process.request("POST", &format!("/v1/sessions/c{client}/messages"));
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for n in 0.. {
                        let text = format!("[{round}.{client}.{n}]");
                        let request = request.try_clone().expect("no body yet");
                        match request.json(&json!({"body": text})).send().await {
                            Ok(answer) if answer.status() == 202 => acknowledged.push(text),
                            Ok(answer) => panic!("{}", answer.status()),
                            // The server was killed.
                            Err(_) => break,
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        // Let some through: the first session has answered this round's fifth message.
        process.said_all("c0", &[format!("[{round}.0.4]")]).await;
        process.kill();
        for (client, task) in clients.into_iter().enumerate() {
            acknowledged[client].extend(task.await.expect("a client ends"));
        }
    }
    let process = Process::start(data.path());
    for (client, texts) in acknowledged.iter().enumerate() {
        assert!(texts.len() >= 3, "client {client} got through");
        process.said_all(&format!("c{client}"), texts).await;
        let lines = process.transcript(&format!("c{client}")).await;
        let received: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix("user: "))
            .collect();
        let mut rest = received.iter();
        for text in texts {
            assert!(
                rest.any(|line| line == text),
                "{text} is missing or out of order"
            );
        }
        for text in &received {
            let times = received.iter().filter(|other| *other == text).count();
            assert_eq!(times, 1, "{text} is there once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_a_session_that_nobody_opens_again_is_answered() {
    let data = tempfile::tempdir().expect("a folder");
    let process = Process::start(data.path());
    let path = "/v1/agents/later/config";
    // Without a component the agent takes part but cannot answer yet.
    let (status, body) = process.json("PUT", path, Some(json!({}))).await;
    assert_eq!(status, 201, "{body}");
    let (status, body) = process
        .json(
            "PUT",
            "/v1/sessions/alone",
            Some(json!({"agents": ["later"]})),
        )
        .await;
    assert_eq!(status, 201, "{body}");
    let (status, posted) = process
        .json(
            "POST",
            "/v1/sessions/alone/messages",
            Some(json!({"body": "still there?"})),
        )
        .await;
    assert_eq!(status, 202, "{posted}");
    process.kill();

    let process = Process::start(data.path());
    process.put_agent("later", component("echo")).await;
    // The turn is seen from outside the session: in the metrics, which open nothing.
    let mut turns = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        let metrics = process
            .request("GET", "/metrics")
            .send()
            .await
            .expect("an answer");
        let metrics = metrics.text().await.expect("text");
        if metrics.contains("antiphon_turns_total{outcome=\"completed\"} 1") {
            break;
        }
        turns.tick().await;
    }
    // It is counted when it ends, and shown once that is durable.
    process
        .said_all("alone", &["still there?".to_owned()])
        .await;
    assert_eq!(
        process.transcript("alone").await,
        ["user: still there?", "later: still there?"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_in_order_and_the_next_start_goes_on() {
    let data = tempfile::tempdir().expect("a folder");
    let process = Process::start(data.path());
    process.put_agent("echo", component("echo")).await;
    let (status, _) = process
        .json("PUT", "/v1/sessions/s", Some(json!({"agents": ["echo"]})))
        .await;
    assert_eq!(status, 201);
    let (status, answer) = process
        .json(
            "POST",
            "/v1/agents/echo/invoke",
            Some(json!({"body": "one", "session": "s"})),
        )
        .await;
    assert_eq!((status, &answer["reply"]), (200, &json!("one")), "{answer}");
    assert!(process.terminate().success(), "SIGTERM is no error");
    assert!(
        !data.path().join("running").exists(),
        "a clean stop is known as one"
    );

    let process = Process::start(data.path());
    let (status, answer) = process
        .json(
            "POST",
            "/v1/agents/echo/invoke",
            Some(json!({"body": "two", "session": "s"})),
        )
        .await;
    assert_eq!((status, &answer["reply"]), (200, &json!("two")), "{answer}");
    assert_eq!(
        process.transcript("s").await,
        ["user: one", "echo: one", "user: two", "echo: two"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_told_that_the_folder_is_in_use() {
    let data = tempfile::tempdir().expect("a folder");
    let process = Process::start(data.path());
    let Err(words) = Process::try_start(data.path(), &[]) else {
        panic!("two servers on one folder")
    };
    assert!(words.contains("in use by another process"), "{words}");
    let (status, _) = process.json("GET", "/v1/agents", None).await;
    assert_eq!(status, 200, "the first one goes on");
}

/// A small file system in memory, gone with the value. None where this is not allowed.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(folder.to_owned()))
    }

    fn grow(&self, mebibytes: u32) {
        let size = format!("remount,size={mebibytes}m");
        let grown = Command::new("mount")
            .args(["-o", &size])
            .arg(&self.0)
            .status();
        assert!(grown.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clear_error_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = SmallDisk::mount(folder.path(), 96) else {
        eprintln!("skipped: mounting a tmpfs is not allowed here");
        return;
    };
    let data = folder.path().join("data");
    let process = Process::start(&data);
    process.put_agent("echo", component("echo")).await;
    let (status, _) = process
        .json("PUT", "/v1/sessions/s", Some(json!({"agents": ["echo"]})))
        .await;
    assert_eq!(status, 201);
    let filler = noise(100_000);
    let mut acknowledged = Vec::new();
    let refused: Value = loop {
        let text = format!("[{}]{filler}", acknowledged.len());
        let (status, body) = process
            .json(
                "POST",
                "/v1/sessions/s/messages",
                Some(json!({"body": text})),
            )
            .await;
        match status {
            202 => acknowledged.push(text),
            // The mailbox is bounded too; the agent empties it.
            429 => {}
            503 => break body,
            _ => panic!("{status}: {body}"),
        }
        assert!(
            acknowledged.len() < 1_000,
            "96 MiB hold fewer than a thousand of these"
        );
    };
    assert_eq!(refused["error"]["code"], "store_latched", "{refused}");
    let (status, ready) = process.json("GET", "/readyz", None).await;
    assert_eq!((status, &ready["reason"]), (503, &json!("store_latched")));
    let lines = process.transcript("s").await;
    for text in &acknowledged {
        let there = lines.contains(&format!("user: {text}"));
        assert!(there, "reads go on, up to the last acknowledged message");
    }
    process.kill();

    disk.grow(256);
    let process = Process::start(&data);
    let lines = process.transcript("s").await;
    for text in &acknowledged {
        assert!(
            lines.contains(&format!("user: {text}")),
            "an acknowledged message is missing"
        );
    }
    let (status, answer) = process
        .json(
            "POST",
            "/v1/agents/echo/invoke",
            Some(json!({"body": "on"})),
        )
        .await;
    assert_eq!((status, &answer["reply"]), (200, &json!("on")), "{answer}");
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_is_checked_exported_and_imported_by_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let process = Process::start(&old);
    process.put_agent("echo", component("echo")).await;
    let (status, _) = process
        .json("PUT", "/v1/sessions/s", Some(json!({"agents": ["echo"]})))
        .await;
    assert_eq!(status, 201);
    let (status, _) = process
        .json(
            "POST",
            "/v1/agents/echo/invoke",
            Some(json!({"body": "hi", "session": "s"})),
        )
        .await;
    assert_eq!(status, 200);
    assert!(process.terminate().success());

    let run = |arguments: &[&str], data: &Path, input: Stdio| {
        let mut command = command(arguments);
        let output = command
            .arg("--data")
            .arg(data)
            .stdin(input)
            .output()
            .expect("it runs");
        let (out, err) = (
            output.stdout,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{arguments:?}: {err}");
        String::from_utf8_lossy(&out).into_owned()
    };
    run(&["store", "check"], &old, Stdio::null());
    let lines = folder.path().join("lines.jsonl");
    let exported = run(&["store", "export"], &old, Stdio::null());
    std::fs::write(&lines, exported).expect("a file");
    let input = std::fs::File::open(&lines).expect("it was written");
    run(&["store", "import"], &new, input.into());
    std::fs::rename(old.join("components"), new.join("components"))
        .expect("components travel as files");

    let process = Process::start(&new);
    assert_eq!(process.transcript("s").await, ["user: hi", "echo: hi"]);
}
