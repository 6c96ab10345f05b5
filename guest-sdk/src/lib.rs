//! Write Antiphon agents in Rust.
//!
//! An agent is something that handles turns ([`Agent`]). In a turn it pulls what was sent
//! to it ([`mailbox`]), reads what the session holds ([`transcript`], [`kernel`],
//! [`context`]), asks models ([`model`]) and other agents ([`agents`]), makes requests where it
//! may ([`http`]), asks the people something ([`questions`]), and says something to them ([`reply`]). The
//! modules are the interfaces of `wit/`, in the same words, with nothing hidden and nothing
//! added to what a model is sent.
//!
//! On top of them are [`prompt::Prompt`], which composes a model request, [`tools`],
//! functions that a model may call, [`continued`], answers that break off and go on, and
//! [`handoff`], notes for whoever comes back; an agent can do without any of them.
//!
//! ```
//! use antiphon_sdk::prompt::Prompt;
//! use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, mailbox, model};
//!
//! struct Guide;
//!
//! impl Agent for Guide {
//!     fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
//!         let messages = mailbox::pull_all();
//!         let prompt = Prompt::new()
//!             .system("You guide visitors through Lisbon.")
//!             .transcript(50)
//!             .messages(&messages);
//!         // People see the answer while it arrives.
//!         model::relay(&prompt.request())?;
//!         Ok(TurnOutput::default())
//!     }
//! }
//!
//! antiphon_sdk::export!(Guide);
//!
//! // In a test: off wasm, a host that keeps the same promises, with a scripted model.
//! use antiphon_sdk::testing::{Answer, Host};
//!
//! let host = Host::new("guide");
//! host.receive("ana", "Where is the museum?");
//! host.answer(Answer::text("Second street on the left."));
//! assert_eq!(host.turn::<Guide>().said, "Second street on the left.");
//! ```
//!
//! # The crate of an agent
//! `crate-type = ["cdylib", "rlib"]`: the one for `cargo build --target wasm32-wasip2`, the
//! other for `cargo test`, which needs no wasm.
//!
//! # What does not survive
//! Each turn runs on a fresh instance; see [`Agent`]. There are no threads, no files and no
//! network of WASI's, and the clock moves only with the host's answers.

mod agent;
pub mod agents;
#[doc(hidden)]
pub mod bindings;
pub mod context;
pub mod continued;
pub mod handoff;
mod host;
pub mod http;
pub mod kernel;
pub mod log;
pub mod mailbox;
pub mod model;
pub mod prompt;
pub mod questions;
pub mod reply;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod tools;
pub mod transcript;
pub mod turn;

pub use agent::{Agent, AgentError, Cause, TurnInput, TurnOutput};

/// For the arguments of tools and the bodies of requests, so that an agent's crate can do without
/// depending on them.
pub use {schemars, serde, serde_json};

/// Make a type that is an [`Agent`] the one that this component exports. Once per crate.
#[macro_export]
macro_rules! export {
    ($agent:ident) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(
            unsafe_code,
            reason = "wit-bindgen's export expands to unsafe: it names the functions that \
                      the host calls, and takes their arguments from raw memory"
        )]
        const _: () = {
    $crate::bindings::export!($agent with_types_in $crate::bindings);
        };
        // Other linkers refuse the names of a component's exports, so off wasm it is only
        // seen to that the type is an agent.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn($crate::TurnInput) -> Result<$crate::TurnOutput, $crate::AgentError> =
            <$agent as $crate::Agent>::handle;
    };
}
