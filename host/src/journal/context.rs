//! What an agent keeps in view across its turns, and how it ages.
//!
//! Age is counted in completed turns of the agent since an item was added or
//! kept. A tool call and its result are one pair: they are as young as the
//! younger of the two and leave together, so a model never sees half of one.

use serde::{Deserialize, Serialize};

use crate::id::MessageId;

/// From this age an item is only a note that it was there.
pub const EXPIRED_TURNS: u64 = 10;
/// From this age an item is gone.
pub const PRUNED_TURNS: u64 = 30;
/// Items and bytes of one agent's context: it is part of the bounded state.
pub const ITEMS_MAX: usize = 256;
pub const BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    Note(String),
    Message(MessageId),
    ToolCall {
        call: String,
        name: String,
        arguments: String,
    },
    ToolResult {
        call: String,
        text: String,
    },
}

impl Content {
    fn bytes(&self) -> usize {
        match self {
            Self::Note(text) => text.len(),
            Self::Message(message) => message.as_str().len(),
            Self::ToolCall {
                call,
                name,
                arguments,
            } => call.len() + name.len() + arguments.len(),
            Self::ToolResult { call, text } => call.len() + text.len(),
        }
    }

    /// The pair this is half of.
    fn call(&self) -> Option<&str> {
        match self {
            Self::ToolCall { call, .. } | Self::ToolResult { call, .. } => Some(call),
            Self::Note(_) | Self::Message(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub id: u64,
    pub content: Content,
    pub pinned: bool,
    /// The agent's completed turns when it was added or kept.
    pub born: u64,
}

/// One step of a turn; a turn's steps take effect with its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Add(Content),
    Keep(u64),
    Drop(u64),
    Pin(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    Full,
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddError {
    Full,
    TooLarge,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    items: Vec<Item>,
    /// The id of the newest item ever added.
    last: u64,
    /// Completed turns of the agent.
    turns: u64,
}

impl Context {
    pub fn items(&self) -> impl Iterator<Item = (&Item, Age)> {
        self.items.iter().map(|item| (item, self.age(item)))
    }

    /// Answers the item's id.
    pub fn add(&mut self, content: Content) -> Result<u64, AddError> {
        let bytes: usize = self.items.iter().map(|item| item.content.bytes()).sum();
        if content.bytes() > BYTES_MAX {
            return Err(AddError::TooLarge);
        }
        if self.items.len() >= ITEMS_MAX || bytes + content.bytes() > BYTES_MAX {
            return Err(AddError::Full);
        }
        self.last += 1;
        self.items.push(Item {
            id: self.last,
            content,
            pinned: false,
            born: self.turns,
        });
        Ok(self.last)
    }

    pub fn keep(&mut self, id: u64) -> bool {
        let turns = self.turns;
        self.find(id).map(|item| item.born = turns).is_some()
    }

    pub fn pin(&mut self, id: u64) -> bool {
        self.find(id).map(|item| item.pinned = true).is_some()
    }

    pub fn drop(&mut self, id: u64) -> bool {
        let Some(item) = self.find(id) else {
            return false;
        };
        let call = item.content.call().map(str::to_owned);
        self.items.retain(|item| {
            item.id != id && (call.is_none() || item.content.call() != call.as_deref())
        });
        true
    }

    /// A turn's steps, then one turn older.
    pub fn turn_completed(&mut self, changes: &[Change]) {
        for change in changes {
            // A step that finds no room or no item had no effect in the turn either.
            match change {
                Change::Add(content) => {
                    let _ = self.add(content.clone());
                }
                Change::Keep(id) => {
                    self.keep(*id);
                }
                Change::Drop(id) => {
                    self.drop(*id);
                }
                Change::Pin(id) => {
                    self.pin(*id);
                }
            }
        }
        self.turns += 1;
        let gone: Vec<u64> = self
            .items
            .iter()
            .filter(|item| !self.is_pinned(item) && self.turns - self.born(item) >= PRUNED_TURNS)
            .map(|item| item.id)
            .collect();
        self.items.retain(|item| !gone.contains(&item.id));
    }

    fn find(&mut self, id: u64) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == id)
    }

    fn age(&self, item: &Item) -> Age {
        if !self.is_pinned(item) && self.turns - self.born(item) >= EXPIRED_TURNS {
            Age::Expired
        } else {
            Age::Full
        }
    }

    fn pair<'a>(&'a self, item: &'a Item) -> impl Iterator<Item = &'a Item> {
        let call = item.content.call();
        self.items.iter().filter(move |other| {
            other.id == item.id || (call.is_some() && other.content.call() == call)
        })
    }

    fn born(&self, item: &Item) -> u64 {
        self.pair(item)
            .map(|half| half.born)
            .max()
            .unwrap_or(item.born)
    }

    fn is_pinned(&self, item: &Item) -> bool {
        self.pair(item).any(|half| half.pinned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(call: &str) -> Content {
        Content::ToolCall {
            call: call.into(),
            name: "f".into(),
            arguments: "{}".into(),
        }
    }

    fn result(call: &str) -> Content {
        Content::ToolResult {
            call: call.into(),
            text: "done".into(),
        }
    }

    fn ids(context: &Context) -> Vec<(u64, Age)> {
        context.items().map(|(item, age)| (item.id, age)).collect()
    }

    #[test]
    fn items_age_expire_and_are_pruned() {
        let mut context = Context::default();
        context.turn_completed(&[
            Change::Add(Content::Note("a".into())),
            Change::Add(Content::Note("b".into())),
            Change::Pin(2),
        ]);
        for _ in 0..EXPIRED_TURNS - 1 {
            assert_eq!(ids(&context), [(1, Age::Full), (2, Age::Full)]);
            context.turn_completed(&[]);
        }
        assert_eq!(ids(&context), [(1, Age::Expired), (2, Age::Full)]);
        context.turn_completed(&[Change::Keep(1)]);
        assert_eq!(ids(&context), [(1, Age::Full), (2, Age::Full)]);
        for _ in 0..PRUNED_TURNS {
            context.turn_completed(&[]);
        }
        assert_eq!(ids(&context), [(2, Age::Full)]);
    }

    #[test]
    fn a_call_and_its_result_live_and_leave_together() {
        let mut context = Context::default();
        context.turn_completed(&[Change::Add(call("x"))]);
        for _ in 0..EXPIRED_TURNS {
            context.turn_completed(&[]);
        }
        context.turn_completed(&[Change::Add(result("x"))]);
        assert_eq!(ids(&context), [(1, Age::Full), (2, Age::Full)]);
        assert!(context.drop(2));
        assert_eq!(ids(&context), []);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut context = Context::default();
        assert_eq!(
            context.add(Content::Note("x".repeat(BYTES_MAX + 1))),
            Err(AddError::TooLarge)
        );
        assert_eq!(context.add(Content::Note("x".repeat(BYTES_MAX))), Ok(1));
        assert_eq!(context.add(Content::Note("x".into())), Err(AddError::Full));
        assert!(context.drop(1));
        for _ in 0..ITEMS_MAX {
            context.add(Content::Note(String::new())).unwrap();
        }
        assert_eq!(
            context.add(Content::Note(String::new())),
            Err(AddError::Full)
        );
        assert!(!context.keep(99_999) && !context.pin(99_999) && !context.drop(99_999));
    }
}
