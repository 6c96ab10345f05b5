//! Creating, forking and removing streams: one at a time in each tenant.
//!
//! Invariant: a stream with forks is never removed, only marked as deleted; the commit that removes the last fork
//! of such a one removes it too, and so on up. Each of these is one commit: a crash leaves all of it or nothing.

use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::changes::Change;
use super::head::{Expiry, FORK_DEPTH_MAX, Head, Source, essence, is_json};
use super::json;
use super::live::{End, Live, Stream, queue, told};
use super::path::StreamPath;
use super::piece::{Piece, PieceHead};
use super::state::State;
use super::{StreamError, Streams, gone_key, head_key, state_key};
use crate::clock::Time;
use crate::id::{Seq, StreamId, TenantId};
use crate::store::{Commit, CommitError, Latched, ReadError, StreamKey, Write};
use crate::telemetry::{self, Limit};

/// What somebody wants to make.
#[derive(Debug, Clone, Default)]
pub struct NewStream {
    /// None is that of the source, or bytes.
    pub content_type: Option<String>,
    /// None is that of the source, or never.
    pub expiry: Option<Expiry>,
    pub closed: bool,
    pub fork: Option<Fork>,
    /// What it begins with, as it came.
    pub body: Bytes,
}

#[derive(Debug, Clone)]
pub struct Fork {
    pub source: StreamPath,
    /// None is the source's end.
    pub at: Option<Seq>,
    /// So much of the piece after it: messages of JSON, bytes of anything else.
    pub sub_offset: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("another stream is at this path")]
    Exists,
    #[error("a deleted stream that has forks is at this path")]
    Deleted,
    #[error("there is no such source")]
    NoSource,
    #[error("the source was deleted")]
    SourceDeleted,
    #[error("a fork has the content type of its source")]
    OtherType,
    #[error("the fork's offset is beyond the end of its source")]
    Ahead,
    #[error("the fork's sub-offset is beyond what follows its offset")]
    SubOffset,
    #[error("forks of forks go {FORK_DEPTH_MAX} deep at most")]
    TooDeep,
    #[error("the body is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// A type that says nothing.
const BYTES: &str = "application/octet-stream";

/// What a new stream is made of.
struct Made {
    head: Head,
    pieces: Vec<Piece>,
    closed: bool,
    source: Option<Arc<Stream>>,
}

impl Streams {
    /// Make a stream; answers when it is durable, and whether it is new. The same again is the same stream.
    pub async fn create(
        &self,
        tenant: &TenantId,
        path: &StreamPath,
        new: NewStream,
    ) -> Result<(Arc<Stream>, bool), CreateError> {
        let name = (tenant.clone(), path.clone());
        let (stream, version, is_new) = {
            let making = self.making(tenant);
            let _making = making.lock().await;
            let now = self.0.clock.now();
            match self.current(tenant, path).await? {
                Some(existing) => {
                    let (is_same, version) = {
                        let live = existing.lock();
                        if live.head.deleted {
                            return Err(CreateError::Deleted);
                        }
                        (is_same(&live, &new), live.version)
                    };
                    if !is_same {
                        existing.reached(version).await?;
                        return Err(CreateError::Exists);
                    }
                    (existing, version, false)
                }
                None => {
                    let made = self.made(tenant, new, now).await?;
                    (self.put(name, made, now)?, 1, true)
                }
            }
        };
        stream.reached(version).await?;
        Ok((stream, is_new))
    }

    /// What is at a path now: what is past its time is removed first. With the `making` lock held.
    async fn current(
        &self,
        tenant: &TenantId,
        path: &StreamPath,
    ) -> Result<Option<Arc<Stream>>, StreamError> {
        let name = (tenant.clone(), path.clone());
        let Some(stream) = self.load(&name).await? else {
            return Ok(None);
        };
        let is_deleted = stream.lock().head.deleted;
        if is_deleted || !stream.is_expired(self.0.clock.now()) {
            return Ok(Some(stream));
        }
        self.remove(&stream).await?;
        self.load(&name).await
    }

