//! Using up whatever there is.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use antiphon_sdk::context::{self, Content};
use antiphon_sdk::mailbox::{self, Body};
use antiphon_sdk::{AgentError, kernel, log, reply};

use crate::tell;

const MIB: usize = 1024 * 1024;

pub(crate) fn spin() {
    let mut rounds = 0_u64;
    while black_box(true) {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

pub(crate) fn call() {
    while black_box(true) {
        kernel::state("x");
    }
}

pub(crate) fn allocate() {
    let mut hoard = Vec::new();
    while black_box(true) {
        hoard.push(black_box(vec![1_u8; MIB]));
    }
}

/// Twice in itself, so that no compiler makes a loop of it; its frames are the engine's, not its memory's.
#[inline(never)]
pub(crate) fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX {
        return depth;
    }
    recurse(depth + 1).wrapping_mul(3) ^ recurse(depth + 2)
}

pub(crate) fn open() {
    let mut held = Vec::new();
    for number in 0_u64.. {
        match kernel::lock(&format!("s{}", number % 200)) {
            Ok(lock) => held.push(lock),
            // There are no more slots: sockets then, and clocks.
            Err(_) => std::mem::forget(std::net::TcpListener::bind("0.0.0.0:0")),
        }
        let sleep = Duration::from_nanos(1);
        std::thread::sleep(sleep);
    }
}

pub(crate) fn send(bytes: usize) {
    let text = "x".repeat(bytes);
    log::info(&text);
}

pub(crate) fn trap_holding() {
    let _lock = kernel::lock("plan");
    std::process::abort();
}

pub(crate) fn trap_speaking() {
    let _ = reply::say("half a sen");
    std::process::abort();
}

pub(crate) fn wait() {
    std::thread::sleep(Duration::MAX);
}

pub(crate) fn speak() {
    let words = "x".repeat(1_000);
    while black_box(true) {
        // Refused words are said again and again.
        let _ = reply::say(&words);
    }
}

pub(crate) fn print() {
    let line = "x".repeat(1_000);
    while black_box(true) {
        let _ = writeln!(std::io::stdout(), "{line}");
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

pub(crate) fn commit() {
    let mut document = "x".repeat(4 * MIB - 32);
    document.push_str(&" ".repeat(20));
    for number in 0_u64.. {
        // Another one each time, so that none is stored already.
        let end = document.len() - 20;
        document.replace_range(end.., &format!("{number:20}"));
        if let Ok(lock) = kernel::lock("plan") {
            let _ = lock.commit(&document);
        }
    }
}

pub(crate) fn make_slots() -> Result<(), AgentError> {
    for number in 0..100_000 {
        match kernel::lock(&format!("s{number}")) {
            Ok(lock) => {
                let _ = lock.commit("x");
            }
            Err(error) => return tell(&format!("{number} slots: {error}")),
        }
    }
    tell("no end of slots")
}

pub(crate) fn note() -> Result<(), AgentError> {
    let note = Content::Note("x".repeat(1_000));
    for number in 0..100_000 {
        if let Err(error) = context::add(&note) {
            return tell(&format!("{number} notes: {error}"));
        }
    }
    tell("no end of notes")
}

pub(crate) fn mail() -> Result<(), AgentError> {
    for number in 0..100_000 {
        for to in ["hostile", "echo"] {
            if let Err(error) = mailbox::send(to, &Body::Text("{}".into())) {
                tell(&format!("{to}: {error}"))?;
                if to == "echo" {
                    return tell(&format!("{number} messages"));
                }
            }
        }
    }
    tell("no end of messages")
}

pub(crate) fn failure() -> AgentError {
    AgentError::Other("y".repeat(3 * MIB))
}
