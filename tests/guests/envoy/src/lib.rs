//! An agent that makes the requests that are in its message: a JSON array of them, see [`Wanted`].
//!
//! What comes of each is said as one line of JSON: status, headers and text, or the error's word.

use std::time::Duration;

use antiphon_sdk::http::{self, HttpError, Method, Request, Response};
use antiphon_sdk::mailbox::{self, Body};
use antiphon_sdk::{Agent, AgentError, TurnInput, TurnOutput, reply};
use serde::Deserialize;
use serde_json::{Value, json};

/// A request, or words to say.
#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Say(String),
    Fetch(Wanted),
}

#[derive(Deserialize)]
struct Wanted {
    /// `METHOD URL`.
    fetch: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    body: String,
    /// So many bytes more.
    #[serde(default)]
    padding: usize,
    timeout_ms: Option<u64>,
}

struct Envoy;

impl Agent for Envoy {
    fn handle(_: TurnInput) -> Result<TurnOutput, AgentError> {
        for message in mailbox::pull_all() {
            let (Body::Text(script) | Body::Json(script)) = &message.body;
            let steps: Vec<Step> = serde_json::from_str(script)
                .map_err(|error| AgentError::InvalidInput(error.to_string()))?;
            for step in steps {
                match step {
                    Step::Say(words) => reply::say(&words)?,
                    Step::Fetch(wanted) => {
                        let line = told(http::fetch(&wanted.request()));
                        reply::say(&format!("{line}\n"))?;
                    }
                }
            }
        }
        Ok(TurnOutput::default())
    }
}

impl Wanted {
    fn request(self) -> Request {
        let (method, url) = self.fetch.split_once(' ').unwrap_or(("GET", &self.fetch));
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        };
        let mut body = self.body.into_bytes();
        body.resize(body.len() + self.padding, b'x');
        let mut request = Request::new(method, url).body(body);
        request.headers = self.headers;
        match self.timeout_ms {
            Some(ms) => request.timeout(Duration::from_millis(ms)),
            None => request,
        }
    }
}

/// Long bodies are told by their length.
fn told(answer: Result<Response, HttpError>) -> Value {
    let error = match answer {
        Ok(answer) if answer.body.len() > 1_000 => {
            return json!({"status": answer.status, "bytes": answer.body.len()});
        }
        Ok(answer) => {
            let headers: Vec<_> = answer
                .headers
                .iter()
                .filter(|(name, _)| name != "date")
                .collect();
            return json!({"status": answer.status, "headers": headers, "text": answer.text()});
        }
        Err(error) => error,
    };
    match error {
        HttpError::Refused(why) => json!({"error": "refused", "why": why}),
        HttpError::Deadline => json!({"error": "deadline"}),
        HttpError::TooLarge => json!({"error": "too-large"}),
        HttpError::OutcomeUnknown => json!({"error": "outcome-unknown"}),
        HttpError::Unreachable(why) => json!({"error": "unreachable", "why": why}),
        HttpError::Other(what) => json!({"error": "other", "why": what}),
    }
}

antiphon_sdk::export!(Envoy);

#[cfg(test)]
mod tests {
    use antiphon_sdk::http::{HttpError, Method, Response};
    use antiphon_sdk::testing::Host;

    use super::Envoy;

    #[test]
    fn makes_the_requests_of_its_message_and_tells_what_came() {
        let host = Host::new("envoy");
        host.receive(
            "ana",
            r#"["a ", {"fetch": "PATCH https://a.example/", "body": "b", "padding": 2}, {"fetch": "https://a.example/"}]"#,
        );
        host.respond(Response::new(201).header("etag", "1").body("ok"));
        host.refuse(HttpError::Deadline);
        let turn = host.turn::<Envoy>();
        let told = r#"{"headers":[["etag","1"]],"status":201,"text":"ok"}"#;
        assert_eq!(turn.said, format!("a {told}\n{{\"error\":\"deadline\"}}\n"));
        assert_eq!(
            (&turn.fetched[0].method, &turn.fetched[0].body[..]),
            (&Method::Patch, &b"bxx"[..])
        );
        assert_eq!(turn.fetched[1].method, Method::Get);
    }
}
