//! Slots in the fold: locks, documents, and whom a commit wakes.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{Seq, SlotName, TurnId};
use crate::journal::entry::{Content, Entry, SlotCommitted, SlotLocked, SlotReleased, Writer};

use super::State;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub document: Option<Document>,
    pub lock: Option<TurnId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The seq of its `slot-committed`.
    pub version: Seq,
    pub written_at: Time,
    pub by: Writer,
    pub bytes: u64,
    pub content: Content,
}

impl State {
    pub(super) fn slot_locked(&mut self, locked: &SlotLocked) -> Result<(), &'static str> {
        if self
            .slots
            .get(&locked.slot)
            .is_some_and(|slot| slot.lock.is_some())
        {
            return Err("the slot is locked");
        }
        let turn = match locked.n {
            Some(n) => self.call(&locked.turn, n)?,
            None => self.speaking(&locked.turn)?,
        };
        turn.locks.insert(locked.slot.clone());
        self.slots.entry(locked.slot.clone()).or_default().lock = Some(locked.turn.clone());
        Ok(())
    }

    pub(super) fn slot_released(&mut self, released: &SlotReleased) -> Result<(), &'static str> {
        if !self.holds(&released.slot, &released.turn) {
            return Err("the turn does not hold the slot");
        }
        let turn = match released.n {
            Some(n) => self.call(&released.turn, n)?,
            None => self.speaking(&released.turn)?,
        };
        turn.locks.remove(&released.slot);
        self.unlock(&released.slot);
        Ok(())
    }

    pub(super) fn slot_committed(
        &mut self,
        entry: &Entry,
        committed: &SlotCommitted,
    ) -> Result<(), &'static str> {
        if committed.version != entry.seq {
            return Err("its version is not its number");
        }
        if let Writer::Agent(agent) = &committed.by
            && committed.private.wakes.contains(agent)
        {
            return Err("it wakes its own writer");
        }
        let run = match &committed.turn {
            Some(turn) => {
                if !self.holds(&committed.slot, turn) {
                    return Err("the turn does not hold the slot");
                }
                let turn = self.call(turn, committed.n)?;
                turn.locks.remove(&committed.slot);
                Some(turn.run.clone())
            }
            None if self
                .slots
                .get(&committed.slot)
                .is_some_and(|slot| slot.lock.is_some()) =>
            {
                return Err("the slot is locked");
            }
            None => None,
        };
        let slot = self.slots.entry(committed.slot.clone()).or_default();
        slot.lock = None;
        slot.document = Some(Document {
            version: committed.version,
            written_at: entry.time,
            by: committed.by.clone(),
            bytes: committed.bytes,
            content: committed.private.content.clone(),
        });
        for agent in &committed.private.wakes {
            let Some(participant) = self.participants.get_mut(agent) else {
                continue;
            };
            let earlier = participant
                .watched
                .insert(committed.slot.clone(), run.clone());
            if let Some(run) = &run {
                self.hold(run);
            }
            self.release(earlier.flatten().as_ref());
        }
        Ok(())
    }

    pub(super) fn holds(&self, slot: &SlotName, turn: &TurnId) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|slot| slot.lock.as_ref() == Some(turn))
    }

    pub(super) fn unlock(&mut self, name: &SlotName) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.lock = None;
        if slot.document.is_none() {
            self.slots.remove(name);
        }
    }
}
