//! PURE: the lines of a story as a terminal shows them.
//!
//! One entry is one line, cut where the terminal ends. Where there is no terminal nothing
//! is cut, and when everything is asked for long texts go on below, in their column.

use antiphon::clock::Time;

use super::super::term::{Paint, Style, Wrap, clock_time, one_line, short, span, tame};
use super::story::{Line, Shown, Tone};

const SEQ: usize = 6;
const TIME: usize = 12;
const WHO: usize = 10;
const KIND: usize = 19;

/// From this width on kinds have a column of their own; before, words need the room, and
/// they say it too.
const WIDE: usize = 120;

/// What must be left for words, however narrow the terminal says it is.
const WORDS_MIN: usize = 24;

#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Table {
    paint: Paint,
    /// None if lines have no end.
    width: Option<usize>,
    /// Texts and private parts whole.
    full: bool,
}

impl Table {
    pub(in super::super) fn new(paint: Paint, width: Option<usize>, full: bool) -> Self {
        Self { paint, width, full }
    }

    pub(super) fn text(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| self.line(line)).collect()
    }

    fn line(&self, line: &Line) -> String {
        match line {
            Line::Day(time) => {
                let day = format!("{:>SEQ$}  {} UTC", "", day(*time));
                format!("{}\n", self.paint.paint(Style::Strong, &day))
            }
            Line::Silence { ms, lanes, waits } => {
                let mut text = format!("··· {} of silence", span(*ms));
                if !waits.is_empty() {
                    text.push_str(&format!("; {waits}"));
                }
                let text = self.cut(&text, self.margin(lanes));
                let line = format!("{:>SEQ$}  {:TIME$}  {lanes} {text}", "", "");
                format!("{}\n", self.paint.paint(Style::Dim, line.trim_end()))
            }
            Line::LeftOpen => {
                let head = format!("{:>SEQ$}  still open", "");
                format!("{}\n", self.paint.paint(Style::Strong, &head))
            }
            Line::Left(text) => format!("{:>SEQ$}  {}\n", "", self.cut(text, SEQ + 2)),
            Line::Entry(shown) => self.entry(shown),
        }
    }

    fn entry(&self, shown: &Shown) -> String {
        let time = shown.time.map(clock_time).unwrap_or_default();
        let who = format!("{:<WHO$}", short(&shown.who, WHO));
        let kind = short(&shown.kind, KIND);
        let kind = match self.width {
            Some(width) if width < WIDE && !shown.is_new => String::new(),
            Some(width) if width < WIDE => format!("{kind}  "),
            _ => format!("{kind:<KIND$} "),
        };
        let mut line = format!("{:>SEQ$}  {time:TIME$}", shown.seq);
        line = self.paint.paint(Style::Dim, &line);
        line.push_str(&format!(
            "  {} {} {}",
            self.paint.paint(Style::Dim, &shown.lanes),
            self.paint.paint(Style::Name, &who),
            self.paint.paint(Style::Dim, &kind),
        ));
        let indent = self.margin(&shown.lanes) + WHO + 1 + kind.chars().count();
        let style = match shown.tone {
            Tone::Plain => None,
            Tone::Quiet => Some(Style::Dim),
            Tone::Bad => Some(Style::Bad),
        };
        let text = match self.full {
            true => self.whole(&shown.text, indent),
            false => self.cut(&shown.text, indent),
        };
        line.push_str(&match style {
            Some(style) => self.paint.paint(style, &text),
            None => text,
        });
        line.truncate(line.trim_end().len());
        line.push('\n');
        if self.full && !shown.private.is_empty() {
            let margin = self.margin(&shown.lanes) + 2;
            let private = self.whole(&format!("private {}", shown.private), margin);
            let private = self.paint.paint(Style::Dim, &private);
            line.push_str(&format!("{:margin$}{private}\n", ""));
        }
        line
    }

    /// Columns before the name.
    fn margin(&self, lanes: &str) -> usize {
        SEQ + 2 + TIME + 2 + lanes.chars().count() + 1
    }

    fn cut(&self, text: &str, indent: usize) -> String {
        match self.width {
            Some(width) => short(text, width.saturating_sub(indent).max(WORDS_MIN)),
            None => one_line(text),
        }
    }

    fn whole(&self, text: &str, indent: usize) -> String {
        let Some(width) = self.width else {
            return one_line(text);
        };
        let mut wrap = Wrap::new(indent, width.max(indent + WORDS_MIN));
        let mut whole = wrap.push(&tame(text));
        whole.push_str(&wrap.finish());
        whole
    }
}

fn day(time: Time) -> String {
    time.to_rfc3339().chars().take(10).collect()
}
