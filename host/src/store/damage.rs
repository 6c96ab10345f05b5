//! Stored bytes that are not what was written: whose they are, and which entry, where that is known.
//!
//! Whoever reads a journal is told the session and the entry, so that this session can be set
//! aside and all others go on.

use std::fmt;

use super::keys::{self, Row};
use super::{JournalId, ReadError};
use crate::id::Seq;
use crate::journal::codec::DecodeError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// None if it is a record, which belongs to no session.
    pub journal: Option<JournalId>,
    /// The first entry that cannot be read.
    pub seq: Option<Seq>,
    /// For the log: it may hold parts of keys.
    pub what: String,
}

impl Damage {
    pub(in crate::store) fn of_row(stem: &[u8], seq: Option<Seq>, what: impl fmt::Display) -> Self {
        let (journal, first) = match keys::parse(stem) {
            Some(Row::Frame(journal, first)) => (Some(journal), Some(first)),
            Some(Row::Snapshot(journal) | Row::Value(journal, _)) => (Some(journal), None),
            Some(Row::Piece(_, seq)) => (None, Some(seq)),
            Some(Row::Record(_)) | None => (None, None),
        };
        Self {
            journal,
            seq: seq.or(first),
            what: format!("row {}: {what}", stem.escape_ascii()),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(JournalId { tenant, session }) = &self.journal {
            write!(f, "session {session} of {tenant}, ")?;
        }
        if let Some(seq) = self.seq {
            write!(f, "entry {seq}, ")?;
        }
        f.write_str(&self.what)
    }
}

impl ReadError {
    /// A record that says nothing.
    pub fn bad_record(what: impl Into<String>) -> Self {
        Self::Damaged(Damage {
            journal: None,
            seq: None,
            what: what.into(),
        })
    }

    /// An entry of a journal that is missing or wrong, or something of the session that belongs
    /// to no entry.
    pub fn bad_entry(journal: &JournalId, seq: Option<Seq>, what: impl Into<String>) -> Self {
        Self::Damaged(Damage {
            journal: Some(journal.clone()),
            seq,
            what: what.into(),
        })
    }

    pub fn undecodable(journal: &JournalId, error: &DecodeError) -> Self {
        Self::bad_entry(journal, error.seq(), error.to_string())
    }

    /// A row, by the stem of its key. `seq` is known better than by the first entry of a frame.
    pub(in crate::store) fn bad_row(
        stem: &[u8],
        seq: Option<Seq>,
        what: impl fmt::Display,
    ) -> Self {
        Self::Damaged(Damage::of_row(stem, seq, what))
    }
}
