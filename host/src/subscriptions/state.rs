//! A subscription's state, and what may become of it: pure.
//!
//! ```text
//! idle --something is pending--> woken --claimed, answered--> leased --acks, done--> idle
//!   ^                              |                             |
//!   '--- delivery failed: later <--'     lease ran out, released +
//! ```
//!
//! Decisions change nothing: they say what would be stored ([`Delta`]), and that is taken over when it is
//! durable. So nobody hears of a wake, a claim or a cursor that a crash could take back.
//!
//! Invariants: a generation is given to one wake only, and they rise; only who names the current one, with its
//! wake's id, moves a cursor; cursors never go back and never pass a stream's end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::{Config, Delivery};
use crate::clock::Time;
use crate::id::{Seq, StreamId};
use crate::streams::{Change, Extent, StreamPath};

/// Between two attempts to deliver: doubled from the first to the second (the protocol's), and up to a
/// fifth more or less, so that those who failed together do not come back together.
const RETRY_MS: (u64, u64) = (1_000, 60_000);

/// What is stored of a subscription itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub config: Config,
    /// Where whoever made it reached this server.
    pub root: String,
    pub created: Time,
    pub generation: u64,
    pub wake: Option<Wake>,
    /// Deliveries that failed since the last that did not.
    pub failures: u32,
    /// No wake before this.
    pub retry_at: Option<Time>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wake {
    pub id: String,
    /// Who claimed it.
    pub worker: Option<String>,
    /// None until it is claimed.
    pub lease_until: Option<Time>,
    /// Whoever has it has said that it is at it.
    #[serde(default)]
    pub is_reported: bool,
}

/// What is stored of a stream that is its work. One record each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    /// Which life of the stream the cursor is in; none if there was no stream yet.
    pub stream: Option<StreamId>,
    /// Named by whoever asked. Else it is there by the pattern.
    pub is_explicit: bool,
    pub is_glob: bool,
    pub acked: Seq,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    pub state: State,
    pub links: BTreeMap<StreamPath, Link>,
    /// Where the linked streams end: as the streams say, and never stored.
    pub extents: BTreeMap<StreamPath, Extent>,
}

/// What changes, and is to be stored.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Delta {
    pub state: Option<State>,
    /// None is removed.
    pub links: Vec<(StreamPath, Option<Link>)>,
}

/// A cursor that somebody moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub stream: StreamPath,
    pub at: Seq,
}

/// A linked stream as workers are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub path: StreamPath,
    pub(super) stream: Option<StreamId>,
    pub is_explicit: bool,
    pub acked: Seq,
    pub tail: Seq,
}

impl Work {
    pub fn is_pending(&self) -> bool {
        self.tail > self.acked
    }
}

/// Why a worker does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the wake is over: a newer one has taken its place")]
    Fenced,
    #[error("`{holder}` has claimed it")]
    Claimed { holder: String, generation: u64 },
    #[error("there is nothing to do")]
    NothingPending,
    #[error("{0}")]
    InvalidOffset(String),
}

impl Subscription {
    pub(super) fn apply(&mut self, delta: Delta) {
        if let Some(state) = delta.state {
            self.state = state;
        }
        for (path, link) in delta.links {
            match link {
                Some(link) => {
                    self.links.insert(path, link);
                }
                None => {
                    self.links.remove(&path);
                    self.extents.remove(&path);
                }
            }
        }
    }

    /// Link streams that somebody names, where they end now.
    pub(super) fn link(&self, streams: &[(StreamPath, Option<Extent>)]) -> Delta {
        let links = streams.iter().filter_map(|(path, extent)| {
            let link = match self.links.get(path) {
                Some(link) if link.is_explicit => return None,
                Some(link) => Link {
                    is_explicit: true,
                    ..*link
                },
                None => Link {
                    stream: extent.map(|it| it.id),
                    is_explicit: true,
                    is_glob: self.state.config.matches(path),
                    acked: extent.map_or(Seq(0), |it| it.tail),
                },
            };
            Some((path.clone(), Some(link)))
        });
        Delta {
            state: None,
            links: links.collect(),
        }
    }

    /// Take back that a stream was named.
    pub(super) fn unlink(&self, path: &StreamPath) -> Delta {
        let links = self.links.get(path).filter(|link| link.is_explicit);
        let rest = |link: &Link| {
            let glob = Link {
                is_explicit: false,
                ..*link
            };
            link.is_glob.then_some(glob)
        };
        Delta {
            state: None,
            links: links
                .map(|it| (path.clone(), rest(it)))
                .into_iter()
                .collect(),
        }
    }

