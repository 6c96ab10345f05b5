//! P6, first half: how fast a journal is folded.
//!
//! The real binary records a session: each turn reads and locks a slot, asks a model, says the answer, commits a document.
//! Then this process takes the journal from the store and folds it: from frames in memory, part
//! by part, and as a recovery does, from a store that was imported and so has no snapshot.

use std::hint::black_box;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

use antiphon::clock::Clock;
use antiphon::id::{Seq, SessionId, TenantId};
use antiphon::journal::codec::{Encoded, Frame};
use antiphon::journal::entry::Entry;
use antiphon::journal::state::State;
use antiphon::ledger::Ledger;
use antiphon::model::scripted::{Provider, Reply};
use antiphon::store::{JournalId, SledOptions, open_sled, transfer};
use antiphon_tests::load::{Connection, components};
use antiphon_tests::process::Process;
use serde_json::json;

use super::Options;
use super::report::{Bound, Report, Spread};

/// Entries a second.
const RATE_MIN: f64 = 200_000.0;

const TURNS: usize = 2_000;

pub(super) fn measure(options: &Options, report: &mut Report) {
    report.begin("P6", "a journal is folded");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    record(&data, TURNS);

    let journal = JournalId {
        tenant: TenantId::new("default").expect("a tenant's name"),
        session: SessionId::new("s").expect("a session's name"),
    };
    let store = open_sled(&data.join("store"), SledOptions::default()).expect("the store opens");
    let frames = store.frames(&journal, Seq(0), usize::MAX);
    let frames = frames.expect("they can be read");
    store.close();
    drop(store);
    let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
    let encoded: Vec<Encoded> = frames.iter().flat_map(entries).collect();
    let decoded: Vec<Entry> = encoded.iter().map(decode).collect();
    let count = decoded.len();
    let about = format!(
        "{TURNS} turns: {count} entries in {} frames, {} bytes each",
        frames.len(),
        bytes / count
    );
    println!("  {about}");

    let mut rate = |what: &str, work: &mut dyn FnMut() -> usize| {
        let rates = rates(options.rounds, count, work);
        report.line("P6", what, &[("", rates, " entries/s")]);
        rates
    };
    rate("check and split the frames", &mut || {
        frames.iter().map(|frame| entries(frame).len()).sum()
    });
    rate("decode the entries", &mut || {
        encoded.iter().for_each(|it| drop(black_box(decode(it))));
        encoded.len()
    });
    rate("fold what is decoded", &mut || fold(&decoded));
    let whole = rate("all of it, from frames", &mut || {
        let mut state = State::default();
        for encoded in frames.iter().flat_map(entries) {
            state.next(&decode(&encoded)).expect("it was legal");
        }
        black_box(state).last.0 as usize
    });

    // An import has every frame and no snapshot.
    let mut lines = Vec::new();
    transfer::export(&data.join("store"), &mut lines).expect("it can be exported");
    transfer::import(&copy, BufReader::new(lines.as_slice())).expect("it can be imported");
    let store = open_sled(&copy, SledOptions::default()).expect("the store opens");
    rate("a recovery, from the store", &mut || {
        let ledger = Ledger::open(store.clone(), journal.clone(), Clock::System);
        let ledger = ledger.expect("the journal opens");
        ledger.look(|state| state.last.0 as usize)
    });
    store.close();
    let what = "entries folded a second, from frames";
    report.bound("P6", what, whole.median, Bound::AtLeast(RATE_MIN));
}

/// Have the real server make a journal.
fn record(data: &Path, turns: usize) {
    let puppet = components(&["puppet"]).remove(0);
    let runtime = tokio::runtime::Runtime::new().expect("this machine runs threads");
    let answer = "Rents are lower there, and the river is near. ".repeat(6);
    let provider = runtime.block_on(Provider::answering(move |_| Reply::text(&answer)));
    let settings = [("ANTIPHON_MODEL_URL", provider.base_url())];
    let settings = settings
        .each_ref()
        .map(|(name, value)| (*name, value.as_ref()));
    let server = Process::try_start(data, &settings).expect("the server starts");
    let mut connection = Connection::open(&server);
    connection.deploy(&server, "puppet", &puppet);
    connection.json(
        &server,
        "PUT",
        "/v1/sessions/s",
        &json!({"agents": ["puppet"]}),
    );
    for turn in 0..turns {
        let body = json!([{"read": "plan"}, {"work": {"slot": "plan",
            "question": format!("What of number {turn}?"),
            "document": "A line of the plan.\n", "times": 20}}]);
        let request = json!({"session": "s", "author": "ana", "body": body});
        connection.json(&server, "POST", "/v1/agents/puppet/invoke", &request);
    }
    assert!(server.terminate().success(), "it stops in order");
}

fn entries(frame: &Frame) -> Vec<Encoded> {
    frame.entries().expect("the frame is whole")
}

fn decode(encoded: &Encoded) -> Entry {
    encoded.decode().expect("the entry is whole")
}

fn fold(entries: &[Entry]) -> usize {
    let mut state = State::default();
    for entry in entries {
        state.next(entry).expect("it was legal");
    }
    black_box(state).last.0 as usize
}

/// Work through so many entries again and again; how many in a second.
fn rates(rounds: usize, count: usize, work: &mut dyn FnMut() -> usize) -> Spread {
    let rates: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(work(), count, "all of them");
            count as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    Spread::of(&rates)
}
