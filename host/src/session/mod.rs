//! Sessions: who runs, when, and what happens after a crash.
//!
//! ```text
//! http --get/create--> Sessions --wake--> Session { ledger } <--append-- turns (runtime/)
//!                         ^                    | changed
//!                         | rest, bury         v
//!                       driver: look at the state -> machine::decide -> actions -> wait
//! ```
//!
//! - [`machine`](self): pure, what follows from a state.
//! - `rules`: what of an agent's configuration decides when its turns begin.
//! - `opening`: which sessions are in memory, and how one gets there and leaves.
//! - `driver`: the only loop; one task per open session, which owns the tasks of its turns.
//! - `turn`: one turn from `turn-started` to `turn-ended`.
//! - [`commands`]: what people do to a session. [`outcome`]: what became of a message.
//! - [`replay`]: a turn that is over, run again from its journal alone.
//! - [`fork`]: a session made from the beginning of another one.
//! - `set_aside`: sessions whose journals are damaged.
//! - `nested`: the sessions of nested calls; `announced`: those that are not open yet; `following`: a message to its end; `authorization`: what
//!   callers forward.
//! - `places`: places for turns, and how many wait; `quotas`: what tenants hold.
//! - `told`: what turns are told beside their messages.
//! - `tenants`: tenants that are not served, and the removal of one.
//! - `wake`: sessions that are due without anybody asking.
//!
//! Invariants: at most one open [`Session`] per journal; a session that nobody holds and that has
//! nothing to do is in the store alone; the locks that an old process left are free, and its
//! turns known, before anything new is admitted.

mod announced;
mod attempt;
mod authorization;
pub mod commands;
mod driver;
pub mod following;
pub mod fork;
mod instances;
mod machine;
mod nested;
mod opening;
pub mod outcome;
mod places;
mod quotas;
mod recovery;
pub mod replay;
mod rules;
mod set_aside;
#[cfg(test)]
mod sim;
mod tenants;
mod told;
mod turn;
mod wake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::Agents;
use crate::budgets::Budgets;
use crate::clock::{Clock, Time};
use crate::egress::Egress;
use crate::ledger::{Dead, Ledger};
use crate::logs::Logs;
use crate::model::Models;
use crate::runtime::cpu::Minutes;
use crate::runtime::limits::TurnLimits;
use crate::seal::Seal;
use crate::secrets::Secrets;
use crate::store::{JournalId, Latched, OpenError, ReadError, Store};
use crate::tenants::{Quotas as TenantQuotas, Tenants};

pub use instances::Instances;
pub use places::Overload;
pub use quotas::{Exceeded, Holding};

use announced::Announced;
use places::Places;
use quotas::Quotas;
use set_aside::SetAside;
use tenants::Served;
use wake::Agenda;

/// How long a session stays in memory with nothing to do: longer than people pause between
/// lines, short enough that idle sessions cost nothing.
const IDLE_MS: u64 = 30_000;

/// Losing the race against a session that dies or goes to rest is rare; losing it this often
/// is a defect.
const TRIES_MAX: usize = 8;

/// Why a session cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("there is no such session")]
    NotFound,
    #[error("the session is gone: it was deleted or has expired")]
    Gone,
    #[error("the host is stopping")]
    Draining,
    #[error(transparent)]
    Latched(#[from] Latched),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A defect, or a race lost too often.
    #[error("the session cannot be opened: {0}")]
    Broken(String),
}

impl SessionError {
    fn dies() -> Self {
        Self::Broken("it dies whenever it is opened".into())
    }
}

impl From<OpenError> for SessionError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Read(error) => Self::Read(error),
            OpenError::Latched(latched) => Self::Latched(latched),
        }
    }
}

impl From<Dead> for SessionError {
    fn from(dead: Dead) -> Self {
        match dead {
            Dead::Latched(latched) => Self::Latched(latched),
            Dead::Damaged(damage) => Self::Read(ReadError::Damaged(damage)),
            Dead::Closed | Dead::Fenced | Dead::Illegal(_) => Self::Broken(dead.to_string()),
        }
    }
}

