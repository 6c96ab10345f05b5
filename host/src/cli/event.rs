//! Events as the server writes them, and as lines of a table.
//!
//! An event of a kind or form that this binary does not know is kept and shown by its
//! name: a newer server must not break an older command line.

use antiphon::clock::Time;
use antiphon::journal::entry::{MessageBody, Outcome, Payload, RetryReason, SessionChange, Writer};
use serde_json::Value;

use super::term::{Paint, Style, short};

/// Width of a journal's line.
const WIDTH: usize = 96;
const TEXT_COLUMN: usize = 38;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) offset: String,
    pub(super) time: Option<Time>,
    pub(super) kind: String,
    /// None of a kind or form unknown here.
    pub(super) payload: Option<Payload>,
    /// As the server wrote it.
    pub(super) raw: String,
}

impl Event {
    /// None if it is no event at all.
    pub(super) fn parse(raw: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(raw).ok()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let time = match value.get("time") {
            Some(Value::String(text)) => humantime::parse_rfc3339(text)
                .ok()
                .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
                .and_then(|since| u64::try_from(since.as_millis()).ok()),
            Some(number) => number.as_u64(),
            None => None,
        };
        Some(Self {
            offset: text("offset")?.to_owned(),
            time: time.map(Time),
            kind: text("kind")?.to_owned(),
            payload: serde_json::from_str(raw).ok(),
            raw: raw.to_owned(),
        })
    }

    /// The number in the offset: short, for people.
    pub(super) fn seq(&self) -> &str {
        let digits = self.offset.split('_').next().unwrap_or_default();
        let number = digits.trim_start_matches('0');
        if number.is_empty() { "0" } else { number }
    }

    /// Who it is about.
    fn who(&self) -> String {
        let Some(payload) = &self.payload else {
            return String::new();
        };
        match payload {
            Payload::MessageReceived(message) => message.author.to_string(),
            Payload::MessageSent(message) => message.from.to_string(),
            Payload::TurnStarted(turn) => turn.agent.to_string(),
            Payload::Spoke(spoke) => spoke.agent.to_string(),
            Payload::SlotCommitted(commit) => writer(&commit.by).to_owned(),
            Payload::InterruptRequested(request) => request.by.to_string(),
            Payload::TurnEnded(turn) => turn.agent.to_string(),
            _ => String::new(),
        }
    }

