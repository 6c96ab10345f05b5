//! `kernel`: the session's slots.

use wasmtime::component::Resource;

use crate::id::SlotName;
use crate::runtime::bindings::antiphon::agent::kernel::{
    CommitError, Host, HostSlotLock, LockError, SlotState, Snapshot,
};
use crate::runtime::guest::Guest;
use crate::runtime::scope::slots::{CommitRefused, LockRefused};

/// A handle on a lock; the lock itself is the journal's.
#[allow(
    unreachable_pub,
    reason = "the generated bindings name it in a public module"
)]
pub struct SlotLock {
    slot: SlotName,
}

fn slot_state(holder: Option<String>) -> SlotState {
    holder.map_or(SlotState::Idle, SlotState::Locked)
}

impl Host for Guest {
    async fn read(&mut self, name: String) -> wasmtime::Result<Option<Snapshot>> {
        let Ok(slot) = SlotName::new(&name) else {
            self.scope.count()?;
            return Ok(None);
        };
        let snapshot = self.scope.read_slot(&slot).await?;
        Ok(snapshot.map(|snapshot| Snapshot {
            content: snapshot.text,
            version: snapshot.version.0,
            state: slot_state(snapshot.holder),
            written_at: snapshot.written_at.0,
        }))
    }

    fn state(&mut self, name: String) -> wasmtime::Result<SlotState> {
        let Ok(slot) = SlotName::new(&name) else {
            self.scope.count()?;
            return Ok(SlotState::Idle);
        };
        Ok(slot_state(self.scope.slot_holder(&slot)?))
    }

    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        let slots = self.scope.slot_names()?;
        Ok(slots.iter().map(|slot| slot.as_str().to_owned()).collect())
    }

    fn lock(&mut self, name: String) -> wasmtime::Result<Result<Resource<SlotLock>, LockError>> {
        match self.scope.lock_slot(&name)? {
            Ok(slot) => Ok(Ok(self.table.push(SlotLock { slot })?)),
            Err(LockRefused::Held(holder)) => Ok(Err(LockError::Held(holder))),
            Err(LockRefused::TooMany) => Ok(Err(LockError::TooMany)),
            Err(LockRefused::InvalidName) => Ok(Err(LockError::InvalidName)),
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
        match self.scope.commit_slot(&slot, &content)? {
            Ok(version) => Ok(Ok(version.0)),
            Err(CommitRefused::Lost) => Ok(Err(CommitError::Lost)),
            Err(CommitRefused::TooLarge) => {
                // The handle is gone, so the lock goes too.
                self.scope.release_slot(&slot)?;
                Ok(Err(CommitError::TooLarge))
            }
        }
    }

    fn release(&mut self, lock: Resource<SlotLock>) -> wasmtime::Result<()> {
        self.drop(lock)
    }

    fn drop(&mut self, lock: Resource<SlotLock>) -> wasmtime::Result<()> {
        let SlotLock { slot } = self.table.delete(lock)?;
        Ok(self.scope.release_slot(&slot)?)
    }
}
