//! What runs the instance of a turn: wasmtime, or a script in tests of this layer.

use std::sync::Arc;

use crate::agents::{Agents, DeployError, Version};
use crate::runtime::engine::{self, Runtime};
use crate::runtime::instance::{self, Exit, Input};
use crate::runtime::scope::Scope;

pub enum Instances {
    Components(Arc<Runtime>),
    /// Messages say what their turns do: see `runtime::scripted`.
    #[cfg(test)]
    Scripted,
}

/// What a version needs to run.
pub(super) enum Loaded {
    Component(Arc<Runtime>, engine::Loaded),
    #[cfg(test)]
    Scripted,
}

impl Instances {
    pub(super) async fn load(
        &self,
        agents: &Arc<Agents>,
        version: &Version,
    ) -> Result<Loaded, DeployError> {
        match self {
            Self::Components(runtime) => {
                let loaded = agents.load(version.component, &version.config).await?;
                Ok(Loaded::Component(runtime.clone(), loaded))
            }
            #[cfg(test)]
            Self::Scripted => Ok(Loaded::Scripted),
        }
    }
}

impl Loaded {
    /// Run one turn. Dropping the future ends the instance where it is.
    pub(super) async fn start(self, scope: Arc<Scope>, input: Input) -> Exit {
        match self {
            Self::Component(runtime, loaded) => {
                instance::start(&runtime, &loaded, scope, input).await
            }
            #[cfg(test)]
            Self::Scripted => crate::runtime::scripted::start(scope, input).await,
        }
    }
}
