//! Connections to providers, shared by calls.
//!
//! Over HTTP/2 the calls of one client share one connection to a provider, with two bounds that calls of others must
//! not meet: the provider allows so many streams (100 or 128 are usual; what comes then waits, and nobody is told),
//! and all streams share one window (a reader that does not read takes it from the others). So calls are spread over
//! lanes: clients with connections of their own, of which each has so few calls that neither bound is met. Over
//! HTTP/1.1 a call has a connection to itself, and a lane only says where that rests in between.
//!
//! Invariant: a lane has at most [`CALLS_MAX`] calls under way, and its connections have room for the window of each.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::SetupError;
use super::client::innermost;
use crate::egress::dial;

/// Calls of one lane: a third of what a provider usually allows on one connection.
const CALLS_MAX: u32 = 32;

/// What may be under way of an answer that its reader has not read: text for many seconds, of any model.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Many calls wait on one connection: that it is dead must be heard of, also while nothing is to be sent.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWERED: Duration = Duration::from_secs(15);

type Build = fn() -> reqwest::ClientBuilder;

/// Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    build: Build,
    /// Never empty. Those in front are used first, so that the connections of the others end when there are fewer calls.
    lanes: Mutex<Vec<Arc<Lane>>>,
}

struct Lane {
    http: reqwest::Client,
    calls: AtomicU32,
}

/// A call's place on a lane, until it is dropped.
pub(super) struct Place {
    pub(super) http: reqwest::Client,
    /// None if it is not on a lane.
    lane: Option<Arc<Lane>>,
}

impl Connections {
    pub(super) fn new() -> Result<Self, SetupError> {
        Self::built(builder)
    }

    /// # Errors
    /// If the first lane cannot be built.
    fn built(build: Build) -> Result<Self, SetupError> {
        let first = Lane::new(build).map_err(|error| SetupError::Client(innermost(&error)))?;
        Ok(Self(Arc::new(Shared {
            build,
            lanes: Mutex::new(vec![Arc::new(first)]),
        })))
    }

    /// A place for one call. Once per so many calls under way a client is built for it, which takes 3 ms and 110 KB:
    /// each has the system's certificates.
    pub(super) fn place(&self) -> Place {
        let lanes = self.0.lanes.lock();
        let mut lanes = lanes.unwrap_or_else(PoisonError::into_inner);
        // Places are taken under this lock alone, so a lane with room has it still.
        let lane = match lanes.iter().find(|lane| lane.has_room()) {
            Some(lane) => lane.clone(),
            None => match Lane::new(self.0.build) {
                Ok(lane) => {
                    lanes.push(Arc::new(lane));
                    lanes[lanes.len() - 1].clone()
                }
                Err(error) => {
                    let error = innermost(&error);
                    tracing::warn!(%error, "calls of models share connections with more than they should");
                    lanes[0].clone()
                }
            },
        };
        lane.calls.fetch_add(1, Ordering::Relaxed);
        Place {
            http: lane.http.clone(),
            lane: Some(lane),
        }
    }
}

impl Lane {
    fn new(build: Build) -> Result<Self, reqwest::Error> {
        Ok(Self {
            http: build().build()?,
            calls: AtomicU32::new(0),
        })
    }

    fn has_room(&self) -> bool {
        self.calls.load(Ordering::Relaxed) < CALLS_MAX
    }
}

impl Place {
    /// With a client that makes a connection for each call.
    pub(super) fn elsewhere(http: reqwest::Client) -> Self {
        Self { http, lane: None }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            lane.calls.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

fn builder() -> reqwest::ClientBuilder {
    dial::builder()
        .http2_initial_stream_window_size(WINDOW_BYTES)
        .http2_initial_connection_window_size(WINDOW_BYTES * CALLS_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_ANSWERED)
}

#[cfg(test)]
mod tests {
    use super::super::scripted::{Provider, Reply};
    use super::*;

    /// As over TLS, where both sides agree on it.
    fn http2() -> Connections {
        Connections::built(|| builder().http2_prior_knowledge()).unwrap()
    }

    /// What is left of an answer, and the call's place.
    async fn ask(connections: &Connections, provider: &Provider) -> (reqwest::Response, Place) {
        let place = connections.place();
        let request = place.http.post(provider.base_url());
        (request.send().await.unwrap(), place)
    }

    #[tokio::test]
    async fn no_call_waits_for_the_streams_of_others() {
        let provider = Provider::answering(|_| Reply::stream().hang()).await;
        let (connections, mut calls) = (http2(), Vec::new());
        // More than the provider allows on one connection: 200, hyper's default.
        for _ in 0..7 * CALLS_MAX {
            calls.push(ask(&connections, &provider).await);
        }
        assert_eq!(provider.connections(), 7);
        // Whose call is over gives its place to the next.
        calls.truncate(1);
        for _ in 1..CALLS_MAX {
            calls.push(ask(&connections, &provider).await);
        }
        assert_eq!(provider.connections(), 7);
        assert_eq!(connections.0.lanes.lock().unwrap().len(), 7);
    }

    #[tokio::test]
    async fn no_reader_takes_the_window_of_others() {
        let long = Reply::stream().raw(vec![b'x'; 4 * WINDOW_BYTES as usize]);
        let provider = Provider::answering(move |_| long.clone()).await;
        let (connections, mut unread) = (http2(), Vec::new());
        for _ in 1..CALLS_MAX {
            unread.push(ask(&connections, &provider).await);
        }
        let (answer, _place) = ask(&connections, &provider).await;
        let all = answer.bytes().await.unwrap();
        assert!(all.len() > 4 * WINDOW_BYTES as usize);
        assert_eq!(provider.connections(), 1);
    }
}
