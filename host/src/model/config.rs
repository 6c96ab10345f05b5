//! One model of one provider, as it is configured.

use std::fmt;

use super::CallPolicy;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For the one who sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a provider calls the bound of an answer's length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MaxTokens {
    /// `max_tokens`: nearly all servers.
    #[default]
    Classic,
    /// `max_completion_tokens`: OpenAI's reasoning models refuse the other.
    Completion,
}

/// One configured model of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Before `/chat/completions`; http or https.
    pub base_url: String,
    pub api_key: Option<Secret>,
    /// The provider's name for it.
    pub model: String,
    /// How it is called.
    pub policy: CallPolicy,
    /// Text and tool calls of one answer.
    pub answer_bytes_max: usize,
    pub max_tokens: MaxTokens,
}

impl ModelConfig {
    /// With the default policy and 4 MiB, the most that may pass between host and guest at once.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key: None,
            model: model.into(),
            policy: CallPolicy::default(),
            answer_bytes_max: 4 * 1024 * 1024,
            max_tokens: MaxTokens::default(),
        }
    }
}
