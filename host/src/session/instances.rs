//! What runs a turn: an instance in wasmtime, the host itself for a conversation, or a script in tests of
//! this layer.

use std::sync::Arc;

use crate::agents::{AgentKind, Agents, DeployError, Version};
use crate::id::TenantId;
use crate::runtime::conversation::{self, definition::Definition};
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
    /// The host runs it itself.
    Conversation(Arc<Definition>),
    Component(Arc<Runtime>, engine::Loaded),
    #[cfg(test)]
    Scripted,
}

impl Instances {
    pub(super) async fn load(
        &self,
        agents: &Arc<Agents>,
        tenant: &TenantId,
        version: &Version,
    ) -> Result<Loaded, DeployError> {
        if version.kind == AgentKind::Conversation {
            let definition = agents.definition(version.component);
            let definition = definition.ok_or(DeployError::Missing(version.component))?;
            return Ok(Loaded::Conversation(definition));
        }
        match self {
            Self::Components(runtime) => {
                let loaded = agents
                    .load(tenant, version.component, &version.config)
                    .await?;
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
            Self::Conversation(definition) => conversation::start(definition, scope).await,
            Self::Component(runtime, loaded) => {
                instance::start(&runtime, &loaded, scope, input).await
            }
            #[cfg(test)]
            Self::Scripted => crate::runtime::scripted::start(scope, input).await,
        }
    }
}
