//! Bursts: which waiting messages one turn takes, and when it may begin with them.
//!
//! A batch is the longest run of due messages, in order of arrival, that no agent sent and that came with the same
//! system text, or none. A message of an agent belongs to that agent's run, so it is a turn of its own: two runs are
//! never mixed, and nothing overtakes it. One that came with tools is a turn of its own too: what one caller gives a
//! turn, and is asked by it, is nobody else's.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::MessageId;

use super::{OpenTurn, Participant, Pending, State};

/// Messages that one turn takes at most: their bodies are in the guest's memory at once.
const MESSAGES_MAX: usize = 100;

/// The longest that a message may wait for others: a minute, for somebody waits for the answer.
const WAIT_MS_MAX: u64 = 60_000;

/// How messages become inputs of an agent's turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// What arrives while the agent works is its next turn's one input.
    #[default]
    Collect,
    /// Each message is a turn of its own, in order.
    Followup,
    /// A person's message ends the turn that runs, as an interruption does.
    Interrupt,
    /// The turn that runs may take what arrives; what it does not take is the next one's.
    Steer,
}

/// How an agent's messages become inputs. The form in which it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    pub policy: Policy,
    /// A turn begins once no message arrived for this long.
    pub quiet_ms: u64,
    /// No message waits longer for quiet than this.
    pub wait_ms_max: u64,
    /// Messages of one turn; as many begin at once.
    pub messages_max: usize,
}

impl Default for Batching {
    /// An idle agent starts at once. Ten seconds is what people who wait for an answer put up with.
    fn default() -> Self {
        Self {
            policy: Policy::Collect,
            quiet_ms: 0,
            wait_ms_max: 10_000,
            messages_max: MESSAGES_MAX,
        }
    }
}

impl Batching {
    /// What is wrong with it, in words for its writer.
    pub fn check(&self) -> Result<(), String> {
        if self.messages_max == 0 || self.messages_max > MESSAGES_MAX {
            return Err(format!(
                "`batching.messages_max` must be 1 to {MESSAGES_MAX}"
            ));
        }
        if self.wait_ms_max > WAIT_MS_MAX {
            return Err(format!(
                "`batching.wait_ms_max` must be {WAIT_MS_MAX} at most"
            ));
        }
        if self.quiet_ms > self.wait_ms_max {
            return Err("`batching.quiet_ms` must not be longer than `wait_ms_max`".to_owned());
        }
        if self.quiet_ms > 0 && self.policy == Policy::Followup {
            return Err(
                "`batching.quiet_ms` has no meaning under `followup`: nothing is waited for"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

impl Participant {
    /// What the next turn takes of the mailbox, whether or not it may begin yet.
    pub(super) fn batch(&self, now: Time, batching: &Batching) -> impl Iterator<Item = &Pending> {
        let mut due = self.pending.iter().filter(move |it| it.is_due(now));
        let first = due.next();
        let is_alone = batching.policy == Policy::Followup || first.is_some_and(Pending::is_alone);
        let instructions = first.and_then(|it| it.instructions);
        let others = due
            .take_while(move |it| !is_alone && !it.is_alone() && it.instructions == instructions);
        first.into_iter().chain(others).take(batching.messages_max)
    }

    /// When the batch may begin: at once, unless more of the burst may come. None if nothing is due.
    pub(super) fn batch_at(&self, now: Time, batching: &Batching) -> Option<Time> {
        let first = self.batch(now, batching).next()?;
        let mut newest = first.received_at;
        let mut count = 0;
        // Whoever invoked waits for the answer, and not for others.
        let mut is_closed = batching.quiet_ms == 0 || first.is_alone();
        for pending in self.batch(now, batching) {
            count += 1;
            newest = newest.max(pending.received_at);
            is_closed |= pending.invoked;
        }
        // Nothing can join a batch that is full, or that one of another turn comes after.
        is_closed |= count >= batching.messages_max
            || self
                .pending
                .iter()
                .filter(|it| it.is_due(now))
                .nth(count)
                .is_some();
        if is_closed {
            return Some(Time(0));
        }
        let oldest = first.received_at;
        Some(
            newest
                .plus_ms(batching.quiet_ms)
                .min(oldest.plus_ms(batching.wait_ms_max)),
        )
    }
}

impl State {
    /// What a running turn may take although it did not start with it: nothing, unless its agent is
    /// steered. In order of arrival, as far as no message stands between that is a turn of its own.
    pub fn joining(&self, turn: &OpenTurn, now: Time, batching: &Batching) -> Vec<MessageId> {
        let participant = self.participants.get(&turn.agent);
        let Some(participant) = participant.filter(|_| batching.policy == Policy::Steer) else {
            return Vec::new();
        };
        let is_input = |pending: &Pending| turn.inputs.contains(&pending.message);
        let is_pulled = |pending: &Pending| turn.pulled.contains(&pending.message);
        let pending = || participant.pending.iter();
        if pending().any(|it| is_input(it) && it.is_alone()) {
            return Vec::new();
        }
        // What it was told when it began is all that it is told.
        let instructions = pending().find(|it| is_input(it));
        let instructions = instructions.and_then(|it| it.instructions);
        let joined = pending().filter(|it| it.fresh && is_pulled(it) && !is_input(it));
        let room = batching
            .messages_max
            .saturating_sub(turn.inputs.len() + joined.count());
        pending()
            .filter(|it| it.is_due(now) && !is_input(it) && !is_pulled(it))
            // Whoever invoked gets the answer of a whole turn.
            .take_while(|it| !it.is_alone() && !it.invoked && it.instructions == instructions)
            .take(room)
            .map(|it| it.message.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests;
