//! `model`: language models.

mod convert;

use wasmtime::component::Resource;

use crate::runtime::bindings::antiphon::agent::model::{
    Completion, Delta, Host, HostDeltas, ModelError, Request,
};
use crate::runtime::guest::Guest;
use crate::runtime::scope::answer::{Answer, Failed};

use self::convert::{completion_to_wit, error_to_wit, piece_to_wit, request_of_wit};

/// A handle on an answer on its way.
#[allow(
    unreachable_pub,
    reason = "the generated bindings name it in a public module"
)]
pub struct Deltas(Answer);

fn into_wit<T>(result: Result<T, Failed>) -> wasmtime::Result<Result<T, ModelError>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failed::Guest(error)) => Ok(Err(error_to_wit(error))),
        Err(Failed::Stop(stop)) => Err(stop.into()),
    }
}

impl Host for Guest {
    async fn complete(
        &mut self,
        mut request: Request,
    ) -> wasmtime::Result<Result<Completion, ModelError>> {
        let scope = self.scope.clone();
        let target = scope.model(request.model.take());
        let completion = match scope.ask(target, request_of_wit(request)).await {
            Ok(answer) => answer.complete(&scope).await,
            Err(failed) => Err(failed),
        };
        into_wit(completion.map(completion_to_wit))
    }

    async fn open(
        &mut self,
        mut request: Request,
    ) -> wasmtime::Result<Result<Resource<Deltas>, ModelError>> {
        let scope = self.scope.clone();
        let target = scope.model(request.model.take());
        match into_wit(scope.ask(target, request_of_wit(request)).await)? {
            Ok(answer) => Ok(Ok(self.table.push(Deltas(answer))?)),
            Err(error) => Ok(Err(error)),
        }
    }
}

impl HostDeltas for Guest {
    async fn next(
        &mut self,
        deltas: Resource<Deltas>,
    ) -> wasmtime::Result<Result<Option<Delta>, ModelError>> {
        let scope = self.scope.clone();
        let Deltas(answer) = self.table.get_mut(&deltas)?;
        let piece = into_wit(answer.next(&scope).await)?;
        Ok(piece.map(|piece| piece.map(piece_to_wit)))
    }

    async fn relay(
        &mut self,
        deltas: Resource<Deltas>,
    ) -> wasmtime::Result<Result<Completion, ModelError>> {
        let scope = self.scope.clone();
        let Deltas(answer) = self.table.delete(deltas)?;
        into_wit(answer.relay(&scope).await.map(completion_to_wit))
    }

    fn drop(&mut self, deltas: Resource<Deltas>) -> wasmtime::Result<()> {
        let Deltas(mut answer) = self.table.delete(deltas)?;
        Ok(answer.give_up(&self.scope)?)
    }
}
