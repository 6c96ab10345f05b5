//! A server in this process, stopped and waited for at the end.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use antiphon::config::{Config, Model};
use antiphon::model::scripted::Provider;
use antiphon::shutdown::Shutdown;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::client::{Answer, Call, HANGS};
use crate::guests;
use crate::logged;
use crate::stream::Events;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) client: reqwest::Client,
    pub(crate) shutdown: Shutdown,
    config: Config,
    folder: TempDir,
    task: Option<JoinHandle<Result<(), antiphon::ServeError>>>,
}

impl Server {
    /// On a fresh folder, with the built-in model.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            data: folder.path().join("data"),
            ..Config::default()
        };
        // Room in the pool costs address space, which many servers here share.
        config.limits.turns_max = 16;
        change(&mut config);
        fs::create_dir(&config.data).expect("the folder is writable");
        symlink(compiled(), config.data.join("compiled")).expect("the folder is writable");
        Self::open(config, folder).await
    }

    /// With this provider as the model `default`.
    pub(crate) async fn asking(provider: &Provider) -> Self {
        let model = model_of(provider);
        Self::with(|config| {
            config.models.insert("default".to_owned(), model);
        })
        .await
    }

    async fn open(config: Config, folder: TempDir) -> Self {
        logged::listen();
        let listener = TcpListener::bind(config.listen).await.expect("a free port");
        let scheme = config.http.tls.as_ref().map_or("http", |_| "https");
        let url = format!("{scheme}://{}", listener.local_addr().expect("it is bound"));
        let shutdown = Shutdown::new();
        let mut task = tokio::spawn(antiphon::serve(listener, config.clone(), shutdown.clone()));
        let client = match &config.http.tls {
            None => reqwest::Client::new(),
            Some(tls) => trusting(&tls.certificate),
        };
        // The socket takes connections from the first moment, and answers once all is there.
        let ready = client.get(format!("{url}/readyz")).timeout(HANGS).send();
        tokio::select! {
            ready = ready => assert_eq!(ready.expect("the server answers").status(), 200),
            ended = &mut task => panic!("the server did not start: {ended:?}"),
        }
        let key = fs::read_to_string(config.data.join("default.key")).expect("the key's file");
        Self {
            url,
            key,
            client,
            shutdown,
            config,
            folder,
            task: Some(task),
        }
    }

    /// Ask it to stop, and wait until it has.
    pub(crate) async fn stop(mut self) {
        self.end().await;
    }

    /// Stop it, and look at what it left.
    pub(crate) async fn stop_and(mut self, look: impl FnOnce()) {
        self.end().await;
        look();
    }

    async fn end(&mut self) {
        self.shutdown.stop();
        let task = self.task.take().expect("it runs until it is ended");
        let ended = tokio::time::timeout(HANGS, task).await.expect("it stops");
        ended.expect("it does not panic").expect("it stops cleanly");
        logged::check();
    }

    /// Stop it, and start another on the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| {}).await
    }

    /// The same, with something done to its folder in between.
    pub(crate) async fn restart_after(mut self, change: impl FnOnce(&Path)) -> Self {
        self.end().await;
        change(&self.config.data);
        let empty = tempfile::tempdir().expect("a temporary folder");
        let folder = std::mem::replace(&mut self.folder, empty);
        Self::open(self.config.clone(), folder).await
    }

    /// Why a server with these settings does not start.
    pub(crate) async fn refused(change: impl FnOnce(&mut Config)) -> antiphon::ServeError {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            data: folder.path().join("data"),
            ..Config::default()
        };
        change(&mut config);
        let listener = TcpListener::bind(config.listen).await.expect("a free port");
        let refused = antiphon::serve(listener, config, Shutdown::new()).await;
        refused.expect_err("it does not start")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").expect("a scheme");
        address.parse().expect("an address")
    }

    /// The limits that somebody ran into, here or in another server of this process.
    pub(crate) async fn limits_hit(&self) -> String {
        let metrics = self.call("GET /metrics").await;
        let lines = metrics.text().lines();
        let hit = lines.filter(|line| line.starts_with("antiphon_limits_hit_total"));
        hit.collect::<Vec<_>>().join("\n")
    }

    /// Why another server does not start on the same folder meanwhile.
    pub(crate) async fn second(&self) -> antiphon::ServeError {
        let listener = TcpListener::bind(self.config.listen)
            .await
            .expect("a free port");
        let second = antiphon::serve(listener, self.config.clone(), Shutdown::new()).await;
        second.expect_err("the folder is taken")
    }

    pub(crate) fn data(&self) -> &Path {
        &self.config.data
    }

    pub(crate) fn call(&self, line: &str) -> Call {
        Call::new(self, line)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(&format!("GET {path}")).await.is(200)
    }

    /// Upload the guest of the same name.
    pub(crate) async fn deploy(&self, agent: &str) {
        self.deploy_as(agent, guests::component(agent)).await;
    }

    pub(crate) async fn deploy_as(&self, agent: &str, component: &[u8]) {
        self.upload(agent, component).await.is(201);
    }

    pub(crate) async fn upload(&self, agent: &str, component: &[u8]) -> Answer {
        self.call(&format!("PUT /v1/agents/{agent}"))
            .header("content-type", "application/wasm")
            .body(component.to_vec())
            .await
    }

    pub(crate) async fn configure(&self, agent: &str, config: Value) -> Answer {
        self.call(&format!("PUT /v1/agents/{agent}/config"))
            .json(config)
            .await
    }

    /// Open a session; the first agent is its entry.
    pub(crate) async fn session(&self, id: &str, agents: &[&str]) {
        self.call(&format!("PUT /v1/sessions/{id}"))
            .json(json!({"agents": agents, "entry": agents[0]}))
            .await
            .is(201);
    }

    /// One turn in a session of this name.
    pub(crate) async fn invoke(&self, agent: &str, session: &str, body: Value) -> Answer {
        self.call(&format!("POST /v1/agents/{agent}/invoke"))
            .json(json!({"body": body, "session": session, "author": "ana"}))
            .await
    }

    /// One turn in a session of its own.
    pub(crate) async fn ask(&self, agent: &str, body: Value) -> Answer {
        self.call(&format!("POST /v1/agents/{agent}/invoke"))
            .json(json!({"body": body}))
            .await
    }

    /// A turn that completes; answers what was said.
    pub(crate) async fn reply(&self, agent: &str, session: &str, body: Value) -> String {
        let answer = self.invoke(agent, session, body).await.is(200);
        assert_eq!(answer["outcome"], "completed", "{answer}");
        answer["reply"].as_str().expect("a text").to_owned()
    }

    /// Post a message from ana; answers its id.
    pub(crate) async fn post(&self, session: &str, body: Value) -> String {
        let answer = self
            .call(&format!("POST /v1/sessions/{session}/messages"))
            .json(json!({"body": body, "author": "ana"}))
            .await
            .is(202);
        answer["message"].as_str().expect("an id").to_owned()
    }

    /// Follow a session from its start.
    pub(crate) async fn follow(&self, session: &str) -> Events {
        self.call(&format!("GET /v1/sessions/{session}/events?live=sse"))
            .events()
            .await
    }

    /// The whole journal as `seq kind detail`, one line each.
    pub(crate) async fn journal(&self, session: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/sessions/{session}/journal")).await;
        page["entries"].as_array().expect("entries").clone()
    }
}

