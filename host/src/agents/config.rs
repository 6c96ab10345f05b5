//! An agent's configuration, as its owner writes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::budgets::AgentBudget;
use crate::config::PolicySettings;
use crate::egress::allow::{self, Rule};
use crate::id::SlotName;
use crate::journal::state::{Batching, Supervision};
use crate::runtime::engine::{Grants, INTERFACES};
use crate::runtime::limits::TurnLimits;

/// Variables, and bytes of all of them: they are pinned with every turn.
const ENVIRONMENT_MAX: usize = 64;
const ENVIRONMENT_BYTES_MAX: usize = 16 * 1024;

/// Slots that a turn may wait for, and slots that it may be given: as many as a prompt can make sense of.
const SLOTS_NAMED_MAX: usize = 16;
/// The variable that tells an agent what `inject` names, with commas between.
const INJECT_VARIABLE: &str = "ANTIPHON_INJECT";

/// The stored and the public form. Every field has a default; unknown ones are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// The model used when a request names none.
    pub model: String,
    /// Further models it may name.
    pub models: Vec<String>,
    /// How its calls are made, where not as its models' own policies say.
    #[serde(skip_serializing_if = "PolicySettings::is_empty")]
    pub policy: PolicySettings,
    /// Interfaces of `antiphon:agent` it may import.
    pub grants: Vec<String>,
    /// Where it may send requests, if it is granted `http`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Rule>,
    /// Slots whose commits by others wake it.
    pub watches: BTreeSet<SlotName>,
    pub batching: Batching,
    pub before_turn: BeforeTurn,
    /// Slots whose documents every turn is to begin with. The agent is told their names and reads them itself,
    /// so that what it saw is in the journal as with any other read.
    pub inject: Vec<SlotName>,
    /// When it is suspended in a session where it keeps failing.
    pub supervision: Supervision,
    pub limits: AgentLimits,
    /// What its runs and its sessions may cost.
    pub budget: AgentBudget,
    /// Environment variables, the only ones it sees.
    pub environment: BTreeMap<String, String>,
    pub card: Card,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            model: "default".into(),
            models: Vec::new(),
            policy: PolicySettings::default(),
            grants: Grants::by_default().names().map(str::to_owned).collect(),
            http: Vec::new(),
            watches: BTreeSet::new(),
            batching: Batching::default(),
            before_turn: BeforeTurn::default(),
            inject: Vec::new(),
            supervision: Supervision::default(),
            limits: AgentLimits::default(),
            budget: AgentBudget::default(),
            environment: BTreeMap::new(),
            card: Card::default(),
        }
    }
}

/// What must be so before a turn begins. Until it is, the agent's messages wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BeforeTurn {
    /// Its default model is one of the host's, and could be reached lately.
    pub model_ready: bool,
    /// None of these slots is locked.
    pub slots_idle: BTreeSet<SlotName>,
}

/// Lower bounds than the host's; higher ones have no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_ms_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_calls_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_bytes_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_calls_max: Option<u64>,
}

/// What people are told about the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Card {
    pub description: String,
}

/// What is wrong with a configuration, in words for its writer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    UnknownField(String),
    #[error("{0}")]
    Invalid(String),
}

