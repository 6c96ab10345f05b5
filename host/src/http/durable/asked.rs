//! What a request of Durable Streams asks for, by its headers and query. Pure: text in, values or an error out.

use http::{HeaderMap, header};

use crate::clock::Time;
use crate::http::error::{ApiError, ApiResult};
use crate::id::{Offset, Seq};
use crate::streams::{Expiry, Fork, LABEL_BYTES_MAX, StreamPath, TYPE_BYTES_MAX, Tag};

/// The largest number that every client can count to.
const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Where a reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    After(Seq),
    /// At the end, whatever that is.
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    LongPoll,
    Sse,
}

/// The query of a reading. What it does not know is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) start: Option<Start>,
    pub(super) live: Option<Live>,
    pub(super) cursor: Option<u64>,
}

impl Reading {
    pub(super) fn parse(query: Option<&str>) -> ApiResult<Self> {
        let mut reading = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "offset" if reading.start.is_some() => {
                    let message = "`offset` is there more than once";
                    return Err(ApiError::bad("offset_malformed", message));
                }
                "offset" if value == "now" => reading.start = Some(Start::Now),
                "offset" => {
                    let Offset(seq) = value.parse()?;
                    reading.start = Some(Start::After(seq));
                }
                "live" => reading.live = Some(live(&value)?),
                // One that was not made here collides with none of ours.
                "cursor" => reading.cursor = value.parse().ok(),
                _ => {}
            }
        }
        if reading.live.is_some() && reading.start.is_none() {
            let message =
                "who follows a stream says from which `offset`: `-1` is its start, `now` its end";
            return Err(ApiError::bad("offset_malformed", message));
        }
        Ok(reading)
    }
}

fn live(value: &str) -> ApiResult<Live> {
    match value {
        "long-poll" => Ok(Live::LongPoll),
        "sse" => Ok(Live::Sse),
        _ => {
            let message = "`live` is `sse` or `long-poll`";
            Err(ApiError::bad("invalid_live", message))
        }
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad("invalid_header", message)
}

/// A header's text; none if it is not there.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> ApiResult<Option<&'a str>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str();
    text.map(Some)
        .map_err(|_| invalid(format!("`{name}` is not visible ASCII")))
}

pub(super) fn closes(headers: &HeaderMap) -> bool {
    headers
        .get("stream-closed")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

pub(super) fn content_type(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let kind = text(headers, header::CONTENT_TYPE.as_str())?;
    let Some(kind) = kind.map(str::trim).filter(|kind| !kind.is_empty()) else {
        return Ok(None);
    };
    if kind.len() > TYPE_BYTES_MAX {
        let message = format!("`content-type` has {TYPE_BYTES_MAX} bytes at most");
        return Err(invalid(message));
    }
    Ok(Some(kind.to_owned()))
}

/// A whole number as the protocol writes it: digits, no zero before others.
fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_digits && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

pub(super) fn expiry(headers: &HeaderMap) -> ApiResult<Option<Expiry>> {
    let ttl = text(headers, "stream-ttl")?;
    let at = text(headers, "stream-expires-at")?;
    match (ttl, at) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid(
            "`Stream-TTL` and `Stream-Expires-At` exclude each other",
        )),
        (Some(ttl), None) => match number(ttl) {
            Some(seconds) => Ok(Some(Expiry::Ttl(seconds))),
            None => Err(invalid("`Stream-TTL` is a whole number of seconds")),
        },
        (None, Some(at)) => match instant(at) {
            Some(time) => Ok(Some(Expiry::At(time))),
            None => Err(invalid("`Stream-Expires-At` is a time by RFC 3339")),
        },
    }
}

/// A time by RFC 3339, with any offset from UTC.
fn instant(text: &str) -> Option<Time> {
    if !text.is_ascii() {
        return None;
    }
    let (local, minutes_east) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            let (hours, minutes) = offset[1..].split_once(':')?;
            let of = |digits: &str| {
                digits
                    .bytes()
                    .all(|it| it.is_ascii_digit())
                    .then(|| digits.parse::<i64>().ok())?
            };
            let (hours, minutes) = (of(hours)?, of(minutes)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            match &offset[..1] {
                "+" => (local, hours * 60 + minutes),
                "-" => (local, -(hours * 60 + minutes)),
                _ => return None,
            }
        }
    };
    let at = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let ms = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
    let ms = i64::try_from(ms).ok()?.checked_sub(minutes_east * 60_000)?;
    u64::try_from(ms).ok().map(Time)
}

/// What an idempotent producer says of its request: all three headers, or none.
pub(super) fn producer(headers: &HeaderMap) -> ApiResult<Option<Tag>> {
    let id = text(headers, "producer-id")?;
    let epoch = text(headers, "producer-epoch")?;
    let seq = text(headers, "producer-seq")?;
    let (id, epoch, seq) = match (id, epoch, seq) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(seq)) => (id, epoch, seq),
        _ => {
            let message = "`Producer-Id`, `Producer-Epoch` and `Producer-Seq` come together";
            return Err(invalid(message));
        }
    };
    if !(1..=LABEL_BYTES_MAX).contains(&id.len()) {
        let message = format!("`Producer-Id` has 1 to {LABEL_BYTES_MAX} characters");
        return Err(invalid(message));
    }
    let count = |text: &str| {
        let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let count = text.parse().ok().filter(|n| is_digits && *n <= INTEGER_MAX);
        count.ok_or_else(|| invalid(format!("a producer's numbers are 0 to {INTEGER_MAX}")))
    };
    Ok(Some(Tag {
        id: id.to_owned(),
        epoch: count(epoch)?,
        seq: count(seq)?,
    }))
}

