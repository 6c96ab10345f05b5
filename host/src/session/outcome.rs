//! What became of a message: the turn that took it, what was said, how it ended.
//!
//! Read from durable entries alone, so the answer is the same now, later, and
//! after a restart.

use std::collections::BTreeMap;

use crate::id::{MessageId, RunId, Seq, TurnId};
use crate::journal::codec::{DecodeError, Encoded};
use crate::journal::entry::{
    Fate, Kind, Outcome, Payload, SessionChange, SessionChanged, ToolCall, TurnEnded, TurnError,
    Usage,
};
use crate::ledger::Ledger;
use crate::store::ReadError;

use super::Session;

/// The turn that took the message, as far as it got.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    pub turn: TurnId,
    pub run: RunId,
    /// What people were shown: by the whole turn if it began with the message, from the message on if
    /// it took it while it ran.
    pub reply: String,
    /// What its caller was asked to do.
    pub calls: Vec<ToolCall>,
    pub ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub outcome: Outcome,
    pub error: Option<TurnError>,
    pub usage: Usage,
    pub seq: Seq,
}

/// Where a message stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// In the mailbox, or in a turn that is not over.
    Open(Option<Taken>),
    /// A turn took it and is over.
    Done(Taken),
    /// No turn will take it any more.
    SetAside(String),
}

/// Follows one message through the journal.
#[derive(Debug)]
pub struct Tracker {
    message: MessageId,
    taken: Option<Taken>,
    /// What open turns said since the message came: one of them may have taken it.
    said: BTreeMap<TurnId, Said>,
    /// What open turns ask people.
    asking: BTreeMap<TurnId, Seq>,
    set_aside: Option<String>,
    done: bool,
    over_at: Option<Seq>,
}

/// What an open turn has shown.
#[derive(Debug, Default)]
struct Said {
    text: String,
    calls: Vec<ToolCall>,
}

impl Tracker {
    pub fn new(message: MessageId) -> Self {
        Self {
            message,
            taken: None,
            said: BTreeMap::new(),
            asking: BTreeMap::new(),
            set_aside: None,
            done: false,
            over_at: None,
        }
    }

    /// The entry after which it is over.
    pub fn over_at(&self) -> Option<Seq> {
        self.over_at
    }

    pub fn standing(&self) -> Standing {
        match (&self.set_aside, &self.taken) {
            (Some(reason), _) => Standing::SetAside(reason.clone()),
            (None, Some(taken)) if self.done => Standing::Done(taken.clone()),
            (None, taken) => Standing::Open(taken.clone()),
        }
    }

    pub fn is_over(&self) -> bool {
        self.done || self.set_aside.is_some()
    }

    /// The turn that has it, if any.
    pub fn turn(&self) -> Option<&TurnId> {
        self.taken.as_ref().map(|taken| &taken.turn)
    }

    /// What the turn that has it asks people, if it waits for that.
    pub fn asks(&self) -> Option<Seq> {
        self.asking.get(self.turn()?).copied()
    }

    /// Whether the entry is the message, or one of the turn that has it.
    pub fn concerns(&self, encoded: &Encoded) -> bool {
        if encoded.seq == self.message.seq() {
            return true;
        }
        let Some(taken) = &self.taken else {
            return false;
        };
        #[derive(serde::Deserialize)]
        struct OfTurn {
            turn: Option<TurnId>,
        }
        serde_json::from_slice::<OfTurn>(&encoded.public())
            .is_ok_and(|entry| entry.turn.as_ref() == Some(&taken.turn))
    }