/// What sessions run with.
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub instances: Instances,
    pub agents: Arc<Agents>,
    pub models: Models,
    pub egress: Egress,
    pub secrets: Secrets,
    pub budgets: Budgets,
    pub logs: Logs,
    pub limits: TurnLimits,
    /// What tenants may compute in a minute.
    pub minutes: Minutes,
    /// Whose quotas hold.
    pub tenants: Tenants,
    /// What tenants may use that have nothing of their own.
    pub quotas: TenantQuotas,
    /// Turns that run at once on this host, at each depth of calls.
    pub turns_max: usize,
    /// How long a turn that waits for a model to begin its answer keeps its instance.
    pub instance_wait: Duration,
    /// Those of one tenant, where there are several.
    pub turns_tenant_max: usize,
    /// Turns that wait for a place; what comes then is refused.
    pub turns_waiting_max: usize,
    /// The same of one tenant.
    pub turns_waiting_tenant_max: usize,
    /// Sessions held in memory; what needs another one is refused then.
    pub sessions_open_max: usize,
    /// Sessions that are copied at once; what comes then is refused.
    pub forks_max: usize,
    /// After how long without events sessions end that calls made by themselves.
    pub invoked_expire_after_ms: u64,
    /// What credentials are kept sealed with.
    pub seal: Seal,
    /// The last process did not stop cleanly: every turn is written down before it runs.
    pub unclean: bool,
}

/// All sessions of this host. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// Turns begun before this were begun by another process.
    started_at: Time,
    open: Mutex<opening::Map>,
    announced: Announced,
    set_aside: SetAside,
    served: Served,
    agenda: Agenda,
    turns: Places,
    quotas: Quotas,
    forks: Semaphore,
    burials: Semaphore,
    /// The drivers of open sessions, and whatever else ends by itself when the host drains.
    tasks: TaskTracker,
    /// Nothing new is started.
    draining: CancellationToken,
    /// What still runs is dropped.
    stopping: CancellationToken,
}

/// An open session. Whoever holds one keeps it in memory.
pub struct Session {
    pub journal: JournalId,
    pub ledger: Arc<Ledger>,
}

impl Sessions {
    pub fn new(parts: Parts) -> Self {
        let turns = Places::new(parts.limits.call_depth_max);
        let quotas = Quotas::new(parts.store.clone());
        let forks = Semaphore::new(parts.forks_max);
        let started_at = parts.clock.now();
        Self(Arc::new(Inner {
            parts,
            started_at,
            open: Mutex::new(opening::Map::new()),
            announced: Announced::default(),
            set_aside: SetAside::default(),
            served: Served::default(),
            agenda: Agenda::default(),
            turns,
            quotas,
            forks,
            burials: Semaphore::new(wake::BURIALS_MAX),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }))
    }

    pub fn agents(&self) -> &Arc<Agents> {
        &self.0.parts.agents
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.parts.store
    }

    /// After how long without events sessions end that calls made by themselves.
    pub fn invoked_expire_after_ms(&self) -> u64 {
        self.0.parts.invoked_expire_after_ms
    }

    pub fn limits(&self) -> &TurnLimits {
        &self.0.parts.limits
    }

    /// What tenants may compute in a minute.
    pub fn minutes(&self) -> &Minutes {
        &self.0.parts.minutes
    }

    pub fn budgets(&self) -> &Budgets {
        &self.0.parts.budgets
    }

    pub fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    fn now(&self) -> Time {
        self.0.parts.clock.now()
    }

    /// Start nothing new, wait at most this long for what runs, then leave the rest to be
    /// taken up by the next process. True if nothing was left.
    pub async fn stop(&self, drain: Duration) -> bool {
        self.0.draining.cancel();
        self.0.tasks.close();
        let drained = tokio::time::timeout(drain, self.0.tasks.wait())
            .await
            .is_ok();
        self.0.stopping.cancel();
        self.0.tasks.wait().await;
        drained
    }
}
