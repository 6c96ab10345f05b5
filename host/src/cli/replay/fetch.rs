//! What a replay needs, from the server: the journal, what the turn was started with, long values.

use std::collections::BTreeMap;

use antiphon::agents::AgentConfig;
use antiphon::clock::Time;
use antiphon::id::{Digest, Offset, SessionId, TurnId};
use antiphon::journal::codec::Encoded;
use antiphon::journal::entry::{Entry, Kind, Payload, TurnStarted};
use antiphon::runtime::random::Seeds;
use antiphon::session::replay::Case;
use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::client::{CallError, Client};
use crate::cli::event::Event;
use crate::cli::fault::hinted;

/// Turns that are listed if the one that was asked for is not there.
const TURNS_MAX: usize = 20;

/// Which turn is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Id(TurnId),
    /// The number of its first entry.
    Number(u64),
}

impl Wanted {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) => TurnId::new(text)
                .map(Self::Id)
                .map_err(|error| error.to_string()),
        }
    }

    fn is(&self, entry: &Entry, started: &TurnStarted) -> bool {
        match self {
            Self::Id(turn) => *turn == started.turn,
            Self::Number(number) => *number == entry.seq.0,
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(turn) => turn.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// A turn with everything it had.
pub(super) struct Recorded {
    pub(super) case: Case,
    /// The number of its first entry.
    pub(super) number: u64,
    pub(super) agent: String,
    pub(super) version: u64,
    pub(super) component: Digest,
}

/// What the server says of a turn.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Turn {
    /// Where it ran: not in a fork that has its entries.
    session: SessionId,
    agent: String,
    version: u64,
    component: Digest,
    config: Option<AgentConfig>,
    random: Option<Seeds>,
}

pub(super) async fn fetch(
    client: &Client,
    session: &SessionId,
    wanted: &Wanted,
) -> anyhow::Result<Recorded> {
    let (encoded, entries) = journal(client, session, wanted).await?;
    let started = started(&entries, wanted).ok_or_else(|| no_such_turn(&entries, wanted))?;
    let (number, turn) = (started.0, started.1.clone());
    let said: Turn = client
        .turn(session, &turn)
        .await
        .map_err(CallError::explain)?;
    let seeds = said
        .random
        .ok_or_else(|| not_ended(&entries, number, &turn))?;
    let config = said.config.ok_or_else(|| {
        anyhow!(
            "version {} of {}, which the turn ran with, is no longer kept",
            said.version,
            said.agent
        )
    })?;
    let mut values = Vec::new();
    for digest in Case::values(&entries, &turn) {
        let value = client.value(session, &digest).await;
        values.push(value.map_err(CallError::explain)?);
    }
    Ok(Recorded {
        case: Case {
            session: said.session,
            turn,
            entries: encoded,
            values,
            config,
            seeds,
        },
        number,
        agent: said.agent,
        version: said.version,
        component: said.component,
    })
}

fn not_ended(entries: &[Entry], number: u64, turn: &TurnId) -> anyhow::Error {
    let is_over = entries
        .iter()
        .any(|entry| matches!(&entry.payload, Payload::TurnEnded(it) if it.turn == *turn));
    if is_over {
        let message = format!("turn {number} was cut off by the fork that made this session");
        return hinted(message, "replay it in the session that this one comes from");
    }
    let message = format!("turn {number} has not ended yet");
    hinted(message, "a turn can be replayed when it has ended")
}

/// The component that the turn ran with.
pub(super) async fn pinned(client: &Client, recorded: &Recorded) -> anyhow::Result<Vec<u8>> {
    let bytes = client
        .component(&recorded.component)
        .await
        .map_err(CallError::explain)
        .context("the component that the turn ran with")?;
    if Digest::of(&bytes) != recorded.component {
        return Err(anyhow!(
            "the server sent another component than the turn ran with"
        ));
    }
    Ok(bytes.into())
}

/// The entries from the first to the turn's end, or all if it is not there or has not ended.
async fn journal(
    client: &Client,
    session: &SessionId,
    wanted: &Wanted,
) -> anyhow::Result<(Vec<Encoded>, Vec<Entry>)> {
    let (mut encoded, mut entries): (Vec<Encoded>, Vec<Entry>) = (Vec::new(), Vec::new());
    let mut offset = "-1".to_owned();
    loop {
        let page = client
            .journal(session, &offset)
            .await
            .map_err(CallError::explain)?;
        for event in &page.events {
            let next = entry(event)?;
            if next.seq.0 != entries.len() as u64 + 1 {
                return Err(anyhow!(
                    "entry {} of the journal is missing",
                    entries.len() + 1
                ));
            }
            let decoded = next.decode().map_err(|error| newer(error.to_string()))?;
            encoded.push(next);
            entries.push(decoded);
        }
        let turn = started(&entries, wanted).map(|(_, turn)| turn);
        let is_end = |entry: &Entry| match &entry.payload {
            Payload::TurnEnded(ended) => Some(&ended.turn) == turn,
            _ => false,
        };
        if page.up_to_date || entries.iter().any(is_end) {
            return Ok((encoded, entries));
        }
        offset = page.offset;
    }
}

fn started<'a>(entries: &'a [Entry], wanted: &Wanted) -> Option<(u64, &'a TurnId)> {
    entries.iter().find_map(|entry| match &entry.payload {
        Payload::TurnStarted(it) if wanted.is(entry, it) => Some((entry.seq.0, &it.turn)),
        _ => None,
    })
}

