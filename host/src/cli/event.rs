//! Events as the server writes them.
//!
//! An event of a kind or form that this binary does not know is kept and shown by its
//! name: a newer server must not break an older command line.

use antiphon::clock::Time;
use antiphon::journal::entry::{MessageBody, Payload, Writer};
use serde_json::Value;

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
    fn times_may_be_numbers_or_text() {
        for time in [json!(1_000), json!("1970-01-01T00:00:01.000Z")] {
            let event =
                Event::parse(&json!({"offset": "0_0", "kind": "x", "time": time}).to_string());
            assert_eq!(event.unwrap().time, Some(Time(1_000)));
        }
        assert_eq!(Event::parse("{\"kind\": \"x\"}"), None);
    }
}
