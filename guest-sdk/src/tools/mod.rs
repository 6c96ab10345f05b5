//! Tools: functions that a model may call.
//!
//! A [`Tool`] is a typed function; the JSON schema that the model sees comes from its
//! argument's type. [`relay`] and [`complete`] go round with the model, bounded.
//! [`mailbox_tools`], [`transcript_tools`], [`context_tools`] and [`handoff_tools`] hand the
//! model itself the mailbox, the transcript, the context and notes for its return.
//! Invariant: nothing that a model writes makes a tool call panic or the turn fail.
//! Malformed arguments, an unknown name and a tool's own error are results, in words that
//! let the model do better.

mod rounds;
mod session;

use std::fmt::{self, Display};

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;

pub use rounds::{Rounds, complete, relay};
pub use session::{context_tools, handoff_tools, mailbox_tools, transcript_tools};

use crate::model;

/// A function that a model may call.
///
/// ```
/// use antiphon_sdk::tools::{Tool, ToolSet};
/// use antiphon_sdk::{schemars, serde};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(crate = "antiphon_sdk::serde")]
/// #[schemars(crate = "antiphon_sdk::schemars")]
/// struct Sum {
///     /// What to add up.
///     numbers: Vec<i64>,
/// }
///
/// let sum = Tool::new("sum", "Adds numbers up.", |sum: Sum| {
///     sum.numbers
///         .into_iter()
///         .try_fold(0_i64, i64::checked_add)
///         .map(|total| total.to_string())
///         .ok_or("too large")
/// });
/// let mut tools = ToolSet::new().with(sum);
/// assert_eq!(tools.call("sum", r#"{"numbers": [1, 2, 3]}"#), "6");
/// assert!(tools.call("sum", r#"{"numbers": 1}"#).contains("invalid type"));
/// ```
pub struct Tool<'a> {
    declaration: model::Tool,
    call: Box<dyn FnMut(&str) -> String + 'a>,
}

impl<'a> Tool<'a> {
    /// A tool whose arguments are an `A`, documented by the comments of `A`'s fields. What
    /// `call` answers, text or error, is what the model reads.
    pub fn new<A, E>(
        name: impl Into<String>,
        description: impl Into<String>,
        mut call: impl FnMut(A) -> Result<String, E> + 'a,
    ) -> Self
    where
        A: DeserializeOwned + JsonSchema,
        E: Display,
    {
        Self {
            declaration: model::Tool {
                name: name.into(),
                description: description.into(),
                parameters: schema::<A>(),
            },
            call: Box::new(move |arguments| {
                // Models leave the arguments of a tool that needs none empty.
                let arguments = if arguments.trim().is_empty() {
                    "{}"
                } else {
                    arguments
                };
                match serde_json::from_str(arguments) {
                    Ok(arguments) => {
                        call(arguments).unwrap_or_else(|error| format!("Error: {error}"))
                    }
                    Err(error) => format!("Error: the arguments are not what is asked: {error}"),
                }
            }),
        }
    }
}

impl fmt::Debug for Tool<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tool").field(&self.declaration).finish()
    }
}

/// The schema as providers want it: one self-contained object, nothing about its dialect.
fn schema<A: JsonSchema>() -> String {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<A>();
    // The name of a Rust type tells a model nothing, and every request pays for it.
    schema.remove("title");
    schema.as_value().to_string()
}

/// The tools of a request, in the order in which the model is told of them.
#[derive(Debug, Default)]
#[must_use]
pub struct ToolSet<'a> {
    tools: Vec<Tool<'a>>,
}

impl<'a> ToolSet<'a> {
    /// No tools.
    pub fn new() -> Self {
        Self::default()
    }

    /// And this one. Of two with the same name the later replaces the earlier.
    pub fn with(mut self, tool: Tool<'a>) -> Self {
        self.tools
            .retain(|other| other.declaration.name != tool.declaration.name);
        self.tools.push(tool);
        self
    }

    /// And all of these.
    pub fn and(self, others: Self) -> Self {
        others.tools.into_iter().fold(self, Self::with)
    }

    /// What the model is told.
    pub fn declarations(&self) -> Vec<model::Tool> {
        self.tools
            .iter()
            .map(|tool| tool.declaration.clone())
            .collect()
    }

    /// Call a tool as a model does. The answer is what the model reads.
    pub fn call(&mut self, name: &str, arguments: &str) -> String {
        match self
            .tools
            .iter_mut()
            .find(|tool| tool.declaration.name == name)
        {
            Some(tool) => (tool.call)(arguments),
            None => {
                let names: Vec<_> = self
                    .tools
                    .iter()
                    .map(|tool| &*tool.declaration.name)
                    .collect();
                format!(
                    "Error: there is no tool {name:?}; there are: {}",
                    names.join(", ")
                )
            }
        }
    }
}
