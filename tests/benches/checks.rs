//! What the checks cost: P1 with quotas, budgets and limits that are looked at, and without.
//!
//! `cargo bench -p antiphon-tests --bench checks [-- ROUNDS]` starts the real binary twice: as it is by default, and with a budget
//! in the settings and every quota given to the tenant, none of which is reached. Rounds of two seconds alternate between them,
//! so that both meet the same machine; prints the medians and their ratio.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::Path;
use std::time::Duration;

use antiphon_tests::load::{Connection, components, open_sessions, operator_key, turns};
use antiphon_tests::process::Process;
use serde_json::json;

fn main() {
    let rounds: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(9);
    let worker = components(&["worker"]).remove(0);
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a scratch folder"));
    let budget = [
        ("ANTIPHON_BUDGETS__TOTAL_MICROS_MAX", "1000000000"),
        ("ANTIPHON_BUDGETS__DAY_MICROS_MAX", "1000000000"),
    ];
    let off = Process::start(folders[0].path());
    let on = Process::try_start(folders[1].path(), &budget).expect("it starts");
    give_quotas(&on, folders[1].path());
    for server in [&off, &on] {
        Connection::open(server).deploy(server, "worker", &worker);
        open_sessions(server, 64);
        turns(server, 64, Duration::from_secs(1));
    }
    for connections in [1, 64] {
        let mut found: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // Who comes first in a round has no advantage over all of them.
            let mut order = [(0, &off), (1, &on)];
            order.rotate_left(round % 2);
            for (at, server) in order {
                let run = turns(server, connections, Duration::from_secs(2));
                assert_eq!(run.failed, 0);
                found[at].push(run.per_second());
            }
        }
        let [off, on] = found.map(median);
        println!(
            "{connections:>3} connections: off {off:>6.0} turns/s, on {on:>6.0} turns/s, ratio {:.3}",
            on / off
        );
    }
}

fn give_quotas(server: &Process, data: &Path) {
    let quotas = json!({
        "sessions_max": 1_000_000,
        "storage_bytes_max": 1_000_000_000_000_u64,
        "turns_max": 500,
        "turns_waiting_max": 5_000,
    });
    let path = "/v1/tenants/default/quotas";
    Connection::open(server).json_as(&operator_key(data), "PUT", path, &quotas);
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
