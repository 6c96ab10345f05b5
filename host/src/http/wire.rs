//! The JSON of answers: twins of inner types, so that those can change without the API.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::agents::{Deployment, Version};
use crate::id::{AgentName, MessageId, Offset, Seq, SessionId, SlotName, TurnId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{Usage, Writer};
use crate::journal::state::{OpenTurn, Question, Slot, State, Suspension};
use crate::ledger::transcript::{Ending, Item, Speaker};
use crate::session::outcome::{Standing, Taken};

pub(super) fn agent(name: &AgentName, deployment: &Deployment) -> Value {
    let active = deployment.active();
    json!({
        "agent": name,
        "ready": active.is_some(),
        "version": active.as_ref().map(|version| version.number),
        "kind": active.as_ref().map(|version| version.kind.name()),
        "component": active.as_ref().map(|version| version.component.to_string()),
        "created_at": active.as_ref().map(|version| version.created_at.to_rfc3339()),
        "description": deployment.config.card.description,
    })
}

pub(super) fn version(version: &Version) -> Value {
    json!({
        "version": version.number,
        "kind": version.kind.name(),
        "component": version.component.to_string(),
        "config": *version.config,
        "created_at": version.created_at.to_rfc3339(),
    })
}

pub(super) fn session(id: &SessionId, state: &State) -> Value {
    let agents: Vec<Value> = state
        .participants
        .iter()
        .map(|(agent, participant)| {
            json!({
                "agent": agent,
                "turn": participant.turn,
                "pending": participant.pending.len(),
                "question": question_of(state, participant.turn.as_ref()),
                "suspended": participant.suspended.as_ref().map(suspension),
            })
        })
        .collect();
    json!({
        "session": id,
        "entry": state.entry_agent(),
        "agents": agents,
        "slots": state.slots.len(),
        "called_by": state.opened.as_ref().and_then(|opened| opened.called_by.as_ref()),
        "calls": calls(state),
        "offset": Offset(state.last).to_string(),
        "last_event_at": state.time.to_rfc3339(),
        "expires_at": state.expires_at().map(|at| at.to_rfc3339()),
    })
}

/// Nested calls that are open, and the sessions they work in.
fn calls(state: &State) -> Vec<Value> {
    let open = state.turns.iter().flat_map(|(turn, open)| {
        let calls = open.children.iter();
        calls.map(move |(n, child)| (turn, n, child))
    });
    open.map(|(turn, n, child)| {
        json!({"turn": turn, "n": n, "agent": child.agent, "session": child.session})
    })
    .collect()
}

/// What the turn asks people, by its number.
fn question_of(state: &State, turn: Option<&TurnId>) -> Option<Seq> {
    let question = state.turns.get(turn?)?.question.as_ref()?;
    Some(question.question)
}

/// A question that is open.
pub(super) fn question(turn: &TurnId, open: &OpenTurn, question: &Question) -> Value {
    json!({
        "question": question.question,
        "agent": open.agent,
        "turn": turn,
        "text": question.text,
        "choices": question.choices,
        "asked_at": question.asked_at.to_rfc3339(),
        "until": question.until.to_rfc3339(),
    })
}

fn suspension(suspension: &Suspension) -> Value {
    json!({
        "reason": suspension.reason,
        "since": suspension.since.to_rfc3339(),
        "until_ready": suspension.until_ready,
    })
}

pub(super) fn slot(name: &SlotName, slot: &Slot) -> Value {
    let document = slot.document.as_ref();
    json!({
        "slot": name,
        "version": document.map(|document| document.version),
        "state": if slot.lock.is_some() { "locked" } else { "idle" },
        "locked_by": slot.lock,
        "written_at": document.map(|document| document.written_at.to_rfc3339()),
        "by": document.map(|document| match &document.by {
            Writer::Agent(agent) => json!({"agent": agent}),
            Writer::Author(author) => json!({"author": author}),
        }),
        "bytes": document.map(|document| document.bytes),
    })
}

pub(super) fn item(item: &Item) -> Value {
    let mut value = json!({
        "offset": Offset(item.at).to_string(),
        "time": item.time.to_rfc3339(),
        "text": item.text,
    });
    match &item.speaker {
        Speaker::Person(author) => value["author"] = json!(author),
        Speaker::Agent(agent) => value["agent"] = json!(agent),
    }
    if let Some(turn) = &item.turn {
        value["turn"] = json!(turn);
    }
    if item.turn.is_some() || item.end.is_some() {
        value["end"] = json!(match item.end {
            Some(Ending::Complete) => Some("complete"),
            Some(Ending::Interrupted) => Some("interrupted"),
            Some(Ending::Failed) => Some("failed"),
            None => None,
        });
    }
    if let Some(message) = &item.message {
        value["message"] = json!(message);
    }
    value
}

/// A page of events or entries.
#[derive(Serialize)]
pub(super) struct Page<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) events: Option<Vec<&'a RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entries: Option<Vec<Box<RawValue>>>,
    /// Everything up to here was looked at.
    pub(super) offset: String,
    pub(super) up_to_date: bool,
}

