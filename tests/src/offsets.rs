//! One space of offsets: every way of reading and every answer names the same places of a session.

use serde_json::{Value, json};

use crate::server::Server;
use crate::stream::{Event, Events};

/// Messages at once, before and after the restart.
const MESSAGES: usize = 40;

/// Whoever follows from a place on, through what was cut.
struct Follower {
    from: String,
    events: Vec<Event>,
    stream: Events,
}

impl Follower {
    async fn at(server: &Server, from: &str) -> Self {
        Self {
            from: from.to_owned(),
            events: Vec::new(),
            stream: followed(server, from).await,
        }
    }

    fn last(&self) -> &str {
        self.events.last().map_or(&self.from, |event| &event.id)
    }

    /// Until the server hangs up.
    async fn cut(&mut self) {
        while let Some(event) = self.stream.next().await {
            self.events.push(event);
        }
    }

    async fn resume(&mut self, server: &Server) {
        self.stream = followed(server, self.last()).await;
    }

    async fn reach(&mut self, offset: &str) {
        while self.last() != offset {
            let event = self.stream.next().await.expect("there is more");
            self.events.push(event);
        }
    }
}

async fn followed(server: &Server, from: &str) -> Events {
    let line = format!("GET /v1/sessions/s/events?live=sse&offset={from}");
    server.call(&line).events().await
}

/// Post so many, and attach to the session in between, where it was at some time. What each message was told of
/// its place.
async fn busy(server: &Server, followers: &mut Vec<Follower>) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    for n in 0..MESSAGES {
        let message = server.call("POST /v1/sessions/s/messages");
        told.push(message.json(json!({"body": n})).await.is(202));
        if n % 10 == 5 {
            let known = told[n / 2]["offset"].as_str().expect("an offset");
            followers.push(Follower::at(server, known).await);
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_reading_names_the_same_places_also_over_a_restart() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let mut followers = vec![Follower::at(&server, "-1").await];
    let mut told = busy(&server, &mut followers).await;
    // In the middle of its work: some turns are cut, and taken up again.
    let server = server.restart().await;
    for follower in &mut followers {
        follower.cut().await;
        follower.resume(&server).await;
    }
    told.extend(busy(&server, &mut followers).await);
    let answer = server.invoke("echo", "s", json!("the last")).await.is(200);
    let page = server.get("/v1/sessions/s/events").await;
    let events = page["events"].as_array().expect("a list");
    let places = |event: &Value| event["offset"].as_str().expect("an offset").to_owned();
    let ids: Vec<String> = events.iter().map(places).collect();
    let last = ids.last().expect("there are some").clone();
    let at = |offset: &Value| {
        ids.iter()
            .position(|id| Some(id.as_str()) == offset.as_str())
    };

    // What followers were shown: all from their place on, once, in order.
    for follower in &mut followers {
        follower.reach(&last).await;
        let from = at(&json!(follower.from)).map_or(0, |at| at + 1);
        let seen: Vec<&str> = follower.events.iter().map(|event| &*event.id).collect();
        assert_eq!(seen, ids[from..], "from {}", follower.from);
        for (seen, event) in follower.events.iter().zip(&events[from..]) {
            assert_eq!(&seen.data, event);
        }
    }
    // What answers said: the event of that message, and the end of that turn.
    for told in &told {
        let at = at(&told["offset"]).expect("it is an event's place");
        assert_eq!(events[at]["message"], told["message"]);
        let message = told["message"].as_str().expect("an id");
        let (_, number) = message.split_once(':').expect("a number");
        let place = format!("{:016}_{:016}", number.parse::<u64>().expect("a number"), 0);
        assert_eq!(
            told["offset"],
            json!(place),
            "an operation's id is its place"
        );
    }
    let end = &events[at(&answer["offset"]).expect("it is an event's place")];
    assert_eq!(
        (&end["kind"], &end["turn"]),
        (&json!("turn-ended"), &answer["turn"])
    );
    let transcript = server.get("/v1/sessions/s/transcript").await;
    let after = at(&transcript["offset"]).expect("it is an event's place");
    assert!(
        events[after + 1..]
            .iter()
            .all(|event| event["kind"] != "spoke")
    );
    // As a Durable Stream, from each of them.
    for (at, id) in ids.iter().enumerate() {
        let line = format!("GET /v1/stream/sessions/s?offset={id}");
        let read = server.call(&line).await;
        let rest: Vec<Value> = serde_json::from_str(read.text()).expect("events");
        assert_eq!(rest, events[at + 1..], "from {id}");
        assert_eq!(read.header("stream-next-offset"), page["offset"].as_str());
    }
    server.stop().await;
}
