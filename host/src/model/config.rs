//! One model of one provider, as it is configured.

use super::CallPolicy;
use crate::secret::Secret;

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