/// An entry with its private part, both byte for byte: whoever replays a turn from them must get
/// what its agent got.
pub(super) fn entry(encoded: &Encoded) -> Result<Box<RawValue>, serde_json::Error> {
    let public = String::from_utf8_lossy(&encoded.public()).into_owned();
    let private = without_secret(&encoded.private())?;
    let open = public
        .strip_suffix('}')
        .filter(|_| !matches!(private.as_str(), "" | "{}"));
    RawValue::from_string(match open {
        Some(open) => format!("{open},\"private\":{private}}}"),
        None => public,
    })
}

/// The source of randomness stays in the host, whoever looks, and whatever kind of entry it is in.
fn without_secret(private: &[u8]) -> Result<String, serde_json::Error> {
    let text = String::from_utf8_lossy(private);
    if !text.contains("\"secret\"") {
        return Ok(text.into_owned());
    }
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(&text)?;
    fields.remove("secret");
    serde_json::to_string(&fields)
}

/// All of it, also what is nothing.
pub(super) fn usage(usage: Usage) -> Value {
    json!({
        "model_calls": usage.model_calls,
        "estimated_calls": usage.estimated_calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_micros": usage.cost_micros,
        "nested_micros": usage.nested_micros,
    })
}

/// What `invoke` answers when the turn is over.
pub(super) fn answer(session: &SessionId, taken: &Taken) -> Value {
    let ended = taken.ended.as_ref();
    let mut value = json!({
        "session": session,
        "run": taken.run,
        "turn": taken.turn,
        "offset": Offset(ended.map_or(Seq(0), |ended| ended.seq)).to_string(),
        "outcome": ended.map(|ended| ended.outcome.name()),
        "reply": taken.reply,
        "usage": usage(ended.map(|ended| ended.usage).unwrap_or_default()),
    });
    if !taken.calls.is_empty() {
        value["tool_calls"] = json!(taken.calls);
    }
    value
}

/// A long-running operation: the message and what became of it.
pub(super) fn operation(session: &SessionId, message: &MessageId, standing: &Standing) -> Value {
    let metadata = |taken: Option<&Taken>| {
        json!({
            "session": session,
            "turn": taken.map(|taken| &taken.turn),
            "run": taken.map(|taken| &taken.run),
            "reply": taken.map(|taken| &taken.reply),
        })
    };
    let mut value = json!({"name": message, "done": false, "metadata": metadata(None)});
    match standing {
        Standing::Open(taken) => value["metadata"] = metadata(taken.as_ref()),
        Standing::SetAside(reason) => {
            value["done"] = json!(true);
            value["error"] = json!({"code": "set_aside", "message": reason});
        }
        Standing::Done(taken) => {
            value["done"] = json!(true);
            value["metadata"] = metadata(Some(taken));
            let error = taken.ended.as_ref().and_then(|ended| ended.error.as_ref());
            let cancelled = taken
                .ended
                .as_ref()
                .is_some_and(|ended| ended.outcome.name() == "cancelled");
            match error {
                Some(error) => {
                    value["error"] = json!({"code": error.code.name(), "message": error.message});
                }
                None if cancelled => {
                    value["error"] =
                        json!({"code": "cancelled", "message": "the operation was cancelled"});
                }
                None => value["response"] = answer(session, taken),
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_served_and_all_else_is_as_it_was() {
        let check = |private: &str, expect: &str| {
            assert_eq!(without_secret(private.as_bytes()).unwrap(), expect);
        };
        check("", "");
        check(r#"{"secret":"x"}"#, "{}");
        check(r#"{"secret":"x","a":1.10}"#, r#"{"a":1.10}"#);
        check(r#"{"b": 1e2,"a":2}"#, r#"{"b": 1e2,"a":2}"#);
        check(r#"{"text":"a \"secret\""}"#, r#"{"text":"a \"secret\""}"#);
    }
}
