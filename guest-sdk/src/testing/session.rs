//! The state of the testing host: one session as its agent's turns see it.
//!
//! Invariant: everything in the session's one order has a `seq`, taken from one counter.
//! A running turn sees of messages and transcript what has a seq below its start.

use std::collections::{HashMap, VecDeque};

use super::answer::{Answer, Kept};
use super::context::Context;
use super::slots::Slots;
use super::{Limits, Logged, Sent, Turn};
use crate::agent::{AgentError, Cause, TurnInput, TurnOutput};
use crate::agents::CallError;
use crate::http;
use crate::kernel::{CommitError, LockError, SlotState};
use crate::mailbox::{Body, Header, Message, Sender};
use crate::model::{Request, Tool, ToolCall};
use crate::questions::{Answer as Answered, Question};
use crate::transcript::{Author, Ending, Item};

/// 2026-01-01T00:00:00Z: a round time that no test mistakes for now.
const START: u64 = 1_767_225_600_000;

pub(super) struct Session {
    pub(super) agent: String,
    pub(super) peers: Vec<String>,
    pub(super) watches: Vec<String>,
    pub(super) instructions: Option<String>,
    pub(super) tools: Vec<Tool>,
    pub(super) limits: Limits,
    pub(super) now: u64,
    pub(super) context: Context,
    pub(super) answers: VecDeque<Answer>,
    /// Answers that may be given again.
    pub(super) kept: Vec<Kept>,
    /// By agent that can be called.
    pub(super) replies: HashMap<String, VecDeque<Result<String, CallError>>>,
    /// Of people; none is nobody's.
    pub(super) answered: VecDeque<Option<Answered>>,
    pub(super) requests: Vec<Request>,
    pub(super) responses: VecDeque<Result<http::Response, http::HttpError>>,
    /// All requests to places outside.
    pub(super) fetched: Vec<http::Request>,
    pub(super) logs: Vec<Logged>,
    pub(super) running: Option<Running>,
    seq: u64,
    turns: u64,
    pub(super) slots: Slots,
    letters: Vec<Letter>,
    words: Vec<Words>,
    wake_at: Option<u64>,
}

/// The turn that is running.
pub(super) struct Running {
    pub(super) id: String,
    pub(super) context: Context,
    pub(super) said: String,
    pub(super) sent: Vec<Sent>,
    pub(super) called: Vec<Sent>,
    pub(super) called_tools: Vec<ToolCall>,
    pub(super) asked: Vec<Question>,
    /// Of models, on their way.
    pub(super) open_answers: u32,
    pub(super) calls: u64,
    causes: Vec<Cause>,
    /// The messages that it was started with.
    offered: Vec<String>,
    start: u64,
    requests_before: usize,
    fetched_before: usize,
    /// When the first word was said: the place of this turn's words in the transcript.
    spoke: Option<u64>,
}

/// A message to the agent.
struct Letter {
    message: Message,
    seq: u64,
    state: Letterbox,
    /// A turn was started for it, so it starts no other.
    offered: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Letterbox {
    Waiting,
    Pulled,
    Consumed,
}

/// What an agent said in one turn.
struct Words {
    item: Item,
    seq: u64,
}

impl Session {
    pub(super) fn new(agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            peers: Vec::new(),
            watches: Vec::new(),
            instructions: None,
            tools: Vec::new(),
            limits: Limits::default(),
            now: START,
            context: Context::default(),
            answers: VecDeque::new(),
            kept: Vec::new(),
            replies: HashMap::new(),
            answered: VecDeque::new(),
            requests: Vec::new(),
            responses: VecDeque::new(),
            fetched: Vec::new(),
            logs: Vec::new(),
            running: None,
            seq: 0,
            turns: 0,
            slots: Slots::default(),
            letters: Vec::new(),
            words: Vec::new(),
            wake_at: None,
        }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn running(&mut self) -> &mut Running {
        self.running
            .as_mut()
            .expect("the host is installed only while a turn runs")
    }

