//! A crash at every sync of a conversation, and again while what it left is recovered.

use std::collections::BTreeSet;
use std::time::Duration;

use super::bursts::{TALK as BURSTS, Talk};
use super::laws::{
    check_answered, check_booked, check_calls, check_heard, check_kept, check_repeatable,
    check_requests, check_resumed, check_said, check_transcript,
};
use super::{
    COLLECT, INSTANCE_WAIT, Log, ORIGIN, Origin, Outside, PROVIDER, SYNCS_MAX, converse, deployed,
    entries, fold, is_quiet, life, redeploy, tenant,
};
use crate::clock::Time;
use crate::journal::entry::Entry;
use crate::journal::state::{Batching, Policy};
use crate::ledger::transcript;
use crate::store::{Fault, Memory, RecordSpace, memory};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    PowerLoss,
    ProcessKill,
}

impl Crash {
    fn of(self, disk: &Memory) -> Memory {
        match self {
            Self::PowerLoss => disk.power_loss(),
            Self::ProcessKill => disk.process_kill(),
        }
    }
}

/// Hold the conversation with a fault, crash, crash again in recovery if `again`, recover, check
/// every law. False if the fault came too late to matter.
fn survives(talk: Talk<'_>, fault: Fault, crash: Crash, again: Option<Fault>) -> bool {
    survives_with(talk, fault, crash, again, |_| ())
}

/// The same, with something done to the disk between crash and recovery.
fn survives_with(
    talk: Talk<'_>,
    fault: Fault,
    crash: Crash,
    again: Option<Fault>,
    meanwhile: impl Fn(&Memory),
) -> bool {
    let (batching, lines) = talk;
    let disk = deployed(batching);
    survives_on(disk, lines, fault, crash, again, meanwhile, check_said)
}

/// The same on a disk with other agents, whose words are checked otherwise.
pub(super) fn survives_on(
    disk: Memory,
    lines: &[&str],
    fault: Fault,
    crash: Crash,
    again: Option<Fault>,
    meanwhile: impl Fn(&Memory),
    check_said: impl Fn(&[Entry]),
) -> bool {
    disk.inject(fault);
    let mut outside = Outside::default();
    let mut now = life(&disk, Time(0), async |world| {
        converse(world, lines, &mut outside).await;
        world.clock.now()
    });
    let hit = disk.is_stopped() || disk.syncs() >= fault_sync(fault);
    let mut disk = crash.of(&disk);
    meanwhile(&disk);
    check_disk(&disk, &outside);
    if let Some(fault) = again {
        disk.inject(fault);
        now = life(&disk, now, async |world| {
            // It stops, or there was not as much to write.
            world
                .until("it stops or is done", || {
                    disk.is_stopped() || is_quiet(&*world.store)
                })
                .await;
            world.clock.now()
        });
        disk = crash.of(&disk);
        meanwhile(&disk);
        check_disk(&disk, &outside);
    }
    let lost = fold(&entries(&*memory(&disk))).turns;
    life(&disk, now, async |world| {
        // Nobody opens it: its wake record does.
        world.quiet().await;
        let stored = entries(&*world.store);
        check_kept(&stored, &outside);
        check_answered(&stored);
        check_resumed(&stored, lost.keys());
        check_repeatable(&stored);
        check_said(&stored);
        check_heard(&stored);
        check_calls(&stored, &PROVIDER.with_borrow(Log::made));
        check_requests(&stored, &ORIGIN.with_borrow(Origin::made));
        check_booked(&world.store, &stored);
        if !stored.is_empty() {
            let session = world.session().await;
            let last = session.ledger.look(|state| state.last);
            let ledger = session.ledger.clone();
            let none = BTreeSet::new();
            let window =
                async move { transcript::window(&ledger, last.next(), last, 1_000, &none).await };
            let window = world
                .wait("the transcript", window)
                .await
                .expect("it reads");
            check_transcript(&window.items, &stored, &outside);
            drop(session);
            world
                .until("it rests", || world.sessions.open_count() == 0)
                .await;
        }
        let due = || {
            world
                .store
                .records(Some(&tenant()), RecordSpace::Wake, None, 10)
        };
        world
            .until("no wake record is left", || due().unwrap().is_empty())
            .await;
        world.stop_in_order().await;
    });
    hit
}

