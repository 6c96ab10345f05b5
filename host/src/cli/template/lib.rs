//! {NAME}: an agent that answers with a model.
//!
//! It reads everything that has come in since its last turn, so a burst of messages gets
//! one answer, and says the model's answer while it arrives. Nothing in memory survives a
//! turn: what must last belongs into a slot, the context or the session itself.

use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, mailbox, model};

const SYSTEM: &str = "You are {NAME}. Answer in a few sentences.";

struct Me;

impl Agent for Me {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let messages = mailbox::pull_all();
        if messages.is_empty() {
            return Ok(TurnOutput::default());
        }
        let prompt = Prompt::new()
            .system(SYSTEM)
            .instructions()
            .transcript(40)
            .messages(&messages);
        model::relay(&prompt.request())?;
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Me);

#[cfg(test)]
mod tests {
    use antiphon_sdk::testing::{Answer, Host};

    use super::Me;

    #[test]
    fn a_burst_of_messages_gets_one_answer() {
        let host = Host::new("{NAME}");
        host.receive("ana", "hello");
        host.receive("ana", "are you there?");
        host.answer(Answer::pieces(["Yes, ", "I am."]));

        let turn = host.turn::<Me>();
        assert_eq!(turn.said, "Yes, I am.");
        assert_eq!((turn.consumed.len(), turn.requests.len()), (2, 1));
    }
}
