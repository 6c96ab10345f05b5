//! The name of a stream: what follows `/v1/stream/`, decoded.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::InvalidName;

/// Of a path, decoded. Keys of the store are at most 400 bytes long, and hold the tenant beside it.
pub const PATH_BYTES_MAX: usize = 256;

const RULE: &str =
    "1 to 256 bytes without control characters, the first part neither `sessions` nor `__ds`";

/// Segments at the beginning of a path that are not streams: views of sessions, and the protocol's own.
const RESERVED: [&str; 2] = ["sessions", "__ds"];

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct StreamPath(Arc<str>);

impl StreamPath {
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let first = text.split('/').next().unwrap_or_default();
        let is_good = (1..=PATH_BYTES_MAX).contains(&text.len())
            && !text.chars().any(char::is_control)
            && !RESERVED.contains(&first);
        match is_good {
            true => Ok(Self(text.into())),
            false => Err(InvalidName {
                what: "a stream",
                rule: RULE,
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StreamPath {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(&text)
    }
}

impl fmt::Display for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_obey_their_rule() {
        for good in [
            "a",
            "a/b/c",
            "sessionsx",
            "a/sessions/b",
            "é ü",
            &"x".repeat(256),
        ] {
            assert!(StreamPath::new(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "sessions",
            "sessions/a",
            "__ds",
            "__ds/x",
            "a\0b",
            "a\nb",
            &"x".repeat(257),
        ] {
            assert!(StreamPath::new(bad).is_err(), "{bad:?}");
        }
    }
}
