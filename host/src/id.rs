//! Names and ids: one newtype each, checked where they enter.
//!
//! Invariant: a value of a name type obeys its rule, so it contains no NUL, `/`,
//! newline or space and can stand in keys, paths, headers and logs as it is.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A name that breaks its rule. The text is safe to show: it does not repeat the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name of {what} must match {rule}")]
pub struct InvalidName {
    pub what: &'static str,
    pub rule: &'static str,
}

const LABEL: &str = "[a-z0-9][a-z0-9-]{0,62}";
const NAME: &str = "[A-Za-z0-9._@-]{1,128}";
const RUN: &str = "[A-Za-z0-9._@-]{1,128}";
const MESSAGE: &str = "SESSION:SEQ";
const TURN: &str = "RUN.tINDEX.AGENT";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0] != b'-'
        && bytes
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte))
}

fn is_message(text: &str) -> bool {
    text.split_once(':').is_some_and(|(session, seq)| {
        is_name(session)
            && seq.len() <= 20
            && seq.parse::<u64>().is_ok_and(|n| n.to_string() == seq)
    })
}

fn is_turn(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $rule:ident, $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName { what: $what, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

names! {
    /// Who owns agents, sessions and keys. Nothing crosses a tenant.
    TenantId: "a tenant", LABEL, is_label;
    /// A deployment in a tenant.
    AgentName: "an agent", LABEL, is_label;
    /// A session in a tenant.
    SessionId: "a session", NAME, is_name;
    /// A document of a session.
    SlotName: "a slot", NAME, is_name;
    /// Where notices are pushed to.
    WebhookName: "a webhook", LABEL, is_label;
    /// A secret of a tenant.
    SecretName: "a secret", NAME, is_name;
    /// A person, or a program on behalf of one.
    Author: "an author", NAME, is_name;
    /// A subscription to Durable Streams.
    SubscriptionId: "a subscription", NAME, is_name;
    /// All turns that one request caused.
    RunId: "a run", RUN, is_name;
    /// One activation of one agent: `<run>.t<index>.<agent>`.
    TurnId: "a turn", TURN, is_turn;
    /// `<session>:<seq>` of the entry that holds the message, so that whoever has
    /// the id can find the session without an index. The session is the one it was written to:
    /// a fork of it holds the same message under the same number and the same id.
    MessageId: "a message", MESSAGE, is_message;
}

impl RunId {
    /// A fresh run: UUID version 7, so ids sort by time.
    pub fn fresh() -> Self {
        Self(format!("run_{}", uuid::Uuid::now_v7().simple()).into())
    }
}

impl SessionId {
    /// A fresh session that nobody named.
    pub fn fresh() -> Self {
        Self(format!("s-{}", uuid::Uuid::now_v7().simple()).into())
    }

    /// The session of a nested call, by the call's key.
    pub fn of_call(key: &Digest) -> Self {
        Self(key.to_string().into())
    }

    /// The session that an idempotency key stands for: the same key opens the same session.
    pub fn of_key(key: &Digest) -> Self {
        Self(format!("s-{}", &key.to_string()[..32]).into())
    }
}

impl TurnId {
    /// The agent-bus form. Agent names are slugs already, so no slug rule is applied.
    pub fn of(run: &RunId, index: u32, agent: &AgentName) -> Self {
        Self(format!("{run}.t{index}.{agent}").into())
    }

    /// The run that it belongs to: its index and its agent contain no dot.
    pub fn run(&self) -> RunId {
        RunId(self.0.rsplitn(3, '.').last().unwrap_or(&self.0).into())
    }
}

impl Author {
    /// Who a tenant's key speaks for when it names nobody.
    pub fn anybody() -> Self {
        Self("user".into())
    }
}

impl MessageId {
    pub fn of(session: &SessionId, seq: Seq) -> Self {
        Self(format!("{session}:{}", seq.0).into())
    }

    /// The session it was written to first.
    pub fn session(&self) -> SessionId {
        let (session, _) = self
            .0
            .split_once(':')
            .expect("a message id contains a colon");
        SessionId(session.into())
    }

    pub fn seq(&self) -> Seq {
        let (_, seq) = self
            .0
            .split_once(':')
            .expect("a message id contains a colon");
        Seq(seq.parse().expect("a message id ends in a number"))
    }
}

/// SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Over several parts, each preceded by its length so that no two lists of parts collide.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// One life of a Durable Stream: what is created again at the same path is another. UUID version 7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamId(pub [u8; 16]);

impl StreamId {
    /// Of every tenant's notices. No fresh one is this.
    pub const NOTICES: Self = Self([0; 16]);

    pub fn fresh() -> Self {
        Self(*uuid::Uuid::now_v7().as_bytes())
    }
}

/// Bytes that are written as lower-case hexadecimal digits.
macro_rules! hexadecimal {
    ($type:ident, $what:literal, $rule:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$type> for String {
            fn from(id: $type) -> Self {
                id.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                let mut bytes = [0; size_of::<Self>()];
                hex::decode_to_slice(&text, &mut bytes).map_err(|_| InvalidName {
                    what: $what,
                    rule: $rule,
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

hexadecimal!(Digest, "a digest", "[0-9a-f]{64}");
hexadecimal!(StreamId, "a stream's id", "[0-9a-f]{32}");

/// The number of an entry in its journal, from 1 without gaps. 0 is "before the first".
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in a journal *after* an entry: `%016d_%016d` of (seq, 0). Reading from
/// it gives what comes after. Sorts as text in journal order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(pub Seq);

/// Not an offset that this host made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an offset is -1, now, or sixteen digits, an underscore and sixteen zeros")]
pub struct MalformedOffset;

impl std::str::FromStr for Offset {
    type Err = MalformedOffset;

    fn from_str(text: &str) -> Result<Self, MalformedOffset> {
        if text == "-1" {
            return Ok(Self(Seq(0)));
        }
        let (seq, rest) = text.split_once('_').ok_or(MalformedOffset)?;
        let digits =
            |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seq) || rest != "0000000000000000" {
            return Err(MalformedOffset);
        }
        seq.parse()
            .map(|seq| Self(Seq(seq)))
            .map_err(|_| MalformedOffset)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}_{:016}", self.0.0, 0)
    }
}

/// A place in a tenant's notices, written as an [`Offset`] is: after all that one commit added, and so many of those that
/// the next one did.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct NoticeOffset {
    pub after: Seq,
    pub index: u32,
}

impl NoticeOffset {
    pub fn after(seq: Seq) -> Self {
        Self {
            after: seq,
            index: 0,
        }
    }
}

impl std::str::FromStr for NoticeOffset {
    type Err = MalformedOffset;

    fn from_str(text: &str) -> Result<Self, MalformedOffset> {
        if text == "-1" {
            return Ok(Self::default());
        }
        let (after, index) = text.split_once('_').ok_or(MalformedOffset)?;
        let number = |part: &str| -> Result<u64, MalformedOffset> {
            let is_number = part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = is_number.then(|| part.parse().ok()).flatten();
            number.ok_or(MalformedOffset)
        };
        Ok(Self {
            after: Seq(number(after)?),
            index: u32::try_from(number(index)?).map_err(|_| MalformedOffset)?,
        })
    }
}

impl TryFrom<String> for NoticeOffset {
    type Error = MalformedOffset;

    fn try_from(text: String) -> Result<Self, MalformedOffset> {
        text.parse()
    }
}

impl From<NoticeOffset> for String {
    fn from(offset: NoticeOffset) -> Self {
        offset.to_string()
    }
}

impl fmt::Display for NoticeOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}_{:016}", self.after.0, self.index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_obey_their_rules() {
        for bad in ["", "a/b", "a\nb", "a\0b", "é", "a b", &"x".repeat(129)] {
            assert!(SessionId::new(bad).is_err(), "{bad:?}");
            assert!(AgentName::new(bad).is_err(), "{bad:?}");
        }
        assert!(AgentName::new("-a").is_err());
        assert!(AgentName::new("Echo").is_err());
        assert!(AgentName::new(&"a".repeat(63)).is_ok());
        assert!(AgentName::new(&"a".repeat(64)).is_err());
        assert!(SessionId::new("User@example.com_1").is_ok());
        assert!(serde_json::from_str::<SlotName>("\"a/b\"").is_err());
    }

    #[test]
    fn a_turn_names_its_run() {
        for run in ["r", "run_0193", "a.t7.b"] {
            let run = RunId::new(run).unwrap();
            let turn = TurnId::of(&run, 12, &AgentName::new("a-b").unwrap());
            assert_eq!(turn.run(), run);
        }
    }

    #[test]
    fn offsets_sort_as_text_and_refuse_what_is_not_theirs() {
        assert_eq!(
            Offset(Seq(7)).to_string(),
            "0000000000000007_0000000000000000"
        );
        for bad in [
            "",
            "7",
            "now",
            "0000000000000007_",
            "0000000000000007_0000000000000001",
            "+000000000000007_0000000000000000",
        ] {
            assert_eq!(bad.parse::<Offset>(), Err(MalformedOffset), "{bad:?}");
        }
        assert_eq!("-1".parse(), Ok(Offset(Seq(0))));
    }

    proptest! {
        #[test]
        fn offsets_round_trip_in_order(a in 0..10u64.pow(16), b in 0..10u64.pow(16)) {
            let (x, y) = (Offset(Seq(a)).to_string(), Offset(Seq(b)).to_string());
            prop_assert_eq!(x.parse(), Ok(Offset(Seq(a))));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn any_text_is_the_offset_that_it_says_or_none(text in prop_oneof!["[0-9_-]{0,40}", "[0-9]{16}_[0-9]{16}", any::<String>()]) {
            if let Ok(offset) = text.parse::<Offset>() {
                prop_assert!(text == "-1" || text == offset.to_string(), "{}", text);
            }
        }

        #[test]
        fn message_ids_name_their_entry(name in "[A-Za-z0-9._@-]{1,128}", seq: u64) {
            let session = SessionId::new(&name).unwrap();
            let id = MessageId::of(&session, Seq(seq));
            prop_assert_eq!(MessageId::new(id.as_str()), Ok(id.clone()));
            prop_assert_eq!((id.session(), id.seq()), (session, Seq(seq)));
        }
    }
}
