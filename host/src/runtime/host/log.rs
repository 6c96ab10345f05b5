//! `log`: telemetry, beside the journal.

use crate::logs::Source;
use crate::runtime::bindings::antiphon::agent::log::{Host, Level};
use crate::runtime::guest::Guest;

/// Fields of one line.
const FIELDS_MAX: usize = 32;
const FIELD_BYTES_MAX: usize = 1024;

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(FIELD_BYTES_MAX));
    text
}

impl Host for Guest {
    fn event(
        &mut self,
        level: Level,
        message: String,
        fields: Vec<(String, String)>,
    ) -> wasmtime::Result<()> {
        self.scope.count()?;
        let level = match level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let fields = fields
            .into_iter()
            .take(FIELDS_MAX)
            .map(|(name, value)| (cut(name), cut(value)));
        self.scope
            .log(Source::Log, Some(level), message, fields.collect());
        Ok(())
    }
}
