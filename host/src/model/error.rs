//! How calls of models fail.

/// Why the host's models cannot be set up. Names the model, never its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("model {model:?}: {reason}")]
    Config { model: String, reason: &'static str },
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// What a provider, or the way to it, did wrong. The texts are for the guest and its
/// journal: they hold no key and no piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection: nothing was sent.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
    /// It answered with an error.
    #[error("the provider answered {status}: {text}")]
    Status {
        status: u16,
        text: String,
        /// When it wants to be asked again.
        retry_after_ms: Option<u64>,
    },
    /// It began to answer, and then reported an error in words.
    #[error("the provider reported an error: {text}")]
    Reported { status: Option<u16>, text: String },
    /// The connection or the stream ended before the answer did.
    #[error("the provider's answer was cut off")]
    Cut,
    /// It does not speak the protocol.
    #[error("the provider's answer cannot be read: {0}")]
    Malformed(String),
    #[error("the provider's answer is longer than it may be")]
    TooLong,
    #[error("the call took longer than it may")]
    Deadline,
}

impl Fault {
    /// The provider's HTTP status; 0 if there was no answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Status { status, .. } => *status,
            Self::Reported { status, .. } => status.unwrap_or(200),
            Self::Malformed(_) | Self::TooLong => 200,
            Self::Unreachable(_) | Self::Cut | Self::Deadline => 0,
        }
    }

    /// The same call may go better next time, provided nothing of it was handed out.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Cut | Self::Deadline => true,
            Self::Status { status, .. } => is_transient_status(*status),
            // A request that is wrong is refused before an answer begins.
            Self::Reported { status, .. } => status.is_none_or(is_transient_status),
            Self::Malformed(_) | Self::TooLong => false,
        }
    }
}

/// 408 request timeout, 425 too early, 429 too many requests, and the server's own faults.
fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=529)
}

/// Why there is no (whole) answer. `OverBudget` and `CircuitOpen` are the call
/// policy's words: this layer never says them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The host's policy or the model's configuration says no. Nothing was sent.
    #[error("{0}")]
    Refused(String),
    #[error("the budget is used up")]
    OverBudget,
    #[error("the call took longer than it may")]
    Deadline,
    #[error("the provider failed too often lately")]
    CircuitOpen,
    /// The answer broke off after deltas were handed out: whoever got them has the
    /// partial text. Never to be tried again.
    #[error("the answer broke off: {0}")]
    Interrupted(Fault),
    /// It failed before anything was handed out.
    #[error("{0}")]
    Provider(Fault),
    #[error("{0}")]
    Other(String),
}

impl From<Fault> for ModelError {
    /// For a fault before anything was handed out.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Deadline => Self::Deadline,
            fault => Self::Provider(fault),
        }
    }
}

impl ModelError {
    /// The guest's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::OverBudget => "over-budget",
            Self::Deadline => "deadline",
            Self::CircuitOpen => "circuit-open",
            Self::Interrupted(_) => "interrupted",
            Self::Provider(_) => "provider",
            Self::Other(_) => "other",
        }
    }

    /// The provider's HTTP status; 0 if there was no answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Interrupted(fault) | Self::Provider(fault) => fault.status(),
            Self::Refused(_)
            | Self::OverBudget
            | Self::Deadline
            | Self::CircuitOpen
            | Self::Other(_) => 0,
        }
    }

    /// Trying the same call again breaks no promise and may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Provider(fault) => fault.is_transient(),
            Self::Deadline => true,
            Self::Refused(_)
            | Self::OverBudget
            | Self::CircuitOpen
            | Self::Interrupted(_)
            | Self::Other(_) => false,
        }
    }

    /// When the provider wants to be asked again, if it said.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Provider(Fault::Status { retry_after_ms, .. }) => *retry_after_ms,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_handed_nothing_out_and_may_pass_is_transient() {
        let status = |status| Fault::Status {
            status,
            text: String::new(),
            retry_after_ms: None,
        };
        for (fault, transient) in [
            (Fault::Unreachable(String::new()), true),
            (status(400), false),
            (status(401), false),
            (status(409), false),
            (status(429), true),
            (status(501), false),
            (status(503), true),
            (Fault::Cut, true),
            (Fault::Deadline, true),
            (Fault::Malformed(String::new()), false),
            (Fault::TooLong, false),
        ] {
            assert_eq!(
                ModelError::from(fault.clone()).is_transient(),
                transient,
                "{fault:?}"
            );
            assert!(!ModelError::Interrupted(fault).is_transient());
        }
    }
}
