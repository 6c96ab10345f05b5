//! `antiphon dev`: a server on scratch data, the agent built, deployed and talked with,
//! and built and deployed again on every save. The session goes on with the new code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use antiphon::config::{Config, Flags};
use antiphon::guest;
use antiphon::id::AgentName;
use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::chat::Chat;
use super::client::Client;
use super::fault::{Hint, hinted};
use super::place::person;
use super::term::{Paint, Style};
use super::{build, deploy, serve, server};

/// Editors write a file in several steps, and several files at once.
const QUIET: Duration = Duration::from_millis(250);

/// Build, deploy and talk with an agent, again on every save
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon dev poet\n\n\
    The server and its data last as long as the command. A model: ANTIPHON_MODEL_URL.")]
pub(super) struct Args {
    /// The crate's folder
    #[arg(default_value = ".")]
    path: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let project = Project::find(&args.path)?;
    say(&format!("building {}", project.agent));
    let component = project.build().await?;

    let scratch = tempfile::Builder::new().prefix("antiphon-dev-").tempdir()?;
    let flags = Flags {
        data: Some(scratch.path().to_owned()),
        ..Flags::default()
    };
    let file = std::env::var_os("ANTIPHON_CONFIG").map(PathBuf::from);
    let config = Config::resolve(file.as_deref(), serve::environment(), &flags)?;
    let listener = server::bind_usual_or_any().await?;
    let running = server::start_on(listener, config).await?;
    let client = running.client()?;
    say(&format!(
        "{}, data in {}",
        running.url,
        scratch.path().display()
    ));
    let deployed = project.deploy(&client, &component).await?;
    say(&deployed);

    let (notes, shown) = mpsc::channel(16);
    let (watcher, saves) = project.watch()?;
    let again = tokio::spawn(build_again(project.clone(), client.clone(), saves, notes));
    let chat = Chat::join(client, &project.agent, None, person()).await?;
    let result = chat.run(shown).await;
    drop(watcher);
    again.abort();
    running.stop().await?;
    result
}

/// An agent's crate.
#[derive(Debug, Clone)]
struct Project {
    folder: PathBuf,
    agent: AgentName,
    config: Option<PathBuf>,
}

impl Project {
    fn find(path: &Path) -> anyhow::Result<Self> {
        let folder = path
            .canonicalize()
            .with_context(|| format!("there is no folder {}", path.display()))?;
        let manifest = folder.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))
            .hint("`antiphon new NAME` makes a crate")?;
        let name = package_name(&text)
            .with_context(|| format!("{} names no package", manifest.display()))?;
        let agent = AgentName::new(&name)
            .map_err(|error| hinted(error.to_string(), "rename the package in Cargo.toml"))?;
        let config = Some(folder.join("agent.json")).filter(|file| file.is_file());
        Ok(Self {
            folder,
            agent,
            config,
        })
    }

    async fn build(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.clone();
        let built = tokio::task::spawn_blocking(move || guest::build(&folder, &[]));
        let mut components = built
            .await
            .context("the build broke down")?
            .map_err(build::explain)?;
        components.pop().context("no component was built")
    }

    async fn deploy(&self, client: &Client, component: &Path) -> anyhow::Result<String> {
        let config = self.config.as_deref();
        let deployed = deploy::deploy(client, &self.agent, component, config).await?;
        Ok(deploy::describe(&self.agent, &deployed))
    }

    /// A signal for every change of what the component is made of.
    fn watch(&self) -> anyhow::Result<(notify::RecommendedWatcher, mpsc::Receiver<()>)> {
        // One is enough: a change while a build runs is seen after it.
        let (sender, receiver) = mpsc::channel(1);
        let target = self.folder.join("target");
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                let Ok(event) = event else { return };
                let is_source = event.paths.iter().any(|path| !path.starts_with(&target));
                if is_source && !event.kind.is_access() {
                    // Full means that a build is due already.
                    let _ = sender.try_send(());
                }
            })?;
        watcher.watch(&self.folder.join("src"), RecursiveMode::Recursive)?;
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        Ok((watcher, receiver))
    }
}

async fn build_again(
    project: Project,
    client: Client,
    mut saves: mpsc::Receiver<()>,
    notes: mpsc::Sender<String>,
) {
    while saves.recv().await.is_some() {
        while tokio::time::timeout(QUIET, saves.recv())
            .await
            .is_ok_and(|save| save.is_some())
        {}
        let result = match project.build().await {
            Ok(component) => project.deploy(&client, &component).await,
            Err(error) => Err(error),
        };
        let note = match result {
            // Saved without a change, or a change that does not reach the component.
            Ok(note) if note.starts_with("nothing changed") => continue,
            Ok(note) => note,
            Err(error) => format!("{error:#}; the older code goes on"),
        };
        if notes.send(note).await.is_err() {
            return;
        }
    }
}

fn say(text: &str) {
    eprintln!(
        "{}",
        Paint::stderr().paint(Style::Dim, &format!("· {text}"))
    );
}

/// The package's name in a manifest.
fn package_name(manifest: &str) -> Option<String> {
    use figment::providers::{Format, Toml};
    let manifest: figment::value::Dict = Toml::from_str(manifest).ok()?;
    let package = manifest.get("package")?.as_dict()?;
    Some(package.get("name")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_named_as_its_package() {
        assert_eq!(
            package_name("[package]\nname = 'poet'\n"),
            Some("poet".into())
        );
        assert_eq!(package_name("[workspace]\nmembers = []\n"), None);
        assert_eq!(package_name("not toml"), None);
    }
}
