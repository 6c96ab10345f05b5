//! What a stream is: its type, when it expires, and where it comes from. Stored under its path.
//!
//! Invariant: a fork never copies what it took over: it names the pieces of its ancestors, which stay as long as a
//! fork needs them. Their numbers are its own numbers.

use serde::{Deserialize, Serialize};

use super::path::StreamPath;
use crate::clock::Time;
use crate::id::{Seq, StreamId};

/// Of a content type: what is registered is shorter, parameters included.
pub const TYPE_BYTES_MAX: usize = 128;

/// Streams that a fork may have above it: every reading of it looks into all of them.
pub(super) const FORK_DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub id: StreamId,
    /// As whoever made it wrote it.
    pub content_type: String,
    pub created: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Pieces taken over, oldest first. Its own begin after the last of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<Span>,
    /// Of this one.
    #[serde(default)]
    pub forks: u64,
    /// It is gone for everybody but its forks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Somebody read it about then: written down now and then, for streams that expire by that.
    pub touched: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// So many seconds after it was last read or written.
    Ttl(u64),
    At(Time),
}

/// Where a fork comes from, and as it was asked for: who asks for the same again gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    pub path: StreamPath,
    /// None is the end that the source had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Seq>,
    #[serde(default)]
    pub sub_offset: u64,
}

/// Pieces of a stream up to one, from where the span before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub id: StreamId,
    pub until: Seq,
}

impl Expiry {
    /// When a stream ends that was last touched then.
    pub fn ends(self, touched: Time) -> Time {
        match self {
            Self::Ttl(seconds) => touched.plus_ms(seconds.saturating_mul(1000)),
            Self::At(time) => time,
        }
    }

    /// A touch that is not older than the one written down by more than this is not written. A
    /// crash loses it: the stream then lives so much longer, never shorter.
    pub fn slack_ms(self) -> u64 {
        match self {
            Self::Ttl(seconds) => seconds.saturating_mul(1000) / 8,
            Self::At(_) => 0,
        }
    }
}

impl Head {
    /// The last piece that it took over.
    pub(super) fn base(&self) -> Seq {
        self.inherited.last().map_or(Seq(0), |span| span.until)
    }

    /// What a fork of it takes over that begins after this piece.
    pub(super) fn spans_until(&self, at: Seq) -> Vec<Span> {
        let own = Span {
            id: self.id,
            until: at,
        };
        let mut spans = Vec::with_capacity(self.inherited.len() + 1);
        let mut from = Seq(0);
        for span in self.inherited.iter().chain([&own]) {
            let until = span.until.min(at);
            if until > from {
                spans.push(Span { until, ..*span });
                from = until;
            }
        }
        spans
    }
}

/// The part of a content type that decides: without parameters, in lower case.
pub fn essence(content_type: &str) -> String {
    let end = content_type.find(';').unwrap_or(content_type.len());
    content_type[..end].trim().to_ascii_lowercase()
}

pub fn is_json(content_type: &str) -> bool {
    essence(content_type) == "application/json"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(id: u8, inherited: Vec<Span>) -> Head {
        Head {
            id: StreamId([id; 16]),
            content_type: "text/plain".into(),
            created: Time(0),
            expiry: None,
            source: None,
            inherited,
            forks: 0,
            deleted: false,
            touched: Time(0),
        }
    }

    /// Which stream a piece of this number is of.
    fn owner(head: &Head, seq: u64) -> StreamId {
        let span = head.inherited.iter().find(|span| seq <= span.until.0);
        span.map_or(head.id, |span| span.id)
    }

    proptest! {
        /// However forks are forked: what a fork took over is what its source showed under the same numbers.
        #[test]
        fn a_fork_shows_what_its_source_showed(cuts in proptest::collection::vec(0u64..20, 1..8)) {
            let mut source = head(0, vec![]);
            for (n, cut) in cuts.into_iter().enumerate() {
                let fork = head(n as u8 + 1, source.spans_until(Seq(cut)));
                prop_assert_eq!(fork.base(), Seq(cut));
                for seq in 1..=cut {
                    prop_assert_eq!(owner(&fork, seq), owner(&source, seq));
                }
                prop_assert_eq!(owner(&fork, cut + 1), fork.id);
                prop_assert!(fork.inherited.is_sorted_by(|a, b| a.until < b.until));
                source = fork;
            }
        }
    }

    #[test]
    fn types_are_compared_without_parameters_and_case() {
        assert!(is_json("Application/JSON ; charset=utf-8"));
        assert!(!is_json("application/jsonl") && !is_json(""));
        assert_eq!(essence("Text/Plain;x"), "text/plain");
    }
}
