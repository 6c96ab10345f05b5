//! `antiphon serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use antiphon::config::{Config, Flags};

use super::fault::{Hint, Interrupted};
use super::{server, term};

/// Run the server
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  antiphon serve --listen 0.0.0.0:7171 --data /var/lib/antiphon\n\n\
    Settings: defaults < --config FILE (TOML) < ANTIPHON_* < flags. A setting inside a table\n\
    joins its names with two underscores: ANTIPHON_LIMITS__TURNS_MAX=500.\n\
    A model: ANTIPHON_MODEL_URL, ANTIPHON_MODEL_KEY, ANTIPHON_MODEL_NAME.\n\
    SIGTERM or Ctrl-C: stops accepting, waits --drain for running turns, and ends; what is\n\
    left goes on at the next start. A second one ends it at once."
)]
pub(super) struct Args {
    /// Where to listen; port 0 picks one [default: 127.0.0.1:7171]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The folder that holds everything durable [default: ./antiphon-data]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A file of settings
    #[arg(long, env = "ANTIPHON_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long to wait for running turns at the end [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    drain: Option<Duration>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let flags = Flags {
        listen: args.listen,
        data: args.data,
        drain: args.drain,
    };
    let config = Config::resolve(args.config.as_deref(), environment(), &flags)
        .hint("`antiphon serve --help` says where settings come from")?;
    let mut running = tokio::select! {
        running = server::start(config) => running?,
        () = server::asked_to_stop() => return Err(Interrupted.into()),
    };
    term::out(&format!("listening on {}\n", running.url))?;

    tokio::select! {
        ended = running.ended() => return ended,
        () = server::asked_to_stop() => {}
    }
    tracing::info!("stopping");
    tokio::select! {
        stopped = running.stop() => stopped,
        () = server::asked_to_stop() => Err(Interrupted.into()),
    }
}

/// The variables of this process that are text; a setting that is not cannot be one.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
