//! What the agent keeps in view, and how it ages.
//!
//! Invariant: both halves of a pair have the same age, pinned or not, and go together.

use crate::context::{AddError, Age, Content, Item};

/// Cloned at the start of a turn; the clone replaces it if the turn completes.
#[derive(Clone)]
pub(super) struct Context {
    entries: Vec<Entry>,
    full_turns: u32,
    expired_turns: u32,
    added: u64,
}

#[derive(Clone)]
struct Entry {
    id: String,
    content: Content,
    pinned: bool,
    /// Completed turns since the one that added or kept it; none in that turn itself.
    turns: Option<u32>,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            full_turns: 10,
            expired_turns: 20,
            added: 0,
        }
    }
}

impl Context {
    pub(super) fn set_ageing(&mut self, full_turns: u32, expired_turns: u32) {
        (self.full_turns, self.expired_turns) = (full_turns, expired_turns);
    }

    pub(super) fn items(&self) -> Vec<Item> {
        self.entries
            .iter()
            .map(|entry| Item {
                id: entry.id.clone(),
                content: entry.content.clone(),
                age: if entry.pinned || entry.turns.unwrap_or(0) < self.full_turns {
                    Age::Full
                } else {
                    Age::Expired
                },
                pinned: entry.pinned,
            })
            .collect()
    }

    pub(super) fn add(
        &mut self,
        content: Content,
        items_max: usize,
        bytes_max: usize,
    ) -> Result<String, AddError> {
        let bytes = match &content {
            Content::Note(text) | Content::Message(text) => text.len(),
            Content::ToolCall(call) => call.name.len() + call.arguments.len(),
            Content::ToolResult(result) => result.text.len(),
        };
        if bytes > bytes_max {
            return Err(AddError::TooLarge);
        }
        if self.entries.len() >= items_max {
            return Err(AddError::Full);
        }
        self.added += 1;
        let id = format!("item-{}", self.added);
        // A result makes its call young, so that the two age as one.
        let pinned = pair_of(&content).is_some_and(|call| {
            let mut pinned = false;
            for entry in self
                .entries
                .iter_mut()
                .filter(|e| pair_of(&e.content) == Some(call))
            {
                entry.turns = None;
                pinned |= entry.pinned;
            }
            pinned
        });
        self.entries.push(Entry {
            id: id.clone(),
            content,
            pinned,
            turns: None,
        });
        Ok(id)
    }

    pub(super) fn keep(&mut self, id: &str) -> bool {
        self.for_pair(id, |entry| entry.turns = None)
    }

    pub(super) fn pin(&mut self, id: &str) -> bool {
        self.for_pair(id, |entry| entry.pinned = true)
    }

    pub(super) fn drop(&mut self, id: &str) -> bool {
        let ids = self.pair(id);
        self.entries.retain(|entry| !ids.contains(&entry.id));
        !ids.is_empty()
    }

    /// A turn has completed.
    pub(super) fn age(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.pinned) {
            entry.turns = Some(entry.turns.map_or(0, |turns| turns + 1));
        }
        let turns_max = self.full_turns + self.expired_turns;
        self.entries
            .retain(|entry| entry.pinned || entry.turns.unwrap_or(0) < turns_max);
    }

    fn for_pair(&mut self, id: &str, change: impl Fn(&mut Entry)) -> bool {
        let ids = self.pair(id);
        self.entries
            .iter_mut()
            .filter(|entry| ids.contains(&entry.id))
            .for_each(change);
        !ids.is_empty()
    }

    /// The item's id and that of its other half; empty if it is not in view.
    fn pair(&self, id: &str) -> Vec<String> {
        let Some(found) = self.entries.iter().find(|entry| entry.id == id) else {
            return Vec::new();
        };
        let call = pair_of(&found.content);
        self.entries
            .iter()
            .filter(|entry| entry.id == id || call.is_some() && pair_of(&entry.content) == call)
            .map(|entry| entry.id.clone())
            .collect()
    }
}

fn pair_of(content: &Content) -> Option<&str> {
    match content {
        Content::Note(_) | Content::Message(_) => None,
        Content::ToolCall(call) => Some(&call.call),
        Content::ToolResult(result) => Some(&result.call),
    }
}
