//! The layout of every key: the only place that knows it.
//!
//! One ordered map holds everything, so that one batch is atomic for a group of
//! commits. `00` is a zero byte, `part` a u16 and `seq` a u64, big-endian:
//!
//! | row      | key                                              | ordered by            |
//! |----------|--------------------------------------------------|-----------------------|
//! | record   | tenant `00` `00` `0` space `00` name `00` part   | name, in its space    |
//! | snapshot | tenant `00` session `00` `1` part                | one per journal       |
//! | value    | tenant `00` session `00` `2` digest(32) part     | digest                |
//! | frame    | tenant `00` session `00` `3` seq part            | seq of its first entry|
//! | piece    | tenant `00` `00` `4` stream(16) seq part         | stream, then seq      |
//!
//! - Tenants, sessions, spaces and names hold no zero byte, so none is a prefix of
//!   another with its separator: `a 00` ends before `ab 00` begins, and the rows of
//!   one owner are one range. A record of the host has the empty tenant, which no
//!   tenant has; records have the empty session, which no session has.
//! - Digest, stream and seq have a fixed length and may hold any byte. Pieces of streams have the empty session
//!   too, so a tenant's records come first, then what was appended to its streams, then its sessions.
//! - All parts of a row stand together, in order, before the next row.
//! - Clearing a journal goes up: its frames go last, so that a half-cleared one
//!   still exists and its end is still known.
//!
//! Invariant: the layout is a promise to every store ever written; the golden
//! file `testdata/keys.txt` only ever grows.

use std::ops::Range;

use crate::id::{Digest, Seq, SessionId, StreamId, TenantId};

use super::{JournalId, RecordKey, RecordSpace, StreamKey};

const RECORD: u8 = b'0';
const SNAPSHOT: u8 = b'1';
const VALUE: u8 = b'2';
const FRAME: u8 = b'3';
const PIECE: u8 = b'4';

/// The length of the part number at the end of a key.
const PART: usize = 2;

/// A key without its part number: names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Stem(Vec<u8>);

impl Stem {
    /// Of a key that was read.
    pub(in crate::store) fn of(stem: &[u8]) -> Self {
        Self(stem.to_vec())
    }

    pub(in crate::store) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::store) fn part(&self, part: u16) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + PART);
        key.extend_from_slice(&self.0);
        key.extend_from_slice(&part.to_be_bytes());
        key
    }
}

/// What a stored key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Row {
    Record(RecordKey),
    Snapshot(JournalId),
    Value(JournalId, Digest),
    Frame(JournalId, Seq),
    Piece(StreamKey, Seq),
}

fn stem(tenant: &str, session: &str, kind: u8, more: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(tenant.len() + session.len() + 3 + more);
    key.extend_from_slice(tenant.as_bytes());
    key.push(0);
    key.extend_from_slice(session.as_bytes());
    key.push(0);
    key.push(kind);
    key
}

fn of_journal(journal: &JournalId, kind: u8, more: usize) -> Vec<u8> {
    stem(
        journal.tenant.as_str(),
        journal.session.as_str(),
        kind,
        more,
    )
}

/// Panics if the name holds a zero byte: whoever makes up records keeps it out.
pub(in crate::store) fn record(key: &RecordKey) -> Stem {
    assert!(
        !key.name.as_bytes().contains(&0),
        "names of records hold no zero byte"
    );
    let mut stem = space(key.tenant.as_ref(), key.space, key.name.len() + 1);
    stem.extend_from_slice(key.name.as_bytes());
    stem.push(0);
    Stem(stem)
}

fn space(tenant: Option<&TenantId>, space: RecordSpace, more: usize) -> Vec<u8> {
    let word = space.name();
    let mut key = stem(
        tenant.map_or("", TenantId::as_str),
        "",
        RECORD,
        word.len() + 1 + more,
    );
    key.extend_from_slice(word.as_bytes());
    key.push(0);
    key
}

pub(in crate::store) fn snapshot(journal: &JournalId) -> Stem {
    Stem(of_journal(journal, SNAPSHOT, 0))
}

pub(in crate::store) fn value(journal: &JournalId, digest: &Digest) -> Stem {
    let mut key = of_journal(journal, VALUE, digest.0.len());
    key.extend_from_slice(&digest.0);
    Stem(key)
}

pub(in crate::store) fn frame(journal: &JournalId, first: Seq) -> Stem {
    let mut key = of_journal(journal, FRAME, 8);
    key.extend_from_slice(&first.0.to_be_bytes());
    Stem(key)
}

