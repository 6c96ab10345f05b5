//! Responses as events: followed from any place, in the background, cancelled.

use antiphon::model::scripted::{Gate, Reply};
use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{Event, kinds};

use super::{followed, in_background, lines, number, relaying, respond, script};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_is_gone_on_with_after_any_of_them() {
    let server = Server::start().await;
    server.deploy("puppet").await;
    let steps = json!([{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]);
    let body = json!({"model": "puppet", "input": script(steps), "stream": true});
    let mut stream = respond(&server, body).events().await;
    let session = stream.head["x-antiphon-session"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(stream.head.contains_key("x-antiphon-run"));
    let all = stream.rest().await;
    assert_eq!(
        lines(&all),
        [
            r#"2000 created "queued""#,
            r#"3000 in_progress "in_progress""#,
            // 4 says what the agent pulled.
            "5000 output_item.added",
            "5001 content_part.added",
            r#"5002 output_text.delta "one ""#,
            r#"8000 output_text.delta "two""#,
            r#"9000 output_text.done "one two""#,
            "9001 content_part.done",
            "9002 output_item.done",
            r#"9003 completed "completed""#,
        ]
    );
    let id = format!("resp_{session}:2");
    let whole = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(all.last().expect("its end").data["response"], whole);
    assert_eq!(all[8].data["item"], whole["output"][0]);
    let resumed = async |server: &Server| {
        for (at, event) in all.iter().enumerate() {
            let rest = followed(server, &id, Some(number(event)))
                .await
                .rest()
                .await;
            assert_eq!(rest, all[at + 1..]);
        }
        assert_eq!(followed(server, &id, None).await.rest().await, all);
    };
    resumed(&server).await;
    let server = server.restart().await;
    resumed(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_in_the_background_is_followed_while_it_runs() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("one ")
        .wait(&gate)
        .say("two")
        .finish("stop");
    let (_provider, server) = relaying(reply).await;
    let body = in_background();
    let answer = respond(&server, body).await;
    let made = answer.is(200);
    assert!(
        ["queued", "in_progress"].contains(&made["status"].as_str().expect("a status")),
        "{made}"
    );
    assert_eq!(
        (&made["background"], &made["output"]),
        (&json!(true), &json!([]))
    );
    let id = made["id"].as_str().expect("an id").to_owned();
    let mut reader = followed(&server, &id, None).await;
    let is_delta = |event: &Event| event.kind == "response.output_text.delta";
    let seen = reader.until(is_delta).await;
    drop(reader);
    let running = server.get(&format!("/v1/responses/{id}")).await;
    assert_eq!(running["status"], "in_progress");
    assert_eq!(running["output"][0]["content"][0]["text"], "one ");
    assert_eq!(running["usage"], Value::Null);
    // The rest, by another reader, which was there before the rest was.
    let mut rest = followed(&server, &id, seen.last().map(number)).await;
    gate.open();
    let rest = rest.rest().await;
    let all = followed(&server, &id, None).await.rest().await;
    let joined: Vec<Event> = seen.into_iter().chain(rest).collect();
    assert_eq!(joined, all);
    let said: String = all
        .iter()
        .filter(|it| is_delta(it))
        .map(|it| it.data["delta"].as_str().expect("words"))
        .collect();
    assert_eq!(said, "one two");
    assert_eq!(
        all.last().expect("its end").data["response"],
        server.get(&format!("/v1/responses/{id}")).await
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_cancelled_and_says_so() {
    let gate = Gate::new();
    let reply = Reply::stream()
        .say("half")
        .wait(&gate)
        .say("never")
        .finish("stop");
    let (provider, server) = relaying(reply).await;
    let mut body = in_background();
    body["stream"] = json!(true);
    let mut stream = respond(&server, body).events().await;
    let seen = stream
        .until(|event| event.kind == "response.output_text.delta")
        .await;
    let id = seen[0].data["response"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let cancel = format!("POST /v1/responses/{id}/cancel");
    let cancelled = server.call(&cancel).await.is(200);
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(cancelled["output"][0]["status"], "incomplete");
    assert_eq!(cancelled["output"][0]["content"][0]["text"], "half");
    assert_eq!(server.call(&cancel).await.is(200), cancelled);
    let rest = stream.rest().await;
    let expected = [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds(&rest), expected);
    assert_eq!(rest[3].data["response"], cancelled);
    provider.given_up(1).await;

    // One whose turn fails, as an event and as a status.
    let failing = script(json!([{"fail": "no idea"}]));
    let body = json!({"model": "puppet", "input": failing, "background": true, "stream": true});
    let events = respond(&server, body).events().await.rest().await;
    let last = events.last().expect("its end");
    assert_eq!(last.kind, "response.failed");
    assert_eq!(
        last.data["response"]["error"],
        json!({"code": "server_error", "message": "agent: no idea"})
    );
    let body = json!({"model": "puppet", "input": failing});
    let refused = respond(&server, body).await;
    refused.refused(502, "turn_failed");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    server.stop().await;
}