    async fn made(
        &self,
        tenant: &TenantId,
        new: NewStream,
        now: Time,
    ) -> Result<Made, CreateError> {
        let mut head = Head {
            id: StreamId::fresh(),
            content_type: new.content_type.clone().unwrap_or_else(|| BYTES.to_owned()),
            created: now,
            expiry: new.expiry,
            source: None,
            inherited: Vec::new(),
            forks: 0,
            deleted: false,
            touched: now,
        };
        let (mut pieces, mut source) = (Vec::new(), None);
        if let Some(fork) = new.fork {
            let (from, prefix) = self
                .forked(tenant, &fork, &new.content_type, &mut head)
                .await?;
            pieces.extend(prefix);
            source = Some(from);
        }
        let data = match is_json(&head.content_type) && !new.body.is_empty() {
            true => json::flatten(&new.body)?.0,
            false => new.body,
        };
        if !data.is_empty() {
            pieces.push(data);
        }
        let last = pieces.len().saturating_sub(1);
        let pieces = pieces.into_iter().enumerate().map(|(n, data)| {
            let closes = new.closed && n == last;
            let (producer, order) = (None, None);
            let head = PieceHead {
                time: now,
                producer,
                order,
                closes,
            };
            Piece { head, data }
        });
        Ok(Made {
            pieces: pieces.collect(),
            head,
            closed: new.closed,
            source,
        })
    }

    /// Let the head take over what the fork begins with; answers the source, and a part of a piece of it that is
    /// not taken over whole.
    async fn forked(
        &self,
        tenant: &TenantId,
        fork: &Fork,
        content_type: &Option<String>,
        head: &mut Head,
    ) -> Result<(Arc<Stream>, Option<Bytes>), CreateError> {
        let source = self.current(tenant, &fork.source).await?;
        let source = source.ok_or(CreateError::NoSource)?;
        // Its last words are read below.
        source.reached(1).await?;
        let (from, tail, version) = {
            let live = source.lock();
            (live.head.clone(), live.state.tail, live.version)
        };
        if from.deleted {
            return Err(CreateError::SourceDeleted);
        }
        match content_type {
            Some(own) if essence(own) != essence(&from.content_type) => {
                return Err(CreateError::OtherType);
            }
            Some(_) => {}
            None => head.content_type.clone_from(&from.content_type),
        }
        let at = fork.at.unwrap_or(tail);
        if at > tail {
            return Err(CreateError::Ahead);
        }
        head.inherited = from.spans_until(at);
        if head.inherited.len() > FORK_DEPTH_MAX {
            telemetry::hit(Limit::StreamForkDepth);
            return Err(CreateError::TooDeep);
        }
        head.expiry = head.expiry.or(from.expiry);
        head.source = Some(Source {
            path: fork.source.clone(),
            asked: fork.at,
            sub_offset: fork.sub_offset,
        });
        if fork.sub_offset == 0 {
            return Ok((source, None));
        }
        source.reached(version).await?;
        if at == tail {
            return Err(CreateError::SubOffset);
        }
        let batch = source.read(at, 0).await.map_err(StreamError::from)?;
        let data = batch.pieces.into_iter().next();
        let data = data.ok_or(CreateError::SubOffset)?;
        let count = usize::try_from(fork.sub_offset).unwrap_or(usize::MAX);
        let part = match source.is_json {
            true => json::first(&data, count),
            false => (count <= data.len()).then(|| data.slice(..count)),
        };
        Ok((source, Some(part.ok_or(CreateError::SubOffset)?)))
    }

