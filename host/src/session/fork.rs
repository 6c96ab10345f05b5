//! A session made from the beginning of another one.
//!
//! ```text
//! record `fork`, wake record -> entries and values, batch by batch -> own entries, without the record
//!        one commit                       one commit each                      one commit
//! ```
//!
//! Everything is copied: whatever becomes of the other session, the new one does not need it.
//!
//! Invariant: as long as the record stands, the session is not there for anybody, and whoever
//! comes across it removes what is there of it. The wake record, which is written with it, has
//! that done after a crash too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::bus;
use crate::clock::Time;
use crate::id::{AgentName, Digest, Seq, SessionId, TenantId};
use crate::journal::codec::{Encoded, Frame, encode};
use crate::journal::entry::{Entry, Idempotency, SessionOpenedPrivate};
use crate::journal::notice::Noted;
use crate::journal::state::{Phase, State};
use crate::ledger::wake_key;
use crate::store::{
    Commit, CommitError, JournalId, Opened, ReadError, RecordKey, RecordSpace, Store, Write,
};
use crate::telemetry::{self, Limit};

use super::commands::{CommandError, Wait, fresh_secret};
use super::wake::{self, blocking};
use super::{Session, SessionError, Sessions, TRIES_MAX};

/// Entries copied by one commit: the size at which the store ends a group of commits.
const BATCH_BYTES: usize = 256 * 1024;

/// What a fork is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFork {
    /// The id of the new session.
    pub session: SessionId,
    /// The last entry that it shares with the other one; none for the newest durable one.
    pub at: Option<Seq>,
    pub idempotency: Option<Idempotency>,
    /// The message that it is made for, if it is made for one.
    pub next: Option<Next>,
}

/// A message that follows the fork at once, whose sender waits for the answer. What waits at the place is set aside, since
/// it is answered in the other session; and what would refuse the message refuses the fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    pub agent: AgentName,
    pub bus: Option<bus::Context>,
}

/// Why messages do not wait in a fork that goes on from an answer.
const ELSEWHERE: &str = "it is answered in the session that this one was forked from";

/// Why a session was not forked. There is no new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForkError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("there is nothing before the first entry")]
    AtNothing,
    #[error("the place is beyond the durable end of the session")]
    Ahead,
    #[error("the session exists already")]
    Exists,
    #[error("the idempotency key was used with another body")]
    KeyReused,
    #[error("as many sessions are being copied as may be")]
    Busy,
    #[error("whoever asked for it went away")]
    GivenUp,
    /// The message that it was made for.
    #[error(transparent)]
    Refused(#[from] CommandError),
}

/// A fork as it is made.
struct Making {
    journal: JournalId,
    parent: Result<(Arc<Session>, Seq), ForkError>,
    idempotency: Option<Idempotency>,
    next: Option<Next>,
    given_up: CancellationToken,
    /// Set if it was not there before.
    made: Arc<AtomicBool>,
}

/// A fork that is there, whole and durable.
pub struct Forked {
    pub session: Arc<Session>,
    /// The same key and body came before: this is that fork.
    pub replayed: bool,
}

