//! PURE: a conversation's events as text for a terminal, while they happen.
//!
//! Words of one turn follow one another with nothing in between; what else happens
//! meanwhile is shown when the speaker has finished. What is shown of a reply is the
//! text of its events, byte for byte but for control characters and line breaks of the
//! column it stands in.

use std::collections::{HashMap, HashSet};

use antiphon::id::{AgentName, TurnId};
use antiphon::journal::entry::{Halt, Outcome, Payload, Reply, SessionChange};

use super::event::{Event, body_text, writer};
use super::term::{Paint, Style, Wrap, bytes, tame};

/// How it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As it is said, with a speaker's name only where there are several.
    Plain,
    /// Names in a column, words in another.
    Columns { indent: usize, width: usize },
}

#[derive(Debug)]
pub(super) struct Voices {
    paint: Paint,
    layout: Layout,
    /// More than one agent takes part, so it is said who speaks.
    several: bool,
    /// Messages written here: they are on the screen already.
    own: HashMap<String, usize>,
    open: Option<TurnId>,
    wrap: Option<Wrap>,
    column_zero: bool,
    later: Vec<String>,
    running: HashMap<TurnId, AgentName>,
    silent: HashSet<TurnId>,
}

impl Voices {
    pub(super) fn new(paint: Paint, layout: Layout, several: bool) -> Self {
        Self {
            paint,
            layout,
            several,
            own: HashMap::new(),
            open: None,
            wrap: None,
            column_zero: true,
            later: Vec::new(),
            running: HashMap::new(),
            silent: HashSet::new(),
        }
    }

    /// A message that was typed here is not shown again.
    pub(super) fn expect_own(&mut self, text: &str) {
        *self.own.entry(text.to_owned()).or_default() += 1;
    }

    /// The agent that speaks or, when none does, one that works.
    pub(super) fn busy(&self) -> Option<&AgentName> {
        self.open
            .as_ref()
            .and_then(|turn| self.running.get(turn))
            .or_else(|| self.running.values().next())
    }

    pub(super) fn is_speaking(&self) -> bool {
        self.open.is_some()
    }

    /// A line that is not part of the conversation.
    pub(super) fn note(&mut self, text: &str) -> String {
        let line = format!(
            "{}\n",
            self.paint.paint(Style::Dim, &format!("· {}", tame(text)))
        );
        if self.open.is_some() {
            self.later.push(line);
            return String::new();
        }
        line
    }

