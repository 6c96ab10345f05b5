//! The session's kernel: its named slots, shared by all its agents and people.
//!
//! Reading never waits, also while somebody writes. Writing is: [`lock`], work,
//! [`SlotLock::commit`]. See `wit/kernel.wit` for what is promised and what is not.

pub use crate::bindings::antiphon::agent::kernel::{CommitError, LockError, SlotState, Snapshot};
use crate::host;

/// The document in a slot, or none if there never was a commit. Never waits.
pub fn read(name: &str) -> Option<Snapshot> {
    host::kernel::read(name)
}

/// Who holds the slot now; idle also for a slot nobody ever touched. Never waits.
pub fn state(name: &str) -> SlotState {
    host::kernel::state(name)
}

/// The names of all slots that have a document or are locked, sorted.
pub fn names() -> Vec<String> {
    host::kernel::names()
}

/// Take the lock, or hear at once who holds it. A slot needs no declaration.
pub fn lock(name: &str) -> Result<SlotLock, LockError> {
    host::kernel::lock(name).map(SlotLock)
}

/// The right to commit one slot once. Dropping it frees the slot and leaves the older
/// document, and so do a trap, a limit, an interruption and a crash.
#[derive(Debug)]
#[must_use = "dropping the lock frees the slot"]
pub struct SlotLock(host::kernel::SlotLock);

impl SlotLock {
    /// Write the document and free the lock, in one step. Answers the new version.
    pub fn commit(self, content: &str) -> Result<u64, CommitError> {
        host::kernel::SlotLock::commit(self.0, content)
    }

    /// Free the lock and leave the older document.
    pub fn release(self) {
        host::kernel::SlotLock::release(self.0);
    }
}
