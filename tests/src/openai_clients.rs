//! The clients that people use, as they are published, against a server: OpenAI's for Python and JavaScript, and the
//! AI SDK. What they check stands in `tests/clients/openai`, with the versions that are pinned.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use antiphon::id::Digest;

use crate::guests::root;
use crate::server::Server;

/// What runs the checks.
struct Runner {
    program: PathBuf,
    /// In its folder.
    file: &'static str,
    folder: PathBuf,
}

impl Runner {
    fn new(program: PathBuf, file: &'static str, folder: PathBuf) -> Self {
        let checks = root().join("tests/clients/openai").join(file);
        fs::copy(checks, folder.join(file)).expect("the target folder is writable");
        Self {
            program,
            file,
            folder,
        }
    }
}

/// A folder of their own beside the test's own binary, with what is pinned: another one for other versions.
fn folder(of: &str, files: &[&str]) -> PathBuf {
    let pinned = root().join("tests/clients/openai");
    let read = |name: &&str| fs::read(pinned.join(name)).expect("the file is there");
    let contents: Vec<Vec<u8>> = files.iter().map(read).collect();
    let parts: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let version = Digest::of_parts(&parts).to_string();
    let binary = std::env::current_exe().expect("the test has a binary");
    let folder = binary.with_file_name(format!("openai-{of}-{}", &version[..16]));
    fs::create_dir_all(&folder).expect("the target folder is writable");
    for (name, content) in files.iter().zip(&contents) {
        fs::write(folder.join(name), content).expect("the target folder is writable");
    }
    folder
}

/// Run it; its last words if it did not end well.
fn run(program: &Path, arguments: &[&str], folder: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    let run = command.stdin(Stdio::null()).output();
    let run = run.map_err(|error| format!("{}: {error}", program.display()))?;
    let words = String::from_utf8_lossy(&run.stderr);
    let last = words.trim_end().lines().last().unwrap_or_default();
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {last}", program.display())),
    }
}

/// Install once: what is whole says so.
fn once(folder: &Path, install: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let whole = folder.join("installed");
    if !whole.exists() {
        install()?;
        fs::write(whole, "").expect("the target folder is writable");
    }
    Ok(())
}

fn python() -> Result<Runner, String> {
    let folder = folder("python", &["requirements.txt"]);
    let python = folder.join("bin/python");
    once(&folder, || {
        run(Path::new("python3"), &["-m", "venv", "."], &folder)?;
        let install = ["-m", "pip", "install", "--quiet", "-r", "requirements.txt"];
        run(&python, &install, &folder)
    })?;
    Ok(Runner::new(python, "check.py", folder))
}

fn node() -> Result<Runner, String> {
    let folder = folder("node", &["package.json", "package-lock.json"]);
    once(&folder, || {
        run(Path::new("node"), &["--version"], &folder)?;
        run(
            Path::new("npm"),
            &["ci", "--no-audit", "--no-fund"],
            &folder,
        )
    })?;
    Ok(Runner::new("node".into(), "check.mjs", folder))
}

async fn check(of: &str, runner: fn() -> Result<Runner, String>) {
    let runner = tokio::task::spawn_blocking(runner);
    let runner = match runner.await.expect("it does not panic") {
        Ok(runner) => runner,
        Err(why) => {
            let line = format!("SKIPPED: OpenAI's clients for {of}: {why}\n");
            // Past the capture of the test's output: who reads the log must see it.
            return std::io::stderr()
                .write_all(line.as_bytes())
                .expect("stderr");
        }
    };
    let server = Server::start().await;
    server.deploy("echo").await;
    server.deploy("puppet").await;
    let mut command = Command::new(&runner.program);
    command
        .arg(runner.file)
        .current_dir(&runner.folder)
        .env("URL", &server.url)
        .env("KEY", &server.key)
        .env("AI_SDK_LOG_WARNINGS", "false");
    let run = tokio::task::spawn_blocking(move || command.output());
    let run = run.await.expect("it does not panic").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&run.stdout), text(&run.stderr));
    assert!(run.status.success(), "{out}\n{error}");
    assert!(out.lines().count() >= 3, "{out}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_for_python_works() {
    check("python", python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_for_javascript_work() {
    check("node", node).await;
}
