//! Reading entries: from memory where they are recent, else from the store.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::id::{Digest, Seq};
use crate::journal::codec::{DecodeError, Encoded};
use crate::journal::entry::{Content, Entry, Kind};
use crate::store::ReadError;

use super::{Dead, Ledger, Mark};

/// Journal read from the store at a time.
const READ_BYTES: usize = 256 * 1024;

impl Ledger {
    /// Entries after `after` up to `until`, as many as are at hand: none only if there are none.
    /// Entries that are not durable yet are read too, so whoever answers outside bounds `until`.
    pub async fn entries(&self, after: Seq, until: Seq) -> Result<Vec<Encoded>, ReadError> {
        self.some_entries(after, until, READ_BYTES).await
    }

    async fn some_entries(
        &self,
        after: Seq,
        until: Seq,
        bytes: usize,
    ) -> Result<Vec<Encoded>, ReadError> {
        if after >= until {
            return Ok(Vec::new());
        }
        {
            let mut live = self.lock();
            live.trim(self.mark.borrow().durable);
            if let Some(recent) = live.recent_after(after) {
                return Ok(recent
                    .take_while(|entry| entry.seq <= until)
                    .cloned()
                    .collect());
            }
        }
        let (store, journal) = (self.store.clone(), self.journal.clone());
        let frames = blocking(move || store.frames(&journal, after, bytes))
            .await
            .map_err(|error| self.found(error))?;
        let (mut entries, mut last) = (Vec::new(), after);
        for frame in frames {
            let decoded = frame.entries().map_err(|error| self.undecodable(&error))?;
            for entry in decoded {
                if entry.seq <= last || entry.seq > until {
                    continue;
                }
                if entry.seq != last.next() {
                    self.must_be_leaving(last.next())?;
                    return Ok(entries);
                }
                last = entry.seq;
                entries.push(entry);
            }
        }
        if entries.is_empty() && after < self.mark.borrow().durable {
            self.must_be_leaving(after.next())?;
        }
        Ok(entries)
    }

    /// An entry is missing. That is damage, unless the session has ended: then its rows are removed
    /// while the last ones still read them.
    fn must_be_leaving(&self, missing: Seq) -> Result<(), ReadError> {
        if self.mark.borrow().dead.is_some() {
            return Ok(());
        }
        Err(self.damaged(Some(missing), "it is missing"))
    }

    /// What a stored entry says.
    pub fn decode(&self, encoded: &Encoded) -> Result<Entry, ReadError> {
        encoded.decode().map_err(|error| self.undecodable(&error))
    }

    pub fn undecodable(&self, error: &DecodeError) -> ReadError {
        self.found(ReadError::undecodable(&self.journal, error))
    }

    /// Something stored of the session is not what it must be.
    pub fn damaged(&self, seq: Option<Seq>, what: &str) -> ReadError {
        self.found(ReadError::bad_entry(&self.journal, seq, what))
    }

    /// A read failed. A journal that turns out to be damaged takes no more entries: whatever
    /// followed would be built on what nobody can read again.
    pub fn found(&self, error: ReadError) -> ReadError {
        if let ReadError::Damaged(damage) = &error
            && damage.journal.as_ref() == Some(&self.journal)
        {
            let live = self.lock();
            let owner = live.owner;
            if self.die(live, Dead::Damaged(damage.clone())) == Dead::Damaged(damage.clone())
                && let Some(owner) = owner
            {
                self.store.release(&self.journal, owner.generation);
            }
        }
        error
    }

    /// Entries after `after` up to `until`, all of them, decoded.
    pub async fn read(&self, after: Seq, until: Seq) -> Result<Vec<Entry>, ReadError> {
        let (mut read, mut at) = (Vec::new(), after);
        while at < until {
            let entries = self.entries(at, until).await?;
            let Some(last) = entries.last() else { break };
            at = last.seq;
            for encoded in &entries {
                read.push(self.decode(encoded)?);
            }
        }
        Ok(read)
    }

