//! PURE: what a replay came to, as text for people and as JSON.

use antiphon::model::{Message, Request};
use antiphon::session::replay::{Difference, Replayed};
use serde_json::{Value, json};

use super::fetch::Recorded;
use crate::cli::term::{Paint, Style, short, span, tame};

/// Characters of a message that are shown.
const MESSAGE_CHARS: usize = 160;
/// Characters shown before the place where two messages part.
const BEFORE_CHARS: usize = 40;
/// Messages of a request that are shown: the first ones say who the agent is, the last ones
/// what it was about.
const FIRST_MESSAGES: usize = 2;
const LAST_MESSAGES: usize = 10;
/// Bytes shown of what was said before a difference.
const SAID_BYTES: usize = 400;

pub(super) struct Report<'a> {
    pub(super) recorded: &'a Recorded,
    /// Another component than the turn's own was run.
    pub(super) is_own: bool,
    pub(super) replayed: &'a Replayed,
    /// What the turn's own component asked the model where this one differs.
    pub(super) asked_then: Option<&'a Request>,
}

impl Report<'_> {
    pub(super) fn text(&self, paint: Paint) -> String {
        let replayed = self.replayed;
        let took = span(u64::try_from(replayed.took.as_millis()).unwrap_or(u64::MAX));
        let turn = format!(
            "turn {} of {}, version {}",
            self.recorded.number, self.recorded.agent, self.recorded.version
        );
        let Some(difference) = &replayed.difference else {
            let ended = self.ended();
            return format!(
                "{} {}, {}, {ended} ({turn}, replayed in {took})\n",
                paint.paint(Style::Good, "the same:"),
                count(replayed.calls, "call"),
                count(words(&replayed.said), "word"),
            );
        };
        let at = match (difference.at, difference.kind) {
            (Some(at), Some(kind)) => format!(" at entry {at} ({kind})"),
            _ => String::new(),
        };
        let mut text = format!(
            "{}{at} after {} of {} and {} of {} ({turn}, replayed in {took})\n\n",
            paint.paint(Style::Bad, "it differs"),
            replayed.calls,
            count(replayed.calls_recorded, "call"),
            words(&replayed.said),
            count(words(&replayed.said_recorded), "word"),
        );
        let label = |name: &str| paint.paint(Style::Strong, &format!("{name:<9}"));
        text.push_str(&format!(
            "{} {}\n",
            label("recorded"),
            tame(&difference.recorded)
        ));
        text.push_str(&format!("{} {}\n", label("now"), tame(&difference.does)));
        if !replayed.said.is_empty() {
            text.push_str(&format!(
                "\nsaid until then:\n{}\n",
                indented(&tail(&replayed.said))
            ));
        }
        if let Some(request) = &difference.request {
            let lines = match self.asked_then {
                Some(then) => difference_of(then, request),
                None => messages(request),
            };
            text.push_str(&format!("\n{}\n", lines.join("\n")));
        }
        if let Some(backtrace) = &replayed.backtrace {
            text.push_str(&format!("\nwhere it was:\n{}\n", indented(backtrace)));
        }
        text
    }

    /// How the turn ended, and how the run did if that is not the same thing.
    fn ended(&self) -> String {
        let recorded = &self.replayed.recorded_end;
        match &self.replayed.end {
            Some(end) if end == recorded => format!("ended {recorded}"),
            Some(end) => format!("ended {recorded}; here it went on and ended {end}"),
            None => format!("ended {recorded}; here it would have gone on"),
        }
    }

    pub(super) fn json(&self) -> Value {
        let (recorded, replayed) = (self.recorded, self.replayed);
        let difference = replayed.difference.as_ref();
        json!({
            "session": recorded.case.session,
            "turn": recorded.case.turn,
            "agent": recorded.agent,
            "version": recorded.version,
            "component": if self.is_own { "given" } else { "recorded" },
            "same": difference.is_none(),
            "calls": replayed.calls,
            "calls_recorded": replayed.calls_recorded,
            "words": words(&replayed.said),
            "words_recorded": words(&replayed.said_recorded),
            "took_ms": u64::try_from(replayed.took.as_millis()).unwrap_or(u64::MAX),
            "recorded_end": replayed.recorded_end,
            "end": replayed.end,
            "said": replayed.said,
            "difference": difference.map(|it| self.difference(it)),
            "backtrace": replayed.backtrace,
        })
    }

    fn difference(&self, difference: &Difference) -> Value {
        json!({
            "entry": difference.at,
            "kind": difference.kind,
            "recorded": difference.recorded,
            "now": difference.does,
            "request": difference.request.as_ref().map(|request| request_json(request)),
            "request_recorded": self.asked_then.map(request_json),
        })
    }
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The end of a long text.
fn tail(text: &str) -> String {
    let from = text.ceil_char_boundary(text.len().saturating_sub(SAID_BYTES));
    match from {
        0 => text.to_owned(),
        from => format!("…{}", &text[from..]),
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = tame(text).lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// Who a message is from, and its text.
fn parts(message: &Message) -> (String, String) {
    match message {
        Message::System(text) => ("system".to_owned(), text.clone()),
        Message::User { name: None, text } => ("user".to_owned(), text.clone()),
        Message::User {
            name: Some(name),
            text,
        } => (format!("user {name}"), text.clone()),
        Message::Assistant { text, tool_calls } => {
            let calls = tool_calls
                .iter()
                .map(|call| format!("{}({})", call.name, call.arguments));
            let parts: Vec<String> = text.iter().cloned().chain(calls).collect();
            ("assistant".to_owned(), parts.join(" "))
        }
        Message::Tool { call, text } => (format!("tool {call}"), text.clone()),
    }
}

fn line(at: usize, message: &Message) -> String {
    let (who, text) = parts(message);
    format!("  {:>3} {who}: {}", at + 1, short(&text, MESSAGE_CHARS))
}

/// The request's messages, shortened.
fn messages(request: &Request) -> Vec<String> {
    let all = &request.messages;
    let mut lines = vec![format!("it asks with {}:", count(all.len(), "message"))];
    let hidden = FIRST_MESSAGES..all.len().saturating_sub(LAST_MESSAGES).max(FIRST_MESSAGES);
    for (at, message) in all.iter().enumerate() {
        if !hidden.contains(&at) {
            lines.push(line(at, message));
        } else if at == hidden.start {
            lines.push(format!("      … {} more …", hidden.len()));
        }
    }
    lines
}

/// Where two requests part.
fn difference_of(then: &Request, now: &Request) -> Vec<String> {
    let mut lines = Vec::new();
    let both = then.messages.iter().zip(&now.messages);
    let same = both.take_while(|(then, now)| then == now).count();
    let (before, after) = (then.messages.get(same), now.messages.get(same));
    if before.is_some() || after.is_some() {
        lines.push(match same {
            0 => "the request differs from its first message on:".to_owned(),
            1 => "the request's first message is the same, then:".to_owned(),
            same => format!("the request's first {same} messages are the same, then:"),
        });
        let at = match (before, after) {
            (Some(before), Some(after)) => common(&parts(before).1, &parts(after).1),
            _ => 0,
        };
        let shown = |message: Option<&Message>| match message {
            None => "nothing more".to_owned(),
            Some(message) => {
                let (who, text) = parts(message);
                format!("{who}: {}", from(&text, at))
            }
        };
        lines.push(format!("  then {}", shown(before)));
        lines.push(format!("  now  {}", shown(after)));
        let (then, now) = (then.messages.len(), now.messages.len());
        if then != now {
            lines.push(format!("  {then} messages then, {now} now"));
        }
    }
    if then.tools != now.tools {
        let names = |request: &Request| {
            let names = request.tools.iter().map(|tool| tool.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let (then, now) = (names(then), names(now));
        lines.push(match then == now {
            true => format!("the tools differ in what they say of themselves: {now}"),
            false => format!("the tools differ: {then} then, {now} now"),
        });
    }
    if then.tool_choice != now.tool_choice || then.parameters != now.parameters {
        lines.push("the parameters differ".to_owned());
        lines.push(format!(
            "  then {:?} {:?}",
            then.tool_choice, then.parameters
        ));
        lines.push(format!("  now  {:?} {:?}", now.tool_choice, now.parameters));
    }
    lines
}

/// Characters that both begin with.
fn common(one: &str, other: &str) -> usize {
    let both = one.chars().zip(other.chars());
    both.take_while(|(one, other)| one == other).count()
}

/// A text from a little before a place on.
fn from(text: &str, at: usize) -> String {
    let skipped = at.saturating_sub(BEFORE_CHARS);
    let rest: String = text.chars().skip(skipped).collect();
    let dots = if skipped > 0 { "…" } else { "" };
    format!("{dots}{}", short(&rest, MESSAGE_CHARS))
}

fn request_json(request: &Request) -> Value {
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| {
            let (who, text) = parts(message);
            json!({"from": who, "text": text})
        })
        .collect();
    let tools: Vec<&str> = request
        .tools
        .iter()
        .map(|tool| tool.name.as_str())
        .collect();
    json!({"messages": messages, "tools": tools})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Message {
        Message::User {
            name: None,
            text: text.to_owned(),
        }
    }

    fn request(texts: &[&str]) -> Request {
        Request {
            messages: texts.iter().map(|text| user(text)).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn long_requests_are_shown_by_their_ends() {
        let texts: Vec<String> = (1..=20).map(|number| format!("text {number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let lines = messages(&request(&texts));
        assert_eq!(lines[0], "it asks with 20 messages:");
        assert_eq!(lines[2], "    2 user: text 2");
        assert_eq!(lines[3], "      … 8 more …");
        assert_eq!(lines[4], "   11 user: text 11");
        assert_eq!(lines.len(), 14);
        assert_eq!(messages(&request(&texts[..12])).len(), 13, "none is hidden");
        assert_eq!(messages(&request(&[])), ["it asks with 0 messages:"]);
    }

    #[test]
    fn requests_are_compared_message_by_message() {
        let long = "x".repeat(100);
        let lines = difference_of(
            &request(&["same", &format!("{long} then"), "end"]),
            &request(&["same", &format!("{long} now")]),
        );
        let before = "x".repeat(39);
        assert_eq!(
            lines,
            [
                "the request's first message is the same, then:".to_owned(),
                format!("  then user: …{before} then"),
                format!("  now  user: …{before} now"),
                "  3 messages then, 2 now".to_owned(),
            ]
        );
        let mut colder = request(&["same"]);
        colder.parameters.temperature = Some(0.0);
        let lines = difference_of(&request(&["same"]), &colder);
        assert_eq!(lines[0], "the parameters differ");
        assert!(lines[2].contains("temperature: Some(0.0)"), "{lines:?}");
    }

    #[test]
    fn long_replies_are_shown_by_their_end() {
        assert_eq!(tail("short"), "short");
        let shown = tail(&"é".repeat(400));
        assert!(shown.starts_with('…') && shown.len() <= SAID_BYTES + '…'.len_utf8());
        assert_eq!(indented("a\nb\u{7}"), "  a\n  b\u{fffd}");
    }
}