    pub(super) fn event(&mut self, event: &Event) -> String {
        let Some(payload) = &event.payload else {
            return String::new();
        };
        match payload {
            Payload::MessageReceived(message) => {
                let text = body_text(&message.body);
                if let Some(count) = self.own.get_mut(&text).filter(|count| **count > 0) {
                    *count -= 1;
                    return String::new();
                }
                let mut shown = self.close();
                shown.push_str(&self.line(message.author.as_str(), &text));
                shown
            }
            Payload::TurnStarted(turn) => {
                self.running.insert(turn.turn.clone(), turn.agent.clone());
                self.silent.insert(turn.turn.clone());
                String::new()
            }
            Payload::Spoke(spoke) => {
                self.running.insert(spoke.turn.clone(), spoke.agent.clone());
                self.silent.remove(&spoke.turn);
                self.words(&spoke.turn, spoke.agent.as_str(), &spoke.text)
            }
            Payload::TurnEnded(turn) => {
                self.running.remove(&turn.turn);
                let was_silent = self.silent.remove(&turn.turn);
                let mut shown = String::new();
                if self.open.as_ref() == Some(&turn.turn) {
                    shown.push_str(&self.close());
                }
                let detail = turn.error.as_ref().map_or_else(String::new, |error| {
                    format!(" ({}): {}", error.code.name(), error.message)
                });
                match turn.outcome {
                    Outcome::Completed => {}
                    // An agent stopped before its first word leaves no trace but this.
                    Outcome::Interrupted if was_silent => {
                        shown.push_str(&self.note(&format!("{} was interrupted", turn.agent)));
                    }
                    Outcome::Interrupted => shown.push_str(&self.note("interrupted")),
                    outcome => {
                        let text = format!("{} {}{detail}", turn.agent, outcome.name());
                        shown.push_str(&self.note(&text));
                    }
                }
                shown
            }
            Payload::SlotCommitted(commit) => self.note(&format!(
                "slot {} written by {} ({})",
                commit.slot,
                writer(&commit.by),
                bytes(commit.bytes)
            )),
            Payload::MessageSetAside(_) => self.note("a message could not be handled: set aside"),
            Payload::AgentSuspended(suspended) => {
                let what = if suspended.until_ready {
                    "waits"
                } else {
                    "is suspended"
                };
                self.note(&format!("{} {what}: {}", suspended.agent, suspended.reason))
            }
            Payload::AgentResumed(resumed) => self.note(&format!("{} goes on", resumed.agent)),
            Payload::SessionForked(forked) => self.note(&format!("a copy of {}", forked.from)),
            Payload::SessionChanged(changed) => match &changed.change {
                SessionChange::AgentAdded { agent } => {
                    self.several = true;
                    self.note(&format!("{agent} joined"))
                }
                SessionChange::AgentRemoved { agent } => self.note(&format!("{agent} left")),
                SessionChange::Expired => self.note("the session has expired"),
                SessionChange::Deleted => self.note("the session was deleted"),
            },
            // Those are told with the end of the turn.
            Payload::Halted(it)
                if matches!(it.halt, Halt::Abort | Halt::ParticipantError { .. }) =>
            {
                String::new()
            }
            Payload::Halted(it) => {
                let mut shown = String::new();
                if self.open.as_ref() == Some(&it.turn) {
                    shown.push_str(&self.close());
                }
                shown.push_str(&self.note(&format!("the conversation is over: {}", it.halt)));
                shown
            }
            Payload::AgentCalled(called) => {
                let text = format!("{} works for it in {}", called.agent, called.session);
                self.note(&text)
            }
            Payload::Recounted(said) => {
                let mut shown = self.close();
                shown.push_str(&self.line(writer(&said.by), &said.text));
                shown
            }
            Payload::ToolsCalled(called) => {
                let names: Vec<&str> = called.calls.iter().map(|it| it.name.as_str()).collect();
                self.note(&format!(
                    "{} asks you to call {}",
                    called.agent,
                    names.join(", ")
                ))
            }
            Payload::Asked(asked) => {
                self.question(asked.agent.as_str(), &asked.text, &asked.choices)
            }
            Payload::Answered(answered) => match &answered.reply {
                Reply::Answered { text, by, note } => {
                    let note = note
                        .as_ref()
                        .map_or_else(String::new, |it| format!(" ({it})"));
                    self.note(&format!("{by} answered: {text}{note}"))
                }
                Reply::Expired => self.note(&format!("nobody answered {} in time", answered.agent)),
            },
            Payload::CallCancelled(_)
            | Payload::SpeakerStarted(_)
            | Payload::SpeakerEnded(_)
            | Payload::SessionOpened(_)
            | Payload::MessageSent(_)
            | Payload::Retried(_)
            | Payload::InterruptRequested(_)
            | Payload::Called(_)
            | Payload::Returned(_)
            | Payload::Streamed(_)
            | Payload::Observed(_)
            | Payload::SlotLocked(_)
            | Payload::SlotReleased(_) => String::new(),
        }
    }

    /// What an agent asks people, after what it said.
    pub(super) fn question(&mut self, agent: &str, text: &str, choices: &[String]) -> String {
        let mut shown = self.close();
        shown.push_str(&self.line(&format!("{agent} asks"), text));
        for (at, choice) in (1..).zip(choices) {
            shown.push_str(&format!("    {at} {}\n", tame(choice)));
        }
        shown
    }

