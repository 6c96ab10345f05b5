//! What was spent, and what may be.
//!
//! ```text
//! ledger: returned, turn-ended --add--> totals of the tenant (memory) --check--> calls, turns, messages
//!    | with the frame
//!    v
//! record usage/<day>/<session> --load, once per tenant--> totals        --report--> GET /v1/usage
//!    | session buried, day forgotten
//!    v
//! record usage/<day>/ , usage/0000-00-00/
//! ```
//!
//! - `caps`: pure, the caps and whether one is reached.
//! - `records`: what is stored, and how it is kept small.
//! - here: a tenant's totals in memory, prices, and the decision.
//!
//! Invariant: a record is the whole of a session's day, derived from its fold and written in the commit
//! of the entries that say it: a crash neither loses nor doubles anything.
//! Invariant: the totals in memory are those of the records and of what was appended since, so they
//! are right after a restart, and exact whichever sessions spend at once. Calls under way are not in
//! them: a cap may be passed by what is in flight when it is reached.

mod caps;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::clock::{Day, Time};
use crate::id::{SessionId, TenantId};
use crate::journal::entry::Price;
use crate::journal::state::Spent;
use crate::store::{JournalId, ReadError, Store, Write};

pub use caps::{AgentBudget, Cap, Exhausted, TenantBudget};
pub(crate) use records::usage_write;
pub use records::{BookError, DayUsage, Report};

/// Days whose totals are in memory: today, and as many as clocks may differ.
const DAYS_KEPT: usize = 4;

/// What the operator decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// What models cost, by their names here. Others cost nothing.
    pub prices: BTreeMap<String, Price>,
    /// The caps of each tenant that has none of its own.
    pub budget: TenantBudget,
    pub tenants: BTreeMap<TenantId, TenantBudget>,
    /// How many days of usage are kept apart; older ones become one sum.
    pub usage_days_max: u64,
}

/// Prices, caps, and what was spent. Cheap to clone.
#[derive(Clone)]
pub struct Budgets(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    terms: Terms,
    books: Mutex<HashMap<TenantId, Arc<Book>>>,
}

/// One tenant's.
#[derive(Debug, Default)]
struct Book {
    budget: TenantBudget,
    totals: Mutex<Totals>,
    is_loaded: OnceLock<()>,
    /// Held by whoever moves usage from one record to another, or reads all of them.
    moving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Totals {
    micros: u64,
    days: BTreeMap<Day, u64>,
}

impl Totals {
    fn add(&mut self, day: Day, micros: u64) {
        self.micros = self.micros.saturating_add(micros);
        let of_day = self.days.entry(day).or_default();
        *of_day = of_day.saturating_add(micros);
        while self.days.len() > DAYS_KEPT {
            self.days.pop_first();
        }
    }

    fn take_back(&mut self, day: Day, micros: u64) {
        self.micros = self.micros.saturating_sub(micros);
        if let Some(of_day) = self.days.get_mut(&day) {
            *of_day = of_day.saturating_sub(micros);
        }
    }
}

impl Book {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Its caps, and what was spent of each.
    fn standings(&self, now: Time) -> Vec<Standing> {
        let TenantBudget {
            total_micros_max,
            day_micros_max,
        } = self.budget;
        if (total_micros_max, day_micros_max) == (None, None) {
            return Vec::new();
        }
        let totals = self.totals();
        let of_day = totals.days.get(&now.day()).copied().unwrap_or(0);
        let standing = |cap, spent_micros| {
            move |limit_micros| Standing {
                cap,
                spent_micros,
                limit_micros,
            }
        };
        let total = total_micros_max.map(standing(Cap::Tenant, totals.micros));
        let day = day_micros_max.map(standing(Cap::TenantDay, of_day));
        day.into_iter().chain(total).collect()
    }

    fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Counts what one open session spends for its tenant. What was counted and never handed to the
/// store is taken back with it: the session is folded again without it.
#[derive(Debug, Default)]
pub struct Meter {
    book: Option<Arc<Book>>,
    unsaved: Vec<(Day, u64)>,
}

impl Meter {
    pub(crate) fn add(&mut self, day: Day, micros: u64) {
        let Some(book) = self.book.as_ref().filter(|_| micros > 0) else {
            return;
        };
        book.totals().add(day, micros);
        match self.unsaved.last_mut() {
            Some((newest, sum)) if *newest == day => *sum = sum.saturating_add(micros),
            _ => self.unsaved.push((day, micros)),
        }
    }

    /// Everything counted so far is on its way to the disk. If it does not come there, the store
    /// takes nothing more, and the next process counts anew.
    pub(crate) fn saved(&mut self) {
        self.unsaved.clear();
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(book) = &self.book {
            let mut totals = book.totals();
            for (day, micros) in self.unsaved.drain(..) {
                totals.take_back(day, micros);
            }
        }
    }
}

/// What one tenant spent of what it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub cap: Cap,
    pub spent_micros: u64,
    pub limit_micros: u64,
}

impl Budgets {
    pub fn new(store: Arc<dyn Store>, terms: Terms) -> Self {
        Self(Arc::new(Inner {
            store,
            terms,
            books: Mutex::default(),
        }))
    }

    /// What a model costs.
    pub fn price(&self, model: &str) -> Price {
        self.0.terms.prices.get(model).copied().unwrap_or_default()
    }

