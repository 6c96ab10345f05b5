//! The terminal: colour where there is one, and text in columns.

use std::io::{IsTerminal, Write};

use antiphon::clock::Time;

/// What a piece of text is; the colours follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Strong,
    Dim,
    /// A person or an agent that speaks.
    Name,
    Good,
    Bad,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && Self::is_wanted())
    }

    pub(super) fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && Self::is_wanted())
    }

    #[cfg(test)]
    pub(super) fn off() -> Self {
        Self(false)
    }

    fn is_wanted() -> bool {
        // https://no-color.org: set and not empty.
        std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
    }

    pub(super) fn is_on(self) -> bool {
        self.0
    }

    pub(super) fn paint(self, style: Style, text: &str) -> String {
        if !self.0 || text.is_empty() {
            return text.to_owned();
        }
        let code = match style {
            Style::Strong => "1",
            Style::Dim => "2",
            Style::Name => "36",
            Style::Good => "32",
            Style::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Write to stdout at once. A closed pipe is an error that ends the command quietly.
pub(super) fn out(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// How wide stdout is; none if it is no terminal, where lines have no end.
pub(super) fn width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    // A terminal that does not say is as wide as terminals have always been.
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| size.ws_col);
    Some(if columns == 0 { 80 } else { columns.into() })
}

/// Text of others for the terminal: without control characters, which could move the
/// cursor or rename the window. Line breaks and tabs stay.
pub(super) fn tame(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// All of a text on one line.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    tame(&words.join(" "))
}

/// A text cut to so many characters, on one line.
pub(super) fn short(text: &str, chars_max: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= chars_max {
        return text;
    }
    let mut cut: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    cut.truncate(cut.trim_end().len());
    cut.push('…');
    cut
}

pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count.div_ceil(1024)),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// A duration in at most two units.
pub(super) fn span(ms: u64) -> String {
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{large} {unit}"),
        small => format!("{large} {unit} {small} {part}"),
    };
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..MINUTE => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        MINUTE..HOUR => two(ms / MINUTE, "min", ms % MINUTE / 1_000, "s"),
        HOUR..DAY => two(ms / HOUR, "h", ms % HOUR / MINUTE, "min"),
        _ => two(ms / DAY, "d", ms % DAY / HOUR, "h"),
    }
}

/// The time of day, UTC: `09:30:00.125`.
pub(super) fn clock_time(time: Time) -> String {
    let text = time.to_rfc3339();
    text.chars().skip(11).take(12).collect()
}

/// Breaks text into lines of a column while it arrives, word by word.
///
/// A word is held back until its end is seen, so that it is never broken.
#[derive(Debug)]
pub(super) struct Wrap {
    indent: usize,
    width: usize,
    column: usize,
    word: String,
    spaces: usize,
}

impl Wrap {
    /// Lines start at column `indent` and end before `width`. The first line's indent is
    /// whatever the caller has written there.
    pub(super) fn new(indent: usize, width: usize) -> Self {
        Self {
            indent,
            width,
            column: indent,
            word: String::new(),
            spaces: 0,
        }
    }

    pub(super) fn push(&mut self, text: &str) -> String {
        let mut shown = String::new();
        for c in text.chars() {
            match c {
                '\n' => {
                    self.take_word(&mut shown);
                    self.break_line(&mut shown);
                }
                ' ' | '\t' => {
                    self.take_word(&mut shown);
                    self.spaces += 1;
                }
                c => self.word.push(c),
            }
        }
        shown
    }

    /// What was held back.
    pub(super) fn finish(&mut self) -> String {
        let mut shown = String::new();
        self.take_word(&mut shown);
        self.column = self.indent;
        self.spaces = 0;
        shown
    }

    fn take_word(&mut self, shown: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let length = self.word.chars().count();
        if self.column > self.indent && self.column + self.spaces + length > self.width {
            self.break_line(shown);
        }
        shown.extend(std::iter::repeat_n(' ', self.spaces));
        shown.push_str(&self.word);
        self.column += self.spaces + length;
        self.spaces = 0;
        self.word.clear();
    }

    fn break_line(&mut self, shown: &mut String) {
        shown.push('\n');
        shown.extend(std::iter::repeat_n(' ', self.indent));
        self.column = self.indent;
        self.spaces = 0;
    }
}

/// Micro-units as units: `12.345678`, at least with hundredths.
pub(super) fn units(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let zeros = text.bytes().rev().take(4).take_while(|byte| *byte == b'0');
    let shown = text.len() - zeros.count();
    text[..shown].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_the_same_however_it_arrives() {
        let text = "one two three  four\nfive sixsevenheight nine";
        let whole = "one two\n  three\n  four\n  five\n  sixsevenheight\n  nine";
        for size in 1..text.len() {
            let mut wrap = Wrap::new(2, 10);
            let bytes: Vec<&str> = text
                .as_bytes()
                .chunks(size)
                .map(|chunk| std::str::from_utf8(chunk).unwrap())
                .collect();
            let mut shown: String = bytes.iter().map(|chunk| wrap.push(chunk)).collect();
            shown.push_str(&wrap.finish());
            assert_eq!(shown, whole, "in pieces of {size}");
        }
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(tame("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\nc");
        assert_eq!(short("one  two\nthree", 9), "one two…");
        assert_eq!(short("one two", 7), "one two");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let spans = [0, 999, 1_250, 60_000, 192_000, 7_500_000, 273_600_000].map(span);
        let expect = [
            "0 ms",
            "999 ms",
            "1.2 s",
            "1 min",
            "3 min 12 s",
            "2 h 5 min",
            "3 d 4 h",
        ];
        assert_eq!(spans, expect);
        assert_eq!(clock_time(Time(1_795_253_400_125)), "09:30:00.125");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [bytes(5), bytes(1025), bytes(3 << 20)],
            ["5 B", "2 KiB", "3.0 MiB"]
        );
    }

    #[test]
    fn costs_are_whole_units_with_as_many_digits_as_they_have() {
        for (micros, text) in [
            (0, "0.00"),
            (1, "0.000001"),
            (10_000, "0.01"),
            (1_500_000, "1.50"),
            (12_345_670, "12.34567"),
            (u64::MAX, "18446744073709.551615"),
        ] {
            assert_eq!(units(micros), text);
        }
    }
}
