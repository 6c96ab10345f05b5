//! Steps that touch the walls of the sandbox and its limits.

use std::hash::BuildHasher as _;
use std::time::Duration;

use antiphon_sdk::{AgentError, kernel, log, mailbox, turn};
use serde::Deserialize;
use serde_json::json;

use crate::{mischief, tell};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// To `stdout` or `stderr`.
    Print(String, String),
    Log(String),
    /// Read a file.
    Fs(String),
    /// The environment.
    Env,
    /// Connect to an address.
    Connect(String),
    Sleep(u64),
    /// Say a number that is another one in every turn.
    Dice,
    Turn,
    Budget,
    Fail(String),
    Trap,
    Spin,
    Allocate,
    Recurse,
    /// So many host calls.
    Calls(u64),
    /// Hand so many bytes to the host in one call.
    Big(usize),
    /// Hold so many handles.
    Handles(usize),
}

pub(crate) fn perform(step: Step) -> Result<(), AgentError> {
    match step {
        Step::Print(stream, text) => print(&stream, &text),
        Step::Log(text) => log::event(log::Level::Info, &text, &[("from", "puppet")]),
        Step::Fs(path) => {
            let found = std::fs::read_to_string(path);
            tell(&json!({"fs": found.is_ok()}))?;
        }
        Step::Env => {
            let variables: Vec<_> = std::env::vars().collect();
            tell(&json!({"env": variables}))?;
        }
        Step::Connect(address) => {
            tell(&json!({"connected": std::net::TcpStream::connect(address).is_ok()}))?;
        }
        Step::Sleep(ms) => std::thread::sleep(Duration::from_millis(ms)),
        Step::Dice => {
            let dice = std::hash::RandomState::new().hash_one(());
            tell(&json!({"dice": dice}))?;
        }
        Step::Turn => {
            let info = turn::current();
            tell(&json!({"agent": info.agent, "session": info.session}))?;
        }
        Step::Budget => tell(&json!({"host_calls": turn::budget().host_calls}))?,
        Step::Fail(why) => return Err(AgentError::Other(why)),
        Step::Trap => mischief::stumble(),
        Step::Spin => mischief::spin(),
        Step::Allocate => mischief::allocate(),
        Step::Recurse => {
            mischief::recurse(0);
        }
        Step::Calls(count) => (0..count).for_each(|_| {
            mailbox::pending();
        }),
        Step::Big(bytes) => log::info(&"x".repeat(bytes)),
        Step::Handles(count) => {
            let locks: Result<Vec<_>, _> = (0..count)
                .map(|number| kernel::lock(&format!("handle-{number}")))
                .collect();
            locks?.into_iter().for_each(kernel::SlotLock::release);
        }
    }
    Ok(())
}

/// Not `println!`, which the workspace forbids so that no host prints by accident.
fn print(stream: &str, text: &str) {
    use std::io::Write as _;
    // An output that nobody reads is no failure.
    let _ = match stream {
        "stdout" => writeln!(std::io::stdout(), "{text}"),
        _ => writeln!(std::io::stderr(), "{text}"),
    };
}
