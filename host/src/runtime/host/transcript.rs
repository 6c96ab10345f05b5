//! `transcript`: what people were shown and sent.

use std::collections::BTreeSet;

use crate::id::{MessageId, Offset, Seq};
use crate::journal::entry::Observation;
use crate::ledger::transcript::{self, Ending as StateEnding, Speaker};
use crate::runtime::bindings::antiphon::agent::transcript::{Author, Ending, Host, Item, Page};
use crate::runtime::guest::Guest;

/// Items on one page.
const ITEMS_MAX: usize = 200;

fn to_wit(item: transcript::Item) -> Item {
    Item {
        offset: Offset(item.at).to_string(),
        author: match item.speaker {
            Speaker::Person(author) => Author::Person(author.as_str().to_owned()),
            Speaker::Agent(agent) => Author::Agent(agent.as_str().to_owned()),
        },
        text: item.text,
        turn: item.turn.map(|turn| turn.as_str().to_owned()),
        end: item.end.map(|end| match end {
            StateEnding::Complete => Ending::Complete,
            StateEnding::Interrupted => Ending::Interrupted,
            StateEnding::Failed => Ending::Failed,
        }),
        time: item.time.0,
    }
}

impl Host for Guest {
    async fn window(&mut self, max_items: u32, cursor: Option<String>) -> wasmtime::Result<Page> {
        let scope = self.scope.clone();
        scope.count()?;
        // The guest chose both numbers.
        let max = usize::try_from(max_items)
            .unwrap_or(usize::MAX)
            .min(ITEMS_MAX);
        let before = match cursor.as_deref().map(str::parse::<Offset>) {
            None => scope.started,
            Some(Ok(Offset(seq))) => seq.min(scope.started),
            Some(Err(_)) => Seq(0),
        };
        let mine: BTreeSet<MessageId> = scope.ledger.look(|state| {
            let participant = state.participants.get(&scope.agent);
            participant
                .into_iter()
                .flat_map(|participant| &participant.pending)
                .map(|pending| pending.message.clone())
                .collect()
        });
        let until = Seq(scope.started.0.saturating_sub(1));
        let window = transcript::window(&scope.ledger, before, until, max, &mine);
        let window = scope.cpu.waiting(window).await?;
        Ok(scope.observe(|_| {
            let (first, last) = (window.items.first(), window.items.last());
            let what = Observation::TranscriptWindow {
                first: first.map_or(before, |item| item.at),
                last: last.map_or(before, |item| item.at),
                items: u32::try_from(window.items.len()).unwrap_or(u32::MAX),
            };
            let page = Page {
                items: window.items.into_iter().map(to_wit).collect(),
                before: window.before.map(|seq| Offset(seq).to_string()),
            };
            (page, what)
        })?)
    }
}
