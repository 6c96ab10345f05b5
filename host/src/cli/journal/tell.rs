//! PURE: what each kind of entry says, given what is open.

use antiphon::clock::Time;

use super::super::term::{clock_time, span};
use super::fields::{Entry, Fields};
use super::open::{Open, Waiting, since};
use super::story::Tone;
use super::words::{self, count};

/// What an entry's own arm makes of it.
pub(super) struct Told {
    pub(super) who: String,
    pub(super) text: String,
    pub(super) is_new: bool,
    pub(super) tone: Tone,
    /// The turn in whose lane it stands, and with which mark.
    pub(super) turn: Option<String>,
    pub(super) mark: char,
}

impl Told {
    pub(super) fn plain(who: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            text: text.into(),
            is_new: false,
            tone: Tone::Plain,
            turn: None,
            mark: '├',
        }
    }

    pub(super) fn quiet(self) -> Self {
        Self {
            tone: Tone::Quiet,
            ..self
        }
    }

    pub(super) fn bad(self) -> Self {
        Self {
            tone: Tone::Bad,
            ..self
        }
    }

    pub(super) fn in_turn(self, turn: Option<String>) -> Self {
        Self { turn, ..self }
    }

    pub(super) fn mark(self, mark: char) -> Self {
        Self { mark, ..self }
    }
}

impl Open {
    /// None of what has no line of its own.
    pub(super) fn tell(&mut self, entry: &mut Entry) -> Option<Told> {
        let fields = &mut entry.fields;
        let time = entry.time;
        Some(match entry.kind.as_str() {
            "session-opened" => self.opened(fields),
            "session-changed" => changed(fields),
            "recounted" => {
                let mut by = fields.inner("by");
                let who = by.text("agent").or_else(|| by.text("author"));
                let text = fields.text("text").unwrap_or_default();
                Told::plain(who.unwrap_or_default(), format!("said before: {text}"))
            }
            "session-forked" => {
                let from = fields.text("from").unwrap_or_default();
                let at = place(fields, "at");
                Told::plain("", format!("a copy of {from} as it was at {at}"))
            }
            "message-received" | "message-sent" => {
                self.message(fields, &mut entry.private, &entry.kind, time)
            }
            "turn-started" => self.turn_started(fields, &mut entry.private, &entry.seq, time),
            "called" => self.called(fields, time),
            "agent-called" => self.agent_called(fields, &mut entry.private, time),
            "call-cancelled" => {
                let turn = fields.text("turn");
                fields.ignore(&["n"]);
                let agent = fields.text("agent").unwrap_or_default();
                let session = fields.text("session").unwrap_or_default();
                let text = format!("agent {agent} was told that nobody waits, in {session}");
                Told::plain(self.who(&turn), text).quiet().in_turn(turn)
            }
            "returned" => self.returned(fields, time),
            "streamed" => return self.streamed(fields, time),
            "observed" => {
                let turn = fields.text("turn");
                fields.ignore(&["n"]);
                let text = words::observed(fields, turn.as_ref(), self, time);
                Told::plain(self.who(&turn), text).quiet().in_turn(turn)
            }
            "spoke" => {
                let turn = fields.text("turn");
                let who = fields.text("agent").unwrap_or_else(|| self.who(&turn));
                // The text around a speaker's words names him.
                fields.ignore(&["at", "speaker", "index"]);
                if let Some(turn) = turn.as_ref().and_then(|turn| self.turns.get_mut(turn)) {
                    turn.first_word = turn.first_word.or(time);
                }
                Told::plain(who, fields.text("text").unwrap_or_default()).in_turn(turn)
            }
            "tools-called" => {
                let turn = fields.text("turn");
                fields.ignore(&["n"]);
                let who = fields.text("agent").unwrap_or_else(|| self.who(&turn));
                let calls = fields.list("calls").into_iter();
                let calls = calls.map(|call| {
                    let mut call = Fields::of(call);
                    let name = call.text("name").unwrap_or_default();
                    format!("{name} {}", call.text("arguments").unwrap_or_default())
                });
                let calls: Vec<String> = calls.collect();
                Told::plain(
                    who,
                    format!("asks its caller to call {}", join(&calls, ", ")),
                )
                .in_turn(turn)
            }
            "asked" => self.asked(fields, time),
            "answered" => self.answered(fields, time),
            "slot-locked" => self.locked(fields, time),
            "slot-committed" => self.committed(fields, time),
            "slot-released" => self.released(fields, time),
            "interrupt-requested" => {
                let turn = fields.text("turn");
                let agent = fields.text("agent").unwrap_or_else(|| self.who(&turn));
                let by = fields.text("by").unwrap_or_default();
                // By speaking, if the agent is one that may be interrupted so.
                let with = fields.text("message");
                let with =
                    with.map_or_else(String::new, |id| format!(" with {}", words::message(&id)));
                Told::plain(by, format!("stops {agent}{with}")).in_turn(turn)
            }
            "speaker-started" | "speaker-ended" | "halted" => {
                self.conversation(fields, &entry.kind, time)
            }
            "retried" => self.retried(fields),
            "turn-ended" => self.turn_ended(fields, time),
            "message-set-aside" => self.set_aside(fields),
            "agent-suspended" => {
                let agent = fields.text("agent").unwrap_or_default();
                let why = fields.text("reason").unwrap_or_default();
                if fields.flag("until_ready") {
                    Told::plain(agent, format!("waits: {}", words::reason(&why)))
                } else {
                    let text = format!("gets no more turns: {}", words::reason(&why));
                    Told::plain(agent, text).bad()
                }
            }
            "agent-resumed" => {
                let agent = fields.text("agent").unwrap_or_default();
                let by = match fields.text("by") {
                    Some(by) => format!(", says {by}"),
                    None => String::new(),
                };
                Told::plain(agent, format!("gets turns again{by}"))
            }
            // A kind of a newer server. If it is of a turn, it stands in its lane.
            _ => {
                let turn = fields.text("turn");
                let agent = fields.text("agent").unwrap_or_else(|| self.who(&turn));
                let told = Told::plain(agent, "").in_turn(turn);
                Told {
                    is_new: true,
                    ..told
                }
            }
        })
    }

