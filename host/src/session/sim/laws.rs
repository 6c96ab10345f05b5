//! What must be true of a journal after a crash.

use std::collections::{BTreeMap, BTreeSet};

use super::{Outside, fold};
use crate::id::{MessageId, Seq, TurnId};
use crate::journal::codec::Encoded;
use crate::journal::entry::{Entry, Failure, Fate, Kind, Outcome, Payload};
use crate::journal::script::print;
use crate::ledger::transcript;

/// Nothing that was acknowledged or shown is missing, whatever it became.
pub(super) fn check_kept(stored: &[Entry], outside: &Outside) {
    let last = stored.last().map_or(Seq(0), |entry| entry.seq);
    for seq in &outside.acknowledged {
        assert!(*seq <= last, "{seq} was acknowledged\n{}", print(stored));
    }
    for message in &outside.messages {
        let entry = stored.get(usize::try_from(message.seq().0 - 1).unwrap());
        assert!(
            matches!(
                entry.map(|it| it.payload.kind()),
                Some(Kind::MessageReceived)
            ),
            "{message}"
        );
    }
    for (at, shown) in outside.shown.lock().unwrap().iter().enumerate() {
        let shown = shown.decode().unwrap();
        assert_eq!(
            Some(&shown),
            stored.get(at),
            "shown and not kept\n{}",
            print(stored)
        );
    }
}

/// Every message is answered, or set aside after as many tries as it has; none is given to a second
/// turn unless the first gave it back.
pub(super) fn check_answered(stored: &[Entry]) {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Is {
        Waiting,
        Taken,
        Done,
    }
    let mut messages: BTreeMap<MessageId, Is> = BTreeMap::new();
    let mut open: BTreeSet<TurnId> = BTreeSet::new();
    for entry in stored {
        match &entry.payload {
            Payload::MessageReceived(it) => drop(messages.insert(it.message.clone(), Is::Waiting)),
            Payload::MessageSent(it) => drop(messages.insert(it.message.clone(), Is::Waiting)),
            Payload::TurnStarted(it) => {
                open.insert(it.turn.clone());
                for input in &it.inputs {
                    let before = messages.insert(input.clone(), Is::Taken);
                    assert_eq!(
                        before,
                        Some(Is::Waiting),
                        "{input} is given out twice\n{}",
                        print(stored)
                    );
                }
            }
            Payload::TurnEnded(it) => {
                open.remove(&it.turn);
                for input in &it.inputs {
                    let is = if input.fate == Fate::Returned {
                        Is::Waiting
                    } else {
                        Is::Done
                    };
                    messages.insert(input.message.clone(), is);
                }
            }
            Payload::MessageSetAside(it) => drop(messages.insert(it.message.clone(), Is::Done)),
            _ => {}
        }
    }
    assert!(open.is_empty());
    for (message, is) in messages {
        assert_eq!(is, Is::Done, "{message}\n{}", print(stored));
    }
    let state = fold(stored);
    assert!(
        state.slots.values().all(|slot| slot.lock.is_none()),
        "a lock was left"
    );
}

/// What people were shown of each turn is what the transcript says.
pub(super) fn check_transcript(items: &[transcript::Item], stored: &[Entry], outside: &Outside) {
    let text = |entries: &mut dyn Iterator<Item = Entry>| {
        let mut texts: BTreeMap<TurnId, String> = BTreeMap::new();
        for entry in entries {
            if let Payload::Spoke(spoke) = entry.payload {
                texts.entry(spoke.turn).or_default().push_str(&spoke.text);
            }
        }
        texts
    };
    let said = text(&mut stored.iter().cloned());
    let of_turns = items
        .iter()
        .filter_map(|item| Some((item.turn.clone()?, item.text.clone())));
    assert_eq!(of_turns.collect::<BTreeMap<_, _>>(), said);
    let shown: Vec<Encoded> = outside.shown.lock().unwrap().clone();
    let ended: BTreeSet<TurnId> = shown
        .iter()
        .filter_map(|encoded| match encoded.decode().unwrap().payload {
            Payload::TurnEnded(ended) => Some(ended.turn),
            _ => None,
        })
        .collect();
    for (turn, text) in text(&mut shown.iter().map(|encoded| encoded.decode().unwrap())) {
        assert!(said[&turn].starts_with(&text), "{turn}");
        if ended.contains(&turn) {
            assert_eq!(said[&turn], text, "{turn}");
        }
    }
}

/// Turns that were open ended as lost, or as interrupted if somebody had asked for it.
pub(super) fn check_lost<'a>(stored: &[Entry], lost: impl Iterator<Item = &'a TurnId>) {
    for turn in lost {
        let ended = stored.iter().find_map(|entry| match &entry.payload {
            Payload::TurnEnded(ended) if ended.turn == *turn => Some(ended),
            _ => None,
        });
        let ended = ended.expect("it ended");
        let code = ended.error.as_ref().map(|error| error.code);
        assert!(
            (ended.outcome, code) == (Outcome::Failed, Some(Failure::HostLost)),
            "{turn}: {ended:?}"
        );
    }
}
