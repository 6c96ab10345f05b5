//! `kernel`: the session's slots.

use wasmtime::component::Resource;

use crate::id::SlotName;
use crate::journal::entry::{
    Observation, Observed, Payload, SlotCommitted, SlotCommittedPrivate, SlotLocked, SlotReleased,
    Writer,
};
use crate::ledger::Batch;
use crate::runtime::bindings::antiphon::agent::kernel::{
    CommitError, Host, HostSlotLock, LockError, SlotState, Snapshot,
};
use crate::runtime::guest::Guest;

/// A handle on a lock; the lock itself is the journal's.
pub struct SlotLock {
    slot: SlotName,
}

fn holder(batch: &Batch<'_>, slot: &SlotName) -> Option<String> {
    let lock = batch.state().slots.get(slot)?.lock.as_ref()?;
    Some(lock.as_str().to_owned())
}

fn slot_state(holder: Option<String>) -> SlotState {
    holder.map_or(SlotState::Idle, SlotState::Locked)
}

impl Host for Guest {
    fn read(&mut self, name: String) -> wasmtime::Result<Option<Snapshot>> {
        let Ok(slot) = SlotName::new(&name) else {
            self.scope.count()?;
            return Ok(None);
        };
        let scope = &self.scope;
        let snapshot = scope.observe(|batch| {
            let holder = holder(batch, &slot);
            let snapshot = batch
                .state()
                .slots
                .get(&slot)
                .and_then(|it| it.document.as_ref())
                .map(|document| Snapshot {
                    content: batch.text(&document.content),
                    version: document.version.0,
                    state: slot_state(holder.clone()),
                    written_at: document.written_at.0,
                });
            let version = snapshot
                .as_ref()
                .map(|snapshot| crate::id::Seq(snapshot.version));
            (
                snapshot,
                Observation::SlotRead {
                    slot: slot.clone(),
                    version,
                    holder,
                },
            )
        })?;
        Ok(snapshot)
    }

    fn state(&mut self, name: String) -> wasmtime::Result<SlotState> {
        let Ok(slot) = SlotName::new(&name) else {
            self.scope.count()?;
            return Ok(SlotState::Idle);
        };
        let holder = self.scope.observe(|batch| {
            let holder = holder(batch, &slot);
            (
                holder.clone(),
                Observation::SlotState {
                    slot: slot.clone(),
                    holder,
                },
            )
        })?;
        Ok(slot_state(holder))
    }

    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        let names = self.scope.observe(|batch| {
            let slots: Vec<SlotName> = batch.state().slots.keys().cloned().collect();
            let names = slots.iter().map(|slot| slot.as_str().to_owned()).collect();
            (names, Observation::SlotNames { slots })
        })?;
        Ok(names)
    }

    fn lock(&mut self, name: String) -> wasmtime::Result<Result<Resource<SlotLock>, LockError>> {
        let scope = &self.scope;
        let locked = scope.append(|batch, n| {
            let turn = scope.turn.clone();
            let refused = |error: LockError, word: &str, holder: Option<String>| {
                let (slot, error_word) = (name.chars().take(128).collect(), word.to_owned());
                let what = Observation::SlotRefused {
                    slot,
                    error: error_word,
                    holder,
                };
                (
                    Payload::Observed(Observed {
                        turn: turn.clone(),
                        n,
                        what,
                    }),
                    Err(error),
                )
            };
            let (payload, answer) = match SlotName::new(&name) {
                Err(_) => refused(LockError::InvalidName, "invalid-name", None),
                Ok(slot) => match holder(batch, &slot) {
                    Some(holder) => refused(LockError::Held(holder.clone()), "held", Some(holder)),
                    None if !batch.state().slots.contains_key(&slot)
                        && batch.state().slots.len() >= scope.limits.slots_max =>
                    {
                        refused(LockError::TooMany, "too-many", None)
                    }
                    None => {
                        let locked = SlotLocked {
                            slot: slot.clone(),
                            turn: turn.clone(),
                            n,
                        };
                        (Payload::SlotLocked(locked), Ok(slot))
                    }
                },
            };
            batch.push(payload);
            answer
        })?;
        match locked {
            Ok(slot) => Ok(Ok(self.table.push(SlotLock { slot })?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl HostSlotLock for Guest {
    fn commit(
        &mut self,
        lock: Resource<SlotLock>,
        content: String,
    ) -> wasmtime::Result<Result<u64, CommitError>> {
        let SlotLock { slot } = self.table.delete(lock)?;
        let scope = &self.scope;
        let committed = scope.append(|batch, n| {
            let turn = Some(scope.turn.clone());
            let holds = batch
                .state()
                .slots
                .get(&slot)
                .is_some_and(|it| it.lock == turn);
            let refused = if !holds {
                Some((CommitError::Lost, "lost"))
            } else if content.len() > scope.limits.slot_bytes_max {
                Some((CommitError::TooLarge, "too-large"))
            } else {
                None
            };
            if let Some((error, word)) = refused {
                let what = Observation::CommitRefused {
                    slot: slot.clone(),
                    error: word.into(),
                };
                batch.push(Payload::Observed(Observed {
                    turn: scope.turn.clone(),
                    n,
                    what,
                }));
                return Err(error);
            }
            let wakes = batch
                .state()
                .participants
                .keys()
                .filter(|agent| **agent != scope.agent && (scope.watches)(agent, &slot))
                .cloned()
                .collect();
            let private = SlotCommittedPrivate {
                content: batch.content(&content),
                wakes,
            };
            let version = batch.push(Payload::SlotCommitted(SlotCommitted {
                slot: slot.clone(),
                version: batch.next_seq(),
                by: Writer::Agent(scope.agent.clone()),
                bytes: content.len() as u64,
                turn,
                n,
                private,
            }));
            batch.forget_old_texts();
            Ok(version.0)
        })?;
        // A commit that was too large leaves the lock; the handle is gone, so the lock goes too.
        if committed.is_err() {
            self.release_slot(&slot)?;
        }
        Ok(committed)
    }

    fn release(&mut self, lock: Resource<SlotLock>) -> wasmtime::Result<()> {
        self.drop(lock)
    }

    fn drop(&mut self, lock: Resource<SlotLock>) -> wasmtime::Result<()> {
        let SlotLock { slot } = self.table.delete(lock)?;
        self.release_slot(&slot)
    }
}

impl Guest {
    fn release_slot(&self, slot: &SlotName) -> wasmtime::Result<()> {
        let scope = &self.scope;
        scope.append(|batch, n| {
            let turn = scope.turn.clone();
            if batch
                .state()
                .slots
                .get(slot)
                .is_some_and(|it| it.lock.as_ref() == Some(&turn))
            {
                batch.push(Payload::SlotReleased(SlotReleased {
                    slot: slot.clone(),
                    turn,
                    n,
                }));
            }
        })?;
        Ok(())
    }
}
