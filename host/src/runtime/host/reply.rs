//! `reply`: what the agent says to people.

use crate::runtime::bindings::antiphon::agent::reply::{Host, SayError};
use crate::runtime::guest::Guest;
use crate::runtime::scope::reply::TooLarge;

impl Host for Guest {
    async fn say(&mut self, text: String) -> wasmtime::Result<Result<(), SayError>> {
        let scope = self.scope.clone();
        scope.count()?;
        scope.may_say().await?;
        Ok(scope.say(&text)?.map_err(|TooLarge| SayError::TooLarge))
    }
}
