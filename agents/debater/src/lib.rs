//! Argues for a stance, briefly, in a conversation that others take part in.
//!
//! The stance is a variable of its configuration, so one component is as many debaters as are deployed. In a
//! conversation it has a session of its own: what it said before is the agent's own words there, what the
//! others said since comes as one message, a line `[NAME] …` for each.

use antiphon_sdk::mailbox;
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, continued};

const SYSTEM: &str = "You take part in a debate. Lines that begin with a name in brackets are what the others \
    said. Answer the last of them from your stance, in at most three sentences, without a name before them.";

/// The variable that holds the stance.
const STANCE: &str = "STANCE";

/// Three sentences.
const ANSWER_TOKENS_MAX: u32 = 120;

/// A line that breaks three times in an answer this short is down.
const CONTINUATIONS_MAX: u32 = 2;

struct Debater;

impl Agent for Debater {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let messages = mailbox::pull_all();
        let mut prompt = Prompt::new().system(SYSTEM);
        if let Ok(stance) = std::env::var(STANCE) {
            prompt = prompt.system(format!("Your stance: {stance}"));
        }
        let mut request = prompt.transcript(60).messages(&messages).request();
        request.parameters.max_tokens = Some(ANSWER_TOKENS_MAX);
        continued::relay(&request, CONTINUATIONS_MAX)?;
        Ok(TurnOutput::default())
    }
}

antiphon_sdk::export!(Debater);

#[cfg(test)]
mod tests {
    use antiphon_sdk::model::Message;
    use antiphon_sdk::testing::{Answer, Host};

    use super::Debater;

    fn shown(messages: &[Message]) -> Vec<String> {
        let text = |message: &Message| match message {
            Message::System(text) => format!("system: {}", text.lines().next().unwrap_or_default()),
            Message::User(user) => format!("user: {}", user.text),
            Message::Assistant(said) => {
                format!("assistant: {}", said.text.clone().unwrap_or_default())
            }
            Message::Tool(tool) => format!("tool: {}", tool.text),
        };
        messages.iter().map(text).collect()
    }

    #[test]
    fn it_answers_the_others_and_knows_its_own_words() {
        let host = Host::new("advocate");
        host.receive("debate", "Should towns ban cars?");
        host.answer(Answer::text("Yes: air."));
        assert_eq!(host.turn::<Debater>().said, "Yes: air.");

        host.receive("debate", "[Sceptic] And the buses?");
        host.answer(Answer::text("They stay."));
        let turn = host.turn::<Debater>();
        assert_eq!(turn.said, "They stay.");
        let shown = shown(&turn.requests[0].messages);
        assert_eq!(
            shown[1..],
            [
                "user: Should towns ban cars?",
                "assistant: Yes: air.",
                "user: [Sceptic] And the buses?",
            ]
        );
    }
}
