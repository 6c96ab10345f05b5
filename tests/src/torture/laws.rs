//! What must hold after every crash, seen from outside.
//!
//! Each law looks at what is durable and at what was promised, shown or asked, and
//! names what it finds wrong. All of them hold of every prefix of a journal, so
//! nobody has to be at rest for them.

use std::collections::{BTreeMap, BTreeSet};

use antiphon::id::Digest;
use serde_json::{Value, json};

use super::book::{Book, Call, Turn, seq};
use super::client::Acknowledged;
use super::provider::Asked;
use super::script;

/// What was found wrong.
pub(super) type Wrong = Vec<String>;

/// Nothing that is shown is taken back, left out or shown twice: what a client saw is what the
/// journal has, from its first event.
/// Answers how many of these events are in the book.
pub(super) fn shown_is_kept(
    book: &Book,
    who: &str,
    after: usize,
    shown: &[Value],
    wrong: &mut Wrong,
) -> usize {
    let kept = book.events.get(after..).unwrap_or_default();
    for (at, (event, saw)) in kept.iter().zip(shown).enumerate() {
        if event != saw {
            wrong.push(format!(
                "{}: {who} was shown {saw} as event {}; the journal has {event}",
                book.session,
                after + at
            ));
        }
    }
    kept.len().min(shown.len())
}

/// The transcript has the words of the events, in the order of their first words.
/// `pages` are its pages, the newest first; there may be older ones.
pub(super) fn transcript_is_events(book: &Book, pages: &[Value], wrong: &mut Wrong) {
    let until = pages.first().map_or(0, |page| seq(&page["offset"]));
    let mut expected: Vec<(u64, Value)> = Vec::new();
    let mut place: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in &book.entries[..until as usize] {
        let at = seq(&entry["offset"]);
        let turn = entry["turn"].as_str().unwrap_or_default();
        match entry["kind"].as_str() {
            Some("message-received") => {
                let body = &entry["body"];
                let text = body
                    .as_str()
                    .map_or_else(|| body.to_string(), str::to_owned);
                expected.push((at, json!([text, null])));
            }
            Some("spoke") => match place.get(turn) {
                Some(place) => {
                    let before = expected[*place].1[0].as_str().unwrap_or_default();
                    let more = entry["text"].as_str().unwrap_or_default();
                    expected[*place].1[0] = json!(format!("{before}{more}"));
                }
                None => {
                    place.insert(turn, expected.len());
                    expected.push((at, json!([entry["text"], null])));
                }
            },
            Some("turn-ended") => {
                if let Some(place) = place.get(turn) {
                    expected[*place].1[1] = json!(match entry["outcome"].as_str() {
                        Some("completed") => "complete",
                        Some("failed") => "failed",
                        _ => "interrupted",
                    });
                }
            }
            _ => {}
        }
    }
    let pages_in_order = pages.iter().rev();
    let items = pages_in_order.flat_map(|page| page["items"].as_array().into_iter().flatten());
    let found: Vec<(u64, Value)> = items
        .map(|item| (seq(&item["offset"]), json!([item["text"], item["end"]])))
        .collect();
    let whole = pages.last().is_some_and(|page| page["before"].is_null());
    if !expected.ends_with(&found) || (whole && expected.len() != found.len()) {
        wrong.push(format!(
            "{}: the transcript at {until} is not what was shown: {found:?}; shown: {expected:?}",
            book.session
        ));
    }
}

/// What is acknowledged is there, as it was sent, once.
pub(super) fn promises_are_kept(book: &Book, promises: &[Acknowledged], wrong: &mut Wrong) {
    let session = &book.session;
    for promise in promises.iter().filter(|it| it.session == *session) {
        match &promise.message {
            Some((id, body)) => match book.messages.get(id) {
                Some(found) if found.at == promise.offset && found.body == *body => {}
                _ => wrong.push(format!("{session}: {id} was acknowledged and is not there")),
            },
            None => {
                let ends = |turn: &&Turn| {
                    let ended = turn.ended.as_ref();
                    ended.is_some_and(|it| it.at == promise.offset && it.outcome == "interrupted")
                };
                if book.turns.values().find(ends).is_none() {
                    let at = promise.offset;
                    wrong.push(format!(
                        "{session}: the interruption at {at} did not happen"
                    ));
                }
            }
        }
    }
    let mut bodies = BTreeSet::new();
    for message in book.messages.values().filter(|it| it.author.is_some()) {
        if !bodies.insert(message.body.to_string()) {
            wrong.push(format!("{session}: {} is there twice", message.body));
        }
    }
}

