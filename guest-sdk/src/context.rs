//! What the agent keeps in view across its turns in this session.
//!
//! Items age by this agent's turns: first full, then expired (only a note that it was
//! there), then gone; a tool call and its result age as a pair. Changes are seen at once
//! inside the turn and take effect with its outcome; a turn that fails changes nothing.

pub use crate::bindings::antiphon::agent::context::{
    AddError, Age, Content, Item, ToolCall, ToolResult,
};
use crate::host;

/// All items in view, oldest first.
pub fn items() -> Vec<Item> {
    host::context::items()
}

/// Take something into view. Answers the item's id.
pub fn add(content: &Content) -> Result<String, AddError> {
    host::context::add(content)
}

/// Make an item as young as if it were new. False if it is not in view.
pub fn keep(id: &str) -> bool {
    host::context::keep(id)
}

/// Take an item, and the other half of its pair, out of view. False if it is not in view.
/// Nothing is deleted: a message stays in the mailbox.
pub fn drop(id: &str) -> bool {
    host::context::drop(id)
}

/// Stop an item's ageing. False if it is not in view.
pub fn pin(id: &str) -> bool {
    host::context::pin(id)
}
