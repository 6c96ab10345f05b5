//! Nested calls: an agent works in a session of its own, for this turn.
//!
//! A call is written down and durable before the other session is opened, under a key that names it: made
//! again after a crash, it is the same call. What came of it is written down before the guest gets it.
//!
//! Invariant: a child runs in its caller's run, one deeper, within its caller's deadline and within what
//! its caller may still spend.
//! Invariant: a call that this turn does not take to its end is cancelled once the turn is over; the fold
//! keeps what is owed there.

use serde_json::Value;

use crate::bus;
use crate::clock::Time;
use crate::id::{AgentName, Digest, SessionId, TurnId};
use crate::journal::entry::{
    AgentCalled, AgentCalledPrivate, CallResult, CalledBy, Observation, Payload, Piece, Usage,
};
use crate::journal::state::Used;
use crate::model::{Admitted, CallPolicy, Works};
use crate::telemetry::{self, Limit};

use super::forwarded::AuthorizationLost;
use super::messages::as_stored;
use super::peers::{Announcement, ChildError, Lost, NotCalled, Opening, Outcome};
use super::{Back, Scope, Stop};

/// Text of one `streamed` entry: far below what the store splits.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// Characters of why a call failed, in words.
const DETAIL_CHARS_MAX: usize = 1_000;
/// A day: longer than any turn may take.
const TIMEOUT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Why a call brought no whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) enum NoReply {
    /// What was said until somebody stopped it.
    Interrupted(String),
    Cancelled,
    Deadline,
    /// In words, and what was said.
    Failed {
        why: String,
        said: String,
    },
    Other(String),
}

/// What an agent is told.
#[derive(Debug)]
pub(in crate::runtime) struct NestedCall<'a> {
    pub(in crate::runtime) agent: &'a str,
    /// An error if it is not JSON.
    pub(in crate::runtime) body: Result<Value, serde_json::Error>,
    pub(in crate::runtime) timeout_ms: Option<u64>,
    /// For several calls of one turn that go to one session.
    pub(in crate::runtime) session: Option<SessionId>,
    /// The turn that the child is told called it; this one if none.
    pub(in crate::runtime) caller: Option<TurnId>,
    /// What the child is called here; its agent's name if none.
    pub(in crate::runtime) speaker: Option<String>,
}

/// A call whose reply is not taken yet.
#[derive(Debug)]
pub(in crate::runtime) struct Run {
    n: u32,
    key: Digest,
    pub(in crate::runtime) agent: AgentName,
    pub(in crate::runtime) session: SessionId,
    deadline: Option<Time>,
    lost: Option<String>,
    /// Where to say what came of it, if it was begun in this process.
    admitted: Option<Admitted>,
}

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct Reply {
    pub(in crate::runtime) text: String,
    pub(in crate::runtime) session: SessionId,
    /// The turn in which it was said.
    pub(in crate::runtime) turn: Option<TurnId>,
    /// What is booked here for it.
    pub(in crate::runtime) usage: Usage,
}

impl Scope {
    /// Call an agent and wait for its reply.
    pub(in crate::runtime) async fn call_agent(
        &self,
        call: NestedCall<'_>,
    ) -> Result<Result<Result<Reply, NoReply>, NotCalled>, Stop> {
        Ok(match self.spawn_agent(call).await? {
            Ok(run) => Ok(self.take_reply(run).await?),
            Err(refused) => Err(refused),
        })
    }

