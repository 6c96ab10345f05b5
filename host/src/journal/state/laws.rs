//! Laws of the fold, over histories made at random: what is legal is found by
//! trying, so every history holds refusals too, and each must leave the state as it was.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::id::MessageId;
use crate::journal::codec::{Frame, encode};
use crate::journal::entry::{Cause, Kind, SessionOpenedPrivate};
use crate::journal::script::{Script, name};

const AGENTS: [&str; 3] = ["a", "b", "c"];
const SLOTS: [&str; 2] = ["x", "y"];
const STEPS: usize = 60;

/// A step as numbers; what they mean depends on the state they meet.
type Step = (u8, u8, u8);

/// One of several ways to take messages.
fn batching(x: u8) -> Batching {
    let policies = [
        Policy::Collect,
        Policy::Followup,
        Policy::Interrupt,
        Policy::Steer,
    ];
    let policy = policies[usize::from(x) % 4];
    Batching {
        policy,
        quiet_ms: match policy {
            Policy::Followup => 0,
            _ => u64::from(x % 3) * 400,
        },
        wait_ms_max: 1_000,
        messages_max: 3,
    }
}

fn pick<T: Clone>(from: impl IntoIterator<Item = T>, at: u8) -> Option<T> {
    let all: Vec<T> = from.into_iter().collect();
    (!all.is_empty()).then(|| all[usize::from(at) % all.len()].clone())
}

/// A line that is likely, not certain, to be legal.
fn line(state: &State, (what, x, y): Step) -> Option<String> {
    let agent = AGENTS[usize::from(x) % 3];
    let slot = SLOTS[usize::from(y) % 2];
    let open = pick(&state.turns, x);
    let call = |verb: &str, rest: &str| {
        open.map(|(turn, open)| format!("{verb} {turn} {} {rest}", open.calls))
    };
    match what % 34 {
        0 if y % 4 == 0 => Some(["told-before", "told-before a"][usize::from(x) % 2].to_owned()),
        0 | 1 => Some(format!("got {agent} key={y}")),
        2 => Some(format!("got {agent} invoked")),
        3..=6 => {
            let now = Time(u64::from(y) * 100).max(state.time);
            let due = state.due(&name(agent), now, &batching(x))?;
            let run = due
                .run
                .clone()
                .unwrap_or_else(|| name(&format!("run{}", state.last.0)));
            let takes: Vec<String> = due.inputs.iter().map(|it| it.seq().to_string()).collect();
            let causes: Vec<String> = due
                .causes
                .iter()
                .map(|cause| match cause {
                    Cause::Messages => "messages".to_owned(),
                    Cause::Slot(slot) => format!("slot:{slot}"),
                    Cause::Wake => "wake".to_owned(),
                })
                .collect();
            let takes = if takes.is_empty() {
                String::new()
            } else {
                format!("takes={}", takes.join(","))
            };
            Some(format!(
                "start {run}.t{}.{agent} {takes} {}",
                state.next_index(&run),
                causes.join(" ")
            ))
        }
        7 if y % 8 == 0 => call("tools", "x"),
        7 => call("call", ""),
        8 => open.map(|(turn, open)| {
            format!(
                "back {turn} {}",
                pick(open.open_calls.keys(), y)
                    .copied()
                    .unwrap_or(u32::from(y))
            )
        }),
        9 => open.map(|(turn, open)| format!("spoke {turn} {} word", open.said)),
        10 => {
            let (_, turn) = open?;
            let mut may_take = turn.inputs.clone();
            may_take.extend(state.joining(turn, state.time, &batching(x)));
            let takes = pick(&may_take, y)?;
            call("pull", &format!("takes={}", takes.seq()))
        }
        11 => {
            let (_, turn) = open?;
            call("leave", &pick(&turn.pulled, y)?.seq().to_string())
        }
        12 => call("send", AGENTS[usize::from(y) % 3]),
        13 => call("lock", slot),
        14 => call(
            "commit",
            &format!("{slot} wakes={}", AGENTS[usize::from(y) % 3]),
        ),
        15 => call("free", slot),
        16 => Some(format!("put {slot} wakes={agent}")),
        17 => open.map(|(turn, _)| format!("stop {turn}")),
        20 => open.map(|(turn, open)| {
            let reasons = ["host-lost", "host-stopped", "answered"];
            let reason = match open.is_aside {
                true if y % 8 != 0 => "answered",
                _ => reasons[usize::from(y) % 3],
            };
            format!("again {turn} {} {reason}", open.attempt + 1)
        }),
        21 => open.map(|(turn, _)| format!("lost {turn} {slot}")),
        22 => open.map(|(turn, _)| format!("retake {turn} {slot}")),
        23 => Some(format!(
            "{} {agent} {}",
            ["suspend", "resume"][usize::from(y) % 2],
            ["", "until-ready"][usize::from(y / 2) % 2]
        )),
        25 => call("nest", &format!("{agent} child-{y}")),
        26 => open.map(|(turn, open)| {
            let n = open.children.keys().next().copied();
            format!("drop {turn} {}", n.unwrap_or(u32::from(y)))
        }),
        27 => pick(&state.owed, y).map(|owed| {
            format!(
                "told {} {} {} {}",
                owed.turn, owed.n, owed.child.agent, owed.child.session
            )
        }),
        28 | 29 => Some(format!("got {agent} run=caller{} depth={}", y % 3, x % 5)),
        30 => open.map(|(turn, open)| {
            let conversing = open.conversation.clone().unwrap_or_default();
            let verb = if conversing.is_speaking == (y % 8 != 0) {
                "spoken"
            } else {
                "speaker"
            };
            format!("{verb} {turn} {} ada", conversing.ended)
        }),
        31 => open.map(|(turn, open)| {
            let index = open.conversation.as_ref().map_or(0, |it| it.ended);
            match y % 4 {
                0 => format!("halt {turn}"),
                _ => format!("spoke {turn} {} word speaker=ada index={index}", open.said),
            }
        }),
        32 if y % 4 == 0 => call(
            "ask",
            &format!("yes no until={}", state.time.0 + 1 + u64::from(x) * 40),
        ),
        32 => open.map(|(turn, _)| format!("answer {turn} {}", y % 3)),
        33 => open.map(|(turn, open)| {
            let n = open.question.as_ref().map_or(u32::from(y), |it| it.n);
            let text = ["yes", "no", "maybe", ""][usize::from(y) % 4];
            format!("answer {turn} {n} {text} key=q{}", y % 8)
        }),
        // Seldom: it makes forget what other steps need.
        24 => (x % 4 == 0).then(|| "fork parent".to_owned()),
        18 => open.map(|(turn, _)| {
            let outcome = ["completed", "failed", "interrupted", "cancelled"][usize::from(y) % 4];
            let wake = if y % 3 == 0 { "wake=9000" } else { "" };
            let code = match (outcome, x % 3) {
                ("failed", 0) => "code=trap",
                ("failed", 1) => "code=agent",
                _ => "",
            };
            format!("end {turn} {outcome} * {wake} {code}")
        }),
        _ => match y % 8 {
            0 => Some(format!("remove {agent}")),
            1 => Some(format!("add {agent}")),
            2 => {
                let waiting = &state.participants.get(&name::<AgentName>(agent))?.pending;
                Some(format!("aside {agent} {}", pick(waiting, x)?.message.seq()))
            }
            3 if x == 0 => Some("delete".into()),
            _ => Some(format!("@{}", state.time.0 + u64::from(x) * 40)),
        },
    }
}

