//! What the agent says to the people in the session.
//!
//! Words are shown in the order said, only once they are durable, and stay in the
//! transcript whatever becomes of the turn. A model's answer is said without touching
//! each piece with [`Deltas::relay`](crate::model::Deltas::relay).

pub use crate::bindings::antiphon::agent::reply::SayError;
use crate::host;

/// Say this. It follows what was said before in this turn, with nothing in between.
pub fn say(text: &str) -> Result<(), SayError> {
    host::reply::say(text)
}
