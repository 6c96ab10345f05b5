//! What this activation is. Read-only, and but for [`budget`] and [`now`] the same in
//! every call.

use crate::host;
use crate::model::Tool;

pub use crate::bindings::antiphon::agent::turn::{Allowance, Info};

/// This turn: its session, ids, agent, deadline, and the instructions that came with it.
pub fn current() -> Info {
    host::turn::current()
}

/// What this turn may still use. Each call is an entry of the journal.
pub fn budget() -> Allowance {
    host::turn::budget()
}

/// Functions that whoever sent the turn's messages offers to call, as a request to a model takes
/// them. [`call_tools`](crate::reply::call_tools) asks for calls. The same in every call.
pub fn tools() -> Vec<Tool> {
    let tools = host::turn::tools().into_iter();
    tools
        .map(|tool| Tool {
            name: tool.name,
            description: tool.description,
            parameters: tool.parameters,
        })
        .collect()
}

/// The turn's clock, in milliseconds since 1970 UTC: the same that `std::time` reads in
/// the sandbox, where time moves only with the host's answers. Unlike `std::time`, it is
/// the testing host's clock in tests.
pub fn now() -> u64 {
    host::clock::now()
}
