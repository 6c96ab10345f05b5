//! What a session's journal says. Pure: no IO, no clock, no randomness.
//!
//! - [`entry`]: the kinds of entries and what each carries.
//! - [`codec`]: entries and frames as bytes.
//! - [`state`]: the fold of entries, the same live and in recovery.
//! - [`context`]: what an agent keeps in view, and how it ages.
//! - [`notice`]: what follows from entries for those who look at all sessions.
//!
//! Invariant: a journal's entries are numbered from 1 without gaps, and their
//! times never decrease. Whatever must be atomic is one entry.

pub mod codec;
pub mod context;
pub mod entry;
pub mod notice;
#[cfg(test)]
pub(crate) mod script;
pub mod state;