    /// Have an agent begin to work.
    pub(in crate::runtime) async fn spawn_agent(
        &self,
        call: NestedCall<'_>,
    ) -> Result<Result<Run, NotCalled>, Stop> {
        let request = request(&call);
        let shown: String = call.agent.chars().take(64).collect();
        let asked = || format!("calls the agent {shown:?}, request {request}");
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::AgentCalled(it)
                    if it.agent.as_str() == shown && it.private.request == request =>
                {
                    let mut run = Run {
                        n: it.n,
                        key: it.private.key,
                        agent: it.agent.clone(),
                        session: it.session.clone(),
                        deadline: it.private.deadline,
                        lost: None,
                        admitted: None,
                    };
                    if !self.record.has_returned(it.n) {
                        run.lost = self.open(&run, call).await?;
                    }
                    Ok(Ok(run))
                }
                Payload::Observed(it) => match &it.what {
                    Observation::CallRefused {
                        agent,
                        error,
                        detail,
                    } if *agent == shown => Ok(Err(NotCalled::of(error, detail))),
                    _ => Err(self.differs(&recorded, asked())),
                },
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        let (agent, admitted) = match self.may_call(&call).await? {
            Ok(may) => may,
            Err(refused) => {
                let what = Observation::CallRefused {
                    agent: shown,
                    error: refused.word().to_owned(),
                    detail: refused.detail(),
                };
                return self.observe(|_| (Err(refused), what));
            }
        };
        let (mut run, written, announcement) = self.agent_called(agent, request, &call)?;
        run.admitted = Some(admitted);
        self.cpu.waiting(self.ledger.durable(written)).await?;
        if let Some(admitted) = &mut run.admitted {
            admitted.is_made();
        }
        run.lost = self.open(&run, call).await?;
        drop(announcement);
        Ok(Ok(run))
    }

    async fn may_call(
        &self,
        call: &NestedCall<'_>,
    ) -> Result<Result<(AgentName, Admitted), NotCalled>, Stop> {
        let Ok(body) = &call.body else {
            return Ok(Err(NotCalled::NotJson));
        };
        if as_stored(body).is_err() {
            return Ok(Err(NotCalled::NotJson));
        }
        let length = body
            .as_str()
            .map_or_else(|| body.to_string().len(), str::len);
        if length > self.limits.message_bytes_max {
            telemetry::hit(Limit::MessageBytes);
            return Ok(Err(NotCalled::TooLarge));
        }
        let Ok(agent) = AgentName::new(call.agent) else {
            return Ok(Err(NotCalled::UnknownAgent));
        };
        if let Err(too_deep) = bus::admit(self.depth.saturating_add(1), self.limits.call_depth_max)
        {
            telemetry::hit(Limit::CallDepth);
            return Ok(Err(NotCalled::TooDeep(too_deep)));
        }
        let Some(peers) = &self.peers else {
            return Ok(Err(NotCalled::Refused(
                "there is nobody to call here".into(),
            )));
        };
        if let Err(refused) = peers.admit(&agent) {
            return Ok(Err(refused));
        }
        if let Err(AuthorizationLost) = self.authorization().await? {
            return Ok(Err(NotCalled::Refused(AuthorizationLost.to_string())));
        }
        let policy = CallPolicy::default().of_agent(&self.policy);
        Ok(match self.models.pass(&self.tenant, &agent, &policy) {
            Ok(admitted) => Ok((agent, admitted)),
            Err(open) => Err(NotCalled::Refused(open.to_string())),
        })
    }

    /// Write the call down. Answers the entry too; until its session is open it is announced, since whoever reads
    /// the entry may ask for it.
    fn agent_called(
        &self,
        agent: AgentName,
        request: Digest,
        call: &NestedCall<'_>,
    ) -> Result<(Run, crate::id::Seq, Option<Announcement>), Stop> {
        self.append_at(
            |batch, n| {
                let key = self.call_digest(n, &request);
                let session = call.session.clone();
                let session = session.unwrap_or_else(|| SessionId::of_call(&key));
                let own = call
                    .timeout_ms
                    .map(|ms| batch.now().plus_ms(ms.min(TIMEOUT_MS_MAX)));
                let run = Run {
                    n,
                    key,
                    agent: agent.clone(),
                    session: session.clone(),
                    deadline: own.into_iter().chain(self.deadline).min(),
                    lost: None,
                    admitted: None,
                };
                let called = Payload::AgentCalled(AgentCalled {
                    turn: self.turn.clone(),
                    n,
                    agent,
                    session: session.clone(),
                    private: AgentCalledPrivate {
                        request,
                        key,
                        deadline: run.deadline,
                    },
                });
                let announcement = self.peers.as_ref().map(|peers| peers.announce(&session));
                (run, batch.push(called), announcement)
            },
            false,
        )
    }

