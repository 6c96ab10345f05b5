//! What the agent says to the people in the session.
//!
//! Words are shown in the order said, only once they are durable, and stay in the
//! transcript whatever becomes of the turn. A model's answer is said without touching
//! each piece with [`Deltas::relay`](crate::model::Deltas::relay).

use crate::bindings::antiphon::agent::reply::ToolCall;
pub use crate::bindings::antiphon::agent::reply::{SayError, ToolsError};
use crate::host;
use crate::model;

/// Say this. It follows what was said before in this turn, with nothing in between.
pub fn say(text: &str) -> Result<(), SayError> {
    host::reply::say(text)
}

/// Ask whoever caused the turn to call these tools of theirs, at most 128 at once: the calls
/// of a model that was given [`turn::tools`](crate::turn::tools). It is the last that a turn
/// shows; to say something after it is a trap. What the tools answered comes as a message, in
/// a turn of its own: [`Message::tool_results`](crate::mailbox::Message::tool_results).
///
/// ```
/// # use antiphon_sdk::{mailbox, model, prompt::Prompt, reply, turn, AgentError};
/// # use antiphon_sdk::testing::{Answer, Host};
/// # let host = Host::new("guide");
/// # host.receive("ana", "How warm is it?");
/// # host.tools(&[model::Tool { name: "measure".into(), description: String::new(), parameters: "{}".into() }]);
/// # host.answer(Answer::call("measure", serde_json::json!({})));
/// # let turn = host.turn_with(|_| {
/// let mut request = Prompt::new().transcript(50).messages(&mailbox::pull_all()).request();
/// request.tools = turn::tools();
/// let completion = model::relay(&request)?;
/// if !completion.tool_calls.is_empty() {
///     reply::call_tools(&completion.tool_calls)?;
/// }
/// # Ok(Default::default())
/// # });
/// # assert_eq!(turn.called_tools.len(), 1);
/// ```
pub fn call_tools(calls: &[model::ToolCall]) -> Result<(), ToolsError> {
    let calls = calls.iter().map(|call| ToolCall {
        id: call.id.clone(),
        name: call.name.clone(),
        arguments: call.arguments.clone(),
    });
    host::reply::call_tools(&calls.collect::<Vec<_>>())
}
