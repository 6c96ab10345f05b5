//! Agents: named deployments in a tenant, with their versions.
//!
//! A version is a pair of component and configuration; putting either makes the next. Turns pin
//! the version they start with. Invariants: a version in use has its
//! component on disk before its record says so; what is active was checked
//! against its own grants. It starts nothing: session/ asks it what to run.

mod config;
mod conversations;
mod deployment;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

pub use config::{AgentConfig, ConfigError};
pub use deployment::{AgentKind, Deployment, Version};

use crate::clock::Clock;
use crate::id::{AgentName, Digest, SlotName, TenantId};
use crate::runtime::compiler::Patience;
use crate::runtime::conversation::definition::DefinitionError;
use crate::runtime::engine::{ComponentError, Grants, Loaded, Runtime};
use crate::store::components::{ComponentError as FileError, Components};
use crate::store::{CommitError, ReadError, RecordKey, RecordSpace, Store, Write};

/// Versions kept for rolling back.
const VERSIONS_MAX: usize = 50;

#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Component(#[from] ComponentError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("there is no such agent")]
    NotFound,
    #[error("there is no such version")]
    NoSuchVersion,
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Files(#[from] FileError),
    #[error("the component {0} is no longer stored")]
    Missing(Digest),
}

/// What a deployment changed.
#[derive(Debug, Clone)]
pub struct Deployed {
    pub deployment: Arc<Deployment>,
    /// False if it was like that already.
    pub changed: bool,
}

use conversations::Definitions;

type Map = HashMap<(TenantId, AgentName), Arc<Deployment>>;

pub struct Agents {
    store: Arc<dyn Store>,
    components: Components,
    runtime: Arc<Runtime>,
    clock: Clock,
    map: RwLock<Map>,
    /// Of every version that is one.
    definitions: Definitions,
    /// Deployments are changed one at a time: each change builds on the one before.
    changing: tokio::sync::Mutex<()>,
    /// Counts changes, for whoever waits for an agent to become ready.
    changes: watch::Sender<u64>,
}

impl Agents {
    /// Read every tenant's deployments. Blocks.
    pub fn open(
        store: Arc<dyn Store>,
        components: Components,
        runtime: Arc<Runtime>,
        clock: Clock,
        tenants: &[TenantId],
    ) -> Result<Self, ReadError> {
        let mut map = Map::new();
        for tenant in tenants {
            for (name, bytes) in
                store.records(Some(tenant), RecordSpace::Agent, None, usize::MAX)?
            {
                let damaged =
                    |error: String| ReadError::bad_record(format!("agent {name}: {error}"));
                let agent = AgentName::new(&name).map_err(|error| damaged(error.to_string()))?;
                let deployment = Deployment::parse(&bytes).map_err(damaged)?;
                map.insert((tenant.clone(), agent), Arc::new(deployment));
            }
        }
        let definitions = Definitions::read(&components, map.values());
        Ok(Self {
            store,
            components,
            runtime,
            clock,
            map: RwLock::new(map),
            definitions,
            changing: tokio::sync::Mutex::new(()),
            changes: watch::Sender::new(0),
        })
    }

    pub fn get(&self, tenant: &TenantId, agent: &AgentName) -> Option<Arc<Deployment>> {
        self.known(tenant, agent)
            .filter(|deployment| !deployment.is_deleted())
    }

    /// The deployment, deleted or not.
    fn known(&self, tenant: &TenantId, agent: &AgentName) -> Option<Arc<Deployment>> {
        self.read().get(&(tenant.clone(), agent.clone())).cloned()
    }

    /// What the next deployment under this name builds on.
    fn next(&self, tenant: &TenantId, agent: &AgentName) -> Deployment {
        let known = self.known(tenant, agent);
        let mut next = known.as_deref().cloned().unwrap_or_default();
        next.revive();
        next
    }

    /// A version that a turn was started with, whatever became of the agent.
    pub fn pinned(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
        number: u64,
    ) -> Option<Arc<Version>> {
        self.known(tenant, agent)?.pinned(number)
    }

    /// What a turn of this agent would run now.
    pub fn active(&self, tenant: &TenantId, agent: &AgentName) -> Option<Arc<Version>> {
        self.get(tenant, agent)?.active()
    }

