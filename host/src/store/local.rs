//! The store over one engine of this machine.
//!
//! Puts together the queue of commits ([`super::commit`]) and the view of what is
//! durable ([`super::view`]); says what a journal, a snapshot and a value are in rows.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::watch;

use super::commit::Committer;
use super::engine::{Engine, Order};
use super::keys::{self, Row, Stem};
use super::notices;
use super::transfer;
use super::view::{InFlight, View};
use super::{
    Commit, CommitError, Generation, Holdings, JournalId, JournalPage, Latched, OpenError, Opened,
    ReadError, RecordKey, RecordSpace, Store, StreamKey, Tail,
};
use crate::id::{Digest, Seq, SessionId, TenantId};
use crate::journal::codec::{DecodeError, Frame};
use crate::journal::entry::Kind;

pub(in crate::store) struct LocalStore {
    view: View,
    committer: Committer,
}

impl LocalStore {
    pub(in crate::store) fn start(engine: Arc<dyn Engine>) -> std::io::Result<Self> {
        let in_flight = Arc::new(InFlight::default());
        Ok(Self {
            committer: Committer::start(Arc::clone(&engine), Arc::clone(&in_flight))?,
            view: View { engine, in_flight },
        })
    }

    /// The last durable entry; 0 if there is none.
    fn last(&self, journal: &JournalId) -> Result<Seq, ReadError> {
        let mut rows = self.view.rows(keys::frames(journal), Order::Backward, all);
        match rows.next().transpose()? {
            Some((stem, payload)) => Ok(frame(&stem, payload)?.last()),
            None => Ok(Seq(0)),
        }
    }

