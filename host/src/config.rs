//! What a server is told at its start: defaults < TOML file < `ANTIPHON_*` < flags.
//!
//! Invariant: a [`Config`] is complete and checked; nothing reads the environment or a
//! file of settings after it was made. A setting nobody knows is refused by name, so
//! that a misspelt limit is never silently the default.
//!
//! A nested setting's name in the environment joins its parts with two underscores:
//! `limits.turns_max` is `ANTIPHON_LIMITS__TURNS_MAX`.

mod limits;
mod policy;
mod quotas;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Deserializer, de};

use crate::id::TenantId;

pub use limits::Limits;
pub use policy::{BackoffSettings, BreakerSettings, PolicySettings};
pub use quotas::Quotas;

use crate::secret::Secret;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the server listens; port 0 picks one.
    pub listen: SocketAddr,
    /// The folder that holds everything durable.
    pub data: PathBuf,
    /// How long a stopping server waits for running turns.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
    pub durability: Durability,
    pub http: Http,
    pub sessions: Sessions,
    /// Models by name. With none, the built-in provider `offline` answers.
    pub models: BTreeMap<String, Model>,
    pub egress: Egress,
    pub secrets: Secrets,
    pub budgets: Budgets,
    /// What each tenant may use, unless the operator gave it something else.
    pub quotas: Quotas,
    pub limits: Limits,
    /// The program that compiles components when it is run as `PROGRAM compile`; none to compile in
    /// this process. Whoever starts the server knows which it is.
    #[serde(skip)]
    pub compiler: Option<PathBuf>,
}

/// Where agents' requests may go beyond the public Internet. Rules of an agent decide about the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Addresses, networks, and addresses with a port: `127.0.0.1:9000`, `10.1.0.0/16`.
    pub private_allowed: Vec<String>,
    /// Addresses of names that the system's resolver is not asked for.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// Variables of the environment that agents of every tenant may send as `env:NAME`.
    pub env_allowed: Vec<String>,
    /// Their texts, never from a file.
    #[serde(skip)]
    pub environment: BTreeMap<String, Secret>,
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Loss of power: every commit is synced to the disk.
    #[default]
    Power,
    /// Death of the process only.
    Process,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Origins of web pages that may call; none by default.
    pub cors_origins: Vec<String>,
    /// The tenant whose Durable Streams anybody may use who reaches the server, without a key: for closed networks.
    pub streams_open_to: Option<TenantId>,
    /// Without it, HTTP is served in the clear.
    pub tls: Option<Tls>,
}

/// What the server shows of itself. PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate, then those that lead to its root.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// After how long without events a session ends that `invoke` made by itself.
    #[serde(deserialize_with = "duration")]
    pub invoked_expire_after: Duration,
    /// The same of a session that a request of the OpenAI API made for itself alone.
    #[serde(deserialize_with = "duration")]
    pub chat_expire_after: Duration,
}

/// An OpenAI-compatible endpoint and a model behind it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// With the version, without `/chat/completions`; no `/` at its end.
    pub base_url: String,
    /// The environment variable that holds the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// The key itself, never from a file.
    #[serde(skip)]
    pub api_key: Option<Secret>,
    /// What the endpoint calls the model. Servers of a single model take any name.
    #[serde(default = "default_model")]
    pub model: String,
    /// What calls of it cost; nothing if it is left out.
    #[serde(default)]
    pub price: Option<Price>,
    /// How it is called.
    #[serde(default)]
    pub policy: PolicySettings,
}

/// Millionths of a currency per million tokens: the unit that budgets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input_micros: u64,
    pub output_micros: u64,
}

/// What tenants may spend on models. A cap that is left out is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// Each tenant, in all.
    pub total_micros_max: Option<u64>,
    /// Each tenant, on one day (UTC).
    pub day_micros_max: Option<u64>,
    /// Tenants with caps of their own; what is left out there is as above.
    pub tenants: BTreeMap<TenantId, TenantBudget>,
}

/// What one tenant may spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantBudget {
    pub total_micros_max: Option<u64>,
    pub day_micros_max: Option<u64>,
}

