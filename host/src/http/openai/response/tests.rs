use super::*;
use crate::id::{RunId, TurnId};
use crate::journal::entry::{Failure, Outcome, TurnError, Usage};
use crate::session::outcome::{Ended, Taken};

fn asked() -> Asked {
    Asked {
        message: MessageId::new("s:2").unwrap(),
        model: AgentName::new("echo").unwrap(),
        received_at: Time(5_900),
        instructions: None,
        echo: Echo::default(),
    }
}

fn done(outcome: Outcome, reply: &str) -> Standing {
    let failed = outcome == Outcome::Failed;
    Standing::Done(Taken {
        turn: TurnId::new("r.t0.echo").unwrap(),
        run: RunId::new("r").unwrap(),
        reply: reply.to_owned(),
        calls: Vec::new(),
        ended: Some(Ended {
            outcome,
            error: failed.then(|| TurnError {
                code: Failure::Trap,
                message: "unreachable".to_owned(),
            }),
            usage: Usage {
                input_tokens: 3,
                output_tokens: 4,
                ..Usage::default()
            },
            seq: Seq(6),
        }),
    })
}

fn story(outcome: Outcome) -> Vec<(Seq, Vec<Step>)> {
    vec![
        (Seq(2), vec![Step::Received(Time(5_900))]),
        (Seq(3), vec![Step::Begun]),
        (Seq(4), vec![Step::Words("one ".to_owned())]),
        (Seq(5), vec![Step::Words("two".to_owned())]),
        (Seq(6), vec![Step::Over(done(outcome, "one two"))]),
    ]
}

/// `number type [what it says]` of each event.
fn told(story: &[(Seq, Vec<Step>)], after: Option<u64>) -> Vec<String> {
    let mut events = Events::new(asked(), after);
    let bytes = story
        .iter()
        .flat_map(|(seq, steps)| events.next(*seq, steps));
    let line = |bytes: Bytes| {
        let text = std::str::from_utf8(&bytes).unwrap();
        let (kind, data) = text.trim_end().split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(kind.strip_prefix("event: "), data["type"].as_str());
        let says = [&data["delta"], &data["text"], &data["response"]["status"]];
        let says = says.into_iter().find(|it| !it.is_null());
        let says = says.map_or_else(String::new, |it| format!(" {it}"));
        format!(
            "{} {}{says}",
            data["sequence_number"],
            kind.trim_start_matches("event: response.")
        )
    };
    bytes.map(line).collect()
}

#[test]
fn an_answer_is_events_with_the_numbers_of_their_entries() {
    let all = told(&story(Outcome::Completed), None);
    assert_eq!(
        all,
        [
            r#"2000 created "queued""#,
            r#"3000 in_progress "in_progress""#,
            "4000 output_item.added",
            "4001 content_part.added",
            r#"4002 output_text.delta "one ""#,
            r#"5000 output_text.delta "two""#,
            r#"6000 output_text.done "one two""#,
            "6001 content_part.done",
            "6002 output_item.done",
            r#"6003 completed "completed""#,
        ]
    );
    // Whoever was cut after any of them gets the others.
    for (at, line) in all.iter().enumerate() {
        let number = line.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(
            told(&story(Outcome::Completed), Some(number)),
            all[at + 1..]
        );
    }
}

#[test]
fn the_last_event_says_how_it_ended() {
    for (outcome, expected) in [
        (Outcome::Interrupted, r#"6003 incomplete "incomplete""#),
        (Outcome::Cancelled, r#"6003 incomplete "cancelled""#),
        (Outcome::Failed, r#"6003 failed "failed""#),
    ] {
        assert_eq!(told(&story(outcome), None).last().unwrap(), expected);
    }
    let aside = [
        (Seq(2), vec![Step::Received(Time(0))]),
        (
            Seq(3),
            vec![Step::Over(Standing::SetAside("cancelled".into()))],
        ),
    ];
    assert_eq!(
        told(&aside, None),
        [r#"2000 created "queued""#, r#"3000 incomplete "cancelled""#]
    );
}

#[test]
fn a_response_says_what_was_shown_and_what_it_took() {
    let whole = asked().whole(&done(Outcome::Completed, "one two"));
    assert_eq!(whole["id"], "resp_s:2");
    assert_eq!(whole["created_at"], 5);
    assert_eq!(whole["output"][0]["content"][0]["text"], "one two");
    assert_eq!(whole["usage"]["total_tokens"], 7);
    let failed = asked().whole(&done(Outcome::Failed, "one"));
    assert_eq!(failed["error"]["message"], "trap: unreachable");
    assert_eq!(failed["output"][0]["status"], "incomplete");
    let silent = asked().whole(&done(Outcome::Completed, ""));
    assert_eq!(silent["output"], json!([]));
}

#[test]
fn items_name_their_message() {
    for id in ["msg_s:2", "fc_s:2_call_1:x", "fc_s:2_"] {
        assert_eq!(message_of_item(id), Some(asked().message), "{id}");
    }
    for bad in ["s:2", "msg_s", "fc_s:2", "fc_s:x_1", "rs_1"] {
        assert_eq!(message_of_item(bad), None, "{bad}");
    }
}

#[test]
fn ids_come_back() {
    assert_eq!(message(&asked().id()), Some(asked().message));
    for bad in [
        "s:2",
        "resp_",
        "resp_s",
        "resp_s:",
        "resp_s/t:1",
        "resp_s:01",
        "",
    ] {
        assert_eq!(message(bad), None, "{bad}");
    }
}
