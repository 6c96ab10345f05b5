//! The one seam between the SDK's words and who answers them.
//!
//! On wasm that is the runtime, through the generated imports. Elsewhere it is the
//! testing host of the current thread, under the same names and signatures, so
//! that no other module of the SDK asks what it is compiled for.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::antiphon::agent::{
    agents, context, http, kernel, log, mailbox, model, questions, reply, transcript, turn,
};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::imports::{
    agents, clock, context, http, kernel, log, mailbox, model, questions, reply, transcript, turn,
};

/// WASI gives the clock, so there is no generated import of ours for it.
#[cfg(target_arch = "wasm32")]
pub(crate) mod clock {
    use std::time::{SystemTime, UNIX_EPOCH};

    pub(crate) fn now() -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
