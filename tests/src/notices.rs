//! Notices from outside: nothing that happens in a tenant's sessions is missing, and nothing comes twice.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::Events;
use crate::tenants::tenant;

/// Messages to each session, before and after the restart.
const MESSAGES: usize = 10;

async fn followed(server: &Server, from: &str) -> Events {
    let line = format!("GET /v1/notices?live=sse&offset={from}");
    server.call(&line).events().await
}

/// Follow until a turn of each of these messages has ended.
async fn until_ended(stream: &mut Events, seen: &mut Vec<Value>, turns: usize) {
    let ended = |seen: &[Value]| seen.iter().filter(|it| it["kind"] == "turn-ended").count();
    while ended(seen) < turns {
        let event = stream.next().await.expect("there is more");
        assert_eq!(event.id, event.data["offset"]);
        assert_eq!(event.kind, event.data["kind"]);
        seen.push(event.data);
    }
}

async fn all(server: &Server, query: &str) -> Vec<Value> {
    let (mut notices, mut from) = (Vec::new(), "-1".to_owned());
    loop {
        let path = format!("/v1/notices?offset={from}{query}");
        let page = server.get(&path).await;
        notices.extend(page["notices"].as_array().expect("a list").clone());
        if page["up_to_date"] == true {
            return notices;
        }
        page["offset"]
            .as_str()
            .expect("an offset")
            .clone_into(&mut from);
    }
}

/// Where notices say that something is, by session and kind; news by what they are of.
fn places(notices: &[Value]) -> BTreeMap<(String, String), Vec<String>> {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    for notice in notices {
        let (session, place) = (text(&notice["session"]), text(&notice["place"]));
        let kinds = match notice["entries"].as_array() {
            Some(kinds) => kinds.iter().map(text).collect(),
            None => vec![text(&notice["kind"])],
        };
        for kind in kinds {
            let at = places.entry((session.clone(), kind)).or_default();
            at.push(place.clone());
        }
    }
    places
}

