//! The testing host keeps the promises of the WIT files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use antiphon_sdk::context::{self, Age, Content, ToolCall, ToolResult};
use antiphon_sdk::http::{self, HttpError, Method, Response};
use antiphon_sdk::kernel::{self, CommitError, LockError, SlotState};
use antiphon_sdk::mailbox::{self, Body, SendError};
use antiphon_sdk::model::{self, Delta, ModelError, Request};
use antiphon_sdk::testing::{Answer, Host, Limits, Turn};
use antiphon_sdk::transcript::{self, Ending};
use antiphon_sdk::{Agent, AgentError, Cause, TurnInput, TurnOutput, log, reply, turn};

/// A turn that completes.
fn turn(host: &Host, handle: impl FnOnce(TurnInput)) -> Turn {
    let turn = host.turn_with(|input| {
        handle(input);
        Ok(TurnOutput::default())
    });
    turn.output();
    turn
}

/// A turn that fails after what it did.
fn failing(host: &Host, handle: impl FnOnce()) -> Turn {
    host.turn_with(|_| {
        handle();
        Err(AgentError::other("it went wrong"))
    })
}

/// A turn that completes, and whose doings are seen in the session.
fn in_turn(host: &Host, handle: impl FnOnce(TurnInput)) {
    turn(host, handle).output();
}

fn note(text: &str) -> Content {
    Content::Note(text.to_owned())
}

#[test]
fn without_a_host_it_says_so() {
    let panic = catch_unwind(|| kernel::read("analysis")).expect_err("there is no host");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(message.contains("no testing host"), "{message}");
}

#[test]
fn requests_are_answered_as_scripted_and_seen() {
    let host = Host::new("agent");
    host.respond(Response::new(404).header("X-Why", "gone").body("no"))
        .refuse(HttpError::OutcomeUnknown)
        .respond(Response::new(200).body("[1, 2]"));
    let turn = turn(&host, |_| {
        let answer = http::get("https://a.example/x").expect("an answer");
        assert_eq!((answer.status, answer.is_success()), (404, false));
        assert_eq!(
            (answer.value("x-why"), answer.text().as_ref()),
            (Some("gone"), "no")
        );
        let request = http::Request::new(Method::Post, "https://a.example/")
            .header("authorization", "Bearer ${secret:example}")
            .timeout(Duration::from_secs(5));
        assert_eq!(http::fetch(&request), Err(HttpError::OutcomeUnknown));
        let answer = http::post_json("https://a.example/", &["a"]).expect("an answer");
        assert_eq!(answer.json::<Vec<u8>>().expect("numbers"), [1, 2]);
    });
    let urls: Vec<&str> = turn.fetched.iter().map(|it| it.url.as_str()).collect();
    assert_eq!(
        urls,
        [
            "https://a.example/x",
            "https://a.example/",
            "https://a.example/"
        ]
    );
    assert_eq!(turn.fetched[1].timeout_ms, Some(5_000));
    assert_eq!(turn.fetched[2].body, br#"["a"]"#);
    let failed = host.refuse(HttpError::Deadline).turn_with(|_| {
        http::get("https://a.example/")?;
        Ok(TurnOutput::default())
    });
    let error = failed.result.expect_err("it failed").to_string();
    assert!(error.contains("http: the request took longer"), "{error}");
    assert_eq!(failed.fetched.len(), 1);
}

#[test]
fn a_request_without_a_scripted_answer_says_so() {
    let host = Host::new("agent");
    let asking = AssertUnwindSafe(|| in_turn(&host, |_| drop(http::get("https://a.example/"))));
    let panic = catch_unwind(asking).expect_err("nothing is scripted");
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("no scripted response for request 1"),
        "{message}"
    );
}

#[test]
fn a_panic_takes_the_host_away_and_frees_the_lock() {
    let host = Host::new("agent");
    let panicking = AssertUnwindSafe(|| {
        in_turn(&host, |_| {
            let _lock = kernel::lock("analysis").expect("free");
            panic!("as planned");
        })
    });
    assert!(catch_unwind(panicking).is_err());
    assert!(catch_unwind(|| kernel::read("analysis")).is_err());
    assert_eq!(host.slot_state("analysis"), SlotState::Idle);
}

