//! Answers that break off and are gone on with: nothing is read twice, nothing is lost.

use antiphon_sdk::TurnOutput;
use antiphon_sdk::continued::{self, BrokenOff, Continued, GO_ON};
use antiphon_sdk::model::{Finish, Message, ModelError, Request};
use antiphon_sdk::testing::{Answer, Host};
use proptest::prelude::*;
use serde_json::json;

/// What came of it, and what people were shown.
fn relay(host: &Host, continuations_max: u32) -> (Result<Continued, BrokenOff>, String) {
    let mut result = None;
    let turn = host.turn_with(|_| {
        let request = Request::new(vec![Message::user("Go.")]);
        result = Some(continued::relay(&request, continuations_max));
        Ok(TurnOutput::default())
    });
    (result.expect("the turn asked"), turn.said)
}

/// What is shown of an answer that breaks off and goes on like this.
fn shown(first: &str, then: &[&str]) -> String {
    let host = Host::new("guide");
    host.answer(Answer::text(first).interrupted())
        .answer(Answer::pieces(then.iter().copied()));
    let (result, said) = relay(&host, 1);
    let continued = result.expect("it goes on");
    assert_eq!(
        (&continued.completion.text, continued.continuations),
        (&said, 1)
    );
    said
}

#[test]
fn an_answer_in_one_piece_is_as_it_is() {
    let host = Host::new("guide");
    host.answer(Answer::pieces(["It ", "rains."]).usage(3, 4));
    let (result, said) = relay(&host, 2);
    let continued = result.expect("it answers");
    assert_eq!((said.as_str(), continued.continuations), ("It rains.", 0));
    assert_eq!(continued.completion.finish, Finish::Stop);
    assert!(continued.completion.usage.is_some());
}

#[test]
fn the_model_goes_on_from_its_own_words() {
    let host = Host::new("guide");
    host.answer(Answer::pieces(["The sky ", "is bl"]).interrupted())
        .answer(Answer::pieces(["ue because", " of the air."]).and_call("look", json!({})));
    let (result, said) = relay(&host, 2);
    let continued = result.expect("it goes on");

    assert_eq!(said, "The sky is blue because of the air.");
    assert_eq!(continued.completion.text, said);
    assert_eq!(continued.completion.tool_calls.len(), 1);
    assert_eq!(
        host.requests()[1].messages,
        [
            Message::user("Go."),
            Message::assistant("The sky is bl"),
            Message::user(GO_ON)
        ]
    );
}

#[test]
fn repeated_words_are_dropped_and_new_ones_are_not() {
    for (first, then, expect) in [
        // The whole of it, the last sentence, the last word, the broken word.
        (
            "The sky is",
            &["The sky is", " blue."][..],
            "The sky is blue.",
        ),
        (
            "It rains. The sky is",
            &["The sky is grey."],
            "It rains. The sky is grey.",
        ),
        ("The sky is", &[" i", "s", " grey."], "The sky is grey."),
        ("We saw the thea", &["thea", "tre."], "We saw the theatre."),
        ("The sky is ", &["is grey."], "The sky is grey."),
        (
            "The sky is",
            &["\n\nThe sky", " is grey."],
            "The sky is grey.",
        ),
        // Nothing of it.
        ("The sky is", &[" grey."], "The sky is grey."),
        ("We saw the", &[" theatre."], "We saw the theatre."),
        ("That is an a", &[" apple."], "That is an a apple."),
        ("Yes or no? It is", &[" no"], "Yes or no? It is no"),
        (
            "Yes or no? It is",
            &[" no", " doubt yes."],
            "Yes or no? It is no doubt yes.",
        ),
        ("He said no", &[", no, no."], "He said no, no, no."),
        ("One, two", &[], "One, two"),
        ("", &["All of it."], "All of it."),
    ] {
        assert_eq!(shown(first, then), expect, "{first:?} and then {then:?}");
    }
}

#[test]
fn it_is_bounded_and_says_what_was_shown() {
    let host = Host::new("guide");
    for text in ["one ", "two ", "three "] {
        host.answer(Answer::text(text).interrupted());
    }
    let (result, said) = relay(&host, 2);
    let broken = result.expect_err("it breaks off for good");
    assert_eq!(
        (broken.shown.as_str(), broken.continuations),
        ("one two three ", 2)
    );
    assert_eq!(said, "one two three ");
    assert!(matches!(broken.cause, ModelError::Interrupted(_)));
}

#[test]
fn a_repetition_that_breaks_off_is_not_shown_and_asked_for_again() {
    let host = Host::new("guide");
    host.answer(Answer::text("The sky is").interrupted())
        .answer(Answer::text("The sk").interrupted())
        .answer(Answer::text("The sky is grey."));
    let (result, said) = relay(&host, 2);
    assert!(result.is_ok(), "{result:?}");
    assert_eq!(said, "The sky is grey.");
}

#[test]
fn other_errors_end_it() {
    let host = Host::new("guide");
    host.answer(Answer::text("The sky").interrupted())
        .answer(Answer::error(ModelError::OverBudget));
    let (result, said) = relay(&host, 5);
    let broken = result.expect_err("there is no budget");
    assert_eq!((broken.cause, broken.shown), (ModelError::OverBudget, said));

    let host = Host::new("guide");
    host.answer(Answer::error(ModelError::CircuitOpen));
    let broken = relay(&host, 5).0.expect_err("nobody answers");
    assert_eq!((broken.continuations, host.requests().len()), (0, 1));
}

proptest! {
    /// Whatever was shown, whichever tail of it the model repeats from a word on, and however
    /// its answer is cut into pieces.
    #[test]
    fn no_tail_is_shown_twice(
        words in prop::collection::vec("[ab]{1,2}", 1..8),
        new in "[xyz]{1,3}( [xyz]{1,3}){0,3}",
        from in any::<prop::sample::Index>(),
        space in "[ \n]?",
        sizes in prop::collection::vec(1_usize..4, 1..20),
    ) {
        let first = words.join(" ");
        let tail = words[from.index(words.len())..].join(" ");
        let answer = format!("{space}{tail} {new}");
        let mut pieces = Vec::new();
        let (mut rest, mut sizes) = (answer.as_str(), sizes.into_iter().cycle());
        while !rest.is_empty() {
            let size = sizes.next().unwrap_or(1).min(rest.len());
            let (piece, after) = rest.split_at(size);
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(shown(&first, &pieces), format!("{first} {new}"));
    }
}

#[test]
fn an_answer_that_nobody_saw_is_asked_for_again() {
    for (repetitions_max, whole) in [(1, true), (0, false)] {
        let host = Host::new("guide");
        host.answer(Answer::text("The sky").interrupted())
            .answer(Answer::text("The sky is blue."));
        let mut answer = None;
        let turn = host.turn_with(|_| {
            let request = Request::new(vec![Message::user("Why?")]);
            answer = Some(continued::complete(&request, repetitions_max));
            Ok(TurnOutput::default())
        });
        let answer = answer.expect("the turn asked").map(|it| it.text);
        let expected = if whole {
            Ok("The sky is blue.".to_owned())
        } else {
            Err(ModelError::Interrupted("The sky".to_owned()))
        };
        assert_eq!(answer, expected);
        assert_eq!(turn.said, "");
    }
}
