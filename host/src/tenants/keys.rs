//! Keys and session tokens: their texts, their records, and who holds them.
//!
//! A key names its tenant, so it is found without an index over tenants:
//! `ant_<tenant>_<64 hex digits>`; a session token has the same form with `ast_`, and the operator's key is
//! `aop_<64 hex digits>`. Only the SHA-256 of a text is stored. Invariant: what a key or token may do is
//! decided from its record and its tenant's standing alone; the texts are never logged.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::{Author, Digest, SessionId, TenantId};
use crate::store::{RecordKey, RecordSpace};

const KEY: &str = "ant";
const TOKEN: &str = "ast";
const OPERATOR: &str = "aop";

/// Digits of a digest that name a key or token where it may be shown.
pub(super) const ID_DIGITS: usize = 16;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    Deploy,
    Invoke,
    Read,
    Inspect,
    Admin,
    /// Forward the authorization of somebody else: for runtimes that call this one.
    InterAgent,
    /// Session tokens: send messages.
    Send,
    /// Session tokens: interrupt.
    Interrupt,
}

impl Right {
    /// What a key may be for; the others are of session tokens.
    pub const OF_KEYS: [Self; 6] = [
        Self::Deploy,
        Self::Invoke,
        Self::Read,
        Self::Inspect,
        Self::Admin,
        Self::InterAgent,
    ];

    /// Those of a tenant's first key.
    pub fn of_first_key() -> BTreeSet<Self> {
        let all = Self::OF_KEYS.into_iter();
        all.filter(|right| *right != Self::InterAgent).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Inspect => "inspect",
            Self::Admin => "admin",
            Self::InterAgent => "inter-agent",
            Self::Send => "send",
            Self::Interrupt => "interrupt",
        }
    }
}

/// The stored form of a key, under its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) rights: BTreeSet<Right>,
    pub(super) created_at: Time,
    /// For ever if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<Time>,
    /// What it is for, in its owner's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
}

/// The stored form of a session token, under its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names the token where it may be shown.
    pub id: String,
    pub session: SessionId,
    pub author: Author,
    pub rights: BTreeSet<Right>,
    pub expires_at: Time,
}

/// A key as it may be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub id: String,
    pub rights: BTreeSet<Right>,
    pub created_at: Time,
    pub expires_at: Option<Time>,
    pub label: Option<String>,
}

/// A key that was just made. Its text is nowhere else.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub text: String,
    pub key: Key,
}

impl Key {
    pub(super) fn of(id: &str, record: KeyRecord) -> Self {
        Self {
            id: id.chars().take(ID_DIGITS).collect(),
            rights: record.rights,
            created_at: record.created_at,
            expires_at: record.expires_at,
            label: record.label,
        }
    }

    pub(super) fn record(&self) -> KeyRecord {
        KeyRecord {
            rights: self.rights.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            label: self.label.clone(),
        }
    }
}

/// Who asks, as far as the key or token says.
#[derive(Debug, Clone, PartialEq)]
pub enum Who {
    /// Whoever runs the host: administers tenants, and is in none.
    Operator,
    Key {
        tenant: TenantId,
        rights: BTreeSet<Right>,
    },
    Token {
        tenant: TenantId,
        token: TokenRecord,
    },
}

/// Somebody with a key or token that was valid when it was looked up.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    pub who: Who,
    pub(super) at: Address,
    pub(super) expires_at: Option<Time>,
}

impl Holder {
    /// Names the key or token where it may be shown.
    pub fn id(&self) -> String {
        let mut id = self.at.digest.to_string();
        id.truncate(ID_DIGITS);
        id
    }

    pub fn tenant(&self) -> Option<&TenantId> {
        match &self.who {
            Who::Operator => None,
            Who::Key { tenant, .. } | Who::Token { tenant, .. } => Some(tenant),
        }
    }

