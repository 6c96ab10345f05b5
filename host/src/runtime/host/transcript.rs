//! `transcript`: what people were shown and sent.

use crate::id::Offset;
use crate::ledger::transcript::{self, Ending as StateEnding, Speaker};
use crate::runtime::bindings::antiphon::agent::transcript::{Author, Ending, Host, Item, Page};
use crate::runtime::guest::Guest;

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
        let window = self.scope.window(max_items, cursor.as_deref()).await?;
        Ok(Page {
            items: window.items.into_iter().map(to_wit).collect(),
            before: window.before.map(|seq| Offset(seq).to_string()),
        })
    }
}
