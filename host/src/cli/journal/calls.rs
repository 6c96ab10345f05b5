//! PURE: what the entries of calls and locks say, given what is open.

use antiphon::clock::Time;
use serde_json::Value;

use super::super::term::{bytes, span};
use super::fields::Fields;
use super::open::{Call, Lock, Open, since};
use super::tell::{Told, failure, join};
use super::words::{self, count};

impl Open {
    pub(super) fn called(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        // They name the request for replay, and say what it will cost.
        fields.ignore(&["request", "request_bytes", "price"]);
        let call = Call {
            kind: fields.text("call").unwrap_or_default(),
            target: fields.text("target").unwrap_or_default(),
            since: time,
            first_piece: None,
            tools: Vec::new(),
        };
        let text = format!("{} {}{}", call.verb(), call.subject(), call_number(n));
        if let Some(open) = turn.as_ref().and_then(|id| self.turns.get_mut(id))
            && let Some(n) = n
        {
            open.calls.insert(n, call);
        }
        Told::plain(self.who(&turn), text).quiet().in_turn(turn)
    }

    pub(super) fn agent_called(
        &mut self,
        fields: &mut Fields,
        private: &mut Fields,
        time: Option<Time>,
    ) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        // They name the request and the call for replay.
        private.ignore(&["request", "key"]);
        let agent = fields.text("agent").unwrap_or_default();
        let session = fields.text("session").unwrap_or_default();
        let text = format!("calls agent {agent}, in {session}{}", call_number(n));
        let call = Call {
            kind: "agent".to_owned(),
            target: agent,
            since: time,
            first_piece: None,
            tools: Vec::new(),
        };
        if let Some(open) = turn.as_ref().and_then(|id| self.turns.get_mut(id))
            && let Some(n) = n
        {
            open.calls.insert(n, call);
        }
        Told::plain(self.who(&turn), text).in_turn(turn)
    }

    pub(super) fn streamed(&mut self, fields: &mut Fields, time: Option<Time>) -> Option<Told> {
        let turn = fields.text("turn");
        let n = fields.number("n").unwrap_or_default();
        let pieces = fields.list("pieces");
        let call = turn
            .as_ref()
            .and_then(|turn| self.turns.get_mut(turn))
            .and_then(|turn| turn.calls.get_mut(&n));
        if let Some(call) = call {
            call.first_piece = call.first_piece.or(time);
            let name = |piece: &Value| piece["tool-call"]["name"].as_str().map(str::to_owned);
            call.tools.extend(pieces.iter().filter_map(name));
            if fields.rest().is_empty() {
                return None;
            }
        }
        // Of no call that is known, or with something that is not.
        let text = format!("{} of an answer", count(pieces.len(), "piece"));
        Some(Told::plain(self.who(&turn), text).quiet().in_turn(turn))
    }

    pub(super) fn returned(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        let known = match (&turn, n) {
            (Some(turn), Some(n)) => self.come_back(turn, n, time),
            _ => None,
        };
        let mut usage = fields.inner("usage");
        usage.ignore(&["model_calls"]);
        let (subject, is_model, took) = match &known {
            Some((call, took)) => (call.subject(), call.is_model(), *took),
            None => ("a call".to_owned(), true, None),
        };
        let answered = answer(fields);
        let verb = match (fields.text("result").as_deref(), is_model) {
            (Some("ok"), true) => "answered".to_owned(),
            (Some("ok"), false) if answered.is_some() => "answered".to_owned(),
            (Some("ok"), false) => "is over".to_owned(),
            (Some("failed"), _) => "failed".to_owned(),
            (Some("dropped"), _) => "was given up".to_owned(),
            (Some(other), _) => other.to_owned(),
            (None, _) => "came back".to_owned(),
        };
        let failed = verb == "failed";
        let mut text = format!("{subject} {verb}");
        if let Some(took) = took {
            text.push_str(&format!(" after {}", span(took)));
        }
        if let Some((call, _)) = &known
            && let Some(first) = since(call.since, call.first_piece)
        {
            text.push_str(&format!(", first piece after {}", span(first)));
        }
        let mut parts = vec![text];
        parts.extend(answered);
        parts.extend(failure(fields));
        if let Some((call, _)) = known
            && !call.tools.is_empty()
        {
            parts.push(format!("calls {}", call.tools.join(", ")));
        }
        parts.extend(words::usage(&mut usage));
        if fields.flag("cached") {
            parts.push("another call's answer".to_owned());
        }
        if let Some(attempts) = fields.number("attempts").filter(|attempts| *attempts > 1) {
            parts.push(format!("{attempts} attempts"));
        }
        let told = Told::plain(self.who(&turn), join(&parts, "; ")).in_turn(turn);
        if failed { told.bad() } else { told.quiet() }
    }

    pub(super) fn locked(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        fields.ignore(&["n"]);
        let slot = fields.text("slot").unwrap_or_default();
        let text = if fields.flag("retaken") {
            format!("locks slot {slot} again: nobody wrote it in between")
        } else {
            format!("locks slot {slot}")
        };
        let lock = Lock {
            turn: turn.clone().unwrap_or_default(),
            since: time,
        };
        self.locks.insert(slot, lock);
        Told::plain(self.who(&turn), text).quiet().in_turn(turn)
    }

    pub(super) fn committed(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        fields.ignore(&["n"]);
        let slot = fields.text("slot").unwrap_or_default();
        let mut text = format!("writes slot {slot}");
        if let Some(version) = fields.number("version") {
            text.push_str(&format!(": version {version}"));
        }
        text.extend(
            fields
                .number("bytes")
                .map(|size| format!(", {}", bytes(size))),
        );
        if let Some(held) = self.unlock(&slot, time) {
            text.push_str(&format!("; held the lock for {}", span(held)));
        }
        Told::plain(words::writer(fields), text).in_turn(turn)
    }

    pub(super) fn released(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let turn = fields.text("turn");
        fields.ignore(&["n"]);
        let slot = fields.text("slot").unwrap_or_default();
        let reason = fields.text("reason");
        let mut text = match &reason {
            Some(reason) => format!("loses the lock of {slot}: {}", words::reason(reason)),
            None => format!("unlocks slot {slot} without writing it"),
        };
        if let Some(held) = self.unlock(&slot, time) {
            text.push_str(&format!("; held it for {}", span(held)));
        }
        let told = Told::plain(self.who(&turn), text).in_turn(turn);
        if reason.is_some() {
            told.bad()
        } else {
            told.quiet()
        }
    }

    pub(super) fn retried(&mut self, fields: &mut Fields) -> Told {
        let turn = fields.text("turn");
        let n = fields.number("n");
        let what = match (&turn, n) {
            (Some(id), Some(n)) => {
                let call = self.turns.get(id).and_then(|turn| turn.calls.get(&n));
                let subject = call.map_or_else(|| "a call".to_owned(), Call::subject);
                format!("{subject} is tried again{}", call_number(Some(n)))
            }
            _ => "the turn is taken up again".to_owned(),
        };
        let mut text = what;
        if let Some(attempt) = fields.number("attempt") {
            text.push_str(&format!(", attempt {attempt}"));
        }
        let why = fields.text("reason");
        if let Some(why) = &why {
            text.push_str(&format!(": {}", words::reason(why)));
        }
        let told = Told::plain(self.who(&turn), text).in_turn(turn);
        match why.as_deref() {
            Some("answered") => told.quiet(),
            _ => told.bad(),
        }
    }
}

/// What a request over HTTP brought: status, and how long a body of which type.
fn answer(fields: &mut Fields) -> Option<String> {
    let mut answer = fields.inner("answered");
    let mut text = answer.number("status")?.to_string();
    let mut body = answer.inner("body");
    let inline = body.text("text").map(|text| text.len() as u64);
    if let Some(size) = inline.or_else(|| body.number("bytes")) {
        text.push_str(&format!(", {}", bytes(size)));
    }
    let kind = answer.list("headers").into_iter().find_map(|header| {
        let is_type = header[0] == "content-type";
        is_type.then(|| header[1].as_str().map(str::to_owned))?
    });
    if let Some(kind) = kind {
        text.push_str(&format!(" of {kind}"));
    }
    Some(text)
}

/// Which of the turn's calls it is: the number that replay knows it by.
fn call_number(n: Option<u64>) -> String {
    n.map_or_else(String::new, |n| format!(" (call {n})"))
}
