//! Questions in the fold: what turns ask people, and until when they are put aside for it.
//!
//! ```text
//! asked -> put aside, the question open -> answered -> put aside -> retried (reason: answered) -> it runs
//! ```
//!
//! Invariant: nothing of a turn follows its question but the answer, a request to stop, and its end; and a
//! turn that is put aside holds no lock.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{Seq, TurnId};
use crate::journal::entry::{Asked, Entry, QuestionAnswered, Reply};

use super::{OpenTurn, State};

/// What a turn asks people and nobody has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The seq of its entry.
    pub question: Seq,
    pub n: u32,
    pub text: String,
    /// None for any text.
    pub choices: Vec<String>,
    pub asked_at: Time,
    pub until: Time,
}

impl OpenTurn {
    /// Put aside, and nobody has answered: until when nothing is to be done about it.
    pub fn rests_until(&self) -> Option<Time> {
        let question = self.question.as_ref().filter(|_| !self.interrupted)?;
        let deadline = self.bus.as_ref().and_then(|bus| bus.deadline);
        deadline.into_iter().chain([question.until]).min()
    }

    /// Its question is open, and nobody is waited for any more.
    pub fn has_asked_in_vain(&self, now: Time) -> bool {
        let open = self.question.as_ref().filter(|_| !self.interrupted);
        open.is_some_and(|question| question.until <= now)
    }

    /// People were shown something of it.
    pub(super) fn has_shown(&self) -> bool {
        self.said > 0 || self.has_called_tools || self.questions > 0
    }
}

impl State {
    /// The open questions, each with the turn that asks it.
    pub fn questions(&self) -> impl Iterator<Item = (&TurnId, &OpenTurn, &Question)> {
        let open = self.turns.iter().filter(|(_, open)| !open.interrupted);
        open.filter_map(|(turn, open)| Some((turn, &**open, open.question.as_ref()?)))
    }

    pub(super) fn asked(&mut self, entry: &Entry, asked: &Asked) -> Result<(), &'static str> {
        self.must_be_of(&asked.turn, &asked.agent)?;
        if asked.question != entry.seq {
            return Err("its id is not its number");
        }
        if asked.until < entry.time {
            return Err("it is over before it is asked");
        }
        if !self.speaking(&asked.turn)?.locks.is_empty() {
            return Err("the turn holds a lock");
        }
        let turn = self.call(&asked.turn, asked.n)?;
        turn.question = Some(Question {
            question: asked.question,
            n: asked.n,
            text: asked.text.clone(),
            choices: asked.choices.clone(),
            asked_at: entry.time,
            until: asked.until,
        });
        turn.is_aside = true;
        turn.questions += 1;
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        entry: &Entry,
        answered: &QuestionAnswered,
    ) -> Result<(), &'static str> {
        self.must_be_of(&answered.turn, &answered.agent)?;
        let turn = self.uninterrupted(&answered.turn)?;
        let is_it = |it: &&Question| it.question == answered.question && it.n == answered.n;
        let question = turn.question.as_ref().filter(is_it);
        let question = question.ok_or("no such question is open")?;
        match &answered.reply {
            Reply::Answered { text, .. } => {
                if !question.choices.is_empty() && !question.choices.contains(text) {
                    return Err("it is none of the choices");
                }
            }
            Reply::Expired if entry.time < question.until => {
                return Err("there is time left to answer");
            }
            Reply::Expired => {}
        }
        if let Some(idempotency) = answered.private.idempotency {
            if self.remembered(&idempotency.key, entry.time).is_some() {
                return Err("its idempotency key is taken");
            }
            self.remember(entry, idempotency);
        }
        self.uninterrupted(&answered.turn)?.question = None;
        Ok(())
    }
}
