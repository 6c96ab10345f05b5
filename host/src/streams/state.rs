//! How far a stream has come: a fold of its pieces, and what may be appended next.
//!
//! Invariant: a snapshot and the pieces after it are the whole fold. The state is bounded: of producers it knows
//! the [`PRODUCERS_MAX`] that wrote last.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::piece::{PieceHead, Tag};
use crate::clock::Time;
use crate::id::Seq;

/// Producers that a stream remembers; the one that wrote longest ago is forgotten first. At 100 bytes each a
/// snapshot stays at 100 KB. A constant, as the same pieces must always fold to the same state.
pub(super) const PRODUCERS_MAX: usize = 1_000;

/// Of a `Producer-Id` and of a `Stream-Seq`: both are kept in every piece.
pub const LABEL_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The number of the last piece; 0 if there is none.
    pub tail: Seq,
    /// When it last changed.
    pub time: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_order: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub producers: BTreeMap<String, Producer>,
}

/// Who closed it: a producer hears of that again, however often it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Closing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Tag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Producer {
    pub epoch: u64,
    pub seq: u64,
    /// The stream's last piece when it wrote.
    pub at: Seq,
}

/// What somebody wants to append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    pub producer: Option<Tag>,
    pub order: Option<String>,
    pub closes: bool,
    /// There are bytes; without any it only closes.
    pub has_data: bool,
    /// The bytes are of another type than the stream.
    pub is_of_other_type: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// It was done before: by this producer, whose last number is given, or by somebody who closed it.
    Done {
        producer: Option<(u64, u64)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the stream is closed")]
    Closed,
    #[error("the stream has another content type")]
    OtherType,
    #[error("`Stream-Seq` does not come after the last one")]
    OutOfOrder,
    #[error("the producer has begun epoch {epoch}")]
    Fenced { epoch: u64 },
    #[error("an epoch begins with `Producer-Seq: 0`")]
    EpochBegun,
    #[error("the producer's next number is {expected}, not {received}")]
    Gap { expected: u64, received: u64 },
}

impl State {
    /// Of a stream that begins after this piece of another one, or after none.
    pub(super) fn new(base: Seq, time: Time) -> Self {
        Self {
            tail: base,
            time,
            closed: None,
            last_order: None,
            producers: BTreeMap::new(),
        }
    }

    /// What becomes of a wish, by the protocol's order: closed; type; producer; `Stream-Seq`.
    pub(super) fn decide(&self, wish: &Wish) -> Result<Verdict, Refusal> {
        if let Some(closing) = &self.closed {
            let only_closes = wish.closes && !wish.has_data;
            return match &wish.producer {
                Some(tag) if wish.closes && closing.by.as_ref() == Some(tag) => Ok(Verdict::Done {
                    producer: Some((tag.epoch, tag.seq)),
                }),
                None if only_closes => Ok(Verdict::Done { producer: None }),
                _ => Err(Refusal::Closed),
            };
        }
        if wish.has_data && wish.is_of_other_type {
            return Err(Refusal::OtherType);
        }
        if let Some(tag) = &wish.producer
            && let Some(done) = self.known(tag)?
        {
            let producer = Some((done.epoch, done.seq));
            return Ok(Verdict::Done { producer });
        }
        match (&wish.order, &self.last_order) {
            // Bytewise, so "10" does not come after "2".
            (Some(order), Some(last)) if order.as_bytes() <= last.as_bytes() => {
                Err(Refusal::OutOfOrder)
            }
            _ => Ok(Verdict::Accept),
        }
    }

    /// The producer as it is known, if this request of it was taken before.
    fn known(&self, tag: &Tag) -> Result<Option<Producer>, Refusal> {
        let gap = |expected| Refusal::Gap {
            expected,
            received: tag.seq,
        };
        match self.producers.get(&tag.id) {
            None if tag.seq != 0 => Err(gap(0)),
            None => Ok(None),
            Some(known) if tag.epoch < known.epoch => Err(Refusal::Fenced { epoch: known.epoch }),
            Some(known) if tag.epoch > known.epoch => match tag.seq {
                0 => Ok(None),
                _ => Err(Refusal::EpochBegun),
            },
            Some(known) if tag.seq <= known.seq => Ok(Some(*known)),
            Some(known) if tag.seq == known.seq + 1 => Ok(None),
            Some(known) => Err(gap(known.seq + 1)),
        }
    }

