//! Sessions over a disk in memory, on virtual time, with scripted agents.
//!
//! A life is one process: its own runtime, dropped with everything in it. Time moves only in
//! [`World::until`], which keeps the runtime from being idle, so that the commit thread
//! may take as long as it likes. What goes wrong is a fault of the disk: the k-th sync
//! fails, or the machine stops before or after it.
//!
//! A conversation is lines: `post AGENT STEPS`, `fire AGENT STEPS` (not waited for), `shown WORDS`,
//! `stop AGENT`, `answer AGENT TEXT` (once it asks something), `reply AGENT TEXT` (if it asks something), `put SLOT TEXT`, `pass MS`, `answered`, `delete`. Each waits until what it did is acknowledged.

mod budgets;
mod bursts;
mod cached;
mod conversations;
mod crash;
mod damage;
mod differs;
mod forks;
mod kept;
mod laws;
mod lives;
mod nested;
mod prefix;
mod questions;
mod resumed;
mod retried;
mod waits;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;

use super::commands::{self, CommandError, NewAnswer, NewMessage, NewSession, With};
use super::*;
use crate::agents::{AgentConfig, Deployment};
use crate::budgets::{TenantBudget, Terms};
use crate::egress::simulated::Log as Origin;
use crate::id::{Digest, MessageId, Seq, SessionId, TenantId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{Entry, Kind, Outcome, Payload, Price};
use crate::journal::script::{name, print};
use crate::journal::state::Phase;
use crate::journal::state::{Batching, Policy, State};
use crate::model::simulated::Log;
use crate::runtime::cpu::Minutes;
use crate::seal::Seal;
use crate::store::components::Components;
use crate::store::{Fault, Memory, RecordKey, RecordSpace, Write, memory};
use crate::tenants::{Quotas, Tenants};

/// Steps of virtual time in which anything happens that happens at all: over an hour.
const STEPS_MAX: u64 = 100_000;
/// Of callers. Late: opening a session is another thread's work, while virtual time goes on.
const DEADLINE: Time = Time(10_000_000);
/// More syncs than any conversation here takes.
const SYNCS_MAX: u64 = 100;

thread_local! {
    /// The provider of this thread's test: it outlives every life.
    static PROVIDER: RefCell<Log> = RefCell::default();
    /// And the origin that its agents send requests to.
    static ORIGIN: RefCell<Origin> = RefCell::default();
    /// A slow answer takes a second to begin, any other one a millisecond.
    static INSTANCE_WAIT: Cell<Duration> = const { Cell::new(Duration::from_millis(500)) };
}

fn tenant() -> TenantId {
    name("t")
}

fn journal() -> JournalId {
    JournalId {
        tenant: tenant(),
        session: name("s"),
    }
}

fn wasm() -> Arc<crate::runtime::engine::Runtime> {
    static RUNTIME: OnceLock<Arc<crate::runtime::engine::Runtime>> = OnceLock::new();
    let new = || {
        crate::runtime::engine::Runtime::new(
            1,
            &TurnLimits::default(),
            None,
            crate::runtime::compiler::Compiling::default(),
        )
        .expect("an engine")
    };
    RUNTIME.get_or_init(|| Arc::new(new())).clone()
}

fn components() -> Components {
    // Scripted agents have none; the folder is never looked into.
    Components::open(&std::env::temp_dir().join("antiphon-sim")).expect("a folder")
}

/// A disk on which the agents `a` and `b` are deployed. `b` watches the slot `x`, begins nothing while
/// `y` is locked, and needs a model. No circuit opens, so that what
/// they say follows from their scripts.
fn fresh() -> Memory {
    deployed(Batching::default())
}

/// The same, and how they take their messages.
fn deployed(batching: Batching) -> Memory {
    configured(batching, |_, _| {})
}

/// The same, with more of their configuration.
fn configured(batching: Batching, change: impl Fn(&str, &mut AgentConfig)) -> Memory {
    PROVIDER.take();
    ORIGIN.take();
    let disk = Memory::new();
    let store = memory(&disk);
    for agent in ["a", "b"] {
        let mut config = AgentConfig {
            batching,
            http: rules(),
            ..AgentConfig::default()
        };
        if agent == "b" {
            config.watches.insert(name("x"));
            config.before_turn.slots_idle.insert(name("y"));
            config.before_turn.model_ready = true;
        }
        config.policy.breaker.failures_to_open = Some(0);
        change(agent, &mut config);
        let mut deployment = Deployment::default();
        deployment.put_config(Arc::new(config), Time(0), 10);
        deployment.put_component(Digest::of(agent.as_bytes()), Time(0), 10);
        let key = RecordKey {
            tenant: Some(tenant()),
            space: RecordSpace::Agent,
            name: agent.into(),
        };
        let write = Write::Record {
            key,
            bytes: deployment.bytes(),
        };
        Store::commit(
            &*store,
            crate::store::Commit {
                writes: vec![write],
                done: Box::new(|_| {}),
            },
        )
        .expect("it is queued");
    }
    store.close();
    disk.power_loss()
}

/// What scripted agents may ask the origin for.
fn rules() -> Vec<crate::egress::allow::Rule> {
    let rule =
        r#"[{"scheme":"http","host":"origin.sim","methods":["GET","POST"],"path":"/open/"}]"#;
    serde_json::from_str(rule).expect("it is a rule")
}

/// Put a new version of the agent `a` in place, or delete it and put it there again, as it can
/// happen while no process runs: what is open goes on with what it pinned.
fn redeploy(disk: &Memory, delete: bool) {
    let store = memory(disk);
    let key = RecordKey {
        tenant: Some(tenant()),
        space: RecordSpace::Agent,
        name: "a".into(),
    };
    let bytes = store
        .record(&key)
        .expect("it reads")
        .expect("it is deployed");
    let mut deployment = Deployment::parse(&bytes).expect("it is whole");
    if delete {
        deployment.delete();
        deployment.revive();
    }
    let mut config = AgentConfig {
        http: rules(),
        ..AgentConfig::default()
    };
    let number = bytes.len().to_string();
    config.environment.insert("NUMBER".into(), number);
    deployment.put_config(Arc::new(config), Time(0), 10);
    deployment.put_component(Digest::of(b"another"), Time(0), 10);
    let bytes = deployment.bytes();
    let commit = crate::store::Commit {
        writes: vec![Write::Record { key, bytes }],
        done: Box::new(|_| {}),
    };
    Store::commit(&*store, commit).expect("it is queued");
    store.close();
}

thread_local! {
    /// What this thread's test may spend.
    static BUDGET: RefCell<TenantBudget> = RefCell::default();
}

/// A token costs a micro-unit, coming or going.
fn terms() -> Terms {
    let micros = 1_000_000;
    let price = Price {
        input_micros: micros,
        output_micros: micros,
    };
    Terms {
        prices: [(Models::DEFAULT.to_owned(), price)].into(),
        budget: BUDGET.with_borrow(|budget| *budget),
        ..Terms::default()
    }
}

/// Everything durable, read past all layers.
fn entries(store: &dyn Store) -> Vec<Entry> {
    entries_of(store, &journal())
}

fn entries_of(store: &dyn Store, journal: &JournalId) -> Vec<Entry> {
    let frames = store.frames(journal, Seq(0), usize::MAX).expect("it reads");
    let encoded = frames
        .iter()
        .flat_map(|frame| frame.entries().expect("they are whole"));
    encoded
        .map(|encoded| encoded.decode().expect("they decode"))
        .collect()
}

fn fold(entries: &[Entry]) -> State {
    let mut state = State::default();
    for entry in entries {
        state
            .next(entry)
            .unwrap_or_else(|illegal| panic!("{illegal}\n{}", print(entries)));
    }
    state
}

/// As agents are deployed by default; the others differ in the policy.
const COLLECT: Batching = Batching {
    policy: Policy::Collect,
    quiet_ms: 0,
    wait_ms_max: 10_000,
    messages_max: 100,
};

/// Nothing is open, nothing is due.
fn is_quiet(store: &dyn Store) -> bool {
    let state = fold(&entries(store));
    state.turns.is_empty() && state.next_due().is_none()
}

struct World {
    disk: Memory,
    store: Arc<dyn Store>,
    clock: Clock,
    sessions: Sessions,
}

/// One process on a disk, from a time on. Whatever runs at its end is gone.
fn life<T>(disk: &Memory, start: Time, body: impl AsyncFnOnce(&World) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async {
        let world = World::new(disk, start);
        body(&world).await
    });
    // A commit thread that is stopped for ever is let go when its disk is taken away.
    runtime.shutdown_background();
    result
}

