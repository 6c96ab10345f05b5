//! Conversations from outside: deployed as agents, made of participants that answer by script.

use antiphon::model::scripted::{Gate, Provider, Received, Reply};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::server::Server;
use crate::stream::{Event, kinds, said};

const TWO: [(&str, &str); 2] = [("Ada", "ada"), ("Bo", "bo")];

/// A definition with these agents, and some fields more.
fn of_agents(agents: &[(&str, &str)], fields: Value) -> Value {
    let participants: Vec<Value> = agents
        .iter()
        .map(|(name, agent)| json!({"name": name, "agent": agent}))
        .collect();
    with(json!({"participants": participants}), fields)
}

fn with(mut json: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        json[name] = value.clone();
    }
    json
}

fn remote(name: &str, provider: &Provider) -> Value {
    json!({"name": name, "url": provider.base_url(), "model": name.to_lowercase()})
}

async fn put(server: &Server, agent: &str, definition: &Value) -> Answer {
    server
        .call(&format!("PUT /v1/agents/{agent}"))
        .json(definition.clone())
        .await
}

/// A server that lets agents reach this machine, where the remote participants are.
async fn near() -> Server {
    Server::with(|config| config.egress.private_allowed = vec!["127.0.0.1".to_owned()]).await
}

/// Two remote participants that answer so, in a conversation called `debate`.
async fn debate(
    fields: Value,
    ada: impl IntoIterator<Item = Reply>,
    bo: impl IntoIterator<Item = Reply>,
) -> (Server, Provider, Provider) {
    let (ada, bo) = (Provider::start(ada).await, Provider::start(bo).await);
    let server = near().await;
    let participants = json!({"participants": [remote("Ada", &ada), remote("Bo", &bo)]});
    put(&server, "debate", &with(participants, fields))
        .await
        .is(201);
    server.session("s", &["debate"]).await;
    (server, ada, bo)
}

/// What the provider was asked, message by message.
fn asked(received: &Received) -> Vec<String> {
    let messages = received.body["messages"].as_array().expect("messages");
    let line = |message: &Value| {
        let text = message["content"].as_str().unwrap_or_default();
        format!("{}: {text}", message["role"].as_str().unwrap_or_default())
    };
    messages.iter().map(line).collect()
}

fn of_kind<'a>(events: &'a [Event], kind: &str) -> Vec<&'a Value> {
    let events = events.iter().filter(|event| event.kind == kind);
    events.map(|event| &event.data).collect()
}

