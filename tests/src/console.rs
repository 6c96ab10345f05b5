//! The console: its files over HTTP, and the page itself in a browser.

use antiphon::model::scripted::{Gate, Provider, Reply};
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::client::HANGS;
use crate::server::Server;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_its_files_are_served_to_anybody() {
    let server = Server::start().await;
    for (path, kind) in [
        ("/console", "text/html; charset=utf-8"),
        ("/console?a=b", "text/html; charset=utf-8"),
        ("/console/app.js", "text/javascript; charset=utf-8"),
        ("/console/views/open.js", "text/javascript; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
    ] {
        let url = format!("{}{path}", server.url);
        let get = server.client.get(&url).timeout(HANGS).send();
        let answer = get.await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        let heads = answer.headers().clone();
        let etag = heads["etag"].to_str().expect("text").to_owned();
        for (name, value) in [
            ("content-type", kind),
            ("content-security-policy", POLICY),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(heads[name], value, "{path}: {name}");
        }
        assert!(!answer.text().await.expect("text").is_empty(), "{path}");

        let again = server.client.get(&url).header("if-none-match", &etag);
        let again = again.timeout(HANGS).send().await.expect("an answer");
        assert_eq!(again.status(), 304, "{path}");
        assert_eq!(again.headers()["etag"], etag.as_str(), "{path}");
        let other = server.client.get(&url).header("if-none-match", "\"other\"");
        let other = other.timeout(HANGS).send().await.expect("an answer");
        assert_eq!(other.status(), 200, "{path}");

        let head = server.client.head(&url).timeout(HANGS).send();
        let head = head.await.expect("an answer");
        assert_eq!(head.status(), 200, "{path}");
        for name in ["content-type", "content-length", "etag"] {
            assert_eq!(head.headers()[name], heads[name], "{path}: {name}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_file_of_it_is_nothing() {
    let server = Server::start().await;
    for path in [
        "/console/",
        "/console/none.js",
        "/console/views",
        "/console/views/",
        "/console/views%2Fopen.js",
        "/console/..%2Fmod.rs",
        "/console/app.js/",
        "/consoles",
    ] {
        let answer = server.call(&format!("GET {path}")).await;
        answer.refused(404, "route_not_found");
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, Some("default-src 'none'; frame-ancestors 'none'"));
    }
    let answer = server.call("POST /console").await;
    answer.refused(405, "method_not_allowed");
    server.stop().await;
}

/// A path that a module imports and that is not served would be a blank page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_that_a_file_names_is_there() {
    let server = Server::start().await;
    let mut todo = vec!["/console/app.js".to_owned(), "/console".to_owned()];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(path) = todo.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = server.call(&format!("GET {path}")).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        let absolute = text.split("\"/console/").skip(1);
        todo.extend(absolute.filter_map(|rest| {
            let name = rest.split('"').next()?;
            Some(format!("/console/{name}"))
        }));
        let folder = path.rsplit_once('/').expect("a slash").0.to_owned();
        for rest in text.split("from '").skip(1) {
            let name = rest.split('\'').next().unwrap_or_default();
            todo.push(match (name.strip_prefix("./"), name.strip_prefix("../")) {
                (Some(name), _) => format!("{folder}/{name}"),
                (_, Some(name)) => {
                    format!("{}/{name}", folder.rsplit_once('/').expect("a folder").0)
                }
                _ => panic!("{path} imports {name}"),
            });
        }
    }
    assert!(seen.len() > 15, "{seen:?}");
    server.stop().await;
}

/// What the conversation's agents have said, as the page shows it.
const SAID: &str =
    "[...document.querySelectorAll('.scroll .reply .text')].map(it => it.textContent).join('')";
const LIVE: &str = "document.querySelector('.line[data-line=live]')";

async fn sign_in(browser: &mut Browser, server: &Server) {
    browser.open(&format!("{}/console", server.url)).await;
    browser
        .until("document.querySelector('input[name=key]')")
        .await;
    browser.type_into("input[name=key]", &server.key).await;
    browser.press_enter().await;
    browser.until("document.querySelector('.sidebar')").await;
    browser.eval("location.hash = '#session=s'").await;
    browser.until(LIVE).await;
}

async fn transcript(server: &Server) -> Vec<Value> {
    let page = server.get("/v1/sessions/s/transcript").await;
    page["items"].as_array().expect("items").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_in_the_middle_of_a_reply_show_every_word_once() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let reply = Reply::stream()
        .say("One ")
        .wait(&gates[0])
        .say("two ")
        .wait(&gates[1])
        .say("three ")
        .wait(&gates[2])
        .say("four.")
        .finish("stop");
    let provider = Provider::start([reply]).await;
    let server = Server::asking(&provider).await;
    server.deploy("talker").await;
    server.session("s", &["talker"]).await;
    sign_in(&mut browser, &server).await;

    browser.type_into("#message", "Count for me.").await;
    browser.press_enter().await;
    let mut said = String::new();
    let words = ["One ", "two ", "three ", "four."];
    for (at, word) in words.into_iter().enumerate() {
        if at > 0 {
            gates[at - 1].open();
        }
        said.push_str(word);
        let shown = format!("{SAID} === {}", json!(said));
        browser.until(&shown).await;
        browser.reload().await;
        browser.until(LIVE).await;
        browser.until(&shown).await;
    }
    browser
        .until("!document.querySelector('.reply.open')")
        .await;
    assert_eq!(browser.eval(SAID).await, "One two three four.");
    assert_eq!(transcript(&server).await[1]["text"], "One two three four.");
    // The message that was sent is there once too, and none is on its way any more.
    let messages =
        "[...document.querySelectorAll('.scroll .message .text')].map(it => it.textContent)";
    assert_eq!(browser.eval(messages).await, json!(["Count for me."]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_somebody_writes_is_text() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    sign_in(&mut browser, &server).await;
    let hostile =
        "<img src=x onerror='window.harm = 1'><script>window.harm = 1</script>\u{202e}\u{0}&amp;";
    server.reply("echo", "s", json!(hostile)).await;
    browser
        .until(&format!("{SAID} === {}", json!(hostile)))
        .await;
    let made = "document.querySelectorAll('.scroll img, .scroll script').length";
    assert_eq!(browser.eval(made).await, 0);
    assert_eq!(browser.eval("window.harm === undefined").await, true);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_address_opens_its_session_and_leaves_the_address() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let server = Server::start().await;
    server.deploy("echo").await;
    server.session("s", &["echo"]).await;
    let minted = server
        .call("POST /v1/sessions/s/tokens")
        .json(json!({"author": "guest"}))
        .await
        .is(201);
    let token = minted["token"].as_str().expect("a token");
    let url = format!("{}/console#session=s&token={token}", server.url);
    browser.open(&url).await;
    browser.until(LIVE).await;
    assert_eq!(browser.eval("location.hash").await, "#session=s");
    browser.type_into("#message", "hello").await;
    browser.press_enter().await;
    browser.until(&format!("{SAID} === 'hello'")).await;
    assert_eq!(transcript(&server).await[0]["author"], "guest");
    server.stop().await;
}

/// Questions are answered where they stand, by the keyboard too, and a reload shows the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_in_the_page() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let server = Server::start().await;
    let grants = ["kernel", "mailbox", "model", "reply", "turn", "questions"];
    let config = json!({"grants": grants});
    server.configure("asker", config).await.is(201);
    let component = crate::guests::component("asker");
    server.deploy_as("asker", component).await;
    server.session("s", &["asker"]).await;
    sign_in(&mut browser, &server).await;
    let hostile = "<b>Shall I?</b>";
    let script = json!([{"ask": [hostile, ["yes", "<i>no</i>"]]}, {"ask": ["How?", []]}]);
    server.post("s", script).await;

    let open = "document.querySelector('.question.open .answers')";
    browser.until(open).await;
    let text = "document.querySelector('.question .text').textContent";
    assert_eq!(browser.eval(text).await, hostile);
    let label = format!("{open}.getAttribute('aria-label')");
    let label = browser.eval(&label).await;
    assert_eq!(label, format!("Answer to asker: {hostile}"));
    browser.reload().await;
    browser.until(LIVE).await;
    browser.until(open).await;
    let standing = "document.querySelector('.chip .standing').textContent";
    assert_eq!(browser.eval(standing).await, "waiting for an answer");
    let buttons =
        "[...document.querySelectorAll('.question.open button')].map(it => it.textContent)";
    assert_eq!(browser.eval(buttons).await, json!(["yes", "<i>no</i>"]));
    let focus = "document.querySelectorAll('.question.open button')[1].focus()";
    browser.eval(focus).await;
    browser.press_enter().await;

    browser
        .until("document.querySelector('.question.open input')")
        .await;
    let first = "document.querySelectorAll('.question .answer')[0].textContent";
    let answered = browser.eval(first).await;
    let answered = answered.as_str().expect("a text");
    assert!(answered.ends_with("answered: <i>no</i>"), "{answered}");
    browser.type_into(".question.open input", "with care").await;
    browser.press_enter().await;
    browser
        .until("!document.querySelector('.question.open')")
        .await;
    // The keyboard is not lost with what it was on.
    let has_focus = "document.activeElement.id === 'message'";
    browser.until(has_focus).await;
    browser
        .until("!document.querySelector('.reply.open') && document.querySelector('.reply')")
        .await;
    browser.reload().await;
    browser.until(LIVE).await;
    let all = "[...document.querySelectorAll('.question .answer')].length";
    browser.until(&format!("{all} === 2")).await;
    assert_eq!(
        browser
            .eval("document.querySelectorAll('.question i, .question b').length")
            .await,
        0
    );
    server.stop().await;
}
