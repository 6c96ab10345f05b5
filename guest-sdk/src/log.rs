//! Telemetry for the agent's developer and operator. Not part of the session, dropped
//! first under pressure, and survives no restart.

pub use crate::bindings::antiphon::agent::log::Level;
use crate::host;

/// Record an event with named fields.
pub fn event(level: Level, message: &str, fields: &[(&str, &str)]) {
    let fields: Vec<(String, String)> = fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    host::log::event(level, message, &fields);
}

/// An event without fields at level `info`.
pub fn info(message: &str) {
    event(Level::Info, message, &[]);
}

/// An event without fields at level `warn`.
pub fn warn(message: &str) {
    event(Level::Warn, message, &[]);
}
