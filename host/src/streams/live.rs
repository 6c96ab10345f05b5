//! An open stream: where its pieces are numbered.
//!
//! Appending is one short critical section: decide, number, queue the commit. The lock is never held for the disk.
//! Invariant: readers see what is durable and nothing else ([`Mark`]), and every answer, refusals included, waits
//! until the state it was made from is durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::changes::{Change, Changes, Extent};
use super::head::{Expiry, Head, Span, is_json};
use super::path::StreamPath;
use super::piece::{Piece, PieceHead};
use super::state::{Refusal, State, Verdict, Wish};
use super::{Ground, StreamError, head_key, state_key};
use crate::clock::{Clock, Time};
use crate::id::{Seq, TenantId};
use crate::store::{Commit, CommitError, Latched, Store, StreamKey, Write};
use crate::telemetry::{self, Limit};

/// A snapshot is written after so many pieces, or so many bytes of them: to open a stream is to read as much. The first
/// is what a hundred microseconds read, and rises with the producers, so that snapshots stay a small part of
/// what is written.
const SNAPSHOT_PIECES: usize = 256;
const SNAPSHOT_BYTES: usize = 1024 * 1024;

/// Kept of the newest pieces while somebody follows, so that followers need not read the disk.
const RECENT_BYTES: usize = 64 * 1024;

/// What everybody may know of a stream: all of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Counts the changes of the stream; 0 is not even made yet.
    pub(super) version: u64,
    pub tail: Seq,
    pub closed: bool,
    pub end: Option<End>,
}

/// Why nothing more comes of this stream, though it was not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Removed,
    /// It was removed for all but its forks.
    Deleted,
    Latched(Latched),
}

/// An open stream. Whoever holds one may go on reading it, also when it is removed meanwhile.
pub struct Stream {
    pub(super) tenant: TenantId,
    pub(super) path: StreamPath,
    pub(super) key: StreamKey,
    pub content_type: String,
    pub is_json: bool,
    pub expiry: Option<Expiry>,
    pub(super) inherited: Vec<Span>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) changes: Arc<Changes>,
    touched: AtomicU64,
    live: Mutex<Live>,
    pub(super) mark: watch::Sender<Mark>,
}

pub(super) struct Live {
    pub(super) head: Head,
    pub(super) state: State,
    pub(super) version: u64,
    unsaved_pieces: usize,
    unsaved_bytes: usize,
    /// It was removed, or is being removed.
    pub(super) is_leaving: bool,
    recent: VecDeque<(Seq, Bytes)>,
    recent_bytes: usize,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    pub verdict: Verdict,
    pub tail: Seq,
    pub closed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{refusal}")]
    Refused { refusal: Refusal, tail: Seq },
}

type Settled = oneshot::Receiver<Result<(), Latched>>;