    /// Queue the commit that makes it; it can be found from then on. With the `making` lock held.
    fn put(
        &self,
        name: (TenantId, StreamPath),
        made: Made,
        now: Time,
    ) -> Result<Arc<Stream>, CreateError> {
        let Made {
            head,
            pieces,
            closed,
            source,
        } = made;
        let key = StreamKey {
            tenant: name.0.clone(),
            id: head.id,
        };
        let mut state = State::new(head.base(), now);
        let mut writes = Vec::with_capacity(pieces.len() + 3);
        for piece in &pieces {
            state.next(&piece.head);
            let (stream, seq, bytes) = (key.clone(), state.tail, piece.encode());
            writes.push(Write::Piece { stream, seq, bytes });
        }
        let closes_bare = closed && pieces.is_empty();
        if closes_bare {
            state.close(None, now);
        }
        let stream = Stream::new(name.clone(), head, state, (0, now), self.ground());
        let stream = Arc::new(stream);
        {
            let live = stream.lock();
            writes.push(stream.head_write(&live.head));
            if closes_bare {
                writes.push(stream.state_write(&live.state));
            }
        }
        self.keep(name.clone(), &stream)?;
        let queued = match &source {
            None => queue(&stream, 1, writes, |_| {}),
            Some(source) => {
                let mut live = source.lock();
                let mut from = live.head.clone();
                from.forks += 1;
                writes.push(source.head_write(&from));
                let queued = queue(&stream, 1, writes, |_| {});
                if queued.is_ok() {
                    live.head = from;
                }
                queued
            }
        };
        match queued {
            Ok(_) => Ok(stream),
            Err(error) => {
                self.open().remove(&name);
                Err(error.into())
            }
        }
    }

    /// Remove a stream, or mark it where it has forks; answers when that is durable, and is finished also when
    /// nobody waits for it.
    pub async fn delete(&self, tenant: &TenantId, path: &StreamPath) -> Result<(), StreamError> {
        let (streams, tenant, path) = (self.clone(), tenant.clone(), path.clone());
        self.to_the_end(async move {
            let making = streams.making(&tenant);
            let _making = making.lock().await;
            let stream = streams.current(&tenant, &path).await?;
            let stream = stream.ok_or(StreamError::NotFound)?;
            if stream.lock().head.deleted {
                return Err(StreamError::Gone);
            }
            streams.remove(&stream).await
        })
        .await
    }

    /// The same for one that is past its time.
    pub(super) async fn expire(&self, stream: &Arc<Stream>) -> Result<(), StreamError> {
        let (streams, stream) = (self.clone(), stream.clone());
        self.to_the_end(async move {
            let making = streams.making(&stream.tenant);
            let _making = making.lock().await;
            // Somebody else may have been here, and a new one may be at its path.
            let is_leaving = stream.lock().is_leaving;
            match is_leaving || !stream.is_expired(streams.0.clock.now()) {
                true => Ok(()),
                false => streams.remove(&stream).await,
            }
        })
        .await
    }

