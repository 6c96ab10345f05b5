//! What the system says of a server's process: memory, computing, disk, threads.
//!
//! Read from `/proc`, so it costs the process nothing.

use std::time::Duration;

use crate::process::Process;

/// At one moment. What adds up does so since the process began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Observed {
    /// In memory, shared pages with it.
    pub resident_bytes: u64,
    /// Computed by all threads, in the kernel too.
    pub cpu: Duration,
    /// Handed to disks, by whatever file system.
    pub written_bytes: u64,
    pub write_calls: u64,
    pub descriptors: u64,
    pub threads: u64,
}

/// What `/proc/PID/stat` counts in: the kernel's `USER_HZ`, 100 wherever Linux runs.
const TICK: Duration = Duration::from_millis(10);

impl Observed {
    pub fn of(process: &Process) -> Self {
        let folder = format!("/proc/{}", process.id());
        let text = |name: &str| std::fs::read_to_string(format!("{folder}/{name}"));
        let [status, io, stat] = ["status", "io", "stat"].map(|name| text(name).expect("it runs"));
        // Fields are counted after the name, which may hold anything.
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u32>().expect("a number of ticks");
        let descriptors = std::fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count);
        Self {
            resident_bytes: number(&status, "VmRSS:") * 1024,
            cpu: TICK * (ticks(11) + ticks(12)),
            written_bytes: number(&io, "write_bytes:"),
            write_calls: number(&io, "syscw:"),
            descriptors: descriptors as u64,
            threads: number(&status, "Threads:"),
        }
    }

    pub fn resident_mb(&self) -> f64 {
        self.resident_bytes as f64 / 1e6
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.saturating_sub(before.resident_bytes),
            cpu: self.cpu.saturating_sub(before.cpu),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            write_calls: self.write_calls.saturating_sub(before.write_calls),
            descriptors: self.descriptors.saturating_sub(before.descriptors),
            threads: self.threads.saturating_sub(before.threads),
        }
    }
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|it| it.parse().ok()).expect("a number")
}
