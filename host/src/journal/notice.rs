//! What a tenant is told of its sessions: notices, which follow from entries. PURE.
//!
//! A notice says that something happened and where to read it, and holds nothing of what people or agents said.
//! Those of one commit are one row of the tenant's notices.
//!
//! Invariant: the stored form is a promise, like that of entries: fields are only ever added, as optional ones.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::entry::{
    CalledBy, Entry, Failure, Outcome, Payload, Reply, SessionChange, SessionOpened, Spoke, Writer,
};
use crate::clock::Time;
use crate::id::{AgentName, Author, MessageId, Seq, SessionId, TurnId};

/// One notice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    pub time: Time,
    pub session: SessionId,
    /// The entry it is about, the newest of several: reading the session's events after the one before it shows it.
    pub at: Seq,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    SessionOpened {
        agents: Vec<AgentName>,
        /// The turn of an agent that it was opened for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        called_by: Option<CalledBy>,
    },
    SessionForked {
        from: SessionId,
    },
    SessionChanged(SessionChange),
    /// Something to read: messages, the first words of turns, documents.
    News {
        /// Which kinds of entries.
        entries: BTreeSet<News>,
        /// Agents that spoke, wrote, or were written to.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        agents: BTreeSet<AgentName>,
        /// People who wrote.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        authors: BTreeSet<Author>,
    },
    TurnEnded {
        turn: TurnId,
        agent: AgentName,
        outcome: Outcome,
        /// Its words may be the agent's own: they stand in the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Failure>,
    },
    MessageSetAside {
        message: MessageId,
        agent: AgentName,
        reason: String,
    },
    AgentSuspended {
        agent: AgentName,
        reason: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        until_ready: bool,
    },
    AgentResumed {
        agent: AgentName,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Author>,
    },
    /// An agent waits for people. What it asks stands in the session.
    QuestionAsked {
        question: Seq,
        turn: TurnId,
        agent: AgentName,
        until: Time,
    },
    /// It waits no more.
    QuestionAnswered {
        question: Seq,
        turn: TurnId,
        agent: AgentName,
        /// None if nobody answered in time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Author>,
    },
}

/// Kinds of entries that are news, by the names they have as events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    MessageReceived,
    MessageSent,
    Spoke,
    SlotCommitted,
}

/// The kinds of notices by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    SessionOpened,
    SessionForked,
    SessionChanged,
    News,
    TurnEnded,
    MessageSetAside,
    AgentSuspended,
    AgentResumed,
    QuestionAsked,
    QuestionAnswered,
}

impl NoticeKind {
    pub const ALL: [Self; 10] = [
        Self::SessionOpened,
        Self::SessionForked,
        Self::SessionChanged,
        Self::News,
        Self::TurnEnded,
        Self::MessageSetAside,
        Self::AgentSuspended,
        Self::AgentResumed,
        Self::QuestionAsked,
        Self::QuestionAnswered,
    ];

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::SessionOpened => "session-opened",
            Self::SessionForked => "session-forked",
            Self::SessionChanged => "session-changed",
            Self::News => "news",
            Self::TurnEnded => "turn-ended",
            Self::MessageSetAside => "message-set-aside",
            Self::AgentSuspended => "agent-suspended",
            Self::AgentResumed => "agent-resumed",
            Self::QuestionAsked => "question-asked",
            Self::QuestionAnswered => "question-answered",
        }
    }
}

impl What {
    pub fn kind(&self) -> NoticeKind {
        match self {
            Self::SessionOpened { .. } => NoticeKind::SessionOpened,
            Self::SessionForked { .. } => NoticeKind::SessionForked,
            Self::SessionChanged(_) => NoticeKind::SessionChanged,
            Self::News { .. } => NoticeKind::News,
            Self::TurnEnded { .. } => NoticeKind::TurnEnded,
            Self::MessageSetAside { .. } => NoticeKind::MessageSetAside,
            Self::AgentSuspended { .. } => NoticeKind::AgentSuspended,
            Self::AgentResumed { .. } => NoticeKind::AgentResumed,
            Self::QuestionAsked { .. } => NoticeKind::QuestionAsked,
            Self::QuestionAnswered { .. } => NoticeKind::QuestionAnswered,
        }
    }

