//! An agent whose messages say what it does, for tests of the layers above: it makes the
//! scope's calls as the host interfaces do, without a component.
//!
//! A message is steps with `;` between: `say WORDS`, `model WORDS` (a model call whose answer is
//! said), `lock SLOT`, `commit SLOT TEXT`, `free SLOT`, `send AGENT STEPS` (with `,` for
//! `;`), `read SLOT`, `wake MS`, `sleep MS`, `leave` (what it pulled), `fail`, `panic`, `hang`. A turn that
//! takes no message says which slots and wake-ups it was started for.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::id::{AgentName, MessageId, SlotName};
use crate::journal::entry::MessageSent;
use crate::journal::entry::{
    CallKind, CallResult, Cause, Content, Failure, Observation, Observed, Payload, Piece,
    SlotCommitted, SlotCommittedPrivate, SlotLocked, SlotReleased, TurnError, Usage, Writer,
};
use crate::ledger::AppendError;

use super::instance::{Exit, Input};
use super::scope::{Scope, Stop};

/// How a step ends the turn, if it does.
enum End {
    Stop(Stop),
    Failed,
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

pub(crate) async fn start(scope: Arc<Scope>, input: Input) -> Exit {
    let mut wake_at = None;
    match run(&scope, &input, &mut wake_at).await {
        Ok(()) => Exit::Completed {
            wake_at,
            context: Vec::new(),
        },
        Err(End::Stop(Stop::Over)) => Exit::Over,
        Err(End::Stop(Stop::Dead(dead))) => Exit::Dead(dead),
        Err(End::Stop(Stop::Limit(_) | Stop::Read(_)) | End::Failed) => Exit::Failed {
            error: TurnError {
                code: Failure::Agent,
                message: "as the script wants".into(),
            },
            backtrace: None,
            stderr: None,
        },
    }
}

async fn run(scope: &Scope, input: &Input, wake_at: &mut Option<Time>) -> Result<(), End> {
    let messages: Vec<MessageId> = input.messages.iter().map(|it| it.message.clone()).collect();
    let pulled = messages.clone();
    scope.observe(|_| ((), Observation::MailboxPulled { messages: pulled }))?;
    for cause in &input.causes {
        match cause {
            Cause::Messages => {}
            Cause::Slot(slot) => say(scope, &format!("saw {slot}."))?,
            Cause::Wake => say(scope, "awake.")?,
        }
    }
    for message in messages {
        let entry = scope
            .ledger
            .entry(message.seq())
            .await
            .map_err(Stop::Read)?;
        let entry = entry
            .expect("it was pulled")
            .decode()
            .expect("it was written by this host");
        let (Payload::MessageReceived(crate::journal::entry::MessageReceived { body, .. })
        | Payload::MessageSent(MessageSent { body, .. })) = entry.payload
        else {
            unreachable!("a message id names a message");
        };
        for line in body.as_str().expect("a script is text").split(';') {
            step(scope, &message, line.trim(), wake_at).await?;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

async fn step(
    scope: &Scope,
    message: &MessageId,
    line: &str,
    wake_at: &mut Option<Time>,
) -> Result<(), End> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "say" => say(scope, rest)?,
        "model" => model(scope, rest).await?,
        "lock" | "commit" | "free" => slot(scope, verb, rest)?,
        "read" => {
            let slot = SlotName::new(rest).expect("a slot");
            scope.observe(|batch| {
                let version = batch
                    .state()
                    .slots
                    .get(&slot)
                    .and_then(|it| Some(it.document.as_ref()?.version));
                (
                    (),
                    Observation::SlotRead {
                        slot,
                        version,
                        holder: None,
                    },
                )
            })?;
        }
        "send" => send(scope, rest)?,
        "wake" => {
            *wake_at = Some(
                scope
                    .ledger
                    .clock()
                    .now()
                    .plus_ms(rest.parse().expect("ms")),
            )
        }
        "sleep" => {
            scope.ledger.flush();
            tokio::time::sleep(Duration::from_millis(rest.parse().expect("ms"))).await;
        }
        "leave" => scope.observe(|_| {
            (
                (),
                Observation::MailboxLeft {
                    message: message.clone(),
                },
            )
        })?,
        "fail" => return Err(End::Failed),
        "panic" => panic!("as the script wants"),
        "hang" => {
            scope.ledger.flush();
            std::future::pending::<()>().await;
        }
        other => panic!("no such step: {other:?}"),
    }
    Ok(())
}

fn say(scope: &Scope, text: &str) -> Result<(), Stop> {
    scope.count()?;
    let said = scope
        .ledger
        .say(&scope.turn, text, |_| Ok::<_, std::convert::Infallible>(()));
    match said {
        Ok(()) => Ok(()),
        Err(AppendError::Dead(dead)) => Err(Stop::Dead(dead)),
        Err(AppendError::Refused(never)) => match never {},
    }
}

/// Recorded and durable, then made; each piece recorded before it is said.
async fn model(scope: &Scope, answer: &str) -> Result<(), Stop> {
    let n = scope.called(CallKind::Model, "default", answer.as_bytes())?;
    let called = scope.ledger.look(|state| state.last);
    scope.ledger.durable(called).await.map_err(Stop::Dead)?;
    for word in answer.split_inclusive(' ') {
        scope.streamed(n, vec![Piece::Text(word.to_owned())])?;
        say(scope, word)?;
        tokio::task::yield_now().await;
    }
    let usage = Usage {
        model_calls: 1,
        ..Usage::default()
    };
    scope.returned(n, CallResult::Ok, Some(usage), &[])?;
    scope.ledger.flush();
    Ok(())
}

fn slot(scope: &Scope, verb: &str, rest: &str) -> Result<(), Stop> {
    let (slot, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let slot = SlotName::new(slot).expect("a slot");
    let turn = scope.turn.clone();
    scope.append(|batch, n| {
        let holder = batch
            .state()
            .slots
            .get(&slot)
            .and_then(|it| it.lock.clone());
        let mine = holder.as_ref() == Some(&turn);
        let observed = |what| {
            Payload::Observed(Observed {
                turn: turn.clone(),
                n,
                what,
            })
        };
        let payload = match verb {
            "lock" if holder.is_none() => Payload::SlotLocked(SlotLocked {
                slot,
                turn: turn.clone(),
                n,
            }),
            "free" if mine => Payload::SlotReleased(SlotReleased {
                slot,
                turn: turn.clone(),
                n,
            }),
            "commit" if mine => {
                let agents = batch.state().participants.keys();
                let wakes = agents
                    .filter(|agent| **agent != scope.agent && (scope.watches)(agent, &slot))
                    .cloned()
                    .collect();
                Payload::SlotCommitted(SlotCommitted {
                    version: batch.next_seq(),
                    slot,
                    by: Writer::Agent(scope.agent.clone()),
                    bytes: text.len() as u64,
                    turn: Some(turn.clone()),
                    n,
                    private: SlotCommittedPrivate {
                        content: Content::Inline {
                            text: text.to_owned(),
                        },
                        wakes,
                    },
                })
            }
            _ => observed(Observation::CommitRefused {
                slot,
                error: "lost".into(),
            }),
        };
        batch.push(payload);
    })
}

fn send(scope: &Scope, rest: &str) -> Result<(), Stop> {
    let (to, body) = rest.split_once(' ').expect("send AGENT STEPS");
    let to = AgentName::new(to).expect("an agent");
    scope.append(|batch, n| {
        let message = MessageId::of(&scope.session, batch.next_seq());
        batch.push(Payload::MessageSent(MessageSent {
            message,
            from: scope.agent.clone(),
            to,
            body: body.replace(',', ";").into(),
            turn: scope.turn.clone(),
            n,
        }));
    })
}
