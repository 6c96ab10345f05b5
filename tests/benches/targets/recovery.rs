//! P6, second half: how long a start takes with many sessions in the store.
//!
//! The real binary makes two sessions, one at rest and one with a message that waits for its agent; they are exported,
//! multiplied, and imported with `antiphon store import`. Then the binary is started on that as
//! after a crash, with none of the sessions due and with some.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use antiphon_tests::load::{Connection, components, request};
use antiphon_tests::process::{Process, command};
use serde_json::json;

use super::Options;
use super::report::{Bound, Report, Spread};

const READY_MS_MAX: f64 = 2_000.0;

const SESSIONS: usize = 20_000;
const DUE: usize = 1_000;

/// Names of the sessions to multiply; no other text of the export has them in it.
const RESTING: &str = "resting-template";
const WAITING: &str = "waiting-template";

pub(super) fn measure(options: &Options, report: &mut Report) {
    report.begin("P6", "start on a folder with sessions, as after a crash");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let template = Template::record(&folder.path().join("template"));
    let mut start = |name: &str, sessions, due| {
        let folder = folder.path().join(name);
        start(&folder, &template, sessions, due, options.rounds, report)
    };
    start("empty", 0, 0);
    let resting = start("resting", SESSIONS, 0);
    let due = start("due", SESSIONS, DUE);
    // As after an update of the host, which compiles every component anew.
    fs::remove_dir_all(&template.compiled).expect("it is ours");
    start("cold", 100, 100);
    for (ready, how) in [(resting, "none of them due"), (due, "1,000 of them due")] {
        let what = format!("ms until it is ready with 20,000 sessions, {how}");
        report.bound("P6", &what, ready, Bound::AtMost(READY_MS_MAX));
    }
}

/// Lines of an export, and the components they name.
struct Template {
    records: Vec<String>,
    resting: Vec<String>,
    waiting: Vec<String>,
    wake: String,
    components: PathBuf,
    compiled: PathBuf,
}

impl Template {
    fn record(data: &Path) -> Self {
        let echo = components(&["echo"]).remove(0);
        let server = Process::start(data);
        let mut connection = Connection::open(&server);
        connection.deploy(&server, "echo", &echo);
        // Without a component it cannot answer yet.
        let path = "/v1/agents/later/config";
        connection.json(&server, "PUT", path, &json!({}));
        for (session, agent) in [(RESTING, "echo"), (WAITING, "later")] {
            let path = format!("/v1/sessions/{session}");
            connection.json(&server, "PUT", &path, &json!({"agents": [agent]}));
        }
        for _ in 0..3 {
            let body = json!({"session": RESTING, "body": "a line that a person wrote"});
            connection.json(&server, "POST", "/v1/agents/echo/invoke", &body);
        }
        let path = format!("/v1/sessions/{WAITING}/messages");
        connection.json(&server, "POST", &path, &json!({"body": "still there?"}));
        assert!(server.terminate().success(), "it stops in order");
        let waiting = export(data);

        let server = Process::start(data);
        Connection::open(&server).deploy(&server, "later", &echo);
        assert!(server.terminate().success(), "it stops in order");
        let ready = export(data);
        let of = |lines: &[String], name: &str, what: &str| -> Vec<String> {
            let wanted = |line: &&String| line.contains(name) && line.starts_with(what);
            lines.iter().filter(wanted).cloned().collect()
        };
        let records = ready.iter().filter(|line| {
            line.starts_with("{\"record\"") && !line.contains(RESTING) && !line.contains(WAITING)
        });
        let wake = of(&waiting, WAITING, "{\"record\"");
        assert_eq!(wake.len(), 1, "a session that is due has a wake record");
        Self {
            records: records.cloned().collect(),
            resting: of(&waiting, RESTING, "{\"entry\""),
            waiting: of(&waiting, WAITING, "{\"entry\""),
            wake: wake.concat(),
            components: data.join("components"),
            compiled: data.join("compiled"),
        }
    }

