//! Group commit: one queue, one thread, and one batch that is brought to disk for many commits.
//!
//! ```text
//! callers: encode, then under the lock: check, number, queue
//! thread:  take a group -> publish its changes -> have the engine commit them -> take them back
//!          -> settle -> call each `done` in order -> let the engine tidy up, more while nobody waits
//! ```
//!
//! Invariant: the commits of one tenant are applied in the order accepted; those of several go in
//! turns ([`super::lines`]). Nothing of one depends on another's: whoever needs two tenants' rows in
//! order waits for the first. A `done` is called with `Ok` only when it is on disk. The
//! first failure latches: the group and everything queued behind it is told so, and its changes
//! stay published, so that readers go on seeing what was there before.
//!
//! The queue itself has no bound: its length is that of the commits not yet done,
//! and whoever commits waits for `done` or accounts for the bytes it has in flight.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::changes::{Op, add, encode};
use super::engine::{Changes, Engine, EngineError, Others};
use super::keys;
use super::lines::{Line, Lines};
use super::notices::{Ends, Numbers};
use super::owners::{Owners, Taken, Ticket};
use super::view::InFlight;
use super::{Commit, CommitError, Generation, JournalId, Latched, OpenError, Tail};
use crate::id::Seq;

/// A group ends here: below one of sled's segments (512 KiB), of which [`super::sled`] says why, and short enough that
/// what comes next does not wait long. A larger commit goes alone.
const GROUP_BYTES_MAX: usize = 256 * 1024;

type Done = Box<dyn FnOnce(Result<(), Latched>) + Send>;

struct Accepted {
    ops: Vec<Op>,
    ticket: Ticket,
    done: Done,
}

#[derive(Default)]
struct Queue {
    accepted: Lines<Accepted>,
    owners: Owners,
    newest: Ticket,
    /// What was accepted and is neither durable nor failed yet.
    open: BTreeSet<Ticket>,
    latched: Option<Latched>,
    closing: bool,
    /// The thread waits for work, so it must be woken.
    idle: bool,
}

/// What the thread does next.
enum Next {
    Group(Vec<Accepted>),
    /// Nobody waits.
    Idle,
    Closed,
}

struct Shared {
    engine: Arc<dyn Engine>,
    in_flight: Arc<InFlight>,
    ends: Ends,
    queue: Mutex<Queue>,
    work: Condvar,
    settled: Condvar,
}

