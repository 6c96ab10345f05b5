//! A piece of a stream: what one request appended, with all that must be atomic with it.
//!
//! Stored as one line of JSON and then the bytes as they came. So a piece of text can be read in an export,
//! and nothing is encoded twice. In a stream of JSON the bytes are its messages with a comma between them.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// A request of an idempotent producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    pub id: String,
    pub epoch: u64,
    pub seq: u64,
}

/// All of a piece but its bytes. Fields are only ever added, with defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PieceHead {
    pub time: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<Tag>,
    /// The `Stream-Seq` of a writer that numbers what it writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Nothing comes after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub head: PieceHead,
    pub data: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MalformedPiece {
    #[error("a piece without its first line")]
    NoLine,
    #[error("the first line of a piece: {0}")]
    Line(#[from] serde_json::Error),
}

impl Piece {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.data.len() + 128);
        let mut line = (&mut bytes).writer();
        // Strings and numbers into memory.
        serde_json::to_writer(&mut line, &self.head).expect("a piece's head is JSON");
        bytes.put_u8(b'\n');
        bytes.put_slice(&self.data);
        bytes.freeze()
    }

    /// What [`Self::encode`] made. The data is a slice of it.
    pub(super) fn parse(bytes: &Bytes) -> Result<Self, MalformedPiece> {
        let end = line_end(bytes)?;
        Ok(Self {
            head: serde_json::from_slice(&bytes[..end])?,
            data: bytes.slice(end + 1..),
        })
    }

    /// The data alone.
    pub(super) fn data(bytes: &Bytes) -> Result<Bytes, MalformedPiece> {
        Ok(bytes.slice(line_end(bytes)? + 1..))
    }
}

fn line_end(bytes: &Bytes) -> Result<usize, MalformedPiece> {
    // JSON of one line holds no line break: they are escaped inside of strings.
    let end = bytes.iter().position(|byte| *byte == b'\n');
    end.ok_or(MalformedPiece::NoLine)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_come_back(
            time: u64,
            producer in proptest::option::of((any::<String>(), any::<u64>(), any::<u64>())),
            order in proptest::option::of(any::<String>()),
            closes: bool,
            data: Vec<u8>,
        ) {
            let producer = producer.map(|(id, epoch, seq)| Tag { id, epoch, seq });
            let head = PieceHead { time: Time(time), producer, order, closes };
            let piece = Piece { head, data: data.into() };
            let bytes = piece.encode();
            prop_assert_eq!(&Piece::parse(&bytes).unwrap(), &piece);
            prop_assert_eq!(Piece::data(&bytes).unwrap(), piece.data);
        }

        #[test]
        fn junk_is_an_error_and_no_panic(bytes: Vec<u8>) {
            let _ = Piece::parse(&bytes.into());
        }
    }

    #[test]
    fn the_form_is_a_promise() {
        let head = PieceHead {
            time: Time(7),
            producer: Some(Tag {
                id: "a".into(),
                epoch: 1,
                seq: 2,
            }),
            order: Some("0009".into()),
            closes: true,
        };
        let data = Bytes::from("one\ntwo");
        assert_eq!(
            Piece { head, data }.encode(),
            "{\"time\":7,\"producer\":{\"id\":\"a\",\"epoch\":1,\"seq\":2},\"order\":\"0009\",\"closes\":true}\none\ntwo"
        );
        let least = Piece::parse(&Bytes::from("{\"time\":7}\n")).unwrap();
        assert_eq!(least.head.time, Time(7));
        assert!(least.data.is_empty() && !least.head.closes);
    }
}
