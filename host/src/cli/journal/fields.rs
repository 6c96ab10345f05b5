//! PURE: the fields of one entry, taken out one by one.
//!
//! Invariant: a field that nobody takes, because it is new or not of the form that is
//! known here, is left in [`Fields::rest`] and shown as it is. So an older command line
//! hides nothing that a newer server says.

use antiphon::clock::Time;
use serde_json::{Map, Value};

use super::super::event::Event;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: String,
    pub(super) time: Option<Time>,
    pub(super) kind: String,
    /// Without those that every entry has.
    pub(super) fields: Fields,
    /// What is shown under scope `inspect` alone.
    pub(super) private: Fields,
}

impl Entry {
    pub(super) fn of(event: &Event) -> Self {
        let mut fields = Fields::of(serde_json::from_str(&event.raw).unwrap_or_default());
        fields.ignore(&["offset", "time", "kind"]);
        let private = fields.inner("private");
        Self {
            seq: event.seq().to_owned(),
            time: event.time,
            kind: event.kind.clone(),
            fields,
            private,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Of what is no object, nothing.
    pub(super) fn of(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self(fields),
            _ => Self::default(),
        }
    }

    pub(super) fn value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        let text = self.0.get(name)?.as_str()?.to_owned();
        self.0.remove(name);
        Some(text)
    }

    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        let number = self.0.get(name)?.as_u64()?;
        self.0.remove(name);
        Some(number)
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let flag = self.0.get(name).and_then(Value::as_bool);
        if flag.is_some() {
            self.0.remove(name);
        }
        flag.unwrap_or(false)
    }

    pub(super) fn list(&mut self, name: &str) -> Vec<Value> {
        match self.0.get(name) {
            Some(Value::Array(_)) => match self.0.remove(name) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        self.list(name).into_iter().map(text).collect()
    }

    /// The fields of an object in a field.
    pub(super) fn inner(&mut self, name: &str) -> Self {
        match self.0.get(name) {
            Some(Value::Object(_)) => Self::of(self.0.remove(name).unwrap_or_default()),
            _ => Self::default(),
        }
    }

    /// Fields whose values tell a person nothing.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// What nobody took, as JSON; empty if nothing is left.
    pub(super) fn rest(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        Value::Object(self.0.clone()).to_string()
    }
}