pub(super) fn order(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let order = text(headers, "stream-seq")?;
    if order.is_some_and(|order| order.len() > LABEL_BYTES_MAX) {
        let message = format!("`Stream-Seq` has {LABEL_BYTES_MAX} characters at most");
        return Err(invalid(message));
    }
    Ok(order.map(str::to_owned))
}

pub(super) fn fork(headers: &HeaderMap) -> ApiResult<Option<Fork>> {
    let sub_offset = match text(headers, "stream-fork-sub-offset")? {
        None => None,
        Some(text) => Some(
            number(text).ok_or_else(|| invalid("`Stream-Fork-Sub-Offset` is a whole number"))?,
        ),
    };
    let at = text(headers, "stream-fork-offset")?;
    let Some(source) = text(headers, "stream-forked-from")? else {
        return match sub_offset.is_some() || at.is_some() {
            true => Err(invalid("a fork names its source in `Stream-Forked-From`")),
            false => Ok(None),
        };
    };
    let at = match at {
        None | Some("now") => None,
        Some(text) => {
            let Offset(seq) = text.parse()?;
            Some(seq)
        }
    };
    let sub_offset = sub_offset.unwrap_or(0);
    if sub_offset > 0 && at.is_none() {
        let message = "`Stream-Fork-Sub-Offset` counts from a `Stream-Fork-Offset`";
        return Err(invalid(message));
    }
    // The path of its URL, or what of that follows the streams' root.
    let path = source.strip_prefix("/v1/stream/").unwrap_or(source);
    let path = percent_encoding::percent_decode_str(path).decode_utf8();
    let path = path.map_err(|_| invalid("`Stream-Forked-From` is not UTF-8"))?;
    Ok(Some(Fork {
        source: StreamPath::new(&path)?,
        at,
        sub_offset,
    }))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers(of: &[(&str, &str)]) -> HeaderMap {
        let of = of.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        of.collect()
    }

    #[test]
    fn times_come_with_any_offset() {
        let ms = Some(Time(1_700_000_000_000));
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:20.000z",
            "2023-11-14T23:13:20+01:00",
            "2023-11-14T16:43:20-05:30",
        ] {
            assert_eq!(instant(text), ms, "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14T22:13:20+99:00",
            "é2023-11-14T22:13:20Z",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn a_ttl_is_a_plain_number_and_excludes_a_time() {
        assert_eq!(
            expiry(&headers(&[("stream-ttl", "0")])).unwrap(),
            Some(Expiry::Ttl(0))
        );
        assert_eq!(
            expiry(&headers(&[("stream-ttl", "3600")])).unwrap(),
            Some(Expiry::Ttl(3600))
        );
        for bad in [
            "",
            "01",
            "+1",
            "-1",
            "1.5",
            "1e3",
            "99999999999999999999999",
        ] {
            assert!(expiry(&headers(&[("stream-ttl", bad)])).is_err(), "{bad}");
        }
        let both = [
            ("stream-ttl", "1"),
            ("stream-expires-at", "2023-11-14T22:13:20Z"),
        ];
        assert!(expiry(&headers(&both)).is_err());
    }

    #[test]
    fn a_producer_says_all_or_nothing() {
        let all = [
            ("producer-id", "p"),
            ("producer-epoch", "0"),
            ("producer-seq", "9007199254740991"),
        ];
        assert_eq!(producer(&headers(&all)).unwrap().unwrap().seq, INTEGER_MAX);
        assert_eq!(producer(&headers(&[])).unwrap(), None);
        for left_out in 0..3 {
            let some: Vec<_> = (0..3).filter(|n| *n != left_out).map(|n| all[n]).collect();
            assert!(producer(&headers(&some)).is_err());
        }
        for (at, bad) in [
            (0, ""),
            (1, "x"),
            (2, "9007199254740992"),
            (2, "-1"),
            (0, &*"p".repeat(257)),
        ] {
            let mut wrong = all;
            wrong[at].1 = bad;
            assert!(producer(&headers(&wrong)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_and_a_type_have_their_length() {
        let long = "9".repeat(LABEL_BYTES_MAX + 1);
        assert!(order(&headers(&[("stream-seq", &long)])).is_err());
        assert!(order(&headers(&[("stream-seq", &long[1..])])).is_ok());
        let long = format!("text/{}", "x".repeat(TYPE_BYTES_MAX - 4));
        assert!(content_type(&headers(&[("content-type", &long)])).is_err());
        assert!(content_type(&headers(&[("content-type", &long[..TYPE_BYTES_MAX])])).is_ok());
    }

    #[test]
    fn a_reading_knows_where_it_starts() {
        let of = |query| Reading::parse(Some(query));
        assert_eq!(of("offset=-1").unwrap().start, Some(Start::After(Seq(0))));
        assert_eq!(of("offset=now&x=y").unwrap().start, Some(Start::Now));
        assert_eq!(of("cursor=x").unwrap(), Reading::default());
        for bad in [
            "offset=",
            "offset=-1&offset=-1",
            "live=sse",
            "live=x&offset=now",
            "offset=1",
            "offset=a,b",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_query_and_any_header_is_read_or_refused(query: String, value in "[ -~]{0,40}") {
            let _ = Reading::parse(Some(&query));
            for name in ["stream-ttl", "stream-expires-at", "producer-id", "stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset"] {
                let headers = headers(&[(name, &value)]);
                let _ = (expiry(&headers).is_ok(), producer(&headers).is_ok(), fork(&headers).is_ok());
            }
            let _ = instant(&value);
        }
    }
}
