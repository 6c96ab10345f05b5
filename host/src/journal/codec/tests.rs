use proptest::prelude::*;

use super::*;
use crate::id::TurnId;
use crate::id::{AgentName, Author, MessageId, SessionId};
use crate::journal::entry::{
    MessageReceived, MessageReceivedPrivate, Observation, Observed, SessionChange, SessionChanged,
    Spoke,
};

fn spoke(seq: u64, text: &str) -> Entry {
    Entry {
        seq: Seq(seq),
        time: Time(1_795_253_400_125),
        payload: Payload::Spoke(Spoke {
            turn: TurnId::new("run_1.t0.echo").unwrap(),
            agent: AgentName::new("echo").unwrap(),
            text: text.into(),
            at: 0,
            speaker: None,
            index: None,
        }),
    }
}

fn received(seq: u64) -> Entry {
    let session = SessionId::new("s").unwrap();
    Entry {
        seq: Seq(seq),
        time: Time(5),
        payload: Payload::MessageReceived(MessageReceived {
            message: MessageId::of(&session, Seq(seq)),
            author: Author::new("ada").unwrap(),
            to: AgentName::new("echo").unwrap(),
            body: serde_json::json!({"n": 1}),
            called_by: None,
            private: MessageReceivedPrivate {
                idempotency: None,
                invoked: true,
                bus: None,
                instructions: Some("be brief".into()),
                tools: Vec::new(),
                echo: Some(serde_json::json!({"store": true})),
            },
        }),
    }
}

#[test]
fn the_public_part_is_the_event() {
    let encoded = encode(&spoke(7, "hi"));
    assert_eq!(
        std::str::from_utf8(&encoded.public()).unwrap(),
        r#"{"offset":"0000000000000007_0000000000000000","time":"2026-11-21T09:30:00.125Z","kind":"spoke","turn":"run_1.t0.echo","agent":"echo","text":"hi","at":0}"#
    );
    assert!(encoded.private().is_empty());
}

#[test]
fn private_parts_are_stored_apart_and_come_back() {
    let encoded = encode(&received(3));
    assert!(!String::from_utf8_lossy(&encoded.public()).contains("invoked"));
    assert_eq!(encoded.decode().unwrap(), received(3));
}

#[test]
fn flattened_payloads_come_back() {
    let turn = TurnId::new("r.t0.a").unwrap();
    for payload in [
        Payload::SessionChanged(SessionChanged {
            change: SessionChange::Expired,
        }),
        Payload::Observed(Observed {
            turn,
            n: 4,
            what: Observation::SlotNames { slots: Vec::new() },
        }),
    ] {
        let entry = Entry {
            seq: Seq(1),
            time: Time(1),
            payload,
        };
        assert_eq!(encode(&entry).decode().unwrap(), entry);
    }
}

#[test]
fn a_frame_says_what_is_in_it() {
    let frame = Frame::of(&[encode(&received(3)), encode(&spoke(4, "x"))]);
    assert_eq!(Frame::contains(frame.bytes(), &[Kind::Spoke]), Ok(true));
    assert_eq!(
        Frame::contains(frame.bytes(), &[Kind::Called, Kind::TurnEnded]),
        Ok(false)
    );
    assert_eq!((frame.first(), frame.last()), (Seq(3), Seq(4)));
    assert_eq!(Frame::parse(frame.bytes().clone()), Ok(frame));
}

#[test]
fn an_unknown_kind_is_named() {
    let mut bytes = BytesMut::from(&Frame::of(&[encode(&spoke(7, "hi"))]).bytes()[..]);
    bytes[FRAME_HEAD + 16..FRAME_HEAD + 18].copy_from_slice(&999u16.to_be_bytes());
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[FRAME_HEAD..end]);
    bytes[end..].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(
        Frame::parse(bytes.freeze()),
        Err(DecodeError::UnknownKind {
            seq: Seq(7),
            kind: 999
        })
    );
}

proptest! {
    #[test]
    fn any_text_round_trips(text: String) {
        let frame = Frame::of(&[encode(&spoke(1, &text)), encode(&received(2))]);
        let back: Vec<Entry> =
            frame.entries().unwrap().iter().map(|entry| entry.decode().unwrap()).collect();
        prop_assert_eq!(back, vec![spoke(1, &text), received(2)]);
    }

    #[test]
    fn no_damage_goes_unseen(at in 0usize..400, flip in 1u8..) {
        let frame = Frame::of(&[encode(&spoke(1, "hello")), encode(&received(2))]);
        let mut bytes = BytesMut::from(&frame.bytes()[..]);
        let at = at % bytes.len();
        bytes[at] ^= flip;
        prop_assert!(Frame::parse(bytes.freeze()).is_err());
    }

    #[test]
    fn junk_is_an_error_and_no_panic(bytes: Vec<u8>) {
        prop_assert!(Frame::parse(bytes.into()).is_err());
    }
}

#[test]
fn an_entry_has_one_kind() {
    let entry = spoke(1, "hi");
    let decoded = |kind, public: &[u8]| {
        let encoded = Encoded::from_parts(entry.seq, entry.time, kind, public, b"");
        encoded.decode()
    };
    let public = encode(&entry).public();
    assert_eq!(decoded(Kind::Spoke, &public).as_ref(), Ok(&entry));
    // However it is written: it may have been exported by another program.
    let other =
        br#"{"at": 0, "kind" : "spoke", "text": "hi", "turn": "run_1.t0.echo", "agent": "echo"}"#;
    assert_eq!(decoded(Kind::Spoke, other).as_ref(), Ok(&entry));
    // What stands in a text is no kind.
    let quoted = encode(&spoke(1, ",\"kind\":\"halted\"")).public();
    assert!(decoded(Kind::Spoke, &quoted).is_ok());
    for kind in [Kind::Streamed, Kind::Halted] {
        for public in [&public, &quoted] {
            let error = decoded(kind, public).unwrap_err().to_string();
            let expected = format!("entry 1: it is a {:?} in its head", kind.name());
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