fn history(steps: &[Step]) -> Script {
    let mut script = Script::run("open a b expires=100000").expect("it is legal");
    for step in steps {
        let Some(line) = line(&script.state, *step) else {
            continue;
        };
        // Refusals are part of it: `Script` checks that they change nothing.
        let _ = script.line(&line);
        holds_together(&script.state);
    }
    script
}

/// What is true of every state.
fn holds_together(state: &State) {
    let mut named: BTreeMap<RunId, u32> = BTreeMap::new();
    let mut count = |run: Option<&RunId>| {
        if let Some(run) = run {
            *named.entry(run.clone()).or_default() += 1;
        }
    };
    for participant in state.participants.values() {
        participant
            .pending
            .iter()
            .for_each(|pending| count(pending.run.as_ref()));
        participant
            .watched
            .values()
            .for_each(|run| count(run.as_ref()));
        count(participant.wake.as_ref().map(|wake| &wake.run));
        let seqs: Vec<Seq> = participant
            .pending
            .iter()
            .map(|pending| pending.message.seq())
            .collect();
        assert!(seqs.is_sorted(), "a mailbox is in order");
        if let Some(turn) = &participant.turn {
            assert!(state.turns.contains_key(turn));
        }
    }
    for (id, turn) in &state.turns {
        count(Some(&turn.run));
        turn.cause_runs().for_each(|run| count(Some(run)));
        assert_eq!(
            state.participants[&turn.agent].turn.as_ref(),
            Some(id),
            "one turn per agent"
        );
        assert!(
            turn.depth <= state.depth(&turn.run),
            "depth never goes down"
        );
        for (n, child) in &turn.children {
            assert!(turn.open_calls.contains_key(n), "a nested call is a call");
            let is_it = |owed: &Owed| owed.turn == *id && owed.n == *n;
            assert!(!state.owed.iter().any(is_it), "{child:?} is over or not");
        }
        if turn.question.is_some() {
            assert!(turn.is_aside && turn.questions > 0, "who asks is put aside");
        }
        if turn.is_aside {
            assert!(turn.locks.is_empty(), "no lock is held over a question");
        }
        for slot in &turn.locks {
            assert_eq!(state.slots[slot].lock.as_ref(), Some(id));
        }
    }
    for (slot, it) in &state.slots {
        assert!(
            it.document.is_some() || it.lock.is_some(),
            "an empty slot is forgotten"
        );
        if let Some(turn) = &it.lock {
            assert!(
                state.turns[turn].locks.contains(slot),
                "only an open turn holds a lock"
            );
        }
    }
    let held: BTreeMap<RunId, u32> = state
        .runs
        .iter()
        // Those from outside are remembered longer.
        .filter(|(_, it)| it.holds() > 0)
        .map(|(run, it)| (run.clone(), it.holds()))
        .collect();
    assert_eq!(
        held, named,
        "a run is remembered as long as something names it"
    );
    assert_eq!(state.remembered.len(), state.remembered_order.len());
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<Step>(), 0..STEPS * 4)
}

