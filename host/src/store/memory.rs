//! The engine in memory: two images of a disk, and, for tests, faults on command.
//!
//! Invariant: the durable image changes only in a successful sync, by everything
//! applied so far, so `power_loss` leaves exactly what was synced and
//! `process_kill` everything that was applied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::engine::{Changes, Engine, EngineError, Order, Rows};

type Image = BTreeMap<Vec<u8>, Bytes>;

/// What goes wrong, once. Syncs count from 1, over the life of one [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This sync fails; the store latches.
    FailSync(u64),
    /// This apply fails half-way: every other change is made. The store latches.
    TearApply(u64),
    /// The machine stops before this sync did anything.
    StopBeforeSync(u64),
    /// The machine stops after this sync, before anybody is told.
    StopAfterSync(u64),
}

/// A disk in memory. A cheap handle: what was written through one clone is seen by all.
#[derive(Clone, Default)]
pub struct Memory(Arc<Shared>);

#[derive(Default)]
struct Shared {
    disk: Mutex<Disk>,
    /// Wakes a stopped commit thread when its machine is gone.
    gone: Condvar,
}

#[derive(Default)]
struct Disk {
    applied: Image,
    durable: Image,
    /// Changes since the last sync.
    dirty: Vec<(Vec<u8>, Option<Bytes>)>,
    applies: u64,
    syncs: u64,
    fault: Option<Fault>,
    stopped: bool,
    gone: bool,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    fn of(image: Image) -> Self {
        Self(Arc::new(Shared {
            disk: Mutex::new(Disk {
                applied: image.clone(),
                durable: image,
                ..Disk::default()
            }),
            gone: Condvar::new(),
        }))
    }

    /// Have something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// How many syncs were begun.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Whether the machine has stopped by a fault.
    pub fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Turn the machine off and give its disk to a new one: only what was synced.
    pub fn power_loss(&self) -> Self {
        Self::of(self.end(|disk| disk.durable.clone()))
    }

    /// End the process and give its disk to a new one: everything that was applied.
    pub fn process_kill(&self) -> Self {
        Self::of(self.end(|disk| disk.applied.clone()))
    }

    fn end(&self, image: impl FnOnce(&Disk) -> Image) -> Image {
        let mut disk = self.lock();
        disk.gone = true;
        self.0.gone.notify_all();
        image(&disk)
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never answers to a caller that still counts: the machine has stopped.
    fn park(&self, mut disk: MutexGuard<'_, Disk>) -> EngineError {
        disk.stopped = true;
        while !disk.gone {
            disk = self
                .0
                .gone
                .wait(disk)
                .unwrap_or_else(PoisonError::into_inner);
        }
        EngineError::Stopped
    }
}

impl Memory {
    fn apply(&self, changes: &Changes) -> Result<(), EngineError> {
        let mut guard = self.lock();
        let disk = &mut *guard;
        if disk.gone {
            return Err(EngineError::Stopped);
        }
        disk.applies += 1;
        let torn = disk.fault == Some(Fault::TearApply(disk.applies));
        for (key, change) in changes.iter().step_by(if torn { 2 } else { 1 }) {
            let new = change.new.clone().map(Bytes::from);
            match &new {
                Some(value) => disk.applied.insert(key.clone(), value.clone()),
                None => disk.applied.remove(key),
            };
            disk.dirty.push((key.clone(), new));
        }
        if torn {
            return Err(EngineError::Failed("injected: apply".into()));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut disk = self.lock();
        if disk.gone {
            return Err(EngineError::Stopped);
        }
        disk.syncs += 1;
        let this = disk.syncs;
        match disk.fault {
            Some(Fault::FailSync(k)) if k == this => {
                return Err(EngineError::Failed("injected: sync".into()));
            }
            Some(Fault::StopBeforeSync(k)) if k == this => return Err(self.park(disk)),
            _ => {}
        }
        for (key, value) in std::mem::take(&mut disk.dirty) {
            match value {
                Some(value) => disk.durable.insert(key, value),
                None => disk.durable.remove(&key),
            };
        }
        if disk.fault == Some(Fault::StopAfterSync(this)) {
            return Err(self.park(disk));
        }
        Ok(())
    }
}

impl Engine for Memory {
    fn commit(&self, changes: &Changes) -> Result<(), EngineError> {
        self.apply(changes)?;
        self.sync()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.lock().applied.get(key).cloned())
    }

    fn range(&self, low: &[u8], high: &[u8], order: Order) -> Rows<'_> {
        let mut low = Bound::Included(low.to_vec());
        let mut high = Bound::Excluded(high.to_vec());
        Box::new(std::iter::from_fn(move || {
            if let (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) =
                (&low, &high)
                && low >= high
            {
                return None;
            }
            let disk = self.lock();
            let mut range = disk.applied.range((low.clone(), high.clone()));
            let (key, value) = match order {
                Order::Forward => range.next(),
                Order::Backward => range.next_back(),
            }?;
            match order {
                Order::Forward => low = Bound::Excluded(key.clone()),
                Order::Backward => high = Bound::Excluded(key.clone()),
            }
            Some(Ok((Bytes::copy_from_slice(key), value.clone())))
        }))
    }

    fn size_on_disk(&self) -> Result<u64, EngineError> {
        let disk = self.lock();
        let bytes = disk
            .applied
            .iter()
            .map(|(key, value)| key.len() + value.len());
        Ok(bytes.sum::<usize>() as u64)
    }
}
