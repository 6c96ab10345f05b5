//! PURE: how a replay's end compares with the recorded one.
//!
//! A turn that somebody or something else ended has no end of its own: a component that does
//! what is recorded, and whatever then, does the same.

use crate::clock::Time;
use crate::id::Seq;
use crate::journal::context::Change;
use crate::journal::entry::{Entry, Failure, Outcome, TurnEnded, TurnError};
use crate::model::Request;
use crate::runtime::instance::Exit;
use crate::runtime::replay::{Differs, Replay};
use crate::session::turn::WAKE_MS_MIN;

use super::{CaseError, kind};

/// Where a component first does something else than is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The entry; none if it is about words or the end.
    pub at: Option<Seq>,
    /// The kind of the entry.
    pub kind: Option<&'static str>,
    pub recorded: String,
    /// What it does instead.
    pub does: String,
    /// What it asks a model, if it does.
    pub request: Option<Box<Request>>,
}

/// The recorded end.
pub(super) struct Recorded<'a> {
    pub(super) ended: &'a TurnEnded,
    pub(super) at: Time,
}

pub(super) struct Compared {
    /// How the run ended, if it was not stopped.
    pub(super) end: Option<String>,
    pub(super) difference: Option<Difference>,
}

/// A recorded end in words.
pub(super) fn recorded(ended: &TurnEnded) -> String {
    match &ended.error {
        Some(error) => failed(error),
        None => ended.outcome.name().to_owned(),
    }
}

fn failed(error: &TurnError) -> String {
    format!("failed ({}): {}", error.code.name(), error.message)
}

/// Whether the turn was ended by others, or by time.
fn is_cut(ended: &TurnEnded) -> bool {
    match ended.outcome {
        Outcome::Completed => false,
        Outcome::Interrupted | Outcome::Cancelled | Outcome::Refused => true,
        Outcome::Failed => match ended.error.as_ref().map(|error| error.code) {
            Some(Failure::Trap | Failure::Limit | Failure::Agent) => false,
            Some(
                Failure::Cpu
                | Failure::Deadline
                | Failure::HostLost
                | Failure::Component
                | Failure::Poison
                | Failure::Nondeterminism,
            )
            | None => true,
        },
    }
}

/// Compare the end of a run, whose record is now as `replay` says.
pub(super) fn compare(
    told: &Recorded<'_>,
    exit: &Exit,
    replay: &Replay,
    entries: &[Entry],
) -> Result<Compared, CaseError> {
    let ended = told.ended;
    if let Exit::Failed { error, .. } = exit
        && error.code == Failure::Component
    {
        return Err(CaseError::Live(error.message.clone()));
    }
    let beyond = is_cut(ended) && replay.is_over();
    let then = || format!("nothing more: the turn {}", was(ended));
    let end = match exit {
        Exit::Completed { .. } => Some("completed".to_owned()),
        Exit::Failed { error, .. } => Some(failed(error)),
        Exit::Differs { .. } | Exit::Over => None,
        Exit::Dead(dead) => return Err(CaseError::Live(dead.to_string())),
    };
    let difference = match exit {
        Exit::Differs { .. } | Exit::Over if beyond => None,
        Exit::Differs { differs, .. } => Some(of(differs, replay, then, entries)),
        Exit::Over => Some(plain(then(), "waits for what never comes")),
        Exit::Failed { error, .. } => match replay.left() {
            // It stopped before the end of the record.
            Some(next) => {
                let differs = Differs {
                    asked: format!("{}: {}", fails(error.code), error.message),
                    ..next
                };
                Some(of(&differs, replay, then, entries))
            }
            None if is_cut(ended) => None,
            None => match &ended.error {
                Some(recorded) if is_same(recorded, error) => None,
                _ => Some(plain(
                    format!("its end: it {}", was(ended)),
                    format!("{}: {}", fails(error.code), error.message),
                )),
            },
        },
        Exit::Completed { .. } if is_cut(ended) => None,
        Exit::Completed { wake_at, context } if ended.outcome == Outcome::Completed => {
            completed(told, *wake_at, context)
        }
        Exit::Completed { .. } => Some(plain(format!("its end: it {}", was(ended)), "is done")),
        Exit::Dead(_) => None,
    };
    Ok(Compared { end, difference })
}

fn of(
    differs: &Differs,
    replay: &Replay,
    then: impl Fn() -> String,
    entries: &[Entry],
) -> Difference {
    let is_end = differs.at.is_none() && replay.is_over();
    Difference {
        at: differs.at,
        kind: differs
            .at
            .and_then(|at| kind(entries, at))
            .map(|kind| kind.name()),
        recorded: if is_end {
            then()
        } else {
            differs.recorded.clone()
        },
        does: differs.asked.clone(),
        request: differs.request.clone(),
    }
}

fn plain(recorded: impl Into<String>, does: impl Into<String>) -> Difference {
    Difference {
        at: None,
        kind: None,
        recorded: recorded.into(),
        does: does.into(),
        request: None,
    }
}

/// The sentence's end for how a turn ended.
fn was(ended: &TurnEnded) -> String {
    match ended.outcome {
        Outcome::Interrupted | Outcome::Cancelled | Outcome::Refused => {
            format!("was {}", ended.outcome.name())
        }
        Outcome::Completed | Outcome::Failed => recorded(ended),
    }
}

fn fails(code: Failure) -> String {
    format!("fails with {}", code.name())
}

/// What a trap is called is wasmtime's; the words of agents and of limits are not.
fn is_same(recorded: &TurnError, error: &TurnError) -> bool {
    recorded.code == error.code
        && (error.code == Failure::Trap || recorded.message == error.message)
}

fn completed(told: &Recorded<'_>, wake_at: Option<Time>, context: &[Change]) -> Option<Difference> {
    let wake = |at: Option<Time>| match at {
        Some(at) => format!("to be woken at {}", at.to_rfc3339()),
        None => "not to be woken".to_owned(),
    };
    // A wake-up that was asked for too soon was moved.
    let soonest = told.at.plus_ms(WAKE_MS_MIN);
    let is_woken_then = match (told.ended.wake_at, wake_at) {
        (Some(then), Some(now)) => then == now || (now < then && then <= soonest),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    if !is_woken_then {
        let asks = |at| format!("asks {}", wake(at));
        return Some(plain(
            format!(
                "its end: it completed and asked {}",
                wake(told.ended.wake_at)
            ),
            asks(wake_at),
        ));
    }
    let kept = &told.ended.private.context;
    let at = kept
        .iter()
        .zip(context)
        .take_while(|(then, now)| then == now)
        .count();
    let (then, now) = (kept.get(at), context.get(at));
    if then.is_none() && now.is_none() {
        return None;
    }
    let change = |change: Option<&Change>| {
        let json = change.and_then(|change| serde_json::to_string(change).ok());
        json.map_or_else(
            || "nothing more".to_owned(),
            |json| json.chars().take(200).collect(),
        )
    };
    Some(plain(
        format!("as change {} of its context {}", at + 1, change(then)),
        format!("makes it {}", change(now)),
    ))
}
