//! `antiphon store`: look at a store and move what is in it, while no server has it open.
//!
//! A damaged page can make a read take for ever, so `check` does its work in a child
//! process, which has a deadline.

use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use antiphon::store::{check, transfer};
use anyhow::Context;

use super::fault::{Hint, SaidAlready, hinted};
use super::term::out;

/// Where a data folder holds the store.
const STORE: &str = "store";

/// Check, export or import a store
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon store export > backup.jsonl\n\n\
    The server must not be running.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
    /// The data folder
    #[arg(
        long,
        env = "ANTIPHON_DATA",
        value_name = "FOLDER",
        default_value = "antiphon-data",
        global = true
    )]
    data: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Read everything and say whether it is whole
    Check {
        /// A store that takes longer counts as damaged
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
        deadline: Duration,
    },
    /// Write everything to stdout, a line of JSON each
    Export,
    /// Fill an empty data folder from an export on stdin
    Import,
    /// What `check` does in its child process
    #[command(hide = true)]
    CheckHere,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let store = args.data.join(STORE);
    match args.action {
        Action::Check { deadline } => check_in_child(&args.data, deadline),
        Action::CheckHere => check_here(&store),
        Action::Export => {
            let stdout = BufWriter::new(std::io::stdout().lock());
            let damaged = transfer::export(&store, stdout)
                .hint("stop the server first, and name its data folder with --data")?;
            if damaged > 0 {
                tracing::warn!(
                    "{damaged} damaged rows stand in the export as they are stored; \
                     `antiphon store check` names them"
                );
            }
            Ok(())
        }
        Action::Import => {
            std::fs::create_dir_all(&args.data)
                .with_context(|| format!("cannot make {}", args.data.display()))?;
            let stdin = BufReader::new(std::io::stdin().lock());
            transfer::import(&store, stdin)
                .hint("the folder holds a part of it now: throw it away before trying again")
        }
    }
}

fn check_in_child(data: &Path, deadline: Duration) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's own path")?;
    let mut child = Command::new(program)
        .args(["store", "check-here", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the checking process")?;
    let (waited, finished) = std::sync::mpsc::sync_channel(1);
    let id = child.id();
    std::thread::spawn(move || {
        // The receiver is gone when the deadline has passed; then nobody wants to know.
        let _ = waited.send(child.wait());
    });
    match finished.recv_timeout(deadline) {
        Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
        Ok(Ok(status)) if status.code().is_some() => Err(SaidAlready.into()),
        Ok(_) => anyhow::bail!("the checking process broke down: the store is damaged"),
        Err(_) => {
            kill(id);
            Err(hinted(
                format!(
                    "the check did not end within {}",
                    humantime::format_duration(deadline)
                ),
                "a damaged page can hold a reader for ever; restore a backup, or allow more \
                 time with --deadline",
            ))
        }
    }
}

fn kill(id: u32) {
    let id = i32::try_from(id)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // Gone already is as good.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
}

fn check_here(store: &Path) -> anyhow::Result<()> {
    let report =
        check::check(store).hint("stop the server first, and name its data folder with --data")?;
    out(&format!(
        "{} journals, {} entries, {} snapshots, {} values, {} records, {} pieces of streams\n",
        report.journals,
        report.entries,
        report.snapshots,
        report.values,
        report.records,
        report.pieces
    ))?;
    for journal in &report.half_removed {
        out(&format!("being removed: {journal}\n"))?;
    }
    for problem in &report.problems {
        out(&format!("damaged: {problem}\n"))?;
    }
    match report.problem_count {
        0 => Ok(out("sound\n")?),
        count => anyhow::bail!("{count} rows are damaged"),
    }
}
