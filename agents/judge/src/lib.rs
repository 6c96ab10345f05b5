//! Says whether a debate goes on: as `halt_on` of a conversation.
//!
//! After each turn it is told what was said. An answer that begins with `halt` ends the conversation, and the
//! rest of it is the reason; anything else lets it go on. Whatever the model says around it, only the line
//! that begins so counts, so that a talkative model ends nothing by accident.

use antiphon_sdk::mailbox;
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, continued, reply};

const SYSTEM: &str = "You judge a debate. Lines that begin with a name in brackets are what was said. If the \
    speakers agree, or repeat themselves, answer with one line: halt: and why, in a few words. Else answer: go on.";

/// One line.
const ANSWER_TOKENS_MAX: u32 = 60;

/// Nobody has read an answer that breaks off.
const REPETITIONS_MAX: u32 = 2;

struct Judge;

impl Agent for Judge {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        let messages = mailbox::pull_all();
        let mut request = Prompt::new()
            .system(SYSTEM)
            .transcript(60)
            .messages(&messages)
            .request();
        request.parameters.max_tokens = Some(ANSWER_TOKENS_MAX);
        let answer = continued::complete(&request, REPETITIONS_MAX)?;
        reply::say(verdict(&answer.text))?;
        Ok(TurnOutput::default())
    }
}

/// The line that decides.
fn verdict(answer: &str) -> &str {
    let mut lines = answer.lines().map(str::trim);
    lines
        .find(|line| {
            let word = line.split(|char: char| !char.is_ascii_alphabetic()).next();
            word.is_some_and(|word| word.eq_ignore_ascii_case("halt"))
        })
        .unwrap_or("go on")
}

antiphon_sdk::export!(Judge);

#[cfg(test)]
mod tests {
    use antiphon_sdk::testing::{Answer, Host};

    use super::{Judge, verdict};

    #[test]
    fn only_a_line_that_begins_with_it_ends_the_debate() {
        for (answer, expect) in [
            ("halt: they agree", "halt: they agree"),
            (
                "I think:\n  Halt. They repeat themselves.\nYes.",
                "Halt. They repeat themselves.",
            ),
            ("go on", "go on"),
            ("They should halt.", "go on"),
            ("halting would be wrong", "go on"),
            ("", "go on"),
        ] {
            assert_eq!(verdict(answer), expect, "{answer:?}");
        }
    }

    #[test]
    fn it_says_its_verdict_and_nothing_else() {
        let host = Host::new("judge");
        host.receive("debate", "[Advocate] Yes.\n[Sceptic] Yes.");
        host.answer(Answer::text("Well.\nhalt: both said yes"));
        assert_eq!(host.turn::<Judge>().said, "halt: both said yes");
    }
}