    pub(super) fn count_call(&mut self) {
        self.running().calls += 1;
    }
}

/// Turns.
impl Session {
    /// Why a turn would start now.
    pub(super) fn due(&self) -> Vec<Cause> {
        let mut causes = Vec::new();
        if self.letters.iter().any(|letter| !letter.offered) {
            causes.push(Cause::Messages);
        }
        let watched = self.watches.iter().filter(|name| self.slots.has_news(name));
        causes.extend(watched.cloned().map(Cause::Slot));
        if self.wake_at.is_some_and(|time| time <= self.now) {
            causes.push(Cause::Wake);
        }
        causes
    }

    pub(super) fn start_turn(&mut self, causes: Vec<Cause>) -> TurnInput {
        assert!(self.running.is_none(), "an agent has one turn at a time");
        self.turns += 1;
        let mut headers = Vec::new();
        for letter in self.letters.iter_mut().filter(|letter| !letter.offered) {
            letter.offered = true;
            headers.push(letter.message.header.clone());
        }
        self.slots.clear_news();
        self.wake_at = None;
        let start = self.next_seq();
        self.running = Some(Running {
            id: format!("run-{}.t0.{}", self.turns, self.agent),
            context: self.context.clone(),
            said: String::new(),
            sent: Vec::new(),
            called: Vec::new(),
            called_tools: Vec::new(),
            asked: Vec::new(),
            open_answers: 0,
            calls: 0,
            causes: causes.clone(),
            offered: headers
                .iter()
                .map(|header: &Header| header.id.clone())
                .collect(),
            start,
            requests_before: self.requests.len(),
            fetched_before: self.fetched.len(),
            spoke: None,
        });
        TurnInput { causes, headers }
    }

    pub(super) fn end_turn(&mut self, result: Result<TurnOutput, AgentError>) -> Turn {
        let running = self.running.take().expect("the turn that ends was started");
        self.slots.unlock_all(&running.id);
        let completed = result.is_ok();
        if let Ok(output) = &result {
            self.context = running.context;
            self.context.age();
            self.wake_at = output.wake_at;
        }
        if let Some(seq) = running.spoke {
            let end = if completed {
                Ending::Complete
            } else {
                Ending::Failed
            };
            self.spoken(
                seq,
                self.agent.clone(),
                &running.said,
                running.id.clone(),
                end,
            );
        }

        // Words that were shown cannot be taken back, so their cause is not tried again.
        let showed = running.spoke.is_some()
            || !running.called_tools.is_empty()
            || !running.asked.is_empty();
        let consumes = completed || showed;
        let (mut consumed, mut left) = (Vec::new(), Vec::new());
        for letter in self
            .letters
            .iter_mut()
            .filter(|letter| letter.seq < running.start)
        {
            let id = letter.message.header.id.clone();
            match letter.state {
                Letterbox::Consumed => {}
                Letterbox::Pulled if consumes => {
                    letter.state = Letterbox::Consumed;
                    consumed.push(id);
                }
                Letterbox::Pulled | Letterbox::Waiting => {
                    letter.state = Letterbox::Waiting;
                    letter.offered &= consumes || !running.offered.contains(&id);
                    left.push(id);
                }
            }
        }
        if !consumes {
            for slot in running.causes.iter().filter_map(Cause::as_slot) {
                self.slots.set_news(slot);
            }
        }
        Turn {
            id: running.id,
            causes: running.causes,
            result,
            said: running.said,
            sent: running.sent,
            called: running.called,
            called_tools: running.called_tools,
            asked: running.asked,
            consumed,
            left,
            requests: self.requests[running.requests_before..].to_vec(),
            fetched: self.fetched[running.fetched_before..].to_vec(),
        }
    }
}

/// Slots.
impl Session {
    /// Answers the seq of the lock.
    pub(super) fn lock_slot(&mut self, name: &str, turn: String) -> Result<u64, LockError> {
        let seq = self.next_seq();
        self.slots.lock(name, turn, seq, self.limits.slots_max)
    }

    pub(super) fn commit_slot(
        &mut self,
        name: &str,
        lock: u64,
        content: &str,
    ) -> Result<u64, CommitError> {
        if !self.slots.unlock(name, lock) {
            return Err(CommitError::Lost);
        }
        if content.len() > self.limits.slot_bytes_max {
            return Err(CommitError::TooLarge);
        }
        let (seq, now) = (self.next_seq(), self.now);
        Ok(self.slots.write(name, content, seq, now))
    }

