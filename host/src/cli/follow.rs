//! A session's events as they happen, over any number of connections.
//!
//! Invariant: every event after the given place comes exactly once and in order, however
//! often the connection breaks or the server is started again.

use std::time::Duration;

use antiphon::id::SessionId;
use reqwest::Response;
use tokio::sync::mpsc;

use super::client::{CallError, Client};
use super::event::Event;
use super::sse::{Parser, Place};

/// Waits between attempts to connect: at once noticed, never a burden.
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(2);
/// A server sends at least a comment in this time; else the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(75);
/// Events read ahead of whoever shows them.
const AHEAD_MAX: usize = 256;

#[derive(Debug)]
pub(super) enum Update {
    Event(Box<Event>),
    /// The connection broke; events go on when there is a new one. Said once per break.
    Reconnecting,
    /// The connection is there again.
    Connected,
    /// There will be no more.
    Failed(CallError),
}

/// Follow a session from after an offset; "-1" is the beginning. Ends when the receiver
/// is dropped, or with [`Update::Failed`] when the server will not go on.
pub(super) fn follow(client: Client, session: SessionId, offset: String) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    tokio::spawn(async move {
        let mut place = Place::after(offset);
        let mut wait = WAIT_FIRST;
        let mut is_broken = false;
        loop {
            let failed = match client.follow(&session, place.offset()).await {
                Ok(response) => {
                    wait = WAIT_FIRST;
                    if std::mem::take(&mut is_broken)
                        && sender.send(Update::Connected).await.is_err()
                    {
                        return;
                    }
                    let mut stream = Stream::new(response);
                    loop {
                        match stream.next(&mut place).await {
                            Ok(Some(event)) => {
                                if sender.send(Update::Event(Box::new(event))).await.is_err() {
                                    return;
                                }
                            }
                            Ok(None) => break None,
                            Err(error) => break error.is_endless().then_some(error),
                        }
                    }
                    .map(|_| CallError::Strange {
                        what: "following a session",
                        reason: "it is not an event stream".to_owned(),
                    })
                }
                Err(error) if error.is_transient() => None,
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                let _ = sender.send(Update::Failed(error)).await;
                return;
            }
            if !std::mem::replace(&mut is_broken, true)
                && sender.send(Update::Reconnecting).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = sender.closed() => return,
            }
            wait = (wait * 2).min(WAIT_MAX);
        }
    });
    receiver
}

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    response: Response,
    parser: Parser,
    ready: std::collections::VecDeque<super::sse::Frame>,
}

#[derive(Debug)]
pub(super) enum Cut {
    /// The network, or a server that stopped.
    Broken,
    Endless,
}

impl Cut {
    fn is_endless(&self) -> bool {
        matches!(self, Self::Endless)
    }
}

impl Stream {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
            ready: Default::default(),
        }
    }

    /// The next event that `place` has not seen; none at the stream's end.
    pub(super) async fn next(&mut self, place: &mut Place) -> Result<Option<Event>, Cut> {
        loop {
            while let Some(frame) = self.ready.pop_front() {
                if !place.take(&frame) {
                    continue;
                }
                // What is no event, such as a note that the reader is up to date, is not ours.
                if let Some(event) = Event::parse(&frame.data) {
                    return Ok(Some(event));
                }
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk())
                .await
                .map_err(|_| Cut::Broken)?
                .map_err(|_| Cut::Broken)?;
            let Some(chunk) = chunk else {
                return Ok(None);
            };
            self.ready
                .extend(self.parser.push(&chunk).map_err(|_| Cut::Endless)?);
        }
    }
}
