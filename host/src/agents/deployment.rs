//! One agent's deployment: its configuration, component and versions. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::id::Digest;

use super::AgentConfig;

/// What the bytes of a version are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    #[default]
    Component,
    /// The definition of a conversation.
    Conversation,
}

impl AgentKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Conversation => "conversation",
        }
    }

    fn is_component(&self) -> bool {
        *self == Self::Component
    }
}

/// A component or conversation with a configuration, under a number that only grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    pub number: u64,
    /// The digest of the component, or of the definition's canonical bytes.
    pub component: Digest,
    #[serde(default, skip_serializing_if = "AgentKind::is_component")]
    pub kind: AgentKind,
    pub config: Arc<AgentConfig>,
    pub created_at: Time,
}

/// The stored form. Without a component the agent is not ready and has no version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub config: Arc<AgentConfig>,
    pub component: Option<Digest>,
    #[serde(default, skip_serializing_if = "AgentKind::is_component")]
    pub kind: AgentKind,
    /// Oldest first, those of deleted deployments of the same name included: turns may still
    /// run with them.
    versions: Vec<Arc<Version>>,
    /// Nobody can call it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// Versions before this one are of a deployment that was deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    first: u64,
}

impl Deployment {
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    pub fn bytes(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("a deployment has string keys")
            .into()
    }

    /// The newest version, if there is a component to run.
    pub fn active(&self) -> Option<Arc<Version>> {
        self.component?;
        self.versions.last().cloned()
    }

    /// Oldest first; the last one is active.
    pub fn versions(&self) -> &[Arc<Version>] {
        let first = self
            .versions
            .partition_point(|version| version.number < self.first);
        &self.versions[first..]
    }

    pub fn version(&self, number: u64) -> Option<Arc<Version>> {
        let mut versions = self.versions().iter();
        versions.find(|version| version.number == number).cloned()
    }

    /// A version that a turn was started with, even if the deployment was deleted since.
    pub fn pinned(&self, number: u64) -> Option<Arc<Version>> {
        let mut versions = self.versions.iter();
        versions.find(|version| version.number == number).cloned()
    }

    /// Whether any version that is kept has this component.
    pub fn has(&self, component: Digest) -> bool {
        self.versions.iter().any(|it| it.component == component)
    }

    /// Digests of the components and conversations of all versions that are kept.
    pub fn components(&self) -> impl Iterator<Item = Digest> {
        self.versions.iter().map(|it| it.component)
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    pub fn delete(&mut self) {
        let versions = std::mem::take(&mut self.versions);
        *self = Self {
            first: versions.last().map_or(0, |version| version.number + 1),
            versions,
            deleted: true,
            ..Self::default()
        };
    }

    /// The name is used again.
    pub fn revive(&mut self) {
        self.deleted = false;
    }

    /// Digests of all conversations that any version has, deleted deployments included.
    pub fn conversations(&self) -> impl Iterator<Item = Digest> {
        let versions = self.versions.iter();
        let conversations = versions.filter(|it| it.kind == AgentKind::Conversation);
        conversations.map(|version| version.component)
    }

    /// False if it is the component already.
    pub fn put_component(&mut self, component: Digest, now: Time, versions_max: usize) -> bool {
        self.put(AgentKind::Component, component, now, versions_max)
    }

    /// False if it is the conversation already.
    pub fn put_conversation(&mut self, definition: Digest, now: Time, versions_max: usize) -> bool {
        self.put(AgentKind::Conversation, definition, now, versions_max)
    }

    fn put(&mut self, kind: AgentKind, bytes: Digest, now: Time, versions_max: usize) -> bool {
        if self.component == Some(bytes) {
            return false;
        }
        (self.component, self.kind) = (Some(bytes), kind);
        self.next_version(now, versions_max);
        true
    }

    /// False if it is the configuration already.
    pub fn put_config(&mut self, config: Arc<AgentConfig>, now: Time, versions_max: usize) -> bool {
        if self.config == config {
            return false;
        }
        self.config = config;
        self.next_version(now, versions_max);
        true
    }

    /// False if it is active already.
    pub fn activate(&mut self, version: &Version, now: Time, versions_max: usize) -> bool {
        if self.component == Some(version.component) && self.config == version.config {
            return false;
        }
        (self.component, self.kind) = (Some(version.component), version.kind);
        self.config = version.config.clone();
        self.next_version(now, versions_max);
        true
    }

    fn next_version(&mut self, now: Time, versions_max: usize) {
        let Some(component) = self.component else {
            return;
        };
        let number = self.versions.last().map_or(1, |version| version.number + 1);
        let (kind, config) = (self.kind, self.config.clone());
        self.versions.push(Arc::new(Version {
            number,
            component,
            kind,
            config,
            created_at: now,
        }));
        let surplus = self.versions.len().saturating_sub(versions_max);
        self.versions.drain(..surplus);
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_half_makes_the_next_version() {
        let mut deployment = Deployment::default();
        let config = Arc::new(AgentConfig {
            model: "fast".into(),
            ..AgentConfig::default()
        });
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert!(deployment.put_config(config.clone(), Time(1), 3));
        assert_eq!(deployment.active(), None);
        assert!(deployment.put_component(a, Time(2), 3));
        assert!(!deployment.put_component(a, Time(3), 3));
        assert_eq!(deployment.active().unwrap().number, 1);
        assert!(deployment.put_component(b, Time(4), 3));
        let first = deployment.version(1).unwrap();
        assert!(deployment.activate(&first, Time(5), 3));
        assert!(!deployment.activate(&first, Time(6), 3));
        let active = deployment.active().unwrap();
        assert_eq!(
            (active.number, active.component, active.config.clone()),
            (3, a, config)
        );
        assert!(deployment.put_component(b, Time(7), 3));
        assert_eq!(
            deployment
                .versions
                .iter()
                .map(|version| version.number)
                .collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(
            Deployment::parse(&deployment.bytes()),
            Ok(deployment.clone())
        );
        deployment.delete();
        assert!(deployment.active().is_none() && deployment.versions().is_empty());
        assert_eq!(deployment.pinned(4).unwrap().component, b);
        deployment.revive();
        assert!(deployment.put_config(Arc::default(), Time(8), 3) || deployment.active().is_none());
        assert!(deployment.put_component(a, Time(9), 3));
        assert_eq!(deployment.active().unwrap().number, 5);
        assert_eq!(deployment.versions().len(), 1);
        assert!(deployment.version(4).is_none());
    }
}
