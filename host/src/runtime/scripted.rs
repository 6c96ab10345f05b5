//! An agent whose messages say what it does, for tests of the layers above: it makes the calls
//! of the scope as the host interfaces do, without a component.
//!
//! A message is steps with `;` between: `say WORDS`, `model WORDS` (a model call whose answer is
//! relayed), `ask WORDS` (one whose answer is said when it is whole), `recall WORDS` (the same, and an answer of the
//! last minute will do), `hesitate WORDS` (one that is relayed after it said something with the answer open), `glance MS WORDS`
//! (a model call while a timer runs that was looked at before), `lock SLOT`, `commit SLOT TEXT`,
//! `free SLOT`, `send AGENT STEPS` (with `,` for `;`), `read SLOT` (and say what it holds),
//! `call AGENT STEPS` (with `,` for `;`; what it says is said in brackets), `spawn AGENT STEPS`, `wait` and
//! `drop` (the oldest of those), `wake MS`, `sleep MS`, `leave` (what it pulled), `more` (pull again, and do what that says when all else
//! is done), `once STEP` (one of the turn's messages does it for all), `fail` (as an agent answers an error),
//! `question WORDS` (ask people, and say what they answer), `approve WORDS` (with the choices `yes` and `no`), `hurry WORDS` (the
//! same, for five seconds), `get WORD`, `post WORD` (ask an origin outside, and say its answer), `trap`, `panic`, `hang`, `now` (say the time), `differ` (say something else in every attempt), `differ lock`
//! (lock another slot). What a conversation tells it (`[SPEAKER] …`) it has heard, and asked who speaks it chooses
//! somebody. A turn that takes no message says which slots and wake-ups it was started for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::Value;

use crate::clock::Time;
use crate::egress::{self, EgressError};
use crate::id::{MessageId, SlotName};
use crate::journal::entry::{Cause, Failure, TurnError};
use crate::model::{Message, Request};

use super::instance::{Exit, Input};
use super::scope::agents::{NestedCall, NoReply, Reply, Run};
use super::scope::answer::{self, Completion, Failed};
use super::scope::questions::{Answer, NoAnswer, Question};
use super::scope::slots::CommitRefused;
use super::scope::timer::Timer;
use super::scope::{Scope, Stop};

/// How a step ends the turn, if it does.
enum End {
    Stop(Stop),
    Failed(Failure),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

pub(crate) async fn start(scope: Arc<Scope>, input: Input) -> Exit {
    let mut agent = Agent {
        scope: scope.clone(),
        locks: BTreeSet::new(),
        wake_at: None,
        was_once: false,
        runs: VecDeque::new(),
        work: VecDeque::new(),
    };
    let failed = |code, message: String| Exit::Failed {
        error: TurnError { code, message },
        backtrace: None,
        stderr: None,
    };
    let ended = match agent.run(&input).await {
        Ok(()) => scope.finish().map_err(End::Stop),
        Err(end) => Err(end),
    };
    match ended {
        Ok(()) => Exit::Completed {
            wake_at: agent.wake_at,
            context: Vec::new(),
        },
        Err(End::Stop(Stop::Over)) => Exit::Over,
        Err(End::Stop(Stop::Aside)) => Exit::Aside,
        Err(End::Stop(Stop::Waits)) => Exit::Waits,
        Err(End::Stop(Stop::Dead(dead))) => Exit::Dead(dead),
        Err(End::Stop(Stop::Differs(differs))) => Exit::Differs {
            differs,
            backtrace: None,
            stderr: None,
        },
        Err(End::Stop(stop @ (Stop::Limit(_) | Stop::Misuse(_) | Stop::Read(_)))) => {
            failed(Failure::Limit, stop.to_string())
        }
        Err(End::Failed(code)) => failed(code, "as the script wants".into()),
    }
}

fn asking(words: &str) -> Request {
    let user = Message::User {
        name: None,
        text: words.to_owned(),
    };
    Request {
        messages: vec![user],
        ..Request::default()
    }
}

/// A call of an agent: `AGENT STEPS`, with `,` for `;`.
fn nested(rest: &str) -> NestedCall<'_> {
    let (agent, body) = rest.split_once(' ').expect("AGENT STEPS");
    NestedCall {
        agent,
        body: Ok(Value::String(body.replace(',', ";"))),
        timeout_ms: None,
        session: None,
        caller: None,
        speaker: None,
    }
}

fn told_by(answer: Result<Answer, NoAnswer>) -> String {
    match answer {
        Ok(answer) => format!("<{} of {}>", answer.text, answer.by),
        Err(error) => format!("<{error:?}>"),
    }
}

