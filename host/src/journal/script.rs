//! Journals as text, for tests: one line, one entry.
//!
//! Turns are named as they are (`r.t0.a`), messages by their number, everybody who
//! writes from outside is `ada`. `end` with `*` takes the fates that the state gives.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::bus;
use crate::clock::Time;
use crate::id::{AgentName, Author, Digest, MessageId, RunId, Seq, SlotName, TurnId};
use crate::journal::entry::{
    AgentCalled, AgentCalledPrivate, AgentResumed, AgentSuspended, Asked, CallCancelled, CallKind,
    CallResult, Called, Cause, Content, Entry, Fate, Halt, Halted, Idempotency, InputFate,
    InterruptRequested, MessageReceived, MessageReceivedPrivate, MessageSent, MessageSetAside,
    Observation, Observed, Outcome, Payload, Piece, Pinned, Price, QuestionAnswered,
    QuestionAnsweredPrivate, Recounted, Reply, Retried, RetryReason, Returned, SessionChange,
    SessionChanged, SessionForked, SessionOpened, SessionOpenedPrivate, SlotCommitted,
    SlotCommittedPrivate, SlotLocked, SlotReleased, SpeakerEnded, SpeakerStarted, Spoke, Streamed,
    Tool, ToolCall, ToolsCalled, TurnEnded, TurnEndedPrivate, TurnError, TurnStarted, Usage,
    Writer,
};
use crate::journal::state::{IllegalEntry, State};

pub(crate) fn name<T: FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a test's names obey their rules")
}

pub(crate) fn message(seq: u64) -> MessageId {
    MessageId::of(&name("s"), Seq(seq))
}

/// A journal being written.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) state: State,
    pub(crate) entries: Vec<Entry>,
    now: Time,
}

