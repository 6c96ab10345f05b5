//! `turn`: what this activation is.

use crate::runtime::bindings::antiphon::agent::turn::{Allowance, Host, Info, Tool};
use crate::runtime::guest::Guest;

impl Host for Guest {
    fn current(&mut self) -> wasmtime::Result<Info> {
        self.scope.count()?;
        let scope = &self.scope;
        Ok(Info {
            session: scope.session.as_str().to_owned(),
            run: scope.run.as_str().to_owned(),
            id: scope.turn.as_str().to_owned(),
            parent: scope
                .parent
                .as_ref()
                .map(|parent| parent.as_str().to_owned()),
            agent: scope.agent.as_str().to_owned(),
            deadline: scope.deadline.map(|deadline| deadline.0),
            instructions: scope.told.instructions.clone(),
        })
    }

    fn tools(&mut self) -> wasmtime::Result<Vec<Tool>> {
        self.scope.count()?;
        let tools = self.scope.told.tools.iter().map(|tool| Tool {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.parameters.clone(),
        });
        Ok(tools.collect())
    }

    fn budget(&mut self) -> wasmtime::Result<Allowance> {
        let budget = self.scope.budget()?;
        Ok(Allowance {
            host_calls: budget.host_calls,
            reply_bytes: budget.reply_bytes,
            wall_ms: budget.wall_ms,
        })
    }
}
