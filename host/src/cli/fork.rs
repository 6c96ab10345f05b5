//! `antiphon fork`: a new session from the beginning of another one.

use antiphon::id::SessionId;

use super::client::{CallError, Client};
use super::place::{Remote, session_id};
use super::term::out;

/// Make a new session from a place in another one
///
/// Both go on from there, each by itself. The new session's name goes to stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon fork s-0192f0 --at 17\n\n\
    `antiphon journal SESSION` shows the numbers of its entries.")]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// The last entry that both share: its number or its offset. Without it, the newest
    #[arg(long, value_name = "OFFSET", value_parser = place)]
    at: Option<Place>,
    /// Name the new session
    #[arg(long = "as", value_name = "NAME", value_parser = session_id)]
    name: Option<SessionId>,
    #[command(flatten)]
    remote: Remote,
}

/// As the server takes it.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Place {
    Number(u64),
    Offset(String),
}

fn place(text: &str) -> Result<Place, String> {
    if let Ok(number) = text.parse() {
        return Ok(Place::Number(number));
    }
    text.parse::<antiphon::id::Offset>()
        .map(|_| Place::Offset(text.to_owned()))
        .map_err(|error| format!("neither the number of an entry nor an offset: {error}"))
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let fork = client
        .fork(&args.session, args.at.as_ref(), args.name.as_ref())
        .await
        .map_err(CallError::explain)?;
    Ok(out(&format!("{}\n", fork.session))?)
}
