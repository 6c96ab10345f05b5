//! `antiphon journal`: a conversation event by event.

use antiphon::id::SessionId;

use super::client::{CallError, Client};
use super::event::{Event, Table, in_breaths};
use super::follow::{Update, follow};
use super::place::{Remote, session_id};
use super::server::asked_to_stop;
use super::term::{Paint, out};

/// Show what happened in a session, event by event
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon journal s-0192f0 --follow")]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// Go on showing events as they happen
    #[arg(long, short)]
    follow: bool,
    /// One event per line as JSON, as the server sends it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let mut table = Table::new(Paint::stdout());
    let (events, offset) = all(&client, &args.session)
        .await
        .map_err(CallError::explain)?;
    let json = |event: &Event| format!("{}\n", event.raw);
    let shown: String = if args.json {
        events.iter().map(json).collect()
    } else {
        in_breaths(&events)
            .iter()
            .map(|event| table.line(event))
            .collect()
    };
    if !args.json {
        out(&table.head())?;
    }
    out(&shown)?;
    if !args.follow {
        return Ok(());
    }
    let mut updates = follow(client, args.session, offset);
    loop {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = asked_to_stop() => return Ok(()),
        };
        match update {
            Some(Update::Event(event)) if args.json => out(&json(&event))?,
            Some(Update::Event(event)) => out(&table.line(&event))?,
            Some(Update::Reconnecting) => eprintln!("reconnecting…"),
            Some(Update::Connected) => {}
            Some(Update::Failed(error)) => return Err(error.explain()),
            None => return Ok(()),
        }
    }
}

/// Every event so far, and the offset after the last.
pub(super) async fn all(
    client: &Client,
    session: &SessionId,
) -> Result<(Vec<Event>, String), CallError> {
    let mut offset = "-1".to_owned();
    let mut all = Vec::new();
    loop {
        let page = client.events(session, &offset).await?;
        all.extend(page.events);
        if page.up_to_date || page.offset == offset {
            return Ok((all, page.offset));
        }
        offset = page.offset;
    }
}
