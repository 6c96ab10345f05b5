//! What a turn did before its host was lost, so that it can do it again: PURE.
//!
//! A guest is deterministic but for what it hears from outside, and it heard nothing that is not
//! an entry. So its entries are consumed in journal order, each by the call that made it; what
//! it says is compared with what it said. The first call that finds no entry is the live edge.
//!
//! Invariant: nothing is answered from the record that was not asked the same way. Invariant:
//! every word before a recorded call is said again before that call.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::clock::Time;
use crate::id::{Seq, SlotName, TurnId};
use crate::journal::entry::{Entry, Observation, Payload, RetryReason};

/// An entry that the guest made, to be made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    pub seq: Seq,
    pub time: Time,
    pub payload: Payload,
    /// Bytes said before it.
    said: usize,
}

/// The guest does something else than it did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal has {recorded}, the agent {asked}")]
pub struct Differs {
    pub recorded: String,
    pub asked: String,
}

impl Differs {
    pub fn new(recorded: impl fmt::Display, asked: impl fmt::Display) -> Self {
        Self {
            recorded: recorded.to_string(),
            asked: asked.to_string(),
        }
    }
}

/// The record of one turn, as far as it is not consumed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replay {
    calls: VecDeque<Recorded>,
    spoken: String,
    /// Bytes of it said again.
    said: usize,
    /// Locks the guest believes it holds, with the entry in which it took them.
    held: BTreeMap<SlotName, Seq>,
    /// Calls that were made more than once.
    tried: BTreeMap<u32, Tried>,
}

/// How often a call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    pub attempts: u32,
    /// Those of them that the provider failed; the others were lost with a host.
    pub failures: u32,
}

impl Default for Tried {
    fn default() -> Self {
        Self {
            attempts: 1,
            failures: 0,
        }
    }
}

impl Replay {
    /// From the entries since the turn started; those of others are passed over.
    pub fn of(turn: &TurnId, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut replay = Self::default();
        for Entry { seq, time, payload } in entries {
            match payload {
                Payload::Spoke(spoke) if spoke.turn == *turn => replay.spoken.push_str(&spoke.text),
                Payload::Retried(retried) if retried.turn == *turn => {
                    if let Some(n) = retried.n {
                        let tried = replay.tried.entry(n).or_default();
                        tried.attempts = retried.attempt;
                        tried.failures += u32::from(retried.reason == RetryReason::Provider);
                    }
                }
                payload if payload.made_by() == Some(turn) => replay.calls.push_back(Recorded {
                    seq,
                    time,
                    payload,
                    said: replay.spoken.len(),
                }),
                _ => {}
            }
        }
        replay
    }

    /// Nothing is left to answer from.
    pub fn is_over(&self) -> bool {
        self.calls.is_empty() && self.said == self.spoken.len()
    }

    /// Entries and bytes that are left.
    pub fn rest(&self) -> (usize, usize) {
        (self.calls.len(), self.spoken.len() - self.said)
    }

    /// The entry that the next call must have made, left where it is.
    pub fn peek(&self) -> Option<&Recorded> {
        self.calls.front()
    }

    /// The next call: its entry, or none at the live edge.
    pub fn take(&mut self) -> Result<Option<Recorded>, Differs> {
        let Some(front) = self.calls.front() else {
            return match &self.spoken[self.said..] {
                "" => Ok(None),
                rest => Err(Differs::new(
                    format_args!("{} more bytes that it said", rest.len()),
                    "makes another call",
                )),
            };
        };
        if front.said != self.said {
            return Err(Differs::new(
                format_args!("{} bytes said before {}", front.said, describe(front)),
                format_args!("has said {}", self.said),
            ));
        }
        let recorded = self.calls.pop_front().expect("it was there a line above");
        match &recorded.payload {
            Payload::SlotLocked(locked) => {
                self.held.insert(locked.slot.clone(), recorded.seq);
            }
            Payload::SlotCommitted(committed) => drop(self.held.remove(&committed.slot)),
            Payload::SlotReleased(released) => drop(self.held.remove(&released.slot)),
            Payload::Observed(observed) => match &observed.what {
                Observation::SlotLost { slot } => drop(self.held.remove(slot)),
                Observation::CommitRefused { slot, error } if error == "lost" => {
                    self.held.remove(slot);
                }
                _ => {}
            },
            _ => {}
        }
        Ok(Some(recorded))
    }

    /// The guest says something: how many bytes of it were said before.
    pub fn say(&mut self, text: &str) -> Result<usize, Differs> {
        let rest = &self.spoken.as_bytes()[self.said..];
        let again = text.len().min(rest.len());
        if text.as_bytes()[..again] != rest[..again] {
            return Err(Differs::new(
                "other words in its place",
                format_args!("says {:?}", excerpt(text)),
            ));
        }
        if again < text.len()
            && let Some(front) = self.calls.front()
        {
            return Err(Differs::new(
                describe(front),
                format_args!("says {:?}", excerpt(&text[again..])),
            ));
        }
        self.said += again;
        Ok(again)
    }

