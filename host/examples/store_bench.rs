//! Appends of 300 bytes by clients that each wait for their own: appends per second
//! and the median wait, for the store on disk with and without syncing.
//!
//! `cargo run --release --example store_bench -- <folder on the disk to measure>`

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use antiphon::clock::Time;
use antiphon::id::{AgentName, Seq, SessionId, TenantId, TurnId};
use antiphon::journal::codec::{Frame, encode};
use antiphon::journal::entry::{Entry, Payload, Spoke};
use antiphon::store::{Commit, Durability, JournalId, SledOptions, Store, Write, open_sled};

const RUN: Duration = Duration::from_secs(3);

fn frame(seq: Seq) -> Frame {
    Frame::of(&[encode(&Entry {
        seq,
        time: Time(seq.0),
        payload: Payload::Spoke(Spoke {
            turn: TurnId::new("run_1.t0.echo").expect("a turn's name"),
            agent: AgentName::new("echo").expect("an agent's name"),
            text: "x".repeat(105),
            at: 0,
            speaker: None,
            index: None,
        }),
    })])
}

/// Called from `done`; the next append of the same client is made there, so that
/// hundreds of clients need no thread each.
struct Client {
    store: Arc<dyn Store>,
    journal: JournalId,
    state: Mutex<State>,
    ended: Arc<(Mutex<usize>, Condvar)>,
}

struct State {
    opened: antiphon::store::Opened,
    seq: Seq,
    since: Instant,
    waits: Vec<Duration>,
    end: Instant,
}

fn next(client: &Arc<Client>) {
    let mut state = client.state.lock().expect("no client panics");
    state.since = Instant::now();
    let frame = frame(state.seq.next());
    let append = Write::Append {
        journal: client.journal.clone(),
        generation: state.opened.generation,
        expected: state.opened.tail,
        frame,
    };
    let done = Arc::clone(client);
    let commit = Commit {
        writes: vec![append],
        done: Box::new(move |result| {
            result.expect("the store takes writes");
            let mut state = done.state.lock().expect("no client panics");
            let waited = state.since.elapsed();
            state.waits.push(waited);
            if Instant::now() < state.end {
                drop(state);
                next(&done);
            } else {
                *done.ended.0.lock().expect("no client panics") += 1;
                done.ended.1.notify_all();
            }
        }),
    };
    let tail = client.store.commit(commit).expect("the only owner");
    state.seq = state.seq.next();
    state.opened.tail = tail.expect("there was an append");
}

#[expect(clippy::print_stdout, reason = "what a benchmark is for")]
fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "/tmp".into());
    for durability in [Durability::Process, Durability::Power] {
        for clients in [1, 8, 64, 256] {
            let path = Path::new(&folder).join(format!("store-bench-{}", std::process::id()));
            let options = SledOptions {
                durability,
                ..SledOptions::default()
            };
            let store = open_sled(&path, options).expect("a folder for the store");
            let (rate, median, worst) = run(&store, clients);
            println!(
                "{durability:?}, {clients:>3} clients: {rate:>7.0} appends/s, \
                 p50 {median:>6} us, p99 {worst:>6} us"
            );
            store.close();
            drop(store);
            std::fs::remove_dir_all(&path).expect("the folder was ours");
        }
    }
}

fn run(store: &Arc<dyn Store>, count: usize) -> (f64, u128, u128) {
    let ended = Arc::new((Mutex::new(0), Condvar::new()));
    let start = Instant::now();
    let clients: Vec<Arc<Client>> = (0..count)
        .map(|n| {
            let journal = JournalId {
                tenant: TenantId::new("acme").expect("a tenant's name"),
                session: SessionId::new(&format!("session-{n}")).expect("a session's name"),
            };
            let opened = store.open(&journal).expect("an empty journal");
            let state = Mutex::new(State {
                opened,
                seq: opened.last,
                since: start,
                waits: Vec::new(),
                end: start + RUN,
            });
            Arc::new(Client {
                store: Arc::clone(store),
                journal,
                state,
                ended: Arc::clone(&ended),
            })
        })
        .collect();
    for client in &clients {
        next(client);
    }
    let mut left = ended.0.lock().expect("no client panics");
    while *left < count {
        left = ended.1.wait(left).expect("no client panics");
    }
    let mut waits: Vec<Duration> = clients
        .iter()
        .flat_map(|client| client.state.lock().expect("no client panics").waits.clone())
        .collect();
    waits.sort();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_micros();
    (
        waits.len() as f64 / start.elapsed().as_secs_f64(),
        at(50),
        at(99),
    )
}
