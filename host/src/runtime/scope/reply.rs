//! What the agent says to people.

use crate::ledger::{AppendError, Voice};
use crate::telemetry::{self, Limit};

use super::{Scope, Stop};

/// The turn has said as many bytes as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) struct TooLarge;

impl Scope {
    /// Say something now; shown once durable. Words of the record are said already: they are
    /// compared, and what goes beyond them is new.
    pub(in crate::runtime) fn say(&self, text: &str) -> Result<Result<(), TooLarge>, Stop> {
        self.say_as(None, text)
    }

    /// The same in the voice of a speaker whose turn is open.
    pub(in crate::runtime) fn say_as(
        &self,
        voice: Option<&Voice>,
        text: &str,
    ) -> Result<Result<(), TooLarge>, Stop> {
        self.may_still_say()?;
        let fits =
            |said: u64| said.saturating_add(text.len() as u64) <= self.limits.reply_bytes_max;
        let mut again = 0;
        let mut record = self.record.lock();
        if let Some(replay) = record.as_mut() {
            if !fits(replay.said()) {
                return Ok(Err(TooLarge));
            }
            again = replay.say(text)?;
            if again == text.len() {
                return Ok(Ok(()));
            }
            let replay = record.take();
            drop(record);
            self.go_live(replay.unwrap_or_default())?;
        } else {
            drop(record);
        }
        let rest = &text[again..];
        let said = self.ledger.say_as(&self.turn, voice, rest, |said| {
            if again > 0 || fits(said) {
                Ok(())
            } else {
                Err(TooLarge)
            }
        });
        match said {
            Ok(()) => Ok(Ok(())),
            Err(AppendError::Refused(error)) => {
                telemetry::hit(Limit::ReplyBytes);
                Ok(Err(error))
            }
            Err(AppendError::Dead(dead)) => Err(Stop::Dead(dead)),
        }
    }

    /// Wait until there is room for more words, and the turn is still there to say them.
    pub(in crate::runtime) async fn may_say(&self) -> Result<(), Stop> {
        if self.is_replaying() {
            return Ok(());
        }
        self.cpu.waiting(self.ledger.room()).await?;
        if !self
            .ledger
            .look(|state| state.turns.contains_key(&self.turn))
        {
            return Err(Stop::Over);
        }
        Ok(())
    }
}