    /// Bytes said so far in this attempt.
    pub fn said(&self) -> u64 {
        self.said as u64
    }

    /// Calls that were made more than once.
    pub fn tried(&self) -> &BTreeMap<u32, Tried> {
        &self.tried
    }

    /// Locks the guest believes it holds, each with the entry in which it took it.
    pub fn into_held(self) -> BTreeMap<SlotName, Seq> {
        self.held
    }
}

fn excerpt(text: &str) -> &str {
    &text[..text.floor_char_boundary(60)]
}

/// An entry in words, for whoever wrote the agent.
pub fn describe(recorded: &Recorded) -> String {
    let at = recorded.seq;
    let what = match &recorded.payload {
        Payload::Called(it) => format!("call {} of {:?} {:?}", it.n, it.call, it.target),
        Payload::Returned(it) => format!("the return of call {}", it.n),
        Payload::Streamed(it) => format!("pieces of call {}", it.n),
        Payload::Observed(it) => match serde_json::to_value(&it.what) {
            Ok(json) => format!("call {}, {}", it.n, json["call"].as_str().unwrap_or("read")),
            Err(_) => format!("call {}", it.n),
        },
        Payload::MessageSent(it) => format!("call {}, a message to {}", it.n, it.to),
        Payload::SlotLocked(it) => format!("the lock of slot {}", it.slot),
        Payload::SlotReleased(it) => format!("the release of slot {}", it.slot),
        Payload::SlotCommitted(it) => format!("call {}, the commit of slot {}", it.n, it.slot),
        other => other.kind().name().to_owned(),
    };
    format!("{what} (entry {at})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::script::{Script, name};

    fn replay(text: &str) -> Replay {
        let start = "open a b\ngot a\nstart r.t0.a takes=2 messages\n";
        let script = Script::run(&format!("{start}{text}")).expect("it is legal");
        Replay::of(&name("r.t0.a"), script.entries)
    }

    fn kinds(replay: &mut Replay) -> Vec<&'static str> {
        std::iter::from_fn(|| replay.take().expect("nothing differs"))
            .map(|recorded| recorded.payload.kind().name())
            .collect()
    }

    #[test]
    fn entries_come_in_their_order_and_others_are_passed_over() {
        let text = "got b\nstart s.t0.b takes=4 messages\ncall r.t0.a 0\nsee s.t0.b 0\nput x\n\
            see r.t0.a 1\nstream r.t0.a 0\nagain r.t0.a 2\nback r.t0.a 0\nend s.t0.b completed *";
        let mut replay = replay(text);
        assert_eq!(
            kinds(&mut replay),
            ["called", "observed", "streamed", "returned"]
        );
        assert!(replay.is_over());
    }

    #[test]
    fn words_are_one_string_whatever_their_borders() {
        let text = "spoke r.t0.a 0 ab\nspoke r.t0.a 2 cd\nsee r.t0.a 0\nspoke r.t0.a 4 ef";
        let mut replay = replay(text);
        assert_eq!(replay.say("abc"), Ok(3));
        assert_eq!(replay.say("d"), Ok(1));
        assert!(replay.take().unwrap().is_some());
        // What goes beyond the record is new.
        assert_eq!(replay.say("efgh"), Ok(2));
        assert!(replay.is_over());
        assert_eq!(replay.take(), Ok(None));
    }

    #[test]
    fn other_words_differ() {
        let text = "spoke r.t0.a 0 ab\nsee r.t0.a 0";
        assert!(replay(text).say("ax").is_err(), "another byte");
        assert!(replay(text).say("abc").is_err(), "more before a call");
        let mut less = replay(text);
        assert_eq!(less.say("a"), Ok(1));
        assert!(less.take().is_err(), "less before a call");
        let mut silent = replay("spoke r.t0.a 0 ab");
        assert!(silent.take().is_err(), "a call instead of words");
    }

    #[test]
    fn what_is_held_follows_the_guest_and_not_the_host() {
        let text = "lock r.t0.a 0 x\nlock r.t0.a 1 y\ncommit r.t0.a 2 y\nlost r.t0.a x\n\
            again r.t0.a 2\nretake r.t0.a x\nsee r.t0.a 3\nlost r.t0.a x";
        let mut replay = replay(text);
        assert_eq!(kinds(&mut replay).len(), 4);
        let held: Vec<(SlotName, Seq)> = replay.into_held().into_iter().collect();
        assert_eq!(held, [(name("x"), Seq(4))]);
    }
}
