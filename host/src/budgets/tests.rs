use super::*;
use crate::id::SessionId;
use crate::journal::entry::Usage;
use crate::store::{Fault, Memory, memory};

fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant")
}

fn journal(session: &str) -> JournalId {
    JournalId {
        tenant: tenant("t"),
        session: session.parse().expect("a session"),
    }
}

fn day(text: &str) -> Day {
    text.parse().expect("a day")
}

fn costs(micros: u64) -> Usage {
    Usage {
        model_calls: 1,
        cost_micros: micros,
        ..Usage::default()
    }
}

/// Write what sessions used, as their ledgers do, and wait until it is durable.
fn write(store: &Arc<dyn Store>, used: &[(&JournalId, &str, u64)]) {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let writes = used
        .iter()
        .map(|(journal, on, micros)| usage_write(journal, day(on), costs(*micros)));
    let commit = crate::store::Commit {
        writes: writes.collect(),
        done: Box::new(move |result| sender.send(result).expect("somebody waits")),
    };
    store.commit(commit).expect("it is queued");
    receiver.recv().expect("it is done").expect("it is durable");
}

fn terms(total: Option<u64>, of_day: Option<u64>) -> Terms {
    Terms {
        budget: TenantBudget {
            total_micros_max: total,
            day_micros_max: of_day,
        },
        usage_days_max: 400,
        ..Terms::default()
    }
}

const ALWAYS: (&str, &str) = ("1970-01-01", "9999-12-31");

/// Day and micro-units, the sum of forgotten days first.
fn reported(
    budgets: &Budgets,
    (from, to): (&str, &str),
    session: Option<&str>,
) -> Vec<(String, u64)> {
    let session: Option<SessionId> = session.map(|it| it.parse().expect("a session"));
    let report = budgets.report(
        &tenant("t"),
        (day(from), day(to)),
        session.as_ref(),
        day("2026-01-05").start(),
    );
    let report = report.expect("it reads");
    let earlier = Some(("earlier".to_owned(), report.earlier.cost_micros));
    let days = report.days.iter();
    let days = days.map(|it| (it.day.to_string(), it.usage.cost_micros));
    earlier
        .into_iter()
        .filter(|it| it.1 > 0)
        .chain(days)
        .collect()
}

fn lines(expect: &[(&str, u64)]) -> Vec<(String, u64)> {
    let lines = expect.iter();
    lines
        .map(|(name, micros)| ((*name).to_owned(), *micros))
        .collect()
}

#[test]
fn a_report_is_of_the_days_asked_for_and_of_one_tenant() {
    let store = memory(&Memory::new());
    let other = JournalId {
        tenant: tenant("other"),
        ..journal("s")
    };
    write(
        &store,
        &[
            (&journal("s"), "2026-01-01", 1),
            (&journal("s"), "2026-01-02", 2),
            (&journal("z"), "2026-01-02", 4),
            (&journal("s"), "2026-01-03", 8),
            (&other, "2026-01-02", 1_000),
        ],
    );
    let budgets = Budgets::new(store, terms(None, None));
    let all = [("2026-01-01", 1), ("2026-01-02", 6), ("2026-01-03", 8)];
    assert_eq!(reported(&budgets, ALWAYS, None), lines(&all));
    let asked = ("2026-01-02", "2026-01-02");
    assert_eq!(reported(&budgets, asked, None), lines(&[("2026-01-02", 6)]));
    assert_eq!(
        reported(&budgets, asked, Some("z")),
        lines(&[("2026-01-02", 4)])
    );
    let none = ("2026-01-04", "2026-02-01");
    assert_eq!(reported(&budgets, none, None), []);
    assert_eq!(reported(&budgets, asked, Some("nobody")), []);
}

/// The caps of one tenant say nothing about another.
#[test]
fn tenants_are_counted_apart_and_may_have_caps_of_their_own() {
    let store = memory(&Memory::new());
    let mut terms = terms(Some(100), Some(10));
    let own = TenantBudget {
        total_micros_max: None,
        day_micros_max: Some(20),
    };
    terms.tenants.insert(tenant("rich"), own);
    let budgets = Budgets::new(store, terms);
    let now = Time(0);
    let mut poor = budgets.meter(&tenant("poor"), now).expect("it reads");
    let mut rich = budgets.meter(&tenant("rich"), now).expect("it reads");
    let reached = |name: &str, now| budgets.check_tenant(&tenant(name), now).err();
    poor.add(now.day(), 10);
    rich.add(now.day(), 19);
    let exhausted = reached("poor", now).expect("its day is used up");
    assert_eq!(
        (exhausted.cap, exhausted.limit_micros),
        (Cap::TenantDay, 10)
    );
    assert_eq!(exhausted.until, Some(now.day().next().start()));
    assert_eq!(reached("rich", now), None);
    assert_eq!(reached("unknown", now), None);
    rich.add(now.day(), 1);
    assert_eq!(reached("rich", now).expect("so is its").limit_micros, 20);
    let tomorrow = now.day().next().start();
    assert_eq!(reached("poor", tomorrow), None);
    // What is not said for a tenant is as for all.
    rich.add(tomorrow.day(), 80);
    let exhausted = reached("rich", tomorrow.day().next().start());
    let exhausted = exhausted.expect("that is all that it may");
    let expect = (Cap::Tenant, 100, 100, None);
    let Exhausted {
        cap,
        spent_micros,
        limit_micros,
        until,
    } = exhausted;
    assert_eq!((cap, spent_micros, limit_micros, until), expect);
}

