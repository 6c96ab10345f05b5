//! PURE: an event stream's bytes as frames, and where to go on after a cut.
//!
//! Invariant: over any number of cuts, frames with an id are given out once each and in
//! order: ids are offsets, which sort as text.

/// Longest frame; a chunk of reply is far below, so more is not an event stream of ours.
const FRAME_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) id: Option<String>,
    pub(super) event: String,
    pub(super) data: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event stream: a frame without an end")]
pub(super) struct Endless;

/// Puts frames together from pieces cut anywhere, also inside a character.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed right after it ends no second line.
    after_cr: bool,
    begun: bool,
    id: Option<String>,
    event: String,
    data: Option<String>,
    bytes: usize,
}

impl Parser {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, Endless> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let is_second_half = byte == b'\n' && std::mem::take(&mut self.after_cr);
            if is_second_half {
                continue;
            }
            self.after_cr = byte == b'\r';
            if byte == b'\r' || byte == b'\n' {
                frames.extend(self.take_line());
                continue;
            }
            self.bytes += 1;
            if self.bytes > FRAME_BYTES_MAX {
                return Err(Endless);
            }
            self.line.push(byte);
        }
        Ok(frames)
    }

    fn take_line(&mut self) -> Option<Frame> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if self.begun {
            &line
        } else {
            line.trim_start_matches('\u{feff}')
        };
        self.begun = true;
        if line.is_empty() {
            self.bytes = 0;
            let event = std::mem::take(&mut self.event);
            let id = self.id.take();
            return self.data.take().map(|data| Frame { id, event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "event" => self.event = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Comments keep the connection open; `retry` is ours to decide.
            _ => {}
        }
        None
    }
}

/// How far a stream was read, over all its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    last: Option<String>,
}

impl Place {
    pub(super) fn after(offset: impl Into<String>) -> Self {
        Self {
            last: Some(offset.into()).filter(|offset| offset != "-1"),
        }
    }

    /// Where the next connection goes on, if anything was read.
    pub(super) fn offset(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Whether a frame is new. A repeated one is not, whoever repeats it.
    pub(super) fn take(&mut self, frame: &Frame) -> bool {
        let Some(id) = &frame.id else {
            return true;
        };
        if self.last.as_ref().is_some_and(|last| id <= last) {
            return false;
        }
        self.last = Some(id.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: Option<&str>, event: &str, data: &str) -> Frame {
        Frame {
            id: id.map(Into::into),
            event: event.into(),
            data: data.into(),
        }
    }

    #[test]
    fn frames_come_out_the_same_however_the_bytes_are_cut() {
        let text = "\u{feff}: hello\n\nid: 1\nevent: spoke\ndata: {\"text\":\"é\"}\n\nretry: 5\r\n\
                    data:a\r\ndata\rdata:  b\r\r\n\nevent: lost\n\ndata: cut";
        let expect = [
            frame(Some("1"), "spoke", "{\"text\":\"é\"}"),
            frame(None, "", "a\n\n b"),
        ];
        for size in 1..=text.len() {
            let mut parser = Parser::default();
            let frames: Vec<Frame> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| parser.push(chunk).unwrap())
                .collect();
            assert_eq!(frames, expect, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_without_an_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; FRAME_BYTES_MAX + 1]), Err(Endless));
    }

    #[test]
    fn after_a_cut_no_frame_is_lost_or_repeated() {
        let all: Vec<Frame> = (1..=9)
            .map(|n| frame(Some(&format!("{n:016}_0")), "spoke", &n.to_string()))
            .collect();
        for cut in 0..=all.len() {
            for overlap in 0..=cut {
                let mut place = Place::after("-1");
                let first = &all[..cut];
                // A server that goes on too early must not make words appear twice.
                let second = &all[cut - overlap..];
                let seen: Vec<&Frame> = first
                    .iter()
                    .chain(second)
                    .filter(|frame| place.take(frame))
                    .collect();
                assert_eq!(seen, all.iter().collect::<Vec<_>>());
                assert_eq!(place.offset(), Some("0000000000000009_0"));
            }
        }
    }
}