    /// The bytes of a component that a version of this tenant has, deleted agents included. None
    /// of another tenant's.
    pub async fn component(
        self: &Arc<Self>,
        tenant: &TenantId,
        component: Digest,
    ) -> Result<Option<bytes::Bytes>, DeployError> {
        let is_theirs = |((owner, _), deployment): (&(TenantId, AgentName), &Arc<Deployment>)| {
            owner == tenant && deployment.has(component)
        };
        if !self.read().iter().any(is_theirs) {
            return Ok(None);
        }
        let agents = self.clone();
        blocking(move || Ok(agents.components.get(&component)?)).await
    }

    pub fn watches(&self, tenant: &TenantId, agent: &AgentName, slot: &SlotName) -> bool {
        self.active(tenant, agent)
            .is_some_and(|version| version.config.watches.contains(slot))
    }

    /// A tenant's agents, in order of name.
    pub fn list(&self, tenant: &TenantId) -> Vec<(AgentName, Arc<Deployment>)> {
        let map = self.read();
        let mut list: Vec<_> = map
            .iter()
            .filter(|((owner, _), deployment)| owner == tenant && !deployment.is_deleted())
            .map(|((_, agent), deployment)| (agent.clone(), deployment.clone()))
            .collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list
    }

    /// Counts changes of any deployment.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Store a component and make it active: durable when it returns.
    pub async fn put_component(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        bytes: bytes::Bytes,
    ) -> Result<Deployed, DeployError> {
        let of = bytes.clone();
        let digest = blocking(move || Ok(Digest::of(&of))).await?;
        // Checked before it is stored: what cannot run is not kept. Before others are kept from
        // deploying too, for compiling takes long; afterwards only the grants may be others.
        let (component, patience) = ((digest, bytes.clone()), Patience::Bounded);
        let grants = self.grants(tenant, agent);
        self.runtime
            .load(tenant, component.clone(), &grants, patience)
            .await?;
        let _one = self.changing.lock().await;
        let (current, grants) = (self.get(tenant, agent), self.grants(tenant, agent));
        self.runtime
            .load(tenant, component, &grants, patience)
            .await?;
        let agents = self.clone();
        blocking(move || Ok(agents.components.put(&bytes)?)).await?;
        let mut next = self.next(tenant, agent);
        if !next.put_component(digest, self.clock.now(), VERSIONS_MAX) {
            return Ok(Deployed {
                deployment: current.unwrap_or_default(),
                changed: false,
            });
        }
        self.write(tenant, agent, next).await
    }

    /// Replace the configuration: durable when it returns. With a component there, it is
    /// checked against the new grants first.
    pub async fn put_config(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        config: AgentConfig,
    ) -> Result<Deployed, DeployError> {
        // Once before others are kept from deploying, for it may have to be compiled.
        self.check_config(tenant, agent, &config).await?;
        let _one = self.changing.lock().await;
        self.check_config(tenant, agent, &config).await?;
        let current = self.get(tenant, agent);
        let mut next = self.next(tenant, agent);
        if current.is_some()
            && !next.put_config(Arc::new(config.clone()), self.clock.now(), VERSIONS_MAX)
        {
            return Ok(Deployed {
                deployment: current.unwrap_or_default(),
                changed: false,
            });
        }
        next.config = Arc::new(config);
        self.write(tenant, agent, next).await
    }