fn no_such_turn(entries: &[Entry], wanted: &Wanted) -> anyhow::Error {
    let mut turns: BTreeMap<&TurnId, (u64, &'static str)> = BTreeMap::new();
    for entry in entries {
        match &entry.payload {
            Payload::TurnStarted(it) => drop(turns.insert(&it.turn, (entry.seq.0, "open"))),
            Payload::TurnEnded(it) => {
                if let Some((_, is)) = turns.get_mut(&it.turn) {
                    *is = it.outcome.name();
                }
            }
            _ => {}
        }
    }
    let mut turns: Vec<_> = turns
        .into_iter()
        .map(|(turn, (at, is))| (at, turn, is))
        .collect();
    turns.sort();
    let message = format!("the session has no turn {wanted}");
    if turns.is_empty() {
        return hinted(message, "nothing was done in it yet");
    }
    let newest = &turns[turns.len().saturating_sub(TURNS_MAX)..];
    let mut hint = match newest.len() == turns.len() {
        true => "its turns:".to_owned(),
        false => format!("its newest turns, of {}:", turns.len()),
    };
    for (at, turn, is) in newest {
        hint.push_str(&format!("\n  {at} {turn} {is}"));
    }
    hinted(message, hint)
}

fn newer(message: String) -> anyhow::Error {
    hinted(
        message,
        "the server may be newer: replay with its version of antiphon",
    )
}

/// An entry as it is stored, from how it is served.
fn entry(event: &Event) -> anyhow::Result<Encoded> {
    let malformed = || anyhow!("the server sent what is no entry: {}", event.offset);
    let mut fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&event.raw).map_err(|_| malformed())?;
    let Offset(seq) = event.offset.parse().map_err(|_| malformed())?;
    let time: Time = event.time.ok_or_else(malformed)?;
    let kind = Kind::of_name(&event.kind).ok_or_else(|| {
        newer(format!(
            "entry {seq} is of a kind that is not known here: {}",
            event.kind
        ))
    })?;
    let private = fields.remove("private");
    let private = match kind {
        // It has no secret, so it is no whole private part; a replay needs none of it.
        Kind::SessionOpened | Kind::SessionForked => "",
        _ => private.as_ref().map_or("", |private| private.get()),
    };
    let public = serde_json::to_vec(&fields)?;
    Ok(Encoded::from_parts(
        seq,
        time,
        kind,
        &public,
        private.as_bytes(),
    ))
}

