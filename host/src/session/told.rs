//! What came with a turn's messages: system text, and tools that their senders offer.
//!
//! It stands in the private part of their entries, so a turn that is run again is told the same.

use crate::journal::entry::Payload;
use crate::journal::state::Pending;
use crate::ledger::Ledger;
use crate::runtime::scope::Told;
use crate::store::ReadError;

/// What these messages came with. Those of one turn came with the same text or with none, and one with tools is alone; but
/// journals may hold turns from before that was so, which are told what they were: the texts in order of arrival with an
/// empty line between, each once; of tools with the same name the newest.
pub(super) async fn of(ledger: &Ledger, messages: &[Pending]) -> Result<Told, ReadError> {
    let (mut texts, mut told) = (Vec::<String>::new(), Told::default());
    for pending in messages.iter().filter(|pending| pending.is_instructed()) {
        let Some(entry) = ledger.entry(pending.message.seq()).await? else {
            continue;
        };
        let Payload::MessageReceived(it) = ledger.decode(&entry)?.payload else {
            continue;
        };
        let text = it.private.instructions;
        texts.extend(text.filter(|text| !texts.contains(text)));
        for tool in it.private.tools {
            told.tools.retain(|other| other.name != tool.name);
            told.tools.push(tool);
        }
    }
    told.instructions = (!texts.is_empty()).then(|| texts.join("\n\n"));
    Ok(told)
}
