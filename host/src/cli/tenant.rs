//! `antiphon tenant`: what whoever runs the server does with its tenants.

use std::io::Write as _;

use antiphon::id::TenantId;
use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{CallError, Client};
use super::fault::hinted;
use super::key::show_minted;
use super::place::Remote;
use super::term::{out, tame};

/// Make, suspend, export and delete tenants
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  antiphon tenant create acme > acme.key\n  \
    antiphon tenant quotas acme --sessions-max 1000\n  antiphon tenant export acme > acme.jsonl\n  \
    antiphon tenant delete acme --yes\n\n\
    This needs the operator's key: operator.key in the server's data folder, or --key.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a tenant, and print its first key
    Create {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        quotas: Bounds,
    },
    /// Name the tenants, and how they stand
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one tenant
    Show {
        #[command(flatten)]
        of: Of,
        /// The server's answer as it is
        #[arg(long)]
        json: bool,
    },
    /// Replace what a tenant may use; what is not named is what all may
    Quotas {
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        quotas: Bounds,
    },
    /// Let nobody of the tenant in and begin nothing new; everything is kept
    Suspend {
        #[command(flatten)]
        of: Of,
    },
    /// Serve a suspended tenant again
    Resume {
        #[command(flatten)]
        of: Of,
    },
    /// Remove a tenant and everything it has, for ever
    Delete {
        #[command(flatten)]
        of: Of,
        /// Really
        #[arg(long)]
        yes: bool,
    },
    /// Write everything a tenant has to stdout, a line of JSON each
    Export {
        #[command(flatten)]
        of: Of,
    },
    /// Make another key for a tenant that has lost its own, and print it
    Key {
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    #[arg(value_name = "TENANT", value_parser = tenant)]
    tenant: TenantId,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct Bounds {
    /// Sessions that are there, open or at rest
    #[arg(long, value_name = "COUNT")]
    sessions_max: Option<u64>,
    /// Bytes of entries and long values
    #[arg(long, value_name = "BYTES")]
    storage_bytes_max: Option<u64>,
    /// Turns that run at once
    #[arg(long, value_name = "COUNT")]
    turns_max: Option<u64>,
    /// Turns that wait for a place
    #[arg(long, value_name = "COUNT")]
    turns_waiting_max: Option<u64>,
    /// Milliseconds that its agents compute in a minute, below the host's limit
    #[arg(long, value_name = "MS")]
    cpu_minute_ms_max: Option<u64>,
}

impl Bounds {
    fn json(&self) -> Value {
        let fields = [
            ("sessions_max", self.sessions_max),
            ("storage_bytes_max", self.storage_bytes_max),
            ("turns_max", self.turns_max),
            ("turns_waiting_max", self.turns_waiting_max),
            ("cpu_minute_ms_max", self.cpu_minute_ms_max),
        ];
        let set = fields.into_iter();
        let set = set.filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
        Value::Object(set.collect::<Map<_, _>>())
    }
}

fn tenant(text: &str) -> Result<TenantId, String> {
    TenantId::new(text).map_err(|error| error.to_string())
}

impl Of {
    fn path(&self, what: &str) -> String {
        format!("/v1/tenants/{}{what}", self.tenant)
    }

    fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.remote.find_operator()?)
    }

    async fn call(&self, method: Method, what: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let answer = self.client()?;
        let answer = answer.call(method, &self.path(what), body.as_ref()).await;
        answer.map_err(CallError::explain)
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Create { of, quotas } => {
            let body = json!({"tenant": of.tenant, "quotas": quotas.json()});
            let made = of.client()?;
            let made = made.call(Method::POST, "/v1/tenants", Some(&body)).await;
            show_minted(&made.map_err(CallError::explain)?["key"])
        }
        Command::List { remote } => {
            let client = Client::new(remote.find_operator()?)?;
            let listed = client.call(Method::GET, "/v1/tenants", None).await;
            let listed = listed.map_err(CallError::explain)?;
            for tenant in listed["tenants"].as_array().into_iter().flatten() {
                out(&format!("{}\n", line(tenant)))?;
            }
            Ok(())
        }
        Command::Show { of, json } => {
            let shown = of.call(Method::GET, "", None).await?;
            let text = if json {
                shown.to_string()
            } else {
                line(&shown)
            };
            Ok(out(&format!("{text}\n"))?)
        }
        Command::Quotas { of, quotas } => {
            let body = Some(quotas.json());
            let changed = of.call(Method::PUT, "/quotas", body).await?;
            Ok(out(&format!("{}\n", line(&changed)))?)
        }
        Command::Suspend { of } => {
            let changed = of.call(Method::POST, "/suspend", None).await?;
            Ok(out(&format!("{}\n", line(&changed)))?)
        }
        Command::Resume { of } => {
            let changed = of.call(Method::POST, "/resume", None).await?;
            Ok(out(&format!("{}\n", line(&changed)))?)
        }
        Command::Delete { of, yes: false } => Err(hinted(
            format!("everything that {} has would be gone for ever", of.tenant),
            format!(
                "say --yes; antiphon tenant export {} keeps a copy",
                of.tenant
            ),
        )),
        Command::Delete { of, yes: true } => {
            of.call(Method::DELETE, "", None).await?;
            let text = "nobody gets in any more, and what it has is being removed";
            Ok(out(&format!("{}: {text}\n", of.tenant))?)
        }
        Command::Export { of } => export(&of).await,
        Command::Key { of } => {
            let scopes = antiphon::tenants::Right::of_first_key();
            let body = Some(json!({"scopes": scopes}));
            show_minted(&of.call(Method::POST, "/keys", body).await?)
        }
    }
}

/// The last line says how many there are: without it the server broke off.
async fn export(of: &Of) -> anyhow::Result<()> {
    let mut answer = of
        .client()?
        .download(&of.path("/export"))
        .await
        .map_err(CallError::explain)?;
    let mut stdout = std::io::stdout().lock();
    let mut end = Vec::new();
    while let Some(piece) = answer.chunk().await.context("the export broke off")? {
        stdout.write_all(&piece)?;
        end.extend_from_slice(&piece[piece.len().saturating_sub(END_BYTES_MAX)..]);
        end.drain(..end.len().saturating_sub(END_BYTES_MAX));
    }
    stdout.flush()?;
    let last = end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next();
    if !last.is_some_and(|line| line.starts_with(br#"{"end":"#)) {
        anyhow::bail!("the export broke off: its last line is missing");
    }
    Ok(())
}

/// More than the last line of an export has.
const END_BYTES_MAX: usize = 100;

/// `NAME  STANDING  since when  quotas`.
fn line(tenant: &Value) -> String {
    let text = |name: &str| tame(tenant[name].as_str().unwrap_or("-"));
    let quotas = tenant["quotas"].as_object().into_iter().flatten();
    let quotas: String = quotas
        .map(|(name, value)| format!("  {}={value}", tame(name)))
        .collect();
    let (name, standing, since) = (text("tenant"), text("standing"), text("created_at"));
    format!("{name}  {standing}  since {since}{quotas}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_one_line() {
        let tenant = json!({"tenant": "acme", "standing": "active", "created_at": null,
            "quotas": {"turns_max": 4}});
        assert_eq!(line(&tenant), "acme  active  since -  turns_max=4");
    }
}
