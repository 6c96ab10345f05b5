//! A store as lines of JSON, and back: the way to another engine or machine.
//!
//! The first line is `{"export":1}`. Then one line for each record, value and entry,
//! in the order of the keys: of each tenant first the records, then what was appended to its streams, then of each
//! session first the values and then the entries. Bytes are `text` where they are
//! UTF-8 and `hex` where not. Snapshots are left out, as they can be made again.
//! The last line counts the lines before it, so that a file cut short is seen.
//!
//! What cannot be read stands there too: a damaged row as the bytes it is, beside what of it
//! can be read, and a line where entries are missing. So a store with a session that is damaged
//! is moved whole, and the session is neither better nor worse on the other side.
//!
//! Invariant: an export imported into an empty store reads the same, byte for byte,
//! and has the same frames.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::path::Path;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::check::{Stored, rows};
use super::engine::{Change, Changes, Engine, EngineError, Order};
use super::keys::{self, Row, Stem};
use super::sled::{SledEngine, SledOptions, StoreOpenError};
use super::view::View;
use super::{Damage, JournalId, ReadError, RecordKey, RecordSpace, StreamKey, row};
use crate::clock::Time;
use crate::id::{Digest, Seq, SessionId, StreamId, TenantId};
use crate::journal::codec::{DecodeError, Encoded, Frame};
use crate::journal::entry::Kind;

const VERSION: u32 = 1;

/// Rows are written in batches of about this size: below one of sled's segments.
const BATCH_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    #[error("the store stopped answering: {0}")]
    Engine(String),
    #[error("could not write the export: {0}")]
    Io(#[from] std::io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    #[error("the store stopped answering: {0}")]
    Engine(String),
    /// Nothing was written.
    #[error("the store is not empty")]
    NotEmpty,
    /// What came before it was written: the folder is to be thrown away.
    #[error("line {line}: {what}")]
    Malformed { line: u64, what: String },
    #[error("could not read the export: {0}")]
    Io(#[from] std::io::Error),
}

impl From<ReadError> for ExportError {
    fn from(error: ReadError) -> Self {
        Self::Engine(error.to_string())
    }
}

impl From<EngineError> for ExportError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

impl From<EngineError> for ImportError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Export(u32),
    Record {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantId>,
        space: String,
        name: String,
        #[serde(flatten)]
        bytes: Text,
    },
    Value {
        tenant: TenantId,
        session: SessionId,
        digest: Digest,
        #[serde(flatten)]
        bytes: Text,
    },
    Entry {
        tenant: TenantId,
        session: SessionId,
        /// The first entry of the frame that holds it.
        frame: Seq,
        seq: Seq,
        time: Time,
        kind: String,
        public: Box<RawValue>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        private: Option<Box<RawValue>>,
    },
    /// What one request appended to a stream, as it is stored.
    Piece {
        tenant: TenantId,
        stream: StreamId,
        seq: Seq,
        #[serde(flatten)]
        bytes: Text,
    },
    /// A row that is not what was written.
    Damaged {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<SessionId>,
        /// The first entry that cannot be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seq: Option<Seq>,
        what: String,
        /// Those before it in the same row: for people, the row has them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        entries: Vec<Readable>,
        /// Keys and values as they are stored, hex.
        row: Vec<(String, String)>,
    },
    /// The next entry of the session is not the one after the last.
    Missing {
        tenant: TenantId,
        session: SessionId,
        first: Seq,
        last: Seq,
    },
    End {
        lines: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Readable {
    seq: Seq,
    time: Time,
    kind: String,
    public: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private: Option<Box<RawValue>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Text {
    Text(String),
    Hex(String),
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(hex::encode(bytes)),
        }
    }

    fn bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Hex(text) => hex::decode(text).map_err(|error| error.to_string()),
        }
    }
}

/// An export on its way out.
struct Lines<W> {
    out: W,
    count: u64,
}

impl<W: Write> Lines<W> {
    fn begin(out: W) -> Result<Self, ExportError> {
        let mut lines = Self { out, count: 0 };
        lines.write(&Line::Export(VERSION))?;
        Ok(lines)
    }

    fn write(&mut self, line: &Line) -> Result<(), ExportError> {
        serde_json::to_writer(&mut self.out, line).map_err(std::io::Error::from)?;
        self.out.write_all(b"\n")?;
        self.count += 1;
        Ok(())
    }

    /// How many lines came before the last one tells whoever reads that it is all.
    fn end(mut self) -> Result<(), ExportError> {
        let lines = self.count;
        self.write(&Line::End { lines })?;
        Ok(self.out.flush()?)
    }
}