#[test]
fn a_lock_has_one_holder_and_a_commit_frees_it() {
    let host = Host::new("agent");
    in_turn(&host, |_| {
        assert_eq!(kernel::read("analysis"), None);
        let lock = kernel::lock("analysis").expect("free");
        let me = turn::current().id;
        assert_eq!(
            kernel::lock("analysis").err(),
            Some(LockError::Held(me.clone()))
        );
        assert_eq!(kernel::state("analysis"), SlotState::Locked(me.clone()));
        assert_eq!(
            (kernel::read("analysis"), kernel::names()),
            (None, vec!["analysis".into()])
        );

        let first = lock.commit("one").expect("held");
        let lock = kernel::lock("analysis").expect("free again");
        let seen = kernel::read("analysis").expect("written");
        assert_eq!((&*seen.content, seen.version), ("one", first));
        assert_eq!(seen.state, SlotState::Locked(me));
        assert!(lock.commit("two").expect("held") > first);
        assert_eq!(kernel::lock("a b").err(), Some(LockError::InvalidName));
    });
    assert_eq!(host.document("analysis").as_deref(), Some("two"));
}

#[test]
fn a_lock_that_is_dropped_released_forgotten_or_refused_leaves_the_document() {
    let host = Host::new("agent");
    host.commit("analysis", "old").limits(Limits {
        slot_bytes_max: 3,
        ..Limits::default()
    });
    in_turn(&host, |_| {
        drop(kernel::lock("analysis").expect("free"));
        kernel::lock("analysis").expect("dropped").release();
        let lock = kernel::lock("analysis").expect("released");
        assert_eq!(lock.commit("long"), Err(CommitError::TooLarge));
        std::mem::forget(kernel::lock("analysis").expect("refused"));
    });
    assert_eq!(host.slot_state("analysis"), SlotState::Idle);
    assert_eq!(host.document("analysis").as_deref(), Some("old"));
}

#[test]
fn a_lost_lock_neither_commits_nor_frees_the_next_one() {
    let host = Host::new("agent");
    in_turn(&host, |_| {
        let lost = kernel::lock("analysis").expect("free");
        let dropped = kernel::lock("notes").expect("free");
        host.lose_lock("analysis").lose_lock("notes");
        host.lock("analysis", "other").lock("notes", "other");
        assert_eq!(lost.commit("mine"), Err(CommitError::Lost));
        drop(dropped);
        for slot in ["analysis", "notes"] {
            assert_eq!(
                kernel::lock(slot).err(),
                Some(LockError::Held("other".to_owned()))
            );
        }
    });
    assert_eq!(host.document("analysis"), None);
}

#[test]
fn slots_have_a_bound() {
    let host = Host::new("agent");
    host.commit("one", "").limits(Limits {
        slots_max: 1,
        ..Limits::default()
    });
    in_turn(&host, |_| {
        assert!(kernel::lock("one").is_ok());
        assert_eq!(kernel::lock("two").err(), Some(LockError::TooMany));
    });
}

#[test]
fn a_turn_has_the_messages_before_it_and_leaves_what_it_does_not_take() {
    let host = Host::new("agent");
    let ids: Vec<_> = ["one", "two", "three"]
        .map(|text| host.receive("ana", text))
        .into();
    let first = turn(&host, |input| {
        assert_eq!(input.headers.len(), 3);
        host.receive("ana", "four");
        assert_eq!(
            mailbox::pending().len(),
            3,
            "a later message is the next turn's"
        );
        assert_eq!(mailbox::pull(2).len(), 2);
        assert!(mailbox::leave(&ids[0]));
        assert!(!mailbox::leave(&ids[0]) && !mailbox::leave(&ids[2]));
    });
    assert_eq!(first.consumed, [ids[1].clone()]);
    assert_eq!(first.left, [ids[0].clone(), ids[2].clone()]);

    let second = turn(&host, |input| {
        assert_eq!(input.headers.len(), 1, "what was left is not offered again");
        let texts: Vec<_> = mailbox::pull_all()
            .iter()
            .map(|m| m.body.as_text().to_owned())
            .collect();
        assert_eq!(texts, ["one", "three", "four"]);
    });
    assert_eq!((second.consumed.len(), second.left.len()), (3, 0));
}

