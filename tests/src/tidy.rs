//! The rules of the source tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::guests::root;

/// A source file, by its path from the root.
struct File {
    name: String,
    text: String,
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if path.is_dir() {
            // What cargo makes and what git keeps is not ours.
            if name != "target" && !name.starts_with('.') {
                walk(&path, files);
            }
        } else {
            files.push(path);
        }
    }
}

fn files(folder: &str, extension: &str) -> Vec<File> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(folder), &mut paths);
    paths.retain(|path| path.extension().is_some_and(|it| it == extension));
    paths.sort();
    let file = |path: &PathBuf| File {
        name: path
            .strip_prefix(&root)
            .expect("below the root")
            .display()
            .to_string(),
        text: fs::read_to_string(path).expect("UTF-8"),
    };
    paths.iter().map(file).collect()
}

/// The file's lines without comments.
fn code(file: &File) -> impl Iterator<Item = &str> {
    let lines = file.text.lines();
    lines.map(|line| line.split("//").next().unwrap_or_default())
}

/// How far up a module of host/src stands; it may import from below and beside.
fn height(module: &str) -> Option<u32> {
    Some(match module {
        "id" | "clock" | "bus" => 1,
        "journal" => 2,
        "store" => 3,
        "egress" | "model" | "logs" | "budgets" => 4,
        "ledger" => 5,
        "agents" | "audit" | "tenants" | "secrets" | "runtime" | "streams" => 6,
        "notices" | "session" | "subscriptions" => 7,
        "http" => 8,
        // Leaves: anybody may use them, and they use nothing above names and time.
        "config" | "fair" | "seal" | "secret" | "shutdown" | "telemetry" | "guest" => 1,
        // The top puts everything together.
        "serve" | "lib" | "main" | "cli" => 9,
        _ => return None,
    })
}

/// Modules named after `crate::`, one by one or in braces.
fn imports(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(rest) => rest.split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim();
            let end = name.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
            found.push(&name[..end.unwrap_or(name.len())]);
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let files = files("host/src", "rs");
    assert!(files.len() > 50, "the sources were read");
    for file in &files {
        let path = file.name.trim_start_matches("host/src/");
        let module = path.split(['/', '.']).next().expect("a module");
        let own = height(module).unwrap_or_else(|| panic!("{module} has no place in `height`"));
        for line in code(file) {
            for import in imports(line) {
                let Some(other) = height(import) else {
                    continue;
                };
                assert!(
                    other <= own,
                    "{}: {module} imports {import}: {line}",
                    file.name
                );
            }
        }
    }
}

/// They decide and do nothing: time is an argument, and what follows is returned.
#[test]
fn pure_files_know_no_world() {
    let files = files("host/src", "rs");
    let is_pure = |file: &&File| {
        let name = file.name.trim_start_matches("host/src/");
        let listed = [
            "runtime/conversation/continued.rs",
            "runtime/conversation/definition.rs",
            "runtime/conversation/machine.rs",
            "runtime/minute.rs",
            "runtime/random.rs",
            "runtime/shape.rs",
            "runtime/replay.rs",
            "session/machine.rs",
            "session/replay/ending.rs",
            "agents/deployment.rs",
            "agents/config.rs",
            "fair/order.rs",
            "store/lines.rs",
            "egress/address.rs",
            "egress/allow.rs",
            "egress/head.rs",
            "egress/redirect.rs",
            "budgets/caps.rs",
            "config/policy.rs",
            "http/patience.rs",
            "http/durable/asked.rs",
            "http/openai/completion.rs",
            "http/openai/response.rs",
            "http/openai/telling.rs",
            "http/openai/wire.rs",
            "streams/head.rs",
            "streams/json.rs",
            "streams/path.rs",
            "streams/piece.rs",
            "streams/state.rs",
            "model/policy.rs",
        ];
        let folders = ["journal/", "model/policy/"];
        folders.iter().any(|folder| name.starts_with(folder)) || listed.contains(&name)
    };
    let pure: Vec<&File> = files.iter().filter(is_pure).collect();
    assert!(pure.len() >= 8, "they are where they were");
    for file in pure {
        for line in code(file) {
            for word in [
                "tokio::",
                "sled::",
                "hyper::",
                "axum::",
                "wasmtime::",
                "reqwest::",
                "std::fs",
                "std::net",
                "std::thread",
                "tracing::",
                "Instant::now",
                "SystemTime",
            ] {
                assert!(!line.contains(word), "{}: {line}", file.name);
            }
        }
    }
}

