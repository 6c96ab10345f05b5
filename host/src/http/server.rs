//! Connections: accepting, TLS, HTTP/1.1 and 2, and ending them when the host stops.
//!
//! Every connection is one task, which owns it whole: it ends when the client is done, when the
//! client keeps it waiting for too long (see [`super::patience`]), or at the end of the drain.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::patience::{Patience, Verdict};
use super::tls::Tls;
use super::watch::{Bytewise, Watch, Watched};
use crate::shutdown::Shutdown;
use crate::telemetry::{self, Limit, UnderWay};

/// Headers of one request, beside their bytes.
const HEADERS_MAX: usize = 100;

/// Whether an HTTP/2 client that says nothing is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// A connection's place among all, held also by what outlives its HTTP: a WebSocket.
#[derive(Clone)]
pub(super) struct Place {
    _place: Arc<(OwnedSemaphorePermit, UnderWay)>,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Arc::new((permit, UnderWay::connection())),
        }
    }
}

/// Bounds of connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub header_bytes_max: usize,
    /// Open at once; more are closed as they come.
    pub connections_max: usize,
    /// Requests of one HTTP/2 connection at once.
    pub connection_streams_max: u32,
    /// Of which so many may be agreeing on TLS.
    pub handshakes_max: usize,
    pub handshake: Duration,
    pub patience: Patience,
}

/// Serve until the host stops; then accept nothing new and let running requests end, for as long
/// as `drain` at most.
pub async fn run(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    shutdown: &Shutdown,
    bounds: Bounds,
    drain: Duration,
) {
    let door = Door::new(router, tls, bounds);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.stopping() => break,
        };
        match accepted {
            Ok((stream, _)) => door.take(stream),
            Err(error) => {
                // Out of file descriptors, most likely: others may close some meanwhile.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    door.close(drain).await;
}

/// What the task of every connection shares.
struct Door {
    served: Served,
    tls: Option<Arc<Tls>>,
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    bounds: Bounds,
    tasks: TaskTracker,
    /// The end of the drain.
    over: CancellationToken,
}

impl Door {
    fn new(router: Router, tls: Option<Arc<Tls>>, bounds: Bounds) -> Self {
        Self {
            served: Served::new(router, &bounds),
            tls,
            places: Arc::new(Semaphore::new(bounds.connections_max)),
            handshakes: Arc::new(Semaphore::new(bounds.handshakes_max)),
            bounds,
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
        }
    }

    /// Start the connection's task, unless there are too many.
    fn take(&self, stream: TcpStream) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            telemetry::hit(Limit::Connections);
            return;
        };
        // Small chunks of reply must not wait for each other.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let place = Place::new(place);
        let served = self.served.clone();
        let over = self.over.clone();
        let Some(tls) = &self.tls else {
            let task = async move {
                let watch = Watch::new(served.patience);
                let bytes = Bytewise::new(stream, watch.clone());
                tokio::select! {
                    () = served.connection(bytes, watch, place) => {}
                    () = over.cancelled() => {}
                }
            };
            self.tasks.spawn(task);
            return;
        };
        let Ok(turn) = self.handshakes.clone().try_acquire_owned() else {
            telemetry::hit(Limit::Handshakes);
            return;
        };
        let (tls, within) = (tls.clone(), self.bounds.handshake);
        self.tasks.spawn(async move {
            tokio::select! {
                () = secured(stream, &tls, within, served, (turn, place)) => {}
                () = over.cancelled() => {}
            }
        });
    }

    async fn close(self, drain: Duration) {
        self.tasks.close();
        self.served.stopping.cancel();
        if tokio::time::timeout(drain, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::info!("connections were still open at the end of the drain");
            self.over.cancel();
            self.tasks.wait().await;
        }
    }
}

/// Agree on TLS, then serve.
async fn secured(
    stream: TcpStream,
    tls: &Tls,
    within: Duration,
    served: Served,
    (turn, place): (OwnedSemaphorePermit, Place),
) {
    let watch = Watch::new(served.patience);
    let bytes = Bytewise::new(stream, watch.clone());
    match tokio::time::timeout(within, tls.accept(bytes)).await {
        Ok(Ok((stream, is_two))) => {
            drop(turn);
            watch.agreed(is_two);
            served.connection(stream, watch, place).await;
        }
        Ok(Err(error)) => tracing::trace!(%error, "no TLS was agreed on"),
        Err(_) => telemetry::hit(Limit::HandshakeMs),
    }
}

/// How a connection is served, once it speaks HTTP.
#[derive(Clone)]
struct Served {
    router: Router,
    builder: Arc<Builder<TokioExecutor>>,
    patience: Patience,
    stopping: CancellationToken,
}

impl Served {
    fn new(router: Router, bounds: &Bounds) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // Ours: it tells a slow head from a client that has nothing to ask.
            .header_read_timeout(None)
            .max_buf_size(bounds.header_bytes_max.max(8 * 1024))
            .max_headers(HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(bounds.header_bytes_max).unwrap_or(u32::MAX))
            .max_concurrent_streams(bounds.connection_streams_max)
            .keep_alive_interval(PING_EVERY);
        Self {
            router,
            builder: Arc::new(builder),
            patience: bounds.patience,
            stopping: CancellationToken::new(),
        }
    }

    /// Serve one connection to its end.
    async fn connection<S>(&self, stream: S, watch: Arc<Watch>, place: Place)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = {
            let watch = watch.clone();
            service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(place.clone());
                let (mut router, version) = (self.router.clone(), request.version());
                let open = watch.opened();
                async move {
                    let response = router.call(request.map(Body::new)).await?;
                    let response = response.map(|body| Watched::new(body, version, open));
                    Ok::<_, std::convert::Infallible>(response)
                }
            })
        };
        let connection = self
            .builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut looking = tokio::time::interval(watch.every());
        looking.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_ending = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    // How a client ends its connection is its own matter.
                    if let Err(error) = ended {
                        tracing::trace!(%error, "a connection ended");
                    }
                    return;
                }
                () = self.stopping.cancelled(), if !is_ending => {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = looking.tick() => match watch.look() {
                    Verdict::Wait => {}
                    Verdict::Retire(limit) => {
                        telemetry::hit(limit);
                        connection.as_mut().graceful_shutdown();
                    }
                    Verdict::Cut(limit) => {
                        telemetry::hit(limit);
                        return;
                    }
                },
            }
        }
    }
}
