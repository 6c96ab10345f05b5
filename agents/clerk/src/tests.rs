use antiphon_sdk::context::Content;
use antiphon_sdk::model::{Message, Request};
use antiphon_sdk::testing::{Answer, Host};
use serde_json::json;

use super::{Clerk, LONG_AGO, ROUNDS_MAX};

fn text(request: &Request) -> String {
    format!("{:#?}", request.messages)
}

#[test]
fn its_model_lists_pulls_keeps_and_answers() {
    let host = Host::new("clerk");
    let invoice = host.receive("ana", "Invoice 7 is due on Friday.");
    let joke = host.receive("ben", "Knock knock.");

    host.answer(Answer::call("mailbox_list", json!({})))
        .answer(Answer::text("One moment.").and_call("mailbox_pull", json!({"ids": [invoice]})))
        .answer(Answer::call("context_keep", json!({"id": invoice})))
        .answer(Answer::text("Friday it is."));
    let turn = host.turn::<Clerk>();

    assert_eq!(turn.said, "One moment.\n\nFriday it is.");
    assert_eq!(
        (turn.consumed, turn.left),
        (vec![invoice.clone()], vec![joke])
    );
    assert!(
        !text(&turn.requests[1]).contains("Friday"),
        "only listed so far"
    );
    let Some(Message::Tool(pulled)) = turn.requests[2].messages.last() else {
        panic!("what was pulled is the last thing that the model reads");
    };
    assert!(
        pulled.text.contains("Invoice 7 is due on Friday."),
        "{}",
        pulled.text
    );
    assert_eq!(host.context()[0].content, Content::Message(invoice));
}

#[test]
fn what_it_kept_is_in_view_until_it_drops_it_and_in_the_mailbox_for_ever() {
    let host = Host::new("clerk");
    let invoice = host.receive("ana", "Invoice 7 is due on Friday.");
    host.answer(Answer::call("mailbox_pull", json!({})))
        .answer(Answer::call("context_keep", json!({"id": invoice})))
        .answer(Answer::text("Filed."));
    host.turn::<Clerk>().output();

    host.receive("ana", "Invoice 7 is paid.");
    host.answer(Answer::call("context_drop", json!({"id": invoice})))
        .answer(Answer::call("mailbox_search", json!({"query": "due on"})))
        .answer(Answer::text("Done."));
    let turn = host.turn::<Clerk>();

    let kept = format!("<message id=\\\"{invoice}\\\"");
    assert!(
        text(&turn.requests[0]).contains(&kept),
        "{}",
        text(&turn.requests[0])
    );
    assert_eq!(host.context(), []);
    let Some(Message::Tool(found)) = turn.requests[2].messages.last() else {
        panic!("the search was answered");
    };
    assert!(found.text.contains(&invoice), "{}", found.text);
}

#[test]
fn a_model_that_only_calls_tools_comes_to_an_end() {
    let host = Host::new("clerk");
    host.receive("ana", "Hello?");
    for _ in 0..ROUNDS_MAX {
        host.answer(Answer::call("mailbox_list", json!({})).and_raw_call("mailbox_pull", "{oops"));
    }
    let turn = host.turn::<Clerk>();

    turn.output();
    assert_eq!(turn.requests.len(), ROUNDS_MAX as usize);
    assert!(text(&turn.requests[1]).contains("the arguments are not what is asked"));
    assert_eq!(turn.left.len(), 1);
}

#[test]
fn after_a_long_absence_it_is_told_what_it_left() {
    let host = Host::new("clerk");
    host.receive("ana", "Invoice 7 is due on Friday.");
    host.answer(Answer::call("mailbox_pull", json!({})))
        .answer(Answer::call(
            "handoff_write",
            json!({"state": "Invoice 7 is filed.", "pending": ["paying it"]}),
        ))
        .answer(Answer::text("Filed."));
    host.turn::<Clerk>().output();

    for (away, is_told) in [(LONG_AGO / 2, false), (LONG_AGO * 3, true)] {
        host.advance(away);
        host.receive("ana", "And?");
        host.answer(Answer::text("On it."));
        let shown = text(&host.turn::<Clerk>().requests[0]);
        assert_eq!(shown.contains("<absence"), is_told, "{shown}");
        assert_eq!(shown.contains("Pending: paying it"), is_told, "{shown}");
    }
}

/// Ten thousand messages, and a model that pulls them all and keeps some: what it is given
/// depends on what matters now and not on how long the clerk has lived.
#[test]
fn ten_thousand_messages_leave_its_requests_as_small_as_they_were() {
    const MESSAGES: usize = 10_000;
    const BURST: usize = 50;
    const BYTES_MAX: usize = 24 * 1024;
    let host = Host::new("clerk");
    let mut sizes = Vec::new();
    for burst in 0..MESSAGES / BURST {
        let mut kept = String::new();
        for n in 0..BURST {
            kept = host.receive("ana", &format!("Invoice {burst}-{n} is due on Friday."));
        }
        host.answer(Answer::call("mailbox_pull", json!({"max": BURST})))
            .answer(Answer::call("context_keep", json!({"id": kept})).and_call(
                "handoff_write",
                json!({"state": format!("Burst {burst} is filed.")}),
            ))
            .answer(Answer::text("Filed."));
        let turn = host.turn::<Clerk>();
        assert_eq!(turn.consumed.len(), BURST);
        sizes.extend(turn.requests.iter().map(|request| text(request).len()));
    }
    assert!(host.waiting().is_empty());
    let largest = |sizes: &[usize]| sizes.iter().max().copied().expect("there were turns");
    let (early, late) = sizes.split_at(sizes.len() / 4);
    let (early, late) = (largest(early), largest(late));
    assert!(late <= BYTES_MAX, "{late} bytes");
    // Numbers grow by a digit or two; nothing else does.
    assert!(late <= early + early / 10, "{early}, later {late} bytes");
}
