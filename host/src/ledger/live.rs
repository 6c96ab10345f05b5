//! What the ledger's lock protects: state, buffer, and the newest entries.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::clock::Time;
use crate::id::{Digest, MessageId, Seq, TurnId};
use crate::journal::codec::{Encoded, Frame, encode};
use crate::journal::entry::{Content, Entry, Payload, Spoke, Usage};
use crate::journal::notice::Noted;
use crate::journal::state::{FOLD_VERSION, IllegalEntry, State};
use crate::store::{Generation, JournalId, OpenError, ReadError, RecordKey, Store, Tail, Write};

use super::bill::Bill;
use super::{Dead, sealed};

/// Newest entries kept in memory for followers and guests, beside those not durable yet.
const RECENT_BYTES_MAX: usize = 256 * 1024;

/// Entries between snapshots: folding them takes under 5 ms at 200,000 entries/s.
const SNAPSHOT_ENTRIES: u64 = 1_000;

/// A snapshot at rest is worth it from here on: waking reads less than a frame otherwise.
const REST_SNAPSHOT_ENTRIES: u64 = 64;

/// One entry of reply at most, so that no entry comes near the store's bounds.
const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// Bytes of journal read at a time while folding.
const FOLD_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WakeRecord {
    /// The last owner's write of it may still be on its way, so reading it says nothing.
    Unknown,
    Absent,
    At(Time),
}

/// Whose words a turn says: in a conversation, those of the speaker whose turn of this index is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voice {
    pub speaker: String,
    pub index: u32,
}

/// Words of a turn that are not an entry yet, all of one voice.
#[derive(Debug, Default)]
struct Chunk {
    voice: Option<Voice>,
    text: String,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) generation: Generation,
    pub(super) tail: Tail,
}

pub(super) struct Live {
    pub(super) state: State,
    /// What appends go out under; none if the journal is only read.
    pub(super) owner: Option<Owner>,
    pub(super) dead: Option<Dead>,
    /// Numbered, not yet handed to the store; always the end of `recent`.
    unflushed: usize,
    /// Consecutive, up to the newest entry; holds at least everything not durable.
    recent: VecDeque<Encoded>,
    recent_bytes: usize,
    /// Of all entries and long values since it was opened.
    written_bytes: u64,
    /// Long values that unflushed entries name.
    new_values: Vec<(Digest, Bytes)>,
    /// Other records of the next commit.
    new_records: Vec<Write>,
    /// What the tenant is told with it.
    noted: Noted,
    /// Long documents of slots, so that reading a slot never touches the disk.
    texts: HashMap<Digest, Bytes>,
    chunks: BTreeMap<TurnId, Chunk>,
    /// What the wake record says, by the newest write of it that was queued.
    wake: WakeRecord,
    snapshot_at: Seq,
    /// What entries used, and what is under way.
    pub(super) bill: Bill,
}

impl Live {
    pub(super) fn fold(
        store: &dyn Store,
        journal: &JournalId,
        owner: Option<Owner>,
        last: Seq,
    ) -> Result<Self, OpenError> {
        let mut state = State::default();
        if let Some((seq, bytes)) = snapshot_of(store, journal)? {
            if seq > last {
                // It is only ever written at a durable place: the end of the journal is lost.
                let what = format!("it is missing, and a snapshot was taken at {seq}");
                return Err(ReadError::bad_entry(journal, Some(last.next()), what).into());
            }
            state = parse_snapshot(&bytes, seq).unwrap_or_default();
        }
        let snapshot_at = state.last;
        while state.last < last {
            let frames = store.frames(journal, state.last, FOLD_BYTES)?;
            let before = state.last;
            for frame in &frames {
                fold_frame(&mut state, journal, frame)?;
            }
            if state.last == before {
                let what = "it is missing";
                return Err(ReadError::bad_entry(journal, Some(before.next()), what).into());
            }
        }
        Ok(Self {
            state,
            owner,
            dead: None,
            unflushed: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            written_bytes: 0,
            new_values: Vec::new(),
            new_records: Vec::new(),
            noted: Noted::default(),
            texts: HashMap::new(),
            chunks: BTreeMap::new(),
            wake: WakeRecord::Unknown,
            snapshot_at,
            bill: Bill::default(),
        })
    }

    /// With the long documents of its slots.
    pub(super) fn with_texts(
        mut self,
        store: &dyn Store,
        journal: &JournalId,
    ) -> Result<Self, OpenError> {
        for slot in self.state.slots.values() {
            let Some(document) = &slot.document else {
                continue;
            };
            let Content::Stored { digest, .. } = &document.content else {
                continue;
            };
            let missing = || {
                let what = format!("the value {digest} is missing");
                ReadError::bad_entry(journal, Some(document.version), what)
            };
            let bytes = store.value(journal, digest)?.ok_or_else(missing)?;
            self.texts.insert(*digest, bytes);
        }
        Ok(self)
    }

