//! A session whose journal is damaged is set aside, and named; all others go on.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::{Process, command};
use crate::server::Server;

/// What is done to the second frame of a session's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    FlippedByte,
    MissingEntry,
    UnknownKind,
    FutureVersion,
}

const ALL: [Harm; 4] = [
    Harm::FlippedByte,
    Harm::MissingEntry,
    Harm::UnknownKind,
    Harm::FutureVersion,
];

/// `format u8 | parts u16 | CRC-32 u32` before a row's payload.
const ROW_HEAD: usize = 7;
/// `format u8 | kinds u64 | count u32 | CRC-32 u32` before a frame's entries.
const FRAME_HEAD: usize = 17;
const ENTRY_HEAD: usize = 28;

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hash = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_be_bytes()
}

/// The row unpacked: `length u32`, the first 32 bytes as they are, the rest as a block of LZ4.
fn plain(value: &[u8]) -> Vec<u8> {
    let (head, payload) = value.split_at(ROW_HEAD);
    let payload = match head[0] {
        1 => payload.to_vec(),
        _ => {
            let (length, stored) = payload.split_at(4);
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            let (beginning, block) = stored.split_at(32);
            let rest = lz4_flex::block::decompress(block, length as usize - 32);
            [beginning, &rest.expect("it was packed")].concat()
        }
    };
    [&[1], &head[1..], &payload].concat()
}

/// Harm a session of a server that does not run. Answers the seq of the entry.
fn harm(data: &Path, session: &str, harm: Harm) -> u64 {
    let config = sled::Config::new().path(data.join("store"));
    let config = config.mode(sled::Mode::LowSpace).flush_every_ms(None);
    let store = loop {
        match config.open() {
            Ok(store) => break store,
            // Threads of sled hold its lock for a moment after whoever had the store let go of it.
            Err(error) if error.to_string().contains("could not acquire lock") => {
                std::thread::yield_now();
            }
            Err(error) => panic!("the store opens: {error}"),
        }
    };
    let prefix = format!("default\0{session}\x003");
    let (key, value) = store
        .scan_prefix(prefix.as_bytes())
        .map(|row| row.expect("it reads"))
        .nth(1)
        .expect("the second frame");
    let first = &key[prefix.len()..prefix.len() + 8];
    let seq = u64::from_be_bytes(first.try_into().expect("eight bytes"));
    assert_eq!(value[1..3], [0, 1], "the row has one part");
    let mut value = plain(&value);
    let entry = ROW_HEAD + FRAME_HEAD;
    match harm {
        Harm::FlippedByte => *value.last_mut().expect("it has bytes") ^= 1,
        Harm::MissingEntry => {}
        Harm::UnknownKind => value[entry + 17] = 99,
        Harm::FutureVersion => value[entry + 19] = 9,
    }
    if matches!(harm, Harm::UnknownKind | Harm::FutureVersion) {
        // Written so by a newer server: every checksum is right.
        let number = |at: usize| -> usize {
            let four = value[entry + at..entry + at + 4].try_into();
            u32::from_be_bytes(four.expect("four bytes")) as usize
        };
        let end = entry + ENTRY_HEAD + number(20) + number(24);
        let checksum = crc(&[&value[entry..end]]);
        value[end..end + 4].copy_from_slice(&checksum);
        let checksum = crc(&[&key[..key.len() - 2], &value[ROW_HEAD..]]);
        value[3..ROW_HEAD].copy_from_slice(&checksum);
    }
    match harm {
        Harm::MissingEntry => store.remove(&key).expect("it writes"),
        _ => store.insert(&key, value).expect("it writes"),
    };
    store.flush().expect("it writes");
    seq
}

/// Stop the server, harm a session, and start another.
async fn harmed(server: Server, session: &str, what: Harm) -> (Server, u64) {
    let mut seq = 0;
    let server = server
        .restart_after(|data| seq = harm(data, session, what))
        .await;
    (server, seq)
}

