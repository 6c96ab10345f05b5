//! `/console`: a page for people, and the files that it is made of.
//!
//! The page is a client of the API like any other: it signs in with a key, and nothing here knows who asks. Its files
//! are in the binary, by name: what is not in the list below is not there.
//!
//! Invariant: the page runs no script and shows no style but its own files, and speaks to this server alone. The
//! policy below makes browsers hold to that, whatever text a conversation brings.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use crate::id::Digest;

use super::error::{ApiResult, no_route};

/// In place of the policy of answers that are data: what this page needs, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const PAGE: &str = "index.html";

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("console/", $name)))),+]
    };
}

const FILES: &[(&str, &str)] = files![
    "api.js",
    "app.js",
    "console.css",
    "credentials.js",
    "dom.js",
    "entries.js",
    "events.js",
    "fold.js",
    "icon.svg",
    "index.html",
    "outbox.js",
    "session.js",
    "views/composer.js",
    "views/conversation.js",
    "views/journal.js",
    "views/list.js",
    "views/login.js",
    "views/open.js",
    "views/question.js",
    "views/rows.js",
    "views/score.js",
    "views/slots.js",
    "words.js",
];

struct File {
    kind: &'static str,
    text: &'static str,
    etag: HeaderValue,
}

fn files() -> &'static BTreeMap<&'static str, File> {
    static ALL: LazyLock<BTreeMap<&str, File>> = LazyLock::new(|| {
        let file = |text: &'static str, name: &str| {
            let etag = format!("\"{}\"", Digest::of(text.as_bytes()));
            File {
                kind: kind(name),
                text,
                etag: HeaderValue::from_str(&etag).expect("hex between quotes"),
            }
        };
        let named = FILES.iter().map(|&(name, text)| (name, file(text, name)));
        named.collect()
    });
    &ALL
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    }
}

pub(super) async fn page(headers: HeaderMap) -> ApiResult<Response> {
    answer(PAGE, &headers).await
}

/// A file by its path below `/console/`. Names here need no percent signs, so none are decoded.
pub(super) async fn file(uri: Uri, headers: HeaderMap) -> ApiResult<Response> {
    let name = uri.path().strip_prefix("/console/").unwrap_or_default();
    answer(name, &headers).await
}

async fn answer(name: &str, asked: &HeaderMap) -> ApiResult<Response> {
    let Some(file) = files().get(name) else {
        return Err(no_route().await);
    };
    // Asked for anew each time: a server that was updated must not meet the modules of the old one.
    let head = [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, file.etag.clone()),
    ];
    if has(asked, &file.etag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    let kind = [(header::CONTENT_TYPE, file.kind)];
    Ok((head, kind, file.text).into_response())
}

/// Whether who asks has the file as it is. A proxy may have made the tag a weak one.
fn has(asked: &HeaderMap, etag: &HeaderValue) -> bool {
    let values = asked.get_all(header::IF_NONE_MATCH).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn names(folder: &Path, below: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{below}{}", path.file_name().unwrap().to_string_lossy());
            if path.is_dir() {
                names(&path, &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let mut found = BTreeSet::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/console");
        names(&folder, "", &mut found);
        let served: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, served);
    }

    #[test]
    fn a_tag_is_known_in_every_form_that_proxies_give_it() {
        let etag = HeaderValue::from_static("\"b\"");
        let check = |asked: &'static str, expect: bool| {
            let headers =
                HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(asked))]);
            assert_eq!(has(&headers, &etag), expect, "{asked}");
        };
        check("\"b\"", true);
        check("\"a\", W/\"b\"", true);
        check("*", true);
        check("\"a\"", false);
        check("b", false);
        assert!(!has(&HeaderMap::new(), &etag));
    }
}