impl Stream {
    /// As it was made or read. `version` 0 is one whose first commit is on its way.
    pub(super) fn new(
        owner: (TenantId, StreamPath),
        head: Head,
        state: State,
        (version, touched): (u64, Time),
        ground: Ground,
    ) -> Self {
        let (tenant, path) = owner;
        let mark = Mark {
            version,
            tail: state.tail,
            closed: state.closed.is_some(),
            end: None,
        };
        Self {
            key: StreamKey {
                tenant: tenant.clone(),
                id: head.id,
            },
            tenant,
            path,
            is_json: is_json(&head.content_type),
            content_type: head.content_type.clone(),
            expiry: head.expiry,
            inherited: head.inherited.clone(),
            store: ground.store,
            clock: ground.clock,
            changes: ground.changes,
            touched: AtomicU64::new(touched.0),
            live: Mutex::new(Live {
                head,
                state,
                version: 1,
                unsaved_pieces: 0,
                unsaved_bytes: 0,
                is_leaving: false,
                recent: VecDeque::new(),
                recent_bytes: 0,
            }),
            mark: watch::Sender::new(mark),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last piece that it took over.
    fn base(&self) -> Seq {
        self.inherited.last().map_or(Seq(0), |span| span.until)
    }

    /// Names this life of it, for whoever keeps what was read.
    pub fn id(&self) -> String {
        self.key.id.to_string()
    }

    pub fn mark(&self) -> Mark {
        self.mark.borrow().clone()
    }

    /// Told of every change that is durable.
    pub fn watch(&self) -> watch::Receiver<Mark> {
        self.mark.subscribe()
    }

    /// Whether it is past its time.
    pub(super) fn is_expired(&self, now: Time) -> bool {
        let touched = Time(self.touched.load(Ordering::Relaxed));
        self.expiry.is_some_and(|it| it.ends(touched) <= now)
    }

    /// Somebody uses it: it lives on. Written down now and then, and never waited for.
    pub fn touch(&self) {
        let Some(expiry @ Expiry::Ttl(_)) = self.expiry else {
            return;
        };
        let now = self.clock.now();
        self.touched.fetch_max(now.0, Ordering::Relaxed);
        let mut live = self.lock();
        let known = live.head.touched.max(live.state.time);
        if live.is_leaving || now.ms_since(known) <= expiry.slack_ms() {
            return;
        }
        let mut head = live.head.clone();
        head.touched = now;
        let writes = vec![self.head_write(&head)];
        let done = Box::new(|_| {});
        // A store that takes no more writes forgets that it was read.
        if self.store.commit(Commit { writes, done }).is_ok() {
            live.head = head;
        }
    }

    pub(super) fn head_write(&self, head: &Head) -> Write {
        Write::Record {
            key: head_key(&self.tenant, &self.path),
            bytes: serde_json::to_vec(head)
                .expect("a stream's head is JSON")
                .into(),
        }
    }

    pub(super) fn state_write(&self, state: &State) -> Write {
        Write::Record {
            key: state_key(&self.key),
            bytes: serde_json::to_vec(state)
                .expect("a stream's state is JSON")
                .into(),
        }
    }

    /// Append, close, or both; answers when that is durable. `data` is what is stored.
    pub async fn append(
        self: &Arc<Self>,
        wish: Wish,
        data: Bytes,
    ) -> Result<Appended, AppendError> {
        let Some((verdict, version, settled)) = self.decide(wish, data)? else {
            return Err(self.left().await.into());
        };
        match settled {
            Some(settled) => told(settled).await?,
            None => self.reached(version).await?,
        }
        if verdict.is_ok() {
            self.touch();
        }
        verdict
    }

    /// What becomes of it, the change that this was decided by, and its own end if it makes one; none if the stream
    /// is being removed.
    #[expect(
        clippy::type_complexity,
        reason = "taken apart at once, by the one who asks"
    )]
    fn decide(
        self: &Arc<Self>,
        wish: Wish,
        data: Bytes,
    ) -> Result<Option<(Result<Appended, AppendError>, u64, Option<Settled>)>, StreamError> {
        let now = self.clock.now();
        let mut live = self.lock();
        if live.is_leaving {
            return Ok(None);
        }
        let verdict = live.state.decide(&wish);
        let settled = match verdict {
            Ok(Verdict::Accept) => Some(self.accept(&mut live, wish, data, now)?),
            Ok(Verdict::Done { .. }) | Err(_) => None,
        };
        let tail = live.state.tail;
        let answer = match verdict {
            Ok(verdict) => Ok(Appended {
                verdict,
                tail,
                closed: live.state.closed.is_some(),
            }),
            Err(refusal) => Err(AppendError::Refused { refusal, tail }),
        };
        Ok(Some((answer, live.version, settled)))
    }

    /// Number it and queue it.
    fn accept(
        self: &Arc<Self>,
        live: &mut Live,
        wish: Wish,
        data: Bytes,
        now: Time,
    ) -> Result<Settled, StreamError> {
        let mut state = None;
        let mut writes = Vec::with_capacity(2);
        let head = PieceHead {
            time: now.max(live.state.time),
            producer: wish.producer,
            order: wish.order,
            closes: wish.closes,
        };
        let (pieces, bytes) = match wish.has_data {
            true => (live.unsaved_pieces + 1, live.unsaved_bytes + data.len()),
            false => (0, 0),
        };
        let pieces_max = SNAPSHOT_PIECES.max(live.state.producers.len());
        let is_due = !wish.has_data || pieces >= pieces_max || bytes >= SNAPSHOT_BYTES;
        let seq = live.state.tail.next();
        let piece = Piece { head, data };
        if wish.has_data {
            let (stream, bytes) = (self.key.clone(), piece.encode());
            writes.push(Write::Piece { stream, seq, bytes });
        }
        if is_due {
            // Rarely, so that its copy costs little; a store that refuses leaves the state as it is.
            let mut after = live.state.clone();
            step(&mut after, &piece, wish.has_data);
            writes.push(self.state_write(&after));
            state = Some(after);
        }
        let (tail, closed) = match wish.has_data {
            true => (seq, piece.head.closes),
            false => (live.state.tail, true),
        };
        let settled = self.commit(live, writes, move |mark| {
            mark.tail = tail;
            mark.closed |= closed;
        })?;
        match state {
            Some(after) => live.state = after,
            None => step(&mut live.state, &piece, wish.has_data),
        }
        (live.unsaved_pieces, live.unsaved_bytes) = match is_due {
            true => (0, 0),
            false => (pieces, bytes),
        };
        if wish.has_data {
            self.remember(live, seq, piece.data);
        }
        Ok(settled)
    }

