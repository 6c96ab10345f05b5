//! A row: one record, snapshot, value or frame, as values of one or more keys.
//!
//! Every value begins with `format u8 | parts u16 | CRC-32 u32`, big-endian. The
//! checksum is over the row's stem and its whole payload, so that a part in the
//! wrong place, or one left over from an older row, is as visible as a flipped bit.
//!
//! Format 1 has the payload as it is. Format 2 has it packed: `length u32 | its first 32 bytes | the rest as one block
//! of LZ4`. Entries say the same names again and again, so they are half as long then, in sled's memory and each time that it
//! writes a page again. The first bytes stay readable: readers of a few kinds look at a frame's head alone.
//!
//! Invariant: no value is longer than [`VALUE_MAX`]. sled 0.34.7 writes a page over
//! 128 KiB less 32 bytes of head to a file of its own, which it never syncs. A page
//! holds up to 17 rows before it splits, and up to 3 more after a merge, so 20 rows
//! with keys of up to 400 bytes fit below the limit: 20 x (6,144 + 400) = 130,880.

use std::borrow::Cow;
use std::cell::RefCell;

use bytes::{BufMut, Bytes, BytesMut};
use lz4_flex::block;

use super::keys::Stem;

const PLAIN: u8 = 1;
const PACKED: u8 = 2;
const HEAD: usize = 1 + 2 + 4;
pub(in crate::store) const VALUE_MAX: usize = 6 * 1024;
const PAYLOAD_MAX: usize = VALUE_MAX - HEAD;

/// What a packed payload begins with: its length unpacked.
const LENGTH: usize = 4;
/// Bytes of the payload that are never packed.
const BEGINNING: usize = 32;
/// Shorter payloads are not worth it.
const PACKED_MIN: usize = 512;
/// A block of LZ4 says at most this many bytes with one: what claims more is damage.
const EXPANSION_MAX: usize = 255;

/// Stored bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Damage {
    #[error("cut short")]
    Truncated,
    #[error("row format {0} is not known")]
    UnknownFormat(u8),
    #[error("a part is missing or belongs to another row")]
    Parts,
    #[error("it cannot be unpacked")]
    Packing,
    #[error("checksum is wrong")]
    Checksum,
}

/// The payload as keys with their values. Panics over 400 MB, the most that u16 can
/// count: whoever accepts bytes from outside bounds them far below.
pub(in crate::store) fn encode(
    stem: &Stem,
    payload: &[u8],
) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let crc = checksum(stem.bytes(), payload);
    let (format, stored) = match packed(payload) {
        Some(packed) => (PACKED, Cow::Owned(packed)),
        None => (PLAIN, Cow::Borrowed(payload)),
    };
    let parts = u16::try_from(stored.len().div_ceil(PAYLOAD_MAX).max(1))
        .expect("payloads are bounded far below 400 MB before they are stored");
    (0..parts).map(move |part| {
        let start = usize::from(part) * PAYLOAD_MAX;
        let slice = &stored[start..stored.len().min(start + PAYLOAD_MAX)];
        let mut value = Vec::with_capacity(HEAD + slice.len());
        value.push(format);
        value.extend_from_slice(&parts.to_be_bytes());
        value.extend_from_slice(&crc.to_be_bytes());
        value.extend_from_slice(slice);
        (stem.part(part), value)
    })
}

/// None if that saves less than an eighth.
fn packed(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() < PACKED_MIN {
        return None;
    }
    let length = u32::try_from(payload.len()).ok()?.to_be_bytes();
    let (beginning, rest) = payload.split_at(BEGINNING);
    let packed = |block: &[u8]| {
        let is_worth_it = LENGTH + BEGINNING + block.len() <= payload.len() / 8 * 7;
        is_worth_it.then(|| [&length, beginning, block].concat())
    };
    if rest.len() > SHORT_MAX {
        return packed(&block::compress(rest));
    }
    PACKER.with_borrow_mut(|Packer { table, room }| {
        let written = block::compress_into_with_table(rest, room, table).ok()?;
        packed(&room[..written])
    })
}

/// Payloads up to here, and that is nearly all of them, are packed with what their thread keeps for it.
const SHORT_MAX: usize = 16 * 1024;

struct Packer {
    table: block::CompressTable,
    room: Vec<u8>,
}

thread_local! {
    static PACKER: RefCell<Packer> = RefCell::new(Packer {
        table: block::CompressTable::small(),
        room: vec![0; block::get_maximum_output_size(SHORT_MAX)],
    });
}