    /// The text behind a content, which the fold or a push brought into memory.
    pub(super) fn text(&self, content: &Content) -> Bytes {
        match content {
            Content::Inline { text } => Bytes::copy_from_slice(text.as_bytes()),
            Content::Stored { digest, .. } => self.texts.get(digest).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn has_unflushed(&self) -> bool {
        self.unflushed > 0 || !self.chunks.is_empty()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        let chunks: usize = self.chunks.values().map(|chunk| chunk.text.len()).sum();
        let entries: usize = self
            .recent
            .iter()
            .rev()
            .take(self.unflushed)
            .map(Encoded::len)
            .sum();
        // Long texts wait beside the entries that name them.
        let values: usize = self.new_values.iter().map(|(_, bytes)| bytes.len()).sum();
        chunks + entries + values
    }

    /// Bytes a turn has said, appended or not.
    pub(super) fn said(&self, turn: &TurnId) -> u64 {
        let appended = self.state.turns.get(turn).map_or(0, |turn| turn.said);
        let chunk = self.chunks.get(turn);
        appended + chunk.map_or(0, |chunk| chunk.text.len() as u64)
    }

    /// Words of a turn that is no longer open are dropped: nobody was or will be shown them.
    pub(super) fn say(&mut self, turn: &TurnId, voice: Option<&Voice>, text: &str) {
        if self.state.turns.contains_key(turn) && !text.is_empty() {
            let chunk = self.chunks.entry(turn.clone()).or_insert_with(|| Chunk {
                voice: voice.cloned(),
                text: String::new(),
            });
            chunk.text.push_str(text);
        }
    }

    /// Whether the turn has words of another voice that are not an entry yet.
    pub(super) fn speaks_otherwise(&self, turn: &TurnId, voice: Option<&Voice>) -> bool {
        let chunk = self.chunks.get(turn);
        chunk.is_some_and(|chunk| chunk.voice.as_ref() != voice)
    }

    pub(super) fn close_chunks(&mut self, journal: &JournalId, now: Time) {
        let turns: Vec<TurnId> = self.chunks.keys().cloned().collect();
        let mut batch = Batch::new(self, journal, now);
        turns.iter().for_each(|turn| batch.close_chunk(turn));
    }

    fn push(
        &mut self,
        journal: &JournalId,
        now: Time,
        payload: Payload,
    ) -> Result<Seq, IllegalEntry> {
        // Entry times never decrease, whatever the clock does.
        let entry = Entry {
            seq: self.state.last.next(),
            time: now.max(self.state.time),
            payload,
        };
        self.state.next(&entry)?;
        self.noted.note(&journal.session, &entry);
        let encoded = encode(&entry);
        self.recent_bytes += encoded.len();
        self.written_bytes += encoded.len() as u64;
        self.recent.push_back(encoded);
        self.unflushed += 1;
        Ok(entry.seq)
    }

    /// What was buffered, as writes of one commit, and the seq that is durable with it.
    pub(super) fn take_frame(&mut self, journal: &JournalId) -> Option<(Vec<Write>, Seq)> {
        let owner = self.owner?;
        if self.unflushed == 0 {
            return None;
        }
        self.recent.make_contiguous();
        let (entries, _) = self.recent.as_slices();
        let frame = Frame::of(&entries[entries.len() - self.unflushed..]);
        let last = frame.last();
        let mut writes: Vec<Write> = std::mem::take(&mut self.new_values)
            .into_iter()
            .map(|(digest, bytes)| Write::Value {
                journal: journal.clone(),
                digest,
                bytes,
            })
            .collect();
        writes.extend(self.bill.take_writes(journal));
        writes.append(&mut self.new_records);
        if let Some(row) = self.noted.take() {
            let (tenant, bytes) = (journal.tenant.clone(), row.into());
            writes.push(Write::Notice { tenant, bytes });
        }
        writes.push(Write::Append {
            journal: journal.clone(),
            generation: owner.generation,
            expected: owner.tail,
            frame,
        });
        self.unflushed = 0;
        Some((writes, last))
    }

    /// The wake record that must not be later than what is being flushed, if it must change.
    pub(super) fn wake_write(&mut self, key: &RecordKey) -> Option<Write> {
        let due = self.state.next_due()?;
        if matches!(self.wake, WakeRecord::At(recorded) if recorded <= due) {
            return None;
        }
        self.wake = WakeRecord::At(due);
        Some(Write::Record {
            key: key.clone(),
            bytes: wake_bytes(due),
        })
    }

    /// The wake record for a session that goes to rest, if it must change.
    pub(super) fn rest_write(&mut self, key: &RecordKey) -> Option<Write> {
        let due = self.state.next_due();
        let exact = due.map_or(WakeRecord::Absent, WakeRecord::At);
        if self.wake == exact {
            return None;
        }
        self.wake = exact;
        Some(match due {
            Some(due) => Write::Record {
                key: key.clone(),
                bytes: wake_bytes(due),
            },
            None => Write::Unrecord { key: key.clone() },
        })
    }

    pub(super) fn snapshot(
        &mut self,
        journal: &JournalId,
        durable: Seq,
        all: bool,
    ) -> Option<Write> {
        let entries = self.state.last.0 - self.snapshot_at.0;
        let enough = if all {
            REST_SNAPSHOT_ENTRIES
        } else {
            SNAPSHOT_ENTRIES
        };
        if entries < enough || durable != self.state.last || self.dead.is_some() {
            return None;
        }
        self.snapshot_at = durable;
        Some(Write::Snapshot {
            journal: journal.clone(),
            generation: self.owner?.generation,
            seq: durable,
            bytes: snapshot_bytes(&self.state),
        })
    }

    /// Entries after `after` that are in memory; none if the first of them is not.
    pub(super) fn recent_after(&self, after: Seq) -> Option<impl Iterator<Item = &Encoded>> {
        let first = self
            .recent
            .front()
            .map_or(self.state.last.next(), |entry| entry.seq);
        let skip = after.next().0.checked_sub(first.0)?;
        Some(
            self.recent
                .iter()
                .skip(usize::try_from(skip).unwrap_or(usize::MAX)),
        )
    }

    /// Forget the oldest entries beyond the bound, but none that is not durable.
    pub(super) fn trim(&mut self, durable: Seq) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && self
                .recent
                .front()
                .is_some_and(|entry| entry.seq <= durable)
        {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |entry| entry.len());
        }
    }