    /// The next piece was appended. True if a producer was forgotten for it.
    pub(super) fn next(&mut self, head: &PieceHead) -> bool {
        self.tail = self.tail.next();
        self.time = self.time.max(head.time);
        if let Some(order) = &head.order {
            self.last_order = Some(order.clone());
        }
        if head.closes {
            let by = head.producer.clone();
            self.closed = Some(Closing { by });
        }
        head.producer.as_ref().is_some_and(|tag| self.wrote(tag))
    }

    /// It was closed without a piece. True if a producer was forgotten for it.
    pub(super) fn close(&mut self, by: Option<Tag>, time: Time) -> bool {
        self.time = self.time.max(time);
        let forgot = by.as_ref().is_some_and(|tag| self.wrote(tag));
        self.closed = Some(Closing { by });
        forgot
    }

    fn wrote(&mut self, tag: &Tag) -> bool {
        let now = Producer {
            epoch: tag.epoch,
            seq: tag.seq,
            at: self.tail,
        };
        if let Some(known) = self.producers.get_mut(&tag.id) {
            *known = now;
            return false;
        }
        let is_full = self.producers.len() >= PRODUCERS_MAX;
        if is_full {
            let oldest = self.producers.iter().min_by_key(|(_, known)| known.at);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.producers.remove(&id);
            }
        }
        self.producers.insert(tag.id.clone(), now);
        is_full
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(id: &str, epoch: u64, seq: u64) -> Option<Tag> {
        let id = id.to_owned();
        Some(Tag { id, epoch, seq })
    }

    fn wish(producer: Option<Tag>) -> Wish {
        Wish {
            producer,
            has_data: true,
            ..Wish::default()
        }
    }

    /// Decide, and do what was decided.
    fn perform(state: &mut State, wish: &Wish) -> Result<Verdict, Refusal> {
        let verdict = state.decide(wish)?;
        if verdict == Verdict::Accept {
            match wish.has_data {
                true => state.next(&head(wish)),
                false => state.close(wish.producer.clone(), Time(0)),
            };
        }
        Ok(verdict)
    }

    fn head(wish: &Wish) -> PieceHead {
        PieceHead {
            time: Time(1),
            producer: wish.producer.clone(),
            order: wish.order.clone(),
            closes: wish.closes,
        }
    }

    #[test]
    fn the_table_of_producers_is_the_protocols() {
        let mut state = State::new(Seq(0), Time(0));
        let done = |epoch, seq| {
            Ok(Verdict::Done {
                producer: Some((epoch, seq)),
            })
        };
        let gap = |expected, received| Err(Refusal::Gap { expected, received });
        for (of, expected) in [
            (tag("a", 0, 1), gap(0, 1)),
            (tag("a", 0, 0), Ok(Verdict::Accept)),
            (tag("a", 0, 0), done(0, 0)),
            (tag("a", 0, 2), gap(1, 2)),
            (tag("a", 0, 1), Ok(Verdict::Accept)),
            (tag("a", 0, 0), done(0, 1)),
            (tag("a", 2, 1), Err(Refusal::EpochBegun)),
            (tag("a", 2, 0), Ok(Verdict::Accept)),
            (tag("a", 1, 0), Err(Refusal::Fenced { epoch: 2 })),
            (tag("b", 7, 0), Ok(Verdict::Accept)),
            (None, Ok(Verdict::Accept)),
        ] {
            assert_eq!(perform(&mut state, &wish(of.clone())), expected, "{of:?}");
        }
        assert_eq!(state.tail, Seq(5));
    }

    #[test]
    fn a_closed_stream_tells_its_closer_again_and_refuses_others() {
        let mut state = State::new(Seq(3), Time(0));
        let closing = Wish {
            closes: true,
            ..wish(tag("a", 0, 0))
        };
        assert_eq!(perform(&mut state, &closing), Ok(Verdict::Accept));
        assert_eq!(state.tail, Seq(4));
        let producer = Some((0, 0));
        assert_eq!(state.decide(&closing), Ok(Verdict::Done { producer }));
        let only_closes = Wish {
            closes: true,
            ..Wish::default()
        };
        let producer = None;
        assert_eq!(state.decide(&only_closes), Ok(Verdict::Done { producer }));
        for other in [
            wish(None),
            wish(tag("a", 0, 0)),
            Wish {
                closes: true,
                ..wish(tag("a", 0, 1))
            },
            Wish {
                closes: true,
                ..wish(None)
            },
        ] {
            assert_eq!(state.decide(&other), Err(Refusal::Closed), "{other:?}");
        }
    }

