//! A text that never shows itself: keys of providers, tenants' secrets.
//!
//! Invariant: it is in no log and no error: its `Debug` hides it, it has no `Display` and no
//! serde form. Whoever needs the text says so with [`Secret::reveal`].

use std::fmt;

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_only_when_asked() {
        let secret = Secret::new("sk-very-secret");
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "(hidden) Some((hidden))"
        );
        assert_eq!(secret.reveal(), "sk-very-secret");
    }
}
