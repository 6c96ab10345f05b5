//! `reply`: what the agent says to people.

use std::sync::Arc;

use crate::ledger::AppendError;
use crate::runtime::bindings::antiphon::agent::reply::{Host, SayError};
use crate::runtime::guest::Guest;
use crate::runtime::scope::{Scope, Stop};

/// The turn has said as many bytes as it may.
pub(super) struct TooLarge;

/// Say something now; shown once durable.
pub(super) fn say(scope: &Arc<Scope>, text: &str) -> Result<Result<(), TooLarge>, Stop> {
    let said = scope.ledger.say(&scope.turn, text, |said| {
        if said.saturating_add(text.len() as u64) > scope.limits.reply_bytes_max {
            Err(TooLarge)
        } else {
            Ok(())
        }
    });
    match said {
        Ok(()) => Ok(Ok(())),
        Err(AppendError::Refused(error)) => Ok(Err(error)),
        Err(AppendError::Dead(dead)) => Err(Stop::Dead(dead)),
    }
}

impl Host for Guest {
    async fn say(&mut self, text: String) -> wasmtime::Result<Result<(), SayError>> {
        let scope = self.scope.clone();
        scope.count()?;
        scope
            .cpu
            .waiting(scope.ledger.room())
            .await
            .map_err(Stop::Dead)?;
        if !scope
            .ledger
            .look(|state| state.turns.contains_key(&scope.turn))
        {
            return Err(Stop::Over.into());
        }
        Ok(say(&scope, &text)?.map_err(|TooLarge| SayError::TooLarge))
    }
}
