//! `antiphon quickstart`: the whole of it, once, before your eyes.
//!
//! Builds the example agents, starts a server, and from then on knows it only through
//! HTTP, as everybody does. Exit code 0 only if all of it happened, within bounds.

mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use antiphon::config::{Config, Flags};
use antiphon::guest;
use antiphon::id::{AgentName, SessionId};
use anyhow::Context;
use tokio::sync::mpsc;

use super::client::{CallError, Client};
use super::fault::{Interrupted, hinted};
use super::follow::{Update, follow};
use super::journal::{self, Table};
use super::server::{self, Running};
use super::term::{Paint, Style, Wrap, bytes, out, tame};
use super::voices::{Layout, Voices};
use super::{build, deploy, embedded, serve};
use watch::Watch;

const AGENTS: [&str; 3] = ["echo", "talker", "thinker"];
const AUTHOR: &str = "you";
/// Sent at once one after another: the talker, who waits a moment whether somebody goes on, takes
/// them as one input.
const MESSAGES: [&str; 2] = [
    "Should a small team write its next service in Rust?",
    "We are four, and we know Python.",
];
const SLOT: &str = "analysis";
/// The built-in provider is done in a second; a real model on a slow machine is not.
const OFFLINE_MAX: Duration = Duration::from_secs(60);
const MODEL_MAX: Duration = Duration::from_secs(600);
const INDENT: usize = 12;
const WIDTH: usize = 88;

/// See it work: build, serve, deploy and talk, with the example agents
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon quickstart --exit\n\n\
    A real model instead of the built-in one:\n  \
    ANTIPHON_MODEL_URL=http://127.0.0.1:8099/v1 antiphon quickstart")]
pub(super) struct Args {
    /// Stop when all was shown, instead of staying up
    #[arg(long)]
    exit: bool,
    /// Keep the data in this folder; without it, it is gone at the end
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let (data, scratch) = data_folder(args.data)?;
    let mut running = tokio::select! {
        running = show_all(&data, args.exit) => running?,
        () = server::asked_to_stop() => return Err(Interrupted.into()),
    };
    if !args.exit {
        tokio::select! {
            ended = running.ended() => return ended,
            () = server::asked_to_stop() => {}
        }
    }
    running.stop().await?;
    drop(scratch);
    Ok(())
}

/// Everything, and the server that it happened in.
async fn show_all(data: &Path, exit: bool) -> anyhow::Result<Running> {
    let show = Show {
        paint: Paint::stdout(),
    };
    show.title("Antiphon: one agent talks, another thinks, the session remembers both")?;

    let components = build_agents(&show).await?;
    let flags = Flags {
        data: Some(data.to_owned()),
        ..Flags::default()
    };
    let file = std::env::var_os("ANTIPHON_CONFIG").map(PathBuf::from);
    let config = Config::resolve(file.as_deref(), serve::environment(), &flags)?;
    let model = config
        .models
        .get("default")
        .map(|model| format!("{} at {}", model.model, model.base_url));
    let listener = server::bind_usual_or_any().await?;
    let running = server::start_on(listener, config).await?;
    show.step(
        "serve",
        &format!("{}, data in {}", running.url, data.display()),
    )?;
    show.step(
        "model",
        model
            .as_deref()
            .unwrap_or("offline, the built-in one: it says what it is, not what is true"),
    )?;
    if model.is_none() {
        show.step("", "(ANTIPHON_MODEL_URL=http://… for a real one)")?;
    }

    let client = running.client()?;
    let (talker, thinker) = deploy_agents(&show, &client, &components).await?;
    let session = client
        .open_session(None, &[&talker, &thinker], &talker)
        .await
        .map_err(CallError::explain)?
        .session;
    show.step(
        "session",
        &format!("{session}, with talker and thinker; {AUTHOR} talk to talker"),
    )?;

    let wait = if model.is_some() {
        MODEL_MAX
    } else {
        OFFLINE_MAX
    };
    let heard = talk(&show, &client, &session, wait).await?;
    show_slot(&show, &client, &session).await?;
    show.title("journal: everything above is in it, and nothing was shown before it was")?;
    let table = Table::new(show.paint, Some(WIDTH), false);
    journal::show(&client, &session, table).await?;
    check_saved(&show, &client, &session, &heard).await?;

    if exit {
        show.title("all of it happened")?;
    } else {
        how_to_go_on(&show, &running, data, &session)?;
    }
    Ok(running)
}

