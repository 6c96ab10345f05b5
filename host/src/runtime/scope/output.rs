//! What a turn prints: lines for the log, and the end of standard error for its failure.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::logs::{Line, Source};

use super::Scope;

/// Bytes of standard error kept for whoever looks at a failed turn.
const STDERR_BYTES_MAX: usize = 4 * 1024;
/// Bytes a turn may print before its output is closed to it.
const PRINTED_BYTES_MAX: u64 = 1024 * 1024;

impl Scope {
    pub(in crate::runtime) fn may_print(&self) -> bool {
        self.output.printed.load(Ordering::Relaxed) < PRINTED_BYTES_MAX
    }

    /// Take in what the guest wrote to its standard output or error.
    pub(in crate::runtime) fn printed(&self, source: Source, bytes: &[u8]) {
        let before = self
            .output
            .printed
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before >= PRINTED_BYTES_MAX {
            return;
        }
        for text in self.output.take_in(source, bytes) {
            self.log(source, None, text, Vec::new());
        }
    }

    /// Lines that were begun and not ended, when the turn is over.
    pub(in crate::runtime) fn print_rest(&self) {
        for (source, text) in self.output.take_rest() {
            self.log(source, None, text, Vec::new());
        }
    }

    pub(in crate::runtime) fn log(
        &self,
        source: Source,
        level: Option<&'static str>,
        text: String,
        fields: Vec<(String, String)>,
    ) {
        if self.output.was_told() {
            return;
        }
        let line = Line {
            number: 0,
            time: self.ledger.clock().now(),
            session: self.session.clone(),
            turn: self.turn.clone(),
            source,
            level,
            text,
            fields,
        };
        self.logs.push(&self.tenant, &self.agent, line);
    }
}

/// What the turn printed: lines being written, and the end of standard error.
#[derive(Debug, Default)]
pub struct TurnOutput {
    printed: AtomicU64,
    text: Mutex<OutputText>,
    /// Lines so far, and how many of them an instance before this one told: they come again, and are not told again.
    lines: AtomicU64,
    told: u64,
}

#[derive(Debug, Default)]
struct OutputText {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    stderr_end: VecDeque<u8>,
}

impl TurnOutput {
    /// Of an instance that comes after one which told so many lines.
    pub(super) fn after(told: u64) -> Self {
        Self {
            told,
            ..Self::default()
        }
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Whether the next line was told by an instance before this one.
    fn was_told(&self) -> bool {
        self.lines.fetch_add(1, Ordering::Relaxed) < self.told
    }

    /// The last 4 KiB of standard error.
    pub fn stderr_end(&self) -> Option<String> {
        let text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let bytes: Vec<u8> = text.stderr_end.iter().copied().collect();
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn take_in(&self, source: Source, bytes: &[u8]) -> Vec<String> {
        let mut text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if source == Source::Stderr {
            text.stderr_end.extend(bytes);
            let surplus = text.stderr_end.len().saturating_sub(STDERR_BYTES_MAX);
            text.stderr_end.drain(..surplus);
        }
        let begun = if source == Source::Stderr {
            &mut text.stderr
        } else {
            &mut text.stdout
        };
        begun.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = begun.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        lines
    }

    fn take_rest(&self) -> Vec<(Source, String)> {
        let mut text = self
            .text
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let stdout = std::mem::take(&mut text.stdout);
        let stderr = std::mem::take(&mut text.stderr);
        [(Source::Stdout, stdout), (Source::Stderr, stderr)]
            .into_iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(source, bytes)| (source, String::from_utf8_lossy(&bytes).into_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_and_the_end_of_stderr_is_kept() {
        let output = TurnOutput::default();
        assert_eq!(output.take_in(Source::Stdout, b"one\ntw"), ["one"]);
        assert_eq!(output.take_in(Source::Stdout, b"o\n\nthree"), ["two", ""]);
        assert_eq!(output.stderr_end(), None);
        output.take_in(Source::Stderr, &[b'x'; STDERR_BYTES_MAX]);
        output.take_in(Source::Stderr, b"end");
        let end = output.stderr_end().unwrap();
        assert_eq!(end.len(), STDERR_BYTES_MAX);
        assert!(end.ends_with("xend"));
        assert_eq!(output.take_rest()[0], (Source::Stdout, "three".into()));
    }
}
