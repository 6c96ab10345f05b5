//! Reading every row of a store to see that it is what was written.
//!
//! Opens the store like the host does, so the host must not run. A damaged page can
//! keep sled busy for ever: whoever calls this does so in a process of its own, with
//! a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

use super::engine::{Engine, EngineError, Order};
use super::keys::{self, Row};
use super::sled::{SledEngine, SledOptions, StoreOpenError};
use super::{Damage, JournalId, RecordKey, RecordSpace, StreamKey, row};
use crate::id::{Digest, Seq, SessionId};
use crate::journal::codec::{DecodeError, Frame};

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
    /// What was appended to streams.
    pub pieces: u64,
    /// Journals of sessions that are gone: the host stopped while it removed them, and
    /// goes on with that when it runs. They may lack their beginning.
    pub half_removed: Vec<String>,
    pub problem_count: u64,
    /// The first of the problems.
    pub problems: Vec<Damage>,
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

/// A row as it is stored, whatever it is worth.
pub(in crate::store) struct Stored {
    pub(in crate::store) stem: Vec<u8>,
    pub(in crate::store) values: Vec<Bytes>,
    /// A part without those before it, or no key of ours at all: then `stem` is the whole key
    /// and there are no values.
    pub(in crate::store) stray: Option<Bytes>,
}

/// All rows of an engine.
pub(in crate::store) fn rows(
    engine: &dyn Engine,
) -> impl Iterator<Item = Result<Stored, EngineError>> {
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
            return Some(Ok(Stored {
                stem: key.to_vec(),
                values: vec![],
                stray: Some(value),
            }));
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
        Some(Ok(Stored {
            stem: stem.to_vec(),
            values,
            stray: None,
        }))
    })
}

pub(in crate::store) fn check_engine(engine: &dyn Engine) -> Result<Report, EngineError> {
    let mut check = Check::default();
    for row in rows(engine) {
        let Stored { stem, values, .. } = row?;
        if let Err(wrong) = check.row(&stem, &values) {
            check.problem(&stem, wrong);
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
    /// The stream whose pieces come now, and the number of the last.
    stream: Option<(StreamKey, Seq)>,
    /// Sessions that are gone. Records stand before the journals of their tenant.
    gone: BTreeSet<JournalId>,
}

/// What is wrong with a row, and with which of its entries if not the first.
struct Wrong {
    seq: Option<Seq>,
    what: String,
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(what: T) -> Self {
        let (seq, what) = (None, what.into());
        Self { seq, what }
    }
}

fn undecodable(error: &DecodeError) -> Wrong {
    let (seq, what) = (error.seq(), error.to_string());
    Wrong { seq, what }
}

impl Check {
    fn problem(&mut self, stem: &[u8], wrong: Wrong) {
        self.report.problem_count += 1;
        if self.report.problems.len() < SHOWN_MAX {
            let damage = Damage::of_row(stem, wrong.seq, wrong.what);
            self.report.problems.push(damage);
        }
    }

    fn row(&mut self, stem: &[u8], values: &[Bytes]) -> Result<(), Wrong> {
        let row = keys::parse(stem).ok_or("not a key of this store")?;
        let payload = row::decode(stem, values).map_err(|damage| damage.to_string())?;
        match row {
            Row::Record(key) => {
                self.report.records += 1;
                self.gone.extend(session_that_is_gone(key));
            }
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
            Row::Piece(stream, seq) => {
                self.report.pieces += 1;
                let before = self.stream.replace((stream.clone(), seq));
                // The first may be any: a fork goes on where it left its source.
                if let Some((of, last)) = before
                    && of == stream
                    && last.next() != seq
                {
                    return Err(Wrong {
                        seq: Some(last.next()),
                        what: format!(
                            "pieces of a stream from {} to {seq} are missing",
                            last.next()
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, journal: JournalId, first: Seq, payload: Bytes) -> Result<(), Wrong> {
        let frame = Frame::parse(payload).map_err(|error| undecodable(&error))?;
        if frame.first() != first {
            return Err(format!("the frame begins with entry {}", frame.first()).into());
        }
        let before = match &self.journal {
            Some((current, last)) if *current == journal => Some(*last),
            _ => None,
        };
        if before.is_none() {
            self.end_journal();
            self.report.journals += 1;
            if self.gone.contains(&journal) && self.report.half_removed.len() < SHOWN_MAX {
                let name = format!("{}/{}", journal.tenant, journal.session);
                self.report.half_removed.push(name);
            }
        }
        let begun = before.unwrap_or(Seq(0));
        let may_lack = before.is_none() && self.gone.contains(&journal);
        self.journal = Some((journal, frame.last()));
        for entry in frame.entries().map_err(|error| undecodable(&error))? {
            self.report.entries += 1;
            entry.decode().map_err(|error| undecodable(&error))?;
        }
        if begun.next() != first && !may_lack {
            return Err(Wrong {
                seq: Some(begun.next()),
                what: format!("entries from {} to {first} are missing", begun.next()),
            });
        }
        Ok(())
    }

    fn end_journal(&mut self) {
        let Some((journal, last)) = self.journal.take() else {
            return;
        };
        if let Some(seq) = self.snapshots.remove(&journal)
            && seq > last
        {
            let what = format!("a snapshot at {seq}, but the last entry is {last}");
            let seq = Some(last.next());
            self.problem(keys::snapshot(&journal).bytes(), Wrong { seq, what });
        }
    }
}

/// The session that a tombstone stands for.
fn session_that_is_gone(key: RecordKey) -> Option<JournalId> {
    if key.space != RecordSpace::Tombstone {
        return None;
    }
    Some(JournalId {
        tenant: key.tenant?,
        session: SessionId::new(&key.name).ok()?,
    })
}