    async fn to_the_end(
        &self,
        work: impl Future<Output = Result<(), StreamError>> + Send + 'static,
    ) -> Result<(), StreamError> {
        match self.0.tasks.spawn(work).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Io("a removal ended early".into()).into()),
        }
    }

    /// With the `making` lock held, until it is durable: who looks in between must not find half of it.
    async fn remove(&self, stream: &Arc<Stream>) -> Result<(), StreamError> {
        let chain = self.chain(stream).await?;
        let (sender, settled) = oneshot::channel();
        let mut removed = Vec::new();
        {
            let mut lives: Vec<MutexGuard<'_, Live>> = chain.iter().map(|it| it.lock()).collect();
            let (mut writes, mut heads, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            for (n, (stream, live)) in chain.iter().zip(&lives).enumerate() {
                let mut head = live.head.clone();
                match n {
                    0 => head.deleted = true,
                    _ => head.forks = head.forks.saturating_sub(1),
                }
                let is_removed = head.deleted && head.forks == 0;
                let end = match (is_removed, n) {
                    (true, _) => Some(End::Removed),
                    (false, 0) => Some(End::Deleted),
                    (false, _) => None,
                };
                match is_removed {
                    true => {
                        removed.push(stream.clone());
                        writes.extend(removal(stream));
                    }
                    false => writes.push(stream.head_write(&head)),
                }
                ends.push((stream.clone(), live.version + 1, end));
                heads.push(head);
            }
            let leaving: Vec<bool> = ends.iter().map(|(_, _, end)| end.is_some()).collect();
            let done = Box::new(move |result: Result<(), Latched>| {
                for (stream, version, end) in ends {
                    let is_over = end.is_some() && result.is_ok();
                    stream.mark.send_modify(|mark| match &result {
                        Ok(()) => {
                            mark.version = version;
                            mark.end = end.or(mark.end.take());
                        }
                        Err(latched) => mark.end = Some(End::Latched(latched.clone())),
                    });
                    if is_over {
                        let removed = Change::Removed(stream.key.id);
                        stream.changes.tell(&stream.tenant, &stream.path, removed);
                    }
                }
                // Nobody may wait; it stands all the same.
                let _ = sender.send(result);
            });
            match self.0.store.commit(Commit { writes, done }) {
                Ok(_) => {}
                Err(CommitError::Latched(latched)) => return Err(latched.into()),
                Err(CommitError::Fenced | CommitError::TailMismatch) => {
                    unreachable!("records have no owner")
                }
            }
            for ((live, head), is_leaving) in lives.iter_mut().zip(heads).zip(leaving) {
                live.head = head;
                live.version += 1;
                live.is_leaving |= is_leaving;
            }
        }
        told(settled).await?;
        for stream in removed {
            self.open()
                .remove(&(stream.tenant.clone(), stream.path.clone()));
        }
        self.clear(stream.tenant.clone());
        Ok(())
    }

    /// A stream, and its ancestors as far up as one loses its last fork, the next one above included.
    async fn chain(&self, stream: &Arc<Stream>) -> Result<Vec<Arc<Stream>>, StreamError> {
        stream.reached(1).await?;
        let (mut chain, mut at) = (vec![stream.clone()], stream.clone());
        loop {
            let source = {
                let Head {
                    forks,
                    deleted,
                    source,
                    ..
                } = &at.lock().head;
                let goes = match chain.len() {
                    1 => *forks == 0,
                    _ => *deleted && *forks == 1,
                };
                source.clone().filter(|_| goes)
            };
            let Some(source) = source else {
                return Ok(chain);
            };
            let name = (at.tenant.clone(), source.path);
            let Some(above) = self.load(&name).await? else {
                let what = format!("stream {}: its source {} is missing", at.path, name.1);
                return Err(ReadError::bad_record(what).into());
            };
            above.reached(1).await?;
            chain.push(above.clone());
            at = above;
        }
    }
}

/// What takes a stream away. Its pieces are many, and are removed behind.
fn removal(stream: &Stream) -> [Write; 3] {
    [
        Write::Unrecord {
            key: head_key(&stream.tenant, &stream.path),
        },
        Write::Unrecord {
            key: state_key(&stream.key),
        },
        Write::Record {
            key: gone_key(&stream.key),
            bytes: Bytes::new(),
        },
    ]
}

/// Whether what is asked for is what is there.
fn is_same(live: &Live, new: &NewStream) -> bool {
    let head = &live.head;
    let is_fork = new.fork.is_some();
    let has_type = match &new.content_type {
        None if is_fork => true,
        None => essence(&head.content_type) == BYTES,
        Some(own) => essence(&head.content_type) == essence(own),
    };
    let has_expiry = new.expiry == head.expiry || is_fork && new.expiry.is_none();
    let has_source = match (&new.fork, &head.source) {
        (None, None) => true,
        (Some(fork), Some(source)) => {
            let is_there = fork.at == source.asked || fork.at == Some(head.base());
            fork.source == source.path && is_there && fork.sub_offset == source.sub_offset
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    has_type && has_expiry && has_source && new.closed == live.state.closed.is_some()
}
