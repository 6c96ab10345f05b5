//! Following a stream by server-sent events.
//!
//! Data and the control event that goes with it are one write, so that a client never has one without the other.
//! Text may hold anything: each of its lines is a line of `data:`, however lines end, so that nothing in
//! it can be taken for an event.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use super::answers::{self, Heads};
use super::source::{Source, Waiter};
use crate::http::streams::StreamPermit;
use crate::http::{Api, sse};
use crate::id::{Offset, Seq};
use crate::streams::{Batch, essence};

/// When nothing happens, a control event says so: proxies close what is silent for a minute.
const IDLE: Duration = Duration::from_secs(15);

struct Following {
    api: Api,
    source: Source,
    waiter: Waiter,
    at: Seq,
    is_text: bool,
    own_cursor: Option<u64>,
    last_cursor: u64,
    /// Something was said already.
    has_begun: bool,
    is_over: bool,
    deadline: Instant,
    _permit: StreamPermit,
}

pub(super) fn follow(
    api: Api,
    source: Source,
    after: Seq,
    cursor: Option<u64>,
    permit: StreamPermit,
    over: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let is_text = source.is_json() || essence(source.content_type()).starts_with("text/");
    let stopping = api.shutdown.clone();
    let state = Following {
        waiter: source.waiter(&api, after),
        deadline: Instant::now() + api.settings.stream_live,
        source,
        at: after,
        is_text,
        own_cursor: cursor,
        last_cursor: 0,
        has_begun: false,
        is_over: false,
        api,
        _permit: permit,
    };
    let chunks = stream::unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        Some((Ok::<_, Infallible>(chunk), state))
    });
    let chunks = chunks
        .take_until(over)
        .take_until(async move { stopping.stopping().await });
    Heads::new()
        .with("content-type", "text/event-stream")
        .with("cache-control", "no-cache")
        // Buffering proxies would hold words back.
        .with("x-accel-buffering", "no")
        .with_if(!is_text, answers::ENCODING, "base64")
        .answer(StatusCode::OK, Body::from_stream(chunks))
}

impl Following {
    /// What is written next; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            let bytes_max = self.api.settings.stream_read_bytes;
            let batch = self.source.read(self.at, bytes_max).await.ok()?;
            self.at = batch.at;
            if !batch.pieces.is_empty() || batch.closed || !self.has_begun {
                return Some(self.said(&batch));
            }
            let idle = tokio::time::sleep(IDLE);
            tokio::select! {
                more = self.waiter.more(self.at) => {
                    if let Some(source) = more.ok()? {
                        self.source = source;
                    }
                }
                () = idle => {
                    self.source.touch();
                    return Some(self.said(&batch));
                }
                // The client comes back with its last offset.
                () = tokio::time::sleep_until(self.deadline) => return None,
            }
        }
        None
    }

    fn said(&mut self, batch: &Batch) -> Bytes {
        self.has_begun = true;
        // Who reads a backlog for long is let go, too, where a place is known.
        self.is_over = batch.closed || Instant::now() >= self.deadline;
        let mut out = BytesMut::new();
        if !batch.pieces.is_empty() {
            let body = answers::body(&self.source, batch);
            match self.is_text {
                true => event(&mut out, "data", &body),
                false => event(&mut out, "data", STANDARD.encode(&body).as_bytes()),
            }
        }
        let mut control = json!({"streamNextOffset": Offset(batch.at).to_string()});
        if batch.up_to_date {
            control["upToDate"] = json!(true);
        }
        if batch.closed {
            control["streamClosed"] = json!(true);
        } else {
            let cursor = super::cursor(&self.api, self.own_cursor).max(self.last_cursor);
            self.last_cursor = cursor;
            control["streamCursor"] = json!(cursor.to_string());
        }
        event(&mut out, "control", control.to_string().as_bytes());
        out.freeze()
    }
}

/// One event. Readers take one space away after the colon, so there is one only where the line itself begins with one.
fn event(out: &mut BytesMut, name: &str, data: &[u8]) {
    out.put_slice(b"event: ");
    out.put_slice(name.as_bytes());
    out.put_u8(b'\n');
    for line in sse::lines(data) {
        out.put_slice(match line.first() {
            Some(b' ') => b"data: ",
            _ => b"data:",
        });
        out.put_slice(line);
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::sse::tests::heard;

    proptest! {
        #[test]
        fn any_text_is_one_event_and_comes_back(
            texts in proptest::collection::vec("(\\PC|[\r\n\0: ]|\u{feff}|\u{2028}|data:|event: control){0,40}", 1..4),
        ) {
            let mut out = BytesMut::new();
            for text in &texts {
                event(&mut out, "data", text.as_bytes());
            }
            let expected: Vec<_> = texts.iter().map(|text| {
                (String::new(), "data".to_owned(), text.replace("\r\n", "\n").replace('\r', "\n"))
            }).collect();
            prop_assert_eq!(heard(std::str::from_utf8(&out).unwrap()), expected);
        }
    }

    #[test]
    fn lines_come_without_a_space_of_ours() {
        let mut out = BytesMut::new();
        event(&mut out, "data", b"a\r\n b\rc\n");
        assert_eq!(out, "event: data\ndata:a\ndata:  b\ndata:c\ndata:\n\n");
    }
}