    #[cfg(test)]
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    pub(super) fn recent_first(&self) -> Seq {
        self.recent
            .front()
            .map_or(self.state.last.next(), |entry| entry.seq)
    }
}

/// Entries of one decision, appended as they are pushed.
pub struct Batch<'a> {
    live: &'a mut Live,
    journal: &'a JournalId,
    now: Time,
    illegal: Option<IllegalEntry>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(live: &'a mut Live, journal: &'a JournalId, now: Time) -> Self {
        Self {
            live,
            journal,
            now,
            illegal: None,
        }
    }

    pub(super) fn into_illegal(self) -> Option<IllegalEntry> {
        self.illegal
    }

    pub fn state(&self) -> &State {
        &self.live.state
    }

    pub fn journal(&self) -> &JournalId {
        self.journal
    }

    pub fn now(&self) -> Time {
        self.now
    }

    /// The number the next push gets.
    pub fn next_seq(&self) -> Seq {
        self.live.state.last.next()
    }

    /// Append. An illegal entry is a defect of the caller: it ends the ledger.
    pub fn push(&mut self, payload: Payload) -> Seq {
        let before = self.live.bill.before(&self.live.state, &payload);
        if self.illegal.is_none() {
            let tenant = &self.journal.tenant;
            let removed = sealed::removed(&self.live.state, tenant, &payload);
            match self.live.push(self.journal, self.now, payload) {
                Ok(_) => {
                    self.live.new_records.extend(removed);
                    let (bill, state) = (&mut self.live.bill, &self.live.state);
                    bill.after(self.journal, state, before);
                }
                Err(illegal) => self.illegal = Some(illegal),
            }
        }
        self.live.state.last
    }

    /// The call that was just written down has not left the host.
    pub fn is_unmade(&mut self, turn: &TurnId, n: u32) {
        self.live.bill.mark(turn, n, false);
    }

    /// What an open turn used if it ends now; nothing if it is over.
    pub fn usage_at_end(&self, turn: &TurnId) -> Usage {
        let open = self.live.state.turns.get(turn);
        open.map_or_else(Usage::default, |open| {
            self.live.bill.usage_at_end(turn, open)
        })
    }

    /// The text behind a content that the state names.
    pub fn text(&self, content: &Content) -> String {
        String::from_utf8_lossy(&self.live.text(content)).into_owned()
    }

    /// Bytes a turn has said, shown or not.
    pub fn said(&self, turn: &TurnId) -> u64 {
        self.live.said(turn)
    }

    /// A document for an entry that is pushed next; long ones are stored beside the journal.
    pub fn content(&mut self, text: &str) -> Content {
        let (content, value) = super::Ledger::content(text);
        if let Some((digest, bytes)) = value {
            self.live.texts.insert(digest, bytes.clone());
            self.keep(digest, bytes);
        }
        content
    }

    /// Keep the sealed credential of the message that is pushed next.
    pub fn keep_sealed(&mut self, message: &MessageId, sealed: Vec<u8>) {
        let write = sealed::kept(&self.journal.tenant, message, sealed);
        self.live.new_records.push(write);
    }

    /// Bytes for an entry that is pushed next; what is long or no text is stored beside the journal,
    /// and is not kept in memory.
    pub fn bytes(&mut self, bytes: &Bytes) -> Content {
        // An entry holds it as JSON, which may make six bytes of one.
        if bytes.len() <= super::INLINE_BYTES_MAX / 6
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            let text = text.to_owned();
            return Content::Inline { text };
        }
        let digest = Digest::of(bytes);
        self.keep(digest, bytes.clone());
        Content::Stored {
            digest,
            bytes: bytes.len() as u64,
        }
    }

    fn keep(&mut self, digest: Digest, bytes: Bytes) {
        self.live.written_bytes += bytes.len() as u64;
        self.live.new_values.push((digest, bytes));
    }

    /// Of entries and long values that were pushed so far, by anybody: what came in between is the difference.
    pub fn written_bytes(&self) -> u64 {
        self.live.written_bytes
    }

    /// Forget long texts that no slot names any more.
    pub fn forget_old_texts(&mut self) {
        let live = &mut *self.live;
        let named = |digest: &Digest| {
            live.state.slots.values().any(|slot| {
                let content = slot.document.as_ref().map(|document| &document.content);
                matches!(content, Some(Content::Stored { digest: other, .. }) if other == digest)
            })
        };
        live.texts.retain(|digest, _| named(digest));
    }

    /// Drop what a turn said and nobody was shown.
    pub fn drop_chunk(&mut self, turn: &TurnId) {
        self.live.chunks.remove(turn);
    }

    /// Append what a turn said.
    pub(super) fn close_chunk(&mut self, turn: &TurnId) {
        let Some(Chunk { voice, text }) = self.live.chunks.remove(turn) else {
            return;
        };
        let Some(open) = self.live.state.turns.get(turn) else {
            return;
        };
        let (agent, mut at) = (open.agent.clone(), open.said);
        let (speaker, index) = voice.map(|it| (it.speaker, it.index)).unzip();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (chunk, more) = rest.split_at(rest.floor_char_boundary(CHUNK_BYTES_MAX));
            let spoke = Spoke {
                turn: turn.clone(),
                agent: agent.clone(),
                text: chunk.to_owned(),
                at,
                speaker: speaker.clone(),
                index,
            };
            self.push(Payload::Spoke(spoke));
            at += chunk.len() as u64;
            rest = more;
        }
    }
}

