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
    #[error("{0}")]
    Deadline(Deadline),
}

impl Fault {
    /// The provider's HTTP status; 0 if there was no answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Status { status, .. } => *status,
            Self::Reported { status, .. } => status.unwrap_or(200),
            Self::Malformed(_) | Self::TooLong => 200,
            Self::Unreachable(_) | Self::Cut | Self::Deadline(_) => 0,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Unreachable(_) | Self::Cut => Class::Transient,
            Self::Deadline(Deadline::Attempt { .. }) => Class::Transient,
            // It was cut short by somebody who had no more time: nobody knows what it would have done.
            Self::Deadline(Deadline::Call { .. } | Deadline::Turn) => Class::Unsaid,
            // A request that is wrong is refused before an answer begins.
            Self::Reported { status: None, .. } => Class::Transient,
            Self::Status { status, .. }
            | Self::Reported {
                status: Some(status),
                ..
            } => match status {
                // Request timeout, too early, and the server's own faults.
                408 | 425 | 500 | 502..=504 | 520..=529 => Class::Transient,
                429 => Class::Limited,
                400..=499 => Class::Answered,
                _ => Class::Unsaid,
            },
            Self::Malformed(_) | Self::TooLong => Class::Unsaid,
        }
    }
}

/// What a failed attempt means for the call and for others. The one table of it.
///
/// | class | tried again | the circuit |
/// |---|---|---|
/// | `Transient` | yes | counts it |
/// | `Limited` | yes | neither counts nor clears: who says "not so fast" is there, and to open for it would turn a limit into an outage |
/// | `Answered` | no | clears: a refused request is an answer |
/// | `Unsaid` | no | neither |
///
/// An answer that broke off after something of it was handed out is never tried again; the circuit hears of it
/// what it hears of the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Transient,
    Limited,
    Answered,
    Unsaid,
}

/// Which deadline a call ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Deadline {
    #[error("call exceeded its per-attempt deadline of {ms_max} ms")]
    Attempt { ms_max: u64 },
    #[error("call exceeded its deadline of {ms_max} ms")]
    Call { ms_max: u64 },
    #[error("call exceeded the deadline of its turn")]
    Turn,
}

/// Why there is no (whole) answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The host's policy or the model's configuration says no. Nothing was sent.
    #[error("{0}")]
    Refused(String),
    #[error("the budget is used up")]
    OverBudget,
    /// With what the last attempt failed, if one did.
    #[error("{deadline}{}", after(last))]
    Deadline {
        deadline: Deadline,
        last: Option<String>,
    },
    /// Nothing was sent.
    #[error("circuit open for {target:?}; {}", remaining(*left_ms))]
    CircuitOpen {
        target: String,
        /// Until somebody may try; none while somebody is trying.
        left_ms: Option<u64>,
    },
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

fn after(last: &Option<String>) -> String {
    let last = last.as_ref();
    last.map_or_else(String::new, |last| format!("; the last attempt: {last}"))
}

fn remaining(left_ms: Option<u64>) -> String {
    match left_ms {
        Some(ms) => format!("{ms} ms remaining before retry allowed"),
        None => "it is being tried".to_owned(),
    }
}

impl From<Fault> for ModelError {
    /// For a fault before anything was handed out.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Deadline(deadline) => deadline.into(),
            fault => Self::Provider(fault),
        }
    }
}

impl From<Deadline> for ModelError {
    fn from(deadline: Deadline) -> Self {
        Self::Deadline {
            deadline,
            last: None,
        }
    }
}

impl ModelError {
    /// The guest's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::OverBudget => "over-budget",
            Self::Deadline { .. } => "deadline",
            Self::CircuitOpen { .. } => "circuit-open",
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
            | Self::Deadline { .. }
            | Self::CircuitOpen { .. }
            | Self::Other(_) => 0,
        }
    }

    /// What it means for the call and for others.
    pub fn class(&self) -> Class {
        match self {
            Self::Provider(fault) | Self::Interrupted(fault) => fault.class(),
            Self::Deadline {
                deadline: Deadline::Attempt { .. },
                ..
            } => Class::Transient,
            Self::Deadline { .. }
            | Self::Refused(_)
            | Self::OverBudget
            | Self::CircuitOpen { .. }
            | Self::Other(_) => Class::Unsaid,
        }
    }

    /// Trying the same call again breaks no promise and may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Interrupted(_) => false,
            error => matches!(error.class(), Class::Transient | Class::Limited),
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

    fn status(status: u16) -> Fault {
        Fault::Status {
            status,
            text: String::new(),
            retry_after_ms: None,
        }
    }

    fn reported(status: Option<u16>) -> Fault {
        Fault::Reported {
            status,
            text: String::new(),
        }
    }

    /// The table of failures, as docs/http.md has it.
    #[test]
    fn what_a_failure_means() {
        use Class::{Answered, Limited, Transient, Unsaid};
        for (fault, class) in [
            (Fault::Unreachable(String::new()), Transient),
            (Fault::Cut, Transient),
            (Fault::Deadline(Deadline::Attempt { ms_max: 1 }), Transient),
            (Fault::Deadline(Deadline::Call { ms_max: 1 }), Unsaid),
            (Fault::Deadline(Deadline::Turn), Unsaid),
            (status(307), Unsaid),
            (status(400), Answered),
            (status(401), Answered),
            (status(404), Answered),
            (status(408), Transient),
            (status(409), Answered),
            (status(425), Transient),
            (status(429), Limited),
            (status(500), Transient),
            (status(501), Unsaid),
            (status(502), Transient),
            (status(503), Transient),
            (status(504), Transient),
            (status(529), Transient),
            (reported(None), Transient),
            (reported(Some(429)), Limited),
            (reported(Some(400)), Answered),
            (Fault::Malformed(String::new()), Unsaid),
            (Fault::TooLong, Unsaid),
        ] {
            let error = ModelError::from(fault.clone());
            assert_eq!(error.class(), class, "{fault:?}");
            let again = matches!(class, Transient | Limited);
            assert_eq!(error.may_pass(), again, "{fault:?}");
            let interrupted = ModelError::Interrupted(fault);
            assert_eq!(interrupted.class(), class);
            assert!(!interrupted.may_pass(), "something was handed out");
        }
        for error in [
            ModelError::Refused(String::new()),
            ModelError::OverBudget,
            ModelError::CircuitOpen {
                target: String::new(),
                left_ms: None,
            },
            ModelError::Other(String::new()),
        ] {
            assert_eq!((error.class(), error.may_pass()), (Unsaid, false));
        }
    }

    #[test]
    fn words_name_the_number() {
        let error = ModelError::from(Deadline::Attempt { ms_max: 1_500 });
        let expect = "call exceeded its per-attempt deadline of 1500 ms";
        assert_eq!(error.to_string(), expect);
        let error = ModelError::Deadline {
            deadline: Deadline::Call { ms_max: 9 },
            last: Some(status(503).to_string()),
        };
        let expect =
            "call exceeded its deadline of 9 ms; the last attempt: the provider answered 503: ";
        assert_eq!(error.to_string(), expect);
        let open = |left_ms| ModelError::CircuitOpen {
            target: "fast".into(),
            left_ms,
        };
        let expect = r#"circuit open for "fast"; 4200 ms remaining before retry allowed"#;
        assert_eq!(open(Some(4_200)).to_string(), expect);
        let expect = r#"circuit open for "fast"; it is being tried"#;
        assert_eq!(open(None).to_string(), expect);
    }
}
