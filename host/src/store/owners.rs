//! Who may append to which journal, and where its buffered end is.
//!
//! Pure bookkeeping under the commit queue's lock. Generations come from one
//! counter, so they rise for every journal even when its entry was dropped in
//! between, and an append to a journal that has no entry is fenced.
//!
//! Invariant: an entry exists only for a journal that was opened and not yet given
//! back, or that still has accepted writes in flight; so the map is bounded by the
//! open sessions.

use std::collections::{BTreeSet, HashMap};

use crate::id::Seq;

use super::{CommitError, Generation, JournalId, Tail, Write};

/// The number of an accepted commit. Those of several tenants are settled out of order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Ticket(pub(in crate::store) u64);

#[derive(Debug)]
struct Owner {
    generation: Generation,
    /// None until whoever opens it has read its end from disk.
    tail: Option<Seq>,
    /// The last commit accepted for it.
    last: Ticket,
}

#[derive(Debug, Default)]
pub(in crate::store) struct Owners {
    newest: u64,
    owners: HashMap<JournalId, Owner>,
    /// Given back while writes were in flight: dropped when these are settled.
    leaving: Vec<(Ticket, JournalId, Generation)>,
}

/// A journal just taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Taken {
    pub(in crate::store) generation: Generation,
    /// None if it must be read from disk.
    pub(in crate::store) tail: Option<Seq>,
    /// What must be settled first.
    pub(in crate::store) last: Ticket,
}

impl Owners {
    fn next_generation(&mut self) -> Generation {
        self.newest += 1;
        Generation(self.newest)
    }

    pub(in crate::store) fn take_over(&mut self, journal: &JournalId) -> Taken {
        let generation = self.next_generation();
        let owner = self.owners.entry(journal.clone()).or_insert(Owner {
            generation,
            tail: None,
            last: Ticket(0),
        });
        owner.generation = generation;
        Taken {
            generation,
            tail: owner.tail,
            last: owner.last,
        }
    }

    /// The end that was read from disk. Whoever was fenced meanwhile changes nothing.
    pub(in crate::store) fn set_tail(&mut self, journal: &JournalId, of: Generation, tail: Seq) {
        if let Some(owner) = self.owners.get_mut(journal)
            && owner.generation == of
        {
            owner.tail = Some(tail);
        }
    }

    /// Given back by an owner, if it still is that; `open` has the commits that are not settled.
    pub(in crate::store) fn release(
        &mut self,
        journal: &JournalId,
        of: Generation,
        open: &BTreeSet<Ticket>,
    ) {
        let fence = self.next_generation();
        let Some(owner) = self.owners.get_mut(journal) else {
            return;
        };
        if owner.generation != of {
            return;
        }
        if !open.contains(&owner.last) {
            self.owners.remove(journal);
        } else {
            owner.generation = fence;
            // The next one waits for the last commit, and reads where that left the journal.
            owner.tail = None;
            self.leaving.push((owner.last, journal.clone(), fence));
        }
    }

    /// Drop what was given back and has nothing in flight any more.
    pub(in crate::store) fn settle(&mut self, open: &BTreeSet<Ticket>) {
        let owners = &mut self.owners;
        self.leaving.retain(|(last, journal, fence)| {
            let stays = open.contains(last);
            // Opened again meanwhile, it has a newer generation and stays.
            if !stays && owners.get(journal).is_some_and(|o| o.generation == *fence) {
                owners.remove(journal);
            }
            stays
        });
    }

    /// Check a commit against everything accepted before it and count it in. Refused, it
    /// leaves no trace.
    pub(in crate::store) fn accept(
        &mut self,
        writes: &[Write],
        ticket: Ticket,
    ) -> Result<Option<Tail>, CommitError> {
        let mut written: Option<(&JournalId, Seq)> = None;
        let mut appended = None;
        for write in writes {
            let (journal, generation) = match write {
                Write::Append {
                    journal,
                    generation,
                    ..
                }
                | Write::Snapshot {
                    journal,
                    generation,
                    ..
                } => (journal, *generation),
                Write::Value { .. }
                | Write::Record { .. }
                | Write::Unrecord { .. }
                | Write::Piece { .. }
                | Write::Notice { .. } => continue,
            };
            assert!(
                written.is_none_or(|(other, _)| other == journal),
                "a commit writes to one journal"
            );
            let owner = self.owners.get(journal).ok_or(CommitError::Fenced)?;
            if owner.generation != generation {
                return Err(CommitError::Fenced);
            }
            let mut tail = written
                .map(|(_, tail)| tail)
                .or(owner.tail)
                .ok_or(CommitError::TailMismatch)?;
            match write {
                Write::Append {
                    expected, frame, ..
                } => {
                    if expected.0 != tail || frame.first() != tail.next() {
                        return Err(CommitError::TailMismatch);
                    }
                    tail = frame.last();
                    appended = Some(Tail(tail));
                }
                Write::Snapshot { seq, .. } if *seq > tail => {
                    return Err(CommitError::TailMismatch);
                }
                Write::Snapshot { .. }
                | Write::Value { .. }
                | Write::Record { .. }
                | Write::Unrecord { .. }
                | Write::Piece { .. }
                | Write::Notice { .. } => {}
            }
            written = Some((journal, tail));
        }
        if let Some((journal, tail)) = written
            && let Some(owner) = self.owners.get_mut(journal)
        {
            owner.tail = Some(tail);
            owner.last = ticket;
        }
        Ok(appended)
    }

    #[cfg(test)]
    pub(in crate::store) fn len(&self) -> usize {
        self.owners.len() + self.leaving.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{SessionId, TenantId};
    use crate::store::contract::frame;

    fn journal() -> JournalId {
        JournalId {
            tenant: TenantId::new("t").expect("a name"),
            session: SessionId::new("s").expect("a name"),
        }
    }

    /// Opened on an empty journal, with one entry accepted as this commit.
    fn with_one(owners: &mut Owners, ticket: Ticket) -> Generation {
        let journal = journal();
        let taken = owners.take_over(&journal);
        owners.set_tail(&journal, taken.generation, Seq(0));
        let append = Write::Append {
            journal,
            generation: taken.generation,
            expected: Tail(Seq(0)),
            frame: frame(1, 1),
        };
        let tail = owners.accept(&[append], ticket).expect("it is accepted");
        assert_eq!(tail, Some(Tail(Seq(1))));
        taken.generation
    }

    #[test]
    fn commits_of_others_keep_nobody() {
        let (mut owners, theirs, ours) = (Owners::default(), Ticket(1), Ticket(2));
        let generation = with_one(&mut owners, ours);
        // Theirs is older and still open, ours is durable.
        owners.release(&journal(), generation, &BTreeSet::from([theirs]));
        assert_eq!(owners.len(), 0);
    }

    #[test]
    fn what_was_given_back_is_read_anew() {
        let (mut owners, ours) = (Owners::default(), Ticket(1));
        let generation = with_one(&mut owners, ours);
        owners.release(&journal(), generation, &BTreeSet::from([ours]));
        let next = owners.take_over(&journal());
        assert_eq!((next.last, next.tail), (ours, None));
        // It is the next one's now, and stays.
        owners.settle(&BTreeSet::new());
        owners.set_tail(&journal(), next.generation, Seq(1));
        assert_eq!(owners.take_over(&journal()).tail, Some(Seq(1)));
        assert_eq!(owners.len(), 1);
    }
}
