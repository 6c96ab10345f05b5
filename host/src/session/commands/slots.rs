//! Writing a slot from outside.

use crate::clock::Time;
use crate::id::{AgentName, Author, Seq, SlotName};
use crate::journal::entry::{Payload, SlotCommitted, SlotCommittedPrivate, Writer};
use crate::ledger::Ledger;
use crate::session::Sessions;
use crate::telemetry::{self, Limit};

use super::{CommandError, Result, append, must_be_open};

/// Write a slot from outside. `version` is the one replaced: none if the slot is to be new.
pub fn put_slot(
    sessions: &Sessions,
    ledger: &Ledger,
    slot: &SlotName,
    by: Author,
    version: Option<Seq>,
    content: &str,
) -> Result<(Seq, Time)> {
    let limits = sessions.limits();
    if content.len() > limits.slot_bytes_max {
        telemetry::hit(Limit::SlotBytes);
        return Err(CommandError::TooLarge(limits.slot_bytes_max));
    }
    append(ledger, |batch| {
        must_be_open(batch)?;
        let state = batch.state();
        let current = state.slots.get(slot);
        let newest = current
            .and_then(|it| it.document.as_ref())
            .map(|document| document.version);
        if let Some(holder) = current.and_then(|it| it.lock.clone()) {
            return Err(CommandError::SlotLocked(holder));
        }
        match (newest, version) {
            (Some(newest), None) => return Err(CommandError::VersionRequired(newest)),
            (newest, Some(version)) if newest != Some(version) => {
                return Err(CommandError::VersionMismatch(newest));
            }
            _ => {}
        }
        if current.is_none() && state.slots.len() >= limits.slots_max {
            telemetry::hit(Limit::Slots);
            return Err(CommandError::Full {
                what: "the session has enough slots",
                limit: limits.slots_max,
            });
        }
        let tenant = batch.journal().tenant.clone();
        let watches = |agent: &&AgentName| sessions.agents().watches(&tenant, agent, slot);
        let wakes = state.participants.keys().filter(watches).cloned().collect();
        let private = SlotCommittedPrivate {
            content: batch.content(content),
            wakes,
        };
        let version = batch.next_seq();
        batch.push(Payload::SlotCommitted(SlotCommitted {
            slot: slot.clone(),
            version,
            by: Writer::Author(by),
            bytes: content.len() as u64,
            turn: None,
            n: 0,
            private,
        }));
        batch.forget_old_texts();
        Ok((version, batch.state().time))
    })
}