async fn events(server: &Server, session: &str) -> Vec<Event> {
    let page = server.get(&format!("/v1/sessions/{session}/events")).await;
    let events = page["events"].as_array().expect("events").iter();
    events
        .map(|data| Event {
            id: String::new(),
            kind: data["kind"].as_str().expect("a kind").to_owned(),
            data: data.clone(),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_deployed_as_any_agent() {
    let server = Server::start().await;
    let first = of_agents(&TWO, json!({}));
    let deployed = put(&server, "debate", &first).await.is(201);
    assert_eq!(deployed["kind"], "conversation");
    assert_eq!(
        (&deployed["ready"], &deployed["version"]),
        (&json!(true), &json!(1))
    );
    // Written otherwise, it is the same.
    let same = of_agents(&TWO, json!({"max_turns": 10, "order": "alternate"}));
    assert_eq!(put(&server, "debate", &same).await.is(200)["version"], 1);
    let second = of_agents(&TWO, json!({"max_turns": 3}));
    let other = put(&server, "debate", &second).await.is(201);
    assert_eq!(other["version"], 2);
    assert_ne!(other["component"], deployed["component"]);

    let digest = deployed["component"].as_str().expect("a digest");
    let stored = server.call(&format!("GET /v1/components/{digest}")).await;
    assert_eq!(stored.header("content-type"), Some("application/json"));
    assert_eq!(stored.is(200), same, "the canonical form");

    let back = server.call("POST /v1/agents/debate/rollback");
    let back = back.json(json!({"version": 1})).await.is(201);
    assert_eq!(
        (&back["version"], &back["component"]),
        (&json!(3), &deployed["component"])
    );
    let card = json!({"card": {"description": "two who disagree"}});
    assert_eq!(
        server.configure("debate", card).await.is(201)["kind"],
        "conversation"
    );
    server
        .deploy_as("debate", crate::guests::component("echo"))
        .await;
    let versions = server.get("/v1/agents/debate/versions").await;
    let kinds: Vec<&Value> = versions["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|version| &version["kind"])
        .collect();
    assert_eq!(
        kinds,
        [
            "component",
            "conversation",
            "conversation",
            "conversation",
            "conversation"
        ]
    );
    let listed = server.get("/v1/agents").await;
    assert_eq!(listed["agents"][0]["kind"], "component");

    let server = server.restart().await;
    let back = server.call("POST /v1/agents/debate/rollback");
    let back = back.json(json!({"version": 2})).await.is(201);
    assert_eq!(back["kind"], "conversation");
    server.call("DELETE /v1/agents/debate").await.is(204);
    server
        .ask("debate", json!("hello"))
        .await
        .refused(404, "agent_not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_conversation_is_refused_by_name() {
    let server = Server::start().await;
    let named = |name: &str| of_agents(&[("Ada", "a"), (name, "b")], json!({}));
    for (definition, status, code, words) in [
        (
            named("Ada"),
            422,
            "invalid_conversation",
            "participants[1].name",
        ),
        (named("ADA"), 422, "invalid_conversation", "slug"),
        (
            of_agents(&[("Ada", "a")], json!({})),
            422,
            "invalid_conversation",
            "participants",
        ),
        (
            of_agents(&TWO, json!({"max_turns": 0})),
            422,
            "invalid_conversation",
            "max_turns",
        ),
        (
            of_agents(&TWO, json!({"halt_on": {"pattern": "("}})),
            422,
            "invalid_conversation",
            "halt_on",
        ),
        (
            of_agents(&TWO, json!({"turns": 3})),
            400,
            "unknown_field",
            "turns",
        ),
        (
            of_agents(
                &[("Ada", "a"), ("Bo", "b"), ("Cy", "c")],
                json!({"order": "alternate"}),
            ),
            422,
            "invalid_conversation",
            "order",
        ),
        (
            of_agents(&[("Ada", "debate"), ("Bo", "b")], json!({})),
            422,
            "invalid_conversation",
            "debate -> debate",
        ),
        (json!([]), 400, "invalid_json", "an object"),
    ] {
        let refused = put(&server, "debate", &definition).await;
        let body = refused.refused(status, code);
        let message = body["error"]["message"].as_str().expect("a message");
        assert!(message.contains(words), "{definition}: {message}");
    }
    let large = format!("{{\"participants\":\"{}\"}}", "x".repeat(512 * 1024));
    let large = server
        .call("PUT /v1/agents/debate")
        .header("content-type", "application/json")
        .body(large);
    large.await.refused(413, "too_large");
    server
        .call("GET /v1/agents/debate")
        .await
        .refused(404, "agent_not_found");

    // Round through others, by the order in which they came, and by going back.
    put(&server, "panel", &of_agents(&TWO, json!({})))
        .await
        .is(201);
    put(
        &server,
        "debate",
        &of_agents(&[("P", "panel"), ("Bo", "b")], json!({})),
    )
    .await
    .is(201);
    let round = of_agents(&[("Ada", "a"), ("D", "debate")], json!({}));
    let refused = put(&server, "panel", &round)
        .await
        .refused(422, "invalid_conversation");
    let message = refused["error"]["message"].as_str().expect("a message");
    assert!(message.contains("panel -> debate -> panel"), "{message}");
    put(&server, "debate", &of_agents(&TWO, json!({})))
        .await
        .is(201);
    put(&server, "panel", &round).await.is(201);
    let back = server.call("POST /v1/agents/debate/rollback");
    let back = back.json(json!({"version": 1})).await;
    back.refused(422, "invalid_conversation");

    // It begins with a message and with nothing else.
    let watching = json!({"watches": ["notes"]});
    let refused = server.configure("debate", watching.clone()).await;
    refused.refused(422, "invalid_conversation");
    server.configure("later", watching).await.is(201);
    put(&server, "later", &of_agents(&TWO, json!({})))
        .await
        .refused(422, "invalid_conversation");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_remote_participants_hear_each_other() {
    let ada = [
        Reply::text("  It is blue.\n"),
        Reply::text("By scattering."),
    ];
    let bo = [Reply::text("Why?")];
    let (server, ada, bo) = debate(json!({"max_turns": 3}), ada, bo).await;
    let mut stream = server.follow("s").await;
    let answer = server
        .invoke("debate", "s", json!("The sky?"))
        .await
        .is(200);
    let reply = "[Ada]   It is blue.\n\n[Bo] Why?\n[Ada] By scattering.\n";
    assert_eq!(
        (&answer["outcome"], &answer["reply"]),
        (&json!("completed"), &json!(reply))
    );

    assert_eq!(asked(&ada.requests()[0]), ["user: The sky?"]);
    assert_eq!(
        asked(&bo.requests()[0]),
        ["user: The sky?", "user: [Ada] It is blue."]
    );
    assert_eq!(
        asked(&ada.requests()[1]),
        [
            "user: The sky?",
            "assistant: It is blue.",
            "user: [Bo] Why?"
        ]
    );
    assert_eq!(ada.requests()[0].body["model"], "ada");

    let events = stream.turn("debate").await;
    assert_eq!(said(&events), reply, "shown as it is answered");
    let (started, ended) = (
        of_kind(&events, "speaker-started"),
        of_kind(&events, "speaker-ended"),
    );
    assert_eq!((started.len(), ended.len()), (3, 3));
    let run = answer["run"].as_str().expect("a run");
    for (index, (name, slug)) in [("Ada", "ada"), ("Bo", "bo"), ("Ada", "ada")]
        .iter()
        .enumerate()
    {
        for event in [started[index], ended[index]] {
            assert_eq!(
                (&event["index"], &event["speaker"]),
                (&json!(index), &json!(name))
            );
            assert_eq!(
                event["speaker_turn"],
                json!(format!("{run}.t{index}.{slug}"))
            );
        }
        assert_eq!(ended[index]["attempts"], 1);
        let voiced: String = of_kind(&events, "spoke")
            .iter()
            .filter(|spoke| spoke["index"] == json!(index))
            .map(|spoke| {
                assert_eq!(spoke["speaker"], *name);
                spoke["text"].as_str().expect("words")
            })
            .collect();
        assert_eq!(voiced, ["  It is blue.\n", "Why?", "By scattering."][index]);
    }
    let halted = of_kind(&events, "halted");
    assert_eq!(halted[0]["halt"], json!({"kind": "max_turns", "turns": 3}));
    let order: Vec<&str> = kinds(&events)
        .into_iter()
        .filter(|kind| *kind != "spoke")
        .collect();
    let turn = ["speaker-started", "speaker-ended"];
    let mut expect = vec!["session-opened", "message-received", "turn-started"];
    expect.extend([turn, turn, turn].concat());
    expect.extend(["halted", "turn-ended"]);
    assert_eq!(order, expect);

    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(transcript["items"][1]["text"], reply);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_before_its_first_word_is_made_again_as_the_same_turn() {
    let ada = [
        Reply::status(503, "busy").header("retry-after", "0"),
        Reply::stream().cut(),
        Reply::text("Now."),
    ];
    let (server, ada, _bo) = debate(json!({"max_turns": 1}), ada, []).await;
    let answer = server.invoke("debate", "s", json!("Go")).await.is(200);
    assert_eq!(answer["reply"], "[Ada] Now.\n");
    let keys: Vec<_> = ada
        .requests()
        .iter()
        .map(|request| request.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys, vec![keys[0].clone(); 3]);
    let events = events(&server, "s").await;
    assert_eq!(of_kind(&events, "retried").len(), 2);
    assert_eq!(of_kind(&events, "speaker-started").len(), 1);
    assert_eq!(of_kind(&events, "speaker-ended")[0]["attempts"], 3);
    server.stop().await;
}

/// What was shown is not taken back: the model goes on, and what it repeats is shown once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_gone_on_with() {
    let ada = [
        Reply::stream().say("One ").say("two ").say("three").cut(),
        Reply::stream()
            .say("two three")
            .say(" four.")
            .finish("stop"),
    ];
    let (server, ada, bo) = debate(json!({"max_turns": 2}), ada, [Reply::text("Good.")]).await;
    let answer = server.invoke("debate", "s", json!("Count")).await.is(200);
    let reply = "[Ada] One two three four.\n[Bo] Good.\n";
    assert_eq!(answer["reply"], reply);
    let events = events(&server, "s").await;
    assert_eq!(said(&events), reply, "shown");
    let transcript = server.get("/v1/sessions/s/transcript").await;
    assert_eq!(transcript["items"][1]["text"], reply, "saved");
    assert_eq!(
        bo.requests()[0].last("user"),
        Some("[Ada] One two three four."),
        "seen"
    );
    let again = asked(&ada.requests()[1]);
    assert_eq!(again[1], "assistant: One two three");
    assert_eq!(of_kind(&events, "speaker-ended")[0]["attempts"], 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_speak_ends_it_and_what_was_said_stands() {
    let ada = || [Reply::text("Hello.")];
    let cut = || Reply::stream().say("I th").cut();
    for (bo, shown, words) in [
        (vec![Reply::status(400, "what?")], "", "what?"),
        (
            vec![Reply::text(" \n")],
            "[Bo]  \n\n",
            "completed without text",
        ),
        (
            vec![cut(), Reply::stream().cut(), Reply::status(400, "no")],
            "[Bo] I th",
            "no",
        ),
    ] {
        let (server, _ada, _bo) = debate(json!({}), ada(), bo).await;
        let answer = server.invoke("debate", "s", json!("Go")).await;
        let failed = answer.refused(502, "turn_failed");
        assert_eq!(failed["reply"], format!("[Ada] Hello.\n{shown}"));
        let events = events(&server, "s").await;
        let halt = &of_kind(&events, "halted")[0]["halt"];
        assert_eq!(
            (&halt["kind"], &halt["participant"]),
            (&json!("participant_error"), &json!("Bo"))
        );
        let message = halt["message"].as_str().expect("words");
        assert!(message.contains(words), "{message}");
        let ended = of_kind(&events, "turn-ended");
        assert_eq!(
            (&ended[0]["outcome"], &ended[0]["error"]["code"]),
            (&json!("failed"), &json!("agent"))
        );
        assert_eq!(
            of_kind(&events, "speaker-ended").len(),
            1,
            "the turn that was made"
        );
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_end_it_and_asking_again_calls_nobody() {
    let ada = [Reply::text("Maybe."), Reply::text("Then we AGREE.")];
    let fields = json!({"halt_on": {"pattern": "(?i)we agree"}, "max_turns": 100});
    let (server, ada, bo) = debate(fields, ada, [Reply::text("No.")]).await;
    let invoke = || {
        let call = server.call("POST /v1/agents/debate/invoke");
        call.json(json!({"body": "Go", "session": "s"}))
            .idempotency("once")
    };
    let first = invoke().await;
    let answer = first.is(200);
    assert_eq!(
        answer["reply"],
        "[Ada] Maybe.\n[Bo] No.\n[Ada] Then we AGREE.\n"
    );
    let again = invoke().await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), answer);
    assert_eq!((ada.requests().len(), bo.requests().len()), (2, 1));
    let events = events(&server, "s").await;
    let halt = &of_kind(&events, "halted")[0]["halt"];
    assert_eq!(
        *halt,
        json!({"kind": "predicate", "reason": "the pattern \"(?i)we agree\" matched"})
    );

    // Another message is another conversation.
    let server = server.restart().await;
    let again = server
        .call("POST /v1/agents/debate/invoke")
        .json(json!({"body": "Go", "session": "s"}))
        .idempotency("once")
        .await;
    assert_eq!(again.is(200), answer, "after a restart, too");
    assert_eq!((ada.requests().len(), bo.requests().len()), (2, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_it_halts_it_where_it_is() {
    let bo = [Reply::stream().say("I think ").hang()];
    let (server, _ada, _bo) = debate(json!({}), [Reply::text("Hello.")], bo).await;
    let mut stream = server.follow("s").await;
    server.post("s", json!("Go")).await;
    stream.shown("[Ada] Hello.\n[Bo] I think ").await;
    server.call("POST /v1/sessions/s/interrupt").await.is(202);
    let events = stream.turn("debate").await;
    assert_eq!(
        kinds(&events),
        ["halted", "interrupt-requested", "turn-ended"]
    );
    assert_eq!(events[0].data["halt"], json!({"kind": "abort"}));
    assert_eq!(events[2].data["outcome"], "interrupted");
    server.stop().await;
}

/// A host that stops in the middle of an answer goes on with it: who spoke is not asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_loses_no_word() {
    let gate = Gate::new();
    let ada = [Reply::text("Hello."), Reply::text("Bye.")];
    let bo = [
        Reply::stream().say("I think ").wait(&gate),
        Reply::stream().say("so.").finish("stop"),
    ];
    let (server, ada, bo) = debate(json!({"max_turns": 3}), ada, bo).await;
    let mut stream = server.follow("s").await;
    server.post("s", json!("Go")).await;
    stream.shown("[Ada] Hello.\n[Bo] I think ").await;
    drop(stream);
    let server = server.restart().await;
    let mut stream = server.follow("s").await;
    let all = stream.turn("debate").await;
    assert_eq!(said(&all), "[Ada] Hello.\n[Bo] I think so.\n[Ada] Bye.\n");
    assert_eq!((ada.requests().len(), bo.requests().len()), (2, 2));
    assert_eq!(
        of_kind(&all, "speaker-started").len(),
        3,
        "each begins once"
    );
    let retried = of_kind(&all, "retried");
    assert_eq!(retried[0]["reason"], "host-stopped");
    server.stop().await;
}

/// The sessions that a conversation's agents have in it, by agent.
async fn children(server: &Server, session: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for event in events(server, session).await {
        if event.kind == "agent-called" {
            let text = |name: &str| event.data[name].as_str().expect("a name").to_owned();
            let child = (text("agent"), text("session"));
            if !found.contains(&child) {
                found.push(child);
            }
        }
    }
    found
}

/// The example: two debaters of one component, and a judge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_take_part_and_one_judges() {
    let replies = [
        "Yes: the air.",
        "go on",
        "What does it cost?",
        "go on",
        "Less than the cars.",
        "halt: they will not agree",
    ];
    let provider = Provider::start(replies.map(Reply::text)).await;
    let server = Server::asking(&provider).await;
    let folder = crate::guests::root().join("agents/debater");
    let read = |name: &str| {
        let text = std::fs::read(folder.join(name)).expect("it is there");
        serde_json::from_slice::<Value>(&text).expect("JSON")
    };
    for (agent, component) in [
        ("advocate", "debater"),
        ("sceptic", "debater"),
        ("judge", "judge"),
    ] {
        server
            .deploy_as(agent, crate::guests::component(component))
            .await;
    }
    for agent in ["advocate", "sceptic"] {
        let config = read(&format!("{agent}.json"));
        server.configure(agent, config).await.is(201);
    }
    put(&server, "debate", &read("debate.json")).await.is(201);
    server.session("s", &["debate"]).await;
    let mut stream = server.follow("s").await;
    let answer = server
        .invoke("debate", "s", json!("Ban cars?"))
        .await
        .is(200);
    let reply =
        "[Advocate] Yes: the air.\n[Sceptic] What does it cost?\n[Advocate] Less than the cars.\n";
    assert_eq!(answer["reply"], reply);

    let all = stream.turn("debate").await;
    assert_eq!(said(&all), reply);
    let reason = "they will not agree";
    assert_eq!(
        of_kind(&all, "halted")[0]["halt"],
        json!({"kind": "predicate", "reason": reason})
    );
    let children = children(&server, "s").await;
    let agents: Vec<&str> = children.iter().map(|(agent, _)| agent.as_str()).collect();
    assert_eq!(agents, ["advocate", "judge", "sceptic"], "one session each");

    // Its own words are its own in its session, and what the others said came as one message.
    let (_, advocate) = &children[0];
    let transcript = server
        .get(&format!("/v1/sessions/{advocate}/transcript"))
        .await;
    let lines: Vec<String> = transcript["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| {
            let who = item["agent"].as_str().or(item["author"].as_str());
            format!(
                "{}: {}",
                who.expect("a name"),
                item["text"].as_str().expect("text")
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            "debate: Ban cars?",
            "advocate: Yes: the air.",
            "debate: [Sceptic] What does it cost?",
            "advocate: Less than the cars.",
        ]
    );
    let ended = of_kind(&all, "speaker-ended");
    assert_eq!(ended[0]["session"], json!(advocate));
    assert_eq!(ended[0]["session"], ended[2]["session"]);
    assert_ne!(ended[0]["child_turn"], ended[2]["child_turn"]);
    let run = answer["run"].as_str().expect("a run");
    assert!(
        ended[2]["child_turn"]
            .as_str()
            .expect("a turn")
            .starts_with(run),
        "one run"
    );

    let told = asked(&provider.requests()[4]);
    assert_eq!(
        told[1],
        "system: Your stance: You are for what is proposed."
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_chooses_who_speaks() {
    let chosen = ["Bo", "ada.", "Bo", "Nobody"];
    let provider = Provider::start(chosen.map(Reply::text)).await;
    let server = Server::asking(&provider).await;
    for (agent, component) in [("chair", "debater"), ("ada", "echo"), ("bo", "echo")] {
        server
            .deploy_as(agent, crate::guests::component(component))
            .await;
    }
    let fields = json!({"order": {"selector": "chair"}});
    put(&server, "debate", &of_agents(&TWO, fields))
        .await
        .is(201);
    server.session("s", &["debate"]).await;
    let failed = server.invoke("debate", "s", json!("Go")).await;
    let failed = failed.refused(502, "turn_failed");
    let lines = "[Bo] Go\n[Ada] Go\n[Bo] Go\n[Bo] [Ada] Go\n[Bo] Go\n";
    assert_eq!(failed["reply"], lines);
    let events = events(&server, "s").await;
    let error = "it chose \"Nobody\", who takes no part";
    assert_eq!(
        of_kind(&events, "halted")[0]["halt"],
        json!({"kind": "participant_error", "participant": "chair", "message": error})
    );
    assert_eq!(
        provider.requests()[0].last("user"),
        Some("Go\nWho speaks next: Ada, Bo?")
    );
    server.stop().await;
}

/// A conversation in a conversation is an agent like any other, in the same run, one deeper.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_takes_part_in_another() {
    let (ada, cy) = (
        Provider::start([Reply::text("A1"), Reply::text("A2")]).await,
        Provider::start([Reply::text("C1"), Reply::text("C2")]).await,
    );
    let server = near().await;
    server
        .deploy_as("bo", crate::guests::component("echo"))
        .await;
    let inner = json!({
        "participants": [remote("Ada", &ada), {"name": "Bo", "agent": "bo"}],
        "max_turns": 2,
    });
    put(&server, "panel", &inner).await.is(201);
    let outer = json!({
        "participants": [{"name": "The Panel", "agent": "panel"}, remote("Cy", &cy)],
        "max_turns": 4,
    });
    put(&server, "debate", &outer).await.is(201);
    server.session("s", &["debate"]).await;
    let answer = server.invoke("debate", "s", json!("Go")).await.is(200);
    let run = answer["run"].as_str().expect("a run").to_owned();
    let reply = answer["reply"].as_str().expect("a reply");
    let head = "[The Panel] [Ada] A1\n[Bo] Go\n[Ada] A1\n\n[Cy] C1\n[The Panel] ";
    assert!(reply.starts_with(head), "{reply}");

    // What goes out says whose turn it is, in which run, and how deep.
    let header = |received: &Received, name: &str| {
        let value = received.headers.get(name);
        value.map(|value| value.to_str().expect("ASCII").to_owned())
    };
    for (index, received) in cy.requests().iter().enumerate() {
        let at = 2 * index + 1;
        let expect = [
            ("x-tangle-runid", Some(run.clone())),
            ("x-tangle-turnid", Some(format!("{run}.t{at}.cy"))),
            ("x-tangle-parent-turnid", None),
            ("x-tangle-speaker", Some("Cy".to_owned())),
            ("x-tangle-forwarded-depth", Some("1".to_owned())),
            ("x-tangle-forwarded-authorization", None),
        ];
        for (name, value) in expect {
            assert_eq!(header(received, name), value, "{name}");
        }
    }
    for (index, received) in ada.requests().iter().enumerate() {
        let at = 2 * index;
        let expect = [
            ("x-tangle-runid", run.clone()),
            ("x-tangle-turnid", format!("{run}.t0.ada")),
            ("x-tangle-parent-turnid", format!("{run}.t{at}.the-panel")),
            ("x-tangle-speaker", "Ada".to_owned()),
            ("x-tangle-forwarded-depth", "2".to_owned()),
        ];
        for (name, value) in expect {
            assert_eq!(header(received, name), Some(value), "{name}");
        }
    }
    let keys: Vec<_> = ada
        .requests()
        .iter()
        .map(|it| header(it, "idempotency-key"))
        .collect();
    assert_ne!(keys[0], keys[1], "the same turn id, and another turn");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_participant_is_asked_with_its_secret_and_where_the_operator_lets_it() {
    let ada = Provider::start([Reply::text("A")]).await;
    let server = near().await;
    let keyed = with(remote("Ada", &ada), json!({"secret": "ada-key"}));
    let other = json!({"name": "Bo", "agent": "bo"});
    let definition = json!({"participants": [keyed, other.clone()], "max_turns": 1});
    put(&server, "debate", &definition).await.is(201);
    server.session("s", &["debate"]).await;
    let missing = server.invoke("debate", "s", json!("Go")).await;
    missing.refused(502, "turn_failed");
    let halts = |events: &[Event]| -> Vec<String> {
        let halts = of_kind(events, "halted").into_iter();
        halts
            .map(|event| event["halt"]["message"].to_string())
            .collect()
    };
    let seen = events(&server, "s").await;
    assert!(
        halts(&seen)[0].contains("there is no secret `ada-key`"),
        "{seen:?}"
    );
    assert_eq!(ada.requests().len(), 0);

    let secret = server.call("PUT /v1/secrets/ada-key").body("sk-of-ada-123");
    secret.await.is(201);
    let said = server.reply("debate", "s", json!("Go")).await;
    assert_eq!(said, "[Ada] A\n");
    assert_eq!(
        ada.requests()[0].headers["authorization"],
        "Bearer sk-of-ada-123"
    );
    let journal = json!(server.journal("s").await).to_string();
    assert!(
        !journal.contains("sk-of-ada-123"),
        "no secret in the journal"
    );
    server.stop().await;

    // Addresses that are not public are the operator's to grant.
    let server = Server::start().await;
    for url in [ada.base_url(), "http://169.254.169.254/latest".to_owned()] {
        let near = json!({"name": "Ada", "url": url, "model": "m"});
        let definition = json!({"participants": [near, other], "max_turns": 1});
        put(&server, "debate", &definition).await.is(201);
        let failed = server.ask("debate", json!("Go")).await;
        let failed = failed.refused(502, "turn_failed");
        let session = failed["session"].as_str().expect("a session");
        let seen = events(&server, session).await;
        assert!(
            halts(&seen)[0].contains("not on the public Internet"),
            "{}",
            halts(&seen)[0]
        );
        assert_eq!(of_kind(&seen, "retried").len(), 0, "not tried again");
    }
    assert_eq!(ada.requests().len(), 1);
    server.stop().await;
}

/// Stored for ever, and what clients are built on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_of_a_conversation() {
    let server = Server::start().await;
    for agent in ["ada", "bo"] {
        server
            .deploy_as(agent, crate::guests::component("echo"))
            .await;
    }
    put(&server, "debate", &of_agents(&TWO, json!({"max_turns": 2})))
        .await
        .is(201);
    server.session("s", &["debate"]).await;
    server.reply("debate", "s", json!("Go")).await;
    let mut entries = server.journal("s").await;
    for entry in &mut entries {
        let fields = entry.as_object_mut().expect("an object");
        for name in ["started_at", "ended_at", "session"] {
            if let Some(value) = fields.get_mut(name) {
                *value = json!("its own");
            }
        }
    }
    crate::golden::check("conversation.txt", &crate::journal::lines(&entries));
    server.stop().await;
}

/// The cap lets the turn that goes beyond it end, and refuses the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_halts_between_turns() {
    let text = || {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 1}});
        Reply::stream().say("More.").finish("stop").event(&usage)
    };
    let ada = Provider::start((0..4).map(|_| text())).await;
    let server = near().await;
    // Half a cent a turn and a little more: rounded to cents, some turns would cost nothing.
    let price = json!({"price": {"input_micros": 1_000_000_000, "output_micros": 400_200_000}});
    let participants = [
        with(remote("Ada", &ada), price.clone()),
        with(remote("Bo", &ada), price),
    ];
    let definition =
        json!({"participants": participants, "max_turns": 4, "max_cost_micros": 12_000});
    put(&server, "debate", &definition).await.is(201);
    server.session("s", &["debate"]).await;
    let answer = server.invoke("debate", "s", json!("Go")).await.is(200);
    assert_eq!(answer["outcome"], "completed");
    let events = events(&server, "s").await;
    assert_eq!(
        of_kind(&events, "halted")[0]["halt"],
        json!({"kind": "max_credits", "spentCents": 1.5003, "capCents": 1.2, "spentMicros": 15_003, "capMicros": 12_000})
    );
    let ended = of_kind(&events, "speaker-ended");
    assert_eq!(
        (ended.len(), &ended[0]["usage"]["cost_micros"]),
        (3, &json!(5_001))
    );
    assert_eq!(answer["usage"]["cost_micros"], 15_003);
    server.stop().await;
}

/// The turn of a conversation is run again from its journal as that of any agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_replayed() {
    let ada = Provider::start([Reply::text("Hello."), Reply::text("Bye.")]).await;
    let bo = Provider::start([
        Reply::stream().say("I ").cut(),
        Reply::stream().say("see.").finish("stop"),
    ])
    .await;
    let server = near().await;
    server
        .deploy_as("cy", crate::guests::component("echo"))
        .await;
    let of = |second: &str| {
        let cy = json!({"name": "Cy", "agent": "cy"});
        let participants = [remote("Ada", &ada), remote(second, &bo), cy];
        json!({"participants": participants, "max_turns": 4})
    };
    put(&server, "debate", &of("Bo")).await.is(201);
    server.session("s", &["debate"]).await;
    let said = server.reply("debate", "s", json!("Go")).await;
    let journal = server.get("/v1/sessions/s/journal?kind=turn-started").await;
    let turn = journal["entries"][0]["turn"]
        .as_str()
        .expect("a turn")
        .to_owned();
    let replay = |more: Vec<String>| {
        let mut command = crate::process::command(&["replay", "s", &turn, "--json"]);
        command
            .args(["--url", &server.url, "--key", &server.key])
            .args(more);
        async move {
            let output = tokio::task::spawn_blocking(move || command.output()).await;
            let output = output.expect("it runs").expect("the binary runs");
            let text = String::from_utf8(output.stdout).expect("text");
            let json: Value = serde_json::from_str(&text)
                .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
            (output.status.code(), json)
        }
    };
    let (code, same) = replay(Vec::new()).await;
    assert_eq!(code, Some(0), "{same}");
    assert_eq!(same["said"], json!(said), "{same}");

    // Another definition comes to another turn.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.json");
    std::fs::write(&path, of("Dee").to_string()).expect("it is written");
    let more = vec!["--component".to_owned(), path.display().to_string()];
    let (code, differs) = replay(more).await;
    assert_eq!(code, Some(1), "{differs}");
    let text = differs.to_string();
    assert!(text.contains("turn 1 of"), "{text}");
    assert_eq!(
        (ada.requests().len(), bo.requests().len()),
        (2, 2),
        "nobody is asked"
    );
    server.stop().await;
}

/// A caller's credential goes to participants that are asked in the caller's name, and to no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_goes_where_the_definition_says() {
    let (ada, bo) = (
        Provider::start([Reply::text("A")]).await,
        Provider::start([Reply::text("B")]).await,
    );
    let server = near().await;
    let own = with(remote("Bo", &bo), json!({"authorization": "agent-owned"}));
    let definition = json!({"participants": [remote("Ada", &ada), own], "max_turns": 2});
    put(&server, "debate", &definition).await.is(201);
    let scopes = json!({"scopes": ["invoke", "inter-agent"]});
    let minted = server.call("POST /v1/keys").json(scopes).await.is(201);
    let answer = server
        .call("POST /v1/agents/debate/invoke")
        .key(minted["key"].as_str().expect("a key"))
        .header("x-tangle-forwarded-authorization", "Bearer sk-tan-user")
        .json(json!({"body": "Go"}))
        .await;
    assert_eq!(answer.is(200)["reply"], "[Ada] A\n[Bo] B\n");
    let told = |provider: &Provider| {
        let requests = provider.requests();
        let header = requests[0].headers.get("x-tangle-forwarded-authorization");
        header.map(|value| value.to_str().expect("ASCII").to_owned())
    };
    assert_eq!(told(&ada).as_deref(), Some("Bearer sk-tan-user"));
    assert_eq!(told(&bo), None);
    server.stop().await;
}