    /// Take in the next entry. Entries of kinds that say nothing here are not decoded.
    pub fn next(&mut self, encoded: &Encoded) -> Result<(), DecodeError> {
        if self.is_over()
            || !matches!(
                encoded.kind,
                Kind::TurnStarted
                    | Kind::Spoke
                    | Kind::ToolsCalled
                    | Kind::Asked
                    | Kind::Answered
                    | Kind::TurnEnded
                    | Kind::MessageSetAside
                    | Kind::SessionChanged
            )
        {
            return Ok(());
        }
        match encoded.decode()?.payload {
            Payload::TurnStarted(started) if started.inputs.contains(&self.message) => {
                self.taken = Some(Taken {
                    turn: started.turn,
                    run: started.run,
                    reply: String::new(),
                    calls: Vec::new(),
                    ended: None,
                });
            }
            Payload::Spoke(spoke) => {
                match self.taken.as_mut().filter(|taken| taken.turn == spoke.turn) {
                    Some(taken) => taken.reply.push_str(&spoke.text),
                    None => self
                        .said
                        .entry(spoke.turn)
                        .or_default()
                        .text
                        .push_str(&spoke.text),
                }
            }
            Payload::ToolsCalled(called) => {
                match self
                    .taken
                    .as_mut()
                    .filter(|taken| taken.turn == called.turn)
                {
                    Some(taken) => taken.calls = called.calls,
                    None => self.said.entry(called.turn).or_default().calls = called.calls,
                }
            }
            Payload::Asked(asked) => drop(self.asking.insert(asked.turn, asked.question)),
            Payload::Answered(answered) => drop(self.asking.remove(&answered.turn)),
            Payload::TurnEnded(ended) => {
                self.asking.remove(&ended.turn);
                self.turn_ended(encoded.seq, ended);
            }
            Payload::MessageSetAside(aside) if aside.message == self.message => {
                self.set_aside = Some(aside.reason);
            }
            Payload::SessionChanged(SessionChanged {
                change: SessionChange::Expired | SessionChange::Deleted,
            }) => self.set_aside = Some("the session has ended".to_owned()),
            _ => {}
        }
        self.over_at = self.is_over().then_some(encoded.seq);
        Ok(())
    }
}

impl Tracker {
    fn turn_ended(&mut self, seq: Seq, ended: TurnEnded) {
        let said = self.said.remove(&ended.turn);
        let mut inputs = ended.inputs.iter();
        let fate = inputs.find(|input| input.message == self.message);
        let is_its_turn = self.turn() == Some(&ended.turn);
        if !is_its_turn {
            if fate.is_none() {
                return;
            }
            // The turn ran already when the message came, and took it.
            let said = said.unwrap_or_default();
            self.taken = Some(Taken {
                run: ended.turn.run(),
                turn: ended.turn,
                reply: said.text,
                calls: said.calls,
                ended: None,
            });
        }
        if let Some(taken) = &mut self.taken {
            taken.ended = Some(Ended {
                outcome: ended.outcome,
                error: ended.error,
                usage: ended.usage,
                seq,
            });
        }
        // A message that goes back to its place is taken by a later turn.
        self.done = fate.is_none_or(|input| input.fate != Fate::Returned);
    }
}

/// Where the message stands now, without waiting. None if there is no such message.
pub async fn look(session: &Session, message: &MessageId) -> Result<Option<Standing>, ReadError> {
    let tracker = track(session, message).await?;
    Ok(tracker.map(|tracker| tracker.standing()))
}

/// The message followed as far as its session has come.
pub async fn track(session: &Session, message: &MessageId) -> Result<Option<Tracker>, ReadError> {
    let ledger = &session.ledger;
    let durable = ledger.mark().durable;
    if message.seq() > durable || !is_message(ledger, message).await? {
        return Ok(None);
    }
    let mut tracker = Tracker::new(message.clone());
    let mut after = message.seq();
    while !tracker.is_over() {
        let entries = ledger.entries(after, durable).await?;
        let Some(last) = entries.last() else { break };
        after = last.seq;
        for encoded in &entries {
            tracker
                .next(encoded)
                .map_err(|error| ledger.undecodable(&error))?;
        }
    }
    Ok(Some(tracker))
}

/// A fork's messages from before it was made have the ids that they had: whoever asks for the
/// same number under another session's name means another message.
async fn is_message(ledger: &Ledger, message: &MessageId) -> Result<bool, ReadError> {
    let Some(entry) = ledger.entry(message.seq()).await? else {
        return Ok(false);
    };
    Ok(match ledger.decode(&entry)?.payload {
        Payload::MessageReceived(it) => it.message == *message,
        Payload::MessageSent(it) => it.message == *message,
        _ => false,
    })
}