/// How it looks.
struct Show {
    paint: Paint,
}

impl Show {
    fn title(&self, text: &str) -> anyhow::Result<()> {
        Ok(out(&format!(
            "\n{}\n",
            self.paint.paint(Style::Strong, text)
        ))?)
    }

    fn step(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let name = self.paint.paint(Style::Name, &format!("  {name:<8}"));
        Ok(out(&format!("{name}  {text}\n"))?)
    }
}

/// A fresh folder, and what removes it at the end.
fn data_folder(given: Option<PathBuf>) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    let Some(folder) = given else {
        let scratch = tempfile::Builder::new()
            .prefix("antiphon-quickstart-")
            .tempdir()?;
        return Ok((scratch.path().to_owned(), Some(scratch)));
    };
    if std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some()) {
        return Err(hinted(
            format!("{} is not empty", folder.display()),
            "quickstart begins with fresh data; `antiphon serve --data` goes on with old",
        ));
    }
    Ok((std::path::absolute(&folder)?, None))
}

/// The checkout that this binary was built from, or the same agents written out.
fn source() -> anyhow::Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let is_there = |name: &&str| {
        checkout
            .join("agents")
            .join(name)
            .join("Cargo.toml")
            .is_file()
    };
    if AGENTS.iter().all(is_there) {
        return checkout.canonicalize().context("the checkout");
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    let folder = cache.join("antiphon").join("examples");
    embedded::write_examples(&folder)?;
    Ok(folder)
}

struct Built {
    agent: AgentName,
    component: PathBuf,
    config: PathBuf,
}

async fn build_agents(show: &Show) -> anyhow::Result<Vec<Built>> {
    let source = source()?;
    show.step(
        "build",
        &format!(
            "{} from {}",
            AGENTS.join(", "),
            source.join("agents").display()
        ),
    )?;
    let begun = Instant::now();
    let folder = source.clone();
    let components = tokio::task::spawn_blocking(move || guest::build(&folder, &AGENTS))
        .await
        .context("the build broke down")?
        .map_err(build::explain)?;
    let mut built = Vec::new();
    let mut sizes = Vec::new();
    for (name, component) in AGENTS.into_iter().zip(components) {
        let size = std::fs::metadata(&component).map_or(0, |file| file.len());
        sizes.push(format!("{name} {}", bytes(size)));
        let config = source.join("agents").join(name).join("agent.json");
        built.push(Built {
            agent: AgentName::new(name)?,
            component,
            config,
        });
    }
    let seconds = begun.elapsed().as_secs_f64();
    show.step("", &format!("{} in {seconds:.1} s", sizes.join(" · ")))?;
    Ok(built)
}

/// Deploys them all, tries the first, and answers the names of the other two.
async fn deploy_agents(
    show: &Show,
    client: &Client,
    built: &[Built],
) -> anyhow::Result<(AgentName, AgentName)> {
    let [echo, talker, thinker] = built else {
        anyhow::bail!("three agents were to be built");
    };
    let mut lines = Vec::new();
    for agent in built {
        let config = Some(agent.config.as_path()).filter(|file| file.is_file());
        let deployed = deploy::deploy(client, &agent.agent, &agent.component, config)
            .await
            .with_context(|| format!("deploying {}", agent.agent))?;
        let version = deployed
            .version
            .map(|version| format!(" v{version}"))
            .unwrap_or_default();
        lines.push(format!("{}{version}", agent.agent));
    }
    show.step("deploy", &lines.join(" · "))?;

    let begun = Instant::now();
    let invoked = client
        .invoke(&echo.agent, "hello")
        .await
        .map_err(CallError::explain)?;
    let ms = begun.elapsed().as_secs_f64() * 1_000.0;
    let reply = invoked.reply.as_str().unwrap_or_default();
    anyhow::ensure!(
        reply == "hello",
        "echo was told `hello` and said `{}`",
        tame(reply)
    );
    show.step(
        "echo",
        &format!("hello → {reply}, a durable turn in {ms:.1} ms"),
    )?;
    Ok((talker.agent.clone(), thinker.agent.clone()))
}

