//! Sessions that are due without anybody asking, and those that are gone for good.
//!
//! The agenda is a copy in memory of the store's wake records of sessions at
//! rest. A record that is stale wakes a session for nothing and does no harm.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Time;
use crate::id::{SessionId, TenantId};
use crate::ledger::{parse_wake, wake_key};
use crate::store::{CommitError, JournalId, ReadError, RecordKey, RecordSpace, Write};

use super::{Session, SessionError, Sessions};

/// A session that is due but cannot go on is looked at again after this long.
pub(super) const AGAIN_MS: u64 = 1_000;

/// Sessions woken at once after a start.
const WAKING_MAX: usize = 32;

/// A deleted or expired id is remembered this long (design: a day).
pub(super) const TOMBSTONE_MS: u64 = 24 * 60 * 60 * 1000;

/// Rows removed by one commit, and the pause between: removing is never in a hurry.
const BURY_ROWS: usize = 1_000;
const BURY_PAUSE: Duration = Duration::from_millis(20);

/// Wake-ups by time. One entry per session.
#[derive(Default)]
pub(super) struct Agenda {
    times: Mutex<Times>,
    earlier: Notify,
}

#[derive(Default)]
struct Times {
    order: BTreeSet<(Time, JournalId)>,
    of: HashMap<JournalId, Time>,
}

impl Agenda {
    pub(super) fn put(&self, journal: &JournalId, at: Time) {
        let mut times = self
            .times
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(before) = times.of.insert(journal.clone(), at) {
            times.order.remove(&(before, journal.clone()));
        }
        times.order.insert((at, journal.clone()));
        drop(times);
        self.earlier.notify_one();
    }

    pub(super) fn forget_tenant(&self, tenant: &TenantId) {
        let mut times = self
            .times
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        times.order.retain(|(_, journal)| journal.tenant != *tenant);
        times.of.retain(|journal, _| journal.tenant != *tenant);
    }

    /// The sessions due now, and when the next one is.
    pub(super) fn take_due(&self, now: Time) -> (Vec<JournalId>, Option<Time>) {
        let mut times = self
            .times
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut due = Vec::new();
        while let Some((at, journal)) = times.order.first().cloned() {
            if at > now {
                return (due, Some(at));
            }
            times.order.pop_first();
            times.of.remove(&journal);
            due.push(journal);
        }
        (due, None)
    }
}

impl Sessions {
    /// Read the wake records: what an older process left to do is on the agenda.
    /// Blocks; the cost is one small record per session that will be due.
    pub fn read_agenda(&self, tenants: &[TenantId]) -> Result<usize, ReadError> {
        let mut count = 0;
        for tenant in tenants {
            let records =
                self.0
                    .parts
                    .store
                    .records(Some(tenant), RecordSpace::Wake, None, usize::MAX)?;
            for (name, bytes) in records {
                let (Ok(session), Some(at)) = (SessionId::new(&name), parse_wake(&bytes)) else {
                    return Err(ReadError::bad_record(format!("the wake record {name:?}")));
                };
                count += 1;
                self.0.agenda.put(
                    &JournalId {
                        tenant: tenant.clone(),
                        session,
                    },
                    at,
                );
            }
        }
        Ok(count)
    }

    /// Wake sessions as they become due, until the host drains.
    pub async fn keep_agenda(self) {
        loop {
            let now = self.now();
            let (due, next) = self.0.agenda.take_due(now);
            for journals in due.chunks(WAKING_MAX) {
                let mut waking = tokio::task::JoinSet::new();
                for journal in journals {
                    waking.spawn(self.clone().wake_due(journal.clone()));
                }
                waking.join_all().await;
            }
            // Wall time may step; an hour at most is slept on it.
            let wait_ms = next.map_or(3_600_000, |next| {
                next.ms_since(self.now()).clamp(1, 3_600_000)
            });
            tokio::select! {
                () = self.0.draining.cancelled() => return,
                () = self.0.agenda.earlier.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            }
        }
    }

    async fn wake_due(self, journal: JournalId) {
        // Opening it is enough: its driver looks at what is due. Where there is nothing, the record is
        // stale, and goes as the session rests: only its owner may take it away.
        match self.get_or_absent(&journal.tenant, &journal.session).await {
            Ok(_) => {}
            Err(SessionError::Gone) => remove(&self, &journal).await,
            // Somebody is removing all of it.
            Err(_) if self.0.served.is_leaving(&journal.tenant) => {}
            // It would be no better the next time.
            Err(SessionError::Read(ReadError::Damaged(damage))) if damage.journal.is_some() => {}
            Err(error) => {
                tracing::error!(session = %journal.session, %error, "a session that is due cannot be woken");
                self.0
                    .agenda
                    .put(&journal, self.now().plus_ms(60 * AGAIN_MS));
            }
        }
    }
}

