//! Asking people: what the testing host promises is what the real one does.

use std::time::Duration;

use antiphon_sdk::model::{self, Message, Request};
use antiphon_sdk::questions::{self, Answer, AskError, Question};
use antiphon_sdk::testing::{Answer as Scripted, Host, Limits};
use antiphon_sdk::{AgentError, TurnOutput, kernel, mailbox, reply, turn};

fn asking(
    host: &Host,
    ask: impl FnOnce() -> Result<(), AgentError>,
) -> antiphon_sdk::testing::Turn {
    host.turn_with(|_| {
        ask()?;
        Ok(TurnOutput::default())
    })
}

#[test]
fn an_answer_comes_whole() {
    let host = Host::new("clerk");
    let answer = Answer {
        text: "ben@example.com".to_owned(),
        by: "ana".to_owned(),
        note: Some("the private one".to_owned()),
    };
    host.person_says(answer.clone());
    let question = Question::new("Which address?").within(Duration::from_secs(60));
    let turn = asking(&host, || {
        assert_eq!(questions::ask_with(&question), Ok(answer));
        Ok(())
    });
    turn.output();
    assert_eq!(turn.asked, [question]);
    assert_eq!(turn.asked[0].timeout_ms, Some(60_000));
}

#[test]
fn nobody_approves_by_saying_nothing() {
    let host = Host::new("clerk");
    host.person_answers("ana", questions::DENY).nobody_answers();
    let turn = asking(&host, || {
        let began = turn::now();
        assert_eq!(questions::approve("May I?"), Ok(false));
        assert_eq!(turn::now(), began);
        assert_eq!(questions::approve("May I now?"), Err(AskError::Expired));
        assert_eq!(turn::now() - began, 30 * 24 * 60 * 60 * 1_000);
        Ok(())
    });
    turn.output();
}

#[test]
fn what_ends_with_the_instance_is_given_back_first() {
    let host = Host::new("clerk");
    host.answer(Scripted::text("hello"));
    host.person_answers("ana", "yes")
        .person_answers("ana", "yes");
    let request = Request::new(vec![Message::user("hello?")]);
    let turn = asking(&host, || {
        let lock = kernel::lock("plan")?;
        assert_eq!(questions::ask("May I?"), Err(AskError::HeldLock));
        lock.release();
        let answer = model::open(&request)?;
        assert_eq!(questions::ask("May I?"), Err(AskError::OpenAnswer));
        drop(answer);
        questions::ask("May I?")?;
        questions::ask("May I?")?;
        Ok(())
    });
    turn.output();
    assert_eq!(turn.asked.len(), 2);
}

#[test]
fn limits_are_errors() {
    let host = Host::new("clerk");
    host.limits(Limits {
        question_bytes_max: 10,
        question_choices_max: 2,
        questions_turn_max: 1,
        ..Limits::default()
    });
    host.person_answers("ana", "b");
    let turn = asking(&host, || {
        let too_large = Err(AskError::TooLarge);
        assert_eq!(questions::choose("12345678", &["a", "bc"]), too_large);
        assert_eq!(questions::choose("?", &["a", "b", "c"]), too_large);
        for (text, choices) in [(" ", &["a"][..]), ("?", &["a", "a"]), ("?", &["a", ""])] {
            let error = questions::choose(text, choices);
            assert!(matches!(error, Err(AskError::Other(_))), "{error:?}");
        }
        assert_eq!(
            questions::choose("12345678", &["a", "b"]).as_deref(),
            Ok("b")
        );
        assert_eq!(questions::ask("?"), Err(AskError::TooMany));
        Ok(())
    });
    turn.output();
}

/// Whoever was asked has seen it: the message is not given to another turn.
#[test]
fn a_turn_that_asked_and_failed_is_not_tried_again() {
    let host = Host::new("clerk");
    host.receive("ana", "Send it.");
    host.nobody_answers();
    let turn = asking(&host, || {
        mailbox::pull_all();
        questions::approve("May I?")?;
        reply::say("never")?;
        Ok(())
    });
    assert_eq!(
        turn.result,
        Err(AgentError::Unavailable("ask: AskError::Expired".to_owned()))
    );
    assert!(turn.left.is_empty() && host.waiting().is_empty());
}