    fn book(&self, tenant: &TenantId) -> Arc<Book> {
        let mut books = self
            .0
            .books
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(book) = books.get(tenant) {
            return book.clone();
        }
        let (terms, all) = (&self.0.terms, self.0.terms.budget);
        let own = terms.tenants.get(tenant);
        let book = Arc::new(Book {
            budget: own.map_or(all, |own| own.or(all)),
            ..Book::default()
        });
        books.insert(tenant.clone(), book.clone());
        book
    }

    /// What counts for a session of this tenant. Blocks: the first time it reads what the tenant
    /// spent before, as far as there are caps. No session of the tenant may count before that.
    pub fn meter(&self, tenant: &TenantId, now: Time) -> Result<Meter, ReadError> {
        let book = self.book(tenant);
        self.load(tenant, &book, now)?;
        Ok(Meter {
            book: Some(book),
            unsaved: Vec::new(),
        })
    }

    fn load(&self, tenant: &TenantId, book: &Book, now: Time) -> Result<(), ReadError> {
        if book.is_loaded.get().is_some() {
            return Ok(());
        }
        // Nobody counts for the tenant yet, so the records hold everything.
        let _moving = book.moving();
        if book.is_loaded.get().is_some() {
            return Ok(());
        }
        let mut read = Totals::default();
        let since = match book.budget {
            TenantBudget {
                total_micros_max: Some(_),
                ..
            } => Some(None),
            TenantBudget {
                day_micros_max: Some(_),
                ..
            } => Some(Some(now.day().minus(1))),
            TenantBudget { .. } => None,
        };
        if let Some(since) = since {
            records::each(&*self.0.store, tenant, since, |record| {
                read.add(record.day, record.usage.cost_micros);
                true
            })?;
        }
        *book.totals() = read;
        book.is_loaded.get_or_init(|| ());
        Ok(())
    }

    /// Whether a call, a turn or a message may still begin, as far as the tenant's caps say. What
    /// began goes on, whatever it costs.
    pub fn check_tenant(&self, tenant: &TenantId, now: Time) -> Result<(), Exhausted> {
        let terms = &self.0.terms;
        if terms.tenants.is_empty() && terms.budget == TenantBudget::default() {
            return Ok(());
        }
        let standings = self.book(tenant).standings(now);
        let reached = standings.into_iter().find_map(|it| {
            let until = (it.cap == Cap::TenantDay).then(|| now.day().next().start());
            caps::reached(it.cap, it.spent_micros, Some(it.limit_micros), until)
        });
        reached.map_or(Ok(()), Err)
    }

    /// The tenant's caps, and what was spent of each. Blocks, as `meter` does.
    pub fn standings(&self, tenant: &TenantId, now: Time) -> Result<Vec<Standing>, ReadError> {
        let book = self.book(tenant);
        self.load(tenant, &book, now)?;
        Ok(book.standings(now))
    }

    /// What was used on the days from `from` to `to`, by one session or by all. Durable usage
    /// alone. Blocks.
    pub fn report(
        &self,
        tenant: &TenantId,
        (from, to): (Day, Day),
        session: Option<&SessionId>,
        now: Time,
    ) -> Result<Report, ReadError> {
        let store = &*self.0.store;
        let book = self.book(tenant);
        let _moving = book.moving();
        match session {
            None => records::report(store, tenant, from, to),
            Some(session) => {
                // Its days are looked up one by one, so no more of them than there can be.
                let from = from.max(now.day().minus(self.usage_days_max()));
                let to = to.min(now.day().next());
                let journal = JournalId {
                    tenant: tenant.clone(),
                    session: session.clone(),
                };
                records::report_session(store, &journal, from, to)
            }
        }
    }

    /// A session is gone for good: its days become part of what the tenant's sessions that are gone
    /// used. `also` is written in the same commit. Blocks until that is durable; a crash leaves all
    /// of it or nothing.
    pub fn bury(
        &self,
        journal: &JournalId,
        spent: &Spent,
        also: Vec<Write>,
    ) -> Result<(), BookError> {
        let book = self.book(&journal.tenant);
        let _moving = book.moving();
        records::bury(&*self.0.store, journal, spent, also)
    }

    /// Make one sum of the tenant's days that are older than are kept apart. Answers how many records
    /// that removed. Blocks; a crash leaves some of them for the next time, each counted once.
    pub fn forget_days(&self, tenant: &TenantId, now: Time) -> Result<usize, BookError> {
        // Entries of yesterday may still be on their way to the disk, just after midnight.
        let days = self.usage_days_max().max(2);
        let first_kept = now.day().minus(days - 1);
        let book = self.book(tenant);
        let mut forgotten = 0;
        loop {
            // Not longer than for one batch: whoever buries or asks waits for it.
            let _moving = book.moving();
            match records::forget(&*self.0.store, tenant, first_kept)? {
                0 => return Ok(forgotten),
                count => forgotten += count,
            }
        }
    }

    /// The tenant is gone, and its records with it.
    pub fn forget_tenant(&self, tenant: &TenantId) {
        let mut books = self
            .0
            .books
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        books.remove(tenant);
    }

    /// Days of usage that are kept apart.
    fn usage_days_max(&self) -> u64 {
        self.0.terms.usage_days_max
    }
}

impl std::fmt::Debug for Budgets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budgets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