impl World {
    fn new(disk: &Memory, start: Time) -> Self {
        let store = memory(disk);
        let clock = Clock::manual(start);
        let agents = Agents::open(
            store.clone(),
            components(),
            wasm(),
            clock.clone(),
            &[tenant()],
        );
        let sessions = Sessions::new(Parts {
            minutes: Minutes::new(u64::MAX, 1),
            store: store.clone(),
            clock: clock.clone(),
            instances: Instances::Scripted,
            agents: Arc::new(agents.expect("they read")),
            models: Models::simulated(PROVIDER.with_borrow(Log::clone)),
            egress: Egress::simulated(ORIGIN.with_borrow(Origin::clone)),
            secrets: Secrets::new(store.clone(), Seal::of_key(&[0; 32]), BTreeMap::new()),
            budgets: Budgets::new(store.clone(), terms()),
            logs: Logs::new(1024),
            limits: TurnLimits::default(),
            tenants: Tenants::open(store.clone(), clock.clone()).expect("they read"),
            quotas: Quotas::default(),
            turns_max: 4,
            instance_wait: INSTANCE_WAIT.get(),
            turns_tenant_max: 4,
            turns_waiting_max: 4,
            turns_waiting_tenant_max: 4,
            sessions_open_max: 100,
            forks_max: 2,
            invoked_expire_after_ms: 24 * 60 * 60 * 1000,
            seal: Seal::of_key(&[7; 32]),
            unclean: start.0 > 0,
        });
        sessions.read_agenda(&[tenant()]).expect("it reads");
        tokio::spawn(sessions.clone().keep_agenda());
        Self {
            disk: disk.clone(),
            store,
            clock,
            sessions,
        }
    }

