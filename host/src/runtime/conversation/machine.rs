//! Whose turn it is, what a speaker is told, and when a conversation halts: PURE.
//!
//! A [`Talk`] is told what came of each step and says which step is next. It makes no call and
//! knows no clock, so a talk that is told the same again comes to the same step again.
//!
//! Invariant: what halts is looked at in one order: before a turn, whether all are made, whether it cost as
//! much as it may, who speaks; after a turn, whether its words end it. So a turn that goes beyond the cap is
//! complete, and the next is not begun. A talk that halted stays so. Whoever stops a conversation ends its
//! turn from outside, between any two steps: that is not decided here.

use std::fmt;
use std::sync::Arc;

use crate::bus::slug;
use crate::id::AgentName;
use crate::journal::entry::Halt;
use crate::model::Message;

use super::definition::{Definition, HaltOn, Order, Voice};

/// What a speaker is told that is chosen twice in a row: nobody said anything since.
const GO_ON: &str = "Go on.";

/// Characters of what somebody else wrote, in the reason of a halt.
const REASON_CHARS_MAX: usize = 1_000;

/// Of those, what a selector answered.
const ANSWER_CHARS_MAX: usize = 80;

/// The slug of what has none.
const NO_SLUG: &str = "anon";

/// What is next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<'a> {
    /// Ask this agent who speaks.
    Select(&'a AgentName),
    /// This participant makes the turn of this index.
    Speak {
        participant: usize,
        index: u32,
    },
    /// Ask this agent whether it is over.
    Judge(&'a AgentName),
    Halt(&'a Halt),
}

/// A turn that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Turn {
    participant: usize,
    /// Without space around it.
    text: String,
}

/// A conversation on its way.
#[derive(Debug, Clone)]
pub struct Talk {
    definition: Arc<Definition>,
    seed: String,
    turns: Vec<Turn>,
    spent_micros: u64,
    /// Who was selected for the next turn.
    selected: Option<usize>,
    /// The newest turn waits for its verdict.
    unjudged: bool,
    halt: Option<Halt>,
}

impl Talk {
    pub fn new(definition: Arc<Definition>, seed: String) -> Self {
        Self {
            definition,
            seed,
            turns: Vec::new(),
            spent_micros: 0,
            selected: None,
            unjudged: false,
            halt: None,
        }
    }

    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    pub fn spent_micros(&self) -> u64 {
        self.spent_micros
    }

    /// What is next: the same until something is told.
    pub fn step(&mut self) -> Step<'_> {
        if self.halt.is_none() {
            self.halt = self.halts();
        }
        if let Some(halt) = &self.halt {
            return Step::Halt(halt);
        }
        if self.unjudged
            && let Some(HaltOn::Agent(judge)) = &self.definition.halt_on
        {
            return Step::Judge(judge);
        }
        let index = self.index();
        let participant = match (&self.definition.order, self.selected) {
            (Order::Alternate | Order::RoundRobin, _) => {
                self.turns.len() % self.definition.participants.len()
            }
            (Order::Selector(_), Some(selected)) => selected,
            (Order::Selector(selector), None) => return Step::Select(selector),
        };
        Step::Speak { participant, index }
    }

    fn index(&self) -> u32 {
        u32::try_from(self.turns.len()).expect("a definition bounds its turns")
    }

    /// Why no turn begins. What the newest turn said comes first.
    fn halts(&self) -> Option<Halt> {
        if self.unjudged {
            return None;
        }
        let turns = self.index();
        if turns >= self.definition.max_turns {
            return Some(Halt::MaxTurns { turns });
        }
        let cap = self.definition.max_cost_micros?;
        (self.spent_micros >= cap).then(|| Halt::max_credits(self.spent_micros, cap))
    }

    /// A call cost something, whatever came of it.
    pub fn spend(&mut self, cost_micros: u64) {
        self.spent_micros = self.spent_micros.saturating_add(cost_micros);
    }

    /// The participant whose turn it was said this.
    pub fn said(&mut self, participant: usize, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            let name = &self.definition.participants[participant].name;
            let message = format!("{name:?} completed without text");
            return self.failed(participant, message);
        }
        self.selected = None;
        self.turns.push(Turn {
            participant,
            text: text.to_owned(),
        });
        match &self.definition.halt_on {
            Some(HaltOn::Pattern(pattern)) if pattern.is_in(text) => {
                let reason = format!("the pattern {:?} matched", pattern.as_str());
                self.halt = Some(Halt::Predicate { reason });
            }
            Some(HaltOn::Agent(_)) => self.unjudged = true,
            Some(HaltOn::Pattern(_)) | None => {}
        }
    }

    /// The participant whose turn it was could not speak.
    pub fn failed(&mut self, participant: usize, message: impl fmt::Display) {
        let name = self.definition.participants[participant].name.clone();
        self.erred(name, message);
    }

    /// An agent that selects or judges could not answer.
    pub fn undecided(&mut self, agent: &AgentName, message: impl fmt::Display) {
        self.erred(agent.as_str().to_owned(), message);
    }

    fn erred(&mut self, participant: String, message: impl fmt::Display) {
        let message = message.to_string().chars().take(REASON_CHARS_MAX).collect();
        self.halt = Some(Halt::ParticipantError {
            participant,
            message,
        });
    }

    /// Whom the selector chose: by name, or by its slug, so that neither case nor a full stop matters.
    pub fn selected(&mut self, answer: &str) {
        let answer = answer.trim();
        let participants = &self.definition.participants;
        let by_name = participants.iter().position(|it| it.name == answer);
        // Names without a letter of the alphabet all have the same slug.
        let wanted = Some(slug(answer)).filter(|slug| slug != NO_SLUG);
        let by_slug = || {
            participants
                .iter()
                .position(|it| Some(slug(&it.name)) == wanted)
        };
        self.selected = by_name.or_else(by_slug);
        if self.selected.is_none()
            && let Order::Selector(selector) = self.definition.order.clone()
        {
            let answer: String = answer.chars().take(ANSWER_CHARS_MAX).collect();
            self.undecided(&selector, format!("it chose {answer:?}, who takes no part"));
        }
    }

    /// What the judge said: `halt` as its first word ends the conversation, and the rest says why. Whatever
    /// else it says, or nothing, lets it go on.
    pub fn judged(&mut self, answer: &str) {
        self.unjudged = false;
        let answer = answer.trim();
        let end = answer.find(|char: char| !char.is_ascii_alphabetic());
        let (word, rest) = answer.split_at(end.unwrap_or(answer.len()));
        if !word.eq_ignore_ascii_case("halt") {
            return;
        }
        let is_space = |char: char| char.is_whitespace() || ":,.;!-".contains(char);
        let rest = rest.trim_start_matches(is_space).trim_end();
        let reason = if rest.is_empty() {
            "predicate_true".to_owned()
        } else {
            rest.chars().take(REASON_CHARS_MAX).collect()
        };
        self.halt = Some(Halt::Predicate { reason });
    }

    /// What a remote participant is asked: the whole conversation as it sees it. Its own turns are
    /// the assistant's, those of others come from a user, each with its speaker.
    pub fn view(&self, participant: usize) -> Vec<Message> {
        let user = |text: String| Message::User { name: None, text };
        let mut messages = Vec::new();
        if let Voice::Remote(remote) = &self.definition.participants[participant].voice
            && let Some(instructions) = &remote.instructions
        {
            messages.push(Message::System(instructions.clone()));
        }
        messages.push(user(self.seed.clone()));
        messages.extend(self.turns.iter().map(|turn| {
            if turn.participant == participant {
                Message::Assistant {
                    text: Some(turn.text.clone()),
                    tool_calls: Vec::new(),
                }
            } else {
                user(self.line(turn))
            }
        }));
        messages
    }

    /// What an agent is told at its turn: what was said since its last one. It has the rest in its own session.
    pub fn news(&self, participant: usize) -> String {
        let last = self
            .turns
            .iter()
            .rposition(|turn| turn.participant == participant);
        let since = self.since(last.map(|at| at + 1));
        if since.is_empty() {
            GO_ON.to_owned()
        } else {
            since
        }
    }

    /// What an agent is asked that selects: what was said since it was last asked, and who there is.
    pub fn ballot(&self) -> String {
        let participants = self.definition.participants.iter();
        let names: Vec<&str> = participants.map(|it| it.name.as_str()).collect();
        // It was asked before every turn, so one turn was made since, or none.
        let since = self.since(self.turns.len().checked_sub(1));
        format!("{since}\nWho speaks next: {}?", names.join(", "))
    }

    /// What an agent is asked that judges: what was said since it was last asked.
    pub fn case(&self) -> String {
        let since = self.turns.len().checked_sub(1);
        self.since(since.filter(|at| *at > 0))
    }

    /// The turns from one on, a line each; from the beginning, the seed goes before them.
    fn since(&self, first: Option<usize>) -> String {
        let seed = first.is_none().then(|| self.seed.clone());
        let turns = self.turns.get(first.unwrap_or(0)..).unwrap_or_default();
        let lines: Vec<String> = seed
            .into_iter()
            .chain(turns.iter().map(|turn| self.line(turn)))
            .collect();
        lines.join("\n")
    }

    fn line(&self, turn: &Turn) -> String {
        let name = &self.definition.participants[turn.participant].name;
        format!("[{name}] {}", turn.text)
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