/// What one request appended to a stream.
pub(in crate::store) fn piece(stream: &StreamKey, seq: Seq) -> Stem {
    let mut key = of_stream(stream, PIECE, 8);
    key.extend_from_slice(&seq.0.to_be_bytes());
    Stem(key)
}

/// Pieces of a stream after one and up to another.
pub(in crate::store) fn pieces(stream: &StreamKey, after: Seq, until: Seq) -> Range<Vec<u8>> {
    let bound = |seq: Seq| piece(stream, Seq(seq.0.saturating_add(1))).part(0);
    bound(after)..bound(until)
}

/// All pieces of a stream.
pub(in crate::store) fn stream(stream: &StreamKey) -> Range<Vec<u8>> {
    let low = of_stream(stream, PIECE, 0);
    // A seq of 64 bits and a part of 16 of nothing but ones is the last there may be.
    let mut high = piece(stream, Seq(u64::MAX)).part(u16::MAX);
    high.push(0);
    low..high
}

fn of_stream(stream: &StreamKey, kind: u8, more: usize) -> Vec<u8> {
    let mut key = stem(stream.tenant.as_str(), "", kind, 16 + more);
    key.extend_from_slice(&stream.id.0);
    key
}

/// All frames of a journal.
pub(in crate::store) fn frames(journal: &JournalId) -> Range<Vec<u8>> {
    of_journal(journal, FRAME, 0)..of_journal(journal, FRAME + 1, 0)
}

/// All rows of a journal.
pub(in crate::store) fn journal(journal: &JournalId) -> Range<Vec<u8>> {
    let mut low = of_journal(journal, 0, 0);
    low.pop();
    below_next(low)
}

/// All rows of the sessions of a tenant, or of those after a session.
pub(in crate::store) fn sessions(tenant: &TenantId, after: Option<&SessionId>) -> Range<Vec<u8>> {
    let mut low = tenant.as_str().as_bytes().to_vec();
    let mut high = low.clone();
    high.push(1);
    low.push(0);
    // The empty session, whose rows are the records, is passed over like any other.
    low.extend_from_slice(after.map_or("", SessionId::as_str).as_bytes());
    low.push(1);
    low..high
}

/// Everything that a tenant has.
pub(in crate::store) fn tenant(tenant: &TenantId) -> Range<Vec<u8>> {
    let mut low = tenant.as_str().as_bytes().to_vec();
    low.push(0);
    below_next(low)
}

/// Everything of tenants after this one, the host's own records left out.
pub(in crate::store) fn tenants_after(of: Option<&TenantId>) -> Range<Vec<u8>> {
    let low = match of {
        Some(of) => tenant(of).end,
        None => vec![1],
    };
    low..everything().end
}

/// Whose a key is: the bytes of the tenant's name, none for the host's own.
pub(in crate::store) fn owner(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|byte| *byte == 0);
    &key[..end.unwrap_or(key.len())]
}

/// The tenant of a key; none if it has none, or is none of ours.
pub(in crate::store) fn tenant_of(key: &[u8]) -> Option<TenantId> {
    let (tenant, _) = until_zero(key)?;
    TenantId::new(tenant).ok()
}

/// All records of a space, or those after a name.
pub(in crate::store) fn records(
    tenant: Option<&TenantId>,
    of: RecordSpace,
    after: Option<&str>,
) -> Range<Vec<u8>> {
    let all = below_next(space(tenant, of, 0));
    let Some(after) = after else {
        return all;
    };
    let mut low = all.start;
    low.extend_from_slice(after.as_bytes());
    low.push(1);
    low..all.end
}

/// Everything: no key begins with `FF`, as names are ASCII.
pub(in crate::store) fn everything() -> Range<Vec<u8>> {
    vec![]..vec![0xff]
}

/// From a prefix that ends in its separator to what follows all its keys.
fn below_next(prefix: Vec<u8>) -> Range<Vec<u8>> {
    let mut high = prefix.clone();
    if let Some(separator) = high.last_mut() {
        *separator = 1;
    }
    prefix..high
}

/// A key as its stem and part number; none if it is too short to be one of ours.
pub(in crate::store) fn split(key: &[u8]) -> Option<(&[u8], u16)> {
    let (stem, part) = key.split_at_checked(key.len().checked_sub(PART)?)?;
    Some((stem, u16::from_be_bytes([part[0], part[1]])))
}

