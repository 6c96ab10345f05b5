//! The real binary as a child process: started on a data folder, spoken to over HTTP, killed.
//!
//! Invariant: a server that a test leaves behind is killed with it.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Names another binary than the one of this tree, so that a benchmark can be run for two of them by turns.
const OTHER_BINARY: &str = "BENCH_BINARY";

/// The binary as it is shipped, built by whoever needs it first. A debug build of the binary alone
/// would compile every dependency again: with the features of its tests, cargo has built them otherwise.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(other) = std::env::var_os(OTHER_BINARY) {
            return other.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--package",
                "antiphon",
                "--bin",
                "antiphon",
            ])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "the binary builds");
        let messages = output.stdout.lines().map_while(Result::ok);
        let executable = messages.filter_map(|line| {
            let message: Value = serde_json::from_str(&line).ok()?;
            Some(message["executable"].as_str()?.into())
        });
        executable.last().expect("cargo names the binary")
    })
}

/// The command line on a data folder, with nothing of this process's own settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANTIPHON_")) {
        command.env_remove(name);
    }
    command
}

/// `serve`, of which nobody knows yet whether it starts.
pub fn spawn(data: &Path, listen: &str, settings: &[(&str, &str)]) -> Child {
    command(&["serve", "--listen", listen, "--drain", "1s", "--data"])
        .arg(data)
        .env("ANTIPHON_LOG", "error")
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

/// A server that is up. Dropping it kills it.
pub struct Process {
    child: Child,
    pub url: String,
    pub key: String,
    /// How long it took until it said where it listens.
    pub started: Duration,
    http: reqwest::Client,
}

impl Process {
    /// Start `serve` and wait until it says where it listens.
    pub fn start(data: &Path) -> Self {
        Self::try_start(data, &[]).expect("the server starts")
    }

    /// With settings from the environment; what it says on stderr if it does not start.
    pub fn try_start(data: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::try_start_at(data, "127.0.0.1:0", settings)
    }

    /// On this address.
    pub fn try_start_at(
        data: &Path,
        listen: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, String> {
        let start = Instant::now();
        let mut child = spawn(data, listen, settings);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        std::io::BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its output is text");
        let Some((_, address)) = line.trim().split_once("listening on ") else {
            let output = child.wait_with_output().expect("it ends");
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        };
        let started = start.elapsed();
        let key = std::fs::read_to_string(data.join("default.key")).expect("it wrote its key");
        Ok(Self {
            child,
            url: address.to_owned(),
            key,
            started,
            http: reqwest::Client::new(),
        })
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    pub async fn put_agent(&self, agent: &str, component: impl Into<reqwest::Body>) {
        let answer = self
            .request("PUT", &format!("/v1/agents/{agent}"))
            .header("content-type", "application/wasm")
            .body(component)
            .send()
            .await
            .expect("an answer");
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap_or_default()
        );
    }

    /// The answer's status and JSON.
    pub async fn json(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// What a session's people see, oldest first: `who: text`.
    pub async fn transcript(&self, session: &str) -> Vec<String> {
        let (mut lines, mut before) = (Vec::new(), None::<String>);
        loop {
            let page = before
                .map(|before| format!("&before={before}"))
                .unwrap_or_default();
            let path = format!("/v1/sessions/{session}/transcript?limit=200{page}");
            let (status, body) = self.json("GET", &path, None).await;
            assert_eq!(status, 200, "{body}");
            let items = body["items"].as_array().expect("items");
            let page = items.iter().map(|item| {
                let who = item["author"]
                    .as_str()
                    .or(item["agent"].as_str())
                    .expect("a speaker");
                format!("{who}: {}", item["text"].as_str().expect("a text"))
            });
            lines.splice(0..0, page);
            match body["before"].as_str() {
                Some(next) => before = Some(next.to_owned()),
                None => return lines,
            }
        }
    }

    /// Read events until all these texts were said.
    pub async fn said_all(&self, session: &str, texts: &[String]) {
        let mut offset = "-1".to_owned();
        let mut said = String::new();
        while !texts.iter().all(|text| said.contains(text.as_str())) {
            let path = format!("/v1/sessions/{session}/events?live=long-poll&offset={offset}");
            let (status, page) = self.json("GET", &path, None).await;
            assert_eq!(status, 200, "{page}");
            for event in page["events"].as_array().expect("events") {
                if event["kind"] == "spoke" {
                    said.push_str(event["text"].as_str().expect("a text"));
                }
            }
            offset = page["offset"].as_str().expect("an offset").to_owned();
        }
    }

    /// End it at once, as a crash or a loss of power ends a process.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Ask it to stop, and wait until it has.
    pub fn terminate(mut self) -> ExitStatus {
        self.stop()
    }

    fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        self.child.wait().expect("it ends")
    }

    /// What it wrote to its log until it was asked to stop. A pipe holds 64 KiB: for servers that have little to say.
    pub fn logged(mut self) -> String {
        let stderr = self.child.stderr.take().expect("it is piped");
        assert!(self.stop().success());
        std::io::read_to_string(stderr).expect("its log is text")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
