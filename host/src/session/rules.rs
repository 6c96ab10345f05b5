//! What of an agent's configuration decides when its turns begin.

use std::collections::BTreeSet;

use crate::agents::{AgentConfig, Version};
use crate::budgets::{AgentBudget, Exhausted};
use crate::clock::Time;
use crate::id::{SlotName, TenantId};
use crate::journal::state::{Batching, State};
use crate::model::{Models, Readiness, Target};

use super::Sessions;

/// The rules of one agent, as configured now. The default ones let everything begin at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) batching: Batching,
    /// Slots that must not be locked.
    pub(super) slots_idle: BTreeSet<SlotName>,
    /// Its model is needed and is not ready.
    pub(super) no_model: Option<NoModel>,
    /// What its sessions may cost. (A run has no cap of its own before it begins.)
    pub(super) budget: AgentBudget,
    /// Its tenant has spent what it may.
    pub(super) exhausted: Option<Exhausted>,
}

/// Why a model is not ready, and when it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoModel {
    pub(super) reason: String,
    /// None if only another configuration helps.
    pub(super) again_at: Option<Time>,
}

impl Rules {
    pub(super) fn of(version: &Version, sessions: &Sessions, tenant: &TenantId) -> Self {
        let (parts, now) = (&sessions.0.parts, sessions.now());
        let exhausted = parts.budgets.check_tenant(tenant, now).err();
        Self {
            exhausted,
            ..Self::of_config(&version.config, &parts.models, tenant, now)
        }
    }

    fn of_config(config: &AgentConfig, models: &Models, tenant: &TenantId, now: Time) -> Self {
        let needed = config.before_turn.model_ready.then_some(&config.model);
        Self {
            batching: config.batching,
            slots_idle: config.before_turn.slots_idle.clone(),
            no_model: needed.and_then(|model| {
                let policy = models.policy(&Target::Model(model.clone()));
                let policy = policy.of_agent(&config.policy);
                NoModel::of(model, models.readiness(tenant, model, &policy), now)
            }),
            budget: config.budget,
            exhausted: None,
        }
    }

    /// What keeps a turn from beginning, in words.
    pub(super) fn missing(&self, state: &State) -> Option<String> {
        let session_micros = state.spent().total.spent_micros();
        let session = || self.budget.check_session(session_micros).err();
        if let Some(exhausted) = self.exhausted.or_else(session) {
            return Some(exhausted.to_string());
        }
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
        let no_model = self.no_model.as_ref().and_then(|it| it.again_at);
        let exhausted = self.exhausted.and_then(|it| it.until);
        no_model.into_iter().chain(exhausted).min()
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
    use std::time::Duration;

    use super::*;
    use crate::model::CacheBounds;

    fn missing(config: &str) -> Option<String> {
        let config = AgentConfig::parse(config.as_bytes()).expect("it is allowed");
        let models =
            Models::new(BTreeMap::new(), 0, CacheBounds::default()).expect("none is configured");
        let tenant = TenantId::new("t").expect("a name");
        let rules = Rules::of_config(&config, &models, &tenant, Time(0));
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
