//! A turn that is over, run again from its journal alone, for whoever looks into it.
//!
//! The entries stand in a store in memory and in a ledger that takes no more. The turn gets what
//! it got then, every call is answered from the record, and the record is closed: where the
//! component does something else, or more, the run ends. No model is asked, no time is waited for.
//!
//! Invariant: the same component does the same, or this host broke its promise.

mod ending;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::agents::AgentConfig;
use crate::budgets::{Budgets, Terms};
use crate::clock::{Clock, Time};
use crate::id::{AgentName, Digest, Seq, SessionId, TenantId, TurnId};
use crate::journal::codec::{DecodeError, Encoded, Frame};
use crate::journal::entry::{Entry, Kind, Observation, Payload, TurnEnded, TurnStarted};
use crate::journal::state::{IllegalEntry, State};
use crate::ledger::Ledger;
use crate::logs::{Line, Logs};
use crate::model::{Models, Request, SetupError};
use crate::runtime::compiler::Compiling;
use crate::runtime::conversation::{self, definition::Definition, definition::DefinitionError};
use crate::runtime::cpu::Cpu;
use crate::runtime::engine::{ComponentError, Loaded, Runtime};
use crate::runtime::instance::{self, Exit, Input};
use crate::runtime::limits::TurnLimits;
use crate::runtime::random::Seeds;
use crate::runtime::replay::Replay;
use crate::runtime::scope::{Http, Record, Scope, TurnClock, TurnOutput};
use crate::store::{self, Commit, CommitError, JournalId, Memory, OpenError, Store, Write};

use super::told;
use super::turn::inputs;

pub use ending::Difference;

/// Places in the pool: one run needs as many core instances as a component may have, and each
/// place has four.
const PLACES: u32 = 8;

/// What the run may compute at least: the machine may be slower than the server, and the
/// component a debug build.
const CPU_MS_MIN: u64 = 2_000;

/// A turn does not wait for anything here, so this is only reached by a defect.
const WALL_MS: u64 = 600_000;

/// Entries of one frame of the store in memory: a read takes whole frames.
const FRAME_ENTRIES: usize = 64;

/// Printed lines that are kept, in bytes.
const PRINTED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Everything that a turn had.
#[derive(Debug, Clone)]
pub struct Case {
    pub session: SessionId,
    pub turn: TurnId,
    /// From the session's first to the turn's last one, at least.
    pub entries: Vec<Encoded>,
    /// Long documents that it read: see [`Case::values`].
    pub values: Vec<Bytes>,
    /// Of the version that the turn was started with.
    pub config: AgentConfig,
    pub seeds: Seeds,
}