fn told(reply: Result<Reply, NoReply>) -> String {
    match reply {
        Ok(reply) => format!("({})", reply.text),
        Err(error) => format!("[{error:?}]"),
    }
}

/// Counts all attempts of all turns, so that no two are alike.
static ATTEMPTS: AtomicU64 = AtomicU64::new(0);

struct Agent {
    scope: Arc<Scope>,
    locks: BTreeSet<SlotName>,
    wake_at: Option<Time>,
    /// A `once` of this turn is done.
    was_once: bool,
    /// Calls that were not waited for.
    runs: VecDeque<Run>,
    /// Steps to do, each with its message.
    work: VecDeque<(MessageId, String)>,
}

impl Agent {
    async fn run(&mut self, input: &Input) -> Result<(), End> {
        for cause in &input.causes {
            match cause {
                Cause::Messages => {}
                Cause::Slot(slot) => self.say(&format!("saw {slot}."))?,
                Cause::Wake => self.say("awake.")?,
            }
        }
        self.pull(input).await?;
        while let Some((message, line)) = self.work.pop_front() {
            match line.as_str() {
                "more" => self.pull(input).await?,
                line => self.step(&message, line).await?,
            }
            tokio::task::yield_now().await;
        }
        // As handles are dropped with the instance.
        for slot in std::mem::take(&mut self.locks) {
            self.scope.release_slot(&slot)?;
        }
        Ok(())
    }

    async fn pull(&mut self, input: &Input) -> Result<(), Stop> {
        for message in self.scope.pull(100).await? {
            let Value::String(script) = message.body else {
                panic!("a script is text");
            };
            let id = message.header.message;
            let is_input = input.messages.iter().any(|it| it.message == id);
            if !is_input && id.seq() < self.scope.started {
                // Left by an earlier turn: it has said what it does.
                self.scope.leave(id.as_str())?;
                continue;
            }
            let lines = script.split(';').map(|line| line.trim().to_owned());
            self.work.extend(lines.map(|line| (id.clone(), line)));
        }
        Ok(())
    }

