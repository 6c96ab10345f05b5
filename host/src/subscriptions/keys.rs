//! What webhooks are signed with, and the tokens of those who were woken. Both by keys of the host's own, so nothing of
//! them is stored.
//!
//! A token is `<generation>.<mac>.<tenant>`: good for one subscription as long as it stands, and for the wake of
//! its generation. It names its tenant, because whoever calls back has no other key.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::SubscriptionKey;
use crate::clock::Time;
use crate::id::TenantId;
use crate::seal::Seal;

pub struct Keys {
    signing: Ed25519KeyPair,
    kid: String,
    tokens: Hmac<Sha256>,
}

/// What a token says once it is known to be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub tenant: TenantId,
    pub(super) generation: u64,
    mac: Vec<u8>,
}

impl Keys {
    pub fn of(seal: &Seal) -> Self {
        let seed = seal.derived("signatures of webhooks");
        let signing = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        let thumb = Sha256::digest(signing.public_key());
        let tokens = seal.derived("tokens of subscriptions");
        Self {
            kid: format!("ds_{}", BASE64.encode(&thumb[..12])),
            signing,
            tokens: Hmac::new_from_slice(&tokens).expect("any length is a key"),
        }
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public keys as a JWK Set (RFC 7517, RFC 8037).
    pub fn public(&self) -> Value {
        let x = BASE64.encode(self.signing.public_key());
        json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "use": "sig", "alg": "EdDSA", "x": x,
        }]})
    }

    /// The header `Webhook-Signature` of a body that leaves now.
    pub(super) fn signature(&self, now: Time, body: &[u8]) -> String {
        let seconds = now.0 / 1_000;
        let signed = [format!("{seconds}.").as_bytes(), body].concat();
        let signature = BASE64.encode(self.signing.sign(&signed));
        format!("t={seconds},kid={},ed25519={signature}", self.kid)
    }

    pub(super) fn token(&self, key: &SubscriptionKey, created: Time, generation: u64) -> String {
        let mac = self.mac(key, created, generation).finalize().into_bytes();
        format!("{generation}.{}.{}", BASE64.encode(mac), key.tenant)
    }

    /// Whether it was made for a wake of this subscription, whatever became of the wake.
    pub(super) fn is_ours(&self, token: &Token, key: &SubscriptionKey, created: Time) -> bool {
        let mac = self.mac(key, created, token.generation);
        token.tenant == key.tenant && mac.verify_slice(&token.mac).is_ok()
    }

    fn mac(&self, key: &SubscriptionKey, created: Time, generation: u64) -> Hmac<Sha256> {
        let mut mac = self.tokens.clone();
        let text = format!("{}/{}/{}/{generation}", key.tenant, key.id, created.0);
        mac.update(text.as_bytes());
        mac
    }
}

impl Token {
    /// None if it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let (generation, mac, tenant) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            tenant: TenantId::new(tenant).ok()?,
            generation: generation.parse().ok()?,
            mac: BASE64.decode(mac).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;
    use crate::id::SubscriptionId;

    fn key(tenant: &str, id: &str) -> SubscriptionKey {
        SubscriptionKey {
            tenant: TenantId::new(tenant).unwrap(),
            id: SubscriptionId::new(id).unwrap(),
        }
    }

    #[test]
    fn a_token_is_good_for_one_life_of_one_subscription() {
        let keys = Keys::of(&Seal::of_key(&[1; 32]));
        let text = keys.token(&key("acme", "s"), Time(5), 7);
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.tenant.as_str(), token.generation), ("acme", 7));
        assert!(keys.is_ours(&token, &key("acme", "s"), Time(5)));
        for (key, created) in [
            (key("acme", "t"), Time(5)),
            (key("other", "s"), Time(5)),
            (key("acme", "s"), Time(6)),
        ] {
            assert!(!keys.is_ours(&token, &key, created));
        }
        let other = Token {
            generation: 8,
            ..token.clone()
        };
        assert!(!keys.is_ours(&other, &key("acme", "s"), Time(5)));
        let stranger = Keys::of(&Seal::of_key(&[2; 32]));
        assert!(!stranger.is_ours(&token, &key("acme", "s"), Time(5)));
        for bad in ["", "7", "7.x", "x.AA.acme", "7.!.acme", "7.AA.", "7.AA.A B"] {
            assert_eq!(Token::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn whoever_has_the_public_key_can_check_a_signature() {
        let keys = Keys::of(&Seal::of_key(&[1; 32]));
        let header = keys.signature(Time(1_700_000_000_999), b"{}");
        let (head, signature) = header.split_once(",ed25519=").unwrap();
        assert_eq!(head, format!("t=1700000000,kid={}", keys.kid()));
        let public = keys.public();
        assert_eq!(public["keys"][0]["kid"], keys.kid());
        let x = BASE64
            .decode(public["keys"][0]["x"].as_str().unwrap())
            .unwrap();
        let signature = BASE64.decode(signature).unwrap();
        let key = UnparsedPublicKey::new(&ED25519, &x);
        assert!(key.verify(b"1700000000.{}", &signature).is_ok());
        assert!(key.verify(b"1700000001.{}", &signature).is_err());
    }
}
