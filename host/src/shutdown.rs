//! Stopping: one signal for everything, and knowing when all work is done.
//!
//! Invariant: whoever starts a task starts it through [`Shutdown::spawn`] or holds a
//! [`TaskGuard`] while it works, so that [`Shutdown::finished`] means that nothing of
//! ours runs any more. It only signals: what a task does about it is the task's matter.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// A cheap clone of the stop signal and of the count of tasks.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    signal: CancellationToken,
    tasks: TaskTracker,
}

/// Counts as a task while it lives.
#[derive(Debug)]
#[must_use = "the task counts only while the guard lives"]
pub struct TaskGuard {
    _token: TaskTrackerToken,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// Ask everything to stop. Never waits; a second time changes nothing.
    pub fn stop(&self) {
        self.signal.cancel();
        self.tasks.close();
    }

    pub fn is_stopping(&self) -> bool {
        self.signal.is_cancelled()
    }

    /// Wait until somebody asks to stop.
    pub async fn stopping(&self) {
        self.signal.cancelled().await;
    }

    /// A part that can be stopped alone and stops with the whole; its tasks count in both.
    pub fn part(&self) -> Self {
        Self {
            signal: self.signal.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Start a task that is waited for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Count the holder as a task.
    pub fn guard(&self) -> TaskGuard {
        TaskGuard {
            _token: self.tasks.token(),
        }
    }

    /// Tasks that still run.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Wait, after [`stop`](Self::stop), until no task runs, but not longer than `wait_max`.
    /// False if some still do.
    pub async fn finished(&self, wait_max: Duration) -> bool {
        tokio::time::timeout(wait_max, self.tasks.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_reaches_every_task_and_waits_for_them() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone();
        shutdown.spawn(async move {
            seen.stopping().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        let guard = shutdown.guard();
        assert_eq!((shutdown.tasks(), shutdown.is_stopping()), (2, false));

        shutdown.stop();
        assert!(
            !shutdown.finished(Duration::from_secs(2)).await,
            "the guard still lives"
        );
        drop(guard);
        assert!(shutdown.finished(Duration::from_secs(2)).await);
    }

    #[tokio::test]
    async fn a_part_stops_alone_and_with_the_whole() {
        let whole = Shutdown::new();
        let (first, second) = (whole.part(), whole.part());
        first.signal.cancel();
        assert!(first.is_stopping() && !whole.is_stopping() && !second.is_stopping());
        whole.stop();
        assert!(second.is_stopping());
    }
}
