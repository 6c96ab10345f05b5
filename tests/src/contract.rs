//! The outside contract as golden texts: the routes with their answers, and the WIT.

use std::fs;

use antiphon::id::Digest;
use serde_json::Value;

use crate::described;
use crate::golden;
use crate::guests::{component, root};
use crate::server::Server;

/// `METHOD /path [BODY] -> STATUS [CODE]`. A body is JSON, or a guest as `<puppet>`.
async fn perform(server: &Server, request: &str) -> String {
    let mut parts = request.splitn(3, ' ');
    let (method, path) = (
        parts.next().expect("a method"),
        parts.next().expect("a path"),
    );
    let mut call = server.call(&format!("{method} {path}"));
    if let Some(body) = parts.next() {
        let guest = body
            .strip_prefix('<')
            .and_then(|body| body.strip_suffix('>'));
        call = match guest {
            Some(guest) => {
                let call = call.header("content-type", "application/wasm");
                call.body(component(guest).to_vec())
            }
            None => call.body(body.to_owned()),
        };
    }
    let answer = call.await;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = body["error"]["code"]
        .as_str()
        .map(|code| format!(" {code}"));
    format!("{request} -> {}{}", answer.status, code.unwrap_or_default())
}

/// The golden file is the script: its requests are made again, in order, in one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answers_of_every_route() {
    let script = fs::read_to_string(root().join("tests/golden/http.txt")).expect("the script");
    let server = Server::start().await;
    let mut lines = Vec::new();
    for line in script.lines() {
        let request = line
            .rsplit_once(" -> ")
            .map_or(line, |(request, _)| request);
        lines.push(perform(&server, request).await);
    }
    server.stop().await;
    golden::check("http.txt", &lines.join("\n"));
}

/// The routes in the source's table, as `METHOD /path/{name}`.
fn routes() -> Vec<String> {
    let source = fs::read_to_string(root().join("host/src/http/mod.rs")).expect("the table");
    let table = source.split_once("Router::new()").expect("the table").1;
    let table = table.split_once(".fallback(").expect("its end").0;
    // A name that takes the rest of a path is one name to clients.
    let table = table.replace("{*", "{");
    let mut routes = Vec::new();
    for route in table.split(".route(").skip(1) {
        let path = route.split('"').nth(1).expect("a path");
        for method in ["get", "put", "post", "delete"] {
            let of_method = |start: &str| route.contains(&format!("{start}{method}("));
            if of_method(" ") || of_method(".") {
                routes.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes
}

fn is_of(route: &str, line: &str) -> bool {
    let request: Vec<&str> = line.split(' ').take(2).collect();
    let path = |text: &str| text.split('?').next().unwrap_or_default().to_owned();
    let (route, request) = (route.replace(' ', "/"), path(&request.join("/")));
    let (route, request) = (route.split('/'), request.split('/'));
    route.clone().count() == request.clone().count()
        && route
            .zip(request)
            .all(|(rule, part)| rule == part || rule.starts_with('{'))
}

#[test]
fn every_route_is_in_the_golden_text() {
    let script = fs::read_to_string(root().join("tests/golden/http.txt")).expect("the script");
    let routes = routes();
    assert!(routes.len() > 30, "the table was read: {routes:?}");
    for route in routes {
        assert!(script.lines().any(|line| is_of(&route, line)), "{route}");
    }
}

/// `GOLDEN=write` writes it anew.
#[test]
fn the_document_of_the_api_is_the_one_that_is_served() {
    let path = root().join("docs/openapi.json");
    let text = serde_json::to_string_pretty(&antiphon::http::openapi()).expect("JSON") + "\n";
    if std::env::var_os("GOLDEN").is_some_and(|what| what == "write") {
        fs::write(&path, &text).expect("the folder is writable");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "docs/openapi.json is older than the code");
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let mut described = Vec::new();
    for (path, operations) in described::document()["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            described.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    described.sort();
    let mut routes = routes();
    routes.sort();
    assert_eq!(described, routes);
}

/// Each code of `docs/http.md` is in the document, and each of the document in `docs/http.md`.
#[test]
fn every_code_is_explained() {
    let docs = fs::read_to_string(root().join("docs/http.md")).expect("the document");
    let table = docs.split_once("| status | code |").expect("the table").1;
    let table = table.split_once("\n\n").expect("its end").0;
    let of_cell = |line: &str| line.split('|').nth(2).unwrap_or_default().to_owned();
    let cells: Vec<String> = table.lines().map(of_cell).collect();
    let cells = cells.join(" ");
    let mut explained: Vec<&str> = cells.split('`').skip(1).step_by(2).collect();
    // What no operation answers.
    explained.retain(|code| !matches!(*code, "route_not_found" | "method_not_allowed"));
    explained.sort_unstable();
    let mut described = std::collections::BTreeSet::new();
    let paths = described::document()["paths"].as_object().expect("paths");
    for operation in paths
        .values()
        .filter_map(Value::as_object)
        .flat_map(|it| it.values())
    {
        let responses = operation["responses"].as_object().expect("responses");
        for response in responses.values() {
            let response = described::resolved(response);
            let schema = &response["content"]["application/json"]["schema"];
            let codes = &schema["properties"]["error"]["properties"]["code"]["enum"];
            let codes = codes.as_array().into_iter().flatten();
            described.extend(codes.filter_map(Value::as_str));
        }
    }
    assert_eq!(explained, described.into_iter().collect::<Vec<_>>());
}

/// What guests are compiled against. A change is a new version of the package.
#[test]
fn the_wit_changes_only_on_purpose() {
    let mut lines = Vec::new();
    for entry in fs::read_dir(root().join("wit")).expect("the WIT") {
        let path = entry.expect("an entry").path();
        let text = fs::read(&path).expect("a file");
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        lines.push(format!("{name} {}", Digest::of(&text)));
    }
    lines.sort();
    golden::check("wit.txt", &lines.join("\n"));
}
