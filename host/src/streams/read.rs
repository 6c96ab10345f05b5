//! Reading a stream: its own pieces, and those that it took over.

use std::sync::Arc;

use bytes::Bytes;

use super::head::Span;
use super::live::{Mark, Stream};
use super::piece::Piece;
use crate::id::Seq;
use crate::store::{ReadError, StreamKey};

/// What was read.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The data of each piece, in order.
    pub pieces: Vec<Bytes>,
    /// Reading goes on after this piece.
    pub at: Seq,
    /// There was nothing more.
    pub up_to_date: bool,
    /// And nothing more will come.
    pub closed: bool,
}

impl Stream {
    /// Durable pieces after `after`, until `bytes_max` is passed: at least one, if there is one.
    pub async fn read(self: &Arc<Self>, after: Seq, bytes_max: usize) -> Result<Batch, ReadError> {
        let mark = self.mark();
        let pieces = match mark.tail > after {
            true => self.pieces(after, &mark, bytes_max).await?,
            false => Vec::new(),
        };
        let at = pieces.last().map_or(after, |(seq, _)| *seq);
        let up_to_date = at >= mark.tail;
        Ok(Batch {
            pieces: pieces.into_iter().map(|(_, data)| data).collect(),
            at,
            up_to_date,
            closed: up_to_date && mark.closed,
        })
    }

    async fn pieces(
        self: &Arc<Self>,
        after: Seq,
        mark: &Mark,
        bytes_max: usize,
    ) -> Result<Vec<(Seq, Bytes)>, ReadError> {
        if let Some(recent) = self.recent(after, mark.tail) {
            return Ok(recent);
        }
        let (stream, until) = (self.clone(), mark.tail);
        let reading =
            tokio::task::spawn_blocking(move || stream.stored(after, until, bytes_max)).await;
        let pieces = reading.map_err(|_| ReadError::Io("the reading thread ended early".into()))?;
        match pieces? {
            Some(pieces) => Ok(pieces),
            // Removed while it was read: whoever reads on hears that there is no more.
            None if self.mark().end.is_some() => Ok(Vec::new()),
            None => {
                let what = format!("stream {}: a piece after {after} is missing", self.id());
                Err(ReadError::bad_record(what))
            }
        }
    }

    /// From the store; none if one is missing. Blocks.
    fn stored(
        &self,
        after: Seq,
        until: Seq,
        bytes_max: usize,
    ) -> Result<Option<Vec<(Seq, Bytes)>>, ReadError> {
        let own = Span {
            id: self.key.id,
            until: Seq(u64::MAX),
        };
        let (mut found, mut at, mut bytes) = (Vec::new(), after, 0);
        for span in self.inherited.iter().chain([&own]) {
            let end = span.until.min(until);
            if at >= end {
                continue;
            }
            let stream = StreamKey {
                tenant: self.tenant.clone(),
                id: span.id,
            };
            let left = bytes_max.saturating_sub(bytes);
            for (seq, stored) in self.store.pieces(&stream, at, end, left)? {
                if seq != at.next() {
                    return Ok(None);
                }
                let data = Piece::data(&stored);
                let data = data.map_err(|error| ReadError::bad_record(error.to_string()))?;
                bytes += data.len();
                at = seq;
                found.push((seq, data));
            }
            // Enough, or one that is missing: whoever reads on from here finds out.
            if at < end || bytes > bytes_max {
                break;
            }
        }
        if found.is_empty() && after < until {
            return Ok(None);
        }
        Ok(Some(found))
    }
}
