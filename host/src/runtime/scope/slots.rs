//! The session's slots: read, locked, committed, released.

use crate::clock::Time;
use crate::id::{Seq, SlotName};
use crate::journal::entry::{
    Observation, Payload, SlotCommitted, SlotCommittedPrivate, SlotLocked, SlotReleased, Writer,
};
use crate::ledger::Batch;
use crate::telemetry::{self, Limit};

use super::{Scope, Stop};

/// A slot's document as it stood when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Snapshot {
    pub(in crate::runtime) text: String,
    pub(in crate::runtime) version: Seq,
    /// The turn that held the lock.
    pub(in crate::runtime) holder: Option<String>,
    pub(in crate::runtime) written_at: Time,
}

/// Why a lock was not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum LockRefused {
    Held(String),
    TooMany,
    InvalidName,
}

impl LockRefused {
    fn word(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::TooMany => "too-many",
            Self::InvalidName => "invalid-name",
        }
    }

    fn of_word(word: &str, holder: Option<String>) -> Self {
        match (word, holder) {
            (_, Some(holder)) => Self::Held(holder),
            ("too-many", None) => Self::TooMany,
            (_, None) => Self::InvalidName,
        }
    }
}

/// Why a commit changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) enum CommitRefused {
    Lost,
    TooLarge,
}

impl CommitRefused {
    fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::TooLarge => "too-large",
        }
    }
}

/// The longest name of a slot that nobody can have, as it stands in an entry.
fn shown(name: &str) -> String {
    name.chars().take(128).collect()
}

fn holder(batch: &Batch<'_>, slot: &SlotName) -> Option<String> {
    let lock = batch.state().slots.get(slot)?.lock.as_ref()?;
    Some(lock.as_str().to_owned())
}

impl Scope {
    pub(in crate::runtime) async fn read_slot(
        &self,
        slot: &SlotName,
    ) -> Result<Option<Snapshot>, Stop> {
        let asked = || format!("reads the slot {slot}");
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::Observed(it) => match &it.what {
                    Observation::SlotRead {
                        slot: read,
                        version,
                        holder,
                    } if read == slot => match version {
                        Some(version) => self.document(*version, holder.clone()).await.map(Some),
                        None => Ok(None),
                    },
                    _ => Err(self.differs(&recorded, asked())),
                },
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.observe(|batch| {
            let holder = holder(batch, slot);
            let slots = &batch.state().slots;
            let document = slots.get(slot).and_then(|it| it.document.as_ref());
            let snapshot = document.map(|document| Snapshot {
                text: batch.text(&document.content),
                version: document.version,
                holder: holder.clone(),
                written_at: document.written_at,
            });
            let what = Observation::SlotRead {
                slot: slot.clone(),
                version: snapshot.as_ref().map(|snapshot| snapshot.version),
                holder,
            };
            (snapshot, what)
        })
    }

    /// A version of a slot that was read once, whatever it holds now.
    async fn document(&self, version: Seq, holder: Option<String>) -> Result<Snapshot, Stop> {
        let missing = || {
            self.ledger
                .damaged(Some(version), "it is no slot's version")
        };
        let snapshot = |text: &str, written_at| Snapshot {
            text: text.to_owned(),
            version,
            holder: holder.clone(),
            written_at,
        };
        if let Some((text, written_at)) = self.record.documents().get(&version) {
            return Ok(snapshot(text, *written_at));
        }
        let read = async {
            let entry = self.ledger.entry(version).await?.ok_or_else(missing)?;
            let entry = self.ledger.decode(&entry)?;
            let Payload::SlotCommitted(committed) = entry.payload else {
                return Err(missing());
            };
            let text = self.ledger.text(&committed.private.content).await?;
            Ok((text, entry.time))
        };
        let (text, written_at) = self.cpu.waiting(read).await?;
        let read = snapshot(&text, written_at);
        self.record.keep_document(version, text, written_at);
        Ok(read)
    }

