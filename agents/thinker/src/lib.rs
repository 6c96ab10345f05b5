//! Thinks beside the talk, for as long as it takes, and writes what it found into the slot
//! `analysis`.
//!
//! It says nothing to people. Holding the slot's lock is how everybody, models included,
//! sees that a newer analysis is on its way; committing wakes whoever watches the slot. If
//! the work fails, the lock goes with the turn, the older analysis stands, and the messages
//! are given to another turn.

use std::time::Duration;

use antiphon_sdk::kernel::{self, CommitError, LockError};
use antiphon_sdk::mailbox::{self, Message};
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, continued, log, model};

const SLOT: &str = "analysis";

/// Messages that are left wake nobody again, so the thinker has to look for itself.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

const SYSTEM: &str = "You think about what people talk about in a conversation that you only \
    listen to. Take your time. Nobody reads your words but you, until the analysis.";

/// Each step is shown what the steps before it found.
const STEPS: [&str; 3] = [
    "List the points that matter here, and what is not known.",
    "Examine each point: what speaks for it, what against it, what follows.",
    "Write the analysis for somebody who will tell the people about it: the result first, \
     then the reasons, then what stays open. Plain text, no preamble.",
];

/// A step whose answer breaks off is asked again so often: nobody has read it.
const REPETITIONS_MAX: u32 = 3;

/// Half a page for each step: the steps after it read it too, and small models hold little.
const STEP_TOKENS_MAX: u32 = 200;

struct Thinker;

impl Agent for Thinker {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        if mailbox::pending().is_empty() {
            return Ok(TurnOutput::default());
        }
        // Before the messages are pulled: what is not pulled stays where it is.
        let lock = match kernel::lock(SLOT) {
            Ok(lock) => lock,
            Err(LockError::Held(turn)) => {
                log::info(&format!("{SLOT} is being written by {turn}"));
                return Ok(TurnOutput::wake_in(LOOK_AGAIN));
            }
            Err(error) => return Err(error.into()),
        };
        let analysis = think(&mailbox::pull_all())?;
        match lock.commit(&analysis) {
            Ok(_) => Ok(TurnOutput::default()),
            // The analysis does not know what was written meanwhile: the turn fails, and
            // its messages are thought about again.
            Err(CommitError::Lost) => Err(AgentError::Unavailable(format!(
                "somebody else wrote {SLOT} meanwhile"
            ))),
            Err(error) => Err(error.into()),
        }
    }
}

fn think(messages: &[Message]) -> Result<String, AgentError> {
    let prompt = Prompt::new()
        .system(SYSTEM)
        .slot(SLOT)
        .transcript(100)
        .messages(messages);
    let mut request = prompt.request();
    request.parameters.max_tokens = Some(STEP_TOKENS_MAX);
    let mut found = String::new();
    for step in STEPS {
        request.messages.push(model::Message::user(step));
        found = continued::complete(&request, REPETITIONS_MAX)?.text;
        request.messages.push(model::Message::assistant(&found));
    }
    Ok(found)
}

antiphon_sdk::export!(Thinker);

#[cfg(test)]
mod tests {
    use antiphon_sdk::AgentError;
    use antiphon_sdk::kernel::SlotState;
    use antiphon_sdk::mailbox::{Body, Sender};
    use antiphon_sdk::model::ModelError;
    use antiphon_sdk::testing::{Answer, Host, Turn};

    use super::{LOOK_AGAIN, STEPS, Thinker};

    fn asked() -> Host {
        let host = Host::new("thinker");
        host.receive_from(
            Sender::Agent("talker".to_owned()),
            Body::Text("Porto?".to_owned()),
        );
        host
    }

    #[test]
    fn writes_the_last_step_into_the_slot_and_says_nothing() {
        let host = asked();
        host.answer(Answer::text("points"))
            .answer(Answer::text("examined"));
        host.answer(Answer::text("Go.").meanwhile(|host| {
            assert!(matches!(host.slot_state("analysis"), SlotState::Locked(_)));
            assert_eq!(host.document("analysis"), None);
        }));
        let turn = host.turn::<Thinker>();

        assert_eq!(turn.output().wake_at, None);
        assert_eq!((turn.said.as_str(), turn.consumed.len()), ("", 1));
        let slot = host.slot("analysis").expect("it was committed");
        assert_eq!(
            (slot.content.as_str(), slot.state),
            ("Go.", SlotState::Idle)
        );
        assert_eq!(turn.requests.len(), STEPS.len());
        for (earlier, later) in turn.requests.iter().zip(&turn.requests[1..]) {
            assert!(later.messages.starts_with(&earlier.messages));
        }
    }

    #[test]
    fn leaves_the_messages_while_somebody_else_writes_and_looks_again() {
        let host = asked();
        host.lock("analysis", "run-9.t0.other");
        let turn = host.turn::<Thinker>();

        assert_eq!((turn.left.len(), turn.requests.len()), (1, 0));
        assert!(turn.output().wake_at.is_some());
        assert_eq!(host.logs().len(), 1);

        host.commit("analysis", "theirs").advance(LOOK_AGAIN);
        for text in ["points", "examined", "ours"] {
            host.answer(Answer::text(text));
        }
        assert_eq!(host.turn::<Thinker>().consumed.len(), 1);
        assert_eq!(host.document("analysis").as_deref(), Some("ours"));
    }

    #[test]
    fn a_lost_lock_leaves_the_other_document_and_thinks_again() {
        let host = asked();
        host.answer(Answer::text("points"))
            .answer(Answer::text("examined"));
        host.answer(Answer::text("ours").meanwhile(|host| {
            host.lose_lock("analysis").commit("analysis", "theirs");
        }));
        assert_failed_and_left(&host.turn::<Thinker>());
        assert_eq!(host.document("analysis").as_deref(), Some("theirs"));
    }

    #[test]
    fn a_model_that_fails_frees_the_slot() {
        let host = asked();
        host.answer(Answer::text("points"))
            .answer(Answer::error(ModelError::OverBudget));
        assert_failed_and_left(&host.turn::<Thinker>());
        assert_eq!(host.slot_state("analysis"), SlotState::Idle);
        assert_eq!(host.document("analysis"), None);
    }

    fn assert_failed_and_left(turn: &Turn) {
        assert!(matches!(turn.result, Err(AgentError::Unavailable(_))));
        assert_eq!((turn.left.len(), turn.consumed.len()), (1, 0));
    }
}
