//! What a conversation is, as its owner writes it: PURE.
//!
//! Owns the JSON form, its checks, and the canonical bytes that stand for it as the component of a version. A
//! [`Definition`] is checked: whoever has one need not ask again.
//!
//! Invariant: the same definition has the same bytes, however it was written. It does not know what
//! is deployed: [`cycle`] is told.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::bus;
use crate::id::AgentName;

/// Who may speak: a prompt of more voices than this is a crowd.
pub const PARTICIPANTS_MAX: usize = 16;
/// Turns of one conversation. All of them are in the memory of its run, and in the prompts of the last.
pub const TURNS_MAX: u32 = 1_000;
/// Turns, if the definition does not say.
const TURNS_DEFAULT: u32 = 10;
/// A million in the currency of the prices: more is a slip of the keyboard.
pub const COST_MICROS_MAX: u64 = 1_000_000_000_000;
/// Bytes of a participant's name: it stands before each of its turns, in headers, and in turn ids.
pub const NAME_BYTES_MAX: usize = 64;
/// A slug is part of a turn id, and as long as an agent's name at most.
const SLUG_BYTES_MAX: usize = 63;
/// Bytes of what one remote participant is told first.
pub const INSTRUCTIONS_BYTES_MAX: usize = 16 * 1024;
pub const URL_BYTES_MAX: usize = 2_048;
const MODEL_BYTES_MAX: usize = 256;
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// Bytes of a compiled pattern, and of what it remembers while it matches.
const PATTERN_COMPILED_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the whole definition.
pub const DEFINITION_BYTES_MAX: usize = 512 * 1024;

/// What is wrong with a definition, in words for its writer. Each names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    #[error("{0}")]
    UnknownField(String),
    /// Not JSON, or JSON of another shape.
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Invalid(String),
    #[error("a conversation has at most {DEFINITION_BYTES_MAX} bytes")]
    TooLarge,
    #[error("`{field}` leads back to the conversation itself: {path}")]
    Cycle { field: String, path: String },
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Definition {
    pub participants: Vec<Participant>,
    pub order: Order,
    pub max_turns: u32,
    /// What all of it may cost; the turn that goes beyond it is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt_on: Option<HaltOn>,
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "WrittenParticipant")]
pub struct Participant {
    pub name: String,
    pub voice: Voice,
}

/// Where a participant's words come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voice {
    /// An agent of the same tenant, be it a component or a conversation.
    Agent(AgentName),
    Remote(Remote),
}

/// A server that speaks OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Before `/chat/completions`.
    pub url: String,
    pub model: String,
    /// The name of the secret that is its key.
    pub secret: Option<String>,
    /// What it is told before all else.
    pub instructions: Option<String>,
    pub authorization: AuthorizationSource,
}

/// In whose name a remote participant is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorizationSource {
    /// In the name of whoever began the run, if they said so.
    #[default]
    ForwardUser,
    /// In the agent's own: no credential of a caller is passed on.
    AgentOwned,
}

/// Who is next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The two in turn.
    Alternate,
    /// All in the order of the definition.
    RoundRobin,
    /// An agent is asked before each turn.
    Selector(AgentName),
}

/// What ends the conversation after a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HaltOn {
    /// Words of the turn match.
    Pattern(Pattern),
    /// An agent says so.
    Agent(AgentName),
}

/// A regular expression that compiles within its bounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl Pattern {
    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
        }
        let regex = RegexBuilder::new(&text)
            .size_limit(PATTERN_COMPILED_BYTES_MAX)
            .dfa_size_limit(PATTERN_COMPILED_BYTES_MAX)
            .build();
        match regex {
            Ok(regex) => Ok(Self(regex)),
            Err(regex::Error::CompiledTooBig(_)) => Err(format!(
                "the pattern needs more than {PATTERN_COMPILED_BYTES_MAX} bytes when compiled"
            )),
            Err(error) => Err(format!("not a regular expression: {error}")),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.as_str().to_owned()
    }
}

/// As it stands in JSON, before it is checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    participants: Vec<WrittenParticipant>,
    order: Option<Order>,
    max_turns: Option<u32>,
    max_cost_micros: Option<u64>,
    halt_on: Option<HaltOn>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenParticipant {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent: Option<AgentName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instructions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authorization: Option<AuthorizationSource>,
}

