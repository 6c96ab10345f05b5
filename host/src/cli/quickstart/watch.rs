//! PURE: what must happen in the quickstart's conversation, and what of it has.

use std::collections::{HashMap, HashSet};

use antiphon::id::TurnId;
use antiphon::journal::entry::{Cause, Fate, Outcome, Payload};

use super::super::event::Event;

#[derive(Debug)]
pub(super) struct Watch {
    talker: &'static str,
    slot: &'static str,
    sent: usize,
    answered: HashSet<String>,
    /// Turns that run, of all agents.
    turns: HashMap<TurnId, Turn>,
    /// Messages that no turn has finished with, to all agents.
    waiting: HashSet<String>,
    commits: u32,
    /// Words of the talker, in order.
    words: String,
    /// The newest commit was told.
    is_told: bool,
    failure: Option<String>,
}

#[derive(Debug, Default)]
struct Turn {
    inputs: Vec<String>,
    is_talk: bool,
    /// The commits that had been made when it was started because of one.
    tells: Option<u32>,
    spoke: bool,
}

impl Watch {
    pub(super) fn new(talker: &'static str, slot: &'static str) -> Self {
        Self {
            talker,
            slot,
            sent: 0,
            answered: HashSet::new(),
            turns: HashMap::new(),
            waiting: HashSet::new(),
            commits: 0,
            words: String::new(),
            is_told: false,
            failure: None,
        }
    }

    /// A message was taken by the server.
    pub(super) fn sent(&mut self, _message: String) {
        self.sent += 1;
    }

    pub(super) fn words(&self) -> &str {
        &self.words
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn event(&mut self, event: &Event) {
        match &event.payload {
            Some(Payload::MessageReceived(message)) => {
                self.waiting.insert(message.message.to_string());
            }
            Some(Payload::MessageSent(message)) => {
                self.waiting.insert(message.message.to_string());
            }
            Some(Payload::TurnStarted(turn)) => {
                let because_of_slot = turn
                    .causes
                    .iter()
                    .any(|cause| matches!(cause, Cause::Slot(slot) if slot.as_str() == self.slot));
                let started = Turn {
                    inputs: turn.inputs.iter().map(ToString::to_string).collect(),
                    is_talk: turn.agent.as_str() == self.talker,
                    tells: because_of_slot.then_some(self.commits),
                    spoke: false,
                };
                self.turns.insert(turn.turn.clone(), started);
            }
            Some(Payload::Spoke(spoke)) if spoke.agent.as_str() == self.talker => {
                self.words.push_str(&spoke.text);
                if let Some(turn) = self.turns.get_mut(&spoke.turn) {
                    turn.spoke |= !spoke.text.is_empty();
                }
            }
            Some(Payload::SlotCommitted(commit)) if commit.slot.as_str() == self.slot => {
                self.commits += 1;
                self.is_told = false;
            }
            Some(Payload::TurnEnded(ended)) => {
                if ended.outcome == Outcome::Failed {
                    let why = ended.error.as_ref().map_or_else(String::new, |error| {
                        format!(" ({}): {}", error.code.name(), error.message)
                    });
                    self.failure = Some(format!("{}'s turn failed{why}", ended.agent));
                }
                for input in ended
                    .inputs
                    .iter()
                    .filter(|input| input.fate != Fate::Returned)
                {
                    self.waiting.remove(input.message.as_str());
                }
                if let Some(turn) = self.turns.remove(&ended.turn)
                    && turn.is_talk
                    && turn.spoke
                {
                    self.answered.extend(turn.inputs);
                    self.is_told |= turn.tells == Some(self.commits);
                }
            }
            _ => {}
        }
    }

    /// All of it happened, and nothing more is under way: the thinker may write again, and
    /// the talker tells that too.
    pub(super) fn is_complete(&self) -> bool {
        self.missing().is_empty() && self.turns.is_empty() && self.waiting.is_empty()
    }

    /// What was waited for in vain.
    pub(super) fn explain_missing(&self) -> String {
        match self.missing() {
            missing if missing.is_empty() => "turns still run, or messages wait".to_owned(),
            missing => format!("there was no {missing}"),
        }
    }

    /// What has not happened yet, for a person.
    pub(super) fn missing(&self) -> String {
        let mut missing = Vec::new();
        if self.answered.len() < self.sent.max(1) {
            missing.push(format!("reply of {}", self.talker));
        }
        if self.commits == 0 {
            missing.push(format!("slot `{}`", self.slot));
        }
        if !self.is_told {
            missing.push(format!("reply of {} to the slot", self.talker));
        }
        missing.join(", no ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::event::tests::event;
    use super::*;

    fn started(turn: &str, inputs: &[&str], cause: serde_json::Value) -> Event {
        event(
            1,
            0,
            json!({"kind": "turn-started", "turn": turn, "run": "r", "agent": "talker",
            "inputs": inputs, "causes": [cause], "attempt": 1}),
        )
    }

    fn spoke(turn: &str, text: &str) -> Event {
        event(
            2,
            0,
            json!({"kind": "spoke", "turn": turn, "agent": "talker", "text": text, "at": 0}),
        )
    }

    fn ended(turn: &str) -> Event {
        event(
            3,
            0,
            json!({"kind": "turn-ended", "turn": turn, "agent": "talker",
            "outcome": "completed", "usage": {}, "inputs": []}),
        )
    }

    #[test]
    fn it_is_complete_when_all_of_it_happened() {
        let mut watch = Watch::new("talker", "analysis");
        watch.sent("s:1".into());
        watch.sent("s:2".into());
        let commit = event(
            4,
            0,
            json!({"kind": "slot-committed", "slot": "analysis",
            "version": 4, "by": {"agent": "thinker"}, "bytes": 1}),
        );
        let steps = [
            (
                started("a", &["s:1", "s:2"], json!("messages")),
                "reply of talker, no slot",
            ),
            (spoke("a", "At once. "), "reply of talker, no slot"),
            (
                ended("a"),
                "slot `analysis`, no reply of talker to the slot",
            ),
            (commit.clone(), "reply of talker to the slot"),
            (
                started("b", &[], json!({"slot": "analysis"})),
                "reply of talker to the slot",
            ),
            (spoke("b", "Now."), "reply of talker to the slot"),
            // The thinker writes again meanwhile, so the talker is not done.
            (commit, "reply of talker to the slot"),
            (ended("b"), "reply of talker to the slot"),
            (
                started("c", &[], json!({"slot": "analysis"})),
                "reply of talker to the slot",
            ),
            (spoke("c", " And more."), "reply of talker to the slot"),
            (ended("c"), ""),
        ];
        for (event, missing) in steps {
            assert!(!watch.is_complete());
            watch.event(&event);
            assert!(watch.missing().starts_with(missing), "{}", watch.missing());
        }
        assert!(watch.is_complete());
        assert_eq!(watch.words(), "At once. Now. And more.");
    }
}