/// Write everything in a store out. The host must not run. Answers how many rows are damaged.
pub fn export(path: &Path, out: impl Write) -> Result<u64, ExportError> {
    let engine = SledEngine::open_existing(path, SledOptions::default())?;
    export_engine(&engine, out)
}

/// Write out what is durable of one tenant, beside a host that runs. Each session is whole up to the end that it had when it
/// was come to; what host and tenant have between them, sealed with the host's key, stays here. Answers how
/// many rows are damaged.
pub(in crate::store) fn export_tenant(
    view: &View,
    tenant: &TenantId,
    out: &mut dyn Write,
) -> Result<u64, ExportError> {
    let mut out = Lines::begin(out)?;
    let own = RecordKey {
        tenant: None,
        space: RecordSpace::Tenant,
        name: tenant.as_str().to_owned(),
    };
    if let Some(bytes) = view.row(&keys::record(&own))? {
        out.write(&record_line(own, &bytes))?;
    }
    let (mut damaged, mut end) = (0, None);
    let all = |_: &Bytes| Ok(true);
    for row in view.rows(keys::tenant(tenant), Order::Forward, all) {
        let of_row = row.map_err(damage_of).and_then(|(stem, payload)| {
            let of = keys::parse(stem.bytes());
            let of = of.ok_or_else(|| {
                Ok(Damage::of_row(
                    stem.bytes(),
                    None,
                    "not a key of this store",
                ))
            })?;
            let is_sealed = matches!(&of, Row::Record(key) if matches!(
                key.space,
                // Webhooks hold their secrets, and dead letters are nothing without them.
                RecordSpace::Secret
                    | RecordSpace::Authorization
                    | RecordSpace::Webhook
                    | RecordSpace::DeadLetter
            ));
            match is_sealed {
                true => Ok(vec![]),
                false => payload_lines(of, stem.bytes(), payload, &mut end).map_err(Ok),
            }
        });
        match of_row {
            Ok(lines) => lines.iter().try_for_each(|line| out.write(line))?,
            Err(Ok(damage)) => {
                damaged += 1;
                end = damage.journal.clone().map(|journal| (journal, None));
                out.write(&damaged_line(damage, vec![], vec![]))?;
            }
            Err(Err(error)) => return Err(ExportError::Engine(error.to_string())),
        }
    }
    out.end()?;
    Ok(damaged)
}

/// A row that is damaged, or a store that does not answer.
fn damage_of(error: ReadError) -> Result<Damage, ReadError> {
    match error {
        ReadError::Damaged(damage) => Ok(damage),
        error @ ReadError::Io(_) => Err(error),
    }
}

pub(in crate::store) fn export_engine(
    engine: &dyn Engine,
    out: impl Write,
) -> Result<u64, ExportError> {
    let mut out = Lines::begin(out)?;
    let mut damaged = 0;
    // The journal whose rows come now, and its last entry; none after a row that does not say.
    let mut end: Option<(JournalId, Option<Seq>)> = None;
    for row in rows(engine) {
        let row = row?;
        match lines_of(&row, &mut end) {
            Ok(lines) => lines.iter().try_for_each(|line| out.write(line))?,
            Err(damage) => {
                damaged += 1;
                if let Some(Row::Frame(journal, _)) = keys::parse(&row.stem) {
                    end = Some((journal, None));
                }
                out.write(&raw_line(&row, damage))?;
            }
        }
    }
    out.end()?;
    Ok(damaged)
}

/// A row that can be read, as lines.
fn lines_of(row: &Stored, end: &mut Option<(JournalId, Option<Seq>)>) -> Result<Vec<Line>, Damage> {
    let wrong = |what: &dyn Display| Damage::of_row(&row.stem, None, what);
    let parsed = keys::parse(&row.stem).filter(|_| row.stray.is_none());
    let parsed = parsed.ok_or_else(|| wrong(&"not a key of this store"))?;
    let payload = row::decode(&row.stem, &row.values).map_err(|error| wrong(&error))?;
    payload_lines(parsed, &row.stem, payload, end)
}

fn record_line(key: RecordKey, bytes: &[u8]) -> Line {
    Line::Record {
        tenant: key.tenant,
        space: key.space.name().to_owned(),
        name: key.name,
        bytes: Text::of(bytes),
    }
}

