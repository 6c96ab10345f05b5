//! `mailbox`: what was sent to this agent.

use serde_json::Value;

use crate::id::{AgentName, Digest, MessageId, Seq};
use crate::journal::entry::{Entry, Kind, MessageSent, Observation, Observed, Payload};
use crate::journal::state::{Pending, Sender as StateSender};
use crate::ledger::Batch;
use crate::runtime::bindings::antiphon::agent::mailbox::{
    Body, Header, Host, Message, Page, SendError, Sender,
};
use crate::runtime::guest::Guest;
use crate::runtime::scope::{Scope, Stop};
use crate::store::ReadError;

/// Headers on one page of search results.
const PAGE: usize = 20;
/// Messages looked at for one page, so that a search costs a bounded time.
const SCANNED_MAX: usize = 1_000;
/// Messages taken by one `pull`: their bodies are in the guest's memory at once.
const PULL_MAX: usize = 100;

/// A message's header, as the fold keeps it.
pub(in crate::runtime) fn header(pending: &Pending) -> Header {
    Header {
        id: pending.message.as_str().to_owned(),
        sender: match &pending.sender {
            StateSender::Person(author) => Sender::Person(author.as_str().to_owned()),
            StateSender::Agent(agent) => Sender::Agent(agent.as_str().to_owned()),
        },
        received_at: pending.received_at.0,
        bytes: pending.bytes,
    }
}

/// The message in an entry, if it was sent to this agent.
fn message(entry: Entry, to: &AgentName) -> Option<Message> {
    let (id, sender, receiver, body) = match entry.payload {
        Payload::MessageReceived(it) => (
            it.message,
            Sender::Person(it.author.as_str().to_owned()),
            it.to,
            it.body,
        ),
        Payload::MessageSent(it) => (
            it.message,
            Sender::Agent(it.from.as_str().to_owned()),
            it.to,
            it.body,
        ),
        _ => return None,
    };
    if receiver != *to {
        return None;
    }
    let (bytes, body) = match body {
        Value::String(text) => (text.len(), Body::Text(text)),
        other => {
            let text = other.to_string();
            (text.len(), Body::Json(text))
        }
    };
    let header = Header {
        id: id.as_str().to_owned(),
        sender,
        received_at: entry.time.0,
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
    };
    Some(Message { header, body })
}

/// Messages of this agent that wait and this turn did not pull: its inputs and what earlier turns left.
fn waiting<'a>(scope: &'a Scope, batch: &'a Batch<'_>) -> impl Iterator<Item = &'a Pending> {
    let turn = batch.state().turns.get(&scope.turn);
    let participant = batch.state().participants.get(&scope.agent);
    participant
        .into_iter()
        .flat_map(|participant| &participant.pending)
        .filter(move |pending| {
            let input = turn.is_some_and(|turn| turn.inputs.contains(&pending.message));
            let pulled = turn.is_some_and(|turn| turn.pulled.contains(&pending.message));
            // What arrived after this turn started waits for the next one.
            !pulled && (input || !pending.fresh)
        })
}

/// A message of this agent, wherever in the journal it is.
async fn find(scope: &Scope, id: &MessageId) -> Result<Option<Message>, Stop> {
    if id.session() != scope.session {
        return Ok(None);
    }
    let entry = scope.cpu.waiting(scope.ledger.entry(id.seq())).await?;
    let decoded = entry.map(|entry| entry.decode()).transpose();
    let decoded = decoded.map_err(|error| ReadError::Damaged(error.to_string()))?;
    Ok(decoded.and_then(|entry| message(entry, &scope.agent)))
}

impl Host for Guest {
    fn pending(&mut self) -> wasmtime::Result<Vec<Header>> {
        let scope = &self.scope;
        Ok(scope.observe(|batch| {
            let (messages, headers) = waiting(scope, batch)
                .map(|pending| (pending.message.clone(), header(pending)))
                .unzip();
            (headers, Observation::MailboxPending { messages })
        })?)
    }

    async fn pull(&mut self, max: u32) -> wasmtime::Result<Vec<Message>> {
        let scope = self.scope.clone();
        // The guest chose the number.
        let max = usize::try_from(max).unwrap_or(usize::MAX).min(PULL_MAX);
        let taken = scope.observe(|batch| {
            let messages: Vec<MessageId> = waiting(&scope, batch)
                .take(max)
                .map(|pending| pending.message.clone())
                .collect();
            (messages.clone(), Observation::MailboxPulled { messages })
        })?;
        let mut messages = Vec::with_capacity(taken.len());
        for id in &taken {
            messages.extend(find(&scope, id).await?);
        }
        Ok(messages)
    }