    /// Whether it concerns an agent.
    pub fn concerns(&self, of: &AgentName) -> bool {
        match self {
            Self::SessionOpened { agents, .. } => agents.contains(of),
            Self::News { agents, .. } => agents.contains(of),
            Self::TurnEnded { agent, .. }
            | Self::MessageSetAside { agent, .. }
            | Self::AgentSuspended { agent, .. }
            | Self::AgentResumed { agent, .. }
            | Self::QuestionAsked { agent, .. }
            | Self::QuestionAnswered { agent, .. } => agent == of,
            Self::SessionChanged(change) => match change {
                SessionChange::AgentAdded { agent } | SessionChange::AgentRemoved { agent } => {
                    agent == of
                }
                SessionChange::Expired | SessionChange::Deleted => false,
            },
            Self::SessionForked { .. } => false,
        }
    }
}

/// What an entry has people told. None: nothing.
fn what(entry: &Entry) -> Option<What> {
    let news = |kind, agents: &[&AgentName], author: Option<&Author>| What::News {
        entries: [kind].into(),
        agents: agents.iter().copied().cloned().collect(),
        authors: author.into_iter().cloned().collect(),
    };
    Some(match &entry.payload {
        Payload::SessionOpened(SessionOpened {
            agents, called_by, ..
        }) => What::SessionOpened {
            agents: agents.clone(),
            called_by: called_by.clone(),
        },
        Payload::SessionForked(it) => What::SessionForked {
            from: it.from.clone(),
        },
        Payload::SessionChanged(it) => What::SessionChanged(it.change.clone()),
        Payload::MessageReceived(it) => news(News::MessageReceived, &[&it.to], Some(&it.author)),
        Payload::MessageSent(it) => news(News::MessageSent, &[&it.from, &it.to], None),
        // Those who follow the words follow the session.
        Payload::Spoke(Spoke { at: 0, agent, .. }) => news(News::Spoke, &[agent], None),
        Payload::SlotCommitted(it) => match &it.by {
            Writer::Agent(agent) => news(News::SlotCommitted, &[agent], None),
            Writer::Author(author) => news(News::SlotCommitted, &[], Some(author)),
        },
        Payload::TurnEnded(it) => What::TurnEnded {
            turn: it.turn.clone(),
            agent: it.agent.clone(),
            outcome: it.outcome,
            error: it.error.as_ref().map(|error| error.code),
        },
        Payload::MessageSetAside(it) => What::MessageSetAside {
            message: it.message.clone(),
            agent: it.agent.clone(),
            reason: it.reason.clone(),
        },
        Payload::AgentSuspended(it) => What::AgentSuspended {
            agent: it.agent.clone(),
            reason: it.reason.clone(),
            until_ready: it.until_ready,
        },
        Payload::AgentResumed(it) => What::AgentResumed {
            agent: it.agent.clone(),
            by: it.by.clone(),
        },
        Payload::Asked(it) => What::QuestionAsked {
            question: it.question,
            turn: it.turn.clone(),
            agent: it.agent.clone(),
            until: it.until,
        },
        Payload::Answered(it) => What::QuestionAnswered {
            question: it.question,
            turn: it.turn.clone(),
            agent: it.agent.clone(),
            by: match &it.reply {
                Reply::Answered { by, .. } => Some(by.clone()),
                Reply::Expired => None,
            },
        },
        Payload::Spoke(_)
        | Payload::TurnStarted(_)
        | Payload::Called(_)
        | Payload::Returned(_)
        | Payload::Streamed(_)
        | Payload::Observed(_)
        | Payload::SlotLocked(_)
        | Payload::SlotReleased(_)
        | Payload::InterruptRequested(_)
        | Payload::Retried(_)
        | Payload::SpeakerStarted(_)
        | Payload::SpeakerEnded(_)
        | Payload::Halted(_)
        | Payload::AgentCalled(_)
        | Payload::CallCancelled(_)
        // It is part of how the session was opened.
        | Payload::Recounted(_)
        // The end of its turn follows.
        | Payload::ToolsCalled(_) => return None,
    })
}