fn fold_frame(state: &mut State, journal: &JournalId, frame: &Frame) -> Result<(), ReadError> {
    let undecodable = |error| ReadError::undecodable(journal, &error);
    for encoded in frame.entries().map_err(undecodable)? {
        if encoded.seq > state.last.next() {
            let missing = Some(state.last.next());
            return Err(ReadError::bad_entry(journal, missing, "it is missing"));
        }
        if encoded.seq > state.last {
            let entry = encoded.decode().map_err(undecodable)?;
            state.next(&entry).map_err(|illegal| {
                ReadError::bad_entry(journal, Some(illegal.seq), illegal.to_string())
            })?;
        }
    }
    Ok(())
}

/// The newest snapshot, unless it is damaged: it can be made again from the entries.
fn snapshot_of(store: &dyn Store, journal: &JournalId) -> Result<Option<(Seq, Bytes)>, ReadError> {
    match store.snapshot(journal) {
        Err(ReadError::Damaged(damage)) => {
            tracing::warn!(%damage, "a snapshot is left aside");
            Ok(None)
        }
        other => other,
    }
}

fn snapshot_bytes(state: &State) -> Bytes {
    let mut bytes = FOLD_VERSION.to_be_bytes().to_vec();
    serde_json::to_writer(&mut bytes, state).expect("a state has string keys");
    bytes.into()
}

/// None if it was made by another fold or is not what it claims: then the journal is folded instead.
fn parse_snapshot(bytes: &[u8], seq: Seq) -> Option<State> {
    let (version, json) = bytes.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*version) != FOLD_VERSION {
        return None;
    }
    let state: State = serde_json::from_slice(json).ok()?;
    (state.last == seq).then_some(state)
}

fn wake_bytes(due: Time) -> Bytes {
    Bytes::copy_from_slice(&due.0.to_be_bytes())
}

/// When the session of a wake record is due.
pub fn parse_wake(bytes: &[u8]) -> Option<Time> {
    Some(Time(u64::from_be_bytes(bytes.try_into().ok()?)))
}
