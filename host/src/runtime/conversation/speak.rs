//! One speaker's turn: asked, shown while it comes, and whole at the end.
//!
//! Invariant: what people are shown of a speaker is what the others are told, byte for byte but for
//! space around it. So an answer that breaks off after its first words is not made again: the model goes on
//! where it stopped, a few times, and else the turn fails with its words standing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use crate::config::PolicySettings;
use crate::id::{AgentName, Digest, SessionId};
use crate::ledger::{Voice, WINDOW_MS};
use crate::model::{Endpoint, Message, ModelConfig, Request, Target};
use crate::runtime::scope::agents::{NestedCall, NoReply, Reply};
use crate::runtime::scope::answer::{Answer, Failed, NoAnswer};
use crate::runtime::scope::conversation::{Speaker, Spoken};
use crate::runtime::scope::forwarded::Behalf;
use crate::runtime::scope::peers::NotCalled;
use crate::runtime::scope::reply::TooLarge;
use crate::runtime::scope::{Scope, Stop};

use super::continued::{GO_ON, repeated};
use super::definition::{AuthorizationSource, Remote};

/// How often a model is asked to go on with one answer.
const CONTINUATIONS_MAX: u32 = 3;

/// Of a remote participant's name in the journal: its model, and where that is.
const NAME_CHARS_MAX: usize = 128;

/// Why a speaker's turn did not come to its end.
pub(super) enum Fault {
    /// In words: it is the participant's.
    Participant(String),
    Stop(Stop),
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// The words of one speaker's turn, as people see them.
pub(super) struct Words<'a> {
    scope: &'a Scope,
    speaker: &'a Speaker,
    voice: Voice,
    text: String,
}

impl<'a> Words<'a> {
    pub(super) fn new(scope: &'a Scope, speaker: &'a Speaker) -> Self {
        let (index, name) = (speaker.index, speaker.name.clone());
        Self {
            scope,
            speaker,
            voice: Voice {
                speaker: name,
                index,
            },
            text: String::new(),
        }
    }

    /// Say more of it. The first words say who speaks, for those who read the reply as it is.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Fault> {
        if text.is_empty() {
            return Ok(());
        }
        if self.text.is_empty() {
            self.plain(&format!("[{}] ", self.speaker.name))?;
        }
        let said = self.scope.say_as(Some(&self.voice), text)?;
        self.text.push_str(text);
        said.map_err(|TooLarge| self.too_large())
    }

    /// Nothing follows of this turn.
    pub(super) fn end(self) -> Result<String, Fault> {
        if !self.text.is_empty() {
            self.plain("\n")?;
        }
        Ok(self.text)
    }

    fn plain(&self, text: &str) -> Result<(), Fault> {
        let said = self.scope.say(text)?;
        said.map_err(|TooLarge| self.too_large())
    }

    fn too_large(&self) -> Fault {
        let bytes = self.scope.limits.reply_bytes_max;
        Fault::Participant(format!(
            "the conversation has said the {bytes} bytes it may"
        ))
    }
}

/// Ask a remote participant, as itself.
pub(super) async fn remote(
    scope: &Scope,
    remote: &Remote,
    target: Target,
    messages: Vec<Message>,
    words: &mut Words<'_>,
) -> Result<Spoken, Fault> {
    let behalf = Behalf {
        speaker: Some(words.speaker.name.clone()),
        turn: Some(words.speaker.turn.clone()),
        is_own: remote.authorization == AuthorizationSource::AgentOwned,
    };
    ask(scope, target, &behalf, messages, words).await
}

/// A remote participant, as it is asked: only where agents may send anything, too. What is missing is said
/// when it is asked, so that a turn that is run again says what it said.
pub(super) async fn target(
    scope: &Scope,
    remote: &Remote,
    policy: &PolicySettings,
) -> Result<Target, Fault> {
    let broken = |error: String| Fault::Participant(error);
    let mut config = ModelConfig::new(remote.url.as_str(), remote.model.as_str());
    config.policy = config.policy.of_agent(policy);
    let mut missing = None;
    if let Some(source) = &remote.secret {
        let lookup = (scope.http.secrets)(source.clone());
        config.api_key = scope.cpu.waiting(lookup).await;
        if config.api_key.is_none() {
            missing = Some(format!("there is no secret `{source}`"));
        }
    }
    let url = Url::parse(&remote.url).map_err(|error| broken(error.to_string()))?;
    let endpoint = Endpoint::new(&remote.model, config);
    let mut endpoint = endpoint.map_err(|error| broken(error.to_string()))?;
    match scope.http.egress.client(&url) {
        Ok(client) => endpoint = endpoint.through(client.clone()),
        Err(refused) => missing = Some(refused.to_string()),
    }
    if let Some(why) = missing {
        endpoint = endpoint.refusing(why);
    }
    Ok(Target::Remote {
        name: name(remote),
        endpoint: Arc::new(endpoint),
        price: remote.price.unwrap_or_default(),
    })
}

