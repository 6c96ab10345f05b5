//! Watching one connection from both sides: its bytes, and the bodies of its answers.
//!
//! Invariant: whoever stops reading loses the connection (HTTP/1.1) or the stream (HTTP/2) after
//! a bound, and with it everything that was kept for them. What they were reading is durable:
//! they come back with the last offset they have.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::patience::{Patience, Verdict, Waiting};
use crate::telemetry::{self, Limit};

/// Of a body handed to HTTP/2 at once: it keeps what the client does not take, whole.
const PIECE: usize = 16 * 1024;

/// What is known of one connection. Shared by its bytes, its bodies and its task.
pub(super) struct Watch {
    start: Instant,
    patience: Patience,
    state: Mutex<State>,
}

struct State {
    waiting: Waiting,
    /// The client is not to be waited for, not even by the kernel.
    cut: bool,
    /// Of HTTP/2, by number: a connection of HTTP/1.1 has one, and is watched itself.
    bodies: HashMap<u64, Arc<Mutex<Given>>>,
    next: u64,
}

/// A body on its way to an HTTP/2 client.
struct Given {
    body: Option<Body>,
    rest: Bytes,
    /// A piece was given, and no more was asked for since.
    since: Option<Duration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            patience,
            state: Mutex::new(State {
                waiting: Waiting::new(patience),
                cut: false,
                bodies: HashMap::new(),
                next: 0,
            }),
        })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn every(&self) -> Duration {
        Waiting::every(&self.patience)
    }

    pub(super) fn agreed(&self, is_two: bool) {
        lock(&self.state).waiting.agreed(is_two, self.now());
    }

    /// The head of a request is there; its answer is being made until the guard is dropped.
    pub(super) fn opened(self: &Arc<Self>) -> Open {
        lock(&self.state).waiting.opened();
        Open(self.clone())
    }

    /// What is due. Streams whose client stopped reading are ended on the way.
    pub(super) fn look(&self) -> Verdict {
        let now = self.now();
        let mut state = lock(&self.state);
        let stalled: Vec<_> = state
            .bodies
            .values()
            .filter_map(|given| {
                let mut given = lock(given);
                let since = given.since?;
                if now.saturating_sub(since) < self.patience.write_stall {
                    return None;
                }
                given.since = None;
                given.rest.clear();
                given.body.take()
            })
            .collect();
        let verdict = state.waiting.verdict(now);
        state.cut |= matches!(verdict, Verdict::Cut(_));
        // Bodies let go of sessions and places as they are dropped.
        drop(state);
        for _ in &stalled {
            telemetry::hit(Limit::WriteStallMs);
        }
        verdict
    }
}

/// A request that is being answered.
pub(super) struct Open(Arc<Watch>);

impl Drop for Open {
    fn drop(&mut self) {
        let now = self.0.now();
        lock(&self.0.state).waiting.closed(now);
    }
}

/// The client stopped reading this answer.
#[derive(Debug, thiserror::Error)]
#[error("the client stopped reading")]
pub(super) struct Stalled;

/// The body of an answer, watched.
pub(super) enum Watched {
    One(One),
    Two(Two),
}

pub(super) struct One {
    body: Body,
    _open: Open,
}

pub(super) struct Two {
    number: u64,
    given: Arc<Mutex<Given>>,
    open: Open,
}

impl Watched {
    pub(super) fn new(body: Body, version: http::Version, open: Open) -> Self {
        if version != http::Version::HTTP_2 {
            return Self::One(One { body, _open: open });
        }
        let given = Arc::new(Mutex::new(Given {
            body: Some(body),
            rest: Bytes::new(),
            since: None,
        }));
        let mut state = lock(&open.0.state);
        let number = state.next;
        state.next += 1;
        state.bodies.insert(number, given.clone());
        drop(state);
        Self::Two(Two {
            number,
            given,
            open,
        })
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        lock(&self.open.0.state).bodies.remove(&self.number);
    }
}