/// What a crash left, before anybody recovers it.
fn check_disk(disk: &Memory, outside: &Outside) {
    let store = memory(disk);
    let stored = entries(&*store);
    check_kept(&stored, outside);
    check_booked(&store, &stored);
}

fn fault_sync(fault: Fault) -> u64 {
    match fault {
        Fault::FailSync(k)
        | Fault::TearApply(k)
        | Fault::StopBeforeSync(k)
        | Fault::StopAfterSync(k) => k,
    }
}

const TALK: &[&[&str]] = &[
    &[
        "post a say one",
        "answered",
        "post b model two three four",
        "answered",
    ],
    &[
        "post a lock x; say writing; commit x doc; say done",
        "post b say meanwhile",
        "put y text",
        "answered",
    ],
    &[
        "post a say one; get page; say two; post page; post SLOW; say three",
        "post b get LONG; get SLOW; post CUT; get closed/page; post GONE; say four",
        "answered",
    ],
    &[
        "post a send b lock x,say got it,free x; say sent",
        "post a model one two",
        "post b lock x; sleep 5; commit x b",
        "answered",
    ],
    &[
        "post a lock x; say begun; sleep 60000; say too long",
        "shown begun",
        "post a say after",
        "stop a",
        "answered",
    ],
    &[
        "post a say one; fail",
        "post b fail",
        "post a leave; say kept",
        "answered",
    ],
    &[
        "post a lock y; say one; sleep 20; commit y doc",
        "shown one",
        "post b say two",
        "answered",
    ],
    &[
        "post a say one; lock x; commit x doc; hurry May I; say two",
        "answer a yes",
        "post a say after",
        "answered",
    ],
    &[
        "post a say one; hurry May I; sleep 20; hurry Really; say two",
        "post b lock x; hurry And I; free x; hurry Then I; say three",
        "answer a no",
        "answer b yes",
        "answered",
    ],
    &[
        "post a wake 300; say later",
        "put x one",
        "put x two",
        "answered",
    ],
];

fn talks() -> impl Iterator<Item = Talk<'static>> {
    let by_default = TALK.iter().map(|lines| (COLLECT, *lines));
    by_default.chain(BURSTS.iter().copied())
}

fn every_sync(crash: Crash, fault: fn(u64) -> Fault) {
    for talk in talks() {
        let lines = talk.1;
        let mut hits = 0;
        for k in 1..SYNCS_MAX {
            if !survives(talk, fault(k), crash, None) {
                break;
            }
            hits += 1;
        }
        assert!(
            (2..SYNCS_MAX - 1).contains(&hits),
            "{hits} syncs in {lines:?}"
        );
    }
}

#[test]
fn power_loss_before_any_sync_loses_nothing_that_was_promised() {
    every_sync(Crash::PowerLoss, Fault::StopBeforeSync);
}

#[test]
fn power_loss_after_any_sync_loses_nothing_that_was_promised() {
    every_sync(Crash::PowerLoss, Fault::StopAfterSync);
}

#[test]
fn a_kill_before_any_sync_loses_nothing_that_was_promised() {
    every_sync(Crash::ProcessKill, Fault::StopBeforeSync);
}

#[test]
fn a_sync_that_fails_loses_nothing_that_was_promised() {
    every_sync(Crash::PowerLoss, Fault::FailSync);
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    for (at, talk) in talks().enumerate() {
        for k in [2, 3, 5, 8] {
            for again in 1..5 {
                let fault = if at % 2 == 0 {
                    Fault::StopAfterSync(k)
                } else {
                    Fault::StopBeforeSync(k)
                };
                let again = if k % 2 == 0 {
                    Fault::StopAfterSync(again)
                } else {
                    Fault::StopBeforeSync(again)
                };
                survives(talk, fault, Crash::PowerLoss, Some(again));
                survives(talk, fault, Crash::ProcessKill, Some(again));
            }
        }
    }
}

/// Numbers from a seed (splitmix64), so that a run is named by one number.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).expect("it is small")]
    }
}

