//! Requests that leave the host: where they may go, what they carry, what is kept of them.

use std::net::IpAddr;
use std::time::Duration;

use antiphon::config::Config;
use antiphon::secret::Secret;
use serde_json::{Value, json};

use crate::origin::{Origin, page, value};
use crate::server::Server;

/// What stays secret.
const KEY: &str = "sk-very-secret";

/// The origin may be dialled, and answers to `one.example` and `two.example`.
fn reachable(config: &mut Config, origin: &Origin) {
    config.egress.private_allowed = vec![origin.address.to_string()];
    let address = IpAddr::from([127, 0, 0, 1]);
    for name in ["one.example", "two.example"] {
        config.egress.names.insert(name.into(), vec![address]);
    }
}

/// An envoy with these rules, in a session `s`.
async fn send_out(server: &Server, rules: Value) {
    let grants = json!(["mailbox", "reply", "http"]);
    server
        .configure("envoy", json!({"grants": grants, "http": rules}))
        .await
        .is(201);
    server.deploy("envoy").await;
    server.session("s", &["envoy"]).await;
}

/// What came of each request.
async fn ask(server: &Server, requests: Value) -> Vec<Value> {
    let said = server.reply("envoy", "s", requests).await;
    let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    said.lines().map(line).collect()
}

async fn keep(server: &Server, name: &str, text: &str) {
    server
        .call(&format!("PUT /v1/secrets/{name}"))
        .text(text)
        .await
        .is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_granted_http_is_not_deployed() {
    let server = Server::start().await;
    let component = crate::guests::component("envoy");
    let refused = server.upload("envoy", component).await;
    let refused = refused.refused(422, "import_not_granted");
    let message = refused["error"]["message"].as_str().expect("a text");
    assert!(message.contains("antiphon:agent/http"), "{message}");
    send_out(&server, json!([])).await;
    // Granted, and with no rule, it may go nowhere.
    let told = ask(&server, json!([{"fetch": "GET https://example.com/"}])).await;
    assert_eq!(told[0]["error"], "refused", "{told:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_checked_when_they_are_put_and_errors_name_the_field() {
    let server = Server::start().await;
    for (rule, named) in [
        (json!({"host": "*"}), "`http[1].host`"),
        (
            json!({"host": "a.example", "path": "/a/../b"}),
            "`http[1].path`",
        ),
        (
            json!({"host": "a.example", "methods": ["get"]}),
            "`http[1].methods`",
        ),
        (
            json!({"host": "a.example", "secret": {"name": "s", "header": "host"}}),
            "`http[1].secret.header`",
        ),
    ] {
        let good = json!({"host": "a.example"});
        let refused = server
            .configure("envoy", json!({"http": [good, rule]}))
            .await;
        let refused = refused.refused(400, "invalid_json");
        assert!(
            refused["error"]["message"]
                .as_str()
                .expect("a text")
                .contains(named),
            "{refused}"
        );
    }
    let rule = json!({"http": [{"host": "a.example", "hosts": []}]});
    server
        .configure("envoy", rule)
        .await
        .refused(400, "unknown_field");
    server.stop().await;
}

/// The same rules on two hosts: on the one whose operator grants nothing, none of it is dialled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_own_network_is_the_operators_to_grant() {
    let origin = Origin::start().await;
    origin.serve("/", &page("200 OK", "inside"));
    let port = origin.port();
    let hosts = ["127.0.0.1", "localhost", "one.example"];
    let mut rules: Vec<Value> = hosts
        .iter()
        .map(|host| json!({"scheme": "http", "host": host, "port": port}))
        .collect();
    rules.push(json!({"scheme": "http", "host": "169.254.169.254"}));
    rules.push(json!({"scheme": "http", "host": "[fd00:ec2::254]"}));
    rules.push(json!({"scheme": "http", "host": "[::ffff:169.254.169.254]"}));
    let fetch = |url: String| json!({"fetch": format!("GET {url}")});
    let local: Vec<Value> = hosts
        .iter()
        .map(|host| fetch(format!("http://{host}:{port}/")))
        .collect();
    let metadata = [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
    ];
    let metadata: Vec<Value> = metadata
        .iter()
        .map(|host| fetch(format!("http://{host}/")))
        .collect();

    let server = Server::with(|config| {
        reachable(config, &origin);
        config.egress.private_allowed.clear();
    })
    .await;
    send_out(&server, json!(rules)).await;
    for told in ask(&server, json!([&local[..], &metadata].concat())).await {
        assert_eq!(told["error"], "refused", "{told}");
        let why = told["why"].as_str().expect("a text");
        assert!(why.contains("not on the public Internet"), "{why}");
    }
    assert!(origin.seen().is_empty());
    server.stop().await;

    let server = Server::with(|config| reachable(config, &origin)).await;
    send_out(&server, json!(rules)).await;
    for told in ask(&server, json!(local)).await {
        assert_eq!(
            (&told["status"], &told["text"]),
            (&json!(200), &json!("inside")),
            "{told}"
        );
    }
    for told in ask(&server, json!(metadata)).await {
        assert_eq!(told["error"], "refused", "{told}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_grants_no_address_does_not_start() {
    let server = Server::start().await;
    let mut config = Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        data: server.data().join("other"),
        ..Config::default()
    };
    config.egress.private_allowed = vec!["localhost".into()];
    let start = async |config: Config| {
        let listener = tokio::net::TcpListener::bind(config.listen)
            .await
            .expect("a free port");
        let ended = antiphon::serve(listener, config, antiphon::shutdown::Shutdown::new()).await;
        ended.expect_err("it does not start").to_string()
    };
    let error = start(config.clone()).await;
    assert!(
        error.starts_with("`egress.private_allowed`: \"localhost\""),
        "{error}"
    );
    config.egress.private_allowed.clear();
    let short = Secret::new("short");
    config.secrets.environment.insert("OFFERED".into(), short);
    let error = start(config).await;
    assert!(
        error.contains("`secrets.env_allowed`: the variable OFFERED"),
        "{error}"
    );
    assert!(!error.contains("short"), "{error}");
    server.stop().await;
}

fn two_hosts(origin: &Origin) -> Value {
    let port = origin.port();
    json!([
        {"scheme": "http", "host": "one.example", "port": port, "methods": ["GET", "POST"],
            "secret": {"name": "example", "header": "authorization", "format": "Bearer {}"}},
        {"scheme": "http", "host": "two.example", "port": port, "path": "/v1/"},
        {"scheme": "http", "host": "127.0.0.1", "port": port, "secret": {"name": "env:OFFERED"}},
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_to_its_host_and_nowhere_else() {
    let origin = Origin::start().await;
    let port = origin.port();
    origin
        .serve(
            "/",
            &page(
                "200 OK\r\nx-echo: Bearer sk-very-secret",
                "it was sk-very-secret",
            ),
        )
        .serve("/v1/x", &page("200 OK", "two"))
        .serve(
            "/out",
            &page("302 Found\r\nlocation: http://two.example:PORT/v1/x", ""),
        )
        .serve(
            "/up",
            &page("302 Found\r\nlocation: http://two.example:PORT/v1/../x", ""),
        )
        .serve(
            "/in",
            &page("307 Found\r\nlocation: http://169.254.169.254/", ""),
        );
    let server = Server::with(|config| {
        reachable(config, &origin);
        let offered = Secret::new("from-outside");
        config.secrets.environment.insert("OFFERED".into(), offered);
    })
    .await;
    send_out(&server, two_hosts(&origin)).await;

    let one = |path: &str| json!({"fetch": format!("GET http://one.example:{port}{path}")});
    let told = ask(&server, json!([one("/")])).await;
    assert_eq!(
        told[0]["error"], "refused",
        "there is no such secret yet: {told:?}"
    );
    assert!(origin.seen().is_empty());
    keep(&server, "example", KEY).await;

    let told = ask(&server, json!([one("/"), one("/out")])).await;
    let seen = origin.seen();
    assert_eq!(
        value(&seen[0], "authorization"),
        Some("Bearer sk-very-secret")
    );
    assert_eq!(
        value(&seen[1], "authorization"),
        Some("Bearer sk-very-secret")
    );
    assert_eq!(
        value(&seen[2], "host"),
        Some(&*format!("two.example:{port}"))
    );
    assert!(!seen[2].contains(KEY), "{}", seen[2]);
    // What repeats it is shown without it.
    assert_eq!(told[0]["text"], "it was (secret)", "{told:?}");
    assert!(
        told[0]["headers"].to_string().contains("Bearer (secret)"),
        "{told:?}"
    );
    assert_eq!(told[1]["text"], "two");

    let told = ask(&server, json!([one("/up"), one("/in")])).await;
    assert_eq!(
        (&told[0]["error"], &told[1]["error"]),
        (&json!("refused"), &json!("refused")),
        "{told:?}"
    );
    assert_eq!(
        origin.seen().len(),
        seen.len() + 2,
        "no hop after the refused ones"
    );

    let with = |host: &str, path: &str, name: &str, text: &str| json!({"fetch": format!("GET http://{host}:{port}{path}"), "headers": [[name, text]]});
    let before = origin.seen().len();
    let told = ask(
        &server,
        json!([
            with("127.0.0.1", "/v1/x", "x-key", "key ${secret:env:OFFERED}"),
            with("127.0.0.1", "/", "x-key", "${secret:example}"),
            with("127.0.0.1", "/", "authorization", "Bearer guessed"),
            with("127.0.0.1", "/?${secret:env:OFFERED}", "x", "y"),
            with("two.example", "/v1/x", "x-key", "${secret:example}"),
            with("one.example", "/", "authorization", "Bearer other"),
            with(
                "one.example",
                "/",
                "x-tangle-forwarded-authorization",
                "Bearer other"
            ),
            with("one.example", "/", "Host", "two.example"),
            with("one.example", "/", "x", "a\r\nb: c"),
        ]),
    )
    .await;
    assert_eq!(told[0]["status"], 200, "{told:?}");
    for told in &told[1..] {
        assert_eq!(told["error"], "refused", "{told}");
    }
    let seen = origin.seen();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(value(&seen[before], "x-key"), Some("key from-outside"));

    let journal = server.call("GET /v1/sessions/s/journal").await;
    for hidden in [KEY, "from-outside"] {
        assert!(
            !journal.text().contains(hidden),
            "the journal holds no secret"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_written_and_listed_and_never_read() {
    let server = Server::start().await;
    keep(&server, "b", KEY).await;
    keep(&server, "a", "another secret").await;
    server
        .call("PUT /v1/secrets/b")
        .text("a newer secret")
        .await
        .is(200);
    let list = server.call("GET /v1/secrets").await;
    let names: Vec<Value> = list.is(200)["secrets"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|secret| secret["name"].clone())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(!list.text().contains("secret\""), "{}", list.text());
    server
        .call("GET /v1/secrets/b")
        .await
        .refused(405, "method_not_allowed");
    for bad in ["short", "two\nlines here", "", &"x".repeat(8 * 1024 + 1)] {
        let refused = server.call("PUT /v1/secrets/c").text(bad).await;
        refused.refused(400, "invalid_secret");
    }
    server
        .call("PUT /v1/secrets/c")
        .text(&"x".repeat(8 * 1024))
        .await
        .is(201);
    server.call("DELETE /v1/secrets/c").await.is(204);
    server
        .call("DELETE /v1/secrets/c")
        .await
        .refused(404, "secret_not_found");
    server
        .call("PUT /v1/secrets/a%2Fb")
        .text(KEY)
        .await
        .refused(400, "invalid_name");

    // Kept sealed, whatever the file.
    let data = server.data().to_owned();
    server
        .stop_and(|| {
            let mut files = vec![data];
            let mut read = 0;
            while let Some(path) = files.pop() {
                if path.is_dir() && !path.ends_with("compiled") {
                    let entries = std::fs::read_dir(&path).expect("a folder");
                    files.extend(entries.map(|entry| entry.expect("an entry").path()));
                } else if path.is_file() {
                    let bytes = std::fs::read(&path).expect("a file");
                    read += bytes.len();
                    for text in [&b"a newer secret"[..], b"another secret", KEY.as_bytes()] {
                        let found = bytes.windows(text.len()).any(|it| it == text);
                        assert!(!found, "{}", path.display());
                    }
                }
            }
            assert!(read > 1_000, "the files were read");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_key_that_deploys_has_to_do_with_secrets() {
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let token = server
        .call("POST /v1/sessions/s/tokens")
        .json(json!({"author": "ana"}))
        .await;
    let token = token.is(201)["token"].as_str().expect("a text").to_owned();
    for line in [
        "GET /v1/secrets",
        "PUT /v1/secrets/a",
        "DELETE /v1/secrets/a",
    ] {
        let refused = server.call(line).key(&token).text(KEY).await;
        refused.refused(403, "insufficient_scope");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_of_a_request_and_its_answer() {
    let origin = Origin::start().await;
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(5_001));
    origin
        .serve("/fits", &page("200 OK", &"x".repeat(5_000)))
        .serve("/over", &page("200 OK", &"x".repeat(5_001)))
        .serve("/endless", &endless)
        .serve(
            "/heads",
            &page(&format!("200 OK\r\nx: {}", "x".repeat(2_000)), ""),
        )
        .serve("/cut", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort");
    let server = Server::with(|config| {
        reachable(config, &origin);
        config.limits.http_request_bytes_max = 3_000;
        config.limits.http_response_bytes_max = 5_000;
        config.limits.http_header_bytes_max = 1_500;
        config.limits.http_ms_max = 200;
        config.limits.http_calls_max = 10;
    })
    .await;
    let port = origin.port();
    let methods = json!(["GET", "POST"]);
    send_out(
        &server,
        json!([{"scheme": "http", "host": "127.0.0.1", "port": port, "methods": methods}]),
    )
    .await;
    let to = |method: &str, path: &str| json!({"fetch": format!("{method} http://127.0.0.1:{port}{path}")});
    let mut large = to("POST", "/fits");
    large["padding"] = json!(3_001);
    let mut full = to("POST", "/fits");
    full["padding"] = json!(3_000);
    let mut long = to("GET", "/fits");
    long["headers"] = json!([["x", "x".repeat(1_500)]]);
    let mut soon = to("POST", "/never");
    soon["timeout_ms"] = json!(10);
    let script = json!([
        to("GET", "/fits"),
        full,
        to("GET", "/over"),
        to("GET", "/endless"),
        to("GET", "/heads"),
        large,
        long,
        to("GET", "/never"),
        soon,
        to("POST", "/cut"),
        to("GET", "/fits"),
    ]);
    let told = ask(&server, script).await;
    let words: Vec<String> = told
        .iter()
        .map(|told| match told["error"].as_str() {
            Some(word) => word.to_owned(),
            None => told["bytes"].to_string(),
        })
        .collect();
    assert_eq!(
        words,
        [
            "5000",
            "5000",
            "too-large",
            "too-large",
            "too-large",
            "too-large",
            "too-large",
            "deadline",
            "deadline",
            "outcome-unknown",
            "refused",
        ]
    );
    assert_eq!(
        told[10]["why"],
        "the turn has made as many requests as it may"
    );
    let hit = server.limits_hit().await;
    for limit in ["http_bytes", "http_ms_max", "http_calls_max"] {
        assert!(hit.contains(limit), "{limit}: {hit}");
    }
    server.stop().await;
}

/// Long answers lie beside the journal, and a fork has them too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_is_kept_in_full() {
    let origin = Origin::start().await;
    let long = "words ".repeat(20_000);
    origin
        .serve("/long", &page("200 OK\r\ncontent-type: text/plain", &long))
        .serve("/short", &page("404 Not Found", "nothing"));
    let server = Server::with(|config| reachable(config, &origin)).await;
    let port = origin.port();
    send_out(
        &server,
        json!([{"scheme": "http", "host": "127.0.0.1", "port": port}]),
    )
    .await;
    let get = |path: &str| json!({"fetch": format!("GET http://127.0.0.1:{port}{path}?q=1")});
    origin.serve(
        "/long?q=1",
        &page("200 OK\r\ncontent-type: text/plain", &long),
    );
    origin.serve("/short?q=1", &page("404 Not Found", "nothing"));
    let told = ask(&server, json!([get("/long"), get("/short")])).await;
    assert_eq!(told[0]["bytes"], 120_000, "{told:?}");
    assert_eq!(
        (&told[1]["status"], &told[1]["text"]),
        (&json!(404), &json!("nothing"))
    );

    let journal = server.journal("s").await;
    let of = |kind: &str| -> Vec<Value> {
        journal
            .iter()
            .filter(|entry| entry["kind"] == kind)
            .cloned()
            .collect()
    };
    let called = of("called");
    assert_eq!(called[0]["call"], "http");
    assert_eq!(
        called[0]["target"],
        format!("GET http://127.0.0.1:{port}/long")
    );
    let returned = of("returned");
    let stored = &returned[0]["answered"]["body"];
    assert_eq!(stored["bytes"], 120_000, "{stored}");
    assert_eq!(returned[1]["answered"]["body"]["text"], "nothing");
    let digest = stored["digest"].as_str().expect("a digest");
    let text = server
        .call(&format!("GET /v1/sessions/s/values/{digest}"))
        .await;
    assert_eq!(text.text(), long);
    let fork = server
        .call("POST /v1/sessions/s/fork")
        .json(json!({"session": "f"}))
        .await;
    fork.is(201);
    let text = server
        .call(&format!("GET /v1/sessions/f/values/{digest}"))
        .await;
    assert_eq!(text.text().len(), long.len());
    // A request is no event for people.
    let events = server.call("GET /v1/sessions/s/events").await;
    assert!(!events.text().contains("answered"), "{}", events.text());
    server.stop().await;
}

/// The host is gone while a request is under way: what may be made twice is made again under its
/// key, of anything else the agent hears that nobody knows, and both are written down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_was_cut_off_with_the_host() {
    let origin = Origin::start().await;
    for (method, word) in [("PUT", None), ("POST", Some("outcome-unknown"))] {
        let server = Server::with(|config| {
            reachable(config, &origin);
            config.drain = Duration::ZERO;
        })
        .await;
        let port = origin.port();
        let path = format!("/{method}");
        let rule =
            json!({"scheme": "http", "host": "127.0.0.1", "port": port, "methods": [method]});
        send_out(&server, json!([rule])).await;
        let before = origin.seen().len();
        let fetch =
            json!({"fetch": format!("{method} http://127.0.0.1:{port}{path}"), "body": "b"});
        server.post("s", json!(["begun ", fetch])).await;
        let first = origin.received(before + 1).await.pop().expect("it came");
        origin.serve(&path, &page("201 Created", "made"));
        let server = server.restart().await;
        let mut events = server.follow("s").await;
        let seen = events.turn("envoy").await;
        let said: String = seen
            .iter()
            .filter(|event| event.kind == "spoke")
            .map(|event| event.data["text"].as_str().expect("a text"))
            .collect();
        let told: Value =
            serde_json::from_str(said.strip_prefix("begun ").expect("once")).expect("a line");
        let retried = server.get("/v1/sessions/s/journal?kind=retried").await;
        let of_call = |entry: &&Value| entry["n"].is_number();
        let again: Vec<&Value> = retried["entries"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(of_call)
            .collect();
        let requests = &origin.seen()[before..];
        match word {
            Some(word) => {
                assert_eq!(told["error"], word, "{told}");
                assert_eq!((requests.len(), again.len()), (1, 0));
            }
            None => {
                assert_eq!(told["text"], "made", "{told}");
                let key = value(&first, "idempotency-key").expect("a key");
                assert_eq!(value(&requests[1], "idempotency-key"), Some(key));
                assert_eq!((requests.len(), again.len()), (2, 1));
                assert_eq!(again[0]["reason"], "host-lost");
            }
        }
        server.stop().await;
    }
}
