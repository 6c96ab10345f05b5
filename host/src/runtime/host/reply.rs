//! `reply`: what the agent says to people, and asks of its caller.

use crate::journal::entry;
use crate::runtime::bindings::antiphon::agent::reply::{Host, SayError, ToolCall, ToolsError};
use crate::runtime::guest::Guest;
use crate::runtime::scope::reply::TooLarge;
use crate::runtime::scope::tools::NotAsked;

impl Host for Guest {
    async fn say(&mut self, text: String) -> wasmtime::Result<Result<(), SayError>> {
        let scope = self.scope.clone();
        scope.count()?;
        scope.may_say().await?;
        Ok(scope.say(&text)?.map_err(|TooLarge| SayError::TooLarge))
    }

    fn call_tools(&mut self, calls: Vec<ToolCall>) -> wasmtime::Result<Result<(), ToolsError>> {
        let scope = self.scope.clone();
        let calls = calls.into_iter().map(|call| entry::ToolCall {
            id: call.id,
            name: call.name,
            arguments: call.arguments,
        });
        Ok(scope
            .call_tools(calls.collect())?
            .map_err(|refused| match refused {
                NotAsked::NotOffered(name) => ToolsError::NotOffered(name),
                NotAsked::AskedAlready => ToolsError::AskedAlready,
                NotAsked::TooLarge => ToolsError::TooLarge,
                NotAsked::Other(why) => ToolsError::Other(why.to_owned()),
            }))
    }
}
