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
    ///
    /// Boxed, each: a future has room for the largest that it awaits, and whatever wraps it has that again. All turns had
    /// tasks of 42 KB, which were copied where they were spawned, for what a conversation needs.
    pub(super) async fn start(self, scope: Arc<Scope>, input: Input) -> Exit {
        match self {
            Self::Conversation(definition) => {
                Box::pin(conversation::start(definition, scope)).await
            }
            Self::Component(runtime, loaded) => {
                Box::pin(instance::start(&runtime, &loaded, scope, input)).await
            }
            #[cfg(test)]
            Self::Scripted => Box::pin(crate::runtime::scripted::start(scope, input)).await,
        }
    }
}
