//! `antiphon logs`: what an agent printed and logged.

use std::time::Duration;

use antiphon::id::{AgentName, SessionId};
use serde_json::Value;

use super::client::{CallError, Client, LogLine};
use super::place::{Remote, agent_name, session_id};
use super::server::asked_to_stop;
use super::term::{Paint, Style, out, tame};

/// Lines are kept in a ring and survive no restart, so asking again is all that is needed.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Show what an agent printed and logged
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  antiphon logs poet --follow")]
pub(super) struct Args {
    #[arg(value_parser = agent_name)]
    agent: AgentName,
    /// Only of this session
    #[arg(long, value_parser = session_id)]
    session: Option<SessionId>,
    /// Go on showing lines as they come
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(args.remote.find()?)?;
    let paint = Paint::stdout();
    let mut after = 0;
    let mut is_lost = false;
    loop {
        match client.logs(&args.agent, args.session.as_ref()).await {
            Ok(lines) => {
                // A server that was started again counts from the beginning.
                if std::mem::take(&mut is_lost) {
                    after = 0;
                }
                for line in lines.iter().filter(|line| line.number > after) {
                    out(&show(line, paint))?;
                }
                after = lines.last().map_or(after, |line| line.number.max(after));
            }
            Err(error) if args.follow && error.is_transient() => {
                if !std::mem::replace(&mut is_lost, true) {
                    eprintln!("reconnecting…");
                }
            }
            Err(error) => return Err(CallError::explain(error)),
        }
        if !args.follow {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = asked_to_stop() => return Ok(()),
        }
    }
}

fn show(line: &LogLine, paint: Paint) -> String {
    let time = match &line.time {
        // The time of day is enough for people.
        Value::String(text) => text.get(11..23).unwrap_or(text).to_owned(),
        _ => String::new(),
    };
    let level = line.level.as_deref().unwrap_or(&line.source);
    let style = if level == "error" {
        Style::Bad
    } else {
        Style::Name
    };
    let mut text = format!(
        "{} {} {}",
        paint.paint(Style::Dim, &format!("{time} {}", line.session)),
        paint.paint(style, &format!("{level:<6}")),
        tame(&line.text)
    );
    for (name, value) in &line.fields {
        text.push_str(&format!(" {name}={}", tame(value)));
    }
    format!("{}\n", text.trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_when_where_and_what() {
        let line = json!({"number": 1, "time": "2026-11-21T09:30:00.125Z", "session": "s-1",
            "turn": "t", "source": "log", "level": "warn", "text": "late\u{7}",
            "fields": [["ms", "7"]]});
        assert_eq!(
            show(&serde_json::from_value(line).unwrap(), Paint::off()),
            "09:30:00.125 s-1 warn   late\u{fffd} ms=7\n"
        );
    }
}
