//! PURE: questions to people, and their answers, in words.

use antiphon::clock::Time;

use super::super::term::{clock_time, span};
use super::fields::Fields;
use super::open::{Call, Open};
use super::tell::{Told, join};

impl Open {
    /// The turn waits from here on, as for a call.
    pub(super) fn asked(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        let agent = fields.text("agent").unwrap_or_else(|| self.who(&turn));
        let mut parts = vec![format!("asks: {}", fields.text("text").unwrap_or_default())];
        let choices = fields.texts("choices");
        if !choices.is_empty() {
            parts.push(format!("one of {}", choices.join(", ")));
        }
        if let Some(until) = fields.number("until") {
            parts.push(format!("waits until {}", until_time(until, time)));
        }
        // It is the entry's own number.
        let number = fields.number("question");
        let open = turn.as_ref().and_then(|turn| self.turns.get_mut(turn));
        if let (Some(open), Some(n)) = (open, n) {
            let call = Call {
                kind: "question".to_owned(),
                target: number.map_or_else(String::new, |number| format!(" to #{number}")),
                since: time,
                first_piece: None,
                tools: Vec::new(),
            };
            open.calls.insert(n, call);
        }
        Told::plain(agent, join(&parts, "; ")).in_turn(turn)
    }

    pub(super) fn answered(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        let agent = fields.text("agent").unwrap_or_else(|| self.who(&turn));
        let number = fields.number("question");
        let number = number.map_or_else(String::new, |number| format!(" #{number}"));
        let back = turn.as_ref().zip(n);
        let back = back.and_then(|(turn, n)| self.come_back(turn, n, time));
        let took = back.and_then(|(_, took)| took);
        let took = took.map_or_else(String::new, |ms| format!(" after {}", span(ms)));
        if fields.text("result").as_deref() == Some("expired") {
            let text = format!("nobody answered{number}{took}");
            return Told::plain(agent, text).in_turn(turn).bad();
        }
        let said = fields.text("text").unwrap_or_default();
        let mut text = format!("answers{number} of {agent}{took}: {said}");
        if let Some(note) = fields.text("note") {
            text.push_str(&format!("; and says: {note}"));
        }
        Told::plain(fields.text("by").unwrap_or_default(), text).in_turn(turn)
    }
}

/// With its day where that is another one.
fn until_time(until: u64, now: Option<Time>) -> String {
    let until = Time(until);
    match now.is_some_and(|now| now.day() == until.day()) {
        true => clock_time(until),
        false => until.to_rfc3339(),
    }
}