    /// Have the child begin; nothing if it has. Answers why it could not, for whoever takes its reply.
    async fn open(&self, run: &Run, call: NestedCall<'_>) -> Result<Option<String>, Stop> {
        let (Some(peers), Ok(body)) = (&self.peers, call.body) else {
            return Ok(None);
        };
        let Ok(authorization) = self.authorization().await? else {
            return Ok(Some(AuthorizationLost.to_string()));
        };
        let context = bus::Context {
            run: self.run.clone(),
            parent: Some(call.caller.unwrap_or_else(|| self.turn.clone())),
            depth: self.depth.saturating_add(1),
            deadline: run.deadline,
            speaker: call.speaker.or_else(|| Some(run.agent.as_str().to_owned())),
            authorized: authorization.is_some(),
            left_micros: self.left_micros(),
        };
        let opening = Opening {
            session: run.session.clone(),
            key: run.key,
            agent: run.agent.clone(),
            body,
            context,
            called_by: CalledBy {
                session: self.session.clone(),
                turn: self.turn.clone(),
            },
            authorization,
        };
        match self.cpu.waiting(peers.open(opening)).await {
            Ok(()) => Ok(None),
            Err(Lost::Because(why)) => Ok(Some(why)),
            Err(Lost::Stopping) => std::future::pending().await,
        }
    }

    /// Wait for the reply of a call.
    pub(in crate::runtime) async fn take_reply(
        &self,
        run: Run,
    ) -> Result<Result<Reply, NoReply>, Stop> {
        self.count()?;
        let mut text = String::new();
        let asked = || format!("takes the reply of call {}", run.n);
        loop {
            match self.recorded_part(asked)? {
                Some(recorded) => match recorded.payload {
                    Payload::Streamed(it) if it.n == run.n => text.push_str(&words(&it.pieces)),
                    Payload::Returned(it) if it.n == run.n && it.result != CallResult::Dropped => {
                        let back = Came {
                            result: it.result,
                            turn: it.child,
                            usage: it.usage,
                        };
                        return Ok(told(&run, back, text));
                    }
                    _ => return Err(self.differs(&recorded, asked())),
                },
                None => return self.reply_of(run, text).await,
            }
        }
    }

    /// At the live edge: what of the reply is not in the record.
    async fn reply_of(&self, mut run: Run, before: String) -> Result<Result<Reply, NoReply>, Stop> {
        // What was said before the wait is shown during it.
        self.ledger.flush();
        let outcome = self.cpu.waiting(self.outcome(&run)).await;
        if let Some(admitted) = run.admitted.take() {
            admitted.worked(outcome.as_ref().map_or(Works::No, |outcome| outcome.works));
        }
        let (result, text, child, used) = match outcome {
            Ok(outcome) => {
                let used = Used::Nested(outcome.usage);
                (result(outcome.error), outcome.text, outcome.turn, used)
            }
            Err(why) => (failed("other", why), String::new(), None, Used::Nothing),
        };
        // The record may have been cut in the middle of the reply.
        let rest = text.get(before.len()..).unwrap_or_default();
        let mut pieces = Vec::new();
        let mut left = rest;
        while !left.is_empty() {
            let (piece, more) = left.split_at(left.floor_char_boundary(PIECE_BYTES_MAX));
            pieces.push(vec![Piece::Text(piece.to_owned())]);
            left = more;
        }
        let mut back = Back::new(run.n, result);
        back.child = child;
        back.used = used;
        let (result, turn) = (back.result.clone(), back.child.clone());
        let usage = self.returned_with(back, pieces)?;
        let came = Came {
            result,
            turn,
            usage,
        };
        Ok(told(&run, came, before + rest))
    }

