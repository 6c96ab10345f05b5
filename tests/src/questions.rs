//! Agents that ask people, from outside: what people see, how they answer, and what becomes of the turn.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::client::Answer;
use crate::guests::component;
use crate::process::command;
use crate::server::Server;
use crate::sockets::Socket;
use crate::stream::{Events, said};

const GRANTS: [&str; 7] = [
    "kernel",
    "mailbox",
    "model",
    "reply",
    "turn",
    "transcript",
    "questions",
];

/// The agent `asker`, and the session `s` with it.
async fn deploy(server: &Server) {
    let config = json!({"grants": GRANTS});
    server.configure("asker", config).await.is(201);
    server.deploy_as("asker", component("asker")).await;
    server.session("s", &["asker"]).await;
}

async fn started() -> Server {
    let server = Server::start().await;
    deploy(&server).await;
    server
}

/// Follow until the agent asks: its event.
async fn asked(events: &mut Events) -> Value {
    let seen = events.until(|it| it.kind == "asked").await;
    seen.last().expect("it asks").data.clone()
}

async fn answered(events: &mut Events) -> Value {
    let seen = events.until(|it| it.kind == "answered").await;
    seen.last().expect("it is answered").data.clone()
}

async fn questions(server: &Server, session: &str) -> Vec<Value> {
    let path = format!("/v1/sessions/{session}/questions");
    let page = server.get(&path).await;
    page["questions"].as_array().expect("a list").clone()
}