    /// The agent whose turn it is.
    pub(super) fn who(&self, turn: &Option<String>) -> String {
        turn.as_ref()
            .map(|turn| self.agent(turn))
            .unwrap_or_default()
    }

    fn opened(&mut self, fields: &mut Fields) -> Told {
        let agents = fields.texts("agents");
        self.expect_lanes(agents.len());
        let entry = fields.text("entry").unwrap_or_default();
        let mut text = format!("opens with {}; messages go to {entry}", agents.join(", "));
        if let Some(ms) = fields.number("expires_after_ms") {
            text.push_str(&format!("; ends after {} of silence", span(ms)));
        }
        Told::plain("", text)
    }

    fn message(
        &mut self,
        fields: &mut Fields,
        private: &mut Fields,
        kind: &str,
        time: Option<Time>,
    ) -> Told {
        let to = fields.text("to").unwrap_or_default();
        let busy = if self.is_busy(&to) {
            ", who is at work"
        } else {
            ""
        };
        let invoked = if private.flag("invoked") {
            ", and waits for the answer"
        } else {
            ""
        };
        let text = format!("to {to}{busy}{invoked}: {}", words::body(fields));
        if let Some(id) = fields.text("message") {
            let waiting = Waiting {
                to,
                since: time,
                again: false,
                left: false,
            };
            self.waiting.insert(id, waiting);
        }
        if kind == "message-sent" {
            let turn = fields.text("turn");
            fields.ignore(&["n"]);
            return Told::plain(fields.text("from").unwrap_or_default(), text).in_turn(turn);
        }
        Told::plain(fields.text("author").unwrap_or_default(), text)
    }