impl AgentConfig {
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        // serde takes an array for an object, by the order of the fields.
        if json.trim_ascii_start().first() == Some(&b'[') {
            return Err(ConfigError::Invalid("a configuration is an object".into()));
        }
        let config: Self = serde_json::from_slice(json).map_err(|error| {
            let text = error.to_string();
            if text.starts_with("unknown field") {
                ConfigError::UnknownField(text)
            } else {
                ConfigError::Invalid(text)
            }
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |text: String| Err(ConfigError::Invalid(text));
        if let Err(name) = Grants::new(self.grants.iter().cloned()) {
            return invalid(format!(
                "`{name}` cannot be granted; there are {}",
                INTERFACES.join(", ")
            ));
        }
        allow::check(&self.http).map_err(ConfigError::Invalid)?;
        self.batching.check().map_err(ConfigError::Invalid)?;
        if let Err((field, reason)) = self.policy.check() {
            return invalid(format!("`{field}` {reason}"));
        }
        if self.before_turn.slots_idle.len() > SLOTS_NAMED_MAX {
            return invalid(format!(
                "`before_turn.slots_idle` may name {SLOTS_NAMED_MAX} slots"
            ));
        }
        if self.inject.len() > SLOTS_NAMED_MAX {
            return invalid(format!("`inject` may name {SLOTS_NAMED_MAX} slots"));
        }
        let distinct: BTreeSet<&SlotName> = self.inject.iter().collect();
        if distinct.len() < self.inject.len() {
            return invalid("`inject` names a slot twice".into());
        }
        if self.environment.contains_key(INJECT_VARIABLE) {
            return invalid(format!(
                "`environment` must not set `{INJECT_VARIABLE}`: `inject` does"
            ));
        }
        self.supervision.check().map_err(ConfigError::Invalid)?;
        let bytes: usize = self
            .environment
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if self.environment.len() > ENVIRONMENT_MAX || bytes > ENVIRONMENT_BYTES_MAX {
            return invalid(format!(
                "`environment` may hold {ENVIRONMENT_MAX} variables and {ENVIRONMENT_BYTES_MAX} bytes"
            ));
        }
        let bad = |(name, value): (&String, &String)| {
            name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
        };
        if self.environment.iter().any(bad) {
            return invalid(
                "names in `environment` must not be empty nor contain `=` or NUL".into(),
            );
        }
        if self.model.is_empty() || self.models.iter().any(String::is_empty) {
            return invalid("a model's name must not be empty".into());
        }
        Ok(())
    }

    /// The variables that the agent sees.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = self.environment.clone();
        if !self.inject.is_empty() {
            let names: Vec<&str> = self.inject.iter().map(SlotName::as_str).collect();
            variables.insert(INJECT_VARIABLE.to_owned(), names.join(","));
        }
        variables
    }

    pub fn grants(&self) -> Grants {
        Grants::new(self.grants.iter().cloned()).unwrap_or_else(|_| Grants::by_default())
    }

    /// Models it may name, its default first.
    pub fn model_names(&self) -> Vec<String> {
        let mut names = vec![self.model.clone()];
        names.extend(
            self.models
                .iter()
                .filter(|name| **name != self.model)
                .cloned(),
        );
        names
    }