/// Nobody answers a message twice, and a message whose turn failed without a word is not
/// taken for answered.
pub(super) fn messages_are_consumed_once(book: &Book, at_rest: bool, wrong: &mut Wrong) {
    for (id, message) in &book.messages {
        let done = message.consumed.len() + usize::from(message.set_aside);
        if done > 1 || (at_rest && done == 0) {
            let session = &book.session;
            wrong.push(format!("{session}: {id} is done with {done} times"));
        }
        let turns = message.consumed.iter().filter_map(|id| book.turns.get(id));
        for (turn, ended) in turns.filter_map(|turn| Some((turn, turn.ended.as_ref()?))) {
            if ended.outcome == "failed" && turn.text.is_empty() {
                wrong.push(format!(
                    "{}: {id} went with a turn that said nothing",
                    book.session
                ));
            }
        }
    }
}

/// Turns say what they were asked to, each word once.
pub(super) fn words_are_said_once(book: &Book, wrong: &mut Wrong) -> u32 {
    let mut words = 0;
    for (id, turn) in &book.turns {
        match script::words_once(&turn.text) {
            Ok(count) => words += count,
            Err(why) => wrong.push(format!("{id}: {why}: {:?}", turn.text)),
        }
        match script::check(turn, &book.bodies(turn)) {
            Ok(said) => {
                let whole = turn
                    .ended
                    .as_ref()
                    .is_some_and(|it| it.outcome == "completed");
                // A commit may be durable before its turn comes to say so.
                let agrees = if whole {
                    said == turn.commits
                } else {
                    said <= turn.commits
                };
                if turn.agent != "thinker" && !agrees {
                    wrong.push(format!(
                        "{id}: says {said} commits and made {}",
                        turn.commits
                    ));
                }
            }
            Err(why) => wrong.push(format!("{id}: {why}")),
        }
    }
    words
}

/// The key under which a call is made, from what the journal says of it.
fn call_key(session: &str, turn: &str, n: u64, call: &Call) -> Option<String> {
    let request: Digest = serde_json::from_value(json!(call.request)).ok()?;
    let n = u32::try_from(n).ok()?.to_be_bytes();
    let (tenant, parent) = ("default".as_bytes(), "".as_bytes());
    let parts = [
        tenant,
        session.as_bytes(),
        parent,
        turn.as_bytes(),
        &n,
        &request.0,
    ];
    Some(Digest::of_parts(&parts).to_string())
}

/// Who made which call, by its key.
pub(super) struct Keys<'a>(BTreeMap<String, Made<'a>>);

struct Made<'a> {
    book: &'a Book,
    turn: &'a Turn,
    n: u64,
    call: &'a Call,
}

impl<'a> Keys<'a> {
    #[cfg(test)]
    pub(super) fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    pub(super) fn of(books: impl Iterator<Item = &'a Book>) -> Self {
        let mut keys = BTreeMap::new();
        for book in books {
            for (id, turn) in &book.turns {
                for (n, call) in turn.calls.iter().filter(|(_, it)| it.target == "default") {
                    if let Some(key) = call_key(&book.session, id, *n, call) {
                        let n = *n;
                        let made = Made {
                            book,
                            turn,
                            n,
                            call,
                        };
                        keys.insert(key, made);
                    }
                }
            }
        }
        Self(keys)
    }
}

/// What is asked of the provider was written down first; a call that came back is never made
/// again; one that is, is declared. `asked` is from before the journals were read.
pub(super) fn calls_are_made_once(keys: &Keys<'_>, asked: &[Asked], wrong: &mut Wrong) {
    let mut attempts: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
    for it in asked {
        attempts.entry(&it.key).or_default().push(it);
    }
    for (
        key,
        Made {
            book, turn, call, ..
        },
    ) in &keys.0
    {
        let whose = || format!("{}, {} asking {}", book.session, turn.agent, call.request);
        let made = attempts.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        if made.len() > 1 + call.retried {
            wrong.push(format!(
                "{}: made {} times and declared {} times as repeated",
                whose(),
                made.len(),
                call.retried
            ));
        }
        let early = made.iter().any(|it| it.at < call.time);
        if early {
            wrong.push(format!("{}: made before it was written down", whose()));
        }
        let returned = call.returned.as_ref();
        if returned.is_some_and(|returned| made.iter().any(|it| it.at > returned.time)) {
            wrong.push(format!("{}: made again after its answer was kept", whose()));
        }
    }
}

/// What came back is what one attempt of the call was answered, or its beginning if it broke off.
pub(super) fn answers_are_kept(keys: &Keys<'_>, asked: &[Asked], wrong: &mut Wrong) {
    let mut answers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for it in asked {
        answers.entry(&it.key).or_default().push(&it.answer);
    }
    for (
        key,
        Made {
            book, turn, call, ..
        },
    ) in &keys.0
    {
        let answers = answers.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        let is_whole = call.returned.as_ref().is_some_and(|returned| returned.ok);
        let fits = |answer: &&&str| {
            answer.starts_with(&call.streamed) && (!is_whole || **answer == call.streamed)
        };
        if (is_whole || !call.streamed.is_empty()) && answers.iter().find(fits).is_none() {
            let (session, agent) = (&book.session, &turn.agent);
            wrong.push(format!(
                "{session}, {agent}: nobody answered {:?}",
                call.streamed
            ));
        }
    }
}