#[test]
fn a_failed_turn_gives_back_its_causes_unless_it_spoke() {
    let host = Host::new("agent");
    host.watch("analysis").commit("analysis", "new");
    host.receive("ana", "one");
    let silent = failing(&host, || drop(mailbox::pull_all()));
    assert_eq!((silent.consumed.len(), silent.left.len()), (0, 1));

    let spoke = failing(&host, || {
        mailbox::pull_all();
        reply::say("Well").expect("short");
    });
    assert_eq!(
        spoke.causes,
        [Cause::Messages, Cause::Slot("analysis".to_owned())]
    );
    assert_eq!((spoke.consumed.len(), host.waiting().len()), (1, 0));
    let ends: Vec<_> = host
        .transcript()
        .into_iter()
        .map(|item| (item.text, item.end))
        .collect();
    assert_eq!(
        ends,
        [
            ("one".to_owned(), None),
            ("Well".to_owned(), Some(Ending::Failed))
        ]
    );
}

#[test]
fn a_failed_turn_changes_no_context_but_what_it_sent_stands() {
    let host = Host::new("agent");
    host.peer("thinker");
    let mut kept = String::new();
    in_turn(&host, |_| kept = context::add(&note("old")).expect("room"));
    let failed = failing(&host, || {
        assert!(context::drop(&kept));
        context::add(&note("new")).expect("room");
        assert_eq!(
            context::items().len(),
            1,
            "inside the turn it is seen at once"
        );
        mailbox::send("thinker", &Body::Text("go".to_owned())).expect("it is there");
        let nobody = mailbox::send("nobody", &Body::Text("go".to_owned()));
        assert_eq!(nobody, Err(SendError::UnknownAgent));
    });
    assert_eq!(host.context()[0].content, note("old"));
    assert_eq!(failed.sent.len(), 1);
}

#[test]
fn items_age_by_completed_turns() {
    let host = Host::new("agent");
    host.ageing(2, 1);
    let (mut aging, mut kept) = (String::new(), String::new());
    in_turn(&host, |_| {
        aging = context::add(&note("aging")).expect("room");
        kept = context::add(&note("kept")).expect("room");
        let pinned = context::add(&note("pinned")).expect("room");
        assert!(context::pin(&pinned) && !context::pin("item-99"));
    });
    let ages = || -> Vec<(String, Age)> {
        host.context()
            .into_iter()
            .map(|item| (format!("{:?}", item.content), item.age))
            .collect()
    };
    assert!(ages().iter().all(|(_, age)| *age == Age::Full));
    in_turn(&host, |_| {});
    let _ = failing(&host, || {});
    assert!(ages().iter().all(|(_, age)| *age == Age::Full));
    in_turn(&host, |_| assert!(context::keep(&kept)));
    let expired: Vec<_> = host
        .context()
        .into_iter()
        .filter(|i| i.age == Age::Expired)
        .collect();
    assert_eq!((expired.len(), &expired[0].id), (1, &aging));
    in_turn(&host, |_| {});
    assert_eq!(host.context().len(), 2);
    for _ in 0..9 {
        in_turn(&host, |_| {});
    }
    assert_eq!(host.context().len(), 1, "only the pinned one");
}

#[test]
fn a_pair_goes_together() {
    let host = Host::new("agent");
    host.ageing(1, 1);
    in_turn(&host, |_| {
        let (call, name, arguments) = ("c".to_owned(), "find".to_owned(), "{}".to_owned());
        let call_item = ToolCall {
            call: call.clone(),
            name,
            arguments,
        };
        context::add(&Content::ToolCall(call_item)).expect("room");
        context::add(&Content::ToolResult(ToolResult {
            call,
            text: String::new(),
        }))
        .expect("room");
    });
    in_turn(&host, |_| assert!(context::keep("item-1")));
    assert!(host.context().iter().all(|item| item.age == Age::Full));
    in_turn(&host, |_| {
        assert!(context::drop("item-2"));
        assert_eq!(context::items(), []);
    });
}

#[test]
fn search_goes_back_page_by_page() {
    let host = Host::new("agent");
    for n in 0..45 {
        host.receive("ana", &format!("Letter {n}"));
        host.receive("ana", "noise");
    }
    in_turn(&host, |_| {
        mailbox::pull(7);
        let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = mailbox::search("lETTER", cursor.as_deref());
            assert!(page.headers.len() <= 20);
            found.extend(page.headers.into_iter().map(|header| header.id));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let newest = mailbox::read(&found[0]).expect("it was found");
        assert_eq!(
            (found.len(), pages, newest.body.as_text()),
            (45, 3, "Letter 44")
        );
    });
}

