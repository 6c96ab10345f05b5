//! PURE: what is going on at one place of a journal: turns, their calls, locks, and
//! messages that wait; with the times from which durations are told.
//!
//! It follows entries of servers that it does not know, so nothing is taken for granted:
//! what was never seen to begin has no duration.

use std::collections::{BTreeMap, HashMap};

use antiphon::clock::Time;

use super::super::term::{clock_time, span};

#[derive(Debug, Default)]
pub(super) struct Open {
    /// By id.
    pub(super) turns: BTreeMap<String, Turn>,
    /// By slot.
    pub(super) locks: BTreeMap<String, Lock>,
    /// By id: in a mailbox, and no turn was started for it.
    pub(super) waiting: BTreeMap<String, Waiting>,
    /// Each agent's newest turn that has ended.
    ended: HashMap<String, Ended>,
    lanes: Lanes,
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) agent: String,
    /// Of its `turn-started`: how a person names the turn.
    pub(super) seq: String,
    pub(super) since: Option<Time>,
    pub(super) first_word: Option<Time>,
    pub(super) calls: BTreeMap<u64, Call>,
    /// In calls that have come back.
    pub(super) model_ms: u64,
    pub(super) http_ms: u64,
    pub(super) slept_ms: u64,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) kind: String,
    pub(super) target: String,
    pub(super) since: Option<Time>,
    pub(super) first_piece: Option<Time>,
    /// The tools that the model asks for.
    pub(super) tools: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Lock {
    pub(super) turn: String,
    pub(super) since: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) to: String,
    pub(super) since: Option<Time>,
    /// A turn had it and gave it back.
    pub(super) again: bool,
    /// A turn left it; by itself it starts none.
    pub(super) left: bool,
}

#[derive(Debug)]
struct Ended {
    seq: String,
    at: Option<Time>,
}

impl Call {
    pub(super) fn is_model(&self) -> bool {
        self.kind == "model"
    }

    /// What it is that takes so long.
    pub(super) fn subject(&self) -> String {
        match self.kind.as_str() {
            "model" => format!("model {}", self.target),
            "timer" => match self.target.parse() {
                Ok(ms) => format!("a timer of {}", span(ms)),
                Err(_) => format!("a timer of {}", self.target),
            },
            "http" => self.target.clone(),
            "question" => format!("an answer{}", self.target),
            kind => format!("{kind} {}", self.target),
        }
    }

    /// What the agent does with it.
    pub(super) fn verb(&self) -> &'static str {
        match self.kind.as_str() {
            "model" => "asks",
            "http" => "requests",
            _ => "waits for",
        }
    }
}

impl Open {
    /// A turn begins, or begins again under its old id.
    pub(super) fn start(&mut self, id: &str, agent: &str, seq: &str, time: Option<Time>) {
        self.lanes.open(id);
        self.turns.entry(id.to_owned()).or_insert_with(|| Turn {
            agent: agent.to_owned(),
            seq: seq.to_owned(),
            since: time,
            first_word: None,
            calls: BTreeMap::new(),
            model_ms: 0,
            http_ms: 0,
            slept_ms: 0,
        });
    }

    /// A turn ends, and with it its locks: their slots and how long they were held.
    pub(super) fn end(
        &mut self,
        id: &str,
        time: Option<Time>,
    ) -> (Option<Turn>, Vec<(String, Option<u64>)>) {
        let turn = self.turns.remove(id);
        self.lanes.close(id);
        if let Some(turn) = &turn {
            let ended = Ended {
                seq: turn.seq.clone(),
                at: time,
            };
            self.ended.insert(turn.agent.clone(), ended);
        }
        let freed: Vec<_> = self
            .locks
            .iter()
            .filter(|(_, lock)| lock.turn == id)
            .map(|(slot, lock)| (slot.clone(), since(lock.since, time)))
            .collect();
        self.locks.retain(|_, lock| lock.turn != id);
        (turn, freed)
    }

    /// A slot is free: how long it was held.
    pub(super) fn unlock(&mut self, slot: &str, time: Option<Time>) -> Option<u64> {
        since(self.locks.remove(slot)?.since, time)
    }

    /// A call comes back: the call, and how long it took.
    pub(super) fn come_back(
        &mut self,
        turn: &str,
        n: u64,
        time: Option<Time>,
    ) -> Option<(Call, Option<u64>)> {
        let turn = self.turns.get_mut(turn)?;
        let call = turn.calls.remove(&n)?;
        let took = since(call.since, time);
        match call.kind.as_str() {
            "model" => turn.model_ms += took.unwrap_or(0),
            "http" => turn.http_ms += took.unwrap_or(0),
            "timer" => turn.slept_ms += took.unwrap_or(0),
            _ => {}
        }
        Some((call, took))
    }

    /// Whether an agent has a turn.
    pub(super) fn is_busy(&self, agent: &str) -> bool {
        self.turns.values().any(|turn| turn.agent == agent)
    }