    /// A person's or agent's finished words.
    pub(super) fn line(&self, name: &str, text: &str) -> String {
        let mut shown = self.label(name, true);
        match self.layout {
            Layout::Plain => shown.push_str(&tame(text)),
            Layout::Columns { indent, width } => {
                let mut wrap = Wrap::new(indent, width);
                shown.push_str(&wrap.push(&tame(text)));
                shown.push_str(&wrap.finish());
            }
        }
        shown.push('\n');
        shown
    }

    fn label(&self, name: &str, always: bool) -> String {
        match self.layout {
            Layout::Plain if self.several || always => {
                format!("{} ", self.paint.paint(Style::Name, &format!("{name}:")))
            }
            Layout::Plain => String::new(),
            Layout::Columns { indent, .. } => {
                let gap = indent.saturating_sub(2 + name.chars().count()).max(1);
                format!(
                    "  {}{}",
                    self.paint.paint(Style::Name, name),
                    " ".repeat(gap)
                )
            }
        }
    }

    fn words(&mut self, turn: &TurnId, agent: &str, text: &str) -> String {
        let mut shown = String::new();
        if self.open.as_ref() != Some(turn) {
            shown.push_str(&self.close());
            shown.push_str(&self.label(agent, false));
            self.open = Some(turn.clone());
            if let Layout::Columns { indent, width } = self.layout {
                self.wrap = Some(Wrap::new(indent, width));
            }
        }
        let text = tame(text);
        shown.push_str(&match &mut self.wrap {
            Some(wrap) => wrap.push(&text),
            None => text,
        });
        self.column_zero = shown.ends_with('\n');
        shown
    }

    /// End the line that somebody speaks on, and show what happened meanwhile.
    fn close(&mut self) -> String {
        let mut shown = self
            .wrap
            .take()
            .map(|mut wrap| wrap.finish())
            .unwrap_or_default();
        if self.open.take().is_some() && !(shown.is_empty() && self.column_zero) {
            shown.push('\n');
        }
        self.column_zero = true;
        shown.extend(self.later.drain(..));
        shown
    }
}

/// Which of the messages sent from here are still to be answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    sent: HashSet<String>,
    done: HashSet<String>,
    taken: HashMap<TurnId, Vec<String>>,
    failed: Option<String>,
}

