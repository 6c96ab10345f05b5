//! Usage as it is stored.
//!
//! | name in the space `usage` | what it holds |
//! |---|---|
//! | `2026-11-21/SESSION` | what the session used on that day, all of it |
//! | `2026-11-21/` | what sessions used on that day that are gone |
//! | `0000-00-00/` | what was used on days that are no longer kept apart |
//!
//! Days stand in order, and on each the sessions that are gone before the others. No session has
//! an empty name.
//!
//! Invariant: every commit here leaves the sum of all records as it was.

use std::collections::BTreeMap;
use std::sync::mpsc;

use bytes::Bytes;

use crate::clock::Day;
use crate::id::{SessionId, TenantId};
use crate::journal::entry::Usage;
use crate::journal::state::Spent;
use crate::store::{
    Commit, CommitError, JournalId, Latched, ReadError, RecordKey, RecordSpace, Store, Write,
};

/// The name of the sum of all days that are no longer kept apart.
const EARLIER: &str = "0000-00-00/";

/// Records read, or moved, at once.
const BATCH: usize = 500;

/// Why usage was not moved. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<Latched> for BookError {
    fn from(latched: Latched) -> Self {
        Self::Commit(latched.into())
    }
}

/// What was used on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayUsage {
    pub day: Day,
    pub usage: Usage,
}

/// Usage by days.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Days with any usage, in order.
    pub days: Vec<DayUsage>,
    /// What was used on days that are no longer kept apart. Of no session in particular.
    pub earlier: Usage,
}

impl Report {
    pub fn total(&self) -> Usage {
        let mut total = Usage::default();
        self.days.iter().for_each(|day| total.add(day.usage));
        total
    }
}

/// One record.
pub(super) struct Record {
    name: String,
    pub(super) day: Day,
    /// Whether it is the sum of the days that are no longer kept apart.
    is_earlier: bool,
    pub(super) usage: Usage,
}

fn key(tenant: &TenantId, name: String) -> RecordKey {
    RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Usage,
        name,
    }
}

fn name(day: Day, session: Option<&SessionId>) -> String {
    format!("{day}/{}", session.map_or("", SessionId::as_str))
}

fn bytes(usage: Usage) -> Bytes {
    serde_json::to_vec(&usage)
        .expect("a usage has string keys")
        .into()
}

fn parse(name: &str, bytes: &[u8]) -> Result<Usage, ReadError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ReadError::bad_record(format!("the usage record {name:?}: {error}")))
}

/// What a session used on a day, to be written with the entries that say so.
pub(crate) fn usage_write(journal: &JournalId, day: Day, usage: Usage) -> Write {
    Write::Record {
        key: key(&journal.tenant, name(day, Some(&journal.session))),
        bytes: bytes(usage),
    }
}

fn read(store: &dyn Store, key: &RecordKey) -> Result<Option<Usage>, ReadError> {
    let stored = store.record(key)?;
    stored.map(|it| parse(&key.name, &it)).transpose()
}

/// Every record of a tenant from a day on (from the first on, the sum of earlier days included, if
/// none), in order, until `take` has had enough.
pub(super) fn each(
    store: &dyn Store,
    tenant: &TenantId,
    from: Option<Day>,
    mut take: impl FnMut(Record) -> bool,
) -> Result<(), ReadError> {
    // A day's own text comes before every name of that day.
    let mut after = from.map(|day| day.to_string());
    loop {
        let space = RecordSpace::Usage;
        let records = store.records(Some(tenant), space, after.as_deref(), BATCH)?;
        let count = records.len();
        for (name, stored) in records {
            let record = record(name, &stored)?;
            after = Some(record.name.clone());
            if !take(record) {
                return Ok(());
            }
        }
        if count < BATCH {
            return Ok(());
        }
    }
}

fn record(name: String, stored: &[u8]) -> Result<Record, ReadError> {
    let is_earlier = name == EARLIER;
    let day = match name.split_once('/') {
        _ if is_earlier => Day::default(),
        Some((day, _)) => day.parse().map_err(|error| {
            ReadError::bad_record(format!("the usage record {name:?}: {error}"))
        })?,
        None => return Err(ReadError::bad_record(format!("the usage record {name:?}"))),
    };
    let usage = parse(&name, stored)?;
    Ok(Record {
        name,
        day,
        is_earlier,
        usage,
    })
}

