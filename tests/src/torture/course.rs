//! The course of a run: the server is started, peopled, killed, started again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::book::Book;
use super::chance::Chance;
use super::client::{self, Follower, Outside, Promises};
use super::provider::Provider;
use super::{Options, Summary, laws, script};
use crate::process::{self, Process};

/// Sessions that are in use all the time, with their agents.
const SESSIONS: [(&str, &[&str]); 3] = [
    ("duo0", &["left", "right"]),
    ("duo1", &["left", "right"]),
    ("mind", &["talker", "thinker"]),
];

/// The components of the agents, built once.
fn components() -> &'static [(&'static str, Vec<u8>)] {
    static BUILT: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let packages = ["puppet", "talker", "thinker"];
        let paths = antiphon::guest::build(&root, &packages).expect("the guests build");
        let read = |path: &PathBuf| std::fs::read(path).expect("cargo wrote the component");
        let components: Vec<_> = paths.iter().map(read).collect();
        let [puppet, talker, thinker] = components.try_into().expect("one for each");
        vec![
            ("left", puppet.clone()),
            ("right", puppet),
            ("talker", talker),
            ("thinker", thinker),
        ]
    })
}

/// A port that the system gives to nobody else: it hands out those from 32768 on.
fn free_port(chance: &mut Chance) -> String {
    loop {
        let address = format!("127.0.0.1:{}", chance.between(20_000, 32_000));
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// A follower, and how much of what it was shown has been looked at.
pub(super) struct Followed {
    pub(super) follower: Arc<Follower>,
    pub(super) checked: usize,
    task: AbortHandle,
}

impl Followed {
    fn of(follower: Arc<Follower>, task: &JoinHandle<()>) -> Self {
        Self {
            follower,
            checked: 0,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Torture {
    pub(super) chance: Chance,
    pub(super) data: TempDir,
    pub(super) address: String,
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) provider: Provider,
    pub(super) process: Option<Process>,
    pub(super) up: watch::Sender<u64>,
    pub(super) processes: u64,
    pub(super) outside: Outside,
    pub(super) promises: Promises,
    pub(super) stop: watch::Sender<bool>,
    pub(super) clients: Vec<JoinHandle<()>>,
    pub(super) followers: Vec<Followed>,
    pub(super) books: Vec<Book>,
    /// Sessions left alone, with their tokens.
    pub(super) alone: Vec<String>,
    pub(super) wrong: laws::Wrong,
    pub(super) summary: Summary,
}

impl Torture {
    pub(super) async fn start(options: &Options) -> Self {
        let mut chance = Chance::new(options.seed);
        let provider = Provider::start(chance.draw()).await;
        let settings = vec![("ANTIPHON_MODEL_URL", provider.base_url())];
        let data = tempfile::tempdir().expect("a folder");
        let address = free_port(&mut Chance::new(u64::from(std::process::id())));
        let up = watch::Sender::new(0);
        let mut torture = Self {
            chance,
            address: address.clone(),
            settings,
            provider,
            process: None,
            outside: Outside::new("", "", up.subscribe()),
            up,
            processes: 0,
            promises: Promises::default(),
            stop: watch::Sender::new(false),
            clients: Vec::new(),
            followers: Vec::new(),
            books: SESSIONS.iter().map(|(name, _)| Book::new(name)).collect(),
            alone: Vec::new(),
            wrong: Vec::new(),
            summary: Summary::default(),
            data,
        };
        torture.start_process();
        let process = torture.process.as_ref().expect("it was just started");
        let configuration = json!({"watches": ["analysis"]});
        let path = "/v1/agents/talker/config";
        let (status, answer) = process.json("PUT", path, Some(configuration)).await;
        assert_eq!(status, 201, "{answer}");
        for (agent, component) in components() {
            process.put_agent(agent, component.as_slice()).await;
        }
        torture.outside = Outside::new(
            &format!("http://{address}"),
            &process.key,
            torture.up.subscribe(),
        );
        for (session, agents) in SESSIONS {
            torture.open(session, agents).await;
            torture.populate(session, agents);
        }
        torture
    }

    async fn open(&self, session: &str, agents: &[&str]) {
        let body = json!({"agents": agents, "entry": agents[0]});
        let path = format!("/v1/sessions/{session}");
        let (status, answer) = self.json("PUT", &path, Some(body)).await;
        assert_eq!(status, 201, "{answer}");
    }

    pub(super) async fn json(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let process = self.process.as_ref().expect("somebody is up");
        process.json(method, path, body).await
    }

    /// Two who send, one who interrupts, two who follow.
    fn populate(&mut self, session: &'static str, agents: &'static [&'static str]) {
        let outside = &self.outside;
        let (stop, promises) = (self.stop.subscribe(), &self.promises);
        self.clients.push(tokio::spawn(client::keep_posting(
            outside.clone(),
            session.to_owned(),
            agents,
            self.chance.fork(),
            stop.clone(),
            promises.clone(),
        )));
        self.clients.push(tokio::spawn(client::keep_interrupting(
            outside.clone(),
            session.to_owned(),
            agents,
            self.chance.fork(),
            stop,
            promises.clone(),
        )));
        let streaming = Follower::new(session, "the one with a stream");
        let polling = Follower::new(session, "the one who polls");
        let stream = tokio::spawn(streaming.clone().stream(outside.clone()));
        let poll = tokio::spawn(polling.clone().poll(outside.clone()));
        self.followers.push(Followed::of(streaming, &stream));
        self.followers.push(Followed::of(polling, &poll));
    }

    fn start_process(&mut self) {
        let settings: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let process = Process::try_start_at(self.data.path(), &self.address, &settings);
        self.process = Some(process.expect("it starts after every crash"));
        self.processes += 1;
        self.up.send_replace(self.processes);
    }

    /// Let it run for a while, kill it, and start it again; sometimes it is killed while it starts.
    pub(super) async fn live_and_die(&mut self) {
        // Every fourth dies while it takes up what the last one left.
        let life = if self.chance.one_in(4) {
            self.chance.between(0, 40)
        } else {
            self.chance.between(100, 900)
        };
        let life = Duration::from_millis(life);
        if self.chance.one_in(3) {
            let (half, number) = (life / 2, self.alone.len());
            tokio::time::sleep(half).await;
            self.leave_alone(&format!("alone{number}")).await;
            tokio::time::sleep(half).await;
        } else {
            tokio::time::sleep(life).await;
        }
        self.up.send_replace(0);
        self.process.take().expect("it runs").kill();
        self.summary.kills += 1;
        if self.chance.one_in(8) {
            self.kill_a_start().await;
        }
        self.start_process();
    }

    async fn kill_a_start(&mut self) {
        let settings: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut child = process::spawn(self.data.path(), &self.address, &settings);
        tokio::time::sleep(Duration::from_millis(self.chance.between(0, 60))).await;
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        self.summary.kills += 1;
        self.summary.starts_killed += 1;
    }

    /// Give a new session work, and never look at it again before the end.
    async fn leave_alone(&mut self, session: &str) {
        self.open(session, &["left"]).await;
        let steps = json!([
            {"model": format!("{session}{}", script::BARE)},
            {"work": {"slot": "plan", "question": format!("{session}-more"),
                "document": format!("{session}-document "), "times": 10}},
        ]);
        let message = json!({"body": steps});
        client::post(&self.outside, session, session, message, &self.promises).await;
        self.alone.push(session.to_owned());
    }
}