/// What was appended and never came to the store is taken back with whoever counted it.
#[test]
fn what_was_counted_and_never_stored_is_taken_back() {
    let budgets = Budgets::new(memory(&Memory::new()), terms(Some(100), None));
    let spent = || {
        let standings = budgets.standings(&tenant("t"), Time(0));
        standings.expect("they read")[0].spent_micros
    };
    let meter = || budgets.meter(&tenant("t"), Time(0)).expect("it reads");
    let (mut one, mut two) = (meter(), meter());
    one.add(Day::default(), 1);
    one.saved();
    one.add(Day::default(), 2);
    two.add(Day::default(), 4);
    assert_eq!(spent(), 7);
    drop(one);
    assert_eq!(spent(), 5);
    two.saved();
    drop(two);
    assert_eq!(spent(), 5);
}

#[test]
fn old_days_become_one_sum_that_still_counts() {
    let disk = Memory::new();
    let store = memory(&disk);
    let mut used: Vec<(JournalId, String, u64)> = Vec::new();
    // More records than are moved at once.
    for number in 0..600 {
        used.push((journal(&format!("s{number}")), "2025-01-01".into(), 1));
    }
    used.push((journal("s0"), "2026-01-01".into(), 10));
    used.push((journal("s0"), "2026-01-02".into(), 20));
    used.push((journal("s0"), "2026-01-03".into(), 40));
    let borrowed: Vec<_> = used
        .iter()
        .map(|(id, on, it)| (id, on.as_str(), *it))
        .collect();
    write(&store, &borrowed);
    let kept = |usage_days_max| Terms {
        usage_days_max,
        ..terms(Some(1_000), None)
    };
    let now = day("2026-01-03").start();
    let forget = |days| {
        let budgets = Budgets::new(store.clone(), kept(days));
        budgets.forget_days(&tenant("t"), now).expect("it is moved")
    };
    let report = || reported(&Budgets::new(store.clone(), kept(400)), ALWAYS, None);
    let before = report();
    assert_eq!(forget(400), 0);
    assert_eq!(report(), before);
    assert_eq!(forget(3), 600);
    let days = [("2026-01-01", 10), ("2026-01-02", 20), ("2026-01-03", 40)];
    let all: Vec<_> = std::iter::once(("earlier", 600)).chain(days).collect();
    assert_eq!(report(), lines(&all));
    assert_eq!(forget(2), 1);
    assert_eq!(forget(2), 0);
    // Yesterday may still be written.
    assert_eq!(forget(1), 0);
    let all = [("earlier", 610), ("2026-01-02", 20), ("2026-01-03", 40)];
    assert_eq!(report(), lines(&all));
    // The sum counts against the cap of all that is spent.
    let budgets = Budgets::new(memory(&disk.power_loss()), kept(2));
    let standings = budgets.standings(&tenant("t"), now).expect("they read");
    assert_eq!(standings[0].spent_micros, 670);
}

/// A stop at any sync leaves the sum of everything as it was.
#[test]
fn moving_usage_loses_nothing_wherever_it_stops() {
    let spent = |days: (&str, &str)| Spent {
        first_day: Some(day(days.0)),
        day: day(days.1),
        ..Spent::default()
    };
    let mut hits = 0;
    for k in 1..20 {
        for fault in [
            Fault::StopBeforeSync(k),
            Fault::StopAfterSync(k),
            Fault::TearApply(k),
            Fault::FailSync(k),
        ] {
            let disk = Memory::new();
            let (one, two) = (journal("one"), journal("two"));
            let store = memory(&disk);
            write(
                &store,
                &[
                    (&one, "2024-01-01", 1),
                    (&one, "2026-01-01", 2),
                    (&two, "2026-01-01", 4),
                    (&two, "2026-01-02", 8),
                ],
            );
            store.close();
            let disk = disk.power_loss();
            disk.inject(fault);
            let budgets = Budgets::new(memory(&disk), terms(None, None));
            let work = std::thread::spawn(move || {
                let now = day("2026-01-03").start();
                budgets.forget_days(&tenant("t"), now)?;
                budgets.bury(&one, &spent(("2024-01-01", "2026-01-01")), Vec::new())?;
                budgets.bury(&two, &spent(("2026-01-01", "2026-01-02")), Vec::new())
            });
            while !work.is_finished() && !disk.is_stopped() {
                std::thread::yield_now();
            }
            let stopped = disk.is_stopped() || matches!(work.join(), Ok(Err(_)));
            hits += u32::from(stopped);
            let budgets = Budgets::new(memory(&disk.power_loss()), terms(None, None));
            let sum: u64 = reported(&budgets, ALWAYS, None).iter().map(|it| it.1).sum();
            assert_eq!(sum, 15, "{fault:?}");
            if !stopped {
                let expect = [("earlier", 1), ("2026-01-01", 6), ("2026-01-02", 8)];
                assert_eq!(reported(&budgets, ALWAYS, None), lines(&expect));
                assert_eq!(reported(&budgets, ALWAYS, Some("one")), []);
            }
        }
        if hits < 4 * u32::try_from(k).expect("it is small") {
            break;
        }
    }
    assert!(hits >= 8, "{hits}");
}
