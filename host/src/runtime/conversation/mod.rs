//! A turn of a conversation: participants that speak one after the other, run by the host itself where other
//! agents have an instance.
//!
//! It makes the calls that an instance makes, through the same scope: so its journal, its replay after a
//! crash, its interruption, its deadline and its stream are those of every turn, and there is no second way
//! to recover.
//!
//! - [`definition`]: pure, what a conversation is.
//! - [`machine`]: pure, whose turn it is and when it halts.
//! - `speak`: one speaker's turn. `continued`: pure, answers that broke off.
//!
//! Invariant: whatever decides what is next came from an entry: a turn that is taken up again comes to the same
//! speaker, with the same words before it.

mod continued;
pub mod definition;
pub mod machine;
mod speak;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::id::AgentName;
use crate::journal::entry::{Failure, Halt};

use super::instance::{Exit, failed, stopped};
use super::scope::conversation::Spoken;
use super::scope::{Scope, Stop};

use crate::model::Target;

use definition::{Definition, Remote, Voice};
use machine::{Step, Talk};
use speak::{Fault, Words};

/// Messages of one turn: as many as a `pull` gives.
const MESSAGES_MAX: u32 = 100;

/// Run one turn. Dropping the future ends it where it is.
pub async fn start(definition: Arc<Definition>, scope: Arc<Scope>) -> Exit {
    // What earlier attempts ran counts; the time the host was down does not.
    let left_ms = scope.limits.turn_ms_max.saturating_sub(scope.ran_ms);
    let wall = Duration::from_millis(left_ms);
    match tokio::time::timeout(wall, run(definition, &scope)).await {
        Ok(exit) => exit,
        Err(_) => {
            let text = format!(
                "the conversation took longer than {} ms",
                scope.limits.turn_ms_max
            );
            failed(&scope, Failure::Deadline, text, None)
        }
    }
}

async fn run(definition: Arc<Definition>, scope: &Scope) -> Exit {
    let halt = match converse(definition, scope).await {
        Ok(halt) => halt,
        Err(stop) => return stopped(scope, stop, None),
    };
    if let Err(stop) = scope.finish() {
        return stopped(scope, stop, None);
    }
    match halt {
        Some(halt @ Halt::ParticipantError { .. }) => {
            failed(scope, Failure::Agent, halt.to_string(), None)
        }
        Some(
            Halt::MaxTurns { .. } | Halt::MaxCredits { .. } | Halt::Predicate { .. } | Halt::Abort,
        )
        | None => Exit::Completed {
            wake_at: None,
            context: Vec::new(),
        },
    }
}

/// From the messages to the halt; none if there is nothing to speak about.
async fn converse(definition: Arc<Definition>, scope: &Scope) -> Result<Option<Halt>, Stop> {
    let messages = scope.pull(MESSAGES_MAX).await?;
    if messages.is_empty() {
        return Ok(None);
    }
    let bodies = messages.into_iter().map(|message| match message.body {
        Value::String(text) => text,
        other => other.to_string(),
    });
    // Participants have system texts of their own: what came with the messages is part of what they are told.
    let told = scope.told.instructions.iter().cloned().chain(bodies);
    let seed = told.collect::<Vec<String>>().join("\n");
    let mut talk = Talk::new(definition.clone(), seed);
    let mut floor = Floor {
        scope,
        definition: &definition,
        targets: BTreeMap::new(),
    };
    loop {
        match talk.step() {
            Step::Speak { participant, index } => {
                floor.speak(&mut talk, participant, index).await?
            }
            Step::Select(agent) => {
                let (agent, ballot) = (agent.clone(), talk.ballot());
                let answer = floor.decide(&mut talk, &agent, SELECTOR, ballot).await?;
                answer.iter().for_each(|answer| talk.selected(answer));
            }
            Step::Judge(agent) => {
                let (agent, case) = (agent.clone(), talk.case());
                let answer = floor.decide(&mut talk, &agent, JUDGE, case).await?;
                answer.iter().for_each(|answer| talk.judged(answer));
            }
            Step::Halt(halt) => {
                let halt = halt.clone();
                scope.halted(&halt)?;
                return Ok(Some(halt));
            }
        }
    }
}

/// Places of those who are called and take no part.
const SELECTOR: usize = definition::PARTICIPANTS_MAX;
const JUDGE: usize = definition::PARTICIPANTS_MAX + 1;

/// Where the calls are made.
struct Floor<'a> {
    scope: &'a Scope,
    definition: &'a Definition,
    /// Remote participants that were asked before, each looked up once.
    targets: BTreeMap<usize, Target>,
}

impl Floor<'_> {
    /// One turn of one participant.
    async fn speak(&mut self, talk: &mut Talk, participant: usize, index: u32) -> Result<(), Stop> {
        let who = &self.definition.participants[participant];
        let speaker = self.scope.speaker(index, &who.name);
        let started_at = self.scope.speaker_started(&speaker)?;
        let mut words = Words::new(self.scope, &speaker);
        let said = match &who.voice {
            Voice::Remote(remote) => match self.target(participant, remote).await {
                Ok(target) => {
                    let view = talk.view(participant);
                    speak::remote(self.scope, remote, target, view, &mut words).await
                }
                Err(fault) => Err(fault),
            },
            Voice::Agent(agent) => {
                let news = talk.news(participant);
                let reply = speak::agent(self.scope, agent, participant, &speaker, news).await;
                reply.and_then(|reply| {
                    words.say(&reply.text)?;
                    Ok(Spoken::from(reply))
                })
            }
        };
        let spoken = said.and_then(|spoken| {
            let text = words.end()?;
            Ok(Spoken { text, ..spoken })
        });
        match spoken {
            Ok(spoken) => {
                // Without words, no turn was made.
                if !spoken.text.trim().is_empty() {
                    self.scope.speaker_ended(&speaker, started_at, &spoken)?;
                }
                talk.spend(spoken.usage.spent_micros());
                talk.said(participant, &spoken.text);
            }
            Err(Fault::Participant(why)) => talk.failed(participant, why),
            Err(Fault::Stop(stop)) => return Err(stop),
        }
        Ok(())
    }

    async fn target(&mut self, participant: usize, remote: &Remote) -> Result<Target, Fault> {
        if let Some(target) = self.targets.get(&participant) {
            return Ok(target.clone());
        }
        let target = speak::target(self.scope, remote, &self.definition.policy).await?;
        self.targets.insert(participant, target.clone());
        Ok(target)
    }

    /// What an agent answers that decides; none if it could not, which ends the conversation.
    async fn decide(
        &self,
        talk: &mut Talk,
        agent: &AgentName,
        place: usize,
        question: String,
    ) -> Result<Option<String>, Stop> {
        let index = u32::try_from(talk.turns()).expect("a definition bounds its turns");
        let speaker = self.scope.speaker(index, agent.as_str());
        match speak::agent(self.scope, agent, place, &speaker, question).await {
            Ok(reply) => {
                talk.spend(reply.usage.spent_micros());
                Ok(Some(reply.text))
            }
            Err(Fault::Participant(why)) => {
                talk.undecided(agent, why);
                Ok(None)
            }
            Err(Fault::Stop(stop)) => Err(stop),
        }
    }
}
