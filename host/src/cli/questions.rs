//! PURE: questions that are open in a conversation, and what a line that somebody types means to them.
//!
//! As long as a question is open the next line answers the oldest one: that is what somebody who was
//! just asked means. `/say TEXT` is a message all the same.

use std::collections::{BTreeMap, BTreeSet};

use antiphon::id::{Seq, TurnId};
use antiphon::journal::entry::{Asked, Payload};
use serde::Deserialize;
use serde_json::{Value, json};

use super::event::Event;

/// A question as the server lists it and as its event tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Question {
    pub(super) question: Seq,
    pub(super) agent: String,
    pub(super) turn: TurnId,
    pub(super) text: String,
    #[serde(default)]
    pub(super) choices: Vec<String>,
}

impl From<&Asked> for Question {
    fn from(asked: &Asked) -> Self {
        Self {
            question: asked.question,
            agent: asked.agent.to_string(),
            turn: asked.turn.clone(),
            text: asked.text.clone(),
            choices: asked.choices.clone(),
        }
    }
}

impl Question {
    /// What the line answers to it, as a request says it; none if it is no choice.
    pub(super) fn answer(&self, line: &str) -> Option<Value> {
        if self.choices.is_empty() {
            return Some(json!({"text": line}));
        }
        let line = line.trim();
        let exact = self.choices.iter().find(|choice| *choice == line);
        let number = || {
            let at = line.parse::<usize>().ok()?.checked_sub(1)?;
            self.choices.get(at)
        };
        let folded = || {
            let line = line.to_lowercase();
            let mut like = self.choices.iter().filter(|it| it.to_lowercase() == line);
            like.next().filter(|_| like.next().is_none())
        };
        let choice = exact.or_else(number).or_else(folded)?;
        Some(json!({"choice": choice}))
    }

    /// How to answer it, for people.
    pub(super) fn hint(&self) -> &'static str {
        match self.choices.is_empty() {
            true => "your next line answers; /say TEXT is a message instead",
            false => {
                "your next line answers: a choice or its number; /say TEXT is a message instead"
            }
        }
    }
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Message(String),
    Answer {
        question: Seq,
        with: Value,
    },
    /// It answers nothing, in words.
    Neither(String),
}

/// The open ones.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<Seq, Question>,
    /// Answered from here: the server may not have heard yet.
    answered: BTreeSet<Seq>,
}

impl Questions {
    pub(super) fn add(&mut self, question: Question) {
        self.open.insert(question.question, question);
    }

    /// Take in what happens. The question, if one was asked.
    pub(super) fn event(&mut self, event: &Event) -> Option<Question> {
        match event.payload.as_ref()? {
            Payload::Asked(asked) => {
                let question = Question::from(asked);
                self.add(question.clone());
                return Some(question);
            }
            Payload::Answered(answered) => drop(self.open.remove(&answered.question)),
            Payload::TurnEnded(ended) => self.open.retain(|_, it| it.turn != ended.turn),
            _ => {}
        }
        None
    }

    /// The oldest that a line would answer.
    pub(super) fn oldest(&self) -> Option<&Question> {
        let mut open = self.open.values();
        open.find(|it| !self.answered.contains(&it.question))
    }

    /// What a line means now.
    pub(super) fn line(&mut self, line: String) -> Line {
        if let Some(text) = line.strip_prefix("/say ") {
            return Line::Message(text.to_owned());
        }
        let Some(question) = self.oldest() else {
            return Line::Message(line);
        };
        let Some(with) = question.answer(&line) else {
            let choices = question.choices.join(", ");
            return Line::Neither(format!(
                "{} asks for one of: {choices}; /say TEXT is a message instead",
                question.agent
            ));
        };
        let question = question.question;
        self.answered.insert(question);
        Line::Answer { question, with }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(number: u64, choices: &[&str]) -> Question {
        Question {
            question: Seq(number),
            agent: "poet".to_owned(),
            turn: TurnId::new("r.t0.poet").expect("it is one"),
            text: "May I?".to_owned(),
            choices: choices.iter().map(ToString::to_string).collect(),
        }
    }

    fn answer(number: u64, with: Value) -> Line {
        let question = Seq(number);
        Line::Answer { question, with }
    }

    #[test]
    fn the_next_line_answers_the_oldest_question_once() {
        let mut questions = Questions::default();
        let line = |questions: &mut Questions, text: &str| questions.line(text.to_owned());
        assert_eq!(line(&mut questions, "hello"), Line::Message("hello".into()));
        questions.add(question(9, &[]));
        questions.add(question(5, &["Yes", "no"]));
        assert!(
            matches!(line(&mut questions, "maybe"), Line::Neither(why) if why.contains("Yes, no"))
        );
        assert_eq!(
            line(&mut questions, "/say hello"),
            Line::Message("hello".into())
        );
        assert_eq!(
            line(&mut questions, "yes"),
            answer(5, json!({"choice": "Yes"}))
        );
        // The server may not have heard of the first answer yet.
        assert_eq!(
            line(&mut questions, "yes"),
            answer(9, json!({"text": "yes"}))
        );
        assert_eq!(line(&mut questions, "bye"), Line::Message("bye".into()));
    }

    #[test]
    fn a_choice_is_named_or_numbered() {
        let one = question(1, &["approve", "deny", "2"]);
        let choice = |line: &str| one.answer(line).map(|it| it["choice"].clone());
        assert_eq!(choice("approve"), Some("approve".into()));
        assert_eq!(choice(" DENY "), Some("deny".into()));
        assert_eq!(choice("1"), Some("approve".into()));
        assert_eq!(choice("2"), Some("2".into()), "as it stands there");
        assert_eq!(choice("3"), Some("2".into()));
        for none in ["0", "4", "", "app"] {
            assert_eq!(choice(none), None, "{none:?}");
        }
        let two_alike = question(1, &["a", "A"]);
        assert_eq!(two_alike.answer("A"), Some(json!({"choice": "A"})));
    }
}