impl From<Participant> for WrittenParticipant {
    fn from(participant: Participant) -> Self {
        let name = participant.name;
        match participant.voice {
            Voice::Agent(agent) => Self {
                name,
                agent: Some(agent),
                ..Self::default()
            },
            Voice::Remote(remote) => Self {
                name,
                agent: None,
                url: Some(remote.url),
                model: Some(remote.model),
                secret: remote.secret,
                instructions: remote.instructions,
                authorization: Some(remote.authorization),
            },
        }
    }
}

fn invalid<T>(text: impl fmt::Display) -> Result<T, DefinitionError> {
    Err(DefinitionError::Invalid(text.to_string()))
}

impl Definition {
    pub fn parse(json: &[u8]) -> Result<Self, DefinitionError> {
        if json.len() > DEFINITION_BYTES_MAX {
            return Err(DefinitionError::TooLarge);
        }
        // serde takes an array for an object, by the order of the fields.
        if json.trim_ascii_start().first() == Some(&b'[') {
            let text = "a conversation is an object".to_owned();
            return Err(DefinitionError::Malformed(text));
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let written: Written = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let (path, inner) = (error.path().to_string(), error.inner().to_string());
            if inner.starts_with("unknown field") {
                return DefinitionError::UnknownField(at(&path, &inner));
            }
            let text = at(&path, &inner);
            if error.inner().is_data() {
                DefinitionError::Invalid(text)
            } else {
                DefinitionError::Malformed(text)
            }
        })?;
        json.end()
            .map_err(|error| DefinitionError::Malformed(error.to_string()))?;
        Self::check(written)
    }

    /// The bytes that stand for it: the same for equal definitions.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a definition has string keys")
    }

    fn check(written: Written) -> Result<Self, DefinitionError> {
        let count = written.participants.len();
        if count < 2 {
            return invalid("`participants` must name two at least");
        }
        if count > PARTICIPANTS_MAX {
            return invalid(format!(
                "`participants` may name {PARTICIPANTS_MAX} at most"
            ));
        }
        let max_turns = written.max_turns.unwrap_or(TURNS_DEFAULT);
        if !(1..=TURNS_MAX).contains(&max_turns) {
            return invalid(format!("`max_turns` must be 1 to {TURNS_MAX}"));
        }
        let cost = written.max_cost_micros;
        if cost.is_some_and(|cost| !(1..=COST_MICROS_MAX).contains(&cost)) {
            return invalid(format!("`max_cost_micros` must be 1 to {COST_MICROS_MAX}"));
        }
        let mut participants = Vec::new();
        for (at, written) in written.participants.into_iter().enumerate() {
            participants.push(participant(&format!("participants[{at}]"), written)?);
        }
        check_names(&participants)?;
        let by_default = match count {
            2 => Order::Alternate,
            _ => Order::RoundRobin,
        };
        let order = written.order.unwrap_or(by_default);
        if order == Order::Alternate && count != 2 {
            return invalid(format!(
                "`order` is `alternate`, which is for two participants and not for {count}"
            ));
        }
        Ok(Self {
            participants,
            order,
            max_turns,
            max_cost_micros: cost,
            halt_on: written.halt_on,
        })
    }

    /// The agents that it calls, each with the field that names it.
    pub fn agents(&self) -> Vec<(String, &AgentName)> {
        let mut agents = Vec::new();
        for (at, participant) in self.participants.iter().enumerate() {
            if let Voice::Agent(agent) = &participant.voice {
                agents.push((format!("participants[{at}].agent"), agent));
            }
        }
        if let Order::Selector(agent) = &self.order {
            agents.push(("order.selector".to_owned(), agent));
        }
        if let Some(HaltOn::Agent(agent)) = &self.halt_on {
            agents.push(("halt_on.agent".to_owned(), agent));
        }
        agents
    }
}

/// The error with the place that it is about.
fn at(path: &str, error: &str) -> String {
    match path {
        "" | "." | "?" => error.to_owned(),
        path => format!("`{path}`: {error}"),
    }
}

/// Names are what people and models tell speakers apart by, slugs what turn ids do.
fn check_names(participants: &[Participant]) -> Result<(), DefinitionError> {
    let mut slugs: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for (at, participant) in participants.iter().enumerate() {
        let name = participant.name.as_str();
        let slug = bus::slug(name);
        if slug.len() > SLUG_BYTES_MAX {
            return invalid(format!(
                "`participants[{at}].name` has a slug of more than {SLUG_BYTES_MAX} bytes"
            ));
        }
        match slugs.insert(slug.clone(), (at, name)) {
            Some((first, same)) if same == name => {
                return invalid(format!(
                    "`participants[{at}].name` is that of `participants[{first}]`: {name:?}"
                ));
            }
            Some((first, other)) => {
                return invalid(format!(
                    "`participants[{at}].name` {name:?} has the slug {slug:?}, as {other:?} of `participants[{first}]` has"
                ));
            }
            None => {}
        }
    }
    Ok(())
}

