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
//! - `driver`: the only loop; one task per open session, which owns the tasks of its turns.
//! - `turn`: one turn from `turn-started` to `turn-ended`.
//! - [`commands`]: what people do to a session. [`outcome`]: what became of a message.
//! - [`replay`]: a turn that is over, run again from its journal alone.
//! - [`fork`]: a session made from the beginning of another one.
//! - `set_aside`: sessions whose journals are damaged.
//! - `nested`: the sessions of nested calls; `following`: a message to its end; `authorization`: what
//!   callers forward.
//! - `places`: places for turns, and how many wait; `quotas`: what tenants hold.
//! - `tenants`: tenants that are not served, and the removal of one.
//! - `wake`: sessions that are due without anybody asking.
//!
//! Invariants: at most one open [`Session`] per journal; a session that nobody holds and that has
//! nothing to do is in the store alone; the locks that an old process left are free, and its
//! turns known, before anything new is admitted.

mod authorization;
pub mod commands;
mod driver;
pub mod following;
pub mod fork;
mod instances;
mod machine;
mod nested;
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
mod turn;
mod wake;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::Agents;
use crate::budgets::Budgets;
use crate::clock::{Clock, Time};
use crate::egress::Egress;
use crate::id::{SessionId, TenantId};
use crate::journal::state::Phase;
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
    open: Mutex<HashMap<JournalId, Arc<OnceCell<Arc<Session>>>>>,
    set_aside: SetAside,
    served: Served,
    agenda: Agenda,
    turns: Places,
    quotas: Quotas,
    forks: Semaphore,
    burials: Semaphore,
    drivers: TaskTracker,
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
            open: Mutex::new(HashMap::new()),
            set_aside: SetAside::default(),
            served: Served::default(),
            agenda: Agenda::default(),
            turns,
            quotas,
            forks,
            burials: Semaphore::new(wake::BURIALS_MAX),
            drivers: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// The session, woken if it rests.
    pub async fn get(
        &self,
        tenant: &TenantId,
        session: &SessionId,
    ) -> Result<Arc<Session>, SessionError> {
        let open = self.open(tenant, session, false).await?;
        match open.ledger.look(|state| state.phase) {
            Phase::Open => Ok(open),
            Phase::Ended => Err(SessionError::Gone),
            Phase::Absent => Err(SessionError::NotFound),
        }
    }

    /// The session, or an empty journal under its name for whoever opens it next. An id that
    /// is gone stays gone for a day.
    pub async fn get_or_absent(
        &self,
        tenant: &TenantId,
        session: &SessionId,
    ) -> Result<Arc<Session>, SessionError> {
        let open = self.open(tenant, session, true).await?;
        match open.ledger.look(|state| state.phase) {
            Phase::Open | Phase::Absent => Ok(open),
            Phase::Ended => Err(SessionError::Gone),
        }
    }

    async fn open(
        &self,
        tenant: &TenantId,
        session: &SessionId,
        absent: bool,
    ) -> Result<Arc<Session>, SessionError> {
        let journal = JournalId {
            tenant: tenant.clone(),
            session: session.clone(),
        };
        for _ in 0..TRIES_MAX {
            self.admit(&journal)?;
            let cell = self.place(&journal)?;
            let open = cell.get_or_try_init(|| self.wake(&journal, absent)).await;
            match open {
                Ok(open) => {
                    // Under the map's lock, for `rest` counts who holds it there: either it
                    // sees this one, or we see that it rests.
                    let map = self.map();
                    let open = open.clone();
                    drop(map);
                    let dead = open.ledger.mark().dead;
                    if dead.is_none() || open.ledger.is_read_only() {
                        return Ok(open);
                    }
                    if let Some(Dead::Damaged(damage)) = dead {
                        self.0.set_aside.put(&journal, damage);
                    }
                    self.forget(&journal, &cell);
                }
                Err(error) => {
                    self.0.set_aside.learn(&journal, &error);
                    self.forget(&journal, &cell);
                    return Err(error);
                }
            }
        }
        Err(SessionError::dies())
    }

    /// Refuse what is set aside, and what would have to be woken while the host stops; what is open
    /// is served while it drains.
    fn admit(&self, journal: &JournalId) -> Result<(), SessionError> {
        self.0.set_aside.check(journal)?;
        let is_open = self.map().contains_key(journal);
        if self.0.stopping.is_cancelled() || (self.0.draining.is_cancelled() && !is_open) {
            return Err(SessionError::Draining);
        }
        Ok(())
    }

    /// The session's place in memory, unless its tenant is being removed: looked at under the lock under which
    /// the places of such a tenant are taken away.
    fn place(&self, journal: &JournalId) -> Result<Arc<OnceCell<Arc<Session>>>, SessionError> {
        let mut map = self.map();
        if self.0.served.is_leaving(&journal.tenant) {
            return Err(SessionError::NotFound);
        }
        Ok(map.entry(journal.clone()).or_default().clone())
    }

    /// Read the journal, settle what an older process left open, and start the driver.
    async fn wake(&self, journal: &JournalId, absent: bool) -> Result<Arc<Session>, SessionError> {
        if wake::is_gone(self, journal).await? {
            return Err(SessionError::Gone);
        }
        fork::remove_unfinished(self, journal).await?;
        let (store, clock) = (self.0.parts.store.clone(), self.0.parts.clock.clone());
        let budgets = self.0.parts.budgets.clone();
        let name = journal.clone();
        let opening = tokio::task::spawn_blocking(move || {
            if !absent && !store.exists(&name)? {
                return Err(SessionError::NotFound);
            }
            if let Some(latched) = store.latched() {
                // What is durable can still be read.
                return Ok(Ledger::open_latched(store, name, clock, latched)?);
            }
            let meter = budgets.meter(&name.tenant, clock.now())?;
            Ok(Ledger::open_metered(store, name, clock, meter)?)
        });
        let ledger = match opening.await {
            Ok(ledger) => ledger?,
            Err(panicked) => return Err(SessionError::Broken(panicked.to_string())),
        };
        let session = Arc::new(Session {
            journal: journal.clone(),
            ledger,
        });
        if !session.ledger.is_read_only() {
            recovery::recover(&session.ledger)?;
            self.0
                .drivers
                .spawn(driver::drive(self.clone(), session.clone()));
        }
        Ok(session)
    }

    /// Forget a session, if nobody put a newer one in its place.
    fn forget(&self, journal: &JournalId, cell: &Arc<OnceCell<Arc<Session>>>) {
        let mut map = self.map();
        if map
            .get(journal)
            .is_some_and(|current| Arc::ptr_eq(current, cell))
        {
            map.remove(journal);
        }
    }

    /// Let a session go to rest; false if somebody holds it or it has something to do.
    fn rest(&self, session: &Arc<Session>) -> bool {
        let mut map = self.map();
        // The map's and the driver's: under the map's lock nobody gets another.
        if Arc::strong_count(session) > 2 || !session.ledger.close() {
            return false;
        }
        map.remove(&session.journal);
        drop(map);
        if let Some(due) = session.ledger.look(|state| state.next_due()) {
            self.0.agenda.put(
                &session.journal,
                due.max(self.now().plus_ms(wake::AGAIN_MS)),
            );
        }
        true
    }

    /// Sessions in memory.
    pub fn open_count(&self) -> usize {
        self.map().len()
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
        self.0.drivers.close();
        let drained = tokio::time::timeout(drain, self.0.drivers.wait())
            .await
            .is_ok();
        self.0.stopping.cancel();
        self.0.drivers.wait().await;
        drained
    }

    fn map(&self) -> MutexGuard<'_, HashMap<JournalId, Arc<OnceCell<Arc<Session>>>>> {
        self.0
            .open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
