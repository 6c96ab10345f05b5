//! Notes for an agent that comes back after a long time: where it stood, what was pending,
//! what was in the way, what comes next.
//!
//! A handoff is a pinned note of the context, so it does not age, and is written with the
//! turn's outcome. The newest three are kept. They are shown only when somebody has been
//! away ([`Prompt::absence`](crate::prompt::Prompt::absence)): while an agent is at work the
//! transcript says the same, and newer.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::{self, AddError, Content, Item};
use crate::prompt::envelope::{envelope, timestamp};
use crate::transcript::{self, Author};
use crate::turn;

/// One tells where the agent stands; two more, how it came there.
pub const KEPT: usize = 3;

/// How far back the agent's own last words are looked for. If they are further, the newest
/// handoff says when it was there.
const LOOK_BACK: u32 = 200;

/// What to know when coming back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Handoff {
    /// Where things stand, in a sentence or two.
    pub state: String,
    /// What is begun and not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// What is in the way, and who could remove it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<String>,
    /// What whoever goes on has to know and would not find out: decisions, reasons, places.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// A handoff and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Milliseconds since 1970 UTC, by the turn's clock.
    pub at: u64,
    /// What it says.
    pub handoff: Handoff,
}

/// What an agent missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// When it was last there, in milliseconds since 1970 UTC.
    pub since: u64,
    /// Now.
    pub until: u64,
    /// What it left for itself, oldest first.
    pub handoffs: Vec<Written>,
}

/// Write a handoff; of more than [`KEPT`] the oldest go. It is there from the next turn on,
/// if this one completes.
pub fn write(handoff: &Handoff) -> Result<(), AddError> {
    let written = Written {
        at: turn::now(),
        handoff: handoff.clone(),
    };
    let text = serde_json::to_string(&written).expect("texts and numbers are JSON");
    let id = context::add(&Content::Note(text))?;
    context::pin(&id);
    let ours: Vec<String> = context::items()
        .into_iter()
        .filter(|item| of(item).is_some())
        .map(|item| item.id)
        .collect();
    for old in &ours[..ours.len().saturating_sub(KEPT)] {
        context::drop(old);
    }
    Ok(())
}

/// What was handed off, oldest first.
pub fn all() -> Vec<Written> {
    context::items().iter().filter_map(of).collect()
}

/// The handoff that an item of the context is, if it is one.
pub fn of(item: &Item) -> Option<Written> {
    let Content::Note(text) = &item.content else {
        return None;
    };
    serde_json::from_str(text).ok()
}

/// Whether this agent comes back after at least `threshold`, by the turn's clock: from its
/// last words in the transcript, or from its newest handoff if that is later or they are out
/// of sight. An agent that left neither has not been there, and none is answered.
pub fn absence(threshold: Duration) -> Option<Absence> {
    let agent = turn::current().agent;
    let handoffs = all();
    let spoke = transcript::window(LOOK_BACK, None)
        .items
        .into_iter()
        .filter(|item| matches!(&item.author, Author::Agent(name) if *name == agent))
        .map(|item| item.time)
        .max();
    let since = spoke.max(handoffs.iter().map(|written| written.at).max())?;
    let until = turn::now();
    let threshold = u64::try_from(threshold.as_millis()).unwrap_or(u64::MAX);
    (until.saturating_sub(since) >= threshold).then_some(Absence {
        since,
        until,
        handoffs,
    })
}

impl Absence {
    /// How a model is told: first how long it was away, then each handoff, oldest first, in
    /// envelopes.
    pub fn texts(&self) -> Vec<String> {
        let [since, until] = [self.since, self.until].map(timestamp);
        let lasted = in_words(self.until.saturating_sub(self.since));
        let attributes = [("since", &*since), ("until", &until), ("lasted", &lasted)];
        let mut about = "You were away. What happened meanwhile is in the conversation".to_owned();
        if !self.handoffs.is_empty() {
            about.push_str("; what you left for yourself follows, the newest last");
        }
        about.push('.');
        let mut texts = vec![envelope("absence", &attributes, &about)];
        texts.extend(self.handoffs.iter().map(Written::text));
        texts
    }
}

impl Written {
    fn text(&self) -> String {
        let handoff = &self.handoff;
        let mut lines = vec![format!("State: {}", handoff.state)];
        lines.extend(handoff.pending.iter().map(|it| format!("Pending: {it}")));
        lines.extend(handoff.blockers.iter().map(|it| format!("Blocker: {it}")));
        if !handoff.next.is_empty() {
            lines.push(format!("Next: {}", handoff.next));
        }
        let written_at = timestamp(self.at);
        envelope("handoff", &[("written-at", &written_at)], &lines.join("\n"))
    }
}

/// A duration as a person says it, in the two largest units.
fn in_words(milliseconds: u64) -> String {
    let minutes = milliseconds / 60_000;
    let of = |count: u64, unit: &str| match count {
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    };
    match (minutes / 1_440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => of(minutes, "minute"),
        (0, hours, 0) => of(hours, "hour"),
        (0, hours, minutes) => format!("{} {}", of(hours, "hour"), of(minutes, "minute")),
        (days, 0, _) => of(days, "day"),
        (days, hours, _) => format!("{} {}", of(days, "day"), of(hours, "hour")),
    }
}
