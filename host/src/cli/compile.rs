//! `antiphon compile`: what a server runs to compile a component. Not for people.

use std::process::ExitCode;

use antiphon::runtime::compiler::{self, ChildLimits};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long)]
    ms_max: u64,
    #[arg(long)]
    memory_bytes_max: u64,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let code = compiler::child(ChildLimits {
        ms_max: args.ms_max,
        memory_bytes_max: args.memory_bytes_max,
    })?;
    Ok(ExitCode::from(code))
}