    pub(super) fn commit_by_other(&mut self, name: &str, content: &str) {
        if let (Some(running), SlotState::Locked(holder)) = (&self.running, self.slots.state(name))
        {
            assert!(running.id != holder, "the agent holds the lock of {name:?}");
        }
        let (seq, now) = (self.next_seq(), self.now);
        self.slots.lose_lock(name);
        self.slots.write(name, content, seq, now);
        self.slots.set_news(name);
    }
}

/// Messages.
impl Session {
    pub(super) fn receive(&mut self, sender: Sender, body: Body) -> String {
        let seq = self.next_seq();
        let id = format!("message-{seq}");
        let bytes = u32::try_from(body.as_text().len()).expect("a test's message is small");
        let header = Header {
            id: id.clone(),
            sender,
            received_at: self.now,
            bytes,
        };
        let message = Message { header, body };
        let letter = Letter {
            message,
            seq,
            state: Letterbox::Waiting,
            offered: false,
        };
        self.letters.push(letter);
        id
    }

    fn horizon(&self) -> u64 {
        self.running
            .as_ref()
            .map_or(u64::MAX, |running| running.start)
    }

    pub(super) fn waiting(&self) -> Vec<Message> {
        let horizon = self.horizon();
        self.letters
            .iter()
            .filter(|letter| letter.seq < horizon && letter.state == Letterbox::Waiting)
            .map(|letter| letter.message.clone())
            .collect()
    }

    pub(super) fn pull(&mut self, max: usize) -> Vec<Message> {
        let horizon = self.horizon();
        self.letters
            .iter_mut()
            .filter(|letter| letter.seq < horizon && letter.state == Letterbox::Waiting)
            .take(max)
            .map(|letter| {
                letter.state = Letterbox::Pulled;
                letter.message.clone()
            })
            .collect()
    }

    pub(super) fn leave(&mut self, id: &str) -> bool {
        let pulled = |letter: &&mut Letter| {
            letter.message.header.id == id && letter.state == Letterbox::Pulled
        };
        match self.letters.iter_mut().find(pulled) {
            Some(letter) => {
                letter.state = Letterbox::Waiting;
                true
            }
            None => false,
        }
    }

    /// All messages ever sent to the agent, oldest first.
    pub(super) fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> {
        self.letters.iter().map(|letter| &letter.message)
    }
}

/// Words.
impl Session {
    /// Add to what the running turn says. The caller has checked the limit.
    pub(super) fn say(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let seq = self.next_seq();
        let running = self.running();
        running.spoke.get_or_insert(seq);
        running.said.push_str(text);
    }

    pub(super) fn hear(&mut self, agent: &str, text: &str) {
        let seq = self.next_seq();
        let turn = format!("other-{seq}.t0.{agent}");
        self.spoken(seq, agent.to_owned(), text, turn, Ending::Complete);
    }

    fn spoken(&mut self, seq: u64, agent: String, text: &str, turn: String, end: Ending) {
        let item = Item {
            offset: seq.to_string(),
            author: Author::Agent(agent),
            text: text.to_owned(),
            turn: Some(turn),
            end: Some(end),
            time: self.now,
        };
        self.words.push(Words { item, seq });
    }

    /// Words up to the start of the running turn, or all; of people's messages those that no
    /// turn can pull any more, so that none is seen twice.
    pub(super) fn transcript(&self) -> Vec<Item> {
        let sent = self
            .letters
            .iter()
            .filter_map(|letter| match &letter.message.header.sender {
                Sender::Person(name) if letter.state == Letterbox::Consumed => {
                    Some((letter.seq, person(name, letter)))
                }
                Sender::Person(_) | Sender::Agent(_) => None,
            });
        let said = self
            .words
            .iter()
            .map(|words| (words.seq, words.item.clone()));
        let horizon = self.horizon();
        let mut items: Vec<_> = sent.chain(said).filter(|(seq, _)| *seq < horizon).collect();
        items.sort_by_key(|(seq, _)| *seq);
        items.into_iter().map(|(_, item)| item).collect()
    }
}

fn person(name: &str, letter: &Letter) -> Item {
    Item {
        offset: letter.seq.to_string(),
        author: Author::Person(name.to_owned()),
        text: letter.message.body.as_text().to_owned(),
        turn: None,
        end: None,
        time: letter.message.header.received_at,
    }
}
