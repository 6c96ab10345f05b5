//! Turns of conversations in the fold: who speaks, and whether it halted.

use serde::{Deserialize, Serialize};

use crate::journal::entry::{Halted, SpeakerEnded, SpeakerStarted, Spoke};

use super::{OpenTurn, State};

/// How far a conversation has come in its open turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversing {
    /// Speakers' turns that are complete.
    pub ended: u32,
    /// One more has begun.
    pub is_speaking: bool,
    pub has_halted: bool,
}

impl OpenTurn {
    /// Nothing follows the halt of a conversation but the end of its turn.
    pub(super) fn goes_on(&self) -> Result<(), &'static str> {
        match &self.conversation {
            Some(conversing) if conversing.has_halted => Err("the conversation has halted"),
            _ => Ok(()),
        }
    }

    /// Words of a speaker are those of the open turn.
    pub(super) fn may_voice(&self, spoke: &Spoke) -> Result<(), &'static str> {
        self.goes_on()?;
        let open = self.conversation.as_ref().filter(|it| it.is_speaking);
        match (&spoke.speaker, spoke.index) {
            (None, None) => Ok(()),
            (Some(_), Some(index)) if open.is_some_and(|it| it.ended == index) => Ok(()),
            _ => Err("its speaker's turn is not open"),
        }
    }
}

impl State {
    pub(super) fn speaker_started(&mut self, started: &SpeakerStarted) -> Result<(), &'static str> {
        let turn = self.speaking(&started.turn)?;
        turn.goes_on()?;
        let mut conversing = turn.conversation.clone().unwrap_or_default();
        if conversing.is_speaking {
            return Err("another speaker's turn is open");
        }
        if conversing.ended != started.index {
            return Err("its index does not follow");
        }
        conversing.is_speaking = true;
        turn.conversation = Some(conversing);
        Ok(())
    }

    pub(super) fn speaker_ended(&mut self, ended: &SpeakerEnded) -> Result<(), &'static str> {
        let turn = self.speaking(&ended.turn)?;
        turn.goes_on()?;
        let open = turn.conversation.as_mut().filter(|it| it.is_speaking);
        let conversing = open.ok_or("no speaker's turn is open")?;
        if conversing.ended != ended.index {
            return Err("another speaker's turn is open");
        }
        conversing.ended += 1;
        conversing.is_speaking = false;
        Ok(())
    }

    pub(super) fn halted(&mut self, halted: &Halted) -> Result<(), &'static str> {
        let turn = self.speaking(&halted.turn)?;
        turn.goes_on()?;
        turn.conversation.get_or_insert_default().has_halted = true;
        Ok(())
    }
}
