//! Streams of JSON: messages in, one array out. Nothing is written anew: messages keep their bytes.

use bytes::Bytes;
use serde_json::value::RawValue;

/// A body as messages with a comma between them, and how many; an array is taken apart, one level deep.
pub fn flatten(body: &Bytes) -> Result<(Bytes, usize), serde_json::Error> {
    let value: &RawValue = serde_json::from_slice(body)?;
    let text = value.get();
    if !text.starts_with('[') {
        return Ok((body.slice_ref(text.as_bytes()), 1));
    }
    let messages: Vec<&RawValue> = serde_json::from_str(text)?;
    // Without the brackets, the text of an array is its messages with commas between them.
    let inner = text[1..text.len() - 1].trim_ascii();
    Ok((body.slice_ref(inner.as_bytes()), messages.len()))
}

/// The first `count` of messages with commas between them; none if there are fewer.
pub(super) fn first(messages: &Bytes, count: usize) -> Option<Bytes> {
    if count == 0 {
        return Some(Bytes::new());
    }
    let text = std::str::from_utf8(messages).ok()?;
    let mut end = 0;
    for n in 0..count {
        let at = match n {
            0 => 0,
            _ => end + text[end..].find(',')? + 1,
        };
        let rest = serde_json::Deserializer::from_str(&text[at..]);
        let mut values = rest.into_iter::<&RawValue>();
        values.next()?.ok()?;
        end = at + values.byte_offset();
    }
    Some(messages.slice(..end))
}

/// One array of all.
pub fn array(pieces: &[Bytes]) -> Bytes {
    let bytes: usize = pieces.iter().map(|piece| piece.len() + 1).sum();
    let mut array = Vec::with_capacity(bytes + 2);
    array.push(b'[');
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(piece);
    }
    array.push(b']');
    array.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn an_array_is_taken_apart_one_level_deep() {
        for (body, messages, count) in [
            ("{\"a\":1}", "{\"a\":1}", 1),
            (" [1, [2,3] ,\"x,y\"]\n", "1, [2,3] ,\"x,y\"", 3),
            ("[]", "", 0),
            ("[ \n]", "", 0),
            ("[[]]", "[]", 1),
            ("null", "null", 1),
        ] {
            let flat = flatten(&Bytes::from(body)).unwrap();
            assert_eq!(flat, (Bytes::from(messages), count), "{body}");
        }
        for bad in ["", "{", "[1,]", "1 2", "[1] x", "\u{0}", "{\"a\":nan}"] {
            assert!(flatten(&Bytes::from(bad)).is_err(), "{bad:?}");
        }
        assert!(flatten(&Bytes::from_static(b"\"\xff\"")).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-c,\"]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn messages_come_back_whole_and_in_order(
            bodies in proptest::collection::vec(proptest::collection::vec(any_json(), 1..4), 0..4), pretty: bool, cut in 0usize..6,
        ) {
            let flat: Vec<Bytes> = bodies.iter().map(|messages| {
                let body = if pretty { serde_json::to_vec_pretty(messages) } else { serde_json::to_vec(messages) };
                let (flat, count) = flatten(&body.unwrap().into()).unwrap();
                assert_eq!(count, messages.len());
                flat
            }).collect();
            let all: Vec<Value> = serde_json::from_slice(&array(&flat)).unwrap();
            prop_assert_eq!(&all, &bodies.concat());
            if let (Some(flat), Some(messages)) = (flat.first(), bodies.first()) {
                match first(flat, cut) {
                    Some(part) => {
                        let part: Vec<Value> = serde_json::from_slice(&array(&[part])).unwrap();
                        prop_assert_eq!(&part, &messages[..cut]);
                    }
                    None => prop_assert!(cut > messages.len()),
                }
            }
        }

        #[test]
        fn junk_is_an_error_and_no_panic(bytes: Vec<u8>, count in 0usize..4) {
            let bytes = Bytes::from(bytes);
            let _ = flatten(&bytes);
            let _ = first(&bytes, count);
        }
    }
}
