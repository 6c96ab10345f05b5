//! How a command fails: one clear line, and a hint when there is something to do.

use std::fmt;
use std::process::ExitCode;

use super::term::{Paint, Style, one_line};

/// An error with what to do about it.
#[derive(Debug)]
struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// The person asked to stop, so there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// A child process has said what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("said already")]
pub(super) struct SaidAlready;

pub(super) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted {
        message: message.into(),
        hint: hint.into(),
    }
    .into()
}

pub(super) trait Hint<T> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    /// Say what to do about an error, unless a cause further down already does.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| {
            let error = error.into();
            if hint_of(&error).is_some() {
                return error;
            }
            hinted(format!("{error:#}"), hint)
        })
    }
}

fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Hinted>())
        .map(|hinted| hinted.hint.as_str())
}

/// Say what went wrong, if something did.
pub(super) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if error.is::<Interrupted>() {
        return ExitCode::from(130);
    }
    if error.is::<SaidAlready>() {
        return ExitCode::FAILURE;
    }
    if is_broken_pipe(&error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    eprint!("{}", describe(&error, Paint::stderr()));
    ExitCode::FAILURE
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

pub(super) fn describe(error: &anyhow::Error, paint: Paint) -> String {
    let mut text = format!(
        "{} {}\n",
        paint.paint(Style::Bad, "error:"),
        one_line(&format!("{error:#}"))
    );
    if let Some(hint) = hint_of(error) {
        text.push_str(&format!("{}  {hint}\n", paint.paint(Style::Dim, "hint:")));
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_is_one_line_and_a_hint() {
        let error = Err::<(), _>(std::io::Error::other("no\nanswer"))
            .context("cannot reach it")
            .hint("start it")
            .hint("not this one")
            .unwrap_err();
        assert_eq!(
            describe(&error, Paint::off()),
            "error: cannot reach it: no answer\nhint:  start it\n"
        );
    }
}
