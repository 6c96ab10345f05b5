//! Entries of a conversation: whose turn begins, how it ended, why the whole of it halted.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Time;
use crate::id::{SessionId, TurnId};

use super::Usage;

/// A speaker's turn within the turn of a conversation begins. Made once, whatever becomes of its call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeakerStarted {
    pub turn: TurnId,
    /// From 0, without gaps.
    pub index: u32,
    pub speaker: String,
    /// `<run>.t<index>.<slug of the speaker>`: the same for every attempt.
    pub speaker_turn: TurnId,
    /// Always 1: what is tried again is a call, and `retried` says so.
    pub attempt: u32,
}

/// A speaker's turn is complete. Its text is in the `spoke` entries of the same index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpeakerEnded {
    pub turn: TurnId,
    pub index: u32,
    pub speaker: String,
    pub speaker_turn: TurnId,
    /// Where an agent took part: its own session and turn there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child_turn: Option<TurnId>,
    pub usage: Usage,
    /// How often the call was made that brought the text.
    pub attempts: u32,
    pub started_at: Time,
    pub ended_at: Time,
}

/// The conversation is over. Nothing of its turn follows but its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Halted {
    pub turn: TurnId,
    pub halt: Halt,
}

/// Why a conversation halts, in the words of the agent bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum Halt {
    /// All turns were made.
    MaxTurns { turns: u32 },
    /// It cost as much as it may. Cents are the micro-units over 10,000, with all their places.
    MaxCredits {
        spent_cents: Cents,
        cap_cents: Cents,
        spent_micros: u64,
        cap_micros: u64,
    },
    /// What was said ends it.
    Predicate { reason: String },
    /// It was stopped.
    Abort,
    /// Somebody could not speak, or an agent that decides could not decide.
    ParticipantError {
        participant: String,
        message: String,
    },
}

impl Halt {
    pub fn max_credits(spent_micros: u64, cap_micros: u64) -> Self {
        Self::MaxCredits {
            spent_cents: Cents(spent_micros),
            cap_cents: Cents(cap_micros),
            spent_micros,
            cap_micros,
        }
    }

    /// Its `kind`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MaxTurns { .. } => "max_turns",
            Self::MaxCredits { .. } => "max_credits",
            Self::Predicate { .. } => "predicate",
            Self::Abort => "abort",
            Self::ParticipantError { .. } => "participant_error",
        }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxTurns { turns: 1 } => f.write_str("its one turn is made"),
            Self::MaxTurns { turns } => write!(f, "all {turns} turns are made"),
            Self::MaxCredits {
                spent_micros,
                cap_micros,
                ..
            } => write!(f, "{spent_micros} of {cap_micros} micro-units are spent"),
            Self::Predicate { reason } => f.write_str(reason),
            Self::Abort => f.write_str("somebody stopped it"),
            Self::ParticipantError {
                participant,
                message,
            } => write!(f, "{participant}: {message}"),
        }
    }
}

/// Micro-units that are written as cents. Rounded to whole cents, what costs less than half a one would
/// never reach a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cents(pub u64);

const MICROS_PER_CENT: u64 = 10_000;

impl Serialize for Cents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(MICROS_PER_CENT) {
            serializer.serialize_u64(self.0 / MICROS_PER_CENT)
        } else {
            serializer.serialize_f64(self.0 as f64 / MICROS_PER_CENT as f64)
        }
    }
}

impl<'de> Deserialize<'de> for Cents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cents = f64::deserialize(deserializer)?;
        // Saturates; a negative number becomes zero.
        Ok(Self((cents * MICROS_PER_CENT as f64).round() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halts_are_written_as_the_bus_has_them() {
        let error = Halt::ParticipantError {
            participant: "Bo".into(),
            message: "it broke".into(),
        };
        let reason = "predicate_true".to_owned();
        for (halt, json) in [
            (
                Halt::MaxTurns { turns: 3 },
                r#"{"kind":"max_turns","turns":3}"#,
            ),
            (
                Halt::max_credits(150_000, 120_000),
                r#"{"kind":"max_credits","spentCents":15,"capCents":12,"spentMicros":150000,"capMicros":120000}"#,
            ),
            (
                Halt::max_credits(4_001, 3_500),
                r#"{"kind":"max_credits","spentCents":0.4001,"capCents":0.35,"spentMicros":4001,"capMicros":3500}"#,
            ),
            (
                Halt::Predicate { reason },
                r#"{"kind":"predicate","reason":"predicate_true"}"#,
            ),
            (Halt::Abort, r#"{"kind":"abort"}"#),
            (
                error,
                r#"{"kind":"participant_error","participant":"Bo","message":"it broke"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&halt).unwrap(), json);
            assert!(json.contains(&format!("{:?}", halt.name())));
            assert_eq!(serde_json::from_str::<Halt>(json).unwrap(), halt);
        }
    }
}
