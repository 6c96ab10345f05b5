//! What messages ask for, and what must have been said when it was done.
//!
//! The agents perform these scripts word for word, so from a turn's messages and the
//! recorded answers of its calls follows exactly what it says.

use serde_json::{Value, json};

use super::book::{Call, Turn};
use super::chance::Chance;

/// Slots that two agents of a session write.
const SLOTS: [&str; 2] = ["plan", "notes"];

/// How a question ends that is asked without the conversation before it.
pub(super) const BARE: &str = "-ask";

/// Longer than what is kept in an entry.
const LONG: usize = 6_000;

/// A message for one of two puppets; what is unique in it begins with `token`.
pub(super) fn message(token: &str, to: &str, chance: &mut Chance) -> Value {
    let other = if to == "left" { "right" } else { "left" };
    let mut steps = Vec::new();
    match chance.between(0, 8) {
        0 => return json!(format!("{token}-text")),
        1 => steps.push(json!({"send": [other, format!("{token}-sent")]})),
        2 => steps.push(json!({"calls": chance.between(1, 40)})),
        3 => steps.push(json!({"model": format!("{token}{BARE}")})),
        _ => steps.push(json!({"say": format!("{token}-say ")})),
    }
    for part in 0..chance.between(1, 3) {
        let slot = SLOTS[usize::from(chance.one_in(3))];
        let times = if chance.one_in(12) {
            LONG
        } else {
            chance.between(1, 50) as usize
        };
        steps.push(json!({"work": {
            "slot": slot,
            "question": format!("{token}-question{part}"),
            "document": format!("{token}-document{part} "),
            "times": times,
        }}));
    }
    if chance.one_in(3) {
        steps.push(json!({"say": format!("{token}-last ")}));
    }
    Value::Array(steps)
}

/// The documents that a message has committed.
pub(super) fn documents(body: &Value) -> Vec<(String, String)> {
    let steps = body.as_array().into_iter().flatten();
    let works = steps.filter_map(|step| step.get("work"));
    works
        .map(|work| {
            let document = work["document"].as_str().unwrap_or_default();
            let times = work["times"].as_u64().unwrap_or_default() as usize;
            let slot = work["slot"].as_str().unwrap_or_default();
            (slot.to_owned(), document.repeat(times))
        })
        .collect()
}

/// A part of what a turn says.
enum Part {
    Words(String),
    /// What became of a commit.
    Settled,
    /// A call that is not made or not over: nothing may be said after what is known.
    Unknown,
}

/// What follows from the messages, as far as the turn's calls are recorded.
fn parts(agent: &str, bodies: &[&Value], turn: &Turn) -> Vec<Part> {
    let mut calls = turn.calls.values();
    let mut parts = Vec::new();
    match agent {
        // It says nothing to people.
        "thinker" => return parts,
        // Where an answer breaks off, it has the model go on.
        "talker" => {
            calls.for_each(|call| answer(Some(call), &mut parts));
            return parts;
        }
        _ => {}
    }
    for body in bodies {
        if let Some(text) = body.as_str() {
            parts.push(Part::Words(format!("heard {text}\n")));
        }
        for step in body.as_array().into_iter().flatten() {
            if let Some(text) = step["say"].as_str() {
                parts.push(Part::Words(text.to_owned()));
            } else if step.get("work").is_some() {
                answer(calls.next(), &mut parts);
                parts.push(Part::Settled);
            } else if step.get("model").is_some() {
                told(calls.next(), &mut parts);
            }
        }
    }
    parts
}

/// The answer as it streamed.
fn answer(call: Option<&Call>, parts: &mut Vec<Part>) {
    if let Some(call) = call {
        parts.push(Part::Words(call.streamed.clone()));
    }
    if call.is_none_or(|call| call.returned.is_none()) {
        parts.push(Part::Unknown);
    }
}

/// The answer as a line of JSON, or how it broke off.
fn told(call: Option<&Call>, parts: &mut Vec<Part>) {
    let Some((call, returned)) = call.and_then(|call| Some((call, call.returned.as_ref()?))) else {
        parts.push(Part::Unknown);
        return;
    };
    let line = if returned.ok {
        json!({"model": call.streamed})
    } else {
        json!({"error": "interrupted", "partial": call.streamed})
    };
    parts.push(Part::Words(format!("{line}\n")));
}

/// Whether the turn said what its messages ask for: all of it if it completed, and the
/// beginning of it otherwise. Answers how often it says that a commit was made.
pub(super) fn check(turn: &Turn, bodies: &[&Value]) -> Result<u32, String> {
    let whole = turn
        .ended
        .as_ref()
        .is_some_and(|it| it.outcome == "completed");
    let parts = parts(&turn.agent, bodies, turn);
    let mut rest = turn.text.as_str();
    let mut committed = 0;
    for part in parts {
        let expected = match part {
            Part::Words(words) => words,
            Part::Settled => {
                let words = ["[committed]", "[held]", "[lost]"];
                let found = words.iter().find(|word| rest.starts_with(*word));
                committed += u32::from(found == Some(&"[committed]"));
                (*found.unwrap_or(&"[")).to_owned()
            }
            Part::Unknown => {
                if whole || !rest.is_empty() {
                    return Err(format!("says more than its calls brought: {rest:?}"));
                }
                return Ok(committed);
            }
        };
        match rest.strip_prefix(expected.as_str()) {
            Some(more) => rest = more,
            None if !whole && expected.starts_with(rest) => return Ok(committed),
            None => return Err(format!("should go on with {expected:?}, not with {rest:?}")),
        }
    }
    if rest.is_empty() {
        Ok(committed)
    } else {
        Err(format!("says more than it was asked to: {rest:?}"))
    }
}

/// Every word of an answer once, in order, and all from one attempt of the call.
pub(super) fn words_once(text: &str) -> Result<u32, String> {
    let mut last: Option<(&str, u32)> = None;
    let mut done: Vec<&str> = Vec::new();
    let mut count = 0;
    // A line of JSON stands around some answers.
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '.'));
    for word in words.filter(|word| word.starts_with('k')) {
        let Some((answer, place)) = word.rsplit_once('.') else {
            continue;
        };
        let Ok(place) = place.parse::<u32>() else {
            continue;
        };
        count += 1;
        let expected = match last {
            Some((before, at)) if before == answer => at + 1,
            _ => 0,
        };
        let call = answer.split('.').next().unwrap_or_default();
        if place != expected || (place == 0 && done.contains(&call)) {
            return Err(format!("{word} stands where it may not"));
        }
        if place == 0 {
            done.push(call);
        }
        last = Some((answer, place));
    }
    Ok(count)
}