/// Everything that is in the session's events is told of: what ends a turn where it stands, news no later than they say.
async fn nothing_is_missing(server: &Server, session: &str, notices: &[Value]) {
    let places = places(notices);
    let page = server.get(&format!("/v1/sessions/{session}/events")).await;
    for event in page["events"].as_array().expect("a list") {
        let kind = event["kind"].as_str().expect("a kind");
        let offset = event["offset"].as_str().expect("an offset").to_owned();
        let told = places.get(&(session.to_owned(), kind.to_owned()));
        let told = told.map_or(&[][..], Vec::as_slice);
        match kind {
            "session-opened" | "turn-ended" => {
                let count = told.iter().filter(|place| **place == offset).count();
                assert_eq!(count, 1, "{event}");
            }
            "spoke" if event["at"] != 0 => {}
            "message-received" | "spoke" | "slot-committed" => {
                assert!(told.iter().any(|place| *place >= offset), "{event}");
            }
            _ => assert!(told.is_empty(), "{event}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_is_told_of_everything_once_also_over_a_restart() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let mut stream = followed(&server, "-1").await;
    let mut seen = Vec::new();
    let sessions = ["a", "b", "c"];
    for session in sessions {
        server.session(session, &["echo"]).await;
    }
    for n in 0..MESSAGES {
        for session in sessions {
            server.post(session, json!(n)).await;
        }
    }
    // A session of its own that nobody named.
    let invoked = server.ask("echo", json!("hello")).await.is(200);
    until_ended(&mut stream, &mut seen, 4).await;
    // Nobody looks, the server stops and comes back, and more happens.
    drop(stream);
    let last = seen.last().expect("a notice")["offset"].clone();
    let server = server.restart().await;
    for session in sessions {
        server.invoke("echo", session, json!("more")).await.is(200);
    }
    let mut stream = followed(&server, last.as_str().expect("an offset")).await;
    let last_turn = server.invoke("echo", "a", json!("the last")).await.is(200);
    while seen.last().expect("a notice")["turn"] != last_turn["turn"] {
        let event = stream.next().await.expect("there is more");
        seen.push(event.data);
    }
    assert_eq!(
        seen,
        all(&server, "").await,
        "live and later it is the same"
    );
    let offsets: Vec<&str> = seen.iter().filter_map(|it| it["offset"].as_str()).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b));
    let invoked = invoked["session"].as_str().expect("an id");
    for session in sessions.into_iter().chain([invoked]) {
        nothing_is_missing(&server, session, &seen).await;
    }
    // No content: whoever may read the session reads it there.
    assert!(!json!(seen).to_string().contains("the last"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_leave_out_what_is_not_asked_for() {
    let server = Server::start().await;
    for agent in ["echo", "puppet"] {
        server.deploy(agent).await;
    }
    server.session("a", &["echo"]).await;
    server.session("b", &["echo", "puppet"]).await;
    for session in ["a", "b"] {
        server.invoke("echo", session, json!("x")).await.is(200);
    }
    let everything = all(&server, "").await;
    let of = |keep: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        everything.iter().filter(|it| keep(it)).cloned().collect()
    };
    let ended = all(&server, "&kind=turn-ended").await;
    assert_eq!(ended, of(&|it| it["kind"] == "turn-ended"));
    assert_eq!(ended.len(), 2);
    assert_eq!(
        all(&server, "&session=a&kind=turn-ended,session-opened").await,
        of(&|it| it["session"] == "a" && it["kind"] != "news")
    );
    let puppets = all(&server, "&agent=puppet").await;
    let places: Vec<_> = puppets
        .iter()
        .map(|it| (&it["session"], &it["kind"]))
        .collect();
    assert_eq!(places, [(&json!("b"), &json!("session-opened"))]);
    let none = all(&server, "&session=c").await;
    assert_eq!(none, Vec::<Value>::new());
    // A poll is answered by what is wanted, and not by what else happens.
    let line = "GET /v1/notices?offset=now&live=long-poll&session=b&kind=session-changed";
    let polled = async { server.call(line).await.is(200) };
    let happens = async {
        server.invoke("echo", "b", json!("y")).await.is(200);
        server.call("DELETE /v1/sessions/a").await.is(204);
        server.call("DELETE /v1/sessions/b").await.is(204);
    };
    let (polled, ()) = tokio::join!(polled, happens);
    assert_eq!(polled["notices"][0]["change"], "deleted", "{polled}");
    assert_eq!(polled["notices"].as_array().map(Vec::len), Some(1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_and_says_why() {
    let server = Server::with(|config| config.limits.notices_max = 2).await;
    server.deploy("echo").await;
    for session in ["a", "b", "c", "d"] {
        server.session(session, &["echo"]).await;
    }
    let names: String = (0..101).map(|n| format!("s{n},")).collect();
    for (query, status, code) in [
        ("offset=x", 400, "offset_malformed"),
        (
            "offset=0000000000000001_000000000000000x",
            400,
            "offset_malformed",
        ),
        (
            "offset=0000000000000001_9999999999999999",
            400,
            "offset_malformed",
        ),
        (
            "offset=0000000000000004_0000000000000001",
            400,
            "offset_ahead",
        ),
        (
            "offset=9999999999999999_0000000000000000",
            400,
            "offset_ahead",
        ),
        ("kind=song", 400, "invalid_kind"),
        ("kind=spoke", 400, "invalid_kind"),
        ("session=a/b", 400, "invalid_name"),
        ("agent=A", 400, "invalid_name"),
        (
            &*format!("session={}", names.trim_end_matches(',')),
            400,
            "invalid_query",
        ),
        ("live=song", 400, "invalid_live"),
    ] {
        let call = server.call(&format!("GET /v1/notices?{query}")).await;
        call.refused(status, code);
    }
    // What is not kept any more is not passed over in silence. It goes at the next start, or some minutes later.
    let four = all(&server, "").await;
    assert_eq!(four.len(), 4);
    let server = server.restart().await;
    let first = four[0]["offset"].as_str().expect("an offset");
    let line = format!("GET /v1/notices?offset={first}");
    let gone = loop {
        let answer = server.call(&line).await;
        if answer.status != 200 {
            break answer.refused(410, "notices_gone");
        }
        tokio::task::yield_now().await;
    };
    let earliest = gone["earliest"].as_str().expect("an offset");
    let rest = server.get(&format!("/v1/notices?offset={earliest}")).await;
    assert_eq!(rest["notices"], json!(four[2..]));
    assert_eq!(all(&server, "").await, four[2..]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_told_of_its_own_and_only_by_a_key_that_may_read() {
    let server = Server::start().await;
    server.deploy("echo").await;
    let other = tenant(&server, "other").await;
    server.session("mine", &["echo"]).await;
    let theirs = server.call("GET /v1/notices").key(&other).await.is(200);
    assert_eq!(theirs["notices"], json!([]));
    assert_eq!(theirs["offset"], "0000000000000000_0000000000000000");
    let ours = all(&server, "").await;
    assert_eq!(ours.len(), 1);

    let token = server.call("POST /v1/sessions/mine/tokens");
    let token = token.json(json!({"author": "ana"})).await.is(201);
    let token = token["token"].as_str().expect("a token").to_owned();
    let call = server.call("GET /v1/notices").key(&token).await;
    call.refused(403, "insufficient_scope");
    let key = |scope: &str| {
        let call = server.call("POST /v1/keys");
        call.json(json!({"scopes": [scope]}))
    };
    let deployer = key("deploy").await.is(201);
    let text = deployer["key"].as_str().expect("a key");
    let call = server.call("GET /v1/notices").key(text).await;
    call.refused(403, "insufficient_scope");
    // A key that goes takes its streams along.
    let reader = key("read").await.is(201);
    let text = reader["key"].as_str().expect("a key");
    let mut stream = server
        .call("GET /v1/notices?live=sse")
        .key(text)
        .events()
        .await;
    assert!(stream.next().await.is_some());
    let line = format!("DELETE /v1/keys/{}", reader["id"].as_str().expect("an id"));
    server.call(&line).await.is(204);
    assert!(stream.next().await.is_none());
    server.stop().await;
}
