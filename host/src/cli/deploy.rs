//! `antiphon deploy`: configuration, then component.

use std::path::{Path, PathBuf};

use antiphon::id::AgentName;
use anyhow::Context;

use super::client::{Client, Deployed};
use super::fault::Hint;
use super::place::{Remote, agent_name};
use super::term;

/// Deploy a component or a conversation as an agent, or a new version of one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  antiphon deploy poet $(antiphon build poet) --config poet/agent.json\n  antiphon deploy debate debate.json"
)]
pub(super) struct Args {
    /// The agent's name
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// The component, as `antiphon build` makes it, or the conversation's definition in JSON
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// The agent's configuration (JSON); without it, what it has stays
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let deployed = deploy(
        &client,
        &args.agent,
        &args.component,
        args.config.as_deref(),
    )
    .await?;
    term::out(&format!("{}\n", describe(&args.agent, &deployed)))?;
    Ok(())
}

pub(super) async fn deploy(
    client: &Client,
    agent: &AgentName,
    component: &Path,
    config: Option<&Path>,
) -> anyhow::Result<Deployed> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let component = read(component).hint("`antiphon build` makes a component")?;
    if let Some(config) = config {
        let text = read(config)?;
        client
            .put_config(agent, text)
            .await
            .map_err(|error| error.explain())
            .with_context(|| format!("configuration {}", config.display()))?;
    }
    client
        .put_component(agent, component)
        .await
        .map_err(|error| error.explain())
}

pub(super) fn describe(agent: &AgentName, deployed: &Deployed) -> String {
    let version = deployed
        .version
        .map(|version| format!(" version {version}"))
        .unwrap_or_default();
    let change = if deployed.is_new {
        "deployed"
    } else {
        "nothing changed:"
    };
    format!("{change} {agent}{version}")
}
