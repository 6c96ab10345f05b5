//! `agents`: other agents, each in a session of its own.

use serde_json::Value;
use wasmtime::component::Resource;

use crate::bus;
use crate::runtime::bindings::antiphon::agent::agents::{
    CallError, Depth, Failure, Host, HostRun, Options, Reply,
};
use crate::runtime::bindings::antiphon::agent::mailbox::Body;
use crate::runtime::guest::Guest;
use crate::runtime::scope::agents::{self, NestedCall, NoReply};
use crate::runtime::scope::peers::NotCalled;

/// A handle on a call; the call itself is the journal's.
#[allow(
    unreachable_pub,
    reason = "the generated bindings name it in a public module"
)]
pub struct Run(agents::Run);

fn call(agent: &str, body: Body, options: Options) -> NestedCall<'_> {
    NestedCall {
        agent,
        body: match body {
            Body::Text(text) => Ok(Value::String(text)),
            Body::Json(text) => serde_json::from_str(&text),
        },
        timeout_ms: options.timeout_ms,
        session: None,
        caller: None,
        speaker: None,
    }
}

fn not_called(refused: NotCalled) -> CallError {
    match refused {
        NotCalled::UnknownAgent => CallError::UnknownAgent,
        NotCalled::TooDeep(bus::TooDeep { observed, limit }) => {
            CallError::TooDeep(Depth { observed, limit })
        }
        NotCalled::TooLarge => CallError::TooLarge,
        NotCalled::NotJson => CallError::Other("the body is not JSON".into()),
        NotCalled::Refused(why) => CallError::Refused(why),
    }
}

fn replied(reply: Result<agents::Reply, NoReply>) -> Result<Reply, CallError> {
    match reply {
        Ok(reply) => Ok(Reply {
            text: reply.text,
            session: reply.session.as_str().to_owned(),
        }),
        Err(NoReply::Interrupted(said)) => Err(CallError::Interrupted(said)),
        Err(NoReply::Cancelled) => Err(CallError::Other("the call was cancelled".into())),
        Err(NoReply::Deadline) => Err(CallError::Deadline),
        Err(NoReply::Failed { why, said }) => Err(CallError::Failed(Failure { why, said })),
        Err(NoReply::Other(why)) => Err(CallError::Other(why)),
    }
}

impl Host for Guest {
    async fn call(
        &mut self,
        agent: String,
        body: Body,
        options: Options,
    ) -> wasmtime::Result<Result<Reply, CallError>> {
        let scope = self.scope.clone();
        Ok(match scope.call_agent(call(&agent, body, options)).await? {
            Ok(reply) => replied(reply),
            Err(refused) => Err(not_called(refused)),
        })
    }

    async fn spawn(
        &mut self,
        agent: String,
        body: Body,
        options: Options,
    ) -> wasmtime::Result<Result<Resource<Run>, CallError>> {
        let scope = self.scope.clone();
        Ok(
            match scope.spawn_agent(call(&agent, body, options)).await? {
                Ok(run) => Ok(self.table.push(Run(run))?),
                Err(refused) => Err(not_called(refused)),
            },
        )
    }
}

impl HostRun for Guest {
    fn session(&mut self, run: Resource<Run>) -> wasmtime::Result<String> {
        self.scope.count()?;
        let Run(run) = self.table.get(&run)?;
        Ok(run.session.as_str().to_owned())
    }

    async fn wait(&mut self, run: Resource<Run>) -> wasmtime::Result<Result<Reply, CallError>> {
        let scope = self.scope.clone();
        let Run(run) = self.table.delete(run)?;
        Ok(replied(scope.take_reply(run).await?))
    }

    fn drop(&mut self, run: Resource<Run>) -> wasmtime::Result<()> {
        let Run(run) = self.table.delete(run)?;
        Ok(self.scope.drop_run(&run)?)
    }
}
