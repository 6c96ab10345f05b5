//! What a turn did before its host was lost, so that it can do it again: PURE.
//!
//! A guest is deterministic but for what it hears from outside, and it heard nothing that is not
//! an entry. So its entries are consumed in journal order, each by the call that made it; what
//! it says is compared with what it said. The first call that finds no entry is the live edge.
//!
//! Invariant: nothing is answered from the record that was not asked the same way. Invariant:
//! every word before a recorded call is said again before that call. A closed record has no
//! live edge: whoever goes beyond it does something else than it says.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::clock::Time;
use crate::id::{Seq, SlotName, TurnId};
use crate::journal::entry::{CallKind, Entry, Observation, Observed, Payload, RetryReason};
use crate::model::Request;

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
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the journal has {recorded}, the agent {asked}")]
pub struct Differs {
    /// The entry that it does not do again; none if it is about words, or at the record's end.
    pub at: Option<Seq>,
    pub recorded: String,
    pub asked: String,
    /// What it asks a model, if it does. Not part of the text, which people are shown.
    pub request: Option<Box<Request>>,
}

impl Differs {
    fn new(recorded: impl fmt::Display, asked: impl fmt::Display) -> Self {
        Self {
            at: None,
            recorded: recorded.to_string(),
            asked: asked.to_string(),
            request: None,
        }
    }

    /// Another call than the recorded one.
    pub fn at(recorded: &Recorded, asked: impl fmt::Display) -> Self {
        Self {
            at: Some(recorded.seq),
            ..Self::new(describe(recorded), asked)
        }
    }

