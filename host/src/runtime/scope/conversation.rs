//! What a conversation writes down beside its calls and words: whose turn it is, and why it halts.

use crate::bus;
use crate::clock::Time;
use crate::id::{SessionId, TurnId};
use crate::journal::entry::{Halt, Halted, Payload, SpeakerEnded, SpeakerStarted, Usage};

use super::agents::Reply;
use super::{Scope, Stop};

/// A speaker's turn, as its entries name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Speaker {
    pub(in crate::runtime) index: u32,
    pub(in crate::runtime) name: String,
    /// The id of its turn.
    pub(in crate::runtime) turn: TurnId,
}

/// What came of a speaker's turn.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::runtime) struct Spoken {
    pub(in crate::runtime) text: String,
    pub(in crate::runtime) usage: Usage,
    pub(in crate::runtime) attempts: u32,
    /// Where an agent spoke.
    pub(in crate::runtime) child: Option<(SessionId, TurnId)>,
}

impl From<Reply> for Spoken {
    /// The words are said before they count.
    fn from(reply: Reply) -> Self {
        Self {
            text: String::new(),
            usage: reply.usage,
            attempts: 1,
            child: reply.turn.map(|turn| (reply.session, turn)),
        }
    }
}

impl Scope {
    pub(in crate::runtime) fn speaker(&self, index: u32, name: &str) -> Speaker {
        Speaker {
            index,
            name: name.to_owned(),
            turn: bus::speaker_turn(&self.run, index, name),
        }
    }

    /// The speaker's turn begins. Answers when it first did.
    pub(in crate::runtime) fn speaker_started(&self, speaker: &Speaker) -> Result<Time, Stop> {
        let asked = || format!("begins turn {} of {:?}", speaker.index, speaker.name);
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::SpeakerStarted(it)
                    if it.index == speaker.index && it.speaker == speaker.name =>
                {
                    Ok(recorded.time)
                }
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, _| {
            batch.push(Payload::SpeakerStarted(SpeakerStarted {
                turn: self.turn.clone(),
                index: speaker.index,
                speaker: speaker.name.clone(),
                speaker_turn: speaker.turn.clone(),
                attempt: 1,
            }));
            batch.state().time
        })
    }

    /// The speaker's turn is complete.
    pub(in crate::runtime) fn speaker_ended(
        &self,
        speaker: &Speaker,
        started_at: Time,
        spoken: &Spoken,
    ) -> Result<(), Stop> {
        let asked = || format!("ends turn {} of {:?}", speaker.index, speaker.name);
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::SpeakerEnded(it)
                    if it.index == speaker.index && it.speaker == speaker.name =>
                {
                    Ok(())
                }
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, _| {
            let (session, child_turn) = spoken.child.clone().unzip();
            batch.push(Payload::SpeakerEnded(SpeakerEnded {
                turn: self.turn.clone(),
                index: speaker.index,
                speaker: speaker.name.clone(),
                speaker_turn: speaker.turn.clone(),
                session,
                child_turn,
                usage: spoken.usage,
                attempts: spoken.attempts,
                started_at,
                ended_at: batch.now().max(batch.state().time),
            }));
        })
    }

    /// The conversation is over.
    pub(in crate::runtime) fn halted(&self, halt: &Halt) -> Result<(), Stop> {
        let asked = || format!("halts: {}", halt.name());
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::Halted(it) if it.halt == *halt => Ok(()),
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, _| {
            let (turn, halt) = (self.turn.clone(), halt.clone());
            batch.push(Payload::Halted(Halted { turn, halt }));
        })
    }
}
