//! Answers of Durable Streams: their headers, and cursors that keep caches from answering each other.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::source::Source;
use crate::clock::Time;
use crate::id::{Offset, Seq};
use crate::streams::{Batch, Expiry, array};

pub(super) const NEXT_OFFSET: &str = "stream-next-offset";
pub(super) const CLOSED: &str = "stream-closed";
pub(super) const UP_TO_DATE: &str = "stream-up-to-date";
pub(super) const CURSOR: &str = "stream-cursor";
pub(super) const ENCODING: &str = "stream-sse-data-encoding";

/// Cursors count from here, in steps of this length: 2024-10-09, by the protocol.
const CURSOR_EPOCH_MS: u64 = 1_728_432_000_000;
const CURSOR_STEP_MS: u64 = 20_000;

/// A client whose cursor is not behind is sent at most an hour ahead.
const JITTER_S_MAX: u64 = 3_600;

/// The cursor of an answer: the time in steps, or after the client's own, if that is not behind: by a jump that
/// `random` decides, so that clients of one cache spread.
pub(super) fn cursor(now: Time, own: Option<u64>, random: u16) -> u64 {
    let current = now.0.saturating_sub(CURSOR_EPOCH_MS) / CURSOR_STEP_MS;
    match own {
        Some(own) if own >= current => {
            let seconds = u64::from(random) % JITTER_S_MAX + 1;
            own.saturating_add(seconds.div_ceil(CURSOR_STEP_MS / 1000).max(1))
        }
        _ => current,
    }
}

/// Headers of an answer, by name.
pub(super) struct Heads(HeaderMap);

impl Heads {
    pub(super) fn new() -> Self {
        Self(HeaderMap::new())
    }

    /// With a text of visible ASCII, or that came in a header.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value);
        debug_assert!(value.is_ok(), "{name}");
        if let Ok(value) = value {
            self.0.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(super) fn with_if(self, wanted: bool, name: &'static str, value: &str) -> Self {
        match wanted {
            true => self.with(name, value),
            false => self,
        }
    }

    /// Where reading goes on, and whether there is nothing more after that now, and ever.
    pub(super) fn place(self, next: Seq, up_to_date: bool, closed: bool) -> Self {
        self.with(NEXT_OFFSET, &Offset(next).to_string())
            .with_if(up_to_date, UP_TO_DATE, "true")
            .with_if(closed, CLOSED, "true")
    }

    /// When the stream ends by itself.
    pub(super) fn expiry(self, expiry: Option<Expiry>) -> Self {
        match expiry {
            None => self,
            Some(Expiry::Ttl(seconds)) => self.with("stream-ttl", &seconds.to_string()),
            Some(Expiry::At(time)) => self.with("stream-expires-at", &time.to_rfc3339()),
        }
    }

    pub(super) fn answer(self, status: StatusCode, body: impl Into<Body>) -> Response {
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        response.headers_mut().extend(self.0);
        response
    }
}

/// What was read, as a body.
pub(super) fn body(source: &Source, batch: &Batch) -> Bytes {
    match (source.is_json(), &batch.pieces[..]) {
        (true, pieces) => array(pieces),
        (false, [only]) => only.clone(),
        (false, pieces) => pieces.concat().into(),
    }
}

/// Changes with what is read: the place, how far it goes, and the end.
pub(super) fn tag(source: &Source, after: Seq, batch: &Batch) -> String {
    let closed = if batch.closed { ":c" } else { "" };
    format!("\"{}:{after}:{}{closed}\"", source.id(), batch.at)
}

/// Whether the client has what a tag stands for.
pub(super) fn has(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = values.flat_map(|value| value.to_str().unwrap_or_default().split(','));
    tags.any(|own| {
        let own = own.trim();
        own == "*" || own.strip_prefix("W/").unwrap_or(own) == tag
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_counts_steps_of_time() {
        let now = Time(CURSOR_EPOCH_MS + 7 * CURSOR_STEP_MS + 1);
        assert_eq!(cursor(now, None, 9), 7);
        assert_eq!(cursor(now, Some(6), 9), 7);
        assert_eq!(cursor(now, Some(7), 0), 8);
        assert_eq!(cursor(now, Some(7), 20), 7 + 2);
        assert_eq!(cursor(Time(0), None, 0), 0);
    }

    proptest! {
        #[test]
        fn a_cursor_that_comes_back_goes_up(now: u64, own in 0..u64::MAX / 2, random: u16) {
            let next = cursor(Time(now), Some(own), random);
            prop_assert!(next > own);
            let ahead = JITTER_S_MAX * 1000 / CURSOR_STEP_MS;
            prop_assert!(next <= own + ahead || next == cursor(Time(now), None, 0));
        }
    }

    #[test]
    fn tags_are_compared_without_their_weakness() {
        let mut headers = HeaderMap::new();
        assert!(!has(&headers, "\"a\""));
        headers.insert("if-none-match", HeaderValue::from_static("\"b\", W/\"a\""));
        assert!(has(&headers, "\"a\"") && has(&headers, "\"b\"") && !has(&headers, "\"c\""));
    }
}