#[test]
fn unsafe_stands_where_it_is_known() {
    let known = [
        "guest-sdk/src/bindings.rs",
        "guest-sdk/src/lib.rs",
        "host/src/runtime/cache.rs",
    ];
    let mut found: Vec<String> = Vec::new();
    for folder in ["agents", "guest-sdk", "host", "tests"] {
        for file in files(folder, "rs") {
            // This file speaks of it.
            if file.name != "tests/src/tidy.rs"
                && code(&file).any(|line| line.contains("unsafe") && !line.contains("\"unsafe\""))
            {
                found.push(file.name);
            }
        }
    }
    found.sort();
    assert_eq!(found, known);
}

#[test]
fn names_say_what_is_in_a_file() {
    for folder in ["agents", "guest-sdk", "host", "tests"] {
        for file in files(folder, "rs") {
            for part in file.name.split(['/', '.']) {
                let empty = [
                    "util", "utils", "common", "helper", "helpers", "manager", "misc",
                ];
                assert!(!empty.contains(&part), "{}", file.name);
            }
        }
    }
}

/// The names under a table of a manifest.
fn keys<'a>(manifest: &'a str, table: &str) -> Vec<&'a str> {
    let start = manifest
        .split_once(&format!("[{table}]\n"))
        .expect("the table")
        .1;
    let lines = start.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn every_dependency_says_why() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let docs = fs::read_to_string(root().join("docs/architecture.md")).expect("the document");
    let dependencies = keys(&manifest, "workspace.dependencies");
    assert!(dependencies.len() > 30, "the manifest was read");
    let missing: Vec<&str> = dependencies
        .into_iter()
        .filter(|name| !name.starts_with("antiphon") && !docs.contains(&format!("`{name}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "no line in docs/architecture.md: {missing:?}"
    );
}

#[test]
fn every_limit_is_documented() {
    let source = fs::read_to_string(root().join("host/src/config/limits.rs")).expect("the limits");
    let limits: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(": u64,"))
        .collect();
    assert!(limits.len() > 15, "the limits were read");
    let docs: String = files("docs", "md")
        .into_iter()
        .map(|file| file.text)
        .collect();
    let missing: Vec<&str> = limits
        .into_iter()
        .filter(|name| !docs.contains(name))
        .collect();
    assert!(missing.is_empty(), "in no document: {missing:?}");
}

/// What others wrote is shown as text and as nothing else, and the page asks nobody but its server.
#[test]
fn the_console_has_one_way_to_show_text() {
    let folder = "host/src/http/console";
    let kinds = ["js", "html", "css", "svg"];
    let files: Vec<File> = kinds.iter().flat_map(|kind| files(folder, kind)).collect();
    assert!(files.len() > 15, "the page was read");
    for file in &files {
        assert!(
            file.text.lines().count() <= 400,
            "{} is too long",
            file.name
        );
        // The name of SVG is an address that nobody asks.
        let text = file.text.replace("http://www.w3.org/2000/svg", "");
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "createContextualFragment",
            "DOMParser",
            "srcdoc",
            "document.write",
            "eval(",
            "Function(",
            "javascript:",
            "http://",
            "https://",
            "url(",
            "@import",
        ] {
            assert!(!text.contains(word), "{}: {word}", file.name);
        }
        // The page's policy would drop them without a word.
        if file.name.ends_with(".html") {
            for word in [" style=", "<style", " onclick", " onload", " onerror"] {
                assert!(!text.contains(word), "{}: {word}", file.name);
            }
        }
    }
}

/// A guest that nobody uses tests nothing.
#[test]
fn every_guest_is_built_and_used() {
    let tests: String = files("tests/src", "rs")
        .into_iter()
        .map(|file| file.text)
        .collect();
    for folder in ["agents", "tests/guests"] {
        for entry in fs::read_dir(root().join(folder)).expect("the guests") {
            let name = entry.expect("an entry").file_name();
            let name = format!("\"{}\"", name.to_string_lossy());
            assert!(tests.matches(&name).count() > 1, "{folder}: {name}");
        }
    }
}