async fn check_set_aside(server: &Server, session: &str, seq: u64) {
    let at = format!("{seq:016}_0000000000000000");
    for line in [
        format!("GET /v1/sessions/{session}"),
        format!("GET /v1/sessions/{session}/events"),
        format!("GET /v1/sessions/{session}/transcript"),
        format!("GET /v1/sessions/{session}/journal"),
        format!("GET /v1/sessions/{session}/slots"),
        format!("GET /v1/operations/{session}:2"),
        format!("POST /v1/sessions/{session}/messages"),
        format!("POST /v1/sessions/{session}/interrupt"),
        format!("POST /v1/sessions/{session}/fork"),
        format!("PUT /v1/sessions/{session}"),
        format!("DELETE /v1/sessions/{session}"),
    ] {
        let mut call = server.call(&line);
        if line.ends_with("/messages") {
            call = call.json(json!({"body": "hi"}));
        }
        if line.starts_with("PUT") {
            call = call.json(json!({"agents": ["echo"]}));
        }
        let answer = call.await;
        let body = answer.refused(500, "session_damaged");
        assert_eq!(
            (&body["session"], &body["entry"]),
            (&json!(session), &json!(at)),
            "{line}"
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        let text = answer.text();
        assert!(
            !text.contains("checksum") && !text.contains("row"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_damage_sets_one_session_aside() {
    let mut server = Server::start().await;
    server.deploy("echo").await;
    server.session("good", &["echo"]).await;
    server.reply("echo", "good", json!("one")).await;
    for (at, what) in ALL.into_iter().enumerate() {
        let session = format!("bad{at}");
        server.session(&session, &["echo"]).await;
        server.reply("echo", &session, json!("one")).await;
        server.reply("echo", &session, json!("two")).await;
        let seq;
        (server, seq) = harmed(server, &session, what).await;
        check_set_aside(&server, &session, seq).await;
        assert_eq!(server.reply("echo", "good", json!("on")).await, "on");
        assert_eq!(server.get("/readyz").await["ready"], true);
    }
    server.stop().await;
}

/// What a snapshot covers is not read when the session is opened. Whoever comes to the damage
/// is told, and so is everybody after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_below_a_snapshot_is_found_by_whoever_reads_there() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    for turn in 0..20 {
        server.reply("echo", "s", json!(turn)).await;
    }
    let (server, seq) = harmed(server, "s", Harm::MissingEntry).await;
    assert_eq!(server.get("/v1/sessions/s").await["session"], "s");
    assert_eq!(server.reply("echo", "s", json!("on")).await, "on");
    server
        .call("GET /v1/sessions/s/events")
        .await
        .refused(500, "session_damaged");
    check_set_aside(&server, "s", seq).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_names_and_moves_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let process = Process::start(&old);
    let sessions = ["bad0", "bad1", "bad2", "bad3", "good"];
    // Without a component, what is sent waits: the session is due at every start.
    let put = async |path: &str, body: Value| {
        let (status, answer) = process.json("PUT", path, Some(body)).await;
        assert!((200..300).contains(&status), "{answer}");
    };
    put("/v1/agents/idle/config", json!({})).await;
    for session in sessions {
        put(
            &format!("/v1/sessions/{session}"),
            json!({"agents": ["idle"]}),
        )
        .await;
        for text in ["one", "two"] {
            let path = format!("/v1/sessions/{session}/messages");
            let body = json!({"body": text, "author": "ana"});
            let (status, answer) = process.json("POST", &path, Some(body)).await;
            assert_eq!(status, 202, "{answer}");
        }
    }
    assert!(process.terminate().success());
    let seqs: Vec<u64> = (0..4).map(|at| harm(&old, sessions[at], ALL[at])).collect();

    let run = |arguments: &[&str], data: &Path, input: Stdio| {
        let mut command = command(arguments);
        let command = command.arg("--data").arg(data).stdin(input);
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (sound, report, _) = run(&["store", "check"], &old, Stdio::null());
    assert!(!sound);
    for (session, seq) in sessions.iter().zip(&seqs) {
        let named = format!("session {session} of default, entry {seq}, ");
        assert!(report.contains(&named), "{named}: {report}");
    }
    assert!(!report.contains("session good"), "{report}");

    let (done, lines, warning) = run(&["store", "export"], &old, Stdio::null());
    assert!(done, "{warning}");
    assert!(warning.contains("damaged"), "{warning}");
    let of = |session: &str, kind: &str| {
        let lines = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            line[kind]["session"] == session
        });
        lines.filter(|is| *is).count()
    };
    assert_eq!((of("good", "entry"), of("good", "damaged")), (3, 0));
    for (session, what) in sessions.iter().zip(ALL) {
        assert!(of(session, "entry") > 0, "what can be read is there");
        let line = if what == Harm::MissingEntry {
            "missing"
        } else {
            "damaged"
        };
        assert_eq!(of(session, line), 1, "{what:?}");
    }

    // Moved, it is as it was, and the new server starts.
    let export = folder.path().join("lines.jsonl");
    std::fs::write(&export, &lines).expect("a file");
    let input = std::fs::File::open(&export).expect("it was written");
    let (done, _, error) = run(&["store", "import"], &new, input.into());
    assert!(done, "{error}");
    assert_eq!(run(&["store", "check"], &new, Stdio::null()).1, report);
    let key = "default.key";
    std::fs::copy(old.join(key), new.join(key)).expect("the key travels as a file");
    let process = Process::start(&new);
    for session in &sessions[..4] {
        let path = format!("/v1/sessions/{session}");
        let (status, body) = process.json("GET", &path, None).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (500, &json!("session_damaged"))
        );
    }
    assert_eq!(process.transcript("good").await, ["ana: one", "ana: two"]);
    assert!(process.terminate().success());
}
