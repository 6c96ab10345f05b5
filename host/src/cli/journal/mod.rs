//! `antiphon journal`: a conversation event by event.
//!
//! With a key that may inspect it is told from all entries of the journal, else from those
//! that are events: what people saw, without calls, locks and what agents read.

mod asked;
mod calls;
mod fields;
mod open;
mod speakers;
mod story;
mod table;
mod tell;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use antiphon::id::SessionId;
use tokio::time::Instant;

use super::client::{CallError, Client, Page};
use super::event::Event;
use super::follow::{Update, follow};
use super::place::{Remote, session_id};
use super::server::asked_to_stop;
use super::term::{Paint, out, width};
use story::Story;

pub(super) use table::Table;

/// Entries that are no events ring no bell, so whoever follows them looks this often. It
/// is what a person takes for at once, and a burden for no server.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Words that go on longer than this are shown as far as they are: a line per word would be
/// no text, and nobody watches a still screen for long.
const BREATH_MAX: Duration = Duration::from_secs(1);

/// Show what happened in a session, event by event
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  antiphon journal s-0192f0 --follow\n  \
                        antiphon journal s-0192f0 --full | less -R")]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// Go on showing events as they happen
    #[arg(long, short)]
    follow: bool,
    /// Texts and private parts whole, not cut to one line
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Only what people saw, also with a key that may inspect
    #[arg(long)]
    events: bool,
    /// One entry per line as JSON, as the server sends it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Which entries are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    All,
    Events,
}

impl Reading {
    async fn page(
        self,
        client: &Client,
        session: &SessionId,
        offset: &str,
    ) -> Result<Page, CallError> {
        match self {
            Self::All => client.journal(session, offset).await,
            Self::Events => client.events(session, offset).await,
        }
    }
}

/// Where the lines go, and in which form.
enum Printer {
    Json,
    Story { story: Box<Story>, table: Table },
}

impl Printer {
    fn page(&mut self, events: &[Event]) -> std::io::Result<()> {
        match self {
            Self::Json => {
                let lines: String = events
                    .iter()
                    .map(|event| event.raw.clone() + "\n")
                    .collect();
                out(&lines)
            }
            Self::Story { story, table } => {
                let lines: Vec<_> = events.iter().flat_map(|event| story.next(event)).collect();
                out(&table.text(&lines))
            }
        }
    }

    /// Nobody waits for the rest of a sentence.
    fn pause(&mut self) -> std::io::Result<()> {
        match self {
            Self::Json => Ok(()),
            Self::Story { story, table } => out(&table.text(&story.breathe())),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Json => Ok(()),
            Self::Story { story, table } => out(&table.text(&story.finish())),
        }
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let session = &args.session;
    let mut offset = "-1".to_owned();
    let mut reading = match args.events {
        true => Reading::Events,
        false => Reading::All,
    };
    if reading == Reading::All
        && let Err(error) = client.journal(session, &offset).await
    {
        if !error.is("insufficient_scope") {
            return Err(error.explain());
        }
        eprintln!("this key may not inspect: only what people saw is shown");
        reading = Reading::Events;
    }
    let mut printer = if args.json {
        Printer::Json
    } else {
        Printer::Story {
            story: Box::default(),
            table: Table::new(Paint::stdout(), width(), args.full),
        }
    };
    catch_up(&client, session, reading, &mut offset, &mut printer)
        .await?
        .map_err(CallError::explain)?;
    if !args.follow {
        return Ok(printer.finish()?);
    }
    printer.pause()?;
    let mut updates = follow(client.clone(), args.session.clone(), offset.clone());
    let mut paused = Instant::now();
    loop {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = tokio::time::sleep(LOOK_AGAIN) => Some(Update::Connected),
            () = asked_to_stop() => return Ok(printer.finish()?),
        };
        let is_quiet = matches!(update, Some(Update::Connected));
        match update {
            // It rang for what a page before has shown already.
            Some(Update::Event(event)) if event.offset <= offset => {}
            Some(Update::Event(event)) if reading == Reading::Events => {
                printer.page(std::slice::from_ref(&*event))?;
                offset = event.offset;
            }
            Some(Update::Event(_) | Update::Connected) if reading == Reading::All => {
                let caught = catch_up(&client, session, reading, &mut offset, &mut printer).await?;
                // Whoever rings says when a server that has gone is there again.
                if let Err(error) = caught
                    && !error.is_transient()
                {
                    return Err(error.explain());
                }
            }
            Some(Update::Event(_) | Update::Connected) => {}
            Some(Update::Reconnecting) => eprintln!("reconnecting…"),
            Some(Update::Failed(error)) => return Err(error.explain()),
            None => return Ok(()),
        }
        if is_quiet || paused.elapsed() >= BREATH_MAX {
            printer.pause()?;
            paused = Instant::now();
        }
    }
}

/// Print everything from an offset to the end as it is now, and move the offset there.
async fn catch_up(
    client: &Client,
    session: &SessionId,
    reading: Reading,
    offset: &mut String,
    printer: &mut Printer,
) -> std::io::Result<Result<(), CallError>> {
    loop {
        let page = match reading.page(client, session, offset).await {
            Ok(page) => page,
            Err(error) => return Ok(Err(error)),
        };
        printer.page(&page.events)?;
        let is_stuck = page.offset == *offset;
        *offset = page.offset;
        if page.up_to_date || is_stuck {
            return Ok(Ok(()));
        }
    }
}

/// Print a session's events as they are now.
pub(super) async fn show(client: &Client, session: &SessionId, table: Table) -> anyhow::Result<()> {
    let mut printer = Printer::Story {
        story: Box::default(),
        table,
    };
    let mut offset = "-1".to_owned();
    catch_up(client, session, Reading::Events, &mut offset, &mut printer)
        .await?
        .map_err(CallError::explain)?;
    Ok(printer.finish()?)
}