/// What the journal calls it, and what its circuit is known by.
fn name(remote: &Remote) -> String {
    let name = format!("{} at {}", remote.model, remote.url);
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Ask a model for the speaker's words, and show them while they come.
async fn ask(
    scope: &Scope,
    target: Target,
    behalf: &Behalf,
    messages: Vec<Message>,
    words: &mut Words<'_>,
) -> Result<Spoken, Fault> {
    let mut spoken = Spoken::default();
    let mut continuations = 0;
    loop {
        let mut request = Request {
            messages: messages.clone(),
            ..Request::default()
        };
        if !words.text.is_empty() {
            let text = Some(words.text.clone());
            request.messages.push(Message::Assistant {
                text,
                tool_calls: Vec::new(),
            });
            let text = GO_ON.to_owned();
            request.messages.push(Message::User { name: None, text });
        }
        let asked = scope.ask_as(behalf.clone(), target.clone(), request);
        let mut answer = match asked.await {
            Ok(answer) => answer,
            Err(failed) => return Err(fault(failed)),
        };
        let shown = show(scope, &mut answer, words).await;
        spoken.attempts = spoken.attempts.saturating_add(answer.attempts());
        spoken.usage.add(answer.booked());
        match shown {
            Ok(()) => return Ok(spoken),
            Err(Shown::Fault(fault)) => {
                answer.give_up(scope)?;
                return Err(fault);
            }
            Err(Shown::Failed(Failed::Guest(NoAnswer::Interrupted(_))))
                if continuations < CONTINUATIONS_MAX =>
            {
                continuations += 1;
            }
            Err(Shown::Failed(failed)) => return Err(fault(failed)),
        }
    }
}

/// Tell an agent what is new, in the session that it has for this conversation, and wait for its reply.
/// `place` tells those who are called apart.
pub(super) async fn agent(
    scope: &Scope,
    agent: &AgentName,
    place: usize,
    speaker: &Speaker,
    news: String,
) -> Result<Reply, Fault> {
    let place = u64::try_from(place).unwrap_or(u64::MAX).to_be_bytes();
    // Without the tenant, whose sessions these are: a record is run again under another name.
    let parts: [&[u8]; 3] = [
        scope.session.as_str().as_bytes(),
        scope.turn.as_str().as_bytes(),
        &place,
    ];
    let call = NestedCall {
        agent: agent.as_str(),
        body: Ok(Value::String(news)),
        timeout_ms: None,
        session: Some(SessionId::of_call(&Digest::of_parts(&parts))),
        caller: Some(speaker.turn.clone()),
        speaker: Some(speaker.name.clone()),
    };
    let why = match scope.call_agent(call).await? {
        Ok(Ok(reply)) => return Ok(reply),
        Ok(Err(NoReply::Interrupted(_))) => "somebody interrupted it".to_owned(),
        Ok(Err(NoReply::Cancelled)) => "its turn was cancelled".to_owned(),
        Ok(Err(NoReply::Deadline)) => "it took longer than it may".to_owned(),
        Ok(Err(NoReply::Failed { why, .. } | NoReply::Other(why))) => why,
        Err(NotCalled::UnknownAgent) => format!("no agent {agent} is deployed"),
        Err(NotCalled::TooDeep(too_deep)) => too_deep.to_string(),
        Err(NotCalled::TooLarge) => "what it is told is longer than a message may be".to_owned(),
        Err(NotCalled::NotJson) => "what it is told cannot be a message".to_owned(),
        Err(NotCalled::Refused(why)) => why,
    };
    Err(Fault::Participant(why))
}

/// Why not all of an answer was shown.
enum Shown {
    /// Nothing more came.
    Failed(Failed),
    /// Nothing more can be shown.
    Fault(Fault),
}

/// Show an answer while it arrives, without what it repeats of the words that were shown before.
async fn show(scope: &Scope, answer: &mut Answer, words: &mut Words<'_>) -> Result<(), Shown> {
    let before = words.text.clone();
    // Text that may yet prove to be a repetition.
    let mut held = (!before.is_empty()).then(String::new);
    let window = Duration::from_millis(WINDOW_MS);
    let mut until = Instant::now();
    loop {
        let text = answer.words(scope, until).await.map_err(Shown::Failed)?;
        let is_last = text.is_none();
        let mut text = text.unwrap_or_default();
        if let Some(kept) = &mut held {
            kept.push_str(&text);
            text = match repeated(&before, kept, is_last) {
                Some(bytes) => {
                    let new = kept.split_off(bytes);
                    held = None;
                    new
                }
                None => String::new(),
            };
        }
        words.say(&text).map_err(Shown::Fault)?;
        if is_last {
            return Ok(());
        }
        if answer.is_open() && !scope.is_replaying() {
            scope.ledger.flush();
        }
        until = Instant::now() + window;
        let room = scope.may_say().await;
        room.map_err(|stop| Shown::Fault(stop.into()))?;
    }
}

fn fault(failed: Failed) -> Fault {
    let text = match failed {
        Failed::Stop(stop) => return Fault::Stop(stop),
        Failed::Guest(NoAnswer::Refused(why)) => format!("it was not asked: {why}"),
        Failed::Guest(NoAnswer::OverBudget) => "the budget is used up".to_owned(),
        Failed::Guest(NoAnswer::Deadline) => "it took longer than it may".to_owned(),
        Failed::Guest(NoAnswer::CircuitOpen) => {
            "it failed too often lately, and is not asked".to_owned()
        }
        Failed::Guest(NoAnswer::Interrupted(_)) => "its answer broke off".to_owned(),
        Failed::Guest(NoAnswer::Provider { status: 0, text }) => text,
        Failed::Guest(NoAnswer::Provider { status, text }) => format!("status {status}: {text}"),
        Failed::Guest(NoAnswer::Other(text)) => text,
    };
    Fault::Participant(text)
}
