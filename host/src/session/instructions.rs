//! The system text that came with a turn's messages.
//!
//! It stands in the private part of their entries, so a turn that is run again is told the same.

use crate::journal::entry::Payload;
use crate::journal::state::Pending;
use crate::ledger::Ledger;
use crate::store::ReadError;

/// What these messages came with, in order of arrival, with an empty line between; what several came with
/// stands there once. None if none came with any.
pub(super) async fn of(ledger: &Ledger, messages: &[Pending]) -> Result<Option<String>, ReadError> {
    let mut texts: Vec<String> = Vec::new();
    for pending in messages.iter().filter(|pending| pending.is_instructed) {
        let Some(entry) = ledger.entry(pending.message.seq()).await? else {
            continue;
        };
        if let Payload::MessageReceived(it) = ledger.decode(&entry)?.payload
            && let Some(text) = it.private.instructions
            && !texts.contains(&text)
        {
            texts.push(text);
        }
    }
    Ok((!texts.is_empty()).then(|| texts.join("\n\n")))
}
