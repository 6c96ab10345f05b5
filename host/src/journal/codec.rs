//! Entries and frames as bytes.
//!
//! An entry, all numbers big-endian:
//!
//! ```text
//! seq u64 | time u64 | kind u16 | schema version u16 | public length u32 | private length u32
//! public JSON | private JSON (may be empty) | CRC-32 of everything before u32
//! ```
//!
//! The public JSON is the event exactly as clients get it, with `offset`, `time`
//! and `kind` first, so serving it copies bytes. A frame is what one append
//! writes: `format u8 | kinds u64 | count u32 | CRC-32 of these u32 | entries`; bit
//! `k` of `kinds` says that an entry of kind number `k` is inside, so readers of a
//! few kinds skip frames without decoding entries.
//!
//! Invariant: decoding checks every length against what is there, and never
//! trusts a stored byte. A new optional field does not change the version.

use std::io::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Time;
use crate::id::{Offset, Seq};

use super::entry::{Entry, Kind, Payload};

const FORMAT: u8 = 1;
const SCHEMA: u16 = 1;
const ENTRY_HEAD: usize = 8 + 8 + 2 + 2 + 4 + 4;
const FRAME_HEAD: usize = 1 + 8 + 4 + 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("cut short")]
    Truncated,
    #[error("checksum of a frame's head is wrong")]
    Head,
    #[error("checksum of entry {0} is wrong")]
    Checksum(Seq),
    #[error("entry {seq} has kind {kind}, which this binary does not know")]
    UnknownKind { seq: Seq, kind: u16 },
    #[error("entry {seq} has schema version {version}, which this binary does not know")]
    UnknownVersion { seq: Seq, version: u16 },
    #[error("frame format {0} is not known")]
    UnknownFormat(u8),
    #[error("entry {seq}: {text}")]
    Json { seq: Seq, text: String },
}

impl DecodeError {
    /// The entry that cannot be read, if it says which it is.
    pub fn seq(&self) -> Option<Seq> {
        match self {
            Self::Checksum(seq)
            | Self::UnknownKind { seq, .. }
            | Self::UnknownVersion { seq, .. }
            | Self::Json { seq, .. } => Some(*seq),
            Self::Truncated | Self::Head | Self::UnknownFormat(_) => None,
        }
    }
}

/// An entry as bytes: cheap to clone, its parts are views.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    pub seq: Seq,
    pub time: Time,
    pub kind: Kind,
    bytes: Bytes,
    public_len: usize,
    private_len: usize,
}

impl Encoded {
    /// From parts that were exported, as they are. Whoever has them from outside decodes
    /// it before trusting it.
    pub fn from_parts(seq: Seq, time: Time, kind: Kind, public: &[u8], private: &[u8]) -> Self {
        let (public_len, private_len) = (public.len(), private.len());
        let mut bytes = BytesMut::with_capacity(ENTRY_HEAD + public_len + private_len + 4);
        bytes.put_u64(seq.0);
        bytes.put_u64(time.0);
        bytes.put_u16(kind.number());
        bytes.put_u16(SCHEMA);
        bytes.put_slice(&length(public_len));
        bytes.put_slice(&length(private_len));
        bytes.put_slice(public);
        bytes.put_slice(private);
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        Self {
            seq,
            time,
            kind,
            bytes: bytes.freeze(),
            public_len,
            private_len,
        }
    }

    /// The event, as JSON.
    pub fn public(&self) -> Bytes {
        self.bytes.slice(ENTRY_HEAD..ENTRY_HEAD + self.public_len)
    }

