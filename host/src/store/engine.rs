//! An ordered map of bytes that can apply a batch at once: what an engine must do.
//!
//! Invariant: a batch is committed whole or, after a crash, not at all, and batches in their order. What readers
//! may see of a batch while it is being committed is not the engine's business but [`super::view`]'s.

use std::collections::BTreeMap;

use bytes::Bytes;

/// An engine's failure. Text only: nobody can repair one by its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum EngineError {
    #[error("{0}")]
    Failed(String),
    /// The machine was stopped in the middle of this call (tests only): the
    /// caller no longer exists, so it must neither acknowledge nor refuse.
    #[error("stopped")]
    Stopped,
}

/// What becomes of one key, and what it was: `None` is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Change {
    pub(in crate::store) new: Option<Vec<u8>>,
    pub(in crate::store) old: Option<Bytes>,
}

/// The changes of one group of commits.
pub(in crate::store) type Changes = BTreeMap<Vec<u8>, Change>;

/// Whether commits wait while the engine tidies up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Others {
    /// Some do: as much as the last group makes necessary, and no more.
    Wait,
    /// None does: one short step, so that none waits for long if it comes now.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Order {
    Forward,
    Backward,
}

/// Keys with their values, read one by one: changes made meanwhile may or may not be seen.
pub(in crate::store) type Rows<'a> =
    Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

pub(in crate::store) trait Engine: Send + Sync + 'static {
    /// Make all changes at once: on disk and to be read when it returns. A crash before that leaves all of them or
    /// none. So may a failure, after which the engine is committed to no more.
    fn commit(&self, changes: &Changes) -> Result<(), EngineError>;

    /// Put some of what changes left behind in order, if that is needed; true if more of it is left.
    /// Called between two groups of commits. Changes no row. A crash in it loses nothing.
    fn tidy(&self, _others: Others) -> Result<bool, EngineError> {
        Ok(false)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Keys from `low` up to, not including, `high`.
    fn range(&self, low: &[u8], high: &[u8], order: Order) -> Rows<'_>;

    fn size_on_disk(&self) -> Result<u64, EngineError>;
}