    fn turn_started(
        &mut self,
        fields: &mut Fields,
        private: &mut Fields,
        seq: &str,
        time: Option<Time>,
    ) -> Told {
        let turn = fields.text("turn").unwrap_or_default();
        let agent = fields.text("agent").unwrap_or_else(|| self.agent(&turn));
        let inputs = fields.texts("inputs");
        let mut text: Vec<String> = fields
            .list("causes")
            .iter()
            .map(|cause| words::cause(cause, inputs.len()))
            .collect();
        text = vec![format!("begins: {}", join(&text, ", "))];
        if !inputs.is_empty() {
            text[0].push_str(&format!(" ({})", words::messages(&inputs)));
        }
        text.extend(self.waited(&agent, &inputs, time));
        if let Some(attempt) = fields.number("attempt").filter(|attempt| *attempt > 1) {
            text.push(format!("attempt {attempt}"));
        }
        if let Some(parent) = fields.text("parent") {
            text.push(format!("for {}", self.name(&parent)));
        }
        if let Some(version) = private.number("version") {
            text.push(format!("version {version}"));
        }
        // The run is the first part of the turn's id.
        fields.ignore(&["run"]);
        text.push(turn.clone());
        self.start(&turn, &agent, seq, time);
        Told::plain(agent, join(&text, "; "))
            .quiet()
            .in_turn(Some(turn))
            .mark('┌')
    }

    /// How long the oldest of a turn's messages waited, and for what. They wait no more.
    fn waited(&mut self, agent: &str, inputs: &[String], time: Option<Time>) -> Option<String> {
        let waited: Vec<Waiting> = inputs
            .iter()
            .filter_map(|id| self.waiting.remove(id))
            .collect();
        let oldest = waited.iter().min_by_key(|message| message.since)?;
        let long = span(since(oldest.since, time)?);
        Some(if oldest.again {
            format!("again after {long}")
        } else if let Some(turn) = self.was_busy(agent, oldest.since) {
            format!("waited {long}, while turn {turn} ran")
        } else {
            format!("waited {long}")
        })
    }

    fn turn_ended(&mut self, fields: &mut Fields, time: Option<Time>) -> Told {
        let id = fields.text("turn");
        let outcome = fields.text("outcome").unwrap_or_default();
        let mut parts = Vec::new();
        let mut agent = fields.text("agent");
        let mut usage = fields.inner("usage");
        let model_calls = usage.number("model_calls").unwrap_or(0);
        let turn = id.as_ref().and_then(|id| self.turns.get(id));
        match turn {
            Some(turn) => {
                agent.get_or_insert_with(|| turn.agent.clone());
                let mut text = format!("turn {} {outcome}", turn.seq);
                if let Some(took) = since(turn.since, time) {
                    text.push_str(&format!(" after {}", span(took)));
                }
                parts.push(text);
            }
            None => parts.push(outcome.clone()),
        }
        parts.extend(failure(&mut fields.inner("error")));
        if let Some(turn) = turn {
            parts.extend(
                since(turn.since, turn.first_word)
                    .map(|first| format!("first word after {}", span(first))),
            );
        }
        if model_calls > 0 {
            let calls = usize::try_from(model_calls).unwrap_or(usize::MAX);
            let mut text = count(calls, "model call");
            if let Some(turn) = turn.filter(|turn| turn.model_ms > 0) {
                text.push_str(&format!(" of {}", span(turn.model_ms)));
            }
            parts.push(text);
        }
        if let Some(turn) = turn.filter(|turn| turn.http_ms > 0) {
            parts.push(format!("{} in requests", span(turn.http_ms)));
        }
        if let Some(turn) = turn.filter(|turn| turn.slept_ms > 0) {
            parts.push(format!("slept {}", span(turn.slept_ms)));
        }
        parts.extend(words::usage(&mut usage));
        if let Some(id) = &id {
            for (slot, lock) in self.locks.iter().filter(|(_, lock)| lock.turn == *id) {
                let held = since(lock.since, time).map(|ms| format!(" after {}", span(ms)));
                let held = held.unwrap_or_default();
                parts.push(format!("slot {slot} is free{held}, not written"));
            }
        }
        parts.extend(self.fates(fields, agent.as_deref().unwrap_or_default(), time));
        if let Some(at) = fields.number("wake_at") {
            parts.push(format!("wants to be woken at {}", clock_time(Time(at))));
        }
        let told = Told::plain(agent.unwrap_or_default(), join(&parts, "; "))
            .in_turn(id)
            .mark('└');
        match outcome.as_str() {
            "failed" | "refused" => told.bad(),
            _ => told,
        }
    }