/// Settings given on the command line; they win.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub listen: Option<SocketAddr>,
    pub data: Option<PathBuf>,
    pub drain: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings in {}: {error}", path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is not TOML: {reason}", path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("unknown setting `{name}` in {source_name}; known here: {known}")]
    Unknown {
        name: String,
        source_name: String,
        known: String,
    },
    #[error("setting `{name}` in {source_name}: {reason}")]
    Invalid {
        name: String,
        source_name: String,
        reason: String,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7171)),
            data: PathBuf::from("antiphon-data"),
            // Orchestrators kill after 30 s at the latest; a word in the middle is said by then.
            drain: Duration::from_secs(10),
            durability: Durability::default(),
            http: Http::default(),
            sessions: Sessions::default(),
            models: BTreeMap::new(),
            egress: Egress::default(),
            secrets: Secrets::default(),
            budgets: Budgets::default(),
            quotas: Quotas::default(),
            limits: Limits::default(),
            compiler: None,
        }
    }
}

impl Default for Sessions {
    fn default() -> Self {
        // Long enough to look at yesterday's call.
        Self {
            invoked_expire_after: Duration::from_secs(24 * 60 * 60),
            // Its client tells everything again with the next request: long enough for a look at what happened.
            chat_expire_after: Duration::from_secs(60 * 60),
        }
    }
}

/// Variables of our prefix that are not settings of the server.
const NOT_SETTINGS: [&str; 4] = ["URL", "KEY", "LOG", "CONFIG"];
const PREFIX: &str = "ANTIPHON_";
const MODEL_URL: &str = "ANTIPHON_MODEL_URL";
const MODEL_KEY: &str = "ANTIPHON_MODEL_KEY";
const MODEL_NAME: &str = "ANTIPHON_MODEL_NAME";

fn default_model() -> String {
    "default".to_owned()
}

impl Config {
    /// Put a server's settings together. The environment is handed in whole.
    pub fn resolve(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        let mut figment = Figment::new();
        if let Some(path) = file {
            figment = figment.merge(Layer::file(path)?);
        }
        for layer in Layer::environment(&environment) {
            figment = figment.merge(layer);
        }
        figment = figment.merge(Layer::flags(flags));
        let mut config: Self = figment
            .extract()
            .map_err(|error| ConfigError::of(error, &figment))?;
        config.check(&figment)?;
        config.take_keys(&environment, &figment)?;
        config.take_secrets(&environment, &figment)?;
        Ok(config)
    }

    fn check(&self, figment: &Figment) -> Result<(), ConfigError> {
        for (name, value) in self.limits.named() {
            if value == 0 {
                return Err(invalid(figment, &format!("limits.{name}"), "must not be 0"));
            }
        }
        for (name, model) in &self.models {
            if !model.base_url.starts_with("http://") && !model.base_url.starts_with("https://") {
                let name = format!("models.{name}.base_url");
                return Err(invalid(
                    figment,
                    &name,
                    "must begin with http:// or https://",
                ));
            }
            if let Err((field, reason)) = model.policy.check() {
                let name = format!("models.{name}.{field}");
                return Err(invalid(figment, &name, &reason));
            }
        }
        Ok(())
    }

    /// Fetch the models' keys from the variables that hold them.
    fn take_keys(
        &mut self,
        environment: &BTreeMap<String, String>,
        figment: &Figment,
    ) -> Result<(), ConfigError> {
        for (name, model) in &mut self.models {
            model
                .base_url
                .truncate(model.base_url.trim_end_matches('/').len());
            if let Some(variable) = &model.api_key_env {
                let key = environment.get(variable).filter(|key| !key.is_empty());
                let Some(key) = key else {
                    let name = format!("models.{name}.api_key_env");
                    let reason = format!("the variable {variable} is not set");
                    return Err(invalid(figment, &name, &reason));
                };
                model.api_key = Some(Secret::new(key));
            }
        }
        let key = environment.get(MODEL_KEY).filter(|key| !key.is_empty());
        if let (Some(model), Some(key)) = (self.models.get_mut("default"), key) {
            model.api_key = Some(Secret::new(key));
        }
        Ok(())
    }
}

