//! The agent's mailbox: what waits, what the turn takes, what it sends.

use serde_json::Value;

use crate::clock::Time;
use crate::id::{AgentName, Digest, MessageId, Seq};
use crate::journal::entry::{Entry, Kind, MessageSent, Observation, Payload};
use crate::journal::state::{Pending, Sender};
use crate::ledger::Batch;
use crate::telemetry::{self, Limit};

use super::{Scope, Stop};

/// Headers on one page of search results.
const PAGE: usize = 20;
/// Messages looked at for one page, so that a search costs a bounded time.
const SCANNED_MAX: usize = 1_000;
/// Messages taken by one `pull`: their bodies are in the guest's memory at once.
const PULL_MAX: u32 = 100;

/// All of a message but its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Header {
    pub(in crate::runtime) message: MessageId,
    pub(in crate::runtime) sender: Sender,
    pub(in crate::runtime) received_at: Time,
    pub(in crate::runtime) bytes: u32,
}

impl From<&Pending> for Header {
    fn from(pending: &Pending) -> Self {
        Self {
            message: pending.message.clone(),
            sender: pending.sender.clone(),
            received_at: pending.received_at,
            bytes: pending.bytes,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(in crate::runtime) struct Message {
    pub(in crate::runtime) header: Header,
    pub(in crate::runtime) body: Value,
}

impl Message {
    /// The body as an agent reads it: the text itself, or the JSON as text.
    fn text(&self) -> String {
        match &self.body {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A page of search results, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Page {
    pub(in crate::runtime) headers: Vec<Header>,
    /// Where the next page starts.
    pub(in crate::runtime) next: Option<Seq>,
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum SendRefused {
    UnknownAgent,
    Full,
    TooLarge,
    NotJson,
}

impl SendRefused {
    fn word(&self) -> &'static str {
        match self {
            Self::UnknownAgent => "unknown-agent",
            Self::Full => "full",
            Self::TooLarge => "too-large",
            Self::NotJson => "not-json",
        }
    }

    fn of_word(word: &str) -> Self {
        [Self::Full, Self::TooLarge, Self::NotJson]
            .into_iter()
            .find(|refused| refused.word() == word)
            .unwrap_or(Self::UnknownAgent)
    }
}

/// The message in an entry, if it was sent to this agent.
fn message(entry: Entry, to: &AgentName) -> Option<Message> {
    let (message, sender, receiver, body) = match entry.payload {
        Payload::MessageReceived(it) => (it.message, Sender::Person(it.author), it.to, it.body),
        Payload::MessageSent(it) => (it.message, Sender::Agent(it.from), it.to, it.body),
        _ => return None,
    };
    if receiver != *to {
        return None;
    }
    let header = Header {
        message,
        sender,
        received_at: entry.time,
        bytes: 0,
    };
    let mut message = Message { header, body };
    message.header.bytes = u32::try_from(message.text().len()).unwrap_or(u32::MAX);
    Some(message)
}

/// A body as it is read from its entry: a number with many digits may lose the last one on the
/// way. An error if it cannot be read from there, because it is nested as deep as may be: such an entry
/// would shut the whole journal.
pub(super) fn as_stored(body: &Value) -> Result<Value, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Stored {
        body: Value,
    }
    let entry = format!("{{\"body\":{body}}}");
    serde_json::from_str(&entry).map(|Stored { body }| body)
}

/// The longest id that nobody has, as it stands in an entry.
fn shown(id: &str) -> String {
    id.chars().take(160).collect()
}

impl Scope {
    /// Messages that wait and this turn did not pull: its inputs, what earlier turns left, and what
    /// joins it. Anything else that arrived after it started waits for the next one.
    fn waiting<'a>(&'a self, batch: &'a Batch<'_>) -> impl Iterator<Item = &'a Pending> {
        let state = batch.state();
        let turn = state.turns.get(&self.turn);
        let joining = turn.map_or_else(Vec::new, |turn| {
            state.joining(turn, batch.now(), &self.batching)
        });
        let participant = state.participants.get(&self.agent);
        participant
            .into_iter()
            .flat_map(|participant| &participant.pending)
            .filter(move |pending| {
                let input = turn.is_some_and(|turn| turn.inputs.contains(&pending.message));
                let pulled = turn.is_some_and(|turn| turn.pulled.contains(&pending.message));
                !pulled && (input || !pending.fresh || joining.contains(&pending.message))
            })
    }

    /// A message of this agent, wherever in the journal it is.
    async fn find(&self, id: &MessageId) -> Result<Option<Message>, Stop> {
        let entry = self.cpu.waiting(self.ledger.entry(id.seq())).await?;
        let entry = entry.map(|entry| self.ledger.decode(&entry)).transpose()?;
        let found = entry.and_then(|entry| message(entry, &self.agent));
        Ok(found.filter(|message| message.header.message == *id))
    }

    async fn find_all(&self, ids: &[MessageId]) -> Result<Vec<Message>, Stop> {
        let mut messages = Vec::with_capacity(ids.len());
        for id in ids {
            messages.extend(self.find(id).await?);
        }
        Ok(messages)
    }

    async fn headers(&self, ids: &[MessageId]) -> Result<Vec<Header>, Stop> {
        let messages = self.find_all(ids).await?;
        Ok(messages.into_iter().map(|message| message.header).collect())
    }

    pub(in crate::runtime) async fn pending(&self) -> Result<Vec<Header>, Stop> {
        let asked = || "asks what waits in its mailbox".to_owned();
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::MailboxPending { messages } = &it.what
            {
                return self.headers(messages).await;
            }
            return Err(self.differs(&recorded, asked()));
        }
        self.observe(|batch| {
            let (messages, headers) = self
                .waiting(batch)
                .map(|pending| (pending.message.clone(), Header::from(pending)))
                .unzip();
            (headers, Observation::MailboxPending { messages })
        })
    }

    /// Take waiting messages, oldest first.
    pub(in crate::runtime) async fn pull(&self, max: u32) -> Result<Vec<Message>, Stop> {
        // The guest chose the number.
        let max = max.min(PULL_MAX);
        let asked = || format!("pulls at most {max} messages");
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::MailboxPulled {
                    messages,
                    max: pulled,
                } = &it.what
                && pulled.is_none_or(|pulled| pulled == max)
            {
                return self.find_all(messages).await;
            }
            return Err(self.differs(&recorded, asked()));
        }
        let taken = self.observe(|batch| {
            let waiting = self.waiting(batch).take(max as usize);
            let messages: Vec<MessageId> = waiting.map(|it| it.message.clone()).collect();
            let max = Some(max);
            (
                messages.clone(),
                Observation::MailboxPulled { messages, max },
            )
        })?;
        self.find_all(&taken).await
    }

    /// Put a pulled message back. False if the turn did not pull it.
    pub(in crate::runtime) fn leave(&self, id: &str) -> Result<bool, Stop> {
        let asked = || format!("leaves the message {:?}", shown(id));
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload {
                match &it.what {
                    Observation::MailboxLeft { message } if message.as_str() == id => {
                        return Ok(true);
                    }
                    Observation::MailboxNotPulled { message } if *message == shown(id) => {
                        return Ok(false);
                    }
                    _ => {}
                }
            }
            return Err(self.differs(&recorded, asked()));
        }
        self.observe(|batch| {
            let turn = batch.state().turns.get(&self.turn);
            let pulled = |message: &MessageId| turn.is_some_and(|it| it.pulled.contains(message));
            match MessageId::new(id).ok().filter(pulled) {
                Some(message) => (true, Observation::MailboxLeft { message }),
                None => {
                    let message = shown(id);
                    (false, Observation::MailboxNotPulled { message })
                }
            }
        })
    }