/// What a stem names; none if it is not one of ours.
pub(in crate::store) fn parse(stem: &[u8]) -> Option<Row> {
    let (tenant, rest) = until_zero(stem)?;
    let (session, rest) = until_zero(rest)?;
    let (&kind, rest) = rest.split_first()?;
    if kind == RECORD {
        if !session.is_empty() {
            return None;
        }
        let (space, rest) = until_zero(rest)?;
        let (name, rest) = until_zero(rest)?;
        let space = RecordSpace::ALL.into_iter().find(|s| s.name() == space)?;
        let tenant = match tenant {
            "" => None,
            tenant => Some(TenantId::new(tenant).ok()?),
        };
        return rest.is_empty().then(|| {
            Row::Record(RecordKey {
                tenant,
                space,
                name: name.to_owned(),
            })
        });
    }
    if kind == PIECE {
        if !session.is_empty() {
            return None;
        }
        let (id, seq) = rest.split_at_checked(16)?;
        let stream = StreamKey {
            tenant: TenantId::new(tenant).ok()?,
            id: StreamId(id.try_into().ok()?),
        };
        let seq = Seq(u64::from_be_bytes(seq.try_into().ok()?));
        return Some(Row::Piece(stream, seq));
    }
    let journal = JournalId {
        tenant: TenantId::new(tenant).ok()?,
        session: SessionId::new(session).ok()?,
    };
    match kind {
        SNAPSHOT => rest.is_empty().then_some(Row::Snapshot(journal)),
        VALUE => Some(Row::Value(journal, Digest(rest.try_into().ok()?))),
        FRAME => Some(Row::Frame(
            journal,
            Seq(u64::from_be_bytes(rest.try_into().ok()?)),
        )),
        _ => None,
    }
}

