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
        Some(error) if ended.outcome == Outcome::Failed => failed(error),
        _ => ended.outcome.name().to_owned(),
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
                | Failure::CallerDeadline
                | Failure::HostLost
                | Failure::Component
                | Failure::Poison
                | Failure::Nondeterminism
                | Failure::Forked,
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
        Exit::Differs { .. } | Exit::Over | Exit::Aside | Exit::Waits => None,
        Exit::Dead(dead) => return Err(CaseError::Live(dead.to_string())),
    };
    let difference = match exit {
        Exit::Differs { .. } | Exit::Over | Exit::Aside | Exit::Waits if beyond => None,
        Exit::Differs { differs, .. } => Some(of(differs, replay, then, entries)),
        Exit::Over | Exit::Aside | Exit::Waits => Some(plain(then(), "waits for what never comes")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::context::Content;
    use crate::journal::entry::TurnEndedPrivate;
    use crate::journal::entry::Usage;
    use crate::journal::script::name;

    const AT: Time = Time(1_000_000);

    fn ended(outcome: Outcome, error: Option<(Failure, &str)>) -> TurnEnded {
        TurnEnded {
            turn: name("r.t0.a"),
            agent: name("a"),
            outcome,
            error: error.map(|(code, message)| TurnError {
                code,
                message: message.to_owned(),
            }),
            usage: Usage::default(),
            inputs: Vec::new(),
            wake_at: None,
            private: TurnEndedPrivate::default(),
        }
    }

    fn completes() -> Exit {
        Exit::Completed {
            wake_at: None,
            context: Vec::new(),
        }
    }

    fn fails_with(code: Failure, message: &str) -> Exit {
        Exit::Failed {
            error: TurnError {
                code,
                message: message.to_owned(),
            },
            backtrace: None,
            stderr: None,
        }
    }

    /// It does something after the record's end.
    fn goes_on() -> Exit {
        let mut record = Replay::default().closed();
        let differs = record.take(|| "asks".to_owned()).expect_err("it is closed");
        Exit::Differs {
            differs: Box::new(differs),
            backtrace: None,
            stderr: None,
        }
    }

    fn compared(ended: &TurnEnded, exit: &Exit) -> Option<String> {
        let told = Recorded { ended, at: AT };
        let compared = compare(&told, exit, &Replay::default(), &[]).expect("no defect");
        let words = |it: Difference| format!("{} / {}", it.recorded, it.does);
        compared.difference.map(words)
    }

    #[test]
    fn ends_of_its_own_are_compared() {
        use Failure::{Agent, Limit, Trap};
        let completed = ended(Outcome::Completed, None);
        let trapped = ended(Outcome::Failed, Some((Trap, "unreachable")));
        let erred = ended(Outcome::Failed, Some((Agent, "no idea")));
        let table = [
            (&completed, completes(), None),
            (
                &completed,
                goes_on(),
                Some("nothing more: the turn completed / asks"),
            ),
            (
                &completed,
                fails_with(Trap, "unreachable"),
                Some("its end: it completed / fails with trap: unreachable"),
            ),
            (&trapped, fails_with(Trap, "another word for it"), None),
            (
                &trapped,
                fails_with(Limit, "calls"),
                Some("its end: it failed (trap): unreachable / fails with limit: calls"),
            ),
            (
                &trapped,
                completes(),
                Some("its end: it failed (trap): unreachable / is done"),
            ),
            (&erred, fails_with(Agent, "no idea"), None),
            (
                &erred,
                fails_with(Agent, "an idea"),
                Some("its end: it failed (agent): no idea / fails with agent: an idea"),
            ),
        ];
        for (ended, exit, expect) in table {
            assert_eq!(compared(ended, &exit).as_deref(), expect);
        }
    }

    #[test]
    fn who_was_cut_off_may_do_more() {
        let cut = [
            ended(Outcome::Interrupted, None),
            ended(Outcome::Cancelled, None),
            ended(Outcome::Failed, Some((Failure::Deadline, "late"))),
            ended(Outcome::Failed, Some((Failure::HostLost, "gone"))),
        ];
        for ended in &cut {
            for exit in [
                goes_on(),
                completes(),
                fails_with(Failure::Trap, "x"),
                Exit::Over,
            ] {
                assert_eq!(compared(ended, &exit), None, "{ended:?} {exit:?}");
            }
        }
    }

    #[test]
    fn wake_ups_and_the_context_are_part_of_the_end() {
        let mut told = ended(Outcome::Completed, None);
        let exit = |wake: Option<u64>, context: &[Change]| Exit::Completed {
            wake_at: wake.map(Time),
            context: context.to_vec(),
        };
        assert!(compared(&told, &exit(Some(AT.0), &[])).is_some());
        told.wake_at = Some(AT.plus_ms(WAKE_MS_MIN));
        assert_eq!(compared(&told, &exit(Some(AT.0 + WAKE_MS_MIN), &[])), None);
        assert_eq!(
            compared(&told, &exit(Some(7), &[])),
            None,
            "it was too soon"
        );
        assert!(compared(&told, &exit(None, &[])).is_some());
        told.wake_at = Some(AT.plus_ms(60_000));
        assert!(compared(&told, &exit(Some(7), &[])).is_some());

        told.wake_at = None;
        let note = |text: &str| Change::Add(Content::Note(text.to_owned()));
        told.private.context = vec![note("a"), note("b")];
        assert_eq!(compared(&told, &exit(None, &[note("a"), note("b")])), None);
        let differs = compared(&told, &exit(None, &[note("a")])).expect("it keeps less");
        assert!(
            differs.starts_with("as change 2 of its context")
                && differs.ends_with("makes it nothing more"),
            "{differs}"
        );
    }
}
