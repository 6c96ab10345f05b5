//! PURE: a journal's entries, in order, as lines that tell what happened.
//!
//! Beside each entry stands what follows from those before it: how long a turn, a call or
//! a lock took, who waited for whom, where nothing happened for long, what is left open.
//! Time comes from the entries alone, so the same journal is the same lines for ever.
//!
//! Words that a turn says one after another are one line, at the place of the last; pieces
//! of a model's answer are no lines but counted in the line of their call.

use antiphon::clock::Time;

use super::super::event::Event;
use super::fields::Entry;
use super::open::{Open, since};
use super::tell::join;

/// A pause that a person notices while reading; those of thinking and typing are shorter.
const SILENCE_MS: u64 = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Line {
    /// The first of a day.
    Day(Time),
    /// Nothing happened for so long.
    Silence {
        ms: u64,
        lanes: String,
        waits: String,
    },
    Entry(Shown),
    /// Above what is left open.
    LeftOpen,
    Left(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shown {
    pub(super) seq: String,
    pub(super) time: Option<Time>,
    pub(super) lanes: String,
    pub(super) who: String,
    pub(super) kind: String,
    /// Of a kind that is not known here: its name is all there is to say.
    pub(super) is_new: bool,
    pub(super) text: String,
    /// For who asks for everything: the private part.
    pub(super) private: String,
    pub(super) tone: Tone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// What people sent and were shown, and what became of it.
    Plain,
    /// What an agent did meanwhile.
    Quiet,
    Bad,
}

#[derive(Debug, Default)]
pub(super) struct Story {
    open: Open,
    last: Option<Time>,
    day: Option<u64>,
    /// Words of one turn, to which its next may be added.
    breath: Option<(String, Shown)>,
}

impl Story {
    /// The lines that can be said now.
    pub(super) fn next(&mut self, event: &Event) -> Vec<Line> {
        let mut entry = Entry::of(event);
        let mut lines = self.time_passes(entry.time);
        let Some(told) = self.open.tell(&mut entry) else {
            return lines;
        };
        let lanes = self.open.draw(told.turn.as_deref(), told.mark);
        let mut text = told.text;
        let rest = entry.fields.rest();
        if !rest.is_empty() {
            text = join(&[text, rest], "  ");
        }
        let shown = Shown {
            seq: entry.seq,
            time: entry.time,
            lanes,
            who: told.who,
            kind: entry.kind,
            is_new: told.is_new,
            text,
            private: entry.private.rest(),
            tone: told.tone,
        };
        if shown.kind == "spoke"
            && let Some(turn) = &told.turn
        {
            lines.extend(self.speak(turn, shown));
            return lines;
        }
        lines.extend(self.breathe());
        if told.mark == '└'
            && let Some(turn) = &told.turn
        {
            // After its last line is drawn, and with what it did not free itself.
            self.open.end(turn, entry.time);
        }
        lines.push(Line::Entry(shown));
        lines
    }

    /// What is held back, because whoever reads should not wait for what comes next.
    pub(super) fn breathe(&mut self) -> Vec<Line> {
        let line = self.breath.take().map(|(_, shown)| Line::Entry(shown));
        line.into_iter().collect()
    }

    /// The end of the journal as it is now.
    pub(super) fn finish(mut self) -> Vec<Line> {
        let mut lines = self.breathe();
        let left = self.open.left_open();
        if !left.is_empty() {
            lines.push(Line::LeftOpen);
        }
        lines.extend(left.into_iter().map(Line::Left));
        lines
    }

    fn time_passes(&mut self, time: Option<Time>) -> Vec<Line> {
        let mut lines = Vec::new();
        let silent = since(self.last, time).filter(|ms| *ms >= SILENCE_MS);
        if let Some(ms) = silent {
            lines.extend(self.breathe());
            lines.push(Line::Silence {
                ms,
                lanes: self.open.draw(None, ' '),
                waits: self.open.at_work(),
            });
        }
        if let Some(time) = time {
            let day = time.0 / 86_400_000;
            if self.day != Some(day) {
                lines.extend(self.breathe());
                lines.push(Line::Day(time));
                self.day = Some(day);
            }
            self.last = Some(time);
        }
        lines
    }

    fn speak(&mut self, turn: &str, shown: Shown) -> Vec<Line> {
        if let Some((speaker, breath)) = &mut self.breath
            && speaker == turn
        {
            breath.text.push_str(&shown.text);
            breath.seq = shown.seq;
            return Vec::new();
        }
        let lines = self.breathe();
        self.breath = Some((turn.to_owned(), shown));
        lines
    }
}
