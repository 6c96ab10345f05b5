//! Reading what is durable, and nothing else.
//!
//! An engine shows a batch while it commits it, some of it or all; a reader must not see it
//! before it is on disk, nor a part of it. So the commit thread publishes the changes of a group, with
//! what each key was before, and takes them back when they are committed. A reader reads the engine first and looks at the published changes
//! *after*: a key found there reads as it was. If the changes are gone by then, they
//! are durable, and so is whatever was read.
//!
//! Invariant: nothing read here can be lost by a crash. After a failure the
//! published changes stay for ever, and with them the state of the last good commit.

use std::collections::Bound;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::ReadError;
use super::engine::{Changes, Engine, EngineError, Order, Rows};
use super::keys::{self, Stem};
use super::row::{self, Damage};

impl From<EngineError> for ReadError {
    fn from(error: EngineError) -> Self {
        Self::Io(error.to_string())
    }
}

fn damaged(stem: &[u8], damage: impl std::fmt::Display) -> ReadError {
    ReadError::bad_row(stem, None, damage)
}

/// The changes that are being written.
#[derive(Default)]
pub(in crate::store) struct InFlight(Mutex<Option<Arc<Changes>>>);

impl InFlight {
    pub(in crate::store) fn publish(&self, changes: Option<Arc<Changes>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = changes;
    }

    fn load(&self) -> Option<Arc<Changes>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The durable state of an engine.
pub(in crate::store) struct View {
    pub(in crate::store) engine: Arc<dyn Engine>,
    pub(in crate::store) in_flight: Arc<InFlight>,
}

impl View {
    /// One key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let read = self.engine.get(key)?;
        match self.in_flight.load().as_ref().and_then(|c| c.get(key)) {
            Some(change) => Ok(change.old.clone()),
            None => Ok(read),
        }
    }

    /// A whole row, checked. A row replaced while its parts are read is read again;
    /// one that stays wrong is damaged.
    pub(in crate::store) fn row(&self, stem: &Stem) -> Result<Option<Bytes>, ReadError> {
        let first_key = stem.part(0);
        let Some(mut first) = self.get(&first_key)? else {
            return Ok(None);
        };
        loop {
            let damage = match self.parts(stem, &first)? {
                Ok(payload) => return Ok(Some(payload)),
                Err(damage) => damage,
            };
            match self.get(&first_key)? {
                None => return Ok(None),
                Some(again) if again == first => return Err(damaged(stem.bytes(), damage)),
                Some(again) => first = again,
            }
        }
    }

    fn parts(&self, stem: &Stem, first: &Bytes) -> Result<Result<Bytes, Damage>, ReadError> {
        let count = match row::parts(first) {
            Ok(count) => count,
            Err(damage) => return Ok(Err(damage)),
        };
        let mut values = vec![first.clone()];
        for part in 1..count {
            match self.get(&stem.part(part))? {
                Some(value) => values.push(value),
                None => return Ok(Err(Damage::Parts)),
            }
        }
        Ok(row::decode(stem.bytes(), &values))
    }

    /// The keys of a range, in order, with what they hold.
    pub(in crate::store) fn keys(&self, range: Range<Vec<u8>>, order: Order) -> Keys<'_> {
        Keys {
            view: self,
            rows: self.engine.range(&range.start, &range.end, order),
            ahead: None,
            rest: (Bound::Included(range.start), Bound::Excluded(range.end)),
            order,
        }
    }

    /// The rows of a range whose first part passes `wanted`, in order, whole and checked.
    pub(in crate::store) fn rows<'a>(
        &'a self,
        range: Range<Vec<u8>>,
        order: Order,
        mut wanted: impl FnMut(&Bytes) -> Result<bool, ReadError> + 'a,
    ) -> impl Iterator<Item = Result<(Stem, Bytes), ReadError>> + 'a {
        self.keys(range, order).filter_map(move |item| {
            let (key, value) = match item {
                Ok(item) => item,
                Err(error) => return Some(Err(error)),
            };
            let Some((stem, part)) = keys::split(&key) else {
                return Some(Err(damaged(&key, "not a key")));
            };
            if part != 0 {
                return None;
            }
            let stem = Stem::of(stem);
            let beginning = match row::beginning(&value) {
                Ok(beginning) => beginning,
                Err(damage) => return Some(Err(damaged(stem.bytes(), damage))),
            };
            match wanted(&beginning) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            if row::parts(&value) == Ok(1) {
                let payload = row::decode(stem.bytes(), &[value]);
                return Some(match payload {
                    Ok(payload) => Ok((stem, payload)),
                    Err(damage) => Err(damaged(stem.bytes(), damage)),
                });
            }
            // Gone meanwhile: its journal is being cleared.
            self.row(&stem)
                .map(|payload| payload.map(|payload| (stem, payload)))
                .transpose()
        })
    }
}

/// See [`View::keys`]. Merges the engine's rows with those that changes in flight hide.
pub(in crate::store) struct Keys<'a> {
    view: &'a View,
    rows: Rows<'a>,
    /// Read from the engine, and not its turn yet.
    ahead: Option<(Bytes, Bytes)>,
    /// What was not passed yet.
    rest: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    order: Order,
}

impl Keys<'_> {
    /// The next key in flight that was there before, not after `until`, with what it was.
    fn hidden(&self, changes: &Changes, until: Option<&Bytes>) -> Option<(Vec<u8>, Bytes)> {
        let (mut low, mut high) = (
            self.rest.0.as_ref().map(Vec::as_slice),
            self.rest.1.as_ref().map(Vec::as_slice),
        );
        if let Some(until) = until {
            match self.order {
                Order::Forward => high = Bound::Included(until),
                Order::Backward => low = Bound::Included(until),
            }
        }
        if is_empty(low, high) {
            return None;
        }
        let mut range = changes.range::<[u8], _>((low, high));
        let found = match self.order {
            Order::Forward => range.find(|(_, change)| change.old.is_some()),
            Order::Backward => range.rfind(|(_, change)| change.old.is_some()),
        };
        found.and_then(|(key, change)| Some((key.clone(), change.old.clone()?)))
    }

    fn pass(&mut self, key: &[u8]) {
        let bound = Bound::Excluded(key.to_vec());
        match self.order {
            Order::Forward => self.rest.0 = bound,
            Order::Backward => self.rest.1 = bound,
        }
    }

    fn step(&mut self) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        loop {
            let item = match self.ahead.take() {
                Some(item) => Some(item),
                None => self.rows.next().transpose()?,
            };
            // Only after the engine was read: see the head of this file.
            let changes = self.view.in_flight.load();
            let Some(changes) = changes else {
                if let Some((key, _)) = &item {
                    self.pass(&key.clone());
                }
                return Ok(item);
            };
            if let Some((key, old)) = self.hidden(&changes, item.as_ref().map(|(key, _)| key)) {
                self.pass(&key);
                self.ahead = item.filter(|(read, _)| *read != key);
                return Ok(Some((key.into(), old)));
            }
            let Some((key, value)) = item else {
                return Ok(None);
            };
            self.pass(&key);
            if !changes.contains_key(&key[..]) {
                return Ok(Some((key, value)));
            }
            // Not durable yet, and there was nothing before: passed over.
        }
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Ranges of a `BTreeMap` panic when they are the wrong way round.
fn is_empty(low: Bound<&[u8]>, high: Bound<&[u8]>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high))
        | (Bound::Excluded(low), Bound::Included(high)) => low >= high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}
