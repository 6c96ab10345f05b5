//! `antiphon build`.

use std::path::PathBuf;

use antiphon::guest::{self, BuildError};

use super::fault::hinted;
use super::term;

/// Build an agent's component from its crate
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon build poet\n\n\
    Prints the component's path. Function names stay in it, so that a trap can be read.")]
pub(super) struct Args {
    /// The crate's folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    for component in guest::build(&args.path, &[]).map_err(explain)? {
        term::out(&format!("{}\n", component.display()))?;
    }
    Ok(())
}

pub(super) fn explain(error: BuildError) -> anyhow::Error {
    let hint = match &error {
        BuildError::NoManifest(_) => "`antiphon new NAME` makes a crate",
        BuildError::NotStarted { .. } => "Rust is needed to build agents: https://rustup.rs",
        BuildError::Failed(_) => "the compiler's messages are above",
        BuildError::NoTarget
        | BuildError::TargetNotAdded(_)
        | BuildError::NoComponent(_)
        | BuildError::SeveralComponents(_) => return error.into(),
    };
    hinted(error.to_string(), hint)
}
