//! The open journal of one session: the one place where entries are numbered.
//!
//! ```text
//! http, driver, instances --append--> [ lock: decide, fold, number, buffer ]
//!                                                   | flush
//!                                                   v
//!                          store's commit thread --done--> durable mark --> followers, waiters
//! ```
//!
//! Invariants: there is one live ledger per journal; entries are folded, numbered
//! and buffered under one short lock that never touches the disk. The
//! answer to anybody outside waits for the durable mark; a guest's own reads do
//! not. What a turn said but was not yet appended is never shown.
//!
//! It does not decide what runs (session/) nor what a guest may do (runtime/).

mod bill;
mod live;
mod read;
mod sealed;
pub mod transcript;
mod wait;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::budgets::Meter;
use crate::clock::Clock;
use crate::id::{Digest, Seq, SlotName, TurnId};
use crate::journal::codec::Frame;
use crate::journal::entry::{Content, Kind};
use crate::journal::state::{IllegalEntry, Slot, State};
use crate::store::{
    CommitError, Damage, JournalId, Latched, OpenError, RecordKey, RecordSpace, Store,
};
use crate::telemetry::Stage;

pub use live::{Batch, Voice, parse_wake};
use live::{Live, Owner};
pub use read::{Back, FollowError, Follower};
pub use sealed::authorization_key;

/// Bytes of a session that may wait for the flush before `say` pushes back:
/// several times what one sync writes, and small beside an instance's memory.
pub const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Long enough to join the tokens of a fast model, short enough not to be seen.
pub const WINDOW_MS: u64 = 2;

/// Values longer than this are stored beside the journal (design: 64 KiB).
pub const INLINE_BYTES_MAX: usize = 64 * 1024;

