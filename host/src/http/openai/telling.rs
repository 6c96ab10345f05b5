//! PURE: what of a message's entries its asker is told, and how it ended.

use crate::clock::Time;
use crate::journal::codec::Encoded;
use crate::journal::entry::{Kind, Outcome, Payload, ToolCall, Usage};
use crate::session::outcome::{Standing, Taken, Tracker};

/// The next thing that is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// The message is in the journal.
    Received(Time),
    /// A turn has taken it.
    Begun,
    /// More of the answer.
    Words(String),
    /// The caller is asked to call tools. No words follow.
    Calls(Vec<ToolCall>),
    Over(Standing),
}

/// Where the telling of one message is.
#[derive(Debug, Default)]
pub(super) struct Steps {
    is_received: bool,
    is_begun: bool,
    /// Bytes of the answer that were told.
    told: usize,
    has_called: bool,
}

impl Steps {
    /// What an entry adds, now that the tracker has it.
    pub(super) fn next(&mut self, encoded: &Encoded, tracker: &Tracker) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.is_received {
            self.is_received = true;
            steps.push(Step::Received(encoded.time));
        }
        if !self.is_begun && tracker.turn().is_some() {
            self.is_begun = true;
            steps.push(Step::Begun);
        }
        // The tracker has read it, so it can be read.
        if matches!(encoded.kind, Kind::Spoke | Kind::ToolsCalled)
            && tracker.concerns(encoded)
            && let Ok(entry) = encoded.decode()
        {
            match entry.payload {
                Payload::Spoke(spoke) => {
                    self.told += spoke.text.len();
                    steps.push(Step::Words(spoke.text));
                }
                Payload::ToolsCalled(called) => {
                    self.has_called = true;
                    steps.push(Step::Calls(called.calls));
                }
                _ => {}
            }
        }
        if tracker.is_over() {
            let standing = tracker.standing();
            // A turn that ran already when the message came is known for its own only at its end.
            if let Standing::Done(taken) = &standing {
                let rest = taken.reply.get(self.told..);
                if let Some(rest) = rest.filter(|it| !it.is_empty()) {
                    steps.push(Step::Words(rest.to_owned()));
                }
                if !self.has_called && !taken.calls.is_empty() {
                    steps.push(Step::Calls(taken.calls.clone()));
                }
            }
            steps.push(Step::Over(standing));
        }
        steps
    }
}

/// How an answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    InProgress,
    Completed,
    /// Somebody stopped it: what was shown is all there is.
    Interrupted,
    Cancelled,
    Failed,
}

impl Status {
    pub(super) fn of(standing: &Standing) -> Self {
        match standing {
            Standing::Open(None) => Self::Queued,
            Standing::Open(Some(_)) => Self::InProgress,
            Standing::SetAside(reason) if reason == "cancelled" => Self::Cancelled,
            Standing::SetAside(_) => Self::Failed,
            Standing::Done(taken) => match taken.ended.as_ref().map(|ended| ended.outcome) {
                Some(Outcome::Completed) => Self::Completed,
                Some(Outcome::Interrupted) => Self::Interrupted,
                Some(Outcome::Cancelled) => Self::Cancelled,
                Some(Outcome::Failed | Outcome::Refused) | None => Self::Failed,
            },
        }
    }
}

/// The turn, if one took the message.
pub(super) fn taken(standing: &Standing) -> Option<&Taken> {
    match standing {
        Standing::Open(taken) => taken.as_ref(),
        Standing::Done(taken) => Some(taken),
        Standing::SetAside(_) => None,
    }
}

/// What its turn used, once it is over.
pub(super) fn usage(standing: &Standing) -> Option<Usage> {
    Some(taken(standing)?.ended.as_ref()?.usage)
}
