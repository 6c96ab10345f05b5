//! What the agent asks its caller to do: to call tools of the caller's.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use crate::journal::entry::{Payload, ToolCall, ToolsCalled};
use crate::telemetry::{self, Limit};

use super::{Scope, Stop};

/// Calls at once: as many as OpenAI lets a model have tools.
const CALLS_MAX: usize = 128;

/// Why the caller was not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum NotAsked {
    NotOffered(String),
    AskedAlready,
    TooLarge,
    Other(&'static str),
}

impl Scope {
    /// Ask for these calls. Nothing can be said after it. What is refused follows from what the guest did alone, so
    /// it is refused again without an entry.
    pub(in crate::runtime) fn call_tools(
        &self,
        calls: Vec<ToolCall>,
    ) -> Result<Result<(), NotAsked>, Stop> {
        if let Err(refused) = self.may_ask_for(&calls) {
            self.count()?;
            return Ok(Err(refused));
        }
        let asked = || {
            let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
            format!("asks its caller to call {}", names.join(", "))
        };
        if let Some(recorded) = self.recorded(asked)? {
            match &recorded.payload {
                Payload::ToolsCalled(it) if it.calls == calls => {}
                _ => return Err(self.differs(&recorded, asked())),
            }
        } else {
            self.append(|batch, n| {
                batch.push(Payload::ToolsCalled(ToolsCalled {
                    turn: self.turn.clone(),
                    agent: self.agent.clone(),
                    n,
                    calls,
                }));
            })?;
            self.ledger.flush();
        }
        self.has_called_tools.store(true, Ordering::Relaxed);
        Ok(Ok(()))
    }

    fn may_ask_for(&self, calls: &[ToolCall]) -> Result<(), NotAsked> {
        if self.has_called_tools.load(Ordering::Relaxed) {
            return Err(NotAsked::AskedAlready);
        }
        if calls.is_empty() {
            return Err(NotAsked::Other("it calls nothing"));
        }
        let bytes = calls.iter().map(|call| {
            let ToolCall {
                id,
                name,
                arguments,
            } = call;
            id.len() + name.len() + arguments.len()
        });
        if calls.len() > CALLS_MAX || bytes.sum::<usize>() > self.limits.message_bytes_max {
            telemetry::hit(Limit::MessageBytes);
            return Err(NotAsked::TooLarge);
        }
        for call in calls {
            if !self.told.tools.iter().any(|tool| tool.name == call.name) {
                return Err(NotAsked::NotOffered(call.name.clone()));
            }
        }
        let ids: BTreeSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
        if ids.len() < calls.len() || ids.contains("") {
            return Err(NotAsked::Other("each call has an id of its own"));
        }
        Ok(())
    }

    /// A turn that has asked for tools says nothing more.
    pub(super) fn may_still_say(&self) -> Result<(), Stop> {
        match self.has_called_tools.load(Ordering::Relaxed) {
            true => Err(Stop::Misuse(
                "the agent said something after it had asked its caller for tools",
            )),
            false => Ok(()),
        }
    }
}