fn payload_lines(
    row: Row,
    stem: &[u8],
    payload: Bytes,
    end: &mut Option<(JournalId, Option<Seq>)>,
) -> Result<Vec<Line>, Damage> {
    let wrong = |what: &dyn Display| Damage::of_row(stem, None, what);
    Ok(match row {
        Row::Snapshot(_) => vec![],
        Row::Record(key) => vec![record_line(key, &payload)],
        Row::Value(JournalId { tenant, session }, digest) => vec![Line::Value {
            tenant,
            session,
            digest,
            bytes: Text::of(&payload),
        }],
        Row::Piece(StreamKey { tenant, id }, seq) => vec![Line::Piece {
            tenant,
            stream: id,
            seq,
            bytes: Text::of(&payload),
        }],
        Row::Frame(journal, first) => {
            let undecodable = |error: DecodeError| Damage::of_row(stem, error.seq(), error);
            let entries = Frame::parse(payload)
                .and_then(|frame| frame.entries())
                .map_err(undecodable)?;
            if entries.first().map(|entry| entry.seq) != Some(first) {
                return Err(wrong(&"holds another frame"));
            }
            let mut lines = Vec::with_capacity(entries.len());
            let before = match end.take() {
                Some((of, last)) if of == journal => last,
                _ => Some(Seq(0)),
            };
            if let Some(before) = before.filter(|before| before.next() != first) {
                lines.push(Line::Missing {
                    tenant: journal.tenant.clone(),
                    session: journal.session.clone(),
                    first: before.next(),
                    last: Seq(first.0.saturating_sub(1)),
                });
            }
            for entry in &entries {
                entry.decode().map_err(undecodable)?;
                lines.push(line_of(&journal, first, entry).map_err(|error| wrong(&error))?);
            }
            *end = Some((journal, entries.last().map(|entry| entry.seq)));
            lines
        }
    })
}

fn raw_line(row: &Stored, damage: Damage) -> Line {
    let stray = row.stray.iter().map(|value| (row.stem.clone(), value));
    let parts = row.values.iter().enumerate().map(|(part, value)| {
        let part = u16::try_from(part).expect("parts are numbered in a u16");
        (Stem::of(&row.stem).part(part), value)
    });
    let raw = stray
        .chain(parts)
        .map(|(key, value)| (hex::encode(key), hex::encode(value)))
        .collect();
    let readable = row::payload(&row.values)
        .map(Frame::readable)
        .unwrap_or_default();
    let entries = readable.iter().filter_map(|it| readable_of(it).ok());
    damaged_line(damage, entries.collect(), raw)
}

fn damaged_line(damage: Damage, entries: Vec<Readable>, row: Vec<(String, String)>) -> Line {
    let (tenant, session) = damage
        .journal
        .map_or((None, None), |it| (Some(it.tenant), Some(it.session)));
    Line::Damaged {
        tenant,
        session,
        seq: damage.seq,
        what: damage.what,
        entries,
        row,
    }
}

fn readable_of(entry: &Encoded) -> serde_json::Result<Readable> {
    let private = entry.private();
    Ok(Readable {
        seq: entry.seq,
        time: entry.time,
        kind: entry.kind.name().to_owned(),
        public: serde_json::from_slice(&entry.public())?,
        private: (!private.is_empty())
            .then(|| serde_json::from_slice(&private))
            .transpose()?,
    })
}

fn line_of(journal: &JournalId, frame: Seq, entry: &Encoded) -> serde_json::Result<Line> {
    let Readable {
        seq,
        time,
        kind,
        public,
        private,
    } = readable_of(entry)?;
    Ok(Line::Entry {
        tenant: journal.tenant.clone(),
        session: journal.session.clone(),
        frame,
        seq,
        time,
        kind,
        public,
        private,
    })
}

/// Fill an empty store, made if there is none. A crash or an error leaves a part: the
/// folder is then to be thrown away.
pub fn import(path: &Path, input: impl BufRead) -> Result<(), ImportError> {
    let engine = SledEngine::open_or_create(path, SledOptions::default())?;
    import_engine(&engine, input)
}

pub(in crate::store) fn import_engine(
    engine: &dyn Engine,
    input: impl BufRead,
) -> Result<(), ImportError> {
    let all = keys::everything();
    if let Some(row) = engine.range(&all.start, &all.end, Order::Forward).next() {
        row?;
        return Err(ImportError::NotEmpty);
    }
    let mut import = Import {
        engine,
        changes: Changes::new(),
        bytes: 0,
        open: None,
    };
    let (mut line, mut ended) = (0, false);
    for text in input.lines() {
        let text = text?;
        let malformed = |what: String| ImportError::Malformed {
            line: line + 1,
            what,
        };
        let parsed: Line =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        match (line, &parsed) {
            (0, Line::Export(VERSION)) => {}
            (0, _) => return Err(malformed("not an export of version 1".into())),
            _ if ended => return Err(malformed("more after the end".into())),
            (_, Line::End { lines }) if *lines == line => ended = true,
            (_, Line::End { .. }) => return Err(malformed("lines are missing".into())),
            _ => {}
        }
        import.line(parsed).map_err(malformed)?;
        if import.bytes > BATCH_BYTES_MAX {
            import.write()?;
        }
        line += 1;
    }
    if !ended {
        let what = "the export is cut short".into();
        return Err(ImportError::Malformed { line, what });
    }
    import.write()
}

