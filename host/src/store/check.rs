//! Reading every row of a store to see that it is what was written.
//!
//! Opens the store like the host does, so the host must not run. A damaged page can
//! keep sled busy for ever: whoever calls this does so in a process of its own, with
//! a deadline.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::engine::{Engine, EngineError, Order};
use super::keys::{self, Row};
use super::sled::{SledEngine, SledOptions, StoreOpenError};
use super::{JournalId, row};
use crate::id::{Digest, Seq};
use crate::journal::codec::Frame;

/// What stands in a report; more problems than that only count.
const SHOWN_MAX: usize = 100;

/// What was found. The store is sound if there are no problems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub journals: u64,
    pub entries: u64,
    pub snapshots: u64,
    pub values: u64,
    pub records: u64,
    /// Journals without their beginning: the host stopped while it removed them, and
    /// goes on with that when it runs.
    pub half_removed: Vec<String>,
    pub problem_count: u64,
    /// The first of the problems.
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The row's key, with what does not print escaped.
    pub row: String,
    pub what: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    #[error("the store stopped answering: {0}")]
    Engine(String),
}

impl From<EngineError> for CheckError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

/// Check the store in a folder. Changes nothing in it but what opening changes.
pub fn check(path: &Path) -> Result<Report, CheckError> {
    let engine = SledEngine::open_existing(path, SledOptions::default())?;
    Ok(check_engine(&engine)?)
}

/// All rows of an engine, each with its stem and its values or what is wrong with it.
pub(in crate::store) fn rows(
    engine: &dyn Engine,
) -> impl Iterator<Item = Result<(Vec<u8>, Vec<Bytes>), EngineError>> {
    let all = keys::everything();
    let mut keys = engine
        .range(&all.start, &all.end, Order::Forward)
        .peekable();
    std::iter::from_fn(move || {
        let (key, value) = match keys.next()? {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        let Some((stem, 0)) = keys::split(&key) else {
            // A part without those before it, or no key at all: a row without values.
            return Some(Ok((key.to_vec(), vec![])));
        };
        let mut values = vec![value];
        // The next parts of the same row; anything else is the next row.
        while let Some(Ok((_, value))) = keys.next_if(|next| {
            next.as_ref().is_ok_and(|(next, _)| {
                keys::split(next)
                    .is_some_and(|(other, part)| other == stem && usize::from(part) == values.len())
            })
        }) {
            values.push(value);
        }
        Some(Ok((stem.to_vec(), values)))
    })
}

pub(in crate::store) fn check_engine(engine: &dyn Engine) -> Result<Report, EngineError> {
    let mut check = Check::default();
    for row in rows(engine) {
        let (stem, values) = row?;
        if let Err(what) = check.row(&stem, &values) {
            check.problem(&stem, what);
        }
    }
    check.end_journal();
    Ok(check.report)
}

#[derive(Default)]
struct Check {
    report: Report,
    /// The journal whose rows come now, and its last entry.
    journal: Option<(JournalId, Seq)>,
    /// Snapshots stand before the frames: what each was taken at, until its journal ends.
    snapshots: BTreeMap<JournalId, Seq>,
}

impl Check {
    fn problem(&mut self, stem: &[u8], what: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < SHOWN_MAX {
            let row = stem.escape_ascii().to_string();
            self.report.problems.push(Problem { row, what });
        }
    }

    fn row(&mut self, stem: &[u8], values: &[Bytes]) -> Result<(), String> {
        let row = keys::parse(stem).ok_or("not a key of this store")?;
        let payload = row::decode(stem, values).map_err(|damage| damage.to_string())?;
        match row {
            Row::Record(_) => self.report.records += 1,
            Row::Snapshot(journal) => {
                let seq = payload.first_chunk().ok_or("a snapshot without its seq")?;
                self.report.snapshots += 1;
                self.snapshots
                    .insert(journal, Seq(u64::from_be_bytes(*seq)));
            }
            Row::Value(_, digest) => {
                self.report.values += 1;
                if Digest::of(&payload) != digest {
                    return Err("the value has another digest".into());
                }
            }
            Row::Frame(journal, first) => self.frame(journal, first, payload)?,
        }
        Ok(())
    }

    fn frame(&mut self, journal: JournalId, first: Seq, payload: Bytes) -> Result<(), String> {
        let frame = Frame::parse(payload).map_err(|error| error.to_string())?;
        if frame.first() != first {
            return Err(format!("the frame begins with entry {}", frame.first()));
        }
        let before = match &self.journal {
            Some((current, last)) if *current == journal => Some(*last),
            _ => None,
        };
        if before.is_none() {
            self.end_journal();
            self.report.journals += 1;
            if first != Seq(1) && self.report.half_removed.len() < SHOWN_MAX {
                let name = format!("{}/{}", journal.tenant, journal.session);
                self.report.half_removed.push(name);
            }
        }
        self.journal = Some((journal, frame.last()));
        for entry in frame.entries().map_err(|error| error.to_string())? {
            self.report.entries += 1;
            entry.decode().map_err(|error| error.to_string())?;
        }
        match before {
            Some(last) if last.next() != first => {
                Err(format!("entries between {last} and {first} are missing"))
            }
            _ => Ok(()),
        }
    }

    fn end_journal(&mut self) {
        let Some((journal, last)) = self.journal.take() else {
            return;
        };
        if let Some(seq) = self.snapshots.remove(&journal)
            && seq > last
        {
            let what = format!("a snapshot at {seq}, but the last entry is {last}");
            self.problem(keys::snapshot(&journal).bytes(), what);
        }
    }
}
