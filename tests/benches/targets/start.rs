//! P8: from the start of the process to `listening`, on an empty folder each time.

use antiphon_tests::process::Process;

use super::Options;
use super::report::{Bound, Report, Spread};

const START_MS_MAX: f64 = 300.0;

pub(super) fn measure(options: &Options, report: &mut Report) {
    report.begin("P8", "start on an empty folder");
    let times: Vec<f64> = (0..options.rounds)
        .map(|_| {
            let data = tempfile::tempdir().expect("a scratch folder");
            let server = Process::start(data.path());
            let started = server.started;
            server.terminate();
            started.as_secs_f64() * 1e3
        })
        .collect();
    let spread = Spread::of(&times);
    report.line("P8", "antiphon", &[("listening after", spread, " ms")]);
    let what = "ms from the start of the process to `listening`";
    report.bound("P8", what, spread.median, Bound::AtMost(START_MS_MAX));
}