impl Script {
    /// Write line by line. Lines that begin with `@` set the time.
    pub(crate) fn run(text: &str) -> Result<Self, IllegalEntry> {
        let mut script = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            script.line(line)?;
        }
        Ok(script)
    }

    /// What a line says after a state.
    pub(crate) fn payload_after(state: &State, line: &str) -> Payload {
        Self::after(state).payload(line)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), IllegalEntry> {
        if let Some(time) = line.strip_prefix('@') {
            self.now = Time(time.parse().expect("a time"));
            return Ok(());
        }
        let payload = self.payload(line);
        self.push(payload)
    }

    /// Go on after a state, at its time.
    pub(crate) fn after(state: &State) -> Self {
        Self {
            state: state.clone(),
            now: state.time,
            ..Self::default()
        }
    }

    /// Append; whatever is refused must leave the state as it was.
    pub(crate) fn push(&mut self, payload: Payload) -> Result<(), IllegalEntry> {
        let entry = Entry {
            seq: self.state.last.next(),
            time: self.now,
            payload,
        };
        let before = self.state.clone();
        let next = self.state.next(&entry);
        match &next {
            Ok(()) => self.entries.push(entry),
            Err(_) => assert_eq!(
                self.state, before,
                "refused, yet it changed something: {entry:?}"
            ),
        }
        next
    }

    fn payload(&self, line: &str) -> Payload {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("a line has a verb");
        let (mut plain, mut options) = (Vec::new(), BTreeMap::new());
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => drop(options.insert(key, value)),
                None => plain.push(word),
            }
        }
        let words = Words { plain, options };
        match verb {
            "open" | "got" | "add" | "remove" | "expire" | "delete" | "aside" | "suspend"
            | "resume" | "fork" | "told-before" => self.outside(verb, &words),
            "put" | "lock" | "commit" | "free" => self.slot(verb, &words),
            "lost" | "retake" => self.lost(verb, &words),
            "start" | "spoke" | "stop" | "end" | "again" => self.turn(verb, &words),
            "speaker" | "spoken" | "halt" => self.conversation(verb, &words),
            "ask" | "answer" => self.question(verb, &words),
            _ => self.call(verb, &words),
        }
    }

    fn outside(&self, verb: &str, words: &Words<'_>) -> Payload {
        let changed = |change| Payload::SessionChanged(SessionChanged { change });
        match verb {
            "open" => Payload::SessionOpened(SessionOpened {
                agents: words.plain.iter().map(|agent| name(agent)).collect(),
                entry: words.option("entry").unwrap_or_else(|| words.at(0)),
                expires_after_ms: words.option("expires"),
                called_by: None,
                private: SessionOpenedPrivate {
                    secret: "secret".into(),
                    idempotency: None,
                },
            }),
            "got" => Payload::MessageReceived(MessageReceived {
                message: message(words.option("id").unwrap_or(self.state.last.next().0)),
                author: name("ada"),
                to: words.at(0),
                body: "hello".into(),
                called_by: None,
                private: MessageReceivedPrivate {
                    idempotency: words.text("key").map(|key| Idempotency {
                        key: Digest::of(key.as_bytes()),
                        body: Digest::of(b"hello"),
                    }),
                    invoked: words.plain.contains(&"invoked"),
                    instructions: words.text("be").map(str::to_owned),
                    tools: words.text("tool").map(tool).into_iter().collect(),
                    echo: None,
                    bus: words.text("run").map(|run| bus::Context {
                        run: name(run),
                        parent: None,
                        depth: words.option("depth").unwrap_or(0),
                        deadline: words.option("until").map(Time),
                        speaker: None,
                        authorized: false,
                        left_micros: words.option("left"),
                    }),
                },
            }),
            "told-before" => Payload::Recounted(Recounted {
                by: match words.plain.first() {
                    Some(agent) => Writer::Agent(name(agent)),
                    None => Writer::Author(name("ada")),
                },
                text: "earlier".into(),
            }),
            "fork" => Payload::SessionForked(SessionForked {
                from: words.at(0),
                at: words.option("at").map_or(self.state.last, Seq),
                private: SessionOpenedPrivate {
                    secret: "another secret".into(),
                    idempotency: None,
                },
            }),
            "suspend" => Payload::AgentSuspended(AgentSuspended {
                agent: words.at(0),
                reason: "a test".into(),
                until_ready: words.plain.contains(&"until-ready"),
            }),
            "resume" => Payload::AgentResumed(AgentResumed {
                agent: words.at(0),
                by: None,
            }),
            "add" => changed(SessionChange::AgentAdded { agent: words.at(0) }),
            "remove" => changed(SessionChange::AgentRemoved { agent: words.at(0) }),
            "expire" => changed(SessionChange::Expired),
            "delete" => changed(SessionChange::Deleted),
            "aside" => Payload::MessageSetAside(MessageSetAside {
                agent: words.at(0),
                message: message(words.at(1)),
                reason: "a test".into(),
                deliveries: 0,
            }),
            other => panic!("no such line: {other}"),
        }
    }

    fn turn(&self, verb: &str, words: &Words<'_>) -> Payload {
        let turn: TurnId = words.at(0);
        let agent = words.option("as").unwrap_or_else(|| agent_of(&turn));
        match verb {
            "start" => Payload::TurnStarted(TurnStarted {
                run: words.option("run").unwrap_or_else(|| run_of(&turn)),
                parent: None,
                agent,
                inputs: words.numbers("takes"),
                causes: words.plain[1..].iter().map(|word| cause(word)).collect(),
                attempt: 1,
                private: Pinned {
                    component: "0".into(),
                    version: 1,
                    ..Pinned::default()
                },
                turn,
            }),
            "spoke" => Payload::Spoke(Spoke {
                agent,
                at: words.at(1),
                text: words.plain[2..].join(" "),
                speaker: words.text("speaker").map(str::to_owned),
                index: words.option("index"),
                turn,
            }),
            "again" => Payload::Retried(Retried {
                turn,
                n: words.option("n"),
                attempt: words.at(1),
                reason: words
                    .plain
                    .get(2)
                    .map_or(RetryReason::HostLost, |it| word(it)),
                detail: None,
            }),
            "stop" => Payload::InterruptRequested(InterruptRequested {
                turn,
                agent,
                by: name("ada"),
                message: None,
            }),
            "end" => {
                let outcome: Outcome = word(words.plain[1]);
                let explicit = words.plain[2..]
                    .iter()
                    .filter(|word| **word != "*")
                    .map(|input| {
                        let (id, fate) = input.split_once(':').expect("MESSAGE:FATE");
                        InputFate {
                            message: message(id.parse().expect("a number")),
                            fate: word::<Fate>(fate),
                        }
                    });
                let inputs = if words.plain.contains(&"*") {
                    self.state.fates(&turn, outcome)
                } else {
                    explicit.collect()
                };
                Payload::TurnEnded(TurnEnded {
                    turn,
                    agent,
                    outcome,
                    error: words.text("code").map(|code| TurnError {
                        code: word(code),
                        message: String::new(),
                    }),
                    usage: Usage::default(),
                    inputs,
                    wake_at: words.option("wake").map(Time),
                    private: TurnEndedPrivate::default(),
                })
            }
            other => panic!("no such line: {other}"),
        }
    }

    /// `ask TURN N CHOICES until=`; `answer TURN N TEXT question= key=`, or without a text `answer TURN N`: nobody did.
    fn question(&self, verb: &str, words: &Words<'_>) -> Payload {
        let (turn, n): (TurnId, u32) = (words.at(0), words.at(1));
        let agent = words.option("as").unwrap_or_else(|| agent_of(&turn));
        if verb == "ask" {
            return Payload::Asked(Asked {
                question: words.option("question").map_or(self.state.last.next(), Seq),
                agent,
                turn,
                n,
                text: "May I?".into(),
                choices: words.plain[2..].iter().map(ToString::to_string).collect(),
                until: words.option("until").map_or(self.now.plus_ms(1_000), Time),
            });
        }
        let open = self.state.turns.get(&turn);
        let open = open.and_then(|open| open.question.as_ref());
        Payload::Answered(QuestionAnswered {
            question: words
                .option("question")
                .map_or(open.map_or(Seq(0), |it| it.question), Seq),
            agent,
            turn,
            n,
            reply: match words.plain.get(2) {
                Some(text) => Reply::Answered {
                    text: (*text).to_owned(),
                    by: name("ada"),
                    note: None,
                },
                None => Reply::Expired,
            },
            private: QuestionAnsweredPrivate {
                idempotency: words.text("key").map(|key| Idempotency {
                    key: Digest::of(key.as_bytes()),
                    body: Digest::of(b"hello"),
                }),
            },
        })
    }

    fn conversation(&self, verb: &str, words: &Words<'_>) -> Payload {
        let turn: TurnId = words.at(0);
        if verb == "halt" {
            let halt = Halt::MaxTurns { turns: 1 };
            return Payload::Halted(Halted { turn, halt });
        }
        let (index, speaker): (u32, String) = (words.at(1), words.at(2));
        let speaker_turn = name(&format!("{}.t{index}.{speaker}", run_of(&turn)));
        match verb {
            "speaker" => Payload::SpeakerStarted(SpeakerStarted {
                turn,
                index,
                speaker,
                speaker_turn,
                attempt: 1,
            }),
            _ => Payload::SpeakerEnded(SpeakerEnded {
                turn,
                index,
                speaker,
                speaker_turn,
                session: None,
                child_turn: None,
                usage: Usage::default(),
                attempts: 1,
                started_at: self.now,
                ended_at: self.now,
            }),
        }
    }

    /// What the host does to the locks of a turn that it takes up again.
    fn lost(&self, verb: &str, words: &Words<'_>) -> Payload {
        let (turn, slot, n) = (words.at(0), words.at(1), None);
        match verb {
            "lost" => Payload::SlotReleased(SlotReleased { slot, turn, n }),
            _ => Payload::SlotLocked(SlotLocked { slot, turn, n }),
        }
    }

    fn slot(&self, verb: &str, words: &Words<'_>) -> Payload {
        let version = words.option("v").map_or(self.state.last.next(), Seq);
        let private = SlotCommittedPrivate {
            content: Content::Inline {
                text: "text".into(),
            },
            wakes: words
                .text("wakes")
                .map_or(Vec::new(), |wakes| wakes.split(',').map(name).collect()),
        };
        if verb == "put" {
            return Payload::SlotCommitted(SlotCommitted {
                slot: words.at(0),
                version,
                by: Writer::Author(name::<Author>("ada")),
                bytes: 4,
                turn: None,
                n: 0,
                private,
            });
        }
        let (turn, n, slot): (TurnId, u32, SlotName) = (words.at(0), words.at(1), words.at(2));
        match verb {
            "lock" => Payload::SlotLocked(SlotLocked {
                slot,
                turn,
                n: Some(n),
            }),
            "free" => Payload::SlotReleased(SlotReleased {
                slot,
                turn,
                n: Some(n),
            }),
            _ => Payload::SlotCommitted(SlotCommitted {
                slot,
                version,
                by: Writer::Agent(agent_of(&turn)),
                bytes: 4,
                turn: Some(turn),
                n,
                private,
            }),
        }
    }

    fn call(&self, verb: &str, words: &Words<'_>) -> Payload {
        let (turn, n): (TurnId, u32) = (words.at(0), words.at(1));
        let observed = |what| {
            Payload::Observed(Observed {
                turn: turn.clone(),
                n,
                what,
            })
        };
        match verb {
            "call" => Payload::Called(Called {
                turn,
                n,
                call: CallKind::Model,
                request: Digest::of(b"request"),
                target: "default".into(),
                price: Price::default(),
                request_bytes: 0,
            }),
            "nest" => Payload::AgentCalled(AgentCalled {
                turn,
                n,
                agent: words.at(2),
                session: words.at(3),
                private: AgentCalledPrivate::default(),
            }),
            "tools" => Payload::ToolsCalled(ToolsCalled {
                agent: words.option("as").unwrap_or_else(|| agent_of(&turn)),
                turn,
                n,
                calls: words.plain[2..]
                    .iter()
                    .map(|tool| ToolCall {
                        id: (*tool).to_owned(),
                        name: (*tool).to_owned(),
                        arguments: "{}".into(),
                    })
                    .collect(),
            }),
            "told" => Payload::CallCancelled(CallCancelled {
                turn,
                n,
                agent: words.at(2),
                session: words.at(3),
            }),
            "drop" => Payload::Returned(Returned {
                answered: None,
                turn,
                n,
                result: CallResult::Dropped,
                usage: Usage::default(),
                attempts: 1,
                opening: false,
                poll: None,
                cached: false,
                child: None,
            }),
            "stream" => Payload::Streamed(Streamed {
                turn,
                n,
                pieces: vec![Piece::Text("piece".into())],
            }),
            "back" => Payload::Returned(Returned {
                answered: None,
                turn,
                n,
                result: CallResult::Ok,
                usage: Usage {
                    model_calls: 1,
                    ..Usage::default()
                },
                attempts: 1,
                opening: false,
                poll: None,
                cached: false,
                child: None,
            }),
            "see" => observed(Observation::SlotNames { slots: Vec::new() }),
            "pull" => observed(Observation::MailboxPulled {
                messages: words.numbers("takes"),
                max: None,
            }),
            "leave" => observed(Observation::MailboxLeft {
                message: message(words.at(2)),
            }),
            "send" => Payload::MessageSent(MessageSent {
                message: message(words.option("id").unwrap_or(self.state.last.next().0)),
                from: words.option("as").unwrap_or_else(|| agent_of(&turn)),
                to: words.at(2),
                body: "hello".into(),
                turn,
                n,
            }),
            other => panic!("no such line: {other}"),
        }
    }
}

struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl Words<'_> {
    fn at<T: FromStr<Err: std::fmt::Debug>>(&self, at: usize) -> T {
        name(self.plain[at])
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.options.get(key).copied()
    }

    fn option<T: FromStr<Err: std::fmt::Debug>>(&self, key: &str) -> Option<T> {
        self.text(key).map(name)
    }

    fn numbers(&self, key: &str) -> Vec<MessageId> {
        let numbers = self.text(key).into_iter().flat_map(|list| list.split(','));
        numbers
            .map(|number| message(number.parse().expect("a number")))
            .collect()
    }
}

/// A word of the stored form.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_value(text.into()).expect("a word of the stored form")
}

fn cause(text: &str) -> Cause {
    match text.split_once(':') {
        Some(("slot", slot)) => Cause::Slot(name(slot)),
        _ => word(text),
    }
}

fn agent_of(turn: &TurnId) -> AgentName {
    name(turn.as_str().rsplit('.').next().expect("RUN.tINDEX.AGENT"))
}

fn run_of(turn: &TurnId) -> RunId {
    name(turn.as_str().split('.').next().expect("RUN.tINDEX.AGENT"))
}

/// The session as `seq kind detail` text, from its entries alone.
pub(crate) fn print(entries: &[Entry]) -> String {
    let lines = entries.iter().map(|entry| {
        let kind = entry.payload.kind().name();
        let detail = match &entry.payload {
            Payload::MessageReceived(it) => format!(" {} -> {}", it.author, it.to),
            Payload::MessageSent(it) => format!(" {} -> {}", it.from, it.to),
            Payload::TurnStarted(it) => {
                let takes: Vec<String> = it
                    .inputs
                    .iter()
                    .map(|input| input.seq().to_string())
                    .collect();
                format!(" {} takes [{}] {:?}", it.agent, takes.join(","), it.causes)
            }
            Payload::Spoke(it) => format!(" {} {:?}", it.agent, it.text),
            Payload::SlotLocked(it) => format!(" {}", it.slot),
            Payload::SlotCommitted(it) => format!(" {} {:?}", it.slot, it.by),
            Payload::SlotReleased(it) => format!(" {}", it.slot),
            Payload::InterruptRequested(it) => format!(" {}", it.agent),
            Payload::TurnEnded(it) => {
                let fates: Vec<String> = it
                    .inputs
                    .iter()
                    .map(|input| format!("{}:{:?}", input.message.seq(), input.fate).to_lowercase())
                    .collect();
                let error = it
                    .error
                    .as_ref()
                    .map_or(String::new(), |error| format!("({})", error.code.name()));
                format!(
                    " {} {}{error} [{}]",
                    it.agent,
                    it.outcome.name(),
                    fates.join(",")
                )
            }
            Payload::MessageSetAside(it) => format!(" {} {}", it.agent, it.message.seq()),
            Payload::SessionChanged(it) => format!(" {:?}", it.change),
            Payload::Retried(it) => {
                let what = it.n.map_or("turn".to_owned(), |n| format!("call {n}"));
                format!(" {what} {} {:?}", it.attempt, it.reason)
            }
            Payload::AgentSuspended(it) => format!(" {}: {}", it.agent, it.reason),
            Payload::AgentResumed(it) => format!(" {}", it.agent),
            Payload::SessionForked(it) => format!(" {} at {}", it.from, it.at),
            Payload::SpeakerStarted(it) => format!(" {} {}", it.index, it.speaker),
            Payload::SpeakerEnded(it) => format!(" {} {}", it.index, it.speaker),
            Payload::Halted(it) => format!(" {}", it.halt.name()),
            Payload::AgentCalled(it) => format!(" {} {} in {}", it.n, it.agent, it.session),
            Payload::CallCancelled(it) => format!(" {} {} in {}", it.n, it.agent, it.session),
            Payload::ToolsCalled(it) => {
                let names: Vec<&str> = it.calls.iter().map(|call| call.name.as_str()).collect();
                format!(" {} [{}]", it.agent, names.join(","))
            }
            Payload::Asked(it) => format!(" {} {:?} [{}]", it.agent, it.text, it.choices.join(",")),
            Payload::Answered(it) => match &it.reply {
                Reply::Answered { text, by, .. } => format!(" {} {text:?} by {by}", it.question),
                Reply::Expired => format!(" {} expired", it.question),
            },
            Payload::Recounted(it) => format!(" {:?} {:?}", it.by, it.text),
            Payload::SessionOpened(_)
            | Payload::Called(_)
            | Payload::Returned(_)
            | Payload::Streamed(_)
            | Payload::Observed(_) => String::new(),
        };
        format!("{} {kind}{detail}\n", entry.seq)
    });
    lines.collect()
}

/// A function that nothing is known of but its name.
fn tool(name: &str) -> Tool {
    Tool {
        name: name.to_owned(),
        description: String::new(),
        parameters: "{}".to_owned(),
    }
}
