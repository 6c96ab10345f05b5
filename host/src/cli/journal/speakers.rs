//! PURE: what the entries of a conversation say: who speaks, for how long, and why it halts.

use antiphon::clock::Time;
use antiphon::journal::entry::Halt;

use super::super::term::span;
use super::fields::Fields;
use super::open::{Open, since};
use super::tell::{Told, join};
use super::words;

impl Open {
    pub(super) fn conversation(
        &mut self,
        fields: &mut Fields,
        kind: &str,
        time: Option<Time>,
    ) -> Told {
        let turn = fields.text("turn");
        let who = self.who(&turn);
        if kind == "halted" {
            let halt = fields.value("halt").unwrap_or_default();
            let text = match serde_json::from_value::<Halt>(halt.clone()) {
                Ok(halt) => halt.to_string(),
                // Of a newer server.
                Err(_) => halt.to_string(),
            };
            return Told::plain(who, format!("halts: {text}")).in_turn(turn);
        }
        let index = fields.number("index").unwrap_or(0);
        let speaker = fields.text("speaker").unwrap_or_default();
        fields.ignore(&["speaker_turn", "attempt"]);
        if kind == "speaker-started" {
            let text = format!("turn {index} is {speaker}'s");
            return Told::plain(who, text).quiet().in_turn(turn);
        }
        fields.ignore(&["ended_at", "child_turn"]);
        let mut parts = vec![format!("turn {index} of {speaker} is complete")];
        let started = fields.number("started_at").map(Time);
        if let Some(took) = since(started, time) {
            parts[0].push_str(&format!(" after {}", span(took)));
        }
        if let Some(session) = fields.text("session") {
            parts.push(format!("in session {session}"));
        }
        let mut usage = fields.inner("usage");
        usage.ignore(&["model_calls"]);
        parts.extend(words::usage(&mut usage));
        if let Some(attempts) = fields.number("attempts").filter(|attempts| *attempts > 1) {
            parts.push(format!("{attempts} attempts"));
        }
        Told::plain(who, join(&parts, "; ")).quiet().in_turn(turn)
    }
}