/// The frame that entries are gathered for.
struct OpenFrame {
    journal: JournalId,
    first: Seq,
    entries: Vec<Encoded>,
}

struct Import<'a> {
    engine: &'a dyn Engine,
    changes: Changes,
    bytes: usize,
    open: Option<OpenFrame>,
}

impl Import<'_> {
    fn line(&mut self, line: Line) -> Result<(), String> {
        let (journal, frame, entry) = match line {
            Line::Entry {
                tenant,
                session,
                frame,
                seq,
                time,
                kind,
                public,
                private,
            } => {
                let kind = Kind::of_name(&kind).ok_or_else(|| format!("no kind is {kind}"))?;
                let private = private.as_ref().map_or("", |private| private.get());
                let (public, private) = (public.get().as_bytes(), private.as_bytes());
                let entry = Encoded::from_parts(seq, time, kind, public, private);
                entry.decode().map_err(|error| error.to_string())?;
                (JournalId { tenant, session }, frame, entry)
            }
            other => {
                self.close_frame();
                return self.other_line(other);
            }
        };
        let goes_on = self.open.as_ref().is_some_and(|open| {
            open.journal == journal
                && open.first == frame
                && open.entries.last().map(|last| last.seq.next()) == Some(entry.seq)
        });
        if !goes_on {
            if entry.seq != frame {
                return Err(format!("entry {} does not begin frame {frame}", entry.seq));
            }
            let before = self.close_frame();
            if before.is_some_and(|(of, last)| of == journal && last.next() != frame) {
                return Err(format!("entries before {frame} are missing"));
            }
            self.open = Some(OpenFrame {
                journal,
                first: frame,
                entries: vec![],
            });
        }
        if let Some(open) = &mut self.open {
            open.entries.push(entry);
        }
        Ok(())
    }

    fn other_line(&mut self, line: Line) -> Result<(), String> {
        match line {
            Line::Record {
                tenant,
                space,
                name,
                bytes,
            } => {
                let space = RecordSpace::ALL
                    .into_iter()
                    .find(|known| known.name() == space)
                    .ok_or_else(|| format!("no space is {space}"))?;
                if name.contains('\0') {
                    return Err("a name with a zero byte".into());
                }
                let key = RecordKey {
                    tenant,
                    space,
                    name,
                };
                self.row(&keys::record(&key), &bytes.bytes()?);
            }
            Line::Value {
                tenant,
                session,
                digest,
                bytes,
            } => {
                let bytes = bytes.bytes()?;
                if Digest::of(&bytes) != digest {
                    return Err("the value has another digest".into());
                }
                self.row(
                    &keys::value(&JournalId { tenant, session }, &digest),
                    &bytes,
                );
            }
            Line::Piece {
                tenant,
                stream: id,
                seq,
                bytes,
            } => {
                let stream = StreamKey { tenant, id };
                self.row(&keys::piece(&stream, seq), &bytes.bytes()?);
            }
            Line::Damaged { row, .. } => {
                for (key, value) in row {
                    let key = hex::decode(key).map_err(|error| error.to_string())?;
                    let value = hex::decode(value).map_err(|error| error.to_string())?;
                    self.put(key, value);
                }
            }
            // The frame before it is closed by it, so that the next one may begin further on.
            Line::Missing { .. } => {}
            Line::Export(_) | Line::Entry { .. } | Line::End { .. } => {}
        }
        Ok(())
    }

    /// The journal of the frame that is now complete, and its last entry.
    fn close_frame(&mut self) -> Option<(JournalId, Seq)> {
        let open = self.open.take()?;
        let frame = Frame::of(&open.entries);
        self.row(&keys::frame(&open.journal, open.first), frame.bytes());
        Some((open.journal, frame.last()))
    }

    fn row(&mut self, stem: &Stem, payload: &[u8]) {
        for (key, value) in row::encode(stem, payload) {
            self.put(key, value);
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        let (new, old) = (Some(value), None);
        self.changes.insert(key, Change { new, old });
    }

    fn write(&mut self) -> Result<(), ImportError> {
        self.engine.commit(&self.changes)?;
        self.changes.clear();
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