    /// A stream changed: what it is to the cursors. A stream that was not there before is work from its
    /// beginning.
    pub(super) fn changed(&mut self, path: &StreamPath, change: Change) -> Delta {
        let known = self.links.get(path).copied();
        let is_glob = match known {
            Some(link) => link.is_glob,
            None => self.state.config.matches(path),
        };
        let link = match change {
            Change::Grown(extent) => {
                let fresh = || Link {
                    stream: Some(extent.id),
                    is_explicit: known.is_some_and(|it| it.is_explicit),
                    is_glob,
                    acked: extent.base,
                };
                let link = match known {
                    Some(link) if link.stream == Some(extent.id) => link,
                    Some(_) => fresh(),
                    None if is_glob => fresh(),
                    None => return Delta::default(),
                };
                let newest = self.extents.get(path).filter(|it| it.id == extent.id);
                let tail = newest.map_or(extent.tail, |newest| newest.tail.max(extent.tail));
                self.extents.insert(path.clone(), Extent { tail, ..extent });
                Some(link)
            }
            Change::Removed(id) => match known {
                Some(link) if link.stream == Some(id) => {
                    self.extents.remove(path);
                    let named = Link {
                        stream: None,
                        acked: Seq(0),
                        ..link
                    };
                    link.is_explicit.then_some(named)
                }
                Some(_) | None => return Delta::default(),
            },
        };
        let links = match link == known {
            true => Vec::new(),
            false => vec![(path.clone(), link)],
        };
        Delta { state: None, links }
    }

    /// Whether it is concerned by what becomes of a stream.
    pub(super) fn looks_at(&self, path: &StreamPath) -> bool {
        self.links.contains_key(path) || self.state.config.matches(path)
    }

    /// Acks beyond what is known of their streams' ends.
    pub(super) fn unknown(&self, acks: &[Ack]) -> Vec<StreamPath> {
        let is_beyond = |ack: &&Ack| {
            let link = self.links.get(&ack.stream);
            link.is_some_and(|link| ack.at > self.tail(&ack.stream, link))
        };
        let beyond = acks.iter().filter(is_beyond);
        beyond.map(|ack| ack.stream.clone()).collect()
    }

    /// Its streams: what is pending first.
    pub(super) fn work(&self) -> Vec<Work> {
        let work = self.links.iter().map(|(path, link)| Work {
            path: path.clone(),
            stream: link.stream,
            is_explicit: link.is_explicit,
            acked: link.acked,
            tail: self.tail(path, link),
        });
        let (mut pending, rest): (Vec<_>, Vec<_>) = work.partition(Work::is_pending);
        pending.extend(rest);
        pending
    }

    fn tail(&self, path: &StreamPath, link: &Link) -> Seq {
        let extent = self.extents.get(path);
        let extent = extent.filter(|extent| link.stream == Some(extent.id));
        extent.map_or(link.acked, |extent| extent.tail)
    }

    pub(super) fn pending(&self) -> Option<&StreamPath> {
        let mut links = self.links.iter();
        let pending = links.find(|(path, link)| self.tail(path, link) > link.acked);
        pending.map(|(path, _)| path)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.state.failures > 0
    }

    /// When to look at it again though nothing happens.
    pub(super) fn due(&self) -> Option<Time> {
        match &self.state.wake {
            Some(wake) => wake.lease_until,
            // With nothing to do there is no use in trying again; what comes is looked at when it comes.
            None => self.state.retry_at.filter(|_| self.pending().is_some()),
        }
    }

    /// What becomes of it by the passing of time: its worker is taken for dead.
    pub(super) fn lapse(&self, now: Time) -> Option<Delta> {
        let until = self.state.wake.as_ref()?.lease_until?;
        (until <= now).then(|| self.with(|state| state.wake = None))
    }

    /// Wake its workers, if there is something to do and nobody is at it.
    pub(super) fn wake(&self, now: Time, id: String) -> Option<Delta> {
        self.is_to_wake(now).then(|| self.woken(now, id))
    }

    pub(super) fn is_to_wake(&self, now: Time) -> bool {
        let is_time = self.state.retry_at.is_none_or(|at| at <= now);
        self.state.wake.is_none() && is_time && self.pending().is_some()
    }

    fn woken(&self, now: Time, id: String) -> Delta {
        self.with(|state| {
            state.generation += 1;
            state.retry_at = None;
            // Who is sent for has the wake at once; one that is pulled waits to be claimed.
            let lease_until = match state.config.delivery {
                Delivery::Webhook { .. } => Some(now.plus_ms(state.config.lease_ttl_ms)),
                Delivery::PullWake { .. } => None,
            };
            state.wake = Some(Wake {
                id,
                worker: None,
                lease_until,
                is_reported: false,
            });
        })
    }

