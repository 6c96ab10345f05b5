//! What a tenant may use: in the settings for all, and in a tenant's record for one.

use serde::{Deserialize, Serialize};

/// What one tenant may use. What is left out of a record is as in the settings, and there it is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Sessions that are there, open or at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u64>,
    /// Bytes of entries and of long values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_bytes_max: Option<u64>,
    /// Turns that run at once, at each depth of calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns_max: Option<u64>,
    /// Turns that wait for a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turns_waiting_max: Option<u64>,
    /// Milliseconds that all its guests compute in a minute. Only below the limit of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_minute_ms_max: Option<u64>,
}

impl Quotas {
    /// What is not set here is as there.
    pub fn or(self, other: Self) -> Self {
        Self {
            sessions_max: self.sessions_max.or(other.sessions_max),
            storage_bytes_max: self.storage_bytes_max.or(other.storage_bytes_max),
            turns_max: self.turns_max.or(other.turns_max),
            turns_waiting_max: self.turns_waiting_max.or(other.turns_waiting_max),
            cpu_minute_ms_max: self.cpu_minute_ms_max.or(other.cpu_minute_ms_max),
        }
    }
}
