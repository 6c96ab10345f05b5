//! A clerk that lives on its mailbox, for days and thousands of messages.
//!
//! Nothing is pushed into its model's view. The model is told how many messages wait, and
//! has the mailbox and the context as tools: it lists, pulls what it wants to deal with,
//! keeps in view what it will need again, and drops what it will not. So what a request
//! holds depends on what matters now and not on how long the clerk has lived.
//! What the model does not pull stays, and wakes nobody until the next message comes.

use std::time::Duration;

use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::tools::{self, context_tools, handoff_tools, mailbox_tools, transcript_tools};
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, mailbox};

/// Listing, pulling, keeping and dropping take a round each; twice that leaves room for a
/// search and for mistakes.
const ROUNDS_MAX: u32 = 8;

const SYSTEM: &str = "You are a clerk. Messages wait in your mailbox until you pull them. Pull \
    what you will deal with now and leave the rest. In your next turns you will see the last \
    words of the conversation and what you kept or noted, and nothing else: keep what you will \
    need, drop what you will not. Then answer whoever needs an answer, briefly. Before you leave \
    something open, write a handoff.";

/// After a night the clerk is told that it was away, and what it left for itself.
const LONG_AGO: Duration = Duration::from_secs(8 * 60 * 60);

struct Clerk;

impl Agent for Clerk {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let waiting = mailbox::pending().len();
        let prompt = Prompt::new()
            .system(SYSTEM)
            .instructions()
            .context()
            .transcript(20)
            .absence(LONG_AGO)
            .task(format!("Messages waiting in your mailbox: {waiting}"));
        let mut tools = mailbox_tools()
            .and(transcript_tools())
            .and(context_tools())
            .and(handoff_tools());
        tools::relay(prompt.request(), &mut tools, ROUNDS_MAX)?;
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Clerk);

#[cfg(test)]
mod tests;