    fn leave(&mut self, id: String) -> wasmtime::Result<bool> {
        let scope = &self.scope;
        Ok(scope.append(|batch, n| {
            let turn = batch.state().turns.get(&scope.turn);
            let Some(message) = MessageId::new(&id)
                .ok()
                .filter(|message| turn.is_some_and(|turn| turn.pulled.contains(message)))
            else {
                return false;
            };
            let what = Observation::MailboxLeft { message };
            batch.push(Payload::Observed(Observed {
                turn: scope.turn.clone(),
                n,
                what,
            }));
            true
        })?)
    }

    async fn read(&mut self, id: String) -> wasmtime::Result<Option<Message>> {
        let scope = self.scope.clone();
        // What is found does not change: a message is written once.
        let found = match MessageId::new(&id) {
            Ok(id) => find(&scope, &id).await?,
            Err(_) => None,
        };
        let message = id.chars().take(160).collect();
        Ok(scope.observe(|_| {
            let what = Observation::MailboxRead {
                message,
                found: found.is_some(),
            };
            (found, what)
        })?)
    }

    async fn search(&mut self, query: String, cursor: Option<String>) -> wasmtime::Result<Page> {
        let scope = self.scope.clone();
        let newest = scope.ledger.look(|state| state.last.next());
        let before = match cursor.as_deref().map(str::parse::<u64>) {
            None => newest,
            Some(Ok(seq)) => Seq(seq).min(newest),
            // A cursor that this host did not make finds nothing.
            Some(Err(_)) => Seq(0),
        };
        let needle = query.to_lowercase();
        let mut back = scope
            .ledger
            .back(before, &[Kind::MessageReceived, Kind::MessageSent]);
        let (mut headers, mut found, mut next, mut scanned) = (Vec::new(), Vec::new(), None, 0);
        while let Some(encoded) = scope.cpu.waiting(back.next()).await? {
            if headers.len() == PAGE || scanned == SCANNED_MAX {
                next = Some(encoded.seq.next());
                break;
            }
            scanned += 1;
            let entry = encoded
                .decode()
                .map_err(|error| ReadError::Damaged(error.to_string()))?;
            let Some(message) = message(entry, &scope.agent) else {
                continue;
            };
            let (Body::Text(text) | Body::Json(text)) = &message.body;
            if text.to_lowercase().contains(&needle) {
                found.push(MessageId::of(&scope.session, encoded.seq));
                headers.push(message.header);
            }
        }
        let query = Digest::of(query.as_bytes());
        Ok(scope.observe(|_| {
            let page = Page {
                headers,
                next: next.map(|seq| seq.to_string()),
            };
            (page, Observation::MailboxSearched { query, found, next })
        })?)
    }

    fn send(&mut self, to: String, body: Body) -> wasmtime::Result<Result<String, SendError>> {
        let scope = &self.scope;
        let length = match &body {
            Body::Text(text) | Body::Json(text) => text.len(),
        };
        let body = match body {
            Body::Text(text) => Ok(Value::String(text)),
            Body::Json(text) => serde_json::from_str(&text),
        };
        Ok(scope.append(|batch, n| {
            let receiver = AgentName::new(&to)
                .ok()
                .filter(|agent| *agent != scope.agent);
            let participant = receiver
                .as_ref()
                .and_then(|agent| batch.state().participants.get(agent));
            let refused = match (participant, &body) {
                (None, _) => Some((SendError::UnknownAgent, "unknown-agent")),
                (_, Err(_)) => Some((SendError::Other("the body is not JSON".into()), "other")),
                _ if length > scope.limits.message_bytes_max => {
                    Some((SendError::TooLarge, "too-large"))
                }
                (Some(participant), _)
                    if participant.pending.len() >= scope.limits.mailbox_messages_max =>
                {
                    Some((SendError::Full, "full"))
                }
                _ => None,
            };
            let (Some(receiver), Ok(body), None) = (receiver, body, &refused) else {
                let (error, word) = refused.unwrap_or((SendError::UnknownAgent, "unknown-agent"));
                let to = to.chars().take(63).collect();
                let what = Observation::SendRefused {
                    to,
                    error: word.into(),
                };
                batch.push(Payload::Observed(Observed {
                    turn: scope.turn.clone(),
                    n,
                    what,
                }));
                return Err(error);
            };
            let message = MessageId::of(&scope.session, batch.next_seq());
            batch.push(Payload::MessageSent(MessageSent {
                message: message.clone(),
                from: scope.agent.clone(),
                to: receiver,
                body,
                turn: scope.turn.clone(),
                n,
            }));
            Ok(message.as_str().to_owned())
        })?)
    }
}
