//! The real binary, killed again and again under load: see `antiphon_tests::torture`.
//!
//! `cargo bench -p antiphon-tests --bench torture -- --kills 100 --seed 1` prints its seed and
//! what happened, and fails with what it found wrong. Without a seed it draws one.

#![allow(clippy::print_stdout, reason = "it says what it did")]

use antiphon::clock::Clock;
use antiphon_tests::torture::{Options, run};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str| -> Option<u64> {
        let at = arguments.iter().position(|argument| argument == name)?;
        let number = arguments.get(at + 1)?.parse();
        Some(number.unwrap_or_else(|_| panic!("{name} is followed by a number")))
    };
    let kills = number("--kills").map_or(100, |kills| u32::try_from(kills).unwrap_or(u32::MAX));
    let seed = number("--seed").unwrap_or_else(|| Clock::System.now().0);
    println!("torture: --kills {kills} --seed {seed}");
    let runtime = tokio::runtime::Runtime::new().expect("this machine runs threads");
    match runtime.block_on(run(&Options { kills, seed })) {
        Ok(summary) => println!("{summary}\nevery law holds"),
        Err(wrong) => {
            println!("{wrong}");
            std::process::exit(1);
        }
    }
}