    /// An export of this many sessions, so many of them due.
    fn write(&self, path: &Path, sessions: usize, due: usize) {
        let mut out = BufWriter::new(File::create(path).expect("the folder is writable"));
        let mut lines = 0;
        let mut put = |line: &str| {
            lines += 1;
            writeln!(out, "{line}").expect("the disk has room");
        };
        put("{\"export\":1}");
        for line in &self.records {
            put(line);
        }
        let name = |number: usize| format!("session-{number:06}");
        for number in 0..due {
            put(&self.wake.replace(WAITING, &name(number)));
        }
        for number in 0..sessions {
            let (entries, template) = if number < due {
                (&self.waiting, WAITING)
            } else {
                (&self.resting, RESTING)
            };
            for line in entries {
                put(&line.replace(template, &name(number)));
            }
        }
        writeln!(out, "{{\"end\":{{\"lines\":{lines}}}}}").expect("the disk has room");
    }
}

fn export(data: &Path) -> Vec<String> {
    let mut export = command(&["store", "export", "--data"]);
    let output = export.arg(data).output().expect("the binary runs");
    assert!(output.status.success(), "it can be exported");
    let text = String::from_utf8(output.stdout).expect("an export is text");
    text.lines().map(str::to_owned).collect()
}

/// Fill a folder, and start on it again and again. Milliseconds until it is ready.
fn start(
    data: &Path,
    template: &Template,
    sessions: usize,
    due: usize,
    rounds: usize,
    report: &mut Report,
) -> f64 {
    fs::create_dir_all(data).expect("the folder is writable");
    let lines = data.join("lines.jsonl");
    template.write(&lines, sessions, due);
    let mut import = command(&["store", "import", "--data"]);
    let input = Stdio::from(File::open(&lines).expect("it was just written"));
    let status = import.arg(data).stdin(input).status();
    assert!(status.expect("the binary runs").success(), "it is imported");
    fs::remove_file(&lines).expect("it is ours");
    copy(&template.components, &data.join("components"));
    copy(&template.compiled, &data.join("compiled"));

    let (mut listening, mut ready, mut done) = (Vec::new(), Vec::new(), Vec::new());
    // What was due is done after the first.
    let rounds = if due > 0 { 1 } else { rounds };
    for _ in 0..rounds {
        let start = Instant::now();
        let server = Process::start(data);
        listening.push(server.started.as_secs_f64() * 1e3);
        let mut connection = Connection::open(&server);
        let (status, _) = connection.exchange(&request(&server, "GET", "/readyz", "", b""));
        assert_eq!(status, 200, "it is ready");
        ready.push(start.elapsed().as_secs_f64() * 1e3);
        if due > 0 {
            let took = wait_for_turns(&server, &mut connection, due, start);
            done.push(took.as_secs_f64() * 1e3);
        }
        // As a crash leaves it, so that the next start takes nothing from an orderly stop.
        server.kill();
    }
    let ready = Spread::of(&ready);
    let size = Spread::of(&[size(&data.join("store")) as f64 / 1e6]);
    let mut figures = vec![
        ("listening", Spread::of(&listening), " ms"),
        ("ready", ready, " ms"),
        ("store", size, " MB"),
    ];
    if due > 0 {
        figures.push(("all due answered", Spread::of(&done), " ms"));
    }
    let is_cold = !template.compiled.exists();
    let how = if is_cold { ", to be compiled" } else { "" };
    report.line(
        "P6",
        &format!("{sessions} sessions, {due} due{how}"),
        &figures,
    );
    ready.median
}

/// Until the server has counted so many turns that completed.
fn wait_for_turns(
    server: &Process,
    connection: &mut Connection,
    turns: usize,
    start: Instant,
) -> Duration {
    let counter = "antiphon_turns_total{outcome=\"completed\"} ";
    loop {
        let metrics = connection.metrics(server);
        let mut lines = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(counter));
        let count: Option<usize> = lines.next().and_then(|count| count.parse().ok());
        if count.is_some_and(|count| count >= turns) {
            return start.elapsed();
        }
        // Asking is work too.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is writable");
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("the disk has room");
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
