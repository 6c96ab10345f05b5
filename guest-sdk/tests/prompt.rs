//! What a model is given: the order of the blocks, and what two turns share.

use std::collections::BTreeSet;

use antiphon_sdk::context::{self, Content, ToolCall, ToolResult};
use antiphon_sdk::mailbox::{self, Body, Sender};
use antiphon_sdk::model::{self, Message, Request, UserMessage};
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::testing::{Answer, Host, Turn};
use antiphon_sdk::{TurnOutput, reply};
use proptest::prelude::*;

fn texts(request: &Request) -> Vec<String> {
    let text = |message: &Message| match message {
        Message::System(text) => format!("system: {text}"),
        Message::User(UserMessage {
            name: Some(name),
            text,
        }) => format!("{name}: {text}"),
        Message::User(UserMessage { name: None, text }) => format!("user: {text}"),
        Message::Assistant(said) => format!("assistant: {}", said.text.as_deref().unwrap_or("")),
        Message::Tool(tool) => format!("tool: {}", tool.text),
    };
    request.messages.iter().map(text).collect()
}

fn compose(host: &Host, compose: impl FnOnce(Prompt) -> Prompt) -> Vec<String> {
    let mut request = None;
    host.turn_with(|_| {
        request = Some(compose(Prompt::new()).request());
        Ok(TurnOutput::default())
    })
    .output();
    texts(&request.expect("the turn composed it"))
}

fn talk(host: &Host) -> Turn {
    host.turn_with(|_| {
        let messages = mailbox::pull_all();
        let prompt = Prompt::new()
            .system("Be brief.")
            .slot("analysis")
            .transcript(1000);
        model::relay(&prompt.messages(&messages).request())?;
        Ok(TurnOutput::default())
    })
}

#[test]
fn blocks_are_in_order_whatever_the_order_of_the_calls() {
    let host = Host::new("guide");
    host.instructions("In Portuguese.")
        .commit("analysis", "It rains.");
    host.receive("ana", "Hello?");
    host.turn_with(|_| {
        mailbox::pull_all();
        let pinned = context::add(&Content::Note("Ana is vegan.".to_owned()))?;
        context::pin(&pinned);
        context::add(&Content::Note("Asked twice.".to_owned()))?;
        reply::say("Hello.")?;
        Ok(TurnOutput::default())
    })
    .output();

    host.receive("ana", "Where to?");
    let composed = compose(&host, |prompt| {
        prompt
            .task("Answer.")
            .messages(&mailbox::pull_all())
            .transcript(10)
            .context()
            .slot("analysis")
            .system("You guide.")
            .instructions()
    });
    assert_eq!(
        composed,
        [
            "system: You guide.",
            "system: In Portuguese.",
            "user: <note id=\"item-1\">Ana is vegan.</note>",
            "user: <slot name=\"analysis\" state=\"idle\" \
             written-at=\"2026-01-01T00:00:00Z\">It rains.</slot>",
            "user: Hello?",
            "assistant: Hello.",
            "user: <note id=\"item-2\">Asked twice.</note>",
            "user: Where to?",
            "user: Answer.",
        ]
    );
}

#[test]
fn names_are_given_where_there_are_several() {
    let host = Host::new("guide");
    host.receive("ana", "Hi.");
    host.hear("weather", "It rains.");
    host.receive_from(
        Sender::Agent("clerk".to_owned()),
        Body::Json("{}".to_owned()),
    );
    let composed = compose(&host, |prompt| {
        prompt.transcript(10).messages(&mailbox::pull_all())
    });
    assert_eq!(composed, ["weather: It rains.", "ana: Hi.", "clerk: {}"]);
}

