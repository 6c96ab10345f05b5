//! The redo log: what was committed since sled was last brought to disk as a whole.
//!
//! By way of sled a commit takes two to four writes, each waited for, and a sync. Here it is one write, which is on disk
//! when it returns. After a crash what stands here is written to sled again.
//!
//! ```text
//! file:    head | half 0 | half 1         of even epochs | of odd ones; everything begins at a block
//! head:    "antiphon redo 1\n" | id 16, random
//! half:    record | record | …
//! record:  id 16 | CRC-32 of the rest u32 | length of the rows u32 | epoch u64 | number u64 | rows
//! row:     length of the key u32 | length of the value u32, all ones for none | key | value
//! ```
//!
//! Little-endian. A row holds the value as it is afterwards, so writing it again changes nothing.
//!
//! Invariants: the newest epoch has everything that is in no sync of sled. An epoch begins only when nothing else is, and
//! in the other half: a first record that a crash cuts off leaves the epoch before it, which says what sled says. No block
//! with something acknowledged is written again before that. The records of an epoch are numbered from 0 without a gap, so
//! one that cannot be read is the end if none follows, and damage otherwise. Nobody outside knows the id: what
//! looks like a record inside of a value is none.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::super::engine::Changes;
use super::Durability;

/// What is written at once, and what memory of direct writes is aligned to: a page, and no less than a disk's sector.
const BLOCK: usize = 4096;

/// Of the records of one epoch: twice what a group of commits has at most, and as long as a hundred short ones.
const HALF: usize = 512 * 1024;

const LENGTH: usize = BLOCK + 2 * HALF;
const MAGIC: [u8; 16] = *b"antiphon redo 1\n";
const HEAD: usize = 16 + 4 + 4 + 8 + 8;
const ROW_HEAD: usize = 4 + 4;
const NONE: u32 = u32::MAX;

type Id = [u8; 16];

/// Rows as a commit left them; none is absent.
pub(super) type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Debug, thiserror::Error)]
pub(super) enum RedoError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
}

pub(super) struct RedoLog {
    file: File,
    id: Id,
    epoch: u64,
    /// Of the next record.
    number: u64,
    /// Where the next record goes in its half.
    at: usize,
    /// Nothing stands here that would be written again.
    is_empty: bool,
    buffer: Buffer,
}

impl RedoLog {
    /// Open it, or make it where there is none; with what stands in it, commit by commit. That is to be on disk in
    /// sled before anything is appended.
    pub(super) fn open(
        path: &Path,
        durability: Durability,
    ) -> Result<(Self, Vec<Rows>), RedoError> {
        match path.metadata() {
            Ok(metadata) if metadata.len() == LENGTH as u64 => {}
            Ok(metadata) => {
                let why = format!("its redo log has {} bytes, not {LENGTH}", metadata.len());
                return Err(RedoError::Damaged(why));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
            Err(error) => return Err(error.into()),
        }
        let mut bytes = vec![0; LENGTH];
        File::open(path)?.read_exact_at(&mut bytes, 0)?;
        let (id, epoch, commits) = read(&bytes)?;
        let log = Self {
            file: open(path, durability)?,
            id,
            epoch: epoch + 1,
            number: 0,
            at: 0,
            is_empty: commits.is_empty(),
            buffer: Buffer::default(),
        };
        Ok((log, commits))
    }

    /// Whether there is room for these in an epoch of their own.
    pub(super) fn takes(changes: &Changes) -> bool {
        padded(HEAD + rows_len(changes)) <= HALF
    }

    /// Whether there is room for these in this epoch.
    pub(super) fn has_room_for(&self, changes: &Changes) -> bool {
        self.at + padded(HEAD + rows_len(changes)) <= HALF
    }

    /// On disk when it returns. After an error it may be there or not.
    pub(super) fn append(&mut self, changes: &Changes) -> io::Result<()> {
        let record = self
            .buffer
            .record(&self.id, self.epoch, self.number, changes);
        let at = start(self.epoch) + self.at;
        self.file.write_all_at(record, at as u64)?;
        self.at += record.len();
        self.number += 1;
        self.is_empty &= changes.is_empty();
        Ok(())
    }

    /// Everything that stands here is on disk in sled.
    pub(super) fn begin_epoch(&mut self) {
        if self.number > 0 {
            self.epoch += 1;
            (self.number, self.at) = (0, 0);
        }
    }

    /// The same, and none of it is to be written again: what sled gets now is in no record.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.begin_epoch();
        if !self.is_empty {
            self.append(&Changes::new())?;
            self.is_empty = true;
        }
        Ok(())
    }
}

/// The bytes of a commit's rows here.
fn rows_len(changes: &Changes) -> usize {
    let row =
        |key: &[u8], value: Option<&Vec<u8>>| ROW_HEAD + key.len() + value.map_or(0, Vec::len);
    let rows = changes.iter();
    rows.map(|(key, change)| row(key, change.new.as_ref()))
        .sum()
}

fn start(epoch: u64) -> usize {
    BLOCK + if epoch % 2 == 1 { HALF } else { 0 }
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(BLOCK)
}

