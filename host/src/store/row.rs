//! A row: one record, snapshot, value or frame, as values of one or more keys.
//!
//! Every value begins with `format u8 | parts u16 | CRC-32 u32`, big-endian. The
//! checksum is over the row's stem and its whole payload, so that a part in the
//! wrong place, or one left over from an older row, is as visible as a flipped bit.
//!
//! Invariant: no value is longer than [`VALUE_MAX`]. sled 0.34.7 writes a page over
//! 128 KiB less 32 bytes of head to a file of its own, which it never syncs. A page
//! holds up to 17 rows before it splits, and up to 3 more after a merge, so 20 rows
//! with keys of up to 400 bytes fit below the limit: 20 x (6,144 + 400) = 130,880.

use bytes::{BufMut, Bytes, BytesMut};

use super::keys::Stem;

const FORMAT: u8 = 1;
const HEAD: usize = 1 + 2 + 4;
pub(in crate::store) const VALUE_MAX: usize = 6 * 1024;
const PAYLOAD_MAX: usize = VALUE_MAX - HEAD;

/// Stored bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Damage {
    #[error("cut short")]
    Truncated,
    #[error("row format {0} is not known")]
    UnknownFormat(u8),
    #[error("a part is missing or belongs to another row")]
    Parts,
    #[error("checksum is wrong")]
    Checksum,
}

/// The payload as keys with their values. Panics over 400 MB, the most that u16 can
/// count: whoever accepts bytes from outside bounds them far below.
pub(in crate::store) fn encode(
    stem: &Stem,
    payload: &[u8],
) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let parts = u16::try_from(payload.len().div_ceil(PAYLOAD_MAX).max(1))
        .expect("payloads are bounded far below 400 MB before they are stored");
    let crc = checksum(stem.bytes(), payload);
    (0..parts).map(move |part| {
        let start = usize::from(part) * PAYLOAD_MAX;
        let slice = &payload[start..payload.len().min(start + PAYLOAD_MAX)];
        let mut value = Vec::with_capacity(HEAD + slice.len());
        value.push(FORMAT);
        value.extend_from_slice(&parts.to_be_bytes());
        value.extend_from_slice(&crc.to_be_bytes());
        value.extend_from_slice(slice);
        (stem.part(part), value)
    })
}

/// How many parts the row of this value has.
pub(in crate::store) fn parts(value: &[u8]) -> Result<u16, Damage> {
    let head = value.get(..HEAD).ok_or(Damage::Truncated)?;
    if head[0] != FORMAT {
        return Err(Damage::UnknownFormat(head[0]));
    }
    Ok(u16::from_be_bytes([head[1], head[2]]))
}

/// The payload's beginning, from the first part alone, unchecked.
pub(in crate::store) fn beginning(value: &Bytes) -> Result<Bytes, Damage> {
    parts(value)?;
    Ok(value.slice(HEAD..))
}

/// The payload of a row as far as there is one, unchecked: for whoever shows what is left of a
/// damaged one.
pub(in crate::store) fn payload(values: &[Bytes]) -> Result<Bytes, Damage> {
    let mut payload = BytesMut::new();
    for value in values {
        payload.put_slice(&beginning(value)?);
    }
    Ok(payload.freeze())
}

/// The payload of a row from all its values in order.
pub(in crate::store) fn decode(stem: &[u8], values: &[Bytes]) -> Result<Bytes, Damage> {
    let first = values.first().ok_or(Damage::Parts)?;
    if usize::from(parts(first)?) != values.len() {
        return Err(Damage::Parts);
    }
    let payload = match values {
        [only] => only.slice(HEAD..),
        values => {
            let mut payload = BytesMut::with_capacity(values.len() * PAYLOAD_MAX);
            for value in values {
                if value.get(..HEAD) != first.get(..HEAD) {
                    return Err(Damage::Parts);
                }
                payload.put_slice(&value[HEAD..]);
            }
            payload.freeze()
        }
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
            let payload = vec![7; len];
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
        let long = vec![7; 2 * PAYLOAD_MAX];
        let mut other = values(&stem(1), &vec![8; 2 * PAYLOAD_MAX]);
        let right = values(&stem(1), &long);
        assert_eq!(decode(stem(2).bytes(), &right), Err(Damage::Checksum));
        other[0] = right[0].clone();
        assert_eq!(decode(stem(1).bytes(), &other), Err(Damage::Parts));
        assert_eq!(decode(stem(1).bytes(), &right[..1]), Err(Damage::Parts));
    }

    proptest! {
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
