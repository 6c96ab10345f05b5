//! What a subscription is asked to be: pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::InvalidName;
use crate::streams::StreamPath;

/// How long a worker may be silent (the protocol's bounds and default).
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;
pub const LEASE_DEFAULT_MS: u64 = 30_000;

/// Of a description and of a webhook's URL.
pub const TEXT_BYTES_MAX: usize = 2_000;

/// What a subscription is. The same again is the same subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub delivery: Delivery,
    pub pattern: Option<Pattern>,
    pub streams: BTreeSet<StreamPath>,
    pub lease_ttl_ms: u64,
    pub description: Option<String>,
}

/// How workers hear of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// A request to this URL.
    Webhook { url: String },
    /// An event in this stream.
    PullWake { stream: StreamPath },
}

impl Config {
    /// Whether a stream is its work by the pattern. Its own events are not, or it would wake itself for ever.
    pub(super) fn matches(&self, path: &StreamPath) -> bool {
        let is_own = matches!(&self.delivery, Delivery::PullWake { stream } if stream == path);
        !is_own && self.pattern.as_ref().is_some_and(|it| it.matches(path))
    }
}

/// Paths: `*` stands for one segment, `**` for any number of them, none included.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Vec<String>);

impl Pattern {
    pub fn matches(&self, path: &StreamPath) -> bool {
        let path: Vec<&str> = path.as_str().split('/').collect();
        matches(&self.0, &path)
    }
}

/// Goes back to the last `**` alone: what an earlier one could take, that one can. So the time is that of one
/// length times the other at most.
fn matches(pattern: &[String], path: &[&str]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while s < path.len() {
        match pattern.get(p).map(String::as_str) {
            Some("**") => {
                last_any = Some((p, s));
                p += 1;
            }
            Some(one) if one == "*" || one == path[s] => {
                p += 1;
                s += 1;
            }
            Some(_) | None => {
                let Some((any, from)) = last_any else {
                    return false;
                };
                // It takes one segment more.
                last_any = Some((any, from + 1));
                (p, s) = (any + 1, from + 1);
            }
        }
    }
    pattern[p..].iter().all(|it| it == "**")
}

impl TryFrom<String> for Pattern {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let segments: Vec<String> = text
            .trim_matches('/')
            .split('/')
            .map(str::to_owned)
            .collect();
        // What it matches is a path: it obeys the same bounds.
        let is_good =
            StreamPath::new(&text).is_ok() && segments.iter().all(|segment| !segment.is_empty());
        match is_good {
            true => Ok(Self(segments)),
            false => Err(InvalidName {
                what: "a pattern",
                rule: "segments of a stream's path, `*` for any one and `**` for any number",
            }),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.join("/")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn patterns_match_whole_paths_segment_by_segment() {
        let path = |text| StreamPath::new(text).unwrap();
        for (text, good, bad) in [
            ("a", &["a"][..], &["b", "a/b", "ab"][..]),
            ("a/*", &["a/b", "a/c"], &["a", "a/b/c", "b/a"]),
            ("*/b", &["a/b", "c/b"], &["b", "a/b/b"]),
            ("**", &["a", "a/b/c"], &[]),
            ("a/**", &["a", "a/b", "a/b/c"], &["b", "ba"]),
            ("**/z", &["z", "a/z", "a/b/z"], &["a/zz", "z/a"]),
            (
                "a/**/z/*",
                &["a/z/1", "a/b/c/z/1", "a/z/z/1"],
                &["a/z", "z/1"],
            ),
            ("a*", &["a*"], &["ab"]),
        ] {
            let pattern = pattern(text);
            for path in good.iter().map(|it| path(it)) {
                assert!(pattern.matches(&path), "{text} {path}");
            }
            for path in bad.iter().map(|it| path(it)) {
                assert!(!pattern.matches(&path), "{text} {path}");
            }
        }
    }

    #[test]
    fn patterns_obey_their_rule() {
        for bad in ["", "/", "a//b", "__ds/*", "sessions/*", "a\n"] {
            assert!(Pattern::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert_eq!(pattern("/a/*/").to_string(), "a/*");
        // The longest path against a bad pattern ends at once.
        let long = StreamPath::new(&"a/".repeat(127)).unwrap();
        assert!(!pattern(&format!("{}b", "**/a/".repeat(40))).matches(&long));
    }
}
