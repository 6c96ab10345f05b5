//! Answers at once, whatever else is going on in the session.
//!
//! The talker never thinks for long. It reads what is in the slot `analysis` right now,
//! settled or in flight, and answers from that. Its configuration watches the slot: when
//! the analysis is committed, a turn without messages tells the people what it says.
//!
//! What people send goes to the session's entry agent, the talker. A turn needs a cause, so
//! the talker passes what they said on to the thinker, if there is one. That is all they say
//! to each other: what the thinker finds comes back through the slot alone, where the
//! talker, its model and the people see the same document.

use antiphon_sdk::log::{self, Level};
use antiphon_sdk::mailbox::{self, Body, Message, SendError, Sender};
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, continued};

const SLOT: &str = "analysis";
const THINKER: &str = "thinker";

const SYSTEM: &str = "You talk with people. Answer at once and briefly. Somebody else thinks \
    about the same matter meanwhile and writes what they find into the slot `analysis`. Use \
    what it says. While its state is locked a newer analysis is on its way: say so if it \
    matters, and do not wait for it.";

const TELL: &str = "The analysis has just been written. Tell the people briefly what it says.";

/// A short paragraph or two: people are waiting, and models without manners never stop.
const ANSWER_TOKENS_MAX: u32 = 160;

/// People see half an answer and wait for the rest. A line that breaks three times in an
/// answer this short is down.
const CONTINUATIONS_MAX: u32 = 2;

struct Talker;

impl Agent for Talker {
    fn handle(input: TurnInput) -> Result<TurnOutput, AgentError> {
        let messages = mailbox::pull_all();
        if messages.is_empty() && !input.has_slot(SLOT) {
            return Ok(TurnOutput::default());
        }
        // First, so that the thinking does not wait for the answer to be said.
        hand_on(&messages);

        let mut prompt = Prompt::new()
            .system(SYSTEM)
            .instructions()
            .slot(SLOT)
            .injected()
            .transcript(60)
            .messages(&messages);
        // With messages, the analysis is only one of the things to answer from.
        if messages.is_empty() {
            prompt = prompt.task(TELL);
        }
        let mut request = prompt.request();
        request.parameters.max_tokens = Some(ANSWER_TOKENS_MAX);
        continued::relay(&request, CONTINUATIONS_MAX)?;
        Ok(TurnOutput::default())
    }
}

/// What people said goes on as one message: to the thinker each message is a turn of its own, and a
/// burst is one matter. Talk does not depend on thought: whatever is wrong with the thinker, people
/// are answered.
fn hand_on(messages: &[Message]) {
    let of_people = messages
        .iter()
        .filter(|message| matches!(message.header.sender, Sender::Person(_)));
    let bodies: Vec<&Body> = of_people.map(|message| &message.body).collect();
    let body = match bodies[..] {
        [] => return,
        [one] => one.clone(),
        _ => {
            let texts: Vec<&str> = bodies.iter().map(|body| body.as_text()).collect();
            Body::Text(texts.join("\n\n"))
        }
    };
    match mailbox::send(THINKER, &body) {
        Ok(_) | Err(SendError::UnknownAgent) => {}
        Err(error) => {
            log::event(
                Level::Warn,
                "not handed on",
                &[("error", &error.to_string())],
            );
        }
    }
}

antiphon_sdk::export!(Talker);

#[cfg(test)]
mod tests;
