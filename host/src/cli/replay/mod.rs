//! `antiphon replay`: a recorded turn run again on this machine, every call answered from its
//! journal, to the end or to where it first differs.

mod fetch;
mod report;

use std::path::{Path, PathBuf};

use antiphon::id::SessionId;
use antiphon::logs::{Line, Source};
use antiphon::model::Request;
use antiphon::session::replay::{self, CaseError, Replayed};
use anyhow::Context;

use super::client::Client;
use super::fault::{Hint, SaidAlready, hinted};
use super::place::{Remote, session_id};
use super::term::{Paint, Style, out, tame};
use fetch::{Wanted, fetch, pinned};
use report::Report;

pub(super) use fetch::Turn;

/// Run a recorded turn again here, without network, and say where it differs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  antiphon replay s-0192f0 3\n  \
                  antiphon replay s-0192f0 3 --component $(antiphon build)\n\n\
                  Every call is answered from the journal: no model is asked and nothing is written.\n\
                  Exit code 0: it does the same. 1: it differs, or cannot be replayed.")]
pub(super) struct Args {
    #[arg(value_parser = session_id)]
    session: SessionId,
    /// The turn's id, or the number that `antiphon journal` names it by
    #[arg(value_parser = Wanted::parse)]
    turn: Wanted,
    /// Run this component; without it, the one that the turn ran with
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    // Before anything is asked for: a wrong path is found at once.
    let own = args.component.as_deref().map(read).transpose()?;
    let recorded = fetch(&client, &args.session, &args.turn).await?;
    let case = &recorded.case;
    let component = match &own {
        Some(component) => component.clone(),
        None => pinned(&client, &recorded).await?,
    };
    let replayed = replay::run(case, &component).await.map_err(explain)?;
    show(&replayed.lines);
    let then = match &own {
        Some(_) => asked_then(&client, &recorded, &replayed).await,
        None => None,
    };
    let report = Report {
        recorded: &recorded,
        is_own: own.is_some(),
        replayed: &replayed,
        asked_then: then.as_ref(),
    };
    out(&if args.json {
        format!("{}\n", report.json())
    } else {
        report.text(Paint::stdout())
    })?;
    match replayed.difference {
        None => Ok(()),
        // What was asked for has been said, and it is a no.
        Some(_) => Err(SaidAlready.into()),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path)
        .with_context(|| format!("cannot read {}", path.display()))
        .hint("`antiphon build` makes a component")
}

/// What the recorded component asked the model where the new one asks something else: it is
/// asked again, for the journal has only a digest. None if that cannot be had.
async fn asked_then(
    client: &Client,
    recorded: &fetch::Recorded,
    replayed: &Replayed,
) -> Option<Request> {
    let difference = replayed.difference.as_ref()?;
    difference.request.as_ref()?;
    let component = pinned(client, recorded).await.ok()?;
    replay::request_at(&recorded.case, &component, difference.at?)
        .await
        .ok()?
}

fn explain(error: CaseError) -> anyhow::Error {
    let hint = match &error {
        CaseError::NotEnded(_) => "a turn can be replayed when it has ended",
        CaseError::Component(_) => "`antiphon build` makes a component that can be an agent",
        CaseError::Decode(_) | CaseError::Illegal(_) => {
            "the server may be newer: replay with its version of antiphon"
        }
        _ => return error.into(),
    };
    hinted(error.to_string(), hint)
}

/// What the component printed and logged, apart from what was asked for.
fn show(lines: &[std::sync::Arc<Line>]) {
    let paint = Paint::stderr();
    if let Some(missing) = lines.first().map(|line| line.number - 1)
        && missing > 0
    {
        eprintln!("{missing} lines before these were not kept");
    }
    for line in lines {
        let name = match line.source {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
            Source::Log => line.level.unwrap_or("log"),
            Source::Host => "host",
        };
        let mut text = format!(
            "{} {}",
            paint.paint(Style::Name, &format!("{name:<6}")),
            tame(&line.text)
        );
        for (name, value) in &line.fields {
            text.push_str(&format!(" {name}={}", tame(value)));
        }
        eprintln!("{}", text.trim_end());
    }
}
