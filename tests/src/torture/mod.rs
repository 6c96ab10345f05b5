//! The real binary, killed again and again while people use it, and what must hold all the same.
//!
//! ```text
//!  clients: post, interrupt, follow --HTTP--> antiphon (killed, restarted) --HTTP--> provider
//!     |  what was promised, shown                 |  its journal                       |  what was asked
//!     +------------------------------- laws: do they agree? ---------------------------+
//! ```
//!
//! Clients and provider live here and outlive every kill. After each restart, and at
//! the end, what the journal says is held against what clients were promised and shown and
//! what the provider was asked: see [`laws`]. The moments of the kills come from a seed;
//! what the machine does between them does not, so a seed draws a similar run, not the same one.
//!
//! Some sessions are left alone after their first message: what they owe must be done
//! without anybody opening them again.

mod book;
mod chance;
mod client;
mod course;
mod inspection;
mod laws;
mod provider;
mod script;

use std::collections::BTreeMap;
use std::fmt;

use course::Torture;

pub struct Options {
    pub kills: u32,
    pub seed: u64,
}

/// What happened, for whoever reads it: a run in which nothing happened proves nothing.
#[derive(Debug, Default)]
pub struct Summary {
    pub kills: u32,
    pub starts_killed: u32,
    pub acknowledged: usize,
    pub interruptions: usize,
    pub turns: BTreeMap<String, usize>,
    pub resumed: usize,
    pub set_aside: usize,
    pub words: u32,
    pub commits: u32,
    pub calls: usize,
    pub repeats_declared: usize,
    pub entries: usize,
    pub events_shown: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turns: usize = self.turns.values().sum();
        writeln!(
            f,
            "{} kills, {} of them during a start; {} messages and {} interruptions acknowledged",
            self.kills, self.starts_killed, self.acknowledged, self.interruptions
        )?;
        writeln!(
            f,
            "{turns} turns {:?}, {} resumed, {} messages set aside",
            self.turns, self.resumed, self.set_aside
        )?;
        write!(
            f,
            "{} words said, {} commits, {} model calls asked, {} repeats declared, {} entries, {} events shown",
            self.words,
            self.commits,
            self.calls,
            self.repeats_declared,
            self.entries,
            self.events_shown
        )
    }
}

/// A run of the torture. What it finds is the answer.
pub async fn run(options: &Options) -> Result<Summary, String> {
    let mut torture = Torture::start(options).await;
    while torture.summary.kills < options.kills {
        torture.live_and_die().await;
        torture.look(false).await;
        if !torture.wrong.is_empty() {
            break;
        }
    }
    torture.finish().await
}

#[cfg(test)]
mod tests;