/// A client that trusts this certificate and no other.
pub(crate) fn trusting(certificate: &Path) -> reqwest::Client {
    let pem = fs::read(certificate).expect("the certificate");
    let certificate = reqwest::Certificate::from_pem(&pem).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([certificate]);
    client.build().expect("a client")
}

pub(crate) fn model_of(provider: &Provider) -> Model {
    Model {
        base_url: provider.base_url(),
        api_key_env: None,
        api_key: None,
        model: "scripted".to_owned(),
        price: None,
        policy: antiphon::config::PolicySettings::default(),
    }
}

/// Where all servers keep compiled components, so that each is compiled once: beside the
/// test's own binary, and good for later runs too.
fn compiled() -> PathBuf {
    let binary = std::env::current_exe().expect("the test has a binary");
    let folder = binary.with_file_name("antiphon-tests-compiled");
    fs::create_dir_all(&folder).expect("the target folder is writable");
    // Two servers that start at once must not each make a key.
    let key = folder.join("key");
    if !key.exists() {
        let new = tempfile::NamedTempFile::new_in(&folder).expect("the target folder is writable");
        fs::write(new.path(), [7; 32]).expect("the target folder is writable");
        // Whoever is later finds the same bytes.
        let _ = new.persist_noclobber(key);
    }
    folder
}
