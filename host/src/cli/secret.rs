//! `antiphon secret`: what goes with agents' requests and no agent sees.
//!
//! Invariant: a secret's text is never an argument: other users of the machine see those.

use std::io::{IsTerminal as _, Read as _};

use antiphon::id::SecretName;
use antiphon::secrets::SECRET_BYTES_MAX;
use anyhow::{Context as _, anyhow};

use super::client::{CallError, Client};
use super::fault::hinted;
use super::place::Remote;
use super::term::out;

/// Keep secrets for agents' requests, which no agent sees
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  antiphon secret set example < key.txt\n  \
    antiphon secret set example --env EXAMPLE_KEY\n  antiphon secret list\n  antiphon secret delete example")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Keep a secret under a name; its text is read from stdin
    Set {
        #[arg(value_parser = secret_name)]
        name: SecretName,
        /// Take the text from this variable instead
        #[arg(long, value_name = "VARIABLE")]
        env: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show the names, and when they were written
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Forget a secret
    Delete {
        #[arg(value_parser = secret_name)]
        name: SecretName,
        #[command(flatten)]
        remote: Remote,
    },
}

fn secret_name(text: &str) -> Result<SecretName, String> {
    SecretName::new(text).map_err(|error| error.to_string())
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Set { name, env, remote } => {
            let text = match env {
                Some(variable) => of_variable(&variable)?,
                None => of_stdin()?,
            };
            let client = Client::new(remote.find()?)?;
            client
                .put_secret(&name, text)
                .await
                .map_err(CallError::explain)?;
            Ok(out(&format!("{name} is kept\n"))?)
        }
        Command::List { remote } => {
            let client = Client::new(remote.find()?)?;
            let secrets = client.secrets().await.map_err(CallError::explain)?;
            for secret in secrets {
                out(&format!("{}  {}\n", secret.written_at, secret.name))?;
            }
            Ok(())
        }
        Command::Delete { name, remote } => {
            let client = Client::new(remote.find()?)?;
            client
                .delete_secret(&name)
                .await
                .map_err(CallError::explain)?;
            Ok(out(&format!("{name} is forgotten\n"))?)
        }
    }
}

fn of_variable(variable: &str) -> anyhow::Result<Vec<u8>> {
    std::env::var(variable)
        .map(String::into_bytes)
        .map_err(|_| anyhow!("the variable {variable} is not set"))
}

/// All of stdin, without the line end that editors and `echo` put there.
fn of_stdin() -> anyhow::Result<Vec<u8>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let message = "a secret is read from stdin, and a terminal would show it";
        return Err(hinted(
            message,
            "antiphon secret set NAME < FILE, or --env VARIABLE",
        ));
    }
    let mut text = Vec::new();
    let bytes_max = SECRET_BYTES_MAX as u64 + 3;
    stdin
        .lock()
        .take(bytes_max)
        .read_to_end(&mut text)
        .context("stdin")?;
    Ok(without_line_end(text))
}

fn without_line_end(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_the_secret() {
        for (read, kept) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("\n", ""),
        ] {
            assert_eq!(without_line_end(read.into()), kept.as_bytes(), "{read:?}");
        }
    }
}
