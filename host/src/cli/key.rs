//! `antiphon key`: the keys of a tenant.

use std::time::Duration;

use antiphon::tenants::Right;
use serde_json::{Value, json};

use super::client::{CallError, Client};
use super::place::Remote;
use super::term::{out, tame};

/// Mint, rotate and revoke a tenant's keys
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  antiphon key mint invoke read --label \"the shop\"\n  \
    antiphon key rotate 0123456789abcdef --overlap 1h\n  antiphon key revoke 0123456789abcdef\n\n\
    A key's text is shown once. The key that you use needs the scope `admin`."
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the keys there are, without their texts
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a key for these scopes, and print it
    Mint {
        /// deploy, invoke, read, inspect, admin or inter-agent
        #[arg(required = true, value_name = "SCOPE", value_parser = scope)]
        scopes: Vec<Right>,
        /// How long it is good for; for ever without
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires_in: Option<Duration>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a key in place of another, and print it; the old one ends after the overlap
    Rotate {
        id: String,
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = humantime::parse_duration)]
        overlap: Duration,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a key back: it and its streams end at once
    Revoke {
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
}

fn scope(text: &str) -> Result<Right, String> {
    let known = Right::OF_KEYS.into_iter();
    let found = known.clone().find(|right| right.name() == text);
    found.ok_or_else(|| {
        let names: Vec<_> = known.map(Right::name).collect();
        format!("scopes are {}", names.join(", "))
    })
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { remote } => {
            let answer = call(&remote, http::Method::GET, "/v1/keys", None).await?;
            for key in answer["keys"].as_array().into_iter().flatten() {
                out(&format!("{}\n", line(key)))?;
            }
            Ok(())
        }
        Command::Mint {
            scopes,
            expires_in,
            label,
            remote,
        } => {
            let body = json!({
                "scopes": scopes,
                "expires_in": expires_in.map(|it| it.as_secs()),
                "label": label,
            });
            let minted = call(&remote, http::Method::POST, "/v1/keys", Some(body)).await?;
            show_minted(&minted)
        }
        Command::Rotate {
            id,
            overlap,
            remote,
        } => {
            let path = format!("/v1/keys/{id}/rotate");
            let body = json!({"overlap": overlap.as_secs()});
            let minted = call(&remote, http::Method::POST, &path, Some(body)).await?;
            show_minted(&minted)
        }
        Command::Revoke { id, remote } => {
            let path = format!("/v1/keys/{id}");
            call(&remote, http::Method::DELETE, &path, None).await?;
            Ok(out(&format!("{} is revoked\n", tame(&id)))?)
        }
    }
}

async fn call(
    remote: &Remote,
    method: http::Method,
    path: &str,
    body: Option<Value>,
) -> anyhow::Result<Value> {
    let client = Client::new(remote.find()?)?;
    let answer = client.call(method, path, body.as_ref()).await;
    answer.map_err(CallError::explain)
}

/// The key on stdout alone, so that a script can keep it; what it is, beside it.
pub(super) fn show_minted(minted: &Value) -> anyhow::Result<()> {
    eprint(&line(minted))?;
    Ok(out(&format!("{}\n", text(&minted["key"])))?)
}

fn eprint(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

/// `ID  SCOPES  since when, until when  LABEL`.
fn line(key: &Value) -> String {
    let scopes = key["scopes"].as_array().into_iter().flatten();
    let scopes: Vec<_> = scopes.map(text).collect();
    let until = match &key["expires_at"] {
        Value::Null => "for ever".to_owned(),
        at => format!("until {}", text(at)),
    };
    let label = match &key["label"] {
        Value::Null => String::new(),
        label => format!("  {}", text(label)),
    };
    let (id, since) = (text(&key["id"]), text(&key["created_at"]));
    format!("{id}  {}  since {since}, {until}{label}", scopes.join(","))
}

fn text(value: &Value) -> String {
    tame(value.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line() {
        let key = json!({
            "id": "0123456789abcdef", "scopes": ["invoke", "read"], "label": "the\u{1b}[1m shop",
            "created_at": "2026-11-01T00:00:00Z", "expires_at": null,
        });
        let line = line(&key);
        assert!(
            line.starts_with(
                "0123456789abcdef  invoke,read  since 2026-11-01T00:00:00Z, for ever  the"
            ),
            "{line}"
        );
        assert!(!line.contains('\u{1b}'), "{line}");
    }
}
