//! What is stored of a tenant: where it stands, and what it may use.

use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    #[default]
    Active,
    /// Nobody gets in and nothing new begins; what runs ends by itself, and everything is kept.
    Suspended,
    /// Nobody gets in, and what it has is being removed.
    Deleting,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
        }
    }
}

/// What one tenant may use, where that is not what the host gives to all.
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
}

/// The stored form. Tenants of older versions have none of the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub standing: Standing,
    /// Zero if it is older than this field.
    pub created_at: Time,
    pub quotas: Quotas,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores already written hold these.
    #[test]
    fn records_come_back() {
        let old: Record = serde_json::from_str("{}").unwrap();
        assert_eq!(old, Record::default());
        let record = Record {
            standing: Standing::Suspended,
            created_at: Time(7),
            quotas: Quotas {
                sessions_max: Some(3),
                ..Quotas::default()
            },
        };
        let text = r#"{"standing":"suspended","created_at":7,"quotas":{"sessions_max":3}}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
    }
}