impl Sessions {
    /// Make a session from the entries of another one up to a place.
    pub async fn fork(
        &self,
        tenant: &TenantId,
        from: &SessionId,
        new: &NewFork,
    ) -> Result<Forked, ForkError> {
        let journal = JournalId {
            tenant: tenant.clone(),
            session: new.session.clone(),
        };
        // Held from before the new one's place in memory is: whoever holds such a place waits
        // for no other session, or two could wait for each other.
        let parent = self.parent(tenant, from, new.at).await;
        // Gone with whoever asked for the fork.
        let asked = CancellationToken::new();
        let _asked = asked.clone().drop_guard();
        for _ in 0..TRIES_MAX {
            self.admit(&journal)?;
            let made = Arc::new(AtomicBool::new(false));
            let making = Box::pin(self.clone().make(Making {
                journal: journal.clone(),
                parent: parent.clone(),
                idempotency: new.idempotency,
                next: new.next.clone(),
                given_up: asked.clone(),
                made: made.clone(),
            }));
            let opened = self.enter(&journal)?.run::<ForkError>(making).await;
            let (session, opening) = opened.inspect_err(|error| {
                if let ForkError::Session(error) = error {
                    self.0.set_aside.learn(&journal, error);
                }
            })?;
            if made.load(Ordering::Acquire) {
                let replayed = false;
                return Ok(Forked { session, replayed });
            }
            let (phase, opened) = session
                .ledger
                .look(|state| (state.phase, state.opened_idempotency));
            match phase {
                Phase::Open => {
                    // Nobody is told what a crash could take back.
                    session.ledger.settle().await.map_err(SessionError::from)?;
                    return match (opened, new.idempotency) {
                        (Some(old), Some(new)) if old == new => {
                            let replayed = true;
                            Ok(Forked { session, replayed })
                        }
                        (Some(old), Some(new)) if old.key == new.key => Err(ForkError::KeyReused),
                        _ => Err(parent.err().unwrap_or(ForkError::Exists)),
                    };
                }
                Phase::Ended => return Err(SessionError::Gone.into()),
                Phase::Absent => {
                    // Somebody looked whether it is there; whoever would open it now is told to
                    // come again.
                    if let Some(latched) = self.0.parts.store.latched() {
                        return Err(SessionError::Latched(latched).into());
                    }
                    if session.ledger.close() {
                        opening.leave();
                    }
                }
            }
        }
        Err(SessionError::dies().into())
    }

    /// Open the session, made first if there is none.
    async fn make(self, making: Making) -> Result<Arc<Session>, ForkError> {
        let journal = &making.journal;
        if wake::is_gone(&self, journal).await? {
            return Err(SessionError::Gone.into());
        }
        remove_unfinished(&self, journal).await?;
        let (store, name) = (self.0.parts.store.clone(), journal.clone());
        if !blocking(move || Ok(store.exists(&name)?)).await? {
            self.copy(&making).await?;
            making.made.store(true, Ordering::Release);
        }
        Ok(self.wake(journal, false).await?)
    }

    /// The session to copy, and the last entry to copy.
    async fn parent(
        &self,
        tenant: &TenantId,
        from: &SessionId,
        at: Option<Seq>,
    ) -> Result<(Arc<Session>, Seq), ForkError> {
        let parent = self.get(tenant, from).await?;
        let durable = parent.ledger.mark().durable;
        match at.unwrap_or(durable) {
            Seq(0) => Err(ForkError::AtNothing),
            at if at > durable => Err(ForkError::Ahead),
            at => Ok((parent, at)),
        }
    }

    /// Copy, and wait until it is durable. A crash, and whoever gives this up, leaves either the
    /// whole fork or one that is removed.
    async fn copy(&self, making: &Making) -> Result<(), ForkError> {
        let (parent, at) = making.parent.as_ref().map_err(ForkError::clone)?;
        let journal = &making.journal;
        let _permit = self.0.forks.try_acquire().map_err(|_| {
            telemetry::hit(Limit::Forks);
            ForkError::Busy
        })?;
        let store = &self.0.parts.store;
        let mut unfinished = Unfinished {
            sessions: self,
            journal,
            is_done: false,
        };
        let now = Bytes::copy_from_slice(&Time(0).0.to_be_bytes());
        let records = [fork_key(journal), wake_key(journal)].map(|key| {
            let bytes = now.clone();
            Write::Record { key, bytes }
        });
        crate::store::write(&**store, records.into())
            .await
            .map_err(failed)?;
        let mut copy = Copy::open(store, journal).await?;
        while copy.state.last < *at {
            if making.given_up.is_cancelled() {
                return Err(ForkError::GivenUp);
            }
            if self.0.draining.is_cancelled() {
                return Err(SessionError::Draining.into());
            }
            copy = copy.batch(parent, *at).await?;
        }
        let private = SessionOpenedPrivate {
            secret: fresh_secret(),
            idempotency: making.idempotency,
        };
        let from = parent.journal.session.clone();
        let (entries, noted) = copy.own(from, private, making.next.is_some(), self.now())?;
        if let Some(next) = &making.next {
            let (agent, bus) = (&next.agent, next.bus.as_ref());
            let wait = Wait {
                agent,
                bus,
                invoked: true,
            };
            wait.check(self, &journal.tenant, &copy.state, self.now())?;
        }
        copy.finish(&entries, noted).await?;
        unfinished.is_done = true;
        Ok(())
    }