pub(super) fn report(
    store: &dyn Store,
    tenant: &TenantId,
    from: Day,
    to: Day,
) -> Result<Report, ReadError> {
    let mut days: BTreeMap<Day, Usage> = BTreeMap::new();
    each(store, tenant, Some(from), |record| {
        if record.day > to {
            return false;
        }
        days.entry(record.day).or_default().add(record.usage);
        true
    })?;
    let earlier = read(store, &key(tenant, EARLIER.to_owned()))?;
    let days = days.into_iter();
    Ok(Report {
        days: days.map(|(day, usage)| DayUsage { day, usage }).collect(),
        earlier: earlier.unwrap_or_default(),
    })
}

/// Reads one record per day, so the caller bounds how many there are.
pub(super) fn report_session(
    store: &dyn Store,
    journal: &JournalId,
    from: Day,
    to: Day,
) -> Result<Report, ReadError> {
    let mut report = Report::default();
    let mut day = from;
    while day <= to {
        let key = key(&journal.tenant, name(day, Some(&journal.session)));
        let usage = read(store, &key)?;
        report
            .days
            .extend(usage.map(|usage| DayUsage { day, usage }));
        if day == day.next() {
            break;
        }
        day = day.next();
    }
    Ok(report)
}

/// Sums to be written, begun from what is stored.
struct Sums<'a> {
    store: &'a dyn Store,
    tenant: &'a TenantId,
    sums: BTreeMap<String, Usage>,
    writes: Vec<Write>,
}

impl<'a> Sums<'a> {
    fn new(store: &'a dyn Store, tenant: &'a TenantId) -> Self {
        Self {
            store,
            tenant,
            sums: BTreeMap::new(),
            writes: Vec::new(),
        }
    }

    /// Make a record part of a sum.
    fn put(&mut self, from: String, usage: Usage, to: String) -> Result<(), ReadError> {
        let sum = match self.sums.entry(to) {
            std::collections::btree_map::Entry::Occupied(sum) => sum.into_mut(),
            std::collections::btree_map::Entry::Vacant(sum) => {
                let stored = read(self.store, &key(self.tenant, sum.key().clone()))?;
                sum.insert(stored.unwrap_or_default())
            }
        };
        sum.add(usage);
        let key = key(self.tenant, from);
        self.writes.push(Write::Unrecord { key });
        Ok(())
    }

    fn write(mut self, also: Vec<Write>) -> Result<(), BookError> {
        for (name, usage) in self.sums {
            self.writes.push(Write::Record {
                key: key(self.tenant, name),
                bytes: bytes(usage),
            });
        }
        self.writes.extend(also);
        if self.writes.is_empty() {
            return Ok(());
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |result| {
            // Whoever waited may be gone; the write stands all the same.
            let _ = sender.try_send(result);
        });
        let writes = self.writes;
        self.store.commit(Commit { writes, done })?;
        let closed = |_| Latched {
            reason: "the store was closed".into(),
        };
        Ok(receiver.recv().map_err(closed)??)
    }
}

/// Everything of the session must be durable, and nothing may follow.
pub(super) fn bury(
    store: &dyn Store,
    journal: &JournalId,
    spent: &Spent,
    also: Vec<Write>,
) -> Result<(), BookError> {
    let mut sums = Sums::new(store, &journal.tenant);
    let mut day = spent.first_day;
    while let Some(current) = day.filter(|day| *day <= spent.day) {
        let own = name(current, Some(&journal.session));
        if let Some(usage) = read(store, &key(&journal.tenant, own.clone()))? {
            sums.put(own, usage, name(current, None))?;
        }
        day = Some(current.next()).filter(|next| *next > current);
    }
    sums.write(also)
}

/// Move a batch of records of days before `first_kept`. Answers how many.
pub(super) fn forget(
    store: &dyn Store,
    tenant: &TenantId,
    first_kept: Day,
) -> Result<usize, BookError> {
    let mut old = Vec::new();
    each(store, tenant, None, |record| {
        if record.day >= first_kept || old.len() == BATCH {
            return false;
        }
        if !record.is_earlier {
            old.push((record.name, record.usage));
        }
        true
    })?;
    let count = old.len();
    let mut sums = Sums::new(store, tenant);
    for (name, usage) in old {
        sums.put(name, usage, EARLIER.to_owned())?;
    }
    sums.write(Vec::new())?;
    Ok(count)
}
