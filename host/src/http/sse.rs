//! The one writer of event streams.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::header;

/// Proxies close connections that are silent for a minute; a quarter of that survives loss.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// One event. `data` is one line of JSON; line breaks in it, of any kind, become lines of their
/// own, so that nothing inside can end the event.
pub(super) fn event(id: &str, kind: &str, data: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(data.len() + id.len() + kind.len() + 32);
    for (name, value) in [("id: ", id), ("event: ", kind)] {
        bytes.put_slice(name.as_bytes());
        bytes.put_slice(value.as_bytes());
        bytes.put_u8(b'\n');
    }
    for line in lines(data) {
        bytes.put_slice(b"data: ");
        bytes.put_slice(line);
        bytes.put_u8(b'\n');
    }
    bytes.put_u8(b'\n');
    bytes.freeze()
}

/// An event without an id. `data` is one line of JSON, which has no line break.
pub(super) fn unnamed(kind: Option<&str>, data: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(data.len() + 64);
    if let Some(kind) = kind {
        bytes.put_slice(b"event: ");
        bytes.put_slice(kind.as_bytes());
        bytes.put_u8(b'\n');
    }
    bytes.put_slice(b"data: ");
    bytes.put_slice(data);
    bytes.put_slice(b"\n\n");
    bytes.freeze()
}

/// What stands between line breaks, as the HTML standard has them in event streams; at least one line.
pub(super) fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(data);
    std::iter::from_fn(move || {
        let rest = left.take()?;
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            return Some(rest);
        };
        let both = rest[end..].starts_with(b"\r\n");
        left = Some(&rest[end + 1 + usize::from(both)..]);
        Some(&rest[..end])
    })
}

/// A response that streams events, with a comment when nothing happens for a while. It ends when `over` does: when
/// whoever reads may not be here any more.
pub(super) fn response(
    events: impl Stream<Item = Bytes> + Send + 'static,
    over: impl Future<Output = ()> + Send + 'static,
) -> Response {
    let events = events.take_until(over);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let state = (Box::pin(events), heartbeat, true);
    let chunks =
        futures_util::stream::unfold(state, |(mut events, mut heartbeat, first)| async move {
            if first {
                heartbeat.tick().await;
                // The head goes out at once: the client knows that it is connected.
                return Some((
                    Bytes::from_static(b": connected\n\n"),
                    (events, heartbeat, false),
                ));
            }
            tokio::select! {
                biased;
                event = events.next() => {
                    heartbeat.reset();
                    event.map(|event| (event, (events, heartbeat, false)))
                }
                _ = heartbeat.tick() => {
                    Some((Bytes::from_static(b": alive\n\n"), (events, heartbeat, false)))
                }
            }
        });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Buffering proxies would hold words back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(chunks.map(Ok::<_, Infallible>))).into_response()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_cannot_leave_its_event() {
        let bytes = event("1", "spoke", b"a\nb\r\nc\rd");
        let text = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(
            text,
            "id: 1\nevent: spoke\ndata: a\ndata: b\ndata: c\ndata: d\n\n"
        );
        assert_eq!(&event("1", "x", b"")[..], b"id: 1\nevent: x\ndata: \n\n");
    }

    /// What a browser makes of a stream: id, name and data of each event, by the rules of the HTML standard.
    pub(in crate::http) fn heard(stream: &str) -> Vec<(String, String, String)> {
        let (mut events, mut id, mut kind, mut data) =
            (Vec::new(), String::new(), String::new(), Vec::new());
        for line in stream.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            if line.is_empty() {
                if !data.is_empty() {
                    events.push((id.clone(), std::mem::take(&mut kind), data.join("\n")));
                    data.clear();
                }
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => value.clone_into(&mut id),
                "event" => value.clone_into(&mut kind),
                "data" => data.push(value.to_owned()),
                _ => {}
            }
        }
        events
    }

    proptest! {
        #[test]
        fn any_text_is_one_event_and_comes_back(
            texts in proptest::collection::vec("(\\PC|[\r\n\0: ]|\u{feff}|\u{2028}|id: |data: |event: ){0,40}", 1..4),
        ) {
            let mut stream = String::from(": connected\n\n");
            for (n, text) in texts.iter().enumerate() {
                let bytes = event(&n.to_string(), "spoke", text.as_bytes());
                stream.push_str(std::str::from_utf8(&bytes).unwrap());
                stream.push_str(": alive\n\n");
            }
            let expected: Vec<_> = texts.iter().enumerate().map(|(n, text)| {
                let text = text.replace("\r\n", "\n").replace('\r', "\n");
                (n.to_string(), "spoke".to_owned(), text)
            }).collect();
            prop_assert_eq!(heard(&stream), expected);
        }

        /// Events are JSON, which has no line break outside of its strings and none inside: it comes back as it was.
        #[test]
        fn any_json_comes_back_byte_for_byte(text: String) {
            let json = serde_json::to_string(&text).unwrap();
            let bytes = event("1", "spoke", json.as_bytes());
            let heard = heard(std::str::from_utf8(&bytes).unwrap());
            prop_assert_eq!(&heard[0].2, &json);
            prop_assert_eq!(serde_json::from_str::<String>(&heard[0].2).unwrap(), text);
        }
    }
}
