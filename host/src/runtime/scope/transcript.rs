//! What people were shown and sent, up to the start of the turn.

use std::collections::BTreeSet;

use crate::id::{Offset, Seq};
use crate::journal::entry::{Observation, Payload};
use crate::ledger::transcript::{self, Window};

use super::{Scope, Stop};

/// Items on one page.
const ITEMS_MAX: u32 = 200;

impl Scope {
    /// The newest items before the cursor. Messages that wait for this agent, or that the turn took,
    /// are left out; which they were is written down, for the mailbox changes.
    pub(in crate::runtime) async fn window(
        &self,
        max: u32,
        cursor: Option<&str>,
    ) -> Result<Window, Stop> {
        // The guest chose both numbers.
        let max = max.min(ITEMS_MAX);
        let before = match cursor.map(str::parse::<Offset>) {
            None => self.started,
            Some(Ok(Offset(seq))) => seq.min(self.started),
            Some(Err(_)) => Seq(0),
        };
        let asked = || format!("reads {max} items of the transcript before {before}");
        let recorded = self.recorded(asked)?;
        let without: BTreeSet<Seq> = match &recorded {
            Some(recorded) => {
                let Payload::Observed(it) = &recorded.payload else {
                    return Err(self.differs(recorded, asked()));
                };
                let Observation::TranscriptWindow {
                    max: asked_max,
                    before: asked_before,
                    without,
                    ..
                } = &it.what
                else {
                    return Err(self.differs(recorded, asked()));
                };
                if asked_max.is_some_and(|asked| asked != max)
                    || asked_before.is_some_and(|asked| asked != before)
                {
                    return Err(self.differs(recorded, asked()));
                }
                without.iter().copied().collect()
            }
            None => self.ledger.look(|state| {
                let participant = state.participants.get(&self.agent);
                let pending = participant.into_iter().flat_map(|it| &it.pending);
                pending.map(|pending| pending.message.seq()).collect()
            }),
        };
        let until = Seq(self.started.0.saturating_sub(1));
        let window = transcript::window(&self.ledger, before, until, max as usize, &without);
        let window = self.cpu.waiting(window).await?;
        if recorded.is_some() {
            return Ok(window);
        }
        self.observe(|_| {
            let (first, last) = (window.items.first(), window.items.last());
            let what = Observation::TranscriptWindow {
                first: first.map_or(before, |item| item.at),
                last: last.map_or(before, |item| item.at),
                items: u32::try_from(window.items.len()).unwrap_or(u32::MAX),
                max: Some(max),
                before: Some(before),
                without: window.left_out.clone(),
            };
            (window, what)
        })
    }
}