    async fn step(&mut self, message: &MessageId, line: &str) -> Result<(), End> {
        let line = match line.strip_prefix("once ") {
            Some(_) if std::mem::replace(&mut self.was_once, true) => return Ok(()),
            Some(line) => line,
            None => line,
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let scope = self.scope.clone();
        if let Some((_, names)) = line.split_once("Who speaks next: ") {
            let names: Vec<&str> = names.trim_end_matches('?').split(", ").collect();
            return Ok(self.say(names[line.len() % names.len()])?);
        }
        if verb.starts_with('[') {
            return Ok(self.say(&format!("heard {} bytes", line.len()))?);
        }
        match verb {
            "say" => self.say(rest)?,
            "model" | "ask" | "recall" => self.ask(verb, rest).await?,
            "get" | "post" => self.fetch(verb, rest).await?,
            "lock" => {
                if let Ok(slot) = scope.lock_slot(rest)? {
                    self.locks.insert(slot);
                }
            }
            "commit" => {
                let (slot, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let slot = SlotName::new(slot).expect("a slot");
                if self.locks.remove(&slot)
                    && let Err(CommitRefused::Lost) = scope.commit_slot(&slot, text)?
                {
                    self.say("lost.")?;
                }
            }
            "free" => {
                let slot = SlotName::new(rest).expect("a slot");
                if self.locks.remove(&slot) {
                    scope.release_slot(&slot)?;
                }
            }
            "read" => {
                let slot = SlotName::new(rest).expect("a slot");
                let text = scope.read_slot(&slot).await?.map(|snapshot| snapshot.text);
                self.say(&text.unwrap_or_else(|| "nothing".into()))?;
            }
            "send" => {
                let (to, body) = rest.split_once(' ').expect("send AGENT STEPS");
                let body = body.replace(',', ";");
                let length = body.len();
                let _full = scope.send(to, Ok(Value::String(body)), length)?;
            }
            "wake" => self.wake_at = Some(scope.clock.now().plus_ms(rest.parse().expect("ms"))),
            "hesitate" => {
                let answer = match scope.ask(scope.model(None), asking(rest)).await {
                    Ok(answer) => {
                        self.say("well, ")?;
                        answer.relay(&scope).await
                    }
                    Err(failed) => Err(failed),
                };
                self.told_end(answer)?;
            }
            "glance" => {
                let (ms, words) = rest.split_once(' ').expect("MS WORDS");
                let mut timer = Timer::set(&scope, ms.parse().expect("ms"))?;
                scope.poll_begins();
                let rang = timer.wait().now_or_never().is_some();
                scope.poll_ended()?;
                self.say(if rang { "rang. " } else { "not yet. " })?;
                self.ask("model", words).await?;
                scope.poll_begins();
                timer.wait().await;
                scope.poll_ended()?;
                self.say(" rang.")?;
            }
            "sleep" => {
                scope.poll_begins();
                Timer::set(&scope, rest.parse().expect("ms"))?.wait().await;
                scope.poll_ended()?;
            }
            "call" => {
                let reply = match scope.call_agent(nested(rest)).await? {
                    Ok(reply) => told(reply),
                    Err(refused) => format!("[{refused:?}]"),
                };
                self.say(&reply)?;
            }
            "spawn" => match scope.spawn_agent(nested(rest)).await? {
                Ok(run) => self.runs.push_back(run),
                Err(refused) => self.say(&format!("[{refused:?}]"))?,
            },
            "wait" => {
                if let Some(run) = self.runs.pop_front() {
                    let reply = told(scope.take_reply(run).await?);
                    self.say(&reply)?;
                }
            }
            "drop" => {
                if let Some(run) = self.runs.pop_front() {
                    scope.drop_run(&run)?;
                }
            }
            "question" => {
                let question = Question {
                    text: rest.to_owned(),
                    choices: Vec::new(),
                    timeout_ms: None,
                };
                let answer = told_by(scope.ask_people(question).await?);
                self.say(&answer)?;
            }
            "approve" | "hurry" => {
                let question = Question {
                    text: rest.to_owned(),
                    choices: vec!["yes".to_owned(), "no".to_owned()],
                    timeout_ms: (verb == "hurry").then_some(5_000),
                };
                let answer = told_by(scope.ask_people(question).await?);
                self.say(&answer)?;
            }
            "leave" => drop(scope.leave(message.as_str())?),
            "differ" => {
                let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
                match rest {
                    "lock" => drop(scope.lock_slot(&format!("d{attempt}"))?),
                    _ => self.say(&attempt.to_string())?,
                }
            }
            "now" => self.say(&format!("{}.", scope.clock.now().0))?,
            "fail" => return Err(End::Failed(Failure::Agent)),
            "trap" => return Err(End::Failed(Failure::Trap)),
            "panic" => panic!("as the script wants"),
            "hang" => {
                scope.ledger.flush();
                std::future::pending::<()>().await;
            }
            other => panic!("no such step: {other:?}"),
        }
        Ok(())
    }

    fn say(&self, text: &str) -> Result<(), Stop> {
        self.scope.count()?;
        let _too_large = self.scope.say(text)?;
        Ok(())
    }

    /// Long answers are said by their length. `closed/...` is what no rule covers.
    async fn fetch(&self, verb: &str, path: &str) -> Result<(), Stop> {
        let path = match path.strip_prefix("closed/") {
            Some(_) => path.to_owned(),
            None => format!("open/{path}"),
        };
        let request = egress::Request {
            method: verb.to_uppercase(),
            url: format!("http://origin.sim/{path}"),
            headers: Vec::new(),
            body: Bytes::from_static(b"body"),
        };
        let text = match self.scope.fetch(&request, None).await? {
            Ok(answer) if answer.body.len() > 100 => format!("({})", answer.body.len()),
            Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
            Err(EgressError::Refused(_)) => "[refused]".to_owned(),
            Err(EgressError::OutcomeUnknown) => "[unknown]".to_owned(),
            Err(EgressError::Unreachable(_)) => "[unreachable]".to_owned(),
            Err(EgressError::Other(_)) => "[broken]".to_owned(),
            Err(error) => format!("[{error:?}]"),
        };
        self.say(&text)
    }

    async fn ask(&self, verb: &str, words: &str) -> Result<(), Stop> {
        let request = Request {
            cache: (verb == "recall").then_some(60),
            ..asking(words)
        };
        let scope = &self.scope;
        let answered = match scope.ask(scope.model(None), request).await {
            Ok(answer) if verb != "model" => answer.complete(scope).await,
            Ok(answer) => answer.relay(scope).await,
            Err(failed) => Err(failed),
        };
        match answered {
            Ok(completion) if verb != "model" => self.say(&completion.text),
            answered => self.told_end(answered),
        }
    }

    /// What went wrong with an answer that was shown while it came.
    fn told_end(&self, answered: Result<Completion, Failed>) -> Result<(), Stop> {
        match answered {
            Ok(_) => Ok(()),
            Err(Failed::Guest(answer::NoAnswer::Interrupted(partial))) => {
                self.say(&format!("[cut after {}]", partial.len()))
            }
            Err(Failed::Guest(error)) => self.say(&format!("[{error:?}]")),
            Err(Failed::Stop(stop)) => Err(stop),
        }
    }
}
