//! What must not be read where it is kept: sealed with a key of this host's own.
//!
//! The key is 256 random bits in `DATA/host.key`, made at the first start. It is in no backup of
//! the store: whoever has only the store's files, or an export, has no secret. Lost, it makes
//! what was sealed with it unreadable, and other keys that are derived from it are others then:
//! what webhooks are signed with. Nothing else depends on it.
//!
//! A sealed value is `1 | nonce (24) | ciphertext | tag (16)`: XChaCha20-Poly1305 with a random
//! nonce, long enough that chance repeats none. The context (what the value is, and whose) is
//! authenticated with it: moved to another place, it does not open.
//!
//! Invariant: what opens was sealed by this host for this context. It does not keep anything:
//! store/ and secrets/ do.

use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The name of the key's file in the data folder.
const KEY_FILE: &str = "host.key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Of the form above. Another one gets another number.
const FORM: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the host's key {path}: {error}")]
    KeyFile { path: String, error: io::Error },
    /// Cut off, changed, of another place, or sealed with another key: which of them cannot be told.
    #[error("it was not sealed by this host for this use")]
    NotOurs,
}

/// The host's key. Cheap to copy by reference, never shown.
#[derive(Clone)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    derive: Hmac<Sha256>,
}

impl Seal {
    /// The key in this data folder, made if there is none: durable when it returns. Blocks. For
    /// whoever holds the store's lock: two processes must not make two keys.
    pub fn open_or_make(data: &Path) -> Result<Self, SealError> {
        let path = data.join(KEY_FILE);
        let failed = |error| SealError::KeyFile {
            path: path.display().to_string(),
            error,
        };
        match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; KEY_BYTES];
                getrandom::fill(&mut key).map_err(|error| failed(io::Error::other(error)))?;
                write(data, &path, &key).map_err(failed)?;
                Ok(Self::of_key(&key))
            }
            read => Ok(Self::of_key(&read.map_err(failed)?)),
        }
    }

    /// Of a given key: for tests, and for whoever keeps it elsewhere.
    pub fn of_key(key: &[u8; KEY_BYTES]) -> Self {
        Self {
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
            derive: Hmac::new_from_slice(key).expect("any length is a key"),
        }
    }

    /// Another key, for this use alone: the same as long as the host's key is.
    pub fn derived(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let mut mac = self.derive.clone();
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Seal `bytes` for `context`: what they are and whose, in a form that names one thing only.
    /// An error only if the machine has no randomness, or past 256 GiB.
    pub fn seal(&self, context: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let sealed = self.cipher.encrypt(
            &XNonce::from(nonce),
            Payload {
                msg: bytes,
                aad: context.as_bytes(),
            },
        );
        let sealed = sealed.map_err(|_| io::Error::other("too long to be sealed"))?;
        Ok([&[FORM], nonce.as_slice(), &sealed].concat())
    }

    /// What was sealed for the same context by a host with the same key.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (&form, rest) = sealed.split_first().ok_or(SealError::NotOurs)?;
        let (nonce, text) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::NotOurs)?;
        if form != FORM {
            return Err(SealError::NotOurs);
        }
        let payload = Payload {
            msg: text,
            aad: context.as_bytes(),
        };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload);
        opened.map_err(|_| SealError::NotOurs)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(hidden)")
    }
}

fn read(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let mut file = fs::File::open(path)?;
    // Volumes that set modes by themselves exist, so it is said and not refused.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the host's key can be read by other users");
    }
    let mut bytes = Vec::with_capacity(KEY_BYTES);
    io::Read::by_ref(&mut file)
        .take(KEY_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    bytes.try_into().map_err(|_| {
        let text = format!("it must hold {KEY_BYTES} bytes; it was cut off or replaced");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// Whole or not at all: a crash before it returns leaves the key or none under its name.
fn write(data: &Path, path: &Path, key: &[u8]) -> io::Result<()> {
    let temporary = data.join(format!("{KEY_FILE}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::of_key(&[7; KEY_BYTES])
    }

    #[test]
    fn what_was_sealed_opens_for_the_same_use_and_key_only() {
        let sealed = seal().seal("secret t example", b"sk-1").unwrap();
        assert_eq!(seal().open("secret t example", &sealed).unwrap(), b"sk-1");
        assert!(matches!(
            seal().open("secret u example", &sealed),
            Err(SealError::NotOurs)
        ));
        assert!(
            Seal::of_key(&[8; KEY_BYTES])
                .open("secret t example", &sealed)
                .is_err()
        );
        assert!(!sealed.windows(4).any(|bytes| bytes == b"sk-1"));
    }

    #[test]
    fn the_same_twice_is_sealed_differently() {
        let twice = [0, 1].map(|_| seal().seal("c", b"same").unwrap());
        assert_ne!(twice[0], twice[1]);
    }

    #[test]
    fn what_was_changed_or_cut_off_anywhere_does_not_open() {
        let sealed = seal().seal("c", b"text").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal().open("c", &changed).is_err(), "byte {at}");
            assert!(seal().open("c", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(seal().open("c", &[&sealed[..], b"x"].concat()).is_err());
        assert!(
            seal()
                .open("c", &seal().seal("c", b"").unwrap())
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn the_key_is_made_once_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let made = Seal::open_or_make(folder.path()).unwrap();
        let sealed = made.seal("c", b"text").unwrap();
        let again = Seal::open_or_make(folder.path()).unwrap();
        assert_eq!(again.open("c", &sealed).unwrap(), b"text");
        let path = folder.path().join(KEY_FILE);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(!format!("{made:?}").contains("key"));
    }

    #[test]
    fn a_key_of_another_length_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        for text in ["", "short", "one byte more than a key may have"] {
            fs::write(&path, text).unwrap();
            let error = Seal::open_or_make(folder.path()).unwrap_err();
            assert!(error.to_string().contains("32 bytes"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