    /// Any message ever sent to this agent. What is found does not change: a message is written
    /// once, so that it can be looked up again in replay.
    pub(in crate::runtime) async fn read_message(&self, id: &str) -> Result<Option<Message>, Stop> {
        let asked = || format!("reads the message {:?}", shown(id));
        let recorded = self.recorded(asked)?;
        if let Some(recorded) = &recorded {
            match &recorded.payload {
                Payload::Observed(it) => match &it.what {
                    Observation::MailboxRead { message, found } if *message == shown(id) => {
                        if !found {
                            return Ok(None);
                        }
                    }
                    _ => return Err(self.differs(recorded, asked())),
                },
                _ => return Err(self.differs(recorded, asked())),
            }
        }
        let found = match MessageId::new(id) {
            Ok(id) => self.find(&id).await?,
            Err(_) => None,
        };
        if recorded.is_some() {
            return Ok(found);
        }
        self.observe(|_| {
            let (message, is_found) = (shown(id), found.is_some());
            let what = Observation::MailboxRead {
                message,
                found: is_found,
            };
            (found, what)
        })
    }

    /// Messages to this agent that contain the text, newest first.
    pub(in crate::runtime) async fn search(
        &self,
        text: &str,
        cursor: Option<&str>,
    ) -> Result<Page, Stop> {
        let query = Digest::of(text.as_bytes());
        // A cursor that this host did not make finds nothing.
        let from = cursor.map(|cursor| cursor.parse().map_or(Seq(0), Seq));
        let asked = || format!("searches for {:?}", shown(text));
        if let Some(recorded) = self.recorded(asked)? {
            if let Payload::Observed(it) = &recorded.payload
                && let Observation::MailboxSearched {
                    query: searched,
                    before,
                    found,
                    next,
                } = &it.what
                && *searched == query
                && from.is_none_or(|from| before.is_none_or(|before| before <= from))
            {
                return Ok(Page {
                    headers: self.headers(found).await?,
                    next: *next,
                });
            }
            return Err(self.differs(&recorded, asked()));
        }
        let newest = self.ledger.look(|state| state.last.next());
        let before = from.map_or(newest, |from| from.min(newest));
        let needle = text.to_lowercase();
        let kinds = &[Kind::MessageReceived, Kind::MessageSent];
        let mut back = self.ledger.back(before, kinds);
        let (mut headers, mut found, mut next, mut scanned) = (Vec::new(), Vec::new(), None, 0);
        while let Some(encoded) = self.cpu.waiting(back.next()).await? {
            if headers.len() == PAGE || scanned == SCANNED_MAX {
                next = Some(encoded.seq.next());
                break;
            }
            scanned += 1;
            let Some(message) = message(self.ledger.decode(&encoded)?, &self.agent) else {
                continue;
            };
            if message.text().to_lowercase().contains(&needle) {
                found.push(message.header.message.clone());
                headers.push(message.header);
            }
        }
        self.observe(|_| {
            let what = Observation::MailboxSearched {
                query,
                before: Some(before),
                found,
                next,
            };
            (Page { headers, next }, what)
        })
    }

