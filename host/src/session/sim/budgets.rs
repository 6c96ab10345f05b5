//! What is spent, and what may be: caps, and totals that crashes, ends and forks leave as they are.
//!
//! A word is a token, a token costs a micro-unit: `model one two` costs 4.

use super::laws::{booked, check_answered, check_booked, check_repeatable, days};
use super::*;
use crate::budgets::{AgentBudget, Cap, Exhausted};
use crate::journal::entry::{CallResult, TurnEnded, Usage};
use crate::session::fork::NewFork;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A disk on which `a` may spend so much.
fn capped(budget: AgentBudget) -> Memory {
    let disk = fresh();
    reconfigure(&disk, budget);
    disk.power_loss()
}

/// Put another budget in place, as it can happen while no process runs.
fn reconfigure(disk: &Memory, budget: AgentBudget) {
    let config = AgentConfig {
        budget,
        ..AgentConfig::default()
    };
    configure(disk, config);
}

fn configure(disk: &Memory, config: AgentConfig) {
    let store = memory(disk);
    let key = RecordKey {
        tenant: Some(tenant()),
        space: RecordSpace::Agent,
        name: "a".into(),
    };
    let bytes = store.record(&key).expect("it reads").expect("it is there");
    let mut deployment = Deployment::parse(&bytes).expect("it is whole");
    deployment.put_config(Arc::new(config), Time(0), 10);
    let bytes = deployment.bytes();
    let commit = crate::store::Commit {
        writes: vec![Write::Record { key, bytes }],
        done: Box::new(|_| {}),
    };
    Store::commit(&*store, commit).expect("it is queued");
    store.close();
}

fn of_session(micros: u64) -> AgentBudget {
    AgentBudget {
        session_micros_max: Some(micros),
        ..AgentBudget::default()
    }
}

fn of_run(micros: u64) -> AgentBudget {
    AgentBudget {
        run_micros_max: Some(micros),
        ..AgentBudget::default()
    }
}

fn may_spend(total: Option<u64>, day: Option<u64>) {
    BUDGET.set(TenantBudget {
        total_micros_max: total,
        day_micros_max: day,
    });
}

fn post(world: &World, session: &Session, to: &str, text: &str) -> Result<Seq, CommandError> {
    let (new, message) = (new_session(None), new_message(to, text));
    let ledger = &session.ledger;
    commands::post(&world.sessions, ledger, Some(&new), message).map(|posted| posted.seq)
}

fn refused(world: &World, session: &Session) -> Exhausted {
    let before = session.ledger.look(|state| state.last);
    match post(world, session, "a", "say no") {
        Err(CommandError::BudgetExhausted(exhausted)) => {
            assert_eq!(session.ledger.look(|state| state.last), before);
            exhausted
        }
        other => panic!("{other:?}"),
    }
}

fn ended(stored: &[Entry]) -> Vec<&TurnEnded> {
    let ends = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::TurnEnded(it) => Some(it),
        _ => None,
    });
    ends.collect()
}

fn spoken(stored: &[Entry]) -> String {
    let words = stored.iter().filter_map(|entry| match &entry.payload {
        Payload::Spoke(it) => Some(it.text.as_str()),
        _ => None,
    });
    words.collect()
}

#[test]
fn a_session_is_stopped_by_the_turn_after_the_one_that_passed_its_cap() {
    let disk = capped(of_session(10));
    let now = life(&disk, Time(0), async |world| {
        let talk = ["post a model x y", "answered"].repeat(3);
        converse(world, &talk, &mut Outside::default()).await;
        let session = world.session().await;
        let expect = Exhausted {
            cap: Cap::Session,
            spent_micros: 12,
            limit_micros: 10,
            until: None,
        };
        assert_eq!(refused(world, &session), expect);
        // Another agent of the session has its own configuration.
        post(world, &session, "b", "say yes").expect("it is taken");
        drop(session);
        world.quiet().await;
        check_booked(&world.store, &entries(&*world.store));
        world.clock.now()
    });
    // After a crash it is the same, and with a higher cap it goes on.
    let disk = disk.process_kill();
    life(&disk, now, async |world| {
        let session = world.session().await;
        assert_eq!(refused(world, &session).spent_micros, 12);
    });
    let disk = disk.process_kill();
    reconfigure(&disk, of_session(13));
    life(&disk, now, async |world| {
        converse(
            world,
            &["post a model x", "answered"],
            &mut Outside::default(),
        )
        .await;
        let session = world.session().await;
        assert_eq!(refused(world, &session).spent_micros, 14);
    });
}