    /// The host's limits, lowered by its own.
    pub fn limits(&self, host: &TurnLimits) -> TurnLimits {
        let lower = |own: Option<u64>, host: u64| own.map_or(host, |own| own.min(host));
        let handles_max = self.limits.handles_max;
        let handles_max = handles_max.and_then(|own| usize::try_from(own).ok());
        TurnLimits {
            memory_bytes_max: lower(self.limits.memory_bytes_max, host.memory_bytes_max),
            cpu_ms_max: lower(self.limits.cpu_ms_max, host.cpu_ms_max),
            turn_ms_max: lower(self.limits.turn_ms_max, host.turn_ms_max),
            host_calls_max: lower(self.limits.host_calls_max, host.host_calls_max),
            written_bytes_max: lower(self.limits.written_bytes_max, host.written_bytes_max),
            handles_max: handles_max.map_or(host.handles_max, |own| own.min(host.handles_max)),
            reply_bytes_max: lower(self.limits.reply_bytes_max, host.reply_bytes_max),
            http_calls_max: lower(self.limits.http_calls_max, host.http_calls_max),
            ..host.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default() {
        assert_eq!(AgentConfig::parse(b"{}"), Ok(AgentConfig::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |json: &str| AgentConfig::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error(r#"{"modle":"x"}"#).contains("`modle`"));
        assert!(error(r#"{"batching":{"quiet":1}}"#).contains("`quiet`"));
        assert!(error(r#"{"grants":["kernel","files"]}"#).contains("`files`"));
        assert!(error(r#"{"watches":["a/b"]}"#).contains("a slot"));
        for (batching, named) in [
            (r#"{"policy":"debounce"}"#, "`debounce`"),
            (r#"{"messages_max":0}"#, "`batching.messages_max`"),
            (r#"{"messages_max":101}"#, "`batching.messages_max`"),
            (r#"{"wait_ms_max":60001}"#, "`batching.wait_ms_max`"),
            (r#"{"quiet_ms":10001}"#, "`batching.quiet_ms`"),
            (
                r#"{"policy":"followup","quiet_ms":1}"#,
                "`batching.quiet_ms`",
            ),
            (r#"{"quiet_ms":-1}"#, "-1"),
        ] {
            let error = error(&format!(r#"{{"batching":{batching}}}"#));
            assert!(error.contains(named), "{batching}: {error}");
        }
        let told = error(r#"{"policy":{"breaker":{"cooldown_ms":0}}}"#);
        assert!(
            told.starts_with("`policy.breaker.cooldown_ms` must be from 1"),
            "{told}"
        );
        assert!(error(r#"{"policy":{"attempts":3}}"#).contains("`attempts`"));
        assert!(error(r#"{"policy":{"attempts_max":"3"}}"#).contains("string"));
        assert!(error(r#"{"environment":{"A=B":"x"}}"#).contains("environment"));
        assert!(error("{").contains("EOF"));
        assert!(error(r#"["fast"]"#).contains("an object"));
    }

    #[test]
    fn slots_are_named_within_bounds() {
        let names = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("s{n}")).collect();
            serde_json::to_string(&names).unwrap()
        };
        let parse = |json: &str| AgentConfig::parse(json.as_bytes());
        for (field, most) in [
            (r#"{"inject":NAMES}"#, "`inject`"),
            (
                r#"{"before_turn":{"slots_idle":NAMES}}"#,
                "`before_turn.slots_idle`",
            ),
        ] {
            assert!(parse(&field.replace("NAMES", &names(16))).is_ok());
            let error = parse(&field.replace("NAMES", &names(17))).unwrap_err();
            assert!(error.to_string().contains(most), "{error}");
        }
        for (json, named) in [
            (r#"{"inject":["a","a"]}"#, "twice"),
            (r#"{"inject":["a,b"]}"#, "a slot"),
            (r#"{"before_turn":{"model":true}}"#, "`model`"),
            (
                r#"{"environment":{"ANTIPHON_INJECT":"x"}}"#,
                "ANTIPHON_INJECT",
            ),
        ] {
            let error = parse(json).unwrap_err().to_string();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn an_agent_is_told_what_is_injected() {
        let config = |json: &str| AgentConfig::parse(json.as_bytes()).unwrap().variables();
        let told = config(r#"{"inject":["brief","a-2"],"environment":{"TONE":"dry"}}"#);
        let told: Vec<(&str, &str)> = told.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(told, [("ANTIPHON_INJECT", "brief,a-2"), ("TONE", "dry")]);
        assert!(config("{}").is_empty());
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        for batching in [
            r#"{"policy":"steer","quiet_ms":60000,"wait_ms_max":60000,"messages_max":100}"#,
            r#"{"policy":"interrupt","quiet_ms":0,"wait_ms_max":0,"messages_max":1}"#,
            r#"{"policy":"followup"}"#,
        ] {
            let config = format!(r#"{{"batching":{batching}}}"#);
            assert!(AgentConfig::parse(config.as_bytes()).is_ok(), "{batching}");
        }
    }

    #[test]
    fn http_is_granted_only_if_it_is_asked_for() {
        let config = |json: &str| AgentConfig::parse(json.as_bytes()).unwrap();
        assert!(!config("{}").grants().contains("http"));
        assert!(config("{}").grants().contains("model"));
        let granted = config(r#"{"grants":["reply","http"],"http":[{"host":"a.example"}]}"#);
        assert!(granted.grants().contains("http") && granted.http[0].host == "a.example");
        let error = AgentConfig::parse(br#"{"http":[{"host":"*"}]}"#).unwrap_err();
        assert!(error.to_string().contains("`http[0].host`"), "{error}");
        let error = AgentConfig::parse(br#"{"http":[{"host":"a.example","ports":[1]}]}"#);
        assert!(matches!(error, Err(ConfigError::UnknownField(text)) if text.contains("`ports`")));
    }

    #[test]
    fn limits_only_go_down() {
        let host = TurnLimits::default();
        let names = [
            "memory_bytes_max",
            "cpu_ms_max",
            "turn_ms_max",
            "host_calls_max",
            "written_bytes_max",
            "handles_max",
            "reply_bytes_max",
            "http_calls_max",
        ];
        for name in names {
            let with = |number: u64| {
                let text = format!(r#"{{"limits":{{"{name}":{number}}}}}"#);
                AgentConfig::parse(text.as_bytes()).unwrap().limits(&host)
            };
            assert_eq!(with(u64::MAX), host, "{name}");
            let lowered = with(5).pinned();
            assert_eq!(lowered, [(name.to_owned(), 5)].into(), "{name}");
        }
    }
}