/// Send the messages, show what happens, and wait for all of it.
async fn talk(
    show: &Show,
    client: &Client,
    session: &SessionId,
    wait: Duration,
) -> anyhow::Result<Watch> {
    show.title("conversation")?;
    let layout = Layout::Columns {
        indent: INDENT,
        width: WIDTH,
    };
    let mut voices = Voices::new(show.paint, layout, true);
    let mut watch = Watch::new("talker", SLOT);
    let mut updates = follow(client.clone(), session.clone(), "-1".to_owned());
    for (n, text) in MESSAGES.iter().enumerate() {
        let key = format!("quickstart-{n}");
        let sent = client.send_message(session, None, AUTHOR, text, &key).await;
        watch.sent(sent.map_err(CallError::explain)?.message);
    }
    match tokio::time::timeout(wait, listen(&mut voices, &mut watch, &mut updates)).await {
        Ok(result) => result?,
        Err(_) => {
            out("\n")?;
            return Err(hinted(
                format!("after {} s: {}", wait.as_secs(), watch.explain_missing()),
                "ANTIPHON_LOG=debug says what the server does",
            ));
        }
    }
    Ok(watch)
}

async fn listen(
    voices: &mut Voices,
    watch: &mut Watch,
    updates: &mut mpsc::Receiver<Update>,
) -> anyhow::Result<()> {
    while !watch.is_complete() {
        match updates.recv().await {
            Some(Update::Event(event)) => {
                out(&voices.event(&event))?;
                watch.event(&event);
                if let Some(failure) = watch.failure() {
                    anyhow::bail!("{failure}");
                }
            }
            Some(Update::Failed(error)) => return Err(error.explain()),
            Some(Update::Reconnecting | Update::Connected) => {}
            None => anyhow::bail!("the events ended"),
        }
    }
    Ok(())
}

async fn show_slot(show: &Show, client: &Client, session: &SessionId) -> anyhow::Result<()> {
    let slot = client
        .slot(session, SLOT)
        .await
        .map_err(CallError::explain)?;
    let version = slot
        .version
        .map(|version| format!(", version {version}"))
        .unwrap_or_default();
    show.title(&format!(
        "slot {SLOT}{version}: what thinker wrote beside the talk"
    ))?;
    let mut wrap = Wrap::new(2, WIDTH);
    let mut text = format!(
        "  {}",
        wrap.push(&tame(slot.content.unwrap_or_default().trim()))
    );
    text.push_str(&wrap.finish());
    text.push('\n');
    Ok(out(&text)?)
}

/// What was shown is what was saved: compare, for real.
async fn check_saved(
    show: &Show,
    client: &Client,
    session: &SessionId,
    heard: &Watch,
) -> anyhow::Result<()> {
    let transcript = client
        .transcript(session, 100)
        .await
        .map_err(CallError::explain)?;
    let saved: String = transcript
        .items
        .iter()
        .filter(|item| item.speaker() == "talker")
        .map(|item| item.text.as_str())
        .collect();
    let shown = heard.words();
    if saved != shown {
        anyhow::bail!(
            "what was shown ({} bytes) is not what was saved ({} bytes)",
            shown.len(),
            saved.len()
        );
    }
    let text = format!(
        "saw = saved: talker's {} bytes above and in the transcript are the same",
        shown.len()
    );
    Ok(out(&format!(
        "\n{}\n",
        show.paint.paint(Style::Good, &text)
    ))?)
}

fn how_to_go_on(
    show: &Show,
    running: &Running,
    data: &Path,
    session: &SessionId,
) -> anyhow::Result<()> {
    let program = std::env::current_exe().unwrap_or_else(|_| "antiphon".into());
    let (program, data) = (shell_word(&program), shell_word(data));
    show.title("go on, in another terminal")?;
    out(&format!(
        "  {program} chat talker --session {session} --data {data}\n  \
         curl -H \"Authorization: Bearer $(cat {data}/default.key)\" -H content-type:text/plain \\\n    \
         {}/v1/agents/echo/invoke -d hello\n  \
         {program} new poet && {program} dev poet\n\n  \
         In a browser: {}/console#session={session}, with the key in {data}/default.key\n\n",
        running.url, running.url
    ))?;
    let text = "This server stays up until Ctrl-C.";
    Ok(out(&format!("{}\n", show.paint.paint(Style::Dim, text)))?)
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(shell_word(Path::new("/a/b-1")), "/a/b-1");
        assert_eq!(shell_word(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn old_data_is_not_fresh() {
        let folder = tempfile::tempdir().unwrap();
        assert!(data_folder(Some(folder.path().to_owned())).is_ok());
        std::fs::write(folder.path().join("x"), "").unwrap();
        assert!(data_folder(Some(folder.path().to_owned())).is_err());
    }
}
