//! The targets of docs/performance.md, each beside a baseline in the same run, on the real binary and fresh folders.
//!
//! `cargo bench -p antiphon-tests --bench targets [-- --only P1,P4] [--rounds N] [--seconds S] [--peers FOLDER] [--json FILE]`:
//! all of them, five rounds, two seconds a round, unless said otherwise. Rounds go by turns, so that all meet the same machine; what is
//! printed is the median, with the lowest and the highest. A line for each bound comes last.
//!
//! - [`beside`]: P1 to P3, the same work done by others that are in the folder PEERS, and by a server of hyper alone.
//! - [`delta`]: P4. [`slot_read`]: P5. [`fold`] and [`recovery`]: P6. [`density`]: P7. [`start`]: P8. [`length`]: P9.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod beside;
mod delta;
mod density;
mod fold;
mod length;
mod peers;
mod recovery;
mod report;
mod silent;
mod slot_read;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use self::report::Report;

/// How a run was asked for.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    /// Of one round of one subject.
    pub(crate) time: Duration,
    pub(crate) peers: Option<PathBuf>,
    only: Option<Vec<String>>,
    json: Option<PathBuf>,
}

impl Options {
    fn of(arguments: &[String]) -> Self {
        let option = |name: &str| {
            let at = arguments.iter().position(|it| it == name)?;
            let value = arguments.get(at + 1);
            Some(value.unwrap_or_else(|| panic!("{name} needs a value")))
        };
        let number = |name: &str, default: usize| {
            option(name).map_or(default, |it| it.parse().expect("a number"))
        };
        Self {
            rounds: number("--rounds", 5),
            time: Duration::from_secs(number("--seconds", 2) as u64),
            peers: option("--peers").map(PathBuf::from),
            only: option("--only").map(|it| it.split(',').map(str::to_owned).collect()),
            json: option("--json").map(PathBuf::from),
        }
    }

    pub(crate) fn wants(&self, target: &str) -> bool {
        let only = self.only.as_ref();
        only.is_none_or(|only| only.iter().any(|it| it == target))
    }
}

type Measure = fn(&Options, &mut Report);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|it| it == peers::HYPER) {
        return peers::serve_hyper();
    }
    let options = Options::of(&arguments);
    let mut report = Report::default();
    let all: [(&[&str], Measure); 8] = [
        (&["P1", "P2", "P3"], beside::measure),
        (&["P4"], delta::measure),
        (&["P5"], slot_read::measure),
        (&["P6"], fold::measure),
        (&["P6"], recovery::measure),
        (&["P7"], density::measure),
        (&["P8"], start::measure),
        (&["P9"], length::measure),
    ];
    for (targets, measure) in all {
        if targets.iter().any(|target| options.wants(target)) {
            measure(&options, &mut report);
        }
    }
    let told = report.end();
    if let Some(file) = options.json {
        std::fs::write(file, told.to_string()).expect("the file is written");
    }
}