/// The turn hears of the cap, goes on, and a run has no say about the next one.
#[test]
fn a_run_hears_of_its_cap_and_the_next_run_begins_anew() {
    life(&capped(of_run(3)), Time(0), async |world| {
        let lines = [
            "post a model one two; model three; say end",
            "answered",
            "post a model four",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        assert_eq!(spoken(&stored), "one two[OverBudget]endfour");
        let costs: Vec<u64> = ended(&stored)
            .iter()
            .map(|it| it.usage.cost_micros)
            .collect();
        assert_eq!(costs, [4, 2]);
        let detail = stored.iter().find_map(|entry| match &entry.payload {
            Payload::Returned(it) => match &it.result {
                CallResult::Failed { error, detail, .. } => Some(format!("{error}: {detail}")),
                _ => None,
            },
            _ => None,
        });
        let expect = "over-budget: the run's budget is used up: 4 of 3 micro-units";
        assert_eq!(detail.as_deref(), Some(expect));
        assert_eq!(PROVIDER.with_borrow(Log::made).len(), 2);
        check_repeatable(&stored);
    });
}

/// What other agents do because of a message is the same run.
#[test]
fn a_run_is_summed_over_the_turns_that_it_caused() {
    life(&capped(of_run(3)), Time(0), async |world| {
        let lines = ["post b model one two; send a model three", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        world.quiet().await;
        let stored = entries(&*world.store);
        assert_eq!(spoken(&stored), "one two[OverBudget]", "{}", print(&stored));
    });
}

/// It was decided, so a replay does not decide it again, though the cap is gone by then.
#[test]
fn what_a_turn_heard_of_its_cap_it_hears_again() {
    let disk = capped(of_run(3));
    let lines = [
        "post a model one two; model three; sleep 60000; model four; say end",
        "shown OverBudget",
    ];
    let now = life(&disk, Time(0), async |world| {
        converse(world, &lines, &mut Outside::default()).await;
        world.clock.now()
    });
    let disk = disk.process_kill();
    reconfigure(&disk, AgentBudget::default());
    life(&disk, now, async |world| {
        world.quiet().await;
        let stored = entries(&*world.store);
        // The turn goes on with what it pinned.
        assert_eq!(spoken(&stored), "one two[OverBudget][OverBudget]end");
        assert_eq!(PROVIDER.with_borrow(Log::made).len(), 1);
        check_answered(&stored);
        check_booked(&world.store, &stored);
    });
}

/// Sent and received so far is all that is known: it is booked with the end, and said to be a guess.
#[test]
fn a_call_that_is_cut_off_is_booked_with_its_turn() {
    for (line, cut) in [("stop a", "interrupted"), ("delete", "cancelled")] {
        life(&fresh(), Time(0), async |world| {
            // What was stored of it is looked at before it is removed.
            let burials = &world.sessions.0.burials;
            let places = u32::try_from(wake::BURIALS_MAX).unwrap();
            let _all = burials.acquire_many(places).await.unwrap();
            let lines = ["post a model now then SLOW later", "shown then", line];
            converse(world, &lines, &mut Outside::default()).await;
            let ended_at = || ended(&entries(&*world.store)).len() == 1;
            world.until("it has ended", ended_at).await;
            let stored = entries(&*world.store);
            let ends = ended(&stored);
            let usage = ends[0].usage;
            assert_eq!(ends[0].outcome.name(), cut);
            assert_eq!((usage.model_calls, usage.estimated_calls), (1, 1));
            // `now then `: nine bytes.
            assert_eq!(usage.output_tokens, 3);
            assert!(usage.input_tokens > 5, "{usage:?}");
            assert_eq!(usage.cost_micros, usage.input_tokens + usage.output_tokens);
            check_booked(&world.store, &stored);
        });
    }
}

#[test]
fn a_call_that_breaks_off_is_booked_as_far_as_it_came() {
    life(&fresh(), Time(0), async |world| {
        let lines = [
            "post a model now CUT",
            "answered",
            "post a model BUSY yes",
            "answered",
        ];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let usages: Vec<Usage> = ended(&stored).iter().map(|it| it.usage).collect();
        let [cut, busy] = usages[..] else {
            panic!("{}", print(&stored));
        };
        assert_eq!(
            (cut.model_calls, cut.estimated_calls, cut.output_tokens),
            (1, 1, 1)
        );
        assert!(cut.input_tokens > 5);
        // The attempt that was refused brought nothing and is not booked.
        let expect = Usage {
            model_calls: 1,
            input_tokens: 2,
            output_tokens: 1,
            cost_micros: 3,
            ..Usage::default()
        };
        assert_eq!(busy, expect);
    });
}

/// The tenant's day is used up: messages are refused, what waits is held, and all goes on at midnight.
#[test]
fn what_waits_for_another_day_begins_on_it() {
    may_spend(None, Some(4));
    let disk = fresh();
    // Long before midnight: opening a session is a real thread's work, and virtual time does not wait.
    let evening = Time(DAY_MS - 600_000);
    life(&disk, evening, async |world| {
        let session = world.session().await;
        post(world, &session, "a", "model one two SLOW; send b say hello").expect("it is taken");
        world
            .until("it works", || {
                session.ledger.look(|state| !state.turns.is_empty())
            })
            .await;
        post(world, &session, "a", "say second").expect("it is taken");
        let waits = |state: &State| {
            let waits = |agent| state.participants[&name(agent)].is_until_ready();
            waits("a") && waits("b")
        };
        world
            .until("both wait", || session.ledger.look(waits))
            .await;
        let exhausted = refused(world, &session);
        let expect = Exhausted {
            cap: Cap::TenantDay,
            spent_micros: 5,
            limit_micros: 4,
            until: Some(Time(DAY_MS)),
        };
        assert_eq!(exhausted, expect);
        drop(session);
        world.quiet().await;
        let stored = entries(&*world.store);
        let said = spoken(&stored);
        for words in ["one two ", "second", "hello"] {
            assert!(said.contains(words), "{}", print(&stored));
        }
        let resumed = stored
            .iter()
            .filter(|entry| entry.payload.kind() == Kind::AgentResumed);
        let resumed: Vec<Time> = resumed.map(|entry| entry.time).collect();
        assert_eq!(resumed.len(), 2);
        assert!(resumed.iter().all(|at| *at >= Time(DAY_MS)), "{resumed:?}");
        let lines = ["post a model new day", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        check_booked(&world.store, &entries(&*world.store));
        let spent: Vec<u64> = days(&world.store)
            .iter()
            .map(|(_, it)| it.cost_micros)
            .collect();
        assert_eq!(spent, [5, 4]);
    });
}

/// What the tenant spent is known to the next process, whichever way the last one ended.
#[test]
fn a_restart_forgets_nothing_that_was_spent() {
    let disk = fresh();
    let now = life(&disk, Time(0), async |world| {
        converse(
            world,
            &["post a model one two", "answered"],
            &mut Outside::default(),
        )
        .await;
        world.clock.now()
    });
    for (total, day) in [(Some(4), None), (None, Some(4)), (Some(9), Some(4))] {
        may_spend(total, day);
        life(&disk.process_kill(), now, async |world| {
            let exhausted = refused(world, &*world.session().await);
            assert_eq!((exhausted.spent_micros, exhausted.limit_micros), (4, 4));
        });
    }
    may_spend(Some(4), None);
    life(
        &disk.process_kill(),
        now.plus_ms(5 * DAY_MS),
        async |world| {
            assert_eq!(refused(world, &*world.session().await).cap, Cap::Tenant);
        },
    );
    may_spend(Some(5), Some(4));
    life(&disk.process_kill(), now.plus_ms(DAY_MS), async |world| {
        let session = world.session().await;
        post(world, &session, "a", "say yes").expect("it is another day");
    });
}

/// Many sessions at once spend what they spend: each call is counted once, and the cap is passed by
/// what was under way.
#[test]
fn sessions_that_spend_at_once_are_counted_exactly() {
    may_spend(Some(20), None);
    life(&fresh(), Time(0), async |world| {
        let mut open = Vec::new();
        for number in 0..6 {
            let id: SessionId = name(&format!("s{number}"));
            let (sessions, owner) = (world.sessions.clone(), tenant());
            let getting = async move { sessions.get_or_absent(&owner, &id).await };
            open.push(world.wait("it is there", getting).await.expect("it opens"));
        }
        for session in &open {
            post(world, session, "a", "model one two; model three four").expect("it is taken");
        }
        let idle = |session: &Arc<Session>| {
            session.ledger.look(|state| {
                let all = state.participants.values();
                state.turns.is_empty()
                    && all.clone().all(|it| it.pending.iter().all(|it| !it.fresh))
                    || all.clone().any(|it| it.is_until_ready())
            })
        };
        world.until("all is said", || open.iter().all(idle)).await;
        let spent: u64 = open
            .iter()
            .map(|session| session.ledger.look(|state| state.spent().total.cost_micros))
            .sum();
        let standings = world
            .sessions
            .budgets()
            .standings(&tenant(), world.clock.now());
        assert_eq!(standings.expect("they read")[0].spent_micros, spent);
        // Four turns run at once: when the fifth call of four came back, at most three others ran.
        assert!((20..20 + 4 * 4).contains(&spent), "{spent}");
        let standing = refused(world, &open[0]);
        assert_eq!((standing.cap, standing.spent_micros), (Cap::Tenant, spent));
    });
}

/// A session that is deleted keeps what it cost, wherever the machine stops meanwhile.
#[test]
fn what_a_deleted_session_used_stays_through_any_crash() {
    let lines = ["post a model one two", "answered", "delete"];
    let sum = |store: &Arc<dyn Store>| {
        let mut sum = Usage::default();
        days(store).iter().for_each(|(_, usage)| sum.add(*usage));
        sum.cost_micros
    };
    let records = |store: &Arc<dyn Store>| {
        let all = store.records(Some(&tenant()), RecordSpace::Usage, None, 9);
        let all = all.expect("it reads").into_iter();
        all.map(|(name, _)| name).collect::<Vec<_>>()
    };
    let mut hits = 0;
    for k in 1..SYNCS_MAX {
        for fault in [Fault::StopBeforeSync(k), Fault::StopAfterSync(k)] {
            let disk = fresh();
            disk.inject(fault);
            let mut outside = Outside::default();
            let now = life(&disk, Time(0), async |world| {
                converse(world, &lines, &mut outside).await;
                let gone = || disk.is_stopped() || world.store.exists(&journal()) == Ok(false);
                world.until("it is gone", gone).await;
                world.clock.now()
            });
            hits += u32::from(disk.is_stopped());
            let disk = disk.power_loss();
            let crashed = memory(&disk);
            let stored = entries(&*crashed);
            let is_whole = stored.first().is_some_and(|entry| entry.seq == Seq(1));
            if is_whole {
                let expect: u64 = booked(&stored).values().map(|it| it.cost_micros).sum();
                assert_eq!(sum(&crashed), expect, "{fault:?}");
            }
            drop(crashed);
            if outside.acknowledged.len() < 3 {
                continue;
            }
            life(&disk, now, async |world| {
                let gone = || world.store.exists(&journal()) == Ok(false);
                world.until("it is gone", gone).await;
                assert_eq!(sum(&world.store), 4, "{fault:?}");
                assert_eq!(records(&world.store), ["1970-01-01/"]);
            });
        }
        if hits < 2 * u32::try_from(k).expect("it is small") {
            break;
        }
    }
    assert!(hits > 8, "{hits}");
}

/// What was spent before is the other session's: the fork begins with nothing, and nobody pays twice.
#[test]
fn a_fork_begins_with_nothing_spent() {
    life(&capped(of_session(6)), Time(0), async |world| {
        let lines = ["post a model one two three", "answered"];
        converse(world, &lines, &mut Outside::default()).await;
        let parent = world.session().await;
        assert_eq!(refused(world, &parent).spent_micros, 6);
        let new = NewFork {
            session: name("fork"),
            at: None,
            idempotency: None,
            next: None,
        };
        let sessions = world.sessions.clone();
        let forking = async move { sessions.fork(&tenant(), &name("s"), &new).await };
        let forked = world.wait("a fork", forking).await.expect("it is forked");
        let fork = forked.session;
        post(world, &fork, "a", "model four").expect("it has spent nothing");
        let spent = || fork.ledger.look(|state| state.spent().total.cost_micros);
        world.until("it is said", || spent() == 2).await;
        fork.ledger.flush();
        let day = || {
            days(&world.store)
                .iter()
                .map(|(_, it)| it.cost_micros)
                .sum::<u64>()
        };
        world.until("it is booked", || day() == 8).await;
        assert_eq!(refused(world, &parent).spent_micros, 6);
    });
}

/// Entries of every session of the tenant.
fn journals(store: &dyn Store) -> Vec<Vec<Entry>> {
    let page = store.journals(&tenant(), None, 100).expect("it reads");
    let of = |session| JournalId {
        tenant: tenant(),
        session,
    };
    let sessions = page.sessions.into_iter();
    sessions.map(|id| entries_of(store, &of(id))).collect()
}

/// What an agent is called for costs its caller's run and session, and the tenant once.
#[test]
fn called_agents_spend_what_their_caller_has_left() {
    for (budget, said) in [
        // 2 are spent, so 3 are left: a call of 4 begins, the next does not, and 6 are spent then.
        (of_run(5), "x(one two[OverBudget])[OverBudget][OverBudget]"),
        (
            of_session(5),
            "x(one two[OverBudget])[OverBudget][OverBudget]",
        ),
        // Nothing is left to begin with.
        (
            of_run(2),
            "x[Other(\"the run's budget is used up: 0 of 0 micro-units\")][OverBudget][OverBudget]",
        ),
        (of_run(9), "x(one twothree)y[OverBudget]"),
        (AgentBudget::default(), "x(one twothree)yz"),
    ] {
        life(&capped(budget), Time(0), async |world| {
            let steps = "model x; call b model one two,model three; model y; model z";
            let post = format!("post a {steps}");
            converse(world, &[&post, "answered"], &mut Outside::default()).await;
            let stored = entries(&*world.store);
            assert_eq!(spoken(&stored), said, "{}", print(&stored));
            let turn = ended(&stored)[0].usage;
            let all: u64 = journals(&*world.store)
                .iter()
                .flat_map(|entries| booked(entries).into_values())
                .map(|usage| usage.cost_micros)
                .sum();
            assert_eq!(turn.spent_micros(), all, "each call costs once");
            let kept: u64 = days(&world.store)
                .iter()
                .map(|(_, it)| it.cost_micros)
                .sum();
            assert_eq!(kept, all, "and the tenant once");
        });
    }
}

/// What was refused brought nothing, and what was to be tried next has not left.
#[test]
fn a_call_that_waits_for_its_next_attempt_costs_nothing_if_it_is_cut_off() {
    life(&fresh(), Time(0), async |world| {
        let lines = ["post a model BUSY yes", "pass 20", "stop a"];
        converse(world, &lines, &mut Outside::default()).await;
        let stored = entries(&*world.store);
        let ends = ended(&stored);
        assert_eq!(ends[0].outcome, Outcome::Interrupted, "{}", print(&stored));
        assert!(ends[0].usage.is_nothing(), "{:?}", ends[0].usage);
        assert_eq!(
            PROVIDER.with_borrow(Log::made).len(),
            1,
            "it was tried once"
        );
        assert!(days(&world.store).is_empty());
    });
}

/// A call that waits for its place has not begun: it is refused if the others use the budget up.
#[test]
fn a_call_in_the_queue_is_refused_once_a_cap_is_reached() {
    may_spend(Some(4), None);
    let disk = fresh();
    let json = br#"{"policy":{"concurrent_max":1}}"#;
    configure(&disk, AgentConfig::parse(json).expect("it is allowed"));
    life(&disk.power_loss(), Time(0), async |world| {
        let mut open = Vec::new();
        for id in ["s", "other"] {
            let (sessions, owner, id) = (world.sessions.clone(), tenant(), name(id));
            let getting = async move { sessions.get_or_absent(&owner, &id).await };
            open.push(world.wait("it is there", getting).await.expect("it opens"));
        }
        for session in &open {
            post(world, session, "a", "model SLOW one two").expect("it is taken");
        }
        let is_done = |session: &Arc<Session>| {
            let done = |state: &State| state.turns.is_empty() && state.last > Seq(3);
            session.ledger.look(done)
        };
        world
            .until("both are done", || open.iter().all(is_done))
            .await;
        open.iter().for_each(|session| session.ledger.flush());
        let all = || journals(&*world.store);
        let both = || all().iter().map(|it| ended(it).len()).sum::<usize>() == 2;
        world.until("both are kept", both).await;
        let mut heard: Vec<String> = all().iter().map(|it| spoken(it)).collect();
        heard.sort();
        assert_eq!(heard, ["[OverBudget]", "one two"]);
        let spent: Vec<u64> = days(&world.store)
            .iter()
            .map(|(_, it)| it.cost_micros)
            .collect();
        assert_eq!(spent, [5]);
    });
}