#[test]
fn a_tool_call_and_its_result_are_one_item_that_fades() {
    let host = Host::new("guide");
    host.ageing(1, 1);
    host.turn_with(|_| {
        let (call, name, arguments) = ("c".to_owned(), "find".to_owned(), "{}".to_owned());
        context::add(&Content::ToolCall(ToolCall {
            call: call.clone(),
            name,
            arguments,
        }))?;
        context::add(&Content::ToolResult(ToolResult {
            call,
            text: "<found>".to_owned(),
        }))?;
        Ok(TurnOutput::default())
    })
    .output();

    let full = "user: <tool id=\"item-1\" name=\"find\" arguments=\"{}\">&lt;found&gt;</tool>";
    let expired =
        "user: <tool id=\"item-1\" name=\"find\" arguments=\"{}\" age=\"expired\"></tool>";
    assert_eq!(compose(&host, Prompt::context), [full]);
    assert_eq!(compose(&host, Prompt::context), [expired]);
    assert_eq!(compose(&host, Prompt::context), [""; 0]);
}

#[test]
fn turns_that_differ_at_the_end_share_the_bytes_before_it() {
    let requests = ["And tomorrow?", "Und morgen?"].map(|last| {
        let host = Host::new("guide");
        host.commit("analysis", "It rains.")
            .receive("ana", "Will it rain?");
        host.answer(Answer::text("Yes."));
        talk(&host).output();
        host.receive("ana", last);
        host.answer(Answer::text("No."));
        format!("{:?}", talk(&host).requests[0].messages)
    });
    let place = requests[0]
        .find("And tomorrow?")
        .expect("the message is in the request");
    assert_eq!(
        requests[0].as_bytes()[..place],
        requests[1].as_bytes()[..place]
    );
}

#[test]
fn a_long_transcript_starts_at_the_same_item_for_many_turns() {
    const TURNS: usize = 200;
    const WINDOW: u32 = 40;
    let host = Host::new("guide");
    let mut starts = BTreeSet::new();
    for turn in 0..TURNS {
        host.hear("ana", &format!("{turn}"));
        let composed = compose(&host, |prompt| prompt.transcript(WINDOW));
        let length = u32::try_from(composed.len()).expect("short");
        assert!(
            length <= WINDOW && (turn < 40 || length >= WINDOW / 2),
            "{length}"
        );
        starts.insert(composed[0].clone());
    }
    // One start a turn would be 160 of them.
    assert!(starts.len() <= TURNS / 5, "{} starts", starts.len());
}

#[test]
fn a_window_longer_than_a_page_is_all_of_it() {
    let host = Host::new("guide");
    for n in 0..450 {
        host.hear("ana", &n.to_string());
    }
    let composed = compose(&host, |prompt| prompt.transcript(u32::MAX));
    assert_eq!(
        (composed.len(), &*composed[0], &*composed[449]),
        (450, "user: 0", "user: 449")
    );
    assert_eq!(compose(&host, |prompt| prompt.transcript(0)), [""; 0]);
}

proptest! {
    /// What was shown, what the transcript holds and what the model is given are one text,
    /// and nothing that the model was given before changes.
    #[test]
    fn a_conversation_only_grows(turns in prop::collection::vec(
        (prop::collection::vec("[a-z ]{1,9}", 1..4), prop::collection::vec("[a-z ]{0,5}", 1..4)),
        1..6,
    )) {
        let host = Host::new("guide");
        host.commit("analysis", "It rains.");
        let mut expected = Vec::new();
        let mut before: Vec<Message> = Vec::new();
        for (burst, pieces) in turns {
            for text in &burst {
                host.receive("ana", text);
                expected.push(text.clone());
            }
            host.answer(Answer::pieces(pieces.iter().map(String::as_str)));
            let turn = talk(&host);
            let messages = &turn.requests[0].messages;
            prop_assert!(messages.starts_with(&before));
            prop_assert_eq!(messages.len(), 2 + expected.len());
            before = messages.clone();

            prop_assert_eq!(&turn.said, &pieces.concat());
            if !turn.said.is_empty() {
                expected.push(turn.said.clone());
                before.push(Message::assistant(&turn.said));
            }
            let shown: Vec<_> = host.transcript().into_iter().map(|item| item.text).collect();
            prop_assert_eq!(&shown, &expected);
        }
    }
}