    /// Who holds the slot.
    pub(in crate::runtime) fn slot_holder(&self, slot: &SlotName) -> Result<Option<String>, Stop> {
        let asked = || format!("asks who holds the slot {slot}");
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::SlotState { slot: seen, holder } = &it.what
                && seen == slot
            {
                return Ok(holder.clone());
            }
            return Err(self.differs(&recorded, asked()));
        }
        self.observe(|batch| {
            let (holder, slot) = (holder(batch, slot), slot.clone());
            (holder.clone(), Observation::SlotState { slot, holder })
        })
    }

    pub(in crate::runtime) fn slot_names(&self) -> Result<Vec<SlotName>, Stop> {
        let asked = || "asks for the names of the slots".to_owned();
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::SlotNames { slots } = &it.what
            {
                return Ok(slots.clone());
            }
            return Err(self.differs(&recorded, asked()));
        }
        self.observe(|batch| {
            let slots: Vec<SlotName> = batch.state().slots.keys().cloned().collect();
            (slots.clone(), Observation::SlotNames { slots })
        })
    }

    /// Take the lock, or hear why not.
    pub(in crate::runtime) fn lock_slot(
        &self,
        name: &str,
    ) -> Result<Result<SlotName, LockRefused>, Stop> {
        let asked = || format!("locks the slot {:?}", shown(name));
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::SlotLocked(it) if it.slot.as_str() == name => Ok(Ok(it.slot.clone())),
                Payload::Observed(it) => match &it.what {
                    Observation::SlotRefused {
                        slot,
                        error,
                        holder,
                    } if *slot == shown(name) => {
                        Ok(Err(LockRefused::of_word(error, holder.clone())))
                    }
                    _ => Err(self.differs(&recorded, asked())),
                },
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, n| {
            let slots = &batch.state().slots;
            let found = match SlotName::new(name) {
                Err(_) => Err(LockRefused::InvalidName),
                Ok(slot) => match holder(batch, &slot) {
                    Some(holder) => Err(LockRefused::Held(holder)),
                    None if !slots.contains_key(&slot) && slots.len() >= self.limits.slots_max => {
                        telemetry::hit(Limit::Slots);
                        Err(LockRefused::TooMany)
                    }
                    None => Ok(slot),
                },
            };
            batch.push(match &found {
                Ok(slot) => Payload::SlotLocked(SlotLocked {
                    slot: slot.clone(),
                    turn: self.turn.clone(),
                    n: Some(n),
                }),
                Err(refused) => {
                    let holder = match refused {
                        LockRefused::Held(holder) => Some(holder.clone()),
                        LockRefused::TooMany | LockRefused::InvalidName => None,
                    };
                    let (slot, error) = (shown(name), refused.word().to_owned());
                    let what = Observation::SlotRefused {
                        slot,
                        error,
                        holder,
                    };
                    self.observed(n, what)
                }
            });
            found
        })
    }

    /// Write and free the slot in one step. Answers the new version.
    pub(in crate::runtime) fn commit_slot(
        &self,
        slot: &SlotName,
        content: &str,
    ) -> Result<Result<Seq, CommitRefused>, Stop> {
        let asked = || format!("commits {} bytes to the slot {slot}", content.len());
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::SlotCommitted(it)
                    if it.slot == *slot
                        && it.private.content == crate::ledger::Ledger::content(content).0 =>
                {
                    Ok(Ok(it.version))
                }
                Payload::Observed(it) => match &it.what {
                    Observation::CommitRefused { slot: to, error } if to == slot => {
                        let too_large = error == CommitRefused::TooLarge.word();
                        Ok(Err(if too_large {
                            CommitRefused::TooLarge
                        } else {
                            CommitRefused::Lost
                        }))
                    }
                    _ => Err(self.differs(&recorded, asked())),
                },
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, n| {
            let turn = Some(self.turn.clone());
            let lock = batch.state().slots.get(slot).map(|it| &it.lock);
            let refused = if lock != Some(&turn) {
                Some(CommitRefused::Lost)
            } else if content.len() > self.limits.slot_bytes_max {
                telemetry::hit(Limit::SlotBytes);
                Some(CommitRefused::TooLarge)
            } else {
                None
            };
            if let Some(refused) = refused {
                let (slot, error) = (slot.clone(), refused.word().to_owned());
                batch.push(self.observed(n, Observation::CommitRefused { slot, error }));
                return Err(refused);
            }
            let agents = batch.state().participants.keys();
            let wakes = agents
                .filter(|agent| **agent != self.agent && (self.watches)(agent, slot))
                .cloned()
                .collect();
            let content_entry = batch.content(content);
            let version = batch.push(Payload::SlotCommitted(SlotCommitted {
                slot: slot.clone(),
                version: batch.next_seq(),
                by: Writer::Agent(self.agent.clone()),
                bytes: content.len() as u64,
                turn,
                n,
                private: SlotCommittedPrivate {
                    content: content_entry,
                    wakes,
                },
            }));
            batch.forget_old_texts();
            Ok(version)
        })
    }

    /// Free the slot if the turn still holds it.
    pub(in crate::runtime) fn release_slot(&self, slot: &SlotName) -> Result<(), Stop> {
        let asked = || format!("frees the slot {slot}");
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::SlotReleased(it) if it.slot == *slot => Ok(()),
                Payload::Observed(it) if matches!(&it.what, Observation::SlotLost { slot: lost } if lost == slot) => {
                    Ok(())
                }
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, n| {
            let (slot, turn) = (slot.clone(), self.turn.clone());
            let lock = batch.state().slots.get(&slot).map(|it| &it.lock);
            batch.push(if lock == Some(&Some(turn.clone())) {
                let n = Some(n);
                Payload::SlotReleased(SlotReleased { slot, turn, n })
            } else {
                self.observed(n, Observation::SlotLost { slot })
            });
        })
    }

    /// At the live edge: the lock is the turn's again if nobody holds it or wrote since.
    pub(super) fn take_again(&self, batch: &mut Batch<'_>, slot: SlotName, locked_at: Seq) {
        let untouched = batch.state().slots.get(&slot).is_none_or(|it| {
            let written = it.document.as_ref().map(|document| document.version);
            it.lock.is_none() && written.is_none_or(|version| version < locked_at)
        });
        if untouched {
            batch.push(Payload::SlotLocked(SlotLocked {
                slot,
                turn: self.turn.clone(),
                n: None,
            }));
        }
    }
}
