//! Asking people: the turn is put aside until somebody answers.
//!
//! A question is written down and durable before the instance ends. Nothing is kept of it: the turn is taken up
//! again with the answer in its record, and comes back to the question by doing what it did.
//!
//! Invariant: nothing that an instance alone can hold outlasts a question: no lock of a slot, and no answer of a
//! model that is on its way. Calls of agents go on meanwhile, and are waited for afterwards.

use std::collections::BTreeSet;

use crate::clock::Time;
use crate::id::Seq;
use crate::journal::entry::{Asked, Observation, Payload, Reply};
use crate::journal::state::State;
use crate::ledger::Batch;
use crate::telemetry::{self, Limit};

use super::{Scope, Stop};

/// A question waits at least this long: taking a turn up again costs what the turn has done so far.
const QUESTION_MS_MIN: u64 = 1_000;

/// What people are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Question {
    pub(in crate::runtime) text: String,
    /// None for any text.
    pub(in crate::runtime) choices: Vec<String>,
    pub(in crate::runtime) timeout_ms: Option<u64>,
}

/// What somebody answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Answer {
    /// Of the choices, the one that was chosen.
    pub(in crate::runtime) text: String,
    pub(in crate::runtime) by: String,
    pub(in crate::runtime) note: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum NoAnswer {
    /// Nobody answered in time.
    Expired,
    /// The turn holds what ends with its instance.
    HeldLock,
    OpenAnswer,
    TooLarge,
    TooMany,
    Other(String),
}

impl NoAnswer {
    fn word(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::HeldLock => "held-lock",
            Self::OpenAnswer => "open-answer",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::Other(_) => "other",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Other(why) => why.clone(),
            _ => String::new(),
        }
    }

    /// From an entry, so the same in every run.
    fn of(word: &str, detail: &str) -> Self {
        match word {
            "expired" => Self::Expired,
            "held-lock" => Self::HeldLock,
            "open-answer" => Self::OpenAnswer,
            "too-large" => Self::TooLarge,
            "too-many" => Self::TooMany,
            _ => Self::Other(detail.to_owned()),
        }
    }
}

impl Scope {
    /// Ask people. Answered from the record, or not at all: the instance ends, and another one comes back to it.
    pub(in crate::runtime) async fn ask_people(
        &self,
        question: Question,
    ) -> Result<Result<Answer, NoAnswer>, Stop> {
        let asked = || format!("asks {:?}", excerpt(&question.text));
        let Some(recorded) = self.recorded(asked)? else {
            return match self.put_question(&question)? {
                Ok(written) => {
                    self.cpu.waiting(self.ledger.durable(written)).await?;
                    Err(Stop::Aside)
                }
                Err(refused) => Ok(Err(refused)),
            };
        };
        match &recorded.payload {
            Payload::Asked(it) if self.is_same(it, &question, recorded.time) => {}
            Payload::Observed(it) => {
                return match &it.what {
                    Observation::QuestionRefused { error, detail } => {
                        Ok(Err(NoAnswer::of(error, detail)))
                    }
                    _ => Err(self.differs(&recorded, asked())),
                };
            }
            _ => return Err(self.differs(&recorded, asked())),
        }
        let waits = || format!("waits for the answer to {:?}", excerpt(&question.text));
        let Some(recorded) = self.recorded_part(waits)? else {
            // Nobody takes a turn up before it is answered, but whoever does finds it as it was.
            return Err(Stop::Aside);
        };
        match recorded.payload {
            Payload::Answered(it) => Ok(match it.reply {
                Reply::Answered { text, by, note } => Ok(Answer {
                    text,
                    by: by.as_str().to_owned(),
                    note,
                }),
                Reply::Expired => Err(NoAnswer::Expired),
            }),
            _ => Err(self.differs(&recorded, waits())),
        }
    }

    /// Write it down, or what is against it.
    fn put_question(&self, question: &Question) -> Result<Result<Seq, NoAnswer>, Stop> {
        let asking = |batch: &mut Batch<'_>, n: u32| {
            if let Err(refused) = self.may_ask_people(batch.state(), question) {
                batch.push(self.observed(
                    n,
                    Observation::QuestionRefused {
                        error: refused.word().to_owned(),
                        detail: refused.detail(),
                    },
                ));
                return Err(refused);
            }
            // Entry times never go back, whatever the clock does.
            let now = batch.now().max(batch.state().time);
            Ok(batch.push(Payload::Asked(Asked {
                question: batch.next_seq(),
                turn: self.turn.clone(),
                agent: self.agent.clone(),
                n,
                text: question.text.clone(),
                choices: question.choices.clone(),
                until: now.plus_ms(self.waits_ms(question)),
            })))
        };
        self.append(asking)
    }

    fn may_ask_people(&self, state: &State, question: &Question) -> Result<(), NoAnswer> {
        let open = state.turns.get(&self.turn);
        if open.is_some_and(|open| !open.locks.is_empty()) {
            return Err(NoAnswer::HeldLock);
        }
        let mut calls = open.into_iter().flat_map(|open| open.open_calls.values());
        if calls.any(|call| call.model.is_some()) {
            return Err(NoAnswer::OpenAnswer);
        }
        let choices = question.choices.iter().map(String::len);
        let bytes = question.text.len() + choices.sum::<usize>();
        if bytes > self.limits.question_bytes_max {
            telemetry::hit(Limit::QuestionBytes);
            return Err(NoAnswer::TooLarge);
        }
        if question.choices.len() > self.limits.question_choices_max {
            telemetry::hit(Limit::QuestionChoices);
            return Err(NoAnswer::TooLarge);
        }
        if open.map_or(0, |open| open.questions) >= self.limits.questions_turn_max {
            telemetry::hit(Limit::QuestionsTurn);
            return Err(NoAnswer::TooMany);
        }
        let other = |why: &str| Err(NoAnswer::Other(why.to_owned()));
        if question.text.trim().is_empty() {
            return other("it asks nothing");
        }
        let choices: BTreeSet<&str> = question.choices.iter().map(String::as_str).collect();
        if choices.len() < question.choices.len() || choices.iter().any(|it| it.trim().is_empty()) {
            return other("each choice is a text of its own");
        }
        Ok(())
    }

    /// How long people may take. The guest chose the number.
    fn waits_ms(&self, question: &Question) -> u64 {
        let most = self.limits.question_ms_max;
        let asked = question.timeout_ms.unwrap_or(most);
        if asked > most {
            telemetry::hit(Limit::QuestionMs);
        }
        asked.max(QUESTION_MS_MIN).min(most)
    }

    fn is_same(&self, it: &Asked, question: &Question, at: Time) -> bool {
        it.text == question.text
            && it.choices == question.choices
            && it.until == at.plus_ms(self.waits_ms(question))
    }
}

fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}