    /// What happened, in a few words.
    fn what(&self) -> String {
        let Some(payload) = &self.payload else {
            return String::new();
        };
        match payload {
            Payload::SessionOpened(opened) => {
                let agents: Vec<&str> = opened.agents.iter().map(|agent| agent.as_str()).collect();
                format!("{}; messages go to {}", agents.join(", "), opened.entry)
            }
            Payload::SessionChanged(changed) => match &changed.change {
                SessionChange::AgentAdded { agent } => format!("{agent} joined"),
                SessionChange::AgentRemoved { agent } => format!("{agent} left"),
                SessionChange::Expired => "expired".to_owned(),
                SessionChange::Deleted => "deleted".to_owned(),
            },
            Payload::MessageReceived(message) => {
                format!("to {}: {}", message.to, body_text(&message.body))
            }
            Payload::MessageSent(message) => {
                format!("to {}: {}", message.to, body_text(&message.body))
            }
            Payload::TurnStarted(turn) => {
                let causes: Vec<String> = turn
                    .causes
                    .iter()
                    .map(|cause| {
                        use antiphon::journal::entry::Cause;
                        match cause {
                            Cause::Messages if turn.inputs.len() == 1 => "1 message".to_owned(),
                            Cause::Messages => format!("{} messages", turn.inputs.len()),
                            Cause::Slot(slot) => format!("slot {slot} changed"),
                            Cause::Wake => "wake-up".to_owned(),
                        }
                    })
                    .collect();
                let attempt = match turn.attempt {
                    0 | 1 => String::new(),
                    attempt => format!(" (attempt {attempt})"),
                };
                format!("{}{attempt}", causes.join(", "))
            }
            Payload::Spoke(spoke) => spoke.text.clone(),
            Payload::SlotCommitted(commit) => {
                format!(
                    "{}: version {}, {} bytes",
                    commit.slot, commit.version, commit.bytes
                )
            }
            Payload::InterruptRequested(request) => format!("stop {}", request.agent),
            Payload::TurnEnded(turn) => {
                let mut text = turn.outcome.name().to_owned();
                if let Some(error) = &turn.error {
                    text.push_str(&format!(" ({}): {}", error.code.name(), error.message));
                }
                let usage = &turn.usage;
                if turn.outcome == Outcome::Completed && usage.model_calls > 0 {
                    let calls = if usage.model_calls == 1 {
                        "call"
                    } else {
                        "calls"
                    };
                    text.push_str(&format!(
                        "; {} model {calls}, {} tokens",
                        usage.model_calls,
                        usage.input_tokens.saturating_add(usage.output_tokens)
                    ));
                }
                text
            }
            Payload::MessageSetAside(aside) => aside.message.to_string(),
            Payload::Retried(retried) => {
                let what = match retried.n {
                    Some(n) => format!("call {n}"),
                    None => "the turn".to_owned(),
                };
                let why = match retried.reason {
                    RetryReason::HostLost => "the host was lost",
                    RetryReason::HostStopped => "the host was stopped",
                    RetryReason::Provider => {
                        retried.detail.as_deref().unwrap_or("the provider failed")
                    }
                };
                format!("{what}, attempt {}: {why}", retried.attempt)
            }
            Payload::AgentSuspended(suspended) => {
                format!("{}: {}", suspended.agent, suspended.reason)
            }
            Payload::AgentResumed(resumed) => resumed.agent.to_string(),
            // Kinds that are not events; inspecting shows their name.
            Payload::Called(_)
            | Payload::Returned(_)
            | Payload::Streamed(_)
            | Payload::Observed(_)
            | Payload::SlotLocked(_)
            | Payload::SlotReleased(_) => String::new(),
        }
    }
}

pub(super) fn writer(writer: &Writer) -> &str {
    match writer {
        Writer::Agent(agent) => agent.as_str(),
        Writer::Author(author) => author.as_str(),
    }
}

