//! `antiphon resume`: give a suspended agent turns again.

use antiphon::id::{AgentName, Author, SessionId};

use super::client::{CallError, Client};
use super::place::{Remote, agent_name, author, session_id};
use super::term::out;

/// Give an agent that failed too often in a session turns again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon resume s-0193 poet")]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// Who asks for it
    #[arg(long = "as", value_name = "NAME", value_parser = author)]
    author: Option<Author>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    client
        .resume(&args.session, &args.agent, args.author.as_ref())
        .await
        .map_err(CallError::explain)?;
    Ok(out(&format!("{} gets turns again\n", args.agent))?)
}