#[test]
fn the_transcript_pages_back_to_the_beginning() {
    let host = Host::new("agent");
    for n in 0..5 {
        host.hear("weather", &n.to_string());
    }
    in_turn(&host, |_| {
        reply::say("not yet").expect("short");
        let mut texts = Vec::new();
        let mut cursor = None;
        loop {
            let page = transcript::window(2, cursor.as_deref());
            texts.splice(0..0, page.items.into_iter().map(|item| item.text));
            cursor = page.before;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(texts, ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn an_answer_can_be_taken_piece_by_piece_and_relayed_from_there() {
    let host = Host::new("agent");
    let request = Request::new(Vec::new());
    host.answer(Answer::pieces(["a", "b", "c"]))
        .answer(Answer::pieces(["a", "b"]).interrupted());
    host.answer(Answer::pieces(["a", "b"]).interrupted())
        .answer(Answer::error(ModelError::Deadline));
    let turn = turn(&host, |_| {
        let mut deltas = model::open(&request).expect("scripted");
        assert_eq!(deltas.next(), Some(Ok(Delta::Text("a".to_owned()))));
        assert_eq!(deltas.relay().expect("whole").text, "abc");

        let mut deltas = model::open(&request).expect("scripted");
        assert_eq!(deltas.by_ref().take(2).filter_map(Result::ok).count(), 2);
        let interrupted = Some(Err(ModelError::Interrupted("ab".to_owned())));
        assert_eq!((deltas.next(), deltas.next()), (interrupted, None));

        let interrupted = Err(ModelError::Interrupted("ab".to_owned()));
        assert_eq!(model::complete(&request), interrupted);
        assert_eq!(model::relay(&request), Err(ModelError::Deadline));
    });
    assert_eq!(turn.said, "bc");
}

#[test]
fn a_turn_has_a_budget_a_clock_and_a_log() {
    let host = Host::new("agent");
    host.limits(Limits {
        reply_bytes_max: 5,
        ..Limits::default()
    })
    .advance(Duration::from_secs(1));
    in_turn(&host, |_| {
        let before = turn::budget();
        reply::say("hello").expect("just short enough");
        assert_eq!(reply::say("!"), Err(reply::SayError::TooLarge));
        let after = turn::budget();
        assert!(after.host_calls < before.host_calls);
        assert_eq!((before.reply_bytes, after.reply_bytes), (5, 0));
        assert_eq!(turn::now(), 1_767_225_601_000);
        log::event(log::Level::Debug, "said", &[("bytes", "5")]);
    });
    assert_eq!(
        host.logs()[0].fields,
        [("bytes".to_owned(), "5".to_owned())]
    );
}

struct Sleeper;

impl Agent for Sleeper {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        Ok(TurnOutput::wake_in(Duration::from_secs(60)))
    }
}

#[test]
fn an_agent_is_woken_when_it_asked_to_be_and_not_before() {
    let host = Host::new("sleeper");
    host.receive("ana", "Good night.");
    host.turn::<Sleeper>().output();
    host.advance(Duration::from_secs(59));
    assert!(
        catch_unwind(AssertUnwindSafe(|| host.turn::<Sleeper>())).is_err(),
        "nothing is due"
    );
    host.advance(Duration::from_secs(1));
    assert_eq!(host.turn::<Sleeper>().causes, [Cause::Wake]);
}

#[test]
fn an_answer_is_given_again_while_it_is_young_enough() {
    let host = Host::new("agent");
    host.answer(Answer::pieces(["Yes, ", "it is."]))
        .answer(Answer::text("Not any more."))
        .answer(Answer::text("To you alone."));
    let request = || Request::new(vec![model::Message::user("Is it?")]);
    let ask = |request: Request| {
        let mut said = Vec::new();
        let turn = turn(&host, |_| {
            let pieces = model::open(&request).expect("it answers");
            said.extend(pieces.map(|piece| match piece.expect("a piece") {
                Delta::Text(text) => text,
                Delta::Finished(finished) => format!("{:?}", finished.usage.is_some()),
                Delta::ToolCall(call) => call.name,
            }));
        });
        (said.join("|"), turn.requests.len())
    };
    assert_eq!(
        ask(request().cached_for(60)),
        ("Yes, |it is.|false".to_owned(), 1)
    );
    host.advance(Duration::from_secs(60));
    assert_eq!(
        ask(request().cached_for(60)),
        ("Yes, |it is.|true".to_owned(), 0)
    );
    host.advance(Duration::from_secs(1));
    assert_eq!(ask(request().cached_for(60)).0, "Not any more.|false");
    assert_eq!(
        ask(request()).0,
        "To you alone.|false",
        "it did not ask for less"
    );
}