    /// Sessions of a tenant in order of id, after a given one, and where the next page goes on.
    /// Blocks.
    pub fn list(
        &self,
        tenant: &TenantId,
        after: Option<&SessionId>,
        count_max: usize,
    ) -> Result<(Vec<SessionId>, Option<SessionId>), ReadError> {
        let store = &self.0.parts.store;
        let page = store.journals(tenant, after, count_max)?;
        let next = page.sessions.last().filter(|_| page.more).cloned();
        // Read afterwards, so that none that is begun meanwhile is taken for a session.
        let unfinished = store.records(Some(tenant), RecordSpace::Fork, None, usize::MAX)?;
        let is_there = |id: &SessionId| unfinished.iter().all(|(name, _)| name != id.as_str());
        let mut sessions = page.sessions;
        sessions.retain(is_there);
        Ok((sessions, next))
    }
}

/// Remove what is there of a fork that nobody finished. Whoever calls this holds the session's
/// place in memory, so nobody is about to finish it.
pub(super) async fn remove_unfinished(
    sessions: &Sessions,
    journal: &JournalId,
) -> Result<(), SessionError> {
    let (store, key) = (sessions.0.parts.store.clone(), fork_key(journal));
    let record = blocking({
        let (store, key) = (store.clone(), key.clone());
        move || Ok(store.record(&key)?)
    });
    if record.await?.is_none() {
        return Ok(());
    }
    wake::clear(sessions, journal).await?;
    crate::store::write(&*store, vec![Write::Unrecord { key }])
        .await
        .map_err(failed)
}

/// The record of a session that is being copied.
fn fork_key(journal: &JournalId) -> RecordKey {
    RecordKey {
        tenant: Some(journal.tenant.clone()),
        space: RecordSpace::Fork,
        name: journal.session.as_str().to_owned(),
    }
}

fn failed(error: CommitError) -> SessionError {
    match error {
        CommitError::Latched(latched) => SessionError::Latched(latched),
        CommitError::Fenced | CommitError::TailMismatch => SessionError::Broken(error.to_string()),
    }
}

/// Has what was begun removed, if it is given up: by an error, or because the client went away.
struct Unfinished<'a> {
    sessions: &'a Sessions,
    journal: &'a JournalId,
    is_done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let now = self.sessions.now();
            self.sessions.0.agenda.put(self.journal, now);
        }
    }
}

/// A journal being written from another one, and its fold so far.
struct Copy {
    store: Arc<dyn Store>,
    journal: JournalId,
    owner: Opened,
    state: State,
}

impl Copy {
    async fn open(store: &Arc<dyn Store>, journal: &JournalId) -> Result<Self, SessionError> {
        let (store, journal) = (store.clone(), journal.clone());
        blocking(move || {
            let owner = store.open(&journal)?;
            let state = State::default();
            Ok(Self {
                store,
                journal,
                owner,
                state,
            })
        })
        .await
    }

    /// Copy some more entries, up to `at` at most, and the values that they name.
    async fn batch(mut self, parent: &Session, at: Seq) -> Result<Self, SessionError> {
        let name = parent.journal.clone();
        let read = blocking(move || {
            let batch = read(&*self.store, &name, &mut self.state, at)?;
            Ok((self, batch))
        });
        let (mut copy, (entries, values)) = read.await.map_err(|error| lost(parent, error))?;
        let mut writes: Vec<Write> = values
            .into_iter()
            .map(|(digest, bytes)| Write::Value {
                journal: copy.journal.clone(),
                digest,
                bytes,
            })
            .collect();
        writes.push(copy.append(&entries));
        copy.commit(writes).await?;
        Ok(copy)
    }

