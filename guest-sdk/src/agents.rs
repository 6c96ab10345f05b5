//! Other agents of the same owner, each in a session of its own. Must be granted.
//!
//! A called agent gets one message, and what it says is its reply. Calls that a turn does not
//! wait for are cancelled when it ends.
//!
//! ```
//! use antiphon_sdk::testing::Host;
//! use antiphon_sdk::{agents, reply};
//!
//! let host = Host::new("editor");
//! host.receive("ana", "Is this true?");
//! host.agent_says("checker", "It is not.");
//! let turn = host.turn_with(|_| {
//!     let verdict = agents::call("checker", "Is this true?")?;
//!     reply::say(&verdict.text)?;
//!     Ok(Default::default())
//! });
//! assert_eq!(turn.said, "It is not.");
//! assert_eq!(turn.called[0].to, "checker");
//! ```

pub use crate::bindings::antiphon::agent::agents::{CallError, Depth, Failure, Options, Reply};
use crate::host;
use crate::mailbox::Body;

/// Call an agent with text and wait for its reply, as long as the turn may run.
pub fn call(agent: &str, text: &str) -> Result<Reply, CallError> {
    call_with(agent, &Body::Text(text.to_owned()), Options::default())
}

/// Call an agent and wait for its reply.
pub fn call_with(agent: &str, body: &Body, options: Options) -> Result<Reply, CallError> {
    host::agents::call(agent, body, options)
}

/// Have an agent begin with text, and go on meanwhile.
pub fn spawn(agent: &str, text: &str) -> Result<Run, CallError> {
    spawn_with(agent, &Body::Text(text.to_owned()), Options::default())
}

/// Have an agent begin, and go on meanwhile.
pub fn spawn_with(agent: &str, body: &Body, options: Options) -> Result<Run, CallError> {
    host::agents::spawn(agent, body, options).map(Run)
}

/// A call whose reply was not taken yet. Dropping it cancels the call.
#[derive(Debug)]
pub struct Run(host::agents::Run);

impl Run {
    /// The session it works in.
    pub fn session(&self) -> String {
        self.0.session()
    }

    /// Wait for the reply.
    pub fn wait(self) -> Result<Reply, CallError> {
        host::agents::Run::wait(self.0)
    }
}

impl Default for Options {
    /// Wait as long as the turn may run.
    fn default() -> Self {
        Self { timeout_ms: None }
    }
}
