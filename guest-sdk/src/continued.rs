//! An answer that breaks off and is gone on with.
//!
//! [`relay`] shows a model's answer while it arrives. If it breaks off, the model is given
//! what was shown as its own words and asked to go on, a bounded number of times.
//!
//! Models asked to go on often begin with words that they have said. Invariant: words of a
//! continuation are said only once it is known that they are no repetition of the end of
//! what was shown: as long as a continuation could still be one, it is held back, and the
//! repeated words are dropped. So whatever tail the model repeats, from one word to all of
//! it, and however its pieces are cut, nobody reads it twice and the transcript has it once.
//! The price: words meant to be said twice in a row are said once if the break falls exactly
//! between them. Not recognised: a repetition in other words, or behind a preamble.

use crate::agent::AgentError;
use crate::model::{self, Completion, Delta, Message, ModelError, Request};
use crate::reply;

/// What the model is told behind its own words.
pub const GO_ON: &str = "Your answer broke off there. Go on exactly where it stopped, in the \
    middle of the word if need be: repeat nothing, and do not speak of the break.";

/// An answer that is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Continued {
    /// Its text is all that was shown, its tool calls and finish those of the last call.
    pub completion: Completion,
    /// How often the model had to go on.
    pub continuations: u32,
}

/// An answer that is not.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokenOff {
    /// Why the last call failed.
    pub cause: ModelError,
    /// What was shown, and stays. If the turn may say no more (`Other`), without what the
    /// last call had said before it was refused.
    pub shown: String,
    /// How often the model was asked to go on.
    pub continuations: u32,
}

/// Ask for an answer that nobody is shown before it is whole: if it breaks off, ask again, at
/// most so often.
pub fn complete(request: &Request, repetitions_max: u32) -> Result<Completion, ModelError> {
    let mut repetitions = 0;
    loop {
        match model::complete(request) {
            Err(ModelError::Interrupted(_)) if repetitions < repetitions_max => repetitions += 1,
            answered => return answered,
        }
    }
}

/// Ask and say the answer's text while it arrives; if it breaks off, have the model go on,
/// at most so often. Every other error ends it: the host's policy has said what it can do.
pub fn relay(request: &Request, continuations_max: u32) -> Result<Continued, BrokenOff> {
    let mut shown = String::new();
    let mut continuations = 0;
    let mut result = model::relay(request);
    if let Ok(completion) = &result {
        shown.push_str(&completion.text);
    }
    loop {
        let cause = match result {
            Ok(completion) => {
                return Ok(Continued {
                    completion: Completion {
                        text: shown,
                        ..completion
                    },
                    continuations,
                });
            }
            Err(ModelError::Interrupted(partial)) if continuations == 0 => {
                shown.push_str(&partial);
                ModelError::Interrupted(partial)
            }
            Err(cause) => cause,
        };
        if !matches!(cause, ModelError::Interrupted(_)) || continuations >= continuations_max {
            return Err(BrokenOff {
                cause,
                shown,
                continuations,
            });
        }
        continuations += 1;
        result = go_on(request, &mut shown);
    }
}

/// One more call: what of it is new is said and added to what was shown.
fn go_on(request: &Request, shown: &mut String) -> Result<Completion, ModelError> {
    let mut request = request.clone();
    if !shown.is_empty() {
        request.messages.push(Message::assistant(&*shown));
        request.messages.push(Message::user(GO_ON));
    }
    let mut deltas = model::open(&request)?;
    let mut held = String::new();
    let repeated = loop {
        match deltas.next() {
            Some(Ok(Delta::Text(text))) => held.push_str(&text),
            // A call may come before the text.
            Some(Ok(Delta::ToolCall(_))) => continue,
            Some(Ok(Delta::Finished(_))) | None => break repeated(shown, &held, true),
            // What is held back could be a repetition: it is not said but asked for again.
            Some(Err(error)) => return Err(error),
        }
        if let Some(repeated) = repeated(shown, &held, false) {
            break Some(repeated);
        }
    };
    let repeated = repeated.unwrap_or(0);
    say(&held[repeated..], shown)?;
    let taken = held.len();
    let rest = deltas.relay();
    if let Ok(Completion { text, .. }) | Err(ModelError::Interrupted(text)) = &rest {
        shown.push_str(&text[taken..]);
    }
    rest
}

fn say(text: &str, shown: &mut String) -> Result<(), ModelError> {
    if text.is_empty() {
        return Ok(());
    }
    reply::say(text).map_err(|error| ModelError::Other(format!("say: {error}")))?;
    shown.push_str(text);
    Ok(())
}

/// How many bytes of a continuation repeat the end of what was shown; none as long as more
/// text could make it longer. `whole`: there will be no more text.
///
/// A repetition begins where a word of the shown text begins, with or without white space
/// before it. Behind white space a single word counts only if it ends where the shown one
/// does: ` apple` after `an a` is a new word, `apple` is the old one, said in full.
fn repeated(shown: &str, held: &str, whole: bool) -> Option<usize> {
    let words = held.trim_start();
    let space = held.len() - words.len();
    if words.is_empty() {
        return whole.then_some(0);
    }
    let mut longest = 0;
    for (start, _) in word_starts(shown) {
        let tail = &shown[start..];
        if !whole && tail.starts_with(words) {
            // It may go on as the tail does, or, where the tail ends, show what kind of end
            // it is.
            return None;
        }
        let counts = || {
            let next = words[tail.len()..].chars().next();
            space == 0
                || tail.split_whitespace().nth(1).is_some()
                || next.is_none_or(|next| !next.is_alphanumeric())
        };
        if words.starts_with(tail) && counts() {
            longest = longest.max(tail.len());
        }
    }
    Some(if longest == 0 { 0 } else { space + longest })
}

/// Where words begin, and with which character.
fn word_starts(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut before = ' ';
    text.char_indices().filter(move |(_, char)| {
        let starts = before.is_whitespace() && !char.is_whitespace();
        before = *char;
        starts
    })
}

impl From<BrokenOff> for AgentError {
    fn from(broken: BrokenOff) -> Self {
        broken.cause.into()
    }
}
