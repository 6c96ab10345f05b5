//! The command line: arguments -> one file per command -> exit code.
//!
//! Exit codes: 0 it happened, 1 it did not (one line on stderr says why, a second what
//! to do), 2 the command line was wrong, 130 interrupted.
//! What is asked for goes to stdout, everything else to stderr.
//! The commands that talk to a server know it only through HTTP ([`client`]), also when
//! it runs in the same process: what they show works for everybody.

mod answer;
mod build;
mod chat;
mod client;
mod compile;
mod deploy;
mod dev;
mod embedded;
mod event;
mod fault;
mod follow;
mod fork;
mod invoke;
mod journal;
mod key;
mod logs;
mod new;
mod place;
mod questions;
mod quickstart;
mod replay;
mod resume;
mod secret;
mod serve;
mod server;
mod sse;
mod store;
mod tenant;
mod term;
mod usage;
mod voices;

use std::future::Future;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Run AI agents that remember: durable sessions, sandboxed WebAssembly agents, one binary.
#[derive(Debug, Parser)]
#[command(
    name = "antiphon",
    version,
    max_term_width = 96,
    subcommand_required = true
)]
#[command(after_help = "Start here:\n  antiphon quickstart\n\n\
    Commands that talk to a server find it, and its key, in the data folder of a local one\n\
    (./antiphon-data); or say --url and --key, or ANTIPHON_URL and ANTIPHON_KEY.")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::Args),
    Serve(serve::Args),
    New(new::Args),
    Build(build::Args),
    /// Compile a component from stdin to stdout, for the server that runs this
    #[command(hide = true)]
    Compile(compile::Args),
    Deploy(deploy::Args),
    Dev(dev::Args),
    Invoke(invoke::Args),
    Chat(chat::Args),
    Answer(answer::Args),
    Fork(fork::Args),
    Journal(journal::Args),
    Replay(replay::Args),
    Logs(logs::Args),
    Resume(resume::Args),
    Secret(secret::Args),
    Usage(usage::Args),
    Key(key::Args),
    Tenant(tenant::Args),
    Store(store::Args),
}

pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let quiet = !matches!(args.command, Command::Serve(_));
    start_logging(if quiet { "warn" } else { "info" });
    let result = match args.command {
        Command::Quickstart(args) => block_on(quickstart::run(args)),
        Command::Serve(args) => block_on(serve::run(args)),
        Command::New(args) => new::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Compile(args) => match compile::run(&args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Deploy(args) => block_on(deploy::run(args)),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Invoke(args) => block_on(invoke::run(args)),
        Command::Chat(args) => block_on(chat::run(args)),
        Command::Answer(args) => block_on(answer::run(args)),
        Command::Fork(args) => block_on(fork::run(args)),
        Command::Journal(args) => block_on(journal::run(args)),
        Command::Replay(args) => block_on(replay::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Resume(args) => block_on(resume::run(args)),
        Command::Secret(args) => block_on(secret::run(args)),
        Command::Usage(args) => block_on(usage::run(args)),
        Command::Key(args) => block_on(key::run(args)),
        Command::Tenant(args) => block_on(tenant::run(args)),
        Command::Store(args) => store::run(args),
    };
    fault::exit_code(result)
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // A thread that waits for a line of stdin must not hold up the end.
    runtime.shutdown_background();
    result
}

fn start_logging(default: &str) {
    let filter = ["ANTIPHON_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
        .unwrap_or_else(|| default.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        // Of spans, that they are over: who listens to them wants to know how long they took.
        .with_span_events(FmtSpan::CLOSE)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(term::Paint::stderr().is_on())
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_with_an_example() {
        for command in Args::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("antiphon "),
                "{} has no example",
                command.get_name()
            );
        }
    }

    #[test]
    fn wrong_command_lines_are_refused_and_right_ones_are_not() {
        let parses = |line: &str| Args::try_parse_from(line.split_whitespace()).is_ok();
        for right in [
            "antiphon quickstart --exit",
            "antiphon serve --listen 127.0.0.1:0 --data d --config c.toml --drain 10s",
            "antiphon new poet --sdk ../guest-sdk",
            "antiphon build",
            "antiphon build agents/echo",
            "antiphon deploy echo echo.wasm --config agent.json",
            "antiphon dev agents/echo",
            "antiphon invoke echo hello --url http://h:1 --key k",
            "antiphon chat echo --session s-1",
            "antiphon answer s-1",
            "antiphon answer s-1 approve --question 17 --note fine --as ana",
            "antiphon fork s-1",
            "antiphon fork s-1 --at 17 --as s-2",
            "antiphon fork s-1 --at 0000000000000007_0000000000000000",
            "antiphon journal s-1 --follow --json",
            "antiphon replay s-1 3 --json",
            "antiphon replay s-1 run_1.t0.echo --component new.wasm",
            "antiphon logs echo --session s-1 --follow",
            "antiphon resume s-1 echo --as ana",
            "antiphon secret set example",
            "antiphon secret set example --env EXAMPLE_KEY --url http://h:1 --key k",
            "antiphon secret list",
            "antiphon secret delete example",
            "antiphon usage",
            "antiphon usage --from 2026-11-01 --to 2026-11-30 --session s-1 --json",
            "antiphon key list",
            "antiphon key mint invoke read --expires-in 30d --label wall",
            "antiphon key rotate 0123456789abcdef --overlap 0s",
            "antiphon key revoke 0123456789abcdef",
            "antiphon tenant list",
            "antiphon tenant create acme --sessions-max 100",
            "antiphon tenant show acme --json",
            "antiphon tenant quotas acme --turns-max 4 --storage-bytes-max 1000000",
            "antiphon tenant suspend acme",
            "antiphon tenant resume acme",
            "antiphon tenant delete acme --yes",
            "antiphon tenant export acme",
            "antiphon tenant key acme",
            "antiphon store check",
            "antiphon store export --data d",
            "antiphon store import --data d",
        ] {
            assert!(parses(right), "{right}");
        }
        for wrong in [
            "antiphon",
            "antiphon sing",
            "antiphon serve --listen nowhere",
            "antiphon serve --drain soon",
            "antiphon deploy echo",
            "antiphon invoke Echo hello",
            "antiphon chat echo --session a/b",
            "antiphon fork",
            "antiphon fork s-1 --at yesterday",
            "antiphon new",
            "antiphon replay s-1",
            "antiphon replay s-1 a/b",
            "antiphon resume s-1",
            "antiphon secret set",
            "antiphon secret set example sk-1",
            "antiphon secret set a/b",
            "antiphon usage --from yesterday",
            "antiphon key mint",
            "antiphon key mint everything",
            "antiphon key mint read --expires-in soon",
            "antiphon tenant create",
            "antiphon tenant create Not/A/Name",
            "antiphon tenant quotas acme --turns-max many",
        ] {
            assert!(!parses(wrong), "{wrong}");
        }
    }
}