impl Unanswered {
    pub(super) fn sent(&mut self, message: String) {
        if !self.done.contains(&message) {
            self.sent.insert(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Why a turn that took one of them failed, if one did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub(super) fn event(&mut self, event: &Event) {
        use antiphon::journal::entry::Fate;
        match &event.payload {
            Some(Payload::TurnStarted(turn)) => {
                let inputs = turn.inputs.iter().map(ToString::to_string).collect();
                self.taken.insert(turn.turn.clone(), inputs);
            }
            Some(Payload::TurnEnded(turn)) => {
                let taken = self.taken.remove(&turn.turn).unwrap_or_default();
                let returned: HashSet<String> = turn
                    .inputs
                    .iter()
                    .filter(|input| input.fate == Fate::Returned)
                    .map(|input| input.message.to_string())
                    .collect();
                let named = turn.inputs.iter().map(|input| input.message.to_string());
                let all: Vec<String> = taken.into_iter().chain(named).collect();
                for message in all
                    .into_iter()
                    .filter(|message| !returned.contains(message))
                {
                    let was_ours = self.sent.remove(&message);
                    self.done.insert(message);
                    if was_ours && turn.outcome == Outcome::Failed {
                        let error = turn.error.as_ref();
                        self.failed = Some(error.map_or_else(
                            || format!("{} failed", turn.agent),
                            |error| {
                                let code = error.code.name();
                                format!("{} failed ({code}): {}", turn.agent, error.message)
                            },
                        ));
                    }
                }
            }
            Some(Payload::MessageSetAside(aside)) => {
                let message = aside.message.to_string();
                if self.sent.remove(&message) {
                    self.failed = Some("a message could not be handled and was set aside".into());
                }
                self.done.insert(message);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::event::tests::{conversation, event};
    use super::*;

    fn show(mut voices: Voices, events: &[Event]) -> String {
        events.iter().map(|event| voices.event(event)).collect()
    }

    #[test]
    fn a_conversation_of_several_says_who_speaks() {
        let voices = Voices::new(Paint::off(), Layout::Plain, true);
        let expect = "\
you: Why is
the sky blue?
talker: Give me a moment.
· slot analysis written by thinker (312 B)
· talker failed (trap): unreachable
";
        assert_eq!(show(voices, &conversation()), expect);
    }

    #[test]
    fn columns_keep_names_apart_and_one_voice_needs_no_name() {
        let layout = Layout::Columns {
            indent: 10,
            width: 22,
        };
        let shown = show(
            Voices::new(Paint::off(), layout, true),
            &conversation()[1..7],
        );
        let expect = "  you     Why is\n          the sky\n          blue?\n\
                      \x20 talker  Give me a\n          moment.\n";
        assert_eq!(shown, expect);

        let mut voices = Voices::new(Paint::off(), Layout::Plain, false);
        voices.expect_own("Why is\nthe sky blue?");
        assert_eq!(show(voices, &conversation()[..7]), "Give me a moment.\n");
    }

    #[test]
    fn what_happens_while_somebody_speaks_is_shown_after() {
        let spoke = |turn: &str, agent: &str, text: &str| {
            event(
                1,
                0,
                json!({"kind": "spoke", "turn": turn, "agent": agent, "text": text, "at": 0}),
            )
        };
        let ended = |turn: &str, agent: &str, outcome: &str| {
            event(
                1,
                0,
                json!({"kind": "turn-ended", "turn": turn, "agent": agent,
                "outcome": outcome, "usage": {}, "inputs": []}),
            )
        };
        let commit = conversation().remove(7);
        let events = [
            spoke("a", "talker", "One "),
            commit,
            spoke("a", "talker", "two."),
            spoke("b", "clerk", "Mine"),
            ended("a", "talker", "completed"),
            spoke("b", "clerk", "!\x1b[2J"),
            ended("b", "clerk", "interrupted"),
        ];
        let expect = "talker: One two.\n· slot analysis written by thinker (312 B)\n\
                      clerk: Mine!\u{fffd}[2J\n· interrupted\n";
        assert_eq!(
            show(Voices::new(Paint::off(), Layout::Plain, true), &events),
            expect
        );
    }

    #[test]
    fn a_message_is_answered_when_the_turn_that_took_it_ended() {
        let events = conversation();
        for reported in 0..events.len() {
            let mut unanswered = Unanswered::default();
            for (n, event) in events.iter().enumerate() {
                // The answer to the request may come before or after any event.
                if n == reported {
                    unanswered.sent("s:2".into());
                }
                unanswered.event(event);
                assert_eq!(
                    unanswered.is_empty(),
                    n >= 6 || n < reported,
                    "{n} {reported}"
                );
            }
            assert_eq!(unanswered.failure(), None);
        }
    }

    #[test]
    fn a_message_given_back_is_still_to_be_answered() {
        let mut unanswered = Unanswered::default();
        unanswered.sent("s:2".into());
        let ended = |fate: &str| {
            event(
                9,
                0,
                json!({"kind": "turn-ended", "turn": "t", "agent": "talker",
                "outcome": "failed", "error": {"code": "trap", "message": "unreachable"},
                "usage": {}, "inputs": [{"message": "s:2", "fate": fate}]}),
            )
        };
        unanswered.event(&ended("returned"));
        assert!(!unanswered.is_empty());
        unanswered.event(&ended("consumed"));
        assert!(unanswered.is_empty());
        assert_eq!(
            unanswered.failure(),
            Some("talker failed (trap): unreachable")
        );
    }
}