fn until_zero(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let zero = bytes.iter().position(|byte| *byte == 0)?;
    Some((
        std::str::from_utf8(&bytes[..zero]).ok()?,
        &bytes[zero + 1..],
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn id(tenant_name: &str, session: &str) -> JournalId {
        JournalId {
            tenant: tenant(tenant_name),
            session: SessionId::new(session).unwrap(),
        }
    }

    fn of_stream_id(tenant_name: &str, id: [u8; 16]) -> StreamKey {
        StreamKey {
            tenant: tenant(tenant_name),
            id: StreamId(id),
        }
    }

    #[test]
    fn the_layout_is_the_golden_one() {
        let mut lines = Vec::new();
        let mut line = |what: &str, key: Vec<u8>| {
            let shown: String = key
                .iter()
                .flat_map(|b| std::ascii::escape_default(*b))
                .map(char::from)
                .collect();
            lines.push(format!("{what}: {shown}"));
        };
        for space in RecordSpace::ALL {
            for owner in [None, Some(tenant("acme"))] {
                let key = RecordKey {
                    tenant: owner,
                    space,
                    name: "echo".into(),
                };
                line("record", record(&key).part(0));
            }
        }
        let journal = id("acme", "User@example.com_1");
        line("snapshot", snapshot(&journal).part(0));
        line("value", value(&journal, &Digest::of(b"x")).part(2));
        line("frame", frame(&journal, Seq(7)).part(0));
        line("frame", frame(&journal, Seq(u64::MAX)).part(u16::MAX));
        let stream = of_stream_id("acme", [0; 16]);
        line("piece", piece(&stream, Seq(7)).part(1));
        let stream = of_stream_id("acme", [0xff; 16]);
        line("piece", piece(&stream, Seq(u64::MAX)).part(u16::MAX));
        assert_eq!(
            lines.join("\n") + "\n",
            include_str!("testdata/keys.txt"),
            "stores already written hold the keys of the golden file"
        );
    }

    fn any_row() -> impl Strategy<Value = (Row, Stem)> {
        let journal = ("[a-b]{1,2}", "[0s.]{1,3}").prop_map(|(t, s)| id(&t, &s));
        prop_oneof![
            (
                prop::option::of("[a-b]{1,2}"),
                0..RecordSpace::ALL.len(),
                "[ -~é]{0,3}"
            )
                .prop_map(|(owner, space, name)| {
                    let key = RecordKey {
                        tenant: owner.as_deref().map(tenant),
                        space: RecordSpace::ALL[space],
                        name,
                    };
                    (Row::Record(key.clone()), record(&key))
                }),
            journal
                .clone()
                .prop_map(|j| (Row::Snapshot(j.clone()), snapshot(&j))),
            (journal.clone(), any::<[u8; 32]>())
                .prop_map(|(j, d)| (Row::Value(j.clone(), Digest(d)), value(&j, &Digest(d)))),
            (journal, any::<u64>())
                .prop_map(|(j, seq)| (Row::Frame(j.clone(), Seq(seq)), frame(&j, Seq(seq)))),
            any_piece(),
        ]
    }

    fn any_stream() -> impl Strategy<Value = StreamKey> {
        // Few, and those at the ends, so that they meet.
        let id = prop_oneof![
            Just([0; 16]),
            Just([0xff; 16]),
            Just([1; 16]),
            any::<[u8; 16]>()
        ];
        ("[a-b]{1,2}", id).prop_map(|(t, id)| of_stream_id(&t, id))
    }

    fn any_piece() -> impl Strategy<Value = (Row, Stem)> {
        let seq = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
        (any_stream(), seq).prop_map(|(stream, seq)| {
            let stem = piece(&stream, Seq(seq));
            (Row::Piece(stream, Seq(seq)), stem)
        })
    }

    proptest! {
        #[test]
        fn ranges_of_streams_hold_their_pieces(
            (row, stem) in any_row(), part: u16, of in any_stream(), after: u64, until: u64,
        ) {
            let key = stem.part(part);
            let is_own = matches!(&row, Row::Piece(stream, _) if *stream == of);
            prop_assert_eq!(stream(&of).contains(&key), is_own);
            // The last of all numbers is nobody's: one a nanosecond lasts for five centuries.
            prop_assume!(after < u64::MAX && until < u64::MAX);
            let is_between = is_own && matches!(&row, Row::Piece(_, Seq(seq)) if *seq > after && *seq <= until);
            prop_assert_eq!(pieces(&of, Seq(after), Seq(until)).contains(&key), is_between);
        }

        #[test]
        fn keys_come_back((row, stem) in any_row(), part: u16) {
            let key = stem.part(part);
            prop_assert_eq!(split(&key), Some((stem.bytes(), part)));
            prop_assert_eq!(parse(stem.bytes()), Some(row));
        }

        #[test]
        fn ranges_hold_what_is_theirs_and_nothing_else(
            (row, stem) in any_row(), part: u16, t in "[a-b]{1,2}", s in "[0s.]{1,3}", space in 0..RecordSpace::ALL.len(),
        ) {
            let key = stem.part(part);
            let (owner, space, of) = (tenant(&t), RecordSpace::ALL[space], id(&t, &s));
            let (in_journal, in_frames, in_sessions, in_records) = match &row {
                Row::Record(key) => (false, false, false, key.tenant.as_ref() == Some(&owner) && key.space == space),
                Row::Snapshot(j) | Row::Value(j, _) => (*j == of, false, j.tenant == owner, false),
                Row::Frame(j, _) => (*j == of, *j == of, j.tenant == owner, false),
                Row::Piece(..) => (false, false, false, false),
            };
            prop_assert_eq!(journal(&of).contains(&key), in_journal);
            prop_assert_eq!(frames(&of).contains(&key), in_frames);
            prop_assert_eq!(sessions(&owner, None).contains(&key), in_sessions);
            prop_assert_eq!(records(Some(&owner), space, None).contains(&key), in_records);
            let of_key = match &row {
                Row::Record(key) => key.tenant.clone(),
                Row::Snapshot(j) | Row::Value(j, _) | Row::Frame(j, _) => Some(j.tenant.clone()),
                Row::Piece(stream, _) => Some(stream.tenant.clone()),
            };
            prop_assert_eq!(super::tenant(&owner).contains(&key), of_key.as_ref() == Some(&owner));
            prop_assert_eq!(tenant_of(&key), of_key.clone());
            prop_assert_eq!(super::owner(&key), of_key.as_ref().map_or("", TenantId::as_str).as_bytes());
            prop_assert_eq!(tenants_after(Some(&owner)).contains(&key), of_key.as_ref() > Some(&owner));
            prop_assert_eq!(tenants_after(None).contains(&key), of_key.is_some());
            prop_assert!(everything().contains(&key));
        }

        #[test]
        fn rows_stand_in_the_order_of_what_they_name((a, x) in any_row(), (b, y) in any_row(), p: u16, q: u16) {
            let (left, right) = (x.part(p), y.part(q));
            match (&a, &b) {
                (Row::Frame(j, m), Row::Frame(k, n)) if j == k && m != n => prop_assert_eq!(left < right, m < n),
                (Row::Piece(s, m), Row::Piece(t, n)) if s == t && m != n => prop_assert_eq!(left < right, m < n),
                (Row::Record(m), Row::Record(n)) if m.tenant == n.tenant && m.space == n.space && m.name != n.name =>
                    prop_assert_eq!(left < right, m.name < n.name),
                _ if a == b => prop_assert_eq!(left.cmp(&right), p.cmp(&q)),
                _ => {}
            }
        }

        #[test]
        fn junk_is_no_key(bytes: Vec<u8>) {
            if let Some((stem, _)) = split(&bytes) {
                parse(stem);
            }
        }
    }
}