#[cfg(test)]
mod tests {
    use antiphon::journal::codec::encode;
    use antiphon::journal::entry::{
        Content, SlotCommitted, SlotCommittedPrivate, TurnEnded, TurnEndedPrivate, Writer,
    };

    use super::*;
    use antiphon::id::{AgentName, Seq, SlotName};
    use antiphon::journal::entry::{Outcome, Usage};

    fn served(entry: &Entry) -> Event {
        let encoded = encode(entry);
        let mut value: serde_json::Value = serde_json::from_slice(&encoded.public()).unwrap();
        if !encoded.private().is_empty() {
            value["private"] = serde_json::from_slice(&encoded.private()).unwrap();
        }
        Event::parse(&value.to_string()).unwrap()
    }

    fn entries() -> Vec<Entry> {
        let agent = AgentName::new("a").unwrap();
        let turn = TurnId::new("r.t0.a").unwrap();
        let started = TurnStarted {
            turn: turn.clone(),
            run: antiphon::id::RunId::new("r").unwrap(),
            parent: None,
            agent: agent.clone(),
            inputs: Vec::new(),
            causes: Vec::new(),
            attempt: 1,
            private: antiphon::journal::entry::Pinned {
                component: "c".to_owned(),
                version: 7,
                limits: BTreeMap::from([("cpu_ms_max".to_owned(), 5)]),
            },
        };
        let committed = SlotCommitted {
            slot: SlotName::new("x").unwrap(),
            version: Seq(2),
            by: Writer::Agent(agent.clone()),
            bytes: 3,
            turn: Some(turn.clone()),
            n: 0,
            private: SlotCommittedPrivate {
                content: Content::Stored {
                    digest: Digest::of(b"doc"),
                    bytes: 3,
                },
                wakes: Vec::new(),
            },
        };
        let ended = TurnEnded {
            turn,
            agent,
            outcome: Outcome::Completed,
            error: None,
            usage: Usage::default(),
            inputs: Vec::new(),
            wake_at: Some(Time(1_795_253_400_125)),
            private: TurnEndedPrivate {
                stderr: Some("é\n".to_owned()),
                ..TurnEndedPrivate::default()
            },
        };
        let payloads = [
            Payload::TurnStarted(started),
            Payload::SlotCommitted(committed),
            Payload::TurnEnded(ended),
        ];
        let numbered = payloads.into_iter().zip(1..);
        numbered
            .map(|(payload, seq)| Entry {
                seq: Seq(seq),
                time: Time(1_795_253_400_125 + seq),
                payload,
            })
            .collect()
    }

    #[test]
    fn an_entry_is_the_same_after_its_way_over_http() {
        for original in entries() {
            let taken = entry(&served(&original)).unwrap().decode().unwrap();
            assert_eq!(taken, original);
        }
    }

    #[test]
    fn a_turn_is_named_by_id_or_number() {
        let entries = entries();
        for wanted in ["1", "r.t0.a"] {
            let wanted = Wanted::parse(wanted).unwrap();
            assert_eq!(started(&entries, &wanted).unwrap().0, 1);
        }
        let other = Wanted::parse("2").unwrap();
        assert!(started(&entries, &other).is_none());
        assert!(Wanted::parse("a/b").is_err());
        let error = crate::cli::fault::describe(
            &no_such_turn(&entries, &other),
            crate::cli::term::Paint::off(),
        );
        assert_eq!(
            error,
            "error: the session has no turn 2\nhint:  its turns:\n  1 r.t0.a completed\n"
        );
    }

    #[test]
    fn what_a_newer_server_wrote_is_named() {
        let raw = r#"{"offset": "0000000000000001_0000000000000000", "time": "2026-11-21T09:30:00.125Z", "kind": "sang"}"#;
        let error = entry(&Event::parse(raw).unwrap()).unwrap_err();
        assert!(error.to_string().contains("sang"), "{error}");
    }
}