/// What was packed, as far as it can be had: where it breaks off zeros follow, and this says so.
fn unpack(packed: &[u8]) -> (Vec<u8>, Result<(), Damage>) {
    let Some((length, stored)) = packed.split_first_chunk() else {
        return (Vec::new(), Err(Damage::Truncated));
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let Some((beginning, rest)) = stored.split_at_checked(BEGINNING) else {
        return (stored.to_vec(), Err(Damage::Truncated));
    };
    let longest = rest.len().saturating_mul(EXPANSION_MAX);
    if length < BEGINNING || length - BEGINNING > longest {
        return (beginning.to_vec(), Err(Damage::Packing));
    }
    let mut payload = vec![0; length];
    payload[..BEGINNING].copy_from_slice(beginning);
    let written = block::decompress_into(rest, &mut payload[BEGINNING..]);
    let is_whole = written.is_ok_and(|written| written == length - BEGINNING);
    (payload, is_whole.then_some(()).ok_or(Damage::Packing))
}

/// How many parts the row of this value has.
pub(in crate::store) fn parts(value: &[u8]) -> Result<u16, Damage> {
    let head = value.get(..HEAD).ok_or(Damage::Truncated)?;
    match head[0] {
        PLAIN | PACKED => Ok(u16::from_be_bytes([head[1], head[2]])),
        format => Err(Damage::UnknownFormat(format)),
    }
}

/// The payload's beginning, from the first part alone, unchecked: 32 bytes of it, or all if it is shorter.
pub(in crate::store) fn beginning(value: &Bytes) -> Result<Bytes, Damage> {
    parts(value)?;
    let start = match value[0] {
        PACKED => HEAD + LENGTH,
        _ => HEAD,
    };
    let end = value.len().min(start + BEGINNING);
    if start > end {
        return Err(Damage::Truncated);
    }
    Ok(value.slice(start..end))
}

/// The payload of a row as far as there is one, unchecked: for whoever shows what is left of a
/// damaged one.
pub(in crate::store) fn payload(values: &[Bytes]) -> Result<Bytes, Damage> {
    let first = values.first().ok_or(Damage::Parts)?;
    let mut stored = BytesMut::new();
    for value in values {
        parts(value)?;
        stored.put_slice(&value[HEAD..]);
    }
    Ok(match first[0] {
        PACKED => unpack(&stored).0.into(),
        _ => stored.freeze(),
    })
}

/// The payload of a row from all its values in order.
pub(in crate::store) fn decode(stem: &[u8], values: &[Bytes]) -> Result<Bytes, Damage> {
    let first = values.first().ok_or(Damage::Parts)?;
    if usize::from(parts(first)?) != values.len() {
        return Err(Damage::Parts);
    }
    let stored = match values {
        [only] => only.slice(HEAD..),
        values => {
            let mut stored = BytesMut::with_capacity(values.len() * PAYLOAD_MAX);
            for value in values {
                if value.get(..HEAD) != first.get(..HEAD) {
                    return Err(Damage::Parts);
                }
                stored.put_slice(&value[HEAD..]);
            }
            stored.freeze()
        }
    };
    let payload = match first[0] {
        PACKED => {
            let (payload, whole) = unpack(&stored);
            whole?;
            payload.into()
        }
        _ => stored,
    };
    let crc = u32::from_be_bytes([first[3], first[4], first[5], first[6]]);
    if checksum(stem, &payload) == crc {
        Ok(payload)
    } else {
        Err(Damage::Checksum)
    }
}

fn checksum(stem: &[u8], payload: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(stem);
    hash.update(payload);
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Seq, SessionId, TenantId};
    use crate::store::contract::noise;
    use crate::store::{JournalId, keys};

    fn stem(seq: u64) -> Stem {
        let journal = JournalId {
            tenant: TenantId::new("acme").unwrap(),
            session: SessionId::new("s").unwrap(),
        };
        keys::frame(&journal, Seq(seq))
    }

    fn values(stem: &Stem, payload: &[u8]) -> Vec<Bytes> {
        encode(stem, payload)
            .map(|(_, value)| value.into())
            .collect()
    }

    #[test]
    fn rows_split_at_the_bound() {
        for (len, parts) in [
            (0, 1),
            (1, 1),
            (PAYLOAD_MAX, 1),
            (PAYLOAD_MAX + 1, 2),
            (3 * PAYLOAD_MAX, 3),
        ] {
            let payload = noise(len).into_bytes();
            let values = values(&stem(1), &payload);
            assert_eq!(values.len(), parts);
            assert!(values.iter().all(|value| value.len() <= VALUE_MAX));
            assert_eq!(
                decode(stem(1).bytes(), &values),
                Ok(Bytes::from(payload)),
                "{len}"
            );
        }
    }

    #[test]
    fn a_row_in_the_wrong_place_is_damage() {
        let long = noise(2 * PAYLOAD_MAX).into_bytes();
        let mut other = values(
            &stem(1),
            noise(2 * PAYLOAD_MAX + 1).split_at(1).1.as_bytes(),
        );
        let right = values(&stem(1), &long);
        assert_eq!(decode(stem(2).bytes(), &right), Err(Damage::Checksum));
        other[0] = right[0].clone();
        assert_eq!(decode(stem(1).bytes(), &other), Err(Damage::Parts));
        assert_eq!(decode(stem(1).bytes(), &right[..1]), Err(Damage::Parts));
    }

    /// Words that come again, as entries have them.
    fn words() -> impl Strategy<Value = Vec<u8>> {
        let word =
            prop::sample::select(vec!["\"turn\":\"run_01.t0.a\",", "\"kind\":", "spoke", "7"]);
        prop::collection::vec(word, 0..2_000).prop_map(|words| words.concat().into_bytes())
    }

    #[test]
    fn a_row_of_an_older_binary_is_read() {
        let stem = stem(1);
        let payload = vec![7; 2_000];
        let mut value = vec![PLAIN];
        value.extend_from_slice(&1_u16.to_be_bytes());
        value.extend_from_slice(&checksum(stem.bytes(), &payload).to_be_bytes());
        value.extend_from_slice(&payload);
        let value = Bytes::from(value);
        assert_eq!(beginning(&value), Ok(Bytes::from(vec![7; BEGINNING])));
        assert_eq!(decode(stem.bytes(), &[value]), Ok(payload.into()));
    }

    #[test]
    fn a_row_that_claims_to_be_longer_than_it_can_be_takes_no_memory() {
        let stem = stem(1);
        let mut value = values(&stem, &vec![7; 2_000])[0].to_vec();
        assert_eq!(value[0], PACKED);
        value[HEAD..HEAD + LENGTH].copy_from_slice(&u32::MAX.to_be_bytes());
        let values = [Bytes::from(value)];
        assert_eq!(decode(stem.bytes(), &values), Err(Damage::Packing));
        assert_eq!(payload(&values).map(|it| it.len()), Ok(BEGINNING));
    }

    #[test]
    fn what_comes_before_a_damage_is_still_there() {
        let text = (0..200).map(|n| format!("line {n} of the text\n"));
        let text = text.collect::<String>().into_bytes();
        let mut value = values(&stem(1), &text)[0].to_vec();
        assert_eq!(value[0], PACKED);
        let middle = value.len() / 2;
        value.truncate(middle);
        let left = payload(&[value.into()]).unwrap();
        assert_eq!(left[..500], text[..500]);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_and_is_shorter(payload in words()) {
            let stem = stem(1);
            let values = values(&stem, &payload);
            let stored: usize = values.iter().map(Bytes::len).sum();
            prop_assert!(payload.len() < PACKED_MIN || stored < payload.len());
            let shown = payload.len().min(BEGINNING);
            prop_assert_eq!(&beginning(&values[0]).unwrap()[..], &payload[..shown]);
            prop_assert_eq!(super::payload(&values).unwrap(), payload.clone());
            prop_assert_eq!(decode(stem.bytes(), &values), Ok(payload.into()));
        }

        #[test]
        fn no_damage_of_what_is_packed_goes_unseen(
            payload in words(), at: prop::sample::Index, flip in 1u8..,
        ) {
            let stem = stem(1);
            let mut values = values(&stem, &payload);
            let mut value = values[0].to_vec();
            let at = at.index(value.len());
            value[at] ^= flip;
            values[0] = value.into();
            // A block of LZ4 may say the same in two ways; what is read is what was written then.
            if let Ok(read) = decode(stem.bytes(), &values) {
                prop_assert_eq!(read, payload);
            }
        }

        #[test]
        fn no_damage_goes_unseen(payload: Vec<u8>, at: prop::sample::Index, flip in 1u8..) {
            let stem = stem(1);
            let mut value = values(&stem, &payload)[0].to_vec();
            let at = at.index(value.len());
            value[at] ^= flip;
            prop_assert!(decode(stem.bytes(), &[value.into()]).is_err());
        }

        #[test]
        fn junk_is_an_error_and_no_panic(values: Vec<Vec<u8>>) {
            let values: Vec<Bytes> = values.into_iter().map(Bytes::from).collect();
            prop_assert!(decode(b"stem", &values).is_err());
        }
    }
}
