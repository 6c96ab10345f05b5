//! What one turn's instance may reach: its session's ledger, its models, its log.
//!
//! Every host call of a guest is one operation here, in two halves: answered from the record if
//! the turn is resumed and the record reaches that far, else decided and written down. The host
//! interfaces above only translate.
//!
//! - `slots`, `messages`, `transcript`, `reply`, `tools`, `answer` (of a model), `agents`, `conversation`, `http`, `timer`,
//!   `questions`, `budget`: the operations.
//! - `clock`, `output`: what of a turn is not an entry. [`peers`]: what nested calls need of the layer above;
//!   `forwarded`: what calls take along.
//!
//! Invariant: what a guest sees of the outside is in the journal before it sees it, and both
//! halves give the guest the same, so a turn can be run again from its entries.

pub(super) mod agents;
pub mod answer;
mod budget;
mod clock;
pub(super) mod conversation;
pub(super) mod forwarded;
mod http;
pub(super) mod messages;
mod output;
pub mod peers;
pub(super) mod questions;
pub(super) mod reply;
pub(super) mod slots;
pub(super) mod timer;
pub(super) mod tools;
mod transcript;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::budgets::{AgentBudget, Budgets};
use crate::bus::Authorization;
use crate::clock::Time;
use crate::config::PolicySettings;
use crate::id::{AgentName, Digest, MessageId, RunId, Seq, SessionId, SlotName, TenantId, TurnId};
use crate::journal::entry::{
    Answered, CallKind, CallResult, Called, Observation, Observed, Payload, Piece, Price, Retried,
    RetryReason, Returned, Streamed, Tool, Usage,
};
use crate::journal::state::{Batching, Used};
use crate::ledger::{AppendError, Batch, Dead, Ledger};
use crate::logs::Logs;
use crate::model::{ModelError, Models, Request};
use crate::store::ReadError;
use crate::telemetry::{self, Limit, Stage, stages};

use self::peers::Peers;
use super::cpu::Cpu;
use super::limits::TurnLimits;
use super::replay::{Differs, Recorded, Replay, Tried};

pub use answer::Kept;
pub use clock::TurnClock;
pub use http::Http;
pub use output::TurnOutput;