    /// A worker takes the wake that is there, or one that is made for it.
    pub(super) fn claim(&self, worker: String, now: Time, id: String) -> Result<Delta, Refusal> {
        if let Some(Wake {
            worker: Some(holder),
            ..
        }) = &self.state.wake
        {
            return Err(Refusal::Claimed {
                holder: holder.clone(),
                generation: self.state.generation,
            });
        }
        if self.pending().is_none() {
            return Err(Refusal::NothingPending);
        }
        let mut delta = match &self.state.wake {
            Some(_) => self.with(|_| {}),
            None => self.woken(now, id),
        };
        if let Some(State {
            wake: Some(wake),
            config,
            failures,
            ..
        }) = &mut delta.state
        {
            wake.worker = Some(worker);
            wake.lease_until = Some(now.plus_ms(config.lease_ttl_ms));
            *failures = 0;
        }
        Ok(delta)
    }

    /// Whether somebody speaks of the wake that is under way: their token's generation, and the two that they
    /// name.
    pub(super) fn check(&self, token: u64, generation: u64, wake: &str) -> Result<(), Refusal> {
        let current = self.state.wake.as_ref();
        let is_current = token == self.state.generation
            && generation == self.state.generation
            && current.is_some_and(|current| current.id == wake);
        is_current.then_some(()).ok_or(Refusal::Fenced)
    }

    /// Move cursors, and go on or be done.
    pub(super) fn ack(&self, acks: &[Ack], is_done: bool, now: Time) -> Result<Delta, Refusal> {
        let mut links = BTreeMap::new();
        for Ack { stream, at } in acks {
            let Some(link) = self.links.get(stream) else {
                let text = format!("the stream `{stream}` is not the subscription's");
                return Err(Refusal::InvalidOffset(text));
            };
            let tail = self.tail(stream, link);
            if *at < link.acked || *at > tail {
                let text = format!(
                    "an offset of `{stream}` lies between its cursor {} and its end {}",
                    crate::id::Offset(link.acked),
                    crate::id::Offset(tail)
                );
                return Err(Refusal::InvalidOffset(text));
            }
            links.insert(
                stream.clone(),
                Link {
                    acked: *at,
                    ..*link
                },
            );
        }
        let mut delta = self.with(|state| match is_done {
            true => state.wake = None,
            false => {
                let until = now.plus_ms(state.config.lease_ttl_ms);
                if let Some(wake) = &mut state.wake {
                    wake.lease_until = Some(until);
                    wake.is_reported = true;
                }
            }
        });
        if let Some(state) = &mut delta.state {
            state.failures = 0;
        }
        delta.links = links
            .into_iter()
            .map(|(at, link)| (at, Some(link)))
            .collect();
        Ok(delta)
    }

    /// A worker gives the wake back.
    pub(super) fn release(&self) -> Delta {
        self.with(|state| state.wake = None)
    }

    /// A webhook answered: that all it was told of is done, or that it will call back.
    pub(super) fn answered(&self, told: &[Work], is_done: bool) -> Delta {
        let mut delta = self.with(|state| {
            state.failures = 0;
            if is_done {
                state.wake = None;
            }
        });
        if is_done {
            let links = told.iter().filter_map(|work| {
                // The stream may be another one by now.
                let link = self.links.get(&work.path);
                let link = link.filter(|link| link.stream == work.stream)?;
                let acked = link.acked.max(work.tail);
                Some((work.path.clone(), Some(Link { acked, ..*link })))
            });
            delta.links = links.collect();
        }
        delta
    }

    /// Nobody could be told. `jitter` is a part of the wait, from -1 to 1.
    pub(super) fn failed(&self, now: Time, jitter: f64) -> Delta {
        self.with(|state| {
            state.wake = None;
            let (first, most) = RETRY_MS;
            let wait = first.saturating_mul(1 << state.failures.min(16)).min(most);
            let wait = wait as f64 * (1.0 + jitter.clamp(-1.0, 1.0) / 5.0);
            state.failures = state.failures.saturating_add(1);
            state.retry_at = Some(now.plus_ms(wait as u64));
        })
    }

    fn with(&self, change: impl FnOnce(&mut State)) -> Delta {
        let mut state = self.state.clone();
        change(&mut state);
        Delta {
            state: Some(state),
            links: Vec::new(),
        }
    }
}