/// A message as a person reads it.
pub(super) fn body_text(body: &MessageBody) -> String {
    match body {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A journal as a table: a line per event, words said in one breath as one line.
#[derive(Debug)]
pub(super) struct Table {
    paint: Paint,
    before: Option<Time>,
}

impl Table {
    pub(super) fn new(paint: Paint) -> Self {
        Self {
            paint,
            before: None,
        }
    }

    pub(super) fn head(&self) -> String {
        let head = format!(
            "{:>6} {:>8}  {:<17} {:<10} {}",
            "seq", "after", "event", "who", "what"
        );
        format!("{}\n", self.paint.paint(Style::Dim, &head))
    }

    pub(super) fn line(&mut self, event: &Event) -> String {
        let gap = match (self.before, event.time) {
            (Some(before), Some(time)) => gap(time.ms_since(before)),
            _ => String::new(),
        };
        self.before = event.time.or(self.before);
        let who = format!("{:<10}", short(&event.who(), 10));
        let what = short(&event.what(), WIDTH.saturating_sub(TEXT_COLUMN + 9));
        let line = format!(
            "{} {}  {:<17} {} {}",
            self.paint.paint(Style::Dim, &format!("{:>6}", event.seq())),
            self.paint.paint(Style::Dim, &format!("{gap:>8}")),
            short(&event.kind, 17),
            self.paint.paint(Style::Name, &who),
            what
        );
        format!("{}\n", line.trim_end())
    }
}

/// Events with the words that one turn says one after another put together.
pub(super) fn in_breaths(events: &[Event]) -> Vec<Event> {
    let mut joined: Vec<Event> = Vec::new();
    for event in events {
        if let Some(Payload::Spoke(next)) = &event.payload
            && let Some(last) = joined.last_mut()
            && let Some(Payload::Spoke(spoke)) = &mut last.payload
            && spoke.turn == next.turn
        {
            spoke.text.push_str(&next.text);
            last.offset.clone_from(&event.offset);
            continue;
        }
        joined.push(event.clone());
    }
    joined
}

fn gap(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in super::super) fn event(seq: u64, ms: u64, mut fields: Value) -> Event {
        fields["offset"] = format!("{seq:016}_0000000000000000").into();
        fields["time"] = Time(1_795_253_400_000 + ms).to_rfc3339().into();
        let event = Event::parse(&fields.to_string()).unwrap();
        assert!(
            event.payload.is_some() || event.kind == "new-kind",
            "{fields}"
        );
        event
    }

    pub(in super::super) fn conversation() -> Vec<Event> {
        let turn = "run_1.t1.talker";
        vec![
            event(
                1,
                0,
                json!({"kind": "session-opened", "agents": ["talker", "thinker"], "entry": "talker"}),
            ),
            event(
                2,
                4,
                json!({"kind": "message-received", "message": "s:2", "author": "you", "to": "talker", "body": "Why is\nthe sky blue?"}),
            ),
            event(
                3,
                5,
                json!({"kind": "turn-started", "turn": turn, "run": "run_1", "agent": "talker", "inputs": ["s:2"], "causes": ["messages"], "attempt": 1}),
            ),
            event(
                4,
                6,
                json!({"kind": "message-sent", "message": "s:4", "from": "talker", "to": "thinker", "body": {"ask": 1}, "turn": turn, "n": 3}),
            ),
            event(
                6,
                300,
                json!({"kind": "spoke", "turn": turn, "agent": "talker", "text": "Give me ", "at": 0}),
            ),
            event(
                8,
                340,
                json!({"kind": "spoke", "turn": turn, "agent": "talker", "text": "a moment.", "at": 8}),
            ),
            event(
                9,
                1_600,
                json!({"kind": "turn-ended", "turn": turn, "agent": "talker", "outcome": "completed", "usage": {"model_calls": 1, "input_tokens": 5, "output_tokens": 7}, "inputs": [{"message": "s:2", "fate": "consumed"}]}),
            ),
            event(
                12,
                62_000,
                json!({"kind": "slot-committed", "slot": "analysis", "version": 12, "by": {"agent": "thinker"}, "bytes": 312, "n": 4}),
            ),
            event(
                13,
                62_000,
                json!({"kind": "turn-started", "turn": "run_2.t1.talker", "run": "run_2", "agent": "talker", "inputs": [], "causes": [{"slot": "analysis"}], "attempt": 2}),
            ),
            event(
                14,
                62_001,
                json!({"kind": "turn-ended", "turn": "run_2.t1.talker", "agent": "talker", "outcome": "failed", "error": {"code": "trap", "message": "unreachable"}, "usage": {}, "inputs": []}),
            ),
            event(15, 62_001, json!({"kind": "new-kind", "what": "ever"})),
        ]
    }

    #[test]
    fn a_journal_is_a_table() {
        let mut table = Table::new(Paint::off());
        let mut text = table.head();
        for event in in_breaths(&conversation()) {
            text.push_str(&table.line(&event));
        }
        let expect = "\
\x20  seq    after  event             who        what
     1           session-opened               talker, thinker; messages go to talker
     2     4 ms  message-received  you        to talker: Why is the sky blue?
     3     1 ms  turn-started      talker     1 message
     4     1 ms  message-sent      talker     to thinker: {\"ask\":1}
     8   294 ms  spoke             talker     Give me a moment.
     9    1.3 s  turn-ended        talker     completed; 1 model call, 12 tokens
    12    1 min  slot-committed    thinker    analysis: version 12, 312 bytes
    13     0 ms  turn-started      talker     slot analysis changed (attempt 2)
    14     1 ms  turn-ended        talker     failed (trap): unreachable
    15     0 ms  new-kind
";
        assert_eq!(text, expect);
    }

    #[test]
    fn times_may_be_numbers_or_text() {
        for time in [json!(1_000), json!("1970-01-01T00:00:01.000Z")] {
            let event =
                Event::parse(&json!({"offset": "0_0", "kind": "x", "time": time}).to_string());
            assert_eq!(event.unwrap().time, Some(Time(1_000)));
        }
        assert_eq!(Event::parse("{\"kind\": \"x\"}"), None);
    }
}