    /// Send to another agent of the session. `Err` in the body: it was no JSON. Answers the
    /// message's id.
    pub(in crate::runtime) fn send(
        &self,
        to: &str,
        body: Result<Value, serde_json::Error>,
        length: usize,
    ) -> Result<Result<MessageId, SendRefused>, Stop> {
        let shown: String = to.chars().take(63).collect();
        let asked = || format!("sends {length} bytes to {shown:?}");
        let body = body.and_then(|body| Ok((as_stored(&body)?, body)));
        if let Some(recorded) = self.recorded(asked)? {
            return match (&recorded.payload, &body) {
                (Payload::MessageSent(it), Ok((stored, _)))
                    if it.to.as_str() == to && it.body == *stored =>
                {
                    Ok(Ok(it.message.clone()))
                }
                (Payload::Observed(it), _) => match &it.what {
                    Observation::SendRefused { to, error } if *to == shown => {
                        Ok(Err(SendRefused::of_word(error)))
                    }
                    _ => Err(self.differs(&recorded, asked())),
                },
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.append(|batch, n| {
            let receiver = AgentName::new(to).ok().filter(|to| *to != self.agent);
            let receiver = receiver.and_then(|to| {
                let participant = batch.state().participants.get(&to)?;
                Some((to, participant.pending.len()))
            });
            let limits = &self.limits;
            let checked = match (receiver, body) {
                (None, _) => Err(SendRefused::UnknownAgent),
                (_, Err(_)) => Err(SendRefused::NotJson),
                _ if length > limits.message_bytes_max => {
                    telemetry::hit(Limit::MessageBytes);
                    Err(SendRefused::TooLarge)
                }
                (Some((_, waiting)), _) if waiting >= limits.mailbox_messages_max => {
                    telemetry::hit(Limit::MailboxMessages);
                    Err(SendRefused::Full)
                }
                (Some((to, _)), Ok((_, body))) => Ok((to, body)),
            };
            match checked {
                Ok((to, body)) => {
                    let message = MessageId::of(&self.session, batch.next_seq());
                    batch.push(Payload::MessageSent(MessageSent {
                        message: message.clone(),
                        from: self.agent.clone(),
                        to,
                        body,
                        turn: self.turn.clone(),
                        n,
                    }));
                    Ok(message)
                }
                Err(refused) => {
                    let (to, error) = (shown, refused.word().to_owned());
                    batch.push(self.observed(n, Observation::SendRefused { to, error }));
                    Err(refused)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Seq;
    use crate::journal::codec::encode;
    use crate::journal::script::name;

    /// What is read from the entry of a message with this body.
    fn read_back(body: &Value) -> Option<Value> {
        let sent = MessageSent {
            message: name("s:1"),
            from: name("a"),
            to: name("b"),
            body: body.clone(),
            turn: name("r.t0.a"),
            n: 0,
        };
        let entry = Entry {
            seq: Seq(1),
            time: Time(0),
            payload: Payload::MessageSent(sent),
        };
        match encode(&entry).decode().ok()?.payload {
            Payload::MessageSent(sent) => Some(sent.body),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_that_its_entry_could_not_hold_is_refused() {
        for depth in 120..128 {
            let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let body: Value = serde_json::from_str(&text).expect("it is JSON");
            assert_eq!(as_stored(&body).ok(), read_back(&body), "{depth}");
            assert_eq!(as_stored(&body).is_ok(), depth < 127, "{depth}");
        }
    }

    proptest! {
        /// Or a turn that is taken up again would differ from itself.
        #[test]
        fn a_body_is_compared_as_it_is_stored(number: f64) {
            let body: Value = serde_json::from_str(&format!("[{number:?}]"))
                .unwrap_or_else(|_| serde_json::json!([number]));
            prop_assert_eq!(as_stored(&body).ok(), read_back(&body));
        }
    }
}
