//! Which sessions are in memory, and how one gets there and leaves.
//!
//! ```text
//! open --> enter --> Opening --run, a task of its own--> wake --> Session
//!            ^          | dropped: if nothing came of it, and nobody else waits for it
//!            |          v
//!           the map of cells <--leave, rest, bury-- a session that is dead, idle or over
//! ```
//!
//! Invariants: at most one session of a journal is being opened or open. A cell without a session is
//! in the map only while somebody opens it or waits for that; and whoever opens it is never dropped
//! halfway, since what it has begun on other threads would reach into the next one's journal.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};

use tokio::sync::OnceCell;

use crate::id::{SessionId, TenantId};
use crate::journal::state::Phase;
use crate::ledger::{Dead, Ledger};
use crate::store::JournalId;
use crate::telemetry::Stage;

use super::{Session, SessionError, Sessions, TRIES_MAX, driver, fork, recovery, wake};

type Cell = Arc<OnceCell<Arc<Session>>>;

/// The sessions in memory, and those being opened.
pub(super) type Map = HashMap<JournalId, Cell>;

/// A session's cell, kept in the map by whoever opens the session or waits for that.
pub(super) struct Opening {
    sessions: Sessions,
    journal: JournalId,
    cell: Cell,
}

impl Opening {
    /// The session in the cell; if there is none, this is run, alone, and to its end even if nobody waits for it
    /// any more.
    pub(super) async fn run<E>(
        self,
        make: Pin<Box<dyn Future<Output = Result<Arc<Session>, E>> + Send>>,
    ) -> Result<(Arc<Session>, Self), E>
    where
        E: From<SessionError> + Send + 'static,
    {
        if let Some(session) = self.cell.get() {
            return Ok((session.clone(), self));
        }
        let tasks = self.sessions.0.tasks.clone();
        let opening = async move {
            let session = self.cell.get_or_try_init(|| make).await?.clone();
            Ok((session, self))
        };
        match tasks.spawn(opening).await {
            Ok(opened) => opened,
            Err(panicked) => Err(SessionError::Broken(panicked.to_string()).into()),
        }
    }

    /// The session is not to be had any more: whoever comes next opens it anew.
    pub(super) fn leave(self) {
        let mut map = self.sessions.map();
        if self.is_in(&map) {
            map.remove(&self.journal);
        }
    }

    fn is_in(&self, map: &Map) -> bool {
        map.get(&self.journal)
            .is_some_and(|cell| Arc::ptr_eq(cell, &self.cell))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.cell.get().is_some() {
            return;
        }
        let mut map = self.sessions.map();
        // This one's and the map's: whoever else waits took its own from there, under this lock, and
        // gives it back under it.
        let is_last = self.is_in(&map) && Arc::strong_count(&self.cell) == 2;
        if is_last && self.cell.get().is_none() {
            map.remove(&self.journal);
        }
        drop(std::mem::take(&mut self.cell));
    }
}

impl Sessions {
    /// The session, woken if it rests; waited for if a nested call is about to open it.
    pub async fn get(
        &self,
        tenant: &TenantId,
        session: &SessionId,
    ) -> Result<Arc<Session>, SessionError> {
        match self.find(tenant, session).await {
            Err(SessionError::NotFound) => {
                self.0
                    .announced
                    .settled(&JournalId {
                        tenant: tenant.clone(),
                        session: session.clone(),
                    })
                    .await;
                self.find(tenant, session).await
            }
            found => found,
        }
    }

    async fn find(
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
            let (sessions, name) = (self.clone(), journal.clone());
            let wake = Box::pin(async move { sessions.wake(&name, absent).await });
            let opened = self.enter(&journal)?.run::<SessionError>(wake).await;
            let (session, opening) =
                opened.inspect_err(|error| self.0.set_aside.learn(&journal, error))?;
            // `rest` counts under the map's lock who holds the session: either it sees this one, or
            // it is over and we see that the session rests.
            drop(self.map());
            let dead = session.ledger.mark().dead;
            if dead.is_none() || session.ledger.is_read_only() {
                return Ok(session);
            }
            if let Some(Dead::Damaged(damage)) = dead {
                self.0.set_aside.put(&journal, damage);
            }
            opening.leave();
        }
        Err(SessionError::dies())
    }

    /// Refuse what is set aside, and what would have to be woken while the host stops; what is open
    /// is served while it drains.
    pub(super) fn admit(&self, journal: &JournalId) -> Result<(), SessionError> {
        self.0.set_aside.check(journal)?;
        let is_open = self.map().contains_key(journal);
        if self.0.stopping.is_cancelled() || (self.0.draining.is_cancelled() && !is_open) {
            return Err(SessionError::Draining);
        }
        Ok(())
    }

    /// The session's place in memory, empty if it is not there; none if its tenant is being removed, looked at under
    /// the lock under which the places of such a tenant are taken away.
    pub(super) fn enter(&self, journal: &JournalId) -> Result<Opening, SessionError> {
        let mut map = self.map();
        if self.0.served.is_leaving(&journal.tenant) {
            return Err(SessionError::NotFound);
        }
        let cell = map.entry(journal.clone()).or_default().clone();
        drop(map);
        Ok(Opening {
            sessions: self.clone(),
            journal: journal.clone(),
            cell,
        })
    }

    /// Read the journal, settle what an older process left open, and start the driver.
    pub(super) async fn wake(
        &self,
        journal: &JournalId,
        absent: bool,
    ) -> Result<Arc<Session>, SessionError> {
        if wake::is_gone(self, journal).await? {
            return Err(SessionError::Gone);
        }
        fork::remove_unfinished(self, journal).await?;
        let (store, clock) = (self.0.parts.store.clone(), self.0.parts.clock.clone());
        let budgets = self.0.parts.budgets.clone();
        let name = journal.clone();
        let waking = Stage::Wake.begin();
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
        waking.is_over();
        let session = Arc::new(Session {
            journal: journal.clone(),
            ledger,
        });
        if !session.ledger.is_read_only() {
            recovery::recover(&session.ledger)?;
            self.0
                .tasks
                .spawn(driver::drive(self.clone(), session.clone()));
        }
        Ok(session)
    }

    /// Let a session go to rest; false if somebody holds it or it has something to do.
    pub(super) fn rest(&self, session: &Arc<Session>) -> bool {
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

    pub(super) fn map(&self) -> MutexGuard<'_, Map> {
        self.0
            .open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
