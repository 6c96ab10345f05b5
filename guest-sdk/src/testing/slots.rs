//! The session's slots.
//!
//! Invariant: a slot has at most one holder, told apart from earlier ones by the seq of its
//! lock, and only that lock can free it or be committed.

use std::collections::BTreeMap;

use crate::kernel::{LockError, SlotState, Snapshot};

#[derive(Default)]
pub(super) struct Slots(BTreeMap<String, Slot>);

#[derive(Default)]
struct Slot {
    document: Option<Document>,
    /// The holder's turn, and the seq of its lock.
    holder: Option<(String, u64)>,
    /// Committed by somebody else since the agent's last turn.
    news: bool,
}

struct Document {
    content: String,
    version: u64,
    written_at: u64,
}

impl Slots {
    pub(super) fn read(&self, name: &str) -> Option<Snapshot> {
        let document = self.0.get(name)?.document.as_ref()?;
        Some(Snapshot {
            content: document.content.clone(),
            version: document.version,
            state: self.state(name),
            written_at: document.written_at,
        })
    }

    pub(super) fn state(&self, name: &str) -> SlotState {
        match self.0.get(name).and_then(|slot| slot.holder.as_ref()) {
            Some((turn, _)) => SlotState::Locked(turn.clone()),
            None => SlotState::Idle,
        }
    }

    /// Whether the turn holds the lock of any.
    pub(super) fn holds_any(&self, turn: &str) -> bool {
        let mut holders = self.0.values().filter_map(|slot| slot.holder.as_ref());
        holders.any(|(holder, _)| holder == turn)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let visible = |slot: &Slot| slot.document.is_some() || slot.holder.is_some();
        let slots = self.0.iter().filter(|(_, slot)| visible(slot));
        slots.map(|(name, _)| name.clone()).collect()
    }

    /// Answers the seq, by which the lock is known.
    pub(super) fn lock(
        &mut self,
        name: &str,
        turn: String,
        seq: u64,
        slots_max: usize,
    ) -> Result<u64, LockError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        if name.is_empty() || name.len() > 128 || !name.bytes().all(valid) {
            return Err(LockError::InvalidName);
        }
        if let SlotState::Locked(turn) = self.state(name) {
            return Err(LockError::Held(turn));
        }
        let names = self.names();
        if names.len() >= slots_max && !names.iter().any(|other| other == name) {
            return Err(LockError::TooMany);
        }
        self.0.entry(name.to_owned()).or_default().holder = Some((turn, seq));
        Ok(seq)
    }

    /// False, and nothing happens, if it is not the slot's lock any more.
    pub(super) fn unlock(&mut self, name: &str, lock: u64) -> bool {
        let slot = self.0.get_mut(name);
        slot.is_some_and(|slot| slot.holder.take_if(|(_, seq)| *seq == lock).is_some())
    }

    /// The turn has ended.
    pub(super) fn unlock_all(&mut self, turn: &str) {
        for slot in self.0.values_mut() {
            slot.holder.take_if(|(holder, _)| holder == turn);
        }
    }

    pub(super) fn lose_lock(&mut self, name: &str) {
        if let Some(slot) = self.0.get_mut(name) {
            slot.holder = None;
        }
    }

    /// Answers the version. That the writer may is the caller's to see to.
    pub(super) fn write(&mut self, name: &str, content: &str, seq: u64, now: u64) -> u64 {
        let content = content.to_owned();
        let document = Document {
            content,
            version: seq,
            written_at: now,
        };
        self.0.entry(name.to_owned()).or_default().document = Some(document);
        seq
    }

    pub(super) fn has_news(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|slot| slot.news)
    }

    pub(super) fn set_news(&mut self, name: &str) {
        self.0.entry(name.to_owned()).or_default().news = true;
    }

    /// A turn starts with all of it.
    pub(super) fn clear_news(&mut self) {
        for slot in self.0.values_mut() {
            slot.news = false;
        }
    }
}
