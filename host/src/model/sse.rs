//! Server-sent events, as far as model providers use them. Pure.
//!
//! Owns the way from bytes, cut anywhere, to the `data` of events. Names, ids and
//! retry times of events are skipped: no provider says anything in them.
//!
//! Invariant: how the bytes are cut never changes the events. At most
//! `event_bytes_max` bytes are held, plus one piece as it came from the network.

/// An event is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

pub(super) struct Parser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the event that has not ended yet, each with a newline after it.
    data: Vec<u8>,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    /// No line has ended yet, so the next one may begin with a byte order mark.
    first_line: bool,
    event_bytes_max: usize,
}

impl Parser {
    pub(super) fn new(event_bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            after_cr: false,
            first_line: true,
            event_bytes_max,
        }
    }

    /// Take bytes; `event` gets the data of each event that they end.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        event: &mut impl FnMut(&str),
    ) -> Result<(), TooLong> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                return self.extend_line(bytes);
            };
            self.extend_line(&bytes[..end])?;
            self.after_cr = bytes[end] == b'\r';
            self.end_line(event);
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The data of an event that the end of the stream left without its blank line.
    /// It may be cut: whoever uses it must be able to tell.
    pub(super) fn rest(mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.end_line(&mut |_| {});
        }
        take_event(&mut self.data)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + bytes.len() > self.event_bytes_max {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, event: &mut impl FnMut(&str)) {
        let mut line = self.line.as_slice();
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            if let Some(data) = take_event(&mut self.data) {
                event(&data);
            }
        } else if let Some(value) = line.strip_prefix(b"data") {
            // `data` alone is an empty line of data; `database: x` is another field.
            if let Some(value) = value.strip_prefix(b":") {
                self.data
                    .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
                self.data.push(b'\n');
            } else if value.is_empty() {
                self.data.push(b'\n');
            }
        }
        self.line.clear();
    }
}

fn take_event(data: &mut Vec<u8>) -> Option<String> {
    // The newline after the last line is not part of the data.
    data.pop()?;
    let text = String::from_utf8_lossy(data).into_owned();
    data.clear();
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pieces: &[&[u8]], event_bytes_max: usize) -> (Vec<String>, bool, Option<String>) {
        let mut parser = Parser::new(event_bytes_max);
        let mut events = Vec::new();
        for piece in pieces {
            if parser
                .feed(piece, &mut |data| events.push(data.to_owned()))
                .is_err()
            {
                return (events, true, None);
            }
        }
        (events, false, parser.rest())
    }

    #[test]
    fn events_are_found() {
        for (bytes, events, rest) in [
            ("data: a\n\n", &["a"] as &[_], None),
            ("data:a\n\ndata:  b\n\n", &["a", " b"], None),
            (
                "data: a\r\n\r\ndata: b\r\rdata: c\n\r\n",
                &["a", "b", "c"],
                None,
            ),
            ("data: a\ndata: b\ndata\n\n", &["a\nb\n"], None),
            (": keep-alive\n\nevent: x\nid: 7\ndata: a\n\n", &["a"], None),
            ("event: only\n\ndatabase: a\n\n\n\n", &[], None),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &["a"], None),
            ("data: \n\n", &[""], None),
            ("data: a\n\ndata: b", &["a"], Some("b")),
            ("data: a\n\ndata: b\n", &["a"], Some("b")),
            ("data: ü\n\n", &["ü"], None),
        ] {
            let (found, too_long, left) = parse(&[bytes.as_bytes()], 100);
            assert_eq!(found, events, "{bytes:?}");
            assert_eq!((too_long, left.as_deref()), (false, rest), "{bytes:?}");
        }
    }

    #[test]
    fn an_event_is_bounded_over_its_lines() {
        let (events, too_long, _) = parse(&[b"data: 1\n\ndata: 23456\n\n"], 10);
        assert_eq!((events.len(), too_long), (1, true));
        let (events, too_long, _) = parse(&[b"data: 1\n\ndata: 2\ndata: 3\n\n"], 8);
        assert_eq!((events.len(), too_long), (1, true));
        let (events, too_long, _) = parse(&[b"data: 1\n\ndata: 2\n\n"], 7);
        assert_eq!((events.len(), too_long), (2, false));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            lines in prop::collection::vec(
                prop::sample::select(vec![
                    "data: a", "data:ü€", "data", ": comment", "event: x", "", "", "\u{feff}data: b",
                ]),
                0..20,
            ),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n"]), 20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            event_bytes_max in 5..40usize,
        ) {
            let text: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(parse(&pieces, event_bytes_max), parse(&[bytes], event_bytes_max));
        }
    }
}