    async fn advance(&self, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        self.clock.advance_ms(ms);
    }

    /// Let time pass until something is so. Time goes faster while nothing becomes durable.
    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let (mut idle, mut syncs) = (0_u64, 0);
        for _ in 0..STEPS_MAX {
            if done() {
                return;
            }
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            // The disk is another thread's work: it takes no time here.
            while !self.store.is_settled() && !self.disk.is_stopped() {
                std::thread::yield_now();
            }
            let before = std::mem::replace(&mut syncs, self.disk.syncs());
            idle = if before == syncs { idle + 1 } else { 0 };
            if idle > 64 && idle % 16 == 0 {
                // Reading is other threads' work too: on a busy machine they need a moment for it.
                std::thread::sleep(Duration::from_micros(200));
            }
            self.advance(1 + (idle / 16).pow(2).min(200)).await;
        }
        panic!(
            "it never came to this: {what}\n{}",
            print(&entries(&*self.store))
        );
    }

    /// Wait for a future without letting the runtime be idle.
    async fn wait<T: Send + 'static>(
        &self,
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let task = tokio::spawn(future);
        self.until(what, || task.is_finished()).await;
        task.await.expect("it does not panic")
    }

    /// The session, opened if it is not there.
    async fn session(&self) -> Arc<Session> {
        let sessions = self.sessions.clone();
        let get = async move { sessions.get_or_absent(&tenant(), &name("s")).await };
        self.wait("the session is there", get)
            .await
            .expect("it opens")
    }

    async fn get(&self) -> Result<Arc<Session>, SessionError> {
        let sessions = self.sessions.clone();
        self.wait("an answer", async move {
            sessions.get(&tenant(), &name("s")).await
        })
        .await
    }

    /// Stop as a process does that was asked to. True if nothing was left running.
    async fn stop(&self, drain_ms: u64) -> bool {
        let sessions = self.sessions.clone();
        let stop = async move { sessions.stop(Duration::from_millis(drain_ms)).await };
        let drained = self.wait("it stops", stop).await;
        assert!(self.sessions.0.tasks.is_empty(), "a driver was left");
        drained
    }

    /// Stop, with as much time as it takes: what ends there waits for reads of other threads, which take no virtual time
    /// and, on a busy machine, some of everybody's.
    async fn stop_in_order(&self) {
        assert!(self.stop(600_000).await, "something was left running");
    }

    /// Nothing is due but its own burial.
    async fn quiet_or_ended(&self) {
        let ended = |state: State| state.phase != Phase::Open || state.next_due().is_none();
        self.until("it is quiet", || ended(fold(&entries(&*self.store))))
            .await;
    }

    async fn quiet(&self) {
        // Nothing durable changes without a sync.
        let mut looked_at = None;
        let mut quiet = || {
            let syncs = Some(self.disk.syncs());
            looked_at != syncs && {
                looked_at = syncs;
                is_quiet(&*self.store)
            }
        };
        self.until("nothing is due", &mut quiet).await;
    }
}

fn new_session(expires_after_ms: Option<u64>) -> NewSession {
    NewSession {
        agents: vec![name("a"), name("b")],
        entry: name("a"),
        expires_after_ms,
        called_by: None,
        idempotency: None,
        recounted: Vec::new(),
    }
}

fn new_message(to: &str, text: &str) -> NewMessage {
    NewMessage {
        author: name("ada"),
        to: Some(name(to)),
        body: text.into(),
        idempotency: None,
        after: None,
        invoked: false,
        bus: None,
        called_by: None,
        authorization: None,
        instructions: None,
        tools: Vec::new(),
        echo: None,
    }
}

/// What the agent asks people.
fn asked(ledger: &Ledger, agent: &str) -> Option<Seq> {
    let agent: crate::id::AgentName = name(agent);
    ledger.look(|state| {
        let mut open = state.questions().filter(|(_, open, _)| open.agent == agent);
        open.next().map(|(.., question)| question.question)
    })
}