fn participant(field: &str, written: WrittenParticipant) -> Result<Participant, DefinitionError> {
    let name = written.name.clone();
    let is_bad = name.is_empty() || name.len() > NAME_BYTES_MAX || name.trim() != name;
    if is_bad || name.contains(|char: char| char.is_control() || "[]".contains(char)) {
        return invalid(format!(
            "`{field}.name` must have 1 to {NAME_BYTES_MAX} bytes, without control characters, brackets, and space around it"
        ));
    }
    let voice = match (&written.agent, &written.url) {
        (Some(_), Some(_)) => {
            return invalid(format!(
                "`{field}` has both `agent` and `url`: one of them speaks"
            ));
        }
        (None, None) => return invalid(format!("`{field}` needs `agent` or `url`")),
        (Some(agent), None) => {
            let of_remotes = [
                ("model", written.model.is_some()),
                ("secret", written.secret.is_some()),
                ("instructions", written.instructions.is_some()),
                ("authorization", written.authorization.is_some()),
            ];
            if let Some((name, _)) = of_remotes.iter().find(|(_, is_there)| *is_there) {
                return invalid(format!(
                    "`{field}.{name}` is for participants with a `url`: an agent has its own"
                ));
            }
            Voice::Agent(agent.clone())
        }
        (None, Some(_)) => Voice::Remote(remote(field, written)?),
    };
    Ok(Participant { name, voice })
}

fn remote(field: &str, written: WrittenParticipant) -> Result<Remote, DefinitionError> {
    let url = written.url.unwrap_or_default();
    check_url(&url).or_else(|why| invalid(format!("`{field}.url` {why}")))?;
    let Some(model) = written.model else {
        return invalid(format!("`{field}.model` is missing: a `url` needs one"));
    };
    if model.is_empty() || model.len() > MODEL_BYTES_MAX {
        return invalid(format!(
            "`{field}.model` must have 1 to {MODEL_BYTES_MAX} bytes"
        ));
    }
    let is_name = |name: &String| {
        let is_in = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=128).contains(&name.len()) && name.bytes().all(is_in)
    };
    if written.secret.as_ref().is_some_and(|name| !is_name(name)) {
        return invalid(format!(
            "`{field}.secret` must match [A-Za-z0-9._-]{{1,128}}"
        ));
    }
    let instructions = written.instructions.filter(|text| !text.is_empty());
    if instructions.as_ref().map_or(0, String::len) > INSTRUCTIONS_BYTES_MAX {
        return invalid(format!(
            "`{field}.instructions` may have {INSTRUCTIONS_BYTES_MAX} bytes"
        ));
    }
    Ok(Remote {
        url,
        model,
        secret: written.secret,
        instructions,
        authorization: written.authorization.unwrap_or_default(),
    })
}

fn check_url(text: &str) -> Result<(), &'static str> {
    if text.len() > URL_BYTES_MAX {
        return Err("is too long");
    }
    let url = url::Url::parse(text).map_err(|_| "is not a URL")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a name or a password: use `secret`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not contain a query or a fragment");
    }
    Ok(())
}

/// Refuse a conversation that would, through others as they are deployed, take part in itself.
pub fn cycle<'a>(
    own: &'a AgentName,
    definition: &'a Definition,
    deployed: impl Fn(&AgentName) -> Option<&'a Definition>,
) -> Result<(), DefinitionError> {
    for (field, agent) in definition.agents() {
        // Who was reached, and from where.
        let mut from: BTreeMap<&AgentName, &AgentName> = BTreeMap::from([(agent, own)]);
        let mut next = VecDeque::from([agent]);
        while let Some(agent) = next.pop_front() {
            if agent == own {
                let path = path(own, &from);
                return Err(DefinitionError::Cycle { field, path });
            }
            for (_, called) in deployed(agent).into_iter().flat_map(Definition::agents) {
                if !from.contains_key(called) {
                    from.insert(called, agent);
                    next.push_back(called);
                }
            }
        }
    }
    Ok(())
}

/// The way from a conversation back to itself.
fn path(own: &AgentName, from: &BTreeMap<&AgentName, &AgentName>) -> String {
    let mut names = vec![own.as_str()];
    let mut agent = from[own];
    while agent != own {
        names.push(agent.as_str());
        agent = from[agent];
    }
    names.push(own.as_str());
    names.reverse();
    names.join(" -> ")
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