    /// The entries that make it a session of its own, taken into the fold.
    fn own(
        &mut self,
        from: SessionId,
        private: SessionOpenedPrivate,
        sets_aside: bool,
        now: Time,
    ) -> Result<(Vec<Encoded>, Noted), SessionError> {
        let (mut entries, mut noted) = (Vec::new(), Noted::default());
        let mut payloads = VecDeque::from(self.state.fork(from, private));
        let mut sets_aside = sets_aside;
        loop {
            if payloads.is_empty() && std::mem::take(&mut sets_aside) {
                // Now that the turns have ended: what they took is done with.
                payloads.extend(self.state.aside(ELSEWHERE));
            }
            let Some(payload) = payloads.pop_front() else {
                return Ok((entries, noted));
            };
            let entry = Entry {
                seq: self.state.last.next(),
                // Entry times never decrease, whatever the clock does.
                time: now.max(self.state.time),
                payload,
            };
            let illegal = |illegal| SessionError::Broken(format!("its own entries: {illegal}"));
            self.state.next(&entry).map_err(illegal)?;
            entries.push(encode(&entry));
            noted.note(&self.journal.session, &entry);
        }
    }

    /// From this commit on it is there.
    async fn finish(mut self, entries: &[Encoded], mut noted: Noted) -> Result<(), SessionError> {
        let key = fork_key(&self.journal);
        let mut writes = vec![Write::Unrecord { key }, self.append(entries)];
        writes.extend(noted.take().map(|row| Write::Notice {
            tenant: self.journal.tenant.clone(),
            bytes: row.into(),
        }));
        self.commit(writes).await?;
        self.store.release(&self.journal, self.owner.generation);
        Ok(())
    }

    fn append(&self, entries: &[Encoded]) -> Write {
        Write::Append {
            journal: self.journal.clone(),
            generation: self.owner.generation,
            expected: self.owner.tail,
            frame: Frame::of(entries),
        }
    }

    async fn commit(&mut self, writes: Vec<Write>) -> Result<(), SessionError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| {
            // Whoever waited may have given it up; then it is removed.
            let _ = sender.send(result);
        });
        let tail = self.store.commit(Commit { writes, done }).map_err(failed)?;
        match receiver.await {
            Ok(result) => result?,
            Err(_) => return Err(SessionError::Broken("the store was closed".into())),
        }
        if let Some(tail) = tail {
            self.owner.tail = tail;
        }
        Ok(())
    }
}

type Batch = (Vec<Encoded>, Vec<(Digest, Bytes)>);

/// The next entries after a fold, taken into it, and the values that they name. At least one.
fn read(
    store: &dyn Store,
    journal: &JournalId,
    state: &mut State,
    at: Seq,
) -> Result<Batch, ReadError> {
    let (mut entries, mut values) = (Vec::new(), Vec::new());
    let undecodable = |error| ReadError::undecodable(journal, &error);
    let mut bytes = 0;
    'batch: for frame in store.frames(journal, state.last, BATCH_BYTES)? {
        for encoded in frame.entries().map_err(undecodable)? {
            if encoded.seq <= state.last || encoded.seq > at {
                continue;
            }
            let entry = encoded.decode().map_err(undecodable)?;
            state.next(&entry).map_err(|illegal| {
                let missing = Some(state.last.next());
                ReadError::bad_entry(journal, missing, illegal.to_string())
            })?;
            if let Some(digest) = entry.payload.value() {
                let missing = || {
                    let what = format!("the value {digest} is missing");
                    ReadError::bad_entry(journal, Some(entry.seq), what)
                };
                let value = store.value(journal, &digest)?.ok_or_else(missing)?;
                bytes += value.len();
                values.push((digest, value));
            }
            bytes += encoded.len();
            entries.push(encoded);
            // Values are long: without this a batch would be as large as all that its entries name.
            if bytes > BATCH_BYTES {
                break 'batch;
            }
        }
    }
    if entries.is_empty() {
        let missing = Some(state.last.next());
        return Err(ReadError::bad_entry(journal, missing, "it is missing"));
    }
    Ok((entries, values))
}

/// What is read while it is copied may be a session that ends meanwhile, and then is removed.
fn lost(parent: &Session, error: SessionError) -> SessionError {
    if parent.ledger.look(|state| state.phase) == Phase::Ended {
        return SessionError::Gone;
    }
    match error {
        SessionError::Read(error) => SessionError::Read(parent.ledger.found(error)),
        other => other,
    }
}