impl Two {
    fn poll(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let mut given = lock(&self.given);
        given.since = None;
        let frame = if given.rest.is_empty() {
            let Some(body) = given.body.as_mut() else {
                return Poll::Ready(Some(Err(Stalled.into())));
            };
            match std::task::ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        } else {
            Frame::data(std::mem::take(&mut given.rest))
        };
        let frame = match frame.into_data() {
            Ok(mut bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                given.rest = bytes;
                Frame::data(piece)
            }
            Err(frame) => frame,
        };
        given.since = Some(self.open.0.now());
        Poll::Ready(Some(Ok(frame)))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match self.get_mut() {
            Self::One(one) => Pin::new(&mut one.body)
                .poll_frame(context)
                .map_err(axum::BoxError::from),
            Self::Two(two) => two.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(one) => one.body.is_end_stream(),
            Self::Two(two) => {
                let given = lock(&two.given);
                given.rest.is_empty() && given.body.as_ref().is_some_and(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::One(one) => one.body.size_hint(),
            Self::Two(two) => {
                let given = lock(&two.given);
                let rest = given.rest.len() as u64;
                let inner = given.body.as_ref().map(HttpBody::size_hint);
                let inner = inner.unwrap_or_default();
                let mut hint = SizeHint::new();
                hint.set_lower(inner.lower() + rest);
                if let Some(upper) = inner.upper() {
                    hint.set_upper(upper + rest);
                }
                hint
            }
        }
    }
}

/// Where bytes come from and go to.
pub(super) trait Peer: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Forget what was not sent yet.
    fn forget(&self);
}

impl Peer for TcpStream {
    fn forget(&self) {
        // Else the kernel would keep it for as long as the other side says that it is there.
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "the socket closes slowly");
        }
    }
}

/// The bytes of a connection, watched.
pub(super) struct Bytewise<P: Peer> {
    peer: P,
    watch: Arc<Watch>,
}

impl<P: Peer> Bytewise<P> {
    pub(super) fn new(peer: P, watch: Arc<Watch>) -> Self {
        Self { peer, watch }
    }

    fn wrote<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let now = self.watch.now();
        let mut state = lock(&self.watch.state);
        state.waiting.written(polled.is_pending(), now);
        polled
    }
}

impl<P: Peer> Drop for Bytewise<P> {
    fn drop(&mut self) {
        if lock(&self.watch.state).cut {
            self.peer.forget();
        }
    }
}

impl<P: Peer> AsyncRead for Bytewise<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.peer).poll_read(context, buffer);
        if polled.is_ready() {
            let now = self.watch.now();
            let mut state = lock(&self.watch.state);
            state.waiting.read(&buffer.filled()[before..], now);
        }
        polled
    }
}

impl<P: Peer> AsyncWrite for Bytewise<P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.peer).poll_write(context, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.peer).poll_write_vectored(context, bytes);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.peer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.peer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.peer).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write_stall: Duration::from_secs(30),
    };

    /// A body of HTTP/2 that gives these pieces, and what it says when it is dropped.
    fn body(pieces: Vec<Bytes>) -> (Arc<Watch>, Watched, Arc<()>) {
        let watch = Watch::new(PATIENCE);
        let held = Arc::new(());
        let holds = held.clone();
        let pieces = stream::iter(pieces.into_iter().map(move |piece| {
            let _ = &holds;
            Ok::<_, Infallible>(piece)
        }));
        let open = watch.opened();
        let body = Watched::new(Body::from_stream(pieces), http::Version::HTTP_2, open);
        (watch, body, held)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_lets_go_of_what_it_holds() {
        let (watch, mut body, held) = body(vec![Bytes::from_static(b"one"); 3]);
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "one"
        );
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(watch.look(), Verdict::Wait);
        assert_eq!(Arc::strong_count(&held), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watch.look(), Verdict::Wait, "the connection goes on");
        assert_eq!(Arc::strong_count(&held), 1, "the stream is let go of");
        // The client hears that there is no more, and not that this was all.
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.is::<Stalled>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_read_in_time_is_whole_however_long_its_pieces() {
        let long = Bytes::from(vec![b'x'; 3 * PIECE + 1]);
        let (watch, mut body, held) = body(vec![long.clone(), Bytes::from_static(b"end")]);
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            assert!(data.len() <= PIECE);
            read.extend_from_slice(&data);
            tokio::time::advance(Duration::from_secs(29)).await;
            assert_eq!(watch.look(), Verdict::Wait);
        }
        assert_eq!(read, [&long[..], b"end"].concat());
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(lock(&watch.state).bodies.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_nothing_to_say_is_waited_for() {
        let watch = Watch::new(PATIENCE);
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let mut body = Watched::new(silent, http::Version::HTTP_2, watch.opened());
        let next = tokio::time::timeout(Duration::from_secs(10_000), body.frame()).await;
        assert!(next.is_err());
        assert_eq!(watch.look(), Verdict::Wait);
    }
}