/// Notices of the entries of one commit, in order; its news are one.
#[derive(Debug, Default, PartialEq)]
pub struct Noted(Vec<Notice>);

impl Noted {
    pub fn note(&mut self, session: &SessionId, entry: &Entry) {
        let Some(mut what) = what(entry) else {
            return;
        };
        if let What::News {
            entries,
            agents,
            authors,
        } = &mut what
        {
            let is_news = |notice: &mut Notice| notice.what.kind() == NoticeKind::News;
            let before = self.0.extract_if(.., is_news);
            for notice in before {
                let What::News {
                    entries: more,
                    agents: more_agents,
                    authors: more_authors,
                } = notice.what
                else {
                    continue;
                };
                entries.extend(more);
                agents.extend(more_agents);
                authors.extend(more_authors);
            }
        }
        self.0.push(Notice {
            time: entry.time,
            session: session.clone(),
            at: entry.seq,
            what,
        });
    }

    /// The row of a commit, and nothing noted any more. None if there is nothing to tell.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let notices = std::mem::take(&mut self.0);
        let row = || serde_json::to_vec(&notices).expect("notices have string keys");
        (!notices.is_empty()).then(row)
    }
}

/// The notices of a row.
pub fn parse(row: &[u8]) -> Result<Vec<Notice>, serde_json::Error> {
    serde_json::from_slice(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::script::{Script, name};

    #[test]
    fn notices_follow_from_entries() {
        let script = "open a b\n got a\n start r.t0.a takes=2 messages\n spoke r.t0.a 0 hi\n spoke r.t0.a 2 more\n ask r.t0.a 0 yes\n answer r.t0.a 0 yes\n again r.t0.a 2 answered\n end r.t0.a completed *\n put notes";
        let script = Script::run(script);
        let script = script.unwrap_or_else(|error| panic!("{error:?}"));
        let mut noted = Noted::default();
        let kinds = |noted: &mut Noted| -> Vec<String> {
            let row = noted.take().unwrap_or_else(|| b"[]".to_vec());
            let notices = parse(&row).unwrap();
            let told = notices.iter().map(|it| match &it.what {
                What::News { entries, .. } => format!("{} {entries:?}", it.at),
                what => format!("{} {}", it.at, what.kind().name()),
            });
            told.collect()
        };
        // Each by itself.
        let mut each = Vec::new();
        for entry in &script.entries {
            noted.note(&name("s"), entry);
            each.extend(kinds(&mut noted));
        }
        let expected = [
            "1 session-opened",
            "2 {MessageReceived}",
            "4 {Spoke}",
            "6 question-asked",
            "7 question-answered",
            "9 turn-ended",
            "10 {SlotCommitted}",
        ];
        assert_eq!(each, expected);
        // All in one commit: the news are one, where the newest of them is.
        for entry in &script.entries {
            noted.note(&name("s"), entry);
        }
        let expected = [
            "1 session-opened",
            "6 question-asked",
            "7 question-answered",
            "9 turn-ended",
            "10 {MessageReceived, Spoke, SlotCommitted}",
        ];
        assert_eq!(kinds(&mut noted), expected);
        assert_eq!(noted.take(), None);
    }

    #[test]
    fn kinds_have_one_name() {
        for kind in NoticeKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(NoticeKind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(NoticeKind::of_name("spoke"), None);
    }
}
