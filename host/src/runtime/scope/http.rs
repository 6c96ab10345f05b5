//! Requests to places outside: made, come back; or answered from the record.
//!
//! A request is written down and durable before it leaves the host, its answer before the guest
//! gets it. One that is refused leaves nothing, and is written down all the same. Cut off with the
//! host, a request that may be made twice is made again under its key; of any other nobody
//! knows whether it was carried out, and the guest hears just that.
//!
//! Invariant: a request that may not be made twice leaves the host at most once.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use url::Url;

use crate::egress::allow::{self, Rule};
use crate::egress::{self, Bounds, Egress, EgressError, Lookup, Request, Response};
use crate::id::{Digest, Seq};
use crate::journal::entry::{Answered, CallKind, CallResult, Payload, RetryReason, Returned};
use crate::telemetry::{self, Limit};

use super::{Back, Scope, Stop};

/// Of what is requested, as entries name it.
const TARGET_CHARS_MAX: usize = 200;
/// Of why there is no answer.
const DETAIL_CHARS_MAX: usize = 1_000;

/// The way out, as far as this turn's agent may go.
pub struct Http {
    pub egress: Egress,
    pub rules: Vec<Rule>,
    pub secrets: Lookup,
    /// Requests of this turn so far, those of earlier attempts included: it makes them again.
    pub made: AtomicU64,
}

impl Http {
    pub fn new(egress: Egress, rules: Vec<Rule>, secrets: Lookup) -> Self {
        Self {
            egress,
            rules,
            secrets,
            made: AtomicU64::new(0),
        }
    }

    /// No way out, for a turn that is answered from its record alone.
    pub fn none() -> Self {
        let secrets: Lookup = std::sync::Arc::new(|_| Box::pin(std::future::ready(None)));
        Self::new(Egress::nowhere(), Vec::new(), secrets)
    }
}

impl Scope {
    /// Make a request and wait for the whole answer.
    pub(in crate::runtime) async fn fetch(
        &self,
        request: &Request,
        timeout_ms: Option<u32>,
    ) -> Result<Result<Response, EgressError>, Stop> {
        let digest = digest(request, timeout_ms);
        let target = target(request);
        let made = self.http.made.fetch_add(1, Ordering::Relaxed);
        let asked = || format!("requests {target:?}, request {digest}");
        let (n, is_again) = match self.recorded(asked)? {
            Some(recorded) => {
                let n = match &recorded.payload {
                    Payload::Called(it)
                        if it.call == CallKind::Http
                            && it.request == digest
                            && it.target == target =>
                    {
                        it.n
                    }
                    _ => return Err(self.differs(&recorded, asked())),
                };
                if let Some(answer) = self.answer_in_record(n).await? {
                    return Ok(answer);
                }
                (n, true)
            }
            None => (self.called(CallKind::Http, &target, digest)?, false),
        };
        let bounds = self.bounds(timeout_ms);
        if let Err(error) = self.check(request, bounds, made) {
            return self.came_back(n, 0, Err(error));
        }
        let (attempts, written) = match is_again {
            false => (1, self.ledger.look(|state| state.last)),
            true if egress::is_idempotent(&request.method) => {
                let attempt = self.record.tried(n).attempts + 1;
                let written = self.retried(n, attempt, RetryReason::HostLost, None)?;
                (attempt, written)
            }
            true => return self.came_back(n, 1, Err(EgressError::OutcomeUnknown)),
        };
        let answer = self
            .make_request(request, bounds, written, n, &digest)
            .await?;
        self.came_back(n, attempts, answer)
    }

    /// Why the request is not made at all. The same in every attempt.
    fn check(&self, request: &Request, bounds: Bounds, made: u64) -> Result<(), EgressError> {
        if made >= self.limits.http_calls_max {
            telemetry::hit(Limit::HttpCalls);
            let text = "the turn has made as many requests as it may".to_owned();
            return Err(EgressError::Refused(text));
        }
        egress::check(request, &self.http.rules, bounds)
    }

    /// Make it once `written` is durable.
    async fn make_request(
        &self,
        request: &Request,
        bounds: Bounds,
        written: Seq,
        n: u32,
        digest: &Digest,
    ) -> Result<Result<Response, EgressError>, Stop> {
        let http = &self.http;
        self.cpu.waiting(self.ledger.durable(written)).await?;
        let key = self.call_key(n, digest);
        let sent = http
            .egress
            .send(request, &http.rules, &http.secrets, bounds, &key);
        Ok(self.cpu.waiting(sent).await)
    }

    /// Write down what came of it, and answer just that.
    fn came_back(
        &self,
        n: u32,
        attempts: u32,
        answer: Result<Response, EgressError>,
    ) -> Result<Result<Response, EgressError>, Stop> {
        match &answer {
            Err(EgressError::TooLarge(_)) => telemetry::hit(Limit::HttpBytes),
            Err(EgressError::Deadline) => telemetry::hit(Limit::HttpMs),
            _ => {}
        }
        let answer = answer.map_err(cut);
        self.append(|batch, _| {
            let (result, answered) = match &answer {
                Ok(response) => {
                    let answered = Answered {
                        status: response.status,
                        headers: response.headers.clone(),
                        body: batch.bytes(&response.body),
                    };
                    (CallResult::Ok, Some(answered))
                }
                Err(error) => (failed(error), None),
            };
            let mut back = Back::new(n, result);
            back.attempts = attempts;
            back.answered = answered;
            self.push_returned(batch, back);
        })?;
        // Nobody wants to make it again: let it be durable soon. The guest does not wait for it.
        self.ledger.flush();
        Ok(answer)
    }

