//! What of an agent's configuration decides when its turns begin.

use std::collections::BTreeSet;

use crate::agents::Version;
use crate::clock::Time;
use crate::id::SlotName;
use crate::journal::state::{Batching, State};
use crate::model::{Models, Readiness};

/// The rules of one agent, as configured now. The default ones let everything begin at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) batching: Batching,
    /// Slots that must not be locked.
    pub(super) slots_idle: BTreeSet<SlotName>,
    /// Its model is needed and is not ready.
    pub(super) no_model: Option<NoModel>,
}

/// Why a model is not ready, and when it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoModel {
    pub(super) reason: String,
    /// None if only another configuration helps.
    pub(super) again_at: Option<Time>,
}

impl Rules {
    pub(super) fn of(version: &Version, models: &Models, now: Time) -> Self {
        let config = &version.config;
        let needed = config.before_turn.model_ready.then_some(&config.model);
        Self {
            batching: config.batching,
            slots_idle: config.before_turn.slots_idle.clone(),
            no_model: needed.and_then(|model| NoModel::of(model, models.readiness(model), now)),
        }
    }

    /// What keeps a turn from beginning, in words.
    pub(super) fn missing(&self, state: &State) -> Option<String> {
        if let Some(no_model) = &self.no_model {
            return Some(no_model.reason.clone());
        }
        let is_locked = |slot: &&SlotName| {
            let slot = state.slots.get(*slot);
            slot.is_some_and(|slot| slot.lock.is_some())
        };
        let locked = self.slots_idle.iter().find(is_locked)?;
        Some(format!("the slot `{locked}` is locked"))
    }

    /// When something that is missing may be there without an entry that says so.
    pub(super) fn again_at(&self) -> Option<Time> {
        self.no_model.as_ref()?.again_at
    }
}

impl NoModel {
    fn of(model: &str, readiness: Readiness, now: Time) -> Option<Self> {
        match readiness {
            Readiness::Ready => None,
            Readiness::Unknown => Some(Self {
                reason: format!("this host has no model called `{model}`"),
                again_at: None,
            }),
            Readiness::Gone { again_in } => {
                // Rounded up: looking a moment early would be looking twice.
                let again_ms = u64::try_from(again_in.as_millis()).unwrap_or(u64::MAX);
                Some(Self {
                    reason: format!("the model `{model}` cannot be reached"),
                    again_at: Some(now.plus_ms(again_ms.saturating_add(1))),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::agents::{AgentConfig, AgentKind};
    use crate::id::Digest;

    fn missing(config: &str) -> Option<String> {
        let config = AgentConfig::parse(config.as_bytes()).expect("it is allowed");
        let version = Version {
            number: 1,
            component: Digest::of(b"a"),
            kind: AgentKind::Component,
            config: Arc::new(config),
            created_at: Time(0),
        };
        let models = Models::new(BTreeMap::new(), 0).expect("none is configured");
        let rules = Rules::of(&version, &models, Time(0));
        assert_eq!(rules.again_at(), None);
        rules.missing(&State::default())
    }

    #[test]
    fn a_model_must_be_the_hosts_if_it_is_asked_for() {
        let needs = |model: &str| {
            missing(&format!(
                r#"{{"model":"{model}","before_turn":{{"model_ready":true}}}}"#
            ))
        };
        assert_eq!(needs("default"), None);
        let unknown = "this host has no model called `gpt`".to_owned();
        assert_eq!(needs("gpt"), Some(unknown));
        assert_eq!(missing(r#"{"model":"gpt"}"#), None, "nobody asked");
        assert_eq!(missing(r#"{"before_turn":{"slots_idle":["x"]}}"#), None);
    }

    #[test]
    fn a_model_that_is_gone_is_not_looked_at_early() {
        let gone = Readiness::Gone {
            again_in: Duration::from_micros(4_999_500),
        };
        let no_model = NoModel::of("m", gone, Time(100)).expect("it is gone");
        assert_eq!(no_model.again_at, Some(Time(5_100)));
        assert_eq!(no_model.reason, "the model `m` cannot be reached");
    }
}