/// Answer it as it can be answered.
fn answer(ledger: &Ledger, question: Seq, text: &str) -> Result<Seq, CommandError> {
    let has_choices = ledger.look(|state| {
        let mut open = state.questions().filter(|(.., it)| it.question == question);
        open.any(|(.., it)| !it.choices.is_empty())
    });
    let with = match has_choices {
        true => With::Choice(text.to_owned()),
        false => With::Text(text.to_owned()),
    };
    let new = NewAnswer {
        question,
        with,
        by: name("ada"),
        note: None,
        idempotency: None,
    };
    commands::answer(ledger, new).map(|answered| answered.seq)
}

/// What people had in their hands when the life ended.
#[derive(Default)]
struct Outside {
    /// Entries that were acknowledged, and the messages among them.
    acknowledged: Vec<Seq>,
    messages: Vec<MessageId>,
    shown: Arc<Mutex<Vec<Encoded>>>,
}

impl Outside {
    fn words(&self) -> String {
        let shown = self.shown.lock().unwrap();
        shown
            .iter()
            .filter_map(|encoded| match encoded.decode().unwrap().payload {
                Payload::Spoke(spoke) => Some(spoke.text),
                _ => None,
            })
            .collect()
    }
}

/// Hold a conversation, as far as the disk lets it.
async fn converse(world: &World, lines: &[&str], outside: &mut Outside) {
    let session = world.session().await;
    converse_in(world, session, lines, outside).await;
}

async fn converse_in(world: &World, session: Arc<Session>, lines: &[&str], outside: &mut Outside) {
    let mut follower = session.ledger.follow(Seq(0));
    let shown = outside.shown.clone();
    tokio::spawn(async move {
        while let Ok(entries) = follower.next().await {
            shown.lock().unwrap().extend(entries);
        }
    });
    for line in lines {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (what, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let ledger = &session.ledger;
        let over = || ledger.mark().dead.is_some() || world.disk.is_stopped();
        let done = match verb {
            "post" | "fire" => {
                let new = new_session(None);
                commands::post(&world.sessions, ledger, Some(&new), new_message(what, text)).map(
                    |posted| {
                        outside.messages.push(posted.message);
                        Some(posted.seq)
                    },
                )
            }
            "stop" => match commands::interrupt(ledger, Some(&name(what)), name("ada")) {
                Err(CommandError::Idle) => Ok(None),
                done => done.map(Some),
            },
            "answer" | "reply" => {
                let question = || asked(ledger, what).filter(|it| ledger.mark().durable >= *it);
                if verb == "answer" {
                    world.until(line, || question().is_some() || over()).await;
                }
                match question().map(|question| answer(ledger, question, text)) {
                    None | Some(Err(CommandError::NotAsked)) => Ok(None),
                    Some(done) => done.map(Some),
                }
            }
            "put" => {
                let (slot, by) = (name(what), name("ada"));
                let version =
                    ledger.look(|state| Some(state.slots.get(&slot)?.document.as_ref()?.version));
                match commands::put_slot(&world.sessions, ledger, &slot, by, version, text) {
                    Err(CommandError::SlotLocked(_)) => Ok(None),
                    done => done.map(|(seq, _)| Some(seq)),
                }
            }
            "delete" => commands::delete(ledger).map(|()| Some(ledger.look(|state| state.last))),
            "shown" => {
                world
                    .until(line, || outside.words().contains(rest) || over())
                    .await;
                Ok(None)
            }
            "pass" => {
                let mut left: u64 = rest.parse().expect("ms");
                let mut passed = || {
                    left = left.saturating_sub(1);
                    left == 0 || over()
                };
                world.until(line, &mut passed).await;
                Ok(None)
            }
            "answered" => {
                let busy = |state: &State| {
                    let waits = state
                        .participants
                        .values()
                        .any(|it| it.pending.iter().any(|pending| pending.fresh));
                    waits || !state.turns.is_empty()
                };
                world.until(line, || !ledger.look(busy) || over()).await;
                let last = ledger.look(|state| state.last);
                ledger.flush();
                world
                    .until(line, || ledger.mark().durable >= last || over())
                    .await;
                Ok(None)
            }
            other => panic!("no such line: {other}"),
        };
        match done {
            // Not waited for: it is not acknowledged.
            Ok(Some(_)) if verb == "fire" => {
                outside.messages.pop();
            }
            Ok(Some(seq)) => {
                ledger.flush();
                world
                    .until(line, || ledger.mark().durable >= seq || over())
                    .await;
                if ledger.mark().durable >= seq {
                    outside.acknowledged.push(seq);
                } else if verb == "post" {
                    outside.messages.pop();
                }
            }
            Ok(None) => {}
            Err(CommandError::Dead(_)) => {
                assert!(over());
            }
            Err(error) => panic!("{line}: {error}"),
        }
        if over() {
            return;
        }
    }
}