proptest! {
    /// The entries come back from their stored form, so that nothing in the fold hangs on what is not stored.
    #[test]
    fn every_prefix_folds_and_a_snapshot_anywhere_changes_nothing(steps in steps()) {
        let script = history(&steps);
        let frames = script.entries.iter().map(|entry| Frame::of(&[encode(entry)]));
        let stored: Vec<Entry> = frames
            .flat_map(|frame| Frame::parse(frame.bytes().clone()).unwrap().entries().unwrap())
            .map(|encoded| encoded.decode().unwrap())
            .collect();
        let mut states = vec![State::default()];
        for entry in &stored {
            let mut state = states.last().unwrap().clone();
            prop_assert_eq!(state.next(entry), Ok(()));
            states.push(state);
        }
        prop_assert_eq!(states.last(), Some(&script.state));
        for (at, state) in states.iter().enumerate() {
            let json = serde_json::to_vec(state).unwrap();
            let mut state: State = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(&state, &states[at]);
            for entry in &stored[at..] {
                prop_assert_eq!(state.next(entry), Ok(()));
            }
            prop_assert_eq!(&state, &script.state);
        }
    }

    /// Whatever the policy: what a turn takes is due, in order of arrival, nothing before it is passed over,
    /// and no two runs are mixed.
    #[test]
    fn a_batch_reorders_nothing_and_mixes_no_runs(steps in steps(), x in any::<u8>(), later in 0..3_000_u64) {
        let state = history(&steps).state;
        let (now, batching) = (state.time.plus_ms(later), batching(x));
        for (agent, participant) in &state.participants {
            let Some(due) = state.due(agent, now, &batching) else { continue };
            let waiting: Vec<&Pending> = participant.pending.iter().filter(|it| it.is_due(now)).collect();
            let taken = &waiting[..due.inputs.len()];
            let inputs: Vec<MessageId> = taken.iter().map(|it| it.message.clone()).collect();
            prop_assert_eq!(&due.inputs, &inputs, "the oldest, in order");
            prop_assert!(due.inputs.len() <= batching.messages_max);
            match taken {
                [] => {}
                [one] => prop_assert_eq!(&due.run, &one.run),
                many => {
                    prop_assert!(batching.policy != Policy::Followup);
                    prop_assert!(many.iter().all(|it| it.run.is_none()) && due.run.is_none());
                }
            }
        }
    }

    /// Whatever waits for quiet: somebody looks in time, and then it starts.
    #[test]
    fn what_waits_is_looked_at_in_time(steps in steps(), x in any::<u8>(), later in 0..3_000_u64) {
        let state = history(&steps).state;
        let (now, batching) = (state.time.plus_ms(later), batching(x));
        let looks = state.later(now, |_| batching);
        for (agent, participant) in &state.participants {
            let Some(at) = participant.batch_at(now, &batching) else { continue };
            if participant.turn.is_some() || !participant.may_start(now) || state.phase != Phase::Open {
                continue;
            }
            // What could have begun earlier, but for its backoff, may begin now.
            let at = at.max(now);
            prop_assert!(state.next_due().is_some_and(|due| due <= at), "a wake record is never late");
            if at <= now {
                prop_assert!(state.due(agent, now, &batching).is_some());
                continue;
            }
            prop_assert!(at <= now.plus_ms(batching.wait_ms_max.min(batching.quiet_ms)));
            prop_assert!(looks.is_some_and(|looks| looks <= at));
            let inputs = |at| state.due(agent, at, &batching).map_or(0, |due| due.inputs.len());
            prop_assert_eq!(inputs(now), 0);
            prop_assert!(inputs(at) > 0);
        }
    }

    /// Whatever people are asked: somebody looks when it is over, and not before for its sake.
    #[test]
    fn a_question_is_looked_at_when_it_is_over(steps in steps(), later in 0..3_000_u64) {
        let state = history(&steps).state;
        let now = state.time.plus_ms(later);
        for (turn, open, question) in state.questions() {
            let at = open.rests_until().expect("it is put aside");
            prop_assert!(at <= question.until);
            prop_assert!(state.next_due().is_some_and(|due| due <= at), "a wake record is never late");
            if at > now {
                let looks = state.later(now, |_| Batching::default());
                prop_assert!(looks.is_some_and(|looks| looks <= at), "{turn}");
            }
            prop_assert_eq!(open.has_asked_in_vain(now), question.until <= now);
        }
        let rest = state.turns.values().all(|turn| turn.question.is_some() && !turn.interrupted);
        prop_assert_eq!(state.only_asks(Time(0)), rest);
        prop_assert!(state.turns.is_empty() || state.expires_at().is_none());
    }

    /// What joins a running turn came after everything that it skips, and stands in no other's way.
    #[test]
    fn what_joins_a_turn_is_the_next_in_order(steps in steps(), x in any::<u8>()) {
        let state = history(&steps).state;
        let (now, batching) = (state.time, batching(x));
        for turn in state.turns.values() {
            let joining = state.joining(turn, now, &batching);
            let pending = || state.participants[&turn.agent].pending.iter();
            let others = pending().filter(|it| {
                it.is_due(now) && !turn.inputs.contains(&it.message) && !turn.pulled.contains(&it.message)
            });
            let next: Vec<&Pending> = others.take(joining.len()).collect();
            let ids: Vec<MessageId> = next.iter().map(|it| it.message.clone()).collect();
            prop_assert_eq!(&joining, &ids);
            prop_assert!(next.iter().all(|it| it.run.is_none() && !it.invoked));
            prop_assert!(joining.is_empty() || batching.policy == Policy::Steer);
            prop_assert!(turn.inputs.len() + joining.len() <= batching.messages_max.max(turn.inputs.len()));
        }
    }

    #[test]
    fn a_fork_anywhere_is_at_rest_with_the_same_documents_and_messages(steps in steps()) {
        let script = history(&steps);
        let mut parent = State::default();
        for entry in &script.entries {
            parent.next(entry).unwrap();
            if parent.phase != Phase::Open {
                break;
            }
            let mut fork = Script::after(&parent);
            let private = SessionOpenedPrivate { secret: "new".into(), idempotency: None };
            for payload in parent.fork(name("parent"), private) {
                prop_assert_eq!(fork.push(payload), Ok(()));
                holds_together(&fork.state);
            }
            let state = fork.state;
            prop_assert!(state.turns.is_empty() && state.remembered.is_empty());
            let documents = |state: &State| -> Vec<(SlotName, Document)> {
                let slots = state.slots.iter();
                slots.filter_map(|(name, slot)| Some((name.clone(), slot.document.clone()?))).collect()
            };
            prop_assert_eq!(documents(&state), documents(&parent));
            for (agent, participant) in &parent.participants {
                let open = participant.turn.as_ref().map(|turn| &parent.turns[turn]);
                let taken = |pending: &&Pending| !open.is_some_and(|open| {
                    open.inputs.contains(&pending.message) || open.pulled.contains(&pending.message)
                });
                let waits: Vec<&Pending> = participant.pending.iter().filter(taken).collect();
                let here = &state.participants[agent];
                prop_assert_eq!(here.pending.iter().collect::<Vec<_>>(), waits);
                prop_assert!(here.watched.is_empty() && here.wake.is_none() && here.turn.is_none());
                prop_assert_eq!(&here.context, &participant.context);
                prop_assert_eq!(&here.suspended, &participant.suspended);
            }
        }
    }

    #[test]
    fn turn_ids_never_repeat(steps in steps()) {
        let script = history(&steps);
        let started: Vec<TurnId> = script.entries.iter().filter_map(|entry| match &entry.payload {
            Payload::TurnStarted(started) => Some(started.turn.clone()),
            _ => None,
        }).collect();
        let distinct: BTreeSet<&TurnId> = started.iter().collect();
        prop_assert_eq!(distinct.len(), started.len());
    }
}

/// The generator is worth something only if it reaches every kind.
#[test]
fn histories_hold_every_kind() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = steps();
    let mut kinds = BTreeSet::new();
    for _ in 0..100 {
        let steps = strategy.new_tree(&mut runner).unwrap().current();
        kinds.extend(
            history(&steps)
                .entries
                .iter()
                .map(|entry| entry.payload.kind()),
        );
    }
    let missing: Vec<&str> = Kind::ALL
        .into_iter()
        .filter(|kind| !kinds.contains(kind))
        .map(Kind::name)
        .collect();
    assert_eq!(missing, ["streamed"], "which changes nothing");
}