    /// What the record says came of call `n`; none if it does not reach that far.
    async fn answer_in_record(
        &self,
        n: u32,
    ) -> Result<Option<Result<Response, EgressError>>, Stop> {
        let asked = || format!("hears what came of call {n}");
        let Some(recorded) = self.recorded_part(asked)? else {
            return Ok(None);
        };
        match &recorded.payload {
            Payload::Returned(Returned {
                n: of,
                answered: Some(it),
                ..
            }) if *of == n => {
                let body = self.ledger.bytes(&it.body);
                let body: Bytes = self.cpu.waiting(body).await?;
                Ok(Some(Ok(Response {
                    status: it.status,
                    headers: it.headers.clone(),
                    body,
                })))
            }
            Payload::Returned(it) if it.n == n => Ok(Some(Err(no_answer(&it.result)))),
            _ => Err(self.differs(&recorded, asked())),
        }
    }

    fn bounds(&self, timeout_ms: Option<u32>) -> Bounds {
        let limits = &self.limits;
        let asked = timeout_ms.map_or(u64::MAX, u64::from);
        Bounds {
            ms_max: asked.clamp(1, limits.http_ms_max),
            request_bytes_max: limits.http_request_bytes_max,
            // What comes back passes into the guest in one call.
            response_bytes_max: limits
                .http_response_bytes_max
                .min(limits.host_call_bytes_max),
            header_bytes_max: limits.http_header_bytes_max,
        }
    }
}

/// Of all that the guest asks for.
fn digest(request: &Request, timeout_ms: Option<u32>) -> Digest {
    let timeout = timeout_ms.map_or_else(String::new, |ms| ms.to_string());
    let mut parts = vec![request.method.as_bytes(), request.url.as_bytes()];
    for (name, value) in &request.headers {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    parts.extend([&request.body[..], timeout.as_bytes()]);
    Digest::of_parts(&parts)
}

/// What is requested, for whoever reads the journal. Without the query: that is the digest's.
fn target(request: &Request) -> String {
    let method: String = request.method.chars().take(16).collect();
    let target = match Url::parse(&request.url) {
        Ok(url) => allow::shown(&method, &url),
        Err(_) => format!("{method} (no URL)"),
    };
    target.chars().take(TARGET_CHARS_MAX).collect()
}

/// With a text that an entry can hold: the guest gets the same in every run.
fn cut(error: EgressError) -> EgressError {
    let cut = |text: String| text.chars().take(DETAIL_CHARS_MAX).collect();
    match error {
        EgressError::Refused(text) => EgressError::Refused(cut(text)),
        EgressError::TooLarge(text) => EgressError::TooLarge(cut(text)),
        EgressError::Unreachable(text) => EgressError::Unreachable(cut(text)),
        EgressError::Other(text) => EgressError::Other(cut(text)),
        error @ (EgressError::Deadline | EgressError::OutcomeUnknown) => error,
    }
}

fn failed(error: &EgressError) -> CallResult {
    let word = match error {
        EgressError::Refused(_) => "refused",
        EgressError::Deadline => "deadline",
        EgressError::TooLarge(_) => "too-large",
        EgressError::OutcomeUnknown => "outcome-unknown",
        EgressError::Unreachable(_) => "unreachable",
        EgressError::Other(_) => "other",
    };
    CallResult::Failed {
        error: word.to_owned(),
        status: 0,
        detail: error.to_string(),
    }
}

/// The error that an entry tells of.
fn no_answer(result: &CallResult) -> EgressError {
    let CallResult::Failed { error, detail, .. } = result else {
        return EgressError::Other("the call was given up".to_owned());
    };
    let detail = detail.clone();
    match error.as_str() {
        "refused" => EgressError::Refused(detail),
        "deadline" => EgressError::Deadline,
        "too-large" => EgressError::TooLarge(detail),
        "outcome-unknown" => EgressError::OutcomeUnknown,
        "unreachable" => EgressError::Unreachable(detail),
        _ => EgressError::Other(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_the_same_when_it_is_read_again() {
        let long = "x".repeat(2 * DETAIL_CHARS_MAX);
        for error in [
            EgressError::Refused("no".into()),
            EgressError::Deadline,
            EgressError::TooLarge("big".into()),
            EgressError::OutcomeUnknown,
            EgressError::Unreachable(long.clone()),
            EgressError::Other(long),
        ] {
            let told = cut(error);
            assert_eq!(no_answer(&failed(&told)), told);
        }
    }

    fn request(url: &str, headers: &[(&str, &str)]) -> Request {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Request {
            method: "GET".into(),
            url: url.into(),
            headers: headers.iter().map(own).collect(),
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_digest_is_of_everything_and_a_target_of_no_more_than_is_shown() {
        let one = request("https://u:p@a.example/x?key=1#f", &[("a", "b")]);
        assert_eq!(target(&one), "GET https://a.example/x");
        assert_eq!(target(&request("x", &[])), "GET (no URL)");
        let mut digests = vec![
            digest(&one, None),
            digest(&one, Some(1)),
            digest(&request("https://a.example/x?key=2", &[("a", "b")]), None),
            digest(
                &request("https://u:p@a.example/x?key=1#f", &[("ab", "")]),
                None,
            ),
            digest(&request("https://u:p@a.example/x?key=1#f", &[]), None),
        ];
        let mut other = one.clone();
        other.body = Bytes::from_static(b"ab");
        digests.push(digest(&other, None));
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), 6);
        assert_eq!(digest(&one, None), digest(&one.clone(), None));
    }
}
