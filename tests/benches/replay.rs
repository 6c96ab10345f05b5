//! How long a turn takes that is taken up again after a crash, before it goes on.
//!
//! `cargo bench -p antiphon-tests --bench replay [-- READS]` has a turn read a slot a thousand
//! times and ask a model that does not answer, kills the server with -9, and starts it again:
//! the reads are answered from the journal. Prints the server's own stage `replay`, and
//! the time from the start of the process until the model is asked again.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::{Duration, Instant};

use antiphon::model::scripted::{Provider, Reply};
use antiphon_tests::load::{Connection, components, percentile};
use antiphon_tests::process::Process;
use serde_json::json;

const ROUNDS: usize = 15;

fn main() {
    let reads = std::env::args().skip(1).find_map(|it| it.parse().ok());
    let reads: u32 = reads.unwrap_or(1_000);
    let puppet = components(&["puppet"]).remove(0);
    let runtime = tokio::runtime::Runtime::new().expect("this machine runs threads");
    let provider = runtime.block_on(Provider::answering(|_| Reply::silence()));
    let settings = [("ANTIPHON_MODEL_URL", provider.base_url())];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_ref()));
    let document = "A line of the plan.\n".repeat(50);
    let (mut replays, mut starts) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // A folder of its own: nothing else is to be taken up.
        let data = tempfile::tempdir().expect("a scratch folder");
        let server = Process::try_start(data.path(), &settings).expect("the server starts");
        let mut connection = Connection::open(&server);
        connection.deploy(&server, "puppet", &puppet);
        let agents = json!({"agents": ["puppet"]});
        connection.json(&server, "PUT", "/v1/sessions/s", &agents);
        let body = json!([{"commit": ["plan", document]}, {"reads": ["plan", reads]},
            {"model": "q"}]);
        let message = json!({"body": body});
        connection.json(&server, "POST", "/v1/sessions/s/messages", &message);
        runtime.block_on(provider.received(2 * round + 1));
        server.kill();

        let start = Instant::now();
        let server = Process::try_start(data.path(), &settings).expect("the server starts");
        runtime.block_on(provider.received(2 * round + 2));
        starts.push(start.elapsed());
        let stages = Connection::open(&server).stages(&server);
        let (sum, count) = stages.get("replay").copied().unwrap_or_default();
        assert_eq!(count, 1.0, "one turn is taken up");
        replays.push(Duration::from_secs_f64(sum));
        server.kill();
    }
    println!(
        "a turn of {reads} slot reads, taken up: replay p50 {:.1} ms, worst {:.1} ms; from the \
         start of the process to the model's second request p50 {:.0} ms",
        percentile(&mut replays, 0.5),
        percentile(&mut replays, 1.0),
        percentile(&mut starts, 0.5),
    );
}
