//! The agent bus: what one runtime tells another about a call. PURE.
//!
//! Owns the names of the forwarding headers, how they are read and written, the rule for
//! slugs and turn ids, and the depth rule. It is the agent-bus protocol v0 as docs/agent-bus.md tells it.
//!
//! Invariant: depth never goes down: whatever is called from a call of depth `d` is called with
//! `d + 1`. Invariant: what came in goes out unchanged or not at all; nothing is made up, and no
//! header is empty. Who may forward an authorization is not decided here.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use crate::clock::Time;
use crate::id::{InvalidName, RunId, TurnId};

/// On whose behalf: a credential of the person who began the run, verbatim.
pub const AUTHORIZATION: HeaderName = HeaderName::from_static("x-tangle-forwarded-authorization");
/// How many calls deep the caller is; absent from whoever begins a run.
pub const DEPTH: HeaderName = HeaderName::from_static("x-tangle-forwarded-depth");
pub const RUN: HeaderName = HeaderName::from_static("x-tangle-runid");
/// The turn that calls.
pub const TURN: HeaderName = HeaderName::from_static("x-tangle-turnid");
/// The turn around the one that calls.
pub const PARENT_TURN: HeaderName = HeaderName::from_static("x-tangle-parent-turnid");
/// The name of the peer that is called or speaks, percent-encoded where no header can hold it.
pub const SPEAKER: HeaderName = HeaderName::from_static("x-tangle-speaker");
/// Absent means version 0, the only one there is.
pub const PROTOCOL: HeaderName = HeaderName::from_static("x-tangle-protocol-version");
/// Ours: how long the caller waits, in milliseconds from now. A duration, for no two clocks agree.
pub const TIMEOUT: HeaderName = HeaderName::from_static("x-antiphon-timeout-ms");

/// Calls of this depth are refused (protocol: `DEFAULT_MAX_DEPTH`).
pub const DEPTH_MAX: u32 = 4;

/// The longest credential that is forwarded, and the longest name of a peer.
const AUTHORIZATION_BYTES_MAX: usize = 8 * 1024;
const SPEAKER_BYTES_MAX: usize = 256;
/// A day: what waits longer than that needs no deadline.
const TIMEOUT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A header's value that cannot be what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("invalid {DEPTH} header value {0:?} - must be a non-negative integer")]
    Depth(String),
    #[error("invalid {header} header: {rule}")]
    Name {
        header: HeaderName,
        rule: InvalidName,
    },
    #[error("invalid {header} header: {why}")]
    Value {
        header: HeaderName,
        why: &'static str,
    },
    #[error("this runtime speaks version 0 of the agent bus, and not {0:?}")]
    Version(String),
}

/// A call that is as deep as no call may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call is {observed} deep, and the limit is {limit}")]
pub struct TooDeep {
    pub observed: u32,
    pub limit: u32,
}

/// Whether a call of this depth may be served.
pub fn admit(observed: u32, limit: u32) -> Result<(), TooDeep> {
    if observed >= limit {
        return Err(TooDeep { observed, limit });
    }
    Ok(())
}

/// A forwarded credential. Never shown, never in a journal.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(String);

impl Authorization {
    /// None if no header can hold it.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=AUTHORIZATION_BYTES_MAX).contains(&text.len());
        (fits && HeaderValue::from_str(text).is_ok()).then(|| Self(text.to_owned()))
    }

    /// For the one place that sends it and the one that seals it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What a caller said about its call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbound {
    /// 0 if it said nothing.
    pub depth: u32,
    pub run: Option<RunId>,
    pub turn: Option<TurnId>,
    pub parent: Option<TurnId>,
    pub speaker: Option<String>,
    pub authorization: Option<Authorization>,
    pub timeout_ms: Option<u64>,
}

impl Inbound {
    /// From the headers of a request: of several values of one name, the first counts.
    pub fn read(headers: &HeaderMap) -> Result<Self, Malformed> {
        if let Some(version) = text(headers, &PROTOCOL)?
            && version != "0"
        {
            return Err(Malformed::Version(version.chars().take(32).collect()));
        }
        Ok(Self {
            depth: depth(headers)?,
            run: name(headers, RUN, RunId::new)?,
            turn: name(headers, TURN, TurnId::new)?,
            parent: name(headers, PARENT_TURN, TurnId::new)?,
            speaker: speaker(headers)?,
            authorization: authorization(headers)?,
            timeout_ms: timeout(headers)?,
        })
    }

    /// Whether the caller said nothing that a turn carries on.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The first value, without the space around it; none if it is absent or empty.
fn text<'a>(headers: &'a HeaderMap, header: &HeaderName) -> Result<Option<&'a str>, Malformed> {
    let Some(value) = headers.get(header) else {
        return Ok(None);
    };
    let why = "it must be visible ASCII";
    let header = header.clone();
    let text = value
        .to_str()
        .map_err(|_| Malformed::Value { header, why })?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()))
}

fn depth(headers: &HeaderMap) -> Result<u32, Malformed> {
    let Some(value) = headers.get(DEPTH) else {
        return Ok(0);
    };
    let raw = String::from_utf8_lossy(value.as_bytes());
    if raw.is_empty() {
        return Ok(0);
    }
    // Digits alone: other runtimes take " ", "0x3", "3.0" and "1e0" for numbers too.
    let is_number = raw.bytes().all(|byte| byte.is_ascii_digit());
    let depth = is_number.then(|| raw.parse().ok()).flatten();
    depth.ok_or_else(|| Malformed::Depth(raw.chars().take(64).collect()))
}