/// A crash fails no turn: each goes on, or ends as somebody asked. One that three processes
/// in a row took up in vain may be taken for the cause of their end, innocent as it is here.
pub(super) fn turns_outlive_the_host(book: &Book, wrong: &mut Wrong) {
    for (id, turn) in &book.turns {
        let error = turn.ended.as_ref().and_then(|ended| ended.error.as_deref());
        if let Some(error @ ("host-lost" | "nondeterminism")) = error {
            wrong.push(format!("{}: {id} ended as {error}", book.session));
        }
    }
}

/// Nobody was asked anything that no journal knows. Only once nothing runs and every journal was read.
pub(super) fn nothing_is_asked_unwritten(keys: &Keys<'_>, asked: &[Asked], wrong: &mut Wrong) {
    for it in asked.iter().filter(|it| !keys.0.contains_key(&it.key)) {
        wrong.push(format!(
            "{:?} was asked and is in no journal",
            it.last_question
        ));
    }
}

/// What a model is told that it said is what people were shown.
pub(super) fn models_see_what_people_saw(keys: &Keys<'_>, asked: &[Asked], wrong: &mut Wrong) {
    for it in asked {
        let Some(Made { book, turn, n, .. }) = keys.0.get(&it.key) else {
            continue;
        };
        let earlier = turn.calls.range(..n).map(|(_, call)| call);
        let mut shown: Vec<String> = Vec::new();
        if turn.agent != "thinker" && !it.last_question.ends_with(script::BARE) {
            let mut spoken: Vec<&Turn> = book
                .turns
                .values()
                .filter(|other| other.agent == turn.agent && other.started < turn.started)
                .filter(|other| !other.text.is_empty())
                .collect();
            spoken.sort_by_key(|turn| turn.spoke);
            shown.extend(spoken.iter().map(|turn| turn.text.clone()));
        }
        match turn.agent.as_str() {
            // Its own steps, which nobody else is shown. What broke off it asks for again.
            "thinker" => shown.extend(
                earlier
                    .filter(|call| call.returned.as_ref().is_some_and(|returned| returned.ok))
                    .map(|call| call.streamed.clone()),
            ),
            // What broke off, to go on with.
            "talker" if *n > turn.first_call() => {
                shown.push(earlier.map(|call| call.streamed.as_str()).collect());
            }
            _ => {}
        }
        let items_max = if turn.agent == "talker" { 60 } else { 100 };
        let whole = items_before(book, turn.started) <= items_max;
        let told = &it.own_words;
        if !shown.ends_with(told) || (whole && told.len() != shown.len()) {
            wrong.push(format!(
                "{}: the model of {} is told {told:?}; people were shown {shown:?}",
                book.session, turn.agent
            ));
        }
    }
}

/// Items of the transcript that begin before an entry.
fn items_before(book: &Book, at: u64) -> usize {
    let messages = book.messages.values();
    let sent = messages.filter(|it| it.author.is_some() && it.at < at);
    let turns = book.turns.values();
    let spoken = turns.filter(|it| it.spoke.is_some_and(|it| it < at));
    sent.count() + spoken.count()
}

/// A lock is gone with its turn, and a document is one that a turn committed, whole.
/// `ended` are turns that had ended before the slots were read.
pub(super) fn locks_die_with_their_turns(
    book: &Book,
    slots: &[Value],
    ended: &BTreeSet<String>,
    at_rest: bool,
    wrong: &mut Wrong,
) {
    for slot in slots {
        let name = slot["slot"].as_str().unwrap_or_default();
        let whose = format!("{}, slot {name}", book.session);
        if let Some(holder) = slot["locked_by"].as_str()
            && (at_rest || ended.contains(holder))
        {
            wrong.push(format!("{whose}: locked by {holder}, which has ended"));
        }
        let Some(version) = slot["version"].as_u64() else {
            continue;
        };
        let versions = book.slots.get(name).map(|it| &it.versions);
        let newest = versions.and_then(|it| it.keys().next_back());
        let writer = versions.and_then(|it| book.turns.get(it.get(&version)?));
        let content = slot["content"].as_str().unwrap_or_default();
        let is_whole = writer.is_some_and(|turn| {
            if turn.agent == "thinker" {
                return turn.calls.values().any(|call| call.streamed == content);
            }
            let bodies = book.bodies(turn);
            let mut documents = bodies.into_iter().flat_map(script::documents);
            documents.any(|(slot, document)| slot == name && document == content)
        });
        if !is_whole {
            let length = content.len();
            wrong.push(format!(
                "{whose}: nobody committed version {version}, {length} bytes"
            ));
        }
        if at_rest && newest != Some(&version) {
            wrong.push(format!(
                "{whose}: version {version} is not the newest, {newest:?}"
            ));
        }
    }
}