    /// Queue a change of this stream. It counts from now on, and everybody knows it once it is durable.
    pub(super) fn commit(
        self: &Arc<Self>,
        live: &mut Live,
        writes: Vec<Write>,
        change: impl FnOnce(&mut Mark) + Send + 'static,
    ) -> Result<Settled, StreamError> {
        let version = live.version + 1;
        let settled = queue(self, version, writes, change)?;
        live.version = version;
        Ok(settled)
    }

    fn remember(&self, live: &mut Live, seq: Seq, data: Bytes) {
        if self.mark.receiver_count() == 0 {
            live.recent.clear();
            live.recent_bytes = 0;
            return;
        }
        live.recent_bytes += data.len();
        live.recent.push_back((seq, data));
        while live.recent_bytes > RECENT_BYTES
            && let Some((_, oldest)) = live.recent.pop_front()
        {
            live.recent_bytes -= oldest.len();
        }
    }

    /// The pieces after `after` up to `until`, if all of them are in memory.
    pub(super) fn recent(&self, after: Seq, until: Seq) -> Option<Vec<(Seq, Bytes)>> {
        let live = self.lock();
        let first = live.recent.front()?.0;
        if first > after.next() {
            return None;
        }
        let wanted = |(seq, _): &&(Seq, Bytes)| *seq > after && *seq <= until;
        let pieces: Vec<_> = live.recent.iter().filter(wanted).cloned().collect();
        (pieces.last()?.0 == until).then_some(pieces)
    }

    /// Wait until a change is durable.
    pub(super) async fn reached(&self, version: u64) -> Result<(), StreamError> {
        let mut mark = self.mark.subscribe();
        let mark = mark
            .wait_for(|mark| mark.version >= version || matches!(mark.end, Some(End::Latched(_))))
            .await
            .expect("the stream holds the sender");
        match &mark.end {
            _ if mark.version >= version => Ok(()),
            Some(End::Latched(latched)) => Err(latched.clone().into()),
            Some(End::Removed | End::Deleted) | None => {
                unreachable!("the wait ends for one of the two")
            }
        }
    }

    /// It is being removed: say so once that is so.
    async fn left(&self) -> StreamError {
        let mut mark = self.mark.subscribe();
        let mark = mark.wait_for(|mark| mark.end.is_some()).await;
        match mark.expect("the stream holds the sender").end.clone() {
            Some(End::Latched(latched)) => latched.into(),
            Some(End::Deleted) => StreamError::Gone,
            Some(End::Removed) | None => StreamError::NotFound,
        }
    }

    /// Everything it was told is durable, or failed.
    pub(super) fn is_settled(&self) -> bool {
        let live = self.lock();
        let mark = self.mark.borrow();
        mark.version >= live.version || mark.end.is_some()
    }
}

fn step(state: &mut State, piece: &Piece, has_data: bool) {
    let forgot = match has_data {
        true => state.next(&piece.head),
        false => state.close(piece.head.producer.clone(), piece.head.time),
    };
    if forgot {
        telemetry::hit(Limit::StreamProducers);
    }
}

/// Queue writes whose end changes what everybody may know of a stream.
pub(super) fn queue(
    stream: &Arc<Stream>,
    version: u64,
    writes: Vec<Write>,
    change: impl FnOnce(&mut Mark) + Send + 'static,
) -> Result<Settled, StreamError> {
    let (sender, settled) = oneshot::channel();
    // Not the stream: one that nobody uses must be seen to be so.
    let mark = stream.mark.clone();
    let (changes, tenant, path) = (
        stream.changes.clone(),
        stream.tenant.clone(),
        stream.path.clone(),
    );
    let (id, base) = (stream.key.id, stream.base());
    let done = Box::new(move |result: Result<(), Latched>| {
        mark.send_modify(|mark| match &result {
            Ok(()) => {
                mark.version = version;
                change(mark);
                let tail = mark.tail;
                changes.tell(&tenant, &path, Change::Grown(Extent { id, base, tail }));
            }
            Err(latched) => mark.end = Some(End::Latched(latched.clone())),
        });
        // Whoever waited may be gone; the write stands all the same.
        let _ = sender.send(result);
    });
    match stream.store.commit(Commit { writes, done }) {
        Ok(_) => Ok(settled),
        Err(CommitError::Latched(latched)) => Err(latched.into()),
        Err(CommitError::Fenced | CommitError::TailMismatch) => {
            unreachable!("pieces and records have no owner")
        }
    }
}

pub(super) async fn told(settled: Settled) -> Result<(), StreamError> {
    match settled.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Latched {
            reason: "the store was closed".into(),
        }
        .into()),
    }
}