    /// The text of a document that an entry names, however old it is.
    pub async fn text(&self, content: &Content) -> Result<String, ReadError> {
        let bytes = self.bytes(content).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes behind a content that an entry names, however old it is.
    pub async fn bytes(&self, content: &Content) -> Result<Bytes, ReadError> {
        let digest = match content {
            Content::Inline { text } => return Ok(Bytes::copy_from_slice(text.as_bytes())),
            Content::Stored { digest, .. } => *digest,
        };
        let bytes = self.value(digest).await?;
        bytes.ok_or_else(|| self.damaged(None, &format!("the value {digest} is missing")))
    }

    /// A durable value that an entry names.
    pub async fn value(&self, digest: Digest) -> Result<Option<Bytes>, ReadError> {
        let (store, journal) = (self.store.clone(), self.journal.clone());
        blocking(move || store.value(&journal, &digest))
            .await
            .map_err(|error| self.found(error))
    }

    pub async fn entry(&self, seq: Seq) -> Result<Option<Encoded>, ReadError> {
        if seq.0 == 0 {
            return Ok(None);
        }
        // One frame holds it.
        let entries = self.some_entries(Seq(seq.0 - 1), seq, 1).await?;
        Ok(entries.into_iter().find(|entry| entry.seq == seq))
    }

    /// Durable entries after `after`, for ever.
    pub fn follow(self: &Arc<Self>, after: Seq) -> Follower {
        Follower {
            ledger: self.clone(),
            mark: self.mark.subscribe(),
            at: after,
        }
    }

    /// Entries of some kinds before `before`, newest first.
    pub fn back(self: &Arc<Self>, before: Seq, kinds: &'static [Kind]) -> Back {
        Back {
            ledger: self.clone(),
            before,
            kinds,
            page: VecDeque::new(),
        }
    }
}

/// Follows the journal: backlog, then live, no gap and no overlap.
pub struct Follower {
    ledger: Arc<Ledger>,
    mark: watch::Receiver<Mark>,
    at: Seq,
}

/// Why following ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Dead(#[from] Dead),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Follower {
    /// Everything up to here was given.
    pub fn at(&self) -> Seq {
        self.at
    }

    /// The next durable entries, at least one. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Encoded>, FollowError> {
        let until = {
            let at = self.at;
            let mark = self
                .mark
                .wait_for(|mark| mark.durable > at || mark.dead.is_some())
                .await
                .expect("the ledger holds the sender");
            match &mark.dead {
                _ if mark.durable > at => mark.durable,
                Some(dead) => return Err(dead.clone().into()),
                None => unreachable!("the wait ends for one of the two"),
            }
        };
        let entries = self.ledger.entries(self.at, until).await?;
        match entries.last() {
            Some(last) if entries[0].seq == self.at.next() => {
                self.at = last.seq;
                Ok(entries)
            }
            _ => Err(self.missing()),
        }
    }

    /// A session that has ended is removed while the last ones still read it.
    fn missing(&self) -> FollowError {
        let dead = self.mark.borrow().dead.clone();
        match dead {
            Some(dead) => dead.into(),
            None => self
                .ledger
                .damaged(Some(self.at.next()), "it is missing")
                .into(),
        }
    }

    /// The durable entries that are there already, without waiting for more.
    pub async fn backlog(&mut self) -> Result<Vec<Encoded>, FollowError> {
        let until = self.mark.borrow_and_update().durable;
        let entries = self.ledger.entries(self.at, until).await?;
        if let Some(last) = entries.last() {
            self.at = last.seq;
        }
        Ok(entries)
    }
}

/// Walks the journal backwards.
pub struct Back {
    ledger: Arc<Ledger>,
    before: Seq,
    kinds: &'static [Kind],
    page: VecDeque<Encoded>,
}

impl Back {
    /// The next older entry of the kinds asked for.
    pub async fn next(&mut self) -> Result<Option<Encoded>, ReadError> {
        if self.page.is_empty() {
            self.fill().await?;
        }
        Ok(self.page.pop_front())
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        let recent_first = {
            let live = self.ledger.lock();
            let first = live.recent_first();
            if first < self.before {
                let after = Seq(first.0.saturating_sub(1));
                if let Some(recent) = live.recent_after(after) {
                    self.page = recent
                        .filter(|entry| entry.seq < self.before && self.kinds.contains(&entry.kind))
                        .cloned()
                        .collect();
                    self.page.make_contiguous().reverse();
                }
                self.before = first;
            }
            first
        };
        while self.page.is_empty() && self.before.0 > 1 && self.before <= recent_first {
            let (store, journal) = (self.ledger.store.clone(), self.ledger.journal.clone());
            let (before, kinds) = (self.before, self.kinds);
            let frames = blocking(move || store.frames_before(&journal, before, kinds, READ_BYTES))
                .await
                .map_err(|error| self.ledger.found(error))?;
            let Some(oldest) = frames.last() else {
                self.before = Seq(1);
                break;
            };
            self.before = oldest.first();
            for frame in &frames {
                let entries = frame
                    .entries()
                    .map_err(|error| self.ledger.undecodable(&error))?;
                let wanted =
                    |entry: &Encoded| entry.seq < before && self.kinds.contains(&entry.kind);
                self.page.extend(entries.into_iter().rev().filter(wanted));
            }
        }
        Ok(())
    }
}

/// Run something that touches the disk where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::Io("the reading thread ended early".into())),
    }
}
