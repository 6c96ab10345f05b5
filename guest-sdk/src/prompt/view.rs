//! How a model is shown the items of the context.
//!
//! As envelopes with ids and not as tool calls of the conversation: a model can keep or
//! drop only what it can name, and providers refuse calls whose other half has been
//! dropped or whose tool this turn does not offer.

use super::envelope::{self, envelope};
use crate::context::{Age, Content, Item};
use crate::{handoff, mailbox};

/// Each item in view as text, and whether it is pinned. A pair is one text, under the id
/// and at the place of its call.
pub(super) fn render(items: &[Item]) -> Vec<(bool, String)> {
    items
        .iter()
        // What an agent left for its return is shown when it returns.
        .filter(|item| handoff::of(item).is_none())
        .filter_map(|item| Some((item.pinned, text(item, items)?)))
        .collect()
}

fn text(item: &Item, items: &[Item]) -> Option<String> {
    match &item.content {
        Content::Note(note) => Some(aged("note", item, &[], note)),
        Content::Message(id) => match item.age {
            Age::Expired => Some(envelope("message", &[("id", id), ("age", "expired")], "")),
            Age::Full => mailbox::read(id).map(|message| envelope::message(&message)),
        },
        Content::ToolCall(call) => {
            let result = items.iter().find_map(|other| match &other.content {
                Content::ToolResult(result) if result.call == call.call => Some(&*result.text),
                _ => None,
            });
            let attributes = [("name", &*call.name), ("arguments", &*call.arguments)];
            Some(aged("tool", item, &attributes, result.unwrap_or_default()))
        }
        Content::ToolResult(result) => {
            let paired = items.iter().any(|other| {
                matches!(&other.content, Content::ToolCall(call) if call.call == result.call)
            });
            (!paired).then(|| aged("tool", item, &[], &result.text))
        }
    }
}

fn aged(tag: &str, item: &Item, attributes: &[(&str, &str)], content: &str) -> String {
    let mut all = vec![("id", &*item.id)];
    all.extend(attributes);
    match item.age {
        Age::Full => envelope(tag, &all, content),
        Age::Expired => {
            all.push(("age", "expired"));
            envelope(tag, &all, "")
        }
    }
}