    /// Whether what is active can run with another configuration.
    async fn check_config(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        config: &AgentConfig,
    ) -> Result<(), DeployError> {
        match self.get(tenant, agent) {
            Some(current) => match current.component {
                Some(digest) => {
                    self.check(tenant, agent, current.kind, digest, config)
                        .await
                }
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// What an agent may import as it is configured now.
    fn grants(&self, tenant: &TenantId, agent: &AgentName) -> Grants {
        let current = self.get(tenant, agent);
        current.map_or_else(Grants::by_default, |current| current.config.grants())
    }

    /// Make an older version active again, as a new version.
    pub async fn roll_back(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        number: u64,
    ) -> Result<Deployed, DeployError> {
        let old = async || {
            let current = self.get(tenant, agent).ok_or(DeployError::NotFound)?;
            let version = current.version(number).ok_or(DeployError::NoSuchVersion)?;
            let (kind, digest) = (version.kind, version.component);
            self.check(tenant, agent, kind, digest, &version.config)
                .await?;
            Ok::<_, DeployError>((current, version))
        };
        // Once before others are kept from deploying, for it may have to be compiled.
        old().await?;
        let _one = self.changing.lock().await;
        let (current, version) = old().await?;
        let mut next = (*current).clone();
        if !next.activate(&version, self.clock.now(), VERSIONS_MAX) {
            return Ok(Deployed {
                deployment: current,
                changed: false,
            });
        }
        self.write(tenant, agent, next).await
    }

    /// Remove the deployment: durable when it returns. Its versions and components stay for open
    /// turns; sessions keep their messages.
    pub async fn delete(&self, tenant: &TenantId, agent: &AgentName) -> Result<(), DeployError> {
        let _one = self.changing.lock().await;
        let current = self.get(tenant, agent).ok_or(DeployError::NotFound)?;
        let mut next = (*current).clone();
        next.delete();
        self.write(tenant, agent, next).await?;
        Ok(())
    }

    /// Forget the agents of a tenant that is being removed; answers the components that they had.
    pub async fn remove_tenant(&self, tenant: &TenantId) -> BTreeSet<Digest> {
        let _one = self.changing.lock().await;
        let mut map = self
            .map
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut digests = BTreeSet::new();
        map.retain(|(owner, _), deployment| {
            let stays = owner != tenant;
            if !stays {
                digests.extend(deployment.components());
            }
            stays
        });
        digests
    }

    /// Remove those of these components that no agent of any tenant has: durable when it returns.
    pub async fn remove_components(
        self: &Arc<Self>,
        digests: BTreeSet<Digest>,
    ) -> Result<(), DeployError> {
        // Nobody deploys one of them meanwhile.
        let _one = self.changing.lock().await;
        let used: BTreeSet<Digest> = {
            let map = self.read();
            map.values().flat_map(|it| it.components()).collect()
        };
        let unused: Vec<Digest> = digests.difference(&used).copied().collect();
        self.definitions.forget(&unused);
        let agents = self.clone();
        blocking(move || {
            for digest in unused {
                agents.runtime.forget(digest);
                agents.components.delete(&digest)?;
            }
            Ok(())
        })
        .await
    }

    /// Remove what no agent has: left by a crash between a component and its deployment, or by versions that were
    /// pushed out. Blocks. Call it before anything is deployed.
    pub fn remove_unused(&self) -> Result<usize, FileError> {
        let used: BTreeSet<Digest> = {
            let map = self.read();
            map.values().flat_map(|it| it.components()).collect()
        };
        let mut count = 0;
        for digest in self.components.list()? {
            if !used.contains(&digest) {
                self.runtime.forget(digest);
                self.components.delete(&digest)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Whether what is about to be active can run with its configuration.
    async fn check(
        self: &Arc<Self>,
        tenant: &TenantId,
        agent: &AgentName,
        kind: AgentKind,
        digest: Digest,
        config: &AgentConfig,
    ) -> Result<(), DeployError> {
        match kind {
            AgentKind::Component => self.load(tenant, digest, config).await.map(drop),
            AgentKind::Conversation => {
                let definition = self.definition(digest);
                let definition = definition.ok_or(DeployError::Missing(digest))?;
                self.check_conversation(tenant, agent, &definition, config)
            }
        }
    }

    /// The component of a version, ready to run. Compiles it if no cache has it.
    pub async fn load(
        self: &Arc<Self>,
        tenant: &TenantId,
        digest: Digest,
        config: &AgentConfig,
    ) -> Result<Loaded, DeployError> {
        let grants = config.grants();
        if let Some(loaded) = self.runtime.loaded(digest, &grants) {
            return Ok(loaded);
        }
        let agents = self.clone();
        let bytes = blocking(move || {
            let bytes = agents.components.get(&digest)?;
            bytes.ok_or(DeployError::Missing(digest))
        })
        .await?;
        let component = (digest, bytes);
        let loaded = self
            .runtime
            .load(tenant, component, &grants, Patience::Endless);
        Ok(loaded.await?)
    }

    async fn write(
        &self,
        tenant: &TenantId,
        agent: &AgentName,
        deployment: Deployment,
    ) -> Result<Deployed, DeployError> {
        let write = Write::Record {
            key: record_key(tenant, agent),
            bytes: deployment.bytes(),
        };
        crate::store::write(&*self.store, vec![write]).await?;
        let deployment = Arc::new(deployment);
        self.map
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .insert((tenant.clone(), agent.clone()), deployment.clone());
        self.changes.send_modify(|changes| *changes += 1);
        Ok(Deployed {
            deployment,
            changed: true,
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        self.map
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn record_key(tenant: &TenantId, agent: &AgentName) -> RecordKey {
    RecordKey {
        tenant: Some(tenant.clone()),
        space: RecordSpace::Agent,
        name: agent.as_str().to_owned(),
    }
}

/// Run something that takes long or touches the disk where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DeployError> + Send + 'static,
) -> Result<T, DeployError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(ComponentError::NotAComponent("the compiler gave up on it".into()).into()),
    }
}