/// All of its blocks are there from now on: a write has none to find, and a full disk cannot refuse it.
fn make(path: &Path) -> io::Result<()> {
    let mut bytes = vec![0; LENGTH];
    bytes[..16].copy_from_slice(&MAGIC);
    getrandom::fill(&mut bytes[16..32]).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

/// Each write is on disk when it returns. Past the kernel's pages that is a quarter faster; some file systems do
/// not have that.
fn open(path: &Path, durability: Durability) -> io::Result<File> {
    let with = |flags: OFlags| {
        let flags = flags.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(flags).open(path)
    };
    match durability {
        Durability::Process => with(OFlags::empty()),
        Durability::Power => with(OFlags::DSYNC | OFlags::DIRECT).or_else(|_| with(OFlags::DSYNC)),
    }
}

/// The id, the newest epoch, and its commits.
fn read(bytes: &[u8]) -> Result<(Id, u64, Vec<Rows>), RedoError> {
    let Some((magic, rest)) = bytes.split_first_chunk::<16>() else {
        return Err(RedoError::Damaged("its redo log is cut short".into()));
    };
    let id = rest.first_chunk().filter(|_| *magic == MAGIC);
    let unknown = || RedoError::Damaged("its redo log is not one that this binary knows".into());
    let id: Id = *id.ok_or_else(unknown)?;
    let newest = [0, 1]
        .map(|parity| half(bytes, &id, parity))
        .into_iter()
        .max_by_key(|(epoch, ..)| *epoch);
    let (epoch, commits, end) = newest.unwrap_or_default();
    // Nothing comes after the end, wherever it might be.
    for at in (BLOCK..LENGTH).step_by(BLOCK) {
        let is_read = at < end && at >= start(epoch);
        let Some(record) = record(&bytes[at..], &id).filter(|_| !is_read) else {
            continue;
        };
        if record.epoch > epoch || (record.epoch == epoch && !commits.is_empty()) {
            let lost = match record.epoch == epoch {
                true => commits.len(),
                false => 0,
            };
            let why = format!(
                "record {lost} of epoch {} of its redo log cannot be read, and record {} can",
                record.epoch, record.number
            );
            return Err(RedoError::Damaged(why));
        }
    }
    Ok((id, epoch, commits))
}

/// The epoch that stands in a half, its commits, and where they end; nothing if none begins there.
fn half(bytes: &[u8], id: &Id, parity: u64) -> (u64, Vec<Rows>, usize) {
    let (mut at, mut commits) = (start(parity), Vec::new());
    let end = at + HALF;
    let mut epoch = None;
    while let Some(record) = record(&bytes[at..end], id) {
        let expected = *epoch.get_or_insert(record.epoch);
        if record.epoch != expected || record.number != commits.len() as u64 {
            break;
        }
        at += record.length;
        commits.push(record.rows);
    }
    (epoch.unwrap_or_default(), commits, at)
}

struct Record {
    epoch: u64,
    number: u64,
    rows: Rows,
    /// With what is left of its last block.
    length: usize,
}

/// The record that begins here, if one does that is whole.
fn record(bytes: &[u8], id: &Id) -> Option<Record> {
    let bytes = bytes.strip_prefix(id)?;
    let (crc, checked) = bytes.split_first_chunk()?;
    let (length, rest) = checked.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (epoch, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let mut rest = rest.get(..length)?;
    let checked = checked.get(..HEAD - 20 + length)?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (key_len, more) = rest.split_first_chunk()?;
        let (value_len, more) = more.split_first_chunk()?;
        let key_len = usize::try_from(u32::from_le_bytes(*key_len)).ok()?;
        let (key, more) = more.split_at_checked(key_len)?;
        let (value, more) = match u32::from_le_bytes(*value_len) {
            NONE => (None, more),
            value_len => {
                let (value, more) = more.split_at_checked(usize::try_from(value_len).ok()?)?;
                (Some(value.to_vec()), more)
            }
        };
        rows.push((key.to_vec(), value));
        rest = more;
    }
    Some(Record {
        epoch: u64::from_le_bytes(*epoch),
        number: u64::from_le_bytes(*number),
        rows,
        length: padded(HEAD + length),
    })
}

/// Memory for records that begins at a block.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    /// A record, with zeros up to the end of its last block.
    fn record(&mut self, id: &Id, epoch: u64, number: u64, changes: &Changes) -> &[u8] {
        let rows_len = rows_len(changes);
        let length = padded(HEAD + rows_len);
        self.0.clear();
        self.0.reserve(BLOCK + length);
        let before = self.0.as_ptr().align_offset(BLOCK);
        // Only a compiler that runs this itself may not know; then writes fail, and the store says so.
        let before = before.min(BLOCK);
        self.0.resize(before, 0);
        let mut put = |bytes: &[u8]| self.0.extend_from_slice(bytes);
        let len = |bytes: usize| u32::try_from(bytes).expect("records are shorter than a half");
        put(id);
        put(&[0; 4]);
        put(&len(rows_len).to_le_bytes());
        put(&epoch.to_le_bytes());
        put(&number.to_le_bytes());
        for (key, change) in changes {
            put(&len(key.len()).to_le_bytes());
            let value = change.new.as_deref();
            put(&value.map_or(NONE, |value| len(value.len())).to_le_bytes());
            put(key);
            put(value.unwrap_or_default());
        }
        let crc = crc32fast::hash(&self.0[before + 20..]);
        self.0[before + 16..before + 20].copy_from_slice(&crc.to_le_bytes());
        self.0.resize(before + length, 0);
        &self.0[before..]
    }
}

#[cfg(test)]
mod tests;
