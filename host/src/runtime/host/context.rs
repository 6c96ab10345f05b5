//! `context`: what the agent keeps in view.
//!
//! Only this agent's turns change its context, one at a time, so nothing here
//! comes from outside and nothing needs an entry: the changes are written with the outcome.

use crate::id::MessageId;
use crate::journal::context::{
    AddError as StateAddError, Age as StateAge, Change, Content as StateContent,
};
use crate::runtime::bindings::antiphon::agent::context::{
    AddError, Age, Content, Host, Item, ToolCall, ToolResult,
};
use crate::runtime::guest::Guest;

fn to_wit(content: &StateContent) -> Content {
    match content.clone() {
        StateContent::Note(text) => Content::Note(text),
        StateContent::Message(message) => Content::Message(message.as_str().to_owned()),
        StateContent::ToolCall {
            call,
            name,
            arguments,
        } => Content::ToolCall(ToolCall {
            call,
            name,
            arguments,
        }),
        StateContent::ToolResult { call, text } => Content::ToolResult(ToolResult { call, text }),
    }
}

fn of_wit(content: Content) -> Result<StateContent, AddError> {
    Ok(match content {
        Content::Note(text) => StateContent::Note(text),
        Content::Message(id) => StateContent::Message(
            MessageId::new(&id)
                .map_err(|_| AddError::Other("this is not the id of a message".into()))?,
        ),
        Content::ToolCall(it) => StateContent::ToolCall {
            call: it.call,
            name: it.name,
            arguments: it.arguments,
        },
        Content::ToolResult(it) => StateContent::ToolResult {
            call: it.call,
            text: it.text,
        },
    })
}

impl Guest {
    fn change(&mut self, id: &str, change: fn(u64) -> Change) -> wasmtime::Result<bool> {
        self.scope.count()?;
        let Ok(id) = id.parse() else { return Ok(false) };
        let change = change(id);
        let found = match change {
            Change::Keep(id) => self.context.keep(id),
            Change::Drop(id) => self.context.drop(id),
            Change::Pin(id) => self.context.pin(id),
            Change::Add(_) => false,
        };
        if found {
            self.changes.push(change);
        }
        Ok(found)
    }
}

impl Host for Guest {
    fn items(&mut self) -> wasmtime::Result<Vec<Item>> {
        self.scope.count()?;
        let items = self.context.items().map(|(item, age)| Item {
            id: item.id.to_string(),
            content: to_wit(&item.content),
            age: match age {
                StateAge::Full => Age::Full,
                StateAge::Expired => Age::Expired,
            },
            pinned: item.pinned,
        });
        Ok(items.collect())
    }

    fn add(&mut self, content: Content) -> wasmtime::Result<Result<String, AddError>> {
        self.scope.count()?;
        let content = match of_wit(content) {
            Ok(content) => content,
            Err(error) => return Ok(Err(error)),
        };
        Ok(match self.context.add(content.clone()) {
            Ok(id) => {
                self.changes.push(Change::Add(content));
                Ok(id.to_string())
            }
            Err(StateAddError::Full) => Err(AddError::Full),
            Err(StateAddError::TooLarge) => Err(AddError::TooLarge),
        })
    }

    fn keep(&mut self, id: String) -> wasmtime::Result<bool> {
        self.change(&id, Change::Keep)
    }

    fn drop(&mut self, id: String) -> wasmtime::Result<bool> {
        self.change(&id, Change::Drop)
    }

    fn pin(&mut self, id: String) -> wasmtime::Result<bool> {
        self.change(&id, Change::Pin)
    }
}