impl Config {
    /// Fetch the secrets from the variables that may be named.
    fn take_secrets(
        &mut self,
        environment: &BTreeMap<String, String>,
        figment: &Figment,
    ) -> Result<(), ConfigError> {
        for variable in &self.secrets.env_allowed {
            let text = environment.get(variable).filter(|text| !text.is_empty());
            let Some(text) = text else {
                let reason = format!("the variable {variable} is not set");
                return Err(invalid(figment, "secrets.env_allowed", &reason));
            };
            let secret = Secret::new(text);
            self.secrets.environment.insert(variable.clone(), secret);
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let expected = "expected a duration such as \"10s\" or \"24h\"";
    let text = String::deserialize(deserializer).map_err(|_| de::Error::custom(expected))?;
    humantime::parse_duration(&text).map_err(|_| de::Error::custom(expected))
}

/// A setting as the environment has it: a number, a list in brackets; what is nothing else is text.
fn value(text: &str) -> Value {
    // Figment takes characters for bytes where it reads an escape, and panics between them.
    if text.contains('\\') && !text.is_ascii() {
        return Value::from(text);
    }
    // Parsing cannot fail.
    text.parse().unwrap_or_else(|_| Value::from(text))
}

/// Settings of one origin.
struct Layer {
    name: String,
    settings: Dict,
}

impl Layer {
    fn file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        let settings = Toml::from_str(&text).map_err(|error| {
            let reason = error.to_string();
            // The first line says where, the last what; between them is a drawing.
            let lines: Vec<&str> = reason.lines().filter(|line| !line.contains('|')).collect();
            ConfigError::Malformed {
                path: path.to_owned(),
                reason: lines.join(": "),
            }
        })?;
        Ok(Self {
            name: path.display().to_string(),
            settings,
        })
    }

    /// One layer per variable, so that an error can name it.
    fn environment(environment: &BTreeMap<String, String>) -> impl Iterator<Item = Self> {
        environment.iter().filter_map(|(variable, text)| {
            let name = variable.strip_prefix(PREFIX)?;
            if NOT_SETTINGS.contains(&name) || text.is_empty() {
                return None;
            }
            let (path, value) = match variable.as_str() {
                MODEL_URL => (
                    "models.default.base_url".to_owned(),
                    Value::from(text.as_str()),
                ),
                MODEL_NAME => (
                    "models.default.model".to_owned(),
                    Value::from(text.as_str()),
                ),
                MODEL_KEY => return None,
                _ => (name.to_ascii_lowercase().replace("__", "."), value(text)),
            };
            let settings = figment::util::nest(&path, value)
                .into_dict()
                .unwrap_or_default();
            Some(Self {
                name: format!("the environment ({variable})"),
                settings,
            })
        })
    }

    fn flags(flags: &Flags) -> Self {
        let mut settings = Dict::new();
        if let Some(listen) = flags.listen {
            settings.insert("listen".into(), listen.to_string().into());
        }
        if let Some(data) = &flags.data {
            settings.insert("data".into(), data.to_string_lossy().into_owned().into());
        }
        if let Some(drain) = flags.drain {
            let drain = humantime::format_duration(drain).to_string();
            settings.insert("drain".into(), drain.into());
        }
        Self {
            name: "the command line".to_owned(),
            settings,
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

fn source_of(figment: &Figment, name: &str) -> String {
    figment
        .find_metadata(name)
        .map_or_else(|| "the settings".into(), |found| found.name.to_string())
}

fn invalid(figment: &Figment, name: &str, reason: &str) -> ConfigError {
    ConfigError::Invalid {
        name: name.to_owned(),
        source_name: source_of(figment, name),
        reason: reason.to_owned(),
    }
}

impl ConfigError {
    fn of(error: figment::Error, figment: &Figment) -> Self {
        let mut path: Vec<String> = error.path.clone();
        match &error.kind {
            Kind::UnknownField(field, known) => {
                if path.last() != Some(field) {
                    path.push(field.clone());
                }
                let name = path.join(".");
                let source_name = source_of(figment, &name);
                Self::Unknown {
                    source_name,
                    name,
                    known: known.join(", "),
                }
            }
            Kind::MissingField(field) => {
                path.push(field.to_string());
                let source_name = source_of(figment, &error.path.join("."));
                let name = path.join(".");
                Self::Invalid {
                    name,
                    source_name,
                    reason: "is missing".to_owned(),
                }
            }
            kind => {
                let name = path.join(".");
                let reason = match kind {
                    Kind::UnknownVariant(found, known) => {
                        format!("`{found}` is none of {}", known.join(", "))
                    }
                    kind => kind.to_string(),
                };
                Self::Invalid {
                    source_name: source_of(figment, &name),
                    name,
                    reason,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
