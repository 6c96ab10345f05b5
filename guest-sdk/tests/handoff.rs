//! Notes for an agent's own return, and when they are shown.

use std::time::Duration;

use antiphon_sdk::handoff::{self, Handoff, KEPT};
use antiphon_sdk::model::Message;
use antiphon_sdk::prompt::Prompt;
use antiphon_sdk::testing::Host;
use antiphon_sdk::{AgentError, TurnOutput, reply};

const HOUR: Duration = Duration::from_secs(3_600);

fn write(host: &Host, state: &str) {
    host.turn_with(|_| {
        handoff::write(&Handoff {
            state: state.to_owned(),
            ..Handoff::default()
        })?;
        Ok(TurnOutput::default())
    })
    .output();
}

fn composed(host: &Host) -> Vec<String> {
    let mut texts = Vec::new();
    host.turn_with(|_| {
        let prompt = Prompt::new().system("S").context().transcript(10);
        let request = prompt.absence(HOUR).task("T").request();
        for message in request.messages {
            match message {
                Message::System(text) => texts.push(text),
                Message::User(user) => texts.push(user.text),
                Message::Assistant(said) => texts.extend(said.text),
                Message::Tool(tool) => texts.push(tool.text),
            }
        }
        Ok(TurnOutput::default())
    })
    .output();
    texts
}

#[test]
fn whoever_comes_back_is_told_how_long_it_was_away_and_what_it_left() {
    let host = Host::new("clerk");
    host.turn_with(|_| {
        reply::say("On it.")?;
        handoff::write(&Handoff {
            state: "Half of the <letters> are sent.".to_owned(),
            pending: vec!["the letter to Faro".to_owned()],
            blockers: vec!["no stamps; ana buys some".to_owned()],
            next: "Ana wants copies.".to_owned(),
        })?;
        Ok(TurnOutput::default())
    })
    .output();

    host.advance(HOUR - Duration::from_millis(1));
    assert_eq!(composed(&host), ["S", "On it.", "T"]);

    host.advance(Duration::from_millis(1) + 26 * HOUR);
    assert_eq!(
        composed(&host),
        [
            "S",
            "On it.",
            "<absence since=\"2026-01-01T00:00:00Z\" until=\"2026-01-02T03:00:00Z\" \
             lasted=\"1 day 3 hours\">You were away. What happened meanwhile is in the \
             conversation; what you left for yourself follows, the newest last.</absence>",
            "<handoff written-at=\"2026-01-01T00:00:00Z\">State: Half of the &lt;letters&gt; are \
             sent.\nPending: the letter to Faro\nBlocker: no stamps; ana buys some\nNext: Ana \
             wants copies.</handoff>",
            "T",
        ]
    );
}

#[test]
fn the_newest_three_are_kept_for_as_long_as_it_takes() {
    let host = Host::new("clerk");
    for n in 1..=5 {
        write(&host, &format!("step {n}"));
    }
    // Far beyond the age at which notes are gone.
    for _ in 0..50 {
        host.turn_with(|_| Ok(TurnOutput::default())).output();
    }
    assert_eq!(host.context().len(), KEPT);
    host.advance(400 * 24 * HOUR);
    let texts = composed(&host);
    let states: Vec<_> = ["step 3", "step 4", "step 5"]
        .map(|it| format!("State: {it}"))
        .into();
    assert_eq!(texts.len(), 3 + KEPT);
    for (text, state) in texts[2..5].iter().zip(&states) {
        assert!(text.contains(state), "{text}");
    }
}

#[test]
fn a_turn_that_fails_hands_nothing_off() {
    let host = Host::new("clerk");
    let turn = host.turn_with(|_| {
        handoff::write(&Handoff::default())?;
        Err(AgentError::other("no"))
    });
    assert!(turn.result.is_err());
    assert_eq!(host.context(), []);
}

#[test]
fn who_never_was_there_was_not_away_and_others_do_not_count() {
    let host = Host::new("clerk");
    host.hear("talker", "Hello.").advance(100 * HOUR);
    assert_eq!(composed(&host), ["S", "Hello.", "T"]);

    // A handoff is a sign of life of an agent that says nothing.
    write(&host, "listening");
    host.advance(2 * HOUR).hear("talker", "Still here.");
    let texts = composed(&host);
    assert!(texts[3].contains("lasted=\"2 hours\""), "{texts:?}");
    assert!(texts[4].contains("State: listening"), "{texts:?}");
}
