//! What must be true of a journal after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Outside, fold, tenant};
use crate::budgets::{Budgets, Terms};
use crate::clock::{Day, Time};
use crate::id::{MessageId, Seq, TurnId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{
    CallKind, Cause, Entry, Failure, Fate, Kind, Observation, Observed, Outcome, Payload, Reply,
    Usage,
};
use crate::journal::script::print;
use crate::ledger::transcript;
use crate::runtime::scope::call_key;
use crate::store::Store;

/// Nothing that was acknowledged or shown is missing, whatever it became.
pub(super) fn check_kept(stored: &[Entry], outside: &Outside) {
    let last = stored.last().map_or(Seq(0), |entry| entry.seq);
    for seq in &outside.acknowledged {
        assert!(*seq <= last, "{seq} was acknowledged\n{}", print(stored));
    }
    for message in &outside.messages {
        let entry = stored.get(usize::try_from(message.seq().0 - 1).unwrap());
        assert!(
            matches!(
                entry.map(|it| it.payload.kind()),
                Some(Kind::MessageReceived)
            ),
            "{message}"
        );
    }
    for (at, shown) in outside.shown.lock().unwrap().iter().enumerate() {
        let shown = shown.decode().unwrap();
        assert_eq!(
            Some(&shown),
            stored.get(at),
            "shown and not kept\n{}",
            print(stored)
        );
    }
}

/// Every message is answered, or set aside after as many tries as it has; none is given to a second
/// turn unless the first gave it back.
pub(super) fn check_answered(stored: &[Entry]) {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Is {
        Waiting,
        Taken,
        Done,
    }
    let mut messages: BTreeMap<MessageId, Is> = BTreeMap::new();
    let mut open: BTreeSet<TurnId> = BTreeSet::new();
    for entry in stored {
        match &entry.payload {
            Payload::MessageReceived(it) => drop(messages.insert(it.message.clone(), Is::Waiting)),
            Payload::MessageSent(it) => drop(messages.insert(it.message.clone(), Is::Waiting)),
            Payload::TurnStarted(it) => {
                open.insert(it.turn.clone());
                for input in &it.inputs {
                    let before = messages.insert(input.clone(), Is::Taken);
                    assert_eq!(
                        before,
                        Some(Is::Waiting),
                        "{input} is given out twice\n{}",
                        print(stored)
                    );
                }
            }
            Payload::TurnEnded(it) => {
                open.remove(&it.turn);
                for input in &it.inputs {
                    let is = if input.fate == Fate::Returned {
                        Is::Waiting
                    } else {
                        Is::Done
                    };
                    messages.insert(input.message.clone(), is);
                }
            }
            Payload::MessageSetAside(it) => drop(messages.insert(it.message.clone(), Is::Done)),
            _ => {}
        }
    }
    assert!(open.is_empty());
    let state = fold(stored);
    let waits_for_good = |message: &MessageId| {
        // Left by a turn, or its agent is suspended: it waits until somebody does something.
        state.participants.values().any(|participant| {
            participant.suspended.is_some()
                && participant
                    .pending
                    .iter()
                    .any(|pending| pending.message == *message)
        })
    };
    for (message, is) in messages {
        assert!(
            is == Is::Done || waits_for_good(&message),
            "{message}\n{}",
            print(stored)
        );
    }
    assert!(
        state.slots.values().all(|slot| slot.lock.is_none()),
        "a lock was left"
    );
}

/// What people were shown of each turn is what the transcript says.
pub(super) fn check_transcript(items: &[transcript::Item], stored: &[Entry], outside: &Outside) {
    let text = |entries: &mut dyn Iterator<Item = Entry>| {
        let mut texts: BTreeMap<TurnId, String> = BTreeMap::new();
        for entry in entries {
            if let Payload::Spoke(spoke) = entry.payload {
                texts.entry(spoke.turn).or_default().push_str(&spoke.text);
            }
        }
        texts
    };
    let said = text(&mut stored.iter().cloned());
    let of_turns = items
        .iter()
        .filter_map(|item| Some((item.turn.clone()?, item.text.clone())));
    assert_eq!(of_turns.collect::<BTreeMap<_, _>>(), said);
    let shown: Vec<Encoded> = outside.shown.lock().unwrap().clone();
    let ended: BTreeSet<TurnId> = shown
        .iter()
        .filter_map(|encoded| match encoded.decode().unwrap().payload {
            Payload::TurnEnded(ended) => Some(ended.turn),
            _ => None,
        })
        .collect();
    for (turn, text) in text(&mut shown.iter().map(|encoded| encoded.decode().unwrap())) {
        assert!(said[&turn].starts_with(&text), "{turn}");
        if ended.contains(&turn) {
            assert_eq!(said[&turn], text, "{turn}");
        }
    }
}

/// Turns that were open were taken up again and came to their end, or ended as interrupted if
/// somebody had asked for it.
pub(super) fn check_resumed<'a>(stored: &[Entry], open: impl Iterator<Item = &'a TurnId>) {
    for turn in open {
        let ended = stored.iter().find_map(|entry| match &entry.payload {
            Payload::TurnEnded(ended) if ended.turn == *turn => Some(ended),
            _ => None,
        });
        let ended = ended.expect("it ended");
        let again = stored.iter().any(|entry| {
            matches!(&entry.payload, Payload::Retried(it) if it.turn == *turn && it.n.is_none())
        });
        let poison = ended.error.as_ref().map(|error| error.code) == Some(Failure::Poison);
        assert!(
            again || poison || matches!(ended.outcome, Outcome::Interrupted | Outcome::Cancelled),
            "{turn}: {ended:?}\n{}",
            print(stored)
        );
    }
}