fn name<T>(
    headers: &HeaderMap,
    header: HeaderName,
    new: impl Fn(&str) -> Result<T, InvalidName>,
) -> Result<Option<T>, Malformed> {
    let Some(text) = text(headers, &header)? else {
        return Ok(None);
    };
    new(text)
        .map(Some)
        .map_err(|rule| Malformed::Name { header, rule })
}

fn speaker(headers: &HeaderMap) -> Result<Option<String>, Malformed> {
    let Some(text) = text(headers, &SPEAKER)? else {
        return Ok(None);
    };
    let wrong = |why| Malformed::Value {
        header: SPEAKER,
        why,
    };
    let decoded = percent_decode_str(text).decode_utf8();
    let name = decoded.map_err(|_| wrong("it must be percent-encoded UTF-8"))?;
    if name.len() > SPEAKER_BYTES_MAX {
        return Err(wrong("256 bytes is the most"));
    }
    Ok(Some(name.into_owned()))
}

fn authorization(headers: &HeaderMap) -> Result<Option<Authorization>, Malformed> {
    let Some(value) = headers.get(AUTHORIZATION).filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    // Verbatim: neither trimmed nor changed.
    let authorization = value.to_str().ok().and_then(Authorization::new);
    authorization.map(Some).ok_or(Malformed::Value {
        header: AUTHORIZATION,
        why: "it must be visible ASCII of at most 8192 bytes",
    })
}

fn timeout(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let Some(text) = text(headers, &TIMEOUT)? else {
        return Ok(None);
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let ms = is_number.then(|| text.parse::<u64>().ok()).flatten();
    match ms {
        Some(ms) if ms > 0 => Ok(Some(ms.min(TIMEOUT_MS_MAX))),
        _ => Err(Malformed::Value {
            header: TIMEOUT,
            why: "it must be a positive number of milliseconds",
        }),
    }
}

/// What a turn of ours carries on from whoever caused it: part of its message's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    pub run: RunId,
    /// The turn that called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TurnId>,
    /// 0 for whoever begins a run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// When the caller stops waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// An authorization came with it. It is kept sealed beside the journal, and never in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub authorized: bool,
    /// What the run may still cost, if its caller is bound by a budget, in micro-units. Said by callers
    /// on this host alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_micros: Option<u64>,
}

fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

impl Context {
    /// Of a request that came in at `now`; none if it said nothing. `run` is for a run that begins here.
    pub fn of(inbound: &Inbound, run: impl FnOnce() -> RunId, now: Time) -> Option<Self> {
        (!inbound.is_empty()).then(|| Self {
            run: inbound.run.clone().unwrap_or_else(run),
            parent: inbound.turn.clone(),
            depth: inbound.depth,
            deadline: inbound.timeout_ms.map(|ms| now.plus_ms(ms)),
            speaker: inbound.speaker.clone(),
            authorized: inbound.authorization.is_some(),
            left_micros: None,
        })
    }
}

/// What a call tells whoever is called.
#[derive(Debug, Clone, Copy)]
pub struct Outbound<'a> {
    /// Of the turn that calls.
    pub depth: u32,
    pub run: &'a RunId,
    pub turn: &'a TurnId,
    pub parent: Option<&'a TurnId>,
    pub speaker: &'a str,
    pub authorization: Option<&'a Authorization>,
    /// How long the caller waits from now on.
    pub timeout_ms: Option<u64>,
}

impl Outbound<'_> {
    /// What is absent is left out.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |header: HeaderName, text: &str| {
            // Ids obey their rules, numbers are digits, names are encoded: all fit.
            if let Ok(value) = HeaderValue::from_str(text)
                && !value.is_empty()
            {
                headers.insert(header, value);
            }
        };
        put(DEPTH, &self.depth.saturating_add(1).to_string());
        put(RUN, self.run.as_str());
        put(TURN, self.turn.as_str());
        if let Some(parent) = self.parent {
            put(PARENT_TURN, parent.as_str());
        }
        put(SPEAKER, &encoded(self.speaker));
        if let Some(ms) = self.timeout_ms {
            put(TIMEOUT, &ms.to_string());
        }
        if let Some(authorization) = self.authorization
            && let Ok(mut value) = HeaderValue::from_str(authorization.reveal())
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers
    }
}

/// Names as they are, but for what no header can hold, and for `%` itself.
fn encoded(name: &str) -> String {
    const HIDDEN: &AsciiSet = &CONTROLS.add(b'%');
    // A space at either end would be lost on the way.
    const BARE: &AsciiSet = &HIDDEN.add(b' ');
    let set = if name.trim() == name { HIDDEN } else { BARE };
    utf8_percent_encode(name, set).to_string()
}

/// A name as part of a turn id (protocol: `slugifySpeaker`).
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for char in name.nfkd() {
        // Runs of everything else become one dash. `_` is a word's character.
        if char.is_ascii_alphanumeric() || char == '_' {
            slug.push(char.to_ascii_lowercase());
        } else if !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.strip_prefix('-').unwrap_or(&slug);
    let slug = slug.strip_suffix('-').unwrap_or(slug);
    if slug.is_empty() {
        return "anon".to_owned();
    }
    slug.to_owned()
}

/// As long as an agent's name, so that a turn id stays within its bound.
const SLUG_BYTES_MAX: usize = 63;

/// The id of a speaker's turn in a conversation: `<run>.t<index>.<slug>`.
pub fn speaker_turn(run: &RunId, index: u32, name: &str) -> TurnId {
    let mut slug = slug(name);
    slug.truncate(SLUG_BYTES_MAX);
    TurnId::new(&format!("{run}.t{index}.{slug}"))
        .expect("a run and a slug hold what a turn id may")
}

#[cfg(test)]
mod tests;
