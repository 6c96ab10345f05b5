//! A headless browser, where the machine has one: the pages of the server as people meet them.
//!
//! Speaks Chromium's debugging protocol over two pipes: messages of JSON that end with a zero byte. So there is no port to
//! find and no protocol in between. Nothing polls: whoever waits for something in a page waits for its changes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::client::HANGS;

/// One browser with one page. Dropping it kills the browser.
pub(crate) struct Browser {
    _process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    asked: u64,
    page: String,
    /// What happened in the page and nobody waited for yet.
    happened: VecDeque<Value>,
    _profile: TempDir,
}

/// The first Chromium on PATH.
fn find() -> Option<PathBuf> {
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut places = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.find(|place| place.is_file())
}

impl Browser {
    /// None, and a line that says so, where the machine has no browser.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = find() else {
            eprintln!("skipped: there is no chromium on PATH");
            return None;
        };
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new("sh")
            // The browser reads requests from file 3 and writes answers to file 4.
            .args([
                "-c",
                "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            ])
            .arg(program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // Tests run as root in containers, where its sandbox does not start. It opens our pages only.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let to = process.stdin.take().expect("it is piped");
        let from = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut browser = Self {
            _process: process,
            to,
            from,
            asked: 0,
            page: String::new(),
            happened: VecDeque::new(),
            _profile: profile,
        };
        let made = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let target = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", target).await;
        browser.page = attached["sessionId"]
            .as_str()
            .expect("the page's name")
            .to_owned();
        browser.call("Page.enable", json!({})).await;
        Some(browser)
    }

    /// One request of the protocol; answers its result.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        let mut request = json!({"id": id, "method": method, "params": params});
        if !self.page.is_empty() {
            request["sessionId"] = json!(self.page);
        }
        let mut bytes = request.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).await.expect("the browser reads");
        loop {
            let message = self.next(method).await;
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.happened.push_back(message);
        }
    }

    async fn next(&mut self, what: &str) -> Value {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(HANGS, self.from.read_until(0, &mut bytes)).await;
        read.unwrap_or_else(|_| panic!("{what}: the browser says nothing"))
            .expect("the pipe is whole");
        assert_eq!(bytes.pop(), Some(0), "{what}: the browser is gone");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    async fn loaded(&mut self) {
        let is_loaded = |message: &Value| message["method"] == "Page.loadEventFired";
        while let Some(message) = self.happened.pop_front() {
            if is_loaded(&message) {
                return;
            }
        }
        while !is_loaded(&self.next("load").await) {}
    }

    pub(crate) async fn open(&mut self, url: &str) {
        self.happened.clear();
        self.call("Page.navigate", json!({"url": url})).await;
        self.loaded().await;
    }

    pub(crate) async fn reload(&mut self) {
        self.happened.clear();
        self.call("Page.reload", json!({})).await;
        self.loaded().await;
    }

    /// What an expression comes to in the page; a promise is waited for.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params).await;
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Wait until an expression is true; it is looked at whenever the page changes.
    pub(crate) async fn until(&mut self, expression: &str) {
        self.eval(&format!(
            "new Promise(done => {{
                const look = () => {{ if ({expression}) {{ changes.disconnect(); done(true) }} }}
                const changes = new MutationObserver(look)
                changes.observe(document, {{subtree: true, childList: true, characterData: true, attributes: true}})
                look()
            }})"
        ))
        .await;
    }

    /// Type into the element that a selector finds.
    pub(crate) async fn type_into(&mut self, selector: &str, text: &str) {
        let selector = json!(selector);
        self.eval(&format!("document.querySelector({selector}).focus()"))
            .await;
        self.call("Input.insertText", json!({"text": text})).await;
    }

    pub(crate) async fn press_enter(&mut self) {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Enter", "code": "Enter", "text": "\r",
                "windowsVirtualKeyCode": 13});
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }
}