/// Every script here is deterministic, so no replay differs; and no host is lost to a turn.
pub(super) fn check_repeatable(stored: &[Entry]) {
    for entry in stored {
        if let Payload::TurnEnded(ended) = &entry.payload
            && let Some(error) = &ended.error
        {
            assert!(
                !matches!(
                    error.code,
                    Failure::Nondeterminism | Failure::HostLost | Failure::Limit
                ),
                "{error:?}\n{}",
                print(stored)
            );
        }
    }
}

/// Nothing is sent to an origin that is not written down, never twice unless that is, and a POST
/// never twice at all.
pub(super) fn check_requests(stored: &[Entry], made: &BTreeMap<String, (String, u32)>) {
    let times = made.iter().map(|(key, (_, times))| (key.clone(), *times));
    check_made(stored, CallKind::Http, &times.collect());
    for (key, (method, times)) in made {
        assert!(
            method != "POST" || *times == 1,
            "{key}: {times} times\n{}",
            print(stored)
        );
    }
}

/// A model is asked nothing that is not written down, and never twice unless that is.
pub(super) fn check_calls(stored: &[Entry], made: &BTreeMap<String, u32>) {
    check_made(stored, CallKind::Model, made);
}

fn check_made(stored: &[Entry], kind: CallKind, made: &BTreeMap<String, u32>) {
    let mut allowed: BTreeMap<String, u32> = BTreeMap::new();
    let mut keys: BTreeMap<(TurnId, u32), String> = BTreeMap::new();
    for entry in stored {
        match &entry.payload {
            Payload::Called(it) if it.call == kind => {
                let (tenant, session) = (tenant(), super::journal().session);
                let key = call_key(&tenant, &session, None, &it.turn, it.n, &it.request);
                let key = key.to_string();
                allowed.insert(key.clone(), 1);
                keys.insert((it.turn.clone(), it.n), key);
            }
            Payload::Retried(it) => {
                if let Some(n) = it.n
                    && let Some(key) = keys.get(&(it.turn.clone(), n))
                {
                    *allowed.entry(key.clone()).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    for (key, times) in made {
        let most = allowed.get(key).copied().unwrap_or(0);
        assert!(
            *times <= most,
            "{times} calls, {most} written down\n{}",
            print(stored)
        );
    }
}

/// What each completed turn said is what its script says: no word missing, none twice. A model's
/// words may end early, and then the agent says where.
pub(super) fn check_said(stored: &[Entry]) {
    let mut bodies: BTreeMap<MessageId, String> = BTreeMap::new();
    // What it pulled of its inputs and of what came while it ran, in order.
    let mut taken: BTreeMap<TurnId, (Seq, Vec<MessageId>)> = BTreeMap::new();
    let mut said: BTreeMap<TurnId, String> = BTreeMap::new();
    for entry in stored {
        match &entry.payload {
            Payload::MessageReceived(it) => {
                bodies.insert(it.message.clone(), it.body.as_str().unwrap().to_owned());
            }
            Payload::MessageSent(it) => {
                bodies.insert(it.message.clone(), it.body.as_str().unwrap().to_owned());
            }
            Payload::TurnStarted(it) => {
                // What else it was started for, it says too.
                let others = it.causes.iter().any(|cause| *cause != Cause::Messages);
                if !others {
                    let oldest = it.inputs.first().map_or(entry.seq, MessageId::seq);
                    taken.insert(it.turn.clone(), (oldest, Vec::new()));
                }
            }
            Payload::Observed(Observed { turn, what, .. }) => {
                if let Observation::MailboxPulled { messages, .. } = what
                    && let Some((oldest, taken)) = taken.get_mut(turn)
                {
                    // What an earlier turn left has said what it does.
                    let new = messages.iter().filter(|it| it.seq() >= *oldest);
                    taken.extend(new.cloned());
                }
            }
            Payload::Spoke(it) => said.entry(it.turn.clone()).or_default().push_str(&it.text),
            Payload::TurnEnded(it) if it.outcome == Outcome::Completed => {
                let Some((_, taken)) = taken.get(&it.turn) else {
                    continue;
                };
                let scripts: Vec<&str> = taken.iter().map(|it| bodies[it].as_str()).collect();
                let text = said.get(&it.turn).map_or("", String::as_str);
                assert!(
                    is_said(text, &scripts.join(";")),
                    "{text:?} of {scripts:?}\n{}",
                    print(stored)
                );
            }
            _ => {}
        }
    }
}

/// What each completed turn heard of people is what is stored: each question has one answer, and that one is heard.
pub(super) fn check_heard(stored: &[Entry]) {
    let (mut said, mut answers) = (BTreeMap::new(), BTreeMap::<&TurnId, String>::new());
    let mut asked: BTreeMap<Seq, u32> = BTreeMap::new();
    for entry in stored {
        match &entry.payload {
            Payload::Spoke(it) => {
                let said: &mut String = said.entry(&it.turn).or_default();
                said.push_str(&it.text);
            }
            Payload::Asked(it) => drop(asked.insert(it.question, 0)),
            Payload::Answered(it) => {
                *asked.get_mut(&it.question).expect("it was asked") += 1;
                answers
                    .entry(&it.turn)
                    .or_default()
                    .push_str(&match &it.reply {
                        Reply::Answered { text, by, .. } => format!("<{text} of {by}>"),
                        Reply::Expired => "<Expired>".to_owned(),
                    });
            }
            Payload::TurnEnded(it) if it.outcome == Outcome::Completed => {
                let said = said.get(&it.turn).map_or("", String::as_str);
                let heard = said.split('<').skip(1).filter_map(|it| it.split_once('>'));
                let heard = heard.filter(|(word, _)| !["HeldLock", "OpenAnswer"].contains(word));
                let heard: String = heard.map(|(word, _)| format!("<{word}>")).collect();
                let expected = answers.get(&it.turn).map_or("", String::as_str);
                assert_eq!(heard, expected, "{}", print(stored));
            }
            _ => {}
        }
    }
    assert!(asked.values().all(|times| *times <= 1), "{}", print(stored));
}

fn is_said(text: &str, script: &str) -> bool {
    let mut rest = text;
    for step in script.split(';').map(str::trim) {
        let (verb, words) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "say" => match rest.strip_prefix(words) {
                Some(more) => rest = more,
                None => return false,
            },
            "model" | "ask" => {
                // What the provider does instead of saying it.
                let words = &words.replace("SLOW ", "").replace("BUSY ", "");
                if let Some(more) = rest.strip_prefix(words.as_str()) {
                    // The end of an answer may be lost when all its words were there.
                    let cut = format!("[cut after {}]", words.len());
                    rest = more.strip_prefix(&cut).unwrap_or(more);
                    continue;
                }
                let shown = words
                    .bytes()
                    .zip(rest.bytes())
                    .take_while(|(a, b)| a == b)
                    .count();
                let shown = if verb == "ask" { 0 } else { shown };
                let Some(more) = rest[shown..].strip_prefix("[cut after ") else {
                    return false;
                };
                let Some((count, more)) = more.split_once(']') else {
                    return false;
                };
                if verb == "model" && count.parse() != Ok(shown) {
                    return false;
                }
                rest = more;
            }
            "get" | "post" => {
                let whole = match words {
                    "CUT" if verb == "get" => "[broken]",
                    "CUT" => "[unknown]",
                    "GONE" => "[unreachable]",
                    "LONG" => "(102400)",
                    words if words.starts_with("closed/") => "[refused]",
                    words => words,
                };
                // What may not be made twice may have been cut off with the host.
                let unknown = if verb == "post" { "[unknown]" } else { whole };
                let more = rest.strip_prefix(whole);
                match more.or_else(|| rest.strip_prefix(unknown)) {
                    Some(more) => rest = more,
                    None => return false,
                }
            }
            "question" | "approve" | "hurry" => {
                let is_end = |(word, _): &(&str, &str)| word.starts_with('<');
                match rest.split_once('>').filter(is_end) {
                    Some((_, more)) => rest = more,
                    None => return false,
                }
            }
            "lock" | "free" | "sleep" | "send" | "leave" | "wake" | "more" => {}
            "commit" => rest = rest.strip_prefix("lost.").unwrap_or(rest),
            // What these say depends on others.
            _ => return true,
        }
    }
    rest.is_empty()
}

/// What the entries of one session say that was used, by days: what came back, and what the ends of
/// turns say beyond that. What was before a fork was another session's.
pub(super) fn booked(stored: &[Entry]) -> BTreeMap<Day, Usage> {
    let (mut days, mut turns) = (BTreeMap::new(), BTreeMap::<TurnId, Usage>::new());
    for entry in stored {
        let usage = match &entry.payload {
            Payload::Returned(it) => {
                turns.entry(it.turn.clone()).or_default().add(it.usage);
                it.usage
            }
            Payload::TurnEnded(it) => {
                let came_back = turns.remove(&it.turn).unwrap_or_default();
                it.usage.since(came_back)
            }
            Payload::SessionForked(_) => {
                days.clear();
                continue;
            }
            _ => continue,
        };
        if usage != Usage::default() {
            let day: &mut Usage = days.entry(entry.time.day()).or_default();
            day.add(usage);
        }
    }
    days
}

/// What is stored of the tenant's usage is what its only journal says: nothing is lost or counted
/// twice, whatever was cut off.
pub(super) fn check_booked(store: &Arc<dyn Store>, stored: &[Entry]) {
    let expect: Vec<_> = booked(stored).into_iter().collect();
    let kept = days(store);
    assert_eq!(kept, expect, "{}", print(stored));
}

/// The tenant's usage as it is stored, by days.
pub(super) fn days(store: &Arc<dyn Store>) -> Vec<(Day, Usage)> {
    let budgets = Budgets::new(store.clone(), Terms::default());
    let always = (Day::default(), Time(u64::MAX).day());
    let report = budgets.report(&tenant(), always, None, Time(0));
    let report = report.expect("it reads");
    report.days.iter().map(|it| (it.day, it.usage)).collect()
}
