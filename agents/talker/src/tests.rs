use antiphon_sdk::Cause;
use antiphon_sdk::mailbox::{Body, Sender};
use antiphon_sdk::model::{Message, ModelError, Request};
use antiphon_sdk::testing::{Answer, Host};

use super::{TELL, Talker};

fn session() -> Host {
    let host = Host::new("talker");
    host.peer("thinker").watch("analysis");
    host
}

/// A request's messages without the system text, as `role: text`.
fn shown(request: &Request) -> Vec<String> {
    request
        .messages
        .iter()
        .filter_map(|message| match message {
            Message::System(_) => None,
            Message::User(user) => Some(format!("user: {}", user.text)),
            Message::Assistant(said) => Some(format!("assistant: {}", said.text.as_ref()?)),
            Message::Tool(tool) => Some(format!("tool: {}", tool.text)),
        })
        .collect()
}

#[test]
fn answers_from_slot_and_transcript_with_the_messages_last() {
    let host = session();
    host.receive("ana", "Shall we move to Porto?");
    host.answer(Answer::pieces(["Let me ", "see."]));
    assert_eq!(host.turn::<Talker>().said, "Let me see.");

    host.commit("analysis", "Rents are <lower>.")
        .lock("analysis", "run-9.t0.thinker");
    host.receive("ana", "And?");
    host.receive("ana", "Well?");
    host.answer(Answer::text("Rents are lower."));
    let turn = host.turn::<Talker>();

    assert_eq!(turn.said, "Rents are lower.");
    assert_eq!(turn.consumed.len(), 2);
    assert_eq!(
        shown(&turn.requests[0]),
        [
            "user: <slot name=\"analysis\" state=\"locked\" \
             written-at=\"2026-01-01T00:00:00Z\">Rents are &lt;lower&gt;.</slot>",
            "user: Shall we move to Porto?",
            "assistant: Let me see.",
            "user: And?",
            "user: Well?",
        ]
    );
}

#[test]
fn hands_on_what_people_say_even_if_it_cannot_answer() {
    let host = session();
    host.receive("ana", "Porto?");
    host.receive_from(
        Sender::Agent("clerk".to_owned()),
        Body::Text("filed".to_owned()),
    );
    host.answer(Answer::error(ModelError::CircuitOpen));
    let turn = host.turn::<Talker>();

    assert!(turn.result.is_err());
    let sent: Vec<_> = turn
        .sent
        .iter()
        .map(|sent| (&*sent.to, sent.body.as_text()))
        .collect();
    assert_eq!(sent, [("thinker", "Porto?")]);
    assert_eq!(
        turn.left.len(),
        2,
        "nothing was said, so both are tried again"
    );
}

#[test]
fn hands_a_burst_on_as_one_matter() {
    let host = session();
    host.receive("ana", "Porto?");
    host.receive("ben", "Or Lisbon?");
    host.answer(Answer::text("Let me see."));
    let turn = host.turn::<Talker>();

    let sent: Vec<&str> = turn.sent.iter().map(|sent| sent.body.as_text()).collect();
    assert_eq!(sent, ["Porto?\n\nOr Lisbon?"]);
}

#[test]
fn answers_where_nobody_thinks() {
    let host = Host::new("talker");
    host.receive("ana", "Porto?");
    host.answer(Answer::text("Why not."));
    let turn = host.turn::<Talker>();

    assert_eq!((turn.said.as_str(), turn.sent.len()), ("Why not.", 0));
    assert_eq!(host.logs(), []);
}

#[test]
fn tells_what_the_analysis_says_once_it_is_written() {
    let host = session();
    host.commit("analysis", "Rents are lower.");
    host.answer(Answer::text("Good news on rents."));
    let turn = host.turn::<Talker>();

    assert_eq!(turn.causes, [Cause::Slot("analysis".to_owned())]);
    assert_eq!(turn.said, "Good news on rents.");
    let shown = shown(&turn.requests[0]);
    assert!(shown[0].contains("Rents are lower."), "{shown:?}");
    assert_eq!(shown.last(), Some(&format!("user: {TELL}")));
}

#[test]
fn says_nothing_when_there_is_nothing_to_say() {
    let host = session();
    let turn = host.turn_because::<Talker>(vec![Cause::Wake]);
    assert_eq!((turn.output().wake_at, turn.requests.len()), (None, 0));
}

#[test]
fn an_answer_that_breaks_off_is_gone_on_with_where_it_stopped() {
    let host = session();
    host.receive("ana", "Porto?");
    host.answer(Answer::pieces(["Rents are ", "low"]).interrupted())
        .answer(Answer::pieces(["are low", "er there."]));
    let turn = host.turn::<Talker>();

    turn.output();
    assert_eq!(turn.said, "Rents are lower there.");
    let messages = shown(&turn.requests[1]);
    assert_eq!(messages[..messages.len() - 2], shown(&turn.requests[0]));
    assert_eq!(messages[messages.len() - 2], "assistant: Rents are low");
}

#[test]
fn an_answer_that_keeps_breaking_off_fails_the_turn_and_stays() {
    let host = session();
    host.receive("ana", "Porto?");
    for text in ["One ", "two ", "three "] {
        host.answer(Answer::text(text).interrupted());
    }
    let turn = host.turn::<Talker>();

    assert!(turn.result.is_err());
    assert_eq!(
        (turn.said.as_str(), turn.consumed.len()),
        ("One two three ", 1)
    );
}