    async fn outcome(&self, run: &Run) -> Result<Outcome, String> {
        if let Some(why) = &run.lost {
            return Err(why.clone());
        }
        let Some(peers) = &self.peers else {
            return Err("there is nobody to wait for here".into());
        };
        let outcome = peers.outcome(run.session.clone(), run.key);
        let outcome = match run.deadline {
            None => outcome.await,
            Some(deadline) => {
                let left = deadline.ms_since(self.ledger.clock().now());
                let left = std::time::Duration::from_millis(left);
                match tokio::time::timeout(left, outcome).await {
                    Ok(outcome) => outcome,
                    Err(_) => Ok(Outcome {
                        turn: None,
                        text: String::new(),
                        error: Some(ChildError::Deadline),
                        usage: Usage::default(),
                        works: Works::Unsaid,
                    }),
                }
            }
        };
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(Lost::Because(why)) => Err(why),
            Err(Lost::Stopping) => std::future::pending().await,
        }
    }

    /// The guest lets go of a call.
    pub(in crate::runtime) fn drop_run(&self, run: &Run) -> Result<(), Stop> {
        let asked = || format!("gives call {} up", run.n);
        if let Some(recorded) = self.recorded(asked)? {
            return match &recorded.payload {
                Payload::Returned(it) if it.n == run.n && it.result == CallResult::Dropped => {
                    Ok(())
                }
                _ => Err(self.differs(&recorded, asked())),
            };
        }
        self.returned(Back::new(run.n, CallResult::Dropped), &[])
            .map(drop)
    }
}

/// What the call asks, for replay: the same call asks the same.
fn request(call: &NestedCall<'_>) -> Digest {
    let body = call
        .body
        .as_ref()
        .map_or_else(|_| String::new(), Value::to_string);
    let timeout = call
        .timeout_ms
        .map_or_else(String::new, |ms| ms.to_string());
    let session = call.session.as_ref().map_or("", SessionId::as_str);
    let parts = [call.agent, &body, &timeout, session];
    Digest::of_parts(&parts.map(str::as_bytes))
}

fn words(pieces: &[Piece]) -> String {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => Some(text.clone()),
        Piece::ToolCall { .. } | Piece::Finished { .. } => None,
    };
    pieces.iter().filter_map(text).collect()
}

fn result(error: Option<ChildError>) -> CallResult {
    match error {
        None => CallResult::Ok,
        Some(ChildError::Interrupted) => failed("interrupted", String::new()),
        Some(ChildError::Cancelled) => failed("cancelled", String::new()),
        Some(ChildError::Deadline) => failed("deadline", String::new()),
        Some(ChildError::Failed(why)) => failed("failed", why),
    }
}

fn failed(error: &str, detail: String) -> CallResult {
    CallResult::Failed {
        error: error.to_owned(),
        status: 0,
        detail: detail.chars().take(DETAIL_CHARS_MAX).collect(),
    }
}

/// How a call came back, as its entry says.
struct Came {
    result: CallResult,
    turn: Option<TurnId>,
    usage: Usage,
}

/// What the guest is told, from the entry.
fn told(run: &Run, came: Came, text: String) -> Result<Reply, NoReply> {
    match came.result {
        CallResult::Ok => Ok(Reply {
            text,
            session: run.session.clone(),
            turn: came.turn,
            usage: came.usage,
        }),
        CallResult::Dropped => Err(NoReply::Cancelled),
        CallResult::Failed { error, detail, .. } => Err(match error.as_str() {
            "interrupted" => NoReply::Interrupted(text),
            "cancelled" => NoReply::Cancelled,
            "deadline" => NoReply::Deadline,
            "failed" => NoReply::Failed {
                why: detail,
                said: text,
            },
            _ => NoReply::Other(detail),
        }),
    }
}