/// Sessions removed at once: each keeps a thread while it waits for the disk, of which all that
/// wake others need one too, and so many share a sync.
pub(super) const BURIALS_MAX: usize = 32;

/// The session has ended: remember its id for a day, and remove what is stored.
pub(super) async fn bury(sessions: &Sessions, session: &Arc<Session>) {
    let journal = &session.journal;
    // Whoever waits for the last entry gets it first.
    if session.ledger.settle().await.is_err() {
        return;
    }
    let until = sessions.now().plus_ms(TOMBSTONE_MS);
    let bytes = bytes::Bytes::copy_from_slice(&until.0.to_be_bytes());
    let write = Write::Record {
        key: tombstone_key(journal),
        bytes,
    };
    // What it used stays the tenant's, whatever else goes.
    let (budgets, name) = (sessions.0.parts.budgets.clone(), journal.clone());
    let spent = session.ledger.look(|state| *state.spent());
    let place = sessions.0.burials.acquire().await;
    let buried = tokio::task::spawn_blocking(move || budgets.bury(&name, &spent, vec![write]));
    let buried = buried.await;
    drop(place);
    let failed = match buried {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panicked) => Some(panicked.to_string()),
    };
    if let Some(error) = failed {
        tracing::warn!(session = %journal.session, %error, "an ended session is not removed yet");
        return;
    }
    // From here on the id is gone for everybody, so it can leave the memory.
    let _ = session.ledger.close();
    sessions.map().remove(journal);
    remove(sessions, journal).await;
}

/// Remove a gone session's rows, a few at a time. Until its id is free again, its wake record
/// stays: it has the removal go on after a crash, and the tombstone removed in the end.
async fn remove(sessions: &Sessions, journal: &JournalId) {
    let until = match tombstone(sessions, journal).await {
        Ok(Some(until)) => until,
        // Its driver buries it, tombstone first.
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(session = %journal.session, %error, "an ended session is not removed yet");
            return;
        }
    };
    if let Err(error) = clear(sessions, journal).await {
        tracing::warn!(session = %journal.session, %error, "an ended session is not removed yet");
        return;
    }
    let bytes = bytes::Bytes::copy_from_slice(&until.0.to_be_bytes());
    let write = Write::Record {
        key: wake_key(journal),
        bytes,
    };
    match crate::store::write(&*sessions.0.parts.store, vec![write]).await {
        Ok(()) => sessions.0.agenda.put(journal, until),
        Err(error) => {
            tracing::debug!(session = %journal.session, %error, "a tombstone stays until the next start");
        }
    }
}

/// Remove a journal's rows that nobody reads any more.
pub(super) async fn clear(sessions: &Sessions, journal: &JournalId) -> Result<(), SessionError> {
    loop {
        let (store, name) = (sessions.0.parts.store.clone(), journal.clone());
        let place = sessions.0.burials.acquire().await;
        let is_done = blocking(move || Ok(store.clear(&name, BURY_ROWS)?)).await?;
        drop(place);
        if is_done {
            return Ok(());
        }
        tokio::time::sleep(BURY_PAUSE).await;
    }
}

/// Whether the id is not to be used. One that was gone for its day is free again, without
/// anything that a crash left of the session that had it: its journal has lost its beginning.
pub(super) async fn is_gone(
    sessions: &Sessions,
    journal: &JournalId,
) -> Result<bool, SessionError> {
    let Some(until) = tombstone(sessions, journal).await? else {
        return Ok(false);
    };
    if sessions.now() < until {
        return Ok(true);
    }
    clear(sessions, journal).await?;
    let key = tombstone_key(journal);
    crate::store::write(&*sessions.0.parts.store, vec![Write::Unrecord { key }])
        .await
        .map_err(|error| match error {
            CommitError::Latched(latched) => SessionError::Latched(latched),
            CommitError::Fenced | CommitError::TailMismatch => {
                SessionError::Broken(error.to_string())
            }
        })?;
    Ok(false)
}

/// The record that remembers an id that is gone.
fn tombstone_key(journal: &JournalId) -> RecordKey {
    RecordKey {
        tenant: Some(journal.tenant.clone()),
        space: RecordSpace::Tombstone,
        name: journal.session.as_str().to_owned(),
    }
}

async fn tombstone(sessions: &Sessions, journal: &JournalId) -> Result<Option<Time>, SessionError> {
    let (store, key) = (sessions.0.parts.store.clone(), tombstone_key(journal));
    let record = blocking(move || Ok(store.record(&key)?)).await?;
    Ok(record.and_then(|bytes| parse_wake(&bytes)))
}

/// Run something that touches the disk where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SessionError> + Send + 'static,
) -> Result<T, SessionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => Err(SessionError::Broken(panicked.to_string())),
    }
}