async fn answer(server: &Server, question: &Value, body: Value) -> Answer {
    let line = format!("POST /v1/sessions/s/questions/{question}");
    server.call(&line).json(body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_seen_answered_and_heard() {
    let server = started().await;
    let mut events = server.follow("s").await;
    let script = json!([
        {"say": "I could. "},
        {"ask": ["Shall I?", ["yes", "no"]]},
        {"ask": ["How?", []]},
        {"passed": 0},
    ]);
    server.post("s", script).await;
    let first = asked(&mut events).await;
    assert_eq!(first["text"], "Shall I?");
    assert_eq!(first["choices"], json!(["yes", "no"]));
    assert_eq!(first["agent"], "asker");
    let open = questions(&server, "s").await;
    assert_eq!(open.len(), 1);
    for field in ["question", "agent", "turn", "text", "choices"] {
        assert_eq!(open[0][field], first[field], "{field}");
    }
    assert_eq!(open[0]["asked_at"], first["time"]);
    let session = server.get("/v1/sessions/s").await;
    assert_eq!(session["agents"][0]["question"], first["question"]);
    assert_eq!(session["expires_at"], Value::Null);

    let body = json!({"choice": "yes", "note": "at once", "author": "ben"});
    let taken = answer(&server, &first["question"], body).await.is(200);
    let heard = answered(&mut events).await;
    assert_eq!(
        (&taken["offset"], &taken["question"]),
        (&heard["offset"], &first["question"])
    );
    for (field, value) in [
        ("result", "answered"),
        ("text", "yes"),
        ("by", "ben"),
        ("note", "at once"),
        ("agent", "asker"),
    ] {
        assert_eq!(heard[field], value, "{heard}");
    }
    let second = asked(&mut events).await;
    assert_eq!(second["choices"], Value::Null, "any text");
    let text = json!({"text": "with care", "author": "ana"});
    answer(&server, &second["question"], text).await.is(200);
    let turn = events.turn("asker").await;
    assert_eq!(turn.last().expect("its end").data["outcome"], "completed");
    let said: String = {
        let page = server.get("/v1/sessions/s/transcript").await;
        page["items"][1]["text"].as_str().expect("words").to_owned()
    };
    assert_eq!(
        said,
        "I could. {\"answer\":\"yes\",\"by\":\"ben\",\"note\":\"at once\"}\n\
         {\"answer\":\"with care\",\"by\":\"ana\"}\n{\"passed\":true}\n"
    );
    assert!(questions(&server, "s").await.is_empty());
    let session = server.get("/v1/sessions/s").await;
    assert_eq!(session["agents"][0]["question"], Value::Null);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_answer_and_how() {
    let server = started().await;
    server.session("other", &["asker"]).await;
    let mut events = server.follow("s").await;
    server
        .post(
            "s",
            json!([{"ask": ["Shall I?", ["yes", "no"]]}, {"ask": ["How?", []]}]),
        )
        .await;
    let question = asked(&mut events).await["question"].clone();
    let path = format!("/v1/sessions/s/questions/{question}");

    for (body, code) in [
        (json!({"text": "yes"}), "not_a_choice"),
        (json!({"choice": "perhaps"}), "not_a_choice"),
        (json!({"choice": "yes", "text": "yes"}), "invalid_json"),
        (json!({}), "invalid_json"),
        (json!({"choice": "yes", "by": "ana"}), "unknown_field"),
        (json!({"choice": "yes", "author": "a b"}), "invalid_name"),
    ] {
        let refused = answer(&server, &question, body).await.refused(400, code);
        if code == "not_a_choice" {
            assert_eq!(refused["choices"], json!(["yes", "no"]));
        }
    }
    let long = "x".repeat(1024 * 1024 + 1);
    let note = json!({"choice": "yes", "note": long});
    answer(&server, &question, note)
        .await
        .refused(413, "too_large");
    for (path, status, code) in [
        ("/v1/sessions/s/questions/1", 404, "question_not_found"),
        ("/v1/sessions/s/questions/999999", 404, "question_not_found"),
        ("/v1/sessions/s/questions/0", 404, "question_not_found"),
        ("/v1/sessions/s/questions/first", 400, "invalid_name"),
        ("/v1/sessions/none/questions/1", 404, "session_not_found"),
        (
            &format!("/v1/sessions/other/questions/{question}"),
            404,
            "question_not_found",
        ),
    ] {
        let call = server.call(&format!("POST {path}"));
        call.json(json!({"choice": "yes"}))
            .await
            .refused(status, code);
    }

    let token = async |scopes: Value| {
        let body = json!({"author": "ana", "scopes": scopes});
        let minted = server.call("POST /v1/sessions/s/tokens").json(body).await;
        let token = minted.is(201)["token"].clone();
        token.as_str().expect("a text").to_owned()
    };
    let (reads, sends) = (token(json!(["read"])).await, token(json!(["send"])).await);
    let with = |line: &str, key: &str| server.call(&format!("{line} {path}")).key(key);
    let yes = json!({"choice": "yes"});
    with("POST", &reads)
        .json(yes.clone())
        .await
        .refused(403, "insufficient_scope");
    let ben = json!({"choice": "yes", "author": "ben"});
    with("POST", &sends)
        .json(ben)
        .await
        .refused(403, "author_mismatch");
    let list = server.call("GET /v1/sessions/s/questions");
    list.key(&sends).await.refused(403, "insufficient_scope");
    let list = server
        .call("GET /v1/sessions/s/questions")
        .key(&reads)
        .await;
    assert_eq!(list.is(200)["questions"][0]["question"], question);
    // Nothing of that was an answer.
    assert_eq!(questions(&server, "s").await.len(), 1);
    with("POST", &sends).json(yes).await.is(200);
    let heard = answered(&mut events).await;
    assert_eq!(heard["by"], "ana", "a token speaks for its author");

    let second = asked(&mut events).await["question"].clone();
    let choice = answer(&server, &second, json!({"choice": "yes"})).await;
    assert_eq!(choice.refused(400, "not_a_choice")["choices"], json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_is_answered_once_and_a_repeat_is_the_same_answer() {
    let server = started().await;
    let mut events = server.follow("s").await;
    server.post("s", json!([{"approve": "Shall I?"}])).await;
    let question = asked(&mut events).await["question"].clone();
    let line = format!("POST /v1/sessions/s/questions/{question}");
    let send = |key: &str, choice: &str, author: &str| {
        let body = json!({"choice": choice, "author": author});
        server.call(&line).idempotency(key).json(body)
    };
    let first = send("k", "approve", "ana").await;
    assert!(!first.is_replayed());
    let first = first.is(200);
    let again = send("k", "approve", "ana").await;
    assert!(again.is_replayed());
    assert_eq!(again.is(200), first);
    send("k", "deny", "ana")
        .await
        .refused(422, "idempotency_key_reused");
    let late = send("l", "approve", "ana").await;
    late.refused(409, "question_answered");
    assert_eq!(late.header("x-should-retry"), Some("false"));
    send("k", "approve", "ben")
        .await
        .refused(409, "question_answered");
    let without = answer(&server, &question, json!({"choice": "deny"})).await;
    without.refused(409, "question_answered");
    let turn = events.turn("asker").await;
    assert_eq!(said(&turn), "{\"approved\":true}\n");
    let again = send("k", "approve", "ana").await;
    assert_eq!(again.is(200), first, "also when the turn is over");
    let kinds: Vec<Value> = server.journal("s").await;
    let answers = kinds.iter().filter(|entry| entry["kind"] == "answered");
    assert_eq!(answers.count(), 1);
    // An answer that was kept is so after a restart.
    let server = server.restart().await;
    let body = json!({"choice": "approve", "author": "ana"});
    let again = server.call(&line).idempotency("k").json(body).await;
    assert_eq!(again.is(200), first);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_nobody_answers_is_over_in_time() {
    let server = started().await;
    let mut events = server.follow("s").await;
    server
        .post(
            "s",
            json!([{"ask_within": ["Shall I?", 1]}, {"passed": 1000}]),
        )
        .await;
    let question = asked(&mut events).await;
    let closed = answered(&mut events).await;
    assert_eq!(
        (&closed["result"], &closed["by"]),
        (&json!("expired"), &Value::Null)
    );
    assert_eq!(closed["question"], question["question"]);
    let late = answer(&server, &question["question"], json!({"text": "yes"})).await;
    late.refused(409, "question_answered");
    let turn = events.turn("asker").await;
    assert_eq!(said(&turn), "{\"error\":\"expired\"}\n{\"passed\":true}\n");
    server.stop().await;
}

/// Whatever ends a turn ends one that asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_asks_can_be_stopped() {
    let server = started().await;
    let script = json!([{"say": "well "}, {"ask": ["Shall I?", []]}, {"say": "never"}]);
    let mut events = server.follow("s").await;
    for (end, status) in [
        ("POST /v1/sessions/s/interrupt", 202),
        ("POST /v1/operations/MESSAGE/cancel", 200),
    ] {
        let message = server.post("s", script.clone()).await;
        let question = asked(&mut events).await["question"].clone();
        server
            .call(&end.replace("MESSAGE", &message))
            .await
            .is(status);
        let turn = events.turn("asker").await;
        assert_eq!(said(&turn), "");
        assert!(questions(&server, "s").await.is_empty());
        let late = answer(&server, &question, json!({"text": "yes"})).await;
        late.refused(409, "question_answered");
    }
    // A fork does not ask what was asked in the other session.
    server.post("s", script).await;
    let question = asked(&mut events).await["question"].clone();
    let fork = server
        .call("POST /v1/sessions/s/fork")
        .json(json!({"session": "f"}));
    fork.await.is(201);
    assert!(questions(&server, "f").await.is_empty());
    assert_eq!(questions(&server, "s").await.len(), 1);
    let call = server.call(&format!("POST /v1/sessions/f/questions/{question}"));
    call.json(json!({"text": "yes"}))
        .await
        .refused(409, "question_answered");
    assert_eq!(server.call("DELETE /v1/sessions/s").await.status, 204);
    let late = answer(&server, &question, json!({"text": "yes"})).await;
    late.refused(410, "session_gone");
    server.stop().await;
}

/// What an instance alone can hold does not outlast a question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_with_an_instance_is_not_held_over_a_question() {
    let server = started().await;
    let mut events = server.follow("s").await;
    let script = json!([
        {"lock": "plan"}, {"ask": ["With a lock?", []]}, {"commit": "done"},
        {"open": "hello"}, {"ask": ["With an answer?", []]}, "drop",
        {"ask": ["With nothing?", []]},
    ]);
    server.post("s", script).await;
    let question = asked(&mut events).await;
    assert_eq!(question["text"], "With nothing?");
    assert_eq!(
        server.get("/v1/sessions/s/slots/plan").await["state"],
        "idle"
    );
    answer(&server, &question["question"], json!({"text": "yes"}))
        .await
        .is(200);
    events.turn("asker").await;
    let page = server.get("/v1/sessions/s/transcript").await;
    let text = "{\"error\":\"held-lock\"}\n{\"error\":\"open-answer\"}\n{\"answer\":\"yes\",\"by\":\"user\"}\n";
    assert_eq!(page["items"][1]["text"], text);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_limit_of_questions_is_hit() {
    let server = Server::with(|config| {
        config.limits.question_bytes_max = 20;
        config.limits.question_choices_max = 3;
        config.limits.questions_turn_max = 2;
        config.limits.question_ms_max = 20;
    })
    .await;
    deploy(&server).await;
    let script = json!([
        {"ask_long": [21, 0]},
        {"ask_long": [12, 3]},
        {"ask_long": [1, 4]},
        {"ask": [" ", []]},
        {"ask": ["?", ["a", "a"]]},
        // Longer than the host has people wait.
        {"ask_within": ["?", 60_000]},
        {"ask_long": [11, 3]},
        {"ask": ["once more?", []]},
    ]);
    let said = server.reply("asker", "s", script).await;
    let errors: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["error"].clone())
        .collect();
    let expected = [
        "too-large",
        "too-large",
        "too-large",
        "other: it asks nothing",
        "other: each choice is a text of its own",
        "expired",
        "expired",
        "too-many",
    ];
    assert_eq!(errors, expected);
    let hit = server.limits_hit().await;
    for limit in [
        "question_bytes_max",
        "question_choices_max",
        "questions_turn_max",
        "question_ms_max",
    ] {
        assert!(hit.contains(limit), "{limit}: {hit}");
    }
    server.stop().await;
}

/// Not granted, not asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_people_must_be_granted() {
    let server = Server::start().await;
    let refused = server.upload("asker", component("asker")).await;
    let refused = refused.refused(422, "import_not_granted");
    let message = refused["error"]["message"].as_str().expect("words");
    assert!(message.contains("questions"), "{message}");
    let unknown = json!({"grants": ["question"]});
    server
        .configure("asker", unknown)
        .await
        .refused(400, "invalid_json");
    deploy(&server).await;
    server.stop().await;
}

/// Tenants are told that somebody is waited for, and by no word of what it is about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_told_of_questions() {
    let server = started().await;
    let mut events = server.follow("s").await;
    let script =
        json!([{"ask": ["Secretly?", ["quietly", "aloud"]]}, {"ask_within": ["Secretly?", 1]}]);
    server.post("s", script).await;
    let first = asked(&mut events).await;
    let body = json!({"choice": "quietly", "note": "hidden", "author": "ben"});
    answer(&server, &first["question"], body).await.is(200);
    events.turn("asker").await;
    let path = "/v1/notices?kind=question-asked,question-answered";
    let page = server.get(path).await;
    let notices = page["notices"].as_array().expect("a list");
    let told: Vec<(&Value, &Value)> = notices.iter().map(|it| (&it["kind"], &it["by"])).collect();
    let (asked, answered) = (json!("question-asked"), json!("question-answered"));
    let (ben, nobody) = (json!("ben"), Value::Null);
    let expected = [
        (&asked, &nobody),
        (&answered, &ben),
        (&asked, &nobody),
        (&answered, &nobody),
    ];
    assert_eq!(told, expected);
    for notice in notices {
        assert_eq!(
            (&notice["agent"], &notice["turn"]),
            (&json!("asker"), &first["turn"])
        );
        assert_eq!(notice["session"], "s");
        let text = notice.to_string();
        for word in ["Secretly", "quietly", "hidden"] {
            assert!(!text.contains(word), "{text}");
        }
    }
    assert_eq!(notices[0]["question"], first["question"]);
    assert_eq!(notices[0]["place"], first["offset"]);
    let of = server
        .get("/v1/notices?kind=question-asked&agent=nobody")
        .await;
    assert_eq!(of["notices"], json!([]));
    server.stop().await;
}

/// An agent that is called asks in the session where it works; its caller waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_called_agent_asks_in_its_own_session() {
    let server = started().await;
    crate::bus::deploy_caller(&server).await;
    server.session("c", &["caller"]).await;
    let mut events = server.follow("c").await;
    let asks = json!([{"ask": ["Shall I?", []]}]);
    let script = json!([
        {"call_within": ["asker", asks, 1]},
        {"call": ["asker", asks]},
    ]);
    server.post("c", script).await;
    let child = async |events: &mut Events| {
        let called = events.until(|it| it.kind == "agent-called").await;
        let called = called.last().expect("it calls").data.clone();
        called["session"].as_str().expect("an id").to_owned()
    };
    // Its caller's deadline ends it.
    let first = child(&mut events).await;
    let second = child(&mut events).await;
    assert_ne!(first, second);
    let mut of_second = server.follow(&second).await;
    let question = asked(&mut of_second).await["question"].clone();
    assert!(questions(&server, &first).await.is_empty());
    assert!(questions(&server, "c").await.is_empty());
    let line = format!("POST /v1/sessions/{second}/questions/{question}");
    let text = json!({"text": "yes", "author": "ben"});
    server.call(&line).json(text).await.is(200);
    let turn = events.turn("caller").await;
    let lines: Vec<Value> = {
        let page = server.get("/v1/sessions/c/transcript").await;
        let text = page["items"][1]["text"].as_str().expect("words").to_owned();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    assert_eq!(turn.last().expect("its end").data["outcome"], "completed");
    assert_eq!(lines[0]["error"], "deadline");
    assert_eq!(lines[1]["reply"], "{\"answer\":\"yes\",\"by\":\"ben\"}\n");
    server.stop().await;
}

/// A request waits for people only so long; its turn is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_is_told_that_people_are_asked() {
    let server = Server::with(|config| config.limits.question_wait_ms_max = 1).await;
    deploy(&server).await;
    let script = json!([{"say": "Well. "}, {"ask": ["Shall I?", []]}, {"say": "So."}]);
    let invoke = async |key: &str| {
        let call = server.call("POST /v1/agents/asker/invoke").idempotency(key);
        call.json(json!({"session": "s", "body": script})).await
    };
    let waiting = invoke("k").await;
    let told = waiting.refused(504, "turn_asks");
    assert_eq!(told["reply"], "Well. ");
    let open = questions(&server, "s").await;
    assert_eq!(
        (&told["question"], &told["turn"]),
        (&open[0]["question"], &open[0]["turn"])
    );
    let chat =
        json!({"model": "asker", "messages": [{"role": "user", "content": script.to_string()}]});
    let chat = server.call("POST /v1/chat/completions").json(chat).await;
    chat.refused(504, "turn_asks");
    answer(&server, &told["question"], json!({"text": "yes"}))
        .await
        .is(200);
    let again = invoke("k").await;
    assert_eq!(again.is(200)["outcome"], "completed");
    assert!(server.limits_hit().await.contains("question_wait_ms_max"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_over_a_socket() {
    let server = started().await;
    let mut socket = Socket::at(&server.url, &server.key, "s", "-1").await;
    server.post("s", json!([{"approve": "Shall I?"}])).await;
    let question = loop {
        let event = socket.next().await["event"].take();
        if event["kind"] == "asked" {
            break event["question"].clone();
        }
    };
    let ask = |id: &str, answer: Value| json!({"id": id, "answer": answer, "idempotency_key": "k"});
    for (id, wrong, code) in [
        ("1", json!({"choice": "approve"}), "invalid_json"),
        (
            "2",
            json!({"question": "x", "choice": "approve"}),
            "invalid_json",
        ),
        (
            "3",
            json!({"question": 1, "choice": "approve"}),
            "question_not_found",
        ),
        (
            "4",
            json!({"question": question, "choice": "perhaps"}),
            "not_a_choice",
        ),
        ("5", json!([]), "invalid_json"),
    ] {
        socket.say(ask(id, wrong)).await;
        let (answer, _) = socket.answer(id).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    let yes = json!({"question": question, "choice": "approve", "author": "ben"});
    socket.say(ask("6", yes.clone())).await;
    let (answer, _) = socket.answer("6").await;
    assert_eq!(
        (&answer["status"], &answer["question"]),
        (&json!(200), &question)
    );
    socket.say(ask("7", yes)).await;
    let (again, _) = socket.answer("7").await;
    assert_eq!(
        (&again["replayed"], &again["offset"]),
        (&json!(true), &answer["offset"])
    );
    let both = json!({"id": "8", "answer": {}, "interrupt": {}});
    socket.say(both).await;
    let (answer, _) = socket.answer("8").await;
    assert_eq!(answer["error"]["code"], "invalid_json");
    server.stop().await;
}

/// The command line on this server: whether it went well, and all it said.
async fn antiphon(server: &Server, arguments: &[&str], stdin: &str) -> (bool, String) {
    let mut command = command(arguments);
    command.args(["--url", &server.url, "--key", &server.key]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    let stdin = stdin.to_owned();
    let run = move || {
        let mut child = command.spawn().expect("the binary runs");
        let mut to = child.stdin.take().expect("it is piped");
        to.write_all(stdin.as_bytes()).expect("it reads");
        drop(to);
        child.wait_with_output().expect("it ends")
    };
    let output = tokio::task::spawn_blocking(run).await.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("text");
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_questions_and_answers_them() {
    let server = started().await;
    let nothing = antiphon(&server, &["answer", "s"], "").await;
    assert_eq!(nothing, (true, "no question is open\n".to_owned()));
    let (fine, said) = antiphon(&server, &["answer", "s", "yes"], "").await;
    assert!(!fine && said.contains("no such question is open"), "{said}");

    // Lines of a pipe are messages, and it waits for whoever answers.
    let mut events = server.follow("s").await;
    let chat = ["chat", "asker", "--session", "s", "--as", "ana"];
    let chat = antiphon(&server, &chat, "[{\"approve\": \"Shall I?\"}]\n");
    let answering = async {
        let question = asked(&mut events).await["question"].to_string();
        let (_, shown) = antiphon(&server, &["answer", "s"], "").await;
        let expected = format!("{question} asker asks: Shall I?\n    1 approve\n    2 deny\n");
        assert_eq!(shown, expected);
        let (fine, said) = antiphon(&server, &["answer", "s", "perhaps"], "").await;
        assert!(!fine && said.contains("approve, deny"), "{said}");
        let wrong = ["answer", "s", "1", "--question", "1"];
        assert!(!antiphon(&server, &wrong, "").await.0);
        let right = ["answer", "s", "2", "--as", "ben", "--note", "not now"];
        let answered = antiphon(&server, &right, "").await;
        assert_eq!(answered, (true, "asker goes on\n".to_owned()));
        question
    };
    let ((fine, said), question) = tokio::join!(chat, answering);
    assert!(fine, "{said}");
    for part in [
        "asker asks: Shall I?\n    1 approve\n    2 deny\n",
        &format!("antiphon answer s ANSWER --question {question}"),
        "· ben answered: deny (not now)\n",
        "{\"approved\":false}\n",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    server.stop().await;
}

/// A turn that was stopped while it asked does what it did, and no more than that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_that_asked_can_be_replayed() {
    let server = started().await;
    let mut events = server.follow("s").await;
    let script =
        json!([{"ask": ["First?", []]}, {"ask_within": ["Second?", 1]}, {"ask": ["Third?", []]}]);
    server.post("s", script).await;
    let first = asked(&mut events).await;
    let text = json!({"text": "yes"});
    answer(&server, &first["question"], text).await.is(200);
    asked(&mut events).await;
    let third = asked(&mut events).await;
    assert_eq!(third["text"], "Third?");
    server.call("POST /v1/sessions/s/interrupt").await.is(202);
    events.turn("asker").await;
    let turn = third["turn"].as_str().expect("an id");
    let (fine, said) = antiphon(&server, &["replay", "s", turn, "--json"], "").await;
    let told: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    assert!(fine && told["same"] == true, "{said}");
    assert_eq!(told["calls"], told["calls_recorded"]);
    server.stop().await;
}
