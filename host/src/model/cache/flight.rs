//! One call that several may wait for.
//!
//! Invariant: the call's task ends with the last one who holds its flight.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::super::{Answer, Delta, Fault, ModelError};
use super::{Cache, Key, given_again};

/// What has come of a call so far.
#[derive(Debug, Default)]
struct Course {
    /// The provider has begun to answer.
    is_open: bool,
    pieces: Vec<Delta>,
    end: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Whole,
    Failed(ModelError),
    /// Nobody made the call: who led was gone before.
    NotMade,
}

/// Shared by those who wait; the task holds it weakly.
#[derive(Debug)]
pub(super) struct Flight {
    course: Mutex<Course>,
    /// Something was added to the course.
    changed: watch::Sender<()>,
    task: Mutex<Option<AbortHandle>>,
}

impl Flight {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut Course)) {
        change(&mut self.course());
        self.changed.send_replace(());
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let task = self.task.get_mut();
        if let Some(task) = task.unwrap_or_else(|poisoned| poisoned.into_inner()) {
            task.abort();
        }
    }
}

/// The duty to make the call that others may wait for. Dropping it leaves it to one of them.
#[derive(Debug)]
pub(in crate::model) struct Lead {
    cache: Arc<Cache>,
    key: Key,
    /// None once the call is made.
    flight: Option<Arc<Flight>>,
}

impl Lead {
    pub(super) fn new(cache: Arc<Cache>, key: Key) -> Self {
        let flight = Flight {
            course: Mutex::default(),
            changed: watch::Sender::new(()),
            task: Mutex::default(),
        };
        Self {
            cache,
            key,
            flight: Some(Arc::new(flight)),
        }
    }

    pub(super) fn flight(&self) -> Weak<Flight> {
        self.flight.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// Make the call, and follow it.
    pub(in crate::model) fn make(
        mut self,
        open: impl Future<Output = Result<Answer, ModelError>> + Send + 'static,
    ) -> Option<Follower> {
        let flight = self.flight.take()?;
        let (cache, key, weak) = (
            self.cache.clone(),
            self.key.clone(),
            Arc::downgrade(&flight),
        );
        let task = tokio::spawn(fly(cache, key, weak, open));
        let slot = flight.task.lock();
        *slot.unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(task.abort_handle());
        Some(Follower::of(flight, true))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.cache.landed(&self.key, &Arc::downgrade(&flight), None);
            flight.change(|course| course.end = Some(End::NotMade));
        }
    }
}

/// The call itself. Whoever waits holds the flight; when nobody does, this is aborted.
async fn fly(
    cache: Arc<Cache>,
    key: Key,
    flight: Weak<Flight>,
    open: impl Future<Output = Result<Answer, ModelError>>,
) {
    let change = |change: &dyn Fn(&mut Course)| {
        if let Some(flight) = flight.upgrade() {
            flight.change(change);
        }
    };
    let mut answer = match open.await {
        Ok(answer) => answer,
        Err(error) => {
            cache.landed(&key, &flight, None);
            change(&|course| course.end = Some(End::Failed(error.clone())));
            return;
        }
    };
    change(&|course| course.is_open = true);
    let mut pieces = Vec::new();
    let end = loop {
        match answer.next().await {
            Some(Ok(piece)) => {
                let is_last = matches!(piece, Delta::Finished { .. });
                pieces.push(piece.clone());
                if is_last {
                    // Kept before anybody hears of the end: who asks after it finds it.
                    cache.landed(&key, &flight, Some(&pieces));
                    change(&|course| {
                        course.pieces.push(piece.clone());
                        course.end = Some(End::Whole);
                    });
                    return;
                }
                change(&|course| course.pieces.push(piece.clone()));
            }
            Some(Err(error)) => break error,
            None => break ModelError::Interrupted(Fault::Cut),
        }
    };
    cache.landed(&key, &flight, None);
    change(&|course| course.end = Some(End::Failed(end.clone())));
}

/// One who waits for the pieces of a call.
#[derive(Debug)]
pub(in crate::model) struct Follower {
    flight: Arc<Flight>,
    changed: watch::Receiver<()>,
    /// It made the call, and pays for it.
    leads: bool,
    /// Pieces it has had.
    had: usize,
}

impl Follower {
    fn of(flight: Arc<Flight>, leads: bool) -> Self {
        Self {
            changed: flight.changed.subscribe(),
            flight,
            leads,
            had: 0,
        }
    }

    /// None if there is nothing to wait for.
    pub(super) fn join(flight: Arc<Flight>) -> Option<Self> {
        let is_over = flight.course().end.is_some();
        (!is_over).then(|| Self::of(flight, false))
    }

    pub(in crate::model) fn leads(&self) -> bool {
        self.leads
    }

    /// Wait until the provider begins to answer. False if nobody asked it after all.
    pub(in crate::model) async fn is_open(&mut self) -> Result<bool, ModelError> {
        loop {
            {
                let course = self.flight.course();
                match &course.end {
                    Some(End::NotMade) => return Ok(false),
                    Some(End::Failed(error)) if course.pieces.is_empty() => {
                        return Err(error.clone());
                    }
                    Some(_) => return Ok(true),
                    None if course.is_open => return Ok(true),
                    None => {}
                }
            }
            self.wait().await;
        }
    }

    /// The next piece. Not to be called after `Finished` or an error. Dropping the future loses nothing.
    pub(in crate::model) async fn next(&mut self) -> Result<Delta, ModelError> {
        loop {
            {
                let course = self.flight.course();
                if let Some(piece) = course.pieces.get(self.had) {
                    self.had += 1;
                    return Ok(match self.leads {
                        true => piece.clone(),
                        false => given_again(piece),
                    });
                }
                match &course.end {
                    // Nobody who has none of its pieces hears that it broke off after some.
                    Some(End::Failed(ModelError::Interrupted(fault))) if self.had == 0 => {
                        return Err(fault.clone().into());
                    }
                    Some(End::Failed(error)) => return Err(error.clone()),
                    Some(End::Whole | End::NotMade) => return Err(Fault::Cut.into()),
                    None => {}
                }
            }
            self.wait().await;
        }
    }

    async fn wait(&mut self) {
        // The sender lives in the flight that this holds, so waiting cannot fail.
        let _ = self.changed.changed().await;
    }
}