/// Bytes of documents kept for a replay: one of the longest there are.
const DOCUMENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why an instance cannot go on. Becomes a trap, and the turn's exit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Stop {
    /// Somebody ended the turn: an interruption, or the session is gone.
    #[error("the turn is over")]
    Over,
    /// It asks people something: it goes on in another instance, once that is answered.
    #[error("the turn is put aside")]
    Aside,
    /// It waits for a model: it goes on in another instance, once an answer begins. What it needs for that is [`Kept`].
    #[error("the turn waits without an instance")]
    Waits,
    #[error(transparent)]
    Dead(#[from] Dead),
    #[error("the turn used all of its {0}")]
    Limit(&'static str),
    /// It did what an agent must not do.
    #[error("{0}")]
    Misuse(&'static str),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Run again, it does not do what it did.
    #[error(transparent)]
    Differs(Box<Differs>),
}

impl Stop {
    /// What was asked of a model, for whoever looks into a difference.
    fn asking(self, request: &Request) -> Self {
        match self {
            Self::Differs(differs) => Self::Differs(Box::new(differs.asking(request))),
            other => other,
        }
    }
}

impl From<Differs> for Stop {
    fn from(differs: Differs) -> Self {
        Self::Differs(Box::new(differs))
    }
}

/// Whether an agent watches a slot, as configured now.
pub type Watches = Arc<dyn Fn(&AgentName, &SlotName) -> bool + Send + Sync>;

pub struct Scope {
    pub tenant: TenantId,
    pub session: SessionId,
    pub turn: TurnId,
    pub run: RunId,
    pub parent: Option<TurnId>,
    /// How many calls deep it runs; whatever it calls is one deeper.
    pub depth: u32,
    /// When its caller stops waiting. No call of the turn goes on after it.
    pub deadline: Option<Time>,
    /// The message that an authorization came with, which calls forward.
    pub authorized: Option<MessageId>,
    /// What came with its messages.
    pub told: Told,
    /// It asked its caller to call tools.
    pub has_called_tools: AtomicBool,
    pub credential: tokio::sync::OnceCell<Option<Authorization>>,
    /// Other sessions, for nested calls; none where there are none.
    pub peers: Option<Arc<dyn Peers>>,
    pub agent: AgentName,
    /// The seq of `turn-started`.
    pub started: Seq,
    /// How long it ran in attempts before this one.
    pub ran_ms: u64,
    pub ledger: Arc<Ledger>,
    pub limits: TurnLimits,
    pub environment: BTreeMap<String, String>,
    pub models: Models,
    pub http: Http,
    /// Names of models the agent may use; the first is its default.
    pub model_names: Vec<String>,
    /// What the agent may spend.
    pub budget: AgentBudget,
    /// What models cost, and what the tenant may spend.
    pub budgets: Budgets,
    /// How its calls are made, over what their targets' policies say.
    pub policy: PolicySettings,
    /// How messages that arrive while it runs become inputs, also its own.
    pub batching: Batching,
    /// Whether it was granted `reply`: `relay` speaks too.
    pub may_speak: bool,
    pub watches: Watches,
    pub logs: Logs,
    pub clock: TurnClock,
    pub cpu: Cpu,
    pub output: TurnOutput,
    pub calls: AtomicU64,
    /// Bytes that this attempt wrote into the journal.
    pub written: AtomicU64,
    pub record: Record,
    /// How long its instance is kept while it waits for an answer to begin; as long as it takes if none.
    pub instance_wait: Option<Duration>,
    /// What an instance before this one was given up with, or this one is.
    pub kept: Mutex<Option<Box<Kept>>>,
}

/// What came with a turn's messages, beside them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// System text.
    pub instructions: Option<String>,
    /// Tools that the caller offers to call.
    pub tools: Vec<Tool>,
}

/// What there is to answer from. Empty from the live edge on, and from the start in a first attempt.
#[derive(Debug, Default)]
pub struct Record {
    replay: Mutex<Option<Replay>>,
    /// When the attempt began.
    begun: Option<Instant>,
    /// Calls that earlier attempts made more than once.
    tried: BTreeMap<u32, Tried>,
    /// Documents that were read again: a guest that looks at one often does not have it read as often.
    documents: Mutex<BTreeMap<Seq, (String, Time)>>,
    /// Polls of the guest so far: which of them a timer ended is part of the record.
    polls: AtomicU64,
    /// Why the instance cannot go on, found where nothing can be answered.
    stopped: Mutex<Option<Stop>>,
    /// Of a closed record: the last request to a model that it answered.
    request: Mutex<Option<Request>>,
}

impl Record {
    /// Of an attempt that began at `begun`.
    pub fn of(replay: Replay, begun: Instant) -> Self {
        Self {
            begun: Some(begun),
            tried: replay.tried().clone(),
            replay: Mutex::new(Some(replay)),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Replay>> {
        self.replay
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Look at what was answered from it; none from the live edge on.
    pub fn look<T>(&self, look: impl FnOnce(&Replay) -> T) -> Option<T> {
        self.lock().as_ref().map(look)
    }

    /// The newest request to a model that a closed record answered. The journal has its digest alone.
    pub fn request(&self) -> Option<Request> {
        let request = self.request.lock();
        request
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    fn keep(&self, request: &Request) {
        if self.look(Replay::is_closed) == Some(true) {
            let kept = self.request.lock();
            *kept.unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(request.clone());
        }
    }

    /// Whether call `n` came back in an earlier attempt.
    fn has_returned(&self, n: u32) -> bool {
        self.look(|replay| replay.has_returned(n)) == Some(true)
    }

    /// How often a call of an earlier attempt was made.
    fn tried(&self, n: u32) -> Tried {
        self.tried.get(&n).copied().unwrap_or_default()
    }

    fn documents(&self) -> MutexGuard<'_, BTreeMap<Seq, (String, Time)>> {
        self.documents
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn keep_document(&self, version: Seq, text: String, written_at: Time) {
        let mut documents = self.documents();
        let kept: usize = documents.values().map(|(text, _)| text.len()).sum();
        if kept + text.len() > DOCUMENTS_BYTES_MAX {
            documents.clear();
        }
        documents.insert(version, (text, written_at));
    }

    fn stop(&self, stop: Stop) {
        let mut stopped = self
            .stopped
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        stopped.get_or_insert(stop);
    }

    fn take_stop(&self) -> Option<Stop> {
        let mut stopped = self
            .stopped
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        stopped.take()
    }
}

impl Scope {
    /// One more host call, if the turn may.
    pub(super) fn count(&self) -> Result<(), Stop> {
        stages::called();
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.limits.host_calls_max {
            telemetry::hit(Limit::HostCalls);
            return Err(Stop::Limit("host calls"));
        }
        if self.written.load(Ordering::Relaxed) >= self.limits.written_bytes_max {
            telemetry::hit(Limit::WrittenBytes);
            return Err(Stop::Limit("bytes in the journal"));
        }
        Ok(())
    }

    /// How long the turn may run on: its instances before this one count, as does what was waited between them.
    pub fn runs_for(&self) -> Duration {
        let ran_ms = self.ran_ms.saturating_add(self.cpu.age_ms());
        Duration::from_millis(self.limits.turn_ms_max.saturating_sub(ran_ms))
    }

    /// Whether calls are still answered from the record.
    pub fn is_replaying(&self) -> bool {
        self.record.lock().is_some()
    }

    /// The guest is done. An error if it left something undone that it had done.
    pub(super) fn finish(&self) -> Result<(), Stop> {
        let record = self.record.lock();
        let finished = record.as_ref().map_or(Ok(()), Replay::finish);
        finished.map_err(Stop::from)
    }

    /// The entry that answers the guest's next call, which asks for this; none from the live edge on.
    fn recorded(&self, asked: impl Fn() -> String) -> Result<Option<Recorded>, Stop> {
        self.count()?;
        self.recorded_part(asked)
    }

    /// The next entry of a call that was counted when it was made.
    fn recorded_part(&self, asked: impl Fn() -> String) -> Result<Option<Recorded>, Stop> {
        let mut record = self.record.lock();
        let Some(replay) = record.as_mut() else {
            return Ok(None);
        };
        if let Some(recorded) = replay.take(asked)? {
            // The clock moves with answers; a call that leaves the host is none yet.
            if !matches!(recorded.payload, Payload::Called(_) | Payload::Asked(_)) {
                self.clock.set(recorded.time);
            }
            return Ok(Some(recorded));
        }
        let replay = record.take();
        drop(record);
        self.go_live(replay.unwrap_or_default())?;
        Ok(None)
    }

    /// The live edge: take the locks again that the guest believes it holds, where nobody wrote in
    /// between. The others are lost, as their commits will hear.
    fn go_live(&self, replay: Replay) -> Result<(), Stop> {
        self.cpu.go_live(self.limits.cpu_ms_max);
        if let Some(begun) = self.record.begun {
            Stage::Replay.took(begun);
        }
        let held = replay.into_held();
        if held.is_empty() {
            return Ok(());
        }
        // The guest asked for nothing, so its clock stands: a further attempt replays no such entry.
        self.append_at(
            |batch, _| {
                for (slot, locked_at) in held {
                    self.take_again(batch, slot, locked_at);
                }
            },
            false,
        )
    }

    /// The recorded call is another one than the guest makes now.
    fn differs(&self, recorded: &Recorded, asked: impl fmt::Display) -> Stop {
        Differs::at(recorded, asked).into()
    }

    /// Decide and append as one step under the session's lock, as call `n` of the turn. The
    /// turn's clock moves to what was appended: the answer was given then.
    fn append<T>(&self, decide: impl FnOnce(&mut Batch<'_>, u32) -> T) -> Result<T, Stop> {
        self.append_at(decide, true)
    }

    fn append_at<T>(
        &self,
        decide: impl FnOnce(&mut Batch<'_>, u32) -> T,
        answers: bool,
    ) -> Result<T, Stop> {
        let appended = self.ledger.append(Some(&self.turn), |batch| {
            let n = batch
                .state()
                .turns
                .get(&self.turn)
                .map(|turn| turn.calls)
                .ok_or(Stop::Over)?;
            let (before, written) = (batch.state().last, batch.written_bytes());
            let decided = decide(batch, n);
            let written = batch.written_bytes() - written;
            self.written.fetch_add(written, Ordering::Relaxed);
            if answers && batch.state().last != before {
                self.clock.set(batch.state().time);
            }
            Ok(decided)
        });
        appended.map_err(|error| match error {
            AppendError::Dead(dead) => Stop::Dead(dead),
            AppendError::Refused(stop) => stop,
        })
    }

    /// The guest reads something: `look` finds it, and what it found is written down.
    fn observe<T>(&self, look: impl FnOnce(&mut Batch<'_>) -> (T, Observation)) -> Result<T, Stop> {
        self.append(|batch, n| {
            let (found, what) = look(batch);
            batch.push(self.observed(n, what));
            found
        })
    }

    fn observed(&self, n: u32, what: Observation) -> Payload {
        Payload::Observed(Observed {
            turn: self.turn.clone(),
            n,
            what,
        })
    }

    /// A call is about to leave the host. Answers its number.
    fn called(&self, call: CallKind, target: &str, request: Digest) -> Result<u32, Stop> {
        self.append_at(
            |batch, n| {
                let (turn, target) = (self.turn.clone(), target.to_owned());
                batch.push(Payload::Called(Called {
                    turn,
                    n,
                    call,
                    request,
                    target,
                    price: Price::default(),
                    request_bytes: 0,
                }));
                n
            },
            false,
        )
    }

    /// A model is about to be asked. If a cap is reached, the call comes back in the same step: it
    /// is never made. Answers the call's number, and that result.
    fn called_model(
        &self,
        target: &str,
        price: Price,
        request: Digest,
        request_bytes: u64,
    ) -> Result<(u32, Option<CallResult>), Stop> {
        self.append_at(
            |batch, n| {
                let over = self.over_budget(batch.state(), batch.now());
                batch.push(Payload::Called(Called {
                    turn: self.turn.clone(),
                    n,
                    call: CallKind::Model,
                    request,
                    target: target.to_owned(),
                    price,
                    request_bytes,
                }));
                batch.is_unmade(&self.turn, n);
                let result = over.map(|exhausted| CallResult::Failed {
                    error: ModelError::OverBudget.name().to_owned(),
                    status: 0,
                    detail: exhausted.to_string(),
                });
                if let Some(result) = &result {
                    let mut back = Back::new(n, result.clone());
                    (back.attempts, back.opening) = (0, true);
                    self.push_returned(batch, back);
                    self.clock.set(batch.state().time);
                }
                (n, result)
            },
            false,
        )
    }

    /// Call `n` is about to be made once more. Answers the entry's seq.
    fn retried(
        &self,
        n: u32,
        attempt: u32,
        reason: RetryReason,
        detail: Option<String>,
    ) -> Result<Seq, Stop> {
        self.append_at(
            |batch, _| {
                batch.push(Payload::Retried(Retried {
                    turn: self.turn.clone(),
                    n: Some(n),
                    attempt,
                    reason,
                    detail,
                }))
            },
            false,
        )
    }

    /// Pieces of an answer, before the guest gets them.
    fn streamed(&self, n: u32, pieces: Vec<Piece>) -> Result<(), Stop> {
        self.append(|batch, _| {
            batch.push(Payload::Streamed(Streamed {
                turn: self.turn.clone(),
                n,
                pieces,
            }));
        })
    }

    /// A call came back, with the last pieces of its answer. Answers what is booked for it.
    fn returned(&self, back: Back, pieces: &[Piece]) -> Result<Usage, Stop> {
        let pieces = (!pieces.is_empty()).then(|| pieces.to_vec());
        self.returned_with(back, pieces)
    }

    /// A call came back, with its answer in as many entries.
    fn returned_with(
        &self,
        back: Back,
        answer: impl IntoIterator<Item = Vec<Piece>>,
    ) -> Result<Usage, Stop> {
        self.append(|batch, _| {
            for pieces in answer {
                batch.push(Payload::Streamed(Streamed {
                    turn: self.turn.clone(),
                    n: back.n,
                    pieces,
                }));
            }
            self.push_returned(batch, back)
        })
    }

    /// The one place where what a call used becomes what is booked for it.
    fn push_returned(&self, batch: &mut Batch<'_>, back: Back) -> Usage {
        let open = batch.state().turns.get(&self.turn);
        let call = open.and_then(|open| open.open_calls.get(&back.n));
        let usage = call.map(|call| call.usage(back.used)).unwrap_or_default();
        batch.push(Payload::Returned(Returned {
            turn: self.turn.clone(),
            n: back.n,
            result: back.result,
            usage,
            attempts: back.attempts,
            opening: back.opening,
            poll: back.poll,
            cached: back.cached,
            answered: back.answered,
            child: back.child,
        }));
        usage
    }

    /// How long the turn may still run; none if it is over.
    fn wall_left(&self) -> Option<Duration> {
        let now = self.ledger.clock().now();
        self.ledger.look(|state| {
            let open = state.turns.get(&self.turn)?;
            let left_ms = self
                .limits
                .turn_ms_max
                .saturating_sub(open.ran_until_ms(now));
            Some(Duration::from_millis(left_ms))
        })
    }

    /// The key under which call `n` is made, the same if it is made again.
    fn call_key(&self, n: u32, request: &Digest) -> String {
        self.call_digest(n, request).to_string()
    }

    fn call_digest(&self, n: u32, request: &Digest) -> Digest {
        let parent = self.parent.as_ref();
        call_key(&self.tenant, &self.session, parent, &self.turn, n, request)
    }
}

/// The name of a call for whoever is called: the same for every attempt (design: Turns).
pub fn call_key(
    tenant: &TenantId,
    session: &SessionId,
    parent: Option<&TurnId>,
    turn: &TurnId,
    n: u32,
    request: &Digest,
) -> Digest {
    Digest::of_parts(&[
        tenant.as_str().as_bytes(),
        session.as_str().as_bytes(),
        parent.map_or("", TurnId::as_str).as_bytes(),
        turn.as_str().as_bytes(),
        &n.to_be_bytes(),
        &request.0,
    ])
}

/// How a call came back.
struct Back {
    n: u32,
    result: CallResult,
    used: Used,
    attempts: u32,
    opening: bool,
    poll: Option<u64>,
    cached: bool,
    /// The turn of a nested call.
    child: Option<TurnId>,
    answered: Option<Answered>,
}

impl Back {
    fn new(n: u32, result: CallResult) -> Self {
        Self {
            n,
            result,
            used: Used::Nothing,
            attempts: 1,
            opening: false,
            poll: None,
            cached: false,
            child: None,
            answered: None,
        }
    }
}
