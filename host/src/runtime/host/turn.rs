//! `turn`: what this activation is.

use std::sync::atomic::Ordering;

use crate::journal::entry::Observation;
use crate::runtime::bindings::antiphon::agent::turn::{Allowance, Host, Info};
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
            // Callers that send a deadline or instructions come with the agent bus and the OpenAI surface.
            deadline: None,
            instructions: None,
        })
    }

    fn budget(&mut self) -> wasmtime::Result<Allowance> {
        let scope = &self.scope;
        Ok(scope.observe(|batch| {
            let said = batch.said(&scope.turn);
            let ran = batch.now().ms_since(scope.clock.started());
            let allowance = Allowance {
                host_calls: scope
                    .limits
                    .host_calls_max
                    .saturating_sub(scope.calls.load(Ordering::Relaxed)),
                reply_bytes: scope.limits.reply_bytes_max.saturating_sub(said),
                wall_ms: scope.limits.turn_ms_max.saturating_sub(ran),
            };
            let what = Observation::Budget {
                host_calls: allowance.host_calls,
                reply_bytes: allowance.reply_bytes,
                wall_ms: allowance.wall_ms,
            };
            (allowance, what)
        })?)
    }
}