    /// The private part, as JSON; empty if there is none.
    pub fn private(&self) -> Bytes {
        let start = ENTRY_HEAD + self.public_len;
        self.bytes.slice(start..start + self.private_len)
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn decode(&self) -> Result<Entry, DecodeError> {
        let json = |error: serde_json::Error| DecodeError::Json {
            seq: self.seq,
            text: error.to_string(),
        };
        let mut payload = payload(self.kind, &self.public()).map_err(json)?;
        let private = self.private();
        if !private.is_empty() {
            set_private(&mut payload, &private).map_err(json)?;
        }
        Ok(Entry {
            seq: self.seq,
            time: self.time,
            payload,
        })
    }
}

/// The entry as bytes.
pub fn encode(entry: &Entry) -> Encoded {
    let mut bytes = Vec::with_capacity(512);
    bytes.put_u64(entry.seq.0);
    bytes.put_u64(entry.time.0);
    let kind = entry.payload.kind();
    bytes.put_u16(kind.number());
    bytes.put_u16(SCHEMA);
    bytes.put_u64(0); // both lengths, known below

    let (offset, time) = (Offset(entry.seq), entry.time.rfc3339());
    write!(bytes, r#"{{"offset":"{offset}","time":"{time}""#)
        .expect("writing to memory does not fail");
    let brace = bytes.len();
    write_json(&mut bytes, &entry.payload);
    // One object: the payload goes on where the head stops.
    bytes[brace] = b',';
    let public_len = bytes.len() - ENTRY_HEAD;
    write_private(&mut bytes, &entry.payload);
    let private_len = bytes.len() - ENTRY_HEAD - public_len;
    bytes[20..24].copy_from_slice(&length(public_len));
    bytes[24..28].copy_from_slice(&length(private_len));
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32(crc);
    Encoded {
        seq: entry.seq,
        time: entry.time,
        kind,
        bytes: bytes.into(),
        public_len,
        private_len,
    }
}

/// The payload of an event. Its kind is known: to find it among the fields first takes twice as long.
fn payload(kind: Kind, json: &[u8]) -> Result<Payload, serde_json::Error> {
    check_kind(kind, json)?;
    Ok(match kind {
        Kind::SessionOpened => Payload::SessionOpened(serde_json::from_slice(json)?),
        Kind::SessionChanged => Payload::SessionChanged(serde_json::from_slice(json)?),
        Kind::MessageReceived => Payload::MessageReceived(serde_json::from_slice(json)?),
        Kind::MessageSent => Payload::MessageSent(serde_json::from_slice(json)?),
        Kind::TurnStarted => Payload::TurnStarted(serde_json::from_slice(json)?),
        Kind::Called => Payload::Called(serde_json::from_slice(json)?),
        Kind::Returned => Payload::Returned(serde_json::from_slice(json)?),
        Kind::Streamed => Payload::Streamed(serde_json::from_slice(json)?),
        Kind::Observed => Payload::Observed(serde_json::from_slice(json)?),
        Kind::Spoke => Payload::Spoke(serde_json::from_slice(json)?),
        Kind::SlotLocked => Payload::SlotLocked(serde_json::from_slice(json)?),
        Kind::SlotCommitted => Payload::SlotCommitted(serde_json::from_slice(json)?),
        Kind::SlotReleased => Payload::SlotReleased(serde_json::from_slice(json)?),
        Kind::InterruptRequested => Payload::InterruptRequested(serde_json::from_slice(json)?),
        Kind::TurnEnded => Payload::TurnEnded(serde_json::from_slice(json)?),
        Kind::MessageSetAside => Payload::MessageSetAside(serde_json::from_slice(json)?),
        Kind::Retried => Payload::Retried(serde_json::from_slice(json)?),
        Kind::AgentSuspended => Payload::AgentSuspended(serde_json::from_slice(json)?),
        Kind::AgentResumed => Payload::AgentResumed(serde_json::from_slice(json)?),
        Kind::SessionForked => Payload::SessionForked(serde_json::from_slice(json)?),
        Kind::SpeakerStarted => Payload::SpeakerStarted(serde_json::from_slice(json)?),
        Kind::SpeakerEnded => Payload::SpeakerEnded(serde_json::from_slice(json)?),
        Kind::Halted => Payload::Halted(serde_json::from_slice(json)?),
        Kind::AgentCalled => Payload::AgentCalled(serde_json::from_slice(json)?),
        Kind::CallCancelled => Payload::CallCancelled(serde_json::from_slice(json)?),
        Kind::Recounted => Payload::Recounted(serde_json::from_slice(json)?),
        Kind::ToolsCalled => Payload::ToolsCalled(serde_json::from_slice(json)?),
        Kind::Asked => Payload::Asked(serde_json::from_slice(json)?),
        Kind::Answered => Payload::Answered(serde_json::from_slice(json)?),
    })
}

/// The kind that the event has for clients is that which the entry has for us.
fn check_kind(kind: Kind, json: &[u8]) -> Result<(), serde_json::Error> {
    const FIELD: &[u8] = b",\"kind\":\"";
    // Where we write it, it comes after an offset and a time.
    let head = &json[..json.len().min(128)];
    let at = head.windows(FIELD.len()).position(|it| it == FIELD);
    let rest = at.map(|at| &json[at + FIELD.len()..]);
    let rest = rest.and_then(|rest| rest.strip_prefix(kind.name().as_bytes()));
    if rest.is_some_and(|rest| rest.starts_with(b"\"")) {
        return Ok(());
    }
    #[derive(serde::Deserialize)]
    struct Named {
        kind: String,
    }
    let named: Named = serde_json::from_slice(json)?;
    match named.kind == kind.name() {
        true => Ok(()),
        false => Err(serde::de::Error::custom(format!(
            "it is a {:?} in its head, and a {:?} as an event",
            kind.name(),
            named.kind
        ))),
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("entries are bounded far below 4 GiB before they are built")
        .to_be_bytes()
}

fn write_json(bytes: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(bytes, value)
        .expect("payloads have string keys and writing to memory does not fail");
}

fn write_private(bytes: &mut Vec<u8>, payload: &Payload) {
    match payload {
        Payload::SessionOpened(opened) => write_json(bytes, &opened.private),
        Payload::MessageReceived(received) => write_json(bytes, &received.private),
        Payload::TurnStarted(started) => write_json(bytes, &started.private),
        Payload::SlotCommitted(committed) => write_json(bytes, &committed.private),
        Payload::TurnEnded(ended) => write_json(bytes, &ended.private),
        Payload::SessionForked(forked) => write_json(bytes, &forked.private),
        Payload::AgentCalled(called) => write_json(bytes, &called.private),
        Payload::Answered(answered) => write_json(bytes, &answered.private),
        Payload::SessionChanged(_)
        | Payload::MessageSent(_)
        | Payload::Called(_)
        | Payload::Returned(_)
        | Payload::Streamed(_)
        | Payload::Observed(_)
        | Payload::Spoke(_)
        | Payload::SlotLocked(_)
        | Payload::SlotReleased(_)
        | Payload::InterruptRequested(_)
        | Payload::MessageSetAside(_)
        | Payload::Retried(_)
        | Payload::AgentSuspended(_)
        | Payload::AgentResumed(_)
        | Payload::SpeakerStarted(_)
        | Payload::SpeakerEnded(_)
        | Payload::Halted(_)
        | Payload::CallCancelled(_)
        | Payload::Recounted(_)
        | Payload::ToolsCalled(_)
        | Payload::Asked(_) => {}
    }
}

fn set_private(payload: &mut Payload, json: &[u8]) -> Result<(), serde_json::Error> {
    fn parse<T: DeserializeOwned>(json: &[u8], into: &mut T) -> Result<(), serde_json::Error> {
        *into = serde_json::from_slice(json)?;
        Ok(())
    }
    match payload {
        Payload::SessionOpened(opened) => parse(json, &mut opened.private),
        Payload::MessageReceived(received) => parse(json, &mut received.private),
        Payload::TurnStarted(started) => parse(json, &mut started.private),
        Payload::SlotCommitted(committed) => parse(json, &mut committed.private),
        Payload::TurnEnded(ended) => parse(json, &mut ended.private),
        Payload::SessionForked(forked) => parse(json, &mut forked.private),
        Payload::AgentCalled(called) => parse(json, &mut called.private),
        Payload::Answered(answered) => parse(json, &mut answered.private),
        Payload::SessionChanged(_)
        | Payload::MessageSent(_)
        | Payload::Called(_)
        | Payload::Returned(_)
        | Payload::Streamed(_)
        | Payload::Observed(_)
        | Payload::Spoke(_)
        | Payload::SlotLocked(_)
        | Payload::SlotReleased(_)
        | Payload::InterruptRequested(_)
        | Payload::MessageSetAside(_)
        | Payload::Retried(_)
        | Payload::AgentSuspended(_)
        | Payload::AgentResumed(_)
        | Payload::SpeakerStarted(_)
        | Payload::SpeakerEnded(_)
        | Payload::Halted(_)
        | Payload::CallCancelled(_)
        | Payload::Recounted(_)
        | Payload::ToolsCalled(_)
        | Payload::Asked(_) => Ok(()),
    }
}

/// One stored value: entries with consecutive seqs, written whole by one commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    first: Seq,
    last: Seq,
    bytes: Bytes,
}

impl Frame {
    /// Panics if `entries` is empty or not consecutive: whoever numbers entries builds frames.
    pub fn of(entries: &[Encoded]) -> Self {
        let (first, last) = match entries {
            [] => panic!("a frame holds at least one entry"),
            [first, .., last] => (first.seq, last.seq),
            [only] => (only.seq, only.seq),
        };
        assert_eq!(
            last.0 - first.0 + 1,
            entries.len() as u64,
            "a frame has no gaps"
        );
        let kinds = entries
            .iter()
            .fold(0, |kinds, entry| kinds | bit(entry.kind));
        let mut bytes =
            BytesMut::with_capacity(FRAME_HEAD + entries.iter().map(Encoded::len).sum::<usize>());
        bytes.put_u8(FORMAT);
        bytes.put_u64(kinds);
        bytes.put_slice(&length(entries.len()));
        let crc = crc32fast::hash(&bytes);
        bytes.put_u32(crc);
        for entry in entries {
            bytes.put_slice(&entry.bytes);
        }
        Self {
            first,
            last,
            bytes: bytes.freeze(),
        }
    }

    /// Check stored bytes and read where they belong.
    pub fn parse(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut frame = Self {
            first: Seq(0),
            last: Seq(0),
            bytes,
        };
        let entries = frame.entries()?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(DecodeError::Truncated);
        };
        (frame.first, frame.last) = (first.seq, last.seq);
        Ok(frame)
    }

    pub fn first(&self) -> Seq {
        self.first
    }

    pub fn last(&self) -> Seq {
        self.last
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether any of `kinds` is inside, from the head of a stored frame alone.
    pub fn contains(bytes: &[u8], kinds: &[Kind]) -> Result<bool, DecodeError> {
        let (mask, _) = parse_head(bytes)?;
        Ok(kinds.iter().any(|kind| mask & bit(*kind) != 0))
    }

    /// The entries before the first that cannot be read, of bytes that may be no frame.
    pub fn readable(bytes: Bytes) -> Vec<Encoded> {
        let mut entries = Vec::new();
        let Some(mut rest) = (bytes.len() > FRAME_HEAD).then(|| bytes.slice(FRAME_HEAD..)) else {
            return entries;
        };
        while let Ok(entry) = split_entry(&mut rest) {
            if entry.decode().is_err() {
                break;
            }
            entries.push(entry);
        }
        entries
    }

    pub fn entries(&self) -> Result<Vec<Encoded>, DecodeError> {
        let (_, count) = parse_head(&self.bytes)?;
        let mut rest = self.bytes.slice(FRAME_HEAD..);
        // The count is only a promise of stored bytes: grow as entries prove to be there.
        let mut entries = Vec::new();
        for _ in 0..count {
            let entry = split_entry(&mut rest)?;
            if entries
                .last()
                .is_some_and(|last: &Encoded| last.seq.next() != entry.seq)
            {
                return Err(DecodeError::Truncated);
            }
            entries.push(entry);
        }
        if rest.is_empty() {
            Ok(entries)
        } else {
            Err(DecodeError::Truncated)
        }
    }
}

/// The mask of kinds and the count of entries.
fn parse_head(bytes: &[u8]) -> Result<(u64, u32), DecodeError> {
    let head = bytes.get(..FRAME_HEAD).ok_or(DecodeError::Truncated)?;
    if head[0] != FORMAT {
        return Err(DecodeError::UnknownFormat(head[0]));
    }
    if crc32fast::hash(&head[..FRAME_HEAD - 4]) != u32_at(head, FRAME_HEAD - 4)? {
        return Err(DecodeError::Head);
    }
    Ok((u64_at(head, 1)?, u32_at(head, 9)?))
}

fn bit(kind: Kind) -> u64 {
    1 << kind.number()
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, DecodeError> {
    let four = bytes.get(at..at + 4).ok_or(DecodeError::Truncated)?;
    Ok(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, DecodeError> {
    Ok(u64::from(u32_at(bytes, at)?) << 32 | u64::from(u32_at(bytes, at + 4)?))
}

fn split_entry(rest: &mut Bytes) -> Result<Encoded, DecodeError> {
    let seq = Seq(u64_at(rest, 0)?);
    let time = Time(u64_at(rest, 8)?);
    let kind_and_version = u32_at(rest, 16)?;
    let (public_len, private_len) = (u32_at(rest, 20)? as usize, u32_at(rest, 24)? as usize);
    let body = ENTRY_HEAD
        .checked_add(public_len)
        .and_then(|sum| sum.checked_add(private_len))
        .filter(|body| body.checked_add(4).is_some_and(|whole| whole <= rest.len()))
        .ok_or(DecodeError::Truncated)?;
    if crc32fast::hash(&rest[..body]) != u32_at(rest, body)? {
        return Err(DecodeError::Checksum(seq));
    }
    let (kind, version) = ((kind_and_version >> 16) as u16, kind_and_version as u16);
    if version != SCHEMA {
        return Err(DecodeError::UnknownVersion { seq, version });
    }
    let kind = Kind::of_number(kind).ok_or(DecodeError::UnknownKind { seq, kind })?;
    Ok(Encoded {
        seq,
        time,
        kind,
        bytes: rest.split_to(body + 4),
        public_len,
        private_len,
    })
}

#[cfg(test)]
mod tests;