    pub(super) fn is_expired(&self, now: Time) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// From its record.
    pub(super) fn parse(at: Address, bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let (who, expires_at) = match (&at.tenant, at.space) {
            (Some(tenant), RecordSpace::Token) => {
                let token: TokenRecord = serde_json::from_slice(bytes)?;
                let (tenant, expires_at) = (tenant.clone(), Some(token.expires_at));
                (Who::Token { tenant, token }, expires_at)
            }
            (tenant, _) => {
                let KeyRecord {
                    rights, expires_at, ..
                } = serde_json::from_slice(bytes)?;
                let who = match tenant.clone() {
                    Some(tenant) => Who::Key { tenant, rights },
                    None => Who::Operator,
                };
                (who, expires_at)
            }
        };
        Ok(Self {
            who,
            at,
            expires_at,
        })
    }
}

/// Where the record of a key or token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// None for the operator's.
    pub(super) tenant: Option<TenantId>,
    pub(super) space: RecordSpace,
    pub(super) digest: Digest,
}

impl Address {
    /// None of what is no key or token.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('_')?;
        let (space, tenant, secret) = match kind {
            OPERATOR => (RecordSpace::Key, None, rest),
            KEY | TOKEN => {
                let (tenant, secret) = rest.split_once('_')?;
                let space = match kind {
                    KEY => RecordSpace::Key,
                    _ => RecordSpace::Token,
                };
                (space, Some(TenantId::new(tenant).ok()?), secret)
            }
            _ => return None,
        };
        // The secret itself is never compared: its digest is looked up.
        let is_secret = secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_secret.then(|| Self {
            tenant,
            space,
            digest: Digest::of(text.as_bytes()),
        })
    }

    pub(super) fn key(&self) -> RecordKey {
        RecordKey {
            tenant: self.tenant.clone(),
            space: self.space,
            name: self.digest.to_string(),
        }
    }
}

/// The text of a new key or token.
pub(super) fn mint(space: RecordSpace, tenant: Option<&TenantId>) -> String {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).expect("the system has randomness");
    let secret = hex::encode(secret);
    match (space, tenant) {
        (RecordSpace::Token, Some(tenant)) => format!("{TOKEN}_{tenant}_{secret}"),
        (_, Some(tenant)) => format!("{KEY}_{tenant}_{secret}"),
        (_, None) => format!("{OPERATOR}_{secret}"),
    }
}

/// Whether a text can be the id of a key or token.
pub(super) fn is_id(id: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    id.len() == ID_DIGITS && id.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_where_their_records_are() {
        let tenant = TenantId::new("acme").unwrap();
        for (space, of) in [
            (RecordSpace::Key, Some(&tenant)),
            (RecordSpace::Token, Some(&tenant)),
            (RecordSpace::Key, None),
        ] {
            let text = mint(space, of);
            let at = Address::of(&text).expect("it is one");
            assert_eq!((at.space, at.tenant.as_ref()), (space, of), "{text}");
            assert_eq!(at.digest, Digest::of(text.as_bytes()));
            assert_ne!(text, mint(space, of), "random");
        }
        let digits = "0".repeat(64);
        for junk in [
            "",
            "ant",
            "ant__",
            "ant_acme_",
            "aop_",
            &format!("ant_acme_{}", "0".repeat(63)),
            &format!("ant_acme_{digits}_"),
            &format!("ant_Not A Name_{digits}"),
            &format!("ant__{digits}"),
            &format!("aop_acme_{digits}"),
            &format!("xyz_acme_{digits}"),
            &format!("ant_acme_{}", "é".repeat(32)),
        ] {
            assert_eq!(Address::of(junk), None, "{junk}");
        }
    }

    /// Stores already written hold these.
    #[test]
    fn records_come_back() {
        let old = r#"{"rights":["deploy","invoke"],"created_at":5}"#;
        let record: KeyRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.expires_at, record.label.clone()), (None, None));
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
    }
}
