//! The document of the API, held to what servers answer: whoever gets an answer asks here whether it is in it.

use std::fs;
use std::sync::OnceLock;

use serde_json::Value;

use crate::guests::root;

/// As it is kept.
pub(crate) fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let text = fs::read_to_string(root().join("docs/openapi.json")).expect("the document");
        serde_json::from_str(&text).expect("JSON")
    })
}

/// The path of the document that a request's path is of.
fn template(path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap_or_default();
    let paths = document()["paths"].as_object().expect("paths");
    let is_of = |template: &str| {
        let (rules, parts) = (template.split('/'), path.split('/'));
        // The path of a stream has as many parts as it likes.
        let is_long =
            template.ends_with("/{path}") && rules.clone().count() <= parts.clone().count();
        (is_long || rules.clone().count() == parts.clone().count())
            && rules
                .zip(parts)
                .all(|(rule, part)| rule == part || rule.starts_with('{'))
    };
    paths.keys().map(String::as_str).find(|it| is_of(it))
}

/// What a reference to an answer stands for.
pub(crate) fn resolved(answer: &'static Value) -> &'static Value {
    let name = answer["$ref"].as_str().and_then(|it| it.rsplit('/').next());
    name.map_or(answer, |name| &document()["components"]["responses"][name])
}

/// Fail unless the document has this answer to `METHOD /path`.
pub(crate) fn check(line: &str, status: u16, body: &[u8]) {
    let (method, path) = line.split_once(' ').expect("METHOD /path");
    // Browsers ask with OPTIONS what they may do; HEAD is GET without its body.
    if matches!(method, "OPTIONS" | "HEAD") {
        return;
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = body["error"]["code"].as_str();
    // Whether nothing is a name or no route is the router's affair.
    let names = path.split('?').next().unwrap_or_default();
    if code == Some("route_not_found") && names.split('/').skip(1).any(str::is_empty) {
        return;
    }
    let operation = template(path).map(|it| &document()["paths"][it][method.to_lowercase()]);
    let Some(operation) = operation.filter(|it| it.is_object()) else {
        let known = matches!(code, Some("route_not_found" | "method_not_allowed")) || status == 431;
        assert!(known, "{line}: {status} {code:?} is of no route");
        return;
    };
    let answer = resolved(&operation["responses"][status.to_string()]);
    assert!(
        answer.is_object(),
        "{line}: {status} {code:?} is not in the document"
    );
    let schema = &answer["content"]["application/json"]["schema"];
    let codes = &schema["properties"]["error"]["properties"]["code"]["enum"];
    if let (Some(code), Some(codes)) = (code, codes.as_array()) {
        let is_known = codes.iter().any(|known| known == code);
        assert!(is_known, "{line}: {status} {code} is not in the document");
    }
}