    /// What becomes of a turn's messages, where they are not done with.
    fn fates(&mut self, fields: &mut Fields, agent: &str, time: Option<Time>) -> Vec<String> {
        let (mut left, mut returned) = (Vec::new(), Vec::new());
        for input in fields.list("inputs") {
            let mut input = Fields::of(input);
            let Some(id) = input.text("message") else {
                continue;
            };
            let fate = input.text("fate").unwrap_or_default();
            self.waiting.remove(&id);
            let again = match fate.as_str() {
                "left" => false,
                "returned" => true,
                _ => continue,
            };
            let waiting = Waiting {
                to: agent.to_owned(),
                since: time,
                again,
                left: !again,
            };
            self.waiting.insert(id.clone(), waiting);
            if again { &mut returned } else { &mut left }.push(id);
        }
        let mut parts = Vec::new();
        if !left.is_empty() {
            parts.push(format!("{} stay in the mailbox", words::messages(&left)));
        }
        if !returned.is_empty() {
            parts.push(format!("{} given back", words::messages(&returned)));
        }
        parts
    }

    fn set_aside(&mut self, fields: &mut Fields) -> Told {
        let agent = fields.text("agent").unwrap_or_default();
        let id = fields.text("message").unwrap_or_default();
        self.waiting.remove(&id);
        let mut text = format!("{} is set aside", words::message(&id));
        if let Some(deliveries) = fields.number("deliveries").filter(|count| *count > 0) {
            let deliveries = usize::try_from(deliveries).unwrap_or(usize::MAX);
            text.push_str(&format!(" after {}", count(deliveries, "turn")));
        }
        if let Some(why) = fields.text("reason") {
            text.push_str(&format!(": {}", words::reason(&why)));
        }
        Told::plain(agent, text).bad()
    }
}

/// `failed`'s cause in the words of its entry: of a turn or of a call.
pub(super) fn failure(error: &mut Fields) -> Option<String> {
    let name = error.text("code").or_else(|| error.text("error"));
    let status = error.number("status").filter(|status| *status > 0);
    let text = error.text("message").or_else(|| error.text("detail"));
    let mut said = name?;
    if let Some(status) = status {
        said.push_str(&format!(" ({status})"));
    }
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        said.push_str(&format!(": {text}"));
    }
    Some(said)
}

fn changed(fields: &mut Fields) -> Told {
    let agent = fields.text("agent").unwrap_or_default();
    let change = fields.text("change").unwrap_or_default();
    let text = match change.as_str() {
        "agent-added" => format!("{agent} joins"),
        "agent-removed" => format!("{agent} leaves"),
        "expired" => "expired: nothing happened for as long as it may".to_owned(),
        other => join(&[other.to_owned(), agent], " "),
    };
    Told::plain("", text)
}

/// A place of a journal: a seq, or an offset.
fn place(fields: &mut Fields, name: &str) -> String {
    if let Some(seq) = fields.number(name) {
        return seq.to_string();
    }
    let offset = fields.text(name).unwrap_or_default();
    let digits = offset.split('_').next().unwrap_or_default();
    digits.trim_start_matches('0').to_owned()
}

/// The parts that say something, with this between them.
pub(super) fn join(parts: &[String], between: &str) -> String {
    let said: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    said.join(between)
}