    /// The first entry of the last durable frame that begins at or before `seq`.
    fn frame_at(&self, journal: &JournalId, seq: Seq) -> Result<Option<Seq>, ReadError> {
        let mut range = keys::frames(journal);
        if let Some(next) = seq.0.checked_add(1) {
            range.end = keys::frame(journal, Seq(next)).part(0);
        }
        let Some((key, _)) = self.view.keys(range, Order::Backward).next().transpose()? else {
            return Ok(None);
        };
        match keys::split(&key).and_then(|(stem, _)| keys::parse(stem)) {
            Some(Row::Frame(_, first)) => Ok(Some(first)),
            _ => Err(ReadError::bad_row(&key, None, "not a frame's key")),
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn owners_len(&self) -> usize {
        self.committer.owners_len()
    }
}

fn all(_: &Bytes) -> Result<bool, ReadError> {
    Ok(true)
}

fn frame(stem: &Stem, payload: Bytes) -> Result<Frame, ReadError> {
    let undecodable = |error: DecodeError| ReadError::bad_row(stem.bytes(), error.seq(), error);
    let frame = Frame::parse(payload).map_err(undecodable)?;
    match keys::parse(stem.bytes()) {
        Some(Row::Frame(_, first)) if first == frame.first() => Ok(frame),
        _ => Err(ReadError::bad_row(
            stem.bytes(),
            None,
            "holds another frame",
        )),
    }
}

impl Store for LocalStore {
    fn open(&self, journal: &JournalId) -> Result<Opened, OpenError> {
        let taken = self.committer.take_over(journal)?;
        let last = match taken.tail {
            Some(tail) => tail,
            // Nobody can append before it is known: the newest owner gets it below.
            None => self.last(journal).inspect_err(|_| {
                self.committer.release(journal, taken.generation);
            })?,
        };
        self.committer.set_tail(journal, taken.generation, last);
        Ok(Opened {
            generation: taken.generation,
            tail: Tail(last),
            last,
        })
    }

    fn release(&self, journal: &JournalId, generation: Generation) {
        self.committer.release(journal, generation);
    }

    fn commit(&self, commit: Commit) -> Result<Option<Tail>, CommitError> {
        self.committer.commit(commit)
    }

    fn frames(
        &self,
        journal: &JournalId,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<Frame>, ReadError> {
        let mut frames = Vec::new();
        // The end is fixed first: frames that become durable while we read could
        // otherwise show up without those before them.
        let Some(end) = self.frame_at(journal, Seq(u64::MAX))? else {
            return Ok(frames);
        };
        let mut range = keys::frames(journal);
        if let Some(next) = end.0.checked_add(1) {
            range.end = keys::frame(journal, Seq(next)).part(0);
        }
        let wanted = Seq(after.0.saturating_add(1));
        if let Some(first) = self.frame_at(journal, wanted)? {
            range.start = keys::frame(journal, first).part(0);
        }
        if range.start >= range.end {
            return Ok(frames);
        }
        let mut bytes = 0;
        for row in self.view.rows(range, Order::Forward, all) {
            let (stem, payload) = row?;
            let frame = frame(&stem, payload)?;
            if frame.last() <= after {
                continue;
            }
            bytes += frame.bytes().len();
            frames.push(frame);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(frames)
    }

    fn frames_before(
        &self,
        journal: &JournalId,
        before: Seq,
        kinds: &[Kind],
        bytes_max: usize,
    ) -> Result<Vec<Frame>, ReadError> {
        let mut range = keys::frames(journal);
        range.end = keys::frame(journal, before).part(0);
        let has_kind = |beginning: &Bytes| {
            Frame::contains(beginning, kinds)
                .map_err(|error| ReadError::undecodable(journal, &error))
        };
        let mut frames = Vec::new();
        let mut bytes = 0;
        for row in self.view.rows(range, Order::Backward, has_kind) {
            let (stem, payload) = row?;
            bytes += payload.len();
            frames.push(frame(&stem, payload)?);
            if bytes > bytes_max {
                break;
            }
        }
        Ok(frames)
    }

    fn snapshot(&self, journal: &JournalId) -> Result<Option<(Seq, Bytes)>, ReadError> {
        let stem = keys::snapshot(journal);
        let Some(mut payload) = self.view.row(&stem)? else {
            return Ok(None);
        };
        let seq = payload
            .try_get_u64()
            .map_err(|_| ReadError::bad_row(stem.bytes(), None, "cut short"))?;
        Ok(Some((Seq(seq), payload)))
    }

    fn value(&self, journal: &JournalId, digest: &Digest) -> Result<Option<Bytes>, ReadError> {
        let stem = keys::value(journal, digest);
        match self.view.row(&stem)? {
            Some(bytes) if Digest::of(&bytes) != *digest => Err(ReadError::bad_row(
                stem.bytes(),
                None,
                "holds another value",
            )),
            found => Ok(found),
        }
    }

    fn exists(&self, journal: &JournalId) -> Result<bool, ReadError> {
        let mut keys = self.view.keys(keys::frames(journal), Order::Forward);
        Ok(keys.next().transpose()?.is_some())
    }

    fn journals(
        &self,
        tenant: &TenantId,
        after: Option<&SessionId>,
        count_max: usize,
    ) -> Result<JournalPage, ReadError> {
        let mut sessions: Vec<SessionId> = Vec::new();
        let mut range = keys::sessions(tenant, after);
        // From the first row of a session straight to the next session.
        while let Some((key, _)) = self
            .view
            .keys(range.clone(), Order::Forward)
            .next()
            .transpose()?
        {
            let journal = match keys::split(&key).and_then(|(stem, _)| keys::parse(stem)) {
                Some(Row::Snapshot(journal) | Row::Value(journal, _) | Row::Frame(journal, _)) => {
                    journal
                }
                Some(Row::Record(_) | Row::Piece(..)) | None => {
                    return Err(ReadError::bad_row(&key, None, "not a journal's key"));
                }
            };
            range.start = keys::journal(&journal).end;
            if self.exists(&journal)? {
                if sessions.len() == count_max {
                    return Ok(JournalPage {
                        sessions,
                        more: true,
                    });
                }
                sessions.push(journal.session);
            }
        }
        Ok(JournalPage {
            sessions,
            more: false,
        })
    }

    fn clear(&self, journal: &JournalId, rows_max: usize) -> Result<bool, OpenError> {
        let taken = self.committer.take_over(journal)?;
        let cleared = self.remove_some(keys::journal(journal), rows_max);
        // Its end is not what an owner in the map believes any more.
        self.committer.release(journal, taken.generation);
        cleared
    }

    fn holdings(&self, tenant: &TenantId) -> Result<Holdings, ReadError> {
        let mut holdings = Holdings::default();
        let mut last: Option<JournalId> = None;
        for row in self.view.keys(keys::tenant(tenant), Order::Forward) {
            let (key, value) = row?;
            holdings.bytes += (key.len() + value.len()) as u64;
            // A session is there if it has a frame, and those are its last rows.
            if let Some((stem, 0)) = keys::split(&key)
                && let Some(Row::Frame(journal, _)) = keys::parse(stem)
                && last.as_ref() != Some(&journal)
            {
                holdings.sessions += 1;
                last = Some(journal);
            }
        }
        Ok(holdings)
    }

    fn tenants(&self) -> Result<Vec<TenantId>, ReadError> {
        let mut tenants = Vec::new();
        let mut range = keys::tenants_after(None);
        // From the first row of a tenant straight to the next tenant.
        loop {
            let mut keys = self.view.keys(range.clone(), Order::Forward);
            let Some((key, _)) = keys.next().transpose()? else {
                return Ok(tenants);
            };
            let tenant = keys::tenant_of(&key)
                .ok_or_else(|| ReadError::bad_row(&key, None, "not a tenant's key"))?;
            range = keys::tenants_after(Some(&tenant));
            tenants.push(tenant);
        }
    }

    fn clear_tenant(&self, tenant: &TenantId, rows_max: usize) -> Result<bool, OpenError> {
        self.remove_some(keys::tenant(tenant), rows_max)
    }

    fn export_tenant(
        &self,
        tenant: &TenantId,
        out: &mut dyn std::io::Write,
    ) -> Result<u64, transfer::ExportError> {
        transfer::export_tenant(&self.view, tenant, out)
    }

    fn record(&self, key: &RecordKey) -> Result<Option<Bytes>, ReadError> {
        self.view.row(&keys::record(key))
    }

    fn records(
        &self,
        tenant: Option<&TenantId>,
        space: RecordSpace,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<(String, Bytes)>, ReadError> {
        let range = keys::records(tenant, space, after);
        self.view
            .rows(range, Order::Forward, all)
            .take(count_max)
            .map(|row| {
                let (stem, payload) = row?;
                match keys::parse(stem.bytes()) {
                    Some(Row::Record(key)) => Ok((key.name, payload)),
                    _ => Err(ReadError::bad_row(stem.bytes(), None, "not a record's key")),
                }
            })
            .collect()
    }

    fn pieces(
        &self,
        stream: &StreamKey,
        after: Seq,
        until: Seq,
        bytes_max: usize,
    ) -> Result<Vec<(Seq, Bytes)>, ReadError> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        let range = keys::pieces(stream, after, until);
        if range.start >= range.end {
            return Ok(pieces);
        }
        for row in self.view.rows(range, Order::Forward, all) {
            let (stem, payload) = row?;
            let Some(Row::Piece(_, seq)) = keys::parse(stem.bytes()) else {
                return Err(ReadError::bad_row(stem.bytes(), None, "not a piece's key"));
            };
            bytes += payload.len();
            pieces.push((seq, payload));
            if bytes > bytes_max {
                break;
            }
        }
        Ok(pieces)
    }

    fn clear_stream(&self, stream: &StreamKey, rows_max: usize) -> Result<bool, OpenError> {
        self.remove_some(keys::stream(stream), rows_max)
    }

    fn trim(&self, stream: &StreamKey, until: Seq, rows_max: usize) -> Result<bool, OpenError> {
        self.remove_some(keys::pieces(stream, Seq(0), until), rows_max)
    }

    fn notices_end(&self, tenant: &TenantId) -> Result<watch::Receiver<Seq>, ReadError> {
        self.committer.ends().watch(tenant, || {
            let range = keys::stream(&StreamKey::notices(tenant));
            let last = self.view.keys(range, Order::Backward).next().transpose()?;
            let Some((key, _)) = last else {
                return Ok(Seq(0));
            };
            notices::number_of(&key)
                .ok_or_else(|| ReadError::bad_row(&key, None, "not a notice's key"))
        })
    }

    fn is_settled(&self) -> bool {
        self.committer.is_settled()
    }

    fn latched(&self) -> Option<Latched> {
        self.committer.latched()
    }

    fn size_on_disk(&self) -> Result<u64, ReadError> {
        Ok(self.view.engine.size_on_disk()?)
    }

    fn close(&self) {
        self.committer.close();
    }
}

impl LocalStore {
    fn remove_some(&self, range: Range<Vec<u8>>, rows_max: usize) -> Result<bool, OpenError> {
        let mut keys = Vec::new();
        let mut rows = self.view.keys(range, Order::Forward);
        for row in rows.by_ref().take(rows_max) {
            keys.push(row?.0.to_vec());
        }
        let more = rows.next().transpose()?.is_some();
        if !keys.is_empty() {
            self.committer.delete(keys)?;
        }
        Ok(!more)
    }
}
