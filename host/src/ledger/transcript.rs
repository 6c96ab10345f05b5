//! The transcript: what people sent and were shown, put together from entries.
//!
//! The one place that does it, for models (through the guest) and people (over
//! HTTP) alike: both read the same words. An agent's words of one turn are one
//! item, standing where its first word stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Time;
use crate::id::{AgentName, Author, MessageId, Seq, TurnId};
use crate::journal::entry::{Entry, Kind, Outcome, Payload, Writer};
use crate::store::ReadError;

use super::Ledger;

const KINDS: &[Kind] = &[
    Kind::MessageReceived,
    Kind::Recounted,
    Kind::Spoke,
    Kind::TurnEnded,
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Speaker {
    Person(Author),
    Agent(AgentName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Complete,
    Interrupted,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The entry of the message, or of the first words.
    pub at: Seq,
    pub time: Time,
    pub speaker: Speaker,
    pub text: String,
    /// None for a person's words, and for what was said before the session began.
    pub turn: Option<TurnId>,
    pub message: Option<MessageId>,
    /// None for a person's message and while the agent is still speaking.
    pub end: Option<Ending>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Oldest first.
    pub items: Vec<Item>,
    /// Where the window before this one ends; none at the beginning.
    pub before: Option<Seq>,
    /// Messages of `without` that were met, newest first.
    pub left_out: Vec<Seq>,
}

/// The newest `max` items that begin before `before`, as they stand at entry `until`. Messages
/// whose entries are in `without` are left out.
pub async fn window(
    ledger: &Arc<Ledger>,
    before: Seq,
    until: Seq,
    max: usize,
    without: &BTreeSet<Seq>,
) -> Result<Window, ReadError> {
    let mut assembly = Assembly::default();
    let mut back = ledger.back(before.min(until.next()), KINDS);
    let mut earlier = None;
    while let Some(encoded) = back.next().await? {
        let begins = assembly.older(ledger.decode(&encoded)?, without);
        if begins && assembly.items.len() > max {
            // One more than asked for shows that there is an earlier window.
            assembly.items.pop();
            earlier = assembly.items.last().map(|item| item.at).or(Some(before));
            break;
        }
    }
    assembly.items.reverse();
    finish(ledger, &mut assembly, before, until).await?;
    Ok(Window {
        items: assembly.items,
        before: earlier,
        left_out: assembly.left_out,
    })
}

/// Turns that begin inside the window and speak on after it: their later words.
async fn finish(
    ledger: &Arc<Ledger>,
    assembly: &mut Assembly,
    before: Seq,
    until: Seq,
) -> Result<(), ReadError> {
    let mut open: BTreeMap<TurnId, usize> = BTreeMap::new();
    for (at, item) in assembly.items.iter().enumerate() {
        if let (Some(turn), None) = (&item.turn, item.end) {
            open.insert(turn.clone(), at);
        }
    }
    let mut after = Seq(before.0.saturating_sub(1));
    while !open.is_empty() && after < until {
        let entries = ledger.entries(after, until).await?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for encoded in entries
            .iter()
            .filter(|encoded| KINDS.contains(&encoded.kind))
        {
            match ledger.decode(encoded)?.payload {
                Payload::Spoke(spoke) => {
                    if let Some(at) = open.get(&spoke.turn) {
                        assembly.items[*at].text.push_str(&spoke.text);
                    }
                }
                Payload::TurnEnded(ended) => {
                    if let Some(at) = open.remove(&ended.turn) {
                        assembly.items[at].end = Some(ending(ended.outcome));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Items put together from the newest entry to the oldest.
#[derive(Default)]
struct Assembly {
    /// Newest first.
    items: Vec<Item>,
    /// Words of turns whose first words are still to come, last words first.
    words: BTreeMap<TurnId, Vec<String>>,
    endings: BTreeMap<TurnId, Ending>,
    left_out: Vec<Seq>,
}

impl Assembly {
    /// Take in an older entry; true if an item begins with it.
    fn older(&mut self, entry: Entry, without: &BTreeSet<Seq>) -> bool {
        match entry.payload {
            Payload::MessageReceived(received) => {
                if without.contains(&entry.seq) {
                    self.left_out.push(entry.seq);
                    return false;
                }
                let text = match received.body {
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                self.items.push(Item {
                    at: entry.seq,
                    time: entry.time,
                    speaker: Speaker::Person(received.author),
                    text,
                    turn: None,
                    message: Some(received.message),
                    end: None,
                });
                true
            }
            Payload::Recounted(recounted) => {
                let (speaker, end) = match recounted.by {
                    Writer::Author(author) => (Speaker::Person(author), None),
                    Writer::Agent(agent) => (Speaker::Agent(agent), Some(Ending::Complete)),
                };
                self.items.push(Item {
                    at: entry.seq,
                    time: entry.time,
                    speaker,
                    text: recounted.text,
                    turn: None,
                    message: None,
                    end,
                });
                true
            }
            Payload::Spoke(spoke) => {
                let words = self.words.entry(spoke.turn.clone()).or_default();
                words.push(spoke.text);
                if spoke.at != 0 {
                    return false;
                }
                let words = self.words.remove(&spoke.turn).unwrap_or_default();
                self.items.push(Item {
                    at: entry.seq,
                    time: entry.time,
                    speaker: Speaker::Agent(spoke.agent),
                    text: words.into_iter().rev().collect(),
                    end: self.endings.get(&spoke.turn).copied(),
                    turn: Some(spoke.turn),
                    message: None,
                });
                true
            }
            Payload::TurnEnded(ended) => {
                self.endings.insert(ended.turn, ending(ended.outcome));
                false
            }
            _ => false,
        }
    }
}

fn ending(outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Completed => Ending::Complete,
        Outcome::Interrupted | Outcome::Cancelled => Ending::Interrupted,
        Outcome::Failed | Outcome::Refused => Ending::Failed,
    }
}