    /// The turn that an agent had until after this moment, if it had one: what a message
    /// of that moment waited for.
    pub(super) fn was_busy(&self, agent: &str, moment: Option<Time>) -> Option<&str> {
        let ended = self.ended.get(agent)?;
        (ended.at? > moment?).then_some(ended.seq.as_str())
    }

    /// `thinker's turn 10`, of an id.
    pub(super) fn name(&self, id: &str) -> String {
        match self.turns.get(id) {
            Some(turn) => format!("{}'s turn {}", turn.agent, turn.seq),
            None => format!("{}'s turn", agent_of(id)),
        }
    }

    pub(super) fn agent(&self, id: &str) -> String {
        self.turns
            .get(id)
            .map_or_else(|| agent_of(id).to_owned(), |turn| turn.agent.clone())
    }

    pub(super) fn draw(&self, turn: Option<&str>, mark: char) -> String {
        self.lanes.draw(turn, mark)
    }

    /// Room for so many turns at once.
    pub(super) fn expect_lanes(&mut self, count: usize) {
        self.lanes.width = self.lanes.width.max(count.clamp(1, LANES_MAX));
    }

    /// What everybody who is at work is doing, in half a sentence; empty if nobody is.
    pub(super) fn at_work(&self) -> String {
        let work = |turn: &Turn| match turn.calls.values().next() {
            Some(call) => format!("{} waits for {}", turn.agent, call.subject()),
            None => format!("{} works", turn.agent),
        };
        let all: Vec<String> = self.turns.values().map(work).collect();
        all.join(", ")
    }

    /// What the journal ends with and has not ended, a line each.
    pub(super) fn left_open(&self) -> Vec<String> {
        let at = |time: Option<Time>| {
            time.map_or_else(String::new, |time| format!(" since {}", clock_time(time)))
        };
        let mut lines = Vec::new();
        for turn in self.turns.values() {
            let mut line = format!("{}: turn {}{}", turn.agent, turn.seq, at(turn.since));
            for (n, call) in &turn.calls {
                let subject = call.subject();
                line.push_str(&format!(
                    "; waits for {subject}{} (call {n})",
                    at(call.since)
                ));
            }
            if turn.first_word.is_none() {
                line.push_str("; nothing said yet");
            }
            lines.push(line);
        }
        for (slot, lock) in &self.locks {
            let holder = self.name(&lock.turn);
            lines.push(format!("slot {slot}: locked by {holder}{}", at(lock.since)));
        }
        let mut mailboxes: BTreeMap<(&str, bool), (usize, Option<Time>)> = BTreeMap::new();
        for message in self.waiting.values() {
            let (count, oldest) = mailboxes.entry((&message.to, message.left)).or_default();
            *count += 1;
            *oldest = match (*oldest, message.since) {
                (Some(oldest), Some(since)) => Some(oldest.min(since)),
                (oldest, since) => oldest.or(since),
            };
        }
        for ((agent, left), (count, oldest)) in mailboxes {
            let what = if left { "left unread" } else { "waiting" };
            let messages = super::words::count(count, "message");
            lines.push(format!("{agent}: {messages} {what}{}", at(oldest)));
        }
        lines
    }
}

/// The agent's slug, with which every turn's id ends.
fn agent_of(turn: &str) -> &str {
    turn.rsplit('.').next().unwrap_or(turn)
}

pub(super) fn since(earlier: Option<Time>, later: Option<Time>) -> Option<u64> {
    Some(later?.ms_since(earlier?))
}

/// More turns at once than this are rare, and their lines would leave no room for words.
const LANES_MAX: usize = 6;

/// The turns that run at once, as lines drawn down the page.
#[derive(Debug)]
struct Lanes {
    turns: Vec<Option<String>>,
    width: usize,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            turns: Vec::new(),
            width: 1,
        }
    }
}

impl Lanes {
    fn open(&mut self, turn: &str) {
        let is_it = |lane: &Option<String>| lane.as_deref() == Some(turn);
        if self.turns.iter().any(is_it) {
            return;
        }
        match self.turns.iter().position(Option::is_none) {
            Some(free) => self.turns[free] = Some(turn.to_owned()),
            None => self.turns.push(Some(turn.to_owned())),
        }
        self.width = self.width.max(self.turns.len()).min(LANES_MAX);
    }

    fn close(&mut self, turn: &str) {
        for lane in &mut self.turns {
            lane.take_if(|open| open == turn);
        }
        while self.turns.last().is_some_and(Option::is_none) {
            self.turns.pop();
        }
    }

    /// One line's piece of all lanes, `mark` in that of `turn`.
    fn draw(&self, turn: Option<&str>, mark: char) -> String {
        let lane = |lane: Option<&Option<String>>| match lane.and_then(Option::as_deref) {
            Some(open) if Some(open) == turn => mark,
            Some(_) => '│',
            None => ' ',
        };
        (0..self.width).map(|n| lane(self.turns.get(n))).collect()
    }
}
