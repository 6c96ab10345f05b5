//! Writes as rows, and rows as the changes of a group.
//!
//! Encoding is done by whoever commits; only what depends on what is stored already
//! (the parts of a row that is replaced, a value that is there) is left to the commit thread.
//!
//! Invariant: a change knows what its key held before the group, so that readers can
//! be shown that until the group is durable.

use bytes::{BufMut, Bytes, BytesMut};

use super::engine::{Change, Changes, Engine, EngineError};
use super::keys::{self, Stem};
use super::notices::Numbers;
use super::{StreamKey, Write, row};
use crate::id::TenantId;

/// A write as rows.
pub(in crate::store) enum Op {
    /// A key that was never there.
    New(Vec<u8>, Vec<u8>),
    /// A row that is the same whenever it is written.
    Once(Vec<(Vec<u8>, Vec<u8>)>),
    /// A row in place of another, or of nothing.
    Replace(Stem, Vec<(Vec<u8>, Vec<u8>)>),
    /// All parts of a row.
    Remove(Stem),
    /// One key.
    Delete(Vec<u8>),
    /// A row under the next number.
    Notice(TenantId, Bytes),
}

impl Op {
    /// Of its first row, or as much of it as is known; none if it has no rows.
    pub(in crate::store) fn key(&self) -> &[u8] {
        match self {
            Self::New(key, _) | Self::Delete(key) => key,
            Self::Once(rows) => rows.first().map_or(&[], |(key, _)| key),
            Self::Replace(stem, _) | Self::Remove(stem) => stem.bytes(),
            Self::Notice(tenant, _) => tenant.as_str().as_bytes(),
        }
    }

    pub(in crate::store) fn bytes(&self) -> usize {
        let rows = |rows: &[(Vec<u8>, Vec<u8>)]| -> usize {
            rows.iter()
                .map(|(key, value)| key.len() + value.len())
                .sum()
        };
        match self {
            Self::New(key, value) => key.len() + value.len(),
            Self::Once(all) | Self::Replace(_, all) => rows(all),
            Self::Remove(stem) => stem.bytes().len(),
            Self::Delete(key) => key.len(),
            Self::Notice(tenant, bytes) => tenant.as_str().len() + bytes.len(),
        }
    }
}

pub(in crate::store) fn encode(writes: &[Write]) -> Vec<Op> {
    let mut ops = Vec::with_capacity(writes.len());
    for write in writes {
        match write {
            Write::Append { journal, frame, .. } => {
                let stem = keys::frame(journal, frame.first());
                ops.extend(
                    row::encode(&stem, frame.bytes()).map(|(key, value)| Op::New(key, value)),
                );
            }
            Write::Snapshot {
                journal,
                seq,
                bytes,
                ..
            } => {
                let mut payload = BytesMut::with_capacity(8 + bytes.len());
                payload.put_u64(seq.0);
                payload.put_slice(bytes);
                let stem = keys::snapshot(journal);
                let rows = row::encode(&stem, &payload).collect();
                ops.push(Op::Replace(stem, rows));
            }
            Write::Value {
                journal,
                digest,
                bytes,
            } => {
                let stem = keys::value(journal, digest);
                ops.push(Op::Once(row::encode(&stem, bytes).collect()));
            }
            Write::Record { key, bytes } => {
                let stem = keys::record(key);
                let rows = row::encode(&stem, bytes).collect();
                ops.push(Op::Replace(stem, rows));
            }
            Write::Unrecord { key } => ops.push(Op::Remove(keys::record(key))),
            Write::Piece { stream, seq, bytes } => {
                let stem = keys::piece(stream, *seq);
                ops.extend(row::encode(&stem, bytes).map(|(key, value)| Op::New(key, value)));
            }
            Write::Notice { tenant, bytes } => {
                ops.push(Op::Notice(tenant.clone(), bytes.clone()));
            }
        }
    }
    ops
}

/// Add a write to the changes of a group, after those before it.
pub(in crate::store) fn add(
    changes: &mut Changes,
    op: Op,
    numbers: &mut Numbers,
    engine: &dyn Engine,
) -> Result<(), EngineError> {
    match op {
        Op::New(key, value) => {
            let (new, old) = (Some(value), None);
            changes.insert(key, Change { new, old });
        }
        Op::Once(rows) => {
            let first = &rows[0].0;
            if !changes.contains_key(first) && engine.get(first)?.is_none() {
                for (key, value) in rows {
                    let (new, old) = (Some(value), None);
                    changes.insert(key, Change { new, old });
                }
            }
        }
        Op::Replace(stem, rows) => {
            let before = parts_now(changes, &stem, engine)?;
            let now = u16::try_from(rows.len()).expect("rows are encoded with u16 part numbers");
            for (key, value) in rows {
                set(changes, key, Some(value), engine)?;
            }
            for part in now..before {
                set(changes, stem.part(part), None, engine)?;
            }
        }
        Op::Remove(stem) => {
            for part in 0..parts_now(changes, &stem, engine)? {
                set(changes, stem.part(part), None, engine)?;
            }
        }
        Op::Delete(key) => {
            numbers.removed(&key, engine)?;
            set(changes, key, None, engine)?;
        }
        Op::Notice(tenant, bytes) => {
            let seq = numbers.next(&tenant, engine)?;
            let stem = keys::piece(&StreamKey::notices(&tenant), seq);
            for (key, value) in row::encode(&stem, &bytes) {
                let (new, old) = (Some(value), None);
                changes.insert(key, Change { new, old });
            }
        }
    }
    Ok(())
}

/// How many parts a row has after the changes so far. A damaged row counts one, and so can be replaced.
fn parts_now(changes: &Changes, stem: &Stem, engine: &dyn Engine) -> Result<u16, EngineError> {
    let first = stem.part(0);
    let count = |value: &[u8]| row::parts(value).unwrap_or(1);
    Ok(match changes.get(&first) {
        Some(change) => change.new.as_deref().map_or(0, count),
        None => engine.get(&first)?.as_deref().map_or(0, count),
    })
}

fn set(
    changes: &mut Changes,
    key: Vec<u8>,
    new: Option<Vec<u8>>,
    engine: &dyn Engine,
) -> Result<(), EngineError> {
    match changes.get_mut(&key) {
        Some(change) => change.new = new,
        None => {
            let old = engine.get(&key)?;
            changes.insert(key, Change { new, old });
        }
    }
    Ok(())
}
