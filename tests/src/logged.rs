//! What all servers of this process log, at its most talkative, and what must never be in it.
//!
//! Every server that is stopped checks it, so every test is also a test of this.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keys and tokens by their form, and what brings them.
const NEVER: [&str; 7] = [
    "ant_default_",
    "ast_default_",
    "aop_",
    "Bearer ",
    "bearer ",
    "access_token=",
    "sk-very-secret",
];

struct Line;

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes).into_owned();
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

/// Keep everything that is logged from now on.
pub(crate) fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        // What libraries say about their own bytes is asked for by name, and not by operators.
        let filter = EnvFilter::new("info,antiphon=trace");
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
        subscriber.with_ansi(false).with_writer(Lines).init();
    });
}

/// What was logged so far, by all servers.
pub(crate) fn lines() -> Vec<String> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Nothing of what must never be logged was logged.
pub(crate) fn check() {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let told = lines
        .iter()
        .find(|line| NEVER.iter().any(|word| line.contains(word)));
    if let Some(told) = told.cloned() {
        // Other tests go on.
        drop(lines);
        panic!("this was logged: {told}");
    }
}
