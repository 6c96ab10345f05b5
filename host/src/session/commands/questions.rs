//! Questions of agents: answering them.

use crate::clock::Time;
use crate::id::{Author, Seq, TurnId};
use crate::journal::entry::{
    Idempotency, Payload, QuestionAnswered, QuestionAnsweredPrivate, Reply,
};
use crate::journal::state::{OpenTurn, Question, State};
use crate::ledger::Ledger;

use super::{CommandError, KEYS_MAX, Result, append, must_be_open};

/// What a person answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAnswer {
    pub question: Seq,
    pub with: With,
    pub by: Author,
    /// What is said beside it.
    pub note: Option<String>,
    pub idempotency: Option<Idempotency>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum With {
    /// To a question without choices.
    Text(String),
    /// One of those that were given.
    Choice(String),
}

/// An answer that is in the journal, though perhaps not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    pub seq: Seq,
    /// The same key and body came before: this is that answer.
    pub replayed: bool,
}

/// Answer a question; its turn is taken up again.
pub fn answer(ledger: &Ledger, new: NewAnswer) -> Result<Answered> {
    append(ledger, |batch| {
        must_be_open(batch)?;
        let (state, now) = (batch.state(), batch.now());
        if let Some(answered) = replayed(state, new.idempotency, now)? {
            return Ok(answered);
        }
        let open = state.questions();
        let open = open.filter(|(.., it)| it.question == new.question && now < it.until);
        let (turn, open, question) = open.last().ok_or(CommandError::NotAsked)?;
        let text = chosen(question, new.with)?;
        if new.idempotency.is_some() && state.remembered_len(now) >= KEYS_MAX {
            let what = "too many idempotency keys in this session within a day";
            return Err(CommandError::Full {
                what,
                limit: KEYS_MAX,
            });
        }
        let (by, note) = (new.by, new.note);
        let answered = QuestionAnswered {
            question: question.question,
            turn: turn.clone(),
            agent: open.agent.clone(),
            n: question.n,
            reply: Reply::Answered { text, by, note },
            private: QuestionAnsweredPrivate {
                idempotency: new.idempotency,
            },
        };
        let seq = batch.push(Payload::Answered(answered));
        Ok(Answered {
            seq,
            replayed: false,
        })
    })
}

/// The entry that closes the question of a turn which nobody answered.
pub(in crate::session) fn expired(turn: &TurnId, open: &OpenTurn) -> Option<Payload> {
    let question = open.question.as_ref()?;
    Some(Payload::Answered(QuestionAnswered {
        question: question.question,
        turn: turn.clone(),
        agent: open.agent.clone(),
        n: question.n,
        reply: Reply::Expired,
        private: QuestionAnsweredPrivate::default(),
    }))
}

fn chosen(question: &Question, with: With) -> Result<String> {
    match with {
        With::Text(text) if question.choices.is_empty() => Ok(text),
        With::Choice(text) if question.choices.contains(&text) => Ok(text),
        With::Text(_) | With::Choice(_) => {
            let choices = question.choices.clone();
            Err(CommandError::NotAChoice(choices))
        }
    }
}

fn replayed(
    state: &State,
    idempotency: Option<Idempotency>,
    now: Time,
) -> Result<Option<Answered>> {
    let Some(Idempotency { key, body }) = idempotency else {
        return Ok(None);
    };
    let Some(remembered) = state.remembered(&key, now) else {
        return Ok(None);
    };
    if remembered.body != body {
        return Err(CommandError::KeyReused);
    }
    Ok(Some(Answered {
        seq: remembered.message,
        replayed: true,
    }))
}