    #[test]
    fn the_order_of_refusals_is_the_protocols() {
        let mut state = State::new(Seq(0), Time(0));
        let ordered = |order: &str| Wish {
            order: Some(order.into()),
            ..wish(None)
        };
        assert_eq!(perform(&mut state, &ordered("2")), Ok(Verdict::Accept));
        assert_eq!(state.decide(&ordered("10")), Err(Refusal::OutOfOrder));
        assert_eq!(state.decide(&ordered("2")), Err(Refusal::OutOfOrder));
        assert_eq!(state.decide(&ordered("20")), Ok(Verdict::Accept));
        let other_type = Wish {
            is_of_other_type: true,
            ..ordered("10")
        };
        assert_eq!(state.decide(&other_type), Err(Refusal::OtherType));
        // Who only closes has no bytes, and so no type.
        let closes = Wish {
            is_of_other_type: true,
            closes: true,
            ..Wish::default()
        };
        assert_eq!(perform(&mut state, &closes), Ok(Verdict::Accept));
        assert_eq!(state.decide(&other_type), Err(Refusal::Closed));
    }

    #[test]
    fn the_producer_that_wrote_longest_ago_is_forgotten_first() {
        let mut state = State::new(Seq(0), Time(0));
        for n in 0..PRODUCERS_MAX {
            let of = wish(tag(&format!("p{n}"), 0, 0));
            assert!(!state.next(&head(&of)));
        }
        assert!(!state.next(&head(&wish(tag("p0", 0, 1)))));
        assert!(state.next(&head(&wish(tag("new", 0, 0)))));
        assert_eq!(state.producers.len(), PRODUCERS_MAX);
        assert!(state.producers.contains_key("p0") && !state.producers.contains_key("p1"));
    }

    fn any_wish() -> impl Strategy<Value = Wish> {
        let producer = proptest::option::of(("[ab]", 0u64..3, 0u64..4));
        let order = proptest::option::of("[0-9]{1,2}");
        (producer, order, 0..20, any::<bool>()).prop_map(|(producer, order, closing, has_data)| {
            let producer = producer.map(|(id, epoch, seq)| Tag { id, epoch, seq });
            let closes = closing == 0;
            Wish {
                producer,
                order,
                closes,
                has_data: has_data || !closes,
                is_of_other_type: false,
            }
        })
    }

    proptest! {
        /// A snapshot at any place and the pieces after it are the whole fold; and it survives being stored.
        #[test]
        fn snapshot_and_tail_are_the_whole_fold(wishes in proptest::collection::vec(any_wish(), 0..40), cut: prop::sample::Index) {
            let mut whole = State::new(Seq(2), Time(0));
            let (mut heads, mut snapshots) = (Vec::new(), vec![whole.clone()]);
            for wish in &wishes {
                if perform(&mut whole, wish) == Ok(Verdict::Accept) {
                    if wish.has_data {
                        heads.push(head(wish));
                        snapshots.push(whole.clone());
                    } else {
                        // To close without a piece is a snapshot.
                        *snapshots.last_mut().unwrap() = whole.clone();
                    }
                }
            }
            let at = cut.index(snapshots.len());
            let stored = serde_json::to_vec(&snapshots[at]).unwrap();
            let mut state: State = serde_json::from_slice(&stored).unwrap();
            for head in &heads[at..] {
                state.next(head);
            }
            if whole.closed.is_some() && state.closed.is_none() {
                // It was closed without a piece, which a snapshot before that cannot know: it is overwritten.
                state.closed.clone_from(&whole.closed);
                state.producers.clone_from(&whole.producers);
            }
            prop_assert_eq!(state, whole);
        }

        /// Whatever comes, and however often: each number of an epoch is taken once, in order.
        #[test]
        fn what_a_producer_repeats_is_taken_once(wishes in proptest::collection::vec(any_wish(), 0..60)) {
            let mut state = State::new(Seq(0), Time(0));
            let mut taken: Vec<Tag> = Vec::new();
            for wish in &wishes {
                let before = state.tail;
                let verdict = perform(&mut state, wish);
                let has_come = state.tail > before;
                prop_assert_eq!(has_come, verdict == Ok(Verdict::Accept) && wish.has_data);
                if let (Ok(Verdict::Accept), Some(tag)) = (verdict, &wish.producer) {
                    let last = taken.iter().rfind(|it| it.id == tag.id);
                    let is_next = match last {
                        None => tag.seq == 0,
                        Some(last) if last.epoch == tag.epoch => tag.seq == last.seq + 1,
                        Some(last) => tag.epoch > last.epoch && tag.seq == 0,
                    };
                    prop_assert!(is_next);
                    taken.push(tag.clone());
                }
            }
        }
    }
}
