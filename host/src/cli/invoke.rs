//! `antiphon invoke`: one turn, its words as they are said.

use antiphon::id::{AgentName, SessionId, TurnId};
use antiphon::journal::entry::{Outcome, Payload, TurnEnded};
use serde_json::json;

use super::client::{CallError, Client};
use super::fault::{Interrupted, hinted};
use super::follow::{Stream, Update, follow};
use super::place::{Remote, agent_name, author, session_id};
use super::server::asked_to_stop;
use super::sse::Place;
use super::term::{out, tame};

/// Send one message and show the reply
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  antiphon invoke poet \"four lines on rain\"\n\n\
    The reply goes to stdout as it is made. Exit code 1, and the reason on stderr, if the\n\
    turn failed."
)]
pub(super) struct Args {
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// What to say
    text: String,
    /// In this session; without it in one of its own
    #[arg(long, value_parser = session_id)]
    session: Option<SessionId>,
    /// Who says it
    #[arg(long = "as", value_name = "NAME", value_parser = author)]
    author: Option<antiphon::id::Author>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let turn = tokio::select! {
        turn = invoke(&client, &args) => turn?,
        () = asked_to_stop() => return Err(Interrupted.into()),
    };
    match turn.outcome {
        Outcome::Completed => Ok(()),
        Outcome::Interrupted => {
            eprintln!("interrupted");
            Ok(())
        }
        outcome => {
            let why = turn.error.as_ref().map_or_else(String::new, |error| {
                format!(" ({}): {}", error.code.name(), error.message)
            });
            let message = format!(
                "the turn {}{why}",
                match outcome {
                    Outcome::Failed => "failed",
                    _ => outcome.name(),
                }
            );
            Err(hinted(
                message,
                format!("antiphon logs {} says what it printed", args.agent),
            ))
        }
    }
}

/// The words of the one turn that takes the message.
#[derive(Debug, Default)]
struct Reply {
    turn: Option<TurnId>,
    ends_line: bool,
}

impl Reply {
    /// Show what the event adds; the turn's end, if it is that.
    fn event(
        &mut self,
        agent: &AgentName,
        payload: Option<Payload>,
    ) -> anyhow::Result<Option<TurnEnded>> {
        match payload {
            Some(Payload::TurnStarted(turn)) if turn.agent == *agent => {
                self.turn.get_or_insert(turn.turn);
            }
            Some(Payload::Spoke(spoke)) if self.is_ours(&spoke.turn, &spoke.agent, agent) => {
                out(&tame(&spoke.text))?;
                self.ends_line = spoke.text.ends_with('\n');
            }
            Some(Payload::TurnEnded(turn)) if self.is_ours(&turn.turn, &turn.agent, agent) => {
                if !self.ends_line {
                    out("\n")?;
                }
                return Ok(Some(turn));
            }
            _ => {}
        }
        Ok(None)
    }

    fn is_ours(&self, turn: &TurnId, by: &AgentName, agent: &AgentName) -> bool {
        self.turn.as_ref().map_or(by == agent, |ours| ours == turn)
    }
}

async fn invoke(client: &Client, args: &Args) -> anyhow::Result<TurnEnded> {
    let mut body = json!({"body": args.text});
    if let Some(session) = &args.session {
        body["session"] = session.as_str().into();
    }
    if let Some(author) = &args.author {
        body["author"] = author.as_str().into();
    }
    let (session, response) = client
        .invoke_stream(&args.agent, &body)
        .await
        .map_err(CallError::explain)?;
    let mut reply = Reply::default();
    let mut place = Place::default();
    let mut stream = Stream::new(response);
    while let Ok(Some(event)) = stream.next(&mut place).await {
        if let Some(turn) = reply.event(&args.agent, event.payload)? {
            return Ok(turn);
        }
    }

    // The connection was cut; the turn was not.
    let session = session.or_else(|| args.session.clone());
    let (Some(session), Some(offset)) = (session, place.offset()) else {
        anyhow::bail!("the connection was cut before the reply began");
    };
    eprintln!("reconnecting…");
    let mut updates = follow(client.clone(), session, offset.to_owned());
    while let Some(update) = updates.recv().await {
        match update {
            Update::Event(event) => {
                if let Some(turn) = reply.event(&args.agent, event.payload)? {
                    return Ok(turn);
                }
            }
            Update::Failed(error) => return Err(error.explain()),
            Update::Reconnecting | Update::Connected => {}
        }
    }
    anyhow::bail!("the connection was lost")
}