/// Why a turn cannot be run again.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("the journal has no turn {0}")]
    NoSuchTurn(TurnId),
    #[error("the turn {0} has not ended yet")]
    NotEnded(TurnId),
    #[error("entry {0} of the journal is missing")]
    Gap(Seq),
    #[error("the journal cannot be read here: {0}")]
    Decode(#[from] DecodeError),
    #[error("the journal cannot be read here: {0}")]
    Illegal(#[from] IllegalEntry),
    #[error(transparent)]
    Component(#[from] ComponentError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("no engine for components: {0}")]
    Engine(#[from] std::io::Error),
    #[error("the journal cannot be held in memory: {0}")]
    Commit(#[from] CommitError),
    #[error("the journal cannot be held in memory: {0}")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Models(#[from] SetupError),
    /// A defect of this host.
    #[error("the run went beyond its record: {0}")]
    Live(String),
}

/// What came of it.
#[derive(Debug)]
pub struct Replayed {
    /// Calls answered, of so many in the record.
    pub calls: usize,
    pub calls_recorded: usize,
    /// What was said again, of this.
    pub said: String,
    pub said_recorded: String,
    pub took: Duration,
    /// How the turn ended then, in words.
    pub recorded_end: String,
    /// How it ended here; none if it was stopped where it differs.
    pub end: Option<String>,
    /// Where it first differs.
    pub difference: Option<Difference>,
    pub backtrace: Option<String>,
    /// What the component printed and logged, as far as it is kept.
    pub lines: Vec<Arc<Line>>,
}

/// The case as its entries tell it.
struct Story {
    started: (Seq, Time, TurnStarted),
    ended: (Seq, Time, TurnEnded),
    /// As it was when the turn had started.
    state: State,
    entries: Vec<Entry>,
}

impl Case {
    /// Digests of the long documents that the turn read, and of long answers that it got.
    pub fn values(entries: &[Entry], turn: &TurnId) -> Vec<Digest> {
        let read = entries.iter().filter_map(|entry| match &entry.payload {
            Payload::Observed(it) if it.turn == *turn => match &it.what {
                Observation::SlotRead { version, .. } => *version,
                _ => None,
            },
            _ => None,
        });
        let brought = entries
            .iter()
            .filter(|entry| entry.payload.made_by() == Some(turn));
        let brought = brought.filter_map(|entry| match &entry.payload {
            Payload::Returned(_) => entry.payload.value(),
            _ => None,
        });
        let mut digests: Vec<Digest> = read
            .filter_map(|version| {
                let at = entries.binary_search_by_key(&version, |entry| entry.seq);
                entries.get(at.ok()?)?.payload.value()
            })
            .chain(brought)
            .collect();
        digests.sort();
        digests.dedup();
        digests
    }

    fn story(&self) -> Result<Story, CaseError> {
        let decoded: Result<Vec<Entry>, DecodeError> =
            self.entries.iter().map(Encoded::decode).collect();
        let mut entries = decoded?;
        let numbers = entries.iter().zip(1..);
        if let Some((_, gap)) = numbers.into_iter().find(|(entry, seq)| entry.seq.0 != *seq) {
            return Err(CaseError::Gap(Seq(gap)));
        }
        let no_such_turn = || CaseError::NoSuchTurn(self.turn.clone());
        let mut state = State::default();
        let mut started = None;
        for entry in &entries {
            state.next(entry)?;
            if let Payload::TurnStarted(it) = &entry.payload
                && it.turn == self.turn
            {
                started = Some((entry.seq, entry.time, it.clone()));
                break;
            }
        }
        let started = started.ok_or_else(no_such_turn)?;
        let ended = entries.iter().find_map(|entry| match &entry.payload {
            Payload::TurnEnded(it) if it.turn == self.turn => {
                Some((entry.seq, entry.time, it.clone()))
            }
            _ => None,
        });
        let ended = ended.ok_or_else(|| CaseError::NotEnded(self.turn.clone()))?;
        entries.retain(|entry| entry.seq <= ended.0);
        Ok(Story {
            started,
            ended,
            state,
            entries,
        })
    }
}

/// Run the turn again with a component, and compare.
pub async fn run(case: &Case, component: &[u8]) -> Result<Replayed, CaseError> {
    let story = case.story()?;
    let last = story.ended.0;
    let (exit, scope, took) = perform(case, &story, component, last).await?;
    let record = Replay::of(&case.turn, story.entries.iter().cloned());
    let replay = scope
        .record
        .look(Clone::clone)
        .ok_or_else(|| CaseError::Live("it went live".into()))?;
    let recorded = ending::Recorded {
        ended: &story.ended.2,
        at: story.ended.1,
    };
    let compared = ending::compare(&recorded, &exit, &replay, &story.entries)?;
    let backtrace = match exit {
        Exit::Failed { backtrace, .. } | Exit::Differs { backtrace, .. } => backtrace,
        Exit::Completed { .. } | Exit::Over | Exit::Aside | Exit::Waits | Exit::Dead(_) => None,
    };
    let (lines, _) = scope.logs.read(&scope.tenant, &scope.agent);
    Ok(Replayed {
        calls: replay.made(compared.difference.as_ref().and_then(|it| it.at)),
        calls_recorded: record.calls(),
        said: replay.spoken().to_owned(),
        said_recorded: record.words().to_owned(),
        took,
        recorded_end: ending::recorded(&story.ended.2),
        end: compared.end,
        difference: compared.difference,
        backtrace,
        lines,
    })
}

/// What the component asks a model in the call whose entry this is: the journal has only the
/// request's digest, so whoever wants to see it has it asked again.
pub async fn request_at(
    case: &Case,
    component: &[u8],
    at: Seq,
) -> Result<Option<Request>, CaseError> {
    let story = case.story()?;
    let (_, scope, _) = perform(case, &story, component, at).await?;
    let at_end = scope.record.look(Replay::is_over) == Some(true);
    Ok(scope.record.request().filter(|_| at_end))
}

/// Run it with the record up to an entry.
async fn perform(
    case: &Case,
    story: &Story,
    component: &[u8],
    until: Seq,
) -> Result<(Exit, Arc<Scope>, Duration), CaseError> {
    let (started, at, turn_started) = &story.started;
    let mut limits = TurnLimits::of_pinned(&turn_started.private.limits);
    limits.cpu_ms_max = limits.cpu_ms_max.max(CPU_MS_MIN);
    limits.turn_ms_max = WALL_MS;
    let runs = Runs::load(component, &case.config, &limits).await?;
    // A tenant is part of no entry and no guest sees it.
    let tenant = TenantId::new("replay").expect("it is a label");
    let journal = JournalId {
        tenant: tenant.clone(),
        session: case.session.clone(),
    };
    let store = store::memory(&Memory::new());
    let ledger = fill(&store, &journal, case, story.ended.0).await?;
    let record = story.entries.iter().filter(|entry| entry.seq <= until);
    let replay = Replay::of(&case.turn, record.cloned()).closed();
    let agent = &turn_started.agent;
    let open = story.state.turns.get(&case.turn);
    let input = input(&story.state, &case.turn, agent, case.seeds.clone());
    let scope = Arc::new(Scope {
        tenant,
        session: case.session.clone(),
        turn: case.turn.clone(),
        run: turn_started.run.clone(),
        parent: turn_started.parent.clone(),
        depth: open.map_or(0, |open| open.depth),
        deadline: open.and_then(|open| open.bus.as_ref()?.deadline),
        authorized: None,
        has_called_tools: AtomicBool::new(false),
        told: told::of(&ledger, &input.messages)
            .await
            .map_err(|error| CaseError::Open(error.into()))?,
        credential: tokio::sync::OnceCell::new(),
        peers: None,
        agent: agent.clone(),
        started: *started,
        ran_ms: 0,
        ledger,
        limits,
        environment: case.config.variables(),
        models: Models::none()?,
        http: Http::none(),
        model_names: case.config.model_names(),
        budget: case.config.budget,
        // Nothing is spent here: every call is answered from the record.
        budgets: Budgets::new(store.clone(), Terms::default()),
        policy: case.config.policy.clone(),
        batching: case.config.batching,
        may_speak: case.config.grants().contains("reply"),
        watches: Arc::new(|_, _| false),
        logs: Logs::new(PRINTED_BYTES_MAX),
        clock: TurnClock::start(*at),
        cpu: Cpu::start(),
        output: TurnOutput::default(),
        calls: AtomicU64::new(0),
        written: AtomicU64::new(0),
        record: Record::of(replay, Instant::now()),
        instance_wait: None,
        kept: Mutex::default(),
    });
    let begun = Instant::now();
    let exit = runs.start(scope.clone(), input).await;
    let took = begun.elapsed();
    store.close();
    Ok((exit, scope, took))
}

/// What the turn was given.
fn input(state: &State, turn: &TurnId, agent: &AgentName, seeds: Seeds) -> Input {
    let open = state.turns.get(turn);
    let participant = state.participants.get(agent);
    Input {
        causes: open.map(|open| open.causes()).unwrap_or_default(),
        messages: open
            .map(|open| inputs(state, agent, &open.inputs))
            .unwrap_or_default(),
        context: participant
            .map(|participant| participant.context.clone())
            .unwrap_or_default(),
        seeds,
    }
}

/// What runs the turn.
enum Runs {
    Component(Box<(Runtime, Loaded)>),
    Conversation(Arc<Definition>),
}

impl Runs {
    /// No component begins as JSON does.
    async fn load(
        bytes: &[u8],
        config: &AgentConfig,
        limits: &TurnLimits,
    ) -> Result<Self, CaseError> {
        if let Some(b'{') = bytes.trim_ascii_start().first() {
            return Ok(Self::Conversation(Arc::new(Definition::parse(bytes)?)));
        }
        let (bytes, grants, limits) = (bytes.to_vec(), config.grants(), limits.clone());
        let compile = move || {
            let runtime = Runtime::new(PLACES, &limits, None, Compiling::default())?;
            let loaded = runtime.load_here(Digest::of(&bytes), &bytes, &grants)?;
            Ok(Self::Component(Box::new((runtime, loaded))))
        };
        match tokio::task::spawn_blocking(compile).await {
            Ok(loaded) => loaded,
            Err(_) => {
                Err(ComponentError::NotAComponent("the compiler gave up on it".into()).into())
            }
        }
    }

    async fn start(self, scope: Arc<Scope>, input: Input) -> Exit {
        match self {
            Self::Component(both) => instance::start(&both.0, &both.1, scope, input).await,
            Self::Conversation(definition) => conversation::start(definition, scope).await,
        }
    }
}

/// Write the case into a store, and open what it holds for reading.
async fn fill(
    store: &Arc<dyn Store>,
    journal: &JournalId,
    case: &Case,
    last: Seq,
) -> Result<Arc<Ledger>, CaseError> {
    let opened = store.open(journal)?;
    let values = case.values.iter().map(|bytes| Write::Value {
        journal: journal.clone(),
        digest: Digest::of(bytes),
        bytes: bytes.clone(),
    });
    store::write(&**store, values.collect()).await?;
    let until = case.entries.partition_point(|entry| entry.seq <= last);
    let mut tail = opened.tail;
    for entries in case.entries[..until].chunks(FRAME_ENTRIES) {
        let append = Write::Append {
            journal: journal.clone(),
            generation: opened.generation,
            expected: tail,
            frame: Frame::of(entries),
        };
        let commit = Commit {
            writes: vec![append],
            done: Box::new(|_| {}),
        };
        tail = store.commit(commit)?.unwrap_or(tail);
    }
    // The queue is in order: after this, all of it is there.
    store::write(&**store, Vec::new()).await?;
    let (store, journal) = (store.clone(), journal.clone());
    let open = move || Ledger::open_closed(store, journal, Clock::System);
    match tokio::task::spawn_blocking(open).await {
        Ok(ledger) => Ok(ledger?),
        Err(_) => Err(CaseError::Live("the reading thread ended early".into())),
    }
}

/// The word for the kind of an entry.
fn kind(entries: &[Entry], at: Seq) -> Option<Kind> {
    let at = entries.binary_search_by_key(&at, |entry| entry.seq);
    Some(entries[at.ok()?].payload.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::{Answered, CallResult, Content, Returned, Usage};
    use crate::journal::script::name;

    #[test]
    fn long_answers_of_the_turn_are_fetched_and_those_of_others_are_not() {
        let entry = |seq: u64, turn: &str, body: Content| Entry {
            seq: Seq(seq),
            time: Time(0),
            payload: Payload::Returned(Returned {
                turn: name(turn),
                n: 0,
                result: CallResult::Ok,
                usage: Usage::default(),
                attempts: 1,
                opening: false,
                poll: None,
                child: None,
                cached: false,
                answered: Some(Answered {
                    status: 200,
                    headers: Vec::new(),
                    body,
                }),
            }),
        };
        let stored = |text: &[u8]| Content::Stored {
            digest: Digest::of(text),
            bytes: 1,
        };
        let entries = [
            entry(1, "r.t0.a", stored(b"own")),
            entry(2, "r.t1.b", stored(b"other")),
            entry(3, "r.t0.a", Content::default()),
        ];
        assert_eq!(
            Case::values(&entries, &name("r.t0.a")),
            [Digest::of(b"own")]
        );
    }
}