/// The queue and its thread.
pub(in crate::store) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    pub(in crate::store) fn start(
        engine: Arc<dyn Engine>,
        in_flight: Arc<InFlight>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            engine,
            in_flight,
            ends: Ends::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
            settled: Condvar::new(),
        });
        let thread = Builder::new().name("store-commit".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(in crate::store) fn commit(&self, commit: Commit) -> Result<Option<Tail>, CommitError> {
        let ops = encode(&commit.writes);
        let mut queue = self.shared.lock();
        queue.admit()?;
        let ticket = Ticket(queue.newest.0 + 1);
        let tail = queue.owners.accept(&commit.writes, ticket)?;
        self.shared.push(queue, ops, commit.done);
        Ok(tail)
    }

    /// Remove keys of a journal that nobody has open, and wait until that is durable.
    pub(in crate::store) fn delete(&self, keys: Vec<Vec<u8>>) -> Result<(), Latched> {
        let queue = self.shared.lock();
        queue.admit()?;
        let ops = keys.into_iter().map(Op::Delete).collect();
        let ticket = self.shared.push(queue, ops, Box::new(|_| {}));
        self.wait(ticket)
    }

    pub(in crate::store) fn take_over(&self, journal: &JournalId) -> Result<Taken, OpenError> {
        let mut queue = self.shared.lock();
        queue.admit()?;
        let taken = queue.owners.take_over(journal);
        drop(queue);
        self.wait(taken.last)?;
        Ok(taken)
    }

    pub(in crate::store) fn set_tail(&self, journal: &JournalId, of: Generation, tail: Seq) {
        self.shared.lock().owners.set_tail(journal, of, tail);
    }

    pub(in crate::store) fn release(&self, journal: &JournalId, generation: Generation) {
        let queue = &mut *self.shared.lock();
        queue.owners.release(journal, generation, &queue.open);
    }

    pub(in crate::store) fn ends(&self) -> &Ends {
        &self.shared.ends
    }

    pub(in crate::store) fn is_settled(&self) -> bool {
        self.shared.lock().open.is_empty()
    }

    pub(in crate::store) fn latched(&self) -> Option<Latched> {
        self.shared.lock().admit().err()
    }

    /// Write out what is queued and end the thread.
    pub(in crate::store) fn close(&self) {
        self.shared.stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // The thread catches panics of the engine and of every `done`, so it ends well.
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the commit thread panicked");
        }
    }

    /// Wait until a commit is durable, or learn that it failed.
    fn wait(&self, ticket: Ticket) -> Result<(), Latched> {
        let mut queue = self.shared.lock();
        loop {
            if let Some(latched) = &queue.latched {
                return Err(latched.clone());
            }
            if !queue.open.contains(&ticket) {
                return Ok(());
            }
            queue = self
                .shared
                .settled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn owners_len(&self) -> usize {
        self.shared.lock().owners.len()
    }
}

impl Drop for Committer {
    /// Does not wait: in tests the thread may be stopped for ever.
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Queue {
    fn admit(&self) -> Result<(), Latched> {
        match &self.latched {
            Some(latched) => Err(latched.clone()),
            None if self.closing => Err(Latched {
                reason: "the store is closed".into(),
            }),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut queue: MutexGuard<'_, Queue>, ops: Vec<Op>, done: Done) -> Ticket {
        queue.newest.0 += 1;
        let ticket = queue.newest;
        queue.open.insert(ticket);
        let bytes = ops.iter().map(Op::bytes).sum();
        let first = ops.first().map_or(&[][..], Op::key);
        let line: Line = keys::owner(first).into();
        let accepted = Accepted { ops, ticket, done };
        queue.accepted.push(line, bytes, accepted);
        // Waking costs a system call, so only when the thread sleeps.
        let wake = std::mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.work.notify_one();
        }
        ticket
    }

    fn stop(&self) {
        self.lock().closing = true;
        self.work.notify_one();
    }

    fn run(&self) {
        let mut numbers = Numbers::default();
        let mut is_tidy = true;
        loop {
            let (group, written) = match self.next(is_tidy) {
                Next::Group(mut group) => {
                    match unwinding(|| self.write(&mut group, &mut numbers)) {
                        Ok(()) => {
                            self.ends.tell(numbers.take_new());
                            self.acknowledge(group);
                            (Vec::new(), Ok(()))
                        }
                        failed => (group, failed),
                    }
                }
                Next::Idle => (Vec::new(), Ok(())),
                Next::Closed => return,
            };
            // What was acknowledged is not undone by a failure in this.
            let tidied = written.and_then(|()| unwinding(|| self.engine.tidy(self.others())));
            match tidied {
                Ok(more) => is_tidy = !more,
                Err(EngineError::Failed(reason)) => return self.latch(group, reason),
                Err(EngineError::Stopped) => return,
            }
        }
    }

    /// Wait for work, unless there is some to do that nobody waits for.
    fn next(&self, is_tidy: bool) -> Next {
        let mut queue = self.lock();
        loop {
            if !queue.accepted.is_empty() {
                return Next::Group(queue.accepted.next_group(GROUP_BYTES_MAX));
            }
            if queue.closing {
                return Next::Closed;
            }
            if !is_tidy {
                return Next::Idle;
            }
            queue.idle = true;
            queue = self
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn others(&self) -> Others {
        match self.lock().accepted.is_empty() {
            true => Others::Absent,
            false => Others::Wait,
        }
    }

    /// A crash in here leaves the whole group or nothing of it.
    fn write(&self, group: &mut [Accepted], numbers: &mut Numbers) -> Result<(), EngineError> {
        numbers.begin();
        let mut changes = Changes::new();
        for op in group
            .iter_mut()
            .flat_map(|accepted| std::mem::take(&mut accepted.ops))
        {
            add(&mut changes, op, numbers, &*self.engine)?;
        }
        let changes = Arc::new(changes);
        self.in_flight.publish(Some(Arc::clone(&changes)));
        self.engine.commit(&changes)?;
        self.in_flight.publish(None);
        Ok(())
    }

    fn acknowledge(&self, group: Vec<Accepted>) {
        let mut locked = self.lock();
        let queue = &mut *locked;
        for accepted in &group {
            queue.open.remove(&accepted.ticket);
        }
        queue.owners.settle(&queue.open);
        drop(locked);
        self.settled.notify_all();
        for accepted in group {
            call(accepted.done, Ok(()));
        }
    }

    fn latch(&self, group: Vec<Accepted>, reason: String) {
        tracing::error!(reason, "the store takes no more writes");
        let latched = Latched { reason };
        let mut queue = self.lock();
        queue.latched = Some(latched.clone());
        queue.open.clear();
        let behind = queue.accepted.drain();
        drop(queue);
        self.settled.notify_all();
        for accepted in group.into_iter().chain(behind) {
            call(accepted.done, Err(latched.clone()));
        }
    }
}

/// A panic of the engine is a failure of it.
fn unwinding<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(EngineError::Failed(text_of(&*panic))))
}

/// A panic of one who is told must not keep the others from being told.
fn call(done: Done, result: Result<(), Latched>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| done(result))) {
        tracing::error!(reason = text_of(&*panic), "the end of a commit panicked");
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a message"))
}