    pub fn asking(self, request: &Request) -> Self {
        Self {
            request: Some(Box::new(request.clone())),
            ..self
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
    /// Calls made again; one that leaves the host is one, whatever it brought.
    made: usize,
    /// The entry of the newest of them.
    newest: Option<Seq>,
    /// There is no live edge after it.
    is_closed: bool,
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
                payload if is_part(&payload, turn) => replay.calls.push_back(Recorded {
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

    /// Whether call `n` came back, in what is left of the record.
    pub fn has_returned(&self, n: u32) -> bool {
        let is_it =
            |recorded: &Recorded| matches!(&recorded.payload, Payload::Returned(it) if it.n == n);
        self.calls.iter().any(is_it)
    }

    /// The entry that the next call must have made, left where it is.
    pub fn peek(&self) -> Option<&Recorded> {
        self.calls.front()
    }

    /// Nothing follows this record: the guest may do what it did, and nothing more.
    pub fn closed(self) -> Self {
        Self {
            is_closed: true,
            ..self
        }
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The next call, which asks for this: its entry, or none at the live edge.
    pub fn take(&mut self, asked: impl Fn() -> String) -> Result<Option<Recorded>, Differs> {
        let Some(front) = self.calls.front() else {
            return match &self.spoken[self.said..] {
                "" if self.is_closed => Err(Differs::new("nothing more", asked())),
                "" => Ok(None),
                rest => Err(Differs::new(words(rest), asked())),
            };
        };
        if front.said != self.said {
            let rest = &self.spoken[self.said..front.said];
            return Err(Differs::new(words(rest), asked()));
        }
        let recorded = self.calls.pop_front().expect("it was there a line above");
        if is_call(&recorded.payload) {
            self.made += 1;
            self.newest = Some(recorded.seq);
        }
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
        let until = self
            .calls
            .front()
            .map_or(self.spoken.len(), |next| next.said);
        let rest = &self.spoken[self.said..until];
        let again = common(rest, text);
        let (rest, new) = (&rest[again..], &text[again..]);
        let says = || format!("says {:?}", excerpt(new));
        let differs = match (rest, self.calls.front()) {
            _ if new.is_empty() => None,
            ("", Some(front)) => Some(Differs::at(front, says())),
            ("", None) if self.is_closed => Some(Differs::new("nothing more", says())),
            ("", None) => None,
            _ => Some(Differs::new(words(rest), says())),
        };
        self.said += again;
        differs.map_or(Ok(again), Err)
    }

    /// The guest is done: an error if it leaves something undone that it had done.
    pub fn finish(&self) -> Result<(), Differs> {
        self.left().map_or(Ok(()), Err)
    }

    /// What is left of the record, as the difference of a guest that is done.
    pub fn left(&self) -> Option<Differs> {
        let (next, until) = match self.calls.front() {
            Some(next) => (Some(next), next.said),
            None => (None, self.spoken.len()),
        };
        match (&self.spoken[self.said..until], next) {
            ("", next) => next.map(|next| Differs::at(next, "is done")),
            (rest, _) => Some(Differs::new(words(rest), "is done")),
        }
    }

    /// All its calls, made again or not.
    pub fn calls(&self) -> usize {
        let left = self.calls.iter().filter(|next| is_call(&next.payload));
        self.made + left.count()
    }

    /// All that was said, now or then.
    pub fn words(&self) -> &str {
        &self.spoken
    }

    /// Calls made again so far, up to where one differs.
    pub fn made(&self, differs_at: Option<Seq>) -> usize {
        let differs = differs_at.is_some() && differs_at == self.newest;
        self.made - usize::from(differs)
    }

    /// What was said again so far.
    pub fn spoken(&self) -> &str {
        &self.spoken[..self.said]
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

/// Recorded words that are not said again.
fn words(text: &str) -> String {
    format!("the words {:?}", excerpt(text))
}

/// Bytes that both begin with, whole characters.
fn common(one: &str, other: &str) -> usize {
    let both = one.bytes().zip(other.bytes());
    one.floor_char_boundary(both.take_while(|(one, other)| one == other).count())
}

/// Whether the entry is part of what the turn's guest did, or of what it was answered.
fn is_part(payload: &Payload, turn: &TurnId) -> bool {
    match payload {
        Payload::Answered(it) => it.turn == *turn,
        payload => payload.made_by() == Some(turn),
    }
}

/// Whether a call begins with the entry. What comes back of one is part of it.
fn is_call(payload: &Payload) -> bool {
    !matches!(
        payload,
        Payload::Streamed(_) | Payload::Returned(_) | Payload::Answered(_)
    )
}

/// An entry in words, for whoever wrote the agent.
pub fn describe(recorded: &Recorded) -> String {
    let at = recorded.seq;
    let what = match &recorded.payload {
        Payload::Called(it) => match it.call {
            CallKind::Model => format!("call {}, asking the model {:?}", it.n, it.target),
            CallKind::Timer => format!("call {}, sleeping {} ms", it.n, it.target),
            CallKind::Http => format!("call {}, requesting {:?}", it.n, it.target),
        },
        Payload::AgentCalled(it) => format!("call {}, calling the agent {}", it.n, it.agent),
        Payload::Returned(it) => format!("the return of call {}", it.n),
        Payload::Streamed(it) => format!("pieces of call {}", it.n),
        Payload::Observed(it) => observation(it),
        Payload::MessageSent(it) => format!("call {}, a message to {}", it.n, it.to),
        Payload::SlotLocked(it) => format!("the lock of slot {}", it.slot),
        Payload::SlotReleased(it) => format!("the release of slot {}", it.slot),
        Payload::SlotCommitted(it) => format!("call {}, the commit of slot {}", it.n, it.slot),
        Payload::ToolsCalled(it) => format!("call {}, asking for tools", it.n),
        Payload::Asked(it) => format!("call {}, asking {:?}", it.n, excerpt(&it.text)),
        Payload::Answered(it) => format!("the answer of call {}", it.n),
        Payload::SpeakerStarted(it) => {
            format!("the start of turn {} of {:?}", it.index, it.speaker)
        }
        Payload::SpeakerEnded(it) => format!("the end of turn {} of {:?}", it.index, it.speaker),
        Payload::Halted(it) => format!("the halt {}", it.halt.name()),
        other => other.kind().name().to_owned(),
    };
    format!("{what} (entry {at})")
}

/// Its word, and what it is about where that is a name.
fn observation(observed: &Observed) -> String {
    let json = serde_json::to_value(&observed.what).unwrap_or_default();
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let about = ["slot", "message", "to", "agent"]
        .into_iter()
        .find_map(text);
    let about = about.map_or_else(String::new, |about| format!(" of {about}"));
    let word = text("call").unwrap_or_else(|| "read".to_owned());
    format!("call {}, {word}{about}", observed.n)
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

    fn asked() -> String {
        "asks".to_owned()
    }

    fn kinds(replay: &mut Replay) -> Vec<&'static str> {
        std::iter::from_fn(|| replay.take(asked).expect("nothing differs"))
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
    fn an_answer_is_part_of_the_question_before_it() {
        let text = "spoke r.t0.a 0 ab\nask r.t0.a 0 yes no\nanswer r.t0.a 0 yes\nagain r.t0.a 2 answered\n\
            see r.t0.a 1";
        let mut replay = replay(text);
        assert_eq!(replay.say("ab"), Ok(2));
        assert_eq!(kinds(&mut replay), ["asked", "answered", "observed"]);
        assert!(replay.is_over());
        assert_eq!(replay.calls(), 2);
    }

    #[test]
    fn words_are_one_string_whatever_their_borders() {
        let text = "spoke r.t0.a 0 ab\nspoke r.t0.a 2 cd\nsee r.t0.a 0\nspoke r.t0.a 4 ef";
        let mut replay = replay(text);
        assert_eq!(replay.say("abc"), Ok(3));
        assert_eq!(replay.say("d"), Ok(1));
        assert!(replay.take(asked).unwrap().is_some());
        // What goes beyond the record is new.
        assert_eq!(replay.say("efgh"), Ok(2));
        assert!(replay.is_over());
        assert_eq!(replay.take(asked), Ok(None));
    }

    #[test]
    fn other_words_differ() {
        let text = "spoke r.t0.a 0 ab\nsee r.t0.a 0";
        assert!(replay(text).say("ax").is_err(), "another byte");
        assert!(replay(text).say("abc").is_err(), "more before a call");
        let mut less = replay(text);
        assert_eq!(less.say("a"), Ok(1));
        assert!(less.take(asked).is_err(), "less before a call");
        let mut silent = replay("spoke r.t0.a 0 ab");
        assert!(silent.take(asked).is_err(), "a call instead of words");
    }

    #[test]
    fn a_closed_record_has_no_live_edge() {
        let text = "spoke r.t0.a 0 ab\nsee r.t0.a 0\nspoke r.t0.a 2 cd";
        let mut closed = replay(text).closed();
        assert_eq!(closed.say("ab"), Ok(2));
        assert!(closed.take(asked).unwrap().is_some());
        assert_eq!((closed.made(None), closed.calls()), (1, 1));
        assert_eq!(closed.made(Some(Seq(5))), 0, "it was another call");
        assert_eq!(closed.say("c"), Ok(1));
        let differs = closed.clone().take(asked).unwrap_err();
        assert_eq!(
            differs.to_string(),
            r#"the journal has the words "d", the agent asks"#
        );
        let differs = closed.say("dé").unwrap_err();
        assert_eq!(
            differs.to_string(),
            r#"the journal has nothing more, the agent says "é""#
        );
        assert!(closed.is_over(), "what it said before that is said");
        assert_eq!((closed.spoken(), closed.words()), ("abcd", "abcd"));
        assert_eq!(
            closed.take(asked).unwrap_err().to_string(),
            "the journal has nothing more, the agent asks"
        );
    }

    #[test]
    fn a_difference_names_both_sides() {
        let check = |text: &str, does: &dyn Fn(&mut Replay) -> Option<Differs>, expect: &str| {
            let differs = does(&mut replay(text)).expect("it differs");
            assert_eq!(differs.to_string(), format!("the journal has {expect}"));
        };
        let text = "see r.t0.a 0\nspoke r.t0.a 0 one-two";
        let say = |it: &mut Replay| it.say("one-three").err();
        check(
            text,
            &say,
            r#"call 0, slot-names (entry 4), the agent says "one-three""#,
        );
        let leave = |it: &mut Replay| it.finish().err();
        check(
            text,
            &leave,
            "call 0, slot-names (entry 4), the agent is done",
        );
        let text = "spoke r.t0.a 0 one-two\nlock r.t0.a 0 x";
        check(text, &say, r#"the words "wo", the agent says "hree""#);
        let silent = |it: &mut Replay| it.take(asked).err();
        check(text, &silent, r#"the words "one-two", the agent asks"#);
        check(text, &leave, r#"the words "one-two", the agent is done"#);
        let more = |it: &mut Replay| it.say("one-two-three").err();
        check(
            text,
            &more,
            r#"the lock of slot x (entry 5), the agent says "-three""#,
        );
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