const STEPS: &[&str] = &[
    "say one",
    "say zwei",
    "model some words come",
    "model quite SLOW words come",
    "model words BUSY at first",
    "model words that CUT end",
    "ask whole words",
    "get page",
    "get LONG",
    "get SLOW",
    "get CUT",
    "post page",
    "post SLOW",
    "post GONE",
    "get closed/page",
    "trap",
    "lock x",
    "lock y",
    "commit x doc",
    "commit y doc",
    "free x",
    "read x",
    "send a say from somebody",
    "send b say from somebody",
    "wake 200",
    "sleep 3",
    "hurry May I",
    "leave",
    "fail",
];

fn conversation(dice: &mut Dice) -> Vec<String> {
    let mut lines = vec!["post a say hello".to_owned()];
    for _ in 0..3 + dice.below(5) {
        let agent = dice.pick(&["a", "b"]);
        let line = match dice.below(10) {
            0 => "answered".to_owned(),
            8 => format!("pass {}", dice.below(40)),
            9 => {
                // A burst: nobody waits between its lines.
                for line in 1..5 {
                    lines.push(format!("fire {agent} say line {line}"));
                }
                format!("post {agent} say line 5")
            }
            1 if dice.below(2) == 0 => format!("reply {agent} yes"),
            1 => format!("stop {agent}"),
            2 => format!("put {} text", dice.pick(&["x", "y"])),
            _ => {
                // An agent sends to the other one: nobody writes to himself.
                let other = if agent == "a" { "send a" } else { "send b" };
                let steps: Vec<&str> = (0..1 + dice.below(4))
                    .map(|_| dice.pick(STEPS))
                    .filter(|step| !step.starts_with(other))
                    .collect();
                format!("post {agent} say begun; {}", steps.join("; "))
            }
        };
        lines.push(line.trim_end_matches("; ").to_owned());
    }
    lines.push("answered".to_owned());
    lines
}

/// Seeds of one run, unless `ANTIPHON_SIM_SEEDS` says how many; one seed alone takes some
/// milliseconds.
const SEEDS: u64 = 10_000;

/// `ANTIPHON_SIM_SEED=n` runs one seed.
#[test]
fn any_conversation_survives_any_crash() {
    let seeds = match std::env::var("ANTIPHON_SIM_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => {
            let seeds = std::env::var("ANTIPHON_SIM_SEEDS");
            0..seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number"))
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |it| it.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mine = seeds
                .clone()
                .skip(thread as usize)
                .step_by(threads as usize);
            scope.spawn(move || mine.for_each(any));
        }
    });
}

#[expect(
    clippy::print_stdout,
    reason = "shown when it fails: the seed names the run"
)]
fn any(seed: u64) {
    {
        let mut dice = Dice(seed);
        let lines = conversation(&mut dice);
        let k = 1 + dice.below(25);
        let fault = [
            Fault::StopBeforeSync(k),
            Fault::StopAfterSync(k),
            Fault::FailSync(k),
            Fault::TearApply(k),
        ][usize::try_from(dice.below(4)).expect("it is small")];
        // Half an apply is what a disk may hold after a power loss and before a sync, never after a kill.
        let torn = matches!(fault, Fault::TearApply(_));
        let crash = if torn || dice.below(2) == 0 {
            Crash::PowerLoss
        } else {
            Crash::ProcessKill
        };
        let again = (dice.below(3) == 0).then(|| Fault::StopAfterSync(1 + dice.below(6)));
        let deploy = dice.below(4);
        let policies = [
            Policy::Collect,
            Policy::Followup,
            Policy::Interrupt,
            Policy::Steer,
        ];
        let policy = policies[usize::try_from(dice.below(4)).expect("it is small")];
        let batching = Batching { policy, ..COLLECT };
        // Of half of them no instance outlasts a call of a model.
        let waits = [Duration::ZERO, Duration::from_secs(3_600)];
        INSTANCE_WAIT.set(waits[usize::try_from(dice.below(2)).expect("it is small")]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let run = || {
            survives_with(
                (batching, &lines),
                fault,
                crash,
                again,
                |disk| match deploy {
                    0 => redeploy(disk, false),
                    1 => redeploy(disk, true),
                    _ => {}
                },
            )
        };
        // Threads of a test do not have their output kept back, so only what fails is said.
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            println!(
                "ANTIPHON_SIM_SEED={seed}: {policy:?} {fault:?} {crash:?} {again:?} {lines:#?}"
            );
            std::panic::resume_unwind(panic);
        }
    }
}
