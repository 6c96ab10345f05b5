//! Conversations among the agents: stored as components are, checked against what else is deployed.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::id::{AgentName, Digest, TenantId};
use crate::runtime::conversation::definition::{self, Definition, DefinitionError};
use crate::runtime::limits::TurnLimits;
use crate::store::components::Components;

use super::{
    AgentConfig, AgentKind, Agents, DeployError, Deployed, Deployment, VERSIONS_MAX, Version,
    blocking,
};

/// The definitions of all conversations, by digest: small, and looked at whenever a turn begins.
#[derive(Debug, Default)]
pub(super) struct Definitions(RwLock<HashMap<Digest, Arc<Definition>>>);

impl Definitions {
    /// Those of all versions. One that cannot be read is missing, as a component is. Blocks.
    pub(super) fn read<'a>(
        components: &Components,
        deployments: impl Iterator<Item = &'a Arc<Deployment>>,
    ) -> Self {
        let mut definitions = HashMap::new();
        for digest in deployments.flat_map(|it| it.conversations()) {
            match components.get(&digest) {
                Ok(Some(bytes)) => match Definition::parse(&bytes) {
                    Ok(definition) => drop(definitions.insert(digest, Arc::new(definition))),
                    Err(error) => tracing::error!(%digest, %error, "a conversation is not one"),
                },
                Ok(None) => tracing::error!(%digest, "a conversation is no longer stored"),
                Err(error) => tracing::error!(%digest, %error, "a conversation cannot be read"),
            }
        }
        Self(RwLock::new(definitions))
    }

    fn get(&self, digest: Digest) -> Option<Arc<Definition>> {
        let map = self.0.read();
        let map = map.unwrap_or_else(|poisoned| poisoned.into_inner());
        map.get(&digest).cloned()
    }

    pub(super) fn forget(&self, digests: &[Digest]) {
        let map = self.0.write();
        let mut map = map.unwrap_or_else(|poisoned| poisoned.into_inner());
        map.retain(|digest, _| !digests.contains(digest));
    }

    fn put(&self, digest: Digest, definition: Arc<Definition>) {
        let map = self.0.write();
        let mut map = map.unwrap_or_else(|poisoned| poisoned.into_inner());
        map.insert(digest, definition);
    }
}

impl Agents {
    /// The conversation with this digest, if a version of any tenant has it.
    pub fn definition(&self, digest: Digest) -> Option<Arc<Definition>> {
        self.definitions.get(digest)
    }

    /// Bounds of a version's turns. A conversation may take as long as each of its speakers' turns may.
    pub fn limits(&self, version: &Version, host: &TurnLimits) -> TurnLimits {
        let mut limits = version.config.limits(host);
        if version.kind == AgentKind::Conversation
            && let Some(definition) = self.definition(version.component)
        {
            let turns = u64::from(definition.max_turns);
            limits.turn_ms_max = limits.turn_ms_max.saturating_mul(turns);
        }
        limits
    }

    /// Store a conversation and make it active: durable when it returns.
    pub async fn put_conversation(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        definition: Definition,
    ) -> Result<Deployed, DeployError> {
        let _one = self.changing.lock().await;
        let current = self.get(tenant, agent);
        let config = current
            .as_ref()
            .map_or_else(Default::default, |current| current.config.clone());
        self.check_conversation(tenant, agent, &definition, &config)?;
        let (agents, bytes) = (self.clone(), definition.bytes());
        let digest = blocking(move || Ok(agents.components.put(&bytes)?)).await?;
        let mut next = self.next(tenant, agent);
        if !next.put_conversation(digest, self.clock.now(), VERSIONS_MAX) {
            return Ok(Deployed {
                deployment: current.unwrap_or_default(),
                changed: false,
            });
        }
        self.definitions.put(digest, Arc::new(definition));
        self.write(tenant, agent, next).await
    }

    /// Whether a conversation can be this agent, as everything else is deployed now. Its participants may
    /// come later.
    pub(super) fn check_conversation(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
        definition: &Definition,
        config: &AgentConfig,
    ) -> Result<(), DeployError> {
        if !config.watches.is_empty() {
            let text = "`watches` is not for a conversation: what it speaks about is a message";
            return Err(DefinitionError::Invalid(text.to_owned()).into());
        }
        let deployed: HashMap<AgentName, Arc<Definition>> = self
            .list(tenant)
            .into_iter()
            .filter(|(_, it)| it.kind == AgentKind::Conversation)
            .filter_map(|(agent, it)| Some((agent, self.definition(it.component?)?)))
            .collect();
        definition::cycle(agent, definition, |agent| {
            deployed.get(agent).map(Arc::as_ref)
        })?;
        Ok(())
    }
}
