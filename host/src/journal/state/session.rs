//! The session itself in the fold: open, participants, ended; and what its idempotency keys stand for.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{AgentName, Digest, RunId, Seq};
use crate::journal::entry::{
    Entry, Idempotency, Recounted, SessionChange, SessionOpened, SessionOpenedPrivate, Writer,
};

use super::{Phase, State};

/// How long an idempotency key is remembered (design: 24 h).
pub const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1000;

/// What an idempotency key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub body: Digest,
    pub message: Seq,
    pub at: Time,
}

impl State {
    pub(super) fn session_opened(&mut self, opened: &SessionOpened) -> Result<(), &'static str> {
        if self.phase != Phase::Absent {
            return Err("the session is open already");
        }
        if !opened.agents.contains(&opened.entry) {
            return Err("the entry agent takes no part");
        }
        self.phase = Phase::Open;
        self.secret = opened.private.secret.clone();
        self.opened_idempotency = opened.private.idempotency;
        self.participants = opened
            .agents
            .iter()
            .map(|agent| (agent.clone(), Box::default()))
            .collect();
        // A fold from a snapshot must be the same as one from the first entry.
        self.opened = Some(SessionOpened {
            private: SessionOpenedPrivate::default(),
            ..opened.clone()
        });
        Ok(())
    }

    pub(super) fn recounted(&mut self, recounted: &Recounted) -> Result<(), &'static str> {
        if self.last.0 != self.recounted + 1 {
            return Err("something has happened here already");
        }
        if let Writer::Agent(agent) = &recounted.by
            && !self.participants.contains_key(agent)
        {
            return Err("the agent takes no part");
        }
        self.recounted += 1;
        Ok(())
    }

    pub(super) fn session_changed(&mut self, change: &SessionChange) -> Result<(), &'static str> {
        match change {
            SessionChange::AgentAdded { agent } => {
                if self.participants.contains_key(agent) {
                    return Err("the agent takes part already");
                }
                self.participants.insert(agent.clone(), Box::default());
            }
            SessionChange::AgentRemoved { agent } => {
                if self.entry_agent() == Some(agent) {
                    return Err("the entry agent cannot leave");
                }
                let participant = self
                    .participants
                    .get(agent)
                    .ok_or("the agent takes no part")?;
                if participant.turn.is_some() {
                    return Err("the agent's turn is open");
                }
                let runs: Vec<RunId> = participant
                    .pending
                    .iter()
                    .filter_map(|pending| pending.run.clone())
                    .chain(participant.watched.values().flatten().cloned())
                    .chain(participant.wake.iter().map(|wake| wake.run.clone()))
                    .collect();
                self.participants.remove(agent);
                runs.iter().for_each(|run| self.release(Some(run)));
            }
            SessionChange::Expired | SessionChange::Deleted => {
                if !self.turns.is_empty() {
                    return Err("a turn is open");
                }
                self.phase = Phase::Ended;
            }
        }
        Ok(())
    }

    pub(super) fn remember(&mut self, entry: &Entry, idempotency: Idempotency) {
        while let Some((time, key)) = self.remembered_order.front().copied() {
            if entry.time.ms_since(time) < IDEMPOTENCY_MS {
                break;
            }
            self.remembered_order.pop_front();
            self.remembered.remove(&key);
        }
        let remembered = Remembered {
            body: idempotency.body,
            message: entry.seq,
            at: entry.time,
        };
        self.remembered.insert(idempotency.key, remembered);
        self.remembered_order
            .push_back((entry.time, idempotency.key));
    }

    pub fn entry_agent(&self) -> Option<&AgentName> {
        self.opened.as_ref().map(|opened| &opened.entry)
    }

    /// The message that was sent under the key, as far as it is known.
    pub fn ever_remembered(&self, key: &Digest) -> Option<Seq> {
        Some(self.remembered.get(key)?.message)
    }

    pub fn remembered(&self, key: &Digest, now: Time) -> Option<Remembered> {
        let remembered = self.remembered.get(key).copied()?;
        (now.ms_since(remembered.at) < IDEMPOTENCY_MS).then_some(remembered)
    }

    /// Keys that are remembered now. Those that are not any more are forgotten with the next one.
    pub fn remembered_len(&self, now: Time) -> usize {
        let past = |(at, _): &(Time, Digest)| now.ms_since(*at) >= IDEMPOTENCY_MS;
        self.remembered_order.len() - self.remembered_order.partition_point(past)
    }
}
