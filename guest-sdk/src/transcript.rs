//! What people in the session were shown and what they sent: exactly the durable words,
//! up to the start of this turn.
//!
//! Messages that wait for this agent or were pulled in this turn are not in it, so
//! transcript and pulled messages together are everything, each once.

pub use crate::bindings::antiphon::agent::transcript::{Author, Ending, Item, Page};
use crate::host;

/// The newest `max_items` (at most 200) before `cursor`, or before the start of this turn.
pub fn window(max_items: u32, cursor: Option<&str>) -> Page {
    host::transcript::window(max_items, cursor)
}

impl Author {
    /// The name, whoever it is.
    pub fn name(&self) -> &str {
        match self {
            Self::Person(name) | Self::Agent(name) => name,
        }
    }
}
