//! What is stored of a tenant: where it stands, and what it may use.

use serde::{Deserialize, Serialize};

use crate::clock::Time;
pub use crate::config::Quotas;

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