/// Why a ledger takes no more entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Dead {
    #[error(transparent)]
    Latched(#[from] Latched),
    /// A newer ledger of the same journal took over.
    #[error("the session was taken over")]
    Fenced,
    /// Closed on purpose: the session hibernates or the host stops.
    #[error("the session is closed")]
    Closed,
    /// A defect of this host: the entry it wanted to write is illegal.
    #[error(transparent)]
    Illegal(#[from] IllegalEntry),
    /// What is stored of the session cannot be read. Opened again, it would not be better.
    #[error("the session is damaged: {0}")]
    Damaged(Damage),
}

/// Why an append did not happen.
#[derive(Debug)]
pub enum AppendError<E> {
    Dead(Dead),
    /// The decision was no.
    Refused(E),
}

impl<E> From<Dead> for AppendError<E> {
    fn from(dead: Dead) -> Self {
        Self::Dead(dead)
    }
}

/// The open journal. Cheap to share.
pub struct Ledger {
    journal: JournalId,
    store: Arc<dyn Store>,
    clock: Clock,
    live: Mutex<Live>,
    /// The last durable entry, or why there will be no more.
    mark: watch::Sender<Mark>,
    /// Something was appended: whoever drives the session looks at its state.
    changed: Notify,
    dirty: AtomicBool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub durable: Seq,
    /// When that came to be, for measuring.
    pub since: Instant,
    pub dead: Option<Dead>,
}

impl Ledger {
    /// Take the journal over and fold it. Blocks: call it on a blocking thread.
    pub fn open(
        store: Arc<dyn Store>,
        journal: JournalId,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        Self::open_metered(store, journal, clock, Meter::default())
    }

    /// The same, with somebody who counts what is spent from now on.
    pub fn open_metered(
        store: Arc<dyn Store>,
        journal: JournalId,
        clock: Clock,
        meter: Meter,
    ) -> Result<Arc<Self>, OpenError> {
        let opened = store.open(&journal)?;
        let owner = Owner {
            generation: opened.generation,
            tail: opened.tail,
        };
        let mut live = Live::fold(&*store, &journal, Some(owner), opened.last)?
            .with_texts(&*store, &journal)?;
        live.bill.meter = meter;
        Ok(Self::of(store, journal, clock, live, None))
    }

    /// Fold the journal for reading while the store takes no writes: dead from its birth, with
    /// everything that is durable. Blocks.
    pub fn open_latched(
        store: Arc<dyn Store>,
        journal: JournalId,
        clock: Clock,
        latched: Latched,
    ) -> Result<Arc<Self>, OpenError> {
        let newest = store.frames_before(&journal, Seq(u64::MAX), &Kind::ALL, 1)?;
        let last = newest.first().map_or(Seq(0), Frame::last);
        let live = Live::fold(&*store, &journal, None, last)?.with_texts(&*store, &journal)?;
        Ok(Self::of(
            store,
            journal,
            clock,
            live,
            Some(Dead::Latched(latched)),
        ))
    }

    /// Fold a journal that goes no further, to read its entries: dead from its birth, and without
    /// the texts of slots as they are now, which may not be there. Blocks.
    pub fn open_closed(
        store: Arc<dyn Store>,
        journal: JournalId,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let newest = store.frames_before(&journal, Seq(u64::MAX), &Kind::ALL, 1)?;
        let last = newest.first().map_or(Seq(0), Frame::last);
        let live = Live::fold(&*store, &journal, None, last)?;
        Ok(Self::of(store, journal, clock, live, Some(Dead::Closed)))
    }

    fn of(
        store: Arc<dyn Store>,
        journal: JournalId,
        clock: Clock,
        mut live: Live,
        dead: Option<Dead>,
    ) -> Arc<Self> {
        live.dead = dead.clone();
        let mark = Mark {
            durable: live.state.last,
            since: Instant::now(),
            dead,
        };
        Arc::new(Self {
            journal,
            store,
            clock,
            live: Mutex::new(live),
            mark: watch::Sender::new(mark),
            changed: Notify::new(),
            dirty: AtomicBool::new(false),
        })
    }

    /// Whether it was opened to be read only.
    pub fn is_read_only(&self) -> bool {
        self.lock().owner.is_none()
    }

    pub fn journal(&self) -> &JournalId {
        &self.journal
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Decide and append in one step: `decide` sees the newest state and pushes what
    /// follows from it. It must check before it pushes: a refusal after a push leaves the push.
    /// What a turn said is appended before its next entry, if `turn` is given.
    pub fn append<T, E>(
        &self,
        turn: Option<&TurnId>,
        decide: impl FnOnce(&mut Batch<'_>) -> Result<T, E>,
    ) -> Result<T, AppendError<E>> {
        let appending = Stage::Append.begin();
        let mut live = self.lock();
        if let Some(dead) = &live.dead {
            return Err(AppendError::Dead(dead.clone()));
        }
        let now = self.clock.now();
        let before = live.state.last;
        let mut batch = Batch::new(&mut live, &self.journal, now);
        if let Some(turn) = turn {
            batch.close_chunk(turn);
        }
        let decided = decide(&mut batch);
        let illegal = batch.into_illegal();
        let appended = live.state.last != before;
        if let Some(illegal) = illegal {
            // The state no longer says what the caller believes: nothing may be built on it.
            tracing::error!(journal = ?self.journal, %illegal, "refused to write an illegal entry");
            return Err(AppendError::Dead(self.die(live, Dead::Illegal(illegal))));
        }
        drop(live);
        if appended {
            appending.is_over();
            self.touch();
        }
        decided.map_err(AppendError::Refused)
    }

    /// Say something as part of a turn's reply. It becomes an entry with the window,
    /// the next flush, or the turn's next entry. `decide` may refuse by what was said before.
    pub fn say<E>(
        &self,
        turn: &TurnId,
        text: &str,
        decide: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        self.say_as(turn, None, text, decide)
    }

    /// The same in a voice: an entry holds words of one voice alone.
    pub fn say_as<E>(
        &self,
        turn: &TurnId,
        voice: Option<&Voice>,
        text: &str,
        decide: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        let mut live = self.lock();
        if let Some(dead) = &live.dead {
            return Err(AppendError::Dead(dead.clone()));
        }
        decide(live.said(turn)).map_err(AppendError::Refused)?;
        if live.speaks_otherwise(turn, voice) {
            let mut batch = Batch::new(&mut live, &self.journal, self.clock.now());
            batch.close_chunk(turn);
            if let Some(illegal) = batch.into_illegal() {
                tracing::error!(journal = ?self.journal, %illegal, "refused to write an illegal entry");
                return Err(AppendError::Dead(self.die(live, Dead::Illegal(illegal))));
            }
        }
        live.say(turn, voice, text);
        drop(live);
        self.touch();
        Ok(())
    }

    /// A call that is under way leaves the host now, or waits again: if its turn is cut off, only what has left
    /// costs something.
    pub fn mark_call(&self, turn: &TurnId, n: u32, is_made: bool) {
        self.lock().bill.mark(turn, n, is_made);
    }

    /// Look at the newest state, durable or not. Short: it holds the lock.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Look at a slot together with its text, which is always in memory. Answers also the
    /// newest entry that the answer was made from.
    pub fn look_at_slot<T>(
        &self,
        name: &SlotName,
        look: impl FnOnce(&Slot) -> T,
    ) -> (Seq, Option<(T, Option<String>)>) {
        let live = self.lock();
        let found = live.state.slots.get(name).map(|slot| {
            let text = slot
                .document
                .as_ref()
                .map(|document| live.text(&document.content));
            (
                look(slot),
                text.map(|text| String::from_utf8_lossy(&text).into_owned()),
            )
        });
        (live.state.last, found)
    }

    /// Hand everything appended so far to the store. Does not wait.
    pub fn flush(&self) {
        let mut live = self.lock();
        if live.dead.is_some() {
            return;
        }
        live.close_chunks(&self.journal, self.clock.now());
        self.submit(live);
    }

    /// Whether something was appended or said and not yet handed to the store.
    pub fn has_unflushed(&self) -> bool {
        self.lock().has_unflushed()
    }

    /// Write a snapshot once enough entries came since the last one (or any, if `all`).
    pub fn snapshot(&self, all: bool) {
        let mut live = self.lock();
        let durable = self.mark.borrow().durable;
        if let Some(write) = live.snapshot(&self.journal, durable, all) {
            // A snapshot can always be rebuilt, so nobody waits for it.
            if let Err(error) = self.store.commit(commit(vec![write], |_| {})) {
                tracing::debug!(journal = ?self.journal, %error, "no snapshot written");
            }
        }
    }

    /// Take no more entries, and say when to be woken: the last act of an owner.
    /// Refused (false) if something was appended that is not durable yet.
    pub fn close(&self) -> bool {
        let mut live = self.lock();
        if live.dead.is_some() {
            return true;
        }
        if live.has_unflushed() || self.mark.borrow().durable != live.state.last {
            return false;
        }
        self.record_wake(&mut live);
        let owner = live.owner;
        self.die(live, Dead::Closed);
        if let Some(owner) = owner {
            self.store.release(&self.journal, owner.generation);
        }
        true
    }

    /// Stop at once, whatever is unflushed: nobody was told of it.
    pub fn abandon(&self) {
        let live = self.lock();
        if live.dead.is_none() {
            self.die(live, Dead::Closed);
        }
    }

    /// Keep a long text beside the journal, or inline if it is short.
    pub(crate) fn content(text: &str) -> (Content, Option<(Digest, Bytes)>) {
        if text.len() <= INLINE_BYTES_MAX {
            return (
                Content::Inline {
                    text: text.to_owned(),
                },
                None,
            );
        }
        let digest = Digest::of(text.as_bytes());
        let content = Content::Stored {
            digest,
            bytes: text.len() as u64,
        };
        (
            content,
            Some((digest, Bytes::copy_from_slice(text.as_bytes()))),
        )
    }

    fn touch(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// A panic under the lock leaves a state that nobody may trust: the ledger is dead then, and a
    /// new one folds the journal again.
    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(|poisoned| {
            let mut live = poisoned.into_inner();
            if live.dead.is_none() {
                live.dead = Some(Dead::Fenced);
                // Whoever waits would wait for ever otherwise.
                self.mark.send_modify(|mark| {
                    mark.dead.get_or_insert(Dead::Fenced);
                });
            }
            live
        })
    }

    fn submit(&self, mut live: MutexGuard<'_, Live>) {
        // Nobody may be reading: what is kept is bounded all the same.
        live.trim(self.mark.borrow().durable);
        let Some((mut writes, last)) = live.take_frame(&self.journal) else {
            return;
        };
        if let Some(write) = live.wake_write(&self.wake_key()) {
            // Before the frame, in the same commit: a session never becomes due unseen.
            writes.insert(0, write);
        }
        let mark = self.mark.clone();
        let flushing = Stage::Flush.begin();
        let done = move |result: Result<(), Latched>| {
            flushing.is_over();
            mark.send_modify(|mark| match result {
                Ok(()) => {
                    mark.durable = mark.durable.max(last);
                    mark.since = Instant::now();
                }
                Err(latched) => {
                    mark.dead.get_or_insert(Dead::Latched(latched));
                }
            });
        };
        let committed = self.store.commit(commit(writes, done));
        if committed.is_ok() {
            live.bill.meter.saved();
        }
        match committed {
            Ok(Some(tail)) => {
                if let Some(owner) = &mut live.owner {
                    owner.tail = tail;
                }
            }
            Ok(None) => {}
            Err(CommitError::Latched(latched)) => {
                self.die(live, Dead::Latched(latched));
            }
            Err(CommitError::Fenced | CommitError::TailMismatch) => {
                self.die(live, Dead::Fenced);
            }
        }
    }

    fn record_wake(&self, live: &mut Live) {
        if let Some(write) = live.rest_write(&self.wake_key()) {
            // Stale records are harmless, so a failure here is one useless wake-up.
            let _ = self.store.commit(commit(vec![write], |_| {}));
        }
    }

    fn wake_key(&self) -> RecordKey {
        wake_key(&self.journal)
    }

    fn die(&self, mut live: MutexGuard<'_, Live>, dead: Dead) -> Dead {
        let dead = live.dead.get_or_insert(dead).clone();
        drop(live);
        self.mark.send_modify(|mark| {
            mark.dead.get_or_insert(dead.clone());
        });
        self.touch();
        dead
    }
}

/// The record that has the session woken after a restart.
pub fn wake_key(journal: &JournalId) -> RecordKey {
    RecordKey {
        tenant: Some(journal.tenant.clone()),
        space: RecordSpace::Wake,
        name: journal.session.as_str().to_owned(),
    }
}

fn commit(
    writes: Vec<crate::store::Write>,
    done: impl FnOnce(Result<(), Latched>) + Send + 'static,
) -> crate::store::Commit {
    crate::store::Commit {
        writes,
        done: Box::new(done),
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
