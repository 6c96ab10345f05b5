//! A turn's randomness: the same for the same session and turn, on every machine. PURE.
//!
//! The session's secret stays in the host. What follows from it for one turn may be handed to
//! whoever runs that turn again: it tells nothing of other turns.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::id::TurnId;

/// One seed for each source of randomness that WASI has.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    pub secure: Seed,
    pub insecure: Seed,
    /// Of what WASI calls the insecure seed.
    pub seed: Seed,
}

/// 256 bits, as hex in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub [u8; 32]);

impl Seeds {
    pub fn of(secret: &str, turn: &TurnId) -> Self {
        Self {
            secure: seed(secret, turn, "secure"),
            insecure: seed(secret, turn, "insecure"),
            seed: seed(secret, turn, "seed"),
        }
    }
}

fn seed(secret: &str, turn: &TurnId, stream: &str) -> Seed {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(turn.as_str().as_bytes());
    mac.update(&[0]);
    mac.update(stream.as_bytes());
    Seed(mac.finalize().into_bytes().into())
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        hex::encode(seed.0)
    }
}

impl TryFrom<String> for Seed {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seeds(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::script::name;

    #[test]
    fn seeds_are_of_one_turn_and_survive_json() {
        let seeds = Seeds::of("secret", &name("r.t0.a"));
        assert!(seeds != Seeds::of("secret", &name("r.t1.a")));
        assert!(seeds != Seeds::of("other", &name("r.t0.a")));
        assert!(seeds.secure != seeds.insecure && seeds.secure != seeds.seed);
        let json = serde_json::to_string(&seeds).unwrap();
        assert!(serde_json::from_str::<Seeds>(&json).unwrap() == seeds);
        assert!(serde_json::from_str::<Seed>("\"00\"").is_err());
    }
}
