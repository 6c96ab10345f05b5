//! Sessions whose journals are damaged: nobody opens them again, and all others go on.
//!
//! Remembered until the process ends, so that requests for such a session are answered without
//! reading its journal each time, and its wake record keeps nobody busy. The journal is left as
//! it is: it is the evidence. Bounded by the sessions that are damaged and were asked for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use crate::store::{Damage, JournalId, ReadError};

use super::SessionError;

#[derive(Default)]
pub(super) struct SetAside(Mutex<HashMap<JournalId, Damage>>);

impl SetAside {
    /// Refuse a session that was set aside.
    pub(super) fn check(&self, journal: &JournalId) -> Result<(), SessionError> {
        match self.map().get(journal) {
            Some(damage) => Err(ReadError::Damaged(damage.clone()).into()),
            None => Ok(()),
        }
    }

    pub(super) fn put(&self, journal: &JournalId, damage: Damage) {
        if !self.map().contains_key(journal) {
            // The one line that says what is wrong: repeats are answered from here.
            tracing::error!(%damage, "a session is set aside: what is stored of it is damaged");
        }
        self.map().entry(journal.clone()).or_insert(damage);
    }

    /// Set it aside if that is why it cannot be opened.
    pub(super) fn learn(&self, journal: &JournalId, error: &SessionError) {
        if let SessionError::Read(ReadError::Damaged(damage)) = error
            && damage.journal.as_ref() == Some(journal)
        {
            self.put(journal, damage.clone());
        }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<JournalId, Damage>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
